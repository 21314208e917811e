//! The order in which a plan loses its finalizer. Pure.
//!
//! Ledger and plan cannot be written in one stroke, and a plan with grants must not be without the finalizer. So the
//! ledger says first over which version of the plan the finalizer is removed, which can be written only while the plan
//! has no grants; and grants are made only on a finalizer that is on a later version of the plan. Whoever grants
//! meanwhile either has written the ledger before, or has seen a plan over which the removal fails.

use api::{UpdateLedger, UpdatePlan, ledger::PlanEntry, names::PLAN_FINALIZER};
use kube::ResourceExt;
use planner::decisions::{Action, LedgerChange};

use crate::view::Snapshot;

fn entry<'a>(plan: &UpdatePlan, ledger: Option<&'a UpdateLedger>) -> Option<&'a PlanEntry> {
    ledger?.spec.plans.get(plan.metadata.uid.as_deref()?)
}

fn is_there(plan: &UpdatePlan) -> bool {
    plan.finalizers()
        .iter()
        .any(|finalizer| finalizer == PLAN_FINALIZER)
}

/// Whether the ledger says that the finalizer on this version of the plan goes.
fn is_going(plan: &UpdatePlan, ledger: Option<&UpdateLedger>) -> bool {
    let Some(releasing) = entry(plan, ledger).and_then(|entry| entry.releasing.as_deref()) else {
        return false;
    };
    let number = |version: &str| version.parse::<u64>().ok();
    let known = plan.metadata.resource_version.as_deref().and_then(number);
    // Where the two cannot be compared nothing is granted on it.
    known
        .zip(number(releasing))
        .is_none_or(|(known, releasing)| known <= releasing)
}

/// Whether the plan has our finalizer, and will have it until the ledger says otherwise.
#[must_use]
pub fn holds(plan: &UpdatePlan, ledger: Option<&UpdateLedger>) -> bool {
    is_there(plan) && !is_going(plan, ledger)
}

/// Whether the ledger knows the plan. Where it does not, nobody can grant for it without reading it afresh.
#[must_use]
pub fn is_recorded(plan: &str, snapshot: &Snapshot) -> bool {
    let plan = snapshot.plans.get(plan);
    plan.is_some_and(|plan| entry(plan, snapshot.ledger.as_deref()).is_some())
}

/// The removals that the ledger speaks of, and that are not done yet.
pub fn under_way(snapshot: &Snapshot) -> impl Iterator<Item = Action> {
    let ledger = snapshot.ledger.as_deref();
    let going = snapshot
        .plans
        .iter()
        .filter(move |(_, plan)| is_there(plan) && is_going(plan, ledger));
    going.map(|(name, _)| Action::RemoveFinalizer { plan: name.clone() })
}

/// What the ledger has to say first, where these actions remove finalizers of which it says nothing yet.
#[must_use]
pub fn ledger_first(actions: &[Action], snapshot: &Snapshot) -> Option<LedgerChange> {
    let ledger = snapshot.ledger.as_deref()?;
    let mut spec = ledger.spec.clone();
    for action in actions {
        if let Action::RemoveFinalizer { plan } = action
            && let Some(plan) = snapshot.plans.get(plan)
            && holds(plan, Some(ledger))
            && let Some(entry) = plan.metadata.uid.as_ref().and_then(|uid| spec.plans.get_mut(uid))
        {
            entry.releasing.clone_from(&plan.metadata.resource_version);
        }
    }
    (spec != ledger.spec).then_some(LedgerChange {
        spec,
        by_fresh_nodes: false,
        events: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn snapshot(version: &str, finalizers: &[&str], releasing: Option<&str>) -> Snapshot {
        let plan: UpdatePlan = serde_json::from_value(json!({
            "apiVersion": "brupop.bottlerocket.aws/v1alpha1", "kind": "UpdatePlan",
            "metadata": {"name": "p", "uid": "u", "resourceVersion": version, "finalizers": finalizers},
            "spec": {"targetVersion": "1.21.0", "nodeSelector": {}}
        }))
        .unwrap();
        let ledger: UpdateLedger = serde_json::from_value(json!({
            "apiVersion": "brupop.bottlerocket.aws/v1alpha1", "kind": "UpdateLedger",
            "metadata": {"name": "cluster", "resourceVersion": "50"},
            "spec": {"grants": {}, "plans": {"u": {"name": "p", "generation": 1, "run": "r", "target": "1.21.0",
                "startedAt": "2026-11-22T08:00:00Z", "releasing": releasing}}}
        }))
        .unwrap();
        Snapshot {
            plans: [("p".to_owned(), Arc::new(plan))].into(),
            ledger: Some(Arc::new(ledger)),
            ..Snapshot::default()
        }
    }

    fn held(snapshot: &Snapshot) -> bool {
        holds(&snapshot.plans["p"], snapshot.ledger.as_deref())
    }

    #[test]
    fn s12_the_ledger_says_first_which_finalizer_goes_and_it_is_counted_on_no_more() {
        let remove = [Action::RemoveFinalizer { plan: "p".into() }];
        let before = snapshot("9", &[PLAN_FINALIZER], None);
        assert!(held(&before));
        assert_eq!(under_way(&before).count(), 0);
        let change = ledger_first(&remove, &before).unwrap();
        assert_eq!(change.spec.plans["u"].releasing.as_deref(), Some("9"));
        assert!(!change.by_fresh_nodes);

        let said = snapshot("9", &[PLAN_FINALIZER], Some("9"));
        assert!(!held(&said));
        assert_eq!(under_way(&said).collect::<Vec<_>>(), remove);
        assert_eq!(ledger_first(&remove, &said), None);
    }

    #[test]
    fn s12_only_a_finalizer_on_a_later_version_counts() {
        assert!(held(&snapshot("10", &[PLAN_FINALIZER], Some("9"))));
        assert!(!held(&snapshot("8", &[PLAN_FINALIZER], Some("9"))), "seen late");
        assert!(!held(&snapshot("10", &[], Some("9"))));
        assert!(!held(&snapshot("10", &[PLAN_FINALIZER], Some("what is this"))));
        assert_eq!(
            under_way(&snapshot("10", &[PLAN_FINALIZER], Some("9"))).count(),
            0
        );
        assert_eq!(under_way(&snapshot("10", &[], Some("11"))).count(), 0);
    }

    #[test]
    fn a_plan_that_the_ledger_does_not_know_has_nothing_to_say_first() {
        let mut unknown = snapshot("9", &[PLAN_FINALIZER], None);
        assert!(is_recorded("p", &unknown));
        let mut ledger = UpdateLedger::clone(unknown.ledger.as_ref().unwrap());
        ledger.spec.plans.clear();
        unknown.ledger = Some(Arc::new(ledger));
        assert!(!is_recorded("p", &unknown) && held(&unknown));
        assert_eq!(
            ledger_first(&[Action::RemoveFinalizer { plan: "p".into() }], &unknown),
            None
        );
    }
}
