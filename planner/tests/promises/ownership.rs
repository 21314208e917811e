//! Which plan a node belongs to, and what an invalid plan does.

use api::{ledger::GrantPhase, plan::Phase, verdict::Verdict};
use insta::assert_snapshot;

use crate::support::{Fault, Sim, hours, minutes, seconds};

fn db_and_web() -> Sim {
    Sim::new()
        .node_with("db1", "1.20.3", &[("pool", "db")])
        .node_with("db2", "1.20.3", &[("pool", "db")])
        .node_with("web1", "1.20.3", &[("pool", "web")])
}

#[test]
fn s3_of_two_plans_the_older_owns() {
    let mut sim = db_and_web()
        .plan(
            "zz-db",
            "targetVersion: 1.21.0\nnodeSelector: {matchLabels: {pool: db}}",
        )
        .plan("all", "targetVersion: 1.21.5\nmaxUnavailable: 3");
    sim.settle();
    let other = |node: &str| {
        let found = sim
            .last
            .verdicts
            .iter()
            .find(|v| v.node == node && &*v.plan == "all")
            .unwrap();
        found.verdict.clone()
    };
    assert_eq!(other("db1"), Verdict::OtherPlan { name: "zz-db".into() });
    assert_eq!(sim.status("all").nodes.matched, 1);
    sim.run_until_phase("zz-db", Phase::Complete);
    sim.run_until_phase("all", Phase::Complete);
    assert_eq!(
        (sim.hidden("db1").runs.as_str(), sim.hidden("web1").runs.as_str()),
        ("1.21.0", "1.21.5")
    );
    sim.ends_well();

    sim.delete_plan("zz-db");
    sim.run_for(seconds(1));
    assert_eq!(sim.status("all").nodes.matched, 3, "and leaves them to the next");
    sim.run_for(hours(1));
    assert_eq!(sim.hidden("db2").runs, "1.21.5");
    sim.ends_well();
}

#[test]
fn l7_a_plan_that_has_no_node_does_not_say_how_its_windows_come_and_go() {
    let hourly = "maintenanceWindows: [{name: hourly, schedule: '0 * * * *', duration: 20m}]";
    let nobodys = format!("{hourly}\nnodeSelector: {{matchLabels: {{pool: none}}}}");
    let mut sim = db_and_web()
        .plan("all", "maxUnavailable: 3")
        .plan("loses", hourly)
        .plan("empty", &nobodys);
    sim.run_until_phase("all", Phase::Complete);
    for plan in ["loses", "empty"] {
        assert_eq!(sim.phase(plan), Some(Phase::Pending));
    }
    sim.ends_well();
}

#[test]
fn s11_a_node_that_failed_has_failed_also_where_another_plan_has_had_it_since() {
    let mut sim = Sim::new()
        .node_with("db", "1.20.3", &[("pool", "db")])
        .node_with("held", "1.20.3", &[])
        .plan(
            "all",
            "maxUnavailable: 3\nfailurePolicy: {retries: 0, threshold: 2}",
        );
    sim.cordon("held");
    sim.break_node("db", Fault::PrepareFails);
    sim.run_until("it has failed", |sim| sim.status("all").nodes.failed == 1);
    sim.apply_plan("takes", "priority: 10\nnodeSelector: {matchLabels: {pool: db}}");
    sim.run_until("it is tried", |sim| {
        sim.facts("db").shadow.as_ref().unwrap().spec.plan.as_deref() == Some("takes")
    });
    sim.cordon("db");
    sim.delete_plan("takes");
    sim.run_for(minutes(30));
    assert_eq!(sim.status("all").nodes.matched, 2);
    sim.add_node("web", "1.20.3", &[]);
    sim.break_node("web", Fault::PrepareFails);
    sim.run_until_phase("all", Phase::Halted);
    let message = sim.status("all").message.clone().unwrap_or_default();
    assert!(message.contains("2 failed"), "{message}");
    sim.ends_well();
}

#[test]
fn s3_a_plan_of_the_same_age_comes_by_name() {
    let mut sim = Sim::new().nodes(1).plan("b", "").plan("a", "");
    let created = sim.plan_facts("b").created;
    sim.plan_mut("a").created = created;
    sim.settle();
    assert_eq!(sim.status("a").nodes.matched, 1);
    assert_snapshot!("all_nodes_belong_to_another_plan", sim.describe("b"));
}

#[test]
fn s3_the_highest_priority_owns_whatever_the_age() {
    let mut sim = db_and_web()
        .plan("old", "")
        .plan(
            "db",
            "targetVersion: 1.21.5\npriority: 7\nnodeSelector: {matchLabels: {pool: db}}",
        )
        .plan("low", "priority: -1");
    sim.settle();
    let matched = |sim: &Sim, plan: &str| sim.status(plan).nodes.matched;
    assert_eq!(
        ["old", "db", "low"].map(|plan| matched(&sim, plan)),
        [1, 2, 0],
        "low is younger and lower"
    );
    sim.run_until_phase("db", Phase::Complete);
    sim.run_until_phase("old", Phase::Complete);
    let runs = |node: &str| sim.hidden(node).runs.clone();
    assert_eq!(["db1", "db2", "web1"].map(runs), ["1.21.5", "1.21.5", "1.21.0"]);
    sim.ends_well();
}

