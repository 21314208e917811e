//! What a run has come to.

use std::collections::BTreeMap;

use api::shadow::FailureReason;
use chrono::{DateTime, Utc};

/// A plan's run: plan UID and run.
pub type RunKey = (String, String);

/// What a run has come to.
#[derive(Debug, Default)]
pub struct Run {
    /// Nodes that were granted in each wave, by UID, with their names.
    pub members: BTreeMap<String, BTreeMap<String, String>>,
    /// When the last node of each wave was through: its shadow became Idle again.
    pub finished: BTreeMap<String, DateTime<Utc>>,
    /// How many nodes of each wave were updated; some may be gone since.
    pub updated: BTreeMap<String, usize>,
    /// How many grants each node has had, by UID.
    pub granted: BTreeMap<String, u32>,
    /// The nodes with attempts that failed, by UID, since the run was last retried.
    pub failed: BTreeMap<String, Failures>,
    /// When it was last retried, by the ledger.
    pub retried_at: Option<DateTime<Utc>>,
    /// How often it was.
    pub retries: usize,
    /// The nodes that are left alone, by UID, because they cannot have the version.
    pub left_alone: BTreeMap<String, FailureReason>,
}

/// The failed attempts of a node in a run.
#[derive(Debug)]
pub struct Failures {
    /// The node's name.
    pub node: String,
    /// Why the last one failed.
    pub reason: FailureReason,
    /// How many grants ended with one.
    pub released: u32,
    /// How many its shadow counts.
    pub told: u32,
}

impl Failures {
    /// Whether the node is not tried again: one that was unhealthy on the target has nothing left to try.
    #[must_use]
    pub fn are_final(&self, retries: u32) -> bool {
        self.reason == FailureReason::Unhealthy || self.released.max(self.told) > retries
    }
}

impl Run {
    /// The wave that the node was granted in.
    #[must_use]
    pub fn wave_of(&self, uid: &str) -> Option<&str> {
        self.members
            .iter()
            .find(|(_, members)| members.contains_key(uid))
            .map(|(wave, _)| wave.as_str())
    }

    /// Whether the node has failed, and is not tried again: one that lies about its version after a boot would only do so
    /// once more.
    #[must_use]
    pub fn given_up(&self, uid: &str, retries: u32, lies: bool) -> bool {
        let is_final = |failures: &Failures| {
            let lied = lies && failures.reason == FailureReason::BootedOtherVersion;
            lied || failures.are_final(retries)
        };
        self.failed.get(uid).is_some_and(is_final)
    }
}
