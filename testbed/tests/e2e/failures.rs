//! Nodes that fail, each in its own way: what is undone, what is told, and that the others go on.

use api::plan::{Phase, UpdatePlanStatus, condition};
use api::shadow::FailureReason;
use kube::ResourceExt as _;
use serde_json::{Value, json};
use testbed::bottlerocket::{BootFault, Call, CallFault};
use testbed::fleet::is_ready;
use testbed::lab::Lab;
use testbed::oracle::Expectations;

use crate::support::{
    NEW, NEWER, OLD, SOON, assert_says, assert_untouched, complete, edit, get_ledger, get_node, get_shadow,
    lab, machines, no_grants, plan, reboots, seconds, status, stubborn_pod, unschedulable, versions,
};

/// Waves that take one node first, and then the others.
fn first(node: &str) -> Value {
    json!([{"name": "first", "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": node}}}, {"name": "rest"}])
}

fn condition_reason<'a>(status: &'a UpdatePlanStatus, type_: &str) -> &'a str {
    &status
        .conditions
        .iter()
        .find(|condition| condition.type_ == type_)
        .unwrap()
        .reason
}

async fn events(lab: &Lab, plan: &str) -> String {
    let involved = format!("involvedObject.name={plan}");
    lab.plane
        .kubectl_ok(&["get", "events", "--field-selector", &involved])
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn s11_a_node_that_cannot_be_staged_halts_the_plan_and_only_a_new_target_lifts_it() {
    let lab = lab(machines(3)).await;
    let node = lab.fleet.node("n1").unwrap();
    node.faults(|faults| faults.every_call(Call::Prepare, CallFault::Fails));
    lab.apply(&plan("p", &json!({"waves": first("n1")})))
        .await
        .unwrap();
    let halted = status(&lab, "p", "plan that is halted and at rest", |status| {
        status.phase == Some(Phase::Halted) && status.nodes.updating == 0
    })
    .await;
    let [failed] = halted.failed.as_slice() else {
        panic!("{:?}", halted.failed)
    };
    assert_eq!(
        (failed.node.as_str(), failed.reason, failed.attempts),
        ("n1", FailureReason::StageFailed, 2)
    );
    assert_says(&failed.message, &["prepare-update failed"]);
    assert_says(
        halted.message.as_ref().unwrap(),
        &[
            "0 of 3 nodes run 1.21.0; halted: 1 failed, threshold 1; n1 failed (StageFailed: prepare-update failed",
            "set a new targetVersion to go on",
        ],
    );
    assert_eq!(condition_reason(&halted, condition::DEGRADED), "Halted");
    assert_says(
        &events(&lab, "p").await,
        &["Warning   NodeFailed", "Warning   Halted"],
    );
    for node in ["n1", "n2", "n3"] {
        assert_untouched(&lab, node).await;
        assert_eq!(reboots(&lab, node), 0);
    }
    // No other edit lifts it.
    edit(
        &lab,
        "p",
        &json!({"maxUnavailable": 3, "failurePolicy": {"threshold": 3, "retries": 5}}),
    )
    .await;
    let still = status(&lab, "p", "status of the edited plan", |status| {
        status.observed_generation == Some(2)
    })
    .await;
    assert_eq!(still.phase, Some(Phase::Halted));

    node.faults(testbed::bottlerocket::Faults::clear);
    edit(&lab, "p", &json!({"targetVersion": NEWER})).await;
    complete(&lab, "p").await;
    assert_eq!(versions(&lab), [NEWER; 3]);
    lab.finish(&Expectations::complete("p")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s5_a_node_that_boots_the_old_version_is_rebooted_once_an_attempt_and_then_given_up() {
    let lab = lab(machines(3)).await;
    lab.fleet
        .node("n1")
        .unwrap()
        .faults(|faults| faults.every_boot(BootFault::OldVersion));
    let spec = json!({"waves": first("n1"), "failurePolicy": {"retries": 2, "threshold": 2}});
    lab.apply(&plan("p", &spec)).await.unwrap();
    let given_up = status(&lab, "p", "node that is given up", |status| {
        status.nodes.failed == 1
    })
    .await;
    let failed = &given_up.failed[0];
    assert_eq!(
        (failed.node.as_str(), failed.reason, failed.attempts),
        ("n1", FailureReason::BootedOtherVersion, 3)
    );
    assert_says(&failed.message, &["runs 1.20.3 instead of 1.21.0"]);
    assert_eq!(reboots(&lab, "n1"), 3, "one for each attempt");
    assert_untouched(&lab, "n1").await;
    // A wave that proved nothing is not followed by another.
    assert_says(
        given_up.message.as_ref().unwrap(),
        &["none of its nodes could be updated, so the next wave does not start"],
    );
    assert_eq!(lab.fleet.node("n2").unwrap().version(), OLD);
    lab.finish(&Expectations {
        quiet: true,
        ..Expectations::default()
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn l3_a_budget_that_never_allows_eviction_fails_its_node_and_the_others_go_on() {
    let mut fleet = machines(3);
    fleet.workloads = vec![stubborn_pod("n1")];
    let lab = lab(fleet).await;
    lab.apply(&plan(
        "p",
        &json!({
            "drain": {"timeout": "2s"}, "failurePolicy": {"retries": 0, "threshold": 2},
        }),
    ))
    .await
    .unwrap();
    let done = complete(&lab, "p").await;
    assert_eq!(condition_reason(&done, condition::COMPLETE), "WithFailed");
    assert_eq!((done.nodes.updated, done.nodes.failed), (2, 1));
    let failed = &done.failed[0];
    assert_eq!(
        (failed.node.as_str(), failed.reason),
        ("n1", FailureReason::DrainTimeout)
    );
    assert_says(
        &failed.message,
        &[
            "not drained within 2s: 1 pod left: ",
            "PodDisruptionBudget stubborn-n1 forbids the eviction of pod default/stubborn-n1-",
        ],
    );
    assert_untouched(&lab, "n1").await;
    assert_eq!(reboots(&lab, "n1"), 0, "a drain that failed is no success");
    lab.finish(&Expectations::complete("p")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn l4_a_node_that_never_returns_fails_at_its_deadline_and_is_judged_afresh_when_it_does() {
    let lab = lab(machines(2)).await;
    let node = lab.fleet.node("n1").unwrap();
    node.faults(|faults| faults.next_boots(BootFault::NeverReturns, 1));
    lab.apply(&plan("p", &json!({
        "maxUnavailable": 2, "timeouts": {"reboot": "10s"}, "failurePolicy": {"retries": 0, "threshold": 2},
    })))
    .await
    .unwrap();
    let lost = status(&lab, "p", "node that is given up", |status| {
        status.nodes.failed == 1 && status.nodes.updated == 1 && status.nodes.updating == 0
    })
    .await;
    let failed = &lost.failed[0];
    assert_eq!(
        (failed.node.as_str(), failed.reason),
        ("n1", FailureReason::RebootTimeout)
    );
    assert_says(
        &failed.message,
        &["not back on 1.21.0 within 10s of its reboot permit; the node is not Ready"],
    );
    assert_eq!(lost.nodes.unavailable, 1, "it is not Ready, and counts as that");
    assert!(get_ledger(&lab).await.spec.grants.is_empty());
    assert!(
        !unschedulable(&get_node(&lab, "n1").await),
        "no cordon of ours is left"
    );
    assert!(!is_ready(&get_node(&lab, "n1").await));

    node.power_on();
    let back = status(&lab, "p", "node that is updated after all", |status| {
        status.nodes.updated == 2
    })
    .await;
    assert_eq!(back.nodes.failed, 0);
    assert_eq!(node.version(), NEW);
    assert_untouched(&lab, "n1").await;
    assert_eq!(reboots(&lab, "n1"), 1);
    lab.finish(&Expectations::complete("p")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn l5_a_node_that_is_deleted_frees_its_grant_and_another_of_its_name_inherits_nothing() {
    let lab = lab(machines(3)).await;
    let node = lab.fleet.node("n1").unwrap();
    let mut latencies = node.latencies();
    latencies.boot = seconds(600);
    node.set_latencies(latencies);
    lab.apply(&plan("p", &json!({"waves": first("n1")})))
        .await
        .unwrap();
    status(&lab, "p", "node that reboots", |status| {
        status.active.iter().any(|active| active.doing == "rebooting")
    })
    .await;
    lab.fleet.remove_node("n1").await.unwrap();
    no_grants(&lab, SOON, &["n1"]).await;
    assert_says(
        &events(&lab, "p").await,
        &["NodeGone", "node n1 is gone; its grant is released"],
    );
    // It has proven nothing, so the others wait for one that does.
    status(&lab, "p", "canary that is gone unproven", |status| {
        let says = "none of its nodes could be updated";
        status.nodes.updated == 0
            && status
                .message
                .as_deref()
                .is_some_and(|message| message.contains(says))
    })
    .await;

    let mut another = lab.fleet.spec().nodes().remove(0);
    another.name = "n1".to_owned();
    let another = lab.fleet.add_node(another).unwrap();
    status(&lab, "p", "newcomer that is updated", |status| {
        status.nodes.updated == 3
    })
    .await;
    assert_eq!(another.version(), NEW);
    let shadow = get_shadow(&lab, "n1").await;
    assert_eq!(
        shadow.spec.attempt,
        Some(1),
        "it is another node, and has had no attempt"
    );
    assert_eq!(
        shadow.owner_references()[0].uid,
        get_node(&lab, "n1").await.uid().unwrap()
    );
    lab.finish(&Expectations::complete("p")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s9_what_an_admin_has_cordoned_stays_so_and_is_told() {
    let lab = lab(machines(3)).await;
    lab.plane.kubectl_ok(&["cordon", "n1"]).await.unwrap();
    lab.plane
        .kubectl_ok(&["annotate", "node", "n2", "karpenter.sh/do-not-disrupt=false"])
        .await
        .unwrap();
    lab.apply(&plan("p", &json!({"maxUnavailable": 2})))
        .await
        .unwrap();
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
        ("CordonedByOther", &["n1".to_owned()][..])
    );
    assert_says(
        waits.message.as_ref().unwrap(),
        &["n1: cordoned, but not by this operator: uncordon it to go on"],
    );
    let admins = get_node(&lab, "n1").await;
    assert!(unschedulable(&admins));
    assert_eq!(admins.annotations().get(api::names::DISRUPTION_ANNOTATION), None);
    let annotated = get_node(&lab, "n2").await;
    assert_eq!(
        annotated
            .annotations()
            .get("karpenter.sh/do-not-disrupt")
            .map(String::as_str),
        Some("false")
    );

    lab.plane.kubectl_ok(&["uncordon", "n1"]).await.unwrap();
    complete(&lab, "p").await;
    assert_eq!(versions(&lab), [NEW; 3]);
    let expectations = Expectations {
        uncordoned: ["n1".to_owned()].into(),
        ..Expectations::complete("p")
    };
    lab.finish(&expectations).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s7_a_node_that_is_unhealthy_on_the_new_version_fails_and_halts_the_plan() {
    let lab = lab(machines(2)).await;
    let node = lab.fleet.node("n1").unwrap();
    lab.apply(&plan(
        "p",
        &json!({"waves": first("n1"), "monitoring": {"minReady": "10s", "timeout": "12s"}}),
    ))
    .await
    .unwrap();
    status(&lab, "p", "node that is monitored", |status| {
        status
            .active
            .iter()
            .any(|active| active.doing == "being monitored")
    })
    .await;
    node.set_ready(false).await;
    let halted = status(&lab, "p", "plan that is halted and at rest", |status| {
        status.phase == Some(Phase::Halted) && status.nodes.updating == 0
    })
    .await;
    let failed = &halted.failed[0];
    assert_eq!(
        (failed.node.as_str(), failed.reason, failed.attempts),
        ("n1", FailureReason::Unhealthy, 1)
    );
    assert_says(
        &failed.message,
        &["not Ready for 10s on end within 12s of being back on its target"],
    );
    assert_eq!((reboots(&lab, "n1"), reboots(&lab, "n2")), (1, 0));
    assert_untouched(&lab, "n1").await;
    lab.finish(&Expectations {
        quiet: true,
        ..Expectations::default()
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s10_a_node_that_turns_unhealthy_while_its_wave_soaks_halts_the_plan() {
    let lab = lab(machines(2)).await;
    let waves = json!([{"name": "canary", "size": 1, "soak": "10m"}, {"name": "rest"}]);
    lab.apply(&plan("p", &json!({"waves": waves}))).await.unwrap();
    let soaking = status(&lab, "p", "plan that soaks", |status| {
        status.phase == Some(Phase::Soaking)
    })
    .await;
    assert_says(
        soaking.message.as_ref().unwrap(),
        &["1 of 2 nodes run 1.21.0; ", "wave canary soaks until 20"],
    );
    let canary = lab
        .fleet
        .nodes()
        .into_iter()
        .find(|node| node.version() == NEW)
        .unwrap();
    canary.set_ready(false).await;
    let halted = status(&lab, "p", "plan that is halted", |status| {
        status.phase == Some(Phase::Halted)
    })
    .await;
    let failed = &halted.failed[0];
    assert_eq!(
        (failed.node.as_str(), failed.reason),
        (canary.name(), FailureReason::Unhealthy)
    );
    assert_says(&failed.message, &["not Ready while wave canary soaks"]);
    assert_eq!(
        lab.fleet
            .truth()
            .events()
            .iter()
            .filter(|event| crate::support::begins_reboot(event))
            .count(),
        1
    );
    lab.finish(&Expectations {
        quiet: true,
        ..Expectations::default()
    })
    .await
    .unwrap();
}
