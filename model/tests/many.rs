//! Controllers, several nodes and plans, and what goes wrong with them: each configuration to the end.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use support::closed;

#[test]
fn s2_two_controllers_one_of_which_lags() {
    closed("two");
}

#[test]
fn l2_a_controller_ends_at_any_moment_and_its_writes_arrive_late() {
    closed("crash");
}

#[test]
fn l3_a_budget_never_allows_an_eviction_and_the_other_node_goes_on() {
    closed("blocked");
}

#[test]
fn s9_a_person_cordons_and_uncordons_meanwhile() {
    closed("admin");
}

#[test]
fn s2_two_controllers_and_one_slot_for_two_nodes() {
    closed("leaders");
}

#[test]
fn l2_three_nodes_at_once() {
    closed("three");
}

#[test]
fn l1_a_machine_fails_in_one_of_five_ways() {
    closed("machine");
}

#[test]
fn s11_machines_fail_twice_are_tried_again_and_given_up() {
    closed("failures");
}

#[test]
fn l1_any_deadline_passes() {
    closed("deadlines");
}
