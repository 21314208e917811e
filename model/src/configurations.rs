//! The configurations: small worlds, each with the faults that it is about.

use crate::config::{Config, Deed, Fault, Grain, Limits, Plan};

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

/// Closed by `cargo test`: one node, permit against withdraw, every step of its own.
#[must_use]
pub fn one_node() -> Vec<Config> {
    let race = Config {
        lagging: 1,
        permits: Grain::Fine,
        limits: PATIENT,
        ..Config::default()
    };
    let until_the_reboot = Limits {
        reboot: Some(2),
        ..PATIENT
    };
    let window = Plan {
        windows: vec![(0, Some(2)), (3, None)],
        ..Plan::default()
    };
    vec![
        Config {
            name: "window",
            about: "a window closes and opens again; a pod comes late",
            plans: vec![window.clone()],
            in_flight: 1,
            agents: Grain::Fine,
            limits: until_the_reboot,
            faults: vec![(Fault::LatePod, 1)],
            ..race.clone()
        },
        Config {
            name: "pause",
            about: "a plan is paused, resumed and deleted, two of these",
            lag_objects: 1,
            deeds: vec![Deed::Pause(0), Deed::Resume(0), Deed::Delete(0)],
            deeds_in_all: 2,
            ..race.clone()
        },
        Config {
            name: "lost",
            about: "an answer is lost or the agent starts again while a window closes",
            plans: vec![window],
            lag_objects: 1,
            limits: until_the_reboot,
            faults: vec![(Fault::PermitLost, 1), (Fault::AgentRestart, 1)],
            faults_in_all: 1,
            ..race
        },
    ]
}

/// Closed by `cargo test`: controllers, several nodes and plans, and what goes wrong with them.
#[must_use]
pub fn small() -> Vec<Config> {
    let patient = Config {
        limits: PATIENT,
        ..Config::default()
    };
    vec![
        Config {
            name: "two",
            about: "two controllers, one of which sees one object late, and one node",
            controllers: 2,
            lagging: 1,
            lag_objects: 1,
            ..patient.clone()
        },
        Config {
            name: "crash",
            about: "a controller ends at any moment, or a write is lost; what was sent arrives late",
            lagging: 1,
            in_flight: 1,
            faults: vec![(Fault::ControllerCrash, 1), (Fault::WriteLost, 1)],
            faults_in_all: 1,
            ..patient.clone()
        },
        Config {
            name: "blocked",
            about: "a budget never allows an eviction; the other node goes on",
            nodes: 2,
            limits: Limits {
                drain: Some(1),
                ..PATIENT
            },
            blocked: [true, false, false],
            plans: vec![Plan {
                nodes: vec![0, 1],
                threshold: 2,
                ..Plan::default()
            }],
            ..Config::default()
        },
        Config {
            name: "admin",
            about: "a person cordons and uncordons a node meanwhile; two nodes at once",
            nodes: 2,
            plans: vec![Plan {
                nodes: vec![0, 1],
                max_unavailable: 2,
                ..Plan::default()
            }],
            deeds: vec![Deed::Cordon(0), Deed::Uncordon(0)],
            ticks: false,
            ..patient
        },
    ]
}

fn machine_faults() -> Vec<(Fault, u8)> {
    vec![
        (Fault::BootsOld, 1),
        (Fault::NeverReturns, 1),
        (Fault::PrepareFails, 1),
        (Fault::PowerLoss, 1),
        (Fault::NotReady, 1),
    ]
}

/// Not closed yet, so they prove nothing; what was searched of them is clean.
#[must_use]
pub fn open() -> Vec<Config> {
    let patient = Config {
        limits: PATIENT,
        ..Config::default()
    };
    vec![
        Config {
            name: "machine",
            about: "a machine fails in one of five ways, and may be tried again",
            limits: Limits {
                reboot: Some(1),
                ..PATIENT
            },
            plans: vec![Plan {
                retries: 1,
                ..Plan::default()
            }],
            faults: machine_faults(),
            faults_in_all: 1,
            ..Config::default()
        },
        Config {
            name: "edges",
            about: "windows close, open again and close on two nodes; the second is expected to take as long as the first took",
            nodes: 2,
            plans: vec![Plan {
                nodes: vec![0, 1],
                windows: vec![(0, Some(2)), (3, Some(5)), (6, None)],
                expected: 1,
                ..Plan::default()
            }],
            ..patient.clone()
        },
        Config {
            name: "retarget",
            about: "a plan is paused, resumed and gets a newer target, in any order; a controller that sees one object late",
            lagging: 1,
            lag_objects: 1,
            deeds: vec![Deed::Pause(0), Deed::Resume(0), Deed::Retarget(0)],
            ..patient.clone()
        },
        Config {
            name: "canary",
            about: "a canary, watched, then the others; a machine boots the old version or is not Ready for a while",
            nodes: 3,
            plans: vec![Plan {
                nodes: vec![0, 1, 2],
                canary: Some(1),
                ..Plan::default()
            }],
            faults: vec![(Fault::BootsOld, 1), (Fault::NotReady, 1)],
            faults_in_all: 1,
            ..patient.clone()
        },
        Config {
            name: "plans",
            about: "two plans that overlap on a node; the first is deleted",
            nodes: 2,
            plans: vec![
                Plan::default(),
                Plan {
                    nodes: vec![0, 1],
                    ..Plan::default()
                },
            ],
            deeds: vec![Deed::Delete(0)],
            ..patient.clone()
        },
        Config {
            name: "leaders",
            about: "two controllers, one of which sees one object late, and one slot for two nodes",
            nodes: 2,
            controllers: 2,
            lagging: 1,
            lag_objects: 1,
            plans: vec![Plan {
                nodes: vec![0, 1],
                ..Plan::default()
            }],
            ..patient.clone()
        },
        Config {
            name: "edited",
            about: "two controllers, one of which sees one object late, and a plan that is paused or gets a newer target",
            controllers: 2,
            lagging: 1,
            lag_objects: 1,
            deeds: vec![Deed::Pause(0), Deed::Retarget(0)],
            deeds_in_all: 1,
            ..patient.clone()
        },
        Config {
            name: "deadlines",
            about: "every step has a deadline, and any may pass",
            limits: STRICT,
            ..Config::default()
        },
        Config {
            name: "pair",
            about: "a canary, watched, then two nodes at once",
            nodes: 3,
            plans: vec![Plan {
                nodes: vec![0, 1, 2],
                max_unavailable: 2,
                canary: Some(1),
                ..Plan::default()
            }],
            ..patient
        },
    ]
}

/// Those that are closed.
#[must_use]
pub fn closed() -> Vec<Config> {
    [one_node(), small()].concat()
}

/// All of them.
#[must_use]
pub fn all() -> Vec<Config> {
    [closed(), open()].concat()
}
