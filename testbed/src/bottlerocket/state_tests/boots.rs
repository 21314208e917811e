//! What boots, and what a boot forgets.

use super::*;
use crate::truth::SimEventKind;

#[test]
fn the_whole_way_of_an_update() {
    let mut bench = Bench::running("1.20.3");
    bench.lock("1.21.0");
    let status = bench.run(Command::Refresh);
    assert_eq!(
        (state(&status), chosen(&status).as_deref()),
        (UpdateState::Available, Some("1.21.0"))
    );
    assert_eq!(status.available_updates.len(), 4);

    let status = bench.run(Command::Prepare);
    assert_eq!(state(&status), UpdateState::Staged);
    assert!(!status.staging_partition.unwrap().next_to_boot);
    assert!(status.active_partition.unwrap().next_to_boot);

    let status = bench.run(Command::Activate);
    assert_eq!(state(&status), UpdateState::Ready);
    assert!(status.staging_partition.unwrap().next_to_boot);
    assert!(!status.active_partition.unwrap().next_to_boot);

    bench.reboot(None);
    assert_eq!(
        (bench.runs().as_str(), bench.machine.boot_id()),
        ("1.21.0", "boot-1")
    );
    let kinds: Vec<_> = bench
        .machine
        .take_events()
        .into_iter()
        .map(|(_, kind)| kind)
        .collect();
    let (before, after) = ("1.20.3".to_owned(), "1.21.0".to_owned());
    assert!(kinds.contains(&SimEventKind::Activated {
        version: after.clone()
    }));
    let cause = RebootCause::Api;
    assert!(kinds.contains(&SimEventKind::RebootBegun {
        boot_id: "boot-0".into(),
        version: before,
        cause
    }));
    assert_eq!(
        kinds.last(),
        Some(&SimEventKind::RebootFinished {
            boot_id: "boot-1".into(),
            version: after
        })
    );
}

#[test]
fn the_status_is_404_after_every_boot_until_the_first_command() {
    let mut bench = Bench::running("1.20.3");
    assert_eq!(bench.machine.status(), Err(Refusal::Uninitialised));
    bench.run(Command::Refresh);
    bench.reboot(None);
    assert_eq!(bench.machine.status(), Err(Refusal::Uninitialised));
    assert_eq!(state(&bench.run(Command::Refresh)), UpdateState::Available);
}

#[test]
fn prepare_overwrites_the_older_image() {
    let mut bench = Bench::ready();
    bench.reboot(None);
    assert_eq!(bench.machine.inactive().unwrap().version.to_string(), "1.20.3");
    bench.lock("1.22.0");
    bench.run(Command::Refresh);
    bench.run(Command::Prepare);
    assert_eq!(bench.machine.inactive().unwrap().version.to_string(), "1.22.0");
}

#[test]
fn another_version_needs_deactivate_prepare_activate() {
    let mut bench = Bench::ready();
    bench.lock("1.22.0");
    bench.run(Command::Refresh);
    assert_eq!(bench.begin(Command::Prepare), Err(Refusal::WrongState));
    bench.run(Command::Deactivate);
    bench.run(Command::Prepare);
    bench.run(Command::Activate);
    bench.reboot(None);
    assert_eq!(bench.runs(), "1.22.0");
}

#[test]
fn a_lower_version_is_installed_where_it_is_locked() {
    let mut bench = Bench::running("1.21.0");
    bench.lock("1.20.3");
    bench.run(Command::Refresh);
    bench.run(Command::Prepare);
    bench.run(Command::Activate);
    bench.reboot(None);
    assert_eq!(bench.runs(), "1.20.3");
}

#[test]
fn a_deactivated_machine_boots_what_it_ran() {
    let mut bench = Bench::ready();
    bench.run(Command::Deactivate);
    bench.reboot(None);
    assert_eq!(
        (bench.runs().as_str(), bench.machine.boot_id()),
        ("1.20.3", "boot-1")
    );
}

#[test]
fn an_activated_machine_applies_the_update_on_any_crash() {
    let mut bench = Bench::ready();
    bench.machine.begin_reboot(bench.now, RebootCause::PowerCut);
    bench.machine.boot(bench.now, "boot-1".into(), None);
    assert_eq!(bench.runs(), "1.21.0");
}

#[test]
fn an_image_that_fails_to_boot_is_given_up() {
    let mut bench = Bench::ready();
    bench.reboot(Some(BootFault::OldVersion));
    assert_eq!(
        (bench.runs().as_str(), bench.machine.boot_id()),
        ("1.20.3", "boot-1")
    );
    bench.reboot(None);
    assert_eq!(bench.runs(), "1.20.3", "it is not tried again");
}

#[test]
fn a_boot_forgets_the_staging_partition_but_not_the_image() {
    let mut bench = Bench::running("1.20.3");
    bench.run(Command::Refresh);
    bench.run(Command::Prepare);
    bench.reboot(None);
    let status = bench.run(Command::Refresh);
    assert_eq!(
        (state(&status), status.staging_partition),
        (UpdateState::Available, None)
    );
    assert!(bench.machine.inactive().is_some());
}

#[test]
fn a_boot_cuts_a_command_short() {
    let mut bench = Bench::running("1.20.3");
    bench.run(Command::Refresh);
    bench.begin(Command::Prepare).unwrap();
    bench.reboot(None);
    bench.pass(60 * SECOND);
    assert_eq!(bench.machine.inactive(), None, "half an image is none");
    assert_eq!(bench.machine.status(), Err(Refusal::Uninitialised));
}

#[test]
fn a_second_reboot_call_is_the_same_reboot() {
    let mut bench = Bench::running("1.20.3");
    bench.machine.take_events();
    bench.machine.begin_reboot(bench.now, RebootCause::Api);
    bench.machine.begin_reboot(bench.now, RebootCause::Api);
    assert_eq!(bench.machine.take_events().len(), 1);
}

#[test]
fn a_machine_may_lie_about_its_version() {
    let mut bench = Bench::running("1.20.3");
    bench.machine.faults.reported_version = Some(Version::new(1, 21, 0));
    assert_eq!(bench.machine.os().version_id.to_string(), "1.21.0");
    assert_eq!(bench.runs(), "1.20.3");
}
