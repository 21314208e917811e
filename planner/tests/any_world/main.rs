//! The promises on the planner's decisions in any world, not only in those that a rollout comes to: S1, S3 to S5, S7
//! to S12, judged by rules of their own; the order of the world does not matter; what is done is not decided again;
//! and nodes move wherever budget, waves and windows let them.
//!
//! * `worlds`: any world
//! * `rules`: the words of the promises, told anew; `judge`: the promises on one answer
//! * `settle`: decisions applied, until nothing is left to do
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod judge;
mod rules;
mod settle;
mod worlds;

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
    prelude::*,
    strategy::ValueTree,
    test_runner::{RngSeed, TestRunner},
};

use settle::settle;
use worlds::any_world;

proptest! {
    // 10,000 worlds, or PROPTEST_CASES where that is set.
    #![proptest_config(ProptestConfig {
        cases: match ProptestConfig::default().cases { 256 => 10_000, set => set },
        // Always the same, unless PROPTEST_RNG_SEED says otherwise: what fails is then the change, not the day.
        rng_seed: match ProptestConfig::default().rng_seed { RngSeed::Random => RngSeed::Fixed(20_261_126), set => set },
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_answer_keeps_the_promises(asked in any_world()) {
        let decisions = plan(asked.now, &asked.world);
        judge::judge(asked.now, &asked.world, &decisions);
    }

    #[test]
    fn the_order_of_the_world_does_not_matter(asked in any_world(), order in any::<[u8; 16]>()) {
        let decisions = plan(asked.now, &asked.world);
        let mut shuffled = asked.world.clone();
        for (i, by) in order.iter().enumerate() {
            if !shuffled.nodes.is_empty() {
                let count = shuffled.nodes.len();
                shuffled.nodes.swap(i % count, usize::from(*by) % count);
            }
            if !shuffled.plans.is_empty() {
                let count = shuffled.plans.len();
                shuffled.plans.swap(i % count, usize::from(*by) / 16 % count);
            }
        }
        prop_assert_eq!(decisions, plan(asked.now, &shuffled));
    }

    #[test]
    fn what_is_done_is_not_decided_again_and_nodes_move_where_they_may(mut asked in any_world()) {
        let last = settle(asked.now, &mut asked.world);
        settle::nothing_is_held_back(asked.now, &asked.world, &last);
    }
}

/// A promise about what never happens in these worlds would prove nothing.
#[test]
fn the_worlds_have_all_that_is_asked_about() {
    let runner = &mut TestRunner::deterministic();
    let mut found: BTreeMap<&str, u32> = BTreeMap::new();
    for _ in 0..4_000 {
        let asked = any_world().new_tree(runner).unwrap().current();
        let decisions = plan(asked.now, &asked.world);
        let mut count = |what, is: bool| *found.entry(what).or_default() += u32::from(is);
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
        // What is done comes after the ledger.
        let mut written = asked.world.clone();
        for _ in 0..3 {
            let next = plan(asked.now, &written);
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
            match next.ledger {
                Some(change) => written.ledger = Some(change.spec),
                None => break,
            }
        }
        let (Some(before), Some(after)) = (before, after) else {
            continue;
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
    for (what, times) in &found {
        assert!(*times >= 5, "{what} in {times} worlds only: {found:?}");
    }
}
