//! The scenario scripts beside this, each with what the planner decides, says and reports: a snapshot for a person to review.
//! While they run, the promises are checked at every write. See `README.md` beside this for the language.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "../support/mod.rs"]
mod support;

mod script;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use planner::simulate::{Outcome, What, simulate_watched, timeline_text};

use script::Script;
use support::{check::Checker, watch::Watch};

/// How many scripts there must be: one that is lost would not be missed otherwise.
const AT_LEAST: usize = 60;

fn scripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut scripts: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "txt"))
        .collect();
    scripts.sort();
    scripts
}

fn run(path: &Path) -> (Script, Outcome) {
    let text = fs::read_to_string(path).unwrap();
    let script = script::read(&text).unwrap_or_else(|problem| panic!("{problem:#}"));
    let (mut checker, mut history) = (Checker::default(), Default::default());
    let mut watch = Watch::new(&mut checker, &mut history);
    let outcome = simulate_watched(&script.story, &mut watch).unwrap_or_else(|problem| panic!("{problem}"));
    (script, outcome)
}

/// The timeline, how it ended, and each plan's status then.
fn text(script: &Script, outcome: &Outcome) -> String {
    let mut timeline = outcome.timeline.clone();
    timeline.retain(|moment| !(script.hides_waits && matches!(moment.what, What::Waits { .. })));
    timeline_text(&timeline, script.zone)
}

#[test]
fn every_scenario_goes_as_reviewed() {
    let scripts = scripts();
    let mut wrong = Vec::new();
    for path in &scripts {
        let name = path.file_stem().unwrap().to_str().unwrap();
        // One that is wrong does not hide the others.
        let went = catch_unwind(AssertUnwindSafe(|| {
            let (script, outcome) = run(path);
            insta::with_settings!({
                description => script.about.clone(),
                omit_expression => true,
                prepend_module_to_snapshot => false,
            }, {
                insta::assert_snapshot!(name, text(&script, &outcome));
            });
        }));
        if went.is_err() {
            wrong.push(name);
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} went otherwise: {wrong:?}",
        wrong.len(),
        scripts.len()
    );
    assert!(scripts.len() >= AT_LEAST, "only {} scripts", scripts.len());
}
