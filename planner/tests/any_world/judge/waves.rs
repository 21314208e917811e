//! S10: which wave a node is in, and what has to be so where the next one starts.

use api::{
    ledger::{Grant, PlanEntry},
    plan::Approval,
};
use planner::{
    decisions::Decisions,
    world::{NodeFacts, PlanFacts},
};

use super::Judge;
use crate::rules::{
    failure_of_run, given_up, is_complete, is_down, is_forgiven, is_gated, is_left_out, is_valid, limit,
    on_target, owned, recorded, selects, share, spec, updated_at,
};

impl<'a> Judge<'a> {
    /// S10 and the wave's own limit.
    pub(super) fn wave_of_grant(
        &self,
        plan: &PlanFacts,
        entry: &PlanEntry,
        grant: &Grant,
        matched: &[&NodeFacts],
    ) {
        let waves = &plan.spec.waves;
        let Some(index) = waves.iter().position(|wave| wave.name == grant.wave) else {
            assert!(waves.is_empty(), "S10: {grant:?} in a wave that is none");
            return;
        };
        assert!(
            index <= entry.open_wave as usize,
            "S10: {} in a wave that has not started",
            grant.node
        );
        let wave = &waves[index];
        let node = matched.iter().find(|node| node.name == grant.node).unwrap();
        let was_in = spec(node)
            .filter(|spec| spec.run.as_ref() == Some(&entry.run))
            .and_then(|spec| spec.wave.as_deref());
        let known = was_in.filter(|name| waves.iter().any(|wave| wave.name == *name));
        match known {
            Some(known) => assert_eq!(known, grant.wave, "S10: {} changes its wave", grant.node),
            None => {
                let fits = wave
                    .node_selector
                    .as_ref()
                    .is_none_or(|selector| selects(selector, &node.labels));
                assert!(fits, "S10: {} does not fit into {}", grant.node, grant.wave);
            }
        }
        let of_wave = |node: &&&NodeFacts| recorded(node, self.after, &entry.run) == Some(&grant.wave);
        let members: Vec<_> = matched.iter().filter(of_wave).collect();
        if let (Some(size), Some(_)) = (wave.size, self.made().find(|(_, made)| *made == grant)) {
            let known = self.before.plans.get(&plan.uid);
            let known = known.filter(|known| known.run == entry.run);
            let known = known.and_then(|known| known.wave_sizes.get(&wave.name));
            let fixed = known.map_or(share(size, matched.len()), |size| *size as usize);
            let written = entry.wave_sizes.get(&wave.name).map(|size| *size as usize);
            assert_eq!(written, Some(fixed), "S10: the size of wave {}", wave.name);
            let before = matched
                .iter()
                .filter(|node| recorded(node, self.before, &entry.run) == Some(&grant.wave))
                .count();
            // One that nothing is done with any more gives its place back: another is to prove what it cannot.
            let stays = |node: &&&&NodeFacts| {
                let failed = given_up(node, plan, entry) || on_target(node, plan, entry);
                let left = is_left_out(node, plan, entry) || self.is_not_waited_for(node, plan, entry);
                failed || !left || self.after.grants.contains_key(&node.uid)
            };
            let members = members.iter().filter(stays).count();
            assert!(
                members <= fixed.max(before),
                "S10: {members} of {fixed} in wave {}",
                wave.name
            );
        }
        if let Some(max) = wave.max_unavailable {
            let down = members.iter().filter(|node| is_down(node, self.after)).count();
            // The share of a wave is at most that of all nodes.
            let max = limit(max, matched.len());
            assert!(down <= max, "S1: {down} of at most {max} in wave {}", wave.name);
        }
    }

