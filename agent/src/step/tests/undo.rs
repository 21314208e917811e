//! Idle, and undoing.

use std::time::Duration;

use api::shadow::{BottlerocketShadowSpec, NodeState, acknowledges};

use super::super::{
    Step,
    bench::{Bench, Fault, NEW, server_error},
};
use super::STAGE;
use crate::{
    bottlerocket::{CallError, Command, UpdateState},
    host::Update,
};

#[test]
fn an_idle_node_learns_its_target_once_and_then_does_nothing() {
    let mut bench = Bench::idle();
    assert_eq!(bench.run(), ["refresh", "report Idle"]);
    assert_eq!(bench.known().target_version, NEW);
    assert_eq!(bench.run(), [""; 0]);
    bench.restart_agent();
    assert_eq!(bench.run(), [""; 0], "nor when the agent is started again");
}

#[test]
fn a_refresh_that_fails_does_not_trouble_an_idle_node() {
    for fault in [
        Fault::Fails("no network"),
        Fault::Crashes,
        Fault::Answer(CallError::NotFound(String::new())),
        Fault::Answer(server_error()),
    ] {
        let mut bench = Bench::idle();
        bench.faults.push_back((Command::Refresh, fault));
        assert_eq!(bench.run(), ["refresh"]);
        assert_eq!(bench.known().error, None);
    }
}

#[test]
fn withdrawn_at_any_point_everything_is_put_back() {
    for done in 0..=STAGE.len() {
        let mut bench = Bench::idle();
        bench.ask(NodeState::StagedAndPerformedUpdate);
        for _ in 0..done {
            bench.one_step();
        }
        bench.ask(NodeState::Idle);
        let trace = bench.run();
        assert!(acknowledges(bench.known(), &bench.spec));
        assert_eq!(bench.settings(), ("latest", false), "{trace:?}");
        assert_eq!(bench.known().saved_settings, None);
        assert_eq!(bench.known().crash_count, 0, "a withdrawn attempt is no failure");
        if let Update::Status(status) = &bench.facts.update {
            assert_ne!(status.update_state, UpdateState::Ready, "{trace:?}");
        }
    }
}

#[test]
fn a_second_withdrawal_under_the_same_number_is_not_acknowledged_before_it_is_done() {
    let mut bench = Bench::idle();
    for _ in 0..2 {
        bench.ask(NodeState::StagedAndPerformedUpdate);
        bench.run();
        bench.ask(NodeState::Idle);
        assert!(!acknowledges(bench.known(), &bench.spec));
        bench.run();
        assert!(acknowledges(bench.known(), &bench.spec));
    }
    bench.ask(NodeState::StagedAndPerformedUpdate);
    bench.one_step();
    bench.one_step();
    bench.ask(NodeState::Idle);
    assert!(
        !acknowledges(bench.known(), &bench.spec),
        "the first report of an attempt voids the echo"
    );
}

#[test]
fn a_running_command_is_waited_for_before_anything_is_undone() {
    let mut bench = Bench::idle();
    bench.fault(Command::Prepare, Fault::Takes(5));
    bench.ask(NodeState::StagedAndPerformedUpdate);
    for _ in 0..4 {
        bench.one_step();
    }
    assert!(matches!(bench.look(), Step::Wait { .. }));
    bench.ask(NodeState::Idle);
    assert!(matches!(bench.look(), Step::Wait { .. }));
    assert_eq!(bench.run(), ["set latest false", "report Idle"]);
}

#[test]
fn what_cannot_be_undone_is_reported_and_tried_on() {
    let mut bench = Bench::staged();
    (0..3).for_each(|_| bench.fault(Command::Deactivate, Fault::Fails("no")));
    bench.ask(NodeState::ErrorReset);
    let trace = bench.run();
    assert_eq!(trace.iter().filter(|done| *done == "deactivate").count(), 4);
    assert_eq!(
        trace.iter().filter(|done| *done == "report StageFailed").count(),
        1
    );
    assert!(acknowledges(bench.known(), &bench.spec));
    assert_eq!(
        (bench.known().crash_count, bench.known().error.as_ref()),
        (1, None)
    );
}

#[test]
fn what_others_have_activated_stays_so() {
    let mut bench = Bench::staged();
    bench.ask(NodeState::Idle);
    bench.run();
    bench.flag_ready();
    bench.restart_agent();
    assert_eq!(bench.run(), [""; 0]);
}

#[test]
fn a_failed_attempt_is_counted_once_and_a_success_clears_the_count() {
    let mut bench = Bench::staged();
    bench.ask(NodeState::ErrorReset);
    bench.run();
    let failed_at = bench.known().state_transition_failure_timestamp;
    assert!(failed_at.is_some());
    bench.elapsed += Duration::from_secs(100);
    bench.restart_agent();
    assert_eq!(bench.run(), [""; 0]);
    bench.ask(NodeState::Idle);
    bench.run();
    assert_eq!(
        (
            bench.known().crash_count,
            bench.known().state_transition_failure_timestamp
        ),
        (1, failed_at)
    );

    bench.ask(NodeState::StagedAndPerformedUpdate);
    bench.run();
    bench.ask(NodeState::RebootedIntoUpdate);
    bench.run();
    bench.boot(NEW, "boot-b");
    bench.run();
    assert_eq!(bench.known().crash_count, 1);
    bench.instruct(BottlerocketShadowSpec {
        state: NodeState::Idle,
        ..bench.spec.clone()
    });
    bench.run();
    assert_eq!(
        (
            bench.known().crash_count,
            bench.known().state_transition_failure_timestamp
        ),
        (0, None)
    );
}

#[test]
fn what_the_server_has_lost_is_reported_again() {
    let mut bench = Bench::staged();
    bench.memory.stored = None;
    assert_eq!(bench.run(), ["report StagedAndPerformedUpdate"]);
    assert_eq!(bench.known(), bench.memory.stored.as_ref().unwrap());
}

#[test]
fn s9_saved_settings_are_not_forgotten_while_the_settings_cannot_be_read() {
    let mut bench = Bench::staged();
    bench.ask(NodeState::Idle);
    let settings = bench.facts.settings.take();
    bench.one_step(); // deactivates
    bench.one_step();
    assert!(bench.known().saved_settings.is_some() && !acknowledges(bench.known(), &bench.spec));
    assert!(matches!(bench.look(), Step::Wait { .. }), "then it looks again");
    bench.facts.settings = settings;
    bench.run();
    assert_eq!(bench.settings(), ("latest", false));
    assert!(acknowledges(bench.known(), &bench.spec));
}
