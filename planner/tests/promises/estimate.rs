//! What is said of a rollout's end takes all that it waits for into account.

use api::verdict::Verdict;
use chrono::{DateTime, Utc};

use crate::support::{Fault, Sim, at, minutes, seconds};

/// Nodes that take 26 minutes and some seconds, and are expected to take 27.
const NODES: &str = "
expectedNodeDuration: 27m
monitoring: {minReady: 0s}
timeouts: {reboot: 1h}
";

/// What is said as the first node is on its way.
fn estimate(nodes: usize, plan: &str) -> Option<DateTime<Utc>> {
    let mut sim = Sim::new();
    sim.timing.reboot = minutes(25);
    let mut sim = sim.nodes(nodes).plan("web", &format!("{NODES}{plan}"));
    sim.run_for(minutes(5));
    assert!(!sim.granted().is_empty());
    sim.status("web").estimated_completion
}

#[test]
fn the_end_is_after_the_soak_of_every_wave() {
    let waves = "waves: [{name: canary, size: 1, soak: 3h}, {name: rest, soak: 1h}]";
    assert_eq!(estimate(2, waves), Some(at("12:54")), "27m, 3h, 27m, 1h");
}

#[test]
fn the_end_is_as_late_as_the_limit_of_a_wave_makes_it() {
    assert_eq!(estimate(4, "maxUnavailable: 4"), Some(at("08:27")));
    let waves = "maxUnavailable: 4\nwaves: [{name: all, maxUnavailable: 1}]";
    assert_eq!(estimate(4, waves), Some(at("09:48")));
}

#[test]
fn nothing_is_said_of_the_end_of_a_run_that_waits_for_a_person() {
    for waves in [
        "[{name: canary, size: 1, approval: Manual}, {name: rest}]",
        "[{name: canary, size: 1, approval: Manual, soak: 1h}, {name: rest}]",
        "[{name: canary, size: 1}, {name: rest, approval: Manual}]",
    ] {
        assert_eq!(estimate(2, &format!("waves: {waves}")), None, "{waves}");
    }
}

#[test]
fn the_end_is_as_late_as_a_node_that_is_down_makes_it() {
    for limit in [
        "maxUnavailable: 2",
        "maxUnavailable: 3\nwaves: [{name: all, maxUnavailable: 2}]",
    ] {
        let mut sim = Sim::new();
        sim.timing.reboot = minutes(25);
        let mut sim = sim.nodes(4).plan("web", &format!("{NODES}{limit}"));
        sim.not_ready("n01");
        sim.run_for(minutes(5));
        assert_eq!(sim.granted().len(), 1);
        let estimate = sim.status("web").estimated_completion;
        assert_eq!(
            estimate,
            Some(at("09:21")),
            "three nodes one after the other: {limit}"
        );
    }
}

#[test]
fn the_end_is_after_the_time_at_which_a_node_is_tried_again() {
    let plan = format!("{NODES}failurePolicy: {{retries: 9, threshold: 1}}");
    let mut sim = Sim::new().nodes(1).plan("web", &plan);
    sim.break_node("n01", Fault::PrepareFails);
    sim.run_until("it has failed four times", |sim| {
        sim.checker.granted.len() == 4 && sim.granted().is_empty()
    });
    sim.run_for(seconds(5));
    let Verdict::Backoff { until } = sim.verdict("n01") else {
        panic!("{:?}", sim.verdict("n01"))
    };
    assert!(until > sim.now + minutes(5));
    let estimate = sim.status("web").estimated_completion.unwrap();
    assert!(
        estimate >= until + minutes(27) && estimate < until + minutes(28),
        "{estimate}, tried again at {until}"
    );
}

/// A node that waits for its next try is no reason to say when those are done that wait for a person.
#[test]
fn nothing_is_said_of_the_end_where_a_node_that_is_down_holds_a_wave() {
    let of_wave =
        "waves: [{name: dev, nodeSelector: {matchLabels: {tier: dev}}, maxUnavailable: 1}, {name: rest}]";
    let of_zones = "topology: {key: zone, maxDomains: 1}\nwaves: [{name: dev, nodeSelector: {matchLabels: {tier: dev}}}, {name: rest}]";
    let of_all = "waves: [{name: all, maxUnavailable: 1}]";
    for (waves, holds) in [
        (of_wave, "BudgetSpent"),
        (of_all, "BudgetSpent"),
        (of_zones, "DomainBusy"),
    ] {
        let plan = format!("{NODES}maxUnavailable: 3\nfailurePolicy: {{retries: 9, threshold: 1}}\n{waves}");
        let mut sim = Sim::new()
            .node_with("old", "1.20.3", &[("zone", "a")])
            .node_with("dev", "1.21.0", &[("tier", "dev"), ("zone", "b")])
            .plan("web", &plan);
        sim.break_node("old", Fault::PrepareFails);
        sim.run_until("it has failed four times", |sim| {
            sim.checker.granted.len() == 4 && sim.granted().is_empty()
        });
        sim.not_ready("dev");
        sim.add_node("late", "1.20.3", &[("tier", "dev"), ("zone", "a")]);
        sim.run_for(seconds(5));
        assert_eq!(sim.verdict("old").reason(), "Backoff");
        assert_eq!(sim.verdict("late").reason(), holds);
        assert_eq!(sim.status("web").estimated_completion, None, "{holds}");
        sim.ready("dev");
        sim.run_for(seconds(5));
        assert_eq!(sim.granted(), ["late"]);
        assert!(sim.status("web").estimated_completion.is_some(), "{holds}");
    }
}
