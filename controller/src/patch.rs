//! What an action writes. Pure.
//!
//! Every write carries UID and resourceVersion of the object that was decided on: one that has changed since is
//! decided on again.

use api::{
    BottlerocketShadow, UpdatePlan,
    names::{DISRUPTION_ANNOTATION, DO_NOT_DISRUPT_ANNOTATIONS, PLAN_FINALIZER, shadow_name},
    plan::UpdatePlanStatus,
    shadow::{BottlerocketShadowSpec, Disruption},
};
use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::ResourceExt;
use planner::decisions::Action;
use serde_json::{Map, Value, json};

use crate::{events::Note, view::Snapshot};

/// Which object is written. At most one write at a time is under way for each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// A plan, or its status.
    Plan(String),
    /// A node.
    Node(String),
    /// The shadow of this name.
    Shadow(String),
}

/// A request that changes one object.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// A merge patch that puts our finalizer on a plan.
    Hold(Patched),
    /// A merge patch that takes our finalizer from a plan.
    Release(Patched),
    /// A merge patch of a node.
    Node(Patched),
    /// A shadow as it is to be.
    Shadow(Box<BottlerocketShadow>),
    /// A plan with its status as it is to be, and what to publish once it is written.
    Status(Box<UpdatePlan>, Vec<Note>),
}

/// A merge patch and the object that it is for.
#[derive(Clone, Debug, PartialEq)]
pub struct Patched {
    /// The object.
    pub target: Target,
    /// The patch.
    pub patch: Value,
}

/// An object as it was decided on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its version.
    pub version: Option<String>,
}

impl From<&ObjectMeta> for Target {
    fn from(metadata: &ObjectMeta) -> Self {
        Self {
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            version: metadata.resource_version.clone(),
        }
    }
}

impl Write {
    /// What is written.
    #[must_use]
    pub fn key(&self) -> Key {
        match self {
            Self::Hold(patched) | Self::Release(patched) => Key::Plan(patched.target.name.clone()),
            Self::Node(patched) => Key::Node(patched.target.name.clone()),
            Self::Shadow(shadow) => Key::Shadow(shadow.name_any()),
            Self::Status(plan, _) => Key::Plan(plan.name_any()),
        }
    }

    /// What an action writes. None where its object is gone from the snapshot, or is as it should be.
    #[must_use]
    pub fn of(action: Action, snapshot: &Snapshot) -> Option<Self> {
        match action {
            Action::AddFinalizer { plan } => finalizer(snapshot.plans.get(&plan)?, true).map(Self::Hold),
            Action::RemoveFinalizer { plan } => {
                finalizer(snapshot.plans.get(&plan)?, false).map(Self::Release)
            }
            Action::Cordon { node, disruption } => {
                Some(Self::Node(cordon(snapshot.nodes.get(&node)?, &disruption)))
            }
            Action::Uncordon { node, disruption } => {
                Some(Self::Node(uncordon(snapshot.nodes.get(&node)?, &disruption)))
            }
            Action::SetShadow { node, spec } => {
                let stored = snapshot.shadows.get(&shadow_name(&node))?;
                Some(Self::Shadow(Box::new(shadow(stored, spec))))
            }
        }
    }
}

fn patched(metadata: &ObjectMeta, mut changes: Map<String, Value>, more: Value) -> Patched {
    changes.insert("uid".into(), json!(metadata.uid));
    changes.insert("resourceVersion".into(), json!(metadata.resource_version));
    let mut patch = more;
    patch["metadata"] = Value::Object(changes);
    Patched {
        target: metadata.into(),
        patch,
    }
}

fn finalizer(plan: &UpdatePlan, there: bool) -> Option<Patched> {
    let mut finalizers = plan.finalizers().to_vec();
    if finalizers.iter().any(|finalizer| finalizer == PLAN_FINALIZER) == there {
        return None;
    }
    if there {
        finalizers.push(PLAN_FINALIZER.to_owned());
    } else {
        finalizers.retain(|finalizer| finalizer != PLAN_FINALIZER);
    }
    let changes = Map::from_iter([("finalizers".to_owned(), json!(finalizers))]);
    Some(patched(&plan.metadata, changes, json!({})))
}

