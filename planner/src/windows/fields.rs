//! The local times that a schedule names: sets of seconds, minutes and hours, on certain days.

use std::{collections::BTreeSet, sync::Arc};

use chrono::{DateTime, Datelike, Months, NaiveDate};
use croner::{CronPattern, Weekday};

use super::steps::step;

/// A local time in seconds: what a UTC clock that shows the same would count since 1970.
pub(super) type LocalTime = i64;

const DAY: i64 = 86_400;
const SIXTY: u64 = (1 << 60) - 1;
const HOURS: u64 = (1 << 24) - 1;

/// The calendar repeats its weekdays after 28 years, but for 40 around a year such as 2100: what does not come within
/// this many years never does.
const YEARS: i32 = 41;
/// How many days in a row are looked at to see where they end.
const ROW: usize = 400;

/// The local times that a schedule names. No set is empty.
#[derive(Clone, Debug)]
pub(super) struct Fields {
    pub seconds: u64,
    pub minutes: u64,
    pub hours: u64,
    pub days: Days,
}

/// The days that a schedule names.
#[derive(Clone, Debug)]
pub(super) enum Days {
    /// As a CronJob reads them: day of month and day of week are alternatives where both are given.
    CronJob(Arc<CronPattern>),
    /// As Brupop reads them: year, month, day of month and day of week (Sunday is 1) must all hold.
    Brupop {
        /// None: every year.
        years: Option<BTreeSet<i32>>,
        months: u64,
        days: u64,
        weekdays: u64,
    },
}

impl Fields {
    pub fn every_hour(&self) -> bool {
        self.hours == HOURS
    }

    /// Whether two seconds in a row are named.
    pub fn seconds_in_a_row(&self) -> bool {
        self.seconds & (self.seconds >> 1) != 0
    }

    pub fn names(&self, at: LocalTime) -> bool {
        let (h, m, s) = clock(at);
        has(self.hours, h)
            && has(self.minutes, m)
            && has(self.seconds, s)
            && self.days.name(at.div_euclid(DAY))
    }

    /// The first that is named, from `at` on.
    pub fn next(&self, at: LocalTime) -> Option<LocalTime> {
        let day = at.div_euclid(DAY);
        if self.days.name(day)
            && let Some(time) = self.time_from(at)
        {
            return Some(day * DAY + time);
        }
        Some(self.days.next(day + 1)? * DAY + self.time_from(0)?)
    }

    /// The last that is named, up to `at`.
    pub fn last(&self, at: LocalTime) -> Option<LocalTime> {
        let day = at.div_euclid(DAY);
        if self.days.name(day)
            && let Some(time) = self.time_until(at)
        {
            return Some(day * DAY + time);
        }
        Some(self.days.last(day - 1)? * DAY + self.time_until(DAY - 1)?)
    }

    /// The first that is not named, from `at` on; or, after many days in a row, one up to which all are. None: all are.
    pub fn next_unnamed(&self, at: LocalTime) -> Option<LocalTime> {
        let whole_days = (self.seconds, self.minutes, self.hours) == (SIXTY, SIXTY, HOURS);
        if whole_days && self.days.every() {
            return None;
        }
        let mut at = at;
        for _ in 0..ROW {
            step();
            if !self.names(at) {
                break;
            }
            let (h, m, s) = clock(at);
            let (minute, hour, day) = (
                at - i64::from(s),
                at - at.rem_euclid(3600),
                at - at.rem_euclid(DAY),
            );
            at = if self.seconds != SIXTY {
                next_bit(!self.seconds & SIXTY, s).map_or(minute + 60, |s| minute + i64::from(s))
            } else if self.minutes != SIXTY {
                next_bit(!self.minutes & SIXTY, m).map_or(hour + 3600, |m| hour + i64::from(m) * 60)
            } else {
                next_bit(!self.hours & HOURS, h).map_or(day + DAY, |h| day + i64::from(h) * 3600)
            };
        }
        Some(at)
    }

    /// The first time of day that is named, from that of `at` on.
    fn time_from(&self, at: LocalTime) -> Option<i64> {
        let (h, m, s) = clock(at);
        let first = |set| next_bit(set, 0);
        if has(self.hours, h) {
            if has(self.minutes, m)
                && let Some(s) = next_bit(self.seconds, s)
            {
                return Some(time(h, m, s));
            }
            if let Some(m) = next_bit(self.minutes, m + 1) {
                return Some(time(h, m, first(self.seconds)?));
            }
        }
        Some(time(
            next_bit(self.hours, h + 1)?,
            first(self.minutes)?,
            first(self.seconds)?,
        ))
    }

