//! Runs the real agent for the pods of the agent's DaemonSet, with a token bound to the pod, as a kubelet would.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use chrono::Utc;
use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccountTokenProjection};
use kube::ResourceExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{Boot, Context};
use crate::process::Recipe;

/// Where the operator is installed.
pub const NAMESPACE: &str = "brupop-bottlerocket-aws";
/// The label of the agent's pods.
pub const COMPONENT_LABEL: (&str, &str) = ("app.kubernetes.io/component", "agent");

/// How long an agent may take to end when it is asked to.
const PATIENCE: Duration = Duration::from_secs(5);
/// A token is renewed when this share of its life is over.
const RENEW_AT: f64 = 0.8;
const DEFAULT_TOKEN_SECONDS: i64 = 3600;
/// No agent is started again sooner than this.
const SHORTEST_DELAY: Duration = Duration::from_millis(100);

/// What an agent is started with.
#[derive(Clone, Debug)]
pub struct AgentSpec {
    /// The node it runs on.
    pub node_name: String,
    /// Its pod.
    pub pod: Arc<Pod>,
    /// The node's Bottlerocket API.
    pub api_socket: PathBuf,
    /// The file that holds the node's boot ID.
    pub boot_id_file: PathBuf,
    /// The file that holds its token; renewed before it expires.
    pub token_file: PathBuf,
    /// A directory for this pod alone.
    pub directory: PathBuf,
    /// Asks it to end.
    pub shutdown: CancellationToken,
}

/// Starts an agent: a future that runs it to its end. Dropping the future kills it, as a node that goes down does.
pub type AgentLauncher = Arc<dyn Fn(AgentSpec) -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// A launcher that runs the agent as a task of this process.
pub fn in_process<F>(run: impl Fn(AgentSpec) -> F + Send + Sync + 'static) -> AgentLauncher
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    Arc::new(move |spec| Box::pin(run(spec)))
}

/// A launcher that runs the agent's real binary; `command_line` gives its arguments and environment.
pub fn real_process(
    program: PathBuf,
    command_line: impl Fn(&AgentSpec) -> (Vec<OsString>, Vec<(String, OsString)>) + Send + Sync + 'static,
) -> AgentLauncher {
    Arc::new(move |spec| {
        let (args, env) = command_line(&spec);
        let mut recipe = Recipe::new("agent", &program, &spec.directory).args(args);
        recipe.env = env;
        Box::pin(async move {
            let mut process = recipe.spawn()?;
            tokio::select! {
                ended = process.wait() => bail!("the agent ended with {}\n{}", ended?, process.log_tail()),
                () = spec.shutdown.cancelled() => {
                    process.stop(PATIENCE).await?;
                    Ok(())
                }
            }
        })
    })
}

/// Whether this is a pod of the agent's DaemonSet.
pub(super) fn is_agent(pod: &Pod) -> bool {
    let (label, value) = COMPONENT_LABEL;
    pod.namespace().as_deref() == Some(NAMESPACE)
        && pod.labels().get(label).is_some_and(|found| found == value)
}

/// How an agent is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct AgentState {
    pub running: bool,
    pub restarts: i32,
}

/// The agent of one pod in one boot. Dropping it kills the agent.
pub(super) struct Agent {
    state: watch::Receiver<AgentState>,
    shutdown: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Agent {
    pub fn start(context: &Arc<Context>, boot: &Arc<Boot>, pod: &Arc<Pod>, launcher: AgentLauncher) -> Self {
        let shutdown = CancellationToken::new();
        let (report, state) = watch::channel(AgentState::default());
        let directory = boot.directory.join(pod.uid().unwrap_or_default());
        let spec = AgentSpec {
            node_name: boot.facts.name.clone(),
            pod: pod.clone(),
            api_socket: boot.api_socket.clone(),
            boot_id_file: boot.boot_id_file.clone(),
            token_file: directory.join("token"),
            directory,
            shutdown: shutdown.clone(),
        };
        let context = context.clone();
        let task = tokio::spawn(async move { keep_running(&context, spec, &launcher, &report).await });
        Self {
            state,
            shutdown,
            task: AbortOnDropHandle::new(task),
        }
    }

    pub fn state(&mut self) -> AgentState {
        *self.state.borrow_and_update()
    }

    pub async fn changed(&mut self) {
        if self.state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        // What does not end in time is killed by the drop.
        let _ = tokio::time::timeout(PATIENCE + Duration::from_secs(1), self.task).await;
    }
}

/// Starts the agent and starts it again whenever it ends, until it is asked to end.
async fn keep_running(
    context: &Arc<Context>,
    spec: AgentSpec,
    launcher: &AgentLauncher,
    report: &watch::Sender<AgentState>,
) {
    let node = spec.node_name.clone();
    if let Err(error) = std::fs::create_dir_all(&spec.directory) {
        tracing::error!(node, %error, directory = %spec.directory.display(), "the agent has no directory");
        return;
    }
    let Some(lifetime) = give_token(context, &spec).await else {
        return;
    };
    let renewal = {
        let (context, spec) = (context.clone(), spec.clone());
        async move { renew_token(&context, &spec, lifetime).await }
    };
    let _renewal = AbortOnDropHandle::new(tokio::spawn(renewal));
    let delay = context.options.agent_restart_delay.max(SHORTEST_DELAY);
    loop {
        // A task of its own, so that a panic of the agent is the agent's alone.
        let agent = AbortOnDropHandle::new(tokio::spawn(launcher(spec.clone())));
        report.send_modify(|state| state.running = true);
        let ended = agent.await;
        report.send_modify(|state| state.running = false);
        if spec.shutdown.is_cancelled() {
            return;
        }
        match ended {
            Ok(Ok(())) => tracing::warn!(node, "the agent ended; it is started again"),
            Ok(Err(error)) => tracing::warn!(
                node,
                error = format!("{error:#}"),
                "the agent failed; started again"
            ),
            Err(error) => tracing::error!(node, %error, "the agent panicked; it is started again"),
        }
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = spec.shutdown.cancelled() => return,
        }
        report.send_modify(|state| state.restarts += 1);
    }
}