    /// The wave that was recorded for a node before this answer, unless only by a grant that goes
    /// and leaves nothing behind, since the node has no shadow.
    fn wave_so_far(&self, node: &'a NodeFacts, run: &str) -> Option<&'a str> {
        let stays = self.after.grants.contains_key(&node.uid) || node.shadow.is_some();
        let grant = self
            .before
            .grants
            .get(&node.uid)
            .filter(|grant| stays && grant.run == run);
        let in_run = spec(node).filter(|spec| spec.run.as_deref() == Some(run));
        grant
            .map(|grant| grant.wave.as_str())
            .or_else(|| in_run?.wave.as_deref())
    }

    /// S10: what has to be so where a wave starts. Whether one does.
    pub(super) fn waves(&self) -> bool {
        let mut starts = false;
        for plan in self.world.plans.iter().filter(|plan| is_valid(plan)) {
            let Some(after) = self.after.plans.get(&plan.uid) else {
                continue;
            };
            let first = match self.before.plans.get(&plan.uid) {
                Some(before) if before.run == after.run => {
                    let open = plan.spec.waves.get(before.open_wave as usize);
                    let moved = open.is_none_or(|wave| wave.name != before.open_wave_name);
                    // Where an edit has moved the wave all are gone through again.
                    if moved { 0 } else { before.open_wave }
                }
                // A run that was complete and is taken up again has been through its waves.
                _ if is_complete(plan, &after.run) => continue,
                _ => 0,
            };
            let matched = owned(self.world, self.before, plan);
            for index in first as usize..after.open_wave as usize {
                let (wave, who) = (&plan.spec.waves[index], &plan.name);
                starts = true;
                assert!(
                    !after.halted && !after.paused && !self.after.stop,
                    "S11, S12: a wave of {who} starts"
                );
                assert!(
                    !is_gated(wave, after),
                    "S10: nobody has approved wave {} of {who}",
                    wave.name
                );
                let of_wave = |node: &&&NodeFacts| self.wave_so_far(node, &after.run) == Some(&wave.name);
                let members: Vec<_> = matched.iter().filter(of_wave).collect();
                for node in &members {
                    let granted = self.after.grants.contains_key(&node.uid);
                    assert!(
                        self.is_over(node, plan, after) && !granted,
                        "S10: {} is not done with wave {} of {who}",
                        node.name,
                        wave.name
                    );
                }
                let proves =
                    |node: &&&&NodeFacts| on_target(node, plan, after) && !given_up(node, plan, after);
                let proven: Vec<_> = members.iter().filter(proves).collect();
                // Who has been taken out was not to prove anything; who runs something newer is forgiven by a retry.
                let needed = members
                    .iter()
                    .any(|node| node.opt_out.is_none() && !is_forgiven(node, plan, after));
                assert!(
                    !needed || !proven.is_empty(),
                    "S10: wave {} of {who} has proven nothing",
                    wave.name
                );
                self.owes_no_proof(plan, after, index, &matched);
                let soak = wave.soak.delta();
                let before = self.before.plans.get(&plan.uid).filter(|before| {
                    let name = &before.open_wave_name;
                    let is_it = index == before.open_wave as usize && (name.is_empty() || *name == wave.name);
                    is_it && before.run == after.run
                });
                let from = before.and_then(|before| before.soaks_from);
                assert!(
                    soak.is_zero() || from.is_none_or(|at| at + soak <= self.now),
                    "S10: wave {} of {who} has not soaked since the last of its nodes, gone by now, was done",
                    wave.name
                );
                for node in proven {
                    let spec = spec(node);
                    let at = updated_at(node, plan, after);
                    // What a retry has forgiven is watched from then on.
                    let of_run = spec.filter(|spec| spec.run.as_ref() == Some(&after.run));
                    let failed = of_run.and_then(|spec| spec.failure.as_ref());
                    let retried = after.actions.retried_at;
                    let forgiven = retried.filter(|at| failed.is_some_and(|failure| failure.at < *at));
                    let at = at.max(forgiven);
                    // Where nothing is waited for, no clock counts.
                    assert!(
                        soak.is_zero() || at.is_some_and(|at| at + soak <= self.now),
                        "S10: wave {} of {who} has not soaked",
                        wave.name
                    );
                    let watched = !soak.is_zero() || wave.approval == Approval::Manual;
                    assert!(
                        node.ready || !watched || node.opt_out.is_some(),
                        "S10: wave {} of {who} is not healthy",
                        wave.name
                    );
                }
                for node in members.iter().filter(|node| given_up(node, plan, after)) {
                    let at = failure_of_run(node, after).map(|failure| failure.at);
                    assert!(
                        soak.is_zero() || at.is_none_or(|at| at + soak <= self.now),
                        "S10: wave {} of {who} has not soaked since {} failed",
                        wave.name,
                        node.name
                    );
                }
                self.has_no_place_left(plan, after, index, &matched);
            }
        }
        starts
    }

    /// A run is complete where nothing is left to do with any of its nodes, and its last wave is soaked and approved.
    pub(super) fn complete(&self, decisions: &Decisions) {
        for new in &decisions.statuses {
            let plan = self
                .world
                .plans
                .iter()
                .find(|plan| plan.name == new.plan)
                .unwrap();
            let run = new.status.run.as_ref().filter(|run| run.completed_at.is_some());
            let Some(run) = run.filter(|run| !is_complete(plan, &run.id)) else {
                continue;
            };
            let (entry, name) = (&self.after.plans[&plan.uid], &plan.name);
            let matched = owned(self.world, self.before, plan);
            assert!(
                is_valid(plan) && !entry.halted && !matched.is_empty(),
                "S11: {name} is complete"
            );
            let wave = plan.spec.waves.get(entry.open_wave as usize);
            for node in matched {
                let granted = self.after.grants.contains_key(&node.uid);
                assert!(
                    self.is_over(node, plan, entry) && !granted,
                    "S10: {name} is complete without {}",
                    node.name
                );
                let Some(wave) = wave.filter(|wave| recorded(node, self.after, &run.id) == Some(&wave.name))
                else {
                    continue;
                };
                let was_done = on_target(node, plan, entry) || given_up(node, plan, entry);
                assert!(
                    !was_done || !is_gated(wave, entry),
                    "S10: {name} is complete, and nobody has approved {}",
                    wave.name
                );
                let at = updated_at(node, plan, entry);
                let soaks =
                    at.is_some_and(|at| at + wave.soak.delta() > self.now) && !wave.soak.delta().is_zero();
                assert!(
                    !soaks || !on_target(node, plan, entry) || given_up(node, plan, entry),
                    "S10: {name} is complete while {} soaks",
                    wave.name
                );
            }
        }
    }

    /// Whether nothing is left to do with a node that has no grant: it is updated, failed or skipped.
    fn is_over(&self, node: &NodeFacts, plan: &PlanFacts, entry: &PlanEntry) -> bool {
        on_target(node, plan, entry)
            || given_up(node, plan, entry)
            || is_left_out(node, plan, entry)
            || self.is_not_waited_for(node, plan, entry)
    }

    /// A wave without a size that has begun with nodes, all of which are gone unproven, holds those after it.
    fn owes_no_proof(&self, plan: &PlanFacts, after: &PlanEntry, index: usize, matched: &[&NodeFacts]) {
        let wave = &plan.spec.waves[index];
        let owed = self.before.plans.get(&plan.uid).is_some_and(|before| {
            let retried = before.actions.retried_at != after.actions.retried_at;
            before.run == after.run && before.owes_proof.as_ref() == Some(&wave.name) && !retried
        });
        let selector = wave.node_selector.as_ref();
        let has_nodes = matched.iter().any(|node| {
            selector.is_none_or(|selector| selects(selector, &node.labels))
                || self.wave_so_far(node, &after.run) == Some(&wave.name)
        });
        let waits = matched.iter().any(|node| !self.is_over(node, plan, after));
        assert!(
            !owed || has_nodes || !waits,
            "S10: wave {} of {} has begun, and proven nothing",
            wave.name,
            plan.name
        );
    }

    /// A wave that starts leaves no node behind that the one before it would have taken.
    fn has_no_place_left(&self, plan: &PlanFacts, entry: &PlanEntry, index: usize, matched: &[&NodeFacts]) {
        let wave = &plan.spec.waves[index];
        let fits = |node: &NodeFacts, index: usize| {
            let selector = plan.spec.waves[index].node_selector.as_ref();
            selector.is_none_or(|selector| selects(selector, &node.labels))
        };
        let known = |node: &NodeFacts| {
            let name = self.wave_so_far(node, &entry.run);
            plan.spec
                .waves
                .iter()
                .position(|wave| Some(wave.name.as_str()) == name)
        };
        let left = matched.iter().filter(|node| {
            let earlier = (0..index).any(|earlier| fits(node, earlier));
            // A node on its way in another run takes no place of a wave that has not one for everybody.
            let (before, after) = (&self.before.grants, &self.after.grants);
            let elsewhere = before.contains_key(&node.uid) && after.contains_key(&node.uid);
            known(node).is_none()
                && !earlier
                && fits(node, index)
                && !self.is_over(node, plan, entry)
                && (wave.size.is_none() || !elsewhere)
        });
        let left: Vec<&str> = left.map(|node| node.name.as_str()).collect();
        let taken = matched.iter().filter(|node| known(node) == Some(index)).count();
        let before = self
            .before
            .plans
            .get(&plan.uid)
            .filter(|before| before.run == entry.run);
        let fixed = before
            .and_then(|before| before.wave_sizes.get(&wave.name))
            .map(|size| *size as usize);
        let size = wave
            .size
            .map_or(usize::MAX, |size| fixed.unwrap_or(share(size, matched.len())));
        assert!(
            taken >= size || left.is_empty(),
            "S10: wave {} of {} leaves {left:?} behind",
            wave.name,
            plan.name
        );
    }
}
