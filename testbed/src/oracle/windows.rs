//! When a plan may disrupt, read from its spec without the planner's help.

use api::plan::{MaintenanceWindow, UpdatePlanSpec};
use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

use super::brupop::Brupop;

/// A plan's windows and exclusions, and since when nodes have waited for a window that is open until they are done.
#[derive(Debug)]
pub struct Windows {
    windows: Vec<Window>,
    exclusions: Vec<Window>,
    waiting_since: Option<DateTime<Utc>>,
}

#[derive(Debug)]
enum Window {
    Once(DateTime<Utc>, DateTime<Utc>),
    CronJob(Box<Cron>, Tz, TimeDelta),
    Instants(Brupop, TimeDelta),
    UntilDone(Brupop),
    Named(Brupop),
    /// What cannot be read is never open.
    Nothing,
}

impl Windows {
    /// Those of a plan.
    #[must_use]
    pub fn of(spec: &UpdatePlanSpec, waiting_since: Option<DateTime<Utc>>) -> Self {
        let read = |windows: &[MaintenanceWindow]| windows.iter().map(Window::read).collect();
        Self {
            windows: read(&spec.maintenance_windows),
            exclusions: read(&spec.exclusions),
            waiting_since,
        }
    }

    /// Whether a window of the plan is open until its nodes are done.
    #[must_use]
    pub fn open_until_done(spec: &UpdatePlanSpec) -> bool {
        let windows = spec.maintenance_windows.iter().map(Window::read);
        windows
            .into_iter()
            .any(|window| matches!(window, Window::UntilDone(_)))
    }

    /// Whether a window is open at this time.
    #[must_use]
    pub fn open(&self, at: DateTime<Utc>) -> bool {
        self.fits(at, TimeDelta::zero())
    }

    /// Whether a window is open at this time, and stays open for so long: windows that follow without a gap are one, and an
    /// exclusion closes them.
    #[must_use]
    pub fn fits(&self, at: DateTime<Utc>, needed: TimeDelta) -> bool {
        let end = at + needed;
        let excluded =
            |exclusion: &Window| exclusion.closes(at, None).is_some() || exclusion.opens_between(at, end);
        if self.exclusions.iter().any(excluded) {
            return false;
        }
        if self.windows.is_empty() {
            return true;
        }
        let mut open_until = at;
        loop {
            let closes = self
                .windows
                .iter()
                .filter_map(|window| window.closes(open_until, self.waiting_since))
                .max();
            match closes {
                None => return false,
                Some(closes) if closes >= end => return true,
                Some(closes) => open_until = closes,
            }
        }
    }

    /// Whether, at some moment in this time, a window was open and stayed open for so long.
    #[must_use]
    pub fn fitted_between(&self, from: DateTime<Utc>, to: DateTime<Utc>, needed: TimeDelta) -> bool {
        let openings = self.windows.iter().filter_map(|window| window.last_opening(to));
        let ends = self.exclusions.iter().filter_map(|exclusion| {
            let begun = exclusion.last_opening(to)?;
            exclusion.closes(begun, None)
        });
        // What fits late in a window fits at its start as well.
        let within = |at: &DateTime<Utc>| from < *at && *at <= to;
        [from, to]
            .into_iter()
            .chain(openings.chain(ends).filter(within))
            .any(|at| self.fits(at, needed))
    }
}

impl Window {
    fn read(window: &MaintenanceWindow) -> Self {
        if let (Some(start), Some(end)) = (window.start, window.end) {
            return Self::Once(start, end);
        }
        let zone: Result<Tz, _> = window.time_zone.as_deref().unwrap_or("UTC").parse();
        let (Ok(zone), Some(schedule)) = (zone, window.schedule.as_deref()) else {
            return Self::Nothing;
        };
        let duration = window.duration.map(api::quantity::Span::delta);
        if let Some(brupop) = Brupop::read(schedule, zone) {
            return match duration {
                Some(duration) => Self::Instants(brupop, duration),
                None if brupop.is_window() => Self::Named(brupop),
                None => Self::UntilDone(brupop),
            };
        }
        let parser = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build();
        match (parser.parse(schedule), duration) {
            (Ok(cron), Some(duration)) => Self::CronJob(Box::new(cron), zone, duration),
            _ => Self::Nothing,
        }
    }

