//! A rollout from its first grant to Complete, and what people do to a plan meanwhile.

use std::collections::BTreeSet;

use api::{plan::Phase, quantity::IntOrPercent};
use insta::assert_snapshot;

use crate::support::{Fault, Sim, Timing, at, hours, minutes, seconds};

/// Three waves, two windows, and limits in percent.
const THREE_WAVES: &str = "
maxUnavailable: 25%
expectedNodeDuration: 10m
maintenanceWindows:
- {name: morning, start: 2026-11-22T08:00:00Z, end: 2026-11-22T08:26:00Z}
- {name: evening, start: 2026-11-22T20:00:00Z, end: 2026-11-22T23:00:00Z}
waves:
- {name: canary, size: 1, soak: 5m}
- {name: early, nodeSelector: {matchLabels: {tier: dev}}, maxUnavailable: 50%, soak: 2m}
- {name: rest}
";

fn fleet() -> Sim {
    let fleet = (1..=4).fold(Sim::new(), |sim, i| {
        sim.node_with(&format!("dev{i}"), "1.20.3", &[("tier", "dev")])
    });
    fleet.nodes(8)
}

#[test]
fn twelve_nodes_through_waves_and_windows() {
    let mut sim = fleet().plan("web", THREE_WAVES);
    sim.run_for(minutes(1));
    assert_snapshot!("canary_under_way", sim.describe("web"));
    sim.run_until_phase("web", Phase::Soaking);
    assert_snapshot!("canary_soaks", sim.describe("web"));
    sim.run_until("the last wave is open", |sim| {
        sim.status("web").waves[2].updating > 0
    });
    sim.run_for(seconds(100));
    assert_snapshot!("last_wave_under_way", sim.describe("web"));
    sim.run_until_phase("web", Phase::WaitingForWindow);
    assert_snapshot!("window_about_to_close", sim.describe("web"));
    sim.run_to(at("12:00"));
    assert_snapshot!("between_windows", sim.describe("web"));
    sim.run_until_phase("web", Phase::Complete);
    assert_snapshot!("complete", sim.describe("web"));
    assert!(sim.now > at("20:00"));
    assert_eq!(sim.checker.granted.len(), 12);
    assert_eq!(sim.checker.most_unavailable["uid-web"], 3, "the budget is used");
    sim.ends_well();
    assert!(
        sim.world
            .nodes
            .iter()
            .all(|node| sim.nodes[&node.uid].reboots.len() == 1)
    );
}

#[test]
fn l7_the_same_plan_twice_finds_nothing_to_do() {
    let mut sim = Sim::new().nodes(3).plan("web", "");
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
    let decisions = sim.decide();
    assert_eq!((decisions.ledger, decisions.actions), (None, vec![]));
    assert_eq!(decisions.statuses[0].status, *sim.status("web"));

    sim.delete_plan("web");
    assert!(!sim.has_plan("web"), "without grants there is no finalizer");
    sim.run_for(minutes(1));
    sim.apply_plan("web", "");
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(sim.checker.granted.len(), 3, "nothing more was granted");
    sim.ends_well();
}

#[test]
fn a_raised_target_is_a_new_run() {
    let mut sim = Sim::new().nodes(3).plan("web", "maxUnavailable: 3");
    sim.run_until_phase("web", Phase::Complete);
    let first = sim.status("web").run.clone().unwrap();
    sim.edit("web", |spec| spec.target_version = "1.22.0".into());
    sim.settle();
    let second = sim.status("web").run.clone().unwrap();
    assert_ne!(first.id, second.id);
    assert_eq!(
        (second.target.as_str(), second.completed_at),
        ("1.22.0", None),
        "completion latches per run"
    );
    sim.run_until_phase("web", Phase::Complete);
    assert!(sim.nodes.values().all(|node| node.runs == "1.22.0"));
    sim.ends_well();
}

