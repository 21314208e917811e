//! What of a whole state nobody looks at any more; of a single value, `crate::normal` says it.

use api::ledger::PlanEntry;

use crate::{
    model::Model,
    objects::VERSION,
    state::{self, State},
};

impl Model {
    /// Where nothing more may go wrong, or be done, it does not matter what of it has: only how much.
    pub(crate) fn forget_which(&self, state: &mut State) {
        if !self.normal.on {
            return;
        }
        let faults = state.faults_in_all();
        if faults >= self.config.faults_in_all {
            state.faults = [0; state::KINDS];
            state.faults[0] = faults;
        }
        let deeds = state.deeds.count_ones();
        if deeds >= self.config.deeds_in_all.into() {
            state.deeds = (1 << deeds) - 1;
        }
    }

    /// Where nobody knows an older plan than there is, its version matters only as far as the ledger says that the finalizer goes
    /// over it.
    pub(crate) fn forget_versions(&self, state: &mut State) {
        if !self.normal.on || self.config.sees_late() {
            return;
        }
        let number = |version: Option<&str>| version.and_then(|version| version.parse::<u64>().ok());
        for p in 0..self.config.plans.len() {
            let plan = self.plans.get(state.plans[p]);
            let version = plan
                .as_ref()
                .and_then(|plan| number(plan.metadata.resource_version.as_deref()));
            if let Some(plan) = plan.filter(|plan| plan.metadata.resource_version.as_deref() != Some(VERSION))
            {
                let mut plan = (*plan).clone();
                plan.metadata.resource_version = Some(VERSION.to_owned());
                state.plans[p] = self.plans.id(plan);
            }
            let entry = self.entries.get(state.ledger.entries[p]);
            if let Some(entry) = entry.filter(|entry| entry.releasing.is_some()) {
                let goes = version.is_some() && number(entry.releasing.as_deref()) >= version;
                let releasing = goes.then(|| VERSION.to_owned());
                if entry.releasing != releasing {
                    state.ledger.entries[p] = self.entries.id(PlanEntry {
                        releasing,
                        ..(*entry).clone()
                    });
                }
            }
        }
    }
}
