//! When a plan may disrupt: the union of its maintenance windows.

use api::{plan::MaintenanceWindow, verdict::instant};
use chrono::{DateTime, Datelike, NaiveDate, TimeDelta, Utc};
use chrono_tz::Tz;
use croner::{
    Cron, Weekday,
    errors::CronError,
    parser::{CronParser, Seconds, Year},
};

use crate::spec::Invalid;

/// A plan's windows. None at all: always open.
#[derive(Clone, Debug, Default)]
pub struct Windows(Vec<Window>);

#[derive(Clone, Debug)]
struct Window {
    name: String,
    form: Form,
}

#[derive(Clone, Debug)]
enum Form {
    Once {
        start: DateTime<Utc>,
        end: DateTime<Utc>,
    },
    Recurring {
        /// Their union: one for each local time of day, where the schedule names them.
        crons: Vec<Cron>,
        zone: Tz,
        duration: TimeDelta,
    },
}

/// Whether a plan may disrupt at some instant, and when that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WindowState {
    /// The plan has no windows.
    Always,
    /// A window is open.
    Open {
        /// The name of the one that closes last, of it and those that follow without a gap.
        name: String,
        /// When that closes. The instant itself is outside.
        closes: DateTime<Utc>,
        /// Whether it does: so many windows may follow that this is only as far as was looked.
        exact: bool,
    },
    /// No window is open.
    Closed {
        /// When the next opens, and its name. None: never again.
        next: Option<(DateTime<Utc>, String)>,
    },
}

/// How many windows that follow each other without a gap are joined. Beyond that the close is given earlier than
/// it is, which is on the safe side, and it moves on as time does.
const JOINED: usize = 400;

impl Windows {
    /// Parses a plan's windows.
    ///
    /// # Errors
    /// The first field that is no schedule, no zone, or does not go together with the others.
    pub fn parse(windows: &[MaintenanceWindow]) -> Result<Self, Invalid> {
        windows
            .iter()
            .enumerate()
            .map(|(i, window)| parse(i, window))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether the plan may disrupt at `now`.
    #[must_use]
    pub fn at(&self, now: DateTime<Utc>) -> WindowState {
        if self.0.is_empty() {
            return WindowState::Always;
        }
        let Some((mut closes, mut name)) = self.open_at(now) else {
            return WindowState::Closed {
                next: self.opens_after(now),
            };
        };
        let mut exact = false;
        for _ in 0..JOINED {
            let Some(later) = self.open_at(closes) else {
                exact = true;
                break;
            };
            (closes, name) = later;
        }
        WindowState::Open {
            name: name.to_owned(),
            closes,
            exact,
        }
    }

    /// When a window opens next after `now`, and its name.
    #[must_use]
    pub fn opens_after(&self, now: DateTime<Utc>) -> Option<(DateTime<Utc>, String)> {
        let (opens, window) = self
            .0
            .iter()
            .filter_map(|window| Some((window.opens_after(now)?, window)))
            .min_by_key(|(at, _)| *at)?;
        Some((opens, window.name.clone()))
    }

    /// The window open at `now` that closes last, with its close.
    fn open_at(&self, now: DateTime<Utc>) -> Option<(DateTime<Utc>, &str)> {
        self.0
            .iter()
            .filter_map(|window| Some((window.closes_if_open(now)?, window.name.as_str())))
            .max_by_key(|(closes, _)| *closes)
    }
}

impl Window {
    fn closes_if_open(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match &self.form {
            Form::Once { start, end } => (*start <= now && now < *end).then_some(*end),
            Form::Recurring {
                crons,
                zone,
                duration,
            } => {
                let now_there = now.with_timezone(zone);
                // The last start at or before now is the one that closes last.
                let start = crons
                    .iter()
                    .filter_map(|cron| cron.find_previous_occurrence(&now_there, true).ok())
                    .max()?;
                let end = start.with_timezone(&Utc) + *duration;
                (now < end).then_some(end)
            }
        }
    }

