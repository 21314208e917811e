//! What a failure does: retries, the threshold, the halt, and the way back.

use api::{plan::Phase, quantity::IntOrPercent, shadow::FailureReason, verdict::Verdict};
use insta::assert_snapshot;

use crate::support::{Fault, Sim, Timing, hours, minutes, seconds};

fn attempts(sim: &Sim, node: &str) -> Vec<u32> {
    sim.checker
        .granted
        .iter()
        .filter(|(_, name, _)| name == node)
        .map(|(_, _, grant)| grant.attempt)
        .collect()
}

#[test]
fn a_node_is_tried_again_after_a_backoff_that_doubles() {
    let mut sim = Sim::new()
        .nodes(1)
        .plan("web", "failurePolicy: {retries: 6, threshold: 1}");
    sim.break_node_times("n01", Fault::PrepareFails, 6);
    let mut pauses = Vec::new();
    for _ in 0..6 {
        sim.run_until("it waits", |sim| {
            sim.last.verdicts.iter().any(|v| v.verdict.reason() == "Backoff")
        });
        let failure = sim
            .facts("n01")
            .shadow
            .as_ref()
            .unwrap()
            .spec
            .failure
            .clone()
            .unwrap();
        let Verdict::Backoff { until } = sim.verdict("n01") else {
            panic!("{:?}", sim.verdict("n01"))
        };
        pauses.push((until - failure.at).num_minutes());
        if failure.count == 1 {
            assert_snapshot!("backoff", sim.describe("web"));
        }
        sim.run_until("it is tried again", |sim| !sim.ledger().grants.is_empty());
        assert_eq!(sim.now, until);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 10, 10]);
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(attempts(&sim, "n01"), [1, 2, 3, 4, 5, 6, 7]);
    assert_snapshot!("complete_after_retries", sim.describe("web"));
    sim.ends_well();
}

#[test]
fn s11_the_threshold_halts_before_the_next_grant() {
    for (threshold, nodes, halts_at) in [
        ("1", 6, 1),
        ("2", 6, 2),
        ("50%", 6, 3),
        ("10%", 12, 2),
        ("100%", 3, 3),
    ] {
        let policy = format!("failurePolicy: {{retries: 0, threshold: {threshold}}}");
        let mut sim = Sim::new().nodes(nodes).plan("web", &policy);
        sim.break_every_node(Fault::PrepareFails);
        sim.run_until_phase("web", Phase::Halted);
        sim.run_for(hours(24));
        assert_eq!(
            sim.checker.granted.len(),
            halts_at,
            "threshold {threshold} of {nodes}"
        );
        assert_eq!(sim.status("web").nodes.failed as usize, halts_at);
        sim.ends_well();
    }
}

#[test]
fn s11_failures_count_after_their_retries_only() {
    let mut sim = Sim::new()
        .nodes(4)
        .plan("web", "failurePolicy: {retries: 1, threshold: 2}");
    sim.break_every_node(Fault::PrepareFails);
    sim.run_until_phase("web", Phase::Halted);
    assert_snapshot!("halted", sim.describe("web"));
    sim.run_for(hours(5));
    let mut tried: Vec<usize> = ["n01", "n02", "n03", "n04"]
        .iter()
        .map(|n| attempts(&sim, n).len())
        .collect();
    tried.sort_unstable();
    assert_eq!(
        tried.iter().filter(|n| **n == 2).count(),
        2,
        "two were given up: {tried:?}"
    );
    assert_eq!(
        sim.reasons(),
        ["Failed", "Halted"].into(),
        "not Backoff: nothing will be tried again"
    );
    sim.ends_well();
}

