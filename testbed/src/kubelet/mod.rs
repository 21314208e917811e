//! One stand-in for the kubelets of a whole fleet of simulated machines.
//!
//! It registers nodes, renews their leases, and plays the pods bound to them: one watch of all pods feeds one small
//! task a pod. A machine that is down does nothing for its pods, which is why kwok is not used: it goes on playing them.
//!
//! - [`agent`]: runs the real agent for the pods of the agent's DaemonSet, with a pod-bound token
//! - `node`: registers a node, renews its lease, says whether it is ready
//! - `pod`: the life of one pod in one boot of its node
//! - `status`: the JSON of node and pod statuses, pure
//! - `writer`: writes that are repeated until they succeed or make no sense any more

pub mod agent;
mod node;
mod pod;
mod status;
mod writer;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub use agent::{AgentLauncher, AgentSpec, in_process, real_process};
pub use node::{BootFacts, NodeFacts};
use writer::Writer;

/// How the kubelets behave.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the node's Lease promises.
    pub lease_duration: Duration,
    /// How often it is renewed.
    pub lease_renewal: Duration,
    /// How long an agent that ended waits before it is started again.
    pub agent_restart_delay: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            lease_duration: Duration::from_secs(40),
            lease_renewal: Duration::from_secs(10),
            agent_restart_delay: Duration::from_millis(200),
        }
    }
}

/// The kubelets of a fleet. They stop when it is dropped.
pub struct Kubelet {
    context: Arc<Context>,
    machines: mpsc::UnboundedSender<Machines>,
    _dispatcher: AbortOnDropHandle<()>,
}

/// One boot of one machine, as its kubelet knows it.
#[derive(Clone, Debug)]
pub struct Boot {
    /// The node.
    pub facts: NodeFacts,
    /// Ends when the machine goes down.
    pub life: CancellationToken,
    /// How long a pod takes to start.
    pub pod_start: Duration,
    /// How long a pod takes to end.
    pub pod_stop: Duration,
    /// The machine's private directory.
    pub directory: PathBuf,
    /// The machine's Bottlerocket API.
    pub api_socket: PathBuf,
    /// The file that holds its boot ID.
    pub boot_id_file: PathBuf,
}

struct Context {
    writer: Writer,
    options: Options,
    launcher: Option<AgentLauncher>,
    addresses: AtomicU32,
}

impl Context {
    /// An address for a pod, other than those given before.
    fn pod_address(&self) -> String {
        let [_, high, mid, low] = self.addresses.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        format!("10.{}.{mid}.{low}", 64 + (high & 0x3f))
    }
}

/// What the dispatcher is told.
enum Machines {
    Up(Arc<Boot>),
    Down(String),
}

impl Kubelet {
    /// Starts to watch pods; without a launcher the agent's pods run like any other.
    pub fn start(client: Client, options: Options, launcher: Option<AgentLauncher>) -> Self {
        let writer = Writer::new(client.clone());
        let context = Arc::new(Context {
            writer,
            options,
            launcher,
            addresses: AtomicU32::new(1),
        });
        let (machines, told) = mpsc::unbounded_channel();
        let dispatcher = Dispatcher {
            context: context.clone(),
            machines: HashMap::new(),
            pods: HashMap::new(),
        };
        let task = tokio::spawn(dispatcher.run(client, told));
        Self {
            context,
            machines,
            _dispatcher: AbortOnDropHandle::new(task),
        }
    }

    /// A machine's kubelet starts: the node is registered and Ready, its lease is renewed, its pods run.
    pub async fn up(&self, boot: Boot, facts: &BootFacts) {
        let context = self.context.clone();
        context.writer.register(&boot.facts, facts).await;
        let boot = Arc::new(boot);
        let renewal = {
            let (context, boot) = (context.clone(), boot.clone());
            async move {
                context
                    .writer
                    .renew_lease(&boot.facts.name, &context.options)
                    .await
            }
        };
        let life = boot.life.clone();
        tokio::spawn(async move { life.run_until_cancelled(renewal).await });
        // The dispatcher lives as long as this value.
        let _ = self.machines.send(Machines::Up(boot));
    }

    /// A machine went down; with `announce` its kubelet has the time to say so.
    pub async fn down(&self, boot: &Boot, announce: bool) {
        boot.life.cancel();
        let _ = self.machines.send(Machines::Down(boot.facts.name.clone()));
        if announce {
            self.set_ready(
                &boot.facts.name,
                false,
                "KubeletNotReady",
                "node is shutting down",
            )
            .await;
        }
    }

    /// Sets a node's Ready condition.
    pub async fn set_ready(&self, node: &str, ready: bool, reason: &str, message: &str) {
        self.context.writer.set_ready(node, ready, reason, message).await;
    }
}

/// Hands every pod of a machine that is up to a task of its own.
struct Dispatcher {
    context: Arc<Context>,
    machines: HashMap<String, Arc<Boot>>,
    pods: HashMap<String, Bound>,
}

/// A pod bound to a node.
struct Bound {
    node: String,
    latest: watch::Sender<Arc<Pod>>,
}

impl Dispatcher {
    async fn run(mut self, client: Client, mut told: mpsc::UnboundedReceiver<Machines>) {
        let config = watcher::Config::default().fields("spec.nodeName!=");
        let mut events = std::pin::pin!(watcher(Api::<Pod>::all(client), config).default_backoff());
        let mut listed = HashSet::new();
        loop {
            tokio::select! {
                machines = told.recv() => match machines {
                    Some(Machines::Up(boot)) => self.up(boot),
                    Some(Machines::Down(name)) => {
                        self.machines.remove(&name);
                    }
                    None => return,
                },
                event = events.next() => match event {
                    Some(Ok(Event::Init)) => listed.clear(),
                    Some(Ok(Event::InitApply(pod))) => {
                        listed.extend(pod.metadata.uid.clone());
                        self.seen(pod);
                    }
                    Some(Ok(Event::InitDone)) => self.pods.retain(|uid, _| listed.contains(uid)),
                    Some(Ok(Event::Apply(pod))) => self.seen(pod),
                    Some(Ok(Event::Delete(pod))) => {
                        self.pods.remove(pod.metadata.uid.as_deref().unwrap_or_default());
                    }
                    Some(Err(error)) => tracing::debug!(%error, "the kubelets' watch of pods was interrupted"),
                    None => return,
                },
            }
        }
    }

    fn up(&mut self, boot: Arc<Boot>) {
        for bound in self.pods.values().filter(|bound| bound.node == boot.facts.name) {
            self.work(&boot, bound);
        }
        self.machines.insert(boot.facts.name.clone(), boot);
    }

    fn seen(&mut self, pod: Pod) {
        let (Some(uid), Some(node)) = (
            pod.metadata.uid.clone(),
            pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        ) else {
            return;
        };
        if let Some(known) = self.pods.get(&uid) {
            known.latest.send_replace(Arc::new(pod));
            return;
        }
        let bound = Bound {
            node,
            latest: watch::Sender::new(Arc::new(pod)),
        };
        if let Some(boot) = self.machines.get(&bound.node) {
            self.work(boot, &bound);
        }
        self.pods.insert(uid, bound);
    }

    fn work(&self, boot: &Arc<Boot>, bound: &Bound) {
        let work = pod::live(self.context.clone(), boot.clone(), bound.latest.subscribe());
        let life = boot.life.clone();
        tokio::spawn(async move { life.run_until_cancelled(work).await });
    }
}
