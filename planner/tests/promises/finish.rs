//! S4 with `onWindowEnd: Finish`: what was cordoned inside a window may finish after it; nothing else begins.

use api::{ledger::GrantPhase, plan::Phase};

use crate::support::{Fault, Sim, at, hours, minutes, seconds};

const FINISH: &str = "
maxUnavailable: 3
expectedNodeDuration: 5m
onWindowEnd: Finish
maintenanceWindows:
- {name: first, start: 2026-11-22T08:00:00Z, end: 2026-11-22T08:10:00Z}
- {name: second, start: 2026-11-22T09:00:00Z, end: 2026-11-22T10:00:00Z}
";

/// Three nodes at the close: one is staging, one is draining, one is rebooting.
fn at_the_close(spec: &str) -> (Sim, [String; 3]) {
    let mut sim = Sim::new().nodes(5).plan("web", spec);
    sim.settle();
    let nodes = <[String; 3]>::try_from(sim.granted()).unwrap();
    sim.retime(&nodes[0], |timing| timing.stage = hours(2));
    sim.retime(&nodes[1], |timing| timing.drain = minutes(14));
    sim.retime(&nodes[2], |timing| timing.reboot = minutes(10));
    sim.run_to(at("08:09") + seconds(59));
    assert!(sim.facts(&nodes[1]).unschedulable && !sim.hidden(&nodes[2]).up);
    (sim, nodes)
}

#[test]
fn s4_what_was_cordoned_inside_the_window_finishes_after_it_and_nothing_else() {
    let (mut sim, [staging, draining, rebooting]) = at_the_close(FINISH);
    sim.run_to(at("08:10"));
    let phase = |sim: &Sim, node: &str| {
        sim.ledger()
            .grants
            .get(&sim.facts(node).uid)
            .map(|grant| grant.phase)
    };
    assert_eq!(phase(&sim, &staging), Some(GrantPhase::Withdrawing));
    assert_eq!(phase(&sim, &draining), Some(GrantPhase::Granted));
    assert_eq!(sim.ledger().grants[&sim.facts(&draining).uid].not_after, None);
    sim.run_to(at("08:12"));
    assert!(!sim.hidden(&staging).activated && !sim.hidden(&staging).settings_changed);
    sim.run_to(at("08:59"));
    for node in [&draining, &rebooting] {
        assert_eq!(sim.hidden(node).runs, "1.21.0", "{node}");
        assert!(!sim.facts(node).unschedulable, "{node}");
    }
    assert!(
        sim.hidden(&draining).reboots[0].0 > at("08:15"),
        "after the close"
    );
    assert_eq!(sim.checker.granted.len(), 3, "nothing began");
    sim.retime(&staging, |timing| timing.stage = seconds(60));
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(sim.checker.granted[3].0, at("09:00"));
    assert!(sim.nodes.values().all(|node| node.reboots.len() == 1));
    sim.ends_well();
}

#[test]
fn s4_a_drained_node_needs_nobody_at_the_close_to_finish_after_it() {
    let mut sim = Sim::new().nodes(1).plan("web", FINISH);
    sim.run_until("it is drained", |sim| {
        let mut grants = sim.ledger().grants.values();
        grants.any(|grant| grant.phase == GrantPhase::Drained)
    });
    let grant = sim.ledger().grants.values().next().unwrap();
    assert_eq!(
        grant.not_after, None,
        "the permit is the apiserver's to give from here on"
    );
    sim.break_node("n01", Fault::AgentSilent);
    sim.run_to(at("08:15"));
    sim.mend_node("n01");
    sim.run_until_phase("web", Phase::Complete);
    assert!(sim.now < at("09:00"));
    sim.ends_well();
}

#[test]
fn s4_nothing_is_cordoned_after_the_close() {
    // It is staged at the very close.
    for (stage, finishes) in [
        (minutes(10) - seconds(1), true),
        (minutes(10), false),
        (minutes(10) + seconds(1), false),
    ] {
        let mut sim = Sim::new().nodes(1).plan("web", FINISH);
        sim.settle();
        sim.retime("n01", |timing| timing.stage = stage);
        sim.run_to(at("08:50"));
        assert_eq!(
            sim.hidden("n01").reboots.len(),
            usize::from(finishes),
            "staged after {stage}"
        );
        assert_eq!(sim.hidden("n01").runs == "1.21.0", finishes);
        sim.retime("n01", |timing| timing.stage = seconds(60));
        sim.run_until_phase("web", Phase::Complete);
        sim.ends_well();
    }
}

