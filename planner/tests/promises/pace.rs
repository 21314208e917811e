//! How long nodes take is learned, what is said of the end, and which runs came before.

use api::plan::{NodeDuration, Phase};
use api::quantity::Span;
use api::verdict::Verdict;
use chrono::{DateTime, Utc};

use crate::support::{Fault, Sim, at, minutes, seconds};

/// Nodes that take 26 minutes and some seconds, in windows of two hours, by a spec that expects an hour.
const NIGHT: &str = "
expectedNodeDuration: 1h
monitoring: {minReady: 0s}
timeouts: {reboot: 1h}
maintenanceWindows:
- {name: first, start: 2026-11-22T08:00:00Z, end: 2026-11-22T10:00:00Z}
- {name: second, start: 2026-11-22T12:00:00Z, end: 2026-11-22T14:00:00Z}
";

fn slow(nodes: usize, plan: &str) -> Sim {
    let mut sim = Sim::new();
    sim.timing.reboot = minutes(25);
    let mut sim = sim.nodes(nodes).plan("web", plan);
    sim.settle();
    sim
}

fn granted(sim: &Sim) -> Vec<DateTime<Utc>> {
    sim.checker.granted.iter().map(|(at, ..)| *at).collect()
}

#[test]
fn s4_what_fits_into_a_window_is_learned_from_the_nodes_before() {
    let mut sim = slow(6, NIGHT);
    sim.run_to(at("09:59"));
    let granted = granted(&sim);
    assert_eq!(granted.len(), 4, "{granted:?}");
    assert!(
        granted[3] > at("09:00"),
        "the spec alone would not have granted after 09:00"
    );
    let learned = sim.status("web").node_duration.unwrap();
    assert_eq!(learned.samples, 4);
    assert!(
        learned.p90.delta() > minutes(25) && learned.p90.delta() < minutes(28),
        "{learned:?}"
    );
    let waiting = sim.facts("n05").name.clone();
    let closes = at("10:00");
    let still_waits = sim.nodes.keys().len() - granted.len();
    assert_eq!(still_waits, 2, "{waiting} and another");
    let verdicts: Vec<_> = sim.last.verdicts.iter().map(|v| &v.verdict).collect();
    let wont_fit = verdicts.iter().filter(|v| {
        matches!(v, Verdict::WontFitInWindow { needs_seconds, closes: at, .. }
            if *at == closes && *needs_seconds == learned.p90.delta().num_seconds())
    });
    assert_eq!(wont_fit.count(), 2, "{verdicts:?}");
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn s4_what_was_learned_outlives_a_run_a_crash_and_the_ledger() {
    let mut sim = slow(2, "monitoring: {minReady: 0s}\ntimeouts: {reboot: 1h}");
    sim.run_until_phase("web", Phase::Complete);
    let learned = sim.status("web").node_duration.unwrap();
    assert_eq!(learned.samples, 2);
    sim.edit("web", |spec| spec.target_version = "1.22.0".to_owned());
    sim.settle();
    assert_eq!(sim.status("web").node_duration, Some(learned), "another run");
    sim.lose_ledger();
    sim.settle();
    assert_eq!(
        sim.status("web").node_duration,
        Some(learned),
        "the ledger is lost, the status remembers"
    );
}

#[test]
fn s4_what_nine_of_ten_nodes_took_must_be_left_of_the_window() {
    for (slow, fits) in [(1, true), (2, false)] {
        let mut sim = Sim::new().nodes(1).plan("web", NIGHT);
        sim.settle();
        let durations = [vec![60; 10 - slow], vec![5_000; slow]].concat();
        let ledger = sim.world.ledger.as_mut().unwrap();
        ledger.grants.clear();
        ledger.plans.get_mut("uid-web").unwrap().durations = durations;
        sim.add_node("next", "1.20.3", &[]);
        sim.plan_mut("web").spec.max_unavailable = api::quantity::IntOrPercent::Int(2);
        sim.now = at("09:00");
        let decisions = sim.decide();
        let granted = decisions.ledger.is_some_and(|change| change.by_fresh_nodes);
        assert_eq!(
            granted, fits,
            "{slow} of 10 nodes took longer than the hour that is left"
        );
    }
}

#[test]
fn s4_what_was_learned_is_capped_by_what_a_node_may_take() {
    let mut sim = Sim::new().nodes(2).plan("web", NIGHT);
    sim.plan_mut("web").status.node_duration = Some(NodeDuration {
        p50: Span::minutes(10),
        p90: Span::minutes(6000),
        samples: 9,
    });
    sim.lose_ledger();
    sim.edit("web", |spec| {
        let short = Span::minutes(15);
        (
            spec.timeouts.stage,
            spec.drain.timeout,
            spec.timeouts.reboot,
            spec.monitoring.timeout,
        ) = (short, short, short, short);
    });
    sim.settle();
    assert_eq!(
        sim.granted().len(),
        1,
        "four times fifteen minutes fit into two hours"
    );
}

#[test]
fn the_end_is_estimated_in_window_terms() {
    let mut sim = slow(6, NIGHT);
    sim.run_to(at("09:30"));
    // Four nodes by 09:50, the other two from 12:00 on, 27 minutes each.
    let estimate = sim.status("web").estimated_completion.unwrap();
    assert!(estimate > at("12:50") && estimate < at("12:56"), "{estimate}");
    sim.run_until_phase("web", Phase::WaitingForWindow);
    let waiting = sim.status("web").estimated_completion.unwrap();
    sim.run_for(minutes(20));
    assert_eq!(
        sim.status("web").estimated_completion,
        Some(waiting),
        "waiting changes nothing"
    );
    sim.run_until_phase("web", Phase::Complete);
    let error = (sim.now - waiting).abs();
    assert!(
        error <= minutes(2),
        "complete at {}, estimated {waiting}",
        sim.now
    );
    assert_eq!(sim.status("web").estimated_completion, None);
}

#[test]
fn nothing_is_said_of_an_end_that_depends_on_more_than_time() {
    let mut sim = Sim::new().nodes(3).plan("web", "failurePolicy: {retries: 0}");
    sim.settle();
    assert!(sim.status("web").estimated_completion.is_some());
    let first = sim.granted().remove(0);
    sim.break_node(&first, Fault::PrepareFails);
    sim.run_until_phase("web", Phase::Halted);
    sim.run_for(seconds(90));
    assert_eq!(sim.status("web").estimated_completion, None);
}

#[test]
fn the_last_five_runs_are_told_of() {
    let mut sim = Sim::new().nodes(1).plan("web", "monitoring: {minReady: 0s}");
    sim.run_until_phase("web", Phase::Complete);
    for minor in 22..29 {
        sim.edit("web", |spec| spec.target_version = format!("1.{minor}.0"));
        // Every other run is superseded before it is complete.
        if minor % 2 == 0 {
            sim.run_until_phase("web", Phase::Complete);
        } else {
            sim.settle();
        }
    }
    let history = sim.status("web").history.clone();
    let told: Vec<_> = history
        .iter()
        .map(|run| (run.target.as_str(), run.outcome.as_str(), run.nodes.updated))
        .collect();
    assert_eq!(
        told,
        [
            ("1.27.0", "Superseded", 0),
            ("1.26.0", "AllUpdated", 1),
            ("1.25.0", "Superseded", 0),
            ("1.24.0", "AllUpdated", 1),
            ("1.23.0", "Superseded", 0),
        ]
    );
    assert!(history.iter().all(|run| run.started_at <= run.ended_at));
}

#[test]
fn a_run_that_was_complete_is_told_of_as_such_though_its_plan_was_invalid_in_the_end() {
    let mut sim = Sim::new().nodes(1).plan("web", "monitoring: {minReady: 0s}");
    sim.run_until_phase("web", Phase::Complete);
    let valid = sim.plan_facts("web").spec.monitoring.min_ready;
    sim.edit("web", |spec| spec.monitoring.min_ready = Span::minutes(60));
    sim.settle();
    assert_eq!(sim.status("web").phase, Some(Phase::Invalid));
    sim.edit("web", |spec| {
        spec.target_version = "1.22.0".to_owned();
        spec.monitoring.min_ready = valid;
    });
    sim.settle();
    assert_eq!(sim.status("web").history[0].outcome, "AllUpdated");
}

#[test]
fn s4_what_was_learned_is_forgotten_where_somebody_edits_what_is_expected() {
    let mut sim = slow(2, NIGHT);
    sim.run_to(at("10:30"));
    assert_eq!(sim.phase("web"), Some(Phase::Complete));
    sim.edit("web", |spec| {
        spec.target_version = "1.22.0".to_owned();
        spec.maintenance_windows[1].end = Some(at("12:21"));
    });
    sim.settle();
    let verdict = sim.verdict("n01");
    assert!(
        matches!(verdict, Verdict::WindowTooShort { samples: 2, .. }),
        "{verdict:?}"
    );
    let message = verdict.to_string();
    assert!(message.contains("p90 of the last 2 nodes"), "{message}");
    assert!(
        message.ends_with("edit expectedNodeDuration, which then counts again"),
        "{message}"
    );
    sim.edit("web", |spec| spec.expected_node_duration = Span::minutes(20));
    sim.settle();
    assert_eq!(sim.verdict("n01").reason(), "OutsideWindow");
    assert_eq!(sim.status("web").node_duration, None);
    sim.run_to(at("12:00"));
    assert_eq!(sim.granted().len(), 1);
    sim.run_to(at("14:00"));
    assert_eq!(
        sim.status("web").node_duration.unwrap().samples,
        1,
        "and learned anew"
    );
}

#[test]
fn s4_of_a_node_that_was_on_its_way_when_the_ledger_was_lost_nothing_is_learned() {
    let mut sim = slow(2, "monitoring: {minReady: 5m}\ntimeouts: {reboot: 1h}");
    let first = sim.granted().remove(0);
    sim.run_until("it is monitored", |sim| {
        let shadow = sim.facts(&first).shadow.as_ref().unwrap();
        shadow.spec.state == api::shadow::NodeState::MonitoringUpdate
    });
    sim.run_for(minutes(4));
    sim.lose_ledger();
    sim.run_for(minutes(6));
    assert_eq!(sim.status("web").nodes.updated, 1);
    assert_eq!(sim.status("web").node_duration, None, "it took no five minutes");
    sim.run_until_phase("web", Phase::Complete);
    let learned = sim.status("web").node_duration.unwrap();
    assert_eq!(learned.samples, 1);
    assert!(learned.p90.delta() > minutes(25), "{learned:?}");
    sim.ends_well();
}

#[test]
fn the_end_is_after_an_exclusion_that_begins_on_the_way() {
    let mut sim = slow(
        3,
        "
expectedNodeDuration: 27m
monitoring: {minReady: 0s}
timeouts: {reboot: 1h}
exclusions: [{name: sale, start: 2026-11-22T08:40:00Z, end: 2026-11-22T11:00:00Z}]
",
    );
    // One node by 08:27, which is too late for another; two from 11:00 on.
    for when in ["08:05", "08:30", "08:45", "10:00"] {
        sim.run_to(at(when));
        let estimate = sim.status("web").estimated_completion;
        assert!(
            estimate.is_some_and(|estimate| estimate > at("11:50") && estimate < at("11:56")),
            "at {when}: {estimate:?}"
        );
    }
    sim.run_until_phase("web", Phase::Complete);
    assert!(sim.now > at("11:50") && sim.now < at("11:56"), "{}", sim.now);
}

#[test]
fn the_end_is_after_an_exclusion_that_began_while_a_node_reboots() {
    let mut sim = slow(
        2,
        "
expectedNodeDuration: 20m
monitoring: {minReady: 0s}
timeouts: {reboot: 1h}
exclusions: [{name: sale, start: 2026-11-22T08:20:00Z, end: 2026-11-22T11:00:00Z}]
",
    );
    sim.run_to(at("08:22"));
    assert_eq!(sim.granted().len(), 1, "it finishes");
    assert_eq!(sim.reasons(), ["Excluded"].into());
    let estimate = sim.status("web").estimated_completion;
    assert_eq!(
        estimate,
        Some(at("11:20")),
        "the other one comes after the exclusion"
    );
}

#[test]
fn the_end_is_as_late_as_the_limit_of_the_install_makes_it() {
    let mut sim = Sim::new();
    sim.timing.reboot = minutes(25);
    let plan =
        "maxUnavailable: 4\nmonitoring: {minReady: 0s}\ntimeouts: {reboot: 1h}\nexpectedNodeDuration: 27m";
    let mut sim = sim.nodes(4).plan("web", plan);
    sim.world.settings.max_unavailable = Some(api::quantity::IntOrPercent::Int(1));
    sim.settle();
    assert_eq!(sim.granted().len(), 1);
    let estimate = sim.status("web").estimated_completion.unwrap();
    assert!(estimate >= at("09:46") && estimate < at("09:50"), "{estimate}");
}

/// The controller's clock is found to be a minute ahead while a node is on its way: the node took a minute less than that clock says.
#[test]
fn s4_how_long_a_node_takes_is_told_by_the_clock_of_the_kubernetes_api() {
    let took = |ahead: i64| {
        let mut sim = slow(1, NIGHT);
        sim.run_for(minutes(5));
        sim.skew(ahead);
        sim.run_until_phase("web", Phase::Complete);
        sim.status("web").node_duration.as_ref().unwrap().p90.delta()
    };
    let (right, wrong) = (took(0), took(60));
    assert_eq!(right - wrong, minutes(1), "{right}, {wrong}");
}
