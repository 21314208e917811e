//! What people ask of a run, and what is done that nobody has asked: approvals, retries, runs out of their windows, nodes
//! that have opted out.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use api::names::{APPROVE_ANNOTATION, OPT_OUT_ANNOTATION, RETRY_ANNOTATION, RUN_NOW_ANNOTATION};
use serde_json::{Value, json};

use super::story::{PLAN, Story};
use crate::oracle::Promise;

fn unfinished(nodes: &[&str], spec: Value) -> Story {
    let mut story = Story::new(nodes, spec);
    (story.expect.quiet, story.expect.complete) = (false, [].into());
    story
}

fn annotate(story: &mut Story, annotation: &str, value: &str) {
    story.edit_plan(|plan| {
        let annotations = plan.metadata.annotations.get_or_insert_default();
        annotations.insert(annotation.into(), value.into());
    });
}

/// A canary that has been updated and has soaked, and what somebody approves after that.
fn canary(approved: Option<&str>) -> Story {
    let waves = json!([{"name": "canary", "size": 1, "soak": "30s", "approval": "Manual"}, {"name": "rest"}]);
    let mut story = unfinished(&["a", "b"], json!({"waves": waves}));
    story.edit_ledger(|ledger| {
        ledger.plans.get_mut(PLAN).unwrap().wave_sizes = [("canary".to_owned(), 1)].into();
    });
    story.roll_as("a", |grant| grant.wave = "canary".into());
    story.wait(30);
    if let Some(approved) = approved {
        annotate(&mut story, APPROVE_ANNOTATION, approved);
    }
    story
}

#[test]
fn s10_a_node_is_skipped_after_so_long_of_open_window_and_not_before() {
    for (skip_after, clean) in [("20s", true), ("2m", false)] {
        let waves =
            json!([{"name": "dev", "nodeSelector": {"matchLabels": {"tier": "dev"}}}, {"name": "rest"}]);
        let mut story = unfinished(&["a", "b", "c"], json!({"waves": waves, "skipAfter": skip_after}));
        for node in ["a", "b"] {
            story.edit_node(node, |node| {
                let labels = node.metadata.labels.get_or_insert_default();
                labels.insert("tier".into(), "dev".into());
            });
        }
        story.wait(10);
        story.edit_node("b", |node| {
            node.spec.get_or_insert_default().unschedulable = Some(true)
        });
        story.roll_as("a", |grant| grant.wave = "dev".into());
        story.wait(40);
        story.edit_ledger(|ledger| ledger.plans.get_mut(PLAN).unwrap().open_wave = 1);
        if clean {
            story.is_clean();
        } else {
            story.breaks(Promise::S10, "node b of wave dev was passed over");
        }
    }
}

#[test]
fn s10_a_wave_after_one_that_was_approved_is_clean() {
    for approved in ["r1/canary", "r0/canary, r1/canary"] {
        let mut story = canary(Some(approved));
        story.roll("b");
        story.is_clean();
    }
}

#[test]
fn s10_a_wave_that_nobody_has_approved_is_seen() {
    for approved in [None, Some("r0/canary"), Some("r1/rest"), Some("canary")] {
        let mut story = canary(approved);
        story.grant("b");
        story.breaks(Promise::S10, "nobody has approved wave canary of run r1");
    }
    let mut story = canary(None);
    story.edit_ledger(|ledger| ledger.plans.get_mut(PLAN).unwrap().open_wave = 1);
    annotate(&mut story, APPROVE_ANNOTATION, "r1/canary");
    story.breaks(Promise::S10, "nobody has approved wave canary of run r1");
}

/// A plan of whose nodes one has failed for good, so that it is halted.
fn halted() -> Story {
    let mut story = unfinished(&["a", "b"], json!({}));
    story.fail("a");
    story.edit_ledger(|ledger| ledger.plans.get_mut(PLAN).unwrap().halted = true);
    story.wait(10);
    story
}

/// The ledger records that the run is retried.
fn retry(story: &mut Story) {
    let now = story.now;
    story.edit_ledger(|ledger| {
        let entry = ledger.plans.get_mut(PLAN).unwrap();
        entry.actions.retried_at = Some(now);
        entry.halted = false;
    });
}

#[test]
fn s11_a_run_that_somebody_retries_goes_on() {
    let mut story = halted();
    annotate(&mut story, RETRY_ANNOTATION, "r1/again");
    retry(&mut story);
    story.wait(10);
    story.roll("b");
    story.roll_as("a", |grant| grant.attempt = 3);
    story.is_clean();
}

#[test]
fn s11_a_retry_that_nobody_has_asked_for_is_seen() {
    let mut story = halted();
    annotate(&mut story, RETRY_ANNOTATION, "r0/again");
    retry(&mut story);
    story.breaks(Promise::S11, "plan p was halted, and went on in the same run");
}

