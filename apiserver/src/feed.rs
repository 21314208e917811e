//! The watches that serve all streams and permits: one watch a kind, and the latest value of each object by name.
//!
//! Answers to our own requests come in too, so that what we have written is never forgotten until the watch tells it.
//! They only ever replace what is there: they cannot bring back what the watch has seen go.

use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use api::{BottlerocketShadow, UpdateLedger, names};
use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Resource, ResourceExt as _,
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::{
        WatchStreamExt as _,
        utils::Backoff,
        watcher::{self, DefaultBackoff, Event, watcher},
    },
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{cluster::Cluster, config::Config};

/// What is kept of an object.
pub trait Value: PartialEq {
    /// Whether this is `known` as it was earlier.
    fn is_older_than(&self, known: &Self) -> bool;
}

/// A UID never changes.
impl Value for String {
    fn is_older_than(&self, _: &Self) -> bool {
        false
    }
}

impl Value for BottlerocketShadow {
    fn is_older_than(&self, known: &Self) -> bool {
        is_older(self, known)
    }
}

impl Value for UpdateLedger {
    fn is_older_than(&self, known: &Self) -> bool {
        is_older(self, known)
    }
}

/// Kubernetes makes resourceVersions comparable integers.
fn is_older<K: Resource>(object: &K, known: &K) -> bool {
    let version = |object: &K| object.meta().resource_version.as_deref()?.parse::<u64>().ok();
    object.meta().uid == known.meta().uid && version(object) < version(known)
}

/// An object without the part that is large and that nobody here reads.
fn slim<K: Resource>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}

/// The latest value of each object of one kind, by name.
pub struct Feed<T> {
    inner: Arc<Inner<T>>,
}

struct Inner<T> {
    values: Mutex<HashMap<String, watch::Sender<Option<Arc<T>>>>>,
    synced: AtomicBool,
}

impl<T> Clone for Feed<T> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

impl<T> Default for Feed<T> {
    fn default() -> Self {
        Self {
            inner: Arc::new(Inner {
                values: Mutex::default(),
                synced: AtomicBool::new(false),
            }),
        }
    }
}

impl<T: Value> Feed<T> {
    /// The latest value, if the object exists as far as is known.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<T>> {
        self.values().get(name).and_then(|sender| sender.borrow().clone())
    }

    /// Follows one object: None while it does not exist. The present value counts as a change.
    #[must_use]
    pub fn subscribe(&self, name: &str) -> watch::Receiver<Option<Arc<T>>> {
        let mut values = self.values();
        let sender = values
            .entry(name.to_owned())
            .or_insert_with(|| watch::channel(None).0);
        let mut receiver = sender.subscribe();
        receiver.mark_changed();
        receiver
    }

    /// Whether the watch has listed every object at least once.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.inner.synced.load(Ordering::Acquire)
    }

    /// Sets what is known of one object.
    pub fn set(&self, name: &str, value: T) {
        let mut values = self.values();
        put(
            values
                .entry(name.to_owned())
                .or_insert_with(|| watch::channel(None).0),
            Some(value),
        );
    }

    /// Takes an object that a request of our own was answered with, where it is newer than what is known of it.
    pub fn answered(&self, object: T)
    where
        T: Resource,
    {
        let object = slim(object);
        if let Some(sender) = self.values().get(&object.name_any()) {
            let is_news = sender
                .borrow()
                .as_deref()
                .is_some_and(|known| known.is_older_than(&object));
            if is_news {
                put(sender, Some(object));
            }
        }
    }

    /// Notes that an object is gone.
    pub fn remove(&self, name: &str) {
        let mut values = self.values();
        if let Some(sender) = values.get(name) {
            put(sender, None);
            if sender.receiver_count() == 0 {
                values.remove(name);
            }
        }
    }

    /// Sets what is known of all objects.
    pub fn replace(&self, mut listed: HashMap<String, T>) {
        let mut values = self.values();
        for (name, sender) in values.iter() {
            put(sender, listed.remove(name));
        }
        values.retain(|_, sender| sender.borrow().is_some() || sender.receiver_count() > 0);
        for (name, value) in listed {
            values.insert(name, watch::channel(Some(Arc::new(value))).0);
        }
        self.inner.synced.store(true, Ordering::Release);
    }

    fn values(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<Option<Arc<T>>>>> {
        self.inner.values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows `events` for ever.
    async fn follow<K: Resource>(
        self,
        what: &'static str,
        events: impl Stream<Item = watcher::Result<Event<K>>> + Send,
        backoff: Capped,
        value: impl Fn(K) -> Option<T>,
    ) {
        let mut events = Box::pin(events.backoff(backoff));
        let mut listed = HashMap::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(object)) => {
                    let name = object.name_any();
                    if let Some(value) = value(object) {
                        listed.insert(name, value);
                    }
                }
                Ok(Event::InitDone) => self.replace(std::mem::take(&mut listed)),
                Ok(Event::Apply(object)) => {
                    let name = object.name_any();
                    match value(object) {
                        Some(value) => self.set(&name, value),
                        None => self.remove(&name),
                    }
                }
                Ok(Event::Delete(object)) => self.remove(&object.name_any()),
                Err(error) => tracing::warn!(what, %error, "a watch failed and is tried again"),
            }
        }
    }
}

