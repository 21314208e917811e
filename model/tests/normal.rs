//! States that are told alike go on alike: what the normalisation drops decides nothing.
//!
//! Random ways through the model *without* normalisation. In each state on the way, what can happen next is told as the
//! normalised model tells it, and must be what can happen next in the normalised state: step for step the same. So two states
//! that are normalised to the same one have the same successors.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::{
    collections::HashSet,
    hash::{Hash as _, Hasher as _},
    io::Write as _,
};

use model::{
    configurations,
    model::Model,
    state::State,
    steps::{Next, Step},
};
use siphasher::sip::SipHasher13;

const WAYS: u64 = 8;
const LENGTH: u64 = 120;

/// A choice that is the same in every run.
fn chance(name: &str, way: u64, step: u64) -> usize {
    let mut hasher = SipHasher13::new();
    (name, way, step).hash(&mut hasher);
    usize::try_from(hasher.finish() >> 32).unwrap()
}

/// What can happen, told by `by`; without what changes nothing there.
fn told(by: &Model, of: &Model, from: &State, next: &Next) -> HashSet<(String, State)> {
    let steps = next
        .steps
        .iter()
        .map(|(step, after)| (step.to_string(), by.told(of, after)));
    steps.filter(|(_, after)| after != from).collect()
}

/// The next step of a way. What takes an update further is taken more often than what others do meanwhile, so that the ways lead far.
fn chosen(steps: &[(Step, State)], chance: usize) -> Option<State> {
    let regular: Vec<_> = steps.iter().filter(|(step, _)| step.is_regular()).collect();
    if regular.is_empty() || chance.is_multiple_of(8) {
        return Some(steps.get(chance % steps.len().max(1))?.1);
    }
    Some(regular[chance % regular.len()].1)
}

#[test]
fn states_that_are_told_alike_go_on_alike() {
    let mut compared = 0;
    for config in configurations::all() {
        let name = config.name;
        let normal = Model::new(config.clone(), true).unwrap();
        let plain = Model::new(config, false).unwrap();
        let mut seen = HashSet::new();
        for way in 0..WAYS {
            let mut state = plain.first().unwrap();
            for step in 0..LENGTH {
                let here = normal.told(&plain, &state);
                assert!(
                    normal.told(&normal, &here) == here,
                    "{name}, way {way}, step {step}: told twice"
                );
                let next = plain.next(&state);
                assert!(next.broken.is_none(), "{name}, way {way}: {:?}", next.broken);
                if seen.insert(state) {
                    let (one, other) = (
                        told(&normal, &plain, &here, &next),
                        told(&normal, &normal, &here, &normal.next(&here)),
                    );
                    let differ: Vec<_> = one.symmetric_difference(&other).collect();
                    assert!(
                        differ.is_empty(),
                        "{name}, way {way}, step {step}: {} of {} differ:\n{}",
                        differ.len(),
                        one.len(),
                        differ
                            .iter()
                            .map(|(step, after)| format!("  {step}: {after:?}\n"))
                            .collect::<String>()
                    );
                    compared += 1;
                }
                let Some(after) = chosen(&next.steps, chance(name, way, step)) else {
                    break;
                };
                state = after;
            }
        }
    }
    let _ = writeln!(std::io::stderr(), "normal: {compared} states compared");
    assert!(compared > 10_000, "{compared} states compared");
}
