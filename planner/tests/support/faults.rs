//! How long nodes take, and what goes wrong on them.

use chrono::TimeDelta;

/// How long a node's steps take.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// From an instruction to its answer, where nothing else takes time.
    pub agent: TimeDelta,
    pub stage: TimeDelta,
    pub drain: TimeDelta,
    /// From going down to Ready.
    pub reboot: TimeDelta,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            agent: TimeDelta::seconds(1),
            stage: TimeDelta::seconds(60),
            drain: TimeDelta::seconds(20),
            reboot: TimeDelta::seconds(60),
        }
    }
}

/// What goes wrong on a node, until it is mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    PrepareFails,
    BootsOldVersion,
    NeverReturns,
    /// It comes back on the target and is not Ready from 10 s after that.
    UnhealthyAfterBoot,
    AgentSilent,
    /// A PodDisruptionBudget never allows the eviction of one pod.
    DrainBlocked,
}