fn put<T: Value>(sender: &watch::Sender<Option<Arc<T>>>, value: Option<T>) {
    sender.send_if_modified(|known| {
        // The watch comes to it in the end.
        let is_past = matches!((&*known, &value), (Some(known), Some(value)) if value.is_older_than(known));
        let changed = !is_past && known.as_deref() != value.as_ref();
        if changed {
            *known = value.map(Arc::new);
        }
        changed
    });
}

/// The watches of the apiserver.
#[derive(Clone, Default)]
pub struct Feeds {
    /// The shadows.
    pub shadows: Feed<BottlerocketShadow>,
    /// The UIDs of the nodes.
    pub nodes: Feed<String>,
    /// The UIDs of the agent pods.
    pub pods: Feed<String>,
    /// The ledger. Nothing waits for it: where it is not known it is read.
    pub ledgers: Feed<UpdateLedger>,
}

impl Feeds {
    /// Starts the watches.
    pub fn watch(&self, cluster: &Cluster, config: &Config, tasks: &TaskTracker, stop: &CancellationToken) {
        let seconds = u32::try_from(config.watch_timeout.as_secs())
            .unwrap_or(u32::MAX)
            .max(1);
        let all = watcher::Config::default().timeout(seconds);
        let agents = all
            .clone()
            .labels(&format!("{}={}", names::COMPONENT_LABEL, names::COMPONENT_AGENT));
        let backoff = || Capped {
            inner: DefaultBackoff::default(),
            most: config.watch_backoff,
        };
        let spawn = |task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            let stop = stop.clone();
            tasks.spawn(async move {
                tokio::select! { () = stop.cancelled() => {}, () = task => {} }
            });
        };
        let shadows = watcher(cluster.readable_shadows(), all.clone());
        spawn(Box::pin(self.shadows.clone().follow(
            "shadows",
            shadows,
            backoff(),
            |shadow| readable(shadow).map(slim),
        )));
        let ledgers = watcher(cluster.ledgers(), all.clone());
        spawn(Box::pin(self.ledgers.clone().follow(
            "the ledger",
            ledgers,
            backoff(),
            |ledger| Some(slim(ledger)),
        )));
        let nodes = watcher(cluster.nodes(), all);
        let node_uid = |node: PartialObjectMeta<Node>| node.metadata.uid;
        spawn(Box::pin(self.nodes.clone().follow(
            "nodes",
            nodes,
            backoff(),
            node_uid,
        )));
        let pods = watcher(cluster.own_pods(), agents);
        let pod_uid = |pod: PartialObjectMeta<Pod>| pod.metadata.uid;
        spawn(Box::pin(self.pods.clone().follow(
            "agent pods",
            pods,
            backoff(),
            pod_uid,
        )));
    }

    /// Whether every watch has listed its objects at least once.
    #[must_use]
    pub fn are_synced(&self) -> bool {
        self.shadows.is_synced() && self.nodes.is_synced() && self.pods.is_synced()
    }
}

