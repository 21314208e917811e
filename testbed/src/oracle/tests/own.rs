//! S5 and S6 of the operator's own pods.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::sync::Arc;

use api::names;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::story::{Story, read};
use crate::history::Object;
use crate::oracle::Promise;

const MINE: &str = "brupop-bottlerocket-aws/mine";
const OTHER: &str = "brupop-bottlerocket-aws/other";

fn own(name: &str, component: &str, node: &str) -> Object {
    let pod: Pod = read(json!({
        "metadata": {"name": name, "namespace": names::DEFAULT_NAMESPACE, "uid": name,
            "creationTimestamp": "2026-11-22T07:30:00Z", "labels": {
                "app.kubernetes.io/name": "bottlerocket-update-operator", "app.kubernetes.io/component": component}},
        "spec": {"nodeName": node, "containers": []},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}));
    Object::Pod(Arc::new(pod))
}

/// Node a is cordoned, with an apiserver of the operator on it, and these other pods of the operator.
fn cordoned(others: Vec<Object>, spec: Value) -> Story {
    let mut story = Story::new(&["a", "b"], spec);
    (story.expect.quiet, story.expect.complete) = (false, [].into());
    story.put(own("mine", "apiserver", "a"));
    others.into_iter().for_each(|other| story.put(other));
    story.wait(10);
    story.grant("a");
    story.stage("a");
    story.cordon("a");
    story
}

fn with_another() -> Story {
    cordoned(vec![own("other", "apiserver", "b")], json!({}))
}

/// Other pods of the operator that cannot stand in for the apiserver on node a.
fn no_stand_ins() -> [Vec<Object>; 3] {
    [
        vec![],
        vec![own("other", "controller", "b")],
        vec![own("other", "apiserver", "a")],
    ]
}

/// The workload's pod leaves node a.
fn others_leave(story: &mut Story) {
    story.allow("default/web-a");
    story.evict("default/web-a");
    story.delete_pod("default/web-a");
}

fn ready(story: &mut Story, pod: &str, ready: &str) {
    story.edit_pod(pod, |pod| {
        pod.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].status = ready.into();
    });
}

#[test]
fn an_own_pod_that_goes_last_while_another_is_ready_elsewhere_is_clean() {
    let mut story = with_another();
    others_leave(&mut story);
    story.evict(MINE);
    story.delete_pod(MINE);
    story.drained("a");
    story.permit("a");
    story.is_clean();
}

#[test]
fn an_own_pod_that_nothing_stands_in_for_may_stay() {
    for others in no_stand_ins() {
        let mut story = cordoned(others, json!({}));
        others_leave(&mut story);
        story.drained("a");
        story.permit("a");
        story.is_clean();
    }
}

#[test]
fn s6_an_own_pod_that_is_evicted_though_nothing_stands_in_for_it_is_seen() {
    for others in no_stand_ins() {
        let mut story = cordoned(others, json!({}));
        others_leave(&mut story);
        story.evict(MINE);
        story.breaks(Promise::S6, "no other apiserver was Ready elsewhere");
    }
}

#[test]
fn s6_a_replica_that_is_long_unready_or_gone_stands_in_for_none() {
    let after = |seconds: i64, change: &dyn Fn(&mut Story)| {
        let mut story = with_another();
        others_leave(&mut story);
        change(&mut story);
        story.wait(seconds);
        story.evict(MINE);
        story
    };
    let unready = |story: &mut Story| ready(story, OTHER, "False");
    let gone = |story: &mut Story| story.delete_pod(OTHER);
    for change in [&unready as &dyn Fn(&mut Story), &gone] {
        after(3, change).is_clean();
        after(7, change).breaks(Promise::S6, "no other apiserver was Ready elsewhere");
    }
}

#[test]
fn s6_a_replica_whose_node_is_cordoned_for_a_reboot_of_its_own_stands_in_for_none() {
    for (seconds, seen) in [(3, false), (7, true)] {
        let mut story = cordoned(vec![own("other", "apiserver", "b")], json!({"maxUnavailable": 2}));
        others_leave(&mut story);
        story.grant("b");
        story.stage("b");
        story.cordon("b");
        story.wait(seconds);
        story.evict(MINE);
        if seen {
            story.breaks(Promise::S6, "no other apiserver was Ready elsewhere");
        } else {
            story.is_clean();
        }
    }
}

#[test]
fn s6_an_own_pod_that_does_not_go_last_is_seen() {
    let mut story = with_another();
    story.evict(MINE);
    story.breaks(Promise::S6, "before pod default/web-a was gone");
}

#[test]
fn s6_an_own_pod_that_is_deleted_is_seen() {
    let mut story = with_another();
    others_leave(&mut story);
    story.begin_deletion(MINE);
    story.breaks(Promise::S6, "was deleted, not evicted");
}

#[test]
fn s5_an_own_pod_that_is_left_though_another_stands_in_for_it_is_seen() {
    let mut story = with_another();
    others_leave(&mut story);
    story.drained("a");
    story.breaks(Promise::S5, "is left, and another apiserver is Ready elsewhere");
}

#[test]
fn s5_an_own_pod_is_left_where_the_other_is_new_or_the_drains_time_is_over() {
    let mut story = cordoned(vec![], json!({}));
    others_leave(&mut story);
    story.put(own("other", "apiserver", "b"));
    story.wait(3);
    story.drained("a");
    story.is_clean();

    let mut story = cordoned(
        vec![own("other", "apiserver", "b")],
        json!({"drain": {"timeout": "20s"}}),
    );
    others_leave(&mut story);
    story.wait(20);
    story.drained("a");
    story.permit("a");
    story.is_clean();
}

#[test]
fn s5_a_permit_while_an_own_pod_ends_is_seen() {
    let mut story = with_another();
    others_leave(&mut story);
    story.evict(MINE);
    story.wait(7);
    // The drain's time may be over; the permit waits all the same.
    story.drained("a");
    story.is_clean();
    story.permit("a");
    story.breaks(Promise::S5, "of the operator was still ending");
}
