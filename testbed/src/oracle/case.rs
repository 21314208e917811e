//! What a run is judged by.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::{UpdatePlan, ledger::Grant, names};

use super::machines::Machines;
use crate::bottlerocket::UpdateSettings;
use crate::history::{History, Object};
use crate::truth::SimEvent;

/// What a test did itself, which nobody else must answer for, and what it expects.
#[derive(Clone, Debug)]
pub struct Expectations {
    /// The install's namespace.
    pub namespace: String,
    /// Nothing is under way at the end.
    pub quiet: bool,
    /// Plans, by name, whose nodes must all have come to their end.
    pub complete: BTreeSet<String>,
    /// Nodes whose machines started with other settings than the default.
    pub settings: BTreeMap<String, UpdateSettings>,
    /// Nodes that the test itself takes to an older version.
    pub downgraded: BTreeSet<String>,
    /// Nodes that the test itself uncordons.
    pub uncordoned: BTreeSet<String>,
    /// Pods that the test itself deletes, or makes a controller delete: beginnings of `namespace/name`.
    pub deleted_pods: Vec<String>,
    /// Nodes whose agent may have had to ask for its permit again: such a permit is valid anew from each answer.
    pub asked_again: BTreeSet<String>,
    /// How many nodes at a time may download ahead of their turn.
    pub stage_ahead: usize,
}

impl Default for Expectations {
    fn default() -> Self {
        Self {
            namespace: names::DEFAULT_NAMESPACE.to_owned(),
            quiet: false,
            complete: BTreeSet::new(),
            settings: BTreeMap::new(),
            downgraded: BTreeSet::new(),
            uncordoned: BTreeSet::new(),
            deleted_pods: Vec::new(),
            asked_again: BTreeSet::new(),
            stage_ahead: 0,
        }
    }
}

impl Expectations {
    /// That this plan has come to its end, and nothing is under way.
    #[must_use]
    pub fn complete(plan: &str) -> Self {
        Self {
            quiet: true,
            complete: [plan.to_owned()].into(),
            ..Self::default()
        }
    }
}

/// What a run is judged by.
#[derive(Debug)]
pub struct Case<'a> {
    /// What the machines did.
    pub machines: Machines<'a>,
    /// What the test says.
    pub expectations: &'a Expectations,
    generations: BTreeMap<(String, i64), Arc<UpdatePlan>>,
}

impl<'a> Case<'a> {
    /// Collects it.
    #[must_use]
    pub fn new(history: &History, truth: &'a [SimEvent], expectations: &'a Expectations) -> Self {
        let mut generations = BTreeMap::new();
        let changed = history.events().iter().filter_map(|event| match &event.object {
            Object::Plan(plan) => Some(plan),
            _ => None,
        });
        for plan in history.initial().plans.values().chain(changed) {
            let uid = plan.metadata.uid.clone().unwrap_or_default();
            let generation = plan.metadata.generation.unwrap_or_default();
            generations.insert((uid, generation), plan.clone());
        }
        Self {
            machines: Machines::new(truth),
            expectations,
            generations,
        }
    }

    /// The plan as it was in this generation.
    #[must_use]
    pub fn plan(&self, uid: &str, generation: i64) -> Option<&Arc<UpdatePlan>> {
        self.generations.get(&(uid.to_owned(), generation))
    }

    /// The plan of a grant, in the generation that the grant was last checked against.
    #[must_use]
    pub fn plan_of(&self, grant: &Grant) -> Option<&Arc<UpdatePlan>> {
        self.plan(&grant.plan, grant.generation)
    }

    /// The settings that a machine started with.
    #[must_use]
    pub fn first_settings(&self, node: &str) -> UpdateSettings {
        self.expectations.settings.get(node).cloned().unwrap_or_default()
    }
}