#[test]
fn s3_a_plan_that_is_invalid_keeps_its_priority() {
    let mut sim = Sim::new()
        .nodes(2)
        .plan("old", "")
        .plan("bad", "targetVersion: v1\npriority: 1");
    sim.run_for(hours(1));
    assert!(sim.checker.granted.is_empty());
    assert_eq!(sim.verdict("n01").reason(), "InvalidPlan");
}

#[test]
fn a_plan_of_more_waves_than_the_schema_allows_is_invalid() {
    let waves: String = (1..=21).map(|i| format!("- {{name: w{i}}}\n")).collect();
    let mut sim = Sim::new().nodes(1).plan("many", &format!("waves:\n{waves}"));
    sim.settle();
    assert_eq!(
        sim.verdict("n01").to_string(),
        "the plan is invalid: spec.waves: \"21 waves\": at most 20"
    );
}

#[test]
fn s3_a_raised_priority_takes_a_node_when_it_is_idle() {
    let mut sim = Sim::new()
        .nodes(2)
        .plan("first", "")
        .plan("second", "targetVersion: 1.21.5");
    sim.settle();
    let granted = sim.granted()[0].clone();
    sim.run_until("it reboots", |sim| !sim.hidden(&granted).up);
    sim.edit("second", |spec| spec.priority = 1);
    sim.run_for(seconds(1));
    let uid = sim.facts(&granted).uid.clone();
    assert_eq!(sim.ledger().grants[&uid].plan, "uid-first");
    assert_eq!(sim.status("second").nodes.matched, 1);
    sim.run_until_phase("second", Phase::Complete);
    assert_eq!(sim.status("second").nodes.matched, 2);
    let by_first = sim
        .checker
        .granted
        .iter()
        .filter(|(_, _, g)| g.plan == "uid-first");
    assert_eq!(
        by_first.count(),
        1,
        "finished by the plan that began, and no other"
    );
    sim.ends_well();
}

#[test]
fn s3_a_plan_that_is_paused_halted_or_invalid_keeps_its_nodes() {
    for spec in [
        "paused: true",
        "targetVersion: v1",
        "maintenanceWindows: [{name: w, schedule: '* * *', duration: 1h}]",
    ] {
        let mut sim = Sim::new().nodes(2).plan("first", spec).plan("second", "");
        sim.run_for(hours(1));
        assert!(sim.checker.granted.is_empty(), "{spec}");
        assert_eq!(sim.status("second").nodes.matched, 0, "{spec}");
    }
    let policy = "failurePolicy: {retries: 0, threshold: 1}";
    let mut sim = Sim::new()
        .nodes(2)
        .plan("first", policy)
        .plan("second", "targetVersion: 1.21.1");
    sim.break_every_node(Fault::PrepareFails);
    sim.run_until_phase("first", Phase::Halted);
    sim.mend_every_node();
    sim.run_for(hours(1));
    assert_eq!(sim.checker.granted.len(), 1);
    assert_eq!(sim.status("second").nodes.matched, 0);
}

#[test]
fn s3_ownership_changes_only_while_a_node_is_idle() {
    let mut sim = db_and_web()
        .plan("first", "nodeSelector: {matchLabels: {pool: web}}")
        .plan("second", "targetVersion: 1.21.5");
    sim.settle();
    let granted = sim.granted().into_iter().find(|n| n.starts_with("db")).unwrap();
    sim.run_until("it reboots", |sim| !sim.hidden(&granted).up);
    sim.edit("first", |spec| spec.node_selector = Default::default());
    sim.run_for(seconds(10));
    let uid = sim.facts(&granted).uid.clone();
    assert_eq!(sim.ledger().grants[&uid].plan, "uid-second");
    sim.run_until_phase("first", Phase::Complete);
    assert_eq!(
        sim.hidden(&granted).runs,
        "1.21.5",
        "finished by the plan that began"
    );
    assert_eq!(
        sim.verdict(&granted),
        Verdict::NewerThanTarget {
            running: "1.21.5".into()
        }
    );
    sim.ends_well();
}

#[test]
fn an_invalid_plan_says_what_to_change_and_leaves_others_alone() {
    let mut sim = db_and_web()
        .plan("bad", "nodeSelector: {matchLabels: {pool: db}}\nmaintenanceWindows: [{name: w, schedule: '0 2 * * *', timeZone: Europe/Atlantis, duration: 1h}]")
        .plan("good", "nodeSelector: {matchLabels: {pool: web}}");
    sim.run_until_phase("good", Phase::Complete);
    assert_snapshot!("invalid", sim.describe("bad"));
    assert_eq!(sim.verdict("db1").reason(), "InvalidPlan");
    sim.edit("bad", |spec| {
        spec.maintenance_windows[0].time_zone = Some("Europe/Berlin".into())
    });
    sim.run_until_phase("bad", Phase::Complete);
    sim.ends_well();
}

