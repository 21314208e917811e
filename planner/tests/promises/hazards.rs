//! What goes wrong at an awkward moment: the clock, an admin, a new leader, a lost shadow.

use api::{
    ledger::{GrantPhase, PERMIT_VALIDITY},
    plan::Phase,
    shadow::{FailureReason, NodeState},
};
use planner::decisions::Action;

use crate::support::{Fault, Sim, at, hours, minutes, seconds};

fn phase_of(sim: &Sim, node: &str) -> Option<GrantPhase> {
    sim.ledger()
        .grants
        .get(&sim.facts(node).uid)
        .map(|grant| grant.phase)
}

/// A plan with one node under way, in this phase.
fn one_node_in(phase: GrantPhase, spec: &str) -> (Sim, String) {
    let mut sim = Sim::new().nodes(3).plan("web", spec);
    sim.run_until("the phase", |sim| {
        sim.ledger().grants.values().any(|grant| grant.phase == phase)
    });
    let node = sim.granted().remove(0);
    (sim, node)
}

#[test]
fn s4_by_a_clock_that_is_wrong_no_node_is_cordoned_outside_the_window() {
    let window = "
expectedNodeDuration: 1m
maintenanceWindows: [{name: w, start: 2026-11-22T08:00:00Z, end: 2026-11-22T08:30:00Z}]
";
    let mut sim = Sim::new().nodes(1).plan("web", window);
    sim.settle();
    let node = sim.granted().remove(0);
    sim.retime(&node, |timing| timing.stage = minutes(10));
    sim.run_to(at("08:05"));
    // It is 09:05, and the controller's clock says 08:05.
    sim.skew(-3600);
    sim.settle();
    assert_eq!(phase_of(&sim, &node), Some(GrantPhase::Withdrawing));
    sim.run_for(minutes(20));
    assert!(!sim.facts(&node).unschedulable && sim.ledger().grants.is_empty());
}

#[test]
fn s9_a_cordon_that_an_admin_makes_after_an_uncordon_stays() {
    for phase in [GrantPhase::Granted, GrantPhase::Rebooting] {
        let (mut sim, node) = one_node_in(phase, "");
        sim.run_until("the cordon", |sim| sim.facts(&node).unschedulable);
        sim.uncordon(&node);
        sim.break_node(&node, Fault::AgentSilent);
        sim.settle();
        assert_eq!(
            sim.facts(&node).disruption,
            None,
            "the annotation goes at once, in {phase}"
        );
        sim.cordon(&node);
        sim.run_for(hours(1));
        assert!(sim.facts(&node).unschedulable, "in {phase}");
    }
}

#[test]
fn s10_a_wave_whose_node_is_down_as_its_soak_ends_does_not_open_the_next() {
    let waves = "failurePolicy: {threshold: 3}\nwaves: [{name: canary, size: 1, soak: 10m}, {name: rest}]";
    let mut sim = Sim::new().nodes(4).plan("web", waves);
    sim.run_until_phase("web", Phase::Soaking);
    let until = sim.status("web").waves[0].soak_until.unwrap();
    let canary = sim
        .world
        .nodes
        .iter()
        .find(|n| n.shadow.as_ref().is_some_and(|s| s.spec.wave.is_some()));
    let canary = canary.unwrap().name.clone();
    sim.run_to(until - seconds(1));
    // As where the write of the failure is held up until the soak is over.
    sim.now = until;
    sim.not_ready(&canary);
    assert_eq!(sim.ledger().plans["uid-web"].open_wave, 0);
    sim.settle();
    sim.run_for(minutes(5));
    assert_eq!(sim.ledger().plans["uid-web"].open_wave, 0, "nothing is proven");
    let failure = sim.facts(&canary).shadow.as_ref().unwrap().spec.failure.clone();
    assert_eq!(failure.unwrap().reason, FailureReason::Unhealthy);
}

