//! The steps of an update, in order, as the operator and the node do them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use api::ledger::{Ending, Grant, GrantPhase, Permit};
use api::names;
use api::shadow::{BottlerocketShadowStatus, Disruption, FailureReason, NodeState};
use serde_json::json;
use std::sync::Arc;

use super::story::{NEW, OLD, Story, pod, read};
use crate::bottlerocket::{Call, UpdateSettings};
use crate::history::{Object, key};
use crate::truth::{RebootCause, SimEventKind};

impl Story {
    pub fn grant(&mut self, node: &str) {
        self.grant_as(node, |_| {});
    }

    pub fn grant_as(&mut self, node: &str, edit: impl FnOnce(&mut Grant)) {
        if self.live.plans["p"].metadata.finalizers.is_none() {
            self.edit_plan(|plan| plan.metadata.finalizers = Some(vec![names::PLAN_FINALIZER.into()]));
        }
        let (uid, mut grant) = (self.uid_of(node), self.grant_for(node));
        edit(&mut grant);
        self.edit_ledger(|ledger| {
            ledger.grants.insert(uid, grant);
        });
    }

    pub fn stage(&mut self, node: &str) {
        let grant = self.live_grant(node);
        self.ask(node, NodeState::StagedAndPerformedUpdate);
        let settings = UpdateSettings {
            version_lock: NEW.into(),
            ignore_waves: true,
            seed: 0,
        };
        self.happen(node, SimEventKind::SettingsChanged { settings });
        self.happen(
            node,
            SimEventKind::Written {
                version: grant.to.clone(),
            },
        );
        self.happen(node, SimEventKind::Activated { version: grant.to });
        self.echo(node);
    }

    pub fn live_grant(&self, node: &str) -> Grant {
        self.live.ledger(names::DEFAULT_NAMESPACE).unwrap().spec.grants[&self.uid_of(node)].clone()
    }

    pub fn ask(&mut self, node: &str, state: NodeState) {
        let grant = self.live_grant(node);
        self.edit_shadow(node, |shadow| {
            shadow.spec.state = state;
            shadow.spec.version = (state != NodeState::Idle).then_some(grant.to);
            shadow.spec.plan = Some("p".into());
            shadow.spec.run = Some(grant.run);
            shadow.spec.wave = Some(grant.wave);
            shadow.spec.attempt = Some(grant.attempt);
        });
    }

    pub fn echo(&mut self, node: &str) {
        self.edit_shadow(node, |shadow| {
            let spec = shadow.spec.clone();
            let status: &mut BottlerocketShadowStatus = shadow.status.as_mut().unwrap();
            status.current_state = spec.state;
            status.run = spec.run;
            status.attempt = spec.attempt;
        });
    }

    pub fn cordon(&mut self, node: &str) {
        let grant = self.live_grant(node);
        let guards = names::DO_NOT_DISRUPT_ANNOTATIONS;
        let disruption = Disruption {
            plan_uid: grant.plan,
            run: grant.run,
            wave: grant.wave,
            attempt: grant.attempt,
            cordoned_at: self.now,
            annotations_before: guards
                .iter()
                .map(|(name, _)| ((*name).to_owned(), None))
                .collect(),
        };
        self.edit_node(node, |node| {
            node.spec.get_or_insert_default().unschedulable = Some(true);
            let annotations = node.metadata.annotations.get_or_insert_default();
            annotations.insert(
                names::DISRUPTION_ANNOTATION.into(),
                serde_json::to_string(&disruption).unwrap(),
            );
            annotations.extend(
                guards
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
            );
        });
    }

    pub fn uncordon(&mut self, node: &str) {
        self.edit_node(node, |node| {
            node.spec = None;
            node.metadata.annotations = None;
        });
    }

    /// Evicts what is on the node; each pod comes back on another node that is not cordoned.
    pub fn drain(&mut self, node: &str) {
        let pods = self
            .live
            .pods
            .values()
            .filter(|pod| pod.spec.as_ref().unwrap().node_name.as_deref() == Some(node));
        let names: Vec<String> = pods.map(|pod| key(pod.as_ref())).collect();
        let elsewhere = self
            .live
            .nodes
            .values()
            .find(|node| node.spec.as_ref().is_none_or(|s| s.unschedulable.is_none()));
        let elsewhere = elsewhere.map(|node| key(node.as_ref()));
        for name in names {
            self.allow(&name);
            self.evict(&name);
            self.delete_pod(&name);
            if let Some(elsewhere) = &elsewhere {
                let name = format!("{}-again", name.trim_start_matches("default/"));
                self.put(Object::Pod(Arc::new(pod(&name, elsewhere))));
            }
            self.edit_budget(|budget| budget.status.as_mut().unwrap().disrupted_pods = None);
        }
    }

    /// The budget lets a pod go.
    pub fn allow(&mut self, pod: &str) {
        let (name, now) = (
            pod.trim_start_matches("default/").to_owned(),
            api::time::to_kubernetes(self.now),
        );
        self.edit_budget(|budget| {
            budget.status.as_mut().unwrap().disrupted_pods = Some([(name, now)].into());
        });
    }

    /// The eviction API marks a pod, and deletes it.
    pub fn evict(&mut self, pod: &str) {
        let mark = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"});
        self.edit_pod(pod, |pod| {
            pod.status
                .as_mut()
                .unwrap()
                .conditions
                .as_mut()
                .unwrap()
                .push(read(mark))
        });
        self.begin_deletion(pod);
    }

