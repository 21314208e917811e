//! Nodes that outlast the windows they are granted in hold up nobody, and are not tried for ever.

use std::collections::BTreeSet;

use api::{ledger::GrantPhase, plan::Phase, shadow::FailureReason, verdict::Verdict};
use planner::world::DrainFacts;
use proptest::{prelude::*, test_runner::RngSeed};

use crate::support::{Fault, Sim, at, hours, minutes, seconds};

/// Windows of ten minutes, each hour, and no step that would time out in one.
const SHORT: &str = "
expectedNodeDuration: 4m
maintenanceWindows: [{name: hourly, schedule: '0 * * * *', duration: 10m}]
timeouts: {stage: 1h, reboot: 1h}
drain: {timeout: 2h}
";

/// How a node outlasts its window.
#[derive(Clone, Copy, Debug)]
enum Outlasts {
    Staging,
    Draining,
    Blocked,
}

fn outlasts() -> impl Strategy<Value = Option<Outlasts>> {
    use Outlasts::{Blocked, Draining, Staging};
    prop::sample::select(vec![None, None, Some(Staging), Some(Draining), Some(Blocked)])
}

proptest! {
    // 16 cases. PROPTEST_CASES, where it is set, is taken instead.
    #![proptest_config(ProptestConfig {
        cases: 16,
        rng_seed: match ProptestConfig::default().rng_seed { RngSeed::Random => RngSeed::Fixed(20_261_126), set => set },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn l1_l8_who_outlasts_the_windows_fails_and_the_others_are_updated(
        fleet in prop::collection::vec(outlasts(), 0..6),
        places in 1..4_usize,
        retries in 0..3_u32,
    ) {
        // Where nobody can be updated, a plan has proven nothing and never is complete.
        let fleet = [fleet, vec![None]].concat();
        let spec = format!("{SHORT}maxUnavailable: {places}\nfailurePolicy: {{retries: {retries}, threshold: 100}}");
        let mut sim = Sim::new().nodes(fleet.len()).plan("web", &spec);
        let names: Vec<String> = sim.world.nodes.iter().map(|facts| facts.name.clone()).collect();
        for (name, outlasts) in names.iter().zip(&fleet) {
            match outlasts {
                None => {}
                Some(Outlasts::Staging) => sim.retime(name, |timing| timing.stage = hours(30)),
                Some(Outlasts::Draining) => sim.retime(name, |timing| timing.drain = hours(30)),
                Some(Outlasts::Blocked) => sim.break_node(name, Fault::DrainBlocked),
            }
        }
        sim.settle();
        let bad = fleet.iter().flatten().count();
        // Each of them has one window that it may outlast, and one for each of its tries.
        sim.run_for(hours((bad * (3 + retries as usize) + fleet.len()) as i64));
        prop_assert_eq!(sim.phase("web"), Some(Phase::Complete), "{}", sim.story());
        for (name, outlasts) in names.iter().zip(&fleet) {
            let updated = sim.hidden(name).runs == "1.21.0";
            prop_assert_eq!(updated, outlasts.is_none(), "{}: {:?}", name, sim.verdict(name));
        }
        prop_assert!(sim.ledger().grants.is_empty() && names.iter().all(|name| !sim.facts(name).unschedulable));
    }
}

#[test]
fn l3_a_drain_that_outlasts_the_windows_has_failed_by_its_budget() {
    let spec = format!("{SHORT}failurePolicy: {{retries: 0, threshold: 1}}");
    let mut sim = Sim::new().nodes(1).plan("web", &spec);
    sim.break_node("n01", Fault::DrainBlocked);
    sim.run_to(at("08:30"));
    assert_eq!(sim.verdict("n01").reason(), "OutsideWindow", "once may be chance");
    sim.run_to(at("09:30"));
    let Verdict::Failed { failure, message } = sim.verdict("n01") else {
        panic!("{:?}", sim.verdict("n01"))
    };
    assert_eq!(failure, FailureReason::DrainTimeout);
    assert!(
        message.contains("PodDisruptionBudget cart forbids the eviction of pod shop/cart-0"),
        "{message}"
    );
    sim.run_for(minutes(1));
    assert!(!sim.facts("n01").unschedulable && sim.ledger().grants.is_empty());
}

#[test]
fn l3_who_closes_the_windows_by_an_edit_fails_no_node() {
    let spec = format!("{SHORT}failurePolicy: {{retries: 0, threshold: 1}}");
    let mut sim = Sim::new().nodes(1).plan("web", &spec);
    sim.break_node("n01", Fault::DrainBlocked);
    sim.run_to(at("09:05"));
    assert_eq!(sim.checker.granted.len(), 2);
    sim.edit("web", |spec| {
        spec.maintenance_windows[0].schedule = Some("30 * * * *".to_owned())
    });
    sim.run_for(seconds(90));
    assert_eq!(sim.verdict("n01").reason(), "OutsideWindow");
}

