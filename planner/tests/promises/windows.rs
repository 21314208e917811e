//! S4: nothing begins outside a window, and nothing begins that would not finish in it.

use api::{ledger::GrantPhase, plan::Phase, shadow::NodeState, verdict::Verdict};
use insta::assert_snapshot;

use crate::support::{Fault, Sim, Timing, at, hours, minutes, seconds};

const TWO_WINDOWS: &str = "
maxUnavailable: 3
expectedNodeDuration: 5m
maintenanceWindows:
- {name: first, start: 2026-11-22T08:00:00Z, end: 2026-11-22T08:10:00Z}
- {name: second, start: 2026-11-22T09:00:00Z, end: 2026-11-22T10:00:00Z}
";

#[test]
fn s4_a_window_closes_with_nodes_staging_draining_and_rebooting() {
    let mut sim = Sim::new().nodes(5).plan("web", TWO_WINDOWS);
    sim.settle();
    let [staging, draining, rebooting] = <[String; 3]>::try_from(sim.granted()).unwrap();
    sim.retime(&staging, |timing| timing.stage = hours(2));
    sim.retime(&draining, |timing| timing.drain = hours(2));
    sim.retime(&rebooting, |timing| timing.reboot = minutes(10));
    sim.run_to(at("08:09") + seconds(59));
    assert!(sim.facts(&draining).unschedulable && !sim.hidden(&rebooting).up);
    assert_snapshot!("one_second_before_the_close", sim.describe("web"));

    sim.run_to(at("08:10"));
    for node in [&staging, &draining] {
        let grant = &sim.ledger().grants[&sim.facts(node).uid];
        assert_eq!(grant.phase, GrantPhase::Withdrawing, "{node}");
    }
    assert_eq!(
        sim.ledger().grants[&sim.facts(&rebooting).uid].phase,
        GrantPhase::Rebooting
    );
    sim.run_for(seconds(2));
    for node in [&staging, &draining] {
        assert!(!sim.facts(node).unschedulable, "{node} is uncordoned");
        assert!(
            !sim.hidden(node).activated && !sim.hidden(node).settings_changed,
            "{node} is as it was"
        );
        assert_eq!(
            sim.facts(node).shadow.as_ref().unwrap().spec.state,
            NodeState::Idle
        );
        assert_eq!(
            sim.verdict(node),
            Verdict::OutsideWindow {
                opens: Some(at("09:00"))
            }
        );
    }
    assert_eq!(sim.granted(), std::slice::from_ref(&rebooting));
    assert_snapshot!("after_the_close", sim.describe("web"));
    sim.run_to(at("08:59") + seconds(59));
    assert_eq!(sim.hidden(&rebooting).runs, "1.21.0", "what reboots finishes");
    assert_eq!(sim.checker.granted.len(), 3, "nothing began");
    assert!(sim.ledger().grants.is_empty() && !sim.plan_facts("web").finalizer);

    for node in [&staging, &draining] {
        sim.retime(node, |timing| *timing = Timing::default());
    }
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(
        sim.checker.granted[3].0,
        at("09:00"),
        "the first instant of the second window"
    );
    sim.ends_well();
    assert!(sim.nodes.values().all(|node| node.reboots.len() == 1));
}

#[test]
fn s4_a_window_begins_at_its_first_instant_and_ends_before_its_last() {
    let window = "
expectedNodeDuration: 1s
maxUnavailable: 9
maintenanceWindows: [{name: w, start: 2026-11-22T09:00:00Z, end: 2026-11-22T10:00:00Z}]
";
    let mut sim = Sim::new().nodes(1).plan("web", window);
    sim.settle();
    assert_eq!(sim.phase("web"), Some(Phase::WaitingForWindow));
    assert_eq!(sim.next(), Some(at("09:00")), "the window is a timer, not a poll");
    sim.run_to(at("09:30"));
    assert_eq!(sim.checker.granted[0].0, at("09:00"));

    let needs = sim.status("web").node_duration.unwrap().p90.delta();
    sim.run_to(at("10:00") - needs);
    sim.add_node("fits", "1.20.3", &[]);
    sim.settle();
    assert_eq!(sim.granted(), ["fits"], "there is just as much left as is needed");
    sim.run_for(seconds(1));
    sim.add_node("tight", "1.20.3", &[]);
    sim.settle();
    assert_eq!(sim.verdict("tight").reason(), "WontFitInWindow");
    sim.run_to(at("10:00"));
    sim.add_node("late", "1.20.3", &[]);
    sim.run_for(hours(1));
    assert_eq!(sim.checker.granted.len(), 2);
    assert_eq!(sim.verdict("late"), Verdict::OutsideWindow { opens: None });
    assert_snapshot!("never_again", sim.describe("web"));
}

