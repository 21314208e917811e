//! Decisions, applied as their contract says.

use std::collections::BTreeSet;

use super::{
    cluster::{Cluster, Observer},
    node::PODS,
};
use crate::decisions::{Action, Decisions};

impl Cluster {
    /// Applies as the contract says: where the ledger is written, nothing else is done. False: nothing to do.
    pub(super) fn apply(&mut self, decisions: &Decisions, observer: &mut dyn Observer) -> bool {
        if let Some(change) = &decisions.ledger {
            observer.ledger(self, change);
            self.world.ledger = Some(change.spec.clone());
            self.events.extend(change.events.iter().cloned());
            self.writes += 1;
            return true;
        }
        let drains: BTreeSet<String> = decisions.drains.iter().map(|order| order.uid.clone()).collect();
        let mut applied = false;
        let first = decisions
            .actions
            .iter()
            .take(if self.one_write_a_round { 1 } else { usize::MAX });
        for action in first {
            if !self.knows_what_it_writes(action) {
                continue;
            }
            observer.action(self, action);
            self.act(action);
            self.writes += 1;
            applied = true;
        }
        if self.one_write_a_round && applied {
            return true;
        }
        applied |= drains != self.drains;
        self.drains = drains;
        for facts in &mut self.world.nodes {
            if let Some(node) = self.nodes.get_mut(&facts.uid) {
                node.drain(self.now, self.drains.contains(&facts.uid), facts);
            }
        }
        for new in &decisions.statuses {
            // A plan that has just lost its finalizer may be gone.
            let Some(i) = self.world.plans.iter().position(|plan| plan.name == new.plan) else {
                continue;
            };
            if self.world.plans[i].status != new.status {
                observer.status(self, &self.world.plans[i], &new.status);
                self.world.plans[i].status = new.status.clone();
                self.writes += 1;
                applied = true;
                if self.one_write_a_round {
                    break;
                }
            }
        }
        applied
    }

    /// Whether what an action writes is known as it is: else the Kubernetes API refuses the write, by its resourceVersion.
    fn knows_what_it_writes(&self, action: &Action) -> bool {
        match action {
            Action::Cordon { node, .. } | Action::Uncordon { node, .. } | Action::SetShadow { node, .. } => {
                self.knows(node)
            }
            Action::AddFinalizer { .. } | Action::RemoveFinalizer { .. } => true,
        }
    }

    /// Does what an action says. What it speaks of may be gone by now; then there is nothing to do.
    fn act(&mut self, action: &Action) {
        match action {
            Action::AddFinalizer { plan } => {
                if let Some(plan) = self.plan_mut(plan) {
                    plan.finalizer = true;
                }
            }
            Action::RemoveFinalizer { plan } => {
                if let Some(plan) = self.plan_mut(plan) {
                    plan.finalizer = false;
                }
                self.world.plans.retain(|plan| plan.finalizer || !plan.deleting);
            }
            Action::Cordon { node, disruption } => {
                let Some(facts) = self.node_mut(node) else { return };
                facts.unschedulable = true;
                facts.disruption = Some(disruption.clone());
                for (key, value) in api::names::DO_NOT_DISRUPT_ANNOTATIONS {
                    facts.annotations.insert(key.to_owned(), value.to_owned());
                }
            }
            Action::Uncordon { node, disruption } => {
                let Some(facts) = self.node_mut(node) else { return };
                facts.unschedulable = false;
                facts.disruption = None;
                facts.drain = None;
                for (key, before) in &disruption.annotations_before {
                    match before {
                        Some(value) => facts.annotations.insert(key.clone(), value.clone()),
                        None => facts.annotations.remove(key),
                    };
                }
                let uid = facts.uid.clone();
                if let Some(hidden) = self.nodes.get_mut(&uid) {
                    hidden.pods = PODS;
                }
            }
            Action::SetShadow { node, spec } => {
                if let Some(shadow) = self.node_mut(node).and_then(|facts| facts.shadow.as_mut()) {
                    shadow.spec = spec.clone();
                }
            }
        }
    }
}
