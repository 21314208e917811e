//! What a Node says of itself.

use api::{BottlerocketShadow, names};
use k8s_openapi::api::core::v1::Node;

/// The UID of the Node that a shadow belongs to.
#[must_use]
pub fn owner_uid(shadow: &BottlerocketShadow) -> Option<&str> {
    let owners = shadow.metadata.owner_references.as_deref().unwrap_or_default();
    owners
        .iter()
        .find(|owner| owner.kind == "Node")
        .map(|owner| owner.uid.as_str())
}

/// Whether condition Ready is True.
#[must_use]
pub fn is_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    conditions
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether the node is cordoned, by anyone.
#[must_use]
pub fn is_cordoned(node: &Node) -> bool {
    node.spec
        .as_ref()
        .and_then(|spec| spec.unschedulable)
        .unwrap_or(false)
}

/// The value of an annotation.
#[must_use]
pub fn annotation<'a>(node: &'a Node, name: &str) -> Option<&'a str> {
    node.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// Whether the node has our annotation.
#[must_use]
pub fn is_ours(node: &Node) -> bool {
    annotation(node, names::DISRUPTION_ANNOTATION).is_some()
}

/// Whether somebody has taken the node out of all updates.
#[must_use]
pub fn has_opted_out(node: &Node) -> bool {
    annotation(node, names::OPT_OUT_ANNOTATION).is_some()
}

/// Whether workloads can be on it.
#[must_use]
pub fn is_available(node: &Node) -> bool {
    is_ready(node) && !is_cordoned(node)
}
