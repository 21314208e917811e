//! Decides; does nothing. [`plan()`] takes the time and the world and returns what is to be done, why every node
//! that does not move waits, each plan's status, and when to look again.
//!
//! * [`world`]: what the planner is told
//! * [`decisions`]: what it answers
//! * [`spec`]: an `UpdatePlan` as parsed once: from here on nothing is unchecked
//! * [`windows`]: when a plan may disrupt
//! * `owners`: which plan a node belongs to
//! * `entries`: what the ledger records of each plan
//! * `actions`: what people ask of a run by annotations
//! * `machine`: one granted node's way, step by step
//! * `targets`: which version a node is to run, and whether it can have it
//! * `waiting`: since when a run has waited for a window that is open until it is done
//! * `waves`: which node belongs to which wave
//! * `rollout`: one plan's nodes and waves, and the order in which things are decided
//! * `failures`: which nodes have failed, and when that halts the plan
//! * `grants`: the next grants, and why every other node waits
//! * `held`: waves that nodes which cannot be updated hold
//! * `budgets`: what is still to be had of every limit
//! * `pace`: how long nodes take, learned from those that were updated
//! * `estimate`: when the last node will be done
//! * `report`: one plan's status
//! * `message`: its phase, conditions and message
//! * `stuck`: what holds up a granted node that does not get on
//! * `running`: which version a node runs, by the words of its agent and its kubelet
//! * `rebuild`: the ledger made anew where it was lost
//! * [`simulate`]: the same function run forward in virtual time over a fleet
//!
//! No I/O, no clock, no randomness: see `clippy.toml` beside this crate.

mod actions;
mod ahead;
mod budgets;
pub mod decisions;
mod entries;
mod estimate;
mod failures;
mod grants;
mod held;
mod machine;
mod message;
mod owners;
mod pace;
mod plan;
mod rebuild;
mod report;
mod rollout;
mod running;
pub mod simulate;
pub mod spec;
mod stuck;
mod targets;
mod waiting;
mod waves;
pub mod windows;
pub mod world;

pub use plan::plan;
