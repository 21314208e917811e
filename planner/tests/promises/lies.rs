//! Nodes whose agent and kubelet contradict each other: nothing is taken for done, and nothing goes round in circles.

use api::{
    plan::Phase,
    shadow::{FailureReason, NodeState},
    verdict::Verdict,
};
use insta::assert_snapshot;

use crate::support::{Fault, Sim, hours, minutes};

/// From now on the node's agent reports this version, whatever runs.
fn claim(sim: &mut Sim, node: &str, version: &str) {
    sim.hidden_mut(node).claims = Some(version.to_owned());
}

#[test]
fn s7_a_node_that_claims_the_target_is_not_taken_for_updated() {
    let mut sim = Sim::new().nodes(3);
    claim(&mut sim, "n01", "1.21.0");
    sim.run_for(minutes(1));
    sim.apply_plan("web", "");
    sim.run_until("the others are done", |sim| sim.status("web").nodes.updated == 2);
    sim.run_for(hours(5));
    let Verdict::VersionDisputed { reported, os_image } = sim.verdict("n01") else {
        panic!("{:?}", sim.verdict("n01"))
    };
    assert_eq!(
        (reported.as_str(), os_image.as_str()),
        ("1.21.0", "Bottlerocket OS 1.20.3 (aws-k8s-1.33)")
    );
    assert_eq!(sim.status("web").nodes.updated, 2);
    assert_eq!(sim.checker.granted.len(), 2, "it is not begun with");
    assert_snapshot!("version_disputed", sim.describe("web"));

    // It was skipped by then, and is updated all the same.
    assert_eq!(sim.phase("web"), Some(Phase::Complete));
    sim.hidden_mut("n01").claims = None;
    sim.run_until("it is updated too", |sim| sim.status("web").nodes.updated == 3);
    assert_eq!(sim.hidden("n01").runs, "1.21.0");
    sim.ends_well();
}

#[test]
fn s8_a_node_that_runs_more_than_it_reports_is_not_taken_down() {
    let mut sim = Sim::new().nodes(1).node_with("newer", "1.22.0", &[]);
    claim(&mut sim, "newer", "1.20.3");
    sim.run_for(minutes(1));
    sim.apply_plan("web", "");
    sim.run_for(hours(5));
    assert_eq!(sim.verdict("newer").reason(), "VersionDisputed");
    assert!(sim.hidden("newer").reboots.is_empty());
    assert_eq!(sim.status("web").nodes.updated, 1);
}

#[test]
fn a_disputed_node_is_no_canary_while_there_is_another() {
    for disputed in ["n01", "n02", "n03"] {
        let mut sim = Sim::new().nodes(3);
        claim(&mut sim, disputed, "1.19.5");
        sim.run_for(minutes(1));
        sim.apply_plan("web", "waves: [{name: canary, size: 1}, {name: rest}]");
        sim.run_until("the others are done", |sim| sim.status("web").nodes.updated == 2);
    }
}

#[test]
fn s7_a_boot_into_the_old_version_that_claims_the_new_one_fails_and_is_not_tried_again() {
    let mut sim = Sim::new()
        .nodes(3)
        .plan("web", "failurePolicy: {retries: 5, threshold: 2}");
    sim.settle();
    let liar = sim.granted()[0].clone();
    sim.break_node(&liar, Fault::BootsOldVersion);
    sim.run_until("it reboots", |sim| !sim.hidden(&liar).up);
    claim(&mut sim, &liar, "1.21.0");
    sim.run_until_phase("web", Phase::Complete);
    sim.run_for(hours(5));
    let failed = sim.status("web").failed[0].clone();
    assert_eq!(
        (failed.node.as_str(), failed.reason, failed.attempts),
        (liar.as_str(), FailureReason::BootedOtherVersion, 1)
    );
    assert_snapshot!("booted_old_version_and_claims_the_new", failed.message);
    assert_eq!(sim.hidden(&liar).reboots.len(), 1);
    assert_eq!(sim.status("web").nodes.updated, 2, "the others go on");
    sim.ends_well();
}

