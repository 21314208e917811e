//! What may become of grants, of plans, and of nodes that their plan does not want any more.

use api::{
    ledger::{Grant, GrantPhase},
    shadow::NodeState,
};
use chrono::TimeDelta;
use planner::world::{NodeFacts, PlanFacts};

use super::Judge;
use crate::rules::{
    before_permit, is_older, is_valid, may_finish, outlasted, owned, runs, selects, share, spec, takes_part,
    target,
};

impl<'a> Judge<'a> {
    /// What may become of a grant.
    pub(super) fn goes_on(&self, uid: &str, before: &Grant) {
        use GrantPhase::{Drained, Granted, Monitoring, Rebooting, Withdrawing};
        let node = self.node(uid);
        let Some(after) = self.after.grants.get(uid) else {
            let Some(node) = node else { return };
            assert!(
                node.disruption.is_none(),
                "S9: {} is released with our cordon",
                node.name
            );
            let over = before.phase == Monitoring || before.phase == Withdrawing || before.ending.is_some();
            assert!(over, "S3: {} is released in {}", node.name, before.phase);
            if let Some(spec) = spec(node) {
                let is_back = match spec.state {
                    NodeState::Idle => true,
                    NodeState::ErrorReset => before.ending.is_some(),
                    _ => false,
                };
                assert!(is_back, "S9: {} is released in {:?}", node.name, spec.state);
                let ours = (spec.run.as_ref(), spec.attempt) == (Some(&before.run), Some(before.attempt));
                assert!(ours, "S3: {} was not told of {before:?}", node.name);
            }
            return;
        };
        assert!(
            node.is_some(),
            "S3, L5: the grant of a node that is gone stays: {after:?}"
        );
        let identity = |grant: &Grant| {
            let Grant {
                node,
                plan,
                run,
                wave,
                attempt,
                from,
                to,
                permit,
                ..
            } = grant.clone();
            (node, plan, run, wave, attempt, from, to, permit)
        };
        assert_eq!(identity(before), identity(after), "S3: a grant becomes another");
        let on = before.phase == after.phase
            || matches!(
                (before.phase, after.phase),
                (Granted, Drained) | (Rebooting, Monitoring) | (Granted | Drained, Withdrawing)
            );
        assert!(on, "S5: {} becomes {}", before.phase, after.phase);
        assert!(
            before.ending.is_none() || before.ending == after.ending,
            "{after:?}"
        );
        let (Some(plan), Some(node)) = (self.plan(&after.plan), node) else {
            return;
        };
        self.outlasts(node, plan, before, after);
        if (before.phase, after.phase) == (Rebooting, Monitoring) {
            let boot = node
                .shadow
                .as_ref()
                .and_then(|shadow| shadow.status.as_ref()?.boot_id.as_ref());
            assert_eq!(runs(node), Some(before.to.as_str()), "S7: {}", node.name);
            let earlier = before.permit.as_ref().map(|permit| &permit.boot_id);
            assert!(
                node.ready && boot == Some(&node.boot_id) && boot != earlier,
                "S7: {} has not rebooted",
                node.name
            );
        }
        if before.not_after != after.not_after && is_valid(plan) {
            let windows = self.windows(plan);
            let open = match after.not_after {
                Some(end) => windows.is_open_until(self.now, end),
                None => {
                    may_finish(plan, windows, after, node)
                        || windows.is_open_until(self.now, self.now + TimeDelta::days(3))
                }
            };
            assert!(open, "S4: {} may reboot until {:?}", node.name, after.not_after);
        }
    }

