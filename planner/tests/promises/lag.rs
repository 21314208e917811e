//! What a controller does that knows the ledger, or a plan, only as it was.

use std::collections::BTreeSet;

use api::{
    ledger::{GrantPhase, UpdateLedgerSpec},
    shadow::NodeState,
};
use planner::{decisions::Decisions, plan, world::World};

use crate::support::Sim;

fn rollout() -> Sim {
    Sim::new().nodes(3).plan("web", "maxUnavailable: 1")
}

/// The rollout when a grant is in this phase and its node is cordoned.
fn until(sim: &mut Sim, phase: GrantPhase) -> String {
    sim.run_until("the phase", |sim| {
        let granted = sim.ledger().grants.values().find(|grant| grant.phase == phase);
        granted.is_some_and(|grant| sim.facts(&grant.node).disruption.is_some())
    });
    sim.granted().remove(0)
}

/// What is decided now by who knows this ledger.
fn decided(sim: &Sim, ledger: UpdateLedgerSpec) -> Decisions {
    let world = World {
        ledger: Some(ledger),
        ..sim.world.clone()
    };
    plan(sim.now, &world)
}

#[test]
fn everything_on_the_regular_way_is_explained_by_the_ledger() {
    let mut sim = rollout();
    sim.settle();
    let node = sim.granted().remove(0);
    sim.run_until("the end", |sim| {
        assert_eq!(sim.last.unexplained, BTreeSet::new());
        sim.status("web").nodes.updated == 3
    });
    assert_eq!(
        sim.facts(&node).shadow.as_ref().unwrap().spec.state,
        NodeState::Idle
    );
    // Also on the way back.
    let mut sim = rollout();
    until(&mut sim, GrantPhase::Granted);
    sim.edit("web", |spec| spec.paused = true);
    sim.run_until("the way back", |sim| {
        assert_eq!(sim.last.unexplained, BTreeSet::new());
        sim.ledger().grants.is_empty()
    });
}

#[test]
fn s2_what_a_grant_has_done_that_is_not_known_here_is_not_taken_for_something_left_behind() {
    for phase in [GrantPhase::Granted, GrantPhase::Drained, GrantPhase::Rebooting] {
        let mut sim = rollout();
        let node = until(&mut sim, phase);
        let mut before = sim.ledger().clone();
        before.grants.clear();
        let decisions = decided(&sim, before);
        assert_eq!(decisions.ledger, None);
        assert!(!decisions.actions.is_empty(), "the test tests nothing");
        assert_eq!(decisions.unexplained, [node].into(), "in {phase}");
    }
}

#[test]
fn s2_the_next_attempt_is_not_undone_by_one_who_knows_the_last() {
    // Any other node would come first.
    let mut sim = Sim::new().nodes(1).plan("web", "maxUnavailable: 1");
    until(&mut sim, GrantPhase::Granted);
    sim.edit("web", |spec| spec.paused = true);
    sim.step();
    let (before, plans) = (sim.ledger().clone(), sim.world.plans.clone());
    let phases: Vec<_> = before.grants.values().map(|grant| grant.phase).collect();
    assert_eq!(phases, [GrantPhase::Withdrawing]);
    sim.run_until("the way back", |sim| sim.ledger().grants.is_empty());
    sim.edit("web", |spec| spec.paused = false);
    let node = until(&mut sim, GrantPhase::Granted);
    sim.world.plans.clone_from(&plans);
    let decisions = decided(&sim, before);
    assert!(!decisions.actions.is_empty(), "the test tests nothing");
    assert_eq!(decisions.unexplained, [node].into());
}

#[test]
fn s12_nothing_is_decided_on_a_plan_that_is_known_only_as_it_was() {
    let mut sim = rollout();
    until(&mut sim, GrantPhase::Granted);
    let before = sim.world.clone();
    sim.edit("web", |spec| spec.paused = true);
    sim.settle();
    let world = World {
        plans: before.plans,
        ..sim.world.clone()
    };
    assert_eq!(plan(sim.now, &world), Decisions::default());
}

#[test]
fn s9_a_node_of_the_next_run_is_not_told_what_the_last_one_wanted_by_one_who_knows_its_grant_only() {
    let mut sim = rollout();
    let node = until(&mut sim, GrantPhase::Rebooting);
    sim.edit("web", |spec| spec.target_version = "1.22.0".to_owned());
    sim.run_until("the edit", |sim| {
        sim.ledger().plans.values().all(|entry| entry.target == "1.22.0")
    });
    let before = sim.ledger().clone();
    assert_eq!(
        before.grants.values().next().unwrap().phase,
        GrantPhase::Rebooting
    );
    let idle = |sim: &Sim| sim.facts(&node).shadow.clone().unwrap();
    sim.run_until("the next run", |sim| {
        let (shadow, entry) = (
            idle(sim).spec,
            sim.ledger().plans.values().next().unwrap().clone(),
        );
        shadow.state == NodeState::Idle && shadow.run == Some(entry.run)
    });
    let decisions = decided(&sim, before);
    assert!(!decisions.actions.is_empty(), "the test tests nothing");
    assert_eq!(decisions.unexplained, [node.clone()].into());
}
