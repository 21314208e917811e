//! The promises of the design, each a test by its name, on a virtual cluster in virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "../support/mod.rs"]
mod support;

mod actions;
mod approval;
mod brupop;
mod calendar;
mod estimate;
mod exclusions;
mod failures;
mod finish;
mod hazards;
mod install;
mod lag;
mod lies;
mod nodes;
mod own;
mod ownership;
mod pace;
mod proof;
mod properties;
mod recovery;
mod rollout;
mod schedules;
mod short_windows;
mod skipped;
mod strange;
mod topology;
mod waves;
mod windows;
