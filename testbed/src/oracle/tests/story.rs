//! Runs told step by step, as the operator would do them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::sync::Arc;

use api::ledger::{Grant, GrantPhase, PlanEntry, UpdateLedgerSpec};
use api::{BottlerocketShadow, UpdateLedger, UpdatePlan, names};
use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::history::{Action, Event, History, Object, State, key};
use crate::oracle::{Expectations, Promise, Violation, check};
use crate::truth::{SimEvent, SimEventKind};

pub const OLD: &str = "1.20.3";
pub const NEW: &str = "1.21.0";
pub const PLAN: &str = "plan-p";

/// A run, as far as it is told.
pub struct Story {
    pub now: DateTime<Utc>,
    pub live: State,
    pub expect: Expectations,
    initial: State,
    events: Vec<Event>,
    truth: Vec<SimEvent>,
    pub boots: u32,
}

pub fn start() -> DateTime<Utc> {
    "2026-11-22T08:00:00Z".parse().unwrap()
}

pub fn read<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn uid(node: &str) -> String {
    format!("uid-{node}")
}

impl Story {
    /// Nodes on the old version, each with a pod of one workload, and plan p, `spec` added to what it has.
    pub fn new(nodes: &[&str], spec: Value) -> Self {
        let mut story = Self {
            now: start(),
            live: State {
                revision: 100,
                at: start(),
                ..State::default()
            },
            expect: Expectations::complete("p"),
            initial: State::default(),
            events: Vec::new(),
            truth: Vec::new(),
            boots: 0,
        };
        let mut all = json!({
            "targetVersion": NEW, "nodeSelector": {}, "expectedNodeDuration": "60s",
            "monitoring": {"minReady": "5s", "timeout": "1m"}});
        let added: serde_json::Map<String, Value> = read(spec);
        all.as_object_mut().unwrap().extend(added);
        story.live.insert(Object::Plan(Arc::new(read(json!({
            "metadata": {"name": "p", "uid": PLAN, "generation": 1, "creationTimestamp": "2026-11-22T07:00:00Z"},
            "spec": all})))));
        let entry = PlanEntry {
            name: "p".into(),
            generation: 1,
            run: "r1".into(),
            target: NEW.into(),
            targets: Vec::new(),
            started_at: start(),
            ..PlanEntry::default()
        };
        let spec = UpdateLedgerSpec {
            plans: [(PLAN.into(), entry)].into(),
            ..UpdateLedgerSpec::default()
        };
        let mut ledger = UpdateLedger::new(names::LEDGER_NAME, spec);
        ledger.metadata.namespace = Some(names::DEFAULT_NAMESPACE.into());
        story.live.insert(Object::Ledger(Arc::new(ledger)));
        for node in nodes {
            story.join(node, &uid(node));
            story
                .live
                .insert(Object::Pod(Arc::new(pod(&format!("web-{node}"), node))));
        }
        let budget = json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "maxUnavailable": 1},
            "status": {"currentHealthy": nodes.len(), "desiredHealthy": nodes.len() - 1, "disruptionsAllowed": 1,
                "expectedPods": nodes.len(), "disruptedPods": {}}});
        story.live.insert(Object::Budget(Arc::new(read(budget))));
        story.initial = story.live.clone();
        story.events.clear();
        story.wait(60);
        story
    }

    /// A machine and its node appear.
    pub fn join(&mut self, node: &str, uid: &str) {
        self.boots += 1;
        let boot_id = format!("boot-{}", self.boots);
        self.happen(
            node,
            SimEventKind::Started {
                boot_id: boot_id.clone(),
                version: OLD.into(),
            },
        );
        self.put(Object::Node(Arc::new(read(json!({
            "metadata": {"name": node, "uid": uid, "labels": {names::NODE_LABEL: names::NODE_LABEL_VALUE}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {
                "architecture": "amd64", "bootID": boot_id, "containerRuntimeVersion": "", "kernelVersion": "",
                "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "operatingSystem": "linux",
                "osImage": format!("Bottlerocket OS {OLD} (aws-k8s-1.33)"), "systemUUID": ""}}})))));
        self.put(Object::Shadow(Arc::new(read(json!({
            "metadata": {"name": names::shadow_name(node), "namespace": names::DEFAULT_NAMESPACE, "ownerReferences": [
                {"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid}]},
            "spec": {"state": "Idle"},
            "status": {"current_version": OLD, "target_version": OLD, "current_state": "Idle", "crash_count": 0}})))));
    }

    pub fn wait(&mut self, seconds: i64) {
        self.now += TimeDelta::seconds(seconds);
    }

    pub fn put(&mut self, object: Object) {
        let there = match &object {
            Object::Node(o) => self.live.nodes.contains_key(&key(o.as_ref())),
            Object::Pod(o) => self.live.pods.contains_key(&key(o.as_ref())),
            Object::Shadow(o) => self.live.shadows.contains_key(&key(o.as_ref())),
            Object::Plan(o) => self.live.plans.contains_key(&key(o.as_ref())),
            Object::Ledger(o) => self.live.ledgers.contains_key(&key(o.as_ref())),
            Object::Budget(o) => self.live.budgets.contains_key(&key(o.as_ref())),
        };
        self.live.insert(object.clone());
        self.event(if there { Action::Modified } else { Action::Added }, object);
    }

    fn event(&mut self, action: Action, object: Object) {
        self.now += TimeDelta::milliseconds(10);
        self.live.revision += 1;
        self.events.push(Event {
            at: self.now,
            revision: self.live.revision,
            action,
            object,
        });
    }

    pub fn happen(&mut self, node: &str, kind: SimEventKind) {
        self.truth.push(SimEvent {
            at: self.now,
            node: node.to_owned(),
            kind,
        });
    }

    /// As if the machine had kept no log.
    pub fn forget_machine(&mut self, node: &str) {
        self.truth.retain(|event| event.node != node);
    }

    pub fn edit_node(&mut self, node: &str, edit: impl FnOnce(&mut Node)) {
        let mut object = self.live.nodes[node].as_ref().clone();
        edit(&mut object);
        self.put(Object::Node(Arc::new(object)));
    }

    pub fn delete_node(&mut self, node: &str) {
        self.happen(node, SimEventKind::Removed);
        let object = self.live.nodes.remove(node).unwrap();
        self.event(Action::Deleted, Object::Node(object));
        let shadow = self.live.shadows.remove(&shadow_key(node)).unwrap();
        self.event(Action::Deleted, Object::Shadow(shadow));
    }

    pub fn edit_shadow(&mut self, node: &str, edit: impl FnOnce(&mut BottlerocketShadow)) {
        let mut object = self.live.shadows[&shadow_key(node)].as_ref().clone();
        edit(&mut object);
        self.put(Object::Shadow(Arc::new(object)));
    }

    pub fn edit_plan(&mut self, edit: impl FnOnce(&mut UpdatePlan)) {
        let mut object = self.live.plans["p"].as_ref().clone();
        edit(&mut object);
        self.put(Object::Plan(Arc::new(object)));
    }

    /// Changes what is wanted: a new generation, which the ledger records.
    pub fn edit_spec(&mut self, edit: impl FnOnce(&mut UpdatePlan)) {
        self.edit_plan(|plan| {
            plan.metadata.generation = plan.metadata.generation.map(|generation| generation + 1);
            edit(plan);
        });
        let plan = self.live.plans["p"].clone();
        self.edit_ledger(|ledger| {
            let entry = ledger.plans.get_mut(PLAN).unwrap();
            entry.generation = plan.metadata.generation.unwrap();
            entry.paused = plan.spec.paused;
        });
    }

    pub fn delete_plan(&mut self) {
        let object = self.live.plans.remove("p").unwrap();
        self.event(Action::Deleted, Object::Plan(object));
    }

    fn ledger_key() -> String {
        format!("{}/{}", names::DEFAULT_NAMESPACE, names::LEDGER_NAME)
    }

    pub fn edit_ledger(&mut self, edit: impl FnOnce(&mut UpdateLedgerSpec)) {
        let mut object = self.live.ledgers[&Self::ledger_key()].as_ref().clone();
        edit(&mut object.spec);
        self.put(Object::Ledger(Arc::new(object)));
    }

    pub fn edit_grant(&mut self, node: &str, edit: impl FnOnce(&mut Grant)) {
        let uid = self.uid_of(node);
        self.edit_ledger(|ledger| edit(ledger.grants.get_mut(&uid).unwrap()));
    }

    /// The ledger is deleted, and comes back with this.
    pub fn rebuild_ledger(&mut self, edit: impl FnOnce(&mut UpdateLedgerSpec)) {
        let mut object = self.live.ledgers.remove(&Self::ledger_key()).unwrap();
        self.event(Action::Deleted, Object::Ledger(object.clone()));
        edit(&mut Arc::make_mut(&mut object).spec);
        self.put(Object::Ledger(object));
    }

    pub fn edit_pod(&mut self, pod: &str, edit: impl FnOnce(&mut Pod)) {
        let mut object = self.live.pods[pod].as_ref().clone();
        edit(&mut object);
        self.put(Object::Pod(Arc::new(object)));
    }

    pub fn delete_pod(&mut self, pod: &str) {
        let object = self.live.pods.remove(pod).unwrap();
        self.event(Action::Deleted, Object::Pod(object));
    }

    pub fn edit_budget(&mut self, edit: impl FnOnce(&mut PodDisruptionBudget)) {
        let mut object = self.live.budgets["default/web"].as_ref().clone();
        edit(&mut object);
        self.put(Object::Budget(Arc::new(object)));
    }

    pub fn uid_of(&self, node: &str) -> String {
        self.live.nodes[node].metadata.uid.clone().unwrap()
    }

    pub fn grant_for(&self, node: &str) -> Grant {
        let plan = &self.live.plans["p"];
        Grant {
            node: node.into(),
            plan: PLAN.into(),
            generation: plan.metadata.generation.unwrap(),
            run: "r1".into(),
            wave: "rest".into(),
            attempt: 1,
            from: OLD.into(),
            to: NEW.into(),
            phase: GrantPhase::Granted,
            granted_at: self.now,
            phase_since: self.now,
            not_after: None,
            hosts_operator: false,
            rebuilt: false,
            permit: None,
            ending: None,
        }
    }

    pub fn check(&self) -> Vec<Violation> {
        let history = History::new(self.initial.clone(), self.events.clone(), self.now);
        check(&history, &self.truth, &self.expect)
    }

    #[track_caller]
    pub fn is_clean(&self) {
        let found: Vec<String> = self.check().iter().map(ToString::to_string).collect();
        assert!(found.is_empty(), "{}", found.join("\n"));
    }

    /// That this promise alone was broken, with a message that says what happened.
    #[track_caller]
    pub fn breaks(&self, promise: Promise, what: &str) {
        let found = self.check();
        let told: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert!(
            found.iter().all(|violation| violation.promise == promise),
            "{}",
            told.join("\n")
        );
        assert!(
            found.iter().any(|violation| violation.message.contains(what)),
            "no {what:?} in: {}",
            told.join("\n")
        );
    }
}

fn shadow_key(node: &str) -> String {
    format!("{}/{}", names::DEFAULT_NAMESPACE, names::shadow_name(node))
}

pub fn pod(name: &str, node: &str) -> Pod {
    read(json!({
        "metadata": {"name": name, "namespace": "default", "labels": {"app": "web"},
            "creationTimestamp": "2026-11-22T07:30:00Z"},
        "spec": {"nodeName": node, "containers": []},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}))
}
