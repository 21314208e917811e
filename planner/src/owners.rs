//! Which plan a node belongs to.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};

use api::{
    ledger::{Grant, PlanEntry, UpdateLedgerSpec},
    names,
    shadow::NodeState,
};
use chrono::{DateTime, Utc};
use kube_core::{Selector, SelectorExt};

use crate::{
    actions, ahead,
    spec::{self, Invalid, ValidPlan},
    waves::Fits,
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
    /// Whether each of them had a grant as this round began.
    pub granted: Vec<bool>,
    /// The waves that would take each of them; none for an invalid plan.
    pub fits: Vec<Fits>,
    /// The nodes that it selects and that belong to another plan, with that plan's name.
    pub lost: Vec<(&'a NodeFacts, &'a str)>,
}

/// What is found as all nodes are gone through once: a fleet does not fit into the processor's caches.
pub(crate) struct Marked<'a> {
    /// The plan of each node that has one, in the order in which nodes are gone through.
    pub plans: Vec<usize>,
    /// Those that have a grant as this round begins, by UID.
    pub granted: HashMap<&'a str, &'a NodeFacts>,
    /// Those that are cordoned by us, or told to do something, by name.
    pub touched: Vec<&'a NodeFacts>,
    /// Those that are told to download ahead of their turn, by name.
    pub ahead: Vec<&'a NodeFacts>,
}

/// Whether a node takes part in updates at all.
pub(crate) fn takes_part(node: &NodeFacts) -> bool {
    node.labels
        .get(names::NODE_LABEL)
        .is_some_and(|value| value == names::NODE_LABEL_VALUE)
}

/// A plan's windows as they are for its run: they know since when it has waited for them, and one that a person wants to run
/// now has none until it is complete; its exclusions stay. A run that is not recorded yet has neither.
pub(crate) fn in_run(valid: ValidPlan, facts: &PlanFacts, entry: Option<&PlanEntry>) -> ValidPlan {
    let entry = entry.filter(|entry| entry.target == valid.target);
    let runs_now =
        entry.is_some_and(|entry| entry.actions.run_now.is_some() && !actions::is_complete(facts, entry));
    let windows = valid
        .windows
        .waiting_since(entry.and_then(|entry| entry.waiting_since))
        .ignored(runs_now);
    ValidPlan { windows, ..valid }
}

/// The plans' selectors, by the first label that each asks for: most plans need not be asked about a node at all.
struct Selectors<'a> {
    /// None: it cannot be read.
    all: Vec<Option<Selector>>,
    /// Whether the first label is all that a plan asks for.
    only_label: Vec<bool>,
    /// Plans that ask for a label of some value, by label and value.
    by_label: HashMap<&'a str, HashMap<&'a str, Vec<usize>>>,
    /// All others.
    others: Vec<usize>,
}

