//! S1 for what is no plan's and no wave's own number: domains.

use std::collections::BTreeSet;

use planner::world::{NodeFacts, PlanFacts};

/// Nodes of at most so many domains are unavailable where the plan has just granted.
pub fn domains<'a>(plan: &PlanFacts, down: impl Iterator<Item = &'a NodeFacts>) {
    let Some(topology) = &plan.spec.topology else {
        return;
    };
    let domain = |node: &NodeFacts| match node.labels.get(&topology.key) {
        Some(value) => format!("label {value}"),
        None => format!("node {}", node.name),
    };
    let busy: BTreeSet<String> = down.map(domain).collect();
    assert!(
        busy.len() <= topology.max_domains as usize,
        "S1: nodes of {busy:?} are unavailable, at most {} domains of {} may",
        topology.max_domains,
        plan.name
    );
}
