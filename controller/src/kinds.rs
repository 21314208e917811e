//! The kinds that are viewed, and what is kept of each.

use std::collections::BTreeMap;

use api::{BottlerocketShadow, UpdateLedger, UpdatePlan, names, operator};
use k8s_openapi::{
    api::core::v1::{
        Node, NodeCondition, NodeSpec, NodeStatus, NodeSystemInfo, Pod, PodCondition, PodSpec, PodStatus,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::{
    store::{Store, Stored},
    view::{State, Viewed},
};

impl Stored for UpdatePlan {}
impl Viewed for UpdatePlan {
    fn store(state: &mut State) -> &mut Store<Self> {
        &mut state.plans
    }
}

impl Stored for BottlerocketShadow {}
impl Viewed for BottlerocketShadow {
    fn store(state: &mut State) -> &mut Store<Self> {
        &mut state.shadows
    }
}

impl Stored for UpdateLedger {}
impl Viewed for UpdateLedger {
    fn store(state: &mut State) -> &mut Store<Self> {
        &mut state.ledgers
    }
}

impl Stored for Node {
    fn trim(&mut self) {
        let metadata = std::mem::take(&mut self.metadata);
        let ours = |key: &str| {
            key == names::DISRUPTION_ANNOTATION
                || key == names::OPT_OUT_ANNOTATION
                || names::DO_NOT_DISRUPT_ANNOTATIONS
                    .iter()
                    .any(|(name, _)| *name == key)
        };
        self.metadata = ObjectMeta {
            name: metadata.name,
            uid: metadata.uid,
            resource_version: metadata.resource_version,
            labels: metadata.labels,
            annotations: metadata
                .annotations
                .map(|all| {
                    all.into_iter()
                        .filter(|(key, _)| ours(key))
                        .collect::<BTreeMap<_, _>>()
                })
                .filter(|kept| !kept.is_empty()),
            ..ObjectMeta::default()
        };
        self.spec = Some(NodeSpec {
            unschedulable: self
                .spec
                .as_ref()
                .and_then(|spec| spec.unschedulable)
                .filter(|set| *set),
            ..NodeSpec::default()
        });
        let status = self.status.take().unwrap_or_default();
        let ready = status
            .conditions
            .into_iter()
            .flatten()
            .find(|condition| condition.type_ == "Ready");
        self.status = Some(NodeStatus {
            conditions: ready.map(|ready| {
                vec![NodeCondition {
                    type_: ready.type_,
                    status: ready.status,
                    last_transition_time: ready.last_transition_time,
                    ..NodeCondition::default()
                }]
            }),
            node_info: status.node_info.map(|info| NodeSystemInfo {
                boot_id: info.boot_id,
                os_image: info.os_image,
                ..NodeSystemInfo::default()
            }),
            ..NodeStatus::default()
        });
    }
}

impl Viewed for Node {
    fn store(state: &mut State) -> &mut Store<Self> {
        &mut state.nodes
    }
}

impl Stored for Pod {
    fn trim(&mut self) {
        // There are few of these, and many agents.
        let is_agent = operator::component(self).is_none();
        let metadata = std::mem::take(&mut self.metadata);
        self.metadata = ObjectMeta {
            name: metadata.name,
            uid: metadata.uid,
            resource_version: metadata.resource_version,
            deletion_timestamp: metadata.deletion_timestamp,
            labels: metadata.labels.filter(|_| !is_agent),
            ..ObjectMeta::default()
        };
        let node_name = self.spec.take().and_then(|spec| spec.node_name);
        self.spec = Some(PodSpec {
            node_name,
            ..PodSpec::default()
        });
        let conditions = self
            .status
            .take()
            .and_then(|status| status.conditions)
            .unwrap_or_default();
        let ready = conditions
            .into_iter()
            .find(|condition| condition.type_ == "Ready");
        self.status = Some(PodStatus {
            conditions: ready.map(|ready| {
                vec![PodCondition {
                    type_: ready.type_,
                    status: ready.status,
                    last_transition_time: ready.last_transition_time,
                    ..PodCondition::default()
                }]
            }),
            ..PodStatus::default()
        });
    }
}

impl Viewed for Pod {
    fn store(state: &mut State) -> &mut Store<Self> {
        &mut state.own_pods
    }
}
