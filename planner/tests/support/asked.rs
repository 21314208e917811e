//! What people have asked, as far as the checks go by it: read from the annotations, not from what became of them.

use std::collections::BTreeSet;

use api::{
    names::{APPROVE_ANNOTATION, RETRY_ANNOTATION, RUN_NOW_ANNOTATION},
    plan::{Approval, Wave},
};
use chrono::{DateTime, Utc};
use planner::world::{PlanFacts, World};

use super::rules::open_until;

/// Everything that was ever asked, by plan UID.
#[derive(Clone, Debug, Default)]
pub struct Approvals {
    approved: BTreeSet<(String, String)>,
    retries: BTreeSet<(String, String)>,
    runs_now: BTreeSet<(String, String)>,
    /// Retries that were done.
    spent: BTreeSet<(String, String)>,
}

impl Approvals {
    /// Looks at what the annotations say now.
    pub fn look(&mut self, world: &World) {
        for plan in &world.plans {
            let values = |annotation: &str| -> Vec<(String, String)> {
                let text = plan.annotations.get(annotation).map_or("", String::as_str);
                text.split(',')
                    .map(|value| (plan.uid.clone(), value.trim().to_owned()))
                    .collect()
            };
            self.approved.extend(values(APPROVE_ANNOTATION));
            self.retries.extend(values(RETRY_ANNOTATION));
            self.runs_now.extend(values(RUN_NOW_ANNOTATION));
        }
    }

    pub fn is_approved(&self, plan: &PlanFacts, run: &str, wave: &Wave) -> bool {
        wave.approval == Approval::Automatic
            || self
                .approved
                .contains(&(plan.uid.clone(), format!("{run}/{}", wave.name)))
    }

    /// Until when the plan may disrupt: a run that is to run now ignores the windows until it is complete, and
    /// no exclusion.
    pub fn open_until(
        &self,
        plan: &PlanFacts,
        run: &str,
        since: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Option<Option<DateTime<Utc>>> {
        let known = plan.status.run.as_ref().filter(|known| known.id == run);
        let complete = known.is_some_and(|known| known.completed_at.is_some());
        if self.runs_now.contains(&(plan.uid.clone(), run.to_owned())) && !complete {
            let mut spec = plan.spec.clone();
            spec.maintenance_windows.clear();
            return open_until(&spec, since, now);
        }
        open_until(&plan.spec, since, now)
    }

    /// Whether somebody has asked for a retry of this run that was not done yet. It is done now.
    pub fn retries(&mut self, plan: &str, run: &str) -> bool {
        let of_run = format!("{run}/");
        let ours = |(uid, value): &&(String, String)| uid == plan && value.starts_with(&of_run);
        let new: Vec<_> = self
            .retries
            .difference(&self.spent)
            .filter(ours)
            .cloned()
            .collect();
        self.spent.extend(new.iter().cloned());
        !new.is_empty()
    }
}
