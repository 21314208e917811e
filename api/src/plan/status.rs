//! How far a plan is.

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ActionStatus;
use crate::{offer::Target, quantity::Span, shadow::FailureReason};

/// How far the plan is. Aggregates, and the few nodes that a person would look for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpdatePlanStatus {
    /// observedGeneration: the generation that this status, and the ledger, speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// phase: one word for where the plan is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// message: one line: how far the plan is, what it waits for, until when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// wave: the wave that is under way, with its place, such as `canary (1/3)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wave: Option<String>,
    /// progress: updated and matched nodes, such as `5/12`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// conditions: `Valid`, `Progressing`, `Complete`, `Degraded`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// run: the rollout of one target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Run>,
    /// nodes: how many nodes are where.
    #[serde(default)]
    pub nodes: NodeCounts,
    /// maxUnavailable: the limit as a number of nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<u32>,
    /// waves: how far each wave is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waves: Vec<WaveStatus>,
    /// actions: what people have asked by annotations of the plan, and what became of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<ActionStatus>,
    /// window: whether nodes may be disrupted now, and when that changes. None where the plan has neither windows nor
    /// exclusions, or no nodes, is paused, halted or being deleted, or is complete and needs none; or where the whole install is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<WindowStatus>,
    /// estimatedCompletion: when the last node will be done if all goes on as it does, inside the plan's windows, to the
    /// minute. None where that depends on something other than time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_completion: Option<DateTime<Utc>>,
    /// nodeDuration: how long the plan's nodes have taken from grant to the end of their monitoring. Nothing is granted
    /// that is not expected to finish in the window, by p90, or, before there are samples, within `expectedNodeDuration`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_duration: Option<NodeDuration>,
    /// active: the nodes that are being updated, with what each does; at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub active: Vec<ActiveNode>,
    /// waiting: why nodes wait, with their number; the same reasons as in the metrics. Nodes whose reason is the same word for
    /// something else, such as the limit of another wave, stand by themselves: at most 3 of a reason, the third with the rest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<WaitingNodes>,
    /// skipped: why nodes are left alone, with their number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<WaitingNodes>,
    /// failed: the nodes that failed, with the reason; at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<FailedNode>,
    /// history: the runs before this one, the last first; at most 5.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<PastRun>,
}

/// One word for where a plan is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// The spec cannot be carried out; see condition `Valid`.
    Invalid,
    /// No node matches.
    Pending,
    /// Nodes wait for a window to open.
    WaitingForWindow,
    /// Nodes are being updated, or wait for a reason that the message names.
    Progressing,
    /// A wave is done and watched before the next starts.
    Soaking,
    /// A wave is done and soaked, and waits for a person to approve it.
    AwaitingApproval,
    /// `spec.paused` is set, or the whole install is stopped.
    Paused,
    /// The failure threshold was reached.
    Halted,
    /// Every matched node was updated, skipped or, below the threshold, failed, each with a reason. It stays so for the run: nodes
    /// that join later are still updated, and `active` names them.
    Complete,
}

/// The rollout of one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// id: names the run.
    pub id: String,
    /// target: its version, or `latest`.
    pub target: String,
    /// targets: with `latest`: the version for each variant and architecture.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Target>,
    /// startedAt: when it started.
    pub started_at: DateTime<Utc>,
    /// completedAt: when it was complete; it stays so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<DateTime<Utc>>,
    /// retriedAt: when a person last had it retried; failures from before do not count any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retried_at: Option<DateTime<Utc>>,
    /// runNowAt: since when it ignores its maintenance windows, as a person has asked, until it is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_now_at: Option<DateTime<Utc>>,
}

/// How long a plan's nodes take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeDuration {
    /// p50: half of the nodes took no longer.
    pub p50: Span,
    /// p90: nine nodes of ten took no longer.
    pub p90: Span,
    /// samples: how many nodes that was learned from, the last 50 at most.
    pub samples: u32,
}

/// A run that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PastRun {
    /// id: names the run.
    pub id: String,
    /// target: its version, or `latest`.
    pub target: String,
    /// targets: with `latest`: the version for each variant and architecture.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Target>,
    /// startedAt: when it started.
    pub started_at: DateTime<Utc>,
    /// endedAt: when it was complete, or the next run took its place.
    pub ended_at: DateTime<Utc>,
    /// outcome: the reason of its condition `Complete`, or `Superseded` where it was not complete.
    pub outcome: String,
    /// nodes: how many nodes were where in the end.
    pub nodes: NodeCounts,
}

