//! Runs in which nothing is wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use api::shadow::FailureReason;
use serde_json::json;

use super::story::{NEW, PLAN, Story, start};
use chrono::TimeDelta;

#[test]
fn a_clean_run_of_one_node_is_clean() {
    let mut story = Story::new(&["a"], json!({}));
    story.roll("a");
    story.is_clean();
}

#[test]
fn a_clean_run_of_two_nodes_one_by_one_is_clean() {
    let mut story = Story::new(&["a", "b"], json!({}));
    story.roll("a");
    story.roll("b");
    story.is_clean();
}

#[test]
fn a_clean_run_of_two_nodes_at_once_is_clean() {
    let mut story = Story::new(&["a", "b", "c", "d"], json!({"maxUnavailable": "50%"}));
    story.grant("a");
    story.grant("b");
    story.empty("a");
    story.permit("a");
    story.empty("b");
    story.complete("a");
    story.permit("b");
    story.complete("b");
    story.roll("c");
    story.roll("d");
    story.is_clean();
}

#[test]
fn a_window_that_closes_and_waves_that_soak_are_clean() {
    let at = |seconds| start() + TimeDelta::seconds(seconds);
    let mut story = Story::new(
        &["a", "b"],
        json!({
            "maintenanceWindows": [{"name": "one", "start": at(0), "end": at(130)},
                {"name": "two", "start": at(300), "end": at(900)}],
            "waves": [{"name": "canary", "size": 1, "soak": "30s"}, {"name": "rest"}]}),
    );
    story.edit_ledger(|ledger| {
        ledger.plans.get_mut(PLAN).unwrap().wave_sizes = [("canary".to_owned(), 1)].into();
    });
    story.grant_as("a", |grant| {
        grant.wave = "canary".into();
        grant.not_after = Some(at(130));
    });
    story.stage("a");
    story.cordon("a");
    story.wait(69);
    story.end("a", None);
    story.wait(200);
    story.roll_as("a", |grant| grant.wave = "canary".into());
    story.wait(30);
    story.roll("b");
    story.is_clean();
}

#[test]
fn a_failure_that_is_retried_is_clean() {
    let mut story = Story::new(&["a"], json!({}));
    story.grant("a");
    story.stage("a");
    story.end("a", Some(FailureReason::StageFailed));
    story.roll_as("a", |grant| grant.attempt = 2);
    story.is_clean();
}

#[test]
fn a_pause_and_an_edit_are_clean() {
    let mut story = Story::new(&["a", "b"], json!({}));
    story.grant("a");
    story.empty("a");
    story.edit_spec(|plan| plan.spec.paused = true);
    story.end("a", None);
    story.edit_spec(|plan| plan.spec.paused = false);
    story.roll("a");
    story.roll("b");
    story.is_clean();
}

#[test]
fn a_ledger_that_is_rebuilt_is_clean() {
    let mut story = Story::new(&["a", "b"], json!({}));
    story.grant("a");
    story.stage("a");
    story.cordon("a");
    let (uid, now) = (story.uid_of("a"), story.now);
    story.rebuild_ledger(|ledger| ledger.grants.get_mut(&uid).unwrap().granted_at = now);
    story.drain("a");
    story.drained("a");
    story.permit("a");
    story.complete("a");
    story.roll("b");
    story.is_clean();
}

#[test]
fn an_admins_cordon_and_a_dead_node_are_clean() {
    let mut story = Story::new(&["a", "b", "c"], json!({"maxUnavailable": 3}));
    story.expect.complete.clear();
    story.edit_node("b", |node| {
        node.spec.get_or_insert_default().unschedulable = Some(true)
    });
    story.ready("c", false);
    story.wait(10);
    story.roll("a");
    story.is_clean();
}

#[test]
fn a_node_that_is_deleted_frees_its_grant() {
    let mut story = Story::new(&["a", "b"], json!({}));
    story.grant("a");
    story.stage("a");
    let uid = story.uid_of("a");
    story.delete_node("a");
    story.edit_ledger(|ledger| {
        ledger.grants.remove(&uid);
    });
    story.join("a", "uid-a-2");
    story.roll("b");
    story.roll("a");
    story.is_clean();
}

#[test]
fn a_claim_that_is_true_is_clean() {
    let mut story = Story::new(&["a"], json!({}));
    story.roll("a");
    story.edit_plan(|plan| {
        let status = plan.status.get_or_insert_default();
        status.observed_generation = Some(1);
        status.nodes.updated = 1;
        status.phase = Some(api::plan::Phase::Complete);
        let run = api::plan::Run {
            id: "r1".into(),
            target: NEW.into(),
            targets: Vec::new(),
            started_at: start(),
            completed_at: None,
            retried_at: None,
            run_now_at: None,
        };
        status.run = Some(run);
    });
    story.is_clean();
}