#[test]
fn s12_a_plan_that_becomes_invalid_withdraws_and_goes_on_when_mended() {
    let mut sim = Sim::new().nodes(3).plan("web", "maxUnavailable: 2");
    sim.run_for(seconds(70));
    sim.edit("web", |spec| spec.monitoring.min_ready = "20m".parse().unwrap());
    sim.run_for(seconds(5));
    assert!(sim.ledger().grants.is_empty(), "withdrawn at once");
    sim.run_for(minutes(5));
    assert!(sim.nodes.values().all(|node| node.reboots.is_empty()));
    assert_snapshot!("became_invalid", sim.describe("web"));
    let run = sim.status("web").run.clone();
    sim.edit("web", |spec| spec.monitoring.min_ready = "2m".parse().unwrap());
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(
        sim.status("web").run.clone().unwrap().id,
        run.unwrap().id,
        "the same run"
    );
    sim.ends_well();
}

/// A server that needs more than the default of 15 minutes to boot is not given up because of a typo in a window.
#[test]
fn s12_what_is_on_its_way_has_the_time_of_its_own_plan_also_while_that_is_invalid() {
    let in_phase = |phase| move |sim: &Sim| sim.ledger().grants.values().any(|g| g.phase == phase);
    let spec = "timeouts: {reboot: 45m}\nmonitoring: {minReady: 5m}";
    let mut sim = Sim::new().nodes(1).plan("web", spec);
    sim.retime("n01", |timing| timing.reboot = minutes(30));
    sim.run_until("it reboots", in_phase(GrantPhase::Rebooting));
    sim.edit("web", |spec| {
        spec.exclusions =
            serde_saphyr::from_str("[{name: x, schedule: '0 25 * * *', duration: 1h}]").unwrap();
    });
    sim.run_until("it is monitored", in_phase(GrantPhase::Monitoring));
    sim.run_for(minutes(4));
    assert_eq!(sim.granted().len(), 1, "for 5 minutes");
    // What makes a plan invalid may be such a time itself: it is updated once it was Ready for as long as it may take.
    sim.edit("web", |spec| spec.monitoring.min_ready = "20m".parse().unwrap());
    sim.run_for(minutes(10));
    assert_eq!(sim.granted().len(), 1, "for 15 minutes");
    sim.run_for(minutes(2));
    assert!(sim.granted().is_empty());
    sim.edit("web", |spec| {
        spec.exclusions.clear();
        spec.monitoring.min_ready = "5m".parse().unwrap();
    });
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn every_problem_names_field_value_and_remedy() {
    let bad = [
        ("targetVersion: v1.21.0", "targetVersion", "v1.21.0"),
        ("targetVersion: '1.21'", "targetVersion", "1.21"),
        (
            "monitoring: {minReady: 20m, timeout: 10m}",
            "monitoring.minReady",
            "20m",
        ),
        (
            "nodeSelector: {matchExpressions: [{key: a, operator: Near, values: [b]}]}",
            "nodeSelector.matchExpressions[0].operator",
            "Near",
        ),
        (
            "nodeSelector: {matchExpressions: [{key: a, operator: In}]}",
            "nodeSelector.matchExpressions[0].values",
            "[]",
        ),
        ("waves: [{name: canary, size: 1}]", "waves[0]", "canary"),
        (
            "waves: [{name: a, nodeSelector: {matchExpressions: [{key: a, operator: X}]}}, {name: rest}]",
            "waves[0].nodeSelector.matchExpressions[0].operator",
            "X",
        ),
        (
            "maintenanceWindows: [{name: w, schedule: '0 2 * *', duration: 1h}]",
            "maintenanceWindows[0].schedule",
            "0 2 * *",
        ),
        (
            "maintenanceWindows: [{name: w, start: 2026-11-22T08:00:00Z, end: 2026-11-22T08:00:00Z}]",
            "maintenanceWindows[0].end",
            "2026-11-22T08:00:00",
        ),
        (
            "maintenanceWindows: [{name: w, start: 2026-11-22T08:00:00Z}]",
            "maintenanceWindows[0]",
            "w",
        ),
        (
            "maintenanceWindows: [{name: w, schedule: '0 2 * * *'}]",
            "maintenanceWindows[0]",
            "w",
        ),
    ];
    let mut messages = Vec::new();
    for (spec, field, value) in bad {
        let mut sim = Sim::new().nodes(1).plan("web", spec);
        sim.run_for(hours(1));
        assert!(sim.checker.granted.is_empty());
        assert_eq!(sim.phase("web"), Some(Phase::Invalid));
        let message = sim.status("web").message.clone().unwrap();
        assert!(
            message.contains(&format!("spec.{field}")) && message.contains(value),
            "{message}"
        );
        messages.push(message);
    }
    assert_snapshot!("invalid_messages", messages.join("\n"));
}