#[test]
fn s4_nothing_is_granted_that_would_not_finish() {
    let window = "
expectedNodeDuration: 20m
maxUnavailable: 2
maintenanceWindows: [{name: w, start: 2026-11-22T08:00:00Z, end: 2026-11-22T08:20:00Z},
                     {name: x, start: 2026-11-23T08:00:00Z, end: 2026-11-23T08:22:00Z}]
";
    let mut sim = Sim::new().nodes(1).plan("web", window);
    sim.settle();
    assert_eq!(sim.granted(), ["n01"], "it fits exactly");
    sim.run_for(seconds(1));
    sim.add_node("other", "1.20.3", &[]);
    sim.settle();
    let waits = Verdict::WontFitInWindow {
        needs_seconds: 1200,
        samples: 0,
        from: None,
        closes: at("08:20"),
        exclusion: None,
        opens: Some(at("08:00") + hours(24)),
    };
    assert_eq!(sim.verdict("other"), waits);
    sim.run_until_phase("web", Phase::Complete);
    let learned = sim.checker.granted[1].0;
    assert!(
        learned > at("08:03") && learned < at("08:04"),
        "the first node took no twenty minutes: {learned}"
    );
    sim.ends_well();
}

#[test]
fn s4_windows_that_touch_are_one() {
    let windows = "
expectedNodeDuration: 20m
maintenanceWindows: [{name: w, start: 2026-11-22T08:00:00Z, end: 2026-11-22T08:10:00Z},
                     {name: x, start: 2026-11-22T08:10:00Z, end: 2026-11-22T09:00:00Z}]
";
    let timing = Timing {
        drain: minutes(12),
        ..Timing::default()
    };
    let mut sim = Sim::new().timing(timing).nodes(1).plan("web", windows);
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(
        sim.checker.granted.len(),
        1,
        "not withdrawn where one passes into the other"
    );
    sim.ends_well();
}

#[test]
fn s4_an_edit_that_closes_the_window_withdraws() {
    let mut sim = Sim::new().nodes(3).plan("web", TWO_WINDOWS);
    sim.run_for(seconds(70));
    assert_eq!(sim.granted().len(), 3);
    sim.edit("web", |spec| spec.maintenance_windows[0].end = Some(at("08:01")));
    sim.run_for(seconds(10));
    assert!(sim.ledger().grants.is_empty());
    assert_eq!(sim.reasons(), ["OutsideWindow"].into());
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(sim.checker.granted[3].0, at("09:00"));
    sim.ends_well();
}

#[test]
fn s4_a_longer_window_lets_granted_nodes_go_on() {
    let mut sim = Sim::new().nodes(1).plan("web", TWO_WINDOWS);
    sim.settle();
    sim.retime("n01", |timing| timing.drain = minutes(12));
    sim.run_for(minutes(5));
    sim.edit("web", |spec| spec.maintenance_windows[0].end = Some(at("08:30")));
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(sim.checker.granted.len(), 1);
    sim.ends_well();
}

#[test]
fn s4_a_clock_that_disagrees_grants_nothing() {
    for (skew, grants) in [(30, false), (-30, false), (29, true), (-29, true), (3600, false)] {
        let mut sim = Sim::new().nodes(2).plan("web", "");
        sim.skew(skew);
        sim.run_for(minutes(1));
        assert_eq!(!sim.checker.granted.is_empty(), grants, "{skew} s");
        if !grants {
            assert_eq!(sim.verdict("n01"), Verdict::ClockSkewed { seconds: Some(skew) });
        }
        sim.skew(0);
        sim.run_until_phase("web", Phase::Complete);
    }
    let mut sim = Sim::new().nodes(2).plan("web", "");
    sim.world.clock_skew = None;
    sim.run_for(minutes(1));
    assert!(
        sim.checker.granted.is_empty(),
        "nor does one that was never compared"
    );
    assert_snapshot!("clock_not_compared", sim.describe("web"));
}

