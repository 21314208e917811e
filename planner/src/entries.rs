//! What the ledger records of each plan, so that nobody grants from an older one.

use std::collections::{BTreeMap, HashSet};

use api::{
    ledger::{Actions, PlanEntry, UpdateLedgerSpec},
    plan::{ActionStatus, Run, UpdatePlanStatus, WaveStatus, condition},
};
use chrono::{DateTime, Utc};

use crate::{
    owners::Owned,
    pace,
    plan::Planning,
    targets, waves,
    world::{PlanFacts, World},
};

/// Whether the ledger records a plan as it was later than in this world: as after another controller has seen an edit
/// that is still on its way here. Then nothing is decided. Whatever followed from the older plan would undo what was
/// recorded, and the watch that brings the newer one wakes the controller.
pub(crate) fn is_ahead(world: &World, ledger: &UpdateLedgerSpec) -> bool {
    world.plans.iter().any(|plan| {
        let recorded = ledger.plans.get(&plan.uid);
        recorded.is_some_and(|entry| entry.generation > plan.generation)
    })
}

/// Records the plan as it is now: its generation, whether it is paused or being deleted, and, where the target has
/// changed, a new run.
pub(crate) fn record(planning: &mut Planning<'_>, owned: &Owned<'_>) {
    let facts = owned.facts;
    let recorded = planning.ledger.plans.get(&facts.uid).cloned();
    let recorded = recorded.as_ref();
    let over = recorded.filter(|entry| targets::is_superseded(planning, owned, entry));
    let target = owned.valid.as_ref().ok().map(|valid| valid.target.clone());
    let same_run = recorded
        .filter(|entry| over.is_none() && target.as_ref().is_none_or(|target| *target == entry.target));
    let entry = match (same_run, target) {
        (Some(entry), _) => entry.clone(),
        (None, Some(target)) if !facts.deleting => {
            let mut entry = new_run(facts, target, planning.now, over);
            if let Some(before) = recorded {
                entry.durations.clone_from(&before.durations);
                entry.expected_node_duration = before.expected_node_duration;
                // Annotations that were acted on in the run before are still there.
                entry.actions.taken.extend(before.actions.taken.iter().cloned());
            }
            let note = format!(
                "run {} starts: {} nodes, target {}",
                entry.run,
                owned.nodes.len(),
                entry.target
            );
            planning.event(&facts.name, None, "RunStarted", note, false);
            entry
        }
        // On its way out with another target: that it is deleted is recorded all the same.
        (None, _) => match recorded {
            Some(entry) => entry.clone(),
            // Invalid from the start, or deleted before it was known: there is nothing that could be granted.
            None => return,
        },
    };
    let paused = facts.deleting || owned.valid.as_ref().map_or(entry.paused, |valid| valid.paused);
    let mut entry = PlanEntry {
        name: facts.name.clone(),
        generation: facts.generation,
        paused,
        ..entry
    };
    if owned.valid.is_ok() {
        pace::forget_if_edited(&mut entry, facts.spec.expected_node_duration);
    }
    if let Ok(valid) = &owned.valid
        && !entry.paused
        && !entry.halted
    {
        targets::freeze(planning, owned, valid, &mut entry);
    }
    planning.ledger.plans.insert(facts.uid.clone(), entry);
}

/// The entry of a run that starts now. The run's id depends on plan and generation only, so that everyone who starts
/// it gives it the same name, and on the run `over` that it follows with the same target; a run that the status still knows is
/// taken up again where the ledger was lost.
pub(crate) fn new_run(
    facts: &PlanFacts,
    target: String,
    now: DateTime<Utc>,
    over: Option<&PlanEntry>,
) -> PlanEntry {
    let UpdatePlanStatus { run, conditions, .. } = &facts.status;
    let halted = conditions
        .iter()
        .any(|c| c.type_ == condition::DEGRADED && c.reason == condition::HALTED);
    let known = run.as_ref().filter(|run| over.is_none() && run.target == target);
    // A run that was complete has opened all its waves: newcomers wait for none of them.
    let last_wave = known.filter(|run| run.completed_at.is_some()).and_then(|_| {
        let (last, before) = facts.spec.waves.split_last()?;
        Some((u32::try_from(before.len()).ok()?, last.name.clone()))
    });
    let (open_wave, open_wave_name) = last_wave.unwrap_or_default();
    let fresh = || {
        let after = over.map_or_else(String::new, |over| format!(" after {}", over.run));
        let digest = waves::rank(&facts.uid, &format!("{}{after}", facts.generation));
        format!("{:08x}", digest >> 32)
    };
    PlanEntry {
        name: facts.name.clone(),
        generation: facts.generation,
        run: known.map_or_else(fresh, |run| run.id.clone()),
        started_at: known.map_or(now, |run| run.started_at),
        target,
        targets: known.map_or_else(Vec::new, |run| run.targets.clone()),
        // Nodes that failed may be gone by now, and the halt outlives them.
        halted: known.is_some() && halted,
        wave_started_at: known.map_or_else(BTreeMap::new, |_| {
            wave_times(&facts.status, |wave| wave.started_at)
        }),
        open_wave,
        open_wave_name,
        waiting_since: known
            .filter(|run| run.completed_at.is_none())
            .map(|run| run.started_at),
        durations: pace::remembered(&facts.status),
        expected_node_duration: Some(facts.spec.expected_node_duration),
        actions: known.map_or_else(Actions::default, |run| actions(&facts.status, run)),
        ..PlanEntry::default()
    }
}

/// A time that the status has for some of the waves, by their names.
fn wave_times(
    status: &UpdatePlanStatus,
    time: impl Fn(&WaveStatus) -> Option<DateTime<Utc>>,
) -> BTreeMap<String, DateTime<Utc>> {
    let waves = status.waves.iter();
    waves
        .filter_map(|wave| Some((wave.name.clone(), time(wave)?)))
        .collect()
}

/// What people had asked of a run that is taken up again.
fn actions(status: &UpdatePlanStatus, run: &Run) -> Actions {
    let taken = status.actions.iter().filter(|action| action.taken);
    let record = |action: &ActionStatus| format!("{} {}", action.action, action.value);
    let said = taken
        .clone()
        .filter_map(|action| Some((record(action), action.said.clone()?)));
    Actions {
        said: said.collect(),
        approved: wave_times(status, |wave| wave.approved_at),
        retried_at: run.retried_at,
        run_now: run.run_now_at,
        taken: taken.map(record).collect(),
    }
}

/// Forgets plans that are gone and have no grants.
pub(crate) fn forget(planning: &mut Planning<'_>) {
    let known: HashSet<&str> = planning
        .world
        .plans
        .iter()
        .filter(|plan| !plan.deleting)
        .map(|plan| plan.uid.as_str())
        .collect();
    let granted: HashSet<String> = planning
        .ledger
        .grants
        .values()
        .map(|grant| grant.plan.clone())
        .collect();
    planning
        .ledger
        .plans
        .retain(|uid, _| known.contains(uid.as_str()) || granted.contains(uid));
}
