//! Programs that crash, lag or are not there for a while: what was under way goes on, and no promise is broken.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use api::UpdateLedger;
use api::ledger::GrantPhase;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use nix::sys::signal::Signal;
use serde_json::json;
use testbed::bottlerocket::Call;
use testbed::fleet::{FleetSpec, LatencySpec};
use testbed::lab::Lab;
use testbed::operator::{NAMESPACE, Options};
use testbed::oracle::Expectations;
use testbed::truth::SimEventKind;
use testbed::wait;

use crate::budgets::forget_what_was_cut_off;
use crate::support::{
    NEW, SOON, assert_untouched, complete, lab, lab_with, machines, plan, reboots, seconds, status, versions,
};

/// Nodes whose every step takes a moment, with pods to evict.
pub fn unhurried(count: u32) -> FleetSpec {
    let mut fleet = machines(count);
    let moment = Duration::from_millis(300);
    fleet.latencies = LatencySpec {
        prepare: moment,
        activate: moment,
        deactivate: moment,
        boot: moment,
        pod_stop: moment,
        ..LatencySpec::default()
    };
    let web = json!([{"name": "web", "replicas": count, "maxUnavailable": 1}]);
    fleet.workloads = serde_json::from_value(web).unwrap();
    fleet
}

/// A lease that a controller takes over soon after another has died.
fn quick_lease() -> Options {
    let flags = ["--lease-duration=2s", "--request-timeout=1s"];
    Options {
        controller_flags: flags.map(str::to_owned).to_vec(),
        ..Options::default()
    }
}

async fn ledger(lab: &Lab, what: &str, wanted: impl Fn(&UpdateLedger) -> bool + Send) {
    Box::pin(lab.ledger(SOON, what, wanted))
        .await
        .unwrap_or_else(|error| panic!("{error:#}"));
}

pub async fn any_grant(lab: &Lab, phase: GrantPhase) {
    let what = format!("grant in phase {phase}");
    ledger(lab, &what, |ledger| {
        ledger.spec.grants.values().any(|grant| grant.phase == phase)
    })
    .await;
}

/// Waits for something on a machine after the first so many events.
pub async fn truth(lab: &Lab, mut seen: usize, what: &str, wanted: impl Fn(&SimEventKind) -> bool) {
    let log = lab.fleet.truth();
    let search = async {
        loop {
            let fresh = log.since(seen);
            if fresh.iter().any(|event| wanted(&event.kind)) {
                return;
            }
            seen += fresh.len();
            log.longer_than(seen).await;
        }
    };
    let found = tokio::time::timeout(SOON, search).await;
    assert!(found.is_ok(), "no {what}");
}

