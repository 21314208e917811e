//! What is said of a rollout's end takes all that it waits for into account.

use chrono::{DateTime, Utc};

use crate::support::{Sim, at, minutes};

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
    let waves = "waves: [{name: canary, size: 1, approval: Manual}, {name: rest}]";
    assert_eq!(estimate(2, waves), None);
    let approved_later = "waves: [{name: canary, size: 1}, {name: rest, approval: Manual}]";
    assert_eq!(estimate(2, approved_later), None);
}