#[test]
fn s11_a_node_that_failed_is_not_put_off_until_all_others_were_tried() {
    let mut sim = Sim::new()
        .nodes(12)
        .plan("web", "failurePolicy: {retries: 1, threshold: 1}");
    sim.settle();
    let names: Vec<String> = sim.world.nodes.iter().map(|facts| facts.name.clone()).collect();
    for name in &names {
        sim.break_node(name, Fault::BootsOldVersion);
    }
    sim.run_until_phase("web", Phase::Halted);
    let tried: BTreeSet<&str> = sim
        .checker
        .granted
        .iter()
        .map(|(_, node, _)| node.as_str())
        .collect();
    assert!(
        tried.len() < 6,
        "{tried:?} were tried before the first was tried again"
    );
}

#[test]
fn l8_the_others_come_first_in_the_window_after_the_one_that_a_node_has_outlasted() {
    let mut sim = Sim::new().nodes(3).plan("web", SHORT);
    sim.settle();
    let first = sim.granted().remove(0);
    sim.break_node(&first, Fault::DrainBlocked);
    sim.run_to(at("09:09"));
    assert_eq!(sim.status("web").nodes.updated, 2, "{}", sim.describe("web"));
}

#[test]
fn l1_who_was_paused_or_retried_has_outlasted_nothing() {
    let spec = format!("{SHORT}failurePolicy: {{retries: 0, threshold: 1}}");
    let mut sim = Sim::new().nodes(1).plan("web", &spec);
    sim.break_node("n01", Fault::DrainBlocked);
    sim.run_to(at("08:04"));
    sim.edit("web", |spec| spec.paused = true);
    sim.run_for(minutes(1));
    assert!(sim.ledger().grants.is_empty());
    sim.edit("web", |spec| spec.paused = false);
    sim.run_to(at("08:30"));
    assert_eq!(sim.checker.granted.len(), 2);
    assert_eq!(sim.verdict("n01").reason(), "OutsideWindow", "its first window");
    sim.run_to(at("09:30"));
    assert_eq!(sim.verdict("n01").reason(), "Failed");
}

#[test]
fn l1_pods_of_the_operator_alone_do_not_keep_a_node_for_a_second_window() {
    let mut sim = Sim::new().nodes(1).plan("web", SHORT);
    sim.retime("n01", |timing| timing.drain = hours(30));
    for (clock, phase) in [("08:10", GrantPhase::Granted), ("09:03", GrantPhase::Rebooting)] {
        sim.run_to(at(clock) - minutes(1));
        sim.run_until("the cordon", |sim| sim.facts("n01").drain.is_some());
        sim.facts_mut("n01").drain = Some(DrainFacts {
            left: 1,
            own: 1,
            blocked: None,
        });
        sim.hidden_mut("n01").pods = 0;
        sim.run_to(at(clock) - seconds(1));
        let phase_now = sim.ledger().grants.values().next().map(|grant| grant.phase);
        assert_eq!(phase_now, Some(phase), "at {clock}");
        sim.run_to(at(clock) + minutes(10));
    }
    assert_eq!(sim.phase("web"), Some(Phase::Complete), "{}", sim.story());
}

#[test]
fn l8_who_was_updated_after_all_has_outlasted_nothing_any_more() {
    let spec = format!("{SHORT}failurePolicy: {{retries: 0, threshold: 1}}");
    let mut sim = Sim::new().nodes(1).plan("web", &spec);
    sim.break_node("n01", Fault::DrainBlocked);
    sim.run_to(at("08:30"));
    let outlasted = |sim: &Sim| sim.facts("n01").shadow.as_ref().unwrap().spec.outlasted;
    assert_eq!(outlasted(&sim), Some(true));
    sim.mend_node("n01");
    sim.run_to(at("09:30"));
    assert_eq!(sim.phase("web"), Some(Phase::Complete));
    assert_eq!(outlasted(&sim), None);
    // Its new image is given up, and it is back on the old one, in the same run.
    sim.hidden_mut("n01").runs = "1.20.3".into();
    let facts = sim.facts_mut("n01");
    facts.os_image = "Bottlerocket OS 1.20.3 (aws-k8s-1.33)".into();
    let status = facts.shadow.as_mut().unwrap().status.as_mut();
    status.unwrap().current_version = "1.20.3".into();
    sim.break_node("n01", Fault::DrainBlocked);
    sim.run_to(at("10:30"));
    assert_eq!(sim.checker.granted.len(), 3);
    assert_eq!(
        sim.verdict("n01").reason(),
        "OutsideWindow",
        "once more it may be chance"
    );
}
