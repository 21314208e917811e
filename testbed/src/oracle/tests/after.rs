//! S9 and L1: what is left when an update is over.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use api::ledger::{Ending, GrantPhase};
use api::names::DO_NOT_DISRUPT_ANNOTATIONS;
use api::shadow::FailureReason;
use serde_json::{Value, json};

use super::story::{NEW, OLD, Story};
use crate::bottlerocket::UpdateSettings;
use crate::oracle::Promise;
use crate::truth::SimEventKind;

fn unfinished(nodes: &[&str], spec: Value) -> Story {
    let mut story = Story::new(nodes, spec);
    story.expect.quiet = false;
    story.expect.complete.clear();
    story
}

/// Until the node is back.
fn rebooted(nodes: &[&str]) -> Story {
    let mut story = unfinished(nodes, json!({}));
    story.grant("a");
    story.empty("a");
    story.permit("a");
    story.reboot("a", NEW);
    story
}

/// Its grant ends, and what was done is undone.
fn withdraw(story: &mut Story, node: &str) {
    let ending = Ending {
        message: "withdrawn".into(),
        failure: None,
        at: story.now,
        outlasted: false,
    };
    story.edit_grant(node, |grant| {
        grant.phase = GrantPhase::Withdrawing;
        grant.ending = Some(ending);
    });
    story.uncordon(node);
}

#[test]
fn s9_a_cordon_that_is_left_is_seen() {
    let mut story = rebooted(&["a"]);
    story.edit_grant("a", |grant| grant.phase = GrantPhase::Monitoring);
    story.edit_node("a", |node| node.metadata.annotations = None);
    story.breaks(Promise::S9, "stays cordoned, and nobody's name is on it");
}

#[test]
fn s9_an_admins_cordon_that_is_undone_is_seen() {
    let mut story = unfinished(&["a", "b"], json!({}));
    story.edit_node("b", |node| {
        node.spec.get_or_insert_default().unschedulable = Some(true)
    });
    story.is_clean();
    story.uncordon("b");
    story.breaks(
        Promise::S9,
        "node b was uncordoned, though somebody else cordoned it",
    );
    story.expect.uncordoned.insert("b".into());
    story.is_clean();
}

#[test]
fn s9_an_admins_cordon_that_is_taken_over_and_undone_is_seen() {
    let mut story = unfinished(&["a"], json!({}));
    story.grant("a");
    story.stage("a");
    story.edit_node("a", |node| {
        node.spec.get_or_insert_default().unschedulable = Some(true)
    });
    story.cordon("a");
    withdraw(&mut story, "a");
    story.breaks(Promise::S9, "though somebody else cordoned it");
}

#[test]
fn s9_annotations_for_autoscalers_that_stay_are_seen() {
    let mut story = rebooted(&["a"]);
    story.edit_grant("a", |grant| grant.phase = GrantPhase::Monitoring);
    story.edit_node("a", |node| {
        node.spec = None;
        node.metadata
            .annotations
            .as_mut()
            .unwrap()
            .remove(api::names::DISRUPTION_ANNOTATION);
    });
    story.breaks(Promise::S9, "did not get back the annotations");
}

#[test]
fn s9_an_annotation_that_was_there_before_and_is_lost_is_seen() {
    let mut story = unfinished(&["a"], json!({}));
    let (name, _) = DO_NOT_DISRUPT_ANNOTATIONS[0];
    story.edit_node("a", |node| {
        node.metadata
            .annotations
            .get_or_insert_default()
            .insert(name.into(), "false".into());
    });
    story.grant("a");
    story.stage("a");
    story.cordon("a");
    withdraw(&mut story, "a");
    story.breaks(Promise::S9, "did not get back the annotations");
}

#[test]
fn s9_a_grant_that_is_released_before_the_node_is_uncordoned_is_seen() {
    let mut story = rebooted(&["a"]);
    story.edit_grant("a", |grant| grant.phase = GrantPhase::Monitoring);
    story.wait(6);
    story.idle("a");
    story.release("a");
    story.breaks(Promise::S9, "released before it was uncordoned");
}

#[test]
fn s9_settings_that_are_not_put_back_are_seen() {
    let mut story = rebooted(&["a"]);
    story.monitor("a");
    story.wait(6);
    story.ask("a", api::shadow::NodeState::Idle);
    story.echo("a");
    story.release("a");
    story.breaks(Promise::S9, "did not get back its settings, version-lock latest");
}

