//! What `latest` may become, by rules of its own.

use api::{
    ledger::{PlanEntry, UpdateLedgerSpec},
    offer::{Offer, Target},
    plan::LATEST,
};
use chrono::{DateTime, TimeDelta, Utc};
use planner::world::{NodeFacts, PlanFacts, World};
use semver::Version;

use super::rules::owned;

/// The version that this node is to run.
pub fn target_of<'a>(node: &NodeFacts, plan: &'a PlanFacts, targets: &'a [Target]) -> Option<&'a str> {
    let exact = plan.spec.target_version.as_str();
    if exact != LATEST {
        return Some(exact);
    }
    let mut of_kind = targets.iter().filter(|target| is_of(node, target));
    of_kind.next().map(|target| target.version.as_str())
}

fn is_of(node: &NodeFacts, target: &Target) -> bool {
    let status = node.shadow.as_ref().and_then(|shadow| shadow.status.as_ref());
    status.is_some_and(|status| {
        status.variant.as_ref() == Some(&target.variant) && status.arch.as_ref() == Some(&target.arch)
    })
}

/// Targets are the newest that has been on offer for long enough, and stay as they are for the run.
pub fn check(now: DateTime<Utc>, world: &World, old: &UpdateLedgerSpec, new: &UpdateLedgerSpec) {
    for (uid, entry) in &new.plans {
        let Some(plan) = world.plans.iter().find(|plan| plan.uid == *uid) else {
            continue;
        };
        let before = old.plans.get(uid).filter(|before| before.run == entry.run);
        let known = before.map_or(&[][..], |before| before.targets.as_slice());
        for target in known {
            assert!(
                entry.targets.contains(target),
                "S8: {target:?} has changed in its run"
            );
        }
        if let Some(followed) = old.plans.get(uid).filter(|before| before.run != entry.run) {
            let gone = is_taken_back(world, old, plan, followed);
            followed_only_at_its_end(plan, followed, entry, gone);
        }
        for target in entry.targets.iter().filter(|target| !known.contains(target)) {
            is_newest(now, world, new, plan, target);
        }
    }
}

/// Whether a version of the run is on offer to nobody any more.
fn is_taken_back(world: &World, old: &UpdateLedgerSpec, plan: &PlanFacts, entry: &PlanEntry) -> bool {
    entry.targets.iter().any(|target| {
        let mut heard = owned(world, old, plan);
        heard.retain(|node| is_of(node, target) && node.agent.ready && node.opt_out.is_none());
        let offers = heard
            .iter()
            .filter_map(|node| node.shadow.as_ref()?.status.as_ref());
        offers
            .flat_map(|status| &status.offered)
            .all(|offer| offer.version != target.version)
    })
}

fn followed_only_at_its_end(plan: &PlanFacts, before: &PlanEntry, entry: &PlanEntry, gone: bool) {
    if before.target == LATEST && entry.target == LATEST && before.generation == entry.generation {
        let run = plan.status.run.as_ref();
        let complete = run.is_some_and(|run| run.id == before.run && run.completed_at.is_some());
        assert!(
            (complete || gone) && !before.halted,
            "a run of {} is followed by another before its end",
            plan.name
        );
    }
}

fn is_newest(now: DateTime<Utc>, world: &World, new: &UpdateLedgerSpec, plan: &PlanFacts, target: &Target) {
    let age = plan
        .spec
        .min_release_age
        .map_or(TimeDelta::zero(), |age| age.delta());
    let nodes = owned(world, new, plan)
        .into_iter()
        // Whom nobody can ask now has no say.
        .filter(|node| is_of(node, target) && node.agent.ready && node.opt_out.is_none());
    let offers: Vec<Offer> = nodes
        .filter_map(|node| node.shadow.as_ref()?.status.as_ref())
        .flat_map(|status| status.offered.clone())
        .collect();
    let ripe = offers.iter().filter(|offer| offer.since + age <= now);
    let newest = ripe.max_by_key(|offer| Version::parse(&offer.version).expect("a version"));
    assert_eq!(
        newest.map(|offer| &offer.version),
        Some(&target.version),
        "S8: {target:?} of {}",
        plan.name
    );
}
