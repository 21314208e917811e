//! L1: what a good end is.

use api::shadow::NodeState;

use crate::{
    model::Model,
    objects::{disruption, is_cordoned, is_ready},
    state::State,
};

/// Whether nothing is left to do: no grant, no cordon of ours, every machine as it was found, and every matched node
/// updated, failed with a reason, or held up by what only people can change.
#[must_use]
pub fn is_good(model: &Model, state: &State) -> bool {
    state.ledger.grants.iter().all(|grant| *grant == 0)
        && state.late.iter().all(|write| write.key == 0)
        && (0..model.config.nodes).all(|n| is_left_well(model, state, n) && is_done(model, state, n))
}

fn is_left_well(model: &Model, state: &State, n: usize) -> bool {
    let facts = &state.nodes[n];
    let (Some(node), Some(host), Some(shadow), Some(ghost)) = (
        model.nodes.get(facts.object),
        model.hosts.get(facts.host),
        model.shadows.get(facts.shadow),
        model.ghosts.get(facts.ghost),
    ) else {
        return false;
    };
    let uncordoned = disruption(&node).is_none() && (!is_cordoned(&node) || ghost.admin);
    // Of a machine that never comes back nothing more can be asked.
    let back = host.up
        && is_ready(&node)
        && host.is_as_found()
        && shadow.spec.state == NodeState::Idle
        && shadow.is_acknowledged();
    uncordoned && (host.dead || back)
}

fn is_done(model: &Model, state: &State, n: usize) -> bool {
    let owner = (0..model.config.plans.len()).find_map(|p| {
        let plan = model.plans.get(state.plans[p])?;
        let takes = model.config.plans[p].nodes.contains(&n) && plan.metadata.deletion_timestamp.is_none();
        takes.then_some((p, plan))
    });
    let Some((p, plan)) = owner else { return true };
    let facts = &state.nodes[n];
    let (Some(node), Some(host), Some(shadow)) = (
        model.nodes.get(facts.object),
        model.hosts.get(facts.host),
        model.shadows.get(facts.shadow),
    ) else {
        return false;
    };
    let entry = model.entries.get(state.ledger.entries[p]);
    let halted = entry.as_ref().is_some_and(|entry| entry.halted);
    let run = entry.map(|entry| entry.run.clone());
    let failure = shadow.spec.failure.as_ref().filter(|_| shadow.spec.run == run);
    let failed = failure.is_some_and(|failure| failure.count > u32::from(model.config.plans[p].retries));
    plan.spec.paused
        || halted
        || host.version == plan.spec.target_version
        || failed
        || host.dead
        || is_cordoned(&node)
        || is_unproven(model, state, p)
        || is_spent(model, state, p)
}

/// Whether nodes that never come back spend the plan's budget.
fn is_spent(model: &Model, state: &State, p: usize) -> bool {
    let plan = &model.config.plans[p];
    let dead = plan.nodes.iter().filter(|n| {
        let host = model.hosts.get(state.nodes[**n].host);
        host.is_some_and(|host| host.dead)
    });
    dead.count() >= plan.max_unavailable
}

/// Whether the canary is through and has proven nothing, so that a person has to say how to go on.
fn is_unproven(model: &Model, state: &State, p: usize) -> bool {
    let entry = model.entries.get(state.ledger.entries[p]);
    model.config.plans[p].canary.is_some()
        && entry.is_some_and(|entry| entry.open_wave == 0)
        && (0..model.config.nodes).any(|n| {
            let shadow = model.shadows.get(state.nodes[n].shadow);
            shadow.is_some_and(|s| s.spec.wave.as_deref() == Some("canary") && s.spec.failure.is_some())
        })
}
