//! S1, S3 to S5 and S7 to S12 on one answer, in whatever world it was given.

mod actions;
mod ahead;
mod grants;
mod latest;
mod people;
mod turns;
mod waves;

use std::collections::BTreeSet;

use api::ledger::{Grant, PlanEntry, UpdateLedgerSpec};
use chrono::{DateTime, TimeDelta, Utc};
use planner::{
    decisions::Decisions,
    world::{NodeFacts, PlanFacts, World},
};

use super::rules::{
    Windows, before_permit, could_start, domains, down_in_install, given_up, gives_up, hosts_granted,
    install_limit, is_down, is_left_out, is_valid, limit, needs, on_target, owned, owner, runs, share, spec,
    target, version,
};

/// What the answer is judged by.
struct Judge<'a> {
    now: DateTime<Utc>,
    world: &'a World,
    before: &'a UpdateLedgerSpec,
    after: &'a UpdateLedgerSpec,
}

/// Judges an answer.
pub fn judge(now: DateTime<Utc>, world: &World, decisions: &Decisions) {
    let Some(before) = &world.ledger else {
        // Without a ledger it is made anew, and nothing else is done.
        let change = decisions
            .ledger
            .as_ref()
            .expect("a ledger that is lost is made anew");
        assert!(
            !change.by_fresh_nodes && decisions.actions.is_empty() && decisions.drains.is_empty(),
            "S2: {change:?}"
        );
        return;
    };
    let later = |plan: &PlanFacts| {
        before
            .plans
            .get(&plan.uid)
            .is_some_and(|entry| entry.generation > plan.generation)
    };
    if world.plans.iter().any(later) {
        assert_eq!(
            *decisions,
            Decisions::default(),
            "S12: decided by an older plan than the ledger has seen"
        );
        return;
    }
    // A clock that is known to be wrong is corrected.
    let wrong = world
        .clock_skew
        .filter(|skew| skew.abs() >= TimeDelta::seconds(30));
    let judge = Judge {
        now: now - wrong.unwrap_or_default(),
        world,
        before,
        after: decisions.ledger.as_ref().map_or(before, |change| &change.spec),
    };
    if let Some(change) = &decisions.ledger {
        assert_ne!(change.spec, *before, "a write that changes nothing");
        assert!(decisions.actions.is_empty() && decisions.drains.is_empty() && decisions.statuses.is_empty());
        let made: Vec<_> = judge.made().collect();
        for (uid, grant) in &made {
            judge.grant(uid, grant);
            let alone = !grant.hosts_operator || hosts_granted(world, &change.spec, uid) == 0;
            assert!(
                alone,
                "{} is granted beside another that the operator runs on",
                grant.node
            );
            judge.in_turn(uid, grant);
        }
        let starts = judge.waves();
        assert!(
            change.by_fresh_nodes || !starts && made.is_empty(),
            "S1, S10: by nodes as they may have been long ago"
        );
        for (uid, grant) in &before.grants {
            judge.goes_on(uid, grant);
        }
    }
    judge.install();
    judge.asked();
    judge.latest();
    judge.held();
    judge.soaks();
    judge.started();
    judge.recorded();
    judge.withdrawn();
    decisions.actions.iter().for_each(|action| judge.action(action));
    judge.ahead(decisions);
    for drain in &decisions.drains {
        let grant = judge
            .after
            .grants
            .get(&drain.uid)
            .expect("S1: drained without a grant");
        assert!(
            grant.node == drain.node && before_permit(grant),
            "S5: drained in {}",
            grant.phase
        );
    }
    judge.explained(decisions);
    judge.complete(decisions);
}

impl<'a> Judge<'a> {
    fn made(&self) -> impl Iterator<Item = (&'a String, &'a Grant)> {
        self.after
            .grants
            .iter()
            .filter(|(uid, _)| !self.before.grants.contains_key(*uid))
    }

