//! The words of the promises, told anew from the API alone: nothing here asks the planner, its windows, its selectors or
//! its waves for anything.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use api::{
    ledger::{Grant, GrantPhase, PlanEntry, UpdateLedgerSpec},
    names::{NODE_LABEL, NODE_LABEL_VALUE},
    plan::{MaintenanceWindow, OnWindowEnd, UpdatePlanSpec},
    quantity::IntOrPercent,
    shadow::{BottlerocketShadowSpec, FailureReason, NodeState},
};
use chrono::{DateTime, TimeDelta, Timelike, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use planner::world::{NodeFacts, PlanFacts, Settings, World};

pub fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector
        .match_labels
        .iter()
        .flatten()
        .all(|(key, value)| labels.get(key) == Some(value));
    let holds = selector.match_expressions.iter().flatten().all(|wanted| {
        assert_eq!(wanted.operator, "In", "the worlds have no other");
        let values = wanted.values.as_deref().unwrap_or_default();
        labels
            .get(&wanted.key)
            .is_some_and(|value| values.contains(value))
    });
    equal && holds
}

/// Whether a node takes part in updates.
pub fn takes_part(node: &NodeFacts) -> bool {
    node.labels
        .get(NODE_LABEL)
        .is_some_and(|value| value == NODE_LABEL_VALUE)
}

/// Every plan that a node may belong to, the first of them its owner.
pub fn claimants<'a>(world: &'a World, node: &NodeFacts) -> Vec<&'a PlanFacts> {
    let mut plans: Vec<&PlanFacts> = world
        .plans
        .iter()
        .filter(|plan| takes_part(node) && !plan.deleting && selects(&plan.spec.node_selector, &node.labels))
        .collect();
    plans.sort_by_key(|plan| (Reverse(plan.spec.priority), plan.created, &plan.name));
    plans
}

/// The plan that a node belongs to: that of its grant, where it is there, else of those that
/// select it the one with the highest priority, then the oldest, then the first by name.
pub fn owner<'a>(world: &'a World, before: &UpdateLedgerSpec, node: &NodeFacts) -> Option<&'a PlanFacts> {
    let granted = before.grants.get(&node.uid);
    let by_grant = granted.and_then(|grant| world.plans.iter().find(|plan| plan.uid == grant.plan));
    by_grant.or_else(|| claimants(world, node).first().copied())
}

pub fn owned<'a>(world: &'a World, before: &UpdateLedgerSpec, plan: &PlanFacts) -> Vec<&'a NodeFacts> {
    let is_owned = |node: &&NodeFacts| owner(world, before, node).is_some_and(|owner| owner.uid == plan.uid);
    world.nodes.iter().filter(is_owned).collect()
}

/// A share of nodes, as a limit.
pub fn limit(limit: IntOrPercent, of: usize) -> usize {
    match limit {
        IntOrPercent::Int(nodes) => nodes as usize,
        IntOrPercent::Percent(percent) => ((of * percent as usize) / 100).max(1),
    }
}

/// A share of nodes, as a size or a threshold.
pub fn share(share: IntOrPercent, of: usize) -> usize {
    match share {
        IntOrPercent::Int(nodes) => nodes as usize,
        IntOrPercent::Percent(percent) => (of * percent as usize).div_ceil(100),
    }
}

/// Whether a plan can be carried out: in these worlds only its version may be none.
pub fn is_valid(plan: &PlanFacts) -> bool {
    version(&plan.spec.target_version).is_some()
}

/// Versions of these worlds are three numbers.
pub fn version(text: &str) -> Option<[u32; 3]> {
    let numbers: Vec<u32> = text.split('.').map_while(|number| number.parse().ok()).collect();
    numbers.try_into().ok()
}

