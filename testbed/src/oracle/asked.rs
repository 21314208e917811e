//! What people have asked by annotations of a plan, from every revision of it.

use std::collections::BTreeSet;

use api::UpdatePlan;
use api::names::{APPROVE_ANNOTATION, RETRY_ANNOTATION, RUN_NOW_ANNOTATION};

/// What was ever asked, by plan UID, annotation and value.
#[derive(Debug, Default)]
pub struct Asked(BTreeSet<(String, &'static str, String)>);

impl Asked {
    /// Remembers what the plan's annotations say.
    pub fn note(&mut self, plan: &UpdatePlan) {
        let uid = plan.metadata.uid.clone().unwrap_or_default();
        let annotations = plan.metadata.annotations.clone().unwrap_or_default();
        for annotation in [APPROVE_ANNOTATION, RETRY_ANNOTATION, RUN_NOW_ANNOTATION] {
            let values = annotations.get(annotation).map_or("", String::as_str).split(',');
            let values = values.map(|value| value.trim().to_owned());
            self.0
                .extend(values.map(|value| (uid.clone(), annotation, value)));
        }
    }

    /// Whether somebody has approved this wave of this run.
    #[must_use]
    pub fn approves(&self, plan: &str, run: &str, wave: &str) -> bool {
        self.says(plan, APPROVE_ANNOTATION, format!("{run}/{wave}"))
    }

    /// Whether somebody wants this run to go on whatever its windows say.
    #[must_use]
    pub fn runs_now(&self, plan: &str, run: &str) -> bool {
        self.says(plan, RUN_NOW_ANNOTATION, run.to_owned())
    }

    /// How many retries of this run somebody has asked for.
    #[must_use]
    pub fn retries(&self, plan: &str, run: &str) -> usize {
        let of_run = format!("{run}/");
        let retries = self.0.iter().filter(|(uid, annotation, value)| {
            uid == plan && *annotation == RETRY_ANNOTATION && value.starts_with(&of_run)
        });
        retries.count()
    }

    fn says(&self, plan: &str, annotation: &'static str, value: String) -> bool {
        self.0.contains(&(plan.to_owned(), annotation, value))
    }
}
