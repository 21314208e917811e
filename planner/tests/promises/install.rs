//! The install's stop switch and its own limit.

use api::{plan::Phase, quantity::IntOrPercent, verdict::Verdict};

use crate::support::{Sim, hours, minutes, seconds};

fn stop(sim: &mut Sim, stop: bool) {
    sim.world.ledger.as_mut().unwrap().stop = stop;
}

fn two_plans() -> Sim {
    let sim = (1..=4).fold(Sim::new(), |sim, i| {
        let pool = if i <= 2 { "web" } else { "db" };
        sim.node_with(&format!("{pool}{i}"), "1.20.3", &[("pool", pool)])
    });
    ["web", "db"].iter().fold(sim, |sim, pool| {
        let spec = format!("maxUnavailable: 100%\nnodeSelector: {{matchLabels: {{pool: {pool}}}}}");
        sim.plan(pool, &spec)
    })
}

#[test]
fn a_stopped_install_takes_back_what_does_not_reboot_yet_and_begins_nothing() {
    let mut sim = Sim::new().nodes(3).plan("web", "maxUnavailable: 2");
    sim.run_for(seconds(30));
    assert_eq!(sim.granted().len(), 2);
    stop(&mut sim, true);
    sim.run_for(minutes(2));
    assert!(sim.ledger().grants.is_empty(), "not only when their time is up");
    sim.run_for(hours(1));
    assert_eq!(
        (sim.checker.granted.len(), sim.status("web").nodes.failed),
        (2, 0)
    );
    assert!(sim.nodes.values().all(|node| node.reboots.is_empty()));
    assert_eq!(sim.verdict("n01"), Verdict::Stopped);
    assert_eq!(sim.phase("web"), Some(Phase::Paused));
    let message = sim.status("web").message.clone().unwrap_or_default();
    assert!(message.contains("spec.stop of its UpdateLedger"), "{message}");
    stop(&mut sim, false);
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn s1_the_installs_limit_holds_over_all_plans() {
    for (limit, at_once) in [
        (IntOrPercent::Int(1), 1),
        (IntOrPercent::Int(3), 3),
        (IntOrPercent::Percent(50), 2),
        (IntOrPercent::Percent(1), 1),
    ] {
        let mut sim = two_plans();
        sim.world.settings.max_unavailable = Some(limit);
        sim.settle();
        assert_eq!(sim.granted().len(), at_once, "{limit}");
        assert_eq!(sim.ledger().max_unavailable, Some(limit), "it is recorded");
        sim.run_until_phase("web", Phase::Complete);
        sim.run_until_phase("db", Phase::Complete);
        sim.ends_well();
    }
}

#[test]
fn s1_nodes_that_are_down_spend_the_installs_limit_whoever_owns_them() {
    let mut sim = two_plans();
    sim.world.ledger.as_mut().unwrap().max_unavailable = Some(IntOrPercent::Int(2));
    sim.not_ready("web1");
    sim.cordon("web2");
    sim.run_for(minutes(10));
    assert!(sim.checker.granted.is_empty());
    let Verdict::BudgetSpent {
        unavailable,
        max,
        limit,
        ..
    } = sim.verdict("db3")
    else {
        panic!("{:?}", sim.verdict("db3"))
    };
    assert_eq!((unavailable, max, limit.as_str()), (2, 2, "install"));
    sim.uncordon("web2");
    sim.settle();
    assert_eq!(sim.granted().len(), 1);
    sim.ready("web1");
    sim.run_until_phase("db", Phase::Complete);
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn l8_a_plan_that_has_no_finalizer_yet_is_not_passed_by_one_that_comes_after_it() {
    let mut sim = (1..=9).fold(Sim::new(), |sim, i| {
        let pool = if i == 1 { "web" } else { "db" };
        sim.node_with(&format!("{pool}{i}"), "1.20.3", &[("pool", pool)])
    });
    sim.world.settings.max_unavailable = Some(IntOrPercent::Int(1));
    sim.apply_plan("db", "nodeSelector: {matchLabels: {pool: db}}");
    sim.run_for(minutes(1));
    assert_eq!(sim.granted().len(), 1);
    sim.apply_plan("web", "priority: 10\nnodeSelector: {matchLabels: {pool: web}}");
    sim.settle();
    let waits = sim.verdict("web1").to_string();
    assert!(waits.ends_with("is 1, spent by other plans"), "{waits}");
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(sim.status("db").nodes.updated, 1, "{}", sim.story());
    sim.run_until_phase("db", Phase::Complete);
    sim.ends_well();
}

/// A run that is complete stays so when a node joins; where the install is stopped, that one waits for no window.
#[test]
fn nothing_is_said_of_windows_while_the_install_is_stopped() {
    let windows = "maintenanceWindows: [{name: day, schedule: '0 8 * * *', duration: 2h}]";
    let mut sim = Sim::new().nodes(1).plan("web", windows);
    sim.run_until_phase("web", Phase::Complete);
    stop(&mut sim, true);
    sim.add_node("late", "1.20.3", &[]);
    sim.settle();
    assert_eq!(sim.reasons(), ["Stopped", "UpToDate"].into());
    assert_eq!(sim.status("web").window, None);
    assert_eq!(sim.decide().look_again, None);
    stop(&mut sim, false);
    sim.settle();
    assert_eq!(sim.granted(), ["late"]);
    let said = sim.status("web").window.as_ref().map(|window| window.open);
    assert_eq!(said, Some(true));
}
