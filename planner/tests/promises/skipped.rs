//! Nodes that are skipped, because they have held their wave for `skipAfter`, and who takes their places.

use api::plan::Phase;

use crate::support::{Fault, Sim, hours, minutes};

#[test]
fn l1_a_node_that_takes_the_place_of_one_that_is_skipped_is_skipped_with_it_where_it_is_no_better() {
    let canary = "maxUnavailable: 5\nwaves: [{name: canary, size: 1}, {name: rest}]";
    for cordoned in 1..=4 {
        let mut sim = Sim::new().nodes(10).plan("web", canary);
        for i in 1..=cordoned {
            sim.cordon(&format!("n{i:02}"));
        }
        sim.run_for(hours(6));
        assert_eq!(
            (sim.phase("web"), sim.status("web").nodes.updated),
            (Some(Phase::Complete), 10 - cordoned),
            "{}",
            sim.story()
        );
        sim.ends_well();
    }
    let mut sim = Sim::new().nodes(4).plan(
        "web",
        "maxUnavailable: 100%\nwaves: [{name: first, size: 2}, {name: rest}]",
    );
    for dead in ["n02", "n03", "n04"] {
        sim.not_ready(dead);
    }
    sim.run_for(hours(6));
    assert_eq!(sim.status("web").nodes.updated, 1);
    assert_eq!(sim.phase("web"), Some(Phase::Complete), "{}", sim.story());
    sim.ends_well();
}

/// The hour that the canary was held for is not that of the node that is down for two minutes as the rest starts.
#[test]
fn a_node_that_is_down_as_its_wave_starts_is_waited_for_from_then_on() {
    let waves = "maxUnavailable: 3
waves: [{name: canary, nodeSelector: {matchLabels: {tier: dev}}}, {name: rest}]";
    let mut sim = Sim::new().nodes(1).node_with("dev", "1.20.3", &[("tier", "dev")]);
    sim = sim.node_with("dead", "1.20.3", &[("tier", "dev")]);
    sim.not_ready("dead");
    sim.apply_plan("web", waves);
    sim.run_until("the canary is held", |sim| {
        sim.ledger().plans["uid-web"].held_since.is_some()
    });
    sim.run_for(minutes(58));
    sim.not_ready("n01");
    sim.run_until("the rest starts", |sim| {
        sim.ledger().plans["uid-web"].open_wave == 1
    });
    sim.run_for(minutes(2));
    assert_ne!(sim.phase("web"), Some(Phase::Complete), "{}", sim.story());
    sim.ready("n01");
    sim.run_until("it is updated", |sim| sim.status("web").nodes.updated == 2);
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn s10_a_canary_of_which_no_candidate_can_be_updated_opens_no_other() {
    let waves = "maxUnavailable: 100%
waves: [{name: canary, size: 1, nodeSelector: {matchLabels: {tier: dev}}}, {name: rest}]";
    for silent in [false, true] {
        let mut sim = (0..3).fold(Sim::new().nodes(5), |sim, i| {
            sim.node_with(&format!("dev{i}"), "1.20.3", &[("tier", "dev")])
        });
        sim.apply_plan("web", waves);
        for i in 0..3 {
            let name = format!("dev{i}");
            if silent {
                sim.break_node(&name, Fault::AgentSilent);
                sim.facts_mut(&name).agent.ready = false;
            } else {
                sim.cordon(&name);
            }
        }
        sim.run_for(hours(6));
        assert!(sim.checker.granted.is_empty(), "{}", sim.story());
        let message = sim.status("web").message.clone().unwrap_or_default();
        assert!(
            message.contains("none of its nodes could be updated"),
            "{message}"
        );
        let writes = sim.writes;
        sim.run_for(hours(6));
        assert_eq!(sim.writes, writes, "L7");
        // One that can is enough.
        if silent {
            sim.mend_node("dev1");
            sim.facts_mut("dev1").agent.ready = true;
        } else {
            sim.uncordon("dev1");
        }
        sim.run_until("the rest begins", |sim| sim.checker.granted.len() > 1);
        assert_eq!(sim.hidden("dev1").runs, "1.21.0");
    }
}

#[test]
fn l7_who_is_skipped_in_a_run_that_ignores_its_windows_stays_so_when_it_is_complete() {
    let nightly =
        "maxUnavailable: 2\nmaintenanceWindows: [{name: nightly, schedule: '0 2 * * *', duration: 2h}]";
    let mut sim = Sim::new().nodes(3).plan("web", nightly);
    sim.cordon("n02");
    sim.settle();
    sim.run_now("web");
    sim.run_until_phase("web", Phase::Complete);
    let said = sim.status("web").conditions.clone();
    sim.run_for(hours(2));
    assert_eq!(sim.status("web").nodes.skipped, 1);
    assert_eq!(sim.status("web").conditions, said);
    sim.ends_well();
}
