//! S12: from the ledger write on that records a pause, an edit or a deletion, nothing is granted by what was before; the
//! status does not run ahead of the ledger, and the finalizer is there as long as there are grants.

use api::UpdatePlan;
use api::names::PLAN_FINALIZER;
use api::plan::Phase;

use super::changes::LedgerChange;
use super::{Check, Moment, Promise, Report};
use crate::history::{Change, key};

pub(super) struct Intent;

impl Check for Intent {
    fn changed(&mut self, now: &Moment<'_>, change: &Change, report: &mut Report) {
        let Change::Plan(pair) = change else {
            return;
        };
        let Some(plan) = pair.after.as_ref().or(pair.before.as_ref()) else {
            return;
        };
        check_finalizer(now, plan, pair.after.is_some(), report);
        let observed = |plan: &UpdatePlan| plan.status.as_ref().and_then(|status| status.observed_generation);
        if let Some(after) = &pair.after
            && let Some(claimed) = observed(after)
            && pair.before.as_ref().and_then(|before| observed(before)) != Some(claimed)
        {
            check_observed(now, after, claimed, report);
        }
    }

    fn ledger(&mut self, now: &Moment<'_>, change: &LedgerChange, report: &mut Report) {
        let Some(after) = &change.after else {
            return;
        };
        for (_, grant) in &change.made {
            let node = &grant.node;
            let mut broken = |message: String| report.add(Promise::S12, now.at, message);
            match after.plans.get(&grant.plan) {
                None => broken(format!(
                    "node {node} was granted for a plan that the ledger does not know"
                )),
                Some(entry) if entry.generation != grant.generation => broken(format!(
                    "node {node} was granted from generation {} of plan {}, and {} is recorded",
                    grant.generation, entry.name, entry.generation
                )),
                Some(entry) if entry.run != grant.run => {
                    broken(format!(
                        "node {node} was granted in a run that plan {} is over with",
                        entry.name
                    ));
                }
                Some(entry) if entry.paused => {
                    broken(format!(
                        "node {node} was granted while plan {} is paused",
                        entry.name
                    ));
                }
                Some(entry) => match now.case.plan_of(grant) {
                    None => broken(format!(
                        "node {node} was granted from a generation of {} that never was",
                        entry.name
                    )),
                    Some(plan) if plan.spec.paused => {
                        broken(format!(
                            "node {node} was granted from a paused generation of plan {}",
                            entry.name
                        ));
                    }
                    Some(plan) if plan.metadata.deletion_timestamp.is_some() => {
                        broken(format!(
                            "node {node} was granted for plan {}, which is being deleted",
                            entry.name
                        ));
                    }
                    Some(_) => {}
                },
            }
        }
        for (uid, before) in change.before.iter().flat_map(|before| &before.plans) {
            if let Some(entry) = after.plans.get(uid)
                && entry.generation < before.generation
            {
                let message = format!(
                    "the ledger went back from generation {} of plan {} to {}",
                    before.generation, before.name, entry.generation
                );
                report.add(Promise::S12, now.at, message);
            }
        }
        for plan in now.state.plans.values() {
            check_finalizer(now, plan, true, report);
        }
    }

    fn ended(&mut self, now: &Moment<'_>, report: &mut Report) {
        let ledger = now.state.ledger(&now.case.expectations.namespace);
        for plan in now.state.plans.values().filter(|plan| has_finalizer(plan)) {
            let uid = plan.metadata.uid.as_ref();
            let granted =
                ledger.is_some_and(|ledger| ledger.spec.grants.values().any(|g| Some(&g.plan) == uid));
            if now.case.expectations.quiet && !granted {
                let message = format!("plan {} has the finalizer, and no grants", key(plan.as_ref()));
                report.add(Promise::S12, now.at, message);
            }
        }
    }
}

/// A plan with grants has the finalizer, so that it is there until they are gone.
fn check_finalizer(now: &Moment<'_>, plan: &UpdatePlan, exists: bool, report: &mut Report) {
    let ledger = now.state.ledger(&now.case.expectations.namespace);
    let uid = plan.metadata.uid.as_ref();
    let granted =
        ledger.is_some_and(|ledger| ledger.spec.grants.values().any(|grant| Some(&grant.plan) == uid));
    if granted && !exists {
        report.add(
            Promise::S12,
            now.at,
            format!("plan {} is gone, and still has grants", key(plan)),
        );
    } else if granted && !has_finalizer(plan) {
        report.add(
            Promise::S12,
            now.at,
            format!("plan {} has grants, and no finalizer", key(plan)),
        );
    }
}

fn has_finalizer(plan: &UpdatePlan) -> bool {
    plan.metadata
        .finalizers
        .iter()
        .flatten()
        .any(|finalizer| finalizer == PLAN_FINALIZER)
}

/// A plan that cannot be carried out, has no nodes or is on its way out need not be in the ledger.
fn check_observed(now: &Moment<'_>, plan: &UpdatePlan, claimed: i64, report: &mut Report) {
    let ledger = now.state.ledger(&now.case.expectations.namespace);
    let uid = plan.metadata.uid.as_deref().unwrap_or_default();
    let recorded = ledger
        .and_then(|ledger| ledger.spec.plans.get(uid))
        .map(|entry| entry.generation);
    let status = plan.status.clone().unwrap_or_default();
    let idle = matches!(status.phase, Some(Phase::Invalid | Phase::Pending)) || status.nodes.matched == 0;
    let exempt = idle || plan.metadata.deletion_timestamp.is_some();
    if recorded.is_none_or(|recorded| recorded < claimed) && !(recorded.is_none() && exempt) {
        let message = format!(
            "the status of plan {} says generation {claimed} before the ledger does",
            key(plan)
        );
        report.add(Promise::S12, now.at, message);
    }
}
