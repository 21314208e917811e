//! Why a node does not move: one value for status, Events and metrics.
//!
//! * `told`: the stable word for each verdict, and how people hear of it
//! * `words`: what is said of it, for people

mod told;
mod words;

use std::{ops::Deref, sync::Arc};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use crate::shadow::FailureReason;
pub use told::Told;
pub use words::halted_by;

/// Why a node that a plan matches has no grant: exactly one holds. Of several that apply it is what the node needs no update for, then
/// what holds the whole plan, what is wrong with the node, the clock, its wave, the window, the limits. Or why one that has a
/// grant does not get on: `AgentSilent` or `DrainBlocked`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all_fields = "camelCase")]
pub enum Verdict {
    /// The node belongs to another plan, whose verdict counts.
    OtherPlan {
        /// That plan's name.
        name: String,
    },
    /// The node failed in this run, and its retries are used up.
    Failed {
        /// Why.
        failure: FailureReason,
        /// One line for people.
        message: String,
    },
    /// The node runs the target.
    UpToDate,
    /// The node runs a newer version than the target; it is left alone.
    NewerThanTarget {
        /// The version it runs.
        running: String,
    },
    /// Somebody has taken the node out of all updates, by its annotation.
    OptedOut {
        /// What the annotation says, as one line.
        why: String,
    },
    /// The target is not offered to the node, by a refresh that ignored the repository's own waves; it is left alone until
    /// it is.
    VersionNotOffered {
        /// One line for people, with what is on offer.
        message: String,
    },
    /// The node's image cannot be updated in place; it is left alone.
    Unsupported {
        /// How that shows, for people.
        message: String,
    },
    /// The plan's spec cannot be carried out.
    InvalidPlan {
        /// The field, the value and what would be right.
        problem: String,
    },
    /// The plan is being deleted.
    Deleting,
    /// The plan is paused.
    Paused,
    /// The whole install is stopped.
    Stopped,
    /// The failure threshold was reached.
    Halted {
        /// How many nodes have failed.
        failed: u32,
        /// The threshold.
        threshold: u32,
    },
    /// The node is not Ready.
    NotReady {
        /// Since when, where that is known.
        since: Option<DateTime<Utc>>,
    },
    /// No agent reports for the node: it has no agent pod that is Ready, or has never reported a version. Of a node with a grant:
    /// what its agent was told has not been answered for 60 s, or, while it downloads, its pod has not been Ready for as long.
    AgentSilent {
        /// Since when, where that is known.
        since: Option<DateTime<Utc>>,
    },
    /// The node's agent reports another version than its kubelet.
    VersionDisputed {
        /// The version that the agent reports.
        reported: String,
        /// The image that the kubelet names, `status.nodeInfo.osImage`.
        os_image: String,
    },
    /// The node's agent does not report what `latest` has to know.
    AgentOutdated,
    /// With `latest`: no version is known to be on offer to the node.
    NothingOffered {
        /// The node's variant.
        variant: String,
        /// Its architecture.
        arch: String,
    },
    /// With `latest`: what is on offer has not been for `minReleaseAge`.
    ReleaseTooYoung {
        /// The first of it that will have been, the newest of those where there are several.
        version: String,
        /// Until when, as far as this node has seen it.
        until: DateTime<Utc>,
    },
    /// What an earlier attempt changed is being undone.
    Resetting,
    /// Somebody else has cordoned the node.
    CordonedByOther,
    /// The node failed and is tried again later.
    Backoff {
        /// When.
        until: DateTime<Utc>,
    },
    /// No window is long enough for any node, of those that are still to open, as far as was looked.
    WindowTooShort {
        /// How many seconds a node needs.
        needs_seconds: i64,
        /// Of how many nodes that was learned. 0: it is the plan's `expectedNodeDuration`.
        #[serde(default)]
        samples: u32,
        /// For how many seconds the longest of the windows is open.
        window_seconds: i64,
        /// When it opens.
        opens: DateTime<Utc>,
        /// The exclusion that closes it, where one does.
        exclusion: Option<String>,
    },
    /// This clock and the Kubernetes API's disagree by 30 s or more: windows cannot be trusted.
    ClockSkewed {
        /// By how many seconds this clock is ahead. None: it was not measured yet.
        seconds: Option<i64>,
    },
    /// A wave before the node's is not done.
    WaveNotReached {
        /// The node's wave.
        wave: String,
        /// The wave that is under way.
        behind: String,
    },
    /// The wave before the node's is done and watched.
    Soaking {
        /// That wave.
        wave: String,
        /// Until when.
        until: DateTime<Utc>,
    },
    /// The wave before the node's is done and soaked, and waits for a person's approval.
    AwaitingApproval {
        /// That wave.
        wave: String,
        /// The run to approve it for.
        run: String,
    },
    /// No window is open.
    OutsideWindow {
        /// When one opens; None: never again.
        opens: Option<DateTime<Utc>>,
    },
    /// A window would be open but for an exclusion.
    Excluded {
        /// The exclusion's name.
        exclusion: String,
        /// When a window opens; None: never again.
        opens: Option<DateTime<Utc>>,
    },
    /// No window is open, and none was found that opens: exclusions leave none open for as far as was looked.
    NoWindowFound,
    /// The window that is open, or opens next, closes before the node would have finished.
    WontFitInWindow {
        /// How many seconds a node needs.
        needs_seconds: i64,
        /// Of how many nodes that was learned. 0: it is the plan's `expectedNodeDuration`.
        #[serde(default)]
        samples: u32,
        /// When that window opens. None: it is open.
        #[serde(default)]
        from: Option<DateTime<Utc>>,
        /// When it closes.
        closes: DateTime<Utc>,
        /// The exclusion that closes it, where one does.
        exclusion: Option<String>,
        /// When the next one opens that is long enough. None: none opens again.
        opens: Option<DateTime<Utc>>,
    },
    /// As many nodes are unavailable as may be.
    BudgetSpent {
        /// How many are.
        unavailable: u32,
        /// How many may be.
        max: u32,
        /// Whose limit: `plan`, `wave NAME`, `install`, `operator's own nodes`, those that it runs on, or `operator`, whose ledger
        /// holds so many grants at once.
        limit: String,
        /// Some of the nodes that are unavailable, at most 5, each with the reason for people: `node-3 (not Ready)`.
        by: Shared,
    },
    /// The node downloads its version ahead of its turn; it waits for others.
    Staging {
        /// The version.
        version: String,
    },
    /// Nodes of as many other domains are unavailable as may be.
    DomainBusy {
        /// The node's domain.
        domain: String,
        /// The label whose values are the domains.
        key: String,
        /// Of how many domains nodes may be unavailable.
        max: u32,
        /// Some of the domains that have unavailable nodes, at most 5, each with one of them: `a is busy with node-3 (not
        /// Ready)`.
        busy: Vec<String>,
    },
    /// The node is being updated, and 60 s or more after its cordon one of its pods cannot be evicted.
    DrainBlocked {
        /// The pod, as `namespace/name`.
        pod: String,
        /// The PodDisruptionBudget that forbids it, where one does.
        budget: Option<String>,
        /// The API's own words.
        message: String,
    },
}

