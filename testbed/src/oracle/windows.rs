//! When a plan may disrupt, read from its spec without the planner's help.

use api::plan::{MaintenanceWindow, UpdatePlanSpec};
use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use croner::parser::{CronParser, Seconds, Year};

/// Whether a window is open at this time.
#[must_use]
pub fn open(spec: &UpdatePlanSpec, at: DateTime<Utc>) -> bool {
    fits(spec, at, TimeDelta::zero())
}

/// Whether a window is open at this time, and stays open for so long: windows that follow without a gap are one.
#[must_use]
pub fn fits(spec: &UpdatePlanSpec, at: DateTime<Utc>, needed: TimeDelta) -> bool {
    let windows = &spec.maintenance_windows;
    if windows.is_empty() {
        return true;
    }
    let mut open_until = at;
    loop {
        let closes = windows
            .iter()
            .filter_map(|window| last_opening(window, open_until))
            .map(|(_, end)| end)
            .max();
        match closes.filter(|closes| *closes > open_until) {
            None => return false,
            Some(closes) if closes >= at + needed => return true,
            Some(closes) => open_until = closes,
        }
    }
}

/// Whether, at some moment in this time, a window was open and stayed open for so long.
#[must_use]
pub fn fitted_between(
    spec: &UpdatePlanSpec,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    needed: TimeDelta,
) -> bool {
    let openings = spec
        .maintenance_windows
        .iter()
        .filter_map(|window| last_opening(window, to));
    let openings = openings.map(|(start, _)| start).filter(|start| *start > from);
    // What fits late in a window fits at its start as well.
    std::iter::once(from)
        .chain(openings)
        .any(|at| fits(spec, at, needed))
}

/// The last opening of the window up to this time, this instant included, and when it closes.
fn last_opening(window: &MaintenanceWindow, at: DateTime<Utc>) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
    if let (Some(start), Some(end)) = (window.start, window.end) {
        return (start <= at).then_some((start, end));
    }
    let zone: Tz = window.time_zone.as_deref().unwrap_or("UTC").parse().ok()?;
    let parser = CronParser::builder()
        .seconds(Seconds::Disallowed)
        .year(Year::Disallowed)
        .build();
    let schedule = parser.parse(window.schedule.as_deref()?).ok()?;
    let start = schedule
        .find_previous_occurrence(&at.with_timezone(&zone), true)
        .ok()?
        .with_timezone(&Utc);
    Some((start, start + window.duration?.delta()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::{Value, json};

    fn plan(windows: Value) -> UpdatePlanSpec {
        let mut spec = json!({"targetVersion": "1.21.0", "nodeSelector": {}});
        spec["maintenanceWindows"] = windows;
        serde_json::from_value(spec).unwrap()
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_one_off_window_holds_its_start_and_not_its_end() {
        let spec =
            plan(json!([{"name": "w", "start": "2026-11-22T08:00:00Z", "end": "2026-11-22T09:00:00Z"}]));
        for (time, expected) in [
            ("07:59:59.999", false),
            ("08:00:00", true),
            ("08:59:59.999", true),
            ("09:00:00", false),
        ] {
            assert_eq!(
                open(&spec, at(&format!("2026-11-22T{time}Z"))),
                expected,
                "{time}"
            );
        }
        assert!(fits(&spec, at("2026-11-22T08:30:00Z"), TimeDelta::minutes(30)));
        assert!(!fits(&spec, at("2026-11-22T08:30:01Z"), TimeDelta::minutes(30)));
        assert!(fitted_between(
            &spec,
            at("2026-11-22T07:59:59Z"),
            at("2026-11-22T08:00:01Z"),
            TimeDelta::hours(1)
        ));
        assert!(!fitted_between(
            &spec,
            at("2026-11-22T09:00:00Z"),
            at("2026-11-22T09:00:01Z"),
            TimeDelta::zero()
        ));
        assert!(
            open(&plan(json!([])), at("2026-11-22T03:00:00Z")),
            "no windows: any time"
        );
    }

    #[test]
    fn windows_that_touch_are_one() {
        let spec = plan(json!([
            {"name": "a", "start": "2026-11-22T08:00:00Z", "end": "2026-11-22T09:00:00Z"},
            {"name": "b", "start": "2026-11-22T09:00:00Z", "end": "2026-11-22T10:00:00Z"}]));
        assert!(fits(&spec, at("2026-11-22T08:30:00Z"), TimeDelta::minutes(90)));
        assert!(!fits(&spec, at("2026-11-22T08:30:00Z"), TimeDelta::minutes(91)));
    }

    #[test]
    fn schedules_are_read_in_their_zone() {
        let nightly = |schedule: &str| {
            plan(json!([{"name": "n", "schedule": schedule, "timeZone": "Europe/Berlin", "duration": "3h"}]))
        };
        let spec = nightly("0 23 * * MON-THU");
        assert!(!open(&spec, at("2026-11-22T22:30:00Z")), "a Sunday");
        assert!(open(&spec, at("2026-11-23T22:00:00Z")));
        assert!(
            open(&spec, at("2026-11-24T00:59:59Z")),
            "it belongs to the day it starts"
        );
        assert!(!open(&spec, at("2026-11-24T01:00:00Z")));
        assert!(open(&nightly("@daily"), at("2026-11-22T23:30:00Z")));
    }

    #[test]
    fn clock_changes() {
        let short = plan(
            json!([{"name": "n", "schedule": "30 2 * * *", "timeZone": "Europe/Berlin", "duration": "20m"}]),
        );
        assert!(
            open(&short, at("2026-03-29T01:00:00Z")),
            "2:30 is skipped: after the gap"
        );
        assert!(!open(&short, at("2026-03-29T01:30:00Z")));
        assert!(
            open(&short, at("2026-10-25T00:35:00Z")),
            "2:30 comes twice: the first"
        );
        assert!(!open(&short, at("2026-10-25T01:35:00Z")), "and not the second");
        let hourly = plan(
            json!([{"name": "n", "schedule": "30 * * * *", "timeZone": "Europe/Berlin", "duration": "20m"}]),
        );
        assert!(open(&hourly, at("2026-10-25T00:35:00Z")) && open(&hourly, at("2026-10-25T01:35:00Z")));
    }
}
