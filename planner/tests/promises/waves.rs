//! S10 and the meaning of waves.

use std::collections::BTreeSet;

use api::plan::{Phase, WavePhase};
use insta::assert_snapshot;

use crate::support::{Fault, Sim, hours, minutes, seconds, sim::read_spec};

fn canary(size: &str, soak: &str) -> String {
    format!("maxUnavailable: 100%\nwaves: [{{name: canary, size: {size}, soak: {soak}}}, {{name: rest}}]")
}

/// The nodes that were granted in a wave.
pub fn members(sim: &Sim, wave: &str) -> BTreeSet<String> {
    sim.checker
        .granted
        .iter()
        .filter(|(_, _, g)| g.wave == wave)
        .map(|(_, name, _)| name.clone())
        .collect()
}

#[test]
fn s10_a_size_is_rounded_up_and_recorded() {
    for (size, nodes, expected) in [("1", 5, 1), ("10%", 11, 2), ("50%", 5, 3), ("7", 5, 5)] {
        let mut sim = Sim::new().nodes(nodes).plan("web", &canary(size, "1m"));
        sim.settle();
        assert_eq!(sim.granted().len(), expected, "{size} of {nodes}");
        assert_eq!(
            sim.ledger().plans["uid-web"].wave_sizes["canary"] as usize,
            expected.max(size.parse().unwrap_or(0))
        );
        sim.run_until_phase("web", Phase::Complete);
        assert_eq!(members(&sim, "canary").len(), expected);
        sim.ends_well();
    }
}

