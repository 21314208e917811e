//! Nodes that are bad in ways of their own: each ends with its reason in the plan's status, and holds nobody up.

use api::plan::{FailedNode, Phase, UpdatePlanStatus, condition};
use api::shadow::FailureReason;
use kube::ResourceExt as _;
use serde_json::json;
use testbed::bottlerocket::{Call, CallFault};
use testbed::lab::Lab;
use testbed::oracle::Expectations;
use testbed::truth::SimEvent;

use crate::support::{
    NEW, NEWER, OLD, SOON, all_idle, assert_says, assert_untouched, begins_reboot, complete, edit,
    get_ledger, get_node, get_shadow, lab, machines, no_grants, plan, reboots, relent, seconds, status,
    stubborn_pod, unschedulable,
};

fn failed<'a>(status: &'a UpdatePlanStatus, node: &str) -> &'a FailedNode {
    let found = status.failed.iter().find(|failed| failed.node == node);
    found.unwrap_or_else(|| panic!("{node} has not failed: {status:#?}"))
}

/// Waits until this node does this.
async fn doing(lab: &Lab, node: &str, what: &str) {
    let wanted = |status: &UpdatePlanStatus| {
        let mut of_node = status.active.iter().filter(|active| active.node == node);
        of_node.any(|active| active.doing.starts_with(what))
    };
    status(lab, "p", &format!("{node} that is {what}"), wanted).await;
}