#[test]
fn s11_a_halt_withdraws_what_does_not_yet_reboot_and_only_a_new_target_lifts_it() {
    let policy = "maxUnavailable: 3\nfailurePolicy: {retries: 0, threshold: 1}";
    let mut sim = Sim::new().nodes(6).plan("web", policy);
    sim.settle();
    let [failing, staging, rebooting] = <[String; 3]>::try_from(sim.granted()).unwrap();
    sim.break_node(&failing, Fault::PrepareFails);
    sim.retime(&failing, |timing| timing.stage = minutes(2));
    sim.retime(&staging, |timing| timing.stage = minutes(20));
    sim.retime(&rebooting, |timing| timing.reboot = minutes(5));
    sim.run_until_phase("web", Phase::Halted);
    assert_snapshot!("halting", sim.describe("web"));
    sim.run_until("the safe points are reached", |sim| {
        sim.ledger().grants.is_empty()
    });
    assert_eq!(sim.hidden(&rebooting).runs, "1.21.0", "what reboots finishes");
    assert_eq!(sim.hidden(&staging).runs, "1.20.3");
    assert_eq!(sim.verdict(&staging).reason(), "Halted");

    sim.mend_every_node();
    sim.edit("web", |spec| spec.failure_policy.threshold = IntOrPercent::Int(5));
    sim.run_for(hours(1));
    sim.edit("web", |spec| spec.failure_policy.retries = 5);
    sim.run_for(hours(1));
    sim.edit("web", |spec| spec.paused = true);
    sim.run_for(hours(1));
    sim.edit("web", |spec| spec.paused = false);
    sim.run_for(hours(1));
    assert_eq!(sim.checker.granted.len(), 3, "no other edit lifts it");
    assert_eq!(sim.phase("web"), Some(Phase::Halted));

    sim.retime(&staging, |timing| *timing = Timing::default());
    sim.edit("web", |spec| spec.target_version = "1.21.1".into());
    sim.run_until_phase("web", Phase::Complete);
    assert!(sim.nodes.values().all(|node| node.runs == "1.21.1"));
    sim.ends_well();
}

#[test]
fn s5_a_boot_into_the_old_version_is_a_failure_and_no_second_reboot() {
    let mut sim = Sim::new()
        .nodes(3)
        .plan("web", "failurePolicy: {retries: 0, threshold: 1}");
    sim.break_every_node(Fault::BootsOldVersion);
    sim.run_until_phase("web", Phase::Halted);
    sim.run_for(hours(1));
    let failed = sim.status("web").failed[0].clone();
    assert_eq!(failed.reason, FailureReason::BootedOtherVersion);
    assert_eq!(sim.hidden(&failed.node).reboots.len(), 1);
    assert_snapshot!("booted_old_version", sim.describe("web"));
    sim.ends_well();
}

#[test]
fn s5_each_retry_reboots_once() {
    let mut sim = Sim::new()
        .nodes(1)
        .plan("web", "failurePolicy: {retries: 2, threshold: 1}");
    sim.break_node_times("n01", Fault::BootsOldVersion, 2);
    sim.run_until_phase("web", Phase::Complete);
    let attempts: Vec<_> = sim
        .hidden("n01")
        .reboots
        .iter()
        .map(|(_, _, attempt)| *attempt)
        .collect();
    assert_eq!(attempts, [Some(1), Some(2), Some(3)]);
    sim.ends_well();
}

