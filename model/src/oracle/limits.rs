//! Limits: of a plan, of the install, and of failures.

use api::{ledger::PlanEntry, shadow::FailureReason};

use super::{Check, ensure, plan_of};
use crate::{
    model::Model,
    objects::{is_cordoned, is_ready, node_name, plan_name},
    state::{Ledger, State},
};

/// S1: our own grants absolutely, other nodes as they were at the beginning of the tick.
pub(super) fn within_budget(model: &Model, state: &State, new: &Ledger, p: usize) -> Check {
    let down = (0..model.config.nodes)
        .filter(|n| owner(model, state, new, *n) == Some(p))
        .filter(|n| is_down(model, state, new, *n));
    let (down, max) = (down.count(), model.config.plans[p].max_unavailable);
    ensure(down <= max, || {
        format!(
            "S1: {down} nodes of {} unavailable, at most {max} may be",
            plan_name(p)
        )
    })
}

/// Which plan a node belongs to: that of its grant, else the first that takes it.
fn owner(model: &Model, state: &State, ledger: &Ledger, n: usize) -> Option<usize> {
    if let Some(grant) = model.grants.get(ledger.grants[n]) {
        return plan_of(&grant);
    }
    (0..model.config.plans.len()).find(|p| {
        let plan = model.plans.get(state.plans[*p]);
        let lives = plan.is_some_and(|plan| plan.metadata.deletion_timestamp.is_none());
        lives && model.config.plans[*p].nodes.contains(&n)
    })
}

/// S11: as many nodes have failed for good as may.
pub(super) fn not_halted(model: &Model, state: &State, old: &Ledger, p: usize) -> Check {
    let Some(entry) = model.entries.get(old.entries[p]) else {
        return Ok(());
    };
    let failed = (0..model.config.nodes).filter(|n| is_given_up(model, state, *n, p, &entry));
    let (failed, threshold) = (failed.count(), model.config.plans[p].threshold);
    ensure(failed < threshold, || {
        format!("S11: {} grants though {failed} nodes have failed", plan_name(p))
    })
}

/// Whether a node has a grant, or was unavailable as the tick began.
fn is_down(model: &Model, state: &State, new: &Ledger, n: usize) -> bool {
    let node = model.nodes.get(state.nodes[n].object);
    let ghost = model.ghosts.get(state.nodes[n].ghost);
    let recent = ghost.is_some_and(|ghost| ghost.recent);
    let unavailable = node.is_some_and(|node| is_cordoned(&node) || !is_ready(&node));
    new.grants[n] != 0 || unavailable && !recent
}

/// S1: the install's own limit, whatever the plans allow.
pub(super) fn within_install(model: &Model, state: &State, new: &Ledger) -> Check {
    let Some(max) = model.config.install else {
        return Ok(());
    };
    let down = (0..model.config.nodes)
        .filter(|n| is_down(model, state, new, *n))
        .count();
    ensure(down <= max as usize, || {
        format!("S1: {down} nodes of the install unavailable, at most {max} may be")
    })
}

/// Whether a node has failed for good in the run that is recorded.
fn is_given_up(model: &Model, state: &State, n: usize, p: usize, entry: &PlanEntry) -> bool {
    let (Some(shadow), Some(host), Some(node)) = (
        model.shadows.get(state.nodes[n].shadow),
        model.hosts.get(state.nodes[n].host),
        model.nodes.get(state.nodes[n].object),
    ) else {
        return false;
    };
    let in_run = shadow.spec.run.as_ref() == Some(&entry.run);
    let failure = shadow.spec.failure.as_ref().filter(|_| in_run);
    failure.is_some_and(|failure| {
        let recovered = host.version == entry.target && is_ready(&node);
        let retries = u32::from(model.config.plans[p].retries);
        failure.reason == FailureReason::Unhealthy || failure.count > retries && !recovered
    })
}

/// S11: who has used his retries is not tried again.
pub(super) fn not_given_up(model: &Model, state: &State, n: usize, p: usize, entry: &PlanEntry) -> Check {
    ensure(!is_given_up(model, state, n, p, entry), || {
        format!("S11: {} is granted again, and has used its retries", node_name(n))
    })
}
