//! Steps, as a person would tell them.

use std::fmt;

use crate::{
    config::{Deed, Fault},
    state::{Key, State},
};

/// What happens between two states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Time passes.
    Tick,
    /// Something goes wrong with this node or controller, or, where there are several ways, in this one.
    Goes(Fault, u8, u8),
    /// People do something.
    People(Deed),
    /// A controller's watch catches up.
    Sees(u8, Key),
    /// A controller's watch catches up with the ledger.
    SeesLedger(u8),
    /// A controller reads everything, the ledger first, because somebody else has written that.
    CatchesUp(u8),
    /// A controller lists the nodes.
    Lists(u8),
    /// A controller sends the ledger.
    SendsLedger(u8),
    /// That is answered.
    LedgerAnswered(u8),
    /// A controller does everything that it has decided on.
    Round(u8),
    /// A controller sends a write.
    Sends(u8, Key),
    /// That is answered.
    Answered(u8, Key),
    /// A controller starts and stops drains.
    Drains(u8),
    /// A controller's drain evicts a pod.
    Evicts(u8, u8),
    /// A controller's drain reads the pods.
    ReadsPods(u8, u8),
    /// A write of a controller that has ended arrives.
    LateWrite(u8),
    /// Its write of the ledger does.
    LateLedger,
    /// An apiserver goes on with a node's request for a permit.
    Permit(u8, u8, &'static str),
    /// An agent is told what its shadow asks for.
    Told(u8),
    /// An agent looks at its machine and does one thing.
    Acts(u8),
    /// An agent's report arrives.
    Reports(u8),
    /// An agent calls for the reboot.
    Reboots(u8),
    /// A command of the machine ends.
    CommandEnds(u8),
    /// A machine boots.
    Boots(u8),
    /// A kubelet says that its node is Ready.
    Ready(u8),
    /// A node that is down is found not to answer.
    FoundDown(u8),
}

impl Step {
    /// Whether it is none of the faults, and nobody has to do anything for it.
    #[must_use]
    pub fn is_regular(self) -> bool {
        !matches!(self, Self::Goes(..) | Self::People(_))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What can happen next.
#[derive(Default)]
pub struct Next {
    /// Each step with the state after it.
    pub steps: Vec<(Step, State)>,
    /// A step that breaks a promise, and how.
    pub broken: Option<(Step, String)>,
}

impl Next {
    /// A step and the state after it, or what it breaks. One that changes nothing is none.
    pub fn push(&mut self, before: &State, step: Step, after: Result<State, String>) {
        match after {
            Ok(after) if after == *before => {}
            Ok(after) => self.steps.push((step, after)),
            Err(promise) => self.broken = Some((step, promise)),
        }
    }
}