fn is_on(window: &MaintenanceWindow, at: DateTime<Utc>) -> bool {
    if let (Some(start), Some(end)) = (window.start, window.end) {
        return start <= at && at < end;
    }
    let (schedule, duration) = (
        window.schedule.as_ref().unwrap(),
        window.duration.unwrap().delta(),
    );
    let hour: i64 = schedule
        .strip_prefix("0 ")
        .and_then(|rest| rest.strip_suffix(" * * *"))
        .unwrap()
        .parse()
        .unwrap();
    let of_day = i64::from(at.num_seconds_from_midnight()) + i64::from(at.nanosecond() > 0);
    TimeDelta::seconds((of_day - hour * 3600).rem_euclid(86_400)) < duration
}

pub fn is_open(spec: &UpdatePlanSpec, at: DateTime<Utc>) -> bool {
    let open = spec.maintenance_windows.is_empty()
        || spec.maintenance_windows.iter().any(|window| is_on(window, at));
    open && !spec.exclusions.iter().any(|exclusion| is_on(exclusion, at))
}

/// Whether windows are open from `from` until `to`, which itself may be outside: all of these worlds change on whole minutes.
pub fn is_open_until(spec: &UpdatePlanSpec, from: DateTime<Utc>, to: DateTime<Utc>) -> bool {
    let mut at = from;
    while at < to {
        if !is_open(spec, at) {
            return false;
        }
        at = DateTime::from_timestamp((at.timestamp().div_euclid(60) + 1) * 60, 0).unwrap();
    }
    true
}

/// How long the next node of a plan is expected to take.
pub fn needs(plan: &PlanFacts, entry: &PlanEntry) -> TimeDelta {
    let mut took = entry.durations.clone();
    if took.is_empty() {
        return plan.spec.expected_node_duration.delta();
    }
    took.sort_unstable();
    let enough = (took.len() * 9).div_ceil(10) - 1;
    let longest = [
        plan.spec.timeouts.stage,
        plan.spec.drain.timeout,
        plan.spec.timeouts.reboot,
        plan.spec.monitoring.timeout,
    ];
    let longest = longest
        .iter()
        .fold(TimeDelta::zero(), |sum, step| sum + step.delta());
    TimeDelta::seconds(took[enough].into()).min(longest)
}

/// Whether the node was cordoned for this grant while a window was open, and its plan lets it finish.
pub fn may_finish(plan: &PlanFacts, grant: &Grant, node: &NodeFacts) -> bool {
    let cordon = node.disruption.as_ref();
    let ours = cordon.filter(|cordon| (&cordon.run, cordon.attempt) == (&grant.run, grant.attempt));
    plan.spec.on_window_end == OnWindowEnd::Finish
        && ours.is_some_and(|cordon| is_open(&plan.spec, cordon.cordoned_at))
}

pub fn spec(node: &NodeFacts) -> Option<&BottlerocketShadowSpec> {
    node.shadow.as_ref().map(|shadow| &shadow.spec)
}

/// The version that agent and kubelet agree on.
pub fn runs(node: &NodeFacts) -> Option<&str> {
    let reported = node.shadow.as_ref()?.status.as_ref()?.current_version.as_str();
    node.os_image.contains(reported).then_some(reported)
}

pub fn is_disputed(node: &NodeFacts) -> bool {
    let status = node.shadow.as_ref().and_then(|shadow| shadow.status.as_ref());
    status.is_some() && runs(node).is_none()
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
    let Some(shadow) = &node.shadow else { return false };
    let answered = shadow.status.as_ref().is_some_and(|status| {
        status.error.is_none()
            && (status.current_state, &status.run, status.attempt)
                == (shadow.spec.state, &shadow.spec.run, shadow.spec.attempt)
    });
    let in_run = shadow.spec.run.as_ref() == Some(&entry.run);
    let waited = shadow.spec.failure.iter().filter(|_| in_run).all(|failure| {
        let times = (1..failure.count).fold(1, |times, _| times * 2).min(10);
        now - failure.at >= settings.retry_backoff * times
    });
    let older = runs(node).and_then(version) < version(&plan.spec.target_version);
    node.ready
        && node.agent.ready
        && !node.unschedulable
        && node.disruption.is_none()
        && answered
        && waited
        && !given_up(node, plan, &entry.run)
        && shadow.spec.state == NodeState::Idle
        && older
        && runs(node).is_some()
}

