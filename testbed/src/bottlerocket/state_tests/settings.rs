//! Settings, transactions and config files.

use super::*;

#[test]
fn the_config_files_lag_behind_the_commit() {
    let mut bench = Bench::running("1.20.3");
    bench.machine.latencies.refresh = Duration::ZERO;
    bench.commit("1.21.0");
    let refreshed = |bench: &mut Bench| {
        bench.begin(Command::Refresh).unwrap();
        bench.machine.advance(bench.now);
        chosen(&bench.machine.status().unwrap())
    };
    assert_eq!(
        refreshed(&mut bench).as_deref(),
        Some("1.22.0"),
        "still the newest"
    );
    bench.pass(2 * SECOND);
    assert_eq!(refreshed(&mut bench).as_deref(), Some("1.21.0"));
}

#[test]
fn prepare_installs_what_its_config_file_says_not_what_was_chosen() {
    let mut bench = Bench::running("1.20.3");
    bench.lock("1.21.0");
    bench.run(Command::Refresh);
    bench.lock("1.22.0");
    let status = bench.run(Command::Prepare);
    assert_eq!(
        status.staging_partition.unwrap().image.version.to_string(),
        "1.21.0",
        "what the status claims"
    );
    assert_eq!(
        bench.machine.inactive().unwrap().version.to_string(),
        "1.22.0",
        "what is there"
    );
    bench.run(Command::Activate);
    bench.reboot(None);
    assert_eq!(bench.runs(), "1.22.0");
}

#[test]
fn settings_survive_boots_and_transactions_do_not() {
    let mut bench = Bench::running("1.20.3");
    bench.lock("1.21.0");
    bench
        .machine
        .patch_settings("tx", br#"{"updates": {"seed": 7}}"#)
        .unwrap();
    bench.reboot(None);
    assert_eq!(bench.machine.settings().committed().version_lock, "1.21.0");
    assert!(bench.machine.commit_and_apply(bench.now, "tx").is_empty());
}

#[test]
fn a_boot_writes_config_files_that_were_pending() {
    let mut bench = Bench::running("1.20.3");
    bench.commit("1.21.0");
    bench.machine.begin_reboot(bench.now, RebootCause::Api);
    bench.machine.boot(bench.now, "boot-1".into(), None);
    assert_eq!(bench.machine.settings().applied().version_lock, "1.21.0");
}

#[test]
fn transactions_are_separate_and_can_be_deleted() {
    let mut bench = Bench::running("1.20.3");
    bench
        .machine
        .patch_settings("a", br#"{"updates": {"seed": 7}}"#)
        .unwrap();
    bench
        .machine
        .patch_settings("b", br#"{"updates": {"ignore-waves": true}}"#)
        .unwrap();
    assert_eq!(bench.machine.delete_transaction("a"), ["settings.updates.seed"]);
    assert!(bench.machine.delete_transaction("a").is_empty());
    assert_eq!(
        bench.machine.commit_and_apply(bench.now, "b"),
        ["settings.updates.ignore-waves"]
    );
    let committed = bench.machine.settings().committed();
    assert_eq!((committed.seed, committed.ignore_waves), (0, true));
    assert!(bench.machine.commit_and_apply(bench.now, "b").is_empty(), "422");
}

#[test]
fn values_that_are_not_valid_are_refused() {
    let mut bench = Bench::running("1.20.3");
    for bad in [
        r#"{"updates": {"version-lock": "soon"}}"#,
        r#"{"updates": {"ignore-waves": "yes"}}"#,
        r#"{"updates": {"version_lock": "1.21.0"}}"#,
        r#"{"updates": {"seed": -1}}"#,
        r#"{"update": {}}"#,
        "no json",
    ] {
        assert!(
            bench.machine.patch_settings("tx", bad.as_bytes()).is_err(),
            "{bad}"
        );
    }
    assert!(
        bench.machine.commit_and_apply(bench.now, "tx").is_empty(),
        "nothing became pending"
    );
}

#[test]
fn settings_show_only_the_keys_asked_for() {
    let bench = Bench::running("1.20.3");
    let get = |keys: &[&str]| {
        let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
        bench.machine.settings().get(Some(&keys)).to_string()
    };
    assert_eq!(
        get(&["settings.updates.version-lock"]),
        r#"{"updates":{"version-lock":"latest"}}"#
    );
    assert_eq!(get(&["settings.motd"]), "{}");
    let all = bench.machine.settings().get(None);
    assert_eq!(all["updates"]["ignore-waves"], false);
}

#[test]
fn settings_changes_are_recorded_only_where_they_change_something() {
    let mut bench = Bench::running("1.20.3");
    bench.machine.take_events();
    bench.commit("1.21.0");
    bench.commit("1.21.0");
    let changes = bench.machine.take_events();
    assert_eq!(changes.len(), 1, "{changes:?}");
}
