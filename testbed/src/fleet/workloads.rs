//! Deployments and PodDisruptionBudgets that run on a fleet.

use anyhow::{Context as _, Result};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::WorkloadSpec;

/// Who owns the fields that we apply.
const MANAGER: &str = "testbed-fleet";

/// Makes the workload's objects, or changes them to what the description says.
pub(super) async fn apply(client: &Client, spec: &WorkloadSpec) -> Result<()> {
    let WorkloadSpec { name, namespace, .. } = spec;
    let parameters = PatchParams::apply(MANAGER).force();
    let made = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } });
    Api::<Namespace>::all(client.clone())
        .patch(namespace, &parameters, &Patch::Apply(&made))
        .await
        .with_context(|| format!("making the namespace of workload {name}"))?;
    Api::<Deployment>::namespaced(client.clone(), namespace)
        .patch(name, &parameters, &Patch::Apply(&deployment(spec)))
        .await
        .with_context(|| format!("making the Deployment {namespace}/{name}"))?;
    if let Some(budget) = budget(spec) {
        Api::<PodDisruptionBudget>::namespaced(client.clone(), namespace)
            .patch(name, &parameters, &Patch::Apply(&budget))
            .await
            .with_context(|| format!("making the PodDisruptionBudget {namespace}/{name}"))?;
    }
    Ok(())
}

fn deployment(spec: &WorkloadSpec) -> Value {
    let WorkloadSpec {
        name,
        replicas,
        node_selector,
        ..
    } = spec;
    let spread = |key: &str| {
        json!({
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": { "matchLabels": { "app": name } },
        })
    };
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": name },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": {
                    "nodeSelector": node_selector,
                    "topologySpreadConstraints": [
                        spread("kubernetes.io/hostname"),
                        spread("topology.kubernetes.io/zone"),
                    ],
                    "containers": [{
                        "name": name,
                        "image": format!("registry.invalid/{name}:1"),
                        "resources": { "requests": { "cpu": "100m", "memory": "64Mi" } },
                    }],
                },
            },
        },
    })
}

fn budget(spec: &WorkloadSpec) -> Option<Value> {
    let WorkloadSpec {
        name,
        min_available,
        max_unavailable,
        ..
    } = spec;
    let mut limits = json!({ "selector": { "matchLabels": { "app": name } } });
    match (min_available, max_unavailable) {
        (Some(limit), _) => limits["minAvailable"] = serde_json::to_value(limit).ok()?,
        (None, Some(limit)) => limits["maxUnavailable"] = serde_json::to_value(limit).ok()?,
        (None, None) => return None,
    }
    Some(json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": { "name": name },
        "spec": limits,
    }))
}
