//! S11: once as many nodes have failed as the plan allows, the ledger says that the run is halted, and nothing more is
//! granted in it.

use std::collections::BTreeMap;

use api::shadow::FailureReason;
use chrono::{DateTime, TimeDelta, Utc};

use super::changes::LedgerChange;
use super::offers::Wanted;
use super::runs::RunKey;
use super::{Check, LAG, Moment, Promise, Report};
use crate::history::Change;

/// How long it may take to write down that the plan is halted.
const REACTION: TimeDelta = TimeDelta::seconds(2);

#[derive(Default)]
pub(super) struct Contain {
    /// When each run's threshold was reached, by the run and when it was last retried.
    reached: BTreeMap<(RunKey, Option<DateTime<Utc>>), DateTime<Utc>>,
}

impl Contain {
    fn look(&mut self, now: &Moment<'_>, report: &mut Report) {
        let Some(ledger) = now.state.ledger(&now.case.expectations.namespace) else {
            return;
        };
        for (uid, entry) in &ledger.spec.plans {
            let Some(plan) = now.case.plan(uid, entry.generation) else {
                continue;
            };
            let policy = &plan.spec.failure_policy;
            let run = now.tracks.run(uid, &entry.run);
            // Retried by this very revision: what had failed counts no more.
            if run.retried_at != entry.actions.retried_at {
                continue;
            }
            let failed = &run.failed;
            let failed = failed
                .values()
                .filter(|failures| failures.are_final(policy.retries));
            // A node that was given up for not coming back, and is back on the target, is judged afresh.
            let failed = failed.filter(|failures| {
                let back = Wanted::of(entry).is_reached(now.case.machines.of(&failures.node), now.at);
                failures.reason != FailureReason::RebootTimeout || !back
            });
            let failed = failed.count();
            if failed == 0
                || failed
                    < policy
                        .threshold
                        .at_least(now.tracks.matched(now.case, plan, now.state).len())
            {
                continue;
            }
            let since = *self
                .reached
                .entry(((uid.clone(), entry.run.clone()), run.retried_at))
                .or_insert(now.at);
            if !entry.halted && now.at - since > REACTION + LAG {
                let message = format!(
                    "plan {} is not halted, though {failed} nodes have failed",
                    entry.name
                );
                report.add(Promise::S11, now.at, message);
            }
        }
    }
}

impl Check for Contain {
    fn changed(&mut self, now: &Moment<'_>, _change: &Change, report: &mut Report) {
        self.look(now, report);
    }

    fn ledger(&mut self, now: &Moment<'_>, change: &LedgerChange, report: &mut Report) {
        let entry = |ledger: &Option<api::ledger::UpdateLedgerSpec>, uid: &String| {
            ledger.as_ref().and_then(|ledger| ledger.plans.get(uid).cloned())
        };
        for (uid, before) in change
            .before
            .iter()
            .flat_map(|before| &before.plans)
            .filter(|(_, e)| e.halted)
        {
            let lifted = entry(&change.after, uid).filter(|after| after.run == before.run && !after.halted);
            // One retry for each that somebody has asked for.
            let retried = lifted.as_ref().is_some_and(|after| {
                let done = now.tracks.run(uid, &after.run).retries;
                after.actions.retried_at != before.actions.retried_at
                    && now.tracks.asked().retries(uid, &after.run) > done
            });
            if lifted.is_some() && !retried {
                report.add(
                    Promise::S11,
                    now.at,
                    format!("plan {} was halted, and went on in the same run", before.name),
                );
            }
        }
        for (_, grant) in &change.made {
            let halted = |ledger| entry(ledger, &grant.plan).is_some_and(|e| e.run == grant.run && e.halted);
            if halted(&change.before) || halted(&change.after) {
                report.add(
                    Promise::S11,
                    now.at,
                    format!("node {} was granted in a halted run", grant.node),
                );
            }
        }
    }

    fn ended(&mut self, now: &Moment<'_>, report: &mut Report) {
        self.look(now, report);
    }
}
