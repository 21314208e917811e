//! Staging.

use std::time::Duration;

use api::shadow::{BottlerocketShadowSpec, FailureReason, NodeState, SavedSettings, acknowledges};

use super::super::{
    Step,
    bench::{Bench, Fault, NEW, not_sent, server_error},
};
use super::STAGE;
use crate::{
    bottlerocket::{CallError, Command, Image, Partition, UpdateState},
    host::Call,
};

#[test]
fn an_update_goes_its_way_and_leaves_the_settings_as_found() {
    let mut bench = Bench::idle();
    bench.ask(NodeState::StagedAndPerformedUpdate);
    assert_eq!(bench.run(), STAGE);
    assert_eq!(bench.known().staged_version.as_deref(), Some(NEW));
    assert_eq!(bench.known().boot_id.as_deref(), Some("boot-a"));
    let saved = SavedSettings {
        version_lock: "latest".into(),
        ignore_waves: false,
        locks: vec![NEW.into()],
    };
    assert_eq!(bench.known().saved_settings, Some(saved.clone()));

    bench.ask(NodeState::RebootedIntoUpdate);
    assert_eq!(bench.run(), ["permit r1/1 boot-a", "reboot"]);
    bench.boot(NEW, "boot-b");
    assert_eq!(bench.run(), ["report RebootedIntoUpdate"]);
    assert_eq!(bench.known().current_version, NEW);
    assert_eq!(bench.known().boot_id.as_deref(), Some("boot-b"));
    assert_eq!(bench.known().saved_settings, Some(saved));

    bench.ask(NodeState::MonitoringUpdate);
    assert_eq!(bench.run(), ["report MonitoringUpdate"]);
    bench.instruct(BottlerocketShadowSpec {
        state: NodeState::Idle,
        ..bench.spec.clone()
    });
    assert_eq!(
        bench.run(),
        ["set latest false", "report Idle", "refresh", "report Idle"]
    );
    assert_eq!(bench.known().saved_settings, None);
    assert_eq!(bench.settings(), ("latest", false));
    assert_eq!(bench.run(), [""; 0]);
}

#[test]
fn that_it_is_monitored_is_reported_only_where_that_lasts() {
    let mut bench = Bench::staged();
    bench.ask(NodeState::RebootedIntoUpdate);
    bench.run();
    bench.boot(NEW, "boot-b");
    bench.run();
    bench.ask(NodeState::MonitoringUpdate);
    let Step::Wait { until } = bench.look() else {
        panic!("nobody waits for the report")
    };
    assert_eq!(until, bench.elapsed + bench.timings.monitoring_report);
    bench.instruct(BottlerocketShadowSpec {
        state: NodeState::Idle,
        ..bench.spec.clone()
    });
    assert_eq!(
        bench.run(),
        ["set latest false", "report Idle", "refresh", "report Idle"]
    );
}

#[test]
fn settings_are_saved_before_they_are_changed_and_never_overwritten() {
    let mut bench = Bench::idle();
    bench.ask(NodeState::StagedAndPerformedUpdate);
    let Step::Report(status) = bench.look() else {
        panic!("the report comes first")
    };
    assert!(status.saved_settings.is_some());
    assert!(!acknowledges(&status, &bench.spec));
    assert_eq!(bench.look(), Step::Report(status), "until it is taken");
    bench.run();
    bench.restart_agent();
    assert_eq!(bench.run(), [""; 0]);
    assert_eq!(
        bench.known().saved_settings.as_ref().unwrap().version_lock,
        "latest"
    );
}

#[test]
fn settings_that_are_right_already_are_not_changed() {
    let mut bench = Bench::idle();
    let settings = bench.facts.settings.as_mut().unwrap();
    (settings.version_lock, settings.ignore_waves) = (NEW.to_owned(), true);
    bench.ask(NodeState::StagedAndPerformedUpdate);
    assert_eq!(bench.run().len(), STAGE.len() - 1);
    bench.ask(NodeState::Idle);
    assert_eq!(bench.run(), ["deactivate", "report Idle"]);
    assert_eq!(bench.settings(), (NEW, true), "as found");
}

#[test]
fn an_agent_that_is_started_again_goes_on_from_where_the_node_stands() {
    for done in 0..STAGE.len() {
        let mut bench = Bench::idle();
        bench.ask(NodeState::StagedAndPerformedUpdate);
        for _ in 0..done {
            bench.one_step();
        }
        bench.restart_agent();
        bench.run();
        assert!(acknowledges(bench.known(), &bench.spec), "after {done} steps");
        bench.ask(NodeState::Idle);
        bench.run();
        assert_eq!(bench.settings(), ("latest", false), "after {done} steps");
        assert_eq!(bench.known().saved_settings, None);
    }
}

