//! Nodes that come and go, are cordoned by others, or are not Ready.

use api::{plan::Phase, shadow::NodeState, verdict::Verdict};
use insta::assert_snapshot;

use crate::support::{Fault, Sim, hours, minutes, seconds};

#[test]
fn l5_a_deleted_node_frees_its_grant() {
    for after in [0, 30, 70, 85, 100, 170] {
        let mut sim = Sim::new().nodes(3).plan("web", "");
        sim.settle();
        sim.run_for(seconds(after));
        let gone = sim.granted()[0].clone();
        sim.delete_node(&gone);
        sim.settle();
        assert_eq!(
            sim.granted().len(),
            1,
            "the next is granted at once, after {after} s"
        );
        assert!(sim.events.iter().any(|event| event.reason == "NodeGone"));
        sim.run_until_phase("web", Phase::Complete);
        sim.ends_well();
    }
}

#[test]
fn s3_a_node_that_is_replaced_under_its_name_inherits_nothing() {
    let mut sim = Sim::new()
        .nodes(2)
        .plan("web", "failurePolicy: {retries: 0, threshold: 2}");
    sim.break_every_node(Fault::PrepareFails);
    sim.run_until("one has failed", |sim| sim.status("web").nodes.failed == 1);
    let failed = sim.status("web").failed[0].node.clone();
    sim.replace_node(&failed);
    sim.mend_every_node();
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(
        sim.hidden(&failed).runs,
        "1.21.0",
        "the failure was the other machine's"
    );
    let attempts: Vec<u32> = sim
        .checker
        .granted
        .iter()
        .filter(|(_, name, _)| *name == failed)
        .map(|(_, _, g)| g.attempt)
        .collect();
    assert_eq!(attempts, [1, 1]);
    sim.ends_well();
}

#[test]
fn s3_a_node_that_is_replaced_while_it_is_updated_begins_at_the_beginning() {
    let mut sim = Sim::new().nodes(2).plan("web", "");
    sim.settle();
    let name = sim.granted()[0].clone();
    sim.run_until("it reboots", |sim| !sim.hidden(&name).up);
    let old = sim.facts(&name).uid.clone();
    sim.replace_node(&name);
    sim.settle();
    assert!(!sim.ledger().grants.contains_key(&old));
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(sim.hidden(&name).runs, "1.21.0");
    sim.ends_well();
}

