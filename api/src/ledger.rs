//! `UpdateLedger`: the one place where disruption is admitted.
//!
//! A node may be disrupted only while the ledger holds a grant for it. Every change is a compare-and-swap of the
//! whole object by its resourceVersion; the methods here say which changes are legal, and both writers, controller
//! and apiserver, use them.

mod actions;
#[cfg(test)]
mod tests;
mod transitions;

use std::{collections::BTreeMap, fmt};

use chrono::{DateTime, TimeDelta, Utc};
use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    offer::Target,
    quantity::{IntOrPercent, Span},
    shadow::{Failure, FailureReason},
};

pub use actions::Actions;
pub use transitions::{Illegal, PermitRefusal};

/// How long a reboot permit is valid after the agent has it.
pub const PERMIT_VALIDITY: TimeDelta = TimeDelta::seconds(30);

/// Grants in the ledger at once, so that the object stays far below etcd's limit for one value.
pub const MAX_GRANTS: usize = 1000;

/// What is admitted now.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "brupop.bottlerocket.aws",
    version = "v1alpha1",
    kind = "UpdateLedger",
    plural = "updateledgers",
    namespaced,
    derive = "PartialEq",
    derive = "Default",
    doc = "The grants that admit disruption, a singleton in the install's namespace. Written by the operator; people set stop and maxUnavailable.",
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    crates(kube_core = "::kube_core")
)]
#[serde(rename_all = "camelCase")]
pub struct UpdateLedgerSpec {
    /// plans: what was known of each plan when the ledger was last written, by plan UID.
    #[serde(default)]
    pub plans: BTreeMap<String, PlanEntry>,
    /// grants: the live grants, by node UID; at most 1,000.
    #[serde(default)]
    pub grants: BTreeMap<String, Grant>,
    /// stop: set by people: while it is true nothing is granted and no reboot is permitted, whatever the plans say; nodes that
    /// are not yet rebooting go back to Idle, the others finish. Default false.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stop: bool,
    /// maxUnavailable: how many of all nodes that take part may be unavailable, whatever their plans allow. An integer, or a
    /// percentage of them, rounded down, at least 1. Where the controller has `--max-unavailable`, it writes that here; else
    /// it is set by people. Default: no such limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<IntOrPercent>,
    /// writer: the controller that wrote the ledger last, a word that is another one for each of its terms. One that
    /// finds another's here reads everything afresh before it decides. A permit leaves it as it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub writer: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// What the ledger knows of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanEntry {
    /// name: the plan's name.
    pub name: String,
    /// generation: the plan's generation that this entry records. Nobody grants from an older one.
    pub generation: i64,
    /// run: the run that grants belong to; a new target starts a new run.
    pub run: String,
    /// target: the version of the run, or `latest`.
    pub target: String,
    /// targets: with `latest`: the version for each variant and architecture, once it is known; it does not change in the
    /// run. At most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Target>,
    /// startedAt: when the run started.
    pub started_at: DateTime<Utc>,
    /// paused: nothing is granted.
    #[serde(default)]
    pub paused: bool,
    /// halted: the failure threshold was reached; nothing is granted until a retry or a new run.
    #[serde(default)]
    pub halted: bool,
    /// waveSizes: how many nodes each wave with a size takes, fixed as the run grants its first, by wave name.
    #[serde(default)]
    pub wave_sizes: BTreeMap<String, u32>,
    /// waveStartedAt: when the first node of each wave was granted in this run, by wave name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub wave_started_at: BTreeMap<String, DateTime<Utc>>,
    /// openWave: index of the last wave that has been started in this run.
    #[serde(default)]
    pub open_wave: u32,
    /// openWaveName: its name, which tells whether an edit has moved it. Empty: the first wave.
    #[serde(default)]
    pub open_wave_name: String,
    /// soaksFrom: when the last node of that wave was updated or given up, also of those that are gone or belong to another plan by
    /// now; only where the wave has a soak.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soaks_from: Option<DateTime<Utc>>,
    /// owesProof: the wave that has begun with nodes and has updated none of them yet, also where these are gone or belong to another
    /// plan by now: the wave after it does not start. A retry forgets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owes_proof: Option<String>,
    /// releasing: the plan's resourceVersion over which its finalizer is being removed. Grants need a finalizer that is
    /// on a later version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub releasing: Option<String>,
    /// waitingSince: since when nodes of the plan have waited for an update or are being updated; only where a window of
    /// the plan is open until they are done. An instant of its schedule opens it where it is not before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_since: Option<DateTime<Utc>>,
    /// failed: UIDs of the nodes that failed in this run after their retries, as the threshold counts them: also of
    /// those that are gone by now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
    /// durations: how many seconds the plan's last nodes took from grant to the end of their monitoring, the oldest
    /// first; at most 50. Kept from run to run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub durations: Vec<u32>,
    /// expectedNodeDuration: the plan's, by which `durations` were learned: an edit of it forgets them.
    // Written by the controller alone; the rules of a duration, for each of many plans, are more than a schema may cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub expected_node_duration: Option<Span>,
    /// heldSince: since when the waves that are open wait for nothing but nodes that cannot be updated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_since: Option<DateTime<Utc>>,
    /// heldOut: whether these have been skipped for it in a window that is open until the run is done, or in a run that ignores its
    /// windows: once they are skipped neither is so any more, and for how long they were waited for cannot be found again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held_out: bool,
    /// actions: what people have asked of this run, and was done.
    #[serde(default, skip_serializing_if = "Actions::is_empty")]
    pub actions: Actions,
}

