//! What a plan says: waves, windows, edits; and what two say.

use super::{coarse, lagging, of, patient};
use crate::config::{Config, Deed, Fault, Plan};

/// The first of two plans takes a node of the second.
pub fn overlap() -> Vec<Plan> {
    vec![of(1), of(2)]
}

/// Windows that close, open again, and close on the node that comes second.
pub fn edges() -> Plan {
    Plan {
        windows: vec![(0, Some(2)), (3, Some(5)), (6, None)],
        expected: 1,
        ..of(2)
    }
}

/// The first node is watched for a tick.
pub fn canary(nodes: usize) -> Plan {
    Plan {
        canary: Some(1),
        ..of(nodes)
    }
}

pub fn all() -> Vec<Config> {
    let unwell = vec![(Fault::BootsOld, 1), (Fault::NotReady, 1)];
    vec![
        Config {
            name: "plans",
            about: "two plans that overlap on a node, each with a node at once; the first is deleted",
            nodes: 2,
            plans: overlap(),
            deeds: vec![Deed::Delete(0)],
            ..patient()
        },
        Config {
            name: "shared",
            about: "two plans that overlap share the install's one slot; the first is paused or deleted",
            nodes: 2,
            plans: overlap(),
            install: Some(1),
            deeds: vec![Deed::Pause(0), Deed::Delete(0)],
            deeds_in_all: 1,
            ..lagging(coarse())
        },
        Config {
            name: "canary",
            about: "a canary, watched, then the other; a machine boots the old version or is not Ready for a while",
            nodes: 2,
            plans: vec![canary(2)],
            faults: unwell.clone(),
            faults_in_all: 1,
            ..patient()
        },
        Config {
            name: "waves",
            about: "the same with two others, which go at once",
            nodes: 3,
            plans: vec![Plan {
                max_unavailable: 2,
                ..canary(3)
            }],
            faults: unwell,
            faults_in_all: 1,
            ..coarse()
        },
        Config {
            name: "retarget",
            about: "a plan is paused, resumed and gets a newer target, in any order",
            deeds: vec![Deed::Pause(0), Deed::Resume(0), Deed::Retarget(0)],
            ..lagging(patient())
        },
        Config {
            name: "edited",
            about: "a plan gets a newer target while two nodes are updated at once",
            nodes: 2,
            plans: vec![Plan {
                max_unavailable: 2,
                ..of(2)
            }],
            deeds: vec![Deed::Retarget(0)],
            ..coarse()
        },
        Config {
            name: "beside",
            about: "a plan gets a newer target; two controllers, one of which sees one object late",
            controllers: 2,
            deeds: vec![Deed::Retarget(0)],
            ..lagging(coarse())
        },
        Config {
            name: "edges",
            about: "windows close, open again and close on two nodes; the second is expected to take as long as the first took",
            nodes: 2,
            plans: vec![edges()],
            ..coarse()
        },
        Config {
            name: "ends",
            about: "the same, and cordoned nodes may finish",
            nodes: 2,
            plans: vec![Plan {
                finish: true,
                ..edges()
            }],
            ..coarse()
        },
    ]
}
