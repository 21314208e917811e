//! A history gone through again, revision by revision.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{BottlerocketShadow, UpdateLedger, UpdatePlan, names};
use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Resource;

use super::{Action, Event, History, Object};

/// Objects of one kind by [`key`].
pub type Objects<K> = BTreeMap<String, Arc<K>>;

/// Every object of the recorded kinds as it was at one revision.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The revision.
    pub revision: u64,
    /// When that was.
    pub at: DateTime<Utc>,
    /// Nodes.
    pub nodes: Objects<Node>,
    /// Pods.
    pub pods: Objects<Pod>,
    /// BottlerocketShadows.
    pub shadows: Objects<BottlerocketShadow>,
    /// UpdatePlans.
    pub plans: Objects<UpdatePlan>,
    /// UpdateLedgers; only one of them counts, see [`State::ledger`].
    pub ledgers: Objects<UpdateLedger>,
    /// PodDisruptionBudgets.
    pub budgets: Objects<PodDisruptionBudget>,
}

/// An object's place among those of its kind: `name`, or `namespace/name`.
#[must_use]
pub fn key<K: Resource>(object: &K) -> String {
    let metadata = object.meta();
    let name = metadata.name.as_deref().unwrap_or_default();
    metadata
        .namespace
        .as_ref()
        .map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"))
}

impl State {
    /// The ledger of the install in this namespace.
    #[must_use]
    pub fn ledger(&self, namespace: &str) -> Option<&Arc<UpdateLedger>> {
        self.ledgers.get(&format!("{namespace}/{}", names::LEDGER_NAME))
    }

    /// The live node of this UID.
    #[must_use]
    pub fn node_of_uid(&self, uid: &str) -> Option<&Arc<Node>> {
        self.nodes
            .values()
            .find(|node| node.metadata.uid.as_deref() == Some(uid))
    }

    /// Whether the live node of this name has this UID.
    #[must_use]
    pub fn is_live(&self, name: &str, uid: &str) -> bool {
        self.nodes
            .get(name)
            .is_some_and(|node| node.metadata.uid.as_deref() == Some(uid))
    }

    /// The live plan of this UID.
    #[must_use]
    pub fn plan_of_uid(&self, uid: &str) -> Option<&Arc<UpdatePlan>> {
        self.plans
            .values()
            .find(|plan| plan.metadata.uid.as_deref() == Some(uid))
    }

    /// Puts an object there that was there before the first event.
    pub fn insert(&mut self, object: Object) {
        self.apply(Action::Added, object);
    }

    fn apply(&mut self, action: Action, object: Object) -> Change {
        match object {
            Object::Node(node) => Change::Node(Pair::apply(&mut self.nodes, action, node)),
            Object::Pod(pod) => Change::Pod(Pair::apply(&mut self.pods, action, pod)),
            Object::Shadow(shadow) => Change::Shadow(Pair::apply(&mut self.shadows, action, shadow)),
            Object::Plan(plan) => Change::Plan(Pair::apply(&mut self.plans, action, plan)),
            Object::Ledger(ledger) => Change::Ledger(Pair::apply(&mut self.ledgers, action, ledger)),
            Object::Budget(budget) => Change::Budget(Pair::apply(&mut self.budgets, action, budget)),
        }
    }
}

/// An object before and after a change.
#[derive(Clone, Debug)]
pub struct Pair<K> {
    /// Before; none where it was created.
    pub before: Option<Arc<K>>,
    /// After; none where it was deleted.
    pub after: Option<Arc<K>>,
}

impl<K: Resource> Pair<K> {
    fn apply(objects: &mut Objects<K>, action: Action, object: Arc<K>) -> Self {
        let key = key(object.as_ref());
        if action == Action::Deleted {
            return Self {
                before: objects.remove(&key),
                after: None,
            };
        }
        Self {
            before: objects.insert(key, object.clone()),
            after: Some(object),
        }
    }
}

/// What one revision changed.
#[derive(Clone, Debug)]
pub enum Change {
    /// A Node.
    Node(Pair<Node>),
    /// A Pod.
    Pod(Pair<Pod>),
    /// A BottlerocketShadow.
    Shadow(Pair<BottlerocketShadow>),
    /// An UpdatePlan.
    Plan(Pair<UpdatePlan>),
    /// An UpdateLedger.
    Ledger(Pair<UpdateLedger>),
    /// A PodDisruptionBudget.
    Budget(Pair<PodDisruptionBudget>),
}

/// One revision.
#[derive(Debug)]
pub struct Step<'a> {
    /// What it changed.
    pub change: Change,
    /// Everything as it was after it, with its revision and time.
    pub state: &'a State,
}

/// Goes through a history; each step borrows the state, which the next one changes.
#[derive(Debug)]
pub struct Replay<'a> {
    state: State,
    rest: std::slice::Iter<'a, Event>,
}

impl<'a> Replay<'a> {
    pub(super) fn new(history: &'a History) -> Self {
        Self {
            state: history.initial.clone(),
            rest: history.events.iter(),
        }
    }

    /// The next revision.
    pub fn step(&mut self) -> Option<Step<'_>> {
        let event = self.rest.next()?;
        self.state.revision = event.revision;
        self.state.at = event.at;
        let change = self.state.apply(event.action, event.object.clone());
        Some(Step {
            change,
            state: &self.state,
        })
    }

    /// Everything as it is after the last step.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }
}