#[test]
fn s10_where_a_finished_wave_is_taken_away_the_next_is_not_skipped() {
    let waves = "waves: [{name: a, size: 1}, {name: b, size: 1, soak: 10m}, {name: rest}]";
    let mut sim = Sim::new().nodes(5).plan("web", waves);
    sim.run_until("b begins", |sim| {
        sim.ledger().grants.values().any(|grant| grant.wave == "b")
    });
    sim.edit("web", |spec| drop(spec.waves.remove(0)));
    sim.settle();
    sim.run_until_phase("web", Phase::Soaking);
    let waves: Vec<_> = sim
        .ledger()
        .grants
        .values()
        .map(|grant| grant.wave.as_str())
        .collect();
    assert_eq!(waves, [""; 0], "rest waits until b has soaked");
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn s5_a_failed_grant_is_not_released_while_its_permit_is_valid() {
    let (mut sim, node) = one_node_in(GrantPhase::Rebooting, "timeouts: {reboot: 2m}");
    sim.world.settings.release_wait = seconds(1);
    sim.break_node(&node, Fault::AgentSilent);
    let uid = sim.facts(&node).uid.clone();
    sim.run_until("the failure", |sim| sim.ledger().grants[&uid].ending.is_some());
    let failed = sim.ledger().grants[&uid].ending.as_ref().unwrap().at;
    sim.run_to(failed + PERMIT_VALIDITY - seconds(1));
    assert!(sim.ledger().grants.contains_key(&uid));
    sim.run_for(minutes(2));
    assert!(!sim.ledger().grants.contains_key(&uid));
}

#[test]
fn s1_a_plan_that_was_deleted_by_force_still_counts_for_the_one_after_it() {
    let (mut sim, node) = one_node_in(GrantPhase::Rebooting, "");
    sim.retime(&node, |timing| timing.reboot = minutes(10));
    sim.world.plans.clear();
    sim.apply_plan("again", "");
    sim.run_for(minutes(5));
    assert_eq!(sim.granted(), [node], "maxUnavailable is 1");
    sim.run_until_phase("again", Phase::Complete);
}

#[test]
fn a_shadow_that_is_made_anew_while_its_node_is_monitored_is_no_failure() {
    let (mut sim, node) = one_node_in(GrantPhase::Monitoring, "monitoring: {minReady: 2m}");
    let uid = sim.facts(&node).uid.clone();
    sim.facts_mut(&node).shadow.as_mut().unwrap().status = None;
    sim.settle();
    assert_eq!(sim.ledger().grants[&uid].ending, None);
}

#[test]
fn a_failure_is_counted_once_where_the_ledger_is_lost_while_it_is_undone() {
    let mut sim = Sim::new()
        .nodes(2)
        .plan("web", "failurePolicy: {retries: 1, threshold: 1}");
    sim.settle();
    let node = sim.granted().remove(0);
    sim.break_node_times(&node, Fault::PrepareFails, 1);
    let resetting = |sim: &Sim| sim.facts(&node).shadow.as_ref().unwrap().spec.state == NodeState::ErrorReset;
    sim.run_until("it is undone", resetting);
    sim.break_node(&node, Fault::AgentSilent);
    sim.run_for(seconds(5));
    sim.lose_ledger();
    sim.settle();
    sim.mend_node(&node);
    assert!(!sim.ledger().plans["uid-web"].halted);
    sim.run_until_phase("web", Phase::Complete);
}

#[test]
fn a_drain_whose_deadline_passed_while_there_was_no_leader_is_looked_at_before_it_is_judged() {
    let (mut sim, node) = one_node_in(GrantPhase::Granted, "drain: {timeout: 5m}");
    sim.run_until("the cordon", |sim| sim.facts(&node).unschedulable);
    let uid = sim.facts(&node).uid.clone();
    sim.now += minutes(5) + seconds(30);
    sim.facts_mut(&node).drain = None;
    let decisions = sim.decide();
    assert_eq!(decisions.drains.len(), 1);
    assert!(
        decisions
            .ledger
            .is_none_or(|change| change.spec.grants[&uid].ending.is_none())
    );
}

#[test]
fn a_node_that_crashes_into_the_target_is_no_failure() {
    for phase in [GrantPhase::Granted, GrantPhase::Drained] {
        let (mut sim, node) = one_node_in(phase, "failurePolicy: {retries: 0}");
        sim.run_until("the cordon", |sim| sim.facts(&node).unschedulable);
        sim.crash(&node);
        sim.run_until_phase("web", Phase::Complete);
        assert_eq!(sim.hidden(&node).runs, "1.21.0");
        sim.ends_well();
    }
}

#[test]
fn s12_a_controller_that_has_not_seen_an_edit_yet_does_not_undo_what_the_ledger_holds_of_it() {
    let (mut sim, node) = one_node_in(GrantPhase::Granted, "");
    let older = sim.world.plans.clone();
    sim.edit("web", |spec| spec.paused = true);
    sim.settle();
    assert_eq!(sim.ledger().plans["uid-web"].generation, older[0].generation + 1);
    assert_ne!(phase_of(&sim, &node), Some(GrantPhase::Granted), "it goes back");
    // Another controller knows the ledger, and the plan as it was before.
    let lagging = planner::world::World {
        plans: older,
        ..sim.world.clone()
    };
    assert_eq!(
        planner::plan(sim.now, &lagging),
        planner::decisions::Decisions::default()
    );
}

#[test]
fn s5_an_attempt_that_was_numbered_by_an_older_shadow_is_taken_back_before_anybody_is_told_of_it() {
    for runs_target in [false, true] {
        let (mut sim, node) = one_node_in(GrantPhase::Granted, "");
        let uid = sim.facts(&node).uid.clone();
        let grant = sim.ledger().grants[&uid].clone();
        let mut nodes = sim.world.nodes.iter_mut();
        let facts = nodes.find(|facts| facts.uid == uid).unwrap();
        facts.disruption = None;
        facts.unschedulable = false;
        // What another controller has made of the node, and the one that granted had not seen.
        let shadow = facts.shadow.as_mut().unwrap();
        shadow.spec.state = NodeState::Idle;
        shadow.spec.run = Some(grant.run.clone());
        shadow.spec.attempt = Some(grant.attempt - u32::from(runs_target));
        if runs_target {
            shadow
                .status
                .as_mut()
                .unwrap()
                .current_version
                .clone_from(&grant.to);
        }
        let decisions = planner::plan(sim.now, &sim.world);
        let ending = decisions.ledger.unwrap().spec.grants[&uid].ending.clone();
        assert_eq!(ending.unwrap().failure, None, "withdrawn, not failed");
    }
}

/// What is to be done to the node: whether it is uncordoned, and what its shadow is asked for.
fn asked(sim: &Sim) -> (bool, Option<NodeState>) {
    let actions = sim.decide().actions;
    let uncordoned = actions
        .iter()
        .any(|action| matches!(action, Action::Uncordon { .. }));
    let state = actions.iter().find_map(|action| match action {
        Action::SetShadow { spec, .. } => Some(spec.state),
        _ => None,
    });
    (uncordoned, state)
}

#[test]
fn s9_a_node_that_nothing_is_monitored_of_goes_idle_as_it_is_uncordoned_and_is_released_after_both() {
    let (mut sim, node) = one_node_in(GrantPhase::Rebooting, "monitoring: {minReady: 2m}");
    let cordon = sim.facts(&node).disruption.clone();
    sim.run_until("it is back", |sim| {
        phase_of(sim, &node) == Some(GrantPhase::Monitoring)
    });
    // As before it was uncordoned.
    let facts = sim.facts_mut(&node);
    (facts.disruption, facts.unschedulable) = (cordon, true);
    assert_eq!(asked(&sim), (true, None), "it is monitored");
    sim.edit("web", |spec| spec.monitoring.min_ready = "0s".parse().unwrap());
    sim.step();
    assert_eq!(asked(&sim), (true, Some(NodeState::Idle)));
    sim.not_ready(&node);
    assert_eq!(asked(&sim), (true, None), "it is to be Ready");
    sim.ready(&node);
    let os_image = sim.facts(&node).os_image.clone();
    sim.facts_mut(&node).os_image = "Bottlerocket OS 1.20.3 (aws-k8s-1.33)".to_owned();
    assert_eq!(asked(&sim), (true, None), "its kubelet is to agree");
    sim.facts_mut(&node).os_image = os_image;

    // The shadow is written, and the write of the node comes to nothing.
    let spec = sim.decide().actions.into_iter().find_map(|action| match action {
        Action::SetShadow { spec, .. } => Some(spec),
        _ => None,
    });
    let shadow = sim.facts_mut(&node).shadow.as_mut().unwrap();
    shadow.spec = spec.unwrap();
    shadow.status.as_mut().unwrap().current_state = NodeState::Idle;
    assert_eq!(asked(&sim), (true, None));
    assert_eq!(sim.decide().ledger, None, "its cordon is still there");
    sim.run_until_phase("web", Phase::Complete);
    assert!(!sim.facts(&node).unschedulable && sim.ledger().grants.is_empty());
}
