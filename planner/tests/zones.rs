//! Every IANA zone, every change of its clocks from 2000 to 2037: windows open and close as the rules say.
//!
//! What is expected is told by the zone's offsets alone: by a walk through every minute around a change. Since only the
//! offsets and the time of day of a change matter to that walk, it is taken once for all changes that are alike in them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "tests"
)]

use std::collections::{BTreeMap, BTreeSet, HashMap};

use api::plan::MaintenanceWindow;
use chrono::{DateTime, Datelike, Offset, TimeZone, Utc, Weekday};
use chrono_tz::{IANA_TZDB_VERSION, TZ_VARIANTS, Tz};
use planner::windows::{Change, Windows};

const MINUTE: i64 = 60;
const HOUR: i64 = 3600;
const DAY: i64 = 86_400;

/// So far before and after a change is looked.
const AROUND: i64 = 27 * HOUR;

fn instant(at: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(at, 0).unwrap()
}

fn offset(zone: Tz, at: i64) -> i64 {
    let offset = zone.offset_from_utc_datetime(&instant(at).naive_utc()).fix();
    offset.local_minus_utc().into()
}

/// A change of a zone's offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Shift {
    at: i64,
    before: i64,
    after: i64,
}

/// Every change from 2000 to 2037; none lies within an hour of another.
fn shifts(zone: Tz) -> Vec<Shift> {
    let end: DateTime<Utc> = "2038-01-01T00:00:00Z".parse().unwrap();
    let start: DateTime<Utc> = "2000-01-01T00:00:00Z".parse().unwrap();
    let mut found: Vec<Shift> = Vec::new();
    let (mut from, mut before) = (start.timestamp(), offset(zone, start.timestamp()));
    while from < end.timestamp() {
        let to = from + 12 * HOUR;
        let after = offset(zone, to);
        if after != before {
            let (mut low, mut high) = (from, to);
            while high - low > 1 {
                let middle = (low + high) / 2;
                if offset(zone, middle) == before {
                    low = middle;
                } else {
                    high = middle;
                }
            }
            assert_eq!(high % MINUTE, 0, "{zone}: the walk goes by minutes");
            assert!(
                found.last().is_none_or(|last| high - last.at > 2 * AROUND),
                "{zone}: two changes at once"
            );
            found.push(Shift {
                at: high,
                before,
                after,
            });
        }
        (from, before) = (to, after);
    }
    found
}

/// When schedules start around a change, in minutes from it, by local time in minutes since the midnight (UTC) before the
/// change.
#[derive(Clone, Debug, Default)]
struct Walk {
    /// For each local time the first instant at which the clocks show it or a later one.
    reached: BTreeMap<i64, i64>,
    /// Every instant with its local time.
    shown: Vec<(i64, i64)>,
    /// When schedules start, in seconds from the change: the same for all changes that are alike.
    starts: HashMap<String, BTreeSet<i64>>,
}

impl Walk {
    fn new(shift: &Shift) -> Self {
        let midnight = shift.at.rem_euclid(DAY) / MINUTE;
        let mut walk = Self::default();
        let mut latest = i64::MIN;
        for minute in -3 * AROUND / MINUTE..2 * AROUND / MINUTE {
            let offset = if minute < 0 { shift.before } else { shift.after };
            let local = midnight + minute + offset / MINUTE;
            walk.shown.push((minute, local));
            let from = if latest == i64::MIN { local } else { latest + 1 };
            for reached in from..=local {
                walk.reached.insert(reached, minute);
            }
            latest = latest.max(local);
        }
        walk
    }
}

/// What a schedule names.
struct Case {
    schedule: String,
    /// Whether each named time opens once.
    once: bool,
    names: Box<dyn Fn(i64) -> bool>,
}

/// Hour and minute of a local time.
fn tod(local: i64) -> (i64, i64) {
    (local.rem_euclid(DAY) / HOUR, local.rem_euclid(HOUR) / MINUTE)
}

fn is(time: (i64, i64)) -> impl Fn(i64) -> bool {
    move |local| tod(local) == time
}

/// The weekday of a local time.
fn weekday(local: i64) -> Weekday {
    instant(local).weekday()
}

