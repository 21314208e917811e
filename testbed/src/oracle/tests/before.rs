//! S1 to S4: what may be granted, by whom, to whom and when.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use api::UpdatePlan;
use api::ledger::GrantPhase;
use api::shadow::{FailureReason, NodeState};
use chrono::TimeDelta;
use serde_json::{Value, json};
use std::sync::Arc;

use super::story::{NEW, PLAN, Story, start};
use crate::history::Object;
use crate::oracle::Promise;

fn unfinished(nodes: &[&str], spec: Value) -> Story {
    let mut story = Story::new(nodes, spec);
    story.expect.quiet = false;
    story.expect.complete.clear();
    story
}

fn windowed(seconds: i64) -> Value {
    let end = start() + TimeDelta::seconds(seconds);
    json!({"maintenanceWindows": [{"name": "w", "start": start(), "end": end}]})
}

#[test]
fn s1_a_second_grant_above_the_limit_is_seen() {
    let mut story = unfinished(&["a", "b"], json!({}));
    story.grant("a");
    story.grant("b");
    story.breaks(Promise::S1, "limit 1");
}

#[test]
fn s1_a_grant_above_a_percentage_is_seen() {
    let mut story = unfinished(&["a", "b", "c", "d", "e"], json!({"maxUnavailable": "50%"}));
    story.grant("a");
    story.grant("b");
    story.is_clean();
    story.grant("c");
    story.breaks(Promise::S1, "limit 2");
}

#[test]
fn s1_a_grant_beside_a_dead_node_is_seen() {
    let mut story = unfinished(&["a", "b"], json!({}));
    story.ready("b", false);
    story.wait(7);
    story.grant("a");
    story.breaks(Promise::S1, "otherwise unavailable (b)");
}

#[test]
fn s1_a_grant_beside_a_node_that_has_only_just_died_is_forgiven() {
    let mut story = unfinished(&["a", "b"], json!({}));
    story.ready("b", false);
    story.wait(4);
    story.grant("a");
    story.is_clean();
}

#[test]
fn s1_a_grant_beside_a_node_that_an_admin_cordoned_is_seen() {
    let mut story = unfinished(&["a", "b"], json!({}));
    story.edit_node("b", |node| {
        node.spec.get_or_insert_default().unschedulable = Some(true)
    });
    story.wait(7);
    story.grant("a");
    story.breaks(Promise::S1, "otherwise unavailable (b)");
}

#[test]
fn s1_a_grant_after_the_limit_was_lowered_is_seen() {
    let mut story = unfinished(&["a", "b", "c"], json!({"maxUnavailable": 3}));
    story.grant("a");
    story.grant("b");
    story.edit_spec(|plan| plan.spec.max_unavailable = api::quantity::IntOrPercent::Int(1));
    story.is_clean();
    story.grant("c");
    story.breaks(Promise::S1, "limit 1");
}

#[test]
fn s1_a_grant_above_the_waves_limit_is_seen() {
    let waves = json!([{"name": "early", "size": 3, "maxUnavailable": "50%"}, {"name": "rest"}]);
    let mut story = unfinished(&["a", "b", "c"], json!({"maxUnavailable": 3, "waves": waves}));
    story.edit_ledger(|ledger| {
        ledger.plans.get_mut(PLAN).unwrap().wave_sizes = [("early".to_owned(), 3)].into();
    });
    story.grant_as("a", |grant| grant.wave = "early".into());
    story.is_clean();
    story.grant_as("b", |grant| grant.wave = "early".into());
    story.breaks(Promise::S1, "of wave early");
}

