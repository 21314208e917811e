//! The reboot permit: fresh reads, a pure decision, one swap of the ledger.

use std::sync::Arc;

use api::{
    UpdateLedger,
    drain::may_stay,
    ledger::{Grant, Permit, PermitRefusal},
    names,
    shadow::Disruption,
    wire::{PermitRequest, PermitResponse},
};
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::{Node, Pod};

use crate::{
    Clock,
    cluster::{CallError, Cluster},
    feed::Feed,
    identity::{Denied, Identity},
    rejection::Rejection,
};

/// How often everything is read again because the ledger was changed in between.
const ATTEMPTS: usize = 10;
/// How many pods a refusal names.
const PODS_NAMED: usize = 10;
/// Longest run or boot ID that is taken.
const LONGEST_ID: usize = 128;

/// What the ledger says: the ledger with the permit in it, to be written over the version that was read, and the grant
/// and permit themselves.
///
/// # Errors
/// The refusal that the agent is told.
pub fn admit(
    ledger: &UpdateLedger,
    node_uid: &str,
    request: &PermitRequest,
    now: DateTime<Utc>,
) -> Result<(UpdateLedger, Grant, Permit), PermitRefusal> {
    let mut ledger = ledger.clone();
    let permit = ledger
        .spec
        .permit(node_uid, &request.run, request.attempt, &request.boot_id, now)?;
    let grant = ledger
        .spec
        .grants
        .get(node_uid)
        .cloned()
        .ok_or(PermitRefusal::NoGrant)?;
    Ok((ledger, grant, permit))
}

/// What the node says: it must be cordoned for this very grant, and empty but for what may stay, where the operator is
/// installed in `namespace`.
///
/// # Errors
/// The refusal that the agent is told.
pub fn check_node(node: &Node, pods: &[Pod], grant: &Grant, namespace: &str) -> Result<(), PermitRefusal> {
    let cordoned_at = cordoned_at(node, grant).ok_or(PermitRefusal::NotCordoned)?;
    let left = pods
        .iter()
        .filter(|pod| may_stay(pod, cordoned_at, namespace).is_none());
    let name = |pod: &Pod| {
        let (namespace, name) = (pod.metadata.namespace.as_deref(), pod.metadata.name.as_deref());
        format!("{}/{}", namespace.unwrap_or_default(), name.unwrap_or_default())
    };
    let pods: Vec<String> = left.take(PODS_NAMED).map(name).collect();
    if pods.is_empty() {
        Ok(())
    } else {
        Err(PermitRefusal::PodsLeft { pods })
    }
}

fn cordoned_at(node: &Node, grant: &Grant) -> Option<DateTime<Utc>> {
    let cordoned = node
        .spec
        .as_ref()
        .and_then(|spec| spec.unschedulable)
        .unwrap_or(false);
    let annotation = node
        .metadata
        .annotations
        .as_ref()?
        .get(names::DISRUPTION_ANNOTATION)?;
    let disruption: Disruption = serde_json::from_str(annotation).ok()?;
    let ours = disruption.plan_uid == grant.plan
        && disruption.run == grant.run
        && disruption.attempt == grant.attempt;
    (cordoned && ours).then_some(disruption.cordoned_at)
}

/// Gives the permit, or says why not. Asked again by the same boot it gives the same one, after the same checks.
///
/// # Errors
/// The refusal, or that nobody can tell now: then the agent asks again.
pub async fn give(
    cluster: &Cluster,
    watched: &Feed<UpdateLedger>,
    clock: &Clock,
    identity: &Identity,
    request: &PermitRequest,
) -> Result<PermitResponse, Rejection> {
    validate(request)?;
    let _turn = cluster.turn_to_swap().await;
    let mut known = watched.get(names::LEDGER_NAME);
    for _ in 0..ATTEMPTS {
        // The ledger is known first: if it is unchanged at the swap, then nothing was withdrawn since before the
        // node was looked at. What the watch shows may be old, so it is believed only where the swap will prove it.
        let admitted = known.take().and_then(|ledger| {
            let admitted = admit(&ledger, &identity.node_uid, request, clock()).ok()?;
            (admitted.0.spec != ledger.spec).then(|| (Arc::unwrap_or_clone(ledger), admitted))
        });
        let (ledger, (swapped, grant, permit)) = match admitted {
            Some(admitted) => admitted,
            None => read(cluster, identity, request, clock).await?,
        };
        let (node, pods) = tokio::try_join!(cluster.node(&identity.node), cluster.pods_on(&identity.node))?;
        let node = same_node(node, identity)?;
        same_pod(&pods, identity)?;
        check_node(&node, &pods, &grant, cluster.namespace()).map_err(Rejection::permit)?;
        if swapped.spec != ledger.spec {
            match cluster.swap_ledger(&swapped).await {
                Ok(written) => watched.answered(written),
                Err(CallError::Conflict | CallError::NotFound) => continue,
                Err(error) => {
                    tracing::warn!(node = identity.node, %error, "it is unknown whether the permit was recorded");
                    return Err(Rejection::unavailable(
                        "it is unknown whether the permit was recorded; ask again",
                    ));
                }
            }
        }
        return response(&grant, permit, clock());
    }
    Err(Rejection::unavailable(
        "the ledger was changed too often meanwhile; ask again",
    ))
}

