//! `BottlerocketShadow`: one per node, the state that the node is asked for and the state it reports.
//!
//! The resource is Brupop's v2 with fields added and none renamed; names are in snake case because Brupop's are.

use std::{collections::BTreeMap, fmt};

use chrono::{DateTime, Utc};
use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::offer::Offer;

/// Where a node is on its way through an update. The names are Brupop's.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum NodeState {
    /// No update is under way; what an update changed on the host is put back.
    #[default]
    Idle,
    /// The image is on the inactive partition and will be booted next.
    StagedAndPerformedUpdate,
    /// The node has rebooted, and its boot ID and version prove it.
    RebootedIntoUpdate,
    /// The node takes workloads again and is watched.
    MonitoringUpdate,
    /// A step failed; what was changed is undone.
    ErrorReset,
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What the node is asked for. Written by the controller only.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "brupop.bottlerocket.aws",
    version = "v2",
    kind = "BottlerocketShadow",
    plural = "bottlerocketshadows",
    singular = "bottlerocketshadow",
    shortname = "brs",
    namespaced,
    status = "BottlerocketShadowStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "The state a Bottlerocket node is asked for, and the state it reports.",
    printcolumn(name = "State", type_ = "string", json_path = ".status.current_state"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.current_version"),
    printcolumn(name = "Target State", type_ = "string", json_path = ".spec.state"),
    printcolumn(name = "Target Version", type_ = "string", json_path = ".spec.version"),
    printcolumn(name = "Crash Count", type_ = "string", json_path = ".status.crash_count"),
    printcolumn(name = "Plan", type_ = "string", json_path = ".spec.plan", priority = 1),
    printcolumn(name = "Wave", type_ = "string", json_path = ".spec.wave", priority = 1),
    printcolumn(
        name = "Error",
        type_ = "string",
        json_path = ".status.error.message",
        priority = 1
    ),
    crates(kube_core = "::kube_core")
)]
pub struct BottlerocketShadowSpec {
    /// state: the state the node is asked to reach.
    pub state: NodeState,
    /// state_transition_timestamp: when `state` was last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_transition_timestamp: Option<DateTime<Utc>>,
    /// version: the version to run, without a leading `v`. None while nothing is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// downgrade: whether `version` may be older than the one that the node runs. None: it may not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downgrade: Option<bool>,
    /// plan: name of the UpdatePlan that asks. Kept after the update, with run and wave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// run: the plan's run that the fields below belong to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// wave: the wave the node was granted in; it does not change within a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wave: Option<String>,
    /// attempt: how often the node was granted in this run, from 1. Withdrawn attempts have a number too, so that
    /// no instruction or answer is ever taken for that of another attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// from_version: the version the node ran when it was granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_version: Option<String>,
    /// failure: why the last attempt of this run failed, or why the node is left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// outlasted: whether a window of this run was over before the node was done, or nobody knew which of its pods were left. It comes
    /// after the others then, and has failed where
    /// that happens again. None: none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlasted: Option<bool>,
    /// stage: what the node is to download ahead of its turn. Only while `state` is Idle; nothing is activated, and the
    /// settings are put back once it is there (`status.staged_version`) or cannot be had. None: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<StageAhead>,
}

/// What a node is to download ahead of its turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StageAhead {
    /// version: the version to have on the inactive partition.
    pub version: String,
    /// until: from then on the node is no longer counted among those that download. It may still be trying.
    pub until: DateTime<Utc>,
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Failure {
    /// reason: a stable word for programs.
    pub reason: FailureReason,
    /// message: one line for people.
    pub message: String,
    /// at: when the attempt was given up.
    pub at: DateTime<Utc>,
    /// count: how many attempts of this run have failed on this node.
    pub count: u32,
}

/// The ways in which an attempt fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum FailureReason {
    /// The image could not be prepared or activated; the message has the node's own words.
    StageFailed,
    /// Preparing and activating took longer than `timeouts.stage`.
    StageTimeout,
    /// Pods were left on the node when `drain.timeout` was over; the message names pod and budget.
    DrainTimeout,
    /// Somebody else uncordoned the node before it had rebooted.
    Uncordoned,
    /// The node refused to reboot.
    RebootFailed,
    /// The node did not come back, Ready and on the target, within `timeouts.reboot`.
    RebootTimeout,
    /// The node rebooted, and runs another version than the target.
    BootedOtherVersion,
    /// The node was not Ready for `monitoring.minReady` within `monitoring.timeout`.
    Unhealthy,
    /// The window closed between the recording of the reboot permit and its answer, so that nobody could use it. Not
    /// counted as a failure: the node has done nothing wrong.
    PermitExpired,
    /// The version is not offered to the node, by a refresh that ignored the repository's own waves. No failure: see
    /// [`FailureReason::leaves_alone`].
    VersionNotOffered,
    /// The node's image cannot be updated in place. No failure: see [`FailureReason::leaves_alone`].
    Unsupported,
    /// A reason that another version of the operator has written and this one does not know; the message says it.
    #[serde(other)]
    Other,
}

