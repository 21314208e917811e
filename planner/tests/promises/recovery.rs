//! What a crash, a late write or the loss of the ledger leaves behind is put right before anything else.

use api::{
    ledger::GrantPhase,
    plan::Phase,
    shadow::{BottlerocketShadowSpec, Disruption, FailureReason, NodeState},
};

use crate::support::{Fault, Sim, Timing, at, hours, minutes, seconds};

const WAVES: &str = "
maxUnavailable: 2
waves: [{name: canary, size: 1, soak: 2m}, {name: rest}]
";

fn failures(sim: &Sim) -> Vec<&str> {
    sim.events
        .iter()
        .filter(|event| event.reason == "NodeFailed")
        .map(|event| event.note.as_str())
        .collect()
}

#[test]
fn a_lost_ledger_is_rebuilt_before_anything_else_and_the_run_goes_on() {
    let mut losses = Vec::new();
    for after in (0..900).step_by(23) {
        let mut sim = Sim::new().nodes(6).plan("web", WAVES);
        sim.run_for(seconds(after));
        let run = sim.status("web").run.clone().unwrap();
        let open = sim.ledger().plans["uid-web"].open_wave;
        let before: Vec<_> = sim
            .ledger()
            .grants
            .values()
            .map(|g| (g.node.clone(), g.phase))
            .collect();
        losses.extend(before.iter().map(|(_, phase)| *phase));
        sim.lose_ledger();
        let rebuilt = sim.decide();
        let change = rebuilt.ledger.expect("it is made anew");
        assert!(
            !change.by_fresh_nodes && rebuilt.actions.is_empty(),
            "and nothing else is done, after {after} s"
        );
        sim.settle();
        assert_eq!(
            sim.ledger().plans["uid-web"].open_wave,
            open,
            "the wave is the same, after {after} s"
        );
        sim.run_until_phase("web", Phase::Complete);
        assert_eq!(
            sim.status("web").run.clone().unwrap().id,
            run.id,
            "the run is the same, after {after} s"
        );
        assert_eq!(failures(&sim), [""; 0], "after {after} s");
        for node in &sim.world.nodes {
            assert_eq!(
                sim.nodes[&node.uid].reboots.len(),
                1,
                "{} after {after} s: no double reboot",
                node.name
            );
        }
        sim.ends_well();
    }
    for phase in [GrantPhase::Granted, GrantPhase::Rebooting, GrantPhase::Monitoring] {
        assert!(losses.contains(&phase), "lost in {phase}");
    }
}

#[test]
fn a_ledger_lost_just_after_the_boot_takes_the_boot_for_what_it_is() {
    let mut sim = Sim::new().nodes(1).plan("web", "");
    sim.run_until("it reboots", |sim| !sim.hidden("n01").up);
    sim.not_ready("n01");
    sim.run_until("it is up", |sim| sim.hidden("n01").up);
    sim.not_ready("n01");
    sim.run_for(seconds(10));
    assert_eq!(
        sim.facts("n01")
            .shadow
            .as_ref()
            .unwrap()
            .status
            .as_ref()
            .unwrap()
            .current_version,
        "1.21.0"
    );
    sim.lose_ledger();
    sim.run_for(seconds(30));
    sim.ready("n01");
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(failures(&sim), [""; 0]);
    assert_eq!(sim.checker.granted.len(), 1);
    sim.ends_well();
}

