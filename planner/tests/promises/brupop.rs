//! Six and seven fields mean what they mean to Brupop, whose reader is the `cron` crate.

use api::plan::Phase;
use chrono::{TimeDelta, Utc};
use cron::Schedule;
use planner::windows::{Closing, WindowState};

use crate::schedules::{NEVER, changes, closes, every, opened_and_closed, refusal, windows};
use crate::support::{Sim, at, days, hours, minutes, seconds, time};

/// A window that is nothing but its schedule.
fn only(schedule: &str) -> planner::windows::Windows {
    windows(&format!("[{{name: w, schedule: '{schedule}'}}]"))
}

#[test]
fn an_expression_of_whole_hours_is_the_window() {
    let saturday = only("* * 22 * * SAT *");
    assert_eq!(closes(&saturday, "2026-11-28T21:59:59Z"), None);
    for inside in ["22:00:00", "22:59:59"] {
        let inside = format!("2026-11-28T{inside}Z");
        assert_eq!(
            closes(&saturday, &inside),
            Some(time("2026-11-28T23:00:00Z")),
            "{inside}"
        );
    }
    assert_eq!(closes(&saturday, "2026-11-28T23:00:00Z"), None);
    assert_eq!(
        saturday.opens_after(time("2026-11-28T23:00:00Z")).unwrap().at,
        time("2026-12-05T22:00:00Z")
    );
}

#[test]
fn sunday_is_the_first_day_and_both_days_must_hold() {
    for sunday in ["* * 22 * * 1 *", "* * 22 * * SUN", "* * 22 ? * Sunday"] {
        assert_eq!(
            closes(&only(sunday), "2026-11-22T22:30:00Z"),
            Some(time("2026-11-22T23:00:00Z")),
            "{sunday}"
        );
        assert_eq!(closes(&only(sunday), "2026-11-23T22:30:00Z"), None, "{sunday}");
    }
    let friday_13 = only("* * 2 13 * Fri *");
    assert_eq!(
        friday_13.opens_after(time("2026-11-22T00:00:00Z")).unwrap().at,
        time("2027-08-13T02:00:00Z")
    );
}

#[test]
fn years_are_read_and_a_past_one_never_comes_again() {
    let once = only("* * 2 24 12 * 2026");
    assert_eq!(
        once.opens_after(time("2026-11-22T00:00:00Z")).unwrap().at,
        time("2026-12-24T02:00:00Z")
    );
    assert_eq!(once.at(time("2026-12-24T03:00:00Z")), NEVER);
    assert_eq!(
        only("* * * * * * *").at(time("2026-12-24T03:00:00Z")),
        WindowState::Always
    );
    let until_new_year = only("* * * * * * 2026");
    assert_eq!(
        closes(&until_new_year, "2026-11-22T03:00:00Z"),
        Some(time("2027-01-01T00:00:00Z"))
    );
}

#[test]
fn days_hours_and_minutes_in_a_row_are_one_window() {
    let expected = ["27T22:00Z", "29T04:30Z"];
    let union = windows(
        "[{name: a, schedule: '* * 22-23 * * Fri'}, {name: b, schedule: '* * * * * Sat'}, {name: c, schedule: '* 0-29 0-4 * * 1'},
          {name: d, schedule: '* * 0-3 * * Sun'}]",
    );
    assert_eq!(
        changes(&union, "2026-11-26T00:00:00Z", "2026-11-30T00:00:00Z"),
        opened_and_closed(&expected)
    );
}