#[test]
fn l4_a_node_that_never_returns_fails_at_its_deadline_and_is_judged_afresh_when_it_does() {
    let policy = "
maxUnavailable: 2
failurePolicy: {retries: 0, threshold: 3}
timeouts: {reboot: 5m}
";
    let mut sim = Sim::new().nodes(4).plan("web", policy);
    sim.settle();
    let dead = sim.granted()[0].clone();
    sim.break_node(&dead, Fault::NeverReturns);
    sim.run_until("it reboots", |sim| !sim.hidden(&dead).up);
    let permitted = sim.ledger().grants[&sim.facts(&dead).uid].phase_since;
    sim.run_until("its deadline", |sim| {
        sim.ledger()
            .grants
            .get(&sim.facts(&dead).uid)
            .is_some_and(|grant| grant.ending.is_some())
    });
    assert_eq!(sim.now, permitted + minutes(5));
    sim.run_until("its grant is released", |sim| {
        !sim.ledger().grants.contains_key(&sim.facts(&dead).uid)
    });
    assert!(sim.now <= permitted + minutes(7) && !sim.facts(&dead).unschedulable);
    assert_snapshot!("never_returned", sim.describe("web"));
    sim.run_for(hours(2));
    assert_eq!(sim.status("web").nodes.unavailable, 1, "it counts as NotReady");
    assert_eq!(sim.status("web").nodes.updated, 3, "the others go on");
    assert_snapshot!(
        "complete_without_the_node_that_never_returned",
        sim.describe("web")
    );

    sim.mend_node(&dead);
    sim.run_for(minutes(5));
    assert_eq!(
        sim.verdict(&dead),
        Verdict::UpToDate,
        "it runs the target after all"
    );
    assert_eq!(sim.status("web").nodes.failed, 0);
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn l4_a_dead_node_counts_whatever_retries_are_left() {
    let mut sim = Sim::new().nodes(6).plan("web", "maxUnavailable: 3");
    sim.break_every_node(Fault::NeverReturns);
    sim.run_until_phase("web", Phase::Halted);
    assert_snapshot!("halted_by_dead_nodes", sim.describe("web"));
    sim.run_for(hours(4));
    assert_eq!(
        sim.checker.granted.len(),
        3,
        "a node that is down cannot be tried again"
    );
}

#[test]
fn a_node_that_turns_unhealthy_has_failed_and_is_not_tried_again() {
    let mut sim = Sim::new()
        .nodes(3)
        .plan("web", "failurePolicy: {retries: 3, threshold: 2}");
    sim.settle();
    let sick = sim.granted()[0].clone();
    sim.break_node(&sick, Fault::UnhealthyAfterBoot);
    sim.run_until("it has failed", |sim| sim.status("web").nodes.failed == 1);
    assert_snapshot!("unhealthy", sim.describe("web"));
    assert_eq!(sim.verdict(&sick).reason(), "Failed");
    sim.run_for(hours(3));
    assert_eq!(attempts(&sim, &sick), [1], "there is nothing to update");
    assert_eq!(sim.granted(), [""; 0], "and it spends the budget");
    assert_eq!(sim.reasons(), ["BudgetSpent", "Failed"].into());
    assert_snapshot!("budget_spent_by_the_unhealthy", sim.describe("web"));
    sim.mend_node(&sick);
    sim.run_until_phase("web", Phase::Complete);
    assert_snapshot!("complete_with_failed", sim.describe("web"));
    sim.ends_well();
}

/// A node of the simulation that is mended before its fault shows has none.
#[test]
fn a_node_that_is_mended_in_time_stays_healthy() {
    let mut sim = Sim::new().nodes(1);
    sim.break_node("n01", Fault::UnhealthyAfterBoot);
    sim.crash("n01");
    sim.run_for(sim.timing.reboot);
    assert!(sim.facts("n01").ready);
    sim.mend_node("n01");
    sim.run_for(hours(1));
    assert!(sim.facts("n01").ready);
}

#[test]
fn a_silent_agent_times_out_and_is_waited_for() {
    let mut sim = Sim::new().nodes(2).plan(
        "web",
        "timeouts: {stage: 10m}\nfailurePolicy: {retries: 3, threshold: 1}",
    );
    sim.settle();
    let silent = sim.granted()[0].clone();
    sim.break_node(&silent, Fault::AgentSilent);
    sim.run_until("it is given up", |sim| {
        sim.ledger().grants.values().any(|g| g.ending.is_some())
    });
    let ending = sim
        .ledger()
        .grants
        .values()
        .find_map(|g| g.ending.clone())
        .unwrap();
    assert_snapshot!("stage_timeout", ending.message);
    sim.run_for(hours(1));
    assert_eq!(sim.verdict(&silent).reason(), "AgentSilent");
    assert_eq!(sim.status("web").nodes.updated, 1, "the other goes on");
    assert_snapshot!("agent_silent", sim.describe("web"));
    sim.mend_node(&silent);
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn l3_a_budget_that_never_allows_eviction_ends_uncordoned_and_the_others_go_on() {
    let policy = "
maxUnavailable: 2
drain: {timeout: 10m}
failurePolicy: {retries: 1, threshold: 2}
";
    let mut sim = Sim::new().nodes(5).plan("web", policy);
    sim.settle();
    let blocked = sim.granted()[0].clone();
    sim.break_node(&blocked, Fault::DrainBlocked);
    sim.run_for(minutes(3));
    assert_snapshot!("drain_blocked", sim.describe("web"));
    let cordoned = sim.facts(&blocked).disruption.clone().unwrap().cordoned_at;
    sim.run_until("the drain is given up", |sim| !sim.facts(&blocked).unschedulable);
    assert!(sim.now >= cordoned + minutes(10) && sim.now <= cordoned + minutes(11));
    assert!(
        sim.hidden(&blocked).reboots.is_empty(),
        "S5: a drain that failed is never a success"
    );
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(attempts(&sim, &blocked), [1, 2]);
    assert_snapshot!("complete_but_for_a_blocked_drain", sim.describe("web"));
    assert!(sim.hidden(&blocked).reboots.is_empty());
    sim.ends_well();
}

#[test]
fn a_refused_reboot_fails_at_the_deadline() {
    let mut sim = Sim::new().nodes(1).plan(
        "web",
        "timeouts: {reboot: 3m}\nfailurePolicy: {retries: 1, threshold: 1}",
    );
    sim.run_until("it is drained", |sim| sim.hidden("n01").pods == 0);
    sim.hidden_mut("n01").pods = 1;
    sim.run_until("it fails", |sim| {
        sim.facts("n01").shadow.as_ref().unwrap().spec.failure.is_some()
    });
    let failure = sim
        .facts("n01")
        .shadow
        .as_ref()
        .unwrap()
        .spec
        .failure
        .clone()
        .unwrap();
    assert_snapshot!(
        "no_permit_asked",
        format!("{} {}", failure.reason, failure.message)
    );
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn a_shadow_remembers_its_failure_until_the_node_is_updated() {
    let mut sim = Sim::new()
        .nodes(1)
        .plan("web", "failurePolicy: {retries: 2, threshold: 1}");
    sim.break_node_times("n01", Fault::PrepareFails, 2);
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(sim.facts("n01").shadow.as_ref().unwrap().spec.failure, None);
    sim.run_for(seconds(30));
    sim.ends_well();
}

#[test]
fn s11_a_node_that_failed_counts_also_when_it_is_gone() {
    let mut sim = Sim::new()
        .nodes(6)
        .plan("web", "failurePolicy: {retries: 0, threshold: 2}");
    sim.break_every_node(Fault::PrepareFails);
    sim.run_until("one has failed", |sim| sim.status("web").nodes.failed == 1);
    let failed = sim.status("web").failed[0].node.clone();
    sim.replace_node(&failed);
    sim.break_node(&failed, Fault::PrepareFails);
    sim.run_until_phase("web", Phase::Halted);
    sim.run_for(minutes(5));
    assert_eq!(sim.checker.granted.len(), 2);
    assert_snapshot!("halted_though_one_that_failed_is_gone", sim.describe("web"));
    sim.ends_well();
}

#[test]
fn s7_an_agent_that_is_satisfied_with_the_old_version_is_not_believed() {
    let mut sim = Sim::new()
        .nodes(1)
        .plan("web", "failurePolicy: {retries: 0, threshold: 1}");
    sim.break_node("n01", Fault::BootsOldVersion);
    sim.run_until("it is back", |sim| {
        sim.hidden("n01").up && !sim.hidden("n01").reboots.is_empty()
    });
    let boot_id = sim.facts("n01").boot_id.clone();
    let shadow = sim.facts_mut("n01").shadow.as_mut().unwrap();
    let status = shadow.status.as_mut().unwrap();
    status.current_state = shadow.spec.state;
    status.boot_id = Some(boot_id);
    sim.run_until_phase("web", Phase::Halted);
    sim.run_for(minutes(1));
    let failed = &sim.status("web").failed[0];
    assert_eq!(failed.reason, FailureReason::BootedOtherVersion);
    assert_snapshot!("booted_old_version_and_satisfied", failed.message);
    sim.ends_well();
}
