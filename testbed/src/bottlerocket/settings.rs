//! The settings of one machine: committed ones, transactions, and the config files written from them a moment later.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Version;

/// `settings.updates`, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct UpdateSettings {
    /// `latest`, or the only version to update to.
    pub version_lock: String,
    /// Whether the repository's own waves are ignored.
    pub ignore_waves: bool,
    /// Decides the node's place in those waves.
    pub seed: u32,
}

impl Default for UpdateSettings {
    fn default() -> Self {
        Self {
            version_lock: "latest".to_owned(),
            ignore_waves: false,
            seed: 0,
        }
    }
}

/// Settings that a transaction would change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Pending {
    version_lock: Option<String>,
    ignore_waves: Option<bool>,
    seed: Option<u32>,
}

/// The settings of one machine.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    committed: UpdateSettings,
    transactions: BTreeMap<String, Pending>,
    applied: UpdateSettings,
    /// When the config files are written, for every commit since.
    writes: Vec<DateTime<Utc>>,
}

impl Settings {
    /// Settings that are committed and applied.
    pub fn new(settings: UpdateSettings) -> Self {
        Self {
            applied: settings.clone(),
            committed: settings,
            ..Self::default()
        }
    }

    /// What `GET /settings` reads.
    pub fn committed(&self) -> &UpdateSettings {
        &self.committed
    }

    /// What the updater reads.
    pub fn applied(&self) -> &UpdateSettings {
        &self.applied
    }

    /// The body of `GET /settings`: all, or only the keys asked for.
    pub fn get(&self, keys: Option<&[String]>) -> Value {
        let all = serde_json::to_value(&self.committed).unwrap_or_default();
        let mut shown = Map::new();
        for (name, value) in all.as_object().into_iter().flatten() {
            let asked =
                keys.is_none_or(|keys| keys.iter().any(|key| *key == format!("settings.updates.{name}")));
            if asked {
                shown.insert(name.clone(), value.clone());
            }
        }
        if shown.is_empty() {
            json!({})
        } else {
            json!({ "updates": shown })
        }
    }

    /// `PATCH /settings`: adds to a transaction. The error says what is not valid.
    pub fn patch(&mut self, transaction: &str, body: &[u8]) -> Result<(), String> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Body {
            updates: Pending,
        }
        let Body { updates } = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        if let Some(lock) = &updates.version_lock
            && lock != "latest"
            && let Err(error) = lock.parse::<Version>()
        {
            return Err(format!("invalid version-lock: {error}"));
        }
        let pending = self.transactions.entry(transaction.to_owned()).or_default();
        pending.version_lock = updates.version_lock.or(pending.version_lock.take());
        pending.ignore_waves = updates.ignore_waves.or(pending.ignore_waves);
        pending.seed = updates.seed.or(pending.seed);
        Ok(())
    }

    /// `DELETE /tx`: the keys that were pending.
    pub fn delete(&mut self, transaction: &str) -> Vec<&'static str> {
        self.transactions
            .remove(transaction)
            .map(|pending| pending.keys())
            .unwrap_or_default()
    }

    /// `POST /tx/commit_and_apply`: the keys committed; none, and nothing done, where none were pending. The config
    /// files are written at `written`.
    pub fn commit(&mut self, transaction: &str, written: DateTime<Utc>) -> Vec<&'static str> {
        let Some(pending) = self.transactions.remove(transaction) else {
            return Vec::new();
        };
        let keys = pending.keys();
        if keys.is_empty() {
            return keys;
        }
        let Pending {
            version_lock,
            ignore_waves,
            seed,
        } = pending;
        let committed = &mut self.committed;
        committed.version_lock = version_lock.unwrap_or_else(|| committed.version_lock.clone());
        committed.ignore_waves = ignore_waves.unwrap_or(committed.ignore_waves);
        committed.seed = seed.unwrap_or(committed.seed);
        self.writes.push(written);
        keys
    }

    /// When config files are next written.
    pub fn next_write(&self) -> Option<DateTime<Utc>> {
        self.writes.iter().min().copied()
    }

    /// Writes the config files that are due: with what is committed by then.
    pub fn write_due(&mut self, now: DateTime<Utc>) {
        let before = self.writes.len();
        self.writes.retain(|due| *due > now);
        if self.writes.len() != before {
            self.applied = self.committed.clone();
        }
    }

    /// A boot forgets transactions and writes the config files anew.
    pub fn boot(&mut self) {
        *self = Self::new(self.committed.clone());
    }
}

impl Pending {
    fn keys(&self) -> Vec<&'static str> {
        let set = [
            (self.version_lock.is_some(), "settings.updates.version-lock"),
            (self.ignore_waves.is_some(), "settings.updates.ignore-waves"),
            (self.seed.is_some(), "settings.updates.seed"),
        ];
        set.into_iter()
            .filter_map(|(pending, key)| pending.then_some(key))
            .collect()
    }
}
