//! Controllers, several nodes, and what goes wrong with them.

use super::{PATIENT, REBOOT, STRICT, coarse, lagging, of, patient};
use crate::config::{Config, Deed, Fault, Limits, Plan};

pub fn all() -> Vec<Config> {
    vec![
        Config {
            name: "two",
            about: "two controllers, one of which sees one object late, and one node",
            controllers: 2,
            lagging: 1,
            lag_objects: 1,
            ..patient()
        },
        Config {
            name: "crash",
            about: "a controller ends at any moment, or a write is lost; what was sent arrives late",
            lagging: 1,
            in_flight: 1,
            faults: vec![(Fault::ControllerCrash, 1), (Fault::WriteLost, 1)],
            faults_in_all: 1,
            ..patient()
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
                threshold: 2,
                ..of(2)
            }],
            ..Config::default()
        },
        Config {
            name: "admin",
            about: "a person cordons and uncordons a node meanwhile; two nodes at once",
            nodes: 2,
            plans: vec![Plan {
                max_unavailable: 2,
                ..of(2)
            }],
            deeds: vec![Deed::Cordon(0), Deed::Uncordon(0)],
            ticks: false,
            ..patient()
        },
        Config {
            name: "leaders",
            about: "two controllers, one of which sees one object late, and one slot for two nodes",
            nodes: 2,
            controllers: 2,
            plans: vec![of(2)],
            ticks: false,
            ..lagging(coarse())
        },
        Config {
            name: "three",
            about: "three nodes at once",
            nodes: 3,
            plans: vec![Plan {
                max_unavailable: 3,
                ..of(3)
            }],
            ticks: false,
            ..coarse()
        },
        Config {
            name: "machine",
            about: "a machine fails in one of five ways, and is tried again",
            limits: REBOOT,
            plans: vec![Plan { retries: 1, ..of(1) }],
            faults: vec![
                (Fault::BootsOld, 1),
                (Fault::NeverReturns, 1),
                (Fault::PrepareFails, 1),
                (Fault::PowerLoss, 1),
                (Fault::NotReady, 1),
            ],
            faults_in_all: 1,
            ..patient()
        },
        Config {
            name: "failures",
            about: "two faults: a machine boots the old version, never returns or cannot be staged, is tried again, and given up",
            limits: REBOOT,
            plans: vec![Plan { retries: 1, ..of(1) }],
            faults: vec![
                (Fault::BootsOld, 2),
                (Fault::NeverReturns, 1),
                (Fault::PrepareFails, 2),
            ],
            faults_in_all: 2,
            ..patient()
        },
        Config {
            name: "deadlines",
            about: "every step has a deadline, and any may pass",
            limits: STRICT,
            ..patient()
        },
    ]
}