#[test]
fn s1_more_grants_than_the_ledger_may_hold_are_seen() {
    let names: Vec<String> = (0..=api::ledger::MAX_GRANTS).map(|i| format!("n{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut story = unfinished(&names, json!({"maxUnavailable": 2000}));
    story.grant("n0");
    let mut grants = Vec::new();
    for name in &names[1..] {
        grants.push((story.uid_of(name), story.grant_for(name)));
    }
    story.edit_ledger(|ledger| ledger.grants.extend(grants));
    story.breaks(Promise::S1, "1001 grants, more than the ledger may hold");
}

#[test]
fn s2_a_grant_that_jumps_is_seen() {
    let mut story = unfinished(&["a"], json!({}));
    story.grant("a");
    story.edit_grant("a", |grant| grant.phase = GrantPhase::Monitoring);
    story.breaks(Promise::S2, "from Granted to Monitoring");
}

#[test]
fn s2_a_grant_that_returns_is_seen() {
    let mut story = unfinished(&["a"], json!({}));
    story.grant("a");
    story.empty("a");
    story.edit_grant("a", |grant| grant.phase = GrantPhase::Granted);
    story.breaks(Promise::S2, "from Drained to Granted");
}

#[test]
fn s2_a_permit_that_changes_is_seen() {
    let mut story = unfinished(&["a"], json!({}));
    story.grant("a");
    story.empty("a");
    story.permit("a");
    story.edit_grant("a", |grant| {
        grant.permit.as_mut().unwrap().boot_id = "other".into()
    });
    story.breaks(Promise::S2, "permit changed");
}

#[test]
fn s2_a_permit_for_a_grant_that_is_withdrawn_is_seen() {
    let mut story = unfinished(&["a"], json!({}));
    story.grant("a");
    story.empty("a");
    let at = story.now;
    story.edit_grant("a", |grant| {
        grant.phase = GrantPhase::Withdrawing;
        grant.ending = Some(api::ledger::Ending {
            message: "x".into(),
            failure: None,
            at,
            outlasted: false,
        });
    });
    story.edit_grant("a", |grant| grant.phase = GrantPhase::Rebooting);
    story.breaks(Promise::S2, "from Withdrawing to Rebooting");
}

#[test]
fn s2_a_grant_that_vanishes_is_seen() {
    let mut story = unfinished(&["a"], json!({}));
    story.grant("a");
    story.release("a");
    story.breaks(Promise::S2, "vanished");
}

#[test]
fn s2_a_cordon_without_a_grant_is_seen() {
    let mut story = unfinished(&["a", "b"], json!({}));
    story.grant("a");
    let uid = story.uid_of("b");
    let grant = story.live_grant("a");
    let with = story.live.clone();
    story.live.ledgers.values_mut().for_each(|ledger| {
        Arc::make_mut(ledger)
            .spec
            .grants
            .insert(uid.clone(), grant.clone());
    });
    story.cordon("b");
    story.live.ledgers = with.ledgers;
    story.breaks(Promise::S2, "node b was cordoned without a grant");
}

#[test]
fn s2_a_shadow_that_asks_without_a_grant_is_seen() {
    let mut story = unfinished(&["a"], json!({}));
    story.edit_shadow("a", |shadow| {
        shadow.spec.state = NodeState::StagedAndPerformedUpdate;
        shadow.spec.run = Some("r1".into());
        shadow.spec.attempt = Some(1);
    });
    story.breaks(Promise::S2, "without a grant");
}

#[test]
fn s2_a_grant_from_the_past_is_seen() {
    let mut story = unfinished(&["a"], json!({}));
    story.grant_as("a", |grant| grant.granted_at -= TimeDelta::seconds(20));
    story.breaks(Promise::S2, "says that it was made");
}

#[test]
fn s3_two_grants_of_one_node_are_seen() {
    let mut story = unfinished(&["a", "b"], json!({"maxUnavailable": 2}));
    story.grant("a");
    story.delete_node("a");
    story.join("a", "uid-a-2");
    story.grant("a");
    story.breaks(Promise::S3, "has two grants");
}

#[test]
fn s3_a_grant_for_a_node_that_is_gone_is_seen() {
    let mut story = unfinished(&["a", "b"], json!({}));
    let grant = story.grant_for("a");
    let uid = story.uid_of("a");
    story.delete_node("a");
    story.wait(20);
    story.edit_plan(|plan| plan.metadata.finalizers = Some(vec![api::names::PLAN_FINALIZER.into()]));
    let granted_at = story.now;
    story.edit_ledger(|ledger| {
        ledger
            .grants
            .insert(uid, api::ledger::Grant { granted_at, ..grant });
    });
    story.breaks(Promise::S3, "which no node has");
}

#[test]
fn s3_a_replaced_node_that_goes_on_is_seen() {
    let mut story = unfinished(&["a"], json!({}));
    story.grant("a");
    story.stage("a");
    story.end("a", Some(FailureReason::StageFailed));
    story.delete_node("a");
    story.join("a", "uid-a-2");
    story.grant_as("a", |grant| grant.attempt = 2);
    story.breaks(Promise::S3, "attempt 2, after 0 of its own");
}

#[test]
fn s3_a_shadow_that_changes_hands_is_seen() {
    let mut story = unfinished(&["a"], json!({}));
    story.grant("a");
    story.stage("a");
    story.edit_shadow("a", |shadow| shadow.spec.plan = Some("q".into()));
    story.breaks(Promise::S3, "another plan");
}

#[test]
fn s3_a_shadow_of_a_replaced_node_that_is_asked_is_seen() {
    let mut story = unfinished(&["a"], json!({}));
    story.grant("a");
    story.edit_shadow("a", |shadow| {
        shadow.metadata.owner_references.as_mut().unwrap()[0].uid = "uid-of-an-earlier-a".into();
    });
    story.ask("a", NodeState::StagedAndPerformedUpdate);
    story.breaks(Promise::S3, "of a node that is gone");
}

#[test]
fn s4_a_grant_outside_a_window_is_seen() {
    let mut story = unfinished(&["a"], windowed(100));
    story.wait(60);
    story.grant("a");
    story.breaks(Promise::S4, "granted outside a window");
}

#[test]
fn s4_a_grant_that_does_not_fit_is_seen() {
    let mut story = unfinished(&["a"], windowed(110));
    story.grant("a");
    story.breaks(Promise::S4, "before the window closes");
}

#[test]
fn s4_a_grant_that_does_not_fit_by_the_nodes_before_is_seen() {
    let story = |took: i64| {
        let mut story = unfinished(&["a", "b"], windowed(500));
        story.grant("a");
        story.wait(took);
        story.empty("a");
        story.permit("a");
        story.complete("a");
        // Less than the first node took, and more than the spec expects.
        story.wait(360 - took);
        story.grant("b");
        story
    };
    story(200).breaks(Promise::S4, "before the window closes");
    story(0).is_clean();
}

/// The first node, begun with like this, takes 200 s; then as much of the window is left as the spec says that one needs, and more.
fn after_a_slow_node(begin: impl FnOnce(&mut Story)) -> Story {
    let mut story = unfinished(&["a", "b"], windowed(500));
    begin(&mut story);
    story.wait(200);
    story.empty("a");
    story.permit("a");
    story.complete("a");
    story.wait(160);
    story.grant("b");
    story
}

#[test]
fn s4_what_nodes_took_counts_whatever_the_ledger_says_of_it() {
    let story = after_a_slow_node(|story| story.grant_as("a", |grant| grant.rebuilt = true));
    story.breaks(Promise::S4, "before the window closes");
}

#[test]
fn s4_what_a_node_took_whose_ledger_was_lost_does_not_count() {
    let story = after_a_slow_node(|story| {
        story.grant("a");
        let (uid, now) = (story.uid_of("a"), story.now);
        story.rebuild_ledger(|ledger| {
            let grant = ledger.grants.get_mut(&uid).unwrap();
            (grant.granted_at, grant.rebuilt) = (now, true);
        });
    });
    story.is_clean();
}

#[test]
fn s4_an_edit_of_what_is_expected_forgets_what_nodes_took_once() {
    let story = |edited: u32, took: i64| {
        let mut story = unfinished(&["a", "b", "c"], windowed(900));
        for (node, took) in [("a", 200), ("b", took)] {
            story.grant(node);
            story.wait(took);
            story.empty(node);
            story.permit(node);
            story.complete(node);
            if node == "a" {
                let edited = api::quantity::Span::seconds(edited);
                story.edit_spec(|plan| plan.spec.expected_node_duration = edited);
            }
        }
        story.wait(560 - took);
        story.grant("c");
        story
    };
    story(61, 0).is_clean();
    story(60, 0).breaks(Promise::S4, "before the window closes");
    story(61, 200).breaks(Promise::S4, "before the window closes");
}

#[test]
fn s4_a_cordon_after_the_close_is_seen() {
    let mut story = unfinished(&["a"], windowed(125));
    story.grant("a");
    story.stage("a");
    story.wait(67);
    story.cordon("a");
    story.breaks(Promise::S4, "cordoned outside a window");
}

#[test]
fn s4_a_permit_after_the_close_is_seen() {
    let mut story = unfinished(&["a"], windowed(125));
    story.grant("a");
    story.empty("a");
    story.wait(67);
    story.permit("a");
    story.breaks(Promise::S4, "permitted to reboot outside");
}

#[test]
fn s4_a_reboot_after_the_close_is_seen() {
    let mut story = unfinished(&["a"], windowed(125));
    story.grant("a");
    story.empty("a");
    story.wait(64);
    story.permit("a");
    story.wait(1);
    story.reboot("a", NEW);
    story.breaks(Promise::S4, "told to reboot outside");
}

#[test]
fn s4_a_window_of_a_schedule_is_read() {
    // It opens at 8 in Berlin, an hour before the story begins, for an hour and two minutes.
    let window = |duration: &str| {
        json!({"maintenanceWindows": [
            {"name": "w", "schedule": "0 8 * * *", "timeZone": "Europe/Berlin", "duration": duration}]})
    };
    let mut story = unfinished(&["a"], window("122m"));
    story.grant("a");
    story.is_clean();
    let mut story = unfinished(&["a"], window("61m"));
    story.wait(2);
    story.grant("a");
    story.breaks(Promise::S4, "granted outside a window");
}

#[test]
fn s1_the_older_plan_owns_a_node() {
    let mut story = unfinished(&["a", "b"], json!({}));
    let mut other: UpdatePlan = story.live.plans["p"].as_ref().clone();
    other.metadata.name = Some("older".into());
    other.metadata.uid = Some("plan-older".into());
    other.metadata.creation_timestamp = Some(api::time::to_kubernetes(start() - TimeDelta::days(1)));
    other.spec.node_selector = super::story::read(json!({"matchLabels": {"pool": "b"}}));
    story.put(Object::Plan(Arc::new(other)));
    story.edit_node("b", |node| {
        node.metadata
            .labels
            .get_or_insert_default()
            .insert("pool".into(), "b".into());
    });
    story.ready("b", false);
    story.wait(10);
    story.grant("a");
    story.is_clean();
}