    pub fn begin_deletion(&mut self, pod: &str) {
        let now = api::time::to_kubernetes(self.now);
        self.edit_pod(pod, |pod| pod.metadata.deletion_timestamp = Some(now));
    }

    pub fn drained(&mut self, node: &str) {
        self.edit_grant(node, |grant| grant.phase = GrantPhase::Drained);
    }

    pub fn boot_of(&self, node: &str) -> String {
        self.live.nodes[node]
            .status
            .as_ref()
            .unwrap()
            .node_info
            .as_ref()
            .unwrap()
            .boot_id
            .clone()
    }

    pub fn permit(&mut self, node: &str) {
        let (boot_id, at) = (self.boot_of(node), self.now);
        self.ask(node, NodeState::RebootedIntoUpdate);
        self.edit_grant(node, |grant| {
            grant.phase = GrantPhase::Rebooting;
            grant.permit = Some(Permit {
                id: "permit".into(),
                boot_id,
                at,
            });
        });
    }

    /// The machine is told to reboot, and comes back on this version.
    pub fn reboot(&mut self, node: &str, version: &str) {
        let boot_id = self.boot_of(node);
        self.boots += 1;
        let next = format!("boot-{}", self.boots);
        self.happen(
            node,
            SimEventKind::Called {
                call: Call::Reboot,
                status: Some(204),
            },
        );
        let cause = RebootCause::Api;
        self.happen(
            node,
            SimEventKind::RebootBegun {
                boot_id,
                version: OLD.into(),
                cause,
            },
        );
        self.ready(node, false);
        self.wait(2);
        self.happen(
            node,
            SimEventKind::RebootFinished {
                boot_id: next.clone(),
                version: version.into(),
            },
        );
        self.edit_node(node, |node| {
            let info = node.status.as_mut().unwrap().node_info.as_mut().unwrap();
            info.boot_id = next;
            info.os_image = format!("Bottlerocket OS {version} (aws-k8s-1.33)");
        });
        self.ready(node, true);
        self.echo(node);
    }

    pub fn ready(&mut self, node: &str, ready: bool) {
        self.edit_node(node, |node| {
            let conditions = node.status.as_mut().unwrap().conditions.as_mut().unwrap();
            conditions[0].status = if ready { "True" } else { "False" }.into();
        });
    }

    pub fn monitor(&mut self, node: &str) {
        self.edit_grant(node, |grant| grant.phase = GrantPhase::Monitoring);
        self.uncordon(node);
        self.ask(node, NodeState::MonitoringUpdate);
        self.echo(node);
    }

    pub fn restore(&mut self, node: &str) {
        self.happen(
            node,
            SimEventKind::SettingsChanged {
                settings: UpdateSettings::default(),
            },
        );
    }

    pub fn idle(&mut self, node: &str) {
        self.ask(node, NodeState::Idle);
        self.restore(node);
        self.echo(node);
    }

    pub fn release(&mut self, node: &str) {
        let uid = self.uid_of(node);
        self.edit_ledger(|ledger| {
            ledger.grants.remove(&uid);
        });
        if self
            .live
            .ledger(names::DEFAULT_NAMESPACE)
            .unwrap()
            .spec
            .grants
            .is_empty()
        {
            self.edit_plan(|plan| plan.metadata.finalizers = None);
        }
    }

    /// From the grant until the node is empty.
    pub fn empty(&mut self, node: &str) {
        self.stage(node);
        self.cordon(node);
        self.drain(node);
        self.drained(node);
    }

    /// From the reboot until the grant is released.
    pub fn complete(&mut self, node: &str) {
        self.reboot(node, NEW);
        self.monitor(node);
        self.wait(6);
        self.idle(node);
        self.release(node);
    }

    /// The whole way.
    pub fn roll(&mut self, node: &str) {
        self.roll_as(node, |_| {});
    }

    pub fn roll_as(&mut self, node: &str, edit: impl FnOnce(&mut Grant)) {
        self.grant_as(node, edit);
        self.empty(node);
        self.permit(node);
        self.complete(node);
    }

    /// The attempt ends: a failure, or withdrawn. What was done is undone.
    pub fn end(&mut self, node: &str, failure: Option<FailureReason>) {
        let at = self.now;
        self.edit_grant(node, |grant| {
            if matches!(grant.phase, GrantPhase::Granted | GrantPhase::Drained) {
                grant.phase = GrantPhase::Withdrawing;
            }
            grant.ending = Some(Ending {
                message: "x".into(),
                failure,
                at,
                outlasted: false,
            });
        });
        self.edit_shadow(node, |shadow| {
            let before = shadow.spec.failure.as_ref().map_or(0, |failure| failure.count);
            let ending = Ending {
                message: "x".into(),
                failure,
                at,
                outlasted: false,
            };
            shadow.spec.failure = ending.as_failure(before).or(shadow.spec.failure.take());
        });
        self.happen(node, SimEventKind::Deactivated);
        self.idle(node);
        self.uncordon(node);
        self.release(node);
    }

    /// Fails both attempts of the node while it is staged.
    pub fn fail(&mut self, node: &str) {
        for attempt in [1, 2] {
            self.grant_as(node, |grant| grant.attempt = attempt);
            self.stage(node);
            self.end(node, Some(FailureReason::StageFailed));
            self.wait(10);
        }
    }
}
