//! What is done to nodes, shadows and plans, and what is said of those that nothing is done to.

use api::{
    ledger::{Grant, GrantPhase, PlanEntry},
    shadow::{BottlerocketShadowSpec, Failure, FailureReason, NodeState},
    verdict::Verdict,
};
use planner::{
    decisions::{Action, Decisions, NodeVerdict},
    world::{NodeFacts, PlanFacts},
};

use super::Judge;
use crate::rules::{
    before_permit, could_start, counts, down_in_install, install_limit, is_gated, is_older, is_valid,
    leaves_alone, on_target, outlasted, owner, runs, spec,
};

impl<'a> Judge<'a> {
    pub(super) fn action(&self, action: &Action) {
        let named = |name: &String| {
            self.world
                .nodes
                .iter()
                .find(|node| node.name == *name)
                .expect("the node is there")
        };
        let plan_named = |name: &String| {
            self.world
                .plans
                .iter()
                .find(|plan| plan.name == *name)
                .expect("the plan is there")
        };
        match action {
            Action::AddFinalizer { plan } => {
                let plan = plan_named(plan);
                assert!(!plan.finalizer && !plan.deleting, "S12: {}", plan.name);
            }
            Action::RemoveFinalizer { plan } => {
                let plan = plan_named(plan);
                let granted = self.after.grants.values().any(|grant| grant.plan == plan.uid);
                assert!(
                    plan.finalizer && !granted,
                    "S12: {} goes before its grants",
                    plan.name
                );
            }
            Action::Cordon { node, disruption } => {
                let node = named(node);
                let grant = self
                    .after
                    .grants
                    .get(&node.uid)
                    .expect("S1: cordoned without a grant");
                assert_eq!(
                    (grant.phase, &grant.ending),
                    (GrantPhase::Granted, &None),
                    "S5: {}",
                    node.name
                );
                assert_eq!(
                    (&disruption.run, disruption.attempt),
                    (&grant.run, grant.attempt),
                    "S3: {}",
                    node.name
                );
                assert!(
                    !node.unschedulable && node.disruption.is_none(),
                    "S9: {}",
                    node.name
                );
                let plan = self
                    .plan(&grant.plan)
                    .expect("S12: cordoned by a plan that is gone");
                assert!(
                    self.windows(plan).is_open(self.now),
                    "S4: {} is cordoned outside a window",
                    node.name
                );
                assert!(
                    node.opt_out.is_none() && !self.after.stop,
                    "S12: {} is cordoned though it was taken out, or all is stopped",
                    node.name
                );
            }
            Action::Uncordon { node, disruption } => {
                assert_eq!(named(node).disruption.as_ref(), Some(disruption), "S9: {node}");
            }
            Action::SetShadow { node, spec: new } => {
                let node = named(node);
                let grant = self.after.grants.get(&node.uid);
                let ours = grant.filter(|grant| {
                    (new.run.as_ref(), new.attempt) == (Some(&grant.run), Some(grant.attempt))
                });
                let forth = match new.state {
                    NodeState::Idle | NodeState::ErrorReset => return self.goes_back(node, new, grant),
                    NodeState::StagedAndPerformedUpdate => [GrantPhase::Granted].as_slice(),
                    NodeState::RebootedIntoUpdate => &[GrantPhase::Drained, GrantPhase::Rebooting],
                    NodeState::MonitoringUpdate => &[GrantPhase::Monitoring],
                };
                let grant =
                    ours.unwrap_or_else(|| panic!("S3: {} is told {new:?} without a grant", node.name));
                assert!(
                    forth.contains(&grant.phase) && grant.ending.is_none(),
                    "S5: {} is told {new:?}",
                    node.name
                );
                assert_eq!(new.version.as_ref(), Some(&grant.to), "S8: {}", node.name);
                assert_eq!(new.wave.as_ref(), Some(&grant.wave), "S10: {}", node.name);
                let down = is_older(&grant.to, &grant.from);
                assert_eq!(
                    new.downgrade == Some(true),
                    down,
                    "S8: {} is told that it may go down",
                    node.name
                );
                let may = self
                    .plan(&grant.plan)
                    .is_some_and(|plan| plan.spec.allow_downgrade);
                assert!(
                    !before_permit(grant) || node.opt_out.is_none() && !self.after.stop && (may || !down),
                    "S8, S12: {} is told {new:?}",
                    node.name
                );
                assert!(
                    new.outlasted == Some(true) || !outlasted(node, &grant.run),
                    "L1: {} forgets that it has outlasted a window",
                    node.name
                );
            }
        }
    }

