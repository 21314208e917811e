//! Nodes that lie: about their version, about a reboot, about everything. Kubernetes contradicts them, and nobody is
//! taken in.

use std::sync::Arc;

use api::plan::{Phase, UpdatePlanStatus, condition};
use api::shadow::FailureReason;
use serde_json::json;
use testbed::bottlerocket::{BootFault, Call, CallFault, Version};
use testbed::lab::Lab;
use testbed::oracle::Expectations;

use crate::caller::Caller;
use crate::support::{
    NEW, OLD, SOON, all_idle, assert_says, assert_untouched, begins_reboot, complete, get_shadow, lab,
    machines, no_grants, plan, reboots, seconds, status, unschedulable,
};
use crate::tokens::{agent_pod, of_pod};

fn reason<'a>(status: &'a UpdatePlanStatus, type_: &str) -> &'a str {
    let found = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == type_);
    &found.unwrap().reason
}

/// From now on the machine's API says that this version runs.
fn claim(lab: &Lab, node: &str, version: Option<&str>) {
    let version: Option<Version> = version.map(|version| version.parse().unwrap());
    lab.fleet
        .node(node)
        .unwrap()
        .faults(|faults| faults.reported_version = version);
}

/// Waits until the node's agent reports this version.
async fn reported(lab: &Lab, node: &str, version: &str) {
    let name = api::names::shadow_name(node);
    let reports = lab.shadows(SOON, "report of the version", |shadows| {
        let mut of_node = shadows
            .iter()
            .filter(|shadow| shadow.metadata.name.as_ref() == Some(&name))
            .filter_map(|shadow| shadow.status.as_ref());
        of_node.any(|status| status.current_version == version)
    });
    Box::pin(reports).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s7_a_node_that_claims_the_target_without_a_reboot_is_not_taken_for_updated() {
    let lab = lab(machines(3)).await;
    claim(&lab, "n1", Some(NEW));
    // An idle agent looks at its node when it starts.
    lab.operator.crash_agents();
    reported(&lab, "n1", NEW).await;
    lab.apply(&plan("p", &json!({}))).await.unwrap();
    let waits = status(&lab, "p", "plan that waits for one node", |status| {
        status.nodes.updated == 2 && status.nodes.updating == 0
    })
    .await;
    assert_eq!(waits.phase, Some(Phase::Progressing));
    let [waiting] = waits.waiting.as_slice() else {
        panic!("{:?}", waits.waiting)
    };
    assert_eq!(
        (waiting.reason.as_str(), waiting.nodes.as_slice()),
        ("VersionDisputed", &["n1".to_owned()][..])
    );
    let both = "n1: its agent reports version 1.21.0, but its kubelet Bottlerocket OS 1.20.3 (aws-k8s-1.33)";
    assert_says(
        waits.message.as_ref().unwrap(),
        &["2 of 3 nodes run 1.21.0; ", both],
    );
    assert_eq!(reboots(&lab, "n1"), 0);
    assert_untouched(&lab, "n1").await;

    claim(&lab, "n1", None);
    lab.operator.crash_agents();
    complete(&lab, "p").await;
    assert_eq!(lab.fleet.node("n1").unwrap().version(), NEW);
    lab.finish(&Expectations::complete("p")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s7_a_boot_into_the_old_version_that_claims_the_new_one_fails_and_the_others_go_on() {
    let lab = lab(machines(3)).await;
    let node = lab.fleet.node("n1").unwrap();
    node.faults(|faults| faults.every_boot(BootFault::OldVersion));
    let mut latencies = node.latencies();
    latencies.boot = seconds(1);
    node.set_latencies(latencies);
    let policy = json!({"retries": 5, "threshold": 2});
    lab.apply(&plan("p", &json!({"maxUnavailable": 3, "failurePolicy": policy})))
        .await
        .unwrap();
    let of_node = |event: &testbed::truth::SimEvent| event.node == "n1" && begins_reboot(event);
    lab.fleet
        .truth()
        .wait_for("reboot of n1", SOON, of_node)
        .await
        .unwrap();
    claim(&lab, "n1", Some(NEW));
    let done = complete(&lab, "p").await;
    assert_eq!(reason(&done, condition::COMPLETE), "WithFailed");
    assert_eq!((done.nodes.updated, done.nodes.failed), (2, 1));
    let failed = &done.failed[0];
    assert_eq!(
        (failed.node.as_str(), failed.reason, failed.attempts),
        ("n1", FailureReason::BootedOtherVersion, 1)
    );
    assert_eq!(
        failed.message,
        "reports that it rebooted into 1.21.0, but its kubelet reports Bottlerocket OS 1.20.3 (aws-k8s-1.33)"
    );
    assert_eq!(reboots(&lab, "n1"), 1, "another one would prove no more");
    all_idle(&lab).await;
    assert_untouched(&lab, "n1").await;
    lab.finish(&Expectations::complete("p")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn l4_a_node_that_takes_a_reboot_and_stays_up_fails_at_its_deadline() {
    let lab = lab(machines(3)).await;
    let node = lab.fleet.node("n1").unwrap();
    node.faults(|faults| faults.every_call(Call::Reboot, CallFault::StaysUp));
    lab.apply(&plan(
        "p",
        &json!({
            "maxUnavailable": 3, "timeouts": {"stage": "10s", "reboot": "10s"},
            "failurePolicy": {"retries": 0, "threshold": 2},
        }),
    ))
    .await
    .unwrap();
    let called = |event: &testbed::truth::SimEvent| {
        let reboot = matches!(
            event.kind,
            testbed::truth::SimEventKind::Called {
                call: Call::Reboot,
                ..
            }
        );
        event.node == "n1" && reboot
    };
    lab.fleet
        .truth()
        .wait_for("reboot call", SOON, called)
        .await
        .unwrap();
    // It even claims success, in the same boot.
    claim(&lab, "n1", Some(NEW));
    let done = complete(&lab, "p").await;
    assert_eq!((done.nodes.updated, done.nodes.failed), (2, 1));
    let failed = &done.failed[0];
    assert_eq!(
        (failed.node.as_str(), failed.reason),
        ("n1", FailureReason::RebootTimeout)
    );
    assert_says(
        &failed.message,
        &["not back on 1.21.0 within 10s of its reboot permit; the node is Ready and has not rebooted"],
    );
    no_grants(&lab, SOON, &["n1"]).await;
    assert_eq!((reboots(&lab, "n1"), node.version().as_str()), (0, OLD));
    // The agent does not undo what a machine that may be shutting down was told. One that is started anew does.
    lab.operator.crash_agents();
    reported(&lab, "n1", NEW).await;
    all_idle(&lab).await;
    assert_untouched(&lab, "n1").await;
    let expectations = Expectations {
        asked_again: ["n1".to_owned()].into(),
        ..Expectations::complete("p")
    };
    lab.finish(&expectations).await.unwrap();
}

/// An agent that says of every instruction at once that it is done, and of its node that it runs what is asked for; it does
/// nothing. The boot it speaks of is the machine's, or made up.
async fn flatter(lab: Arc<Lab>, node: &'static str, made_up: Option<&'static str>) {
    let caller = Caller::new(&lab);
    let token = of_pod(&lab, &agent_pod(&lab, node).await).await;
    let boot_id = lab.fleet.node(node).unwrap().boot_id();
    let mut lines = caller.stream(node, &token).await;
    loop {
        let spec = lines.instruction().await["spec"].clone();
        let version = spec["version"].as_str().unwrap_or(OLD);
        let agreed = json!({
            "current_version": version, "target_version": version, "current_state": spec["state"],
            "crash_count": 0, "run": spec["run"], "attempt": spec["attempt"],
            "boot_id": made_up.unwrap_or(&boot_id),
        });
        let path = format!("/v1/nodes/{node}/status");
        let answer = caller.call("PUT", &path, &token, &agreed).await;
        assert!(
            answer.status.is_success() || answer.status == hyper::StatusCode::CONFLICT,
            "{answer:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s7_agents_that_agree_to_everything_and_do_nothing_fail_and_the_others_go_on() {
    let lab = Arc::new(lab(machines(3)).await);
    let mut flatterers = tokio::task::JoinSet::new();
    for (node, made_up) in [("n1", None), ("n2", Some("made-up"))] {
        // The real agent is cut off from its node, and says nothing.
        lab.fleet.node(node).unwrap().set_socket(false);
        flatterers.spawn(flatter(lab.clone(), node, made_up));
    }
    lab.apply(&plan("p", &json!({
        "maxUnavailable": 3, "timeouts": {"reboot": "10s"}, "failurePolicy": {"retries": 0, "threshold": 3},
    })))
    .await
    .unwrap();
    let done = complete(&lab, "p").await;
    assert_eq!((done.nodes.updated, done.nodes.failed), (1, 2));
    let failed = |node: &str| done.failed.iter().find(|failed| failed.node == node).unwrap();
    assert_eq!(failed("n1").reason, FailureReason::BootedOtherVersion);
    assert_says(
        &failed("n1").message,
        &["reports that it rebooted into 1.21.0, but its kubelet reports Bottlerocket OS 1.20.3"],
    );
    assert_eq!(failed("n2").reason, FailureReason::RebootTimeout);
    assert_says(
        &failed("n2").message,
        &[
            "not given its reboot permit within 10s: its agent reports a reboot that its kubelet does not report",
        ],
    );
    no_grants(&lab, SOON, &["n1", "n2"]).await;
    for node in ["n1", "n2"] {
        assert_eq!(reboots(&lab, node), 0);
        let spec = get_shadow(&lab, node).await.spec;
        assert_eq!(spec.attempt, Some(1), "one attempt, and no more");
        assert!(!unschedulable(&crate::support::get_node(&lab, node).await));
    }
    all_idle(&lab).await;
    flatterers.shutdown().await;
    let lab = Arc::into_inner(lab).unwrap();
    lab.finish(&Expectations::complete("p")).await.unwrap();
}