/// A list that the verdicts of many nodes share: to hand it to one more costs nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "Vec<String>", into = "Vec<String>")]
pub struct Shared(Arc<[String]>);

impl Deref for Shared {
    type Target = [String];

    fn deref(&self) -> &[String] {
        &self.0
    }
}

impl From<Vec<String>> for Shared {
    fn from(list: Vec<String>) -> Self {
        Self(list.into())
    }
}

impl From<Shared> for Vec<String> {
    fn from(list: Shared) -> Self {
        list.to_vec()
    }
}

impl FromIterator<String> for Shared {
    fn from_iter<I: IntoIterator<Item = String>>(list: I) -> Self {
        Self(list.into_iter().collect())
    }
}

impl Verdict {
    /// Whether the node waits for a window, and for nothing else.
    #[must_use]
    pub const fn is_of_windows(&self) -> bool {
        matches!(
            self,
            Self::OutsideWindow { .. }
                | Self::Excluded { .. }
                | Self::NoWindowFound
                | Self::WontFitInWindow { .. }
                | Self::WindowTooShort { .. }
        )
    }

    /// Whether the two are the same to a person: since when, until when and in which domain does not make another of it.
    #[must_use]
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::NotReady { .. }, Self::NotReady { .. })
            | (Self::AgentSilent { .. }, Self::AgentSilent { .. })
            | (Self::Backoff { .. }, Self::Backoff { .. }) => true,
            (Self::ReleaseTooYoung { version, .. }, Self::ReleaseTooYoung { version: other, .. }) => {
                version == other
            }
            (
                Self::DomainBusy { key, max, busy, .. },
                Self::DomainBusy {
                    key: other_key,
                    max: other_max,
                    busy: other_busy,
                    ..
                },
            ) => (key, max, busy) == (other_key, other_max, other_busy),
            _ => self == other,
        }
    }
}

/// An instant as messages print it: to the second, in UTC.
#[must_use]
pub fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}
