//! The nodes on which the operator itself runs. Its programs are processes here; pods of the chart's own Deployments stand
//! for them, tolerations and all, which is all that a drain can see of them.

use std::collections::BTreeSet;
use std::time::Duration;

use api::names::{COMPONENT_APISERVER, COMPONENT_CONTROLLER};
use api::operator;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher;
use kube::{Api, ResourceExt as _};
use serde_json::json;
use testbed::fleet::FleetSpec;
use testbed::history::{Change, History};
use testbed::lab::{Evidence, Lab};
use testbed::operator::{NAMESPACE, render};
use testbed::oracle::{Expectations, check};
use testbed::truth::SimEventKind;
use testbed::wait;

use crate::support::{NEW, SOON, begins_reboot, complete, lab, machines, plan, versions};

/// So many machines with a workload on each, whose pods take a moment to end.
fn fleet(nodes: u32) -> FleetSpec {
    let mut fleet = machines(nodes);
    fleet.latencies.pod_stop = Duration::from_millis(300);
    let web = json!([{"name": "web", "replicas": 2 * nodes}]);
    fleet.workloads = serde_json::from_value(web).unwrap();
    fleet
}

/// Runs the chart's Deployments of these components, two replicas each, and gives their pods once all are Ready.
async fn run(lab: &Lab, components: &[&str]) -> Vec<Pod> {
    let rendered = format!("\n{}", render(&[]).await.unwrap());
    let of_these = |object: &&str| {
        let name = |component: &&str| object.contains(&format!("\n  name: brupop-update-{component}\n"));
        object.contains("\nkind: Deployment\n") && components.iter().any(name)
    };
    let deployments: Vec<&str> = rendered.split("\n---\n").filter(of_these).collect();
    assert_eq!(deployments.len(), components.len());
    lab.apply(&deployments.join("\n---\n")).await.unwrap();
    own_pods(lab, 2 * components.len()).await
}

/// Waits until so many pods of the operator are Ready.
async fn own_pods(lab: &Lab, count: usize) -> Vec<Pod> {
    let pods: Api<Pod> = Api::namespaced(lab.client.clone(), NAMESPACE);
    let config = watcher::Config::default().labels(&operator::selector());
    wait::for_objects(
        pods,
        config,
        SOON,
        "pods of the operator that are Ready",
        |pods| pods.len() == count && pods.iter().all(|pod| operator::is_ready(pod)),
    )
    .await
    .unwrap()
}

fn uids(pods: &[Pod]) -> BTreeSet<String> {
    pods.iter().filter_map(kube::ResourceExt::uid).collect()
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_node_cluster_is_updated_and_the_operator_stays_on_its_node() {
    let lab = lab(fleet(1)).await;
    let before = run(&lab, &[COMPONENT_APISERVER, COMPONENT_CONTROLLER]).await;
    lab.apply(&plan("p", &json!({}))).await.unwrap();
    complete(&lab, "p").await;
    assert_eq!(versions(&lab), [NEW]);
    // Not evicted, nor made anew: they ran through the reboot.
    assert_eq!(uids(&own_pods(&lab, 4).await), uids(&before));
    lab.finish(&Expectations::complete("p")).await.unwrap();
}

/// UIDs of the operator's pods that began to end. Whether each might, the oracle judges.
fn ends(history: &History) -> Vec<String> {
    let mut ends = Vec::new();
    let mut replay = history.replay();
    while let Some(step) = replay.step() {
        let Change::Pod(pair) = &step.change else { continue };
        let (Some(before), Some(after)) = (&pair.before, &pair.after) else {
            continue;
        };
        let begins =
            before.metadata.deletion_timestamp.is_none() && after.metadata.deletion_timestamp.is_some();
        if begins && operator::is_operator_pod(after, NAMESPACE) {
            ends.push(after.uid().unwrap());
        }
    }
    ends
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_of_the_operator_are_updated_last_and_one_replica_always_runs() {
    let lab = lab(fleet(3)).await;
    let before = run(&lab, &[COMPONENT_APISERVER]).await;
    let hosts: BTreeSet<&str> = before.iter().filter_map(node_of).collect();
    assert_eq!(hosts.len(), 2, "they are spread");
    lab.apply(&plan("p", &json!({}))).await.unwrap();
    complete(&lab, "p").await;
    assert_eq!(versions(&lab), [NEW; 3]);
    let Evidence { history, truth } = lab.stop().await.unwrap();
    let violations = check(&history, &truth, &Expectations::complete("p"));
    assert!(violations.is_empty(), "{violations:#?}");

    let rebooted = truth.iter().filter(|event| begins_reboot(event));
    let rebooted: Vec<&str> = rebooted.map(|event| event.node.as_str()).collect();
    assert_eq!(rebooted.len(), 3);
    assert!(
        !hosts.contains(rebooted[0]),
        "{rebooted:?}, of which {hosts:?} are the operator's"
    );

    let first = before
        .iter()
        .find(|pod| node_of(pod) == Some(rebooted[1]))
        .unwrap();
    let first = first.uid().unwrap();
    assert!(
        ends(&history).contains(&first),
        "the first host's pod was evicted"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_of_the_operator_are_never_down_at_once_whatever_the_budget_allows() {
    let lab = lab(fleet(3)).await;
    for node in lab.fleet.nodes() {
        let mut latencies = node.latencies();
        latencies.boot = Duration::from_secs(2);
        node.set_latencies(latencies);
    }
    let before = run(&lab, &[COMPONENT_APISERVER]).await;
    let hosts: BTreeSet<&str> = before.iter().filter_map(node_of).collect();
    assert_eq!(hosts.len(), 2, "they are spread");
    lab.apply(&plan("p", &json!({"maxUnavailable": 3})))
        .await
        .unwrap();
    complete(&lab, "p").await;
    assert_eq!(versions(&lab), [NEW; 3]);
    let Evidence { history, truth } = lab.stop().await.unwrap();
    let violations = check(&history, &truth, &Expectations::complete("p"));
    assert!(violations.is_empty(), "{violations:#?}");
    // The second begins after the first is back.
    let of_hosts = truth.iter().filter(|event| hosts.contains(event.node.as_str()));
    let reboots = of_hosts.filter_map(|event| match event.kind {
        SimEventKind::RebootBegun { .. } => Some("down"),
        SimEventKind::RebootFinished { .. } => Some("up"),
        _ => None,
    });
    assert_eq!(reboots.collect::<Vec<_>>(), ["down", "up", "down", "up"]);
}