    /// A node that is told to go back, or that it is done: a failure is counted once, and what is no failure is not.
    fn goes_back(&self, node: &NodeFacts, new: &BottlerocketShadowSpec, grant: Option<&Grant>) {
        let (found, name) = (spec(node).unwrap(), &node.name);
        let Some(grant) = grant else {
            assert_eq!(new.state, NodeState::Idle, "S3: {name} is reset without a grant");
            let added = new.failure.as_ref().filter(|_| new.failure != found.failure);
            // What fails after a retry is not before it, whatever the clock was then.
            let of_run = |entry: &&PlanEntry| Some(&entry.run) == new.run.as_ref();
            let entries = self.after.plans.values().filter(of_run);
            let retried = entries.filter_map(|entry| entry.actions.retried_at).max();
            let at = retried.map_or(self.now, |at| at.max(self.now));
            let unhealthy =
                |failure: &Failure| failure.reason == FailureReason::Unhealthy && failure.at == at;
            let watched = !node.ready && node.opt_out.is_none();
            assert!(
                added.is_none_or(|failure| unhealthy(failure) && watched),
                "S10: {name} has failed: {added:?}"
            );
            return;
        };
        assert_eq!(
            (new.run.as_ref(), new.attempt),
            (Some(&grant.run), Some(grant.attempt)),
            "S3: {name}"
        );
        // Only ours is in ErrorReset, and what led there was counted on the way.
        let is_counted =
            (found.state, &found.run, found.attempt) == (NodeState::ErrorReset, &new.run, new.attempt);
        let entry = self.after.plans.get(&grant.plan);
        let since = entry.filter(|entry| entry.run == grant.run);
        let since = since.and_then(|entry| entry.actions.retried_at);
        let so_far = found.failure.as_ref().filter(|failure| {
            let forgiven = since.is_some_and(|since| failure.at < since) && !is_counted;
            found.run.as_ref() == Some(&grant.run) && !forgiven
        });
        let Some(ending) = &grant.ending else {
            let done =
                (new.state, grant.phase, &new.failure) == (NodeState::Idle, GrantPhase::Monitoring, &None);
            assert!(done, "S5: {name} is told {new:?} in {}", grant.phase);
            assert_eq!(runs(node), Some(grant.to.as_str()), "S7: {name} is done");
            assert!(node.ready, "S7: {name} is done, and not Ready");
            assert_eq!(new.outlasted, None, "L8: {name} is done, and was in time");
            return;
        };
        assert_eq!(
            new.outlasted == Some(true),
            ending.outlasted || outlasted(node, &grant.run),
            "L1: whether {name} has outlasted a window"
        );
        let is_told = |reason: &FailureReason| (counts(*reason) || leaves_alone(*reason)) && !is_counted;
        match ending.failure.filter(is_told) {
            Some(reason) => {
                let count = u32::from(counts(reason)) + so_far.map_or(0, |failure| failure.count);
                let failure = new.failure.as_ref().expect("S11: a failure is written down");
                assert_eq!(
                    (failure.reason, failure.at, failure.count),
                    (reason, ending.at, count),
                    "S11: {name}"
                );
            }
            None => assert_eq!(new.failure.as_ref(), so_far, "S11: {name} has not failed again"),
        }
        let failed = ending.failure.is_some_and(counts);
        assert!(
            failed || new.state == NodeState::Idle,
            "S9: {name} is reset for nothing"
        );
    }

    /// Every node that does not move has one verdict of its owner.
    pub(super) fn explained(&self, decisions: &Decisions) {
        for node in &self.world.nodes {
            let Some(owner) = owner(self.world, self.before, node) else {
                continue;
            };
            let of_owner = decisions
                .verdicts
                .iter()
                .filter(|v| (&*v.node, &*v.plan) == (&*node.name, &*owner.name));
            let of_owner: Vec<_> = of_owner.collect();
            let found = of_owner.len();
            let stuck = |v: &NodeVerdict| ["DrainBlocked", "AgentSilent"].contains(&v.verdict.reason());
            let granted =
                self.before.grants.contains_key(&node.uid) || self.after.grants.contains_key(&node.uid);
            assert!(found <= 1, "{} has {found} verdicts", node.name);
            let asks =
                |action: &Action| matches!(action, Action::AddFinalizer { plan } if *plan == owner.name);
            // What is done comes after the ledger.
            let starts =
                !owner.finalizer && (decisions.ledger.is_some() || decisions.actions.iter().any(asks));
            assert!(found == 1 || granted || starts, "{} has no verdict", node.name);
            assert!(
                !self.after.grants.contains_key(&node.uid) || of_owner.iter().all(|v| stuck(v)),
                "{} is granted, and waits",
                node.name
            );
            if let Some(entry) = self.after.plans.get(&owner.uid) {
                of_owner
                    .iter()
                    .for_each(|found| self.is_so(node, owner, entry, &found.verdict));
            }
        }
    }

    /// What a verdict says of people's doing is so; and where they have stopped the node, it says that.
    fn is_so(&self, node: &NodeFacts, plan: &PlanFacts, entry: &PlanEntry, verdict: &Verdict) {
        let (name, granted) = (&node.name, self.after.grants.contains_key(&node.uid));
        let left_out =
            node.opt_out.is_some() && !granted && !(is_valid(plan) && on_target(node, plan, entry));
        assert_eq!(
            matches!(verdict, Verdict::OptedOut { .. }),
            left_out,
            "{name}: {verdict:?}"
        );
        let rests = plan.deleting || plan.spec.paused || !is_valid(plan);
        let could = could_start(self.now, node, plan, entry, &self.world.settings);
        let stopped = self.after.stop && !rests;
        let is_stopped = matches!(verdict, Verdict::Stopped);
        assert!(!is_stopped || stopped, "{name}: nobody has stopped the install");
        assert!(
            is_stopped || granted || !(stopped && could),
            "{name}: {verdict:?}, and the install is stopped"
        );
        match verdict {
            Verdict::AwaitingApproval { wave, run } => {
                let mut waves = plan.spec.waves.iter();
                let gated = waves.any(|known| known.name == *wave && is_gated(known, entry));
                assert!(gated && *run == entry.run, "{name} does not wait for {wave}");
            }
            // Those that will be granted as soon as the finalizers of their plans are there are counted already.
            Verdict::BudgetSpent { limit, .. }
                if limit == "install" && self.world.plans.iter().all(|plan| plan.finalizer) =>
            {
                let down = down_in_install(self.world, self.after);
                let max = install_limit(self.world, self.after);
                assert!(max.is_some_and(|max| down >= max), "{name}: {down} of {max:?}");
            }
            _ => {}
        }
    }
}
