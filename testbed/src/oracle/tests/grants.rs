//! S2 and S3, the rest: every illegal step of a grant, one by one.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use api::ledger::{Ending, Grant, GrantPhase, Permit};
use api::shadow::NodeState;
use serde_json::json;

use super::story::{PLAN, Story};
use crate::oracle::Promise;

/// A node whose grant has come to this phase.
fn in_phase(phase: GrantPhase) -> Story {
    let mut story = Story::new(&["a", "b"], json!({}));
    story.expect.quiet = false;
    story.expect.complete.clear();
    story.grant("a");
    if phase >= GrantPhase::Drained {
        story.empty("a");
    }
    if phase >= GrantPhase::Rebooting {
        story.permit("a");
    }
    story
}

fn ending(story: &Story, message: &str) -> Ending {
    Ending {
        message: message.into(),
        failure: None,
        at: story.now,
        outlasted: false,
    }
}

#[test]
fn s2_what_a_grant_may_not_become_is_seen() {
    type Change = fn(&mut Grant);
    let changes: [(GrantPhase, Change, &str); 7] = [
        (
            GrantPhase::Granted,
            |g| g.wave = "other".into(),
            "its node, wave or versions changed",
        ),
        (
            GrantPhase::Granted,
            |g| g.from = "1.20.4".into(),
            "its node, wave or versions changed",
        ),
        (GrantPhase::Granted, |g| g.generation = 0, "went from 1 back to 0"),
        (
            GrantPhase::Granted,
            |g| g.phase = GrantPhase::Withdrawing,
            "is withdrawn without a reason",
        ),
        (
            GrantPhase::Drained,
            |g| g.phase = GrantPhase::Rebooting,
            "went to Rebooting without a permit",
        ),
        (GrantPhase::Rebooting, |g| g.permit = None, "its permit changed"),
        (
            GrantPhase::Rebooting,
            |g| g.phase = GrantPhase::Withdrawing,
            "from Rebooting to Withdrawing",
        ),
    ];
    for (phase, change, what) in changes {
        let mut story = in_phase(phase);
        story.is_clean();
        story.edit_grant("a", change);
        story.breaks(Promise::S2, what);
    }
}

#[test]
fn s2_an_ending_is_final() {
    let mut story = in_phase(GrantPhase::Rebooting);
    let (first, second) = (ending(&story, "one"), ending(&story, "two"));
    story.edit_grant("a", |grant| grant.ending = Some(first));
    story.is_clean();
    story.edit_grant("a", |grant| grant.ending = Some(second));
    story.breaks(Promise::S2, "its ending changed");

    let mut story = in_phase(GrantPhase::Rebooting);
    let ending = ending(&story, "one");
    story.edit_grant("a", |grant| grant.ending = Some(ending));
    story.edit_grant("a", |grant| grant.phase = GrantPhase::Monitoring);
    story.breaks(Promise::S2, "went on to Monitoring though it was ending");
}

#[test]
fn s2_a_grant_that_begins_in_the_middle_is_seen() {
    let mut story = Story::new(&["a"], json!({}));
    (story.expect.quiet, story.expect.complete) = (false, [].into());
    story.grant_as("a", |grant| grant.phase = GrantPhase::Drained);
    story.breaks(Promise::S2, "began in phase Drained");
}

#[test]
fn s2_a_cordon_or_an_instruction_that_is_undone_while_the_grant_goes_on_is_seen() {
    for phase in [GrantPhase::Drained, GrantPhase::Rebooting] {
        let mut story = in_phase(phase);
        story.uncordon("a");
        story.breaks(Promise::S2, "node a was uncordoned while its grant went on");
    }
    for undo in [NodeState::Idle, NodeState::ErrorReset] {
        let mut story = in_phase(GrantPhase::Drained);
        story.ask("a", undo);
        story.breaks(Promise::S2, "asked to undo all while its grant went on");
    }
    // Once it is decided that the grant ends, that is the way out.
    let mut story = in_phase(GrantPhase::Drained);
    let ending = ending(&story, "withdrawn");
    story.edit_grant("a", |grant| {
        grant.phase = GrantPhase::Withdrawing;
        grant.ending = Some(ending);
    });
    story.ask("a", NodeState::Idle);
    story.uncordon("a");
    story.is_clean();
}

#[test]
fn s3_a_grant_under_another_nodes_uid_is_seen() {
    let mut story = in_phase(GrantPhase::Granted);
    story.edit_spec(|plan| plan.spec.max_unavailable = api::quantity::IntOrPercent::Int(2));
    story.grant_as("b", |grant| grant.node = "c".into());
    story.breaks(Promise::S3, "names node c, not its own");
}

#[test]
fn s3_a_shadow_of_nobody_is_seen() {
    let mut story = in_phase(GrantPhase::Granted);
    story.edit_shadow("a", |shadow| shadow.metadata.owner_references = None);
    story.ask("a", NodeState::StagedAndPerformedUpdate);
    story.breaks(Promise::S3, "belongs to no node");
}

#[test]
fn s5_a_permit_for_a_node_that_is_gone_is_seen() {
    let mut story = in_phase(GrantPhase::Drained);
    let (uid, boot_id, at) = (story.uid_of("a"), story.boot_of("a"), story.now);
    story.delete_node("a");
    story.edit_ledger(|ledger| {
        let grant = ledger.grants.get_mut(&uid).unwrap();
        grant.phase = GrantPhase::Rebooting;
        grant.permit = Some(Permit {
            id: "permit".into(),
            boot_id,
            at,
        });
    });
    story.breaks(Promise::S5, "there is no node of UID");
}

#[test]
fn s7_an_update_of_a_machine_that_nobody_has_seen_is_seen() {
    let mut story = in_phase(GrantPhase::Rebooting);
    story.complete("a");
    story.is_clean();
    story.forget_machine("a");
    story.breaks(Promise::S7, "its machine has never been up");
}

#[test]
fn s12_a_grant_for_a_plan_that_the_ledger_has_forgotten_is_seen() {
    let mut story = Story::new(&["a"], json!({}));
    (story.expect.quiet, story.expect.complete) = (false, [].into());
    story.edit_ledger(|ledger| {
        ledger.plans.remove(PLAN);
    });
    story.grant("a");
    story.breaks(Promise::S12, "a plan that the ledger does not know");
}

#[test]
fn s12_a_grant_from_a_generation_that_never_was_is_seen() {
    let mut story = Story::new(&["a"], json!({}));
    (story.expect.quiet, story.expect.complete) = (false, [].into());
    story.edit_ledger(|ledger| ledger.plans.get_mut(PLAN).unwrap().generation = 9);
    story.grant_as("a", |grant| grant.generation = 9);
    story.breaks(Promise::S12, "from a generation of p that never was");
}

#[test]
fn s1_a_grant_beside_a_dead_node_of_its_wave_is_seen() {
    let waves = json!([{"name": "early", "size": 2, "maxUnavailable": 1}, {"name": "rest"}]);
    let mut story = Story::new(&["a", "b"], json!({"maxUnavailable": 9, "waves": waves}));
    (story.expect.quiet, story.expect.complete) = (false, [].into());
    story.edit_ledger(|ledger| {
        ledger.plans.get_mut(PLAN).unwrap().wave_sizes = [("early".to_owned(), 2)].into();
    });
    story.roll_as("a", |grant| grant.wave = "early".into());
    story.ready("a", false);
    story.wait(10);
    story.grant_as("b", |grant| grant.wave = "early".into());
    story.breaks(Promise::S1, "1 of wave early granted and 1 otherwise unavailable");
}
