//! Commands, the states they are allowed in, and how they end.

use super::*;

#[test]
fn everything_about_updates_is_423_while_a_command_runs() {
    let mut bench = Bench::running("1.20.3");
    bench.begin(Command::Refresh).unwrap();
    assert_eq!(bench.machine.status(), Err(Refusal::Busy));
    for command in [
        Command::Refresh,
        Command::Prepare,
        Command::Activate,
        Command::Deactivate,
    ] {
        assert_eq!(bench.begin(command), Err(Refusal::Busy));
    }
    bench.pass(SECOND);
    assert!(bench.machine.status().is_ok());
}

#[test]
fn commands_are_409_in_every_other_state() {
    let refused = |bench: &mut Bench, commands: &[Command]| {
        for command in commands {
            assert_eq!(bench.begin(*command), Err(Refusal::WrongState), "{command:?}");
        }
    };
    let mut bench = Bench::running("1.20.3");
    refused(
        &mut bench,
        &[Command::Prepare, Command::Activate, Command::Deactivate],
    );
    bench.run(Command::Refresh);
    refused(&mut bench, &[Command::Activate, Command::Deactivate]);
    bench.run(Command::Prepare);
    refused(&mut bench, &[Command::Deactivate]);
    bench.run(Command::Activate);
    refused(&mut bench, &[Command::Prepare, Command::Activate]);
}

#[test]
fn prepare_is_404_where_nothing_is_chosen() {
    let mut bench = Bench::running("1.20.3");
    bench.lock("1.21.0");
    bench.run(Command::Refresh);
    bench.run(Command::Prepare);
    bench.lock("1.99.0");
    let status = bench.run(Command::Refresh);
    assert_eq!((state(&status), chosen(&status)), (UpdateState::Staged, None));
    assert_eq!(bench.begin(Command::Prepare), Err(Refusal::NoUpdate));
}

#[test]
fn every_command_that_ends_has_a_newer_time_than_the_one_before() {
    let mut bench = Bench::running("1.20.3");
    bench.machine.latencies = Latencies::default();
    let mut times = Vec::new();
    for _ in 0..3 {
        bench.begin(Command::Refresh).unwrap();
        bench.machine.advance(bench.now);
        times.push(
            bench
                .machine
                .status()
                .unwrap()
                .most_recent_command
                .unwrap()
                .timestamp,
        );
    }
    assert!(times[0] < times[1] && times[1] < times[2], "{times:?}");
}

#[test]
fn a_refresh_that_fails_ends_in_idle_and_keeps_what_was_chosen() {
    let mut bench = Bench::running("1.20.3");
    bench.run(Command::Refresh);
    let status = bench.run_with(Command::Refresh, Some(CallFault::Fails));
    assert_eq!(last(&status), (Command::Refresh, CommandStatus::Failed));
    assert_eq!(state(&status), UpdateState::Idle);
    assert_eq!(chosen(&status).as_deref(), Some("1.22.0"));
}

#[test]
fn a_refresh_leaves_staged_and_ready_as_they_are() {
    let mut bench = Bench::ready();
    assert_eq!(state(&bench.run(Command::Refresh)), UpdateState::Ready);
    assert_eq!(
        state(&bench.run_with(Command::Refresh, Some(CallFault::Fails))),
        UpdateState::Ready
    );
    bench.run(Command::Deactivate);
    assert_eq!(state(&bench.run(Command::Refresh)), UpdateState::Staged);
}

#[test]
fn a_prepare_activate_or_deactivate_that_fails_leaves_the_state() {
    let mut bench = Bench::running("1.20.3");
    bench.run(Command::Refresh);
    for (command, before) in [
        (Command::Prepare, UpdateState::Available),
        (Command::Activate, UpdateState::Staged),
        (Command::Deactivate, UpdateState::Ready),
    ] {
        let status = bench.run_with(command, Some(CallFault::Fails));
        assert_eq!(
            (state(&status), last(&status)),
            (before, (command, CommandStatus::Failed))
        );
        bench.run(command);
    }
}

#[test]
fn a_prepare_that_fails_has_cleared_the_inactive_slot() {
    let mut bench = Bench::running("1.20.3");
    bench.run(Command::Refresh);
    bench.run(Command::Prepare);
    assert!(bench.machine.inactive().is_some());
    let status = bench.run_with(Command::Prepare, Some(CallFault::Fails));
    assert_eq!(state(&status), UpdateState::Staged, "the status does not know");
    assert_eq!(bench.machine.inactive(), None);
    let status = bench.run(Command::Activate);
    assert_eq!(last(&status), (Command::Activate, CommandStatus::Failed));
}

#[test]
fn prepare_that_finds_nothing_to_do_succeeds_and_writes_nothing() {
    let mut bench = Bench::running("1.20.3");
    bench.lock("1.21.0");
    bench.run(Command::Refresh);
    bench.lock("1.20.3");
    let status = bench.run(Command::Prepare);
    assert_eq!(
        (state(&status), last(&status)),
        (UpdateState::Staged, (Command::Prepare, CommandStatus::Success))
    );
    assert_eq!(bench.machine.inactive(), None);

    let mut bench = Bench::running("1.20.3");
    bench.run(Command::Refresh);
    bench.run_with(Command::Prepare, Some(CallFault::WritesNothing));
    assert_eq!(bench.machine.inactive(), None);
}

#[test]
fn a_crash_of_the_api_server_leaves_no_newer_command() {
    let mut bench = Bench::running("1.20.3");
    let before = bench.run(Command::Refresh);
    let after = bench.run_with(Command::Prepare, Some(CallFault::Crashes));
    assert_eq!(after, before);
}

#[test]
fn an_image_without_update_calls_answers_404() {
    let mut bench = Bench::running("1.20.3");
    bench.machine.faults.unsupported = Some(Unsupported::CallsMissing);
    assert_eq!(bench.machine.status(), Err(Refusal::Missing));
    assert_eq!(bench.begin(Command::Refresh), Err(Refusal::Missing));
}

#[test]
fn a_disk_with_one_partition_set_fails_every_command_at_once() {
    let mut bench = Bench::running("1.20.3");
    bench.machine.faults.unsupported = Some(Unsupported::FailsAtOnce);
    bench.begin(Command::Refresh).unwrap();
    bench.machine.advance(bench.now);
    let status = bench.machine.status().unwrap();
    assert_eq!(
        (state(&status), last(&status)),
        (UpdateState::Idle, (Command::Refresh, CommandStatus::Failed))
    );
}

#[test]
fn the_status_reads_like_the_real_one() {
    let mut bench = Bench::running("1.20.3");
    bench.lock("1.21.0");
    let status = serde_json::to_value(bench.run(Command::Refresh)).unwrap();
    assert_eq!(status["update_state"], "Available");
    assert_eq!(status["available_updates"][0], "1.22.0");
    assert_eq!(status["chosen_update"]["variant"], "aws-k8s-1.33");
    assert_eq!(status["active_partition"]["image"]["version"], "1.20.3");
    assert_eq!(status["active_partition"]["next_to_boot"], true);
    assert!(status["staging_partition"].is_null());
    let command = &status["most_recent_command"];
    assert_eq!(
        (&command["cmd_type"], &command["cmd_status"]),
        (&"refresh".into(), &"Success".into())
    );
    assert_eq!(
        (&command["exit_status"], &command["stderr"]),
        (&0.into(), &"".into())
    );
    assert!(command["timestamp"].as_str().unwrap().ends_with('Z'));
}
