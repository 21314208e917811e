//! S11: who has failed, and when that is forgotten.

use api::{ledger::UpdateLedgerSpec, shadow::FailureReason};
use planner::world::World;

use super::super::rules::runs_target;
use super::Checker;

impl Checker {
    /// A retry that somebody has asked for takes back what has failed before; nothing else does.
    pub(super) fn forget_failures(&mut self, world: &World, new: &UpdateLedgerSpec) {
        for (uid, entry) in &new.plans {
            let before = world.ledger.as_ref().and_then(|old| old.plans.get(uid));
            let before = before.filter(|before| before.run == entry.run);
            let retried = before.is_some_and(|before| before.actions.retried_at != entry.actions.retried_at);
            if retried {
                assert!(
                    self.approvals.retries(uid, &entry.run),
                    "S11: {} is retried",
                    entry.name
                );
                self.failed.remove(&entry.run);
            }
            let lifted = before.is_some_and(|before| before.halted && !entry.halted);
            assert!(!lifted || retried, "S11: {} goes on", entry.name);
        }
    }

    /// S11 counts a node once it is given up: a node that cannot be tried again, or whose tries are used up.
    pub(super) fn count_failures(&mut self, world: &World, new: &UpdateLedgerSpec) {
        for node in &world.nodes {
            let Some(spec) = node.shadow.as_ref().map(|shadow| &shadow.spec) else {
                continue;
            };
            let (Some(failure), Some(run)) = (&spec.failure, &spec.run) else {
                continue;
            };
            let Some((uid, entry)) = new.plans.iter().find(|(_, entry)| entry.run == *run) else {
                continue;
            };
            let Some(plan) = world.plans.iter().find(|plan| plan.uid == *uid) else {
                continue;
            };
            if entry.actions.retried_at.is_some_and(|at| failure.at < at) {
                continue;
            }
            let down = failure.reason == FailureReason::RebootTimeout && !node.ready;
            // Whatever it failed by: such as one that crashed with its image activated, and booted it.
            let up_to_date =
                node.ready && runs_target(node, plan, entry) && failure.reason != FailureReason::Unhealthy;
            let failed = self.failed.entry(run.clone()).or_default();
            if up_to_date || node.opt_out.is_some() {
                // L4: one that comes back is judged afresh. One that is taken out is skipped, and has not failed.
                failed.remove(&node.uid);
                continue;
            }
            let spent = failure.count > plan.spec.failure_policy.retries;
            if spent || down || failure.reason == FailureReason::Unhealthy {
                failed.insert(node.uid.clone());
            }
        }
    }
}