/// Schedules whose starts lie around the local times between which the clocks jump.
fn cases(shift: &Shift) -> Vec<Case> {
    let (low, high) = {
        let (one, other) = (shift.at + shift.before, shift.at + shift.after);
        (one.min(other), one.max(other))
    };
    let mut cases = Vec::new();
    let times = [
        low,
        low - MINUTE,
        low + MINUTE,
        (low + high) / 2 / MINUTE * MINUTE,
        high - MINUTE,
        high,
    ];
    for time in times.map(tod) {
        cases.push(Case {
            schedule: format!("{} {} * * *", time.1, time.0),
            once: true,
            names: Box::new(is(time)),
        });
    }
    let middle = (low + high) / 2 / MINUTE * MINUTE;
    let (time, day, named) = (tod(middle), weekday(middle), instant(middle));
    // On the day of the change only; on the days that are not; on this date only.
    cases.push(Case {
        schedule: format!("{} {} * * {}", time.1, time.0, day.num_days_from_sunday()),
        once: true,
        names: Box::new(move |local| is(time)(local) && weekday(local) == day),
    });
    cases.push(Case {
        schedule: format!("{} {} {} {} *", time.1, time.0, named.day(), named.month()),
        once: true,
        names: Box::new(move |local| {
            is(time)(local) && (instant(local).day(), instant(local).month()) == (named.day(), named.month())
        }),
    });
    // Several times of day, and a step.
    let (first, other) = (tod(middle), tod(middle + 5 * HOUR));
    cases.push(Case {
        schedule: format!("{} {},{} * * *", first.1, first.0, other.0),
        once: true,
        names: Box::new(move |local| is(first)(local) || is((other.0, first.1))(local)),
    });
    cases.push(Case {
        schedule: format!("{} */2 * * *", time.1),
        once: true,
        names: Box::new(move |local| tod(local).0 % 2 == 0 && tod(local).1 == time.1),
    });
    // Every real hour; and Brupop's form, whose starts are shown by the clocks or are not.
    cases.push(Case {
        schedule: format!("{} * * * *", time.1),
        once: false,
        names: Box::new(move |local| tod(local).1 == time.1),
    });
    cases.push(Case {
        schedule: format!("0 {} {} * * *", time.1, time.0),
        once: false,
        names: Box::new(is(time)),
    });
    cases
}

/// The instants at which a schedule starts near to the change, in seconds from it.
fn starts(walk: &mut Walk, shift: &Shift, case: &Case) -> BTreeSet<i64> {
    if let Some(known) = walk.starts.get(&case.schedule) {
        return known.clone();
    }
    let midnight = shift.at.div_euclid(DAY) * DAY;
    let is_named = |local: &i64| (case.names)(midnight + local * MINUTE);
    let minutes: Vec<i64> = if case.once {
        let reached = walk.reached.iter().filter(|(local, _)| is_named(local));
        reached.map(|(_, minute)| *minute).collect()
    } else {
        let shown = walk.shown.iter().filter(|(_, local)| is_named(local));
        shown.map(|(minute, _)| *minute).collect()
    };
    let starts: BTreeSet<i64> = minutes.into_iter().map(|minute| minute * MINUTE).collect();
    walk.starts.insert(case.schedule.clone(), starts.clone());
    starts
}

fn read(schedule: &str, zone: Tz, duration: Option<&str>) -> Windows {
    let duration = duration.map_or_else(String::new, |duration| format!(", duration: {duration}"));
    let yaml = format!("[{{name: w, schedule: '{schedule}', timeZone: {zone}{duration}}}]");
    let windows: Vec<MaintenanceWindow> = serde_saphyr::from_str(&yaml).unwrap();
    Windows::parse(&windows, &[]).unwrap()
}

/// The union of windows of this length from these starts on, as changes between two instants.
fn union(starts: &BTreeSet<i64>, seconds: i64, from: i64, to: i64) -> Vec<(i64, bool)> {
    let mut changes: Vec<(i64, bool)> = Vec::new();
    for start in starts {
        match changes.last_mut() {
            Some((closes, false)) if *closes >= *start => *closes = start + seconds,
            _ => changes.extend([(*start, true), (start + seconds, false)]),
        }
    }
    changes.retain(|(at, _)| (from + 1..to).contains(at));
    changes
}

