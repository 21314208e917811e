//! When a schedule opens, and until when.

use api::plan::MaintenanceWindow;
use chrono::{DateTime, TimeDelta, Utc};
use planner::windows::{Opening, WindowState, Windows};

use crate::support::{hours, minutes, time};

pub const NEVER: WindowState = WindowState::Closed {
    next: None,
    unsure: false,
    exclusion: None,
    again: None,
};

pub fn windows(yaml: &str) -> Windows {
    excluding(yaml, "[]")
}

/// Windows and exclusions.
pub fn excluding(yaml: &str, exclusions: &str) -> Windows {
    let read = |yaml: &str| -> Vec<MaintenanceWindow> {
        serde_saphyr::from_str(yaml).unwrap_or_else(|e| panic!("{e}\n{yaml}"))
    };
    Windows::parse(&read(yaml), &read(exclusions)).unwrap()
}

pub fn every(schedule: &str, zone: &str, duration: &str) -> Windows {
    windows(&format!(
        "[{{name: w, schedule: '{schedule}', timeZone: {zone}, duration: {duration}}}]"
    ))
}

pub fn closes(windows: &Windows, at: &str) -> Option<DateTime<Utc>> {
    match windows.at(time(at)) {
        WindowState::Open { closes, .. } => Some(closes),
        WindowState::Closed { .. } => None,
        WindowState::Always => panic!("always open"),
    }
}

/// Every change between two instants, found by looking every five minutes: opens and closes.
pub fn changes(windows: &Windows, from: &str, to: &str) -> Vec<(bool, String)> {
    let (mut at, end) = (time(from), time(to));
    let mut found = Vec::new();
    let mut open = matches!(windows.at(at), WindowState::Open { .. });
    while at < end {
        at += minutes(5);
        let now = matches!(windows.at(at), WindowState::Open { .. });
        if now != open {
            found.push((now, at.format("%dT%H:%MZ").to_string()));
            open = now;
        }
    }
    found
}

pub fn opened_and_closed(times: &[&str]) -> Vec<(bool, String)> {
    times
        .iter()
        .enumerate()
        .map(|(i, at)| (i % 2 == 0, (*at).to_owned()))
        .collect()
}

#[test]
fn none_is_always_open() {
    assert_eq!(
        Windows::parse(&[], &[]).unwrap().at(time("2026-01-01T00:00:00Z")),
        WindowState::Always
    );
}

#[test]
fn saturday_night_crosses_midnight() {
    let saturday = every("0 22 * * SAT", "UTC", "4h");
    assert_eq!(closes(&saturday, "2026-11-28T21:59:59Z"), None);
    assert_eq!(
        closes(&saturday, "2026-11-28T22:00:00Z"),
        Some(time("2026-11-29T02:00:00Z"))
    );
    assert_eq!(
        closes(&saturday, "2026-11-29T01:59:59Z"),
        Some(time("2026-11-29T02:00:00Z"))
    );
    assert_eq!(
        closes(&saturday, "2026-11-29T02:00:00Z"),
        None,
        "the close is outside"
    );
    assert_eq!(
        closes(&saturday, "2026-11-29T22:30:00Z"),
        None,
        "it belongs to the day it starts"
    );
    let at = time("2026-12-05T22:00:00Z");
    let name = Some("w".to_owned());
    assert_eq!(
        saturday.at(time("2026-11-29T02:00:00Z")),
        WindowState::Closed {
            next: Some(Opening { at, name }),
            unsure: false,
            exclusion: None,
            again: Some(at),
        }
    );
}

#[test]
fn a_start_that_dst_skips_opens_at_the_first_instant_after_the_gap() {
    // On 2026-03-29 clocks in Berlin go from 02:00 CET to 03:00 CEST, at 01:00 UTC.
    let night = every("30 2 * * *", "Europe/Berlin", "1h");
    let expected = [
        "28T01:30Z",
        "28T02:30Z",
        "29T01:00Z",
        "29T02:00Z",
        "30T00:30Z",
        "30T01:30Z",
    ];
    assert_eq!(
        changes(&night, "2026-03-28T00:00:00Z", "2026-03-30T12:00:00Z"),
        opened_and_closed(&expected)
    );
    assert_eq!(
        night.opens_after(time("2026-03-28T12:00:00Z")).unwrap().at,
        time("2026-03-29T01:00:00Z")
    );
    assert_eq!(
        closes(&night, "2026-03-29T01:00:00Z"),
        Some(time("2026-03-29T02:00:00Z"))
    );
    assert_eq!(closes(&night, "2026-03-29T00:59:59Z"), None);
}

#[test]
fn a_start_that_dst_doubles_opens_once_at_the_first() {
    // On 2026-10-25 clocks in Berlin go from 03:00 CEST back to 02:00 CET, at 01:00 UTC.
    let night = every("30 2 * * *", "Europe/Berlin", "20m");
    let expected = [
        "24T00:30Z",
        "24T00:50Z",
        "25T00:30Z",
        "25T00:50Z",
        "26T01:30Z",
        "26T01:50Z",
    ];
    assert_eq!(
        changes(&night, "2026-10-24T00:00:00Z", "2026-10-26T12:00:00Z"),
        opened_and_closed(&expected)
    );
    assert_eq!(
        night.opens_after(time("2026-10-25T00:50:00Z")).unwrap().at,
        time("2026-10-26T01:30:00Z")
    );
    let long = every("30 2 * * *", "Europe/Berlin", "3h");
    assert_eq!(
        closes(&long, "2026-10-25T02:00:00Z"),
        Some(time("2026-10-25T03:30:00Z")),
        "elapsed time"
    );
}

