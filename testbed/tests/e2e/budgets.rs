//! Evictions that are cut off half-way by the kill of who has asked for them.
//!
//! Kubernetes takes an eviction off the PodDisruptionBudget first, and deletes the pod then. Where the client goes away in
//! between, the pod stays, and the budget counts it as disrupted until the disruption controller has waited for two
//! minutes. Nobody waits for that in a test: what the controller does then is done here at once.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use tokio_util::task::AbortOnDropHandle;

/// An eviction that is not cut off reaches its pod within so long; the budget has whole seconds.
const REACHES_WITHIN: TimeDelta = TimeDelta::milliseconds(3500);
const PAUSE: Duration = Duration::from_millis(200);

/// Takes what was cut off out of the budgets, until the handle is dropped.
pub fn forget_what_was_cut_off(client: Client) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(forget_for_ever(client)))
}

async fn forget_for_ever(client: Client) {
    let budgets: Api<PodDisruptionBudget> = Api::default_namespaced(client.clone());
    let pods: Api<Pod> = Api::default_namespaced(client);
    loop {
        tokio::time::sleep(PAUSE).await;
        for mut budget in budgets.list(&ListParams::default()).await.unwrap() {
            let Some(disrupted) = budget
                .status
                .as_mut()
                .and_then(|status| status.disrupted_pods.as_mut())
            else {
                continue;
            };
            let mut cut_off = Vec::new();
            for (pod, at) in disrupted.iter() {
                if (Utc::now() - api::time::to_chrono(at)) < REACHES_WITHIN {
                    continue;
                }
                if pods
                    .get_opt(pod)
                    .await
                    .unwrap()
                    .is_some_and(|pod| pod.metadata.deletion_timestamp.is_none())
                {
                    cut_off.push(pod.clone());
                }
            }
            if cut_off.is_empty() {
                continue;
            }
            println!("             cut off: the eviction of {}", cut_off.join(", "));
            disrupted.retain(|pod, _| !cut_off.contains(pod));
            let name = budget.metadata.name.clone().unwrap();
            // Where somebody else was faster, it is looked at again.
            let _ = budgets
                .replace_status(&name, &PostParams::default(), &budget)
                .await;
        }
    }
}
