//! The objects of one kind as last seen: by a watch, by our own writes, by reads.
//!
//! resourceVersions order everything: Kubernetes makes them comparable integers. The watch is always right in the
//! end. Between its events an answer to a request of our own may be newer, and then it counts; but it only ever
//! replaces what is there, so that it cannot bring back what the watch has seen go.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use kube::{Resource, ResourceExt, runtime::watcher::Event};

/// An object that is stored.
pub trait Stored: Resource + Clone + PartialEq {
    /// Drops what nobody here reads, so that it takes no memory and its changes wake nobody.
    fn trim(&mut self) {
        // None, not empty: an empty list in a write would wipe them.
        self.meta_mut().managed_fields = None;
    }
}

/// The objects of one kind, by name.
#[derive(Debug)]
pub struct Store<K> {
    objects: BTreeMap<String, Arc<K>>,
    /// What the watch is listing now.
    listing: Option<BTreeMap<String, Arc<K>>>,
    synced: bool,
    /// How often the watch has listed everything.
    epoch: u64,
    /// The highest version that the watch has delivered.
    seen: u64,
    /// UIDs that a read has found gone, while the watch may still deliver their past.
    gone: HashSet<String>,
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            listing: None,
            synced: false,
            epoch: 0,
            seen: 0,
            gone: HashSet::new(),
        }
    }
}

fn version<K: Resource>(object: &K) -> u64 {
    object
        .meta()
        .resource_version
        .as_deref()
        .and_then(|version| version.parse().ok())
        .unwrap_or(0)
}

fn uid<K: Resource>(object: &K) -> &str {
    object.meta().uid.as_deref().unwrap_or_default()
}

fn same_but_version<K: Stored>(a: &K, b: &K) -> bool {
    let mut a = a.clone();
    a.meta_mut()
        .resource_version
        .clone_from(&b.meta().resource_version);
    a == *b
}

impl<K: Stored> Store<K> {
    /// All objects, by name. None until the watch has listed them once.
    #[must_use]
    pub fn objects(&self) -> Option<BTreeMap<String, Arc<K>>> {
        self.synced.then(|| self.objects.clone())
    }

