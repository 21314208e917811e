//! The words that every part of the operator shares.
//!
//! * [`plan`]: the `UpdatePlan` that users apply, and its status
//! * [`shadow`]: the `BottlerocketShadow`, one per node, compatible with Brupop's
//! * [`ledger`]: the `UpdateLedger`, the one place where disruption is admitted, and its transitions
//! * [`wire`]: what agent and apiserver say to each other
//! * [`drain`]: which pods may stay on a node that is about to reboot
//! * [`operator`]: the operator's own pods
//! * [`offer`]: the versions that are on offer to a node
//! * [`names`]: every label, annotation, finalizer and well-known name
//! * [`quantity`]: durations and int-or-percent numbers as users write them
//! * [`text`]: text that others wrote, made fit for a message
//! * [`verdict`]: why a node does not move
//! * [`time`]: the only place where kube's jiff meets our chrono
//!
//! Nothing here does I/O, and nothing here can reach a clock: see `clippy.toml` beside this crate.

pub mod drain;
pub mod ledger;
pub mod names;
pub mod offer;
pub mod operator;
pub mod plan;
pub mod quantity;
pub mod shadow;
pub mod text;
pub mod time;
pub mod verdict;
pub mod wire;

pub use ledger::UpdateLedger;
pub use plan::UpdatePlan;
pub use shadow::BottlerocketShadow;
