//! A step for people: what it is, and what is different after it.

use std::fmt::Write as _;

use crate::{
    model::Model,
    objects::{disruption, is_cordoned, is_ready},
    state::{Key, PLANS, State},
    steps::Step,
};

/// A step in one line.
#[must_use]
pub fn line(model: &Model, step: Step, before: &State, after: &State) -> String {
    let (old, new) = (facts(model, before), facts(model, after));
    let changes = old.iter().zip(&new).filter(|(old, new)| old != new);
    let mut line = format!("{step}");
    for (_, new) in changes {
        let _ = write!(line, "; {new}");
    }
    line
}

fn facts(model: &Model, state: &State) -> Vec<String> {
    let mut facts = vec![format!("tick {}", state.now)];
    for (p, id) in state.plans.iter().enumerate().take(model.config.plans.len()) {
        let plan = model.plans.get(*id).map_or_else(
            || "gone".to_owned(),
            |plan| {
                let metadata = &plan.metadata;
                format!(
                    "generation {} paused {} deleted {} held {}",
                    metadata.generation.unwrap_or_default(),
                    plan.spec.paused,
                    metadata.deletion_timestamp.is_some(),
                    metadata.finalizers.as_ref().is_some_and(|held| !held.is_empty())
                )
            },
        );
        facts.push(format!("p{p}: {plan}"));
        let entry = model.entries.get(state.ledger.entries[p]);
        facts.push(entry.map_or_else(
            || format!("p{p} unrecorded"),
            |entry| {
                format!(
                    "p{p} recorded: generation {} paused {} halted {} wave {}",
                    entry.generation, entry.paused, entry.halted, entry.open_wave
                )
            },
        ));
    }
    for n in 0..model.config.nodes {
        node(model, state, n, &mut facts);
    }
    for c in 0..model.config.controllers {
        controller(model, state, c, &mut facts);
    }
    let late: Vec<_> = state.late.iter().filter_map(|write| Key::of(write.key)).collect();
    facts.push(format!("late {late:?} ledger {}", state.late_swap.sent));
    facts
}

fn controller(model: &Model, state: &State, c: usize, facts: &mut Vec<String>) {
    let of = &state.controllers[c];
    let keys = (0..PLANS)
        .map(Key::Plan)
        .chain((0..model.config.nodes).flat_map(|n| [Key::Node(n), Key::Shadow(n)]));
    let stale: Vec<_> = keys.filter(|key| of.known(*key) != 0).collect();
    facts.push(format!("c{c}: lags {stale:?} ledger {}", of.ledger.is_some()));
    let writes: Vec<_> = of
        .writes
        .iter()
        .filter_map(|write| Some((Key::of(write.key)?, write.unchanged)))
        .collect();
    facts.push(format!("c{c}: writes {writes:?} ledger {}", of.swap.sent));
    let drains: Vec<_> = of
        .drains
        .iter()
        .map(|drain| drain.cordon.min(1) + u32::from(drain.found))
        .collect();
    facts.push(format!("c{c}: drains {drains:?}"));
}

fn node(model: &Model, state: &State, n: usize, facts: &mut Vec<String>) {
    let of = &state.nodes[n];
    let grant = model.grants.get(state.ledger.grants[n]);
    facts.push(grant.map_or_else(
        || format!("n{n}: no grant"),
        |grant| {
            format!(
                "n{n}: grant {}/{} {} until {:?} permit {:?} ending {:?} since {}",
                grant.plan,
                grant.attempt,
                grant.phase,
                grant.not_after.map(crate::time::tick_of),
                grant.permit.as_ref().map(|permit| &permit.boot_id),
                grant
                    .ending
                    .as_ref()
                    .map(|ending| (ending.failure, crate::time::tick_of(ending.at))),
                crate::time::tick_of(grant.phase_since),
            )
        },
    ));
    if let Some(node) = model.nodes.get(of.object) {
        let attempt = disruption(&node).map(|d| (d.attempt, crate::time::tick_of(d.cordoned_at)));
        facts.push(format!(
            "n{n}: ready {} cordoned {} by {attempt:?}",
            is_ready(&node),
            is_cordoned(&node)
        ));
    }
    if let Some(shadow) = model.shadows.get(of.shadow) {
        let spec = &shadow.spec;
        let failure = spec.failure.as_ref().map(|f| (f.reason, f.count));
        facts.push(format!(
            "n{n}: asked {}/{:?} failed {failure:?}",
            spec.state, spec.attempt
        ));
        if let Some(status) = &shadow.status {
            facts.push(format!(
                "n{n}: says {}/{:?} {} {:?} saved {} error {:?}",
                status.current_state,
                status.attempt,
                status.current_version,
                status.boot_id,
                status.saved_settings.is_some(),
                status.error.as_ref().map(|error| error.reason)
            ));
        }
    }
    if let Some(host) = model.hosts.get(of.host) {
        facts.push(format!(
            "n{n}: up {} runs {} boot {} flagged {} lock {} {:?}",
            host.up, host.version, host.boots, host.flagged, host.lock, host.running
        ));
    }
    let agent = model.agents.get(of.agent);
    facts.push(agent.map_or_else(
        || format!("n{n}: no agent"),
        |agent| {
            let op = format!("{:?}", agent.op);
            let op = op.split([' ', '(']).next().unwrap_or_default().to_owned();
            format!("n{n}: agent {op} settled {}", agent.memory.settled)
        },
    ));
    facts.push(format!("n{n}: {} pods, asked {:?}", of.pods, of.asked));
}
