//! What people have asked of a run, as the ledger records it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What people have asked of a run by annotations of its plan, and was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Actions {
    /// approved: when each wave was approved, by wave name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub approved: BTreeMap<String, DateTime<Utc>>,
    /// retriedAt: when the run was last retried. A failure from before does not count any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retried_at: Option<DateTime<Utc>>,
    /// runNow: since when the run ignores its maintenance windows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_now: Option<DateTime<Utc>>,
    /// taken: what was asked and done, such as `retry 1a2b3c4d/again`, so that it is done once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taken: Vec<String>,
    /// said: who asked and why, as the annotation `reason` said when it was done, by what `taken` says.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub said: BTreeMap<String, String>,
}

impl Actions {
    /// Whether anything was asked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
