//! The configurations: small worlds, each with the faults that it is about. All of them are closed.

mod long;
mod many;
mod one_node;
mod plans;

use crate::config::{Config, Grain, Limits, Plan};

/// No limit is ever reached but the one that is stated.
const PATIENT: Limits = Limits {
    stage: None,
    drain: None,
    reboot: None,
    monitoring: None,
    min_ready: 0,
    backoff: 0,
    release_wait: 0,
};

/// Every step has a deadline.
const STRICT: Limits = Limits {
    stage: Some(2),
    drain: Some(1),
    reboot: Some(2),
    monitoring: Some(1),
    min_ready: 1,
    backoff: 1,
    release_wait: 1,
};

/// Only the reboot has one.
const REBOOT: Limits = Limits {
    reboot: Some(1),
    ..PATIENT
};

fn patient() -> Config {
    Config {
        limits: PATIENT,
        ..Config::default()
    }
}

/// Rounds and machines in one step each.
fn coarse() -> Config {
    Config {
        rounds: Grain::Coarse,
        machines: Grain::Coarse,
        ..patient()
    }
}

/// One controller sees one object at a time late.
fn lagging(config: Config) -> Config {
    Config {
        lagging: 1,
        lag_objects: 1,
        ..config
    }
}

/// A plan of the first so many nodes.
fn of(nodes: usize) -> Plan {
    Plan {
        nodes: (0..nodes).collect(),
        ..Plan::default()
    }
}

/// Those that `cargo test` searches.
#[must_use]
pub fn short() -> Vec<Config> {
    [one_node::all(), many::all(), plans::all()].concat()
}

/// All of them; `make verify` searches these.
#[must_use]
pub fn all() -> Vec<Config> {
    [short(), long::all()].concat()
}
