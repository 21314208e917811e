//! S4: exclusions win over windows, and every message names the one that is the reason.

use api::{plan::Phase, verdict::Verdict};
use planner::windows::{Change, Closing, Opening, WindowState, Windows};

use crate::schedules::{changes, closes, excluding, opened_and_closed, windows};
use crate::support::{Sim, at, days, hours, minutes, seconds, time};

#[test]
fn an_exclusion_cuts_windows_of_every_form() {
    let union = excluding(
        "
- {name: nightly, schedule: '0 22 * * *', duration: 4h}
- {name: once, start: 2026-11-22T08:00:00Z, end: 2026-11-22T12:00:00Z}
- {name: brupop, schedule: '* * 14-15 * * *'}
",
        "
- {name: lunch, schedule: '30 11 * * *', duration: 3h}
- {name: midnight, start: 2026-11-22T23:30:00Z, end: 2026-11-23T00:30:00Z}
",
    );
    let expected = [
        "22T08:00Z",
        "22T11:30Z",
        "22T14:30Z",
        "22T16:00Z",
        "22T22:00Z",
        "22T23:30Z",
        "23T00:30Z",
        "23T02:00Z",
    ];
    assert_eq!(
        changes(&union, "2026-11-22T07:00:00Z", "2026-11-23T03:00:00Z"),
        opened_and_closed(&expected)
    );
    let lunch = union.at(time("2026-11-22T11:30:00Z"));
    assert_eq!(
        lunch,
        WindowState::Closed {
            next: Some(Opening {
                at: time("2026-11-22T14:30:00Z"),
                name: Some("brupop".to_owned())
            }),
            unsure: false,
            exclusion: Some("lunch".to_owned()),
            again: Some(time("2026-11-22T12:00:00Z")),
        }
    );
    let without = union.at(time("2026-11-22T12:00:00Z"));
    assert!(
        matches!(without, WindowState::Closed { exclusion: None, .. }),
        "none would be open: {without:?}"
    );
    let before = union.at(time("2026-11-22T11:29:59Z"));
    assert_eq!(
        before,
        WindowState::Open {
            name: Some("once".to_owned()),
            closes: time("2026-11-22T11:30:00Z"),
            by: Closing::Exclusion("lunch".to_owned()),
        }
    );
}

#[test]
fn an_exclusion_without_windows_is_the_only_time_that_is_closed() {
    let sale = excluding(
        "[]",
        "[{name: sale, start: 2026-11-27T00:00:00Z, end: 2026-12-01T00:00:00Z}]",
    );
    assert_eq!(
        sale.at(time("2026-11-22T00:00:00Z")),
        WindowState::Open {
            name: None,
            closes: time("2026-11-27T00:00:00Z"),
            by: Closing::Exclusion("sale".to_owned())
        }
    );
    assert!(matches!(
        sale.at(time("2026-11-27T00:00:00Z")),
        WindowState::Closed { exclusion: Some(name), next: Some(next), .. } if name == "sale" && next.at == time("2026-12-01T00:00:00Z")
    ));
    assert_eq!(sale.at(time("2026-12-01T00:00:00Z")), WindowState::Always);
}

#[test]
fn the_edges_of_an_exclusion_are_those_of_a_window() {
    let edges = excluding(
        "[{name: w, start: 2026-11-22T08:00:00Z, end: 2026-11-22T10:00:00Z}]",
        "[{name: x, start: 2026-11-22T08:30:00Z, end: 2026-11-22T09:00:00Z}, {name: y, start: 2026-11-22T10:00:00Z, end: 2026-11-22T11:00:00Z}]",
    );
    let half = Some(time("2026-11-22T08:30:00Z"));
    let end = Some(time("2026-11-22T10:00:00Z"));
    for (at, expected) in [
        ("08:29:59.999", half),
        ("08:30:00", None),
        ("08:59:59.999", None),
        ("09:00:00", end),
    ] {
        assert_eq!(closes(&edges, &format!("2026-11-22T{at}Z")), expected, "{at}");
    }
    let state = edges.at(time("2026-11-22T09:00:00Z"));
    assert!(
        matches!(state, WindowState::Open { by: Closing::End, .. }),
        "it ends by itself: {state:?}"
    );
}

#[test]
fn exclusions_that_touch_overlap_or_repeat_are_one() {
    let all = excluding(
        "[{name: w, schedule: '0 8 * * *', duration: 8h}]",
        "
- {name: a, start: 2026-11-22T09:00:00Z, end: 2026-11-22T10:00:00Z}
- {name: b, start: 2026-11-22T10:00:00Z, end: 2026-11-22T12:00:00Z}
- {name: c, schedule: '0 11 * * SUN', duration: 2h}
",
    );
    let expected = ["22T08:00Z", "22T09:00Z", "22T13:00Z", "22T16:00Z"];
    assert_eq!(
        changes(&all, "2026-11-22T00:00:00Z", "2026-11-23T00:00:00Z"),
        opened_and_closed(&expected)
    );
}

