//! S1 and S3, what concerns more than one node's own plan or number: domains, the install's cap, priority.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::sync::Arc;

use api::ledger::PlanEntry;
use serde_json::{Value, json};

use super::story::{NEW, PLAN, Story, read};
use crate::history::Object;
use crate::oracle::Promise;

fn unfinished(nodes: &[&str], spec: Value) -> Story {
    let mut story = Story::new(nodes, spec);
    (story.expect.quiet, story.expect.complete) = (false, [].into());
    story
}

fn zone(story: &mut Story, node: &str, zone: &str) {
    story.edit_node(node, |node| {
        node.metadata
            .labels
            .get_or_insert_default()
            .insert("zone".into(), zone.into());
    });
}

/// Nodes a1, a2 in one zone, b1 in another, and one that nobody knows of where it is.
fn zones(max_domains: u32) -> Story {
    let topology = json!({"key": "zone", "maxDomains": max_domains});
    let mut story = unfinished(
        &["a1", "a2", "b1", "x"],
        json!({"maxUnavailable": 9, "topology": topology}),
    );
    for node in ["a1", "a2", "b1"] {
        zone(&mut story, node, &node[..1]);
    }
    story.wait(10);
    story
}

#[test]
fn s1_grants_in_one_domain_are_clean_and_one_in_another_is_seen() {
    let mut story = zones(1);
    story.grant("a1");
    story.grant("a2");
    story.is_clean();
    story.grant("b1");
    story.breaks(
        Promise::S1,
        "nodes of 2 domains are unavailable (label a, label b), limit 1",
    );
}

#[test]
fn s1_a_node_without_the_label_is_a_domain_of_its_own() {
    let mut story = zones(1);
    story.grant("a1");
    story.grant("x");
    story.breaks(Promise::S1, "(label a, node x), limit 1");
}

#[test]
fn s1_a_grant_beside_a_dead_node_of_another_domain_is_seen() {
    let mut story = zones(1);
    story.ready("b1", false);
    story.wait(10);
    story.grant("a1");
    story.breaks(Promise::S1, "nodes of 2 domains are unavailable");
}

/// Another plan, of the same age, that selects every node as well.
fn second_plan(story: &mut Story, priority: i32) {
    let plan = json!({
        "metadata": {"name": "q", "uid": "plan-q", "generation": 1, "creationTimestamp": "2026-11-22T07:00:00Z"},
        "spec": {"targetVersion": NEW, "nodeSelector": {}, "priority": priority}});
    story.put(Object::Plan(Arc::new(read(plan))));
    story.edit_ledger(|ledger| {
        let entry = PlanEntry {
            name: "q".into(),
            ..ledger.plans[PLAN].clone()
        };
        ledger.plans.insert("plan-q".into(), entry);
    });
}

#[test]
fn s3_a_grant_by_the_plan_that_comes_first_is_clean_and_by_another_is_seen() {
    let mut story = unfinished(&["a"], json!({}));
    second_plan(&mut story, 0);
    story.wait(10);
    story.grant("a");
    story.is_clean();

    let mut story = unfinished(&["a"], json!({}));
    second_plan(&mut story, 1);
    story.wait(10);
    story.grant("a");
    story.breaks(Promise::S3, "node a was granted by plan p, but belongs to q");
}

#[test]
fn s1_a_grant_above_the_installs_limit_or_while_it_is_stopped_is_seen() {
    let limited = |limit: &str| {
        let mut story = unfinished(&["a", "b", "c", "d"], json!({"maxUnavailable": 9}));
        let limit = limit.parse().unwrap();
        story.edit_ledger(|ledger| ledger.max_unavailable = Some(limit));
        story.wait(10);
        story.grant("a");
        story
    };
    let mut story = limited("2");
    story.grant("b");
    story.is_clean();
    story.grant("c");
    story.breaks(
        Promise::S1,
        "3 granted and 0 otherwise unavailable, limit 2 of the install",
    );

    let mut story = limited("50%");
    story.ready("d", false);
    story.wait(10);
    story.grant("b");
    story.breaks(
        Promise::S1,
        "2 granted and 1 otherwise unavailable, limit 2 of the install",
    );

    let mut story = limited("2");
    story.edit_ledger(|ledger| ledger.stop = true);
    story.is_clean();
    story.grant("b");
    story.breaks(Promise::S1, "node b was granted, though the install is stopped");
}
