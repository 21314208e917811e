//! The ledger made anew, where it was lost, from what is on nodes and shadows. Until it is written nothing else is done.

use api::{
    ledger::{Ending, Grant, GrantPhase, Permit, UpdateLedgerSpec},
    plan::LATEST,
    shadow::{Disruption, FailureReason, NodeState},
};
use chrono::{DateTime, Utc};

use crate::{
    decisions::{Decisions, LedgerChange},
    entries, owners,
    spec::ValidPlan,
    world::{NodeFacts, PlanFacts, World},
};

/// The ledger that the nodes and shadows in the world imply.
pub(crate) fn rebuild(now: DateTime<Utc>, world: &World) -> Decisions {
    let mut spec = UpdateLedgerSpec::default();
    for facts in &world.plans {
        if let Ok(valid) = ValidPlan::parse(&facts.spec) {
            let paused = valid.paused || facts.deleting;
            let mut entry = entries::new_run(facts, valid.target, now, None);
            entry.paused = paused;
            spec.plans.insert(facts.uid.clone(), entry);
        }
    }
    for node in &world.nodes {
        if let Some(grant) = implied_grant(now, world, node) {
            spec.grants.insert(node.uid.clone(), grant);
        }
    }
    Decisions {
        ledger: Some(LedgerChange {
            spec,
            by_fresh_nodes: false,
            events: Vec::new(),
        }),
        ..Decisions::default()
    }
}

/// The grant that a disrupted node must have had.
fn implied_grant(now: DateTime<Utc>, world: &World, node: &NodeFacts) -> Option<Grant> {
    let spec = node.shadow.as_ref().map(|shadow| &shadow.spec);
    let status = node.shadow.as_ref().and_then(|shadow| shadow.status.as_ref());
    let state = spec.map_or(NodeState::Idle, |spec| spec.state);
    if state == NodeState::Idle && node.disruption.is_none() {
        return None;
    }
    let plan = plan_of(
        world,
        node.disruption.as_ref(),
        spec.and_then(|spec| spec.plan.as_deref()),
    );
    let asked = spec.filter(|_| state != NodeState::Idle);
    let run = asked
        .and_then(|s| s.run.clone())
        .or_else(|| node.disruption.as_ref().map(|d| d.run.clone()))?;
    let wave = asked
        .and_then(|s| s.wave.clone())
        .or_else(|| node.disruption.as_ref().map(|d| d.wave.clone()));
    let attempt = asked
        .and_then(|s| s.attempt)
        .or_else(|| node.disruption.as_ref().map(|d| d.attempt));
    let from = spec
        .and_then(|s| s.from_version.clone())
        .or_else(|| status.map(|s| s.current_version.clone()));
    let to = spec.and_then(|s| s.version.clone()).or_else(|| {
        plan.map(|p| p.spec.target_version.clone())
            .filter(|target| target != LATEST)
    });
    let mut grant = Grant {
        node: node.name.clone(),
        plan: plan
            .map(|p| p.uid.clone())
            .or_else(|| node.disruption.as_ref().map(|d| d.plan_uid.clone()))?,
        // Older than any plan, so that it is checked against the plan as it is now.
        generation: 0,
        run,
        wave: wave.unwrap_or_default(),
        attempt: attempt.unwrap_or(1),
        from: from.unwrap_or_default(),
        to: to.unwrap_or_default(),
        phase: GrantPhase::Granted,
        granted_at: now,
        phase_since: now,
        not_after: None,
        hosts_operator: node.hosts_operator,
        rebuilt: true,
        permit: None,
        ending: None,
    };
    match state {
        NodeState::StagedAndPerformedUpdate => {}
        // Whether a permit was given is unknown; taking it as given to the boot that staged the update allows that boot
        // to reboot once, inside the window, after the permit's own checks, and no other.
        NodeState::RebootedIntoUpdate => {
            let staged_by = status.filter(|s| s.current_version != grant.to && s.error.is_none());
            let boot_id = staged_by.and_then(|s| s.boot_id.clone()).unwrap_or_default();
            grant.not_after = closes(now, plan, node.disruption.as_ref());
            grant.permit = Some(Permit {
                id: format!("{}-{}-{boot_id}", grant.run, grant.attempt),
                boot_id,
                at: now,
            });
            grant.phase = GrantPhase::Rebooting;
        }
        NodeState::MonitoringUpdate => grant.phase = GrantPhase::Monitoring,
        NodeState::ErrorReset => {
            let failure = spec.and_then(|spec| spec.failure.as_ref());
            grant.phase = GrantPhase::Withdrawing;
            grant.ending = Some(Ending {
                message: failure.map_or_else(|| "failed".to_owned(), |failure| failure.message.clone()),
                failure: Some(failure.map_or(FailureReason::StageFailed, |failure| failure.reason)),
                // The same instant, so that a failure that was counted is not counted again.
                at: failure.map_or(now, |failure| failure.at),
                outlasted: false,
            });
        }
        NodeState::Idle => {
            grant.phase = GrantPhase::Withdrawing;
            let message = "the ledger was lost while the node was cordoned".to_owned();
            grant.ending = Some(Ending {
                message,
                failure: None,
                at: now,
                outlasted: false,
            });
        }
    }
    Some(grant)
}

/// Until when a node may still begin its reboot: now is the end where the plan does not want it.
fn closes(
    now: DateTime<Utc>,
    plan: Option<&PlanFacts>,
    cordon: Option<&Disruption>,
) -> Option<DateTime<Utc>> {
    let wants = plan
        .filter(|plan| !plan.deleting)
        .and_then(|plan| Some((plan, ValidPlan::parse(&plan.spec).ok()?)))
        .map(|(plan, valid)| {
            let entry = entries::new_run(plan, valid.target.clone(), now, None);
            owners::in_run(valid, plan, Some(&entry))
        });
    match wants.filter(|valid| !valid.paused) {
        Some(valid) if valid.may_finish(cordon) => None,
        Some(valid) => valid.windows.at(now).not_after(now),
        None => Some(now),
    }
}

fn plan_of<'a>(
    world: &'a World,
    disruption: Option<&Disruption>,
    name: Option<&str>,
) -> Option<&'a PlanFacts> {
    let by_uid = world
        .plans
        .iter()
        .find(|plan| disruption.is_some_and(|d| d.plan_uid == plan.uid));
    by_uid.or_else(|| world.plans.iter().find(|plan| name == Some(plan.name.as_str())))
}
