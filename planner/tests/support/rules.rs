//! The rules that the checks go by: what a window, an owner and a legal change are. None of them asks the planner
//! for more than to read a schedule or a selector.

use std::cmp::Reverse;

use api::{
    ledger::{Grant, GrantPhase, PlanEntry, UpdateLedgerSpec},
    names,
    plan::{MaintenanceWindow, UpdatePlanSpec},
};
use chrono::{DateTime, Utc};
use kube_core::SelectorExt;
use planner::{
    spec::selector,
    windows::{WindowState, Windows},
    world::{NodeFacts, PlanFacts, World},
};
use semver::Version;

use super::targets::target_of;

pub fn moves_on(before: &Grant, after: &Grant) {
    use GrantPhase::{Drained, Granted, Monitoring, Rebooting, Withdrawing};
    let same = (
        &before.run,
        &before.wave,
        before.attempt,
        &before.to,
        &before.permit,
    ) == (&after.run, &after.wave, after.attempt, &after.to, &after.permit);
    let forth = before.phase == after.phase
        || matches!(
            (before.phase, after.phase),
            (Granted, Drained) | (Rebooting, Monitoring) | (Granted | Drained, Withdrawing)
        );
    assert!(same && forth, "{before:?} became {after:?}");
    assert!(
        before.ending.is_none() || before.ending == after.ending,
        "{before:?} became {after:?}"
    );
}

/// A grant goes only when nothing of ours is left on the node.
pub fn released(world: &World, uid: &str, grant: &Grant) {
    let Some(node) = node_of(world, uid) else { return };
    assert!(
        node.disruption.is_none(),
        "{} is released with our cordon",
        node.name
    );
    let ends = grant.phase == GrantPhase::Monitoring || grant.ending.is_some();
    assert!(ends, "{} is released in {}", node.name, grant.phase);
}

/// Until when a window is open, for what has waited since then. None: closed. `Some(None)`: without an end of its own.
pub fn open_until(
    spec: &UpdatePlanSpec,
    since: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Option<Option<DateTime<Utc>>> {
    let once = |windows: &[MaintenanceWindow]| -> Option<Vec<_>> {
        windows
            .iter()
            .map(|window| window.start.zip(window.end))
            .collect()
    };
    let (Some(windows), Some(exclusions)) = (once(&spec.maintenance_windows), once(&spec.exclusions)) else {
        let windows = Windows::parse(&spec.maintenance_windows, &spec.exclusions).ok()?;
        return match windows.waiting_since(since).at(now) {
            WindowState::Closed { .. } => None,
            open => Some(open.not_after(now)),
        };
    };
    let open_at = |at: DateTime<Utc>| {
        windows
            .iter()
            .filter(|(start, end)| *start <= at && at < *end)
            .map(|(_, end)| *end)
            .max()
    };
    let excluded = |from: DateTime<Utc>, to: DateTime<Utc>| {
        exclusions
            .iter()
            .filter(|(start, end)| *start <= to && from < *end)
            .map(|(start, _)| *start)
            .min()
    };
    let closes = if windows.is_empty() {
        let Some(begins) = excluded(now, DateTime::<Utc>::MAX_UTC) else {
            return Some(None);
        };
        begins
    } else {
        let mut closes = open_at(now)?;
        while let Some(later) = open_at(closes) {
            closes = later;
        }
        closes
    };
    match excluded(now, closes) {
        Some(begins) if begins <= now => None,
        Some(begins) => Some(Some(begins)),
        None => Some(Some(closes)),
    }
}

pub fn runs_target(node: &NodeFacts, plan: &PlanFacts, entry: &PlanEntry) -> bool {
    let status = node.shadow.as_ref().and_then(|shadow| shadow.status.as_ref());
    status
        .is_some_and(|status| Some(status.current_version.as_str()) == target_of(node, plan, &entry.targets))
}

/// Whether the node runs a newer version than it is to run, and a person has had the run retried since it ended without an update: then
/// it proves nothing, and nobody waits for its proof.
pub fn is_forgiven(node: &NodeFacts, plan: &PlanFacts, entry: &PlanEntry) -> bool {
    let Some(shadow) = &node.shadow else { return false };
    let ended = shadow.spec.state_transition_timestamp.max(node.ready_changed);
    let retried = entry.actions.retried_at.is_some_and(|at| ended <= Some(at));
    let version = |text: &str| Version::parse(text).ok();
    let runs = shadow
        .status
        .as_ref()
        .and_then(|status| version(&status.current_version));
    let wanted = target_of(node, plan, &entry.targets).and_then(version);
    retried && wanted.is_some_and(|wanted| runs > Some(wanted))
}

pub fn node_of<'a>(world: &'a World, uid: &str) -> Option<&'a NodeFacts> {
    world.nodes.iter().find(|node| node.uid == uid)
}

pub fn plan_of<'a>(world: &'a World, grant: &Grant) -> &'a PlanFacts {
    world
        .plans
        .iter()
        .find(|plan| plan.uid == grant.plan)
        .expect("a grant's plan is there")
}

/// The plan that a node belongs to: that of its grant, else the one with the highest priority that selects it, else the
/// oldest of those.
pub fn owner<'a>(world: &'a World, ledger: &UpdateLedgerSpec, node: &NodeFacts) -> Option<&'a PlanFacts> {
    if let Some(grant) = ledger.grants.get(&node.uid) {
        return world.plans.iter().find(|plan| plan.uid == grant.plan);
    }
    let takes_part = node.labels.get(names::NODE_LABEL).map(String::as_str) == Some(names::NODE_LABEL_VALUE);
    let selects = |plan: &&PlanFacts| {
        takes_part
            && !plan.deleting
            && selector("", &plan.spec.node_selector).is_ok_and(|selector| selector.matches(&node.labels))
    };
    world
        .plans
        .iter()
        .filter(selects)
        .min_by_key(|plan| (Reverse(plan.spec.priority), plan.created, &plan.name))
}

pub fn owned<'a>(world: &'a World, ledger: &UpdateLedgerSpec, plan: &PlanFacts) -> Vec<&'a NodeFacts> {
    let is_owner = |node: &&NodeFacts| owner(world, ledger, node).is_some_and(|owner| owner.uid == plan.uid);
    world.nodes.iter().filter(is_owner).collect()
}
