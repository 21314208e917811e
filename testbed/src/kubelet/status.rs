//! The JSON of node and pod statuses, pure.

use chrono::{DateTime, SecondsFormat, Utc};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};
use serde_json::{Value, json};

use super::node::{BootFacts, NodeFacts};

const KUBELET_VERSION: &str = "v1.33.4-eks-1a2b3c4";

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// What Kubernetes calls the architecture.
fn architecture(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The Node as it is registered.
pub(super) fn node(facts: &NodeFacts, boot: &BootFacts) -> Value {
    let arch = architecture(&boot.image.arch);
    let mut labels = json!({
        "kubernetes.io/hostname": facts.name,
        "kubernetes.io/arch": arch,
        "kubernetes.io/os": "linux",
    });
    if let Some(labels) = labels.as_object_mut() {
        labels.extend(
            facts
                .labels
                .iter()
                .map(|(name, value)| (name.clone(), value.clone().into())),
        );
    }
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": facts.name, "labels": labels },
        "spec": { "providerID": format!("testbed:///{}", facts.machine_id) },
    })
}

/// The status of a node that has just booted and is ready.
pub(super) fn node_status(facts: &NodeFacts, boot: &BootFacts, now: DateTime<Utc>) -> Value {
    let resources = json!({ "cpu": "16", "memory": "64Gi", "pods": "110", "ephemeral-storage": "100Gi" });
    let fine = |type_: &str, reason: &str| {
        json!({
            "type": type_,
            "status": "False",
            "reason": reason,
            "message": "",
            "lastHeartbeatTime": time(now),
            "lastTransitionTime": time(now),
        })
    };
    json!({
        "capacity": resources,
        "allocatable": resources,
        "addresses": [
            { "type": "InternalIP", "address": facts.address },
            { "type": "Hostname", "address": facts.name },
        ],
        "conditions": [
            fine("MemoryPressure", "KubeletHasSufficientMemory"),
            fine("DiskPressure", "KubeletHasNoDiskPressure"),
            fine("PIDPressure", "KubeletHasSufficientPID"),
            ready_condition(true, "KubeletReady", "kubelet is posting ready status", now),
        ],
        "nodeInfo": {
            "architecture": architecture(&boot.image.arch),
            "bootID": boot.boot_id,
            "containerRuntimeVersion": "containerd://2.0.5+bottlerocket",
            "kernelVersion": "6.12.37",
            "kubeProxyVersion": "",
            "kubeletVersion": KUBELET_VERSION,
            "machineID": facts.machine_id,
            "operatingSystem": "linux",
            "osImage": format!("Bottlerocket OS {} ({})", boot.image.version, boot.image.variant),
            "systemUUID": facts.machine_id,
        },
    })
}

/// A node's Ready condition.
pub(super) fn ready_condition(ready: bool, reason: &str, message: &str, now: DateTime<Utc>) -> Value {
    json!({
        "type": "Ready",
        "status": if ready { "True" } else { "False" },
        "reason": reason,
        "message": message,
        "lastHeartbeatTime": time(now),
        "lastTransitionTime": time(now),
    })
}

/// How a pod's containers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Containers {
    /// Whether they run.
    pub running: bool,
    /// Since when they run.
    pub started: DateTime<Utc>,
    /// How often they were started again.
    pub restarts: i32,
    /// The pod's address.
    pub address: String,
    /// Its node's address.
    pub host: String,
}

/// Whether the pod's status says this already.
pub(super) fn shows(pod: &Pod, containers: &Containers) -> bool {
    let Some(status) = &pod.status else {
        return false;
    };
    let wanted = if containers.running { "True" } else { "False" };
    status.phase.as_deref() == Some("Running")
        && condition(pod, "Ready").is_some_and(|ready| ready.status == wanted)
        && restarts(pod) == Some(containers.restarts)
        && status.pod_ip.as_ref() == Some(&containers.address)
}

/// How often the pod's containers were started again; none where they never were started.
pub(super) fn restarts(pod: &Pod) -> Option<i32> {
    let containers: &[ContainerStatus] = pod.status.as_ref()?.container_statuses.as_deref()?;
    containers
        .iter()
        .filter(|container| container.started == Some(true))
        .map(|c| c.restart_count)
        .max()
}

/// The pod's status.
pub(super) fn pod_status(pod: &Pod, containers: &Containers, now: DateTime<Utc>) -> Value {
    let Containers {
        running,
        started,
        restarts,
        address,
        host,
    } = containers;
    let at = |type_: &str, holds: bool| {
        let status = if holds { "True" } else { "False" };
        let unchanged = condition(pod, type_).filter(|known| known.status == status);
        let since = unchanged.and_then(|known| serde_json::to_value(&known.last_transition_time).ok());
        let mut condition = json!({
            "type": type_,
            "status": status,
            "lastTransitionTime": since.unwrap_or_else(|| time(now).into()),
            "reason": null,
            "message": null,
        });
        if !holds {
            condition["reason"] = "ContainersNotReady".into();
        }
        condition
    };
    let state = if *running {
        json!({ "running": { "startedAt": time(*started) } })
    } else {
        json!({ "waiting": { "reason": "CrashLoopBackOff" } })
    };
    let specs = pod.spec.iter().flat_map(|spec| &spec.containers);
    let statuses: Vec<Value> = specs
        .map(|container| {
            let image = container.image.clone().unwrap_or_default();
            json!({
                "name": container.name,
                "image": image,
                "imageID": image,
                "ready": running,
                "started": true,
                "restartCount": restarts,
                "state": state,
            })
        })
        .collect();
    let start = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    json!({
        "phase": "Running",
        "hostIP": host,
        // Merged by address otherwise, and a pod that is started again has another one; so has a node that was replaced.
        "hostIPs": [{ "$patch": "replace" }, { "ip": host }],
        "podIP": address,
        "podIPs": [{ "$patch": "replace" }, { "ip": address }],
        "startTime": start.and_then(|start| serde_json::to_value(start).ok()).unwrap_or_else(|| time(*started).into()),
        "conditions": [
            at("PodReadyToStartContainers", true),
            at("Initialized", true),
            at("Ready", *running),
            at("ContainersReady", *running),
        ],
        "containerStatuses": statuses,
    })
}

fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status
        .as_ref()?
        .conditions
        .as_ref()?
        .iter()
        .find(|condition| condition.type_ == type_)
}
