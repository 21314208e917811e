//! Which plan a node belongs to.

use std::{cmp::Reverse, collections::HashMap};

use api::{
    ledger::{PlanEntry, UpdateLedgerSpec},
    names,
};
use chrono::{DateTime, Utc};
use kube_core::{Selector, SelectorExt};

use crate::{
    spec::{self, Invalid, ValidPlan},
    windows::WindowState,
    world::{NodeFacts, PlanFacts, World},
};

/// A plan with the nodes that belong to it.
pub(crate) struct Owned<'a> {
    pub facts: &'a PlanFacts,
    pub valid: Result<ValidPlan, Invalid>,
    /// Whether its window is open; `Always` for an invalid plan, which grants nothing anyway.
    pub window: WindowState,
    /// The nodes that belong to it, by name.
    pub nodes: Vec<&'a NodeFacts>,
    /// The nodes that it selects and that belong to another plan, with that plan's name.
    pub lost: Vec<(&'a NodeFacts, String)>,
}

/// Whether a node takes part in updates at all.
pub(crate) fn takes_part(node: &NodeFacts) -> bool {
    node.labels
        .get(names::NODE_LABEL)
        .is_some_and(|value| value == names::NODE_LABEL_VALUE)
}

/// A plan whose windows know since when its run has waited for them; a run that is not recorded yet has not.
fn in_run(valid: ValidPlan, entry: Option<&PlanEntry>) -> ValidPlan {
    let entry = entry.filter(|entry| entry.target == valid.target);
    let windows = valid
        .windows
        .waiting_since(entry.and_then(|entry| entry.waiting_since));
    ValidPlan { windows, ..valid }
}

/// Every plan with its nodes: the highest priority first, then the oldest, then by name. A granted node stays with the
/// plan of its grant; any other belongs to the first plan that selects it, whatever state that plan is in.
pub(crate) fn owned<'a>(now: DateTime<Utc>, world: &'a World, ledger: &UpdateLedgerSpec) -> Vec<Owned<'a>> {
    let mut facts: Vec<&PlanFacts> = world.plans.iter().collect();
    let precedence = |plan: &PlanFacts| (Reverse(plan.spec.priority), plan.created);
    facts.sort_by(|a, b| (precedence(a), &a.name, &a.uid).cmp(&(precedence(b), &b.name, &b.uid)));
    let mut plans: Vec<Owned<'a>> = facts
        .into_iter()
        .map(|facts| {
            let valid =
                ValidPlan::parse(&facts.spec).map(|valid| in_run(valid, ledger.plans.get(&facts.uid)));
            let window = valid
                .as_ref()
                .map_or(WindowState::Always, |valid| valid.windows.at(now));
            Owned {
                facts,
                valid,
                window,
                nodes: Vec::new(),
                lost: Vec::new(),
            }
        })
        .collect();
    let selectors: Vec<Option<Selector>> = plans
        .iter()
        .map(|plan| match &plan.valid {
            Ok(valid) => Some(valid.selector.clone()),
            Err(_) => spec::selector("nodeSelector", &plan.facts.spec.node_selector).ok(),
        })
        .collect();
    let index_of: HashMap<String, usize> = plans
        .iter()
        .enumerate()
        .map(|(i, plan)| (plan.facts.uid.clone(), i))
        .collect();
    let names: Vec<String> = plans.iter().map(|plan| plan.facts.name.clone()).collect();
    let mut nodes: Vec<&NodeFacts> = world.nodes.iter().collect();
    nodes.sort_by(|a, b| (&a.name, &a.uid).cmp(&(&b.name, &b.uid)));
    for node in nodes {
        let granted = ledger
            .grants
            .get(&node.uid)
            .map(|grant| index_of.get(&grant.plan).copied());
        let mut owner = granted.flatten();
        for (i, selector) in selectors.iter().enumerate() {
            let selects = takes_part(node) && selector.as_ref().is_some_and(|s| s.matches(&node.labels));
            if !selects || owner == Some(i) {
                continue;
            }
            match owner {
                Some(owner) => plans[i].lost.push((node, names[owner].clone())),
                // A plan that is being deleted takes no nodes. One whose grant's plan is gone is counted by the next that
                // selects it, and granted by that when it is free.
                None if !plans[i].facts.deleting => owner = Some(i),
                None => {}
            }
        }
        if let Some(owner) = owner {
            plans[owner].nodes.push(node);
        }
    }
    plans
}
