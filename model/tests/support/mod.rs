//! Explores a configuration, and says in one line what was explored.

use std::{
    io::Write as _,
    sync::{Mutex, PoisonError},
};

use model::{configurations, explore::explore, model::Model};

/// Far above every configuration here: none is ever truncated.
const MOST: usize = 5_000_000;

/// How many states each configuration has at least: half of what README.md says. One that shrinks below has lost something
/// that was to be tried.
const LEAST: &[(&str, usize)] = &[
    ("window", 534000),
    ("pause", 21000),
    ("lost", 499000),
    ("finish", 91000),
    ("two", 64000),
    ("crash", 28000),
    ("blocked", 5000),
    ("admin", 285000),
    ("leaders", 31000),
    ("three", 34000),
    ("machine", 92000),
    ("failures", 25000),
    ("deadlines", 7000),
    ("plans", 187000),
    ("shared", 9000),
    ("canary", 36000),
    ("waves", 115000),
    ("retarget", 146000),
    ("edited", 72000),
    ("beside", 156000),
    ("edges", 21000),
    ("ends", 21000),
];

/// Together they are to be a million at least.
const _: () = {
    let (mut sum, mut i) = (0, 0);
    while i < LEAST.len() {
        sum += LEAST[i].1;
        i += 1;
    }
    assert!(sum >= 1_000_000);
};

/// One exploration at a time: each uses every core.
static TURN: Mutex<()> = Mutex::new(());

/// Explores the configuration of this name: it must be closed, and no promise broken.
pub fn closed(name: &str) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let config = configurations::all()
        .into_iter()
        .find(|config| config.name == name);
    let model = Model::new(config.expect("a configuration"), true).unwrap();
    let report = explore(&model, MOST, |_, _| {}).unwrap();
    // Past the test harness, which would swallow it.
    let _ = writeln!(std::io::stderr(), "{report}");
    if let Some(wrong) = report.wrong {
        panic!("{}\n\nafter\n  {}", wrong.promise, wrong.way.join("\n  "));
    }
    assert!(
        report.good > 0 && report.depth > 30,
        "{name}: nothing is updated any more"
    );
    let (_, least) = LEAST
        .iter()
        .find(|(known, _)| *known == name)
        .expect("its states");
    assert!(
        report.states >= *least,
        "{name}: only {} states, {least} were expected at least",
        report.states
    );
}
