//! What the planner answers.

use std::{collections::BTreeSet, sync::Arc};

use api::{
    ledger::UpdateLedgerSpec,
    plan::UpdatePlanStatus,
    shadow::{BottlerocketShadowSpec, Disruption},
    verdict::Verdict,
};
use chrono::{DateTime, Utc};

/// What is to be done now. The order of doing it: the ledger first; where it is written, nothing else of this
/// answer is done, and the planner is asked again with the new ledger. Then actions, drains and statuses, in any order;
/// those of `unexplained` nodes only once the ledger is known to be still the one that they were decided on.
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use]
pub struct Decisions {
    /// The ledger as it is to be, by compare-and-swap against the one in the world. None: as it is.
    pub ledger: Option<LedgerChange>,
    /// What to do to nodes, shadows and plans.
    pub actions: Vec<Action>,
    /// Names of the nodes whose action undoes or overwrites what the ledger does not explain. A crash or a late write has
    /// left that behind, or the ledger has gone on and is known only as it was: what it says now would be undone.
    pub unexplained: BTreeSet<String>,
    /// The nodes to be drained now. Every drain that is not listed stops.
    pub drains: Vec<DrainOrder>,
    /// Each plan's status, whether it changed or not. Empty where the ledger is to be written first.
    pub statuses: Vec<PlanStatus>,
    /// One verdict for every node that a plan matches and that has no grant, and for one that has a grant and does not get on. Nodes that are granted in this very answer,
    /// or as soon as the finalizer that it asks for is there, have none. Nor has any node where the ledger records a plan as
    /// it was later than in this world: then nothing is decided at all.
    pub verdicts: Vec<NodeVerdict>,
    /// When something will be due by time alone.
    pub look_again: Option<DateTime<Utc>>,
}

/// A new ledger.
#[derive(Clone, Debug, PartialEq)]
pub struct LedgerChange {
    /// What it is to hold.
    pub spec: UpdateLedgerSpec,
    /// Whether it makes grants, or opens a wave because the nodes of the one before are healthy: then what is known of
    /// the nodes must be at most 5 s old.
    pub by_fresh_nodes: bool,
    /// What to publish once it is written.
    pub events: Vec<Event>,
}

/// Something to do to one object, with the resourceVersion that the decision was made on.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Add our finalizer to the plan: it is about to have grants.
    AddFinalizer {
        /// The plan's name.
        plan: String,
    },
    /// Remove our finalizer from the plan: it has no grants left.
    RemoveFinalizer {
        /// The plan's name.
        plan: String,
    },
    /// Cordon the node: unschedulable, our annotation, and the annotations that keep autoscalers away.
    Cordon {
        /// The node's name.
        node: String,
        /// What our annotation is to hold.
        disruption: Disruption,
    },
    /// Undo [`Action::Cordon`]: schedulable, our annotation gone, the others as they were.
    Uncordon {
        /// The node's name.
        node: String,
        /// What our annotation holds.
        disruption: Disruption,
    },
    /// Write the spec of the node's shadow.
    SetShadow {
        /// The node's name.
        node: String,
        /// The spec.
        spec: BottlerocketShadowSpec,
    },
}

/// A node that is to be drained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainOrder {
    /// The node's name.
    pub node: String,
    /// The node's UID.
    pub uid: String,
    /// When it was cordoned: pods that tolerate the cordon and came later may stay.
    pub cordoned_at: DateTime<Utc>,
}

/// A plan's status.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanStatus {
    /// The plan's name.
    pub plan: String,
    /// Its status.
    pub status: UpdatePlanStatus,
}

/// Why a node does not move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeVerdict {
    /// The node's name.
    pub node: String,
    /// The plan that owns it; with [`Verdict::OtherPlan`] one that selects it, too, and comes after.
    pub plan: Arc<str>,
    /// Why.
    pub verdict: Verdict,
}

/// An Event to publish, about a plan and, where it has one, about a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The plan's name.
    pub plan: String,
    /// The node's name.
    pub node: Option<String>,
    /// A stable word.
    pub reason: &'static str,
    /// One line for people.
    pub note: String,
    /// Whether it is a warning.
    pub warning: bool,
}
