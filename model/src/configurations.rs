//! The configurations: small worlds, each with the faults that it is about.

use crate::config::{Config, Deed, Fault, Grain, Limits, Plan};

/// All limits but those of the reboot are longer than anything that happens.
const PATIENT: Limits = Limits {
    stage: None,
    drain: None,
    reboot: Some(2),
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

/// One node: permit against withdraw, every step of its own.
#[must_use]
pub fn one_node() -> Vec<Config> {
    let race = Config {
        lagging: 1,
        in_flight: 1,
        permits: Grain::Fine,
        limits: PATIENT,
        ..Config::default()
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
            agents: Grain::Fine,
            faults: vec![(Fault::LatePod, 1)],
            ..race.clone()
        },
        Config {
            name: "pause",
            about: "a plan is paused, resumed and deleted",
            deeds: vec![Deed::Pause(0), Deed::Resume(0), Deed::Delete(0)],
            ..race.clone()
        },
        Config {
            name: "lost",
            about: "answers are lost and the agent starts again while a window closes",
            plans: vec![window],
            faults: vec![(Fault::PermitLost, 1), (Fault::AgentRestart, 1)],
            faults_in_all: 1,
            ..race
        },
    ]
}

/// Several nodes and plans, and everything that goes wrong.
#[must_use]
pub fn small() -> Vec<Config> {
    vec![
        Config {
            name: "failures",
            about: "a machine fails in every way, twice",
            limits: STRICT,
            plans: vec![Plan {
                retries: 1,
                ..Plan::default()
            }],
            faults: vec![
                (Fault::BootsOld, 1),
                (Fault::NeverReturns, 1),
                (Fault::PrepareFails, 1),
                (Fault::PowerLoss, 1),
                (Fault::NotReady, 1),
            ],
            faults_in_all: 2,
            ..Config::default()
        },
        Config {
            name: "leaders",
            about: "two controllers that lag, and one slot for two nodes",
            nodes: 2,
            controllers: 2,
            lagging: 2,
            limits: PATIENT,
            ticks: false,
            plans: vec![Plan {
                nodes: vec![0, 1],
                ..Plan::default()
            }],
            ..Config::default()
        },
        Config {
            name: "edited",
            about: "two controllers that lag, and a plan that is paused, resumed and gets a newer target",
            controllers: 2,
            lagging: 2,
            limits: PATIENT,
            ticks: false,
            deeds: vec![Deed::Pause(0), Deed::Resume(0), Deed::Retarget(0)],
            deeds_in_all: 2,
            ..Config::default()
        },
        Config {
            name: "crash",
            about: "a controller ends at any moment, and its writes arrive late",
            lagging: 1,
            in_flight: 3,
            limits: PATIENT,
            faults: vec![(Fault::ControllerCrash, 1), (Fault::WriteLost, 1)],
            ..Config::default()
        },
        Config {
            name: "blocked",
            about: "a budget never allows an eviction; the other node goes on",
            nodes: 2,
            limits: STRICT,
            blocked: [true, false, false],
            plans: vec![Plan {
                nodes: vec![0, 1],
                threshold: 2,
                ..Plan::default()
            }],
            ..Config::default()
        },
        Config {
            name: "canary",
            about: "a canary, watched, then two more at once",
            nodes: 3,
            limits: PATIENT,
            plans: vec![Plan {
                nodes: vec![0, 1, 2],
                max_unavailable: 2,
                canary: Some(1),
                ..Plan::default()
            }],
            faults: vec![(Fault::BootsOld, 1), (Fault::NotReady, 1)],
            faults_in_all: 1,
            ..Config::default()
        },
        Config {
            name: "plans",
            about: "two plans that overlap on a node; the first is deleted",
            nodes: 3,
            limits: PATIENT,
            plans: vec![
                Plan {
                    nodes: vec![0, 1],
                    ..Plan::default()
                },
                Plan {
                    nodes: vec![1, 2],
                    ..Plan::default()
                },
            ],
            deeds: vec![Deed::Delete(0)],
            ..Config::default()
        },
        Config {
            name: "admin",
            about: "a person cordons and uncordons nodes meanwhile",
            nodes: 2,
            lagging: 1,
            limits: PATIENT,
            ticks: false,
            plans: vec![Plan {
                nodes: vec![0, 1],
                max_unavailable: 2,
                ..Plan::default()
            }],
            deeds: vec![Deed::Cordon(0), Deed::Uncordon(0)],
            ..Config::default()
        },
    ]
}

/// All of them.
#[must_use]
pub fn all() -> Vec<Config> {
    [one_node(), small()].concat()
}