impl<'a> Selectors<'a> {
    fn of(plans: &[Owned<'a>]) -> Self {
        let mut selectors = Self {
            all: Vec::new(),
            only_label: Vec::new(),
            by_label: HashMap::new(),
            others: Vec::new(),
        };
        for (i, plan) in plans.iter().enumerate() {
            let (facts, spec) = (plan.facts, &plan.facts.spec.node_selector);
            selectors.all.push(match &plan.valid {
                Ok(valid) => Some(valid.selector.clone()),
                Err(_) => spec::selector("nodeSelector", &facts.spec.node_selector).ok(),
            });
            let labels = spec.match_labels.as_ref();
            let expressions = spec.match_expressions.as_ref().map_or(0, Vec::len);
            let one = labels.map_or(0, BTreeMap::len) + expressions == 1;
            let readable = selectors.all.last().is_some_and(Option::is_some);
            selectors.only_label.push(one && readable);
            match labels.and_then(|labels| labels.first_key_value()) {
                Some((label, value)) => {
                    let by_value = selectors.by_label.entry(label).or_default();
                    by_value.entry(value).or_default().push(i);
                }
                None => selectors.others.push(i),
            }
        }
        selectors
    }

    /// The plans that select the node, by their place in the list.
    fn that_take(&self, node: &NodeFacts, found: &mut Vec<usize>) {
        if !takes_part(node) {
            return;
        }
        let selects = |i: &&usize| {
            self.all[**i]
                .as_ref()
                .is_some_and(|all| all.matches(&node.labels))
        };
        found.extend(self.others.iter().filter(selects));
        for (label, by_value) in &self.by_label {
            let ask = node
                .labels
                .get(*label)
                .and_then(|value| by_value.get(value.as_str()));
            let ask = ask.into_iter().flatten();
            found.extend(ask.filter(|i| self.only_label[**i] || selects(i)));
        }
        found.sort_unstable();
    }
}

/// Every plan with its nodes: the highest priority first, then the oldest, then by name. A granted node stays with the plan of its grant;
/// any other belongs to the first plan that selects it, whatever state that plan is in.
pub(crate) fn owned<'a>(
    now: DateTime<Utc>,
    world: &'a World,
    ledger: &UpdateLedgerSpec,
) -> (Vec<Owned<'a>>, Marked<'a>) {
    let mut facts: Vec<&PlanFacts> = world.plans.iter().collect();
    let precedence = |plan: &PlanFacts| (Reverse(plan.spec.priority), plan.created);
    facts.sort_by(|a, b| (precedence(a), &a.name, &a.uid).cmp(&(precedence(b), &b.name, &b.uid)));
    let mut plans: Vec<Owned<'a>> = facts
        .into_iter()
        .map(|facts| {
            let valid =
                ValidPlan::parse(&facts.spec).map(|valid| in_run(valid, facts, ledger.plans.get(&facts.uid)));
            let window = valid
                .as_ref()
                .map_or(WindowState::Always, |valid| valid.windows.at(now));
            Owned {
                facts,
                valid,
                window,
                nodes: Vec::new(),
                granted: Vec::new(),
                fits: Vec::new(),
                lost: Vec::new(),
            }
        })
        .collect();
    let selectors = Selectors::of(&plans);
    // Most nodes have no grant: that is found out once for each.
    let grants: HashMap<&str, &Grant> = ledger
        .grants
        .iter()
        .map(|(uid, grant)| (uid.as_str(), grant))
        .collect();
    let index_of: HashMap<&str, usize> = plans
        .iter()
        .enumerate()
        .map(|(i, plan)| (plan.facts.uid.as_str(), i))
        .collect();
    let names: Vec<&'a str> = plans.iter().map(|plan| plan.facts.name.as_str()).collect();
    let mut nodes: Vec<&NodeFacts> = world.nodes.iter().collect();
    nodes.sort_by(|a, b| (&a.name, &a.uid).cmp(&(&b.name, &b.uid)));
    let mut marked = Marked {
        plans: Vec::with_capacity(nodes.len()),
        granted: HashMap::with_capacity(grants.len()),
        touched: Vec::new(),
        ahead: Vec::new(),
    };
    let mut selecting = Vec::new();
    for node in nodes {
        let grant = grants.get(node.uid.as_str());
        let mut owner = grant.and_then(|grant| index_of.get(grant.plan.as_str()).copied());
        if grant.is_some() {
            marked.granted.insert(node.uid.as_str(), node);
        }
        let told = node.shadow.as_ref().map(|shadow| shadow.spec.state);
        if node.disruption.is_some() || told.is_some_and(|state| state != NodeState::Idle) {
            marked.touched.push(node);
        }
        if ahead::asked(node).is_some() {
            marked.ahead.push(node);
        }
        selectors.that_take(node, &mut selecting);
        for i in selecting.drain(..) {
            if owner == Some(i) {
                continue;
            }
            match owner {
                Some(owner) => plans[i].lost.push((node, names[owner])),
                // A plan that is being deleted takes no nodes. One whose grant's plan is gone is counted by the next that
                // selects it, and granted by that when it is free.
                None if !plans[i].facts.deleting => owner = Some(i),
                None => {}
            }
        }
        if let Some(owner) = owner {
            marked.plans.push(owner);
            let plan = &mut plans[owner];
            plan.nodes.push(node);
            plan.granted.push(grant.is_some());
            // While its labels are at hand.
            let fits = plan.valid.as_ref().map(|valid| Fits::of(valid, &node.labels));
            plan.fits.extend(fits);
        }
    }
    (plans, marked)
}