/// Writes a fresh token to the agent's file, and gives how long it lives.
async fn give_token(context: &Context, spec: &AgentSpec) -> Option<Duration> {
    let request = match token_request(&spec.pod) {
        Ok(request) => request,
        Err(error) => {
            tracing::error!(node = spec.node_name, %error, "the agent gets no token");
            return None;
        }
    };
    let account = spec.pod.spec.as_ref()?.service_account_name.clone()?;
    let answer = context
        .writer
        .token(&spec.pod.namespace()?, &account, &request)
        .await?
        .status?;
    let expires = answer.expiration_timestamp.0.as_second();
    let lifetime = u64::try_from(expires - Utc::now().timestamp()).unwrap_or_default();
    match replace_file(&spec.token_file, &answer.token) {
        Ok(()) => Some(Duration::from_secs(lifetime)),
        Err(error) => {
            tracing::error!(node = spec.node_name, %error, "the agent's token cannot be written");
            None
        }
    }
}

async fn renew_token(context: &Context, spec: &AgentSpec, mut lifetime: Duration) {
    loop {
        tokio::time::sleep(lifetime.mul_f64(RENEW_AT)).await;
        match give_token(context, spec).await {
            Some(renewed) => lifetime = renewed,
            // The pod or its account is gone, and the agent soon will be.
            None => return,
        }
    }
}

/// The request for the token that the pod's projected volume describes.
fn token_request(pod: &Pod) -> Result<TokenRequest> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let sources = volumes
        .filter_map(|volume| volume.projected.as_ref())
        .flat_map(|projected| &projected.sources);
    let tokens = sources
        .flatten()
        .filter_map(|source| source.service_account_token.as_ref());
    // The one without an audience is for the Kubernetes API, and every pod has it.
    let with_audience = tokens.filter_map(|token| Some((token, token.audience.clone()?)));
    let (
        ServiceAccountTokenProjection {
            expiration_seconds, ..
        },
        audience,
    ) = with_audience.clone().next().with_context(|| {
        format!(
            "pod {} projects no service account token with an audience",
            pod.name_any()
        )
    })?;
    Ok(TokenRequest {
        spec: TokenRequestSpec {
            audiences: vec![audience],
            expiration_seconds: Some(expiration_seconds.unwrap_or(DEFAULT_TOKEN_SECONDS)),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
        },
        ..TokenRequest::default()
    })
}

/// Replaces a file in one step: a reader sees the old content or the new.
pub(crate) fn replace_file(path: &Path, content: &str) -> Result<()> {
    let fresh = path.with_extension("new");
    crate::pki::write_private(&fresh, content)?;
    std::fs::rename(&fresh, path).with_context(|| format!("renaming {}", fresh.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(sources: &serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": "agent-x", "namespace": NAMESPACE, "uid": "u1", "labels": {
                "app.kubernetes.io/component": "agent",
            }},
            "spec": { "containers": [], "volumes": [
                { "name": "kube-api-access", "projected": { "sources": [{ "serviceAccountToken": { "path": "token" } }] } },
                { "name": "token", "projected": { "sources": sources } },
            ]},
        }))
        .unwrap()
    }

    fn spec(directory: &Path) -> AgentSpec {
        AgentSpec {
            node_name: "n1".to_owned(),
            pod: Arc::new(pod(&json!([]))),
            api_socket: directory.join("api.sock"),
            boot_id_file: directory.join("boot_id"),
            token_file: directory.join("token"),
            directory: directory.to_owned(),
            shutdown: CancellationToken::new(),
        }
    }

    #[test]
    fn the_token_is_the_one_with_an_audience_and_bound_to_the_pod() {
        let sources =
            json!([{ "serviceAccountToken": { "audience": "a", "expirationSeconds": 700, "path": "t" } }]);
        let request = token_request(&pod(&sources)).unwrap().spec;
        assert_eq!(
            (request.audiences, request.expiration_seconds),
            (vec!["a".to_owned()], Some(700))
        );
        assert_eq!(request.bound_object_ref.unwrap().uid.as_deref(), Some("u1"));
        let error = token_request(&pod(&json!([]))).unwrap_err().to_string();
        assert!(error.contains("agent-x"), "{error}");
    }

    #[test]
    fn only_pods_of_the_daemon_set_run_an_agent() {
        let mut other = pod(&json!([]));
        assert!(is_agent(&other));
        other.metadata.namespace = Some("default".to_owned());
        assert!(!is_agent(&other));
    }

    #[tokio::test]
    async fn a_real_process_ends_when_asked_and_reports_when_it_ends_by_itself() {
        let directory = tempfile::tempdir().unwrap();
        let launch = |script: &'static str| {
            real_process("sh".into(), move |spec| {
                let env = vec![("NODE".to_owned(), spec.node_name.clone().into())];
                (vec!["-c".into(), script.into()], env)
            })
        };
        let spec = spec(directory.path());
        let error = launch("echo on $NODE; exit 3")(spec.clone())
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("exit status: 3") && error.contains("on n1"),
            "{error}"
        );

        let running = tokio::spawn(launch("exec sleep 60")(spec.clone()));
        spec.shutdown.cancel();
        running.await.unwrap().unwrap();
    }
}
