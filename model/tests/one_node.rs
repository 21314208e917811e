//! One node, every step of ledger, controller, apiserver and agent on its own, in every order: permit against withdraw.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use model::{configurations, explore, model::Model};

/// More than the configuration has: where it comes to so many it is not closed.
const MOST: usize = 1_000_000;

#[test]
fn s4_s5_permit_and_withdraw_never_both_and_no_reboot_after_the_close() {
    let config = configurations::one_node()
        .into_iter()
        .find(|config| config.name == "window")
        .unwrap();
    let model = Model::new(config, true).unwrap();
    let report = explore::explore(&model, MOST, |_, _| {}).unwrap();
    println!(
        "{}: {} states, {} steps, depth {}, {} good ends, {:.1} s",
        report.name,
        report.states,
        report.transitions,
        report.depth,
        report.good,
        report.took.as_secs_f64()
    );
    if let Some(wrong) = report.wrong {
        panic!("{}\n{}", wrong.way.join("\n"), wrong.promise);
    }
    assert!(report.states < MOST, "not closed");
    assert!(
        report.states > 100_000 && report.good > 0,
        "there is less to it than there was"
    );
}
