//! Grants, and what they have led to.

use api::{
    ledger::{Grant, UpdateLedgerSpec},
    shadow::{Disruption, NodeState},
};
use chrono::{DateTime, TimeDelta, Utc};
use planner::world::NodeFacts;
use serde_json::{Value, json};

use super::{Draw, Way, read, run_of};

/// A grant in any phase, by a plan that may be gone, or whose run may be over.
pub fn grant(
    draw: &mut Draw<'_>,
    now: DateTime<Utc>,
    facts: &NodeFacts,
    way: &Way,
    ledger: &UpdateLedgerSpec,
) -> Grant {
    let plan = if draw.seldom(5) {
        "uid-gone".to_owned()
    } else {
        format!("uid-{}", way.plan)
    };
    let entry = ledger.plans.get(&plan);
    let phase = draw.of(&["Granted", "Drained", "Rebooting", "Monitoring", "Withdrawing"]);
    let ends = phase == "Withdrawing" || (draw.seldom(10) && matches!(phase, "Rebooting" | "Monitoring"));
    let at = draw.before(now, 40);
    let failure = if phase == "Withdrawing" && !draw.seldom(40) {
        Value::Null
    } else {
        json!(draw.of(&["StageFailed", "StageFailed", "Unhealthy", "PermitExpired"]))
    };
    read(json!({
        "node": facts.name,
        "plan": plan,
        "generation": entry.map_or(1, |entry| entry.generation) - i64::from(draw.seldom(15)),
        "run": if draw.seldom(8) { "run-before".to_owned() } else { run_of(&way.plan) },
        "wave": way.wave,
        "attempt": way.attempt,
        "from": "1.20.3",
        "to": if draw.seldom(8) { "1.21.7" } else { &way.target },
        "phase": phase,
        "grantedAt": at - TimeDelta::minutes(draw.below(20).into()),
        "phaseSince": at,
        "notAfter": draw.of(&[None, Some(30), Some(-5), Some(-5)]).map(|minutes| now + TimeDelta::minutes(minutes)),
        "permit": matches!(phase, "Rebooting" | "Monitoring")
            .then(|| json!({"id": "permit", "bootId": if draw.seldom(50) { facts.boot_id.as_str() } else { "before" }, "at": at})),
        "ending": ends.then(|| json!({"message": "it ends", "failure": failure, "at": draw.before(now, 10)})),
    }))
}

/// What only some grants are: of a way down, of a node that the operator ran on, at the end of a window.
pub fn further(draw: &mut Draw<'_>, grant: &mut Grant) {
    if draw.seldom(15) {
        "1.22.0".clone_into(&mut grant.from);
    }
    grant.hosts_operator = draw.seldom(25);
    if let Some(ending) = &mut grant.ending {
        ending.outlasted = draw.seldom(40);
    }
}

/// Puts node and shadow where a grant of this phase leads to.
pub fn along(draw: &mut Draw<'_>, facts: &mut NodeFacts, grant: &Grant) {
    use NodeState::{ErrorReset, Idle, MonitoringUpdate, RebootedIntoUpdate, StagedAndPerformedUpdate};
    use api::ledger::GrantPhase::{Drained, Granted, Monitoring, Rebooting, Withdrawing};
    let Some(shadow) = &mut facts.shadow else { return };
    shadow.spec.state = match grant.phase {
        Granted => draw.of(&[Idle, StagedAndPerformedUpdate]),
        Drained => draw.of(&[StagedAndPerformedUpdate, RebootedIntoUpdate]),
        Rebooting => RebootedIntoUpdate,
        Monitoring => draw.of(&[RebootedIntoUpdate, MonitoringUpdate, Idle]),
        Withdrawing => draw.of(&[StagedAndPerformedUpdate, ErrorReset, Idle]),
    };
    if shadow.spec.state == Idle && grant.phase == Granted {
        shadow.spec.run = None;
        shadow.spec.failure = None;
    } else {
        (shadow.spec.run, shadow.spec.attempt) = (Some(grant.run.clone()), Some(grant.attempt));
        (shadow.spec.wave, shadow.spec.version) = (Some(grant.wave.clone()), Some(grant.to.clone()));
        shadow.spec.state_transition_timestamp = Some(grant.phase_since);
    }
    if let Some(status) = &mut shadow.status {
        (status.current_state, status.run, status.attempt) =
            (shadow.spec.state, shadow.spec.run.clone(), shadow.spec.attempt);
    }
    let cordoned = matches!(grant.phase, Drained | Rebooting) || draw.seldom(50);
    facts.disruption = cordoned.then(|| Disruption {
        plan_uid: grant.plan.clone(),
        run: grant.run.clone(),
        wave: grant.wave.clone(),
        attempt: grant.attempt,
        cordoned_at: grant.granted_at,
        annotations_before: Default::default(),
    });
    facts.unschedulable = cordoned;
}