/// Brupop goes on while `Schedule::includes` holds. Every expression is asked at instants all over some years, most of them
/// near to where something changes.
#[test]
fn a_window_is_open_exactly_when_brupop_goes_on() {
    let expressions = [
        "* * * * * *",
        "* * 22 * * SAT *",
        "* * 22-23 * * SAT *",
        "* * 21-23,0-8 * * * *",
        "* 30-59 1 * * *",
        "0-29 0 3 * * *",
        "10-19,40-49 */5 * * * *",
        "* * * 1 * *",
        "* * * 31 * *",
        "* * * 1-7 * MON *",
        "* * 0 29 2 *",
        "* * * * FEB *",
        "* * * * JAN-NOV *",
        "* */2 */6 */3 * *",
        "* 59 23 * * *",
        "* 0 0 * * 2-6",
        "30-59,0-29 59,0 23,0 * * *",
        "5/1 * 4 * * *",
        "* * 4 ? * Mon,Wed *",
        "* * 4 * * * 2027",
        "* * 4 * * * 2026-2027",
        "* * 4 * 2,3 * 2028",
        "* * * 28-31 * SUN *",
        "0,1 0 10 * * *",
        "* * 0-5 * * Mon-Fri *",
        "* * * * * * 2027/2",
    ];
    let from = time("2026-01-01T00:00:00Z");
    let mut asked = 0;
    for expression in expressions {
        let brupops: Schedule = expression.parse().unwrap();
        let ours = only(expression);
        let mut at = from;
        // Some 40 hours that are no whole number of anything, so that every time of day comes by.
        while at < from + days(900) {
            let mut instants = vec![at];
            if let Some(change) = ours.next_change(at) {
                instants.extend([change.at, change.at - seconds(1), change.at + seconds(1)]);
                instants.push(change.at - TimeDelta::milliseconds(1));
            }
            for instant in instants {
                let open = !matches!(ours.at(instant), WindowState::Closed { .. });
                assert_eq!(open, brupops.includes(instant), "{expression} at {instant}");
                asked += 1;
            }
            at += seconds(145_009);
        }
        // And no change in between is left out.
        let mut at = time("2026-02-27T12:00:00Z");
        let mut open = brupops.includes(at);
        while let Some(change) = ours
            .next_change(at)
            .filter(|next| next.at < time("2026-03-02T12:00:00Z"))
        {
            assert!(
                !brupops
                    .after(&(at - seconds(1)))
                    .take_while(|point| *point < change.at)
                    .any(|_| !open),
                "{expression} opens before {}",
                change.at
            );
            (at, open) = (change.at, change.open);
        }
    }
    assert!(asked > 50_000, "{asked}");
}

#[test]
fn it_is_a_window_where_brupop_takes_it_for_one() {
    let from = time("2026-11-22T08:00:00Z");
    for expression in [
        "* * 22 * * SAT *",
        "0 0 10 * * Mon *",
        "10 10 10 * * *",
        "* * * * * *",
        "0 * 22 * * SAT *",
        "0-30 0 3 * * *",
        "*/2 * 3 * * *",
        "0,30 0 3 * * *",
        "7,8 0 3 * * *",
        "0 0 */4 * * *",
        "0 0-59 3 * * *",
    ] {
        let schedule: Schedule = expression.parse().unwrap();
        let points: Vec<_> = schedule.after(&from).take(2).collect();
        let is_window = points[1] - points[0] == seconds(1);
        let told = refusal(&format!("{{name: w, schedule: '{expression}', duration: 1h}}"));
        assert_eq!(
            told.is_some_and(|told| told.contains("spec.maintenanceWindows[0].duration: \"1h\": remove it")),
            is_window,
            "{expression}"
        );
        assert_eq!(only(expression).open_until_done(), !is_window, "{expression}");
    }
}

#[test]
fn single_instants_with_a_duration_start_when_brupop_starts() {
    for expression in [
        "0 0 10 * * Mon *",
        "30 15 */7 1,15 * *",
        "0 0 0 29 2 *",
        "59 59 23 * * 7",
        "0 0 3 * * * 2027",
    ] {
        let brupops: Schedule = expression.parse().unwrap();
        let ours = every(expression, "UTC", "90s");
        let mut at = time("2026-01-01T00:00:00Z");
        for expected in brupops.after(&at.with_timezone(&Utc)).take(400) {
            let opens = ours.opens_after(at).unwrap().at;
            assert_eq!(opens, expected, "{expression}");
            assert!(
                matches!(ours.at(opens), WindowState::Open { closes, by: Closing::End, .. } if closes == opens + seconds(90))
            );
            at = opens;
        }
    }
}

const SUNDAYS_AT_TEN: &str = "
expectedNodeDuration: 5h
maintenanceWindows: [{name: sundays, schedule: '0 0 10 * * SUN *'}]
";

#[test]
fn a_single_instant_starts_a_run_that_goes_on_to_its_end_and_no_further() {
    let mut sim = Sim::new().nodes(3).plan("web", SUNDAYS_AT_TEN);
    sim.settle();
    assert_eq!(sim.phase("web"), Some(Phase::WaitingForWindow));
    assert_eq!(
        sim.status("web").window.as_ref().unwrap().next,
        "2026-11-22T10:00:00Z"
    );
    assert_eq!(sim.next(), Some(at("10:00")));
    sim.run_to(at("09:59") + seconds(59));
    assert!(sim.checker.granted.is_empty(), "not a second early");
    sim.run_to(at("10:00"));
    let first = sim.granted()[0].clone();
    assert_eq!(sim.ledger().grants[&sim.facts(&first).uid].not_after, None);
    sim.retime(&first, |timing| timing.drain = minutes(14));
    sim.run_to(at("10:10"));
    assert_eq!(
        sim.status("web").window.as_ref().unwrap().next,
        "open until the run is done"
    );
    sim.run_until_phase("web", Phase::Complete);
    let finished = sim.now;
    assert_eq!(sim.checker.granted.len(), 3);
    sim.ends_well();

    // What comes later waits for the next instant, however often there is something to do.
    sim.run_to(at("12:00") + days(3));
    sim.add_node("late", "1.20.3", &[]);
    sim.settle();
    assert_eq!(sim.reasons(), ["OutsideWindow", "UpToDate"].into());
    sim.run_to(at("09:59") + days(7));
    assert_eq!(sim.checker.granted.len(), 3);
    sim.run_to(at("11:00") + days(7));
    assert_eq!(sim.checker.granted[3].0, at("10:00") + days(7));
    sim.add_node("later", "1.20.3", &[]);
    sim.run_to(at("11:00") + days(13));
    assert_eq!(sim.checker.granted.len(), 4, "the run of 10:00 is over");
    sim.run_to(at("11:00") + days(14));
    assert_eq!(sim.checker.granted[4].0, at("10:00") + days(14));
    assert!(finished < at("12:00"));
    sim.ends_well();
}

