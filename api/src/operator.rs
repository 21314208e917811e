//! The operator's own pods, those of controller and apiserver: it goes on working while their nodes are updated.
//!
//! The agents' are none of these: a DaemonSet's pods stay anyway.

use k8s_openapi::api::core::v1::Pod;

use crate::names::{COMPONENT_APISERVER, COMPONENT_CONTROLLER, COMPONENT_LABEL, NAME_LABEL, OPERATOR_NAME};

/// Which part of the operator the pod is, by the chart's labels. None: it is no pod of controller or apiserver.
#[must_use]
pub fn component(pod: &Pod) -> Option<&'static str> {
    let labels = pod.metadata.labels.as_ref()?;
    labels.get(NAME_LABEL).filter(|name| *name == OPERATOR_NAME)?;
    let component = labels.get(COMPONENT_LABEL)?;
    [COMPONENT_CONTROLLER, COMPONENT_APISERVER]
        .into_iter()
        .find(|known| known == component)
}

/// Whether the pod is one of controller or apiserver of the install in this namespace.
#[must_use]
pub fn is_operator_pod(pod: &Pod, namespace: &str) -> bool {
    pod.metadata.namespace.as_deref() == Some(namespace) && component(pod).is_some()
}

/// The label selector that finds them in the install's namespace.
#[must_use]
pub fn selector() -> String {
    format!(
        "{NAME_LABEL}={OPERATOR_NAME},{COMPONENT_LABEL} in ({COMPONENT_CONTROLLER},{COMPONENT_APISERVER})"
    )
}

/// Whether one of these pods is a replica of this component that is Ready on another node than this one, and is not
/// about to end.
#[must_use]
pub fn is_ready_elsewhere(wanted: &str, node: &str, pods: &[Pod]) -> bool {
    pods.iter().any(|pod| {
        let runs_on = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        component(pod) == Some(wanted) && runs_on.is_some_and(|on| on != node) && is_ready(pod)
    })
}

/// Whether the pod is Ready, and is not about to end.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    let status = pod.status.iter();
    let mut conditions = status.flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use serde_json::json;

    use super::*;
    use crate::names::{COMPONENT_AGENT, DEFAULT_NAMESPACE};

    fn pod(component: &str, node: Option<&str>, ready: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"namespace": DEFAULT_NAMESPACE, "labels": {
                NAME_LABEL: OPERATOR_NAME, COMPONENT_LABEL: component}},
            "spec": {"nodeName": node, "containers": []},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}}))
        .unwrap()
    }

    #[test]
    fn own_pods_are_those_of_controller_and_apiserver_in_the_installs_namespace() {
        for (component, own) in [
            (COMPONENT_CONTROLLER, true),
            (COMPONENT_APISERVER, true),
            (COMPONENT_AGENT, false),
            ("cart", false),
        ] {
            let pod = pod(component, None, "True");
            assert_eq!(is_operator_pod(&pod, DEFAULT_NAMESPACE), own, "{component}");
            assert!(!is_operator_pod(&pod, "default"), "{component}");
        }
        let mut other = pod(COMPONENT_CONTROLLER, None, "True");
        other
            .metadata
            .labels
            .as_mut()
            .unwrap()
            .insert(NAME_LABEL.to_owned(), "cert-manager".to_owned());
        assert!(
            !is_operator_pod(&other, DEFAULT_NAMESPACE),
            "another operator's controller"
        );
    }

    #[test]
    fn a_replica_elsewhere_is_one_of_the_same_component_that_is_ready_on_another_node_and_stays() {
        let elsewhere = |pod: Pod| is_ready_elsewhere(COMPONENT_APISERVER, "n1", &[pod]);
        assert!(elsewhere(pod(COMPONENT_APISERVER, Some("n2"), "True")));
        for (why, other) in [
            (
                "it is on the same node",
                pod(COMPONENT_APISERVER, Some("n1"), "True"),
            ),
            ("it is on no node yet", pod(COMPONENT_APISERVER, None, "True")),
            ("it is not Ready", pod(COMPONENT_APISERVER, Some("n2"), "False")),
            (
                "it is another component",
                pod(COMPONENT_CONTROLLER, Some("n2"), "True"),
            ),
        ] {
            assert!(!elsewhere(other), "{why}");
        }
        let mut ends = pod(COMPONENT_APISERVER, Some("n2"), "True");
        ends.metadata.deletion_timestamp = Some(crate::time::to_kubernetes(chrono::DateTime::UNIX_EPOCH));
        assert!(!elsewhere(ends), "it ends");
    }
}
