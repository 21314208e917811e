//! How long a plan's nodes take, learned from those that it has updated.

use api::{
    ledger::PlanEntry,
    plan::{NodeDuration, UpdatePlanStatus},
    quantity::Span,
};
use chrono::TimeDelta;

use crate::spec::{Limits, ValidPlan};

/// How many nodes the plan learns from: so many that one in ten is some, and so few that it follows a change.
const SAMPLES: usize = 50;

/// How long it may take from the opening of a window to the first grant: the controller's timer, the finalizer, the ledger.
const FIRST_GRANT: TimeDelta = TimeDelta::seconds(10);

/// How long the next node will take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Most probably.
    pub typical: TimeDelta,
    /// So long that nine of ten are done: what must be left of a window for a grant.
    pub needs: TimeDelta,
    /// Longer than that it has failed.
    pub longest: TimeDelta,
    /// Of how many nodes that was learned. 0: the spec says it.
    pub samples: u32,
}

impl Pace {
    /// As the plan has learned it; before that, as its spec says.
    pub fn of(valid: &ValidPlan, entry: &PlanEntry) -> Self {
        let longest = longest(&valid.limits);
        let (typical, needs, samples) = learned(&entry.durations).map_or(
            (valid.node_duration, valid.node_duration, 0),
            |NodeDuration { p50, p90, samples }| {
                (p50.delta().min(longest), p90.delta().min(longest), samples)
            },
        );
        Self {
            typical: typical.max(TimeDelta::seconds(1)),
            needs,
            longest,
            samples,
        }
    }

    /// How long a window must be for a grant in it. One that is no longer than a node takes would each time be too short by what
    /// passes before the first grant.
    pub fn window(&self) -> TimeDelta {
        self.needs + FIRST_GRANT
    }
}

fn longest(limits: &Limits) -> TimeDelta {
    limits.stage + limits.drain + limits.reboot + limits.monitoring
}

/// Takes in how long a node took.
pub(crate) fn learn(entry: &mut PlanEntry, took: TimeDelta) {
    let seconds = took.num_milliseconds().max(0).unsigned_abs().div_ceil(1000);
    entry.durations.push(u32::try_from(seconds).unwrap_or(u32::MAX));
    let known = entry.durations.len();
    entry.durations.drain(..known.saturating_sub(SAMPLES));
}

/// Forgets what was learned where somebody has changed what is expected. Without that nobody could tell a plan that its nodes do not
/// take any more what they once took: while nothing fits into a window, nothing is learned.
pub(crate) fn forget_if_edited(entry: &mut PlanEntry, expected: Span) {
    if entry
        .expected_node_duration
        .is_some_and(|before| before != expected)
    {
        entry.durations.clear();
    }
    entry.expected_node_duration = Some(expected);
}

/// As many samples as the plan's status tells of, which say the same: for a ledger that is made anew.
pub(crate) fn remembered(status: &UpdatePlanStatus) -> Vec<u32> {
    let Some(NodeDuration { p50, p90, samples }) = status.node_duration else {
        return Vec::new();
    };
    let seconds = |span: Span| u32::try_from(span.delta().num_seconds()).unwrap_or(u32::MAX);
    let samples = (samples as usize).clamp(1, SAMPLES);
    let upper = (samples * 90).div_ceil(100) - 1;
    (0..samples)
        .map(|rank| seconds(if rank < upper { p50 } else { p90 }))
        .collect()
}

/// What so many samples say. None where there are none.
pub(crate) fn learned(durations: &[u32]) -> Option<NodeDuration> {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    // The smallest sample that at least so many per cent do not exceed.
    let percentile = |percent: usize| {
        let rank = (sorted.len() * percent).div_ceil(100);
        sorted.get(rank.saturating_sub(1)).copied().map(Span::seconds)
    };
    Some(NodeDuration {
        p50: percentile(50)?,
        p90: percentile(90)?,
        samples: u32::try_from(sorted.len()).unwrap_or(u32::MAX),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn of_fewer_than_ten_nodes_the_slowest_counts() {
        for others in 0..9 {
            let mut durations = vec![60; others];
            durations.push(5000);
            let learned = learned(&durations).unwrap();
            assert_eq!(learned.p90, Span::seconds(5000), "1 of {}", others + 1);
        }
        let one_in_ten = [vec![60; 9], vec![5000]].concat();
        assert_eq!(learned(&one_in_ten).unwrap().p90, Span::seconds(60));
        assert_eq!(learned(&[1, 2, 3]).unwrap().p50, Span::seconds(2));
        assert_eq!(learned(&[]), None);
    }

    #[test]
    fn the_last_fifty_nodes_count_and_those_before_are_forgotten() {
        let mut entry = PlanEntry::default();
        for minute in 1..=60 {
            learn(&mut entry, TimeDelta::minutes(minute));
        }
        assert_eq!(entry.durations.len(), SAMPLES);
        assert_eq!((entry.durations[0], entry.durations[49]), (11 * 60, 60 * 60));
    }
    #[test]
    fn a_ledger_that_is_made_anew_learns_from_the_status_what_that_says() {
        for samples in 2..=50 {
            let told = NodeDuration {
                p50: Span::seconds(60),
                p90: Span::seconds(600),
                samples,
            };
            let status = UpdatePlanStatus {
                node_duration: Some(told),
                ..UpdatePlanStatus::default()
            };
            assert_eq!(learned(&remembered(&status)), Some(told));
        }
    }
}
