//! What is done to nodes, shadows and plans, and what is said of those that nothing is done to.

use api::{
    ledger::{Grant, GrantPhase},
    shadow::{BottlerocketShadowSpec, Failure, FailureReason, NodeState},
};
use planner::{
    decisions::{Action, Decisions, NodeVerdict},
    world::NodeFacts,
};

use super::Judge;
use crate::rules::{counts, is_open, owner, runs, spec};

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
                    is_open(&plan.spec, self.now),
                    "S4: {} is cordoned outside a window",
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
            }
        }
    }

    /// A node that is told to go back, or that it is done: a failure is counted once, and what is no failure is not.
    fn goes_back(&self, node: &NodeFacts, new: &BottlerocketShadowSpec, grant: Option<&Grant>) {
        let (found, name) = (spec(node).unwrap(), &node.name);
        let Some(grant) = grant else {
            assert_eq!(new.state, NodeState::Idle, "S3: {name} is reset without a grant");
            let added = new.failure.as_ref().filter(|_| new.failure != found.failure);
            let unhealthy =
                |failure: &Failure| failure.reason == FailureReason::Unhealthy && failure.at == self.now;
            assert!(
                added.is_none_or(|failure| unhealthy(failure) && !node.ready),
                "S10: {name} has failed: {added:?}"
            );
            return;
        };
        assert_eq!(
            (new.run.as_ref(), new.attempt),
            (Some(&grant.run), Some(grant.attempt)),
            "S3: {name}"
        );
        let so_far = found
            .failure
            .as_ref()
            .filter(|_| found.run.as_ref() == Some(&grant.run));
        let Some(ending) = &grant.ending else {
            let done =
                (new.state, grant.phase, &new.failure) == (NodeState::Idle, GrantPhase::Monitoring, &None);
            assert!(done, "S5: {name} is told {new:?} in {}", grant.phase);
            assert_eq!(runs(node), Some(grant.to.as_str()), "S7: {name} is done");
            assert!(node.ready, "S7: {name} is done, and not Ready");
            return;
        };
        // Only ours is in ErrorReset, and what led there was counted on the way.
        let is_counted =
            (found.state, &found.run, found.attempt) == (NodeState::ErrorReset, &new.run, new.attempt);
        match ending.failure.filter(|reason| counts(*reason) && !is_counted) {
            Some(reason) => {
                let count = 1 + so_far.map_or(0, |failure| failure.count);
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
        }
    }
}
