//! One node: permit against withdraw, every step of its own.

use super::PATIENT;
use crate::config::{Config, Deed, Fault, Grain, Limits, Plan};

pub fn all() -> Vec<Config> {
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
            plans: vec![window.clone()],
            lag_objects: 1,
            limits: until_the_reboot,
            faults: vec![(Fault::PermitLost, 1), (Fault::AgentRestart, 1)],
            faults_in_all: 1,
            ..race.clone()
        },
        Config {
            name: "finish",
            about: "a window closes and opens again on a plan whose cordoned nodes may finish",
            plans: vec![Plan {
                finish: true,
                ..window
            }],
            in_flight: 1,
            limits: until_the_reboot,
            ..race
        },
    ]
}
