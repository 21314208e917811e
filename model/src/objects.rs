//! The objects of the Kubernetes API, as the real code reads and writes them.

use std::{collections::BTreeMap, sync::Arc};

use agent::report;
use api::{
    BottlerocketShadow, UpdateLedger, UpdatePlan,
    ledger::{Grant, PlanEntry, UpdateLedgerSpec},
    names::{
        COMPONENT_AGENT, COMPONENT_LABEL, DISRUPTION_ANNOTATION, LEDGER_NAME, NODE_LABEL, NODE_LABEL_VALUE,
        shadow_name,
    },
    shadow::{BottlerocketShadowSpec, Disruption},
};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    config::Config,
    host::Host,
    table::Distinct,
    time::{at, past},
};

/// The version that every object is read at: a write that names it is one over what was read.
pub const VERSION: &str = "1";

macro_rules! distinct_as_json {
    ($($kind:ty),*) => {$(
        impl Distinct for $kind {
            fn key(&self) -> Vec<u8> {
                serde_json::to_vec(self).unwrap_or_default()
            }
        }
    )*};
}
distinct_as_json!(
    UpdatePlan,
    Node,
    BottlerocketShadow,
    Grant,
    PlanEntry,
    UpdateLedgerSpec
);

impl Distinct for String {
    fn key(&self) -> Vec<u8> {
        self.clone().into_bytes()
    }
}

/// An object from what a person would have written.
///
/// # Errors
/// Where it is none of that kind.
pub fn object<T: DeserializeOwned>(value: Value) -> anyhow::Result<T> {
    Ok(serde_json::from_value(value)?)
}

/// UID and name of a node.
#[must_use]
pub fn node_name(n: usize) -> String {
    format!("n{n}")
}

/// UID and name of a plan.
#[must_use]
pub fn plan_name(p: usize) -> String {
    format!("p{p}")
}

/// A plan as it is created.
///
/// # Errors
/// Where the configuration says nothing sensible.
pub fn plan(config: &Config, p: usize) -> anyhow::Result<UpdatePlan> {
    object(json!({
        "apiVersion": "brupop.bottlerocket.aws/v1alpha1", "kind": "UpdatePlan",
        "metadata": {"name": plan_name(p), "uid": plan_name(p), "resourceVersion": VERSION, "generation": 1,
            "creationTimestamp": past() + chrono::TimeDelta::seconds(i64::try_from(p)?)},
        "spec": config.plan_spec(p),
    }))
}

/// A node as it registers.
///
/// # Errors
/// Never, in earnest.
pub fn node(n: usize, host: &Host) -> anyhow::Result<Node> {
    object(json!({
        "metadata": {"name": node_name(n), "uid": node_name(n), "resourceVersion": VERSION,
            "labels": {NODE_LABEL: NODE_LABEL_VALUE, "node": n.to_string()},
            // Somebody's own, to be found again.
            "annotations": {"karpenter.sh/do-not-disrupt": "false"}},
        "spec": {},
        "status": {
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": past()}],
            "nodeInfo": {"bootID": host.boot_id(), "machineID": "", "systemUUID": "", "kernelVersion": "", "osImage": "",
                "containerRuntimeVersion": "", "kubeletVersion": "", "kubeProxyVersion": "", "operatingSystem": "",
                "architecture": ""}}
    }))
}

/// A node's shadow as the apiserver creates it, with the agent's first report.
///
/// # Errors
/// Never, in earnest.
pub fn shadow(n: usize, host: &Host) -> anyhow::Result<BottlerocketShadow> {
    let mut shadow: BottlerocketShadow = object(json!({
        "apiVersion": "brupop.bottlerocket.aws/v2", "kind": "BottlerocketShadow",
        "metadata": {"name": shadow_name(&node_name(n)), "uid": node_name(n), "resourceVersion": VERSION,
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": node_name(n), "uid": node_name(n)}]},
        "spec": BottlerocketShadowSpec::default(),
    }))?;
    shadow.status = Some(report::current(None, &host.facts()));
    Ok(shadow)
}

/// The ledger with this content, as it is read.
#[must_use]
pub fn ledger(spec: UpdateLedgerSpec) -> UpdateLedger {
    let mut ledger = UpdateLedger::new(LEDGER_NAME, spec);
    ledger.metadata.uid = Some(LEDGER_NAME.to_owned());
    ledger.metadata.resource_version = Some(VERSION.to_owned());
    ledger
}

/// The pods of a node: some that may not stay, and one that may.
///
/// # Errors
/// Never, in earnest.
pub fn pods(n: usize, left: u8) -> anyhow::Result<Vec<Pod>> {
    let daemon = json!({
        "metadata": {"namespace": "web", "name": format!("daemon-{n}"), "uid": "daemon",
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "daemon", "uid": "d", "controller": true}]},
        "spec": {"nodeName": node_name(n), "containers": []}, "status": {"phase": "Running"}});
    let mut pods = vec![object(daemon)?];
    for i in 0..left {
        pods.push(object(json!({
            "metadata": {"namespace": "web", "name": format!("web-{n}-{i}"), "uid": i.to_string(),
                "creationTimestamp": at(0)},
            "spec": {"nodeName": node_name(n), "containers": []}, "status": {"phase": "Running"}}))?);
    }
    Ok(pods)
}

/// The agent's pod on a node. It is Ready as long as the node is.
///
/// # Errors
/// Never, in earnest.
pub fn agent_pod(n: usize, ready: bool) -> anyhow::Result<Arc<Pod>> {
    Ok(Arc::new(object(json!({
        "metadata": {"name": format!("agent-{n}"), "labels": {COMPONENT_LABEL: COMPONENT_AGENT}},
        "spec": {"nodeName": node_name(n), "containers": []},
        "status": {"conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
    }))?))
}

/// Whether a node is Ready.
#[must_use]
pub fn is_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .filter(|condition| condition.type_ == "Ready")
        .any(|condition| condition.status == "True")
}

/// Whether a node is cordoned.
#[must_use]
pub fn is_cordoned(node: &Node) -> bool {
    node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true)
}

/// Cordons or uncordons a node, as a person does.
pub fn set_cordoned(node: &mut Node, cordoned: bool) {
    node.spec.get_or_insert_default().unschedulable = cordoned.then_some(true);
}

/// Our annotation on a node.
#[must_use]
pub fn disruption(node: &Node) -> Option<Disruption> {
    let annotations: &BTreeMap<String, String> = node.metadata.annotations.as_ref()?;
    serde_json::from_str(annotations.get(DISRUPTION_ANNOTATION)?).ok()
}

/// A merge patch (RFC 7396), as the Kubernetes API carries it out.
pub fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        into.clone_from(patch);
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            if let Value::Object(into) = into {
                into.remove(key);
            }
        } else {
            merge(&mut into[key], value);
        }
    }
}

/// A plan that was written: a later version. Others are never compared by theirs.
#[must_use]
pub fn next_version(mut plan: UpdatePlan) -> UpdatePlan {
    let version = plan
        .metadata
        .resource_version
        .and_then(|version| version.parse::<u64>().ok());
    plan.metadata.resource_version = version.map(|version| (version + 1).to_string());
    plan
}

/// What a merge patch makes of an object.
///
/// # Errors
/// Where that is none of the kind any more.
pub fn patched<T: Serialize + DeserializeOwned>(object: &T, patch: &Value) -> anyhow::Result<T> {
    let mut value = serde_json::to_value(object)?;
    merge(&mut value, patch);
    Ok(serde_json::from_value(value)?)
}
