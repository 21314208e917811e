//! One simulated machine: its life of boots, and the handle by which tests make it fail.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{LatencySpec, NodeSpec};
use crate::bottlerocket::{
    BootFault, Faults, Host, Image, Machine, SharedRepository, UpdateSettings, server,
};
use crate::kubelet::agent::replace_file;
use crate::kubelet::{Boot, BootFacts, Kubelet, NodeFacts};
use crate::truth::{RebootCause, SimEvent, TruthLog};

/// How long a kubelet that shuts down may take to say so.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a fleet's machines share.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub kubelet: Arc<Kubelet>,
    pub repository: SharedRepository,
    pub truth: TruthLog,
    pub directory: PathBuf,
    pub announce_shutdown: bool,
}

/// One simulated machine. It runs as long as this value.
pub struct SimNode {
    shared: Arc<Shared>,
    life: AbortOnDropHandle<()>,
}

struct Shared {
    facts: NodeFacts,
    host: Arc<Host>,
    surroundings: Surroundings,
    directory: PathBuf,
    latencies: Mutex<LatencySpec>,
    up: watch::Sender<bool>,
    power_on: Notify,
}

impl SimNode {
    /// Boots a machine for the first time; `number` is its own in the fleet.
    pub(super) fn start(surroundings: &Surroundings, spec: NodeSpec, number: u32) -> Result<Self> {
        let NodeSpec {
            name,
            labels,
            image,
            settings,
            latencies,
        } = spec;
        let directory = surroundings.directory.join(&name);
        std::fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
        let mut machine = Machine::new(chrono::Utc::now(), image, settings, crate::fresh_uuid()?);
        machine.latencies = latencies.commands();
        let Surroundings {
            repository, truth, ..
        } = surroundings;
        let shared = Arc::new(Shared {
            facts: node_facts(name.clone(), labels, number)?,
            host: Host::new(&name, machine, repository.clone(), truth.clone()),
            surroundings: surroundings.clone(),
            directory,
            latencies: Mutex::new(latencies),
            up: watch::Sender::new(false),
            power_on: Notify::new(),
        });
        let life = {
            let shared = shared.clone();
            tokio::spawn(async move {
                if let Err(error) = shared.live().await {
                    tracing::error!(
                        node = shared.facts.name,
                        error = format!("{error:#}"),
                        "a machine broke"
                    );
                }
            })
        };
        Ok(Self {
            shared,
            life: AbortOnDropHandle::new(life),
        })
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.shared.facts.name
    }

    /// The version that really runs.
    pub fn version(&self) -> String {
        self.shared
            .host
            .with(|machine, _| machine.image().version.to_string())
    }

    /// The image that really runs.
    pub fn image(&self) -> Image {
        self.shared.host.with(|machine, _| machine.image().clone())
    }

    /// The boot ID.
    pub fn boot_id(&self) -> String {
        self.shared.host.with(|machine, _| machine.boot_id().to_owned())
    }

    /// The committed update settings.
    pub fn settings(&self) -> UpdateSettings {
        self.shared
            .host
            .with(|machine, _| machine.settings().committed().clone())
    }

    /// The version flagged to boot next, where it is not the running one.
    pub fn activated(&self) -> Option<String> {
        self.shared
            .host
            .with(|machine, _| machine.activated().map(|image| image.version.to_string()))
    }

    /// What happened to this machine.
    pub fn events(&self) -> Vec<SimEvent> {
        self.shared.surroundings.truth.of(self.name())
    }

    /// Whether the machine is up.
    pub fn is_up(&self) -> bool {
        *self.shared.up.borrow()
    }

    /// Changes what goes wrong.
    pub fn faults<R>(&self, change: impl FnOnce(&mut Faults) -> R) -> R {
        self.shared.host.with(|machine, _| change(&mut machine.faults))
    }

    /// Changes how long the machine's work takes, from the next on.
    pub fn set_latencies(&self, latencies: LatencySpec) {
        *self.shared.latencies() = latencies;
        self.shared
            .host
            .with(|machine, _| machine.latencies = latencies.commands());
    }

    /// How long the machine's work takes.
    pub fn latencies(&self) -> LatencySpec {
        *self.shared.latencies()
    }

    /// The machine goes down without a word, and boots again.
    pub fn power_cut(&self) {
        self.shared.host.begin_reboot(RebootCause::PowerCut);
    }

    /// Boots a machine that did not come back; does nothing to one that is up.
    pub fn power_on(&self) {
        if self.shared.host.with(|machine, _| machine.going_down()).is_some() {
            self.shared.power_on.notify_one();
        }
    }

