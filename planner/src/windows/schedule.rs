//! When a schedule starts, and how its text is read: five fields as a CronJob's, six or seven as Brupop's.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use cron::TimeUnitSpec;
use croner::parser::{CronParser, Seconds, Year};

use super::{
    fields::{Days, Fields},
    zone::Zone,
};

/// A schedule in its zone. All instants are in seconds.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    fields: Fields,
    zone: Zone,
    /// Whether each named time starts exactly once, also where a change of the clocks skips or doubles it. Where every hour
    /// is named, and in Brupop's form, it starts whenever the clocks really show it.
    once: bool,
}

impl Schedule {
    pub fn new(text: Text, zone: Zone) -> Self {
        let once = !text.brupop && !text.fields.every_hour();
        Self {
            fields: text.fields,
            zone,
            once,
        }
    }

    /// The first start after `at`.
    pub fn next(&self, at: i64) -> Option<i64> {
        if self.once {
            let local = self.fields.next(self.zone.reached(at) + 1)?;
            Some(self.zone.reaches(local))
        } else {
            self.zone.first(at + 1, |local| self.fields.next(local))
        }
    }

    /// The last start up to `at`.
    pub fn last(&self, at: i64) -> Option<i64> {
        if self.once {
            let local = self.fields.last(self.zone.reached(at))?;
            Some(self.zone.reaches(local))
        } else {
            self.zone.last(at, |local| self.fields.last(local))
        }
    }

    /// Whether the clocks show a time that is named.
    pub fn names(&self, at: i64) -> bool {
        self.fields.names(self.zone.local(at))
    }

    /// The first instant after `at` at which the clocks show none, or one up to which they show only such. None: always.
    pub fn unnamed_after(&self, at: i64) -> Option<i64> {
        self.zone.first(at + 1, |local| self.fields.next_unnamed(local))
    }
}

/// How many schedules are remembered as they were read.
const REMEMBERED: usize = 1000;

thread_local! {
    /// Every plan is read in every round, and reading its schedules takes longer than all the rest of it.
    static READ: RefCell<HashMap<String, Text>> = RefCell::default();
}

/// A schedule as it was written.
#[derive(Clone)]
pub(super) struct Text {
    fields: Fields,
    /// Whether it is in Brupop's form.
    pub brupop: bool,
}

impl Text {
    /// Reads a schedule.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(text: &str) -> Result<Self, String> {
        READ.with_borrow_mut(|known| {
            if let Some(read) = known.get(text) {
                return Ok(read.clone());
            }
            let read = Self::parse(text)?;
            if known.len() >= REMEMBERED {
                known.clear();
            }
            known.insert(text.to_owned(), read.clone());
            Ok(read)
        })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let fields = text.split_whitespace().count();
        let brupop = matches!(fields, 6 | 7);
        let fields = if brupop {
            read_brupop(text)?
        } else {
            read_cron_job(text)?
        };
        if fields.days.any() {
            Ok(Self { fields, brupop })
        } else {
            Err("this one never comes, as no such day is in the calendar".to_owned())
        }
    }

    /// Whether it is a window itself. Brupop takes it for one where two of its instants are a second apart.
    pub fn is_window(&self) -> bool {
        self.brupop && self.fields.seconds_in_a_row()
    }
}

fn read_cron_job(text: &str) -> Result<Fields, String> {
    let parser = CronParser::builder()
        .seconds(Seconds::Disallowed)
        .year(Year::Disallowed)
        .build();
    let pattern = parser
        .parse(&as_cron_job(text))
        .map_err(|error| error.to_string())?
        .pattern;
    Ok(Fields {
        seconds: 1,
        minutes: set(pattern.minutes.values()),
        hours: set(pattern.hours.values()),
        days: Days::CronJob(Arc::new(pattern)),
    })
}

/// The last value of each field.
const LAST: [&str; 5] = ["59", "23", "31", "12", "6"];

/// Where croner does not know what CronJobs take, or reads it in another way, it is written so that it reads it as they do:
/// `*/1` in a field of days is no choice of days, `5/15` begins at 5 and goes on to the end, and `SUN-SUN` is Sunday alone.
fn as_cron_job(text: &str) -> String {
    if text.trim() == "@midnight" {
        return "@daily".to_owned();
    }
    let fields = text.split_whitespace().enumerate();
    let written = fields.map(|(i, field)| {
        let mut items = field.split(',');
        if matches!(i, 2 | 4) && items.clone().any(|item| ["*", "?", "*/1", "?/1"].contains(&item)) {
            return "*".to_owned();
        }
        let item = |item: &str| match item.split_once('/') {
            _ if i == 4 && item.to_ascii_uppercase().starts_with("SUN-SUN") => "0".to_owned(),
            Some((first, step)) if first.chars().all(char::is_alphanumeric) && !first.is_empty() => {
                format!("{first}-{}/{step}", LAST.get(i).unwrap_or(&""))
            }
            _ => item.to_owned(),
        };
        let first = items.next().map(item).unwrap_or_default();
        items.fold(first, |list, next| list + "," + &item(next))
    });
    written.collect::<Vec<_>>().join(" ")
}

fn read_brupop(text: &str) -> Result<Fields, String> {
    // The reader shows the place of the mistake in lines of their own; the last one says what it is.
    let last_line = |error: cron::error::Error| {
        let told = error.to_string();
        let why = told.lines().last().map(str::trim).filter(|why| !why.is_empty());
        why.unwrap_or("it is not understood").to_owned()
    };
    let schedule: cron::Schedule = text.parse().map_err(last_line)?;
    let years: BTreeSet<i32> = schedule
        .years()
        .iter()
        .filter_map(|year| i32::try_from(year).ok())
        .collect();
    Ok(Fields {
        seconds: set(schedule.seconds().iter()),
        minutes: set(schedule.minutes().iter()),
        hours: set(schedule.hours().iter()),
        days: Days::Brupop {
            years: (!schedule.years().is_all()).then_some(years),
            months: set(schedule.months().iter()),
            days: set(schedule.days_of_month().iter()),
            weekdays: set(schedule.days_of_week().iter()),
        },
    })
}

fn set<N: Into<u32>>(values: impl IntoIterator<Item = N>) -> u64 {
    values
        .into_iter()
        .filter_map(|value| 1_u64.checked_shl(value.into()))
        .fold(0, |set, bit| set | bit)
}
