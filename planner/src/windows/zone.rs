//! Local times and the instants at which a zone's clocks show them.
//!
//! Everything is found from the zone's offsets alone, in seconds. A change of offset is looked for within [`REACH`] of
//! where it matters; two changes are never so near to each other that they could hide one another.

use chrono::{DateTime, Offset, TimeZone};
use chrono_tz::Tz;

use super::{fields::LocalTime, steps::step};

/// No clock is moved by more than a day (Samoa skipped one in 2011).
const REACH: i64 = 26 * 3600;

/// How many changes are gone through in one search: more than one never lie on its way.
const CHANGES: usize = 16;

/// A zone's clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Zone(pub Tz);

impl Zone {
    fn offset(self, at: i64) -> i64 {
        step();
        DateTime::from_timestamp(at, 0).map_or(0, |at| {
            let offset = self.0.offset_from_utc_datetime(&at.naive_utc()).fix();
            offset.local_minus_utc().into()
        })
    }

    /// What the clocks show.
    pub fn local(self, at: i64) -> LocalTime {
        at + self.offset(at)
    }

    /// The first instant with another offset than `from` has, where `to` has another one.
    fn change(self, from: i64, to: i64) -> Option<i64> {
        let offset = self.offset(from);
        if self.offset(to) == offset {
            return None;
        }
        let (mut before, mut after) = (from, to);
        while after - before > 1 {
            let middle = before + (after - before) / 2;
            if self.offset(middle) == offset {
                before = middle;
            } else {
                after = middle;
            }
        }
        Some(after)
    }

    /// The first instant at which the clocks show `local` or later: one that happens twice counts at the first, one that
    /// is skipped at the first instant after the gap.
    pub fn reaches(self, local: LocalTime) -> i64 {
        let (early, late) = (local - REACH, local + REACH);
        let before = local - self.offset(early);
        let Some(change) = self.change(early, late) else {
            return before;
        };
        if before < change {
            before
        } else {
            (local - self.offset(late)).max(change)
        }
    }

    /// The latest that the clocks have shown up to `at`: more than they show now where they were put back lately.
    pub fn reached(self, at: i64) -> LocalTime {
        let shown = self.local(at);
        match self.change(at - REACH, at) {
            Some(change) => shown.max(self.local(change - 1)),
            None => shown,
        }
    }

    /// The first instant from `from` on whose local time is one that `next` gives, the first of them from a local time on.
    pub fn first(self, from: i64, next: impl Fn(LocalTime) -> Option<LocalTime>) -> Option<i64> {
        let mut at = from;
        for _ in 0..CHANGES {
            let offset = self.offset(at);
            let found = next(at + offset)? - offset;
            let near = found.min(at + REACH);
            if let Some(change) = self.change(at, near) {
                at = change;
            } else if found == near {
                return Some(found);
            } else {
                at = found - REACH;
            }
        }
        None
    }

    /// The last instant up to `to` whose local time is one that `last` gives, the last of them up to a local time.
    pub fn last(self, to: i64, last: impl Fn(LocalTime) -> Option<LocalTime>) -> Option<i64> {
        let mut at = to;
        for _ in 0..CHANGES {
            let offset = self.offset(at);
            let found = last(at + offset)? - offset;
            let near = found.max(at - REACH);
            if let Some(change) = self.change(near, at) {
                at = change - 1;
            } else if found == near {
                return Some(found);
            } else {
                at = found + REACH;
            }
        }
        None
    }
}