    /// When it closes, where it is open at this time.
    fn closes(&self, at: DateTime<Utc>, waiting_since: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
        let start = self.last_opening(at)?;
        let end = match self {
            Self::Once(_, end) => *end,
            Self::CronJob(_, _, duration) | Self::Instants(_, duration) => start + *duration,
            Self::Named(brupop) => brupop.named_until(at),
            Self::UntilDone(_) => {
                let waited = waiting_since.is_some_and(|since| since <= start);
                return waited.then_some(DateTime::<Utc>::MAX_UTC);
            }
            Self::Nothing => return None,
        };
        (end > at).then_some(end)
    }

    /// Whether it opens after the one time and before the other.
    fn opens_between(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> bool {
        if let Self::Named(brupop) = self {
            let seconds = from.timestamp() + 1..to.timestamp() + i64::from(to.timestamp_subsec_nanos() > 0);
            return seconds
                .filter_map(|second| DateTime::from_timestamp(second, 0))
                .any(|at| brupop.names(at));
        }
        let last = self.last_opening(to - TimeDelta::nanoseconds(1));
        last.is_some_and(|opens| from < opens)
    }

    /// The last opening up to this time, this instant included. Of a window that is its schedule: this second, if it is named.
    fn last_opening(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self {
            Self::Once(start, _) => (*start <= at).then_some(*start),
            Self::CronJob(cron, zone, _) => {
                let found = cron.find_previous_occurrence(&at.with_timezone(zone), true);
                Some(found.ok()?.with_timezone(&Utc))
            }
            Self::Instants(brupop, _) | Self::UntilDone(brupop) => brupop.last(at),
            Self::Named(brupop) => {
                let second = DateTime::from_timestamp(at.timestamp(), 0)?;
                brupop.names(second).then_some(second)
            }
            Self::Nothing => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::{Value, json};

    fn plan(windows: Value) -> Windows {
        excluding(windows, json!([]))
    }

    fn excluding(windows: Value, exclusions: Value) -> Windows {
        let mut spec = json!({"targetVersion": "1.21.0", "nodeSelector": {}});
        spec["maintenanceWindows"] = windows;
        spec["exclusions"] = exclusions;
        Windows::of(&serde_json::from_value(spec).unwrap(), None)
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
            assert_eq!(spec.open(at(&format!("2026-11-22T{time}Z"))), expected, "{time}");
        }
        assert!(spec.fits(at("2026-11-22T08:30:00Z"), TimeDelta::minutes(30)));
        assert!(!spec.fits(at("2026-11-22T08:30:01Z"), TimeDelta::minutes(30)));
        assert!(spec.fitted_between(
            at("2026-11-22T07:59:59Z"),
            at("2026-11-22T08:00:01Z"),
            TimeDelta::hours(1)
        ));
        assert!(!spec.fitted_between(
            at("2026-11-22T09:00:00Z"),
            at("2026-11-22T09:00:01Z"),
            TimeDelta::zero()
        ));
        assert!(
            plan(json!([])).open(at("2026-11-22T03:00:00Z")),
            "no windows: any time"
        );
    }

    #[test]
    fn windows_that_touch_are_one() {
        let spec = plan(json!([
            {"name": "a", "start": "2026-11-22T08:00:00Z", "end": "2026-11-22T09:00:00Z"},
            {"name": "b", "start": "2026-11-22T09:00:00Z", "end": "2026-11-22T10:00:00Z"}]));
        assert!(spec.fits(at("2026-11-22T08:30:00Z"), TimeDelta::minutes(90)));
        assert!(!spec.fits(at("2026-11-22T08:30:00Z"), TimeDelta::minutes(91)));
    }

    #[test]
    fn schedules_are_read_in_their_zone() {
        let nightly = |schedule: &str| {
            plan(json!([{"name": "n", "schedule": schedule, "timeZone": "Europe/Berlin", "duration": "3h"}]))
        };
        let spec = nightly("0 23 * * MON-THU");
        assert!(!spec.open(at("2026-11-22T22:30:00Z")), "a Sunday");
        assert!(spec.open(at("2026-11-23T22:00:00Z")));
        assert!(
            spec.open(at("2026-11-24T00:59:59Z")),
            "it belongs to the day it starts"
        );
        assert!(!spec.open(at("2026-11-24T01:00:00Z")));
        assert!(nightly("@daily").open(at("2026-11-22T23:30:00Z")));
    }

    #[test]
    fn clock_changes() {
        let short = plan(
            json!([{"name": "n", "schedule": "30 2 * * *", "timeZone": "Europe/Berlin", "duration": "20m"}]),
        );
        assert!(
            short.open(at("2026-03-29T01:00:00Z")),
            "2:30 is skipped: after the gap"
        );
        assert!(!short.open(at("2026-03-29T01:30:00Z")));
        assert!(
            short.open(at("2026-10-25T00:35:00Z")),
            "2:30 comes twice: the first"
        );
        assert!(!short.open(at("2026-10-25T01:35:00Z")), "and not the second");
        let hourly = plan(
            json!([{"name": "n", "schedule": "30 * * * *", "timeZone": "Europe/Berlin", "duration": "20m"}]),
        );
        assert!(hourly.open(at("2026-10-25T00:35:00Z")) && hourly.open(at("2026-10-25T01:35:00Z")));
    }

    #[test]
    fn an_exclusion_closes_what_is_open() {
        let spec = excluding(
            json!([{"name": "w", "start": "2026-11-22T08:00:00Z", "end": "2026-11-22T12:00:00Z"}]),
            json!([{"name": "x", "schedule": "0 9 * * *", "duration": "30m"}, {"name": "y", "schedule": "* * 11 * * 1"}]),
        );
        for (time, expected) in [
            ("08:59:59.999", true),
            ("09:00:00", false),
            ("09:29:59.999", false),
            ("09:30:00", true),
            ("10:59:59.999", true),
            ("11:00:00", false),
        ] {
            assert_eq!(spec.open(at(&format!("2026-11-22T{time}Z"))), expected, "{time}");
        }
        let minutes = TimeDelta::minutes;
        assert!(spec.fits(at("2026-11-22T08:30:00Z"), minutes(30)));
        assert!(!spec.fits(at("2026-11-22T08:30:00Z"), minutes(31)));
        assert!(
            !spec.fits(at("2026-11-22T08:30:00Z"), minutes(70)),
            "it began in between"
        );
        let (before, after) = (at("2026-11-22T09:29:59.500Z"), at("2026-11-22T09:30:00.500Z"));
        assert!(
            spec.fitted_between(before, after, minutes(90))
                && !spec.fitted_between(before, after, minutes(91))
        );
        assert!(
            excluding(json!([]), json!([])).open(before),
            "neither windows nor exclusions: any time"
        );
    }

    #[test]
    fn single_instants_open_for_their_duration_or_for_those_that_wait() {
        let windows = |since: Option<&str>, more: &str| {
            let spec = format!(
                r#"{{"targetVersion": "1.21.0", "nodeSelector": {{}},
                    "maintenanceWindows": [{{"name": "w", "schedule": "0 0 10 * * SUN *"{more}}}]}}"#
            );
            Windows::of(&serde_json::from_str(&spec).unwrap(), since.map(at))
        };
        let timed = windows(None, r#", "duration": "2h""#);
        assert!(timed.open(at("2026-11-22T11:59:59Z")) && !timed.open(at("2026-11-22T12:00:00Z")));
        let later = at("2026-11-25T11:59:59Z");
        assert!(!windows(None, "").open(later) && !windows(Some("2026-11-22T10:00:01Z"), "").open(later));
        assert!(windows(Some("2026-11-22T10:00:00Z"), "").fits(later, TimeDelta::days(10)));
        assert!(!windows(Some("2026-11-22T09:00:00Z"), "").open(at("2026-11-22T09:59:59Z")));
    }
}
