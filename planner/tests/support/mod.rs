//! A virtual cluster in virtual time around the pure `plan(now, &world)`: no sleeps, no clock, no I/O.
//!
//! * [`sim`]: [`Sim`] asks the planner and moves time from event to event
//! * `apply`: decisions, applied as their contract says
//! * `node`: what a node and its agent do; `faults`: how long they take, and what goes wrong
//! * `people`: what happens from outside: edits, deletions, cordons, crashes
//! * `check`: the promises, checked at every write, by the `rules` of its own, not the planner's
//! * `show`: status and history as text, for snapshots and for failures
#![allow(dead_code, reason = "not every test binary uses all of it")]

mod apply;
mod check;
mod faults;
mod node;
mod people;
mod rules;
mod show;
pub mod sim;

use chrono::{DateTime, TimeDelta, Utc};

pub use faults::{Fault, Timing};
pub use sim::Sim;

/// When every virtual cluster starts: a Sunday morning.
pub const START: &str = "2026-11-22T08:00:00Z";

pub fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap_or_else(|_| panic!("{text} is no time"))
}

/// An instant of the first day, `10:30`.
pub fn at(clock: &str) -> DateTime<Utc> {
    time(&format!("{}T{clock}:00Z", &START[..10]))
}

pub fn seconds(n: i64) -> TimeDelta {
    TimeDelta::seconds(n)
}

pub fn minutes(n: i64) -> TimeDelta {
    TimeDelta::minutes(n)
}

pub fn days(n: i64) -> TimeDelta {
    TimeDelta::days(n)
}

pub fn hours(n: i64) -> TimeDelta {
    TimeDelta::hours(n)
}
