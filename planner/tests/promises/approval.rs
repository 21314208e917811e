//! S10, the person's part: a wave that has to be approved.

use api::{
    names::{APPROVE_ANNOTATION, REASON_ANNOTATION, RUN_NOW_ANNOTATION},
    plan::{Phase, WavePhase, condition},
    verdict::Verdict,
};
use insta::assert_snapshot;

use crate::support::{Sim, hours, minutes};

const CANARY: &str = "
maxUnavailable: 100%
waves: [{name: canary, size: 1, soak: 10m, approval: Manual}, {name: rest}]
";

fn awaiting() -> Sim {
    let mut sim = Sim::new().nodes(4).plan("web", CANARY);
    sim.run_until_phase("web", Phase::AwaitingApproval);
    sim
}

#[test]
fn s10_a_wave_that_has_to_be_approved_holds_the_next_until_it_is() {
    let mut sim = awaiting();
    assert_snapshot!("awaiting_approval", sim.describe("web"));
    sim.run_for(hours(72));
    assert_eq!(sim.checker.granted.len(), 1);
    let waiting = sim.status("web").waiting[0].nodes[0].clone();
    let (wave, run) = ("canary".to_owned(), sim.run_of("web"));
    assert_eq!(sim.verdict(&waiting), Verdict::AwaitingApproval { wave, run });
    sim.approve("web", "canary");
    sim.settle();
    assert_eq!(sim.granted().len(), 3, "at once");
    assert_snapshot!("approved", sim.describe("web"));
    assert!(sim.events.iter().any(|event| event.reason == "WaveApproved"));
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn who_asked_and_why_is_recorded_with_what_is_done_and_outlives_annotation_and_ledger() {
    let mut sim = awaiting();
    sim.annotate("web", REASON_ANNOTATION, "anna:\nlooks fine");
    sim.approve("web", "canary");
    sim.settle();
    sim.annotate("web", REASON_ANNOTATION, "");
    sim.lose_ledger();
    sim.settle();
    let said = |sim: &Sim| sim.status("web").actions[0].said.clone();
    assert_eq!(said(&sim).as_deref(), Some("anna: looks fine"));
    let event = sim
        .events
        .iter()
        .find(|event| event.reason == "WaveApproved")
        .unwrap();
    assert!(
        event.note.ends_with("is approved: anna: looks fine"),
        "{}",
        event.note
    );
}

#[test]
fn s10_an_approval_for_another_run_or_wave_approves_nothing_and_says_so() {
    let mut sim = awaiting();
    let run = sim.run_of("web");
    let long = format!("{run}/{}", "x".repeat(200));
    for value in [
        "00000000/canary",
        &format!("{run}/early"),
        &format!("{run}/rest"),
        "canary",
        &run,
        &long,
    ] {
        sim.annotate("web", APPROVE_ANNOTATION, value);
        sim.run_for(hours(1));
        assert_eq!(sim.checker.granted.len(), 1, "{value}");
        assert!(!sim.status("web").actions[0].taken);
    }
    let value = format!("00000000/canary, {run}/early,{run}/rest,, canary, {run}");
    sim.annotate("web", APPROVE_ANNOTATION, &value);
    sim.annotate("web", RUN_NOW_ANNOTATION, &run);
    sim.settle();
    assert_snapshot!("approvals_that_are_none", sim.describe("web"));
}

#[test]
fn s10_an_approval_that_comes_early_does_not_shorten_the_soak() {
    let mut sim = Sim::new().nodes(3).plan("web", CANARY);
    sim.settle();
    sim.approve("web", "canary");
    sim.run_until_phase("web", Phase::Soaking);
    let soaking = sim.now;
    sim.run_until("the rest begins", |sim| sim.checker.granted.len() > 1);
    assert!(sim.now > soaking + minutes(9));
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn s10_an_approval_stays_when_the_annotation_goes_and_the_ledger_is_lost() {
    let mut sim = Sim::new().nodes(3).plan("web", CANARY);
    sim.settle();
    sim.approve("web", "canary");
    sim.settle();
    sim.plan_mut("web").annotations.clear();
    sim.run_for(minutes(1));
    sim.lose_ledger();
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn s10_another_run_needs_an_approval_of_its_own() {
    let mut sim = awaiting();
    sim.approve("web", "canary");
    sim.run_until_phase("web", Phase::Complete);
    sim.edit("web", |spec| spec.target_version = "1.22.0".into());
    sim.run_until_phase("web", Phase::AwaitingApproval);
    assert_snapshot!("approved_in_the_run_before", sim.describe("web"));
    sim.run_for(hours(5));
    assert_eq!(sim.status("web").nodes.updated, 1);
    sim.approve("web", "canary");
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn s10_the_wave_is_watched_until_it_is_approved() {
    let mut sim = awaiting();
    let canary = sim.checker.granted[0].1.clone();
    sim.run_for(hours(1));
    sim.not_ready(&canary);
    sim.settle();
    assert_eq!(sim.phase("web"), Some(Phase::Halted));
    sim.approve("web", "canary");
    sim.run_for(hours(1));
    assert_eq!(sim.checker.granted.len(), 1);
}

#[test]
fn s10_the_last_wave_is_approved_before_the_run_is_complete() {
    let mut sim = Sim::new().nodes(2).plan(
        "web",
        "maxUnavailable: 2\nwaves: [{name: rest, approval: Manual}]",
    );
    sim.run_until_phase("web", Phase::AwaitingApproval);
    assert_snapshot!("last_wave_awaits_approval", sim.describe("web"));
    let progressing = |sim: &Sim| {
        let conditions = &sim.status("web").conditions;
        conditions
            .iter()
            .find(|c| c.type_ == condition::PROGRESSING)
            .unwrap()
            .status
            .clone()
    };
    assert_eq!(progressing(&sim), "False", "somebody has to do something");
    sim.run_for(hours(24));
    sim.approve("web", "rest");
    sim.settle();
    assert_eq!(sim.phase("web"), Some(Phase::Complete));
    sim.ends_well();
}

#[test]
fn s10_where_nothing_is_to_be_done_nothing_is_to_be_approved_until_there_is() {
    let mut sim = Sim::new()
        .node_with("a", "1.21.0", &[])
        .node_with("b", "1.21.0", &[])
        .plan("web", CANARY);
    sim.settle();
    assert_eq!(sim.phase("web"), Some(Phase::Complete));
    assert!(
        sim.status("web")
            .waves
            .iter()
            .all(|wave| wave.phase == WavePhase::Done)
    );
    sim.add_node("c", "1.20.3", &[]);
    sim.add_node("d", "1.20.3", &[]);
    sim.run_for(hours(5));
    assert_eq!(
        sim.checker.granted.len(),
        1,
        "the canary of those that have joined"
    );
    assert!(sim.reasons().contains("AwaitingApproval"));
    sim.approve("web", "canary");
    sim.run_for(hours(1));
    assert_eq!(sim.checker.granted.len(), 2);
    sim.ends_well();
}

#[test]
fn s10_a_wave_that_selects_nothing_is_approved_all_the_same_where_others_wait_behind_it() {
    let waves =
        "waves: [{name: none, nodeSelector: {matchLabels: {tier: x}}, approval: Manual}, {name: rest}]";
    let mut sim = Sim::new().nodes(2).plan("web", waves);
    sim.run_for(hours(1));
    assert!(sim.checker.granted.is_empty());
    assert_eq!(sim.phase("web"), Some(Phase::AwaitingApproval));
    sim.approve("web", "none");
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn s10_a_node_that_dies_while_its_wave_awaits_approval_has_failed_also_without_a_soak() {
    for last in [false, true] {
        let rest = if last {
            "{name: first, size: 1}, {name: second, approval: Manual}"
        } else {
            "{name: first, size: 1, approval: Manual}, {name: second}"
        };
        let mut sim = Sim::new().nodes(3).plan("web", &format!("waves: [{rest}]"));
        sim.run_until_phase("web", Phase::AwaitingApproval);
        let granted = sim.checker.granted.last().unwrap().1.clone();
        sim.not_ready(&granted);
        sim.settle();
        assert_eq!(sim.phase("web"), Some(Phase::Halted), "last: {last}");
        let message = &sim.status("web").failed[0].message;
        assert_eq!(
            *message,
            format!(
                "not Ready while wave {} awaits its approval",
                if last { "second" } else { "first" }
            )
        );
    }
}

#[test]
fn a_node_that_has_opted_out_is_not_watched() {
    let waves =
        "maxUnavailable: 2\nwaves: [{name: first, size: 1, soak: 1h, approval: Manual}, {name: rest}]";
    let mut sim = Sim::new().nodes(3).plan("web", waves);
    sim.run_until_phase("web", Phase::Soaking);
    let canary = sim.checker.granted[0].1.clone();
    sim.opt_out(&canary, Some("its disk is failing"));
    sim.not_ready(&canary);
    sim.run_for(hours(2));
    assert_eq!(sim.status("web").nodes.failed, 0);
    assert_eq!(sim.phase("web"), Some(Phase::AwaitingApproval));
    sim.approve("web", "first");
    sim.run_for(minutes(1));
    assert_eq!(sim.checker.granted.len(), 2, "the next wave goes on");
}