#[test]
fn commands_are_awaited_and_their_outcome_is_what_is_newer_than_before() {
    let mut bench = Bench::idle();
    bench.faults.push_back((Command::Refresh, Fault::Takes(3)));
    bench.faults.push_back((Command::Prepare, Fault::Takes(40)));
    bench.ask(NodeState::StagedAndPerformedUpdate);
    assert_eq!(bench.run(), STAGE);
    assert!(
        bench.elapsed > Duration::from_secs(60),
        "polled ever more slowly, at most every 2 s"
    );
}

#[test]
fn lost_replies_5xx_423_and_crashes_are_overcome() {
    let faults: [fn() -> Fault; 6] = [
        || Fault::ReplyLost,
        || Fault::Answer(CallError::Lost("reset".into())),
        || Fault::Answer(server_error()),
        || Fault::Answer(not_sent()),
        || Fault::Answer(CallError::Busy(String::new())),
        || Fault::Crashes,
    ];
    for command in [Command::Refresh, Command::Prepare, Command::Activate] {
        for (i, fault) in faults.iter().enumerate() {
            let mut bench = Bench::idle();
            bench.faults.push_back((command, fault()));
            bench.ask(NodeState::StagedAndPerformedUpdate);
            let calls = bench
                .run()
                .iter()
                .filter(|done| **done == command.cmd_type())
                .count();
            assert!(
                acknowledges(bench.known(), &bench.spec),
                "{command} {i}: {}",
                bench.error()
            );
            assert_eq!(calls, if i == 0 { 1 } else { 2 }, "{command} {i}");
        }
    }
}

#[test]
fn what_cannot_be_staged_is_reported_with_the_nodes_own_words() {
    type Setup = fn(&mut Bench);
    let cases: [(&str, Setup, &str); 14] = [
        (
            "prepare",
            |b| b.fault(Command::Prepare, Fault::Fails("disk\nis full")),
            "prepare-update failed: disk is full",
        ),
        (
            "activate",
            |b| b.fault(Command::Activate, Fault::Fails("")),
            "activate-update failed: exit status 1",
        ),
        (
            "nothing",
            |b| b.fault(Command::Prepare, Fault::WritesNothing),
            "nothing is on the inactive partition",
        ),
        (
            "lock",
            |b| b.fault(Command::Prepare, Fault::LockedBy("1.19.5")),
            "version-lock was changed to 1.19.5 by someone else",
        ),
        (
            "lock2",
            |b| b.fault(Command::Refresh, Fault::LockedBy("1.19.5")),
            "version-lock was changed to 1.19.5 by someone else",
        ),
        (
            "missing",
            |b| {
                b.fault(
                    Command::Refresh,
                    Fault::Answer(CallError::NotFound("no such call".into())),
                )
            },
            "this image cannot be updated in place: refresh-updates answers 404",
        ),
        (
            "no settings",
            |b| b.facts.settings = None,
            "this image cannot be updated in place",
        ),
        (
            "crashes",
            |b| (0..3).for_each(|_| b.fault(Command::Prepare, Fault::Crashes)),
            "prepare-update was accepted and left no result, 3 times",
        ),
        (
            "conflict",
            |b| {
                (0..3).for_each(|_| {
                    b.fault(
                        Command::Prepare,
                        Fault::Answer(CallError::Conflict("state".into())),
                    )
                })
            },
            "prepare-update answers 409",
        ),
        (
            "rejected",
            |b| {
                b.fault(
                    Command::Prepare,
                    Fault::Answer(CallError::Rejected {
                        status: 400,
                        words: "bad".into(),
                    }),
                )
            },
            "prepare-update answers 400: bad",
        ),
        (
            "not offered",
            |b| b.offered = vec!["1.20.5"],
            "version 1.21.0 is not offered to this node (variant aws-k8s-1.33, arch x86_64; on offer: 1.20.5)",
        ),
        (
            "fails at once",
            |b| (0..5).for_each(|_| b.fault(Command::Refresh, Fault::Fails("no such file"))),
            "this image cannot be updated in place: refresh-updates has only ever failed, at once: no such file",
        ),
        (
            "other choice",
            |b| (b.offered, b.disobeys) = (vec!["1.20.5"], true),
            "the node chooses 1.20.5, though its version-lock is 1.21.0",
        ),
        (
            "no repository",
            |b| b.has_refreshed().fail_refreshes(),
            "refresh-updates fails for 3",
        ),
    ];
    for (name, setup, expected) in cases {
        let mut bench = Bench::idle();
        bench.ask(NodeState::StagedAndPerformedUpdate);
        setup(&mut bench);
        bench.run();
        let error = bench
            .known()
            .error
            .clone()
            .unwrap_or_else(|| panic!("{name}: no error"));
        let reason = match name {
            "missing" | "no settings" | "fails at once" => FailureReason::Unsupported,
            "not offered" => FailureReason::VersionNotOffered,
            _ => FailureReason::StageFailed,
        };
        assert_eq!(error.reason, reason, "{name}");
        assert!(error.message.contains(expected), "{name}: {}", error.message);
        assert!(!acknowledges(bench.known(), &bench.spec), "{name}");
        assert_eq!(
            (bench.known().run.as_deref(), bench.known().attempt),
            (Some("r1"), Some(1)),
            "{name}"
        );

        bench.restart_agent();
        assert_eq!(
            bench.run(),
            [""; 0],
            "{name}: nothing more until the spec moves on"
        );
        bench.faults.clear();
        bench.ask(NodeState::ErrorReset);
        bench.run();
        assert!(acknowledges(bench.known(), &bench.spec), "{name}");
        assert_eq!(
            (
                bench.known().error.as_ref(),
                bench.known().saved_settings.as_ref()
            ),
            (None, None),
            "{name}"
        );
        assert_eq!(bench.known().crash_count, 1, "{name}");
        if bench.facts.settings.is_some() {
            let lock = if name.starts_with("lock") {
                "1.19.5"
            } else {
                "latest"
            };
            assert_eq!(
                bench.settings(),
                (lock, false),
                "{name}: only what we changed is put back"
            );
        }
    }
}