#[test]
fn s10_a_size_is_fixed_when_the_run_starts() {
    let mut sim = Sim::new().nodes(10).plan("web", &canary("20%", "10m"));
    sim.settle();
    let first = members(&sim, "canary");
    assert_eq!(first.len(), 2);
    for i in 0..20 {
        sim.add_node(&format!("new{i}"), "1.20.3", &[]);
    }
    sim.edit("web", |spec| spec.waves[0].size = Some("60%".parse().unwrap()));
    sim.run_until("the rest begins", |sim| !members(sim, "rest").is_empty());
    assert_eq!(
        members(&sim, "canary"),
        first,
        "neither newcomers nor an edit change it"
    );
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn s10_the_lowest_by_hash_are_taken_and_another_run_takes_others() {
    let choose = |target: &str| {
        let mut sim = Sim::new().nodes(12).plan("web", &canary("3", "1m"));
        if target != "1.21.0" {
            sim.edit("web", |spec| spec.target_version = target.to_owned());
        }
        sim.settle();
        members(&sim, "canary")
    };
    assert_eq!(choose("1.21.0"), choose("1.21.0"));
    assert_ne!(
        choose("1.21.0"),
        choose("1.22.0"),
        "the run is hashed, so it is not always the same nodes"
    );
}

#[test]
fn s10_nodes_that_need_nothing_or_cannot_answer_are_no_canaries() {
    let mut sim = Sim::new().nodes(6).plan("web", &canary("1", "1m"));
    let mut probe = sim.clone();
    probe.settle();
    let would_be = probe.granted()[0].clone();
    sim.break_node(&would_be, Fault::AgentSilent);
    sim.settle();
    assert!(!sim.granted().contains(&would_be), "its agent is silent");
    assert_eq!(sim.granted().len(), 1, "another takes its place");

    let mut sim = Sim::new().nodes(6).plan("web", &canary("1", "1m"));
    sim.facts_mut(&would_be)
        .shadow
        .as_mut()
        .unwrap()
        .status
        .as_mut()
        .unwrap()
        .current_version = "1.21.0".into();
    sim.hidden_mut(&would_be).runs = "1.21.0".into();
    sim.facts_mut(&would_be).os_image = "Bottlerocket OS 1.21.0 (aws-k8s-1.33)".into();
    sim.settle();
    assert_ne!(sim.granted(), [would_be], "it runs the target already");
    assert_eq!(sim.granted().len(), 1);
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn s10_newcomers_join_the_first_wave_that_takes_them() {
    let waves = "
maxUnavailable: 100%
waves:
- {name: dev, nodeSelector: {matchLabels: {tier: dev}}, soak: 10m}
- {name: rest}
";
    let mut sim = Sim::new()
        .nodes(2)
        .node_with("dev1", "1.20.3", &[("tier", "dev")])
        .plan("web", waves);
    sim.run_until("dev soaks", |sim| sim.phase("web") == Some(Phase::Soaking));
    let soaked = sim.now;
    sim.run_for(minutes(5));
    sim.add_node("dev2", "1.20.3", &[("tier", "dev")]);
    sim.add_node("n9", "1.20.3", &[]);
    sim.settle();
    assert_eq!(sim.granted(), ["dev2"]);
    assert_eq!(sim.verdict("n9").reason(), "WaveNotReached");
    sim.run_until("the rest begins", |sim| !members(sim, "rest").is_empty());
    assert!(sim.now >= soaked + minutes(15), "soak counts from the last node");
    sim.add_node("dev3", "1.20.3", &[("tier", "dev")]);
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(
        members(&sim, "dev"),
        ["dev1", "dev2", "dev3"].map(str::to_owned).into()
    );
    sim.ends_well();
}

#[test]
fn s10_a_granted_node_that_is_deleted_gives_its_place_back_while_the_wave_is_open() {
    let mut sim = Sim::new()
        .nodes(6)
        .plan("web", &canary("2", "5m").replace("100%", "2"));
    sim.settle();
    let gone = sim.granted()[0].clone();
    sim.run_for(seconds(30));
    sim.delete_node(&gone);
    sim.settle();
    assert_eq!(members(&sim, "canary").len(), 3, "another takes its place");
    assert_eq!(sim.granted().len(), 2);
    sim.run_until("the rest begins", |sim| !members(sim, "rest").is_empty());
    let canaries = members(&sim, "canary");
    let one = canaries.iter().find(|name| **name != gone).unwrap().clone();
    sim.delete_node(&one);
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(members(&sim, "canary"), canaries, "not when it is over");
    sim.ends_well();
}

#[test]
fn s10_a_node_that_turns_unhealthy_while_its_wave_soaks_has_failed() {
    let mut sim = Sim::new().nodes(4).plan("web", &canary("1", "30m"));
    sim.run_until_phase("web", Phase::Soaking);
    let canary = members(&sim, "canary").first().unwrap().clone();
    sim.run_for(minutes(10));
    sim.not_ready(&canary);
    sim.settle();
    assert_eq!(sim.phase("web"), Some(Phase::Halted));
    assert_snapshot!("unhealthy_while_soaking", sim.describe("web"));
    sim.ready(&canary);
    sim.run_for(hours(3));
    assert_eq!(sim.checker.granted.len(), 1, "S11");
    sim.ends_well();
}

#[test]
fn s10_below_the_threshold_a_soak_goes_on_with_what_is_proven() {
    let spec = canary("2", "30m") + "\nfailurePolicy: {retries: 0, threshold: 2}";
    let mut sim = Sim::new().nodes(5).plan("web", &spec);
    sim.run_until_phase("web", Phase::Soaking);
    let first = members(&sim, "canary").first().unwrap().clone();
    sim.not_ready(&first);
    sim.run_for(hours(1));
    sim.ready(&first);
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(
        (sim.status("web").nodes.updated, sim.status("web").nodes.failed),
        (4, 1)
    );
    sim.ends_well();
}

#[test]
fn s10_a_soak_goes_on_while_the_window_is_closed_and_while_paused() {
    let spec = "
expectedNodeDuration: 5m
maintenanceWindows: [{name: w, start: 2026-11-22T08:00:00Z, end: 2026-11-22T08:06:00Z},
                     {name: x, start: 2026-11-22T10:00:00Z, end: 2026-11-22T11:00:00Z}]
waves: [{name: canary, size: 1, soak: 30m}, {name: rest}]
";
    let mut sim = Sim::new().nodes(2).plan("web", spec);
    sim.run_until_phase("web", Phase::Soaking);
    sim.run_for(minutes(10));
    assert_eq!(sim.phase("web"), Some(Phase::Soaking));
    sim.run_to(crate::support::at("09:00"));
    assert_eq!(
        sim.phase("web"),
        Some(Phase::WaitingForWindow),
        "soak is wall time"
    );
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn s10_the_last_wave_soaks_too() {
    let mut sim = Sim::new()
        .nodes(2)
        .plan("web", "maxUnavailable: 2\nwaves: [{name: rest, soak: 1h}]");
    sim.run_until_phase("web", Phase::Soaking);
    let soaking = sim.now;
    assert_snapshot!("last_wave_soaks", sim.describe("web"));
    sim.run_until_phase("web", Phase::Complete);
    assert!(sim.now > soaking + minutes(59));
    sim.ends_well();
}

#[test]
fn s1_both_limits_hold_the_plans_and_the_waves() {
    let spec = "
maxUnavailable: 4
waves:
- {name: dev, nodeSelector: {matchLabels: {tier: dev}}, maxUnavailable: 50%}
- {name: rest, maxUnavailable: 9}
";
    let dev = |sim: Sim, i: usize| sim.node_with(&format!("dev{i}"), "1.20.3", &[("tier", "dev")]);
    let mut sim = (1..=5).fold(Sim::new().nodes(6), dev).plan("web", spec);
    sim.settle();
    assert_eq!(sim.granted().len(), 2, "50% of the wave's 5, rounded down");
    let limit: Vec<_> = sim
        .last
        .verdicts
        .iter()
        .filter(|v| v.verdict.reason() == "BudgetSpent")
        .collect();
    assert_eq!(limit.len(), 3);
    assert_snapshot!("limit_of_a_wave", sim.describe("web"));
    sim.run_until("the rest begins", |sim| !members(sim, "rest").is_empty());
    assert_eq!(sim.granted().len(), 4, "9 is beyond the plan's 4");
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn a_node_keeps_its_wave_for_the_whole_run() {
    let waves = "
maxUnavailable: 2
waves: [{name: dev, nodeSelector: {matchLabels: {tier: dev}}}, {name: rest}]
";
    let mut sim = Sim::new()
        .node_with("a", "1.20.3", &[("tier", "dev")])
        .nodes(1)
        .plan("web", waves);
    sim.settle();
    sim.break_node_times("a", Fault::PrepareFails, 1);
    sim.run_for(minutes(1));
    sim.facts_mut("a").labels.remove("tier");
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(members(&sim, "dev"), ["a".to_owned()].into(), "its retry too");
    assert_eq!(members(&sim, "rest").len(), 1);
    assert!(
        sim.status("web")
            .waves
            .iter()
            .all(|wave| wave.phase == WavePhase::Done)
    );
    sim.ends_well();
}

#[test]
fn s10_waves_that_are_added_later_start_in_their_order() {
    let waves = "
failurePolicy: {retries: 0, threshold: 3}
waves: [{name: a, size: 1}, {name: b, size: 1}, {name: rest}]
";
    let mut sim = Sim::new().nodes(8).plan("web", waves);
    sim.run_until("the rest begins", |sim| !members(sim, "rest").is_empty());
    let all = sim.plan_facts("web").spec.waves.clone();
    let only = all[2..].to_vec();
    sim.edit("web", |spec| spec.waves = only);
    sim.run_for(minutes(1));
    sim.edit("web", |spec| {
        spec.waves = all;
        spec.waves[0].name = "c".into();
        spec.waves[1].name = "d".into();
    });
    sim.run_for(minutes(1));
    assert!(members(&sim, "d").is_empty(), "d waits for c");
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!((members(&sim, "c").len(), members(&sim, "d").len()), (1, 1));
    sim.ends_well();
}

/// Found by the property that whatever happens ends well: such a wave soaked until a time at which nobody looked again.
#[test]
fn a_wave_without_a_soak_does_not_soak_when_the_clock_turns_out_to_be_ahead() {
    let mut sim = Sim::new().nodes(2).plan("web", "");
    sim.run_until_phase("web", Phase::Complete);
    sim.skew(31);
    sim.settle();
    assert_eq!(sim.status("web").waves[0].phase, WavePhase::Done);
    sim.run_for(minutes(2));
    sim.ends_well();
}

/// The clock was 31 s ahead as the canary ended, and is set right as it soaks: by that clock the soak is 31 s shorter, by the Kubernetes
/// API's it is as long as ever.
#[test]
fn s10_a_soak_is_told_by_the_clock_of_the_kubernetes_api() {
    let soaked = |ahead: i64| {
        let mut sim = Sim::new().nodes(2).plan("web", &canary("1", "3m"));
        sim.run_for(seconds(30));
        sim.skew(ahead);
        sim.run_until_phase("web", Phase::Soaking);
        let begun = sim.now;
        sim.skew(0);
        sim.run_until("the rest begins", |sim| !members(sim, "rest").is_empty());
        sim.now - begun
    };
    assert_eq!(soaked(0) - soaked(31), seconds(31));
}

#[test]
fn a_last_node_that_was_begun_and_is_held_up_is_skipped_and_the_run_complete() {
    let mut sim = Sim::new().nodes(1).plan("web", "skipAfter: 1h");
    sim.run_for(seconds(30));
    assert_eq!(sim.granted().len(), 1);
    sim.cordon("n01");
    sim.run_for(minutes(50));
    assert_ne!(sim.phase("web"), Some(Phase::Complete));
    sim.run_for(minutes(30));
    assert_eq!(sim.phase("web"), Some(Phase::Complete));
    assert_eq!(sim.status("web").nodes.skipped, 1);
}

#[test]
fn s10_a_wave_soaks_also_where_its_nodes_have_gone_since() {
    let waves = "maxUnavailable: 2
waves: [{name: dev, nodeSelector: {matchLabels: {tier: dev}}, soak: 2h}, {name: rest}]";
    for (leave, to_plan) in [(1, false), (2, false), (1, true), (2, true)] {
        let dev = [("tier", "dev")];
        let mut sim = Sim::new()
            .nodes(2)
            .node_with("dev1", "1.20.3", &dev)
            .node_with("dev2", "1.20.3", &dev)
            .plan("web", waves);
        sim.retime("dev2", |timing| timing.reboot = minutes(10));
        sim.run_until_phase("web", Phase::Soaking);
        let last = sim.now;
        sim.run_for(minutes(10));
        for node in ["dev2", "dev1"].into_iter().take(leave) {
            if to_plan {
                sim.facts_mut(node).labels.insert("pool".into(), "other".into());
            } else {
                sim.delete_node(node);
            }
        }
        if to_plan {
            let other = "paused: true\npriority: 1\nnodeSelector: {matchLabels: {pool: other}}";
            sim.apply_plan("other", other);
        }
        sim.run_to(last + hours(2) - minutes(2));
        assert_eq!(
            sim.checker.granted.len(),
            2,
            "{leave}, {to_plan}\n{}",
            sim.story()
        );
        sim.run_until("the rest begins", |sim| sim.checker.granted.len() > 2);
        assert!(sim.now <= last + hours(2) + minutes(2));
        sim.run_until_phase("web", Phase::Complete);
        sim.ends_well();
    }
}

#[test]
fn s10_a_wave_that_an_edit_puts_first_does_not_soak_for_the_one_after_it() {
    let waves = "waves: [{name: canary, size: 1, soak: 2h}, {name: rest}]";
    let mut sim = Sim::new().nodes(3).plan("web", waves);
    sim.run_until_phase("web", Phase::Soaking);
    let done = sim.now;
    sim.run_for(minutes(10));
    sim.edit("web", |spec| {
        let lab = "waves: [{name: lab, nodeSelector: {matchLabels: {tier: lab}}, soak: 48h}, {name: rest}]";
        let lab = read_spec(lab).waves.swap_remove(0);
        spec.waves.insert(0, lab);
    });
    sim.run_until("the rest begins", |sim| sim.checker.granted.len() > 1);
    assert!(sim.now >= done + hours(2) - minutes(1) && sim.now <= done + hours(2) + minutes(1));
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

/// The ledger that is made anew begins with the first wave. Whose node is down then is told before it counts as failed.
#[test]
fn a_node_that_is_down_as_a_wave_is_found_done_is_named() {
    let waves = "waves: [{name: canary, size: 2, soak: 3m}, {name: rest}]";
    let mut sim = Sim::new().nodes(3).plan("web", waves);
    sim.settle();
    let canary = sim.granted()[0].clone();
    sim.run_until("the last node is as good as done", |sim| {
        let status = sim.status("web");
        let last = status.nodes.updated == 2;
        last && status
            .active
            .iter()
            .any(|node| node.doing == "putting settings back")
    });
    let last = sim.granted()[0].clone();
    let well = ["n01", "n02", "n03"]
        .into_iter()
        .find(|node| *node != canary && *node != last);
    sim.cordon(well.unwrap());
    sim.not_ready(&canary);
    sim.lose_ledger();
    let mut told = Vec::new();
    while sim.step() {
        told.extend(sim.status("web").message.clone());
    }
    let named = format!("3 of 3 nodes run 1.21.0; wave canary: {canary} (not Ready)");
    assert!(told.contains(&named), "{told:#?}");
}
