//! Staging ahead of the node's turn.

use api::shadow::{BottlerocketShadowSpec, FailureReason, NodeState, StageAhead, acknowledges};
use chrono::DateTime;

use super::super::bench::{Bench, Fault, NEW, OLD, not_sent};
use crate::bottlerocket::{CallError, Command, UpdateState};

const OTHER: &str = "1.22.0";

/// What an idle node does that is to download ahead of its turn.
const AHEAD: [&str; 6] = [
    "saved settings",
    "set 1.21.0 true",
    "refresh",
    "prepare",
    "set latest false",
    "Idle",
];

fn ahead(version: &str) -> BottlerocketShadowSpec {
    BottlerocketShadowSpec {
        stage: Some(StageAhead {
            version: version.to_owned(),
            until: DateTime::from_timestamp(1_800_001_800, 0).unwrap(),
        }),
        ..BottlerocketShadowSpec::default()
    }
}

/// A node that has asked its repository once, and waits for its turn.
fn waiting() -> Bench {
    let mut bench = Bench::idle();
    bench.run();
    bench.instruct(ahead(NEW));
    bench
}

/// What it does, its reports by what they say.
fn run(bench: &mut Bench) -> Vec<String> {
    let words = |word: String| word.trim_start_matches("report ").to_owned();
    bench.run().into_iter().map(words).collect()
}

/// It is Idle and as it was found, and nothing is left to do.
fn assert_waits(bench: &mut Bench) {
    assert!(acknowledges(bench.known(), &bench.spec));
    assert_eq!(bench.known().saved_settings, None);
    assert_eq!(bench.settings(), ("latest", false));
    assert_eq!(run(bench), [""; 0]);
}

#[test]
fn a_node_downloads_ahead_of_its_turn_and_its_turn_needs_no_other_download() {
    let mut bench = waiting();
    assert_eq!(run(&mut bench), AHEAD);
    assert_eq!(bench.known().staged_version.as_deref(), Some(NEW));
    assert_eq!(
        bench.status().update_state,
        UpdateState::Staged,
        "and not activated"
    );
    assert_waits(&mut bench);

    bench.ask(NodeState::StagedAndPerformedUpdate);
    let turn = [
        "saved settings",
        "set 1.21.0 true",
        "activate",
        "StagedAndPerformedUpdate",
    ];
    assert_eq!(run(&mut bench), turn);
}

#[test]
fn it_stays_idle_all_the_while_and_its_turn_may_come_at_any_moment() {
    for steps in 0..AHEAD.len() {
        let mut bench = waiting();
        for _ in 0..steps {
            bench.one_step();
            assert!(acknowledges(bench.known(), &bench.spec), "after {steps} steps");
        }
        bench.ask(NodeState::StagedAndPerformedUpdate);
        run(&mut bench);
        assert!(acknowledges(bench.known(), &bench.spec), "after {steps} steps");
        let saved = bench.known().saved_settings.clone().unwrap();
        assert_eq!(
            (saved.version_lock.as_str(), saved.ignore_waves),
            ("latest", false)
        );
        bench.ask(NodeState::Idle);
        run(&mut bench);
        assert_waits(&mut bench);
    }
}

#[test]
fn what_is_granted_under_the_number_that_it_has_acknowledged_is_not_taken_for_undone() {
    let mut bench = waiting();
    // As after an attempt that was withdrawn, whose number it still reports.
    bench.ask(NodeState::Idle);
    run(&mut bench);
    let before = bench.spec.clone();
    bench.instruct(BottlerocketShadowSpec {
        stage: ahead(NEW).stage,
        ..before.clone()
    });
    bench.one_step();
    bench.one_step();
    bench.ask(NodeState::StagedAndPerformedUpdate);
    bench.one_step();
    bench.one_step();
    assert!(!acknowledges(bench.known(), &before), "its settings are changed");
}

#[test]
fn who_is_not_to_download_any_more_puts_its_settings_back_also_after_a_restart() {
    for restarts in [false, true] {
        for steps in 0..AHEAD.len() {
            let mut bench = waiting();
            (0..steps).for_each(|_| bench.one_step());
            bench.instruct(BottlerocketShadowSpec::default());
            if restarts {
                bench.restart_agent();
            }
            run(&mut bench);
            assert_waits(&mut bench);
        }
    }
}

#[test]
fn an_agent_that_restarts_goes_on() {
    for steps in 0..AHEAD.len() {
        let mut bench = waiting();
        (0..steps).for_each(|_| bench.one_step());
        bench.restart_agent();
        run(&mut bench);
        assert_eq!(
            bench.known().staged_version.as_deref(),
            Some(NEW),
            "after {steps} steps"
        );
        assert_waits(&mut bench);
    }
}

#[test]
fn what_goes_wrong_is_left_for_the_nodes_turn() {
    let failing = |command: Command, fault: Fault| {
        let mut bench = waiting();
        bench.fault(command, fault);
        bench
    };
    let mut others = Bench::idle();
    others.offered = vec!["1.20.9"];
    others.run();
    others.instruct(ahead(NEW));
    for mut bench in [
        failing(Command::Prepare, Fault::Fails("no space left on device")),
        failing(Command::Prepare, Fault::WritesNothing),
        failing(
            Command::Refresh,
            Fault::Answer(CallError::NotFound("no such call".into())),
        ),
        others,
    ] {
        run(&mut bench);
        assert_eq!(bench.known().staged_version, None);
        assert_waits(&mut bench);
        bench.restart_agent();
        run(&mut bench);
        assert_waits(&mut bench);
    }
}

