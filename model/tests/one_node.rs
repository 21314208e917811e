//! One node: permit against withdraw, every step of its own, to the end.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use support::closed;

#[test]
fn s4_s5_a_window_closes_at_every_moment_of_a_permit() {
    closed("window");
}

#[test]
fn s5_s12_a_plan_is_paused_resumed_or_deleted_at_every_moment_of_a_permit() {
    closed("pause");
}

#[test]
fn s5_answers_are_lost_and_the_agent_starts_again() {
    closed("lost");
}

#[test]
fn s4_a_window_closes_and_cordoned_nodes_may_finish() {
    closed("finish");
}