    fn plan(&self, uid: &str) -> Option<&'a PlanFacts> {
        self.world.plans.iter().find(|plan| plan.uid == uid)
    }

    fn node(&self, uid: &str) -> Option<&'a NodeFacts> {
        self.world.nodes.iter().find(|node| node.uid == uid)
    }

    fn windows(&self, plan: &'a PlanFacts) -> Windows<'a> {
        Windows::of(plan, self.before)
    }

    fn grant(&self, uid: &str, grant: &Grant) {
        let node = self.node(uid).expect("S3: granted to a node that is not there");
        let plan = self
            .plan(&grant.plan)
            .expect("S12: granted by a plan that is not there");
        let entry = &self.after.plans[&plan.uid];
        let who = format!("{} by {}", node.name, plan.name);

        assert_eq!(node.name, grant.node, "S3");
        let owner = owner(self.world, self.before, node);
        assert_eq!(owner.map(|plan| &plan.uid), Some(&plan.uid), "S3: {who}");
        assert!(
            could_start(self.now, node, plan, entry, &self.world.settings),
            "S9: {who}: it is not Idle, Ready and older"
        );

        assert_eq!(grant.from, runs(node).unwrap(), "S8: {who}");
        assert_eq!(
            (target(plan, entry, node), &entry.target),
            (Some(grant.to.as_str()), &plan.spec.target_version),
            "S8: {who}"
        );
        assert!(
            version(&grant.from).unwrap() < version(&grant.to).unwrap() || plan.spec.allow_downgrade,
            "S8: {who} would go down"
        );
        assert_eq!(node.opt_out, None, "S3: {who} was taken out");
        assert!(!self.after.stop, "S12: {who} though the install is stopped");

        let skew = self
            .world
            .clock_skew
            .expect("S4: granted by a clock that was not compared");
        assert!(
            skew.abs() < TimeDelta::seconds(30),
            "S4: granted by a clock that is wrong"
        );
        let windows = self.windows(plan);
        assert!(windows.is_open(self.now), "S4: {who} outside a window");
        let needs = needs(plan, entry);
        assert!(
            windows.is_open_until(self.now, self.now + needs),
            "S4: {who} does not fit"
        );
        let end = grant.not_after.unwrap_or(self.now + TimeDelta::days(3));
        assert!(
            windows.is_open_until(self.now, end),
            "S4: {who} until {:?}",
            grant.not_after
        );

        assert!(
            plan.finalizer && !plan.deleting && !plan.spec.paused && is_valid(plan),
            "S12: {who}"
        );
        assert!(!entry.paused && !entry.halted, "S11, S12: {who}");
        let generations = (grant.generation, entry.generation);
        assert_eq!(
            generations,
            (plan.generation, plan.generation),
            "S12: {who} by an older plan"
        );
        assert_eq!(grant.run, entry.run);

        let matched = owned(self.world, self.before, plan);
        let failed = self.failed(plan, entry, &matched);
        let threshold = share(plan.spec.failure_policy.threshold, matched.len()).max(1);
        assert!(
            failed < threshold,
            "S11: {who} though {failed} of {threshold} have failed"
        );

        let down = matched.iter().filter(|node| is_down(node, self.after)).count();
        let max = limit(plan.spec.max_unavailable, matched.len());
        assert!(down <= max, "S1: {down} of at most {max} nodes of {}", plan.name);
        if let Some(max) = install_limit(self.world, self.after) {
            let down = down_in_install(self.world, self.after);
            assert!(
                down <= max,
                "S1: {down} of at most {max} nodes of the install: {who}"
            );
        }
        if let Some(topology) = &plan.spec.topology {
            let down = matched.iter().filter(|node| is_down(node, self.after)).copied();
            let (busy, max) = (domains(plan, down), topology.max_domains as usize);
            assert!(
                busy.len() <= max,
                "S1: {busy:?} of at most {max} domains of {}",
                plan.name
            );
        }
        self.wave_of_grant(plan, entry, grant, &matched);
    }

    /// The nodes that a run has given up, those that are about to go back and those that are gone too. A retry forgives them all.
    fn failed(&self, plan: &PlanFacts, entry: &PlanEntry, matched: &[&NodeFacts]) -> usize {
        let now = matched
            .iter()
            .filter(|node| match self.after.grants.get(&node.uid) {
                Some(grant) => gives_up(node, plan, entry, grant),
                None => given_up(node, plan, entry),
            });
        let mut failed: BTreeSet<&str> = now.map(|node| node.uid.as_str()).collect();
        let before = self
            .before
            .plans
            .get(&plan.uid)
            .filter(|before| before.run == entry.run && !self.is_retried(plan));
        // One that another plan has had in between has no more to say of this run.
        let tells = |node: &NodeFacts| {
            let rests = on_target(node, plan, entry) || is_left_out(node, plan, entry);
            let rests = rests && !self.after.grants.contains_key(&node.uid);
            rests || spec(node).is_some_and(|spec| spec.run.as_ref() == Some(&entry.run))
        };
        let is_matched = |uid: &str| matched.iter().any(|node| node.uid == uid && tells(node));
        failed.extend(
            before
                .iter()
                .flat_map(|before| &before.failed)
                .map(String::as_str)
                .filter(|uid| !is_matched(uid)),
        );
        failed.len()
    }
}
