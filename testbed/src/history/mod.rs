//! What the API server's objects went through: every revision, none skipped, in one total order.
//!
//! - [`History`]: a plain value: the objects at one revision, and every change after it
//! - [`replay`]: goes through it again, with the state of all objects at each revision
//! - [`recorder`]: makes one, of a running control plane; `mark` shows it that it has seen everything
//!
//! All objects live in one etcd, whose revisions are global: sorted by resourceVersion, changes of different kinds are
//! in the order in which they happened.

mod mark;
pub mod recorder;
pub mod replay;

use std::sync::Arc;

use api::{BottlerocketShadow, UpdateLedger, UpdatePlan};
use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

pub use recorder::Recorder;
pub use replay::{Change, Pair, Replay, State, Step, key};

/// One object of a kind that is recorded.
#[derive(Clone, Debug)]
pub enum Object {
    /// A Node.
    Node(Arc<Node>),
    /// A Pod.
    Pod(Arc<Pod>),
    /// A BottlerocketShadow.
    Shadow(Arc<BottlerocketShadow>),
    /// An UpdatePlan.
    Plan(Arc<UpdatePlan>),
    /// An UpdateLedger.
    Ledger(Arc<UpdateLedger>),
    /// A PodDisruptionBudget.
    Budget(Arc<PodDisruptionBudget>),
}

/// What happened to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It was created.
    Added,
    /// It was changed.
    Modified,
    /// It was deleted; the object is as it was last.
    Deleted,
}

/// One change of one object.
#[derive(Clone, Debug)]
pub struct Event {
    /// When the recorder had it. In a [`History`]: the latest moment at which it can have happened.
    pub at: DateTime<Utc>,
    /// Its resourceVersion: etcd's revision.
    pub revision: u64,
    /// What happened.
    pub action: Action,
    /// The object after it.
    pub object: Object,
}

/// The objects at one revision, and every change after it up to another.
#[derive(Clone, Debug)]
pub struct History {
    initial: State,
    events: Vec<Event>,
    end: DateTime<Utc>,
}

impl History {
    /// A history from what was there first and every change after it, in any order, up to `end`.
    ///
    /// A change has happened before any later revision was received, whatever watch that came from: so its time becomes
    /// the earliest at which it or a later one was received. With it, times are in the order of revisions.
    #[must_use]
    pub fn new(initial: State, mut events: Vec<Event>, end: DateTime<Utc>) -> Self {
        events.sort_by_key(|event| event.revision);
        let mut latest = end;
        for event in events.iter_mut().rev() {
            latest = latest.min(event.at);
            event.at = latest;
        }
        Self { initial, events, end }
    }

    /// What was there at first.
    #[must_use]
    pub const fn initial(&self) -> &State {
        &self.initial
    }

    /// Every change, in order.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// When it ends.
    #[must_use]
    pub const fn end(&self) -> DateTime<Utc> {
        self.end
    }

    /// Goes through it from the start.
    #[must_use]
    pub fn replay(&self) -> Replay<'_> {
        Replay::new(self)
    }
}