    /// Takes the API's socket away, or gives it back.
    pub fn set_socket(&self, up: bool) {
        self.shared.host.set_socket(up);
    }

    /// Makes a node that is up unready, or ready again, while everything on it runs on.
    pub async fn set_ready(&self, ready: bool) {
        let (reason, message) = match ready {
            true => ("KubeletReady", "kubelet is posting ready status"),
            false => ("KubeletNotReady", "container runtime is down"),
        };
        self.shared
            .surroundings
            .kubelet
            .set_ready(self.name(), ready, reason, message)
            .await;
    }

    /// The Bottlerocket API's socket.
    pub fn api_socket(&self) -> PathBuf {
        self.shared.api_socket()
    }

    /// The machine's private directory: socket, boot ID, the agent's token and log.
    pub fn directory(&self) -> &Path {
        &self.shared.directory
    }

    /// The machine is gone, with all that ran on it. Its Node stays until someone deletes it.
    pub(super) async fn vanish(&self) {
        self.life.abort();
        self.shared
            .surroundings
            .kubelet
            .down(&self.shared.boot(CancellationToken::new()), false)
            .await;
    }
}

impl Shared {
    /// One boot after the other.
    async fn live(&self) -> Result<()> {
        let ticking = self.host.clone();
        let _clock = AbortOnDropHandle::new(tokio::spawn(async move { ticking.run_clock().await }));
        let mut fault = None;
        loop {
            let life = CancellationToken::new();
            // Whatever ends this function ends what the machine runs.
            let _end = life.clone().drop_guard();
            let cause = self.run(&life, fault).await?;
            self.up.send_replace(false);
            let announce = self.surroundings.announce_shutdown && cause == RebootCause::Api;
            let boot = self.boot(life);
            // A control plane that does not answer does not hold a machine up.
            let down = self.surroundings.kubelet.down(&boot, announce);
            let _ = tokio::time::timeout(LAST_WORDS, down).await;
            fault = self.host.with(|machine, _| machine.take_boot_fault());
            if fault == Some(BootFault::NeverReturns) {
                self.power_on.notified().await;
                fault = None;
            }
            let latency = self.latencies().boot;
            tokio::time::sleep(latency).await;
            let boot_id = crate::fresh_uuid()?;
            self.host.with(|machine, now| machine.boot(now, boot_id, fault));
        }
    }

    /// From a boot until the machine is down again, and why it went down.
    async fn run(&self, life: &CancellationToken, fault: Option<BootFault>) -> Result<RebootCause> {
        let boot = self.boot(life.clone());
        let facts = self.host.with(|machine, _| BootFacts {
            boot_id: machine.boot_id().to_owned(),
            image: machine.image().clone(),
        });
        replace_file(&boot.boot_id_file, &format!("{}\n", facts.boot_id))?;
        let kubelet = async {
            if fault != Some(BootFault::KubeletBroken) {
                self.surroundings.kubelet.up(boot.clone(), &facts).await;
            }
            self.up.send_replace(true);
            std::future::pending::<()>().await;
        };
        let going_down = async {
            let cause = self.host.told_to_go_down().await;
            if cause == RebootCause::Api {
                let latency = self.latencies().shut_down;
                tokio::time::sleep(latency).await;
            }
            cause
        };
        tokio::select! {
            failed = server::serve(self.host.clone(), &boot.api_socket) => failed.map(|never| match never {}),
            cause = going_down => Ok(cause),
            () = kubelet => Ok(RebootCause::PowerCut),
        }
    }

    fn boot(&self, life: CancellationToken) -> Boot {
        let latencies = *self.latencies();
        Boot {
            facts: self.facts.clone(),
            life,
            pod_start: latencies.pod_start,
            pod_stop: latencies.pod_stop,
            directory: self.directory.clone(),
            api_socket: self.api_socket(),
            boot_id_file: self.directory.join("boot_id"),
        }
    }

    fn api_socket(&self) -> PathBuf {
        self.directory.join("api.sock")
    }

    fn latencies(&self) -> std::sync::MutexGuard<'_, LatencySpec> {
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn node_facts(name: String, labels: BTreeMap<String, String>, number: u32) -> Result<NodeFacts> {
    let [_, high, mid, low] = number.to_be_bytes();
    let address = format!("10.{}.{mid}.{low}", 32 + (high & 0x1f));
    Ok(NodeFacts {
        name,
        labels,
        address,
        machine_id: crate::fresh_uuid()?.replace('-', ""),
    })
}