    /// One object.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<K>> {
        self.objects.get(name).cloned()
    }

    /// How often the watch has listed everything.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Takes an event of the watch. True where something changed besides a version.
    pub fn watched(&mut self, event: Event<K>) -> bool {
        match event {
            Event::Init => {
                self.listing = Some(BTreeMap::new());
                false
            }
            Event::InitApply(mut object) => {
                object.trim();
                self.seen = self.seen.max(version(&object));
                if !self.gone.contains(uid(&object)) {
                    self.listing
                        .get_or_insert_default()
                        .insert(object.name_any(), Arc::new(object));
                }
                false
            }
            Event::InitDone => self.listed_by_watch(),
            Event::Apply(mut object) => {
                object.trim();
                self.seen = self.seen.max(version(&object));
                if self.gone.contains(uid(&object)) {
                    return false;
                }
                let name = object.name_any();
                match self.objects.get(&name) {
                    Some(known) if version(known.as_ref()) > version(&object) => false,
                    Some(known) => {
                        let changed = !same_but_version(known.as_ref(), &object);
                        self.objects.insert(name, Arc::new(object));
                        changed
                    }
                    None => {
                        self.objects.insert(name, Arc::new(object));
                        true
                    }
                }
            }
            Event::Delete(object) => {
                self.seen = self.seen.max(version(&object));
                self.gone.remove(uid(&object));
                let name = object.name_any();
                let known = self.objects.get(&name);
                let removes = known.is_some_and(|known| {
                    uid(known.as_ref()) == uid(&object) || version(known.as_ref()) < version(&object)
                });
                if removes {
                    self.objects.remove(&name);
                }
                removes
            }
        }
    }

    /// Replaces everything by what the watch has listed, except where an answer of ours is newer.
    fn listed_by_watch(&mut self) -> bool {
        let mut listed = self.listing.take().unwrap_or_default();
        let mut changed = !self.synced || listed.len() != self.objects.len();
        for (name, object) in &mut listed {
            match self.objects.get(name) {
                Some(known) if uid(known.as_ref()) == uid(object.as_ref()) => {
                    changed |= !same_but_version(known.as_ref(), object.as_ref());
                    if version(known.as_ref()) > version(object.as_ref()) {
                        *object = known.clone();
                    }
                }
                _ => changed = true,
            }
        }
        self.objects = listed;
        self.synced = true;
        self.epoch += 1;
        self.gone.clear();
        changed
    }

    /// Takes the answer to a write or a read of an object. One that is not there (any more) is left to the watch.
    pub fn answered(&mut self, mut object: K) -> bool {
        object.trim();
        match self.objects.get_mut(&object.name_any()) {
            Some(known) if version(known.as_ref()) < version(&object) => {
                let changed = !same_but_version(known.as_ref(), &object);
                *known = Arc::new(object);
                changed
            }
            _ => false,
        }
    }

    /// Takes the answer to a request that created or found an object, unless the watch has passed that version.
    pub fn created(&mut self, mut object: K) -> bool {
        let name = object.name_any();
        if self.objects.contains_key(&name) {
            return self.answered(object);
        }
        if version(&object) <= self.seen || self.gone.contains(uid(&object)) {
            return false;
        }
        object.trim();
        self.objects.insert(name, Arc::new(object));
        true
    }

    /// A read has found that the object with this UID is gone.
    pub fn found_gone(&mut self, name: &str, gone: &str) -> bool {
        let removes = self
            .objects
            .get(name)
            .is_some_and(|known| uid(known.as_ref()) == gone);
        if removes {
            self.objects.remove(name);
            self.gone.insert(gone.to_owned());
        }
        removes
    }

    /// Takes a list that was begun in `epoch` and made at `listed_at`, of all objects for which `covers` holds.
    /// Returns name and UID of those that should have been on it: what became of them is to be read one by one.
    pub fn listed(
        &mut self,
        items: Vec<K>,
        listed_at: u64,
        epoch: u64,
        covers: impl Fn(&K) -> bool,
    ) -> Vec<(String, String)> {
        let names: HashSet<String> = items.iter().map(ResourceExt::name_any).collect();
        let newer_than_watch = listed_at > self.seen && epoch == self.epoch;
        for mut object in items {
            let name = object.name_any();
            if self.objects.contains_key(&name) {
                self.answered(object);
            } else if newer_than_watch && !self.gone.contains(uid(&object)) {
                object.trim();
                self.objects.insert(name, Arc::new(object));
            }
        }
        let missing = self.objects.iter().filter(|(name, known)| {
            !names.contains(*name) && covers(known.as_ref()) && version(known.as_ref()) <= listed_at
        });
        missing
            .map(|(name, known)| (name.clone(), uid(known.as_ref()).to_owned()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    impl Stored for ConfigMap {}

    fn object(name: &str, uid: &str, version: u64, data: &str) -> ConfigMap {
        serde_json::from_value(json!({
            "metadata": {"name": name, "uid": uid, "resourceVersion": version.to_string()}, "data": {"x": data}
        }))
        .unwrap()
    }

    fn store(objects: &[ConfigMap]) -> Store<ConfigMap> {
        let mut store = Store::default();
        list(&mut store, objects);
        store
    }

    fn list(store: &mut Store<ConfigMap>, objects: &[ConfigMap]) -> bool {
        store.watched(Event::Init);
        for object in objects {
            store.watched(Event::InitApply(object.clone()));
        }
        store.watched(Event::InitDone)
    }

    fn data(store: &Store<ConfigMap>, name: &str) -> Option<String> {
        store
            .get(name)
            .map(|object| object.data.clone().unwrap()["x"].clone())
    }

    #[test]
    fn nothing_is_shown_before_the_first_list_is_complete() {
        let mut store = Store::<ConfigMap>::default();
        store.watched(Event::Init);
        store.watched(Event::InitApply(object("a", "1", 5, "old")));
        assert!(store.objects().is_none());
        assert!(store.watched(Event::InitDone));
        assert_eq!(store.objects().unwrap().len(), 1);
    }

    #[test]
    fn a_change_of_the_version_alone_wakes_nobody() {
        let mut store = store(&[object("a", "1", 5, "same")]);
        assert!(!store.watched(Event::Apply(object("a", "1", 6, "same"))));
        assert_eq!(
            store.get("a").unwrap().metadata.resource_version.as_deref(),
            Some("6"),
            "but writes need it"
        );
        assert!(store.watched(Event::Apply(object("a", "1", 7, "other"))));
        assert!(!list(&mut store, &[object("a", "1", 7, "other")]));
    }

    #[test]
    fn an_own_write_counts_until_the_watch_has_something_newer() {
        let mut store = store(&[object("a", "1", 5, "old")]);
        assert!(store.answered(object("a", "1", 8, "ours")));
        assert!(!store.watched(Event::Apply(object("a", "1", 6, "before ours"))));
        assert_eq!(data(&store, "a").unwrap(), "ours");
        assert!(
            !store.watched(Event::Apply(object("a", "1", 8, "ours"))),
            "the echo wakes nobody"
        );
        assert!(store.watched(Event::Apply(object("a", "1", 9, "after ours"))));
        assert_eq!(data(&store, "a").unwrap(), "after ours");
        assert!(
            !store.answered(object("a", "1", 8, "ours")),
            "a late answer does not hide what is newer"
        );
        assert_eq!(data(&store, "a").unwrap(), "after ours");
    }

    #[test]
    fn an_own_write_does_not_bring_back_what_was_deleted() {
        let mut store = store(&[object("a", "1", 5, "old")]);
        assert!(store.watched(Event::Delete(object("a", "1", 9, "old"))));
        assert!(!store.answered(object("a", "1", 8, "ours")));
        assert!(!store.created(object("a", "1", 8, "ours")));
        assert_eq!(data(&store, "a"), None);
    }

    #[test]
    fn a_deletion_hits_our_newer_answer_of_the_same_object_but_not_its_successor() {
        let mut store = store(&[object("a", "1", 5, "old")]);
        store.answered(object("a", "1", 8, "ours"));
        assert!(
            store.watched(Event::Delete(object("a", "1", 7, "x"))),
            "whatever the version says"
        );
        list(&mut store, &[object("a", "2", 20, "successor")]);
        assert!(!store.watched(Event::Delete(object("a", "1", 10, "x"))));
        assert_eq!(data(&store, "a").unwrap(), "successor");
    }

    #[test]
    fn a_list_of_the_watch_keeps_our_newer_answers_and_drops_what_is_not_on_it() {
        let mut store = store(&[object("a", "1", 5, "old"), object("b", "2", 5, "old")]);
        store.answered(object("a", "1", 8, "ours"));
        store.answered(object("b", "2", 9, "ours"));
        assert!(list(&mut store, &[object("a", "1", 7, "listed")]));
        assert_eq!(data(&store, "a").unwrap(), "ours");
        assert_eq!(data(&store, "b"), None);
    }

    #[test]
    fn what_was_created_is_there_unless_the_watch_has_passed_it() {
        let mut store = store(&[object("a", "1", 5, "old")]);
        assert!(!store.created(object("b", "2", 5, "past")));
        assert!(store.created(object("b", "2", 6, "new")));
        assert_eq!(data(&store, "b").unwrap(), "new");
    }

    #[test]
    fn what_a_read_has_found_gone_stays_gone_while_the_watch_lags() {
        let mut store = store(&[object("a", "1", 5, "old")]);
        assert!(!store.found_gone("a", "2"), "another one of that name");
        assert!(store.found_gone("a", "1"));
        assert!(!store.watched(Event::Apply(object("a", "1", 6, "past"))));
        assert_eq!(data(&store, "a"), None);
        assert!(!store.watched(Event::Delete(object("a", "1", 7, "past"))));
        assert!(store.watched(Event::Apply(object("a", "2", 8, "successor"))));
    }

    #[test]
    fn a_fresh_list_goes_ahead_of_a_watch_that_lags() {
        let mut store = store(&[
            object("a", "1", 5, "old"),
            object("b", "2", 5, "old"),
            object("c", "3", 30, "new"),
        ]);
        let fresh = vec![object("a", "1", 15, "fresh"), object("d", "4", 16, "fresh")];
        let epoch = store.epoch();
        let missing = store.listed(fresh, 40, epoch, |_| true);
        assert_eq!(data(&store, "a").unwrap(), "fresh");
        assert_eq!(data(&store, "d").unwrap(), "fresh");
        assert_eq!(
            missing,
            [("b".to_owned(), "2".to_owned()), ("c".to_owned(), "3".to_owned())]
        );
    }

    #[test]
    fn a_fresh_list_that_the_watch_has_overtaken_brings_nothing_back() {
        let mut store = store(&[object("a", "1", 5, "old")]);
        let epoch = store.epoch();
        store.watched(Event::Delete(object("a", "1", 20, "old")));
        assert!(
            store
                .listed(vec![object("a", "1", 5, "old")], 10, epoch, |_| true)
                .is_empty()
        );
        assert_eq!(data(&store, "a"), None);
        list(&mut store, &[]);
        assert!(
            store
                .listed(vec![object("b", "2", 5, "old")], 30, epoch, |_| true)
                .is_empty(),
            "an older epoch"
        );
        assert_eq!(data(&store, "b"), None);
    }
}
