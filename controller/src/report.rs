//! Which statuses are written when. Pure: what waits is not kept, because the planner says it again.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use api::plan::UpdatePlanStatus;
use planner::decisions::PlanStatus;
use tokio::time::Instant;

use crate::{
    patch::{self, Key, Write},
    view::Snapshot,
};

/// Spreads the writes of each plan's status.
#[derive(Debug)]
pub struct Statuses {
    interval: Duration,
    written: HashMap<String, Instant>,
}

impl Statuses {
    /// At most one write for each plan in `interval`, unless it says something that somebody may wait for.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self {
            interval,
            written: HashMap::new(),
        }
    }

    /// The writes that are due, of plans for which `is_free` holds, and when the next one is.
    pub fn due(
        &mut self,
        now: Instant,
        snapshot: &Snapshot,
        statuses: Vec<PlanStatus>,
        is_free: impl Fn(&Key) -> bool,
    ) -> (Vec<Write>, Option<Instant>) {
        let named: HashSet<&str> = statuses.iter().map(|status| status.plan.as_str()).collect();
        self.written.retain(|plan, _| named.contains(plan.as_str()));
        let mut writes = Vec::new();
        let mut next: Option<Instant> = None;
        for PlanStatus { plan, status } in statuses {
            let Some(stored) = snapshot.plans.get(&plan) else {
                continue;
            };
            let before = stored.status.as_ref();
            if before.is_some_and(|before| same(before, &status)) || !is_free(&Key::Plan(plan.clone())) {
                continue;
            }
            let due = self
                .written
                .get(&plan)
                .map_or(now, |written| *written + self.interval);
            if due <= now || before.is_none_or(|before| is_urgent(before, &status)) {
                writes.push(patch::status(stored, status));
                self.written.insert(plan, now);
            } else {
                next = Some(next.map_or(due, |next| next.min(due)));
            }
        }
        (writes, next)
    }
}

/// Whether two statuses are stored as the same: the API keeps whole seconds of a condition's time.
fn same(a: &UpdatePlanStatus, b: &UpdatePlanStatus) -> bool {
    a == b || matches!((serde_json::to_value(a), serde_json::to_value(b)), (Ok(a), Ok(b)) if a == b)
}

/// Whether somebody may wait for what a status says that the one before did not.
fn is_urgent(before: &UpdatePlanStatus, after: &UpdatePlanStatus) -> bool {
    let conditions = |status: &UpdatePlanStatus| -> HashSet<(String, String, String)> {
        let conditions = status.conditions.iter();
        conditions
            .map(|c| (c.type_.clone(), c.status.clone(), c.reason.clone()))
            .collect()
    };
    before.phase != after.phase
        || before.observed_generation != after.observed_generation
        || conditions(before) != conditions(after)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use std::sync::Arc;

    use api::{UpdatePlan, plan::Phase, time::to_kubernetes};
    use chrono::DateTime;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
    use serde_json::json;

    use super::*;

    fn status(phase: Phase, message: &str) -> UpdatePlanStatus {
        UpdatePlanStatus {
            phase: Some(phase),
            message: Some(message.to_owned()),
            ..UpdatePlanStatus::default()
        }
    }

    struct Plan {
        snapshot: Snapshot,
        statuses: Statuses,
    }

    impl Plan {
        fn new() -> Self {
            Self {
                snapshot: Snapshot::default(),
                statuses: Statuses::new(Duration::from_secs(1)),
            }
        }

        fn store(&mut self, status: Option<UpdatePlanStatus>) {
            let mut plan: UpdatePlan = serde_json::from_value(json!({
                "apiVersion": "brupop.bottlerocket.aws/v1alpha1", "kind": "UpdatePlan",
                "metadata": {"name": "p"}, "spec": {"targetVersion": "1.21.0", "nodeSelector": {}}
            }))
            .unwrap();
            plan.status = status;
            self.snapshot.plans.insert("p".into(), Arc::new(plan));
        }

        /// Whether the status is written now, and otherwise when.
        fn write(&mut self, status: UpdatePlanStatus) -> (bool, Option<Instant>) {
            let wanted = vec![PlanStatus {
                plan: "p".into(),
                status: status.clone(),
            }];
            let (writes, next) = self
                .statuses
                .due(Instant::now(), &self.snapshot, wanted, |_| true);
            if !writes.is_empty() {
                self.store(Some(status));
            }
            (!writes.is_empty(), next)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_status_that_is_stored_is_not_written_again() {
        let mut plan = Plan::new();
        plan.store(None);
        assert_eq!(plan.write(status(Phase::Pending, "a")), (true, None));
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(plan.write(status(Phase::Pending, "a")), (false, None));
    }

    #[tokio::test(start_paused = true)]
    async fn the_latest_is_written_once_in_an_interval() {
        let mut plan = Plan::new();
        plan.store(Some(status(Phase::Progressing, "0/12")));
        assert!(plan.write(status(Phase::Progressing, "1/12")).0);
        let written = Instant::now();
        tokio::time::sleep(Duration::from_millis(400)).await;
        let due = (false, Some(written + Duration::from_secs(1)));
        assert_eq!(plan.write(status(Phase::Progressing, "2/12")), due);
        assert_eq!(plan.write(status(Phase::Progressing, "3/12")), due);
        tokio::time::sleep_until(due.1.unwrap()).await;
        assert_eq!(plan.write(status(Phase::Progressing, "4/12")), (true, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_phase_or_a_condition_does_not_wait() {
        let mut plan = Plan::new();
        plan.store(Some(status(Phase::Progressing, "0/12")));
        assert!(plan.write(status(Phase::Progressing, "1/12")).0);
        assert!(plan.write(status(Phase::Paused, "1/12")).0);
        let mut with_condition = status(Phase::Paused, "1/12");
        with_condition.conditions.push(Condition {
            last_transition_time: to_kubernetes(DateTime::UNIX_EPOCH),
            message: "a".into(),
            observed_generation: None,
            reason: "Paused".into(),
            status: "False".into(),
            type_: "Progressing".into(),
        });
        assert!(plan.write(with_condition.clone()).0);
        with_condition.conditions[0].message = "b".into();
        assert!(!plan.write(with_condition).0, "its message waits");
    }

    #[tokio::test(start_paused = true)]
    async fn a_plan_that_is_being_written_or_is_gone_is_left_alone() {
        let mut plan = Plan::new();
        let wanted = vec![PlanStatus {
            plan: "p".into(),
            status: status(Phase::Pending, "a"),
        }];
        let none = (Vec::new(), None);
        assert_eq!(
            plan.statuses
                .due(Instant::now(), &plan.snapshot, wanted.clone(), |_| true),
            none
        );
        plan.store(None);
        assert_eq!(
            plan.statuses
                .due(Instant::now(), &plan.snapshot, wanted, |_| false),
            none
        );
    }
}
