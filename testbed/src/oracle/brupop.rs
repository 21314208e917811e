//! Six and seven fields, as Brupop reads them, without the help of the crate that it reads them with: second, minute, hour,
//! day of month, month, day of week (Sunday is 1), year, all of which must hold.

use std::collections::BTreeSet;

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, TimeDelta, TimeZone, Timelike, Utc};
use chrono_tz::Tz;

/// Least and most of each field.
const BOUNDS: [(u32, u32); 7] = [(0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (1, 7), (1970, 2100)];
const MONTHS: &str = "jan feb mar apr may jun jul aug sep oct nov dec";
const WEEKDAYS: &str = "sun mon tue wed thu fri sat";

/// How far back is looked for the last instant that a schedule names.
const BACK: i64 = 3 * 366;

/// A schedule in its zone.
#[derive(Debug)]
pub struct Brupop {
    fields: [BTreeSet<u32>; 7],
    zone: Tz,
}

impl Brupop {
    /// None where it is no such schedule.
    #[must_use]
    pub fn read(schedule: &str, zone: Tz) -> Option<Self> {
        let mut texts: Vec<&str> = schedule.split_whitespace().collect();
        if texts.len() == 6 {
            texts.push("*");
        }
        let texts = <[&str; 7]>::try_from(texts).ok()?;
        let mut fields = [const { BTreeSet::new() }; 7];
        for (i, text) in texts.into_iter().enumerate() {
            fields[i] = field(
                text,
                BOUNDS[i],
                [MONTHS, WEEKDAYS].get(i.wrapping_sub(4)).copied(),
            )?;
        }
        Some(Self { fields, zone })
    }

    /// Whether it is a window itself: two of its seconds follow each other.
    #[must_use]
    pub fn is_window(&self) -> bool {
        let seconds = &self.fields[0];
        seconds.iter().any(|second| seconds.contains(&(second + 1)))
    }

    /// Whether it names this second.
    #[must_use]
    pub fn names(&self, at: DateTime<Utc>) -> bool {
        let local = at.with_timezone(&self.zone).naive_local();
        let time = [local.second(), local.minute(), local.hour()];
        self.names_day(local.date())
            && time
                .iter()
                .zip(&self.fields)
                .all(|(value, set)| set.contains(value))
    }

    fn names_day(&self, day: NaiveDate) -> bool {
        let Ok(year) = u32::try_from(day.year()) else {
            return false;
        };
        let values = [day.day(), day.month(), day.weekday().number_from_sunday(), year];
        values
            .iter()
            .zip(&self.fields[3..])
            .all(|(value, set)| set.contains(value))
    }

    /// Up to when every second from `at` on is named, as far as is easily seen; `at` itself must be.
    #[must_use]
    pub fn named_until(&self, at: DateTime<Utc>) -> DateTime<Utc> {
        let [seconds, minutes, ..] = &self.fields;
        let length = match (seconds.len(), minutes.len()) {
            (60, 60) => 3600,
            (60, _) => 60,
            _ => 1,
        };
        // Of the local time, which a change of the clocks moves by minutes.
        let local = at.with_timezone(&self.zone).naive_local().and_utc().timestamp();
        let end = at + TimeDelta::seconds(length - local.rem_euclid(length));
        let end = end - TimeDelta::nanoseconds(at.timestamp_subsec_nanos().into());
        if self.names(end - TimeDelta::seconds(1)) {
            end
        } else {
            at + TimeDelta::seconds(1)
        }
    }

    /// The last instant up to `at` that is named.
    #[must_use]
    pub fn last(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let today = at.with_timezone(&self.zone).date_naive();
        (-1..BACK)
            .map(|back| today - TimeDelta::days(back))
            .filter(|day| self.names_day(*day))
            .find_map(|day| self.times(day).filter(|time| *time <= at).max())
    }

    /// Every instant of a day that is named.
    fn times(&self, day: NaiveDate) -> impl Iterator<Item = DateTime<Utc>> {
        let [seconds, minutes, hours, ..] = &self.fields;
        let times = hours.iter().flat_map(move |hour| {
            let of_hour = minutes
                .iter()
                .flat_map(move |minute| seconds.iter().map(move |second| (minute, second)));
            of_hour.filter_map(move |(minute, second)| day.and_hms_opt(*hour, *minute, *second))
        });
        times.flat_map(|local: NaiveDateTime| {
            let shown = self.zone.from_local_datetime(&local);
            let twice = [shown.earliest(), shown.latest()];
            twice.into_iter().flatten().map(|time| time.with_timezone(&Utc))
        })
    }
}

fn field(text: &str, (least, most): (u32, u32), names: Option<&str>) -> Option<BTreeSet<u32>> {
    let value = |text: &str| -> Option<u32> {
        let by_name = || {
            let short = text.get(..3)?.to_ascii_lowercase();
            let found = names?.split(' ').position(|name| name == short)?;
            Some(u32::try_from(found).ok()? + 1)
        };
        text.parse()
            .ok()
            .or_else(by_name)
            .filter(|value| (least..=most).contains(value))
    };
    let mut set = BTreeSet::new();
    for item in text.split(',') {
        let (range, step) = item.split_once('/').unwrap_or((item, "1"));
        let (first, last) = match range.split_once('-') {
            _ if range == "*" || range == "?" => (least, most),
            Some((first, last)) => (value(first)?, value(last)?),
            None if item.contains('/') => (value(range)?, most),
            None => (value(range)?, value(range)?),
        };
        set.extend((first..=last).step_by(step.parse().ok().filter(|step| *step > 0)?));
    }
    (!set.is_empty()).then_some(set)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn read(schedule: &str) -> Brupop {
        Brupop::read(schedule, Tz::UTC).unwrap()
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn sunday_is_the_first_day_and_all_fields_must_hold() {
        for sundays in ["* * 22 * * 1", "* * 22 * * Sun *", "* * 22 ? * sunday 2026-2027"] {
            assert!(read(sundays).names(at("2026-11-22T22:59:59Z")), "{sundays}");
            assert!(!read(sundays).names(at("2026-11-23T22:59:59Z")), "{sundays}");
        }
        let friday_13 = read("0 0 2 13 * FRI *");
        assert_eq!(
            friday_13.last(at("2026-12-31T00:00:00Z")),
            Some(at("2026-11-13T02:00:00Z"))
        );
        assert_eq!(
            friday_13.last(at("2026-11-13T01:59:59Z")),
            Some(at("2026-03-13T02:00:00Z"))
        );
    }

    #[test]
    fn a_window_names_seconds_in_a_row() {
        let saturdays = read("* * 22 * * SAT *");
        assert!(saturdays.is_window() && !read("0 * 22 * * SAT *").is_window());
        assert_eq!(
            saturdays.named_until(at("2026-11-28T22:10:30.5Z")),
            at("2026-11-28T23:00:00Z")
        );
        let half_minutes = read("0-29 5/20 3 * * *");
        assert_eq!(
            half_minutes.named_until(at("2026-11-28T03:25:10Z")),
            at("2026-11-28T03:25:11Z")
        );
        assert!(
            half_minutes.names(at("2026-11-28T03:25:29Z")) && !half_minutes.names(at("2026-11-28T03:25:30Z"))
        );
        assert!(!half_minutes.names(at("2026-11-28T03:15:00Z")));
    }

    #[test]
    fn what_is_none_is_not_read() {
        for other in [
            "0 2 * * *",
            "0 0 24 * * *",
            "0 0 2 * * 8",
            "0 0 2 0 * *",
            "0 0 2 * * x",
            "a b c d e f",
        ] {
            assert!(Brupop::read(other, Tz::UTC).is_none(), "{other}");
        }
    }
}
