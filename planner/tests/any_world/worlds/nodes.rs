//! Nodes, their shadows, and what is offered to them.

use api::{
    names::NODE_LABEL,
    offer::Offer,
    shadow::{AgentError, Disruption, Failure, FailureReason, NodeState, StageAhead},
};
use chrono::{DateTime, TimeDelta, Utc};
use planner::world::{DrainFacts, NodeFacts};

use super::{Draw, KINDS, Way, run_of};

/// Which image a node runs, what is offered to it, and whether somebody has taken it out.
pub fn kind(draw: &mut Draw<'_>, now: DateTime<Utc>, facts: &mut NodeFacts) {
    facts.opt_out = draw.seldom(8).then(|| "not this one".to_owned());
    let kind = draw.of(&[
        Some(0),
        Some(0),
        Some(0),
        Some(0),
        Some(1),
        Some(2),
        Some(0),
        Some(1),
        None,
    ]);
    let offered = draw.of(&[
        ["1.22.0", "1.21.0"].as_slice(),
        &["1.21.0"],
        &[],
        &["1.22.0", "1.21.0", "1.20.3"],
        &["1.22.0"],
    ]);
    let Some(status) = facts.shadow.as_mut().and_then(|shadow| shadow.status.as_mut()) else {
        return;
    };
    let kind = kind.map(|kind: usize| KINDS[kind]);
    status.variant = kind.map(|(variant, _)| variant.to_owned());
    status.arch = kind.map(|(_, arch)| arch.to_owned());
    let offer = |version: &&str| Offer {
        version: (*version).to_owned(),
        since: draw.before(now, 600),
    };
    status.offered = offered.iter().map(offer).collect();
}

/// What the run has found out about a node before.
pub fn known(draw: &mut Draw<'_>, facts: &mut NodeFacts) {
    facts.hosts_operator |= draw.seldom(15);
    let Some(shadow) = &mut facts.shadow else { return };
    if let Some(failure) = &mut shadow.spec.failure {
        use FailureReason::{Unsupported, VersionNotOffered};
        failure.reason = draw.of(&[
            failure.reason,
            failure.reason,
            failure.reason,
            failure.reason,
            VersionNotOffered,
            Unsupported,
        ]);
    }
}

/// A node on which nothing of an attempt is to be seen any more: it is done, or it cannot be begun with, or waits.
pub fn rest(draw: &mut Draw<'_>, now: DateTime<Utc>, facts: &mut NodeFacts, way: &Way, is_done: bool) {
    facts.disruption = None;
    facts.agent.ready &= is_done || !draw.seldom(60);
    facts.ready &= !is_done || !draw.seldom(20);
    let takes_part = draw.seldom(40);
    let Some(shadow) = &mut facts.shadow else { return };
    let spec = &mut shadow.spec;
    (spec.state, spec.failure) = (NodeState::Idle, None);
    if is_done || takes_part {
        (spec.plan, spec.run) = (Some(way.plan.clone()), Some(run_of(&way.plan)));
        (spec.wave, spec.attempt) = (Some(way.wave.clone()), Some(way.attempt));
        spec.state_transition_timestamp = Some(draw.before(now, 90));
    }
    if let Some(status) = &mut shadow.status {
        (status.current_state, status.run, status.attempt) = (spec.state, spec.run.clone(), spec.attempt);
    }
}

/// Whether a window was over before the node was done.
pub fn outlasted(draw: &mut Draw<'_>, facts: &mut NodeFacts, is_granted: bool) {
    let outlasted = draw.seldom(if is_granted { 75 } else { 25 });
    if let Some(shadow) = &mut facts.shadow {
        shadow.spec.outlasted = (outlasted && shadow.spec.run.is_some()).then_some(true);
    }
}