/// Whether the run has given the node up.
pub fn given_up(node: &NodeFacts, plan: &PlanFacts, run: &str) -> bool {
    let Some(spec) = spec(node).filter(|spec| spec.run.as_deref() == Some(run)) else {
        return false;
    };
    let Some(failure) = &spec.failure else {
        return false;
    };
    let on_target = runs(node) == Some(plan.spec.target_version.as_str());
    let came_back = on_target
        && node.ready
        && spec.state == NodeState::Idle
        && failure.reason != FailureReason::Unhealthy;
    !came_back && (for_good(node, failure.reason) || failure.count > plan.spec.failure_policy.retries)
}

/// Whether a failure is one of the retries, and of those that halt a plan: a window that closed too early is nobody's fault.
pub fn counts(reason: FailureReason) -> bool {
    reason != FailureReason::PermitExpired
}

/// Whether a grant of the run ends with the failure for which the run gives the node up.
pub fn gives_up(node: &NodeFacts, plan: &PlanFacts, run: &str, grant: &Grant) -> bool {
    let ending = grant.ending.as_ref().filter(|_| grant.run == run);
    let Some((at, reason)) = ending.and_then(|ending| Some((ending.at, ending.failure?))) else {
        return false;
    };
    let so_far = spec(node).filter(|spec| spec.run.as_deref() == Some(run));
    // One that is written down has been counted.
    let count = so_far
        .and_then(|spec| spec.failure.as_ref())
        .map_or(1, |failure| failure.count + u32::from(failure.at != at));
    counts(reason) && (for_good(node, reason) || count > plan.spec.failure_policy.retries)
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

pub fn is_down(node: &NodeFacts, ledger: &UpdateLedgerSpec) -> bool {
    ledger.grants.contains_key(&node.uid) || !node.ready || node.unschedulable
}

/// Where a node is, by its plan's topology: alone where nobody says.
fn domain<'a>(plan: &PlanFacts, node: &'a NodeFacts) -> Option<(bool, &'a str)> {
    let label = node.labels.get(&plan.spec.topology.as_ref()?.key);
    Some(label.map_or((false, node.name.as_str()), |value| (true, value)))
}

/// The domains that these nodes are in, by the plan's topology.
pub fn domains<'a>(
    plan: &PlanFacts,
    nodes: impl IntoIterator<Item = &'a NodeFacts>,
) -> BTreeSet<(bool, &'a str)> {
    nodes.into_iter().filter_map(|node| domain(plan, node)).collect()
}

/// The wave that a node's grant or shadow records for a run.
pub fn recorded<'a>(node: &'a NodeFacts, ledger: &'a UpdateLedgerSpec, run: &str) -> Option<&'a str> {
    let grant = ledger.grants.get(&node.uid).filter(|grant| grant.run == run);
    let in_run = spec(node).filter(|spec| spec.run.as_deref() == Some(run));
    grant
        .map(|grant| grant.wave.as_str())
        .or_else(|| in_run?.wave.as_deref())
}

pub fn before_permit(grant: &Grant) -> bool {
    matches!(grant.phase, GrantPhase::Granted | GrantPhase::Drained)
}

/// How many nodes besides this one have a grant, and ran the operator when they got it, or do now.
pub fn hosts_granted(world: &World, ledger: &UpdateLedgerSpec, but: &str) -> usize {
    let hosts = |uid: &String| {
        world
            .nodes
            .iter()
            .any(|node| node.uid == *uid && node.hosts_operator)
    };
    let others = ledger.grants.iter().filter(|(uid, _)| *uid != but);
    others
        .filter(|(uid, grant)| grant.hosts_operator || hosts(uid))
        .count()
}
