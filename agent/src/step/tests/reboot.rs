//! The reboot, and what comes after it.

use std::time::Duration;

use api::{
    ledger::{GrantPhase, PermitRefusal},
    shadow::{NodeState, acknowledges},
};

use super::super::{
    Step,
    bench::{Bench, NEW, OLD, not_sent, server_error},
};
use crate::{
    bottlerocket::{CallError, UpdateState},
    host::Update,
};

#[test]
fn s5_a_node_reboots_only_with_a_permit_that_is_valid() {
    let mut bench = Bench::staged();
    bench.ask(NodeState::RebootedIntoUpdate);
    assert!(matches!(bench.look(), Step::AskPermit(_)));
    bench.permits.push_back(Ok(0));
    assert_eq!(
        bench.run(),
        ["permit r1/1 boot-a", "permit r1/1 boot-a", "reboot"],
        "one that has run out is asked for again"
    );
}

#[test]
fn refusals_of_the_permit_are_waited_out() {
    let not_after = bench_time();
    let refusals = [
        (PermitRefusal::NotCordoned, 5),
        (PermitRefusal::PodsLeft { pods: vec![] }, 5),
        (
            PermitRefusal::WrongPhase {
                phase: GrantPhase::Granted,
            },
            5,
        ),
        (PermitRefusal::NoGrant, 5),
        (PermitRefusal::Stopped, 5),
        (PermitRefusal::WindowClosed { not_after }, 60),
    ];
    for (refusal, seconds) in refusals {
        let mut bench = Bench::staged();
        bench.ask(NodeState::RebootedIntoUpdate);
        let begun = bench.elapsed;
        bench.permits.push_back(Err(refusal));
        assert_eq!(
            bench.run(),
            ["permit r1/1 boot-a", "permit r1/1 boot-a", "reboot"]
        );
        assert_eq!(bench.elapsed - begun, Duration::from_secs(seconds));
    }
    let mut bench = Bench::staged();
    bench.ask(NodeState::RebootedIntoUpdate);
    bench.permits.push_back(Err(PermitRefusal::OtherBoot));
    assert_eq!(bench.run(), ["permit r1/1 boot-a", "report BootedOtherVersion"]);
    let mut bench = Bench::staged();
    bench.ask(NodeState::RebootedIntoUpdate);
    bench
        .permits
        .push_back(Err(PermitRefusal::PermitExpired { not_after }));
    assert_eq!(bench.run(), ["permit r1/1 boot-a", "report PermitExpired"]);
}

fn bench_time() -> chrono::DateTime<chrono::Utc> {
    Bench::idle().now().wall
}

#[test]
fn a_reboot_is_called_once_unless_it_certainly_was_not() {
    let permit = "permit r1/1 boot-a";
    let mut bench = Bench::staged();
    bench.ask(NodeState::RebootedIntoUpdate);
    bench.reboots.extend([
        Err(not_sent()),
        Err(server_error()),
        Err(CallError::Lost("reset".into())),
    ]);
    assert_eq!(bench.run(), [permit, "reboot", "reboot", "reboot"]);
    bench.ask(NodeState::ErrorReset);
    assert!(
        matches!(bench.look(), Step::Wait { .. }),
        "whatever is asked: the machine goes down"
    );
    bench.ask(NodeState::RebootedIntoUpdate);
    bench.elapsed += bench.timings.reboot_timeout;
    assert_eq!(bench.run(), ["report RebootFailed"]);
    assert_eq!(bench.error(), "the node is still up 900s after its reboot call");
}

#[test]
fn a_node_that_refuses_to_reboot_says_why_when_its_permit_is_over() {
    let mut bench = Bench::staged();
    bench.ask(NodeState::RebootedIntoUpdate);
    (0..100).for_each(|_| bench.reboots.push_back(Err(server_error())));
    let begun = bench.elapsed;
    let trace = bench.run();
    assert_eq!(trace.iter().filter(|done| done.starts_with("permit")).count(), 1);
    assert_eq!(trace.last().unwrap(), "report RebootFailed");
    assert_eq!(bench.error(), "the node refused to reboot: 500: no");
    assert!(bench.elapsed - begun < Duration::from_secs(33));
}

#[test]
fn nothing_is_rebooted_that_would_boot_something_else() {
    type Change = fn(&mut Bench);
    let cases: [(Change, &str); 4] = [
        (
            |b| b.facts.settings.as_mut().unwrap().version_lock = "1.19.5".into(),
            "version-lock was changed to 1.19.5",
        ),
        (
            |b| b.status().update_state = UpdateState::Staged,
            "1.21.0 is not activated any more",
        ),
        (
            |b| b.status().staging_partition.as_mut().unwrap().image.version = "1.19.5".into(),
            "1.21.0 is not activated",
        ),
        (
            |b| b.facts.update = Update::Uninitialised,
            "1.21.0 is not activated any more",
        ),
    ];
    for (change, expected) in cases {
        for permitted in [false, true] {
            let mut bench = Bench::staged();
            bench.ask(NodeState::RebootedIntoUpdate);
            if permitted {
                assert!(matches!(bench.look(), Step::AskPermit(_)));
                bench.grant_permit();
            }
            change(&mut bench);
            assert_eq!(bench.run(), ["report RebootFailed"]);
            assert!(bench.error().contains(expected), "{}", bench.error());
        }
    }
}

#[test]
fn an_agent_restart_is_no_reboot() {
    let mut bench = Bench::staged();
    bench.ask(NodeState::RebootedIntoUpdate);
    bench.facts.os.version_id = NEW.into();
    bench.restart_agent();
    let trace = bench.run();
    assert!(
        !acknowledges(bench.known(), &bench.spec),
        "s7: the version alone proves nothing: {trace:?}"
    );

    let mut bench = Bench::staged();
    bench.ask(NodeState::RebootedIntoUpdate);
    bench.run();
    bench.restart_agent();
    assert_eq!(
        bench.run(),
        ["permit r1/1 boot-a", "reboot"],
        "the same boot may be told again"
    );
}

#[test]
fn a_boot_into_the_old_version_is_a_failure_and_not_rebooted_again() {
    let mut bench = Bench::staged();
    bench.ask(NodeState::RebootedIntoUpdate);
    bench.run();
    bench.boot(OLD, "boot-b");
    assert_eq!(bench.run(), ["report BootedOtherVersion"]);
    assert_eq!(
        bench.error(),
        "the node rebooted, and runs 1.20.3 instead of 1.21.0"
    );
    assert_eq!(bench.known().boot_id.as_deref(), Some("boot-b"));
    bench.restart_agent();
    assert_eq!(bench.run(), [""; 0]);
    bench.ask(NodeState::ErrorReset);
    assert_eq!(bench.run(), ["set latest false", "report ErrorReset"]);
}

#[test]
fn an_activated_node_that_crashes_is_told_as_it_is() {
    for version in [OLD, NEW] {
        let mut bench = Bench::staged();
        bench.boot(version, "boot-b");
        bench.run();
        assert!(bench.known().error.is_some());
        assert_eq!(bench.known().current_version, version);
        assert!(!acknowledges(bench.known(), &bench.spec));
    }
}
