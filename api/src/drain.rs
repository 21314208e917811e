//! Which pods may stay on a node that is about to reboot: one predicate for controller and apiserver.

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::{Pod, Toleration};

use crate::{names, operator::is_operator_pod, time::to_chrono};

/// Why a pod may stay while its node reboots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MayStay {
    /// A static pod: it belongs to the kubelet.
    Mirror,
    /// A DaemonSet's pod: it would be back at once.
    DaemonSet,
    /// A pod that has ended: nothing of it runs.
    Finished,
    /// A pod that came after the cordon because it tolerates it: evicting it again would never end.
    CameBack,
    /// A pod of the operator itself, which must not be what its own work waits for: it is evicted last, and only while
    /// another replica is Ready elsewhere. Where it stays, no reboot is refused for it. One that ends may not stay.
    Operator,
}

/// Whether, and why, a pod may stay on a node that was cordoned at `cordoned_at`, where the operator is installed in
/// `namespace`. None: it must be evicted, and until it is gone the node must not reboot. It follows `kubectl drain
/// --ignore-daemonsets --force --delete-emptydir-data`.
#[must_use]
pub fn may_stay(pod: &Pod, cordoned_at: DateTime<Utc>, namespace: &str) -> Option<MayStay> {
    let metadata = &pod.metadata;
    if metadata
        .annotations
        .as_ref()
        .is_some_and(|a| a.contains_key(names::MIRROR_POD_ANNOTATION))
    {
        return Some(MayStay::Mirror);
    }
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return Some(MayStay::Finished);
    }
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    if owners
        .iter()
        .any(|owner| owner.kind == "DaemonSet" && owner.controller == Some(true))
    {
        return Some(MayStay::DaemonSet);
    }
    let created_after = metadata
        .creation_timestamp
        .as_ref()
        .is_some_and(|at| to_chrono(at) > cordoned_at);
    let tolerations = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default();
    if created_after && tolerations.iter().any(tolerates_cordon) {
        return Some(MayStay::CameBack);
    }
    let ends = metadata.deletion_timestamp.is_some();
    (is_operator_pod(pod, namespace) && !ends).then_some(MayStay::Operator)
}

fn tolerates_cordon(toleration: &Toleration) -> bool {
    let effect = matches!(toleration.effect.as_deref(), None | Some("" | "NoSchedule"));
    let exists = toleration.operator.as_deref() == Some("Exists");
    let key = match toleration.key.as_deref() {
        None | Some("") => exists,
        // The taint has no value, so that `Equal` matches with an empty one.
        Some(names::UNSCHEDULABLE_TAINT) => {
            exists || toleration.value.as_deref().unwrap_or_default().is_empty()
        }
        Some(_) => false,
    };
    effect && key
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;
    use serde_json::{Value, json};

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    fn cordoned_at() -> DateTime<Utc> {
        "2026-11-22T08:00:00Z".parse().unwrap()
    }

    #[test]
    fn who_may_stay() {
        let owned = |kind: &str, controller: bool| {
            json!({"metadata": {"ownerReferences": [
                {"apiVersion": "apps/v1", "kind": kind, "name": "x", "uid": "u", "controller": controller}]}})
        };
        let cases = [
            (
                json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}}),
                Some(MayStay::Mirror),
            ),
            (owned("DaemonSet", true), Some(MayStay::DaemonSet)),
            (owned("DaemonSet", false), None),
            (owned("ReplicaSet", true), None),
            (
                json!({"metadata": {}, "status": {"phase": "Succeeded"}}),
                Some(MayStay::Finished),
            ),
            (json!({"metadata": {}, "status": {"phase": "Running"}}), None),
            (
                json!({"metadata": {"deletionTimestamp": "2026-11-22T08:00:01Z"}}),
                None,
            ),
        ];
        for (value, expected) in cases {
            assert_eq!(
                may_stay(&pod(value.clone()), cordoned_at(), names::DEFAULT_NAMESPACE),
                expected,
                "{value}"
            );
        }
    }

    #[test]
    fn a_pod_that_tolerates_the_cordon_may_stay_only_if_it_came_after_it() {
        let tolerant = |created: &str, toleration: Value| {
            pod(
                json!({"metadata": {"creationTimestamp": created}, "spec": {"containers": [], "tolerations": [toleration]}}),
            )
        };
        let all = json!({"operator": "Exists"});
        assert_eq!(
            may_stay(
                &tolerant("2026-11-22T07:59:59Z", all.clone()),
                cordoned_at(),
                names::DEFAULT_NAMESPACE
            ),
            None
        );
        assert_eq!(
            may_stay(
                &tolerant("2026-11-22T08:00:01Z", all),
                cordoned_at(),
                names::DEFAULT_NAMESPACE
            ),
            Some(MayStay::CameBack)
        );
        let exact =
            json!({"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"});
        assert_eq!(
            may_stay(
                &tolerant("2026-11-22T08:00:01Z", exact),
                cordoned_at(),
                names::DEFAULT_NAMESPACE
            ),
            Some(MayStay::CameBack)
        );
        for other in [
            json!({"key": "dedicated", "operator": "Exists"}),
            json!({"operator": "Exists", "effect": "NoExecute"}),
            json!({"key": "node.kubernetes.io/unschedulable", "value": "x"}),
        ] {
            assert_eq!(
                may_stay(
                    &tolerant("2026-11-22T08:00:01Z", other),
                    cordoned_at(),
                    names::DEFAULT_NAMESPACE
                ),
                None
            );
        }
    }

    #[test]
    fn the_operators_own_pods_may_stay_until_they_end() {
        let own = |more: Value| {
            let mut pod = json!({"metadata": {"namespace": names::DEFAULT_NAMESPACE, "labels": {
                names::NAME_LABEL: names::OPERATOR_NAME, names::COMPONENT_LABEL: names::COMPONENT_APISERVER},
                "creationTimestamp": "2026-11-22T07:59:59Z"}});
            pod["metadata"]
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            may_stay(&self::pod(pod), cordoned_at(), names::DEFAULT_NAMESPACE)
        };
        assert_eq!(own(json!({})), Some(MayStay::Operator));
        assert_eq!(own(json!({"deletionTimestamp": "2026-11-22T08:00:01Z"})), None);
        assert_eq!(own(json!({"namespace": "default"})), None);
    }
}