#[test]
fn s12_a_target_raised_on_the_way_withdraws_what_does_not_yet_reboot() {
    let mut sim = Sim::new().nodes(4).plan("web", "maxUnavailable: 2");
    sim.settle();
    let [slow, fast] = <[String; 2]>::try_from(sim.granted()).unwrap();
    sim.retime(&slow, |timing| timing.stage = hours(1));
    sim.run_until("one reboots", |sim| !sim.hidden(&fast).up);
    sim.edit("web", |spec| spec.target_version = "1.22.0".into());
    sim.settle();
    assert!(
        sim.ledger()
            .grants
            .values()
            .any(|g| g.node == fast && g.to == "1.21.0"),
        "a reboot goes on"
    );
    sim.retime(&slow, |timing| timing.stage = minutes(1));
    sim.run_until("the withdrawn one is granted anew", |sim| {
        sim.ledger()
            .grants
            .values()
            .any(|g| g.node == slow && g.to == "1.22.0")
    });
    sim.run_until_phase("web", Phase::Complete);
    assert!(sim.nodes.values().all(|node| node.runs == "1.22.0"));
    assert_eq!(sim.hidden(&fast).reboots.len(), 2, "once into each target");
    assert_eq!(sim.hidden(&slow).reboots.len(), 1);
    sim.ends_well();
}

#[test]
fn s12_paused_and_resumed() {
    let mut sim = Sim::new().nodes(6).plan("web", "maxUnavailable: 3");
    sim.settle();
    let [staging, draining, rebooting] = <[String; 3]>::try_from(sim.granted()).unwrap();
    sim.retime(&staging, |timing| timing.stage = hours(1));
    sim.retime(&draining, |timing| timing.drain = hours(1));
    sim.run_until("one reboots", |sim| !sim.hidden(&rebooting).up);
    sim.edit("web", |spec| spec.paused = true);
    sim.settle();
    assert_snapshot!("paused_with_a_node_rebooting", sim.describe("web"));
    sim.run_until("the safe points are reached", |sim| {
        sim.ledger().grants.is_empty()
    });
    assert_eq!(sim.hidden(&rebooting).runs, "1.21.0", "it finishes");
    for node in [&staging, &draining] {
        assert!(
            !sim.facts(node).unschedulable && !sim.hidden(node).activated,
            "{node} is withdrawn"
        );
        assert_eq!(sim.verdict(node).reason(), "Paused");
    }
    sim.run_for(hours(5));
    assert_snapshot!("paused", sim.describe("web"));
    assert_eq!(sim.checker.granted.len(), 3);

    for node in [staging, draining] {
        sim.retime(&node, |timing| *timing = Timing::default());
    }
    let run = sim.status("web").run.clone().unwrap().id;
    sim.edit("web", |spec| spec.paused = false);
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(
        sim.status("web").run.clone().unwrap().id,
        run,
        "the same run goes on"
    );
    sim.ends_well();
}

#[test]
fn s12_deleted_half_way_the_finalizer_comes_first_and_goes_last() {
    let mut sim = Sim::new().nodes(6).plan("web", "maxUnavailable: 2");
    while !sim.plan_facts("web").finalizer {
        assert!(
            sim.ledger().grants.is_empty(),
            "the finalizer comes before the first grant"
        );
        sim.step();
    }
    sim.settle();
    let [slow, fast] = <[String; 2]>::try_from(sim.granted()).unwrap();
    sim.retime(&slow, |timing| timing.drain = hours(1));
    sim.run_until("one reboots", |sim| !sim.hidden(&fast).up);
    sim.delete_plan("web");
    sim.settle();
    assert!(sim.has_plan("web"));
    assert_snapshot!("being_deleted", sim.describe("web"));
    sim.run_until("the plan is gone", |sim| !sim.has_plan("web"));
    assert!(sim.ledger().grants.is_empty());
    assert_eq!(sim.checker.granted.len(), 2, "nothing more was granted");
    assert_eq!(sim.hidden(&fast).runs, "1.21.0", "what reboots finishes");
    sim.ends_well();
    assert!(sim.ledger().plans.is_empty(), "the ledger forgets it");
}

