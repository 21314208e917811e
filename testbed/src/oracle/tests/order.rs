//! S10 to S12: the order of waves, halting, and what people want in the meantime.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use api::names::PLAN_FINALIZER;
use api::shadow::FailureReason;
use serde_json::{Value, json};

use super::story::{PLAN, Story};
use crate::oracle::Promise;

fn unfinished(nodes: &[&str], spec: Value) -> Story {
    let mut story = Story::new(nodes, spec);
    story.expect.quiet = false;
    story.expect.complete.clear();
    story
}

/// A canary wave of so many nodes, then the rest.
fn waves(nodes: &[&str], size: u32) -> Story {
    let waves = json!([{"name": "canary", "size": size, "soak": "30s"}, {"name": "rest"}]);
    let mut story = unfinished(nodes, json!({"maxUnavailable": 9, "waves": waves}));
    story.edit_ledger(|ledger| {
        ledger.plans.get_mut(PLAN).unwrap().wave_sizes = [("canary".to_owned(), size)].into();
    });
    story
}

fn roll_canary(story: &mut Story, node: &str) {
    story.roll_as(node, |grant| grant.wave = "canary".into());
}

#[test]
fn s10_waves_in_order_are_clean() {
    let mut story = waves(&["a", "b"], 1);
    roll_canary(&mut story, "a");
    story.wait(30);
    story.roll("b");
    story.is_clean();
}

#[test]
fn s10_a_wave_beside_another_is_seen() {
    let mut story = waves(&["a", "b"], 1);
    story.grant_as("a", |grant| grant.wave = "canary".into());
    story.grant("b");
    story.breaks(Promise::S10, "node a of wave canary is being updated");
}

#[test]
fn s10_a_wave_that_has_places_left_is_seen() {
    let mut story = waves(&["a", "b", "c"], 2);
    roll_canary(&mut story, "a");
    story.wait(30);
    story.grant("b");
    story.breaks(Promise::S10, "node b of wave canary was passed over");
}

#[test]
fn s10_a_wave_that_was_withdrawn_is_not_done() {
    let mut story = waves(&["a", "b"], 1);
    story.grant_as("a", |grant| grant.wave = "canary".into());
    story.stage("a");
    story.end("a", None);
    story.wait(30);
    story.grant("b");
    story.breaks(Promise::S10, "node a of wave canary is not done");
}

#[test]
fn s10_a_wave_that_is_not_soaked_is_seen() {
    let mut story = waves(&["a", "b"], 1);
    roll_canary(&mut story, "a");
    story.wait(25);
    story.grant("b");
    story.breaks(Promise::S10, "has soaked for 25 s of its 30s");
}

#[test]
fn s10_a_wave_that_proved_nothing_is_seen() {
    let mut story = waves(&["a", "b"], 1);
    story.edit_spec(|plan| plan.spec.failure_policy.threshold = api::quantity::IntOrPercent::Int(2));
    for attempt in [1, 2] {
        story.grant_as("a", |grant| {
            (grant.wave, grant.attempt) = ("canary".into(), attempt)
        });
        story.stage("a");
        story.end("a", Some(FailureReason::StageFailed));
    }
    story.wait(40);
    story.grant("b");
    story.breaks(Promise::S10, "no node of wave canary got the update");
}

#[test]
fn s10_a_selected_wave_that_is_passed_over_is_seen() {
    let waves = json!([{"name": "dev", "nodeSelector": {"matchLabels": {"tier": "dev"}}}, {"name": "rest"}]);
    let mut story = unfinished(&["a", "b"], json!({"waves": waves}));
    story.edit_node("a", |node| {
        node.metadata
            .labels
            .get_or_insert_default()
            .insert("tier".into(), "dev".into());
    });
    story.wait(10);
    story.grant("b");
    story.breaks(Promise::S10, "node a of wave dev was passed over");
}

#[test]
fn s10_a_wave_that_the_ledger_opens_too_early_is_seen() {
    let mut story = waves(&["a", "b"], 1);
    roll_canary(&mut story, "a");
    story.wait(20);
    story.edit_ledger(|ledger| ledger.plans.get_mut(PLAN).unwrap().open_wave = 1);
    story.breaks(Promise::S10, "has soaked for 20 s of its 30s");
}

