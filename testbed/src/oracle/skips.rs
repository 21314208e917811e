//! Which nodes may be skipped: those that could not be updated for `skipAfter` of open window, by the watch history alone.

use api::UpdatePlan;
use chrono::{DateTime, TimeDelta, Utc};

use super::timing::windows_until_complete;
use super::windows::Windows;
use super::{LAG, Moment};

/// How often a time is looked at to find for how long of it the windows were open.
const LOOKS: i32 = 2000;

/// Whether the node, which has no grant, has been down or cordoned for so long. An agent that is silent is not looked at.
pub(super) fn may_be_skipped(now: &Moment<'_>, plan: &UpdatePlan, run: &str, node: &str) -> bool {
    let Some(since) = now.tracks.unavailable_since(node) else {
        return false;
    };
    let since = since.max(now.at - TimeDelta::days(365));
    let open = open_time(&windows_until_complete(now, plan, run), since, now.at);
    open >= plan.spec.skip_after.delta() - LAG
}

fn open_time(windows: &Windows, from: DateTime<Utc>, to: DateTime<Utc>) -> TimeDelta {
    let step = (to - from) / LOOKS;
    let open = (0..LOOKS)
        .filter(|look| windows.open(from + step * *look))
        .count();
    step * i32::try_from(open).unwrap_or(LOOKS)
}
