//! The planner's simulator with the promises checked: no sleeps, no clock, no I/O.
//!
//! * [`sim`]: [`Sim`], a simulated cluster in the words of tests; `people`: what happens from outside
//! * `watch`: what is looked at whenever the simulator asks the planner or writes
//! * `check`: the promises, checked at every write, by the `rules` of its own, not the planner's; `limits` are those
//!   of S1 besides the plan's and the waves', `asked` knows what people have approved
#![allow(dead_code, reason = "not every test binary uses all of it")]

mod asked;
pub mod check;
mod limits;
mod people;
mod rules;
pub mod sim;
mod targets;
pub mod watch;

use chrono::{DateTime, TimeDelta, Utc};

pub use planner::simulate::{Fault, Timing};
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
