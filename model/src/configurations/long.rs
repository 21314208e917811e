//! Those that take minutes.

use super::{REBOOT, coarse, lagging, of, patient, plans};
use crate::config::{Config, Deed, Fault, Grain, Plan};

pub fn all() -> Vec<Config> {
    vec![
        Config {
            name: "leaders-fine",
            about: "leaders, every write of its own",
            nodes: 2,
            controllers: 2,
            plans: vec![of(2)],
            machines: Grain::Coarse,
            ticks: false,
            ..lagging(patient())
        },
        Config {
            name: "leaders-retarget",
            about: "two controllers, one of which sees one object late, and a plan that is paused or gets a newer target",
            controllers: 2,
            deeds: vec![Deed::Pause(0), Deed::Retarget(0)],
            deeds_in_all: 1,
            ..lagging(patient())
        },
        Config {
            name: "leaders-failures",
            about: "two controllers, one of which sees one object late; two faults of a machine, which is tried again",
            controllers: 2,
            limits: REBOOT,
            plans: vec![Plan { retries: 1, ..of(1) }],
            faults: vec![
                (Fault::BootsOld, 2),
                (Fault::NeverReturns, 1),
                (Fault::PrepareFails, 2),
            ],
            faults_in_all: 2,
            ..lagging(coarse())
        },
        Config {
            name: "waves-fine",
            about: "waves, one after another, every write of its own, every kubelet heard",
            nodes: 3,
            plans: vec![plans::canary(3)],
            faults: vec![(Fault::BootsOld, 1), (Fault::NotReady, 1)],
            faults_in_all: 1,
            ..patient()
        },
        Config {
            name: "failures-two",
            about: "failures on two nodes: the other goes on",
            nodes: 2,
            limits: REBOOT,
            plans: vec![Plan {
                retries: 1,
                threshold: 2,
                ..of(2)
            }],
            faults: vec![
                (Fault::BootsOld, 2),
                (Fault::NeverReturns, 1),
                (Fault::PrepareFails, 2),
            ],
            faults_in_all: 2,
            ..coarse()
        },
        Config {
            name: "edges-fine",
            about: "edges, every write of its own, every kubelet heard",
            nodes: 2,
            plans: vec![plans::edges()],
            ..patient()
        },
        Config {
            name: "ends-fine",
            about: "ends, likewise",
            nodes: 2,
            plans: vec![Plan {
                finish: true,
                ..plans::edges()
            }],
            ..patient()
        },
    ]
}