#[test]
fn a_ledger_lost_while_a_permit_may_have_been_given_gives_none_outside_the_window() {
    let window = "
expectedNodeDuration: 5m
maintenanceWindows: [{name: w, start: 2026-11-22T08:00:00Z, end: 2026-11-22T08:10:00Z},
                     {name: x, start: 2026-11-23T08:00:00Z, end: 2026-11-23T09:00:00Z}]
";
    let mut sim = Sim::new().nodes(1).plan("web", window);
    sim.run_until("it may ask", |sim| {
        sim.facts("n01").shadow.as_ref().unwrap().spec.state == NodeState::RebootedIntoUpdate
    });
    sim.break_node("n01", Fault::AgentSilent);
    sim.run_to(at("08:09"));
    sim.lose_ledger();
    sim.step();
    sim.run_to(at("08:10") + seconds(5));
    sim.mend_node("n01");
    sim.run_for(hours(1));
    assert!(sim.hidden("n01").reboots.is_empty(), "S4");
    assert!(!sim.facts("n01").unschedulable);
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn s11_a_halt_outlives_the_ledger() {
    let mut sim = Sim::new()
        .nodes(4)
        .plan("web", "failurePolicy: {retries: 0, threshold: 1}");
    sim.break_every_node(Fault::PrepareFails);
    sim.run_until_phase("web", Phase::Halted);
    sim.run_for(minutes(5));
    let failed = sim.status("web").failed[0].node.clone();
    sim.delete_node(&failed);
    sim.run_for(minutes(1));
    assert_eq!(sim.phase("web"), Some(Phase::Halted));
    sim.mend_every_node();
    sim.lose_ledger();
    sim.run_for(hours(1));
    assert_eq!(
        sim.phase("web"),
        Some(Phase::Halted),
        "though the node that failed is gone"
    );
    assert_eq!(sim.checker.granted.len(), 1);
}

#[test]
fn a_ledger_lost_while_nodes_go_back_is_no_reason_to_stop() {
    let mut sim = Sim::new().nodes(3).plan("web", "maxUnavailable: 3");
    sim.run_for(seconds(70));
    sim.edit("web", |spec| spec.paused = true);
    sim.step();
    sim.step();
    sim.lose_ledger();
    sim.run_for(minutes(5));
    assert!(sim.ledger().grants.is_empty());
    assert!(
        sim.world
            .nodes
            .iter()
            .all(|node| !node.unschedulable && sim.nodes[&node.uid].reboots.is_empty())
    );
    sim.edit("web", |spec| spec.paused = false);
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

fn left_behind(sim: &mut Sim, node: &str, state: NodeState, cordoned: bool) {
    let now = sim.now;
    let facts = sim.facts_mut(node);
    if cordoned {
        facts.unschedulable = true;
        facts.disruption = Some(Disruption {
            plan_uid: "uid-gone".into(),
            run: "r0".into(),
            wave: "all".into(),
            attempt: 3,
            cordoned_at: now,
            annotations_before: Default::default(),
        });
    }
    if state != NodeState::Idle {
        let spec = BottlerocketShadowSpec {
            state,
            state_transition_timestamp: Some(now),
            version: Some("1.20.9".into()),
            run: Some("r0".into()),
            attempt: Some(3),
            ..Default::default()
        };
        facts.shadow.as_mut().unwrap().spec = spec;
    }
}

#[test]
fn what_is_on_a_node_without_a_grant_is_undone() {
    use NodeState::{ErrorReset, Idle, MonitoringUpdate, RebootedIntoUpdate, StagedAndPerformedUpdate};
    for state in [
        Idle,
        StagedAndPerformedUpdate,
        RebootedIntoUpdate,
        MonitoringUpdate,
        ErrorReset,
    ] {
        for cordoned in [true, false] {
            let mut sim = Sim::new().nodes(2).plan("web", "paused: true");
            left_behind(&mut sim, "n01", state, cordoned);
            sim.settle();
            let told = sim.facts("n01").shadow.as_ref().unwrap().spec.state;
            assert!(told == Idle || state == ErrorReset, "{state}");
            if state == Idle || state == ErrorReset {
                sim.run_for(seconds(5));
            } else {
                assert_eq!(
                    sim.facts("n01").unschedulable,
                    cordoned,
                    "{state}: uncordoned last"
                );
            }
            sim.run_for(minutes(1));
            assert!(
                !sim.facts("n01").unschedulable && sim.hidden("n01").reboots.is_empty(),
                "{state}"
            );
            sim.edit("web", |spec| spec.paused = false);
            sim.run_until_phase("web", Phase::Complete);
            sim.ends_well();
        }
    }
}

#[test]
fn what_is_undone_is_undone_in_the_same_order_by_everyone() {
    let mut sim = Sim::new().nodes(4).plan("web", "paused: true");
    for node in ["n01", "n02", "n03", "n04"] {
        left_behind(&mut sim, node, NodeState::StagedAndPerformedUpdate, true);
    }
    // Every decision is made on the world in two orders.
    sim.run_for(minutes(1));
    assert!(sim.world.nodes.iter().all(|node| !node.unschedulable));
}

#[test]
fn what_is_undone_is_granted_only_after() {
    let mut sim = Sim::new().nodes(1).plan("web", "");
    sim.hidden_mut("n01").timing = Timing {
        agent: minutes(2),
        ..Timing::default()
    };
    left_behind(&mut sim, "n01", NodeState::StagedAndPerformedUpdate, true);
    sim.settle();
    assert_eq!(sim.verdict("n01").reason(), "Resetting");
    assert!(sim.facts("n01").unschedulable, "settings and boot flag first");
    sim.run_for(minutes(1));
    assert!(sim.ledger().grants.is_empty());
    assert_eq!(
        sim.verdict("n01").reason(),
        "AgentSilent",
        "a person could see to it"
    );
    sim.run_for(minutes(1));
    assert_eq!(sim.granted(), ["n01"]);
}

/// Nobody has looked for longer than a drain may take: the pods that are left are not known to whoever comes then.
#[test]
fn an_outage_that_outlasts_a_drain_is_no_failure_of_its_node() {
    let mut sim = Sim::new()
        .nodes(1)
        .plan("web", "failurePolicy: {retries: 0}\ndrain: {timeout: 15m}");
    sim.run_until("it drains", |sim| sim.facts("n01").drain.is_some());
    sim.now += minutes(20);
    sim.drains.clear();
    sim.facts_mut("n01").drain = None;
    sim.settle();
    let withdrawn = sim
        .events
        .iter()
        .any(|e| e.reason == "NodeWithdrawn" && e.note.contains("not known"));
    assert!(withdrawn, "{:?}", sim.events);
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

/// Where they can never be listed, the node is not drained for ever.
#[test]
fn l1_a_node_whose_pods_are_never_known_has_failed_in_the_end() {
    let mut sim = Sim::new()
        .nodes(1)
        .plan("web", "failurePolicy: {retries: 0}\ndrain: {timeout: 15m}");
    for _ in 0..2 {
        sim.run_until("it drains", |sim| sim.facts("n01").drain.is_some());
        sim.now += minutes(20);
        sim.drains.clear();
        sim.facts_mut("n01").drain = None;
        sim.settle();
    }
    sim.run_for(minutes(5));
    let failed = &sim.status("web").failed;
    assert_eq!(failed[0].reason, FailureReason::DrainTimeout);
    assert!(sim.ledger().grants.is_empty());
}

#[test]
fn a_silent_agent_keeps_no_node_cordoned() {
    let mut sim = Sim::new().nodes(1).plan("web", "");
    left_behind(&mut sim, "n01", NodeState::StagedAndPerformedUpdate, true);
    sim.break_node("n01", Fault::AgentSilent);
    sim.settle();
    assert!(!sim.facts("n01").unschedulable);
    sim.mend_node("n01");
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn a_plan_that_vanished_gives_its_nodes_back() {
    let mut sim = Sim::new().nodes(3).plan("web", "maxUnavailable: 3");
    sim.settle();
    let reboots = sim.granted()[0].clone();
    sim.retime("n02", |timing| timing.drain = hours(1));
    sim.run_until("one reboots", |sim| !sim.hidden(&reboots).up);
    // Somebody removed the finalizer by hand.
    sim.world.plans.clear();
    sim.run_for(minutes(30));
    assert!(sim.ledger().grants.is_empty() && sim.ledger().plans.is_empty());
    sim.ends_well();
}

#[test]
fn a_controller_that_crashes_after_every_write_gets_there_too() {
    let mut steady = Sim::new().nodes(6).plan("web", WAVES);
    let mut crashing = Sim::new().nodes(6).plan("web", WAVES).one_write_a_round();
    for sim in [&mut steady, &mut crashing] {
        sim.break_node_times("n02", Fault::PrepareFails, 1);
        sim.break_node_times("n03", Fault::BootsOldVersion, 1);
        sim.run_until_phase("web", Phase::Complete);
        sim.ends_well();
    }
    assert_eq!(crashing.status("web"), steady.status("web"));
}

#[test]
fn newcomers_of_a_complete_run_wait_for_no_wave_also_where_the_ledger_was_lost() {
    let mut sim = Sim::new()
        .nodes(2)
        .plan("web", "waves: [{name: canary, size: 1, soak: 1m}, {name: rest}]");
    sim.run_until_phase("web", Phase::Complete);
    sim.run_for(minutes(5));
    sim.lose_ledger();
    sim.settle();
    assert_eq!(sim.ledger().plans["uid-web"].open_wave_name, "rest");
    sim.add_node("late", "1.20.3", &[]);
    sim.run_for(minutes(10));
    assert_eq!(sim.hidden("late").runs, "1.21.0");
    sim.ends_well();
}

#[test]
fn s5_a_ledger_lost_on_the_way_of_a_second_attempt_makes_no_other_attempt_of_it() {
    for (state, tries) in [
        (NodeState::StagedAndPerformedUpdate, 2),
        (NodeState::RebootedIntoUpdate, 2),
        (NodeState::MonitoringUpdate, 2),
    ] {
        let mut sim = Sim::new().nodes(1).plan("web", "waves: [{name: only}]");
        sim.break_node_times("n01", Fault::PrepareFails, 1);
        sim.run_until("the second attempt is on its way", |sim| {
            let spec = &sim.facts("n01").shadow.as_ref().unwrap().spec;
            spec.attempt == Some(2) && spec.state == state
        });
        sim.lose_ledger();
        sim.settle();
        let grant = sim.ledger().grants.values().next().unwrap().clone();
        assert_eq!((grant.attempt, grant.wave.as_str()), (2, "only"), "{state}");
        sim.run_until_phase("web", Phase::Complete);
        assert_eq!(sim.checker.granted.len(), tries, "{state}");
        assert_eq!(sim.hidden("n01").reboots.len(), 1, "{state}");
        sim.ends_well();
    }
}
