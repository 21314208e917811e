//! The promises on the planner's decisions in any world, not only in those that a rollout comes to: S1, S3 to S5, S7
//! to S12, judged by rules of their own; the order of the world does not matter; what is done is not decided again;
//! nodes move wherever budget, waves and windows let them; and until the planner wants to be asked again nothing is due.
//!
//! * `worlds`: any world
//! * `rules`: the words of the promises, told anew; `judge`: the promises on one answer
//! * `settle`: decisions applied, until nothing is left to do
//! * `asked_about`: that all this happens in these worlds
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod asked_about;
mod judge;
mod rules;
mod settle;
mod worlds;

use planner::plan;
use proptest::{prelude::*, test_runner::RngSeed};

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
        settle::nothing_is_due_before(asked.now, &asked.world, &last);
    }
}