/// How many nodes are where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeCounts {
    /// matched: nodes that the plan is for.
    pub matched: u32,
    /// updated: nodes that run the target.
    pub updated: u32,
    /// updating: nodes with a grant, from the download on.
    pub updating: u32,
    /// waiting: nodes that need the update and have no grant.
    pub waiting: u32,
    /// skipped: nodes that the plan leaves alone, such as those that run a newer version or have opted out; `skipped` has
    /// the reasons.
    pub skipped: u32,
    /// failed: nodes that failed after their retries.
    pub failed: u32,
    /// unavailable: nodes that have a grant (also while they still download), are not Ready, or are cordoned.
    pub unavailable: u32,
}

/// How far a wave is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WaveStatus {
    /// name: the wave's name.
    pub name: String,
    /// phase: one word for where it is.
    pub phase: WavePhase,
    /// nodes: how many nodes it has.
    pub nodes: u32,
    /// updated: how many of them run the target.
    pub updated: u32,
    /// updating: how many have a grant.
    pub updating: u32,
    /// skipped: how many are left alone.
    pub skipped: u32,
    /// failed: how many failed after their retries.
    pub failed: u32,
    /// startedAt: when its first node was granted in this run. None: none has been.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime<Utc>>,
    /// skipAt: when the nodes that hold the wave, and cannot be updated, are skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip_at: Option<DateTime<Utc>>,
    /// soakUntil: until when the wave is watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soak_until: Option<DateTime<Utc>>,
    /// approvedAt: when a person has approved it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_at: Option<DateTime<Utc>>,
}

/// One word for where a wave is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum WavePhase {
    /// A wave before it is not done.
    Pending,
    /// Its nodes are being updated.
    Progressing,
    /// It is done and watched.
    Soaking,
    /// It is done and soaked, and waits for a person to approve it.
    AwaitingApproval,
    /// It is done.
    Done,
}

/// Whether nodes may be disrupted now, and when that changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WindowStatus {
    /// open: whether a window is open.
    pub open: bool,
    /// next: for people: `open until …`, `open until the run is done`, `open`, `ignored (run-now)`, the next opening, or `never
    /// again`. `none found`: exclusions leave none open for as far as was looked.
    pub next: String,
    /// name: the window that is open, or opens next; of several that are open, or follow without a gap, the one that closes
    /// last. None where there are several and it is not known which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// closesAt: when the open window, and those that follow without a gap, close.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closes_at: Option<DateTime<Utc>>,
    /// nextOpensAt: when a window opens next, where none is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_opens_at: Option<DateTime<Utc>>,
    /// exclusion: the exclusion that keeps a window closed now, or closes it at closesAt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclusion: Option<String>,
}

/// A node that is being updated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ActiveNode {
    /// node: its name.
    pub node: String,
    /// wave: its wave.
    pub wave: String,
    /// doing: what it does, for people.
    pub doing: String,
    /// since: since when.
    pub since: DateTime<Utc>,
    /// reason: where it does not get on: `DrainBlocked` or `AgentSilent`, also in the metrics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// message: with reason: what holds it up, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Nodes that wait, or are left alone, for the same reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WaitingNodes {
    /// reason: the verdict's stable word.
    pub reason: String,
    /// count: how many nodes.
    pub count: u32,
    /// message: one line for people, of the first of them.
    pub message: String,
    /// nodes: their names, at most 5.
    pub nodes: Vec<String>,
}

impl WaitingNodes {
    /// Which nodes, and why.
    #[must_use]
    pub fn words(&self) -> String {
        let nodes = match self.nodes.as_slice() {
            [node] => node.clone(),
            nodes if self.count <= 3 => nodes.join(", "),
            _ => format!("{} nodes", self.count),
        };
        format!("{nodes}: {}", self.message)
    }
}

/// A node that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FailedNode {
    /// node: its name.
    pub node: String,
    /// reason: a stable word.
    pub reason: FailureReason,
    /// message: one line for people.
    pub message: String,
    /// attempts: how many of its attempts have failed in this run; those that were withdrawn are not counted.
    pub attempts: u32,
    /// at: when it was given up.
    pub at: DateTime<Utc>,
}

/// Types of a plan's conditions.
pub mod condition {
    /// The spec can be carried out. Reasons `Valid`, `Invalid`.
    pub const VALID: &str = "Valid";
    /// Nodes are being updated or will be without anyone's help. The reason is the plan's phase.
    pub const PROGRESSING: &str = "Progressing";
    /// The run is over; latched per run. Reasons `AllUpdated`, `WithSkipped`, `WithFailed`, `InProgress`.
    pub const COMPLETE: &str = "Complete";
    /// Nodes have failed. Reasons `Halted`, `NodesFailed`, `Healthy`. Who waits for a person for another reason is not `Progressing`.
    pub const DEGRADED: &str = "Degraded";
    /// The reason of [`DEGRADED`] while the run is halted; the controller takes it from here where the ledger was lost.
    pub const HALTED: &str = "Halted";
}