pub async fn all_is_well(lab: Lab, expectations: &Expectations) {
    complete(&lab, "p").await;
    for node in lab.fleet.nodes() {
        assert_eq!(node.version(), NEW);
        assert_eq!(
            reboots(&lab, node.name()),
            1,
            "{} was rebooted more than once",
            node.name()
        );
        assert_untouched(&lab, node.name()).await;
    }
    lab.finish(expectations).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn l2_a_controller_killed_at_every_step_goes_on_from_there() {
    let mut lab = Box::pin(Lab::start(unhurried(5), &quick_lease())).await.unwrap();
    let _janitor = forget_what_was_cut_off(lab.client.clone());
    lab.apply(&plan("p", &json!({"monitoring": {"minReady": "500ms"}})))
        .await
        .unwrap();
    for phase in [
        GrantPhase::Granted,
        GrantPhase::Drained,
        GrantPhase::Rebooting,
        GrantPhase::Monitoring,
    ] {
        any_grant(&lab, phase).await;
        lab.operator.kill_controller().await.unwrap();
        lab.operator.start_controller().await.unwrap();
    }
    // In the middle of a drain, where the cordon stands and pods are on their way.
    status(&lab, "p", "node that is drained", |status| {
        status
            .active
            .iter()
            .any(|active| active.doing.starts_with("draining, "))
    })
    .await;
    lab.operator.kill_controller().await.unwrap();
    lab.operator.start_controller().await.unwrap();
    all_is_well(lab, &Expectations::complete("p")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s2_a_leader_that_was_frozen_is_replaced_and_does_no_harm_when_it_wakes() {
    let mut lab = Box::pin(Lab::start(unhurried(5), &quick_lease())).await.unwrap();
    lab.apply(&plan("p", &json!({"maxUnavailable": 2})))
        .await
        .unwrap();
    any_grant(&lab, GrantPhase::Rebooting).await;
    let mut standby = lab.operator.standby().await.unwrap();
    let first = leader(&lab, "").await;
    lab.operator.controller.signal(Signal::SIGSTOP);
    let frozen = Instant::now();
    leader(&lab, &first).await;
    assert!(
        frozen.elapsed() < seconds(2 + 10),
        "L6: replaced within the lease and 10 s"
    );
    let updated =
        |at_least: u32| move |status: &api::plan::UpdatePlanStatus| status.nodes.updated >= at_least;
    status(&lab, "p", "progress under another leader", updated(3)).await;
    lab.operator.controller.signal(Signal::SIGCONT);
    status(&lab, "p", "all nodes updated", updated(5)).await;
    standby.stop(seconds(10)).await.unwrap();
    all_is_well(lab, &Expectations::complete("p")).await;
}

/// Waits until somebody holds the lease, other than this one, and gives its name.
async fn leader(lab: &Lab, other_than: &str) -> String {
    let leases: Api<Lease> = Api::namespaced(lab.client.clone(), NAMESPACE);
    let holder = |lease: Option<&Lease>| lease?.spec.as_ref()?.holder_identity.clone();
    let wanted = |holder: &String| !holder.is_empty() && holder != other_than;
    let found = wait::for_object(leases, api::names::LEASE_NAME, SOON, "leader", |lease| {
        holder(lease).as_ref().is_some_and(wanted)
    });
    holder(found.await.unwrap().as_ref()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn l6_a_leader_that_is_told_to_stop_in_the_middle_of_a_drain_hands_over_at_once() {
    let mut fleet = unhurried(3);
    fleet.latencies.pod_stop = seconds(2);
    let options = Options {
        // Nobody could wait for the end of this one.
        controller_flags: vec!["--lease-duration=60s".to_owned()],
        ..Options::default()
    };
    let mut lab = lab_with(fleet, &options).await;
    let first = leader(&lab, "").await;
    let mut standby = lab.operator.standby().await.unwrap();
    lab.apply(&plan("p", &json!({}))).await.unwrap();
    let draining = |status: &api::plan::UpdatePlanStatus| {
        let mut doing = status.active.iter().map(|active| active.doing.as_str());
        doing.any(|doing| doing.starts_with("draining, "))
    };
    status(&lab, "p", "node that is drained", draining).await;

    let told = Instant::now();
    let ended = lab.operator.controller.stop(seconds(10)).await.unwrap();
    assert!(ended.success(), "{ended}");
    leader(&lab, &first).await;
    assert!(
        told.elapsed() < seconds(15),
        "replaced after {:?}",
        told.elapsed()
    );
    status(&lab, "p", "node that is drained, still or again", draining).await;
    complete(&lab, "p").await;
    standby.stop(seconds(10)).await.unwrap();
    all_is_well(lab, &Expectations::complete("p")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_crash_in_the_middle_of_every_step_go_on_from_what_they_find() {
    let lab = lab(unhurried(4)).await;
    lab.apply(&plan("p", &json!({}))).await.unwrap();
    let called = |wanted: Call| move |kind: &SimEventKind| matches!(kind, SimEventKind::Called { call, .. } if *call == wanted);
    let mut seen = 0;
    for call in [
        Call::PatchSettings,
        Call::CommitAndApply,
        Call::Prepare,
        Call::Activate,
        Call::Reboot,
        Call::CommitAndApply,
    ] {
        truth(&lab, seen, &format!("call {call:?}"), called(call)).await;
        lab.operator.crash_agents();
        seen = lab.fleet.truth().events().len();
    }
    let nodes: BTreeSet<String> = lab
        .fleet
        .nodes()
        .iter()
        .map(|node| node.name().to_owned())
        .collect();
    all_is_well(
        lab,
        &Expectations {
            asked_again: nodes,
            ..Expectations::complete("p")
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_are_gone_for_a_while_hold_up_and_break_nothing() {
    let mut lab = lab(unhurried(4)).await;
    lab.apply(&plan("p", &json!({"maxUnavailable": 2})))
        .await
        .unwrap();
    // The agents' server, while nodes are staged and while they reboot.
    any_grant(&lab, GrantPhase::Granted).await;
    lab.operator.kill_apiserver().await.unwrap();
    lab.operator.start_apiserver().await.unwrap();
    any_grant(&lab, GrantPhase::Rebooting).await;
    lab.operator.kill_apiserver().await.unwrap();
    lab.operator.start_apiserver().await.unwrap();
    // Kubernetes itself.
    lab.plane.stop_apiserver().await.unwrap();
    lab.plane.start_apiserver().await.unwrap();
    // An eviction may have been on its way.
    let _janitor = forget_what_was_cut_off(lab.client.clone());
    complete(&lab, "p").await;
    assert_eq!(versions(&lab), [NEW; 4]);
    let nodes: BTreeSet<String> = lab
        .fleet
        .nodes()
        .iter()
        .map(|node| node.name().to_owned())
        .collect();
    all_is_well(
        lab,
        &Expectations {
            asked_again: nodes,
            ..Expectations::complete("p")
        },
    )
    .await;
}