    /// A node whose window is over goes back and is tried again, once. Where it was so before in this run, it has failed.
    fn outlasts(&self, node: &NodeFacts, plan: &PlanFacts, before: &Grant, after: &Grant) {
        let (None, Some(ending)) = (&before.ending, &after.ending) else {
            return;
        };
        let name = &node.name;
        let again = outlasted(node, &after.run);
        if ending.outlasted {
            let over =
                before.not_after.is_some_and(|end| end <= self.now) && !self.windows(plan).is_open(self.now);
            // Nor is it the node's fault the first time that nobody knows its pods.
            let cordon = node.disruption.as_ref().filter(|_| node.drain.is_none());
            let unknown = cordon.is_some_and(|cordon| cordon.cordoned_at < self.now);
            assert!(
                (over || unknown) && before_permit(before),
                "L1: {name} has outlasted no window"
            );
            assert!(
                ending.failure.is_none() || again,
                "L1: {name} has failed the first time"
            );
            // What it does while it is drained may be nobody's fault.
            let staged = before.phase == GrantPhase::Granted && node.disruption.is_some();
            assert!(
                ending.failure.is_some() || !again || staged,
                "L1: {name} would be tried for ever"
            );
        }
    }

    /// S12: what a plan says now is recorded before anything is done.
    pub(super) fn recorded(&self) {
        for plan in &self.world.plans {
            let Some(entry) = self.after.plans.get(&plan.uid) else {
                assert!(
                    plan.deleting || !is_valid(plan),
                    "S12: {} is not recorded",
                    plan.name
                );
                continue;
            };
            assert_eq!(entry.generation, plan.generation, "S12: {}", plan.name);
            assert!(
                entry.paused || !(plan.deleting || (plan.spec.paused && is_valid(plan))),
                "S12: {}",
                plan.name
            );
            let same_run = self
                .before
                .plans
                .get(&plan.uid)
                .filter(|before| before.run == entry.run);
            let Some(before) = same_run else { continue };
            let was_halted = before.halted && !self.is_retried(plan);
            assert!(
                entry.halted || !was_halted,
                "S11: {} is halted no more",
                plan.name
            );
            if is_valid(plan) && !was_halted {
                let matched = owned(self.world, self.before, plan);
                let failed = self.failed(plan, entry, &matched);
                let threshold = share(plan.spec.failure_policy.threshold, matched.len()).max(1);
                assert_eq!(
                    entry.halted,
                    failed >= threshold,
                    "S11: {}: {failed} of {threshold} have failed",
                    plan.name
                );
            }
        }
    }

    /// S12: a node that does not reboot yet is on its way back where its plan does not want it any more.
    pub(super) fn withdrawn(&self) {
        for (uid, grant) in self
            .after
            .grants
            .iter()
            .filter(|(_, grant)| before_permit(grant) && grant.ending.is_none())
        {
            let node = self.node(uid).expect("S3: the node is there");
            let who = format!("{} in {}", node.name, grant.phase);
            let plan = self
                .plan(&grant.plan)
                .unwrap_or_else(|| panic!("S12: {who}: its plan is gone"));
            assert!(
                is_valid(plan) && !plan.deleting && !plan.spec.paused,
                "S12: {who}"
            );
            let entry = &self.after.plans[&plan.uid];
            // Where it is not known what the node is to run, it may go on to what was known.
            let to = target(plan, entry, node).unwrap_or(&grant.to);
            assert_eq!((grant.to.as_str(), &grant.run), (to, &entry.run), "S12: {who}");
            let down = is_older(&grant.to, &grant.from);
            assert!(!down || plan.spec.allow_downgrade, "S8: {who} goes down");
            assert!(!self.after.stop, "S12: {who} though the install is stopped");
            assert_eq!(node.opt_out, None, "S3: {who} was taken out");
            assert!(
                takes_part(node) && selects(&plan.spec.node_selector, &node.labels),
                "S12: {who} is selected no more"
            );
            let closed = grant.not_after.is_some_and(|end| self.now >= end);
            assert!(!closed, "S4: {who} after its window");
            let windows = self.windows(plan);
            assert!(
                windows.is_open(self.now) || may_finish(plan, windows, grant, node),
                "S4: {who} outside a window"
            );
            let was_halted = self
                .before
                .plans
                .get(&plan.uid)
                .is_some_and(|before| before.run == entry.run && before.halted);
            assert!(
                !was_halted || self.is_retried(plan),
                "S11: {who} though its plan is halted"
            );
        }
    }
}