#[test]
fn windows_that_exclusions_always_cover_are_found_out() {
    let covered = excluding(
        "[{name: w, schedule: '0 2 * * *', duration: 1h}]",
        "[{name: x, schedule: '0 0 * * *', duration: 6h}]",
    );
    let never = excluding(
        "[{name: w, start: 2026-11-22T08:00:00Z, end: 2026-11-22T10:00:00Z}]",
        "[{name: x, schedule: '* * * * *', duration: 5m}]",
    );
    let always_excluded = excluding("[]", "[{name: x, schedule: '* * * * * *'}]");
    for i in 0..20 {
        let now = time("2026-11-22T01:00:00Z") + hours(7 * i);
        let state = covered.at(now);
        assert!(
            matches!(state, WindowState::Closed { next: None, unsure: true, again: Some(again), .. } if again > now),
            "{state:?}"
        );
        assert_eq!(covered.open_between(now, now + days(30)), minutes(0));
        assert_eq!(covered.next_change(now), None);
        assert!(matches!(never.at(now), WindowState::Closed { next: None, .. }));
        assert!(matches!(
            always_excluded.at(now),
            WindowState::Closed {
                next: None,
                unsure: false,
                ..
            }
        ));
    }
}

#[test]
fn how_long_windows_are_open_between_two_instants() {
    let nightly = windows("[{name: w, schedule: '0 22 * * MON-FRI', duration: 4h}]");
    let between = |windows: &Windows, from: &str, to: &str| windows.open_between(time(from), time(to));
    // Monday 23:00 to Wednesday 00:30.
    assert_eq!(
        between(&nightly, "2026-11-23T23:00:00Z", "2026-11-25T00:30:00Z"),
        hours(3) + minutes(150)
    );
    assert_eq!(
        between(&nightly, "2026-11-28T02:00:00Z", "2026-11-30T22:00:00Z"),
        hours(0)
    );
    assert_eq!(
        between(&nightly, "2026-11-24T00:00:00Z", "2026-11-23T00:00:00Z"),
        hours(0),
        "backwards"
    );
    assert_eq!(
        between(
            &Windows::default(),
            "2026-11-24T00:00:00Z",
            "2026-11-25T00:00:00Z"
        ),
        hours(24)
    );
    let cut = excluding(
        "[{name: w, schedule: '0 22 * * MON-FRI', duration: 4h}]",
        "[{name: x, start: 2026-11-24T23:00:00Z, end: 2026-11-25T23:00:00Z}]",
    );
    // Tuesday 22:00-23:00 and Wednesday 23:00-02:00.
    assert_eq!(
        between(&cut, "2026-11-24T12:00:00Z", "2026-11-26T12:00:00Z"),
        hours(4)
    );
    let minutely = windows("[{name: w, schedule: '* * * * *', duration: 30s}]");
    assert_eq!(
        between(&minutely, "2026-11-24T12:00:00Z", "2026-11-24T22:00:00Z"),
        hours(5)
    );
    let bounded = between(&minutely, "2020-01-01T00:00:00Z", "2026-01-01T00:00:00Z");
    assert_eq!(bounded, seconds(30 * 1000), "a thousand openings are counted");
}

#[test]
fn the_next_change_is_the_next_opening_or_close() {
    let cut = excluding(
        "[{name: w, schedule: '0 8 * * *', duration: 2h}]",
        "[{name: x, start: 2026-11-22T09:00:00Z, end: 2026-11-22T09:30:00Z}]",
    );
    let mut at = time("2026-11-22T00:00:00Z");
    let mut found = Vec::new();
    for _ in 0..6 {
        let Change { at: next, open } = cut.next_change(at).unwrap();
        found.push((open, next.format("%dT%H:%MZ").to_string()));
        at = next;
    }
    let expected = [
        "22T08:00Z",
        "22T09:00Z",
        "22T09:30Z",
        "22T10:00Z",
        "23T08:00Z",
        "23T10:00Z",
    ];
    assert_eq!(found, opened_and_closed(&expected));
    assert_eq!(Windows::default().next_change(at), None);
}

const SALE: &str = "
maxUnavailable: 3
expectedNodeDuration: 5m
maintenanceWindows: [{name: morning, start: 2026-11-22T08:00:00Z, end: 2026-11-22T12:00:00Z}]
exclusions: [{name: sale, start: 2026-11-22T08:10:00Z, end: 2026-11-22T09:00:00Z}]
";

