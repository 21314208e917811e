//! The agent: does to its own node what its shadow asks for, and reports. It runs on every node, talks to the
//! apiserver and to Bottlerocket's API socket only, and decides nothing about the rollout.
//!
//! * [`config`]: the settings, with every delay among them
//! * [`bottlerocket`]: typed client of Bottlerocket's API
//! * [`host`]: what the node is like right now
//! * [`memory`]: what is remembered from one step to the next; pure
//! * [`step`]: the one thing that comes next; pure
//! * [`report`]: the statuses that are reported; pure
//! * [`server`]: client of the apiserver
//! * [`stream`]: the instruction stream, and when to connect again
//! * [`run`]: the loop that ties them together

pub mod bottlerocket;
pub mod config;
pub mod host;
pub mod memory;
pub mod report;
mod run;
pub mod server;
pub mod step;
pub mod stream;

pub use config::{Config, Timings};
pub use run::{AgentError, run};
