//! What people ask is done as they ask it, for the run that they ask it for, once; and nothing that nobody has asked for. The
//! install's own switch and limit are theirs, too.

use std::collections::BTreeMap;

use api::{ledger::PlanEntry, plan::Approval};
use chrono::{DateTime, Utc};
use planner::world::PlanFacts;

use super::Judge;
use crate::rules::{approves, is_complete, is_valid, retries, runs_now};

/// What had been asked of a run before this answer.
#[derive(Default)]
struct Asked {
    approved: BTreeMap<String, DateTime<Utc>>,
    retried_at: Option<DateTime<Utc>>,
    run_now: Option<DateTime<Utc>>,
}

impl Judge<'_> {
    /// Nobody but people stops an install, or goes on with it; its limit is that of its settings, where they have one.
    pub(super) fn install(&self) {
        assert_eq!(
            self.before.stop, self.after.stop,
            "S12: the install's switch is turned"
        );
        let settings = self.world.settings.max_unavailable;
        assert_eq!(
            self.after.max_unavailable,
            settings.or(self.before.max_unavailable),
            "S1: the install's limit"
        );
    }

    /// As the ledger says it, or, where it does not know the run any more, the status.
    fn asked_before(&self, plan: &PlanFacts, run: &str) -> Asked {
        let before = self.before.plans.get(&plan.uid);
        if let Some(before) = before.filter(|before| before.run == run) {
            let actions = before.actions.clone();
            return Asked {
                approved: actions.approved,
                retried_at: actions.retried_at,
                run_now: actions.run_now,
            };
        }
        let known = plan.status.run.as_ref().filter(|known| known.id == run);
        known.map_or_else(Asked::default, |known| {
            let waves = plan.status.waves.iter();
            let approved = waves.filter_map(|wave| Some((wave.name.clone(), wave.approved_at?)));
            Asked {
                approved: approved.collect(),
                retried_at: known.retried_at,
                run_now: known.run_now_at,
            }
        })
    }

    fn was_taken(&self, plan: &PlanFacts, record: &String) -> bool {
        let before = self.before.plans.get(&plan.uid);
        before.is_some_and(|before| before.actions.taken.contains(record))
    }

    /// Whether the plan's run is retried in this answer.
    pub(super) fn is_retried(&self, plan: &PlanFacts) -> bool {
        let may = is_valid(plan) && !plan.deleting;
        let entry = self.after.plans.get(&plan.uid).filter(|_| may);
        let is_new = |record: &String| !self.was_taken(plan, record);
        entry.is_some_and(|entry| retries(plan, &entry.run).iter().any(is_new))
    }

    pub(super) fn asked(&self) {
        for plan in &self.world.plans {
            if let Some(entry) = self.after.plans.get(&plan.uid) {
                self.asked_of(plan, entry);
            }
        }
    }

    fn asked_of(&self, plan: &PlanFacts, entry: &PlanEntry) {
        let (name, run, now) = (&plan.name, &entry.run, self.now);
        let before = self.asked_before(plan, run);
        let may = is_valid(plan) && !plan.deleting;
        let is_new = |record: &String| !self.was_taken(plan, record);
        let gated = |wave: &str| {
            let mut waves = plan.spec.waves.iter();
            waves.any(|known| known.name == wave && known.approval == Approval::Manual)
        };
        for (wave, at) in &entry.actions.approved {
            if before.approved.get(wave) != Some(at) {
                let asked = may && approves(plan, run, wave) && gated(wave);
                assert!(
                    asked && *at == now && !before.approved.contains_key(wave),
                    "S10: nobody approves wave {wave} of {name}"
                );
            }
        }
        for wave in plan.spec.waves.iter().filter(|wave| gated(&wave.name)) {
            let asked = may && approves(plan, run, &wave.name);
            let is_new = is_new(&format!("approve {run}/{}", wave.name));
            assert!(
                !(asked && is_new) || entry.actions.approved.contains_key(&wave.name),
                "wave {} of {name} is not approved",
                wave.name
            );
        }
        let expected = if self.is_retried(plan) {
            Some(now)
        } else {
            before.retried_at
        };
        assert_eq!(entry.actions.retried_at, expected, "S11: when {name} is retried");
        let runs = may
            && runs_now(plan, run)
            && is_new(&format!("run-now {run}"))
            && !plan.spec.maintenance_windows.is_empty()
            && !is_complete(plan, run);
        let expected = before.run_now.or(runs.then_some(now));
        assert_eq!(entry.actions.run_now, expected, "S4: since when {name} runs now");
        for record in retries(plan, run).iter().filter(|_| may) {
            let taken = entry.actions.taken.contains(record);
            assert!(taken, "S11: {name}: {record} would be done again");
        }
    }
}
