//! L1: a node is left alone only where its machine cannot have the version. S8: what `latest` becomes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use api::ledger::{Ending, GrantPhase};
use api::offer::Target;
use api::shadow::FailureReason;
use serde_json::json;

use super::story::{NEW, OLD, PLAN, Story};
use crate::oracle::Promise;
use crate::truth::SimEventKind;

const VARIANT: &str = "aws-k8s-1.33";

/// Node a is granted, told what is on offer, and left alone for this reason.
fn left_alone(reason: FailureReason, refresh: Option<(&[&str], bool)>) -> Story {
    let mut story = Story::new(&["a"], json!({}));
    story.grant("a");
    if let Some((offered, ignored_waves)) = refresh {
        found(&mut story, offered, ignored_waves);
    }
    let at = story.now;
    story.edit_grant("a", |grant| {
        grant.phase = GrantPhase::Withdrawing;
        grant.ending = Some(Ending {
            message: "left alone".into(),
            failure: Some(reason),
            at,
            outlasted: false,
        });
    });
    story.release("a");
    story
}

fn found(story: &mut Story, offered: &[&str], ignored_waves: bool) {
    let offered = offered.iter().map(|version| (*version).to_owned()).collect();
    let (variant, arch) = (VARIANT.to_owned(), "x86_64".to_owned());
    story.happen(
        "a",
        SimEventKind::Refreshed {
            offered,
            ignored_waves,
            variant,
            arch,
        },
    );
}

#[test]
fn l1_a_node_that_cannot_have_the_version_has_come_to_its_end() {
    left_alone(FailureReason::VersionNotOffered, Some((&[OLD], true))).is_clean();
    left_alone(FailureReason::Unsupported, None).is_clean();
}

#[test]
fn l1_a_node_that_is_left_alone_though_it_is_offered_the_version_is_seen() {
    let story = left_alone(FailureReason::VersionNotOffered, Some((&[NEW, OLD], true)));
    story.breaks(Promise::L1, "left alone (VersionNotOffered: 1.21.0), but it is");
}

#[test]
fn l1_a_version_that_the_repositorys_waves_hold_back_is_not_taken_for_one_that_is_not_there() {
    let story = left_alone(FailureReason::VersionNotOffered, Some((&[OLD], false)));
    story.breaks(Promise::L1, "but no refresh has ignored the repository's waves");
}

#[test]
fn l1_an_image_that_refreshes_is_not_taken_for_one_that_cannot() {
    let story = left_alone(FailureReason::Unsupported, Some((&[OLD], false)));
    story.breaks(Promise::L1, "but its refreshes succeed");
}

#[test]
fn l1_a_node_that_is_left_alone_after_it_was_offered_the_version_is_seen() {
    let mut story = left_alone(FailureReason::VersionNotOffered, Some((&[OLD], true)));
    found(&mut story, &[NEW, OLD], false);
    story.breaks(Promise::L1, "node a of plan p has come to no end");
}

/// A plan whose nodes are to run the newest version; `more` is said of it besides. The machine has found 1.21.0.
fn latest(more: &serde_json::Value) -> Story {
    let mut spec = json!({"targetVersion": "latest"});
    spec.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    let mut story = Story::new(&["a"], spec);
    story.expect.quiet = false;
    story.expect.complete.clear();
    found(&mut story, &[NEW, OLD], false);
    story.edit_ledger(|ledger| ledger.plans.get_mut(PLAN).unwrap().target = "latest".into());
    story.wait(60);
    story
}

fn freeze(story: &mut Story, version: &str) {
    let target = Target {
        variant: VARIANT.to_owned(),
        arch: "x86_64".to_owned(),
        version: version.to_owned(),
    };
    story.edit_ledger(|ledger| ledger.plans.get_mut(PLAN).unwrap().targets = vec![target]);
}

#[test]
fn s8_the_newest_on_offer_is_what_latest_may_become() {
    let mut story = latest(&json!({"minReleaseAge": "60s"}));
    freeze(&mut story, NEW);
    story.grant("a");
    story.is_clean();
}

#[test]
fn s8_a_target_that_changes_in_its_run_is_seen() {
    let mut story = latest(&json!({}));
    freeze(&mut story, NEW);
    found(&mut story, &["1.22.0", NEW], false);
    freeze(&mut story, "1.22.0");
    story.breaks(Promise::S8, "has changed its target 1.21.0 for aws-k8s-1.33");
}

#[test]
fn s8_a_target_that_is_not_on_offer_or_not_the_newest_is_seen() {
    let mut story = latest(&json!({}));
    freeze(&mut story, "1.22.0");
    story.breaks(
        Promise::S8,
        "takes 1.22.0 for the newest for aws-k8s-1.33, which nobody has found on offer",
    );
    let mut story = latest(&json!({}));
    freeze(&mut story, OLD);
    story.breaks(Promise::S8, "which is older than 1.21.0, which is on offer");
}

#[test]
fn s8_a_target_that_has_not_been_on_offer_for_long_enough_is_seen() {
    let mut story = latest(&json!({"minReleaseAge": "1h"}));
    freeze(&mut story, NEW);
    story.breaks(Promise::S8, "which has been on offer for 60 s only");
}

#[test]
fn s8_a_grant_to_another_version_than_that_of_its_kind_is_seen() {
    let mut story = latest(&json!({}));
    freeze(&mut story, NEW);
    story.grant_as("a", |grant| grant.to = "1.22.0".into());
    story.breaks(
        Promise::S8,
        "granted to go to 1.22.0, which the plan does not ask",
    );
}