#[test]
fn s7_a_node_that_goes_back_to_the_old_version_while_it_is_monitored_fails() {
    let mut sim = Sim::new().nodes(2).plan(
        "web",
        "monitoring: {minReady: 5m, timeout: 20m}\nfailurePolicy: {retries: 5, threshold: 2}",
    );
    sim.settle();
    let liar = sim.granted()[0].clone();
    sim.run_until("it is monitored", |sim| {
        sim.facts(&liar).shadow.as_ref().unwrap().spec.state == NodeState::MonitoringUpdate
    });
    claim(&mut sim, &liar, "1.21.0");
    sim.hidden_mut(&liar).runs = "1.20.3".to_owned();
    sim.crash(&liar);
    sim.run_until("it has failed", |sim| sim.status("web").nodes.failed == 1);
    let failed = sim.status("web").failed[0].clone();
    assert_eq!(failed.reason, FailureReason::Unhealthy);
    assert_snapshot!("went_back_while_monitored", failed.message);
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(sim.status("web").nodes.updated, 1);
}

/// The agent of this node answers every instruction at once as if it were done.
fn agree_to_everything(sim: &mut Sim, node: &str, boot_id: Option<&str>) {
    let boot_id = boot_id.map_or_else(|| sim.facts(node).boot_id.clone(), str::to_owned);
    let shadow = sim.facts_mut(node).shadow.as_mut().unwrap();
    let status = shadow.status.as_mut().unwrap();
    status.current_state = shadow.spec.state;
    status.run.clone_from(&shadow.spec.run);
    status.attempt = shadow.spec.attempt;
    status.boot_id = Some(boot_id);
    if let Some(version) = &shadow.spec.version {
        status.current_version.clone_from(version);
    }
    status.error = None;
}

/// Runs until nothing happens any more, while the node's agent agrees to everything and does nothing.
fn run_with_a_flatterer(sim: &mut Sim, node: &str, boot_id: Option<&str>) {
    sim.break_node(node, Fault::AgentSilent);
    sim.facts_mut(node).agent.ready = true;
    for _ in 0..500 {
        agree_to_everything(sim, node, boot_id);
        sim.settle();
        let Some(next) = sim.next() else { return };
        sim.run_to(next);
    }
    panic!("it goes in circles\n{}", sim.story());
}

#[test]
fn s7_an_agent_that_claims_a_reboot_without_one_fails_at_once() {
    let mut sim = Sim::new()
        .nodes(2)
        .plan("web", "failurePolicy: {retries: 5, threshold: 2}");
    sim.settle();
    let liar = sim.granted()[0].clone();
    run_with_a_flatterer(&mut sim, &liar, None);
    let failed = sim.status("web").failed[0].clone();
    assert_eq!(
        (failed.node.as_str(), failed.reason, failed.attempts),
        (liar.as_str(), FailureReason::BootedOtherVersion, 1)
    );
    assert_snapshot!("claims_a_reboot", failed.message);
    assert_eq!(sim.status("web").nodes.updated, 1, "the other goes on");
}

#[test]
fn s7_an_agent_that_makes_up_a_boot_fails_at_the_deadline_and_is_not_tried_again() {
    for (retries, ends) in [(0, "Failed"), (5, "VersionDisputed")] {
        let policy = format!("timeouts: {{reboot: 5m}}\nfailurePolicy: {{retries: {retries}, threshold: 2}}");
        let mut sim = Sim::new().nodes(2).plan("web", &policy);
        sim.settle();
        let liar = sim.granted()[0].clone();
        run_with_a_flatterer(&mut sim, &liar, Some("made-up"));
        assert_eq!(sim.verdict(&liar).reason(), ends);
        let failure = sim.facts(&liar).shadow.as_ref().unwrap().spec.failure.clone();
        let failure = failure.unwrap();
        assert_eq!((failure.reason, failure.count), (FailureReason::RebootTimeout, 1));
        assert_snapshot!("makes_up_a_boot", failure.message);
        assert_eq!(sim.status("web").nodes.updated, 1, "the other goes on");
    }
}
