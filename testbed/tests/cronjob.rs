//! Five-field schedules agree with Kubernetes' own CronJobs: the same starts for the same schedule, zone and instant.
//!
//! CronJobs are asked through `testbed/tools/cronjob`, which reads a schedule as their controller does. Around a change of
//! a zone's clocks they follow another rule than ours, which is stated in the CRD and tested in `planner/tests/zones.rs`:
//! there nothing is compared.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "tests"
)]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use api::plan::MaintenanceWindow;
use chrono::{DateTime, Datelike as _, Months, NaiveTime, Offset, TimeZone, Utc};
use chrono_tz::{IANA_TZDB_VERSION, TZ_VARIANTS, Tz};
use planner::windows::Windows;
use testbed::binaries;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// Zones and schedules that are paired, and the instants that each pair is asked for.
const PAIRS: usize = 4000;
const INSTANTS: usize = 50;

/// CronJobs look five years ahead.
const AHEAD: i64 = 5 * 365 * DAY;

fn instant(at: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(at, 0).unwrap()
}

fn at(text: &str) -> i64 {
    text.parse::<DateTime<Utc>>().unwrap().timestamp()
}

/// Asks the program for a line for each line. The first is the version of its tz database.
fn ask(mode: &str, lines: &[String]) -> (String, Vec<String>) {
    let program = binaries::tool("cronjob").unwrap();
    let mut child = Command::new(&program)
        .arg(mode)
        .env("ZONEINFO", program.with_file_name("zoneinfo.zip"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let text = lines.join("\n");
    let answers: Vec<String> = std::thread::scope(|scope| {
        scope.spawn(move || input.write_all(text.as_bytes()).unwrap());
        output.lines().map(Result::unwrap).collect()
    });
    assert!(child.wait().unwrap().success());
    assert_eq!(answers.len(), lines.len() + 1);
    (answers[0].clone(), answers[1..].to_vec())
}

/// The changes of a zone's offset, as the program prints them.
fn changes(zone: Tz) -> Vec<(i64, i64)> {
    let offset = |at: i64| -> i64 {
        zone.offset_from_utc_datetime(&instant(at).naive_utc())
            .fix()
            .local_minus_utc()
            .into()
    };
    let (mut from, end) = (at("2000-01-01T00:00:00Z"), at("2038-01-01T00:00:00Z"));
    let mut found = vec![(from, offset(from))];
    while from < end {
        let (before, after) = (offset(from), offset(from + DAY / 2));
        if before != after {
            let (mut low, mut high) = (from, from + DAY / 2);
            while high - low > 1 {
                let middle = (low + high) / 2;
                if offset(middle) == before {
                    low = middle;
                } else {
                    high = middle;
                }
            }
            found.push((high, after));
        }
        from += DAY / 2;
    }
    found
}

fn print(changes: &[(i64, i64)]) -> String {
    let changes = changes.iter().map(|(at, offset)| format!("{at}:{offset}"));
    changes.collect::<Vec<_>>().join(" ")
}

/// One value, a range, a step, or a list of such.
fn field(random: &mut fastrand::Rng, first: u32, last: u32, names: &[&str]) -> String {
    let item = |random: &mut fastrand::Rng| {
        let (one, other) = (random.u32(first..=last), random.u32(first..=last));
        let (low, high) = (one.min(other), one.max(other));
        let name = |value: u32| match names.get((value - first) as usize) {
            Some(name) if one % 2 == 0 => (*name).to_owned(),
            _ => value.to_string(),
        };
        match random.u32(0..10) {
            0..=4 => name(one),
            5 | 6 => format!("{}-{}", name(low), name(high)),
            7 => format!("{low}-{high}/{}", random.u32(1..=5)),
            8 => format!("*/{}", random.u32(1..=last / 2)),
            _ => format!("{low}/{}", random.u32(1..=9)),
        }
    };
    let items = if random.u32(0..4) == 0 {
        random.usize(2..5)
    } else {
        1
    };
    (0..items).map(|_| item(random)).collect::<Vec<_>>().join(",")
}

fn schedule(random: &mut fastrand::Rng) -> String {
    const MONTHS: [&str; 12] = [
        "JAN", "feb", "Mar", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
    ];
    const DAYS: [&str; 7] = ["SUN", "mon", "Tue", "WED", "THU", "FRI", "SAT"];
    if random.u32(0..40) == 0 {
        let all = [
            "@hourly",
            "@daily",
            "@midnight",
            "@weekly",
            "@monthly",
            "@yearly",
            "@annually",
        ];
        return (*random.choice(&all).unwrap()).to_owned();
    }
    let any = |random: &mut fastrand::Rng, often: u32, first: u32, last: u32, names: &[&str]| {
        if random.u32(0..10) < often {
            "*".to_owned()
        } else {
            field(random, first, last, names)
        }
    };
    let minute = any(random, 1, 0, 59, &[]);
    let hour = any(random, 2, 0, 23, &[]);
    let day = match random.u32(0..12) {
        0 => "?".to_owned(),
        1 => "*/1".to_owned(),
        _ => any(random, 5, 1, 31, &[]),
    };
    let month = any(random, 7, 1, 12, &MONTHS);
    let weekday = any(random, 5, 0, 6, &DAYS);
    format!("{minute} {hour} {day} {month} {weekday}")
}

fn read(schedule: &str, zone: Tz) -> Result<Windows, String> {
    let yaml = format!("[{{name: w, schedule: '{schedule}', timeZone: {zone}, duration: 1s}}]");
    let windows: Vec<MaintenanceWindow> = serde_saphyr::from_str(&yaml).unwrap();
    Windows::parse(&windows, &[]).map_err(|invalid| invalid.to_string())
}

#[test]
fn schedules_start_when_cron_jobs_start() {
    let names: Vec<String> = TZ_VARIANTS.iter().map(ToString::to_string).collect();
    let (version, theirs) = ask("zones", &names);
    let mut clocks: BTreeMap<&str, Vec<(i64, i64)>> = BTreeMap::new();
    let mut differing = Vec::new();
    for (zone, told) in TZ_VARIANTS.iter().zip(&theirs) {
        let ours = changes(*zone);
        if print(&ours) == *told {
            clocks.insert(zone.name(), ours);
        } else {
            let known = if told == "-" { " (not known there)" } else { "" };
            differing.push(format!("{zone}{known}"));
        }
    }
    println!(
        "tz database {IANA_TZDB_VERSION} here and {version} there: {} zones compared, {} differ: {}",
        clocks.len(),
        differing.len(),
        if differing.is_empty() {
            "none".to_owned()
        } else {
            differing.join(", ")
        }
    );
    assert!(clocks.len() * 20 > names.len() * 19, "too many zones differ");

    let mut random = fastrand::Rng::with_seed(20_261_122);
    let zones: Vec<&&str> = clocks.keys().collect();
    let (mut lines, mut asked) = (Vec::new(), Vec::new());
    let (from, to) = (at("2000-02-01T00:00:00Z"), at("2032-12-01T00:00:00Z"));
    let mut never = 0;
    while asked.len() < PAIRS * INSTANTS {
        // Every zone has its turn.
        let zone: Tz = zones[asked.len() / INSTANTS % zones.len()].parse().unwrap();
        let schedule = schedule(&mut random);
        let windows = match read(&schedule, zone) {
            Ok(windows) => windows,
            Err(why) if why.contains("this one never comes") => {
                never += 1;
                continue;
            }
            Err(why) => panic!("{schedule}: {why}"),
        };
        for _ in 0..INSTANTS {
            let at = random.i64(from..to);
            lines.push(format!("{zone}\t{schedule}\t{at}"));
            asked.push((
                zone,
                at,
                windows.opens_after(instant(at)).map(|next| next.at.timestamp()),
            ));
        }
    }
    let (_, answers) = ask("next", &lines);
    let (mut agree, mut at_a_change, mut otherwise_there) = (0, 0, 0);
    for ((line, answer), (zone, at, ours)) in lines.iter().zip(answers).zip(asked) {
        let theirs: Option<i64> = answer.parse().ok();
        let clocks = &clocks[zone.name()][1..];
        // They go from the first midnight of a month to that of the next, and go astray where the clocks skip one.
        let last = ours.max(theirs).unwrap_or(at);
        let first = instant(at).date_naive().with_day(1).unwrap();
        let months = (0..).map_while(|n| {
            let first = first.checked_add_months(Months::new(n))?;
            Some(first.and_time(NaiveTime::MIN).and_utc().timestamp()).filter(|first| *first <= last)
        });
        let times: Vec<Option<i64>> = [Some(at), ours, theirs]
            .into_iter()
            .chain(months.map(Some))
            .collect();
        let changed = |time: &i64| clocks.iter().any(|(change, _)| (time - change).abs() < 26 * HOUR);
        // They do not look further.
        let ours = ours.filter(|ours| theirs.is_some() || *ours < at + AHEAD);
        if times.iter().flatten().any(changed) {
            at_a_change += 1;
            otherwise_there += usize::from(ours != theirs);
        } else {
            assert_eq!(ours, theirs, "{line}");
            agree += 1;
        }
    }
    println!(
        "{agree} triples agree; {at_a_change} within 26 h of a change of the clocks, or past one at the first midnight of a month, are left out, {otherwise_there} of which \
         differ; {never} schedules name no day of the calendar"
    );
    assert!(agree >= 100_000, "{agree}");
}