pub fn node(draw: &mut Draw<'_>, now: DateTime<Utc>, facts: &mut NodeFacts, way: &Way) {
    facts
        .labels
        .insert("pool".to_owned(), draw.of(&["a", "b"]).to_owned());
    facts
        .labels
        .insert("tier".to_owned(), draw.of(&["prod", "prod", "dev"]).to_owned());
    if let Some(zone) = draw.of(&[Some("a"), Some("b"), Some("c"), None]) {
        facts.labels.insert("zone".to_owned(), zone.to_owned());
    }
    if draw.seldom(4) {
        facts.labels.remove(NODE_LABEL);
    }
    facts.ready = !draw.seldom(8);
    facts.ready_changed = (!draw.seldom(10)).then(|| draw.before(now, 240));
    facts.unschedulable = draw.seldom(8);
    facts.agent.ready = !draw.seldom(8);
    facts.agent.since = facts.ready_changed;
    if draw.seldom(6) {
        "Bottlerocket OS 1.19.0 (aws-k8s-1.33)".clone_into(&mut facts.os_image);
    }
    facts.drain = draw.of(&[None, None, Some(0), Some(2)]).map(|left| DrainFacts {
        left,
        own: draw.of(&[0, 0, 0, left]),
        blocked: None,
    });
    facts.hosts_operator = draw.seldom(10);
    if draw.seldom(10) {
        facts.disruption = Some(disruption(draw, now, way));
        facts.unschedulable = !draw.seldom(20);
    }
    if draw.seldom(4) {
        facts.shadow = None;
    }
    let Some(shadow) = &mut facts.shadow else { return };
    let spec = &mut shadow.spec;
    if draw.seldom(45) {
        use NodeState::{ErrorReset, Idle, MonitoringUpdate, RebootedIntoUpdate, StagedAndPerformedUpdate};
        let run = if draw.seldom(15) {
            "run-before".to_owned()
        } else {
            run_of(&way.plan)
        };
        spec.state = draw.of(&[
            Idle,
            Idle,
            Idle,
            Idle,
            StagedAndPerformedUpdate,
            RebootedIntoUpdate,
            MonitoringUpdate,
            ErrorReset,
        ]);
        spec.state_transition_timestamp = Some(draw.before(now, 90));
        (spec.plan, spec.run) = (Some(way.plan.clone()), Some(run));
        (spec.wave, spec.attempt) = (Some(way.wave.clone()), Some(way.attempt));
        spec.from_version = Some("1.20.3".to_owned());
        spec.failure = draw.seldom(45).then(|| failure(draw, now));
    }
    let agrees = !draw.seldom(12);
    let spec = spec.clone();
    shadow.status = shadow
        .status
        .take()
        .filter(|_| !draw.seldom(4))
        .map(|mut status| {
            if agrees {
                (status.current_state, status.run, status.attempt) =
                    (spec.state, spec.run.clone(), spec.attempt);
            }
            if draw.seldom(6) {
                status.boot_id = Some("another".to_owned());
            }
            if draw.seldom(8) {
                status.error = Some(AgentError {
                    reason: draw.of(&[FailureReason::StageFailed, FailureReason::PermitExpired]),
                    message: "no".to_owned(),
                });
            }
            status
        });
}

/// What a node is told to download ahead of its turn, and what is on its inactive partition.
pub fn ahead(draw: &mut Draw<'_>, now: DateTime<Utc>, facts: &mut NodeFacts, target: &str) {
    let Some(shadow) = &mut facts.shadow else { return };
    let version = draw.of(&[target, target, "1.22.0"]).to_owned();
    if let Some(status) = shadow.status.as_mut().filter(|_| draw.seldom(20)) {
        status.staged_version = Some(version.clone());
    }
    if draw.seldom(30) {
        let until = now + TimeDelta::minutes(i64::from(draw.below(60)) - 15);
        shadow.spec.stage = Some(StageAhead { version, until });
    }
}

fn failure(draw: &mut Draw<'_>, now: DateTime<Utc>) -> Failure {
    use FailureReason::{BootedOtherVersion, DrainTimeout, RebootTimeout, StageFailed, Unhealthy};
    Failure {
        reason: draw.of(&[
            StageFailed,
            DrainTimeout,
            RebootTimeout,
            BootedOtherVersion,
            Unhealthy,
        ]),
        message: "it failed".to_owned(),
        at: draw.before(now, 20),
        count: 1 + draw.below(3),
    }
}

fn disruption(draw: &mut Draw<'_>, now: DateTime<Utc>, way: &Way) -> Disruption {
    Disruption {
        plan_uid: format!("uid-{}", way.plan),
        run: if draw.seldom(20) {
            "run-before".to_owned()
        } else {
            run_of(&way.plan)
        },
        wave: way.wave.clone(),
        attempt: way.attempt,
        cordoned_at: draw.before(now, 60),
        annotations_before: Default::default(),
    }
}