#[test]
fn s10_a_node_that_comes_after_its_wave_holds_nothing_up() {
    let mut story = waves(&["a", "b"], 2);
    roll_canary(&mut story, "a");
    roll_canary(&mut story, "b");
    story.wait(30);
    story.join("c", "uid-c");
    story.wait(10);
    story.roll("c");
    story.is_clean();
}

#[test]
fn s10_a_canary_that_is_gone_has_still_proven_something() {
    let mut story = waves(&["a", "b", "c", "d"], 2);
    roll_canary(&mut story, "a");
    story.delete_node("a");
    for attempt in [1, 2] {
        story.grant_as("b", |grant| {
            (grant.wave, grant.attempt) = ("canary".into(), attempt)
        });
        story.stage("b");
        story.end("b", Some(FailureReason::StageFailed));
    }
    halt(&mut story);
    story.wait(40);
    story.edit_ledger(|ledger| ledger.plans.get_mut(PLAN).unwrap().open_wave = 1);
    story.is_clean();
}

/// A wave for node a alone, which has begun with it, before it is gone.
fn canary_that_is_gone() -> Story {
    let a = json!({"matchLabels": {"kubernetes.io/hostname": "a"}});
    let waves = json!([{"name": "canary", "nodeSelector": a}, {"name": "rest"}]);
    let mut story = unfinished(&["a", "b"], json!({"waves": waves}));
    story.grant_as("a", |grant| grant.wave = "canary".into());
    story.stage("a");
    story.end("a", None);
    story.delete_node("a");
    story.wait(60);
    story
}

#[test]
fn s10_a_canary_that_is_gone_unproven_is_seen() {
    let mut story = canary_that_is_gone();
    story.grant("b");
    story.breaks(
        Promise::S10,
        "the nodes that wave canary began with are gone unproven",
    );
}

#[test]
fn s10_a_node_that_changes_its_wave_is_seen() {
    let mut story = waves(&["a", "b", "c"], 1);
    roll_canary(&mut story, "a");
    story.wait(30);
    story.roll("b");
    story.grant("c");
    story.stage("c");
    story.end("c", None);
    story.is_clean();
    story.grant_as("c", |grant| grant.wave = "canary".into());
    story.breaks(Promise::S10, "went from wave rest to wave canary");
}

fn halt(story: &mut Story) {
    story.edit_ledger(|ledger| ledger.plans.get_mut(PLAN).unwrap().halted = true);
}

/// Node a fails for good.
fn failed() -> Story {
    let mut story = unfinished(&["a", "b", "c"], json!({}));
    story.fail("a");
    story
}

#[test]
fn s11_a_run_that_is_halted_in_time_is_clean() {
    let mut story = unfinished(&["a", "b"], json!({}));
    for attempt in [1, 2] {
        story.grant_as("a", |grant| grant.attempt = attempt);
        story.stage("a");
        story.end("a", Some(FailureReason::StageFailed));
    }
    halt(&mut story);
    story.wait(30);
    story.is_clean();
}

#[test]
fn s11_a_run_that_is_not_halted_is_seen() {
    failed().breaks(Promise::S11, "plan p is not halted, though 1 nodes have failed");
}

#[test]
fn s11_a_grant_after_the_halt_is_seen() {
    let mut story = unfinished(&["a", "b"], json!({}));
    halt(&mut story);
    story.grant("b");
    story.breaks(Promise::S11, "granted in a halted run");
}

#[test]
fn s11_a_grant_in_the_very_write_that_halts_is_seen() {
    let mut story = unfinished(&["a", "b"], json!({}));
    story.edit_plan(|plan| plan.metadata.finalizers = Some(vec![PLAN_FINALIZER.into()]));
    let (uid, grant) = (story.uid_of("b"), story.grant_for("b"));
    story.edit_ledger(|ledger| {
        ledger.plans.get_mut(PLAN).unwrap().halted = true;
        ledger.grants.insert(uid, grant);
    });
    story.breaks(Promise::S11, "granted in a halted run");
}

