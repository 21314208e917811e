//! The life of one pod in one boot of its node.

use std::sync::Arc;

use chrono::Utc;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;

use super::agent::Agent;
use super::status::{self, Containers};
use super::{Boot, Context, agent};

/// Plays the pod until it is gone. Dropped when the machine goes down: then nothing more is done for it.
pub(super) async fn live(context: Arc<Context>, boot: Arc<Boot>, mut latest: watch::Receiver<Arc<Pod>>) {
    let gone = run(&context, &boot, &mut latest).await.is_none();
    if !gone {
        tokio::time::sleep(boot.pod_stop).await;
        let pod = latest.borrow().clone();
        context.writer.delete_pod(&pod).await;
    }
}

/// Runs the pod's containers until its deletion is asked for. None: the pod is gone.
async fn run(context: &Arc<Context>, boot: &Arc<Boot>, latest: &mut watch::Receiver<Arc<Pod>>) -> Option<()> {
    tokio::select! {
        biased;
        deleted = latest.wait_for(|pod| must_end(pod)) => return deleted.ok().map(|_| ()),
        () = tokio::time::sleep(boot.pod_start) => {}
    }
    let pod = latest.borrow_and_update().clone();
    if finished(&pod) {
        return latest.wait_for(|pod| must_end(pod)).await.ok().map(|_| ());
    }
    // Containers that ran in an earlier boot are started again in this one.
    let earlier = status::restarts(&pod).map_or(0, |restarts| restarts + 1);
    let mut containers = Containers {
        running: true,
        started: Utc::now(),
        restarts: earlier,
        address: context.pod_address(),
        host: boot.facts.address.clone(),
    };
    let mut agent = match &context.launcher {
        Some(launcher) if agent::is_agent(&pod) => Some(Agent::start(context, boot, &pod, launcher.clone())),
        _ => None,
    };
    loop {
        let pod = latest.borrow_and_update().clone();
        if must_end(&pod) {
            break;
        }
        if let Some(agent) = &mut agent {
            let state = agent.state();
            if state.running && !containers.running {
                containers.started = Utc::now();
            }
            containers.running = state.running;
            containers.restarts = earlier + state.restarts;
        }
        if !status::shows(&pod, &containers) {
            let status = status::pod_status(&pod, &containers, Utc::now());
            context.writer.patch_pod_status(&pod, &status).await?;
        }
        tokio::select! {
            changed = latest.changed() => changed.ok()?,
            () = async {
                match &mut agent {
                    Some(agent) => agent.changed().await,
                    None => std::future::pending().await,
                }
            } => {}
        }
    }
    if let Some(agent) = agent {
        agent.stop().await;
    }
    Some(())
}

fn must_end(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}