#[test]
fn s9_what_a_machine_that_is_gone_has_left_is_nothing_that_another_of_its_name_gets_back() {
    let mut story = unfinished(&["a"], json!({}));
    story.grant("a");
    story.stage("a");
    let uid = story.uid_of("a");
    story.delete_node("a");
    story.edit_ledger(|ledger| drop(ledger.grants.remove(&uid)));
    story.wait(20);
    story.join("a", "uid-a-2");
    story.wait(20);
    story.grant("a");
    story.empty("a");
    story.permit("a");
    story.reboot("a", NEW);
    story.monitor("a");
    story.wait(6);
    story.idle("a");
    story.wait(5);
    story.release("a");
    story.is_clean();
}

#[test]
fn s9_settings_other_than_the_default_are_put_back_as_they_were() {
    let mut story = rebooted(&["a"]);
    story.monitor("a");
    story.wait(6);
    story.idle("a");
    story.release("a");
    story.is_clean();
    let settings = UpdateSettings {
        version_lock: "1.20.3".into(),
        ..UpdateSettings::default()
    };
    story.expect.settings.insert("a".into(), settings);
    story.breaks(Promise::S9, "version-lock 1.20.3");
}

#[test]
fn s9_a_flag_that_is_not_taken_back_is_seen() {
    let mut story = unfinished(&["a"], json!({}));
    story.grant("a");
    story.stage("a");
    let at = story.now;
    story.edit_grant("a", |grant| {
        grant.phase = GrantPhase::Withdrawing;
        grant.ending = Some(Ending {
            message: "x".into(),
            failure: None,
            at,
            outlasted: false,
        });
    });
    story.wait(2);
    story.idle("a");
    story.release("a");
    story.breaks(Promise::S9, "left to boot the update");
}

#[test]
fn s9_a_label_that_is_left_is_seen() {
    let mut story = unfinished(&["a"], json!({}));
    story.edit_node("a", |node| {
        let labels = node.metadata.labels.get_or_insert_default();
        labels.insert(format!("{}/x", api::names::GROUP), "y".into());
    });
    story.breaks(Promise::S9, "left with label");
}

#[test]
fn l1_a_node_that_is_forgotten_is_seen() {
    let mut story = Story::new(&["a", "b"], json!({}));
    story.roll("a");
    story.breaks(Promise::L1, "node b of plan p has come to no end");
}

#[test]
fn l1_what_is_under_way_is_seen() {
    let mut story = Story::new(&["a"], json!({}));
    story.expect.complete.clear();
    story.grant("a");
    story.empty("a");
    // The finalizer has to be there, and is.
    story.breaks(Promise::L1, "still has its grant, in phase Drained");
    story.breaks(Promise::L1, "still cordoned by us");
    story.breaks(Promise::L1, "still asks for StagedAndPerformedUpdate");
}

#[test]
fn l1_a_node_that_never_answers_is_seen() {
    let mut story = Story::new(&["a"], json!({}));
    story.roll("a");
    story.edit_shadow("a", |shadow| shadow.spec.attempt = Some(7));
    story.breaks(Promise::L1, "its node has not said so");
}

#[test]
fn l1_a_machine_that_is_down_cannot_answer() {
    let mut story = Story::new(&["a"], json!({}));
    story.roll("a");
    story.edit_shadow("a", |shadow| shadow.spec.attempt = Some(7));
    let cause = crate::truth::RebootCause::PowerCut;
    story.happen(
        "a",
        SimEventKind::RebootBegun {
            boot_id: story.boot_of("a"),
            version: NEW.into(),
            cause,
        },
    );
    story.is_clean();
}

#[test]
fn l1_a_plan_that_is_gone_is_seen() {
    let mut story = Story::new(&["a"], json!({}));
    story.roll("a");
    story.delete_plan();
    story.breaks(Promise::L1, "is to be complete, and is gone");
}

#[test]
fn l1_a_node_that_lies_after_a_boot_has_come_to_an_end_and_no_other_with_retries_left() {
    for (reported, reason, ends) in [
        (NEW, FailureReason::BootedOtherVersion, true),
        (NEW, FailureReason::StageFailed, false),
        (OLD, FailureReason::BootedOtherVersion, false),
    ] {
        let mut story = Story::new(
            &["a", "b"],
            json!({"failurePolicy": {"retries": 5, "threshold": 2}}),
        );
        story.roll("b");
        story.grant("a");
        story.edit_shadow("a", |shadow| {
            shadow.status.as_mut().unwrap().current_version = reported.to_owned();
        });
        story.end("a", Some(reason));
        if ends {
            story.is_clean();
        } else {
            story.breaks(Promise::L1, "node a of plan p has come to no end");
        }
    }
}
