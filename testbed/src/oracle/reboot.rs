//! S5: a machine is told to reboot only with a permit, once per attempt, and the permit is given only for a node that
//! is cordoned and empty.

use std::collections::BTreeMap;

use api::drain::may_stay;
use api::ledger::{Grant, GrantPhase, PERMIT_VALIDITY};
use api::names::DISRUPTION_ANNOTATION;
use api::shadow::Disruption;
use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::core::v1::Pod;

use super::changes::LedgerChange;
use super::nodes::{annotation, is_cordoned};
use super::own::is_own;
use super::{Check, LAG, Moment, Promise, Report, STALE};
use crate::history::{Change, key};

/// Between the agent's own clock saying that its permit is still good, and the call in the machine's log.
const CALL_TIME: TimeDelta = TimeDelta::milliseconds(500);

#[derive(Default)]
pub(super) struct Reboot {
    /// When each permit was given, by node and boot ID.
    permits: BTreeMap<(String, String), DateTime<Utc>>,
    /// The boot that each attempt's permit was given to, by node UID, run and attempt.
    attempts: BTreeMap<(String, String, u32), String>,
    /// When each pod was bound to its node, where that was seen.
    bound: BTreeMap<String, DateTime<Utc>>,
}

impl Check for Reboot {
    fn changed(&mut self, now: &Moment<'_>, change: &Change, _: &mut Report) {
        let Change::Pod(pair) = change else { return };
        let is_bound = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        let before = pair.before.as_deref().is_some_and(is_bound);
        if let Some(pod) = pair.after.as_deref().filter(|pod| !before && is_bound(pod)) {
            self.bound.insert(key(pod), now.at);
        }
    }

    fn ledger(&mut self, now: &Moment<'_>, change: &LedgerChange, report: &mut Report) {
        for (uid, before, after) in &change.kept {
            // A node that is deleted in the moment of its last eviction is taken for drained for nothing: a permit is
            // never given to it.
            let gone = now.state.node_of_uid(uid).is_none() && now.tracks.lived_lately(uid, now.state);
            if (before.phase, after.phase) == (GrantPhase::Granted, GrantPhase::Drained) && !gone {
                // The scheduler may bind a pod after the cordon that it had chosen the node for before. The permit is asked for by
                // pods that are read afresh.
                let in_flight = |pod: &Pod| {
                    let bound = self.bound.get(&key(pod));
                    bound.is_some_and(|at| *at >= now.at - STALE)
                };
                check_empty(now, uid, after, "was taken for drained", &in_flight, report);
            }
            let (None, Some(permit)) = (&before.permit, &after.permit) else {
                continue;
            };
            check_empty(now, uid, after, "was permitted to reboot", &|_| false, report);
            if change.after.as_ref().is_some_and(|ledger| ledger.stop) {
                let message = format!(
                    "node {} was permitted to reboot, though the install is stopped",
                    after.node
                );
                report.add(Promise::S5, now.at, message);
            }
            self.permits
                .entry((after.node.clone(), permit.boot_id.clone()))
                .or_insert(now.at);
            let attempt = (uid.clone(), after.run.clone(), after.attempt);
            if let Some(earlier) = self.attempts.insert(attempt, permit.boot_id.clone()) {
                let message = format!(
                    "node {} got a second permit for attempt {}, for boot {} after boot {earlier}",
                    after.node, after.attempt, permit.boot_id
                );
                report.add(Promise::S5, now.at, message);
            }
        }
    }

    fn ended(&mut self, now: &Moment<'_>, report: &mut Report) {
        for (node, machine) in now.case.machines.iter() {
            for call in machine.reboot_calls() {
                let permit = self.permits.get(&(node.to_owned(), call.boot_id.to_owned()));
                let Some(permitted) = permit.filter(|permitted| **permitted <= call.at + LAG) else {
                    let message = format!(
                        "node {node} was told to reboot from boot {} without a permit",
                        call.boot_id
                    );
                    report.add(Promise::S5, call.at, message);
                    continue;
                };
                let late = call.at - *permitted > PERMIT_VALIDITY + CALL_TIME;
                if late && !now.case.expectations.asked_again.contains(node) {
                    let age = (call.at - *permitted).num_seconds();
                    let message =
                        format!("node {node} was told to reboot with a permit that was {age} s old");
                    report.add(Promise::S5, call.at, message);
                }
            }
        }
    }
}

/// The node must be cordoned by us for this grant, and no pod be left that may not stay and is not forgiven.
fn check_empty(
    now: &Moment<'_>,
    uid: &str,
    grant: &Grant,
    what: &str,
    forgiven: &dyn Fn(&Pod) -> bool,
    report: &mut Report,
) {
    let Some(node) = now.state.node_of_uid(uid) else {
        let message = format!("node {} {what}, but there is no node of UID {uid}", grant.node);
        report.add(Promise::S5, now.at, message);
        return;
    };
    let disruption = annotation(node, DISRUPTION_ANNOTATION).and_then(|text| serde_json::from_str(text).ok());
    let disruption = disruption.filter(|disruption: &Disruption| {
        let ours = (&disruption.plan_uid, &disruption.run, disruption.attempt);
        ours == (&grant.plan, &grant.run, grant.attempt)
    });
    let Some(disruption) = disruption.filter(|_| is_cordoned(node)) else {
        report.add(
            Promise::S5,
            now.at,
            format!("node {} {what}, but is not cordoned for it", grant.node),
        );
        return;
    };
    let namespace = &now.case.expectations.namespace;
    // Whether the operator's own may be left is another matter: see `own`.
    let left = now.state.pods.values().filter(|pod| {
        let on_node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) == Some(&grant.node);
        let stays = is_own(pod, namespace) || may_stay(pod, disruption.cordoned_at, namespace).is_some();
        on_node && !stays && !forgiven(pod)
    });
    let left: Vec<String> = left.map(|pod| key(pod.as_ref())).collect();
    if !left.is_empty() {
        let message = format!(
            "node {} {what}, but pods are left: {}",
            grant.node,
            left.join(", ")
        );
        report.add(Promise::S5, now.at, message);
    }
}