#[test]
fn a_lock_that_somebody_sets_meanwhile_stays() {
    let mut bench = waiting();
    bench.fault(Command::Prepare, Fault::LockedBy("1.20.9"));
    run(&mut bench);
    assert!(acknowledges(bench.known(), &bench.spec));
    assert_eq!(bench.known().saved_settings, None);
    assert_eq!(bench.settings(), ("1.20.9", false));
}

#[test]
fn a_call_that_is_not_sent_is_made_again() {
    let mut bench = waiting();
    bench.fault(Command::Prepare, Fault::Answer(not_sent()));
    run(&mut bench);
    assert_eq!(bench.known().staged_version.as_deref(), Some(NEW));
    assert_waits(&mut bench);
}

#[test]
fn nothing_older_than_what_runs_is_downloaded_ahead() {
    for version in [OLD, "1.19.0"] {
        let mut bench = waiting();
        bench.instruct(ahead(version));
        assert_eq!(run(&mut bench), [""; 0]);
    }
}

#[test]
fn another_version_is_downloaded_instead_or_granted_and_the_settings_are_as_found_in_the_end() {
    for restarts in [false, true] {
        for steps in 0..=AHEAD.len() {
            for granted in [false, true] {
                let mut bench = waiting();
                bench.offered = vec![NEW, OTHER];
                (0..steps.min(AHEAD.len() - 1)).for_each(|_| bench.one_step());
                if steps == AHEAD.len() {
                    run(&mut bench);
                }
                let case = format!("{steps} steps, restart: {restarts}, granted: {granted}");
                if granted {
                    bench.instruct(BottlerocketShadowSpec {
                        state: NodeState::StagedAndPerformedUpdate,
                        version: Some(OTHER.to_owned()),
                        run: Some("r2".to_owned()),
                        attempt: Some(1),
                        ..BottlerocketShadowSpec::default()
                    });
                } else {
                    bench.instruct(ahead(OTHER));
                }
                if restarts {
                    bench.restart_agent();
                }
                run(&mut bench);
                assert!(
                    acknowledges(bench.known(), &bench.spec),
                    "{case}: {}",
                    bench.error()
                );
                assert_eq!(bench.known().staged_version.as_deref(), Some(OTHER), "{case}");
                bench.instruct(BottlerocketShadowSpec {
                    state: NodeState::Idle,
                    version: None,
                    stage: None,
                    ..bench.spec.clone()
                });
                run(&mut bench);
                assert_waits(&mut bench);
            }
        }
    }
}

#[test]
fn the_locks_of_two_downloads_are_both_known_for_our_own_after_a_restart() {
    for steps in 0..AHEAD.len() {
        for later in 0..8 {
            let mut bench = waiting();
            bench.offered = vec![NEW, OTHER];
            (0..steps).for_each(|_| bench.one_step());
            bench.instruct(ahead(OTHER));
            (0..later).for_each(|_| bench.go_on());
            bench.instruct(BottlerocketShadowSpec::default());
            bench.restart_agent();
            run(&mut bench);
            assert_waits(&mut bench);
        }
    }
}

#[test]
fn a_lock_that_somebody_sets_while_the_agent_is_away_stays_though_nothing_is_to_be_downloaded_any_more() {
    let mut bench = waiting();
    (0..4).for_each(|_| bench.one_step());
    bench.facts.settings.as_mut().unwrap().version_lock = "1.20.9".to_owned();
    bench.instruct(BottlerocketShadowSpec::default());
    bench.restart_agent();
    run(&mut bench);
    assert_eq!(bench.known().saved_settings, None);
    assert_eq!(bench.settings(), ("1.20.9", false));
}

#[test]
fn a_turn_that_comes_as_a_fruitless_download_is_put_back_tells_what_is_wrong() {
    let mut bench = Bench::idle();
    bench.offered = vec!["1.20.9"];
    bench.run();
    bench.instruct(ahead(NEW));
    // Until the settings are put back, and that is not reported yet.
    bench
        .go_on_until(|bench| bench.known().saved_settings.is_some() && bench.settings() != ("latest", false));
    bench.go_on_until(|bench| bench.settings() == ("latest", false));
    bench.ask(NodeState::StagedAndPerformedUpdate);
    run(&mut bench);
    let error = bench.known().error.clone().unwrap();
    assert_eq!(
        error.reason,
        FailureReason::VersionNotOffered,
        "{}",
        error.message
    );
}

#[test]
fn what_others_have_activated_is_neither_deactivated_nor_overwritten() {
    let mut bench = Bench::staged();
    bench.ask(NodeState::Idle);
    run(&mut bench);
    bench.flag_ready();
    bench.instruct(BottlerocketShadowSpec {
        stage: ahead(OTHER).stage,
        ..bench.spec.clone()
    });
    let before = bench.facts.clone();
    assert!(!run(&mut bench).iter().any(|word| word != "Idle"));
    assert_eq!(bench.facts, before);
}

#[test]
fn who_begins_late_does_not_begin() {
    let mut bench = waiting();
    run(&mut bench);
    bench.elapsed += std::time::Duration::from_secs(1800);
    bench.boot(OLD, "boot-b");
    run(&mut bench);
    assert_eq!(bench.known().staged_version, None);
    assert_waits(&mut bench);
}

#[test]
fn an_image_that_was_forgotten_in_a_reboot_is_downloaded_again() {
    let mut bench = waiting();
    run(&mut bench);
    bench.boot(OLD, "boot-b");
    run(&mut bench);
    assert_eq!(bench.known().staged_version.as_deref(), Some(NEW));
    assert_eq!(bench.known().boot_id.as_deref(), Some("boot-b"));
    assert_waits(&mut bench);
}
