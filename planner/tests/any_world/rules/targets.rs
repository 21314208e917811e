//! What `latest` is: for each variant and architecture the newest version that has been on offer for long enough.

use std::collections::BTreeMap;

use api::{
    ledger::{PlanEntry, UpdateLedgerSpec},
    plan::LATEST,
    shadow::BottlerocketShadowStatus,
};
use chrono::{DateTime, TimeDelta, Utc};
use planner::world::{NodeFacts, PlanFacts, World};

use super::{given_up, is_complete, is_left_alone, is_valid, owned, recorded, runs, version};

fn status(node: &NodeFacts) -> Option<&BottlerocketShadowStatus> {
    node.shadow.as_ref()?.status.as_ref()
}

/// Variant and architecture.
pub fn kind(node: &NodeFacts) -> Option<(&str, &str)> {
    let status = status(node)?;
    Some((status.variant.as_deref()?, status.arch.as_deref()?))
}

/// What the run has fixed for nodes of this kind.
pub fn frozen<'a>(entry: &'a PlanEntry, node: &NodeFacts) -> Option<&'a str> {
    let kind = kind(node)?;
    let of_kind = entry
        .targets
        .iter()
        .find(|target| (&*target.variant, &*target.arch) == kind);
    of_kind.map(|target| target.version.as_str())
}

/// The version that the node is to run, where that is known.
pub fn target<'a>(plan: &'a PlanFacts, entry: &'a PlanEntry, node: &NodeFacts) -> Option<&'a str> {
    match plan.spec.target_version.as_str() {
        LATEST => frozen(entry, node),
        exact => Some(exact),
    }
}

/// Whether this version is offered to the node.
pub fn is_offered(node: &NodeFacts, version: &str) -> bool {
    status(node).is_some_and(|status| status.offered.iter().any(|offer| offer.version == version))
}

/// The newest version that is offered to the node.
pub fn newest_to(node: &NodeFacts) -> Option<[u32; 3]> {
    let offered = status(node)?.offered.iter();
    offered.filter_map(|offer| version(&offer.version)).max()
}

/// Whether something is offered to the node that has not been on offer for long enough.
pub fn is_too_young(plan: &PlanFacts, node: &NodeFacts, now: DateTime<Utc>) -> bool {
    let offered = status(node).map_or(&[][..], |status| &status.offered);
    offered.iter().any(|offer| offer.since + age(plan) > now)
}

fn age(plan: &PlanFacts) -> TimeDelta {
    plan.spec
        .min_release_age
        .map_or(TimeDelta::zero(), |age| age.delta())
}

/// What is on offer to nodes of a kind, and since when the first of them has seen it. Who is not heard, or has been taken out, has
/// no say.
fn on_offer<'a>(nodes: &[&'a NodeFacts], of: (&str, &str)) -> BTreeMap<[u32; 3], (DateTime<Utc>, &'a str)> {
    let mut first: BTreeMap<[u32; 3], (DateTime<Utc>, &str)> = BTreeMap::new();
    let heard = nodes
        .iter()
        .filter(|node| node.agent.ready && node.opt_out.is_none() && kind(node) == Some(of));
    for offer in heard.flat_map(|node| &status(node).unwrap().offered) {
        let since = first
            .entry(version(&offer.version).unwrap())
            .or_insert((offer.since, &offer.version));
        since.0 = since.0.min(offer.since);
    }
    first
}

/// The newest version of those that have been on offer to these nodes for as long as the plan wants.
pub fn newest<'a>(
    now: DateTime<Utc>,
    plan: &PlanFacts,
    nodes: &[&'a NodeFacts],
    of: (&str, &str),
) -> Option<&'a str> {
    let offers = on_offer(nodes, of);
    let old_enough = offers.iter().filter(|(_, (since, _))| *since + age(plan) <= now);
    old_enough.max().map(|(_, (_, version))| *version)
}

/// Whether the run is over and another one has to follow it: a newer version than its own is there for a node that needs it, or its
/// own is there no more.
pub fn is_superseded(
    now: DateTime<Utc>,
    world: &World,
    ledger: &UpdateLedgerSpec,
    plan: &PlanFacts,
    entry: &PlanEntry,
) -> bool {
    let goes_on = is_valid(plan) && !plan.deleting && !plan.spec.paused && !entry.halted && !ledger.stop;
    let granted = ledger.grants.values().any(|grant| grant.plan == plan.uid);
    if plan.spec.target_version != LATEST || !goes_on || granted {
        return false;
    }
    let complete = is_complete(plan, &entry.run);
    let nodes = owned(world, ledger, plan);
    let wants_more = |node: &&NodeFacts| {
        let Some((kind, runs)) = kind(node).zip(runs(node)) else {
            return false;
        };
        let Some(newest) = newest(now, plan, &nodes, kind) else {
            return false;
        };
        let is_gone = |frozen| !on_offer(&nodes, kind).contains_key(&version(frozen).unwrap());
        let is_new = match frozen(entry, node) {
            Some(frozen) if complete => version(frozen) < version(newest) || is_gone(frozen),
            None => complete,
            // Before its end only where each that needs it has found that it is not offered.
            Some(frozen) => {
                let needs_it = |node: &&&NodeFacts| {
                    let older = super::runs(node).is_some_and(|runs| version(runs) < version(frozen));
                    node.agent.ready && node.opt_out.is_none() && self::kind(node) == Some(kind) && older
                };
                let mut needy = nodes.iter().filter(needs_it).peekable();
                let is_left = needy.peek().is_some() && needy.all(|node| is_left_alone(node, plan, entry));
                let is_done = |node: &NodeFacts| {
                    let runs = super::runs(node).and_then(version);
                    target(plan, entry, node).is_some_and(|target| runs >= version(target))
                };
                let is_over = |node: &NodeFacts| {
                    node.opt_out.is_some() || given_up(node, plan, entry) || is_left_alone(node, plan, entry)
                };
                let last = plan.spec.waves.last().map_or("all", |wave| &wave.name);
                let in_last =
                    |node: &&&NodeFacts| recorded(node, ledger, &entry.run).is_some_and(|wave| wave == last);
                let is_last = entry.open_wave as usize + 1 == plan.spec.waves.len().max(1);
                let mut of_last = nodes.iter().filter(in_last);
                let proven = of_last
                    .clone()
                    .any(|node| is_done(node) && node.opt_out.is_none() && !given_up(node, plan, entry));
                let left = of_last.any(|node| is_left_alone(node, plan, entry));
                let nobody_waits = nodes.iter().all(|node| is_done(node) || is_over(node));
                let has_no_end = entry.owes_proof.is_some() || is_last && left && !proven && nobody_waits;
                is_gone(frozen) && is_left && has_no_end
            }
        };
        is_new && node.opt_out.is_none() && version(runs) < version(newest)
    };
    nodes.iter().any(wants_more)
}
