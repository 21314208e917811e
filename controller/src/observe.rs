//! A snapshot as the planner's world. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};

use api::{
    BottlerocketShadow, UpdateLedger, UpdatePlan,
    names::{
        APPROVE_ANNOTATION, DISRUPTION_ANNOTATION, DO_NOT_DISRUPT_ANNOTATIONS, NODE_LABEL, NODE_LABEL_VALUE,
        OPT_OUT_ANNOTATION, REASON_ANNOTATION, RETRY_ANNOTATION, RUN_NOW_ANNOTATION, shadow_name,
    },
    operator,
    shadow::Disruption,
    text::one_line,
    time::to_chrono,
};
use chrono::{DateTime, Utc};
use k8s_openapi::{
    api::core::v1::{Node, NodeCondition, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::ResourceExt;
use planner::world::{AgentFacts, NodeFacts, PlanFacts, Settings, ShadowFacts, World};

use crate::{finalizers, view::Snapshot};

/// How much of a reason to opt out is shown.
const LONGEST_REASON: usize = 128;

/// What is shown where there is none.
const NO_REASON: &str = "no reason given";

/// What the planner is told of a snapshot.
#[must_use]
pub fn world(snapshot: &Snapshot, settings: Settings) -> World {
    let agents = agents_by_node(snapshot);
    let hosts = hosts_of_the_operator(snapshot);
    let granted = |node: &Node| {
        let uid = node.metadata.uid.as_deref().unwrap_or_default();
        snapshot
            .ledger
            .as_ref()
            .is_some_and(|ledger| ledger.spec.grants.contains_key(uid))
    };
    let nodes = snapshot.nodes.values().filter(|node| {
        has_label(node) || node.annotations().contains_key(DISRUPTION_ANNOTATION) || granted(node)
    });
    World {
        plans: snapshot
            .plans
            .values()
            .map(|plan| plan_facts(plan, snapshot.ledger.as_deref()))
            .collect(),
        nodes: nodes
            .map(|node| node_facts(node, snapshot, &agents, &hosts))
            .collect(),
        ledger: snapshot.ledger.as_ref().map(|ledger| ledger.spec.clone()),
        clock_skew: snapshot.clock_skew,
        settings,
    }
}

/// Whether a node takes part in updates.
#[must_use]
pub fn has_label(node: &Node) -> bool {
    node.labels()
        .get(NODE_LABEL)
        .is_some_and(|value| value == NODE_LABEL_VALUE)
}

fn plan_facts(plan: &UpdatePlan, ledger: Option<&UpdateLedger>) -> PlanFacts {
    PlanFacts {
        name: plan.name_any(),
        uid: plan.uid().unwrap_or_default(),
        generation: plan.metadata.generation.unwrap_or_default(),
        created: plan
            .metadata
            .creation_timestamp
            .as_ref()
            .map(to_chrono)
            .unwrap_or_default(),
        deleting: plan.metadata.deletion_timestamp.is_some(),
        finalizer: finalizers::holds(plan, ledger),
        annotations: asked(plan),
        spec: plan.spec.clone(),
        status: plan.status.clone().unwrap_or_default(),
    }
}

/// The annotations by which people ask something of a run.
fn asked(plan: &UpdatePlan) -> BTreeMap<String, String> {
    let ours = [
        APPROVE_ANNOTATION,
        REASON_ANNOTATION,
        RETRY_ANNOTATION,
        RUN_NOW_ANNOTATION,
    ];
    plan.annotations()
        .iter()
        .filter(|(key, _)| ours.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Why the node takes no part in updates, where somebody says so. That the annotation is there says it, whatever it holds:
/// who leaves the reason away still does not want the node rebooted.
fn opt_out(node: &Node) -> Option<String> {
    let why = one_line(node.annotations().get(OPT_OUT_ANNOTATION)?.trim(), LONGEST_REASON);
    Some(if why.is_empty() { NO_REASON.to_owned() } else { why })
}

fn node_facts(
    node: &Node,
    snapshot: &Snapshot,
    agents: &HashMap<&str, AgentFacts>,
    hosts: &HashSet<&str>,
) -> NodeFacts {
    let name = node.name_any();
    let uid = node.uid().unwrap_or_default();
    let (ready, ready_changed) = ready(node);
    let disruption = disruption(node);
    let drain = snapshot
        .drains
        .get(&uid)
        .filter(|drained| {
            disruption
                .as_ref()
                .is_some_and(|cordon| cordon.cordoned_at == drained.cordoned_at)
        })
        .map(|drained| drained.facts.clone());
    let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
    NodeFacts {
        labels: node.labels().clone(),
        annotations: kept_annotations(node),
        ready,
        ready_changed,
        unschedulable: node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true),
        disruption,
        opt_out: opt_out(node),
        boot_id: info.map(|info| info.boot_id.clone()).unwrap_or_default(),
        os_image: info.map(|info| info.os_image.clone()).unwrap_or_default(),
        shadow: snapshot
            .shadows
            .get(&shadow_name(&name))
            .and_then(|shadow| shadow_facts(shadow, &uid)),
        agent: agents.get(name.as_str()).copied().unwrap_or_default(),
        hosts_operator: hosts.contains(name.as_str()),
        drain,
        name,
        uid,
    }
}

fn kept_annotations(node: &Node) -> BTreeMap<String, String> {
    let ours = |key: &str| DO_NOT_DISRUPT_ANNOTATIONS.iter().any(|(name, _)| *name == key);
    node.annotations()
        .iter()
        .filter(|(key, _)| ours(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Our annotation. One that cannot be read was not written by us: it is left alone.
#[must_use]
pub fn disruption(node: &Node) -> Option<Disruption> {
    node.annotations()
        .get(DISRUPTION_ANNOTATION)
        .and_then(|json| serde_json::from_str(json).ok())
}

fn ready(node: &Node) -> (bool, Option<DateTime<Utc>>) {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    conditions
        .iter()
        .find(|condition| condition.type_ == "Ready")
        .map_or((false, None), |condition| {
            (
                condition.status == "True",
                condition.last_transition_time.as_ref().map(to_chrono),
            )
        })
}

/// A shadow that belongs to an earlier node of the same name says nothing about this one.
fn shadow_facts(shadow: &BottlerocketShadow, node_uid: &str) -> Option<ShadowFacts> {
    let ours = shadow
        .owner_references()
        .iter()
        .any(|owner| owner.uid == node_uid);
    ours.then(|| ShadowFacts {
        spec: shadow.spec.clone(),
        status: shadow.status.clone(),
    })
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

/// Whether the node is Ready, and nobody has cordoned it.
#[must_use]
pub fn takes_pods(node: &Node) -> bool {
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref());
    let ready = |condition: &NodeCondition| condition.type_ == "Ready" && condition.status == "True";
    !cordoned && conditions.unwrap_or_default().iter().any(ready)
}

/// The nodes on which a pod of controller or apiserver is to stay. One that is not Ready yet counts: it will be.
fn hosts_of_the_operator(snapshot: &Snapshot) -> HashSet<&str> {
    let pods = snapshot.own_pods.values();
    let stay =
        pods.filter(|pod| operator::component(pod).is_some() && pod.metadata.deletion_timestamp.is_none());
    stay.filter_map(|pod| node_of(pod)).collect()
}

/// Of the operator's pods, which are all that is watched, those that are no other part of it.
fn agents_by_node(snapshot: &Snapshot) -> HashMap<&str, AgentFacts> {
    let mut agents = HashMap::<&str, AgentFacts>::new();
    for pod in snapshot.own_pods.values() {
        let Some(node) = node_of(pod).filter(|_| operator::component(pod).is_none()) else {
            continue;
        };
        let facts = agent_facts(pod);
        agents
            .entry(node)
            .and_modify(|best| *best = better(*best, facts))
            .or_insert(facts);
    }
    agents
}

fn agent_facts(pod: &Pod) -> AgentFacts {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    let condition = conditions.iter().find(|condition| condition.type_ == "Ready");
    let condition_holds = condition.is_some_and(|condition| condition.status == "True");
    let since: Option<&Time> = condition.and_then(|condition| condition.last_transition_time.as_ref());
    let terminating = pod.metadata.deletion_timestamp.is_some();
    AgentFacts {
        ready: condition_holds && !terminating,
        // A pod that is still Ready while it ends does not say since when it is not counted.
        since: since.filter(|_| !(condition_holds && terminating)).map(to_chrono),
    }
}

/// Of two agent pods on one node, as during an update of the DaemonSet: the one that is Ready, then the later.
fn better(a: AgentFacts, b: AgentFacts) -> AgentFacts {
    if (b.ready, b.since) > (a.ready, a.since) {
        b
    } else {
        a
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use std::sync::Arc;

    use api::names::PLAN_FINALIZER;
    use chrono::TimeDelta;
    use planner::world::DrainFacts;
    use serde_json::{Value, json};

    use super::*;
    use crate::{store::Stored as _, view::Drained};

    const CORDON: &str = "2026-11-22T08:00:00.123456Z";

    fn node(name: &str, uid: &str, more: Value) -> Node {
        let mut node =
            json!({"metadata": {"name": name, "uid": uid, "labels": {}, "annotations": {}}, "spec": {}});
        merge(&mut node, more);
        serde_json::from_value(node).unwrap()
    }

    fn merge(into: &mut Value, more: Value) {
        match (into, more) {
            (Value::Object(into), Value::Object(more)) => {
                more.into_iter()
                    .for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
            }
            (into, more) => *into = more,
        }
    }

    fn labelled() -> Value {
        json!({"metadata": {"labels": {NODE_LABEL: NODE_LABEL_VALUE}}})
    }

    fn cordon() -> Value {
        let annotation = json!({"planUid": "p", "run": "r", "wave": "w", "attempt": 1, "cordonedAt": CORDON,
            "annotationsBefore": {}});
        json!({"metadata": {"annotations": {DISRUPTION_ANNOTATION: annotation.to_string()}}})
    }

    fn snapshot(nodes: impl IntoIterator<Item = Node>) -> Snapshot {
        // As the view keeps them: what it drops nobody is told.
        let kept = nodes.into_iter().map(|mut node| {
            node.trim();
            (node.name_any(), Arc::new(node))
        });
        let nodes = kept.collect();
        Snapshot {
            nodes,
            ..Snapshot::default()
        }
    }

    fn only(snapshot: &Snapshot) -> NodeFacts {
        let mut nodes = world(snapshot, Settings::default()).nodes;
        assert_eq!(nodes.len(), 1);
        nodes.remove(0)
    }

    #[test]
    fn nodes_are_those_with_the_label_a_grant_or_our_annotation() {
        let other = json!({"metadata": {"labels": {NODE_LABEL: "1.0.0"}}});
        let nodes = [
            node("label", "1", labelled()),
            node("other", "2", other),
            node("granted", "3", json!({})),
            node("annotated", "4", cordon()),
        ];
        let mut snapshot = snapshot(nodes);
        let grant = json!({"node": "granted", "plan": "p", "generation": 1, "run": "r", "wave": "w", "attempt": 1,
            "from": "1.0.0", "to": "1.1.0", "phase": "Granted", "grantedAt": CORDON, "phaseSince": CORDON});
        let ledger: UpdateLedger = serde_json::from_value(json!({
            "apiVersion": "brupop.bottlerocket.aws/v1alpha1", "kind": "UpdateLedger",
            "metadata": {"name": "cluster"}, "spec": {"plans": {}, "grants": {"3": grant}}
        }))
        .unwrap();
        snapshot.ledger = Some(Arc::new(ledger));
        let world = world(&snapshot, Settings::default());
        let names: Vec<_> = world.nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["annotated", "granted", "label"]);
        assert_eq!(world.ledger.unwrap().grants.len(), 1);
    }

    #[test]
    fn a_node_says_what_it_is() {
        let more = json!({
            "metadata": {"labels": {NODE_LABEL: NODE_LABEL_VALUE, "pool": "web"},
                "annotations": {"karpenter.sh/do-not-disrupt": "false", "volumes": "x"}},
            "spec": {"unschedulable": true},
            "status": {
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-22T08:00:00Z"}],
                "nodeInfo": {"bootID": "boot", "machineID": "", "systemUUID": "", "kernelVersion": "",
                    "osImage": "Bottlerocket OS 1.20.3 (aws-k8s-1.33)",
                    "containerRuntimeVersion": "", "kubeletVersion": "", "kubeProxyVersion": "",
                    "operatingSystem": "", "architecture": ""}
            }
        });
        let facts = only(&snapshot([node("n", "u", more)]));
        assert_eq!(
            (facts.name.as_str(), facts.uid.as_str(), facts.boot_id.as_str()),
            ("n", "u", "boot")
        );
        assert_eq!(facts.os_image, "Bottlerocket OS 1.20.3 (aws-k8s-1.33)");
        assert_eq!(facts.labels["pool"], "web");
        assert_eq!(
            facts.annotations,
            [("karpenter.sh/do-not-disrupt".into(), "false".into())].into()
        );
        assert!(facts.ready && facts.unschedulable && facts.disruption.is_none());
        assert_eq!(
            facts.ready_changed.unwrap().to_rfc3339(),
            "2026-11-22T08:00:00+00:00"
        );
    }

    #[test]
    fn a_node_without_a_ready_condition_is_not_ready() {
        let facts = only(&snapshot([node("n", "u", labelled())]));
        assert_eq!((facts.ready, facts.ready_changed), (false, None));
    }

    #[test]
    fn an_annotation_that_cannot_be_read_is_no_disruption() {
        let broken = json!({"metadata": {"annotations": {DISRUPTION_ANNOTATION: "{"}}});
        assert_eq!(only(&snapshot([node("n", "u", broken)])).disruption, None);
    }

    #[test]
    fn a_shadow_counts_only_for_the_node_that_owns_it() {
        let shadow = |uid: &str| -> BottlerocketShadow {
            serde_json::from_value(json!({
                "apiVersion": "brupop.bottlerocket.aws/v2", "kind": "BottlerocketShadow",
                "metadata": {"name": "brs-n", "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Node", "name": "n", "uid": uid}]},
                "spec": {"state": "Idle"}
            }))
            .unwrap()
        };
        for (owner, counts) in [("u", true), ("earlier", false)] {
            let mut snapshot = snapshot([node("n", "u", labelled())]);
            snapshot.shadows.insert("brs-n".into(), Arc::new(shadow(owner)));
            assert_eq!(only(&snapshot).shadow.is_some(), counts, "{owner}");
        }
    }

    #[test]
    fn drain_facts_count_only_for_the_cordon_they_were_found_for() {
        let cordoned_at: DateTime<Utc> = CORDON.parse().unwrap();
        for (of, counts) in [(cordoned_at, true), (cordoned_at - TimeDelta::seconds(1), false)] {
            let mut snapshot = snapshot([node("n", "u", cordon())]);
            let facts = DrainFacts {
                left: 0,
                own: 0,
                blocked: None,
            };
            snapshot.drains.insert(
                "u".into(),
                Drained {
                    cordoned_at: of,
                    facts,
                },
            );
            assert_eq!(only(&snapshot).drain.is_some(), counts);
        }
    }

    #[test]
    fn an_agent_is_ready_while_a_pod_of_it_on_the_node_is_ready_and_stays() {
        let pod = |name: &str, ready: &str, since: &str, terminating: bool| -> (String, Arc<Pod>) {
            let mut pod = json!({
                "metadata": {"name": name}, "spec": {"nodeName": "n", "containers": []},
                "status": {"conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": since}]}
            });
            if terminating {
                pod["metadata"]["deletionTimestamp"] = json!("2026-11-22T08:00:30Z");
            }
            (name.to_owned(), Arc::new(serde_json::from_value(pod).unwrap()))
        };
        let (early, late) = ("2026-11-22T08:00:00Z", "2026-11-22T09:00:00Z");
        let agent = |pods: Vec<(String, Arc<Pod>)>| {
            let mut snapshot = snapshot([node("n", "u", labelled())]);
            snapshot.own_pods = pods.into_iter().collect();
            let agent = only(&snapshot).agent;
            (agent.ready, agent.since.map(|since| since.to_rfc3339()))
        };
        let at = |time: &str| Some(time.replace('Z', "+00:00"));
        assert_eq!(agent(vec![]), (false, None));
        assert_eq!(agent(vec![pod("a", "True", early, false)]), (true, at(early)));
        assert_eq!(agent(vec![pod("a", "False", early, false)]), (false, at(early)));
        assert_eq!(agent(vec![pod("a", "True", early, true)]), (false, None));
        assert_eq!(
            agent(vec![pod("a", "True", early, true), pod("b", "True", late, false)]),
            (true, at(late))
        );
        assert_eq!(
            agent(vec![
                pod("a", "True", early, false),
                pod("b", "False", late, false)
            ]),
            (true, at(early))
        );
    }

    #[test]
    fn a_node_hosts_the_operator_while_a_pod_of_controller_or_apiserver_is_on_it_and_stays() {
        let hosts = |component: &str, terminating: Option<&str>| {
            let mut pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": "x", "deletionTimestamp": terminating, "labels": {
                    "app.kubernetes.io/name": "bottlerocket-update-operator",
                    "app.kubernetes.io/component": component}},
                "spec": {"nodeName": "n", "containers": []},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]}
            }))
            .unwrap();
            pod.trim();
            let mut snapshot = snapshot([node("n", "u", labelled())]);
            snapshot.own_pods.insert("x".to_owned(), Arc::new(pod));
            let facts = only(&snapshot);
            (facts.hosts_operator, facts.agent.ready)
        };
        assert_eq!(hosts("controller", None), (true, false));
        assert_eq!(hosts("apiserver", None), (true, false));
        assert_eq!(hosts("apiserver", Some("2026-11-22T08:00:30Z")), (false, false));
        assert_eq!(hosts("agent", None), (false, true));
    }

    #[test]
    fn a_node_opts_out_by_the_annotation_alone_and_says_its_reason() {
        let given = [("disk\nfails ", "disk fails"), (" ", NO_REASON), ("", NO_REASON)];
        for (value, expected) in given {
            let more = json!({"metadata": {"labels": {NODE_LABEL: NODE_LABEL_VALUE},
                "annotations": {OPT_OUT_ANNOTATION: value}}});
            let facts = only(&snapshot([node("n", "u", more)]));
            assert_eq!(facts.opt_out.as_deref(), Some(expected));
            assert!(facts.annotations.is_empty());
        }
        assert_eq!(only(&snapshot([node("n", "u", labelled())])).opt_out, None);
    }

    #[test]
    fn a_plan_says_what_people_ask() {
        let plan: UpdatePlan = serde_json::from_value(json!({
            "apiVersion": "brupop.bottlerocket.aws/v1alpha1", "kind": "UpdatePlan",
            "metadata": {"name": "p", "annotations": {APPROVE_ANNOTATION: "r/canary", "note": "x"}},
            "spec": {"targetVersion": "1.21.0", "nodeSelector": {}}
        }))
        .unwrap();
        assert_eq!(
            plan_facts(&plan, None).annotations,
            [(APPROVE_ANNOTATION.to_owned(), "r/canary".to_owned())].into()
        );
    }

    #[test]
    fn a_plan_says_whether_it_is_ours_to_release() {
        let plan: UpdatePlan = serde_json::from_value(json!({
            "apiVersion": "brupop.bottlerocket.aws/v1alpha1", "kind": "UpdatePlan",
            "metadata": {"name": "p", "uid": "u", "generation": 3, "creationTimestamp": "2026-11-22T08:00:00Z",
                "deletionTimestamp": "2026-11-22T09:00:00Z", "finalizers": ["other", PLAN_FINALIZER]},
            "spec": {"targetVersion": "1.21.0", "nodeSelector": {}}
        }))
        .unwrap();
        let facts = plan_facts(&plan, None);
        assert!(facts.deleting && facts.finalizer);
        assert_eq!(
            (facts.generation, facts.created.to_rfc3339().as_str()),
            (3, "2026-11-22T08:00:00+00:00")
        );
    }
}
