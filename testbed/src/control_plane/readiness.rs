//! When the control plane works, not only runs.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use kube::{Api, Client};
use tracing::instrument::WithSubscriber as _;
use tracing::subscriber::NoSubscriber;

use super::{Processes, START};
use crate::wait;

/// One answer may take this long; then it is asked again.
const ONE_ANSWER: Duration = Duration::from_secs(2);

pub(super) async fn apiserver(client: &Client) -> bool {
    let Ok(request) = hyper::Request::get("/readyz").body(Vec::new()) else {
        return false;
    };
    // Refusals are what is expected here, and the client would log each as an error.
    let asked = client
        .request_text(request)
        .with_subscriber(NoSubscriber::default());
    let answer = tokio::time::timeout(ONE_ANSWER, asked).await;
    matches!(answer, Ok(Ok(text)) if text == "ok")
}

/// The controllers work once they made what every namespace has.
pub(super) async fn controllers(client: &Client, processes: &mut Processes) -> Result<()> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    let bundles: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let made = async {
        wait::for_object(accounts, "default", START, "service account", |found| {
            found.is_some()
        })
        .await?;
        wait::for_object(bundles, "kube-root-ca.crt", START, "CA bundle", |found| {
            found.is_some()
        })
        .await
    };
    tokio::select! {
        made = made => made.map(|_| ()).with_context(|| tails(processes)),
        dead = death(processes) => bail!("{dead}"),
    }
}

/// Resolves with an explanation when one of the controllers' processes ends.
async fn death(processes: &mut Processes) -> String {
    let Processes {
        controller_manager,
        scheduler,
        ..
    } = processes;
    let (Some(controller_manager), Some(scheduler)) = (controller_manager, scheduler) else {
        return "a process was never started".to_owned();
    };
    let dead = tokio::select! {
        _ = controller_manager.wait() => controller_manager,
        _ = scheduler.wait() => scheduler,
    };
    format!(
        "{} ended while it was starting\n{}",
        dead.recipe().name,
        dead.log_tail()
    )
}

fn tails(processes: &Processes) -> String {
    let Processes {
        controller_manager,
        scheduler,
        apiserver,
        ..
    } = processes;
    let logs = [controller_manager, scheduler, apiserver]
        .into_iter()
        .flatten()
        .map(|process| process.log_tail());
    logs.collect::<Vec<_>>().join("\n")
}
