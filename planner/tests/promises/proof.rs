//! S10: a wave opens the next only when it has proven something.

use api::plan::Phase;
use insta::assert_snapshot;

use super::waves::members;
use crate::support::{Fault, Sim, hours, minutes, seconds, sim::read_spec};

#[test]
fn s10_a_canary_must_prove_something() {
    let policy = "
maxUnavailable: 2
failurePolicy: {retries: 0, threshold: 5}
waves: [{name: canary, size: 2, soak: 1m}, {name: rest}]
";
    let mut sim = Sim::new().nodes(6).plan("web", policy);
    sim.break_every_node(Fault::PrepareFails);
    sim.run_for(hours(5));
    assert_eq!(
        sim.checker.granted.len(),
        2,
        "both canaries failed, so nothing else begins"
    );
    assert_snapshot!("canary_proved_nothing", sim.describe("web"));
    sim.mend_every_node();
    sim.edit("web", |spec| spec.failure_policy.retries = 1);
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn s10_one_proven_canary_is_enough() {
    let policy = "
maxUnavailable: 2
failurePolicy: {retries: 0, threshold: 5}
waves: [{name: canary, size: 2, soak: 1m}, {name: rest}]
";
    let mut sim = Sim::new().nodes(6).plan("web", policy);
    sim.settle();
    let failing = sim.granted()[0].clone();
    sim.break_node(&failing, Fault::PrepareFails);
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(sim.status("web").nodes.updated, 5);
    sim.ends_well();
}

#[test]
fn s10_a_wave_with_nothing_to_do_needs_no_proof() {
    let waves = "
waves:
- {name: none, nodeSelector: {matchLabels: {tier: none}}, soak: 1h}
- {name: done, nodeSelector: {matchLabels: {tier: done}}, soak: 1h}
- {name: rest}
";
    let mut sim = Sim::new()
        .nodes(2)
        .node_with("d", "1.21.0", &[("tier", "done")])
        .plan("web", waves);
    sim.run_until_phase("web", Phase::Complete);
    assert!(sim.now < crate::support::at("08:10"), "and does not soak");
    sim.ends_well();
}

/// A canary that does not come back, and is deleted by whoever repairs nodes, has proven nothing; nor has one that failed and is cleared
/// up. Who is left does not get what it died of.
#[test]
fn s10_a_canary_that_is_gone_unproven_holds_the_rest() {
    let spec = "maxUnavailable: 100%\nfailurePolicy: {threshold: 2, retries: 0}
waves: [{name: canary, nodeSelector: {matchLabels: {tier: dev}}}, {name: rest}]";
    let dev = [("tier", "dev")];
    for fails in [false, true] {
        let mut sim = Sim::new()
            .nodes(3)
            .node_with("dev", "1.20.3", &dev)
            .plan("web", spec);
        sim.break_node("dev", Fault::NeverReturns);
        sim.run_until("it reboots", |sim| !sim.hidden("dev").reboots.is_empty());
        if fails {
            sim.run_until("it has failed", |sim| sim.status("web").nodes.failed == 1);
        }
        sim.delete_node("dev");
        sim.run_for(hours(2));
        assert!(members(&sim, "rest").is_empty(), "{}", sim.story());
        assert_snapshot!(
            "a_canary_that_is_gone",
            sim.status("web").message.as_ref().unwrap()
        );
        // One that takes its place, or a person who says so, lets it go on.
        if fails {
            sim.retry("web", "again");
        } else {
            sim.add_node("dev2", "1.20.3", &dev);
            sim.run_for(minutes(1));
            assert!(members(&sim, "rest").is_empty(), "{}", sim.story());
        }
        sim.run_until_phase("web", Phase::Complete);
        assert_eq!(members(&sim, "rest").len(), 3);
        sim.ends_well();
    }
}

/// Somebody takes the canary further than its plan does: that proves nothing of the plan's version, until a person says that it may go on.
#[test]
fn s10_a_canary_that_runs_a_newer_version_by_now_holds_the_rest_until_a_retry() {
    for wave in [
        "nodeSelector: {matchLabels: {tier: dev}}",
        "size: 1, nodeSelector: {matchLabels: {tier: dev}}",
    ] {
        let mut sim = Sim::new()
            .nodes(3)
            .node_with("dev", "1.20.3", &[("tier", "dev")])
            .plan(
                "web",
                &format!("waves: [{{name: canary, {wave}}}, {{name: rest}}]"),
            );
        sim.run_until("it has begun", |sim| sim.granted() == ["dev"]);
        // Only what it had not proven when it was asked for.
        sim.retry("web", "before");
        sim.run_for(seconds(5));
        sim.edit("web", |spec| spec.paused = true);
        sim.run_until("it is withdrawn", |sim| sim.granted().is_empty());
        sim.retry("web", "between");
        sim.run_for(minutes(5));
        sim.hidden_mut("dev").runs = "1.22.0".into();
        let rebooted = sim.now;
        let facts = sim.facts_mut("dev");
        facts.ready_changed = Some(rebooted);
        facts.os_image = "Bottlerocket OS 1.22.0 (aws-k8s-1.33)".into();
        facts
            .shadow
            .as_mut()
            .unwrap()
            .status
            .as_mut()
            .unwrap()
            .current_version = "1.22.0".into();
        sim.edit("web", |spec| spec.paused = false);
        sim.run_for(hours(2));
        assert!(members(&sim, "rest").is_empty(), "{}", sim.story());
        assert_snapshot!(
            "a_canary_that_runs_newer",
            sim.status("web").message.as_ref().unwrap()
        );
        sim.retry("web", "again");
        sim.run_until_phase("web", Phase::Complete);
        assert_eq!(members(&sim, "rest").len(), 3);
        sim.ends_well();
    }
}

/// A canary that goes back as its window closes, and is then updated by hand, has soaked for no time when the next one opens.
#[test]
fn s10_a_canary_that_is_updated_by_hand_soaks_from_then_on() {
    let mut sim = Sim::new()
        .nodes(3)
        .plan("web", "waves: [{name: canary, size: 1, soak: 30m}, {name: rest}]");
    sim.run_until("it has begun", |sim| !sim.granted().is_empty());
    let canary = sim.granted().remove(0);
    sim.edit("web", |spec| spec.paused = true);
    sim.run_for(hours(3));
    sim.hidden_mut(&canary).runs = "1.21.0".into();
    let by_hand = sim.now;
    let facts = sim.facts_mut(&canary);
    facts.os_image = "Bottlerocket OS 1.21.0 (aws-k8s-1.33)".into();
    facts.ready_changed = Some(by_hand);
    facts
        .shadow
        .as_mut()
        .unwrap()
        .status
        .as_mut()
        .unwrap()
        .current_version = "1.21.0".into();
    sim.edit("web", |spec| spec.paused = false);
    sim.run_until("the rest", |sim| !members(sim, "rest").is_empty());
    assert_eq!(sim.now - by_hand, minutes(30), "{}", sim.story());
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

/// When it was Ready again counts for its soak, and never after.
#[test]
fn a_node_that_was_updated_by_hand_may_go_down_once_its_run_is_complete() {
    let mut sim = Sim::new().nodes(1).plan("web", "waves: [{name: all, soak: 30m}]");
    sim.run_until("it has begun", |sim| !sim.granted().is_empty());
    sim.edit("web", |spec| spec.paused = true);
    sim.run_for(hours(3));
    sim.hidden_mut("n01").runs = "1.21.0".into();
    let by_hand = sim.now;
    let facts = sim.facts_mut("n01");
    facts.os_image = "Bottlerocket OS 1.21.0 (aws-k8s-1.33)".into();
    facts.ready_changed = Some(by_hand);
    facts
        .shadow
        .as_mut()
        .unwrap()
        .status
        .as_mut()
        .unwrap()
        .current_version = "1.21.0".into();
    sim.edit("web", |spec| spec.paused = false);
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(sim.now - by_hand, minutes(30));
    sim.run_for(hours(24));
    sim.not_ready("n01");
    sim.run_for(hours(1));
    assert_eq!(
        (sim.phase("web"), sim.status("web").nodes.failed),
        (Some(Phase::Complete), 0)
    );
    assert_eq!(sim.ledger().plans["uid-web"].soaks_from, Some(by_hand), "L7");
}

/// Nothing was to be done, so that nobody had to approve the canary; newcomers go through the waves.
#[test]
fn l1_newcomers_of_a_complete_run_that_prove_nothing_say_so() {
    let spec = "failurePolicy: {threshold: 2, retries: 0}
waves: [{name: canary, size: 1, approval: Manual}, {name: rest}]";
    let mut sim = Sim::new().node_with("done", "1.21.0", &[]).plan("web", spec);
    sim.run_until_phase("web", Phase::Complete);
    sim.add_node("late1", "1.20.3", &[]);
    sim.run_until("it begins", |sim| !sim.granted().is_empty());
    sim.break_node("late1", Fault::PrepareFails);
    sim.add_node("late2", "1.20.3", &[]);
    sim.run_for(hours(2));
    assert_eq!(sim.phase("web"), Some(Phase::Complete));
    assert_snapshot!(
        "newcomers_prove_nothing",
        sim.status("web").message.as_ref().unwrap()
    );
    sim.mend_node("late1");
    sim.retry("web", "again");
    sim.run_until("it is updated", |sim| sim.status("web").nodes.updated == 2);
    sim.approve("web", "canary");
    sim.run_until("all are", |sim| sim.status("web").nodes.updated == 3);
    sim.ends_well();
}

/// What is owed is the wave's own, wherever an edit puts it; and who takes the wave out of the plan wants no proof of it.
#[test]
fn s10_an_edit_neither_forgets_nor_moves_the_proof_that_a_wave_owes() {
    let waves = "waves: [{name: canary, nodeSelector: {matchLabels: {tier: dev}}}, {name: rest}]";
    let mut sim = Sim::new()
        .nodes(3)
        .node_with("dev", "1.20.3", &[("tier", "dev")])
        .plan("web", waves);
    sim.run_until("it has begun", |sim| sim.granted() == ["dev"]);
    sim.delete_node("dev");
    sim.run_for(minutes(10));
    sim.edit("web", |spec| {
        let lab = "waves: [{name: lab, nodeSelector: {matchLabels: {tier: lab}}}, {name: rest}]";
        spec.waves.insert(0, read_spec(lab).waves.swap_remove(0));
    });
    sim.run_for(hours(2));
    assert!(members(&sim, "rest").is_empty(), "{}", sim.story());
    let message = sim.status("web").message.clone().unwrap_or_default();
    assert!(
        message.contains("wave canary: none of its nodes could be updated"),
        "{message}"
    );
    sim.edit("web", |spec| drop(spec.waves.remove(1)));
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(members(&sim, "rest").len(), 3);
    sim.ends_well();
}

#[test]
fn l2_where_nobody_waits_for_its_proof_a_run_is_complete_without_its_canary() {
    let waves = "waves: [{name: canary, nodeSelector: {matchLabels: {tier: dev}}}, {name: rest}]";
    let mut sim = Sim::new()
        .node_with("dev", "1.20.3", &[("tier", "dev")])
        .node_with("done", "1.21.0", &[])
        .plan("web", waves);
    sim.run_until("it has begun", |sim| sim.granted() == ["dev"]);
    sim.delete_node("dev");
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}