#[test]
fn s11_a_halt_that_is_lifted_is_seen() {
    let mut story = unfinished(&["a"], json!({}));
    halt(&mut story);
    story.edit_ledger(|ledger| ledger.plans.get_mut(PLAN).unwrap().halted = false);
    story.breaks(Promise::S11, "went on in the same run");
}

#[test]
fn s11_a_failure_that_is_still_retried_halts_nothing() {
    let mut story = unfinished(&["a"], json!({}));
    story.grant("a");
    story.stage("a");
    story.end("a", Some(FailureReason::StageFailed));
    story.wait(60);
    story.is_clean();
}

#[test]
fn s12_a_grant_while_paused_is_seen() {
    let mut story = unfinished(&["a"], json!({}));
    story.edit_spec(|plan| plan.spec.paused = true);
    story.grant("a");
    story.breaks(Promise::S12, "while plan p is paused");
}

#[test]
fn s12_a_pause_that_the_ledger_belies_is_seen() {
    let mut story = unfinished(&["a"], json!({}));
    story.edit_spec(|plan| plan.spec.paused = true);
    story.edit_ledger(|ledger| ledger.plans.get_mut(PLAN).unwrap().paused = false);
    story.grant("a");
    story.breaks(Promise::S12, "from a paused generation");
}

#[test]
fn s12_a_grant_from_an_older_generation_is_seen() {
    let mut story = unfinished(&["a"], json!({}));
    story.edit_spec(|_| {});
    story.grant_as("a", |grant| grant.generation = 1);
    story.breaks(Promise::S12, "from generation 1 of plan p, and 2 is recorded");
}

#[test]
fn s12_a_grant_in_an_older_run_is_seen() {
    let mut story = unfinished(&["a"], json!({}));
    story.grant_as("a", |grant| grant.run = "r0".into());
    story.breaks(Promise::S12, "in a run that plan p is over with");
}

#[test]
fn s12_a_grant_of_a_plan_that_is_being_deleted_is_seen() {
    let mut story = unfinished(&["a", "b"], json!({"maxUnavailable": 2}));
    story.grant("a");
    let now = api::time::to_kubernetes(story.now);
    story.edit_spec(|plan| plan.metadata.deletion_timestamp = Some(now));
    story.is_clean();
    story.grant("b");
    story.breaks(Promise::S12, "which is being deleted");
}

#[test]
fn s12_a_ledger_that_goes_back_is_seen() {
    let mut story = unfinished(&["a"], json!({}));
    story.edit_spec(|_| {});
    story.edit_ledger(|ledger| ledger.plans.get_mut(PLAN).unwrap().generation = 1);
    story.breaks(Promise::S12, "went back from generation 2");
}

#[test]
fn s12_a_status_ahead_of_the_ledger_is_seen() {
    let mut story = unfinished(&["a"], json!({}));
    story.edit_plan(|plan| {
        plan.metadata.generation = Some(2);
        plan.status.get_or_insert_default().observed_generation = Some(2);
    });
    story.breaks(Promise::S12, "says generation 2 before the ledger does");
}

#[test]
fn s12_grants_without_the_finalizer_are_seen() {
    let mut story = unfinished(&["a"], json!({}));
    story.grant("a");
    story.edit_plan(|plan| plan.metadata.finalizers = None);
    story.breaks(Promise::S12, "has grants, and no finalizer");
}

#[test]
fn s12_a_grant_before_the_finalizer_is_seen() {
    let mut story = unfinished(&["a"], json!({}));
    let (uid, grant) = (story.uid_of("a"), story.grant_for("a"));
    story.edit_ledger(|ledger| {
        ledger.grants.insert(uid, grant);
    });
    story.breaks(Promise::S12, "has grants, and no finalizer");
}

#[test]
fn s12_a_plan_that_goes_before_its_grants_is_seen() {
    let mut story = unfinished(&["a"], json!({}));
    story.grant("a");
    story.delete_plan();
    story.breaks(Promise::S12, "is gone, and still has grants");
}

#[test]
fn s12_a_finalizer_that_stays_is_seen() {
    let mut story = Story::new(&["a"], json!({}));
    story.roll("a");
    story.edit_plan(|plan| plan.metadata.finalizers = Some(vec![PLAN_FINALIZER.into()]));
    story.breaks(Promise::S12, "has the finalizer, and no grants");
}