impl FailureReason {
    /// Whether an attempt that ends so is a failure: one of the retries, and of the failures that halt a plan.
    #[must_use]
    pub const fn counts(self) -> bool {
        !matches!(self, Self::PermitExpired) && !self.leaves_alone()
    }

    /// Whether there was nothing that the node could have done: it is left alone until that is different.
    #[must_use]
    pub const fn leaves_alone(self) -> bool {
        matches!(self, Self::VersionNotOffered | Self::Unsupported)
    }
}

impl fmt::Display for FailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What the node reports. Written by the apiserver for the node's agent only. `current_state`, `run` and
/// `attempt` together are the agent's echo: it has done what a spec with the same three asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BottlerocketShadowStatus {
    /// current_version: the version the node runs.
    pub current_version: String,
    /// target_version: the version Bottlerocket's updater has chosen, or the running one where it has chosen none.
    pub target_version: String,
    /// current_state: the last state the node has reached.
    pub current_state: NodeState,
    /// crash_count: how many attempts failed on this node since it was last updated.
    pub crash_count: u32,
    /// state_transition_failure_timestamp: when the last attempt failed on this node.
    #[serde(default)]
    pub state_transition_failure_timestamp: Option<DateTime<Utc>>,
    /// run: echo of `spec.run`.
    #[serde(default)]
    pub run: Option<String>,
    /// attempt: echo of `spec.attempt`.
    #[serde(default)]
    pub attempt: Option<u32>,
    /// boot_id: identifies the boot that the report comes from.
    #[serde(default)]
    pub boot_id: Option<String>,
    /// staged_version: the version on the inactive partition, where the node knows it.
    #[serde(default)]
    pub staged_version: Option<String>,
    /// saved_settings: the settings found before the update changed them, to be put back.
    #[serde(default)]
    pub saved_settings: Option<SavedSettings>,
    /// variant: the variant that the node runs, such as `aws-k8s-1.33`.
    // Always written, also where it is nothing: a report replaces all of the one before.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub variant: Option<String>,
    /// arch: the node's architecture, such as `x86_64`.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub arch: Option<String>,
    /// offered: what the last refresh that succeeded has found on offer to this node, the newest first; at most 20.
    #[serde(default)]
    #[schemars(length(max = 20))]
    pub offered: Vec<Offer>,
    /// error: why the agent cannot do what this run and attempt ask for.
    #[serde(default)]
    pub error: Option<AgentError>,
}

/// The updater's settings as they were before a plan changed them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SavedSettings {
    /// version_lock: `latest` or a version.
    pub version_lock: String,
    /// ignore_waves: whether the repository's own waves were ignored.
    pub ignore_waves: bool,
    /// locks: what `version_lock` has been set to since, each reported before it is set; the last 10. Any other lock is somebody
    /// else's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub locks: Vec<String>,
}

/// Locks that are remembered.
pub const MAX_LOCKS: usize = 10;

/// Why the agent cannot do what it is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AgentError {
    /// reason: a stable word for programs.
    pub reason: FailureReason,
    /// message: one line for people.
    pub message: String,
}

impl BottlerocketShadow {
    /// Whether the agent has done what the spec asks for.
    #[must_use]
    pub fn is_acknowledged(&self) -> bool {
        self.status
            .as_ref()
            .is_some_and(|status| acknowledges(status, &self.spec))
    }
}

/// Whether a node that reports `status` has done what `spec` asks for. A report with an error never does: it was made
/// before anything was undone, even where it says Idle.
#[must_use]
pub fn acknowledges(status: &BottlerocketShadowStatus, spec: &BottlerocketShadowSpec) -> bool {
    let same = status.current_state == spec.state && status.run == spec.run && status.attempt == spec.attempt;
    same && status.error.is_none()
}

/// What [`crate::names::DISRUPTION_ANNOTATION`] holds: who cordoned the node, and what was there before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Disruption {
    /// UID of the plan whose grant this is.
    pub plan_uid: String,
    /// Run of the grant.
    pub run: String,
    /// Wave of the grant.
    pub wave: String,
    /// Attempt of the grant.
    pub attempt: u32,
    /// When the node was cordoned; the drain's time-out counts from here.
    pub cordoned_at: DateTime<Utc>,
    /// The annotations that were overwritten, by name; None where there was none.
    pub annotations_before: BTreeMap<String, Option<String>>,
}
