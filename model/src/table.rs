//! Values by number, and answers by question. Both are shared by all threads.

use std::{
    collections::HashMap,
    hash::{BuildHasher, BuildHasherDefault, Hash},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use siphasher::sip::SipHasher13;

use crate::state::Id;

/// A map that is the same in every run.
pub type Map<K, V> = HashMap<K, V, BuildHasherDefault<SipHasher13>>;

/// What tells two values apart.
pub trait Distinct {
    /// Equal for equal values only.
    fn key(&self) -> Vec<u8>;
}

/// Values of one kind, each once.
pub struct Table<T> {
    rows: RwLock<Rows<T>>,
    aged: Memo<(Id, u16), Id>,
}

struct Rows<T> {
    ids: Map<Vec<u8>, Id>,
    values: Vec<Arc<T>>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            rows: RwLock::new(Rows {
                ids: Map::default(),
                values: Vec::new(),
            }),
            aged: Memo::default(),
        }
    }
}

impl<T: Distinct> Table<T> {
    /// The number of a value.
    pub fn id(&self, value: T) -> Id {
        let key = value.key();
        if let Some(id) = self
            .rows
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .ids
            .get(&key)
        {
            return *id;
        }
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        let next = Id::try_from(rows.values.len() + 1).unwrap_or(Id::MAX);
        let id = *rows.ids.entry(key).or_insert(next);
        if id == next {
            rows.values.push(Arc::new(value));
        }
        id
    }

    /// The value; None for 0.
    pub fn get(&self, id: Id) -> Option<Arc<T>> {
        let index = (id as usize).checked_sub(1)?;
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        rows.values.get(index).cloned()
    }

    /// The number of what a value is made of at `now`.
    pub fn aged(&self, id: Id, now: u16, age: impl FnOnce(T) -> T) -> Id
    where
        T: Clone,
    {
        if id == 0 {
            return 0;
        }
        self.aged.get((id, now), || {
            self.get(id).map_or(0, |value| self.id(age((*value).clone())))
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rows
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values
            .len()
    }
}

const SHARDS: usize = 64;

/// Answers that were given before.
pub struct Memo<K, V> {
    shards: Vec<Mutex<Map<K, V>>>,
}

impl<K, V> Default for Memo<K, V> {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }
}

impl<K: Hash + Eq, V: Clone> Memo<K, V> {
    fn shard(&self, key: &K) -> MutexGuard<'_, Map<K, V>> {
        let hash = BuildHasherDefault::<SipHasher13>::default().hash_one(key);
        let shard = usize::try_from(hash >> 48).unwrap_or_default() % SHARDS;
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer, found out where it was not given before. Two threads may both find it out; it is the same.
    pub fn get(&self, key: K, find: impl FnOnce() -> V) -> V {
        if let Some(known) = self.shard(&key).get(&key) {
            return known.clone();
        }
        let value = find();
        self.shard(&key).entry(key).or_insert(value).clone()
    }

    /// How many answers there are.
    pub fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len())
            .sum()
    }
}
