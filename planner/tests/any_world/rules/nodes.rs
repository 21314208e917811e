//! What a node is to its run: whether it could be begun with, has failed, or is left out.

use api::{
    ledger::{Grant, PlanEntry},
    shadow::{Failure, FailureReason, NodeState},
};
use chrono::{DateTime, Utc};
use planner::world::{NodeFacts, PlanFacts, Settings};

use super::{
    is_disputed, runs, spec, target,
    targets::{is_offered, is_too_young, kind, newest_to},
    version,
};

/// Whether the agent has done what its node was told last.
fn is_answered(node: &NodeFacts) -> bool {
    let Some(shadow) = &node.shadow else { return false };
    shadow.status.as_ref().is_some_and(|status| {
        status.error.is_none()
            && (status.current_state, &status.run, status.attempt)
                == (shadow.spec.state, &shadow.spec.run, shadow.spec.attempt)
    })
}

/// Whether the node needs the plan's update and could be begun with, as far as it is up to itself. A failure in this run is
/// no obstacle once it has been waited for: so long after the first, twice as long after each further one, at most ten times.
pub fn could_start(
    now: DateTime<Utc>,
    node: &NodeFacts,
    plan: &PlanFacts,
    entry: &PlanEntry,
    settings: &Settings,
) -> bool {
    let Some((runs, target)) = runs(node).zip(target(plan, entry, node)) else {
        return false;
    };
    let waited = failure_of_run(node, entry).is_none_or(|failure| {
        let times = (1..failure.count).fold(1, |times, _| times * 2).min(10);
        now - failure.at >= settings.retry_backoff * times
    });
    let (runs, target) = (version(runs), version(target));
    node.ready
        && node.agent.ready
        && !node.unschedulable
        && node.disruption.is_none()
        && node.opt_out.is_none()
        && spec(node).is_some_and(|spec| spec.state == NodeState::Idle)
        && is_answered(node)
        && waited
        && !given_up(node, plan, entry)
        && !is_left_alone(node, plan, entry)
        && (runs < target || runs > target && plan.spec.allow_downgrade)
}

/// The failure that counts in a run: one from before it was retried does not.
pub fn failure_of_run<'a>(node: &'a NodeFacts, entry: &PlanEntry) -> Option<&'a Failure> {
    let spec = spec(node).filter(|spec| spec.run.as_ref() == Some(&entry.run))?;
    let since = entry.actions.retried_at;
    spec.failure
        .as_ref()
        .filter(|failure| since.is_none_or(|since| failure.at >= since))
}

/// Whether the run has given the node up. Who has been taken out has not failed.
pub fn given_up(node: &NodeFacts, plan: &PlanFacts, entry: &PlanEntry) -> bool {
    let Some(failure) = failure_of_run(node, entry).filter(|_| node.opt_out.is_none()) else {
        return false;
    };
    let on_target = runs(node).is_some() && runs(node) == target(plan, entry, node);
    let came_back = on_target
        && node.ready
        && spec(node).is_some_and(|spec| spec.state == NodeState::Idle)
        && failure.reason != FailureReason::Unhealthy;
    !came_back && (for_good(node, failure.reason) || failure.count > plan.spec.failure_policy.retries)
}

/// Whether a grant of the run ends with the failure for which the run gives the node up.
pub fn gives_up(node: &NodeFacts, plan: &PlanFacts, entry: &PlanEntry, grant: &Grant) -> bool {
    let ending = grant.ending.as_ref().filter(|_| grant.run == entry.run);
    let Some((at, reason)) = ending.and_then(|ending| Some((ending.at, ending.failure?))) else {
        return false;
    };
    // One that is written down has been counted.
    let count = failure_of_run(node, entry).map_or(1, |failure| failure.count + u32::from(failure.at != at));
    counts(reason)
        && entry.actions.retried_at.is_none_or(|since| at >= since)
        && (for_good(node, reason) || count > plan.spec.failure_policy.retries)
}

/// Whether a failure is one of the retries, and of those that halt a plan: a window that closed too early is nobody's fault, nor
/// is a version that cannot be had.
pub fn counts(reason: FailureReason) -> bool {
    reason != FailureReason::PermitExpired && !leaves_alone(reason)
}

