//! The configurations: small worlds, each with the faults that it is about.

use crate::config::{Config, Deed, Fault, Grain, Limits, Plan};

/// Permit against withdraw, on one node: every step of its own, a window that closes and opens again.
#[must_use]
pub fn race() -> Config {
    Config {
        name: "race",
        about: "permit against withdraw: the window closes, the plan is paused or deleted, at every moment",
        plans: vec![Plan {
            windows: vec![(0, Some(3)), (5, None)],
            ..Plan::default()
        }],
        in_flight: 3,
        lagging: 1,
        agents: Grain::Coarse,
        permits: Grain::Fine,
        limits: Limits {
            reboot: Some(2),
            ..Limits::default()
        },
        faults: vec![(Fault::LatePod, 1), (Fault::PermitLost, 1), (Fault::AgentRestart, 1)],
        deeds: vec![Deed::Pause(0), Deed::Delete(0)],
        deeds_in_all: 1,
        ..Config::default()
    }
}

/// All of them.
#[must_use]
pub fn all() -> Vec<Config> {
    let _ = (Deed::Pause(0), Fault::LatePod);
    vec![race()]
}