#[test]
fn s4_an_exclusion_takes_back_what_does_not_reboot_yet_and_nothing_begins_before_its_end() {
    let mut sim = Sim::new().nodes(4).plan("web", SALE);
    sim.settle();
    let staging = sim.granted()[0].clone();
    sim.retime(&staging, |timing| timing.stage = hours(2));
    assert_eq!(
        sim.ledger().grants[&sim.facts(&staging).uid].not_after,
        Some(at("08:10"))
    );
    sim.run_to(at("08:07"));
    sim.add_node("late", "1.20.3", &[]);
    sim.settle();
    let others = sim.reasons();
    assert!(others.contains("WontFitInWindow"), "{others:?}");
    let message = sim.status("web").message.clone().unwrap();
    assert!(
        message.contains("expected to take 3m24s (p90 of the last 3 nodes), but exclusion sale begins 2026-11-22T08:10:00Z; the next that is long enough opens 2026-11-22T09:00:00Z"),
        "{message}"
    );
    let window = sim.status("web").window.clone().unwrap();
    assert_eq!(
        (window.next.as_str(), window.exclusion.as_deref()),
        ("open until 2026-11-22T08:10:00Z", Some("sale"))
    );
    sim.run_to(at("08:30"));
    assert!(sim.ledger().grants.is_empty());
    assert_eq!(
        sim.verdict(&staging),
        Verdict::Excluded {
            exclusion: "sale".to_owned(),
            opens: Some(at("09:00"))
        }
    );
    assert_eq!(sim.phase("web"), Some(Phase::WaitingForWindow));
    let message = sim.status("web").message.clone().unwrap();
    assert!(
        message.contains("exclusion sale is on, the next window opens 2026-11-22T09:00:00Z"),
        "{message}"
    );
    sim.retime(&staging, |timing| timing.stage = seconds(60));
    let before = sim.checker.granted.len();
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(
        sim.checker.granted[before].0,
        at("09:00"),
        "the first instant after it"
    );
    sim.ends_well();
}

#[test]
fn s4_an_exclusion_that_is_added_takes_effect_at_once() {
    let mut sim = Sim::new().nodes(3).plan("web", "maxUnavailable: 3");
    sim.run_for(seconds(70));
    assert_eq!(sim.granted().len(), 3);
    sim.edit("web", |spec| {
        let now = "[{name: now, start: 2026-11-22T08:01:00Z, end: 2026-11-22T09:00:00Z}]";
        spec.exclusions = serde_saphyr::from_str(now).unwrap();
    });
    sim.run_for(seconds(10));
    assert!(sim.ledger().grants.is_empty());
    assert_eq!(sim.reasons(), ["Excluded"].into());
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(sim.checker.granted[3].0, at("09:00"));
    sim.ends_well();
}

#[test]
fn windows_that_never_open_say_so_and_why() {
    let told = |spec: &str| {
        let mut sim = Sim::new().nodes(1).plan("web", spec);
        sim.run_for(minutes(1));
        assert_eq!(sim.phase("web"), Some(Phase::WaitingForWindow));
        assert!(sim.checker.granted.is_empty());
        let window = sim.status("web").window.clone().unwrap();
        format!(
            "{}\nnext window: {}",
            sim.status("web").message.clone().unwrap(),
            window.next
        )
    };
    insta::assert_snapshot!(
        "never_open",
        [
            told("maintenanceWindows: [{name: w, start: 2026-11-21T08:00:00Z, end: 2026-11-21T12:00:00Z}]"),
            told("maintenanceWindows: [{name: w, schedule: '* * 8 * * * 2025'}]"),
            told(
                "maintenanceWindows: [{name: w, start: 2026-11-22T07:00:00Z, end: 2026-11-22T12:00:00Z}]\n\
                  exclusions: [{name: x, start: 2026-11-22T07:00:00Z, end: 2026-11-22T12:00:00Z}]"
            ),
            told(
                "maintenanceWindows: [{name: w, schedule: '0 2 * * *', duration: 1h}]\n\
                  exclusions: [{name: x, schedule: '0 0 * * *', duration: 6h}]"
            ),
            told("exclusions: [{name: x, schedule: '* * * * * *'}]"),
            told(
                "maintenanceWindows: [{name: w, schedule: '0 9 * * *', duration: 1h}]\n\
                  exclusions: [{name: x, schedule: '10 9 * * *', duration: 1h}]"
            ),
        ]
        .join("\n\n")
    );
}

#[test]
fn what_is_no_exclusion_is_refused_with_field_value_and_remedy() {
    let problem = |exclusion: &str| {
        let exclusions: Vec<api::plan::MaintenanceWindow> =
            serde_saphyr::from_str(&format!("[{exclusion}]")).unwrap();
        Windows::parse(&[], &exclusions).unwrap_err().to_string()
    };
    insta::assert_snapshot!(
        "bad_exclusions",
        [
            problem("{name: x, schedule: '0 25 * * *', duration: 1h}"),
            problem("{name: x, schedule: '0 0 10 * * Mon *'}"),
            problem("{name: x, schedule: '* * 10 * * Mon *', duration: 1h}"),
            problem("{name: x, start: 2026-11-22T08:00:00Z, end: 2026-11-22T08:00:00Z}"),
            problem("{name: x, schedule: '@daily', duration: 1h, timeZone: Mars/Olympus}"),
        ]
        .join("\n")
    );
}