#[test]
fn s4_only_what_fits_is_granted_all_the_same() {
    let mut sim = Sim::new().nodes(1).plan("web", FINISH);
    sim.settle();
    sim.run_to(at("08:07"));
    sim.add_node("late", "1.20.3", &[]);
    sim.settle();
    assert!(sim.reasons().contains("WontFitInWindow"));
    sim.run_to(at("09:10"));
    assert_eq!(sim.checker.granted[1].0, at("09:00"));
    sim.ends_well();
}

#[test]
fn s4_an_exclusion_that_begins_is_a_window_that_closes() {
    let spec = FINISH.replace("end: 2026-11-22T08:10:00Z", "end: 2026-11-22T08:30:00Z")
        + "exclusions: [{name: x, start: 2026-11-22T08:10:00Z, end: 2026-11-22T08:40:00Z}]\n";
    let (mut sim, [staging, draining, _]) = at_the_close(&spec);
    sim.run_to(at("08:39"));
    assert_eq!(sim.hidden(&draining).runs, "1.21.0");
    assert_eq!(sim.hidden(&staging).runs, "1.20.3");
    assert_eq!(sim.checker.granted.len(), 3);
    sim.retime(&staging, |timing| timing.stage = seconds(60));
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn s4_an_edit_to_withdraw_takes_back_what_was_to_finish() {
    let (mut sim, [staging, draining, _]) = at_the_close(FINISH);
    sim.run_to(at("08:11"));
    sim.edit("web", |spec| {
        spec.on_window_end = api::plan::OnWindowEnd::Withdraw
    });
    sim.run_for(seconds(10));
    assert!(!sim.facts(&draining).unschedulable);
    assert!(sim.hidden(&draining).reboots.is_empty());
    sim.retime(&staging, |timing| timing.stage = seconds(60));
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn s4_an_edit_to_finish_lets_finish_what_was_cordoned_inside() {
    let (mut sim, [staging, draining, _]) = at_the_close(&FINISH.replace("Finish", "Withdraw"));
    sim.edit("web", |spec| spec.on_window_end = api::plan::OnWindowEnd::Finish);
    sim.run_to(at("08:40"));
    assert_eq!(sim.hidden(&draining).runs, "1.21.0");
    sim.retime(&staging, |timing| timing.stage = seconds(60));
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn s4_an_edit_that_moves_the_window_away_from_the_cordon_withdraws() {
    let (mut sim, [staging, draining, _]) = at_the_close(FINISH);
    sim.run_to(at("08:11"));
    sim.edit("web", |spec| spec.maintenance_windows[0].end = Some(at("08:01")));
    sim.run_for(seconds(10));
    assert!(!sim.facts(&draining).unschedulable && sim.hidden(&draining).reboots.is_empty());
    sim.retime(&staging, |timing| timing.stage = seconds(60));
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn s4_a_ledger_that_is_lost_after_the_close_forgets_nothing() {
    let (mut sim, [staging, draining, _]) = at_the_close(FINISH);
    sim.run_to(at("08:11"));
    sim.lose_ledger();
    sim.run_to(at("08:50"));
    assert_eq!(sim.hidden(&draining).runs, "1.21.0");
    assert_eq!(sim.checker.granted.len(), 3);
    sim.retime(&staging, |timing| timing.stage = seconds(60));
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn s4_a_pause_still_takes_back_what_does_not_reboot_yet() {
    let (mut sim, [_, draining, _]) = at_the_close(FINISH);
    sim.run_to(at("08:11"));
    sim.edit("web", |spec| spec.paused = true);
    sim.run_for(seconds(10));
    assert!(!sim.facts(&draining).unschedulable && sim.hidden(&draining).reboots.is_empty());
}
