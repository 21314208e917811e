//! When a plan may disrupt, and how long its nodes take.

use api::{
    ledger::{Grant, PlanEntry, UpdateLedgerSpec},
    plan::{MaintenanceWindow, OnWindowEnd},
};
use chrono::{DateTime, TimeDelta, Timelike, Utc};
use planner::world::{NodeFacts, PlanFacts};

use super::is_complete;

/// A plan's windows and exclusions as they count for its run.
#[derive(Clone, Copy)]
pub struct Windows<'a> {
    windows: &'a [MaintenanceWindow],
    exclusions: &'a [MaintenanceWindow],
}

impl<'a> Windows<'a> {
    /// A run that is to run now has no windows until it is complete; its exclusions stay.
    pub fn of(plan: &'a PlanFacts, before: &UpdateLedgerSpec) -> Self {
        let entry = before.plans.get(&plan.uid);
        let entry = entry.filter(|entry| entry.target == plan.spec.target_version);
        let ignored =
            entry.is_some_and(|entry| entry.actions.run_now.is_some() && !is_complete(plan, &entry.run));
        Self {
            windows: if ignored {
                &[]
            } else {
                &plan.spec.maintenance_windows
            },
            exclusions: &plan.spec.exclusions,
        }
    }

    pub fn are_none(&self) -> bool {
        self.windows.is_empty() && self.exclusions.is_empty()
    }

    pub fn is_open(&self, at: DateTime<Utc>) -> bool {
        let open = self.windows.is_empty() || self.windows.iter().any(|window| is_on(window, at));
        open && !self.exclusions.iter().any(|exclusion| is_on(exclusion, at))
    }

    /// Whether they are open from `from` until `to`, which itself may be outside.
    pub fn is_open_until(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> bool {
        self.are_none() || minutes(from, to).all(|(at, _)| self.is_open(at))
    }

    /// For how long they are open from `from` until `to`.
    pub fn open_between(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> TimeDelta {
        let open = minutes(from, to).filter(|(at, _)| self.is_open(*at));
        open.fold(TimeDelta::zero(), |sum, (from, to)| sum + (to - from))
    }
}

/// What lies between, minute by minute: all windows of these worlds change on whole minutes.
fn minutes(from: DateTime<Utc>, to: DateTime<Utc>) -> impl Iterator<Item = (DateTime<Utc>, DateTime<Utc>)> {
    let next = move |at: DateTime<Utc>| {
        let minute = DateTime::from_timestamp((at.timestamp().div_euclid(60) + 1) * 60, 0).unwrap();
        minute.min(to)
    };
    let mut at = from;
    std::iter::from_fn(move || {
        let this = (at, next(at));
        at = this.1;
        (this.0 < to).then_some(this)
    })
}

fn is_on(window: &MaintenanceWindow, at: DateTime<Utc>) -> bool {
    if let (Some(start), Some(end)) = (window.start, window.end) {
        return start <= at && at < end;
    }
    let (schedule, duration) = (
        window.schedule.as_ref().unwrap(),
        window.duration.unwrap().delta(),
    );
    let hour: i64 = schedule
        .strip_prefix("0 ")
        .and_then(|rest| rest.strip_suffix(" * * *"))
        .unwrap()
        .parse()
        .unwrap();
    let of_day = i64::from(at.num_seconds_from_midnight()) + i64::from(at.nanosecond() > 0);
    TimeDelta::seconds((of_day - hour * 3600).rem_euclid(86_400)) < duration
}

/// How long the next node of a plan is expected to take.
pub fn needs(plan: &PlanFacts, entry: &PlanEntry) -> TimeDelta {
    let mut took = entry.durations.clone();
    if took.is_empty() {
        return plan.spec.expected_node_duration.delta();
    }
    took.sort_unstable();
    let enough = (took.len() * 9).div_ceil(10) - 1;
    let longest = [
        plan.spec.timeouts.stage,
        plan.spec.drain.timeout,
        plan.spec.timeouts.reboot,
        plan.spec.monitoring.timeout,
    ];
    let longest = longest
        .iter()
        .fold(TimeDelta::zero(), |sum, step| sum + step.delta());
    TimeDelta::seconds(took[enough].into()).min(longest)
}

/// Whether the node was cordoned for this grant while a window was open, and its plan lets it finish.
pub fn may_finish(plan: &PlanFacts, windows: Windows<'_>, grant: &Grant, node: &NodeFacts) -> bool {
    let cordon = node.disruption.as_ref();
    let ours = cordon.filter(|cordon| (&cordon.run, cordon.attempt) == (&grant.run, grant.attempt));
    plan.spec.on_window_end == OnWindowEnd::Finish
        && ours.is_some_and(|cordon| windows.is_open(cordon.cordoned_at))
}