#[test]
fn s9_a_node_cordoned_by_an_admin_is_left_alone_and_counts() {
    let mut sim = Sim::new().nodes(4).plan("web", "maxUnavailable: 2");
    sim.cordon("n02");
    sim.settle();
    assert_eq!(sim.verdict("n02"), Verdict::CordonedByOther);
    assert_eq!(sim.granted().len(), 1, "one of the two is spent");
    sim.run_until("the others are done", |sim| sim.status("web").nodes.updated == 3);
    assert_snapshot!("cordoned_by_an_admin", sim.describe("web"));
    sim.run_for(hours(2));
    assert!(sim.facts("n02").unschedulable);
    assert_eq!(sim.hidden("n02").runs, "1.20.3");
    sim.uncordon("n02");
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn s9_an_admin_who_cordons_a_granted_node_has_it() {
    let mut sim = Sim::new().nodes(2).plan("web", "maxUnavailable: 2");
    sim.run_for(seconds(30));
    sim.cordon("n01");
    sim.run_for(minutes(1));
    assert_eq!(sim.verdict("n01"), Verdict::CordonedByOther, "withdrawn");
    assert!(!sim.hidden("n01").activated);
    sim.run_for(hours(1));
    assert_eq!(sim.hidden("n02").runs, "1.21.0");
    sim.uncordon("n01");
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn s9_an_admin_who_uncordons_a_draining_node_has_it_back() {
    for after in [65, 80] {
        let mut sim = Sim::new().nodes(1).plan("web", "");
        sim.run_for(seconds(after));
        assert!(sim.facts("n01").unschedulable);
        sim.facts_mut("n01").unschedulable = false;
        sim.run_for(seconds(3));
        let failed = |sim: &Sim| {
            let of_node = sim
                .events
                .iter()
                .filter(|e| e.reason == "NodeFailed" && e.note.contains("uncordoned"));
            of_node.count()
        };
        assert_eq!(failed(&sim), 1, "{:?}", sim.events);
        assert!(sim.hidden("n01").reboots.is_empty());
        sim.run_for(seconds(20));
        assert_eq!(
            sim.verdict("n01").reason(),
            "Backoff",
            "and for longer than a moment"
        );
        sim.run_until_phase("web", Phase::Complete);
        sim.ends_well();
    }
}

/// Something that uncordons a node whenever it is cordoned has it evicted neither for ever nor before the others.
#[test]
fn l8_a_node_that_is_uncordoned_again_and_again_is_given_up() {
    let mut sim = Sim::new()
        .nodes(3)
        .plan("web", "failurePolicy: {retries: 2, threshold: 2}");
    sim.settle();
    let node = sim.granted().remove(0);
    for _ in 0..600 {
        sim.run_for(seconds(30));
        sim.facts_mut(&node).unschedulable = false;
    }
    assert_eq!(sim.checker.granted.len(), 5, "three tries, and the others");
    assert_eq!(sim.status("web").nodes.updated, 2);
    assert_eq!(sim.phase("web"), Some(Phase::Complete));
    assert!(sim.ledger().grants.is_empty());
}

#[test]
fn s9_annotations_that_were_there_before_are_put_back() {
    let mut sim = Sim::new().nodes(1).plan("web", "");
    let (key, _) = api::names::DO_NOT_DISRUPT_ANNOTATIONS[0];
    sim.facts_mut("n01")
        .annotations
        .insert(key.to_owned(), "false".to_owned());
    sim.run_for(seconds(70));
    assert_eq!(sim.facts("n01").annotations[key], "true");
    sim.run_until_phase("web", Phase::Complete);
    let expected = [(key.to_owned(), "false".to_owned())];
    assert_eq!(sim.facts("n01").annotations, expected.into());
}

#[test]
fn s1_a_node_that_is_not_ready_spends_the_budget_and_is_named() {
    let mut sim = Sim::new().nodes(3).plan("web", "");
    sim.not_ready("n02");
    sim.run_for(hours(1));
    assert!(sim.checker.granted.is_empty());
    assert_snapshot!("not_ready_spends_the_budget", sim.describe("web"));
    sim.ready("n02");
    sim.settle();
    assert_eq!(sim.granted().len(), 1, "at once");
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn s1_a_node_that_goes_down_on_the_way_holds_the_next_grant() {
    let mut sim = Sim::new().nodes(4).plan("web", "maxUnavailable: 2");
    sim.settle();
    let down = ["n01", "n02", "n03", "n04"]
        .into_iter()
        .find(|n| !sim.granted().contains(&(*n).to_owned()))
        .unwrap();
    sim.run_for(minutes(1));
    sim.not_ready(down);
    sim.run_for(hours(1));
    assert_eq!(sim.status("web").nodes.updated, 3, "one at a time");
    sim.ready(down);
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn a_node_whose_agent_never_reported_waits() {
    let mut sim = Sim::new().nodes(2).plan("web", "");
    sim.facts_mut("n01").shadow = None;
    sim.run_until("the other is done", |sim| sim.status("web").nodes.updated == 1);
    assert_eq!(sim.verdict("n01"), Verdict::AgentSilent { since: None });
    let mut status = sim.facts("n02").shadow.clone().unwrap();
    status.spec = Default::default();
    status.status.as_mut().unwrap().current_version = "unknown".into();
    status.status.as_mut().unwrap().run = None;
    status.status.as_mut().unwrap().attempt = None;
    sim.facts_mut("n01").shadow = Some(status);
    sim.hidden_mut("n01").runs = "unknown".into();
    sim.run_for(hours(1));
    assert_eq!(
        sim.checker.granted.len(),
        1,
        "S8: what is no version is not known to be older"
    );
}

#[test]
fn a_node_without_the_label_takes_no_part() {
    let mut sim = Sim::new().nodes(2).plan("web", "");
    sim.facts_mut("n01").labels.clear();
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(sim.status("web").nodes.matched, 1);
    assert_eq!(sim.hidden("n01").runs, "1.20.3");
}

#[test]
fn s12_a_node_that_is_no_longer_selected_is_withdrawn() {
    let mut sim = Sim::new()
        .node_with("db", "1.20.3", &[("pool", "db")])
        .plan("web", "nodeSelector: {matchLabels: {pool: db}}");
    sim.run_for(seconds(70));
    assert!(sim.facts("db").unschedulable);
    sim.facts_mut("db").labels.remove("pool");
    sim.run_for(seconds(5));
    assert!(!sim.facts("db").unschedulable && sim.ledger().grants.is_empty());
    assert_eq!(sim.status("web").nodes.matched, 0);
    sim.ends_well();
}

#[test]
fn a_node_that_crashes_while_it_is_staged_fails_the_attempt() {
    let mut sim = Sim::new()
        .nodes(1)
        .plan("web", "failurePolicy: {retries: 1, threshold: 1}");
    sim.run_for(seconds(70));
    assert!(sim.hidden("n01").activated);
    sim.crash("n01");
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(sim.hidden("n01").runs, "1.21.0");
    sim.ends_well();
}

#[test]
fn a_crash_while_monitored_is_waited_out() {
    let mut sim = Sim::new()
        .nodes(1)
        .plan("web", "monitoring: {minReady: 5m, timeout: 20m}");
    sim.run_until("it is monitored", |sim| {
        sim.facts("n01").shadow.as_ref().unwrap().spec.state == NodeState::MonitoringUpdate
    });
    sim.run_for(minutes(3));
    sim.crash("n01");
    sim.run_until("it is Ready", |sim| sim.facts("n01").ready);
    let ready = sim.now;
    sim.run_until_phase("web", Phase::Complete);
    assert!(sim.now >= ready + minutes(5), "S7: Ready without interruption");
    sim.ends_well();
}
