//! Whose a node is, what its plan wants, and in which order.

use api::{
    ledger::{Grant, PlanEntry},
    shadow::NodeState,
};

use super::{Check, ensure, plan_of};
use crate::{
    model::Model,
    objects::{node_name, plan_name},
    state::{Ledger, State},
    time::{TICK, at},
};

/// S3: a node belongs to the first plan that takes it, until that is being deleted.
pub(super) fn belongs(model: &Model, state: &State, p: usize, n: usize) -> Check {
    let first = (0..p).find(|q| {
        let plan = model.plans.get(state.plans[*q]);
        let lives = plan.is_some_and(|plan| plan.metadata.deletion_timestamp.is_none());
        lives && model.config.plans[*q].nodes.contains(&n)
    });
    ensure(first.is_none(), || {
        format!(
            "S3: {} granted by {} belongs to {first:?}",
            node_name(n),
            plan_name(p)
        )
    })
}

/// S12: nothing is granted but the target of the run.
pub(super) fn is_wanted(grant: &Grant, entry: &PlanEntry) -> Check {
    ensure(grant.to == entry.target, || {
        let (node, to, target) = (&grant.node, &grant.to, &entry.target);
        format!("S12: {node} granted to {to}, the target is {target}")
    })
}

/// S12: what the ledger records of a generation is what the plan says in it.
pub(super) fn recorded(model: &Model, state: &State, new: &Ledger) -> Check {
    for p in 0..model.config.plans.len() {
        let (Some(plan), Some(entry)) = (model.plans.get(state.plans[p]), model.entries.get(new.entries[p]))
        else {
            continue;
        };
        let same = plan.metadata.generation == Some(entry.generation);
        let gone = plan.metadata.deletion_timestamp.is_some();
        let told = entry.target == plan.spec.target_version || gone;
        let held = entry.paused || !(plan.spec.paused || gone);
        ensure(!same || told && held, || {
            format!("S12: {} is recorded as {entry:?}", plan_name(p))
        })?;
    }
    Ok(())
}

/// S12: a permit is given as long as the plan that is recorded wants the update.
pub(super) fn still_wants(model: &Model, state: &State, grant: &Grant) -> Check {
    let entry = plan_of(grant).and_then(|p| model.entries.get(state.ledger.entries[p]));
    let wants = entry.is_some_and(|entry| entry.run == grant.run && !entry.paused);
    ensure(wants, || {
        let (node, plan) = (&grant.node, &grant.plan);
        format!("S12: a permit for {node}, which {plan} does not want any more")
    })
}

/// S10: after the canary, and as long as it was to be watched.
pub(super) fn in_order(model: &Model, state: &State, p: usize, grant: &Grant) -> Check {
    let Some(soak) = model.config.plans[p].canary.filter(|_| grant.wave != "canary") else {
        return Ok(());
    };
    let proven = (0..model.config.nodes).any(|n| {
        let (Some(shadow), Some(host)) = (
            model.shadows.get(state.nodes[n].shadow),
            model.hosts.get(state.nodes[n].host),
        ) else {
            return false;
        };
        let spec = &shadow.spec;
        let soaked = spec
            .state_transition_timestamp
            .is_some_and(|since| since + TICK * i32::from(soak) <= at(state.now));
        spec.run.as_ref() == Some(&grant.run)
            && spec.wave.as_deref() == Some("canary")
            && spec.state == NodeState::Idle
            && host.version == grant.to
            && soaked
    });
    ensure(proven, || {
        format!("S10: {} granted before the canary is proven", grant.node)
    })
}