async fn rebooting(lab: &Lab, node: &str) {
    let of_node = |event: &SimEvent| event.node == node && begins_reboot(event);
    lab.fleet.truth().wait_for("reboot", SOON, of_node).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepare_that_writes_nothing_is_found_out_when_it_is_to_be_booted() {
    let lab = lab(machines(3)).await;
    let node = lab.fleet.node("n1").unwrap();
    // There is nothing on the partition that could be booted.
    node.faults(|faults| faults.every_call(Call::Prepare, CallFault::WritesNothing));
    let policy = json!({"retries": 1, "threshold": 2});
    lab.apply(&plan("p", &json!({"maxUnavailable": 3, "failurePolicy": policy})))
        .await
        .unwrap();
    let done = complete(&lab, "p").await;
    assert_eq!((done.nodes.updated, done.nodes.failed), (2, 1));
    let FailedNode {
        reason,
        attempts,
        message,
        ..
    } = failed(&done, "n1");
    assert_eq!((*reason, *attempts), (FailureReason::StageFailed, 2));
    assert_says(message, &["activate-update failed"]);
    assert_eq!(reboots(&lab, "n1"), 0, "and nobody was disturbed");
    all_idle(&lab).await;
    assert_untouched(&lab, "n1").await;
    lab.finish(&Expectations::complete("p")).await.unwrap();
}

/// Nodes that have been updated once: the version before is on their inactive partition.
async fn updated_once() -> Lab {
    let lab = lab(machines(3)).await;
    lab.apply(&plan(
        "p",
        &json!({"maxUnavailable": 3, "failurePolicy": {"retries": 1, "threshold": 3}}),
    ))
    .await
    .unwrap();
    complete(&lab, "p").await;
    lab
}

#[tokio::test(flavor = "multi_thread")]
async fn s7_a_prepare_that_leaves_the_older_image_is_found_out_by_the_boot() {
    let lab = updated_once().await;
    let node = lab.fleet.node("n1").unwrap();
    node.faults(|faults| faults.every_call(Call::Prepare, CallFault::WritesNothing));
    edit(&lab, "p", &json!({"targetVersion": NEWER})).await;
    let done = complete(&lab, "p").await;
    assert_eq!((done.nodes.updated, done.nodes.failed), (2, 1));
    let FailedNode {
        reason,
        attempts,
        message,
        ..
    } = failed(&done, "n1");
    assert_eq!((*reason, *attempts), (FailureReason::BootedOtherVersion, 2));
    // Each attempt boots what the one before has left.
    assert_says(message, &["runs 1.21.0 instead of 1.22.0"]);
    assert_eq!(
        reboots(&lab, "n1"),
        3,
        "one for the first plan, and one for each attempt"
    );
    all_idle(&lab).await;
    assert_untouched(&lab, "n1").await;
    let expectations = Expectations {
        downgraded: ["n1".to_owned()].into(),
        ..Expectations::complete("p")
    };
    lab.finish(&expectations).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_goes_away_for_a_moment_holds_up_and_breaks_nothing() {
    let mut fleet = machines(2);
    fleet.workloads = vec![stubborn_pod("n1")];
    fleet.latencies.prepare = seconds(2);
    let lab = lab(fleet).await;
    let node = lab.fleet.node("n1").unwrap();
    lab.apply(&plan("p", &json!({"maxUnavailable": 2})))
        .await
        .unwrap();
    for what in ["staging", "draining"] {
        doing(&lab, "n1", what).await;
        node.set_socket(false);
        if what == "draining" {
            relent(&lab, "n1").await;
            doing(&lab, "n1", "drained, about to reboot").await;
        }
        node.set_socket(true);
    }
    rebooting(&lab, "n1").await;
    node.set_socket(false);
    doing(&lab, "n1", "rebooting").await;
    node.set_socket(true);
    complete(&lab, "p").await;
    assert_eq!((reboots(&lab, "n1"), node.version().as_str()), (1, NEW));
    all_idle(&lab).await;
    assert_untouched(&lab, "n1").await;
    let expectations = Expectations {
        asked_again: ["n1".to_owned()].into(),
        ..Expectations::complete("p")
    };
    lab.finish(&expectations).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_goes_away_for_good_fails_its_node_at_each_steps_deadline() {
    let mut fleet = machines(4);
    fleet.workloads = vec![stubborn_pod("n2")];
    let lab = lab(fleet).await;
    let node = |name: &str| lab.fleet.node(name).unwrap();
    for name in ["n1", "n3"] {
        let mut latencies = node(name).latencies();
        (latencies.prepare, latencies.boot) = (seconds(1), seconds(1));
        node(name).set_latencies(latencies);
    }
    lab.apply(&plan(
        "p",
        &json!({
            "maxUnavailable": 4, "timeouts": {"stage": "10s", "reboot": "10s"},
            "failurePolicy": {"retries": 0, "threshold": 4},
        }),
    ))
    .await
    .unwrap();
    // While it is staged; when it is drained, and would ask for its permit; when it is back from its reboot.
    doing(&lab, "n1", "staging").await;
    node("n1").set_socket(false);
    doing(&lab, "n2", "draining").await;
    node("n2").set_socket(false);
    rebooting(&lab, "n3").await;
    node("n3").set_socket(false);
    relent(&lab, "n2").await;

    let done = complete(&lab, "p").await;
    assert_eq!((done.nodes.updated, done.nodes.failed), (1, 3));
    let told = |name: &str, reason: FailureReason, words: &str| {
        assert_eq!(failed(&done, name).reason, reason, "{name}");
        assert_says(&failed(&done, name).message, &[words]);
    };
    told(
        "n1",
        FailureReason::StageTimeout,
        "1.21.0 was not staged within 10s",
    );
    told(
        "n2",
        FailureReason::RebootTimeout,
        "the node was not given its reboot permit within 10s",
    );
    told(
        "n3",
        FailureReason::RebootTimeout,
        "not back on 1.21.0 within 10s of its reboot permit; the node is Ready with Bottlerocket OS 1.21.0 \
         (aws-k8s-1.33), but its agent has not reported from this boot",
    );
    no_grants(&lab, SOON, &["n1", "n2", "n3", "n4"]).await;
    for name in ["n1", "n2", "n3", "n4"] {
        assert!(!unschedulable(&get_node(&lab, name).await), "{name}");
    }
    assert_eq!(
        (reboots(&lab, "n1"), reboots(&lab, "n2"), reboots(&lab, "n3")),
        (0, 0, 1)
    );

    // Once it is back everything is undone, and the node that runs the target is judged by that.
    for name in ["n1", "n2", "n3"] {
        node(name).set_socket(true);
    }
    status(&lab, "p", "node that is updated after all", |status| {
        (status.nodes.updated, status.nodes.failed) == (2, 2)
    })
    .await;
    all_idle(&lab).await;
    for name in ["n1", "n2", "n3", "n4"] {
        assert_untouched(&lab, name).await;
    }
    assert_eq!(
        (node("n1").version().as_str(), node("n3").version().as_str()),
        (OLD, NEW)
    );
    lab.finish(&Expectations::complete("p")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_a_node_that_is_replaced_at_any_step_frees_its_grant_and_its_successor_begins_afresh() {
    let mut fleet = machines(4);
    fleet.workloads = vec![stubborn_pod("n2")];
    let lab = lab(fleet).await;
    for name in ["n1", "n3"] {
        let node = lab.fleet.node(name).unwrap();
        let mut latencies = node.latencies();
        (latencies.prepare, latencies.boot) = (seconds(600), seconds(600));
        if name == "n3" {
            latencies.prepare = seconds(0);
        }
        node.set_latencies(latencies);
    }
    lab.apply(&plan("p", &json!({"maxUnavailable": 4})))
        .await
        .unwrap();
    doing(&lab, "n1", "staging").await;
    doing(&lab, "n2", "draining, ").await;
    rebooting(&lab, "n3").await;
    let names = ["n1", "n2", "n3"];
    let grants = get_ledger(&lab).await.spec.grants;
    let old: Vec<String> = grants
        .iter()
        .filter(|(_, grant)| names.contains(&grant.node.as_str()))
        .map(|(uid, _)| uid.clone())
        .collect();
    assert_eq!(old.len(), 3, "{grants:#?}");
    for name in names {
        let spec = lab
            .fleet
            .spec()
            .nodes()
            .into_iter()
            .find(|node| node.name == name);
        lab.fleet.remove_node(name).await.unwrap();
        // At once, so that its name is never gone for long.
        lab.fleet.add_node(spec.unwrap()).unwrap();
    }
    // Only now: else the node that drained would go on to its reboot before it is replaced.
    lab.plane
        .kubectl_ok(&["delete", "pdb", "stubborn-n2"])
        .await
        .unwrap();
    Box::pin(lab.ledger(SOON, "ledger without the old grants", |ledger| {
        !old.iter().any(|uid| ledger.spec.grants.contains_key(uid))
    }))
    .await
    .unwrap();
    let done = status(&lab, "p", "plan whose every node is updated", |status| {
        status.phase == Some(Phase::Complete) && status.nodes.updated == 4
    })
    .await;
    assert_eq!(done.nodes.failed, 0);
    for name in names {
        assert_eq!(lab.fleet.node(name).unwrap().version(), NEW);
        assert_eq!(reboots(&lab, name), if name == "n3" { 2 } else { 1 }, "{name}");
        let shadow = get_shadow(&lab, name).await;
        let uid = get_node(&lab, name).await.uid().unwrap();
        assert_eq!(shadow.owner_references()[0].uid, uid, "{name}");
        assert_eq!(shadow.spec.attempt, Some(1), "{name} has had no other");
        assert_untouched(&lab, name).await;
    }
    lab.finish(&Expectations::complete("p")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn l5_a_node_that_is_deleted_at_any_step_frees_its_grant() {
    let mut fleet = machines(3);
    fleet.workloads = vec![stubborn_pod("n2")];
    let lab = lab(fleet).await;
    let node = lab.fleet.node("n1").unwrap();
    let mut latencies = node.latencies();
    latencies.prepare = seconds(600);
    node.set_latencies(latencies);
    lab.apply(&plan("p", &json!({"maxUnavailable": 2})))
        .await
        .unwrap();
    doing(&lab, "n1", "staging").await;
    lab.fleet.remove_node("n1").await.unwrap();
    doing(&lab, "n2", "draining, ").await;
    lab.fleet.remove_node("n2").await.unwrap();
    no_grants(&lab, SOON, &["n1", "n2"]).await;
    let done = complete(&lab, "p").await;
    assert_eq!(
        (done.nodes.matched, done.nodes.updated, done.nodes.failed),
        (1, 1, 0)
    );
    let complete = done
        .conditions
        .iter()
        .find(|condition| condition.type_ == condition::COMPLETE)
        .unwrap();
    assert_eq!(complete.reason, "AllUpdated");
    // Kubernetes itself takes the shadows away after their nodes.
    let left = lab.shadows(SOON, "shadow of the node that is left", |shadows| {
        shadows.len() == 1
    });
    Box::pin(left).await.unwrap();
    lab.finish(&Expectations::complete("p")).await.unwrap();
}
