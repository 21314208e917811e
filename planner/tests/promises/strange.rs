//! What no rollout comes to, and the worlds of `any_world` have: it ends well all the same.

use api::{ledger::GrantPhase, plan::Phase, shadow::Disruption, shadow::NodeState};

use crate::support::{Sim, at, hours, minutes};

#[test]
fn s4_a_grant_that_says_more_than_the_window_goes_back_at_its_close() {
    let spec = "
maintenanceWindows: [{name: w, start: 2026-11-22T08:00:00Z, end: 2026-11-22T10:00:00Z}]
timeouts: {stage: 5h}
";
    let mut sim = Sim::new().nodes(1).plan("web", spec);
    sim.settle();
    sim.retime("n01", |timing| timing.stage = hours(3));
    let uid = sim.facts("n01").uid.clone();
    let ledger = sim.world.ledger.as_mut().unwrap();
    ledger.grants.get_mut(&uid).unwrap().not_after = None;
    sim.run_to(at("10:00"));
    assert!(
        sim.ledger()
            .grants
            .get(&uid)
            .is_none_or(|grant| grant.phase == GrantPhase::Withdrawing),
        "{}",
        sim.story()
    );
    sim.run_to(at("16:00"));
    assert!(sim.ledger().grants.is_empty() && !sim.facts("n01").unschedulable);
}

#[test]
fn s9_a_cordon_that_comes_back_while_settings_are_put_back_goes_before_the_grant() {
    let mut sim = Sim::new().nodes(1).plan("web", "");
    let uid = sim.world.nodes[0].uid.clone();
    sim.run_until("its settings are put back", |sim| {
        let asked = sim.facts("n01").shadow.as_ref().map(|shadow| shadow.spec.state);
        let phase = sim.ledger().grants.get(&uid).map(|grant| grant.phase);
        asked == Some(NodeState::Idle) && phase == Some(GrantPhase::Monitoring)
    });
    let grant = sim.ledger().grants[&uid].clone();
    let facts = sim.facts_mut("n01");
    facts.unschedulable = true;
    facts.disruption = Some(Disruption {
        plan_uid: grant.plan,
        run: grant.run,
        wave: grant.wave,
        attempt: grant.attempt,
        cordoned_at: grant.granted_at,
        annotations_before: Default::default(),
    });
    // That no grant goes while a cordon of ours is there is checked at the write.
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn s10_a_node_that_fails_while_its_wave_soaks_is_told_one_thing_at_a_time() {
    let mut sim = Sim::new()
        .nodes(3)
        .plan("web", "waves: [{name: canary, size: 1, soak: 30m}, {name: rest}]");
    sim.run_until_phase("web", Phase::Soaking);
    let is_updated = |node: &&planner::world::NodeFacts| node.os_image.contains("1.21.0");
    let name = sim.world.nodes.iter().find(is_updated).unwrap().name.clone();
    sim.not_ready(&name);
    sim.facts_mut(&name).shadow.as_mut().unwrap().spec.state = NodeState::MonitoringUpdate;
    let actions = sim.decide().actions;
    assert_eq!(actions.len(), 1, "it is told to be Idle: {actions:?}");
    sim.run_for(minutes(5));
    assert_eq!(
        sim.status("web").nodes.failed,
        1,
        "and has failed then: {}",
        sim.story()
    );
}