#[test]
fn an_edit_that_keeps_the_target_keeps_the_progress() {
    let mut sim = fleet().plan("web", THREE_WAVES);
    sim.run_until("the second wave is under way", |sim| {
        sim.status("web").waves[1].updated == 2
    });
    let before = sim.status("web").clone();
    sim.edit("web", |spec| {
        spec.maintenance_windows.clear();
        spec.waves[0].soak = "1h".parse().unwrap();
        spec.drain.timeout = "5m".parse().unwrap();
    });
    sim.settle();
    assert_eq!(sim.status("web").run, before.run);
    assert_eq!(sim.status("web").waves, before.waves, "no wave begins again");
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(sim.checker.granted.len(), 12, "nothing was granted twice");
    sim.ends_well();
}

#[test]
fn s1_a_lowered_limit_stops_new_grants_only() {
    let mut sim = Sim::new().nodes(8).plan("web", "maxUnavailable: 4");
    sim.settle();
    let first: BTreeSet<String> = sim.granted().into_iter().collect();
    assert_eq!(first.len(), 4);
    sim.run_for(seconds(30));
    sim.edit("web", |spec| spec.max_unavailable = IntOrPercent::Int(1));
    sim.settle();
    assert_eq!(sim.granted().len(), 4, "none is taken back");
    sim.checker.granted.clear();
    sim.run_until("the next is granted", |sim| !sim.checker.granted.is_empty());
    assert_eq!(
        sim.granted().len(),
        1,
        "only when less than the new limit are unavailable"
    );
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn newcomers_after_completion_are_updated_and_the_run_stays_complete() {
    let mut sim = Sim::new().nodes(2).plan("web", "");
    sim.run_until_phase("web", Phase::Complete);
    let run = sim.status("web").run.clone();
    sim.run_for(hours(1));
    sim.add_node("late", "1.20.3", &[]);
    sim.run_for(seconds(30));
    assert_snapshot!("newcomer_after_completion", sim.describe("web"));
    sim.run_for(hours(1));
    assert_eq!(sim.hidden("late").runs, "1.21.0");
    assert_eq!(
        (sim.phase("web"), &sim.status("web").run),
        (Some(Phase::Complete), &run)
    );
    sim.ends_well();
}

#[test]
fn newer_nodes_are_skipped_and_an_empty_plan_is_pending() {
    let mut sim = Sim::new().plan("web", "");
    sim.settle();
    assert_snapshot!("nothing_matches", sim.describe("web"));
    sim.add_node("new", "1.22.0", &[]);
    sim.add_node("old", "1.20.3", &[]);
    sim.run_until_phase("web", Phase::Complete);
    assert_snapshot!("complete_with_skipped", sim.describe("web"));
    assert_eq!(sim.hidden("new").runs, "1.22.0", "S8");
    sim.ends_well();
}

#[test]
fn of_more_nodes_than_the_status_names_all_are_counted() {
    let mut sim = Sim::new().nodes(25).plan("web", "maxUnavailable: 25");
    sim.run_for(seconds(30));
    let status = sim.status("web");
    assert_eq!((status.nodes.updating, status.active.len()), (25, 20));
    let message = status.message.as_deref().unwrap();
    assert!(message.ends_with(" and 22 more"), "{message}");
}

#[test]
fn of_more_nodes_than_the_status_names_those_that_are_held_up_come_first() {
    let mut sim = Sim::new().nodes(25).plan("web", "maxUnavailable: 25");
    sim.break_node("n25", Fault::DrainBlocked);
    sim.run_for(seconds(150));
    let active = &sim.status("web").active;
    assert_eq!(active.len(), 20);
    let first = &active[0];
    assert_eq!(
        (first.node.as_str(), first.reason.as_deref()),
        ("n25", Some("DrainBlocked"))
    );
}
