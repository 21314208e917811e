//! A plan's windows and exclusions, parsed.

use api::{plan::MaintenanceWindow, quantity::Span, verdict};
use chrono_tz::Tz;

use super::{
    Form, Window, Windows,
    schedule::{Schedule, Text},
    zone::Zone,
};
use crate::spec::Invalid;

impl Windows {
    /// Parses a plan's windows and exclusions.
    ///
    /// # Errors
    /// The first field that is no schedule, no zone, or does not go together with the others.
    pub fn parse(windows: &[MaintenanceWindow], exclusions: &[MaintenanceWindow]) -> Result<Self, Invalid> {
        Ok(Self {
            windows: parse_all("maintenanceWindows", windows)?,
            exclusions: parse_all("exclusions", exclusions)?,
            waiting_since: None,
            ignored: false,
        })
    }
}

/// Where a window stands in the spec.
struct Place<'a> {
    list: &'a str,
    index: usize,
}

impl Place<'_> {
    fn invalid(&self, field: &str, value: &str, remedy: impl Into<String>) -> Invalid {
        let dot = if field.is_empty() { "" } else { "." };
        Invalid {
            field: format!("{}[{}]{dot}{field}", self.list, self.index),
            value: value.to_owned(),
            remedy: remedy.into(),
        }
    }
}

fn parse_all(list: &str, windows: &[MaintenanceWindow]) -> Result<Vec<Window>, Invalid> {
    let windows = windows.iter().enumerate();
    windows
        .map(|(index, window)| parse(&Place { list, index }, window))
        .collect()
}

fn parse(place: &Place<'_>, window: &MaintenanceWindow) -> Result<Window, Invalid> {
    let MaintenanceWindow {
        name,
        schedule,
        time_zone,
        duration,
        start,
        end,
    } = window;
    let form = match (schedule, start, end) {
        (Some(schedule), None, None) => recurring(place, schedule, time_zone.as_deref(), *duration)?,
        (None, Some(start), Some(end)) if duration.is_none() => {
            if end <= start {
                let remedy = format!("must be after start, which is {}", verdict::instant(*start));
                return Err(place.invalid("end", &verdict::instant(*end), remedy));
            }
            Form::Once {
                start: *start,
                end: *end,
            }
        }
        _ => {
            let remedy = "give either schedule and duration, or start and end";
            return Err(place.invalid("", name, remedy));
        }
    };
    Ok(Window {
        name: name.clone(),
        form,
    })
}

fn recurring(
    place: &Place<'_>,
    schedule: &str,
    zone: Option<&str>,
    duration: Option<Span>,
) -> Result<Form, Invalid> {
    let text = Text::read(schedule).map_err(|why| {
        let remedy = format!(
            "use five fields (minute hour day-of-month month day-of-week) such as \"0 2 * * MON-THU\", or @daily, or \
             Brupop's six or seven (seconds first): {why}"
        );
        place.invalid("schedule", schedule, remedy)
    })?;
    let zone = zone.unwrap_or("UTC");
    let tz: Tz = zone.parse().map_err(|_| {
        place.invalid(
            "timeZone",
            zone,
            "use an IANA time zone name such as Europe/Berlin",
        )
    })?;
    let (is_window, brupop) = (text.is_window(), text.brupop);
    let schedule_in = Schedule::new(text, Zone(tz));
    match duration {
        Some(duration) if is_window => Err(place.invalid(
            "duration",
            &duration.to_string(),
            format!("remove it: schedule {schedule:?} takes seconds in a row, and so is the window itself"),
        )),
        Some(duration) => Ok(Form::Recurring {
            schedule: schedule_in,
            duration: duration.delta(),
        }),
        None if is_window => Ok(Form::Named(schedule_in)),
        None if brupop && place.list == "maintenanceWindows" => Ok(Form::UntilDone(schedule_in)),
        None if brupop => {
            let remedy =
                "give a duration: this schedule says when the exclusion begins, and not when it ends";
            Err(place.invalid("schedule", schedule, remedy))
        }
        None => Err(place.invalid("schedule", schedule, "give a duration: how long it stays open")),
    }
}
