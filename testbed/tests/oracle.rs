//! The recorder of the oracle's history, on a real control plane: nothing is skipped, and the order is one.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::time::Duration;

use api::{BottlerocketShadow, names};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{EvictParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use testbed::binaries::workspace_root;
use testbed::history::{Action, Change, History, Object, Recorder};
use testbed::oracle::{Expectations, Promise, check};
use testbed::{ControlPlane, Options, wait};

const SOON: Duration = Duration::from_secs(60);

fn read<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

async fn define(plane: &ControlPlane) {
    let crds = workspace_root().join("crds");
    plane
        .kubectl_ok(&["apply", "-f", &crds.to_string_lossy()])
        .await
        .unwrap();
    plane
        .kubectl_ok(&[
            "wait",
            "--for=condition=Established",
            "crd",
            "--all",
            "--timeout=60s",
        ])
        .await
        .unwrap();
    plane
        .kubectl_ok(&["create", "namespace", names::DEFAULT_NAMESPACE])
        .await
        .unwrap();
}

fn shadows(client: &Client) -> Api<BottlerocketShadow> {
    Api::namespaced(client.clone(), names::DEFAULT_NAMESPACE)
}

async fn change_shadow(client: &Client, attempt: u32) {
    let patch = json!({"spec": {"state": "Idle", "attempt": attempt}});
    shadows(client)
        .patch("brs-a", &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
}

fn attempts(history: &History) -> Vec<u32> {
    let shadows = history.events().iter().filter_map(|event| match &event.object {
        Object::Shadow(shadow) if event.action == Action::Modified => shadow.spec.attempt,
        _ => None,
    });
    shadows.collect()
}

fn pod(name: &str, node: &str) -> Pod {
    read(json!({
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "x"}]}}))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_revision_is_recorded_in_one_order() {
    let plane = ControlPlane::start(Options::default()).await.unwrap();
    let client = plane.client().await.unwrap();
    define(&plane).await;
    let nodes: Api<Node> = Api::all(client.clone());
    nodes
        .create(&PostParams::default(), &read(json!({"metadata": {"name": "a"}})))
        .await
        .unwrap();

    let recorder = Recorder::start(client.clone()).await.unwrap();
    let shadow = read(json!({"metadata": {"name": "brs-a"}, "spec": {"state": "Idle"}}));
    shadows(&client)
        .create(&PostParams::default(), &shadow)
        .await
        .unwrap();
    for attempt in 1..=50 {
        change_shadow(&client, attempt).await;
    }
    shadows(&client)
        .delete("brs-a", &Default::default())
        .await
        .unwrap();
    let history = recorder.finish(SOON).await.unwrap();

    assert!(
        history.initial().nodes.contains_key("a"),
        "what was there first is there"
    );
    assert_eq!(attempts(&history), (1..=50).collect::<Vec<_>>());
    let revisions: Vec<u64> = history.events().iter().map(|event| event.revision).collect();
    assert!(
        revisions.is_sorted_by(|a, b| a < b),
        "each revision once, in order"
    );
    assert!(
        history.events().is_sorted_by_key(|event| event.at),
        "and times in the order of revisions"
    );
    let last = history
        .events()
        .iter()
        .rev()
        .find(|event| matches!(event.object, Object::Shadow(_)));
    assert_eq!(
        last.map(|event| event.action),
        Some(Action::Deleted),
        "the very last change too"
    );
    let mut replay = history.replay();
    while replay.step().is_some() {}
    assert!(replay.state().shadows.is_empty());
    assert!(replay.state().nodes.contains_key("a"));
    plane.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_api_server_skips_nothing() {
    let plane = ControlPlane::start(Options::default()).await.unwrap();
    let client = plane.client().await.unwrap();
    define(&plane).await;
    let recorder = Recorder::start(client.clone()).await.unwrap();
    let shadow = read(json!({"metadata": {"name": "brs-a"}, "spec": {"state": "Idle"}}));
    shadows(&client)
        .create(&PostParams::default(), &shadow)
        .await
        .unwrap();
    for attempt in 1..=20 {
        change_shadow(&client, attempt).await;
    }
    plane.stop_apiserver().await.unwrap();
    plane.start_apiserver().await.unwrap();
    for attempt in 21..=40 {
        change_shadow(&client, attempt).await;
    }
    let history = recorder.finish(SOON).await.unwrap();
    assert_eq!(attempts(&history), (1..=40).collect::<Vec<_>>());
    plane.shutdown().await.unwrap();
}

/// The oracle tells evictions from deletions by marks that Kubernetes makes: here are the real ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_eviction_is_told_from_a_deletion() {
    let plane = ControlPlane::start(Options::default()).await.unwrap();
    let client = plane.client().await.unwrap();
    define(&plane).await;
    let nodes: Api<Node> = Api::all(client.clone());
    let node = json!({"metadata": {"name": "a", "annotations": {names::DISRUPTION_ANNOTATION: "{}"}},
        "spec": {"unschedulable": true}});
    nodes.create(&PostParams::default(), &read(node)).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(client.clone(), "default");
    let budget = json!({"metadata": {"name": "web"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    budgets
        .create(&PostParams::default(), &read(budget))
        .await
        .unwrap();
    let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    for name in ["evicted", "deleted", "kept"] {
        let created = wait_for_account(&pods, &pod(name, "a")).await;
        pods.patch_status(
            &created.name_any(),
            &PatchParams::default(),
            &Patch::Merge(&ready),
        )
        .await
        .unwrap();
    }
    let allowed = |budget: Option<&PodDisruptionBudget>| {
        budget
            .and_then(|b| b.status.as_ref())
            .is_some_and(|status| status.disruptions_allowed == 2)
    };
    wait::for_object(budgets, "web", SOON, "budget that allows two", allowed)
        .await
        .unwrap();

    let recorder = Recorder::start(client.clone()).await.unwrap();
    pods.evict("evicted", &EvictParams::default()).await.unwrap();
    pods.delete("deleted", &Default::default()).await.unwrap();
    let history = recorder.finish(SOON).await.unwrap();

    let found = check(&history, &[], &Expectations::default());
    let told: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), 1, "{told:?}");
    assert_eq!(found[0].promise, Promise::S6);
    assert!(
        found[0]
            .message
            .contains("default/deleted on node a was deleted, not evicted"),
        "{told:?}"
    );
    let mut replay = history.replay();
    let mut gone = 0;
    while let Some(step) = replay.step() {
        gone += usize::from(matches!(&step.change, Change::Pod(pair) if pair.after.is_none()));
    }
    assert_eq!(gone, 2);
    assert_eq!(pods.list(&ListParams::default()).await.unwrap().items.len(), 1);
    plane.shutdown().await.unwrap();
}

/// A new namespace has its service account a moment later; until then its pods are refused.
async fn wait_for_account(pods: &Api<Pod>, pod: &Pod) -> Pod {
    let trying = async {
        loop {
            match pods.create(&PostParams::default(), pod).await {
                Ok(created) => return created,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    tokio::time::timeout(SOON, trying)
        .await
        .expect("pods cannot be created")
}