/// How far a grant is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum GrantPhase {
    /// The node is being staged, cordoned and drained.
    Granted,
    /// No evictable pod is left; the agent may ask for the reboot permit.
    Drained,
    /// The permit was given.
    Rebooting,
    /// The node is back on the target and watched.
    Monitoring,
    /// The grant is being taken back; no permit any more.
    Withdrawing,
}

impl fmt::Display for GrantPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The leave to disrupt one node. A grant in any phase counts against every limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// node: the node's name, for people; the key is its UID.
    pub node: String,
    /// plan: UID of the plan.
    pub plan: String,
    /// generation: the plan's generation that the grant was last checked against.
    pub generation: i64,
    /// run: the plan's run.
    pub run: String,
    /// wave: the wave the node belongs to in this run.
    pub wave: String,
    /// attempt: of this node in this run, from 1.
    pub attempt: u32,
    /// from: the version the node ran.
    pub from: String,
    /// to: the version the node is to run.
    pub to: String,
    /// phase: how far it is.
    pub phase: GrantPhase,
    /// grantedAt: when it was made.
    pub granted_at: DateTime<Utc>,
    /// phaseSince: when the phase began.
    pub phase_since: DateTime<Utc>,
    /// notAfter: when the window closes; no permit from then on. None: it does not, or the node was cordoned while it was
    /// open and its plan lets it finish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<DateTime<Utc>>,
    /// hostsOperator: whether pods of the operator itself ran on the node when it was granted: such nodes are updated one at a
    /// time. Default false.
    #[serde(default, skip_serializing_if = "is_false")]
    pub hosts_operator: bool,
    /// rebuilt: whether the ledger was lost and made anew while the node was on its way: `grantedAt` is the time of that, and says
    /// nothing about how long the node takes. Default false.
    #[serde(default, skip_serializing_if = "is_false")]
    pub rebuilt: bool,
    /// permit: the reboot permit, once given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permit: Option<Permit>,
    /// ending: why the grant ends without an update, once that is decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
}

/// The leave to reboot, once, from one boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Permit {
    /// id: names the permit.
    pub id: String,
    /// bootId: the boot that it was given to.
    pub boot_id: String,
    /// at: when it was given.
    pub at: DateTime<Utc>,
}

/// Why a grant ends without an update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ending {
    /// message: one line for people.
    pub message: String,
    /// failure: the reason where the attempt failed, or could not have succeeded; None where it was withdrawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureReason>,
    /// at: when it was decided.
    pub at: DateTime<Utc>,
    /// outlasted: whether it was because the window was over. The shadow remembers that for the run. Default false.
    #[serde(default, skip_serializing_if = "is_false")]
    pub outlasted: bool,
}

impl Ending {
    /// Whether the attempt has failed, and that counts.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        self.failure.is_some_and(FailureReason::counts)
    }

    /// What the shadow records of it, after `before` failures in the same run; None where there is nothing to remember.
    #[must_use]
    pub fn as_failure(&self, before: u32) -> Option<Failure> {
        let (message, at) = (self.message.clone(), self.at);
        self.failure
            .filter(|reason| reason.counts() || reason.leaves_alone())
            .map(|reason| Failure {
                reason,
                message,
                at,
                count: before + u32::from(reason.counts()),
            })
    }
}