#[test]
fn settings_that_are_applied_late_are_waited_for() {
    let mut bench = Bench::idle();
    bench.applied_after = 3;
    bench.ask(NodeState::StagedAndPerformedUpdate);
    let trace = bench.run();
    assert_eq!(trace.iter().filter(|done| *done == "refresh").count(), 4);
    assert!(acknowledges(bench.known(), &bench.spec));
}

#[test]
fn another_variant_or_architecture_is_never_taken() {
    let mut bench = Bench::idle();
    bench.ask(NodeState::StagedAndPerformedUpdate);
    for _ in 0..3 {
        bench.one_step();
    }
    let image = Image {
        arch: "x86_64".into(),
        version: NEW.into(),
        variant: "aws-k8s-1.32".into(),
    };
    bench.status().chosen_update = Some(image.clone());
    assert!(!matches!(
        bench.look(),
        Step::Call(Call::Command(Command::Prepare))
    ));
    bench.status().staging_partition = Some(Partition {
        image,
        next_to_boot: false,
    });
    bench.status().update_state = UpdateState::Staged;
    assert!(!matches!(
        bench.look(),
        Step::Call(Call::Command(Command::Activate))
    ));
    bench.flag_ready();
    assert!(matches!(
        bench.look(),
        Step::Call(Call::Command(Command::Deactivate)) | Step::Wait { .. }
    ));
}

#[test]
fn another_activated_version_is_deactivated_first() {
    let mut bench = Bench::staged();
    bench.status().staging_partition.as_mut().unwrap().image.version = "1.20.9".into();
    bench.ask(NodeState::Idle);
    // Not undone yet, and asked for again.
    bench.ask(NodeState::StagedAndPerformedUpdate);
    assert_eq!(bench.run(), ["deactivate", "refresh", "prepare", "activate"]);
    assert!(bench.facts.boots_next(NEW));
}

#[test]
fn a_node_that_runs_the_version_already_is_not_staged() {
    let mut bench = Bench::idle();
    bench.facts.os.version_id = NEW.into();
    bench.ask(NodeState::StagedAndPerformedUpdate);
    assert_eq!(bench.run(), ["report StageFailed"]);
    assert_eq!(bench.error(), "the node already runs 1.21.0");
    assert_eq!(bench.known().current_version, NEW);
}

#[test]
fn an_instruction_without_its_fields_is_refused() {
    for state in [NodeState::StagedAndPerformedUpdate, NodeState::RebootedIntoUpdate] {
        let mut bench = Bench::idle();
        bench.instruct(BottlerocketShadowSpec {
            state,
            run: Some("r1".into()),
            ..Default::default()
        });
        bench.run();
        assert!(bench.error().starts_with("the instruction names no version"));
    }
}