#[test]
fn s4_a_clock_that_begins_to_disagree_takes_nothing_back() {
    let mut sim = Sim::new().nodes(3).plan("web", "");
    sim.run_for(seconds(30));
    sim.skew(45);
    sim.run_for(hours(1));
    assert_eq!(sim.checker.granted.len(), 1);
    assert_eq!(sim.hidden(&sim.checker.granted[0].1.clone()).runs, "1.21.0");
    assert_snapshot!("clock_skewed", sim.describe("web"));
}

#[test]
fn s4_no_permit_is_given_to_a_node_that_asks_after_the_close() {
    let mut sim = Sim::new().nodes(1).plan("web", TWO_WINDOWS);
    sim.run_until("it is drained", |sim| {
        sim.ledger()
            .grants
            .values()
            .any(|g| g.phase == GrantPhase::Drained)
    });
    sim.break_node("n01", Fault::AgentSilent);
    sim.run_to(at("08:10") + seconds(1));
    sim.mend_node("n01");
    sim.run_to(at("08:30"));
    assert!(sim.hidden("n01").reboots.is_empty() && !sim.facts("n01").unschedulable);
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn a_permit_that_nobody_could_use_before_the_close_is_no_failure() {
    let strict = format!("failurePolicy: {{retries: 0, threshold: 1}}{TWO_WINDOWS}");
    let mut sim = Sim::new().nodes(1).plan("web", &strict);
    sim.run_until("it is drained", |sim| {
        sim.ledger()
            .grants
            .values()
            .any(|g| g.phase == GrantPhase::Drained)
    });
    sim.break_node("n01", Fault::AgentSilent);
    sim.run_to(at("08:09") + seconds(59));
    // Its permit is recorded, and the answer lost.
    let (node, now) = (sim.facts("n01").clone(), sim.now);
    let ledger = sim.world.ledger.as_mut().unwrap();
    let run = ledger.grants[&node.uid].run.clone();
    ledger.permit(&node.uid, &run, 1, &node.boot_id, now).unwrap();
    sim.run_to(at("08:10") + seconds(1));
    sim.mend_node("n01");
    sim.run_to(at("08:12"));
    assert!(sim.hidden("n01").reboots.is_empty() && !sim.facts("n01").unschedulable);
    assert!(sim.ledger().grants.is_empty());
    assert_eq!(
        sim.status("web").nodes.failed,
        0,
        "one failure would halt the plan"
    );
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn s4_a_window_that_never_closes_takes_nothing_back_and_is_no_reason_to_write() {
    let always = "
drain: {timeout: 10h}
expectedNodeDuration: 1h
maintenanceWindows: [{name: always, schedule: '* * * * *', duration: 1m}]
";
    let timing = Timing {
        drain: hours(9),
        ..Timing::default()
    };
    let mut sim = Sim::new().timing(timing).nodes(1).plan("web", always);
    sim.run_for(minutes(2));
    let until = sim.ledger().grants.values().next().unwrap().not_after.unwrap();
    assert!(until < sim.now + hours(9), "looked only so far ahead");
    // The node takes longer than was expected: the estimate of the end moves once.
    sim.run_for(hours(1));
    let writes = sim.writes;
    sim.run_for(hours(5));
    assert_eq!(sim.writes, writes, "L7");
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(sim.checker.granted.len(), 1);
    sim.ends_well();
}

#[test]
fn a_window_that_is_too_short_for_any_node_says_so_before_it_opens() {
    let short = "
expectedNodeDuration: 20m
maintenanceWindows: [{name: short, schedule: '0 9 * * *', duration: 15m}]
";
    let mut sim = Sim::new().nodes(1).plan("web", short);
    sim.run_for(minutes(1));
    assert_eq!(sim.phase("web"), Some(Phase::WaitingForWindow));
    assert_snapshot!(sim.status("web").message.clone().unwrap(), @"0 of 1 nodes run 1.21.0; n01: expected to take 20m, but the longest window to come, which opens 2026-11-22T09:00:00Z, is open for 15m: lengthen it, or lower expectedNodeDuration");
}

/// Until the first grant is made, some of the window is over; and so it would be the next time.
#[test]
fn a_window_that_is_as_long_as_a_node_takes_is_too_short() {
    let spec = |duration| {
        let window =
            format!("maintenanceWindows: [{{name: exact, schedule: '0 9 * * *', duration: {duration}}}]");
        format!("expectedNodeDuration: 20m\n{window}")
    };
    let mut sim = Sim::new().nodes(1).plan("web", &spec("20m"));
    sim.run_for(minutes(1));
    assert_snapshot!(sim.status("web").message.clone().unwrap(), @"0 of 1 nodes run 1.21.0; n01: expected to take 20m10s, but the longest window to come, which opens 2026-11-22T09:00:00Z, is open for 20m: lengthen it, or lower expectedNodeDuration");
    assert_eq!(sim.status("web").estimated_completion, None);
    let progressing = |sim: &Sim| {
        sim.status("web")
            .conditions
            .iter()
            .any(|c| c.type_ == "Progressing" && c.status == "True")
    };
    assert!(!progressing(&sim), "it takes a person to go on");

    let mut sim = Sim::new().nodes(1).plan("web", &spec("21m"));
    sim.run_for(minutes(1));
    assert_eq!(sim.verdict("n01").reason(), "OutsideWindow");
    assert!(progressing(&sim));
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

/// An exclusion closes them before the longer one, whose name nobody who plans for the evening would look for.
#[test]
fn a_window_keeps_its_name_when_another_opens_beside_it() {
    let mut sim = Sim::new().nodes(2).plan(
        "web",
        "maintenanceWindows: [{name: day, start: 2026-11-22T08:00:00Z, end: 2026-11-22T18:00:00Z}, \
         {name: late, start: 2026-11-22T09:00:00Z, end: 2026-11-22T20:00:00Z}]\n\
         exclusions: [{name: freeze, start: 2026-11-22T12:00:00Z, end: 2026-11-22T22:00:00Z}]",
    );
    sim.not_ready("n01");
    for clock in ["08:30", "09:30"] {
        sim.run_to(at(clock));
        let status = sim.status("web").window.clone().unwrap();
        assert_eq!(
            (status.name.as_deref(), status.closes_at),
            (Some("late"), Some(at("12:00")))
        );
    }
}

/// Also where it is not known which of them closes last: two that take turns for ever, and two that are open until the run is done.
#[test]
fn a_window_is_named_where_it_is_known_which() {
    for (windows, next) in [
        (
            "{name: even, schedule: '0 */2 * * *', duration: 1h}, {name: odd, schedule: '0 1-23/2 * * *', duration: 1h}",
            "open",
        ),
        (
            "{name: z, schedule: '0 0 8 * * *'}, {name: a, schedule: '0 0 9 * * *'}",
            "open until the run is done",
        ),
    ] {
        let mut sim = Sim::new().nodes(2).plan(
            "web",
            &format!("skipAfter: 720h\nmaintenanceWindows: [{windows}]"),
        );
        sim.not_ready("n01");
        for clock in ["08:30", "09:30"] {
            sim.run_to(at(clock));
            let window = sim.status("web").window.clone().unwrap();
            assert_eq!(
                (window.next.as_str(), window.name),
                (next, None),
                "{windows} at {clock}"
            );
        }
    }
}

/// Where they overlap, the one is named that ends last of those that are on.
#[test]
fn the_exclusion_that_is_on_is_named_and_the_next_in_time() {
    let exclusions = "exclusions: [{name: a, start: 2026-11-22T08:00:00Z, end: 2026-11-22T12:00:00Z}, \
                      {name: b, start: 2026-11-22T10:00:00Z, end: 2026-11-22T14:00:00Z}]";
    let mut sim = Sim::new().nodes(1).plan("web", exclusions);
    sim.settle();
    for (named, until) in [("a", "10:00"), ("b", "14:00")] {
        let window = sim.status("web").window.clone().unwrap();
        assert_eq!(window.exclusion.as_deref(), Some(named));
        assert_eq!(
            sim.decide().look_again.map(|next| next.min(at("14:00"))),
            Some(at(until))
        );
        sim.run_to(at(until));
    }
    sim.run_until_phase("web", Phase::Complete);
}