fn found(windows: &Windows, from: i64, to: i64) -> Vec<(i64, bool)> {
    let mut at = from;
    let mut changes = Vec::new();
    while let Some(Change { at: next, open }) = windows.next_change(instant(at)) {
        if next.timestamp() >= to {
            break;
        }
        changes.push((next.timestamp(), open));
        at = next.timestamp();
    }
    changes
}

fn check(
    zone: Tz,
    shift: &Shift,
    walk: &mut Walk,
    readers: &mut HashMap<(String, &'static str), Windows>,
) -> usize {
    let mut checked = 0;
    for case in cases(shift) {
        let starts = starts(walk, shift, &case)
            .iter()
            .map(|start| shift.at + start)
            .collect();
        let hourly = case.schedule.contains("* * * *") && !case.once && case.schedule.split(' ').count() == 5;
        let near = if hourly { 5 * HOUR } else { AROUND };
        // Shorter than what lies between two starts, and longer than the jump.
        for (duration, seconds) in [("30s", 30), ("4h", 4 * HOUR)] {
            let windows = readers
                .entry((case.schedule.clone(), duration))
                .or_insert_with(|| read(&case.schedule, zone, Some(duration)));
            let (from, to) = (shift.at - near, shift.at + near);
            if hourly && seconds > HOUR {
                continue;
            }
            assert_eq!(
                found(windows, from, to),
                union(&starts, seconds, from, to),
                "{zone}: {shift:?}: {} for {duration}",
                case.schedule
            );
            checked += 1;
        }
    }
    // A window that is its schedule is open exactly while the clocks show what it names.
    let (low, high) = (
        shift.at + shift.before.min(shift.after),
        shift.at + shift.before.max(shift.after),
    );
    let hour = (low + high) / 2 % DAY / HOUR;
    let schedule = format!("* * {hour} * * *");
    let windows = readers
        .entry((schedule.clone(), ""))
        .or_insert_with(|| read(&schedule, zone, None));
    let (from, to) = (shift.at - AROUND, shift.at + AROUND);
    let case = Case {
        schedule,
        once: false,
        names: Box::new(move |local| tod(local).0 == hour),
    };
    let open = starts(walk, shift, &case);
    assert_eq!(
        found(windows, from, to),
        union(
            &open.iter().map(|start| shift.at + start).collect(),
            MINUTE,
            from,
            to
        ),
        "{zone}: {shift:?}: {}",
        case.schedule
    );
    checked + 1
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a figure for people")]
fn every_change_of_every_zone_from_2000_to_2037() {
    let begun = std::time::Instant::now();
    let halves = TZ_VARIANTS.len().div_ceil(2);
    let counts = std::thread::scope(|scope| {
        let threads: Vec<_> = TZ_VARIANTS
            .chunks(halves)
            .map(|zones| scope.spawn(|| check_zones(zones)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect::<Vec<_>>()
    });
    let (mut changes, mut checked, mut kinds) = (0, 0, BTreeSet::new());
    for count in counts {
        changes += count.0;
        checked += count.1;
        kinds.extend(count.2);
    }
    println!(
        "tz database {IANA_TZDB_VERSION}: {} zones, {changes} changes of {} kinds, {checked} schedules checked in {:.1} s",
        TZ_VARIANTS.len(),
        kinds.len(),
        begun.elapsed().as_secs_f32()
    );
    assert!(
        changes > 17_000 && checked > 20 * changes,
        "{changes} changes, {checked} schedules"
    );
}

type Kind = (i64, i64, i64);

fn check_zones(zones: &[Tz]) -> (usize, usize, BTreeSet<Kind>) {
    let mut walks: BTreeMap<Kind, Walk> = BTreeMap::new();
    let (mut changes, mut checked) = (0, 0);
    for zone in zones {
        let mut readers = HashMap::new();
        for shift in shifts(*zone) {
            let kind = (shift.before, shift.after, shift.at.rem_euclid(DAY));
            let walk = walks.entry(kind).or_insert_with(|| Walk::new(&shift));
            changes += 1;
            checked += check(*zone, &shift, walk, &mut readers);
        }
    }
    (changes, checked, walks.into_keys().collect())
}
