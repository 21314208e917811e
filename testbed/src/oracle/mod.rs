//! Judges a run by what really happened: the machines' log and the history of every object, never by the operator's
//! own word for it. A plan's status is looked at only to see whether it claims something false.
//!
//! - [`case`]: what a run is judged by: history, machines, plans by generation, expectations
//! - [`changes`], [`runs`], [`tracks`]: what a revision did to the grants; what a run has come to; what else has to be
//!   remembered from revision to revision
//! - [`asked`]: what people have approved, retried, and wanted to run now
//! - [`machines`], [`nodes`], [`selectors`], [`windows`], [`brupop`]: the truth by machine; what nodes say; the nodes of a
//!   plan; open times, read independently
//! - `skips`: which nodes may be skipped because they could not be updated
//! - `budget` S1 · `grants` S2 S3 · `undone` S2 · `timing` S4 · `reboot` S5 · `eviction` S6 · `own` S5 S6 · `proof` S7 S8 · `restore` S9 ·
//!   `order` S10 · `contain` S11 · `intent` S12 · `outcome` `offers` L1
//!
//! Two kinds of leniency, both named: [`LAG`], by which the recorder may see a change later than it happened, and
//! [`STALE`], how old the operator's own view may be.

pub mod ahead;
mod asked;
pub mod brupop;
mod budget;
pub mod case;
pub mod changes;
mod contain;
mod eviction;
mod grants;
mod intent;
pub mod machines;
pub mod nodes;
mod offers;
mod order;
mod outcome;
mod own;
mod proof;
mod reboot;
mod restore;
pub mod runs;
pub mod selectors;
mod skips;
#[cfg(test)]
mod tests;
mod timing;
pub mod tracks;
mod undone;
pub mod windows;

use std::collections::BTreeSet;
use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};

use crate::history::{Change, History, State};
use crate::truth::SimEvent;

use case::Case;
pub use case::Expectations;
use changes::LedgerChange;
use tracks::Tracks;

/// By how much the recorder may see a change later than it happened.
pub const LAG: TimeDelta = TimeDelta::seconds(1);

/// How old what the operator acts on may be: five seconds, and the recorder's lag.
pub const STALE: TimeDelta = TimeDelta::seconds(6);

/// What is promised. See the design for the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Promise {
    /// Budget.
    S1,
    /// Fencing.
    S2,
    /// Ownership.
    S3,
    /// Window.
    S4,
    /// Reboot.
    S5,
    /// Eviction only.
    S6,
    /// Proof.
    S7,
    /// No surprise.
    S8,
    /// Leave as found.
    S9,
    /// Order.
    S10,
    /// Contain.
    S11,
    /// Pause, edit, delete.
    S12,
    /// Every matched node comes to an end, and nothing is left behind.
    L1,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which one.
    pub promise: Promise,
    /// When it was seen.
    pub at: DateTime<Utc>,
    /// What happened.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} broken at {}: {}",
            self.promise,
            self.at.format("%H:%M:%S%.3f"),
            self.message
        )
    }
}

/// Every promise that was broken in the run, each once, in order.
#[must_use]
pub fn check(history: &History, truth: &[SimEvent], expectations: &Expectations) -> Vec<Violation> {
    let case = Case::new(history, truth, expectations);
    let mut tracks = Tracks::new(&case, history.initial());
    let mut checks: Vec<Box<dyn Check>> = vec![
        Box::new(ahead::Ahead::default()),
        Box::new(budget::Budget),
        Box::new(grants::Grants),
        Box::new(undone::Undone),
        Box::new(timing::Timing::default()),
        Box::new(reboot::Reboot::default()),
        Box::new(eviction::Eviction::default()),
        Box::new(own::Own::new(history.initial(), &expectations.namespace)),
        Box::new(proof::Proof::default()),
        Box::new(restore::Restore::new(history.initial())),
        Box::new(order::Order::default()),
        Box::new(contain::Contain::default()),
        Box::new(intent::Intent),
        Box::new(offers::Offers),
        Box::new(outcome::Outcome),
    ];
    let mut report = Report::default();
    let mut replay = history.replay();
    while let Some(step) = replay.step() {
        let ledger = tracks.ledger_change(&case, &step.change);
        let now = Moment {
            case: &case,
            at: step.state.at,
            state: step.state,
            tracks: &tracks,
        };
        for check in &mut checks {
            check.changed(&now, &step.change, &mut report);
            if let Some(ledger) = &ledger {
                check.ledger(&now, ledger, &mut report);
            }
        }
        tracks.update(&case, &step, ledger.as_ref());
    }
    let now = Moment {
        case: &case,
        at: history.end(),
        state: replay.state(),
        tracks: &tracks,
    };
    for check in &mut checks {
        check.ended(&now, &mut report);
    }
    report.violations.sort_by_key(|violation| violation.at);
    report.violations
}

/// One revision, or the end, as the checks see it.
struct Moment<'a> {
    case: &'a Case<'a>,
    at: DateTime<Utc>,
    /// After the change.
    state: &'a State,
    /// Before the change.
    tracks: &'a Tracks,
}

impl Moment<'_> {
    /// Whether the node's agent reports another version than its machine runs.
    fn lies(&self, node: &str) -> bool {
        let name = api::names::shadow_name(node);
        let mut shadows = self.state.shadows.values();
        let shadow = shadows.find(|shadow| shadow.metadata.name.as_ref() == Some(&name));
        let reported = shadow
            .and_then(|shadow| shadow.status.as_ref())
            .map(|status| status.current_version.as_str());
        let runs = self.case.machines.of(node).running_at(self.at);
        runs.is_some_and(|boot| reported.is_some_and(|reported| reported != boot.version))
    }
}

/// Looks for one group of broken promises.
trait Check {
    /// An object has changed.
    fn changed(&mut self, _now: &Moment<'_>, _change: &Change, _report: &mut Report) {}

    /// The ledger has changed.
    fn ledger(&mut self, _now: &Moment<'_>, _change: &LedgerChange, _report: &mut Report) {}

    /// The history is over.
    fn ended(&mut self, _now: &Moment<'_>, _report: &mut Report) {}
}

/// What was found, each finding once however many revisions show it.
#[derive(Default)]
struct Report {
    violations: Vec<Violation>,
    seen: BTreeSet<(Promise, String)>,
}

impl Report {
    fn add(&mut self, promise: Promise, at: DateTime<Utc>, message: impl Into<String>) {
        let message = message.into();
        if self.seen.insert((promise, message.clone())) {
            self.violations.push(Violation { promise, at, message });
        }
    }
}
