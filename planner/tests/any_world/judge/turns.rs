//! Who comes first in a wave, and who is not waited for any more.

use api::ledger::{Grant, PlanEntry};
use planner::world::{NodeFacts, PlanFacts};

use super::Judge;
use crate::rules::{
    could_start, hosts_granted, is_stuck, is_valid, outlasted, owned, recorded, spec, updated_at,
};

impl Judge<'_> {
    /// In a wave the nodes that the operator runs on come last, and before them those that have outlasted a window: as long as
    /// there is another that could be begun with.
    pub(super) fn in_turn(&self, uid: &str, grant: &Grant) {
        let (Some(node), Some(plan)) = (self.node(uid), self.plan(&grant.plan)) else {
            return;
        };
        // With a topology the others may have no place where this one has.
        if plan.spec.topology.is_some() {
            return;
        }
        let entry = &self.after.plans[&plan.uid];
        let turn = |node: &NodeFacts| (node.hosts_operator, outlasted(node, &entry.run));
        for other in owned(self.world, self.before, plan) {
            let same_wave =
                plan.spec.waves.is_empty() || recorded(other, self.after, &entry.run) == Some(&grant.wave);
            let granted = [self.before, self.after]
                .iter()
                .any(|ledger| ledger.grants.contains_key(&other.uid));
            let alone = !other.hosts_operator || hosts_granted(self.world, self.before, &other.uid) == 0;
            let could = same_wave
                && !granted
                && alone
                && could_start(self.now, other, plan, entry, &self.world.settings);
            assert!(
                !could || turn(node) <= turn(other),
                "L8: {} is granted before {}",
                node.name,
                other.name
            );
        }
    }

    /// Each valid plan with what is to be recorded of it, and what was of the same run.
    fn entries(&self) -> impl Iterator<Item = (&PlanFacts, &PlanEntry, Option<&PlanEntry>)> {
        let valid = self.world.plans.iter().filter(|plan| is_valid(plan));
        valid.filter_map(|plan| {
            let entry = self.after.plans.get(&plan.uid)?;
            let before = self.before.plans.get(&plan.uid);
            Some((plan, entry, before.filter(|before| before.run == entry.run)))
        })
    }

    /// Since when each wave is under way: since its first grant of the run.
    pub(super) fn started(&self) {
        for (plan, entry, before) in self.entries() {
            let status = || {
                let of_run = plan.status.run.as_ref().is_some_and(|run| run.id == entry.run);
                let waves = plan.status.waves.iter().filter(|_| of_run);
                waves
                    .filter_map(|wave| Some((wave.name.clone(), wave.started_at?)))
                    .collect()
            };
            let mut expected = before.map_or_else(status, |before| before.wave_started_at.clone());
            for (_, grant) in self.made().filter(|(_, grant)| grant.plan == plan.uid) {
                expected.entry(grant.wave.clone()).or_insert(self.now);
            }
            assert_eq!(entry.wave_started_at, expected, "the waves of {}", plan.name);
        }
    }

    /// From when a wave soaks: from when a node of the plan was done, which is known from before, or from its shadow.
    pub(super) fn soaks(&self) {
        for (plan, entry, before) in self.entries() {
            let Some(from) = entry.soaks_from else { continue };
            let known = before.and_then(|before| before.soaks_from);
            let is_done = |node: &&NodeFacts| {
                let failed = spec(node).and_then(|spec| Some(spec.failure.as_ref()?.at));
                [failed, updated_at(node, plan, entry)].contains(&Some(from))
            };
            let found = owned(self.world, self.before, plan).iter().any(is_done);
            let of_run = known == Some(from) || entry.actions.retried_at == Some(from);
            assert!(
                found || of_run,
                "S10: the wave of {} soaks from {from}",
                plan.name
            );
        }
    }

    /// Since when a plan waits for nothing but nodes that cannot be updated: no longer than that is so.
    pub(super) fn held(&self) {
        for (plan, entry, before) in self.entries() {
            let Some(since) = entry.held_since else { continue };
            let was = before.and_then(|before| before.held_since);
            assert!(
                was.unwrap_or(self.now) == since,
                "S10: {} is held since {since}",
                plan.name
            );
            let rests = entry.paused || entry.halted || self.after.stop;
            let moves = owned(self.world, self.before, plan).into_iter().find(|node| {
                let grants = [self.before, self.after].map(|ledger| ledger.grants.contains_key(&node.uid));
                grants == [true, true]
            });
            assert!(
                !rests && moves.is_none(),
                "S10: {} is held though it rests, or {:?} moves",
                plan.name,
                moves.map(|node| &node.name)
            );
        }
    }

    /// Whether the node may be left alone now: it cannot be updated, and that has held its plan for `skipAfter` of open window.
    pub(super) fn is_not_waited_for(&self, node: &NodeFacts, plan: &PlanFacts, entry: &PlanEntry) -> bool {
        let before = self.before.plans.get(&plan.uid);
        let before = before.filter(|before| before.run == entry.run);
        // As a wave starts it is forgotten since when the one before it was held.
        let starts = before.is_none_or(|before| {
            (before.open_wave, &before.open_wave_name) != (entry.open_wave, &entry.open_wave_name)
        });
        let was = before.and_then(|before| before.held_since).unwrap_or(self.now);
        let Some(since) = entry.held_since.or(starts.then_some(was)) else {
            return false;
        };
        // It was found before, when such a window was still open.
        if before.is_some_and(|before| before.held_out && before.held_since == Some(since)) {
            return is_stuck(node, plan, entry, self.now);
        }
        let windows = crate::rules::Windows::of(plan, self.before);
        is_stuck(node, plan, entry, self.now)
            && windows.open_between(since, self.now) >= plan.spec.skip_after.delta()
    }
}