#[test]
fn a_run_that_an_instant_started_goes_on_whatever_happens_to_the_ledger_or_the_controller() {
    let mut sim = Sim::new().nodes(4).plan("web", SUNDAYS_AT_TEN);
    sim.run_to(at("10:06"));
    assert!(sim.status("web").nodes.updated > 0);
    sim.lose_ledger();
    sim.run_until_phase("web", Phase::Complete);
    assert!(sim.now < at("11:00"));
    sim.ends_well();

    // Nobody was there at the instant itself.
    let mut sim = Sim::new().nodes(2).plan("web", SUNDAYS_AT_TEN);
    sim.run_to(at("09:00"));
    sim.now = at("10:20");
    sim.run_until_phase("web", Phase::Complete);
    assert!(sim.now < at("11:00"));
    sim.ends_well();
}

#[test]
fn a_plan_or_a_target_that_came_after_the_instant_waits_for_the_next() {
    let mut sim = Sim::new().nodes(3);
    sim.run_to(at("10:00") + seconds(1));
    let mut sim = sim.plan("web", SUNDAYS_AT_TEN);
    sim.run_to(at("10:02") + days(7));
    assert_eq!(sim.checker.granted.len(), 1);
    assert_eq!(sim.checker.granted[0].0, at("10:00") + days(7));
    sim.edit("web", |spec| spec.target_version = "1.22.0".into());
    sim.run_for(hours(1));
    assert_eq!(
        sim.checker.granted.len(),
        1,
        "another run, which no instant has started"
    );
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(sim.checker.granted[1].0, at("10:00") + days(14));
    sim.ends_well();
}

#[test]
fn an_exclusion_interrupts_a_run_that_an_instant_started() {
    let lunch = format!("{SUNDAYS_AT_TEN}exclusions: [{{name: lunch, start: 2026-11-22T10:06:00Z, end: 2026-11-22T11:00:00Z}}]\n")
        .replace("5h", "4m");
    let mut sim = Sim::new().nodes(4).plan("web", &lunch);
    sim.run_to(at("10:30"));
    let before = sim.checker.granted.len();
    assert!((1..4).contains(&before) && sim.ledger().grants.is_empty());
    assert_eq!(
        sim.status("web").window.as_ref().unwrap().exclusion.as_deref(),
        Some("lunch")
    );
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(sim.checker.granted[before].0, at("11:00"));
    sim.ends_well();
}

#[test]
fn s4_a_window_that_is_open_until_the_run_is_done_closes_also_where_a_node_is_skipped() {
    let mondays = "maintenanceWindows: [{name: mondays, schedule: '0 0 10 * * Mon *'}]";
    for comes_back in [false, true] {
        let mut sim = Sim::new().nodes(3).plan("web", mondays);
        sim.cordon("n02");
        sim.plan_mut("web").spec.max_unavailable = "2".parse().unwrap();
        sim.run_to(time("2026-11-23T10:00:00Z") + hours(6));
        assert_eq!(sim.phase("web"), Some(Phase::Complete), "{}", sim.story());
        assert_eq!(sim.status("web").nodes.skipped, 1);
        let writes = sim.writes;
        sim.run_to(time("2026-11-25T14:00:00Z"));
        assert_eq!(sim.writes, writes, "L7");
        let comes = if comes_back { "n02" } else { "late" };
        if comes_back {
            sim.uncordon("n02");
        } else {
            sim.add_node("late", "1.20.3", &[]);
        }
        sim.run_to(time("2026-11-30T10:00:00Z") - seconds(1));
        assert_eq!(sim.checker.granted.len(), 2, "not before the next Monday");
        assert_eq!(sim.verdict(comes).reason(), "OutsideWindow");
        sim.run_for(hours(3));
        assert_eq!(sim.hidden(comes).runs, "1.21.0");
        sim.ends_well();
    }
}
