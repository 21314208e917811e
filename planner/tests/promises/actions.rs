//! What people ask: to retry a run, to run it now, to leave a node out.

use api::{names::RETRY_ANNOTATION, plan::Phase, verdict::Verdict};
use chrono::TimeDelta;
use insta::assert_snapshot;

use crate::support::{Fault, Sim, hours, minutes, seconds, time};

const ONE_TRY: &str = "failurePolicy: {retries: 0, threshold: 1}";

#[test]
fn s11_a_retry_lifts_a_halt_once() {
    let mut sim = Sim::new().nodes(3).plan("web", ONE_TRY);
    sim.break_every_node(Fault::PrepareFails);
    sim.run_until_phase("web", Phase::Halted);
    assert_eq!(sim.checker.granted.len(), 1);
    sim.run_for(seconds(1));
    sim.retry("web", "first");
    sim.run_for(minutes(10));
    assert_eq!(sim.phase("web"), Some(Phase::Halted), "it fails again");
    assert_eq!(sim.checker.granted.len(), 2);
    assert_snapshot!("halted_again", sim.describe("web"));
    sim.plan_mut("web").annotations.clear();
    sim.run_for(minutes(1));
    sim.retry("web", "first");
    sim.run_for(hours(1));
    assert_eq!(sim.checker.granted.len(), 2, "a token counts once");
    sim.mend_every_node();
    sim.retry("web", "second");
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(sim.status("web").nodes.updated, 3);
    sim.ends_well();
}

#[test]
fn s11_a_retry_gives_every_failed_node_all_its_tries() {
    let mut sim = Sim::new().nodes(4).plan(
        "web",
        "maxUnavailable: 4\nfailurePolicy: {retries: 1, threshold: 4}",
    );
    sim.break_every_node(Fault::PrepareFails);
    sim.run_until_phase("web", Phase::Halted);
    assert_eq!(sim.checker.granted.len(), 8);
    sim.run_for(seconds(1));
    sim.retry("web", "1");
    sim.run_for(hours(1));
    assert_eq!(sim.phase("web"), Some(Phase::Halted));
    assert_eq!(sim.checker.granted.len(), 16);
    assert_eq!(sim.status("web").failed[0].attempts, 2, "those that count");
}

#[test]
fn s11_a_retry_of_another_run_lifts_nothing_and_says_so() {
    let mut sim = Sim::new().nodes(2).plan("web", ONE_TRY);
    sim.break_every_node(Fault::PrepareFails);
    sim.run_until_phase("web", Phase::Halted);
    sim.annotate("web", RETRY_ANNOTATION, "00000000/now");
    sim.run_for(hours(1));
    assert_eq!(sim.checker.granted.len(), 1);
    let message = sim.status("web").message.clone().unwrap();
    assert!(
        message.contains("retry 00000000/now: ignored: it is for run 00000000"),
        "{message}"
    );
}

#[test]
fn s11_a_retry_survives_the_loss_of_the_ledger() {
    let mut sim = Sim::new().nodes(2).plan("web", ONE_TRY);
    sim.break_every_node(Fault::PrepareFails);
    sim.run_until_phase("web", Phase::Halted);
    sim.run_for(seconds(1));
    sim.retry("web", "1");
    sim.settle();
    sim.mend_every_node();
    sim.lose_ledger();
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(sim.checker.granted.len(), 3);
    sim.ends_well();
}

#[test]
fn s11_a_retry_while_a_failure_is_undone_counts_for_that_too() {
    let mut sim = Sim::new().nodes(2).plan("web", ONE_TRY);
    sim.break_node("n01", Fault::PrepareFails);
    sim.break_node("n02", Fault::PrepareFails);
    sim.run_until("one is being reset", |sim| {
        sim.ledger().grants.values().any(|grant| grant.ending.is_some())
    });
    assert_eq!(sim.phase("web"), Some(Phase::Halted));
    sim.run_for(TimeDelta::milliseconds(100));
    sim.mend_every_node();
    sim.retry("web", "1");
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(
        (sim.status("web").nodes.updated, sim.status("web").nodes.failed),
        (2, 0)
    );
    sim.ends_well();
}