    fn opens_after(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match &self.form {
            Form::Once { start, .. } => (*start > now).then_some(*start),
            Form::Recurring { crons, zone, .. } => {
                let now = now.with_timezone(zone);
                crons
                    .iter()
                    .filter_map(|cron| cron.find_next_occurrence(&now, false).ok())
                    .min()
                    .map(|at| at.with_timezone(&Utc))
            }
        }
    }
}

fn parse(i: usize, window: &MaintenanceWindow) -> Result<Window, Invalid> {
    let MaintenanceWindow {
        name,
        schedule,
        time_zone,
        duration,
        start,
        end,
    } = window;
    let invalid = |field: &str, value: String, remedy: String| Invalid {
        field: format!("maintenanceWindows[{i}].{field}"),
        value,
        remedy,
    };
    let form = match (schedule, duration, start, end) {
        (Some(schedule), Some(duration), None, None) => Form::Recurring {
            crons: crons(schedule).map_err(|why| {
                let remedy = format!(
                    "use five fields (minute hour day-of-month month day-of-week) such as \"0 2 * * MON-THU\", or @daily: {why}"
                );
                invalid("schedule", schedule.clone(), remedy)
            })?,
            zone: time_zone.as_deref().unwrap_or("UTC").parse::<Tz>().map_err(|_| {
                let remedy = "use an IANA time zone name such as Europe/Berlin".to_owned();
                invalid("timeZone", time_zone.clone().unwrap_or_default(), remedy)
            })?,
            duration: duration.delta(),
        },
        (None, None, Some(start), Some(end)) if end > start => Form::Once { start: *start, end: *end },
        (None, None, Some(start), Some(end)) => {
            let remedy = format!("must be after start, which is {}", instant(*start));
            return Err(invalid("end", instant(*end), remedy));
        }
        _ => {
            return Err(Invalid {
                field: format!("maintenanceWindows[{i}]"),
                value: name.clone(),
                remedy: "give either schedule and duration, or start and end".to_owned(),
            });
        }
    };
    Ok(Window {
        name: name.clone(),
        form,
    })
}

/// Times of day in one schedule that are read one by one.
const TIMES_OF_DAY: usize = 24;

/// Reads a schedule. A named time of day that a DST change skips or doubles opens a window exactly once; croner does
/// that for a schedule with a single one, so several are taken apart. A wildcard hour means every real hour.
fn crons(schedule: &str) -> Result<Vec<Cron>, String> {
    let parser = CronParser::builder()
        .seconds(Seconds::Disallowed)
        .year(Year::Disallowed)
        .build();
    let parse = |schedule: &str| parser.parse(schedule).map_err(|error| error.to_string());
    let cron = parse(schedule)?;
    if !comes_at_all(&cron) {
        return Err("this one never comes, as no month has such a day".to_owned());
    }
    let (minutes, hours) = (cron.pattern.minutes.values(), cron.pattern.hours.values());
    let named = !cron.pattern.hours.from_wildcard && minutes.len() * hours.len() <= TIMES_OF_DAY;
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    let [_, _, days @ ..] = fields.as_slice() else {
        return Ok(vec![cron]);
    };
    if !named {
        return Ok(vec![cron]);
    }
    let days = days.join(" ");
    let times = hours
        .iter()
        .flat_map(|hour| minutes.iter().map(move |minute| (minute, hour)));
    times
        .map(|(minute, hour)| parse(&format!("{minute} {hour} {days}")))
        .collect()
}

/// Whether a schedule names any day of the calendar, which repeats its weekdays after 28 years. Searching for the next
/// start of one that does not would take long.
fn comes_at_all(cron: &Cron) -> bool {
    let first = NaiveDate::from_ymd_opt(2000, 1, 1);
    let days = first
        .into_iter()
        .flat_map(|first| first.iter_days().take(28 * 366));
    let mut names = days.map(|day| {
        let weekday = Weekday::from_days_from_sunday(day.weekday().num_days_from_sunday());
        Ok(cron.pattern.month_match(day.month())?
            && cron
                .pattern
                .day_match(day.year(), day.month(), day.day(), weekday)?)
    });
    names.any(|named: Result<bool, CronError>| named.unwrap_or(false))
}