#[test]
fn a_wildcard_hour_opens_every_real_hour() {
    let hourly = every("0 * * * *", "Europe/Berlin", "10m");
    for day in ["2026-03-29", "2026-10-25"] {
        let found = changes(&hourly, &format!("{day}T00:05:00Z"), &format!("{day}T04:05:00Z"));
        let opened: Vec<_> = found
            .iter()
            .filter(|(opens, _)| *opens)
            .map(|(_, at)| &at[3..5])
            .collect();
        assert_eq!(opened, ["01", "02", "03", "04"], "{day}");
    }
}

#[test]
fn several_times_of_day_keep_the_rule_each() {
    let listed = every("30 1-2,14 * * *", "Europe/Berlin", "10m");
    let opened = |day: &str| -> Vec<String> {
        let found = changes(&listed, &format!("{day}T00:00:00Z"), &format!("{day}T20:00:00Z"));
        found
            .into_iter()
            .filter(|(opens, _)| *opens)
            .map(|(_, at)| at[3..].to_owned())
            .collect()
    };
    assert_eq!(
        opened("2026-03-29"),
        ["00:30Z", "01:00Z", "12:30Z"],
        "the skipped one opens after the gap"
    );
    // Local 01:30 is at 23:30Z of the day before in summer.
    assert_eq!(
        opened("2026-10-25"),
        ["00:30Z", "13:30Z"],
        "the doubled one opens once"
    );
    let twice = every("0,30 2 * * *", "Europe/Berlin", "10m");
    let found = changes(&twice, "2026-10-25T00:00:00Z", "2026-10-25T12:00:00Z").len();
    assert_eq!(
        found, 3,
        "open at 00:00Z already, closes, and 00:30Z; not again an hour later"
    );
}

#[test]
fn touching_and_overlapping_windows_are_one() {
    let union = windows(
        "
- {name: a, start: 2026-11-22T08:00:00Z, end: 2026-11-22T09:00:00Z}
- {name: b, start: 2026-11-22T09:00:00Z, end: 2026-11-22T10:00:00Z}
- {name: c, schedule: '45 9 * * *', duration: 1h}
- {name: d, start: 2026-11-22T10:50:00Z, end: 2026-11-22T11:00:00Z}
",
    );
    assert_eq!(
        closes(&union, "2026-11-22T08:00:00Z"),
        Some(time("2026-11-22T10:45:00Z"))
    );
    assert_eq!(closes(&union, "2026-11-22T10:45:00Z"), None);
    let expected = ["22T08:00Z", "22T10:45Z", "22T10:50Z", "22T11:00Z"];
    assert_eq!(
        changes(&union, "2026-11-22T07:00:00Z", "2026-11-22T23:00:00Z"),
        opened_and_closed(&expected)
    );
}

#[test]
fn a_window_inside_another_does_not_shorten_it() {
    let union = windows(
        "
- {name: long, start: 2026-11-22T08:00:00Z, end: 2026-11-22T12:00:00Z}
- {name: short, start: 2026-11-22T09:00:00Z, end: 2026-11-22T10:00:00Z}
",
    );
    assert_eq!(
        closes(&union, "2026-11-22T09:30:00Z"),
        Some(time("2026-11-22T12:00:00Z"))
    );
}

#[test]
fn a_window_longer_than_its_period_is_always_open() {
    for (schedule, duration) in [
        ("0 * * * *", "1h"),
        ("0 * * * *", "90m"),
        ("@daily", "25h"),
        ("* * * * *", "5m"),
    ] {
        let always = every(schedule, "Europe/Berlin", duration);
        let mut at = time("2026-03-27T00:00:30Z");
        for _ in 0..40 {
            let WindowState::Open { closes, .. } = always.at(at) else {
                panic!("closed at {at}")
            };
            assert!(
                closes > at + minutes(5),
                "closes is a bound on the safe side, not near"
            );
            at += minutes(97);
        }
    }
}

#[test]
fn a_one_off_window_never_opens_again() {
    let once = windows("[{name: w, start: 2026-12-05T08:00:00+01:00, end: 2026-12-05T18:00:00+01:00}]");
    assert_eq!(
        once.opens_after(time("2026-12-05T06:59:59Z")).unwrap().at,
        time("2026-12-05T07:00:00Z")
    );
    assert_eq!(
        closes(&once, "2026-12-05T07:00:00Z"),
        Some(time("2026-12-05T17:00:00Z"))
    );
    assert_eq!(once.at(time("2026-12-05T17:00:00Z")), NEVER);
}

