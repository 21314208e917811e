//! All stores together, what the drains have found, and a snapshot of everything.

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use api::{BottlerocketShadow, UpdateLedger, UpdatePlan, names};
use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::runtime::watcher::Event;
use planner::world::DrainFacts;
use tokio::{sync::Notify, time::Instant};

use crate::{
    clock::Skew,
    store::{Store, Stored},
};

/// What is known of the cluster now.
#[derive(Debug, Default)]
pub struct View {
    state: Mutex<State>,
    changed: Notify,
}

/// What [`View`] holds.
#[derive(Debug, Default)]
pub struct State {
    pub(crate) plans: Store<UpdatePlan>,
    pub(crate) nodes: Store<Node>,
    pub(crate) shadows: Store<BottlerocketShadow>,
    pub(crate) ledgers: Store<UpdateLedger>,
    pub(crate) own_pods: Store<Pod>,
    drains: HashMap<String, Drain>,
    skew: Option<Skew>,
    nodes_listed: Option<Instant>,
}

/// A drain that runs.
#[derive(Debug)]
struct Drain {
    id: u64,
    cordoned_at: DateTime<Utc>,
    facts: Option<DrainFacts>,
}

impl Drain {
    fn found(&self) -> Option<Drained> {
        self.facts.clone().map(|facts| Drained {
            cordoned_at: self.cordoned_at,
            facts,
        })
    }
}

/// How far the drain of one cordon is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drained {
    /// The cordon: a drain's facts say nothing about another one's.
    pub cordoned_at: DateTime<Utc>,
    /// How far it is.
    pub facts: DrainFacts,
}

/// Everything that was known at one moment; what is decided on it is written with its resourceVersions.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// By name.
    pub plans: BTreeMap<String, Arc<UpdatePlan>>,
    /// By name.
    pub nodes: BTreeMap<String, Arc<Node>>,
    /// By name.
    pub shadows: BTreeMap<String, Arc<BottlerocketShadow>>,
    /// The one ledger.
    pub ledger: Option<Arc<UpdateLedger>>,
    /// Pods of agents, controller and apiserver, by name.
    pub own_pods: BTreeMap<String, Arc<Pod>>,
    /// By node UID.
    pub drains: HashMap<String, Drained>,
    /// By how much this clock is ahead; None until measured.
    pub clock_skew: Option<TimeDelta>,
}

/// A kind that the view has a store of.
pub trait Viewed: Stored {
    /// The store of this kind.
    fn store(state: &mut State) -> &mut Store<Self>;
}

