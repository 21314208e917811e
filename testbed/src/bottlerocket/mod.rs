//! One simulated Bottlerocket machine, as its API shows it.
//!
//! - [`wire`]: the JSON of the API, and the names of its calls
//! - [`version`], [`repository`]: what releases there are, to whom they are offered, which one is chosen
//! - [`settings`]: committed settings, transactions, and the config files written from them a moment later
//! - [`faults`]: what a test may make go wrong
//! - [`state`]: the machine itself, pure: commands, partitions, boots; time comes in as an argument
//! - [`host`]: the machine with a clock, a repository and a log of what happened
//! - [`server`]: the API on a Unix socket

pub mod faults;
pub mod host;
pub mod repository;
pub mod server;
pub mod settings;
pub mod state;
#[cfg(test)]
mod state_tests;
pub mod version;
pub mod wire;

pub use faults::{BootFault, CallFault, Faults, Unsupported};
pub use host::Host;
pub use repository::{Release, Repository, SharedRepository};
pub use settings::UpdateSettings;
pub use state::{Latencies, Machine, Refusal};
pub use version::Version;
pub use wire::{Call, Command, CommandStatus, Image, UpdateState};