fn cordon(node: &Node, disruption: &Disruption) -> Patched {
    let mut annotations: Map<String, Value> = DO_NOT_DISRUPT_ANNOTATIONS
        .iter()
        .map(|(key, value)| ((*key).to_owned(), json!(value)))
        .collect();
    annotations.insert(
        DISRUPTION_ANNOTATION.to_owned(),
        json!(json!(disruption).to_string()),
    );
    let changes = Map::from_iter([("annotations".to_owned(), Value::Object(annotations))]);
    patched(&node.metadata, changes, json!({"spec": {"unschedulable": true}}))
}

/// An annotation that no longer says what the cordon made it say was set by somebody else: it stays.
fn uncordon(node: &Node, disruption: &Disruption) -> Patched {
    let mut annotations: Map<String, Value> = disruption
        .annotations_before
        .iter()
        .filter(|(key, _)| {
            let ours = DO_NOT_DISRUPT_ANNOTATIONS
                .iter()
                .find(|(name, _)| name == key)
                .map(|(_, value)| *value);
            ours.is_some() && node.annotations().get(*key).map(String::as_str) == ours
        })
        .map(|(key, before)| (key.clone(), json!(before)))
        .collect();
    annotations.insert(DISRUPTION_ANNOTATION.to_owned(), Value::Null);
    let changes = Map::from_iter([("annotations".to_owned(), Value::Object(annotations))]);
    patched(&node.metadata, changes, json!({"spec": {"unschedulable": null}}))
}

fn shadow(stored: &BottlerocketShadow, spec: BottlerocketShadowSpec) -> BottlerocketShadow {
    BottlerocketShadow {
        metadata: stored.metadata.clone(),
        spec,
        status: stored.status.clone(),
    }
}