impl View {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each change below leaves the state whole, also where a caller panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, changed: bool) {
        if changed {
            self.changed.notify_one();
        }
    }

    /// Ends when something has changed since the last time it ended.
    pub fn changed(&self) -> impl Future<Output = ()> {
        self.changed.notified()
    }

    /// Takes an event of a watch.
    pub fn watched<K: Viewed>(&self, event: Event<K>) {
        let changed = K::store(&mut self.state()).watched(event);
        self.change(changed);
    }

    /// Takes the answer to a write or read of an object.
    pub fn answered<K: Viewed>(&self, object: K) {
        let changed = K::store(&mut self.state()).answered(object);
        self.change(changed);
    }

    /// Takes the answer to a request that created or found an object.
    pub fn created<K: Viewed>(&self, object: K) {
        let changed = K::store(&mut self.state()).created(object);
        self.change(changed);
    }

    /// A read has found that the object with this UID is gone.
    pub fn found_gone<K: Viewed>(&self, name: &str, uid: &str) {
        let changed = K::store(&mut self.state()).found_gone(name, uid);
        self.change(changed);
    }

    /// How often the watch has listed all objects of this kind: for [`Self::listed`].
    #[must_use]
    pub fn epoch<K: Viewed>(&self) -> u64 {
        K::store(&mut self.state()).epoch()
    }

    /// Takes a fresh list of all objects for which `covers` holds. Returns name and UID of those that it lacks.
    pub fn listed<K: Viewed>(
        &self,
        items: Vec<K>,
        listed_at: u64,
        epoch: u64,
        covers: impl Fn(&K) -> bool,
    ) -> Vec<(String, String)> {
        K::store(&mut self.state()).listed(items, listed_at, epoch, covers)
    }

    /// Everything that is known of nodes is at least as new as this.
    pub fn set_nodes_fresh(&self, since: Instant) {
        self.state().nodes_listed = Some(since);
    }

    /// How old what is known of nodes is at most.
    #[must_use]
    pub fn node_age(&self, now: Instant) -> Option<std::time::Duration> {
        self.state()
            .nodes_listed
            .map(|since| now.saturating_duration_since(since))
    }

    /// A drain begins: from now on it counts what this one finds, and nothing that an earlier one may still say.
    pub fn drain_began(&self, uid: &str, id: u64, cordoned_at: DateTime<Utc>) {
        self.state().drains.insert(
            uid.to_owned(),
            Drain {
                id,
                cordoned_at,
                facts: None,
            },
        );
    }

    /// Takes what a drain has found.
    pub fn drain_found(&self, uid: &str, id: u64, facts: DrainFacts) {
        let mut state = self.state();
        let drain = state.drains.get_mut(uid).filter(|drain| drain.id == id);
        let changed = drain.is_some_and(|drain| {
            let before = drain.facts.replace(facts);
            before != drain.facts
        });
        drop(state);
        self.change(changed);
    }

    /// Forgets a drain.
    pub fn drain_ended(&self, uid: &str, id: u64) {
        let mut state = self.state();
        if state.drains.get(uid).is_some_and(|drain| drain.id == id) {
            state.drains.remove(uid);
        }
    }

    /// Takes a measurement of the clock.
    pub fn measured(&self, skew: Skew) {
        self.state().skew = Some(skew);
        self.change(true);
    }

    /// What is known now. None until every watch has listed everything once.
    #[must_use]
    pub fn snapshot(&self) -> Option<Snapshot> {
        let state = self.state();
        Some(Snapshot {
            plans: state.plans.objects()?,
            nodes: state.nodes.objects()?,
            shadows: state.shadows.objects()?,
            ledger: state.ledgers.objects()?.remove(names::LEDGER_NAME),
            own_pods: state.own_pods.objects()?,
            drains: state
                .drains
                .iter()
                .filter_map(|(uid, drain)| Some((uid.clone(), drain.found()?)))
                .collect(),
            clock_skew: state
                .skew
                .as_ref()
                .map(|skew| skew.at(Utc::now(), Instant::now())),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn node(version: &str, heartbeat: &str, ready: &str) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n", "uid": "u", "resourceVersion": version, "annotations": {"volumes": heartbeat}},
            "status": {
                "conditions": [
                    {"type": "MemoryPressure", "status": "False", "lastHeartbeatTime": heartbeat},
                    {"type": "Ready", "status": ready, "lastHeartbeatTime": heartbeat,
                     "lastTransitionTime": "2026-11-22T08:00:00Z"}],
                "images": [{"names": [heartbeat], "sizeBytes": 5}],
                "nodeInfo": {"bootID": "b", "machineID": "", "systemUUID": "", "kernelVersion": "", "osImage": "",
                    "containerRuntimeVersion": "", "kubeletVersion": "", "kubeProxyVersion": "",
                    "operatingSystem": "", "architecture": ""}
            }
        }))
        .unwrap()
    }

    fn view() -> View {
        let view = View::default();
        view.watched::<Node>(Event::Init);
        view.watched(Event::InitApply(node("1", "2026-11-22T08:00:00Z", "True")));
        view.watched::<Node>(Event::InitDone);
        view
    }

    #[tokio::test]
    async fn a_heartbeat_wakes_nobody_and_a_change_of_readiness_does() {
        let view = view();
        view.changed().await;
        view.watched(Event::Apply(node("2", "2026-11-22T08:05:00Z", "True")));
        assert!(futures::poll!(Box::pin(view.changed())).is_pending());
        view.watched(Event::Apply(node("3", "2026-11-22T08:06:00Z", "False")));
        assert!(futures::poll!(Box::pin(view.changed())).is_ready());
    }

    #[tokio::test]
    async fn a_drain_that_has_ended_is_not_heard_any_more() {
        let view = View::default();
        let facts = |left| DrainFacts {
            left,
            own: 0,
            blocked: None,
        };
        let left = |view: &View| {
            view.state()
                .drains
                .get("u")
                .and_then(|drain| drain.facts.as_ref())
                .map(|f| f.left)
        };
        view.drain_began("u", 1, DateTime::UNIX_EPOCH);
        assert_eq!(left(&view), None);
        view.drain_found("u", 1, facts(2));
        view.changed().await;
        view.drain_found("u", 1, facts(2));
        assert!(
            futures::poll!(Box::pin(view.changed())).is_pending(),
            "nothing new"
        );
        view.drain_ended("u", 1);
        view.drain_began("u", 2, DateTime::UNIX_EPOCH);
        view.drain_found("u", 1, facts(0));
        view.drain_ended("u", 1);
        assert_eq!(left(&view), None);
        view.drain_found("u", 2, facts(3));
        assert_eq!(left(&view), Some(3));
    }

    #[test]
    fn there_is_no_snapshot_before_every_watch_has_listed() {
        let view = view();
        assert!(view.snapshot().is_none());
        view.watched::<UpdatePlan>(Event::Init);
        view.watched::<UpdatePlan>(Event::InitDone);
        view.watched::<BottlerocketShadow>(Event::Init);
        view.watched::<BottlerocketShadow>(Event::InitDone);
        view.watched::<Pod>(Event::Init);
        view.watched::<Pod>(Event::InitDone);
        view.watched::<UpdateLedger>(Event::Init);
        assert!(view.snapshot().is_none());
        view.watched::<UpdateLedger>(Event::InitDone);
        assert!(view.snapshot().unwrap().ledger.is_none());
    }
}