#[test]
fn s10_a_wave_that_proved_nothing_is_retried() {
    let policy = "
failurePolicy: {retries: 0, threshold: 5}
waves: [{name: canary, size: 1}, {name: rest}]
";
    let mut sim = Sim::new().nodes(3).plan("web", policy);
    sim.break_every_node(Fault::PrepareFails);
    sim.run_for(hours(1));
    assert_eq!(sim.checker.granted.len(), 1);
    sim.mend_every_node();
    sim.retry("web", "1");
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

/// The property that whatever happens ends well went by numbers once, and took this for no end.
#[test]
fn s10_a_last_wave_that_proved_nothing_beside_a_node_that_needed_nothing_says_so_and_is_retried() {
    let policy = "failurePolicy: {retries: 0, threshold: 5}";
    let mut sim = Sim::new()
        .node_with("done", "1.21.0", &[])
        .node_with("old", "1.20.3", &[])
        .plan("web", policy);
    sim.break_node("old", Fault::PrepareFails);
    sim.run_for(hours(1));
    let status = sim.status("web");
    assert_eq!((status.nodes.updated, status.nodes.failed), (1, 1));
    assert_eq!(sim.phase("web"), Some(Phase::Progressing));
    let message = status.message.clone().unwrap();
    assert!(
        message.contains("none of its nodes could be updated; retry it"),
        "{message}"
    );
    assert!(sim.ledger().grants.is_empty());
    sim.mend_node("old");
    sim.retry("web", "1");
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn s10_after_a_retry_a_wave_soaks_anew() {
    let waves = "waves: [{name: canary, size: 1, soak: 30m}, {name: rest}]";
    let mut sim = Sim::new().nodes(2).plan("web", waves);
    sim.run_until_phase("web", Phase::Soaking);
    sim.run_for(minutes(10));
    let canary = sim.checker.granted[0].1.clone();
    sim.not_ready(&canary);
    sim.settle();
    assert_eq!(sim.phase("web"), Some(Phase::Halted));
    sim.ready(&canary);
    sim.run_for(hours(2));
    sim.retry("web", "1");
    let retried = sim.now;
    sim.run_until("the rest begins", |sim| sim.checker.granted.len() == 2);
    assert!(sim.now >= retried + minutes(30));
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

/// The run has been retried, by a clock that was an hour ahead and is right again.
fn retried_an_hour_ahead(sim: &mut Sim) {
    let ahead = sim.now + hours(1);
    let ledger = sim.world.ledger.as_mut().unwrap();
    ledger.plans.get_mut("uid-web").unwrap().actions.retried_at = Some(ahead);
}

#[test]
fn s10_what_fails_after_a_retry_by_a_clock_that_was_ahead_counts() {
    let waves = "waves: [{name: canary, size: 1, soak: 30m}, {name: rest}]";
    let mut sim = Sim::new().nodes(2).plan("web", waves);
    sim.run_until_phase("web", Phase::Soaking);
    retried_an_hour_ahead(&mut sim);
    let canary = sim.checker.granted[0].1.clone();
    sim.not_ready(&canary);
    sim.settle();
    assert_eq!(sim.phase("web"), Some(Phase::Halted));
    sim.ready(&canary);
    sim.run_for(hours(2));
    assert_eq!(sim.checker.granted.len(), 1, "S11");
    sim.ends_well();
}

#[test]
fn s11_a_retry_by_a_clock_that_was_ahead_forgives_what_was_and_nothing_that_comes() {
    let mut sim = Sim::new().nodes(2).plan("web", ONE_TRY);
    sim.break_every_node(Fault::PrepareFails);
    sim.run_until_phase("web", Phase::Halted);
    sim.run_for(seconds(1));
    sim.retry("web", "1");
    sim.settle();
    retried_an_hour_ahead(&mut sim);
    sim.run_until_phase("web", Phase::Halted);
    assert_eq!(sim.checker.granted.len(), 2, "each try is one");
    sim.run_for(hours(3));
    assert_eq!(
        (sim.phase("web"), sim.checker.granted.len()),
        (Some(Phase::Halted), 2)
    );
    sim.ends_well();
}

/// A window long from now.
const TOMORROW: &str =
    "maintenanceWindows: [{name: w, start: 2026-11-23T08:00:00Z, end: 2026-11-23T10:00:00Z}]";

#[test]
fn s4_a_run_that_is_to_run_now_ignores_its_windows_until_it_is_complete() {
    let mut sim = Sim::new().nodes(2).plan("web", TOMORROW);
    sim.run_for(minutes(1));
    assert_eq!(sim.phase("web"), Some(Phase::WaitingForWindow));
    sim.run_now("web");
    sim.settle();
    assert_snapshot!("running_now", sim.describe("web"));
    sim.run_until_phase("web", Phase::Complete);
    assert!(sim.now < time("2026-11-22T09:00:00Z"));
    sim.add_node("late", "1.20.3", &[]);
    sim.run_for(hours(10));
    assert_eq!(sim.verdict("late").reason(), "OutsideWindow", "the run is over");
    sim.run_for(hours(24));
    assert_eq!(sim.hidden("late").runs, "1.21.0");
}

#[test]
fn s4_a_run_now_counts_for_its_run_alone() {
    let mut sim = Sim::new().nodes(2).plan("web", TOMORROW);
    sim.settle();
    sim.run_now("web");
    sim.run_for(minutes(1));
    assert_eq!(sim.granted().len(), 1);
    sim.edit("web", |spec| spec.target_version = "1.22.0".into());
    sim.run_for(hours(3));
    assert!(sim.ledger().grants.is_empty());
    assert_eq!(sim.phase("web"), Some(Phase::WaitingForWindow));
    sim.run_now("web");
    sim.run_until_phase("web", Phase::Complete);
    assert!(sim.now < time("2026-11-22T12:00:00Z"));
    sim.ends_well();
}

#[test]
fn s4_a_run_now_does_not_count_for_the_instant_at_which_another_run_starts() {
    let mut sim = Sim::new()
        .nodes(2)
        .plan("web", &format!("{TOMORROW}\nmaxUnavailable: 2"));
    sim.not_ready("n02");
    sim.settle();
    sim.run_now("web");
    sim.run_for(minutes(1));
    assert_eq!(sim.granted(), ["n01"]);
    sim.ready("n02");
    sim.edit("web", |spec| spec.target_version = "1.22.0".into());
    sim.run_for(minutes(1));
    assert!(sim.ledger().grants.is_empty());
    assert_eq!(sim.checker.granted.len(), 1);
    assert_eq!(sim.verdict("n02").reason(), "OutsideWindow");
}

#[test]
fn s4_a_run_now_survives_the_loss_of_the_ledger() {
    let mut sim = Sim::new().nodes(2).plan("web", TOMORROW);
    sim.settle();
    sim.run_now("web");
    sim.settle();
    sim.plan_mut("web").annotations.clear();
    sim.run_until("it reboots", |sim| sim.world.nodes.iter().any(|node| !node.ready));
    sim.lose_ledger();
    sim.run_until_phase("web", Phase::Complete);
    assert!(sim.now < time("2026-11-22T09:00:00Z"));
    sim.ends_well();
}

#[test]
fn s3_a_node_that_has_opted_out_is_skipped_with_its_reason() {
    let mut sim = Sim::new().nodes(3).plan("web", "");
    sim.opt_out("n02", Some("disk is failing"));
    sim.run_until_phase("web", Phase::Complete);
    let why = "disk is failing".to_owned();
    assert_eq!(sim.verdict("n02"), Verdict::OptedOut { why });
    assert_snapshot!("opted_out", sim.describe("web"));
    sim.ends_well();
    sim.opt_out("n02", None);
    sim.run_for(hours(1));
    assert_eq!(sim.hidden("n02").runs, "1.21.0");
    sim.ends_well();
}

#[test]
fn s3_a_node_that_opts_out_on_its_way_goes_back_unless_it_reboots() {
    let mut sim = Sim::new().nodes(1).plan("web", "");
    sim.run_for(seconds(70));
    assert!(sim.facts("n01").unschedulable);
    sim.opt_out("n01", Some("not now"));
    sim.run_for(seconds(5));
    assert!(!sim.facts("n01").unschedulable && sim.ledger().grants.is_empty());
    assert_eq!(sim.phase("web"), Some(Phase::Complete));
    sim.ends_well();

    let mut sim = Sim::new().nodes(1).plan("web", "");
    sim.run_until("it reboots", |sim| !sim.hidden("n01").up);
    sim.opt_out("n01", Some("too late"));
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(sim.verdict("n01"), Verdict::UpToDate);
    sim.ends_well();
}