/// A plan with another status.
#[must_use]
pub fn status(stored: &UpdatePlan, status: UpdatePlanStatus) -> Write {
    let plan = UpdatePlan {
        status: Some(status),
        ..stored.clone()
    };
    let notes = Note::of_status(stored.status.as_ref(), &plan);
    Write::Status(Box::new(plan), notes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use std::sync::Arc;

    use api::shadow::NodeState;

    use super::*;

    fn disruption(before: Option<&str>) -> Disruption {
        Disruption {
            plan_uid: "p".into(),
            run: "r".into(),
            wave: "w".into(),
            attempt: 1,
            cordoned_at: "2026-11-22T08:00:00.123456Z".parse().unwrap(),
            annotations_before: [
                (
                    "karpenter.sh/do-not-disrupt".to_owned(),
                    before.map(str::to_owned),
                ),
                (
                    "cluster-autoscaler.kubernetes.io/scale-down-disabled".to_owned(),
                    None,
                ),
            ]
            .into(),
        }
    }

    fn snapshot(annotations: &Value) -> Snapshot {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "n", "uid": "u", "resourceVersion": "7", "annotations": annotations}
        }))
        .unwrap();
        Snapshot {
            nodes: [("n".to_owned(), Arc::new(node))].into(),
            ..Snapshot::default()
        }
    }

    fn node_patch(action: Action, snapshot: &Snapshot) -> Value {
        match Write::of(action, snapshot) {
            Some(Write::Node(patched)) => patched.patch,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_cordon_says_whose_it_is_and_keeps_autoscalers_away() {
        let disruption = disruption(None);
        let action = Action::Cordon {
            node: "n".into(),
            disruption: disruption.clone(),
        };
        let patch = node_patch(action, &snapshot(&json!({})));
        assert_eq!(patch["spec"], json!({"unschedulable": true}));
        assert_eq!(
            (&patch["metadata"]["uid"], &patch["metadata"]["resourceVersion"]),
            (&json!("u"), &json!("7"))
        );
        let annotations = &patch["metadata"]["annotations"];
        assert_eq!(annotations["karpenter.sh/do-not-disrupt"], "true");
        let stored: Disruption =
            serde_json::from_str(annotations[DISRUPTION_ANNOTATION].as_str().unwrap()).unwrap();
        assert_eq!(stored, disruption, "to the nanosecond");
    }

    #[test]
    fn s9_an_uncordon_puts_back_what_was_there_and_leaves_what_others_set_since() {
        let action = |before| Action::Uncordon {
            node: "n".into(),
            disruption: disruption(before),
        };
        let ours = json!({"karpenter.sh/do-not-disrupt": "true",
            "cluster-autoscaler.kubernetes.io/scale-down-disabled": "true"});
        let patch = node_patch(action(Some("false")), &snapshot(&ours));
        assert_eq!(patch["spec"], json!({"unschedulable": null}));
        let expected = json!({"karpenter.sh/do-not-disrupt": "false", DISRUPTION_ANNOTATION: null,
            "cluster-autoscaler.kubernetes.io/scale-down-disabled": null});
        assert_eq!(patch["metadata"]["annotations"], expected);
        let theirs = json!({"karpenter.sh/do-not-disrupt": "5m"});
        let patch = node_patch(action(None), &snapshot(&theirs));
        assert_eq!(
            patch["metadata"]["annotations"],
            json!({DISRUPTION_ANNOTATION: null})
        );
    }

    #[test]
    fn a_finalizer_is_added_and_removed_beside_those_of_others() {
        let plan = |finalizers: Value| -> Snapshot {
            let plan: UpdatePlan = serde_json::from_value(json!({
                "apiVersion": "brupop.bottlerocket.aws/v1alpha1", "kind": "UpdatePlan",
                "metadata": {"name": "p", "uid": "u", "resourceVersion": "7", "finalizers": finalizers},
                "spec": {"targetVersion": "1.21.0", "nodeSelector": {}}
            }))
            .unwrap();
            Snapshot {
                plans: [("p".to_owned(), Arc::new(plan))].into(),
                ..Snapshot::default()
            }
        };
        let finalizers = |action: Action, snapshot: &Snapshot| match Write::of(action, snapshot) {
            Some(Write::Hold(patched) | Write::Release(patched)) => {
                Some(patched.patch["metadata"]["finalizers"].clone())
            }
            None => None,
            other => panic!("{other:?}"),
        };
        let add = Action::AddFinalizer { plan: "p".into() };
        let remove = Action::RemoveFinalizer { plan: "p".into() };
        assert_eq!(
            finalizers(add.clone(), &plan(json!(["x"]))),
            Some(json!(["x", PLAN_FINALIZER]))
        );
        assert_eq!(
            finalizers(remove.clone(), &plan(json!(["x", PLAN_FINALIZER]))),
            Some(json!(["x"]))
        );
        assert_eq!(finalizers(add, &plan(json!([PLAN_FINALIZER]))), None);
        assert_eq!(finalizers(remove, &plan(json!([]))), None);
    }

    #[test]
    fn a_shadow_is_replaced_with_everything_else_as_it_was() {
        let stored: BottlerocketShadow = serde_json::from_value(json!({
            "apiVersion": "brupop.bottlerocket.aws/v2", "kind": "BottlerocketShadow",
            "metadata": {"name": "brs-n", "uid": "u", "resourceVersion": "7", "labels": {"a": "b"}},
            "spec": {"state": "StagedAndPerformedUpdate", "version": "1.21.0"}
        }))
        .unwrap();
        let snapshot = Snapshot {
            shadows: [("brs-n".to_owned(), Arc::new(stored))].into(),
            ..Snapshot::default()
        };
        let spec = BottlerocketShadowSpec {
            state: NodeState::Idle,
            ..BottlerocketShadowSpec::default()
        };
        let Some(Write::Shadow(written)) = Write::of(
            Action::SetShadow {
                node: "n".into(),
                spec,
            },
            &snapshot,
        ) else {
            panic!("no write");
        };
        let json = serde_json::to_value(&written).unwrap();
        assert_eq!(json["spec"], json!({"state": "Idle"}));
        assert_eq!(
            json["metadata"],
            json!({"name": "brs-n", "uid": "u", "resourceVersion": "7", "labels": {"a": "b"}})
        );
    }

    #[test]
    fn an_object_that_is_gone_is_not_written() {
        let action = Action::Cordon {
            node: "gone".into(),
            disruption: disruption(None),
        };
        assert_eq!(Write::of(action, &snapshot(&json!({}))), None);
    }
}
