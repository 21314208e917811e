//! What the planner is told.

use std::collections::BTreeMap;

use api::{
    ledger::UpdateLedgerSpec,
    plan::{UpdatePlanSpec, UpdatePlanStatus},
    quantity::IntOrPercent,
    shadow::{BottlerocketShadowSpec, BottlerocketShadowStatus, Disruption},
};
use chrono::{DateTime, TimeDelta, Utc};

/// Everything that decisions depend on, besides the time.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// The plans, in any order.
    pub plans: Vec<PlanFacts>,
    /// The nodes with the operator's label, in any order, and every other node that has a grant or our annotation.
    pub nodes: Vec<NodeFacts>,
    /// The ledger as last read or written. None: there is none, and it is rebuilt before anything is granted.
    pub ledger: Option<UpdateLedgerSpec>,
    /// By how much this clock is ahead of the Kubernetes API's. None: not measured yet, so nothing is granted.
    pub clock_skew: Option<TimeDelta>,
    /// The operator's own settings.
    pub settings: Settings,
}

/// Settings of the install, not of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long after its first failure a node is tried again; it doubles with each further failure, up to ten
    /// times this. Default 1m.
    pub retry_backoff: TimeDelta,
    /// How long a grant that ends waits for a node that does not answer before it is released. Default 1m.
    pub release_wait: TimeDelta,
    /// How many of all nodes that take part may be unavailable; it replaces the ledger's. Default: what the ledger says.
    pub max_unavailable: Option<IntOrPercent>,
    /// How many nodes may at a time be told to download ahead of their turn. Default 0: none is.
    pub stage_ahead: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            retry_backoff: TimeDelta::minutes(1),
            release_wait: TimeDelta::minutes(1),
            max_unavailable: None,
            stage_ahead: 0,
        }
    }
}

/// An `UpdatePlan` as stored.
#[derive(Clone, Debug)]
pub struct PlanFacts {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// `metadata.creationTimestamp`.
    pub created: DateTime<Utc>,
    /// Whether `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// Whether our finalizer is there.
    pub finalizer: bool,
    /// `metadata.annotations`, only those by which people ask something of a run.
    pub annotations: BTreeMap<String, String>,
    /// The spec.
    pub spec: UpdatePlanSpec,
    /// The status as last written: conditions keep their transition times, and completion latches.
    pub status: UpdatePlanStatus,
}

/// A node with all that belongs to it.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeFacts {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`, only those that a cordon overwrites.
    pub annotations: BTreeMap<String, String>,
    /// Whether condition Ready is True.
    pub ready: bool,
    /// When condition Ready last changed.
    pub ready_changed: Option<DateTime<Utc>>,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// Our annotation, where it is there.
    pub disruption: Option<Disruption>,
    /// Why the node takes no part in updates, where somebody has said so by annotation. Never empty.
    pub opt_out: Option<String>,
    /// `status.nodeInfo.bootID`.
    pub boot_id: String,
    /// `status.nodeInfo.osImage`, such as `Bottlerocket OS 1.20.3 (aws-k8s-1.33)`: the kubelet's word for what was booted,
    /// written together with the boot ID.
    pub os_image: String,
    /// Its shadow, where there is one that belongs to this node's UID.
    pub shadow: Option<ShadowFacts>,
    /// Its agent's pod.
    pub agent: AgentFacts,
    /// Whether pods of the operator itself run on it, of controller or apiserver.
    pub hosts_operator: bool,
    /// How far its drain is, where one runs for the cordon of `disruption`.
    pub drain: Option<DrainFacts>,
}

/// A node's shadow as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct ShadowFacts {
    /// The spec.
    pub spec: BottlerocketShadowSpec,
    /// The status, once the agent has reported.
    pub status: Option<BottlerocketShadowStatus>,
}

/// A node's agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentFacts {
    /// Whether an agent pod on the node is Ready.
    pub ready: bool,
    /// Since when it is so, or not so, where that is known.
    pub since: Option<DateTime<Utc>>,
}

/// How far a drain is: what the last pass over the node's pods, read afresh, has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainFacts {
    /// How many pods are left that may not stay. 0: the node is empty.
    pub left: u32,
    /// How many of these are pods of the operator itself that are not told to end yet: they may stay where the drain's time
    /// is over.
    pub own: u32,
    /// The first of them that could not be evicted, as `namespace/name`, and why.
    pub blocked: Option<Blocked>,
}

/// Why a pod could not be evicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// The pod, as `namespace/name`.
    pub pod: String,
    /// The PodDisruptionBudget that forbids it, where one does.
    pub budget: Option<String>,
    /// The API's own words.
    pub message: String,
}