/// The ledger read afresh, and what it says.
async fn read(
    cluster: &Cluster,
    identity: &Identity,
    request: &PermitRequest,
    clock: &Clock,
) -> Result<(UpdateLedger, (UpdateLedger, Grant, Permit)), Rejection> {
    let Some(ledger) = cluster.ledger().await? else {
        return Err(Rejection::permit(PermitRefusal::NoGrant));
    };
    let admitted = admit(&ledger, &identity.node_uid, request, clock()).map_err(Rejection::permit)?;
    Ok((ledger, admitted))
}

/// What is left of the permit once it is recorded: the time that recording took is not given away.
///
/// # Errors
/// The refusal where the window has closed meanwhile.
pub fn response(grant: &Grant, permit: Permit, now: DateTime<Utc>) -> Result<PermitResponse, Rejection> {
    let valid_for_ms = u64::try_from(grant.permit_validity(now).num_milliseconds()).unwrap_or(0);
    match grant.not_after {
        Some(not_after) if valid_for_ms == 0 => {
            Err(Rejection::permit(PermitRefusal::WindowClosed { not_after }))
        }
        _ => Ok(PermitResponse {
            permit_id: permit.id,
            valid_for_ms,
        }),
    }
}

fn same_node(node: Option<Node>, identity: &Identity) -> Result<Node, Denied> {
    let node = node.ok_or_else(|| Denied::NodeGone {
        node: identity.node.clone(),
    })?;
    if node.metadata.uid.as_deref() == Some(&identity.node_uid) {
        Ok(node)
    } else {
        Err(Denied::NodeReplaced {
            node: identity.node.clone(),
            uid: identity.node_uid.clone(),
        })
    }
}

/// Kubernetes itself remembers for some seconds that a token was good: the pod may be gone meanwhile.
fn same_pod(pods: &[Pod], identity: &Identity) -> Result<(), Denied> {
    let is_there = pods
        .iter()
        .any(|pod| pod.metadata.uid.as_deref() == Some(&identity.pod_uid));
    is_there.then_some(()).ok_or_else(|| Denied::PodGone {
        pod: identity.pod.clone(),
    })
}

fn validate(request: &PermitRequest) -> Result<(), Rejection> {
    for (field, value) in [("run", &request.run), ("boot_id", &request.boot_id)] {
        if value.is_empty() || value.len() > LONGEST_ID {
            let message = format!("{field} {value:?} must have 1 to {LONGEST_ID} characters");
            return Err(Rejection::new(StatusCode::BAD_REQUEST, message));
        }
    }
    Ok(())
}

