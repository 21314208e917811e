//! What actors hold besides the objects of the Kubernetes API.

use std::time::Duration;

use agent::memory::Memory;
use api::{
    ledger::{Grant, Permit},
    shadow::BottlerocketShadowStatus,
    wire::{Instruction, PermitRequest},
};
use chrono::{DateTime, Utc};

use crate::{state::Ledger, table::Distinct};

/// An agent that runs.
#[derive(Clone, Debug, Default)]
pub struct Agent {
    /// The real agent's memory.
    pub memory: Memory,
    /// What it was told last.
    pub order: Option<Instruction>,
    /// The call that it waits for.
    pub op: Op,
}

/// A call that an agent waits for.
#[derive(Clone, Debug, Default)]
pub enum Op {
    /// None.
    #[default]
    Idle,
    /// A report.
    Report(Box<BottlerocketShadowStatus>),
    /// The reboot permit.
    Ask {
        /// When it was asked for, by the agent's clock.
        asked: Duration,
    },
    /// The machine's reboot.
    Reboot {
        /// Until when the call may be made.
        until: Duration,
    },
}

/// A request for a permit, at work in an apiserver.
#[derive(Clone, Debug)]
pub struct Request {
    /// What the agent sent.
    pub sent: PermitRequest,
    /// What the ledger said.
    pub found: Option<Found>,
}

/// What the ledger said to a request for a permit.
#[derive(Clone, Debug)]
pub struct Found {
    /// The grant, with the permit in it.
    pub grant: Grant,
    /// The permit.
    pub permit: Permit,
    /// The ledger as it is to be written; None where the permit was in it before.
    pub swap: Option<Ledger>,
    /// Whether that is to be written over the version that was read only.
    pub fenced: bool,
    /// The node was looked at and found fit, by the real check; and whether it truly was.
    pub checked: Option<bool>,
    /// The ledger holds the permit.
    pub recorded: bool,
}

/// What the checks remember of a node; no actor sees it.
#[derive(Clone, Debug, Default)]
pub struct Ghost {
    /// Run and attempt that the agent was last told to begin.
    pub begun: Option<Attempt>,
    /// Run and attempt of the last reboot that an agent called for.
    pub rebooted: Option<Attempt>,
    /// Whether the node truly was cordoned for it and empty when it was looked at for the permit that was last given.
    pub leave: Option<Leave>,
    /// Whether a person has cordoned the node and nobody else ever touched that.
    pub admin: bool,
    /// Whether the node has become unavailable for another reason than a grant within this tick.
    pub recent: bool,
    /// Whether people or chance have changed the node since it was looked at for a permit.
    pub excused: bool,
}

/// Run and attempt.
pub type Attempt = (String, u32);

/// The leave to reboot, as the agent has it and as the checks see it.
#[derive(Clone, Debug)]
pub struct Leave {
    /// Of which attempt.
    pub attempt: Attempt,
    /// For which boot.
    pub boot: String,
    /// Until when.
    pub until: DateTime<Utc>,
    /// Whether the node was fit when it was looked at.
    pub fit: bool,
}

macro_rules! distinct_by_debug {
    ($($kind:ty),*) => {$(
        impl Distinct for $kind {
            fn key(&self) -> Vec<u8> {
                format!("{self:?}").into_bytes()
            }
        }
    )*};
}
distinct_by_debug!(Agent, Request, Ghost);
