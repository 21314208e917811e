//! S4 with exclusions, with nodes that may finish after a window, and with Brupop's schedules.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use chrono::TimeDelta;
use serde_json::{Value, json};

use super::story::{NEW, Story, read, start};
use crate::oracle::Promise;

/// One window of an hour, and what else the plan says. The story begins a minute into it.
fn unfinished(more: Value) -> Story {
    let mut spec = json!({"maintenanceWindows": [{"name": "w", "start": start(), "end": start() + TimeDelta::hours(1)}]});
    let more: serde_json::Map<String, Value> = read(more);
    spec.as_object_mut().unwrap().extend(more);
    let mut story = Story::new(&["a", "b"], spec);
    story.expect.quiet = false;
    story.expect.complete.clear();
    story
}

/// An exclusion from and to so many seconds after the story's start.
fn exclusion(from: i64, to: i64) -> Value {
    let at = |seconds| start() + TimeDelta::seconds(seconds);
    json!([{"name": "x", "start": at(from), "end": at(to)}])
}

fn finish(seconds: i64) -> Story {
    let end = start() + TimeDelta::seconds(seconds);
    unfinished(
        json!({"onWindowEnd": "Finish", "maintenanceWindows": [{"name": "w", "start": start(), "end": end}]}),
    )
}

#[test]
fn s4_a_grant_in_an_exclusion_is_seen() {
    let mut story = unfinished(json!({"exclusions": exclusion(30, 300)}));
    story.grant("a");
    story.breaks(Promise::S4, "granted outside a window");
}

#[test]
fn s4_a_grant_that_does_not_fit_before_an_exclusion_is_seen() {
    let mut story = unfinished(json!({"exclusions": exclusion(110, 300)}));
    story.grant("a");
    story.breaks(Promise::S4, "before the window closes");
}

#[test]
fn s4_a_grant_before_or_after_an_exclusion_is_clean() {
    let mut story = unfinished(json!({"exclusions": exclusion(130, 300)}));
    story.grant("a");
    story.is_clean();
    let mut story = unfinished(json!({"exclusions": exclusion(30, 60)}));
    story.grant("a");
    story.is_clean();
}

#[test]
fn s4_a_cordon_in_an_exclusion_is_seen() {
    let mut story = unfinished(json!({"exclusions": exclusion(125, 300)}));
    story.grant("a");
    story.stage("a");
    story.wait(67);
    story.cordon("a");
    story.breaks(Promise::S4, "cordoned outside a window");
}

#[test]
fn s4_a_permit_in_an_exclusion_is_seen() {
    let mut story = unfinished(json!({"exclusions": exclusion(125, 300)}));
    story.grant("a");
    story.empty("a");
    story.wait(67);
    story.permit("a");
    story.breaks(Promise::S4, "permitted to reboot outside");
}

#[test]
fn s4_a_recurring_exclusion_is_read() {
    // The story begins at 8:01.
    let daily =
        json!([{"name": "x", "schedule": "0 9 * * *", "timeZone": "Europe/Berlin", "duration": "10m"}]);
    let mut story = unfinished(json!({"exclusions": daily}));
    story.grant("a");
    story.breaks(Promise::S4, "granted outside a window");
    let brupops = json!([{"name": "x", "schedule": "* 0-9 8 * * 1"}]);
    let mut story = unfinished(json!({"exclusions": brupops}));
    story.grant("a");
    story.breaks(Promise::S4, "granted outside a window");
    let mut story = unfinished(json!({"exclusions": [{"name": "x", "schedule": "* 0-9 8 * * 2"}]}));
    story.grant("a");
    story.is_clean();
}

#[test]
fn s4_a_node_that_was_cordoned_inside_may_finish_after_the_window() {
    let mut story = finish(125);
    story.grant("a");
    story.empty("a");
    story.wait(67);
    story.permit("a");
    story.complete("a");
    story.is_clean();
}

#[test]
fn s4_a_permit_after_the_window_is_seen_where_nodes_may_not_finish() {
    let mut story = finish(125);
    story.edit_spec(|plan| plan.spec.on_window_end = api::plan::OnWindowEnd::Withdraw);
    story.grant("a");
    story.empty("a");
    story.wait(67);
    story.permit("a");
    story.breaks(Promise::S4, "permitted to reboot outside");
}