/// The shadow, where this version understands it. One that it does not must not keep the others from being seen.
fn readable(shadow: DeserializeGuard<BottlerocketShadow>) -> Option<BottlerocketShadow> {
    let read = shadow.0.inspect_err(|invalid| {
        let (shadow, error) = (invalid.metadata.name.as_deref(), &invalid.error);
        tracing::warn!(
            shadow,
            error,
            "a shadow is not understood: its node is told nothing"
        );
    });
    read.ok()
}

/// kube's backoff, with a bound of ours.
struct Capped {
    inner: DefaultBackoff,
    most: Duration,
}

impl Iterator for Capped {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.inner.next().map(|pause| pause.min(self.most))
    }
}

impl Backoff for Capped {
    fn reset(&mut self) {
        self.inner.reset();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;

    impl Value for i32 {
        fn is_older_than(&self, _: &Self) -> bool {
            false
        }
    }

    fn shadow(uid: &str, version: &str) -> BottlerocketShadow {
        let mut shadow = BottlerocketShadow::new("brs-a", api::shadow::BottlerocketShadowSpec::default());
        shadow.metadata.uid = Some(uid.to_owned());
        shadow.metadata.resource_version = Some(version.to_owned());
        shadow
    }

    #[test]
    fn an_answer_counts_until_the_watch_has_something_newer_and_brings_nothing_back() {
        let feed = Feed::default();
        let version = |feed: &Feed<BottlerocketShadow>| {
            let shadow = feed.get("brs-a")?;
            shadow.metadata.resource_version.clone()
        };
        let known = |feed: &Feed<BottlerocketShadow>, expected: &str| {
            assert_eq!(version(feed).as_deref(), Some(expected));
        };
        feed.answered(shadow("1", "5"));
        assert_eq!(version(&feed), None, "the watch has not shown it");
        feed.set("brs-a", shadow("1", "9"));
        feed.answered(shadow("1", "12"));
        known(&feed, "12");
        feed.set("brs-a", shadow("1", "11"));
        known(&feed, "12");
        feed.replace(HashMap::from([("brs-a".to_owned(), shadow("1", "11"))]));
        known(&feed, "12");
        feed.answered(shadow("1", "10"));
        known(&feed, "12");
        feed.answered(shadow("2", "13"));
        known(&feed, "12");
        feed.set("brs-a", shadow("2", "14"));
        known(&feed, "14");
        feed.remove("brs-a");
        feed.answered(shadow("2", "15"));
        assert_eq!(version(&feed), None);
    }

    #[test]
    fn followers_see_each_change_and_only_changes() {
        let feed = Feed::default();
        let mut a = feed.subscribe("a");
        assert!(a.has_changed().unwrap(), "the present value counts");
        assert_eq!(*a.borrow_and_update(), None);
        feed.set("b", 1);
        assert!(!a.has_changed().unwrap(), "others do not wake it");
        feed.set("a", 1);
        assert_eq!(a.borrow_and_update().as_deref(), Some(&1));
        feed.set("a", 1);
        assert!(!a.has_changed().unwrap());
        feed.remove("a");
        assert_eq!(*a.borrow_and_update(), None);
        feed.set("a", 2);
        assert_eq!(
            a.borrow_and_update().as_deref(),
            Some(&2),
            "the same channel goes on"
        );
    }

    #[test]
    fn a_list_replaces_everything_and_forgets_what_nobody_follows() {
        let feed = Feed::default();
        let a = feed.subscribe("a");
        feed.set("a", 1);
        feed.set("b", 1);
        assert!(!feed.is_synced());
        feed.replace(HashMap::from([("c".to_owned(), 3)]));
        assert!(feed.is_synced());
        assert_eq!(*a.borrow(), None);
        assert_eq!(feed.get("c").as_deref(), Some(&3));
        let mut names: Vec<_> = feed.values().keys().cloned().collect();
        names.sort();
        assert_eq!(names, ["a", "c"]);
        drop(a);
        feed.remove("a");
        assert_eq!(feed.values().len(), 1);
    }
}