#[test]
fn s11_a_retry_that_was_asked_for_once_and_is_done_twice_is_seen() {
    let mut story = halted();
    annotate(&mut story, RETRY_ANNOTATION, "r1/again");
    retry(&mut story);
    story.edit_ledger(|ledger| ledger.plans.get_mut(PLAN).unwrap().halted = true);
    story.wait(1);
    story.is_clean();
    retry(&mut story);
    story.breaks(Promise::S11, "plan p was halted, and went on in the same run");
}

#[test]
fn s11_what_fails_after_a_retry_halts_again() {
    let mut story = halted();
    annotate(&mut story, RETRY_ANNOTATION, "r1/again");
    retry(&mut story);
    story.wait(10);
    for attempt in [3, 4] {
        story.grant_as("a", |grant| grant.attempt = attempt);
        story.stage("a");
        story.edit_shadow("a", |shadow| shadow.spec.failure = None);
        story.end("a", Some(api::shadow::FailureReason::StageFailed));
    }
    story.wait(10);
    story.breaks(Promise::S11, "plan p is not halted, though 1 nodes have failed");
}

/// A plan whose window is long over.
fn closed() -> Story {
    let window = json!({"name": "w", "start": "2026-11-22T05:00:00Z", "end": "2026-11-22T06:00:00Z"});
    unfinished(&["a"], json!({"maintenanceWindows": [window]}))
}

#[test]
fn s4_a_run_that_is_to_run_now_needs_no_window_and_another_one_does() {
    let mut story = closed();
    annotate(&mut story, RUN_NOW_ANNOTATION, "r1");
    story.roll("a");
    story.is_clean();

    let mut story = closed();
    annotate(&mut story, RUN_NOW_ANNOTATION, "r0");
    story.grant("a");
    story.breaks(Promise::S4, "node a was granted outside a window");
}

#[test]
fn s4_a_run_that_was_to_run_now_and_is_complete_needs_a_window() {
    let mut story = closed();
    annotate(&mut story, RUN_NOW_ANNOTATION, "r1");
    story.roll("a");
    let now = story.now;
    story.edit_plan(|plan| {
        let run = json!({"id": "r1", "target": "1.21.0", "startedAt": now, "completedAt": now});
        let run = serde_json::from_value(run).unwrap();
        plan.status.get_or_insert_default().run = Some(run);
    });
    story.join("b", "uid-b");
    story.wait(10);
    story.grant("b");
    story.breaks(Promise::S4, "node b was granted outside a window");
}

#[test]
fn s4_a_run_that_is_to_run_now_and_goes_on_inside_an_exclusion_is_seen() {
    let window = json!({"name": "w", "start": "2026-11-22T05:00:00Z", "end": "2026-11-22T06:00:00Z"});
    let exclusion = json!({"name": "x", "start": "2026-11-22T06:00:00Z", "end": "2026-11-23T06:00:00Z"});
    let mut story = unfinished(
        &["a"],
        json!({"maintenanceWindows": [window], "exclusions": [exclusion]}),
    );
    annotate(&mut story, RUN_NOW_ANNOTATION, "r1");
    story.grant("a");
    story.breaks(Promise::S4, "node a was granted outside a window");
}

fn opt_out(story: &mut Story, node: &str, why: &str) {
    story.edit_node(node, |node| {
        let annotations = node.metadata.annotations.get_or_insert_default();
        annotations.insert(OPT_OUT_ANNOTATION.into(), why.into());
    });
    story.wait(10);
}

#[test]
fn s3_a_grant_of_a_node_that_has_opted_out_is_seen() {
    let mut story = unfinished(&["a"], json!({}));
    story.grant("a");
    story.is_clean();

    for why in ["disk is failing", ""] {
        let mut story = unfinished(&["a"], json!({}));
        opt_out(&mut story, "a", why);
        story.grant("a");
        story.breaks(Promise::S3, "node a was granted, though it has opted out");
    }
}

#[test]
fn l1_a_node_that_has_opted_out_has_come_to_its_end() {
    let mut story = Story::new(&["a", "b"], json!({}));
    opt_out(&mut story, "b", "not this one");
    story.roll("a");
    story.is_clean();
}

#[test]
fn s10_a_node_that_has_opted_out_holds_no_wave() {
    let waves = json!([{"name": "early", "size": 2}, {"name": "rest"}]);
    let mut story = unfinished(&["a", "b", "c"], json!({"waves": waves}));
    story.edit_ledger(|ledger| {
        ledger.plans.get_mut(PLAN).unwrap().wave_sizes = [("early".to_owned(), 2)].into();
    });
    opt_out(&mut story, "b", "not this one");
    story.roll_as("a", |grant| grant.wave = "early".into());
    story.roll_as("c", |grant| grant.wave = "early".into());
    story.is_clean();
    story.join("d", "uid-d");
    story.wait(10);
    story.roll("d");
    story.is_clean();
}
