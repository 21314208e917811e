//! Explores a configuration, and says in one line what was explored.

use std::{
    io::Write as _,
    sync::{Mutex, PoisonError},
};

use model::{configurations, explore::explore, model::Model};

/// Far above every configuration here: none is ever truncated.
const MOST: usize = 5_000_000;

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
}
