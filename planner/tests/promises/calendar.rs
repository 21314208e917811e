//! `L` and `#`, which CronJobs do not have, against a calendar of their own; and rare days. What a search costs is counted in
//! `planner::windows::steps`.

use chrono::{DateTime, Datelike, NaiveDate, TimeDelta, Utc, Weekday};
use planner::windows::WindowState;

use crate::schedules::every;
use crate::support::{days, minutes, time};

const WEEKDAYS: [(&str, Weekday); 7] = [
    ("SUN", Weekday::Sun),
    ("MON", Weekday::Mon),
    ("TUE", Weekday::Tue),
    ("WED", Weekday::Wed),
    ("THU", Weekday::Thu),
    ("FRI", Weekday::Fri),
    ("SAT", Weekday::Sat),
];

fn all_days() -> impl Iterator<Item = NaiveDate> {
    let first = NaiveDate::from_ymd_opt(2000, 1, 1).unwrap();
    first.iter_days().take_while(|day| day.year() < 2038)
}

fn is_last(day: NaiveDate, step: i64) -> bool {
    (day + TimeDelta::days(step)).month() != day.month()
}

/// That a schedule opens at 02:00 on exactly these days of the years 2000 to 2037.
fn opens_on(schedule: &str, names: impl Fn(NaiveDate) -> bool) -> usize {
    let windows = every(schedule, "UTC", "1h");
    let mut at: DateTime<Utc> = time("1999-12-31T12:00:00Z");
    let mut found = 0;
    for day in all_days().filter(|day| names(*day)) {
        let expected = day.and_hms_opt(2, 0, 0).unwrap().and_utc();
        assert_eq!(windows.opens_after(at).unwrap().at, expected, "{schedule}");
        assert!(
            matches!(windows.at(expected + minutes(30)), WindowState::Open { closes, .. } if closes == expected + minutes(60)),
            "{schedule} at {expected}"
        );
        at = expected;
        found += 1;
    }
    let next = windows.opens_after(at).unwrap().at;
    assert!(next.year() >= 2038, "{schedule}: {next} is one too many");
    found
}

#[test]
fn the_nth_and_the_last_weekday_of_a_month() {
    let mut found = 0;
    for (number, (name, weekday)) in WEEKDAYS.into_iter().enumerate() {
        for n in 1..=5_u32 {
            let is_nth = |day: NaiveDate| day.weekday() == weekday && (day.day() - 1) / 7 + 1 == n;
            found += opens_on(&format!("0 2 * * {name}#{n}"), is_nth);
            found += opens_on(&format!("0 2 * * {number}#{n}"), is_nth);
        }
        let last = |day: NaiveDate| day.weekday() == weekday && is_last(day, 7);
        found += opens_on(&format!("0 2 * * {name}#L"), last);
        found += opens_on(&format!("0 2 * * {number}L"), last);
    }
    found += opens_on("0 2 * * 7#2", |day| {
        day.weekday() == Weekday::Sun && (8..15).contains(&day.day())
    });
    assert!(found > 30_000, "{found}");
}

#[test]
fn the_last_day_of_a_month_alone_and_among_alternatives() {
    opens_on("0 2 L * *", |day| is_last(day, 1));
    opens_on("0 2 L FEB *", |day| day.month() == 2 && is_last(day, 1));
    opens_on("0 2 1,L * *", |day| day.day() == 1 || is_last(day, 1));
    opens_on("0 2 L * MON", |day| {
        is_last(day, 1) || day.weekday() == Weekday::Mon
    });
    opens_on("0 2 15 * FRI#L", |day| {
        day.day() == 15 || (day.weekday() == Weekday::Fri && is_last(day, 7))
    });
    opens_on("0 2 * * SAT#1,SUN#3", |day| {
        (day.weekday() == Weekday::Sat && day.day() <= 7)
            || (day.weekday() == Weekday::Sun && (15..22).contains(&day.day()))
    });
    opens_on("0 2 29 2 *", |day| (day.month(), day.day()) == (2, 29));
}

#[test]
fn what_cron_jobs_and_croner_read_in_two_ways_is_read_as_cron_jobs_do() {
    let monday = |day: NaiveDate| day.weekday() == Weekday::Mon;
    for every_day in ["*", "?", "*/1", "*,15", "1,*"] {
        opens_on(&format!("0 2 {every_day} * MON"), monday);
        opens_on(&format!("0 2 13 * {every_day}"), |day| day.day() == 13);
    }
    opens_on("0 2 */2 * MON", |day| monday(day) || day.day() % 2 == 1);
    opens_on("0 2 1-31 * MON", |_| true);
    opens_on("0 2 20/5 * *", |day| [20, 25, 30].contains(&day.day()));
    opens_on("0 2 * 11/1 *", |day| day.month() >= 11);
    opens_on("0 2 * * THU/2", |day| {
        [Weekday::Thu, Weekday::Sat].contains(&day.weekday())
    });
}

#[test]
fn the_rarest_days_are_found() {
    let rare = [
        ("0 2 29 2 *", "2028-02-29T01:00:00Z"),
        ("0 2 * 2 SUN#5", "2032-02-29T01:00:00Z"),
        ("0 2 * 2 SAT#5", "2048-02-29T01:00:00Z"),
        ("0 0 2 29 2 SAT", "2048-02-29T01:00:00Z"),
        ("0 0 2 29 2 SAT 2076", "2076-02-29T01:00:00Z"),
        ("0 2 31 12 *", "2026-12-31T01:00:00Z"),
        ("0 2 L 2 *", "2027-02-28T01:00:00Z"),
    ];
    for (schedule, next) in rare {
        let windows = every(schedule, "Europe/Berlin", "1h");
        for i in 0..20 {
            let at = time("2026-03-01T00:00:00Z") + days(i);
            assert_eq!(windows.opens_after(at).unwrap().at, time(next), "{schedule}");
            assert!(matches!(windows.at(at), WindowState::Closed { .. }));
        }
    }
}
