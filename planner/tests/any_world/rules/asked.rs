//! What people ask of a run by annotations of its plan.

use api::{
    ledger::PlanEntry,
    names::{APPROVE_ANNOTATION, RETRY_ANNOTATION, RUN_NOW_ANNOTATION},
    plan::{Approval, Wave},
};
use planner::world::PlanFacts;

fn said<'a>(plan: &'a PlanFacts, annotation: &str) -> impl Iterator<Item = &'a str> {
    let values = plan.annotations.get(annotation).map_or("", String::as_str);
    values.split(',').map(str::trim).filter(|value| !value.is_empty())
}

/// Whether the plan's annotations approve this wave of this run.
pub fn approves(plan: &PlanFacts, run: &str, wave: &str) -> bool {
    said(plan, APPROVE_ANNOTATION).any(|value| value.split_once('/') == Some((run, wave)))
}

/// The tokens with which this run is to be retried, as the ledger records them.
pub fn retries(plan: &PlanFacts, run: &str) -> Vec<String> {
    let tokens = said(plan, RETRY_ANNOTATION).filter_map(|value| value.split_once('/'));
    let of_run = tokens.filter(|(of, token)| *of == run && !token.is_empty());
    of_run.map(|(_, token)| format!("retry {run}/{token}")).collect()
}

/// Whether this run is to run now.
pub fn runs_now(plan: &PlanFacts, run: &str) -> bool {
    said(plan, RUN_NOW_ANNOTATION).any(|value| value == run)
}

/// Whether the run was complete before; that stays so.
pub fn is_complete(plan: &PlanFacts, run: &str) -> bool {
    let known = plan.status.run.as_ref().filter(|known| known.id == run);
    known.is_some_and(|run| run.completed_at.is_some())
}

/// Whether the wave waits for a person who has not approved it.
pub fn is_gated(wave: &Wave, entry: &PlanEntry) -> bool {
    wave.approval == Approval::Manual && !entry.actions.approved.contains_key(&wave.name)
}
