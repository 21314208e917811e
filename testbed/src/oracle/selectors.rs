//! Which nodes a plan is for.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use api::{UpdatePlan, names};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::history::State;

type Labels = BTreeMap<String, String>;

/// Whether a selector selects these labels.
#[must_use]
pub fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let by_label = selector
        .match_labels
        .iter()
        .flatten()
        .all(|(key, value)| labels.get(key) == Some(value));
    let by_expression = selector.match_expressions.iter().flatten().all(|requirement| {
        let value = labels.get(&requirement.key);
        let listed =
            value.is_some_and(|value| requirement.values.iter().flatten().any(|listed| listed == value));
        match requirement.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    });
    by_label && by_expression
}

/// Whether the node takes part in updates at all.
#[must_use]
pub fn takes_part(node: &Node) -> bool {
    let label = node
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(names::NODE_LABEL));
    label.map(String::as_str) == Some(names::NODE_LABEL_VALUE)
}

/// Whether the plan selects the node, whoever owns it.
#[must_use]
pub fn plan_selects(plan: &UpdatePlan, node: &Node) -> bool {
    let none = Labels::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    takes_part(node) && selects(&plan.spec.node_selector, labels)
}

/// Whether `one` comes before `other` where both select a node: by priority, then age, then name.
#[must_use]
pub fn comes_before(one: &UpdatePlan, other: &UpdatePlan) -> bool {
    let precedence = |plan: &UpdatePlan| {
        let created = plan.metadata.creation_timestamp.as_ref().map(|created| created.0);
        (Reverse(plan.spec.priority), created, plan.metadata.name.clone())
    };
    precedence(one) < precedence(other)
}

/// Whether the plan owns the node: it has its grant, or, where there is none, comes first of all that select it.
/// `plan` stands for the live one of its UID.
#[must_use]
pub fn owned_by(plan: &UpdatePlan, node: &Node, state: &State, namespace: &str) -> bool {
    let granted = node
        .metadata
        .uid
        .as_ref()
        .and_then(|uid| state.ledger(namespace)?.spec.grants.get(uid));
    if let Some(grant) = granted {
        return plan.metadata.uid.as_ref() == Some(&grant.plan);
    }
    if !plan_selects(plan, node) {
        return false;
    }
    let others = state
        .plans
        .values()
        .filter(|other| other.metadata.uid != plan.metadata.uid);
    others
        .filter(|other| plan_selects(other, node))
        .all(|other| comes_before(plan, other))
}
