//! Decisions, applied as their contract says.

use std::collections::BTreeSet;

use api::plan::UpdatePlanStatus;
use planner::decisions::{Action, Decisions};

use super::{Sim, node::PODS, show};

impl Sim {
    /// Applies as the contract says: where the ledger is written, nothing else is done. False: nothing to do.
    pub(super) fn apply(&mut self, decisions: &Decisions) -> bool {
        if let Some(change) = &decisions.ledger {
            assert_ne!(
                self.world.ledger.as_ref(),
                Some(&change.spec),
                "a ledger write without a change"
            );
            assert!(
                decisions.actions.is_empty() && decisions.drains.is_empty() && decisions.statuses.is_empty()
            );
            self.checker.ledger(self.now, &self.world, change);
            self.note_ledger(&change.spec);
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
            self.checker.action(self.now, &self.world, action);
            self.note(show::action(action));
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
            let Some(plan) = self.world.plans.iter_mut().find(|plan| plan.name == new.plan) else {
                continue;
            };
            if plan.status != new.status {
                self.checker.status(plan, &new.status, self.world.ledger.as_ref());
                plan.status = as_stored(&new.status);
                assert_eq!(plan.status, new.status, "a status is not what is stored of it");
                self.writes += 1;
                applied = true;
                if self.one_write_a_round {
                    break;
                }
            }
        }
        applied
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::AddFinalizer { plan } => self.plan_mut(plan).finalizer = true,
            Action::RemoveFinalizer { plan } => {
                self.plan_mut(plan).finalizer = false;
                self.world.plans.retain(|plan| plan.finalizer || !plan.deleting);
            }
            Action::Cordon { node, disruption } => {
                let facts = self.facts_mut(node);
                facts.unschedulable = true;
                facts.disruption = Some(disruption.clone());
                for (key, value) in api::names::DO_NOT_DISRUPT_ANNOTATIONS {
                    facts.annotations.insert(key.to_owned(), value.to_owned());
                }
            }
            Action::Uncordon { node, disruption } => {
                let facts = self.facts_mut(node);
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
                if let Some(shadow) = &mut self.facts_mut(node).shadow {
                    shadow.spec = spec.clone();
                }
            }
        }
    }
}

fn as_stored(status: &UpdatePlanStatus) -> UpdatePlanStatus {
    serde_json::from_value(serde_json::to_value(status).expect("a status is JSON")).expect("and back")
}