#[test]
fn s4_a_cordon_after_the_window_is_seen_also_where_nodes_may_finish() {
    let mut story = finish(125);
    story.grant("a");
    story.stage("a");
    story.wait(67);
    story.cordon("a");
    story.breaks(Promise::S4, "cordoned outside a window");
}

#[test]
fn s4_a_node_that_was_cordoned_outside_does_not_finish() {
    let mut story = finish(125);
    story.grant("a");
    story.stage("a");
    story.wait(67);
    story.cordon("a");
    story.drain("a");
    story.drained("a");
    story.permit("a");
    story.reboot("a", NEW);
    story.breaks(Promise::S4, "permitted to reboot outside");
    story.breaks(Promise::S4, "told to reboot outside");
}

#[test]
fn s4_a_cordon_of_an_earlier_attempt_is_no_leave_to_finish() {
    let mut story = finish(240);
    story.grant("a");
    story.empty("a");
    story.end("a", None);
    story.grant_as("a", |grant| grant.attempt = 2);
    story.stage("a");
    story.wait(185);
    story.cordon("a");
    story.drain("a");
    story.drained("a");
    story.permit("a");
    story.breaks(Promise::S4, "permitted to reboot outside");
}

#[test]
fn s4_a_grant_after_the_window_is_seen_also_where_nodes_may_finish() {
    let mut story = finish(30);
    story.grant("a");
    story.breaks(Promise::S4, "granted outside a window");
}

#[test]
fn s4_brupops_schedule_is_read() {
    let window = |schedule: &str| json!({"maintenanceWindows": [{"name": "w", "schedule": schedule}]});
    // It is a Sunday, 8:01.
    for good in ["* * 8 * * 1", "* * 8 22 11 SUN 2026", "* 0-30 8 * * * *"] {
        let mut story = unfinished(window(good));
        story.grant("a");
        story.is_clean();
    }
    for bad in [
        "* * 8 * * 7",
        "* * 8 21 * SUN",
        "* * 8 * * * 2027",
        "* * 9 * * SUN",
    ] {
        let mut story = unfinished(window(bad));
        story.grant("a");
        story.breaks(Promise::S4, "granted outside a window");
    }
    let mut story = unfinished(window("* 0-1 8 * * SUN"));
    story.grant("a");
    story.is_clean();
    story.wait(20);
    story.grant("b");
    let found = story.check();
    assert!(
        found
            .iter()
            .any(|violation| violation.message.contains("before the window closes")),
        "{found:?}"
    );
}

#[test]
fn s4_a_single_instant_opens_for_what_waits_and_not_before() {
    let window = |schedule: &str| json!({"maintenanceWindows": [{"name": "w", "schedule": schedule}]});
    // Twenty seconds after the story's first minute.
    let mut story = unfinished(window("20 1 8 * * SUN *"));
    story.edit_plan(|_| {});
    story.grant("a");
    story.breaks(Promise::S4, "granted outside a window");

    let mut story = unfinished(window("20 1 8 * * SUN *"));
    story.edit_plan(|_| {});
    story.wait(4000);
    story.roll("a");
    story.roll("b");
    story.is_clean();
    // All are done: what comes now waits for next Sunday.
    story.join("c", "uid-c");
    story.wait(10);
    story.grant("c");
    story.breaks(Promise::S4, "granted outside a window");
}

#[test]
fn s4_a_target_that_came_after_the_instant_waits_for_the_next() {
    let mut story =
        unfinished(json!({"maintenanceWindows": [{"name": "w", "schedule": "20 1 8 * * SUN *"}]}));
    story.edit_plan(|_| {});
    story.wait(60);
    story.edit_spec(|plan| plan.spec.target_version = "1.21.1".into());
    story.wait(10);
    story.grant_as("a", |grant| grant.to = "1.21.1".into());
    let found = story.check();
    assert!(
        found
            .iter()
            .any(|violation| violation.message.contains("granted outside a window")),
        "{found:?}"
    );
}