/// A stable word for the metrics.
#[must_use]
pub fn result_label(result: &Result<PermitResponse, Rejection>) -> &'static str {
    match result {
        Ok(_) => "given",
        Err(Rejection { refusal, status }) => match &refusal.permit {
            None if *status == StatusCode::SERVICE_UNAVAILABLE => "unavailable",
            None => "denied",
            Some(PermitRefusal::NoGrant) => "NoGrant",
            Some(PermitRefusal::OtherAttempt) => "OtherAttempt",
            Some(PermitRefusal::WrongPhase { .. }) => "WrongPhase",
            Some(PermitRefusal::OtherBoot) => "OtherBoot",
            Some(PermitRefusal::WindowClosed { .. }) => "WindowClosed",
            Some(PermitRefusal::NotCordoned) => "NotCordoned",
            Some(PermitRefusal::PodsLeft { .. }) => "PodsLeft",
            Some(PermitRefusal::PermitExpired { .. }) => "PermitExpired",
            Some(PermitRefusal::Stopped) => "Stopped",
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;
    use api::ledger::{GrantPhase, UpdateLedgerSpec};
    use serde_json::{Value, json};

    const NAMESPACE: &str = names::DEFAULT_NAMESPACE;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn grant() -> Grant {
        serde_json::from_value(json!({
            "node": "n1", "plan": "plan", "generation": 1, "run": "r1", "wave": "rest", "attempt": 2,
            "from": "1.20.3", "to": "1.21.0", "phase": "Drained",
            "grantedAt": at(0), "phaseSince": at(0), "notAfter": at(100),
        }))
        .unwrap()
    }

    fn ledger(grant: Grant) -> UpdateLedger {
        let spec = UpdateLedgerSpec {
            grants: [("u1".to_owned(), grant)].into(),
            ..UpdateLedgerSpec::default()
        };
        let mut ledger = UpdateLedger::new(names::LEDGER_NAME, spec);
        ledger.metadata.resource_version = Some("7".to_owned());
        ledger
    }

    fn request() -> PermitRequest {
        PermitRequest {
            run: "r1".into(),
            attempt: 2,
            boot_id: "boot-a".into(),
        }
    }

    fn node(unschedulable: bool, annotation: Option<Value>) -> Node {
        let mut node =
            json!({"metadata": {"name": "n1", "uid": "u1"}, "spec": {"unschedulable": unschedulable}});
        if let Some(annotation) = annotation {
            node["metadata"]["annotations"] = json!({names::DISRUPTION_ANNOTATION: annotation.to_string()});
        }
        serde_json::from_value(node).unwrap()
    }

    fn disruption(plan: &str, run: &str, attempt: u32) -> Option<Value> {
        Some(
            json!({"planUid": plan, "run": run, "wave": "rest", "attempt": attempt,
            "cordonedAt": at(10), "annotationsBefore": {}}),
        )
    }

    fn pod(name: &str, created: i64, more: &Value) -> Pod {
        let mut pod = json!({"metadata": {"namespace": "web", "name": name, "creationTimestamp": at(created)},
            "spec": {"containers": []}, "status": {"phase": "Running"}});
        for (key, value) in more.as_object().unwrap() {
            for (field, value) in value.as_object().unwrap() {
                pod[key][field] = value.clone();
            }
        }
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn s5_only_the_drained_grant_of_this_run_and_attempt_is_admitted_and_only_for_one_boot() {
        let (swapped, granted, permit) = admit(&ledger(grant()), "u1", &request(), at(20)).unwrap();
        assert_eq!(swapped.spec.grants["u1"].phase, GrantPhase::Rebooting);
        assert_eq!(
            swapped.metadata.resource_version.as_deref(),
            Some("7"),
            "over the version that was read, and no other"
        );
        assert_eq!(granted.permit, Some(permit.clone()));
        let again = admit(&swapped, "u1", &request(), at(21)).unwrap();
        assert_eq!(
            (again.0, again.2),
            (swapped.clone(), permit),
            "the same again, and nothing to swap"
        );

        let other_boot = PermitRequest {
            boot_id: "boot-b".into(),
            ..request()
        };
        assert_eq!(
            admit(&swapped, "u1", &other_boot, at(21)).unwrap_err(),
            PermitRefusal::OtherBoot
        );
        let other_attempt = PermitRequest {
            attempt: 1,
            ..request()
        };
        let refused = admit(&ledger(grant()), "u1", &other_attempt, at(20)).unwrap_err();
        assert_eq!(refused, PermitRefusal::OtherAttempt);
        assert_eq!(
            admit(&ledger(grant()), "u2", &request(), at(20)).unwrap_err(),
            PermitRefusal::NoGrant
        );
        let early = Grant {
            phase: GrantPhase::Granted,
            ..grant()
        };
        assert!(matches!(
            admit(&ledger(early), "u1", &request(), at(20)),
            Err(PermitRefusal::WrongPhase { .. })
        ));
        assert!(matches!(
            admit(&ledger(grant()), "u1", &request(), at(100)),
            Err(PermitRefusal::WindowClosed { .. })
        ));
    }

    #[test]
    fn s5_the_node_must_be_cordoned_for_this_grant() {
        assert_eq!(
            check_node(&node(true, disruption("plan", "r1", 2)), &[], &grant(), NAMESPACE),
            Ok(())
        );
        for (why, node) in [
            ("uncordoned", node(false, disruption("plan", "r1", 2))),
            ("cordoned by someone else", node(true, None)),
            (
                "an annotation that is none of ours",
                node(true, Some(json!({"run": "r1"}))),
            ),
            ("another run", node(true, disruption("plan", "r0", 2))),
            ("another attempt", node(true, disruption("plan", "r1", 1))),
            ("another plan", node(true, disruption("other", "r1", 2))),
        ] {
            assert_eq!(
                check_node(&node, &[], &grant(), NAMESPACE),
                Err(PermitRefusal::NotCordoned),
                "{why}"
            );
        }
    }

    #[test]
    fn s5_no_pod_may_be_left_but_those_that_may_stay() {
        let cordoned = node(true, disruption("plan", "r1", 2));
        let tolerates = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        let daemon = json!({"metadata": {"ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "d", "controller": true}]}});
        let staying = [
            pod("daemon", 0, &daemon),
            pod("done", 0, &json!({"status": {"phase": "Succeeded"}})),
            pod("back", 11, &tolerates),
        ];
        assert_eq!(check_node(&cordoned, &staying, &grant(), NAMESPACE), Ok(()));
        let mut pods = staying.to_vec();
        pods.push(pod("app", 0, &json!({})));
        pods.push(pod("there-before", 9, &tolerates));
        let left = vec!["web/app".to_owned(), "web/there-before".to_owned()];
        assert_eq!(
            check_node(&cordoned, &pods, &grant(), NAMESPACE),
            Err(PermitRefusal::PodsLeft { pods: left })
        );
        let many: Vec<Pod> = (0..30).map(|i| pod(&format!("p{i}"), 0, &json!({}))).collect();
        match check_node(&cordoned, &many, &grant(), NAMESPACE) {
            Err(PermitRefusal::PodsLeft { pods }) => assert_eq!(pods.len(), PODS_NAMED),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_operators_own_pods_forbid_no_reboot_until_they_end() {
        let cordoned = node(true, disruption("plan", "r1", 2));
        let own = |more: Value| {
            let mut metadata = json!({"namespace": NAMESPACE, "labels": {
                names::NAME_LABEL: names::OPERATOR_NAME, names::COMPONENT_LABEL: names::COMPONENT_APISERVER}});
            metadata
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            check_node(
                &cordoned,
                &[pod("own", 0, &json!({"metadata": metadata}))],
                &grant(),
                NAMESPACE,
            )
        };
        assert_eq!(own(json!({})), Ok(()));
        let refused = Err(PermitRefusal::PodsLeft {
            pods: vec![format!("{NAMESPACE}/own")],
        });
        assert_eq!(own(json!({"deletionTimestamp": at(15)})), refused);
        let elsewhere = own(json!({"namespace": "web"}));
        assert!(elsewhere.is_err(), "whoever else calls a pod so: {elsewhere:?}");
    }

    #[test]
    fn s4_a_permit_is_void_at_the_close_whatever_time_the_swap_took() {
        let (_, granted, permit) = admit(&ledger(grant()), "u1", &request(), at(20)).unwrap();
        assert_eq!(
            response(&granted, permit.clone(), at(21)).unwrap().valid_for_ms,
            30_000
        );
        assert_eq!(
            response(&granted, permit.clone(), at(98)).unwrap().valid_for_ms,
            2_000
        );
        for late in [at(100), at(500)] {
            let refused = response(&granted, permit.clone(), late).unwrap_err();
            assert_eq!(
                refused.refusal.permit,
                Some(PermitRefusal::WindowClosed { not_after: at(100) })
            );
        }
        let unlimited = Grant {
            not_after: None,
            ..granted
        };
        assert_eq!(
            response(&unlimited, permit, at(500)).unwrap().valid_for_ms,
            30_000
        );
    }

    #[test]
    fn ids_are_checked() {
        assert!(validate(&request()).is_ok());
        for bad in [String::new(), "x".repeat(LONGEST_ID + 1)] {
            let message = validate(&PermitRequest {
                boot_id: bad,
                ..request()
            })
            .unwrap_err()
            .refusal
            .message;
            assert!(message.contains("boot_id"), "{message}");
        }
    }
}
