//! The words of the promises, told anew from the API alone: nothing here asks the planner, its windows, its selectors or
//! its waves for anything.

mod asked;
mod nodes;
mod targets;
mod windows;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use api::{
    ledger::{Grant, GrantPhase, UpdateLedgerSpec},
    names::{NODE_LABEL, NODE_LABEL_VALUE},
    plan::LATEST,
    quantity::IntOrPercent,
    shadow::BottlerocketShadowSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use planner::world::{NodeFacts, PlanFacts, World};

pub use asked::{approves, is_complete, is_gated, retries, runs_now};
pub use nodes::{
    could_start, counts, failure_of_run, given_up, gives_up, is_forgiven, is_left_alone, is_left_out,
    is_stuck, leaves_alone, on_target, outlasted, updated_at,
};
pub use targets::{frozen, is_superseded, kind, newest, target};
pub use windows::{Windows, may_finish, needs};

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
    plan.spec.target_version == LATEST || version(&plan.spec.target_version).is_some()
}

/// Versions of these worlds are three numbers.
pub fn version(text: &str) -> Option<[u32; 3]> {
    let numbers: Vec<u32> = text.split('.').map_while(|number| number.parse().ok()).collect();
    numbers.try_into().ok()
}

/// Whether the first is an older version than the second.
pub fn is_older(one: &str, other: &str) -> bool {
    matches!((version(one), version(other)), (Some(one), Some(other)) if one < other)
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

/// How many of all nodes are unavailable, whoever they belong to: those that take part, and whatever has a grant.
pub fn down_in_install(world: &World, ledger: &UpdateLedgerSpec) -> usize {
    let others = world
        .nodes
        .iter()
        .filter(|node| takes_part(node) && !ledger.grants.contains_key(&node.uid));
    ledger.grants.len() + others.filter(|node| is_down(node, ledger)).count()
}

/// How many of all nodes may be, where the install says so.
pub fn install_limit(world: &World, ledger: &UpdateLedgerSpec) -> Option<usize> {
    let all = world.nodes.iter().filter(|node| takes_part(node)).count();
    ledger.max_unavailable.map(|max| limit(max, all))
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