    /// The last time of day that is named, up to that of `at`.
    fn time_until(&self, at: LocalTime) -> Option<i64> {
        let (h, m, s) = clock(at);
        let last = |set| last_bit(set, 64);
        if has(self.hours, h) {
            if has(self.minutes, m)
                && let Some(s) = last_bit(self.seconds, s + 1)
            {
                return Some(time(h, m, s));
            }
            if let Some(m) = last_bit(self.minutes, m) {
                return Some(time(h, m, last(self.seconds)?));
            }
        }
        Some(time(
            last_bit(self.hours, h)?,
            last(self.minutes)?,
            last(self.seconds)?,
        ))
    }
}

impl Days {
    /// Whether any day is named, past or future.
    pub fn any(&self) -> bool {
        let since = NaiveDate::from_ymd_opt(1970, 1, 1);
        since.is_some_and(|since| self.next(number(since)).is_some())
    }

    fn every(&self) -> bool {
        match self {
            Self::CronJob(pattern) => {
                pattern.is_dom_wildcard() && pattern.is_dow_wildcard() && pattern.months.values().len() == 12
            }
            Self::Brupop {
                years,
                months,
                days,
                weekdays,
            } => {
                years.is_none()
                    && (months.count_ones(), days.count_ones(), weekdays.count_ones()) == (12, 31, 7)
            }
        }
    }

    fn name(&self, day: i64) -> bool {
        date(day).is_some_and(|date| {
            self.year_is_named(date.year()) && self.month_is_named(date.month()) && self.day_is_named(date)
        })
    }

    fn next(&self, day: i64) -> Option<i64> {
        let mut date = date(day)?;
        let end = self.years().map_or(date.year() + YEARS, |(_, last)| last);
        while date.year() <= end {
            step();
            date = if !self.year_is_named(date.year()) {
                NaiveDate::from_ymd_opt(date.year() + 1, 1, 1)?
            } else if !self.month_is_named(date.month()) {
                date.with_day(1)?.checked_add_months(Months::new(1))?
            } else if self.day_is_named(date) {
                return Some(number(date));
            } else {
                date.succ_opt()?
            };
        }
        None
    }

    fn last(&self, day: i64) -> Option<i64> {
        let mut date = date(day)?;
        let end = self.years().map_or(date.year() - YEARS, |(first, _)| first);
        while date.year() >= end {
            step();
            date = if !self.year_is_named(date.year()) {
                NaiveDate::from_ymd_opt(date.year() - 1, 12, 31)?
            } else if !self.month_is_named(date.month()) {
                date.with_day(1)?.pred_opt()?
            } else if self.day_is_named(date) {
                return Some(number(date));
            } else {
                date.pred_opt()?
            };
        }
        None
    }

    /// The first and the last year, where not every year is named.
    fn years(&self) -> Option<(i32, i32)> {
        match self {
            Self::CronJob(_) => None,
            Self::Brupop { years, .. } => {
                let years = years.as_ref()?;
                Some((*years.first()?, *years.last()?))
            }
        }
    }

    fn year_is_named(&self, year: i32) -> bool {
        match self {
            Self::CronJob(_) => true,
            Self::Brupop { years, .. } => years.as_ref().is_none_or(|years| years.contains(&year)),
        }
    }

    fn month_is_named(&self, month: u32) -> bool {
        match self {
            Self::CronJob(pattern) => pattern.month_match(month).unwrap_or(false),
            Self::Brupop { months, .. } => has(*months, month),
        }
    }

    fn day_is_named(&self, date: NaiveDate) -> bool {
        match self {
            Self::CronJob(pattern) => {
                let weekday = Weekday::from_days_from_sunday(date.weekday().num_days_from_sunday());
                pattern
                    .day_match(date.year(), date.month(), date.day(), weekday)
                    .unwrap_or(false)
            }
            Self::Brupop { days, weekdays, .. } => {
                has(*days, date.day()) && has(*weekdays, date.weekday().number_from_sunday())
            }
        }
    }
}

fn date(day: i64) -> Option<NaiveDate> {
    Some(DateTime::from_timestamp(day.checked_mul(DAY)?, 0)?.date_naive())
}

fn number(date: NaiveDate) -> i64 {
    date.signed_duration_since(NaiveDate::default()).num_days()
}

/// Hour, minute and second.
fn clock(at: LocalTime) -> (u32, u32, u32) {
    let time = u32::try_from(at.rem_euclid(DAY)).unwrap_or(0);
    (time / 3600, time / 60 % 60, time % 60)
}

fn time(h: u32, m: u32, s: u32) -> i64 {
    i64::from(h * 3600 + m * 60 + s)
}

const fn has(set: u64, bit: u32) -> bool {
    bit < 64 && set >> bit & 1 == 1
}

/// The first of a set from `from` on.
fn next_bit(set: u64, from: u32) -> Option<u32> {
    let rest = set.checked_shr(from)?;
    (rest != 0).then(|| from + rest.trailing_zeros())
}

/// The last of a set below `end`.
fn last_bit(set: u64, end: u32) -> Option<u32> {
    let rest = set.checked_shl(64_u32.checked_sub(end)?)?;
    (rest != 0).then(|| end - 1 - rest.leading_zeros())
}