/// Whether a node is left alone where it ends so.
pub fn leaves_alone(reason: FailureReason) -> bool {
    matches!(
        reason,
        FailureReason::VersionNotOffered | FailureReason::Unsupported
    )
}

/// Whether a node cannot be tried again.
fn for_good(node: &NodeFacts, reason: FailureReason) -> bool {
    match reason {
        FailureReason::Unhealthy => true,
        FailureReason::RebootTimeout => !node.ready,
        FailureReason::BootedOtherVersion => is_disputed(node),
        _ => false,
    }
}

/// Whether the node runs what it is to run; or, where that is not known, the newest that it is offered.
pub fn on_target(node: &NodeFacts, plan: &PlanFacts, entry: &PlanEntry) -> bool {
    let Some(runs) = runs(node) else { return false };
    match target(plan, entry, node) {
        Some(target) => runs == target,
        None => newest_to(node).is_some_and(|newest| Some(newest) <= version(runs)),
    }
}

/// Whether the run has found out that the node cannot have its version, and nothing has changed since.
pub fn is_left_alone(node: &NodeFacts, plan: &PlanFacts, entry: &PlanEntry) -> bool {
    let Some(target) = target(plan, entry, node) else {
        return false;
    };
    failure_of_run(node, entry).is_some_and(|failure| match failure.reason {
        FailureReason::Unsupported => true,
        FailureReason::VersionNotOffered => !is_offered(node, target),
        _ => false,
    })
}

/// Whether nothing is to be done with the node, though it does not run its target: it was taken out, runs a newer version, or cannot
/// have its own.
pub fn is_left_out(node: &NodeFacts, plan: &PlanFacts, entry: &PlanEntry) -> bool {
    node.opt_out.is_some() || is_newer(node, plan, entry) || is_left_alone(node, plan, entry)
}

/// Whether the node runs a newer version than it is to run, and may not go back.
fn is_newer(node: &NodeFacts, plan: &PlanFacts, entry: &PlanEntry) -> bool {
    let runs = runs(node).and_then(version);
    let newer = target(plan, entry, node).is_some_and(|target| runs > version(target));
    newer && !plan.spec.allow_downgrade
}

/// When a node that runs its target has got it: by the plan, or, where it was withdrawn, by a person before it was Ready again.
pub fn updated_at(node: &NodeFacts, plan: &PlanFacts, entry: &PlanEntry) -> Option<DateTime<Utc>> {
    let spec = spec(node)?;
    match spec.version {
        None if !super::is_complete(plan, &entry.run) => {
            spec.state_transition_timestamp.max(node.ready_changed)
        }
        _ => spec.state_transition_timestamp,
    }
}

/// Whether nobody waits for the node's proof any more: it runs a newer version, and the run was retried since it ended without an update.
pub fn is_forgiven(node: &NodeFacts, plan: &PlanFacts, entry: &PlanEntry) -> bool {
    let ended = spec(node).and_then(|spec| spec.state_transition_timestamp.max(node.ready_changed));
    let retried = entry.actions.retried_at.is_some_and(|at| ended <= Some(at));
    retried && is_newer(node, plan, entry)
}

/// Whether the node cannot be updated, for a reason that neither time nor the plan is known to take away.
pub fn is_stuck(node: &NodeFacts, plan: &PlanFacts, entry: &PlanEntry, now: DateTime<Utc>) -> bool {
    let nothing_for_it =
        target(plan, entry, node).is_none() && (kind(node).is_none() || !is_too_young(plan, node, now));
    let told = spec(node).is_some_and(|spec| spec.state != NodeState::Idle);
    !node.ready
        || !node.agent.ready
        || runs(node).is_none()
        || node.unschedulable
        || node.disruption.is_some()
        || told
        || !is_answered(node)
        || nothing_for_it
}

/// Whether the node has outlasted a window of this run.
pub fn outlasted(node: &NodeFacts, run: &str) -> bool {
    spec(node).is_some_and(|spec| spec.outlasted == Some(true) && spec.run.as_deref() == Some(run))
}
