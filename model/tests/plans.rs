//! Waves, windows, edits, and two plans: each configuration to the end.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use support::closed;

#[test]
fn s3_two_plans_overlap_and_the_first_is_deleted() {
    closed("plans");
}

#[test]
fn s1_two_plans_share_the_slot_of_the_install() {
    closed("shared");
}

#[test]
fn s10_the_others_wait_for_the_canary() {
    closed("canary");
}

#[test]
fn s10_two_others_go_at_once_after_the_canary() {
    closed("waves");
}

#[test]
fn s12_a_target_is_edited_at_any_moment() {
    closed("retarget");
}

#[test]
fn s12_a_target_is_edited_while_two_nodes_are_on_their_way() {
    closed("edited");
}

#[test]
fn s9_a_target_is_edited_beside_a_controller_that_lags() {
    closed("beside");
}

#[test]
fn s4_windows_close_on_two_nodes() {
    closed("edges");
}

#[test]
fn s4_windows_close_on_two_nodes_that_may_finish() {
    closed("ends");
}
