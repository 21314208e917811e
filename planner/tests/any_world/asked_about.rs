//! That all that is judged happens in these worlds: a promise about what never happens would prove nothing.

mod people;

use std::collections::BTreeMap;

use api::{
    ledger::{Grant, GrantPhase},
    verdict::Verdict,
};
use planner::{
    decisions::{Action, NodeVerdict},
    plan,
    world::NodeFacts,
};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};

use super::{
    rules,
    settle::apply,
    worlds::{Asked, any_world},
};

/// How far each world is looked at.
const ROUNDS: usize = 6;

#[test]
fn the_worlds_have_all_that_is_asked_about() {
    let runner = &mut TestRunner::deterministic();
    let mut found: BTreeMap<&str, u32> = BTreeMap::new();
    for _ in 0..8_000 {
        // Each at most once for a world.
        let mut seen: BTreeMap<&str, bool> = BTreeMap::new();
        let asked = any_world().new_tree(runner).unwrap().current();
        look(&asked, |what, is| *seen.entry(what).or_default() |= is);
        for (what, is) in seen {
            *found.entry(what).or_default() += u32::from(is);
        }
    }
    for (what, times) in &found {
        assert!(*times >= 5, "{what} in {times} worlds only: {found:?}");
    }
}

fn look(asked: &Asked, mut count: impl FnMut(&'static str, bool)) {
    let decisions = plan(asked.now, &asked.world);
    let (before, after) = (
        asked.world.ledger.as_ref(),
        decisions.ledger.as_ref().map(|change| &change.spec),
    );
    count("a ledger is made anew", before.is_none());
    count(
        "the ledger is ahead",
        decisions == Default::default() && !asked.world.plans.is_empty(),
    );
    let busy = |v: &NodeVerdict| matches!(v.verdict, Verdict::DomainBusy { .. });
    count("domains are busy", decisions.verdicts.iter().any(busy));
    let by_priority = |node: &NodeFacts| {
        let plans = rules::claimants(&asked.world, node);
        plans.iter().any(|plan| plan.created < plans[0].created)
    };
    count("priority decides", asked.world.nodes.iter().any(by_priority));
    // What is done comes after the ledger, and more of it after that.
    let mut written = asked.world.clone();
    for _ in 0..ROUNDS {
        let next = plan(asked.now, &written);
        people::found(&mut count, asked.now, &written, &next);
        let cordons = |action: &Action| matches!(action, Action::Cordon { .. });
        let tells = |action: &Action| matches!(action, Action::SetShadow { .. });
        count("nodes are cordoned", next.actions.iter().any(cordons));
        count("nodes are told", next.actions.iter().any(tells));
        let ahead =
            |action: &Action| matches!(action, Action::SetShadow { spec, .. } if spec.stage.is_some());
        count("nodes are told to download", next.actions.iter().any(ahead));
        let failed =
            |action: &Action| matches!(action, Action::SetShadow { spec, .. } if spec.failure.is_some());
        count("failures are written down", next.actions.iter().any(failed));
        if !apply(&mut written, &next) {
            break;
        }
    }
    let (Some(before), Some(after)) = (before, after) else {
        return;
    };
    count(
        "nodes are granted",
        after.grants.keys().any(|uid| !before.grants.contains_key(uid)),
    );
    let entries = || {
        before
            .plans
            .iter()
            .filter_map(|(uid, entry)| Some((entry, after.plans.get(uid)?)))
    };
    count(
        "waves start",
        entries().any(|(before, after)| before.open_wave < after.open_wave),
    );
    count(
        "plans halt",
        entries().any(|(before, after)| !before.halted && after.halted),
    );
    let goes_back = |uid: &String| {
        after
            .grants
            .get(uid)
            .is_some_and(|grant| grant.phase == GrantPhase::Withdrawing)
    };
    let withdrawn = before
        .grants
        .iter()
        .any(|(uid, grant)| rules::before_permit(grant) && goes_back(uid));
    count("grants are taken back", withdrawn);
    let ends = |uid: &String, after: &Grant| {
        let began = before.grants.get(uid).filter(|before| before.ending.is_none());
        began.and(after.ending.as_ref()).and_then(|ending| ending.failure)
    };
    let ends_by = |counted: bool| {
        let mut failures = after.grants.iter().filter_map(|(uid, grant)| ends(uid, grant));
        failures.any(|reason| rules::counts(reason) == counted)
    };
    count("attempts fail", ends_by(true));
    count("permits expire", ends_by(false));
    let comes_back = |(uid, grant): (&String, &Grant)| {
        let phase = after.grants.get(uid).map(|after| after.phase);
        (grant.phase, phase) == (GrantPhase::Rebooting, Some(GrantPhase::Monitoring))
    };
    count("nodes come back", before.grants.iter().any(comes_back));
    count(
        "grants are released",
        before.grants.keys().any(|uid| !after.grants.contains_key(uid)),
    );
}