/// The days of a schedule's openings in some span.
fn days(schedule: &str, from: &str, to: &str) -> Vec<String> {
    let opens = every(schedule, "UTC", "1h");
    let mut at = time(from) - TimeDelta::seconds(1);
    let mut found = Vec::new();
    while let Some(next) = opens.opens_after(at).filter(|next| next.at < time(to)) {
        found.push(next.at.format("%m-%d").to_string());
        at = next.at;
    }
    found
}

#[test]
fn the_five_fields_mean_what_a_cron_job_means() {
    let month = |schedule| days(schedule, "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z");
    assert_eq!(month("0 2 * * SAT#2"), ["11-14"]);
    assert_eq!(month("0 2 L * *"), ["11-30"]);
    assert_eq!(month("0 2 * * FRI#L"), ["11-27"], "the last Friday");
    assert_eq!(
        month("0 2 13 * FRI"),
        ["11-06", "11-13", "11-20", "11-27"],
        "alternatives"
    );
    assert_eq!(
        month("0 2 1 * MON"),
        ["11-01", "11-02", "11-09", "11-16", "11-23", "11-30"]
    );
    let sundays = ["11-01", "11-08", "11-15", "11-22", "11-29"];
    for sunday in [
        "0 2 * * 0",
        "0 2 * * 7",
        "0 2 * * SUN",
        "0 2 * * sun",
        "0 2 * * SUN-Sun",
    ] {
        assert_eq!(month(sunday), sundays, "{sunday}");
    }
    assert_eq!(month("0 2 * * MON-THU").len(), 17);
    assert_eq!(month("0 2 1-7 * *").len(), 7);
    assert_eq!(month("0 2 */10 * *"), ["11-01", "11-11", "11-21"]);
    assert_eq!(month("@daily").len(), 30);
    assert_eq!(month("@midnight").len(), 30);
    assert_eq!(month("@weekly"), sundays);
    assert_eq!(
        days("@monthly", "2026-01-01T00:00:00Z", "2026-04-01T00:00:00Z"),
        ["01-01", "02-01", "03-01"]
    );
    assert_eq!(
        days("@yearly", "2026-01-01T00:00:00Z", "2028-01-01T00:00:00Z"),
        ["01-01", "01-01"]
    );
    assert_eq!(
        days("0 2 29 2 *", "2026-01-01T00:00:00Z", "2033-01-01T00:00:00Z"),
        ["02-29", "02-29"]
    );
}

/// Why a window is refused, if it is.
pub fn refusal(window: &str) -> Option<String> {
    let windows: Vec<MaintenanceWindow> = serde_saphyr::from_str(&format!("[{window}]")).unwrap();
    Some(Windows::parse(&windows, &[]).err()?.to_string())
}

fn problem(window: &str) -> String {
    refusal(window).unwrap_or_else(|| panic!("{window} is taken"))
}

#[test]
fn what_is_no_schedule_is_refused_with_field_value_and_remedy() {
    for schedule in [
        "0 0 2 * * * * *",
        "0 0 24 * * *",
        "0 0 2 * * * 2101",
        "0 0 2 30 2 *",
        "0 2 * *",
        "",
        "x",
        "60 2 * * *",
        "0 24 * * *",
        "0 2 0 * *",
        "0 2 * 13 *",
        "0 2 * * 8",
        "0 2 * * SAT#6",
        "@reboot",
        "@often",
        "0 2 30 2 *",
        "0 2 31 4,6,9,11 *",
    ] {
        let problem = problem(&format!("{{name: w, schedule: '{schedule}', duration: 1h}}"));
        assert!(
            problem.contains("spec.maintenanceWindows[0].schedule"),
            "{problem}"
        );
        assert!(problem.contains(&format!("{schedule:?}")), "{problem}");
    }
    insta::assert_snapshot!(
        "bad_schedules",
        [
            problem("{name: w, schedule: '0 0 2 * * 8', duration: 1h}"),
            problem("{name: w, schedule: '* * 2 * * *', duration: 1h}"),
            problem("{name: w, schedule: '0 2 * * *'}"),
            problem("{name: w, schedule: '0 2 30 2 *', duration: 1h}"),
            problem("{name: w, schedule: '61 2 * * *', duration: 1h}"),
            problem("{name: w, schedule: '0 2 * * *', duration: 1h, timeZone: Berlin}"),
            problem("{name: w, schedule: '0 2 * * *', duration: 1h, timeZone: ''}"),
            problem("{name: w, schedule: '0 2 * * *', duration: 1h, start: 2026-11-22T08:00:00Z}"),
            problem("{name: w, start: 2026-11-22T08:00:00Z, end: 2026-11-22T07:00:00Z}"),
        ]
        .join("\n")
    );
}

#[test]
fn a_rare_schedule_is_found_from_every_day() {
    let leap_monday = every("0 2 29 2 *", "Europe/Berlin", "1h");
    for i in 0..100 {
        let at = time("2026-03-01T00:00:00Z") + hours(24 * i);
        assert_eq!(
            leap_monday.opens_after(at).unwrap().at,
            time("2028-02-29T01:00:00Z")
        );
        assert!(closes(&leap_monday, "2027-01-01T00:00:00Z").is_none());
    }
}
