//! S10: when the next wave may start.

use api::ledger::UpdateLedgerSpec;
use chrono::{DateTime, Utc};
use planner::world::{NodeFacts, PlanFacts, World};

use super::super::rules::{is_forgiven, owned, runs_target};
use super::Checker;

impl Checker {
    /// S10, where a wave starts: those before it are done, and the one before has soaked.
    pub(super) fn order(
        &self,
        now: DateTime<Utc>,
        world: &World,
        old: &UpdateLedgerSpec,
        new: &UpdateLedgerSpec,
    ) {
        for (uid, entry) in &new.plans {
            let before = old.plans.get(uid).filter(|before| before.run == entry.run);
            let Some(plan) = world.plans.iter().find(|plan| plan.uid == *uid) else {
                continue;
            };
            let before = before.map_or(0, |before| before.open_wave) as usize;
            for index in before..entry.open_wave as usize {
                assert!(
                    !entry.paused && !entry.halted,
                    "S11: a wave of {} starts",
                    plan.name
                );
                let wave = &plan.spec.waves[index];
                let of_wave = |node: &&NodeFacts| {
                    let spec = node.shadow.as_ref().map(|shadow| &shadow.spec);
                    spec.is_some_and(|s| {
                        s.run.as_ref() == Some(&entry.run) && s.wave.as_ref() == Some(&wave.name)
                    })
                };
                let live = new
                    .grants
                    .values()
                    .any(|g| g.run == entry.run && g.wave == wave.name);
                assert!(!live, "S10: a wave starts while {} has grants", wave.name);
                assert!(
                    self.approvals.is_approved(plan, &entry.run, wave),
                    "S10: wave {} is not approved",
                    wave.name
                );
                let members: Vec<_> = owned(world, new, plan).into_iter().filter(of_wave).collect();
                // One that has opted out after all does not need the update.
                let needs = |node: &&&NodeFacts| node.opt_out.is_none() && !is_forgiven(node, plan, entry);
                let mut needy = members.iter().filter(needs).peekable();
                let proven =
                    needy.peek().is_none() || members.iter().any(|node| runs_target(node, plan, entry));
                assert!(proven, "S10: wave {} has proven nothing", wave.name);
                if members.is_empty() {
                    assert!(
                        !self.is_gone_unproven(world, new, plan, &wave.name),
                        "S10: wave {} began, and is gone unproven",
                        wave.name
                    );
                }
                let last = self.proven.get(&(entry.run.clone(), wave.name.clone()));
                // Where the clock has been set back meanwhile, what has no soak waits for no time to come.
                let soak = wave.soak.delta();
                let soaked = soak.is_zero() || last.is_none_or(|last| *last + soak <= now);
                assert!(
                    soaked || members.is_empty(),
                    "S10: wave {} has not soaked since {last:?}",
                    wave.name
                );
            }
        }
    }

    /// Whether nodes of the wave were begun with since the run was retried last, none was updated, and others wait for the update.
    fn is_gone_unproven(&self, world: &World, new: &UpdateLedgerSpec, plan: &PlanFacts, wave: &str) -> bool {
        let entry = &new.plans[&plan.uid];
        let retried_at = entry.actions.retried_at;
        let begun = self.granted.iter().any(|(at, _, grant)| {
            let of_wave = grant.run == entry.run && grant.wave == wave;
            of_wave && !self.lost && retried_at.is_none_or(|retried| *at >= retried)
        });
        let proven = self.proven.contains_key(&(entry.run.clone(), wave.to_owned()));
        let waits = |node: &&NodeFacts| {
            let spec = node.shadow.as_ref().map(|shadow| &shadow.spec);
            let failed =
                spec.is_some_and(|spec| spec.run.as_ref() == Some(&entry.run) && spec.failure.is_some());
            node.opt_out.is_none() && !failed && !runs_target(node, plan, entry)
        };
        begun && !proven && owned(world, new, plan).iter().any(waits)
    }
}
