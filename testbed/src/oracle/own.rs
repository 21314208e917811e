//! S5, S6: the operator's own pods go last from a node, and only while another replica is Ready elsewhere; where none is,
//! they stay, and no reboot waits for them.

use std::collections::BTreeMap;

use api::drain::may_stay;
use api::ledger::{Grant, GrantPhase};
use api::names::DISRUPTION_ANNOTATION;
use api::shadow::Disruption;
use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::{Node, Pod};

use super::changes::LedgerChange;
use super::eviction::{EVICTED, covers, disrupted_by, is_healthy};
use super::nodes::annotation;
use super::{Check, LAG, Moment, Promise, Report, STALE};
use crate::history::{Change, State, key};

/// Whether this is a pod of controller or apiserver.
pub(super) fn is_own(pod: &Pod, namespace: &str) -> bool {
    component(pod, namespace).is_some()
}

fn component<'a>(pod: &'a Pod, namespace: &str) -> Option<&'a str> {
    let labels = pod.metadata.labels.as_ref()?;
    let label = |name: &str| {
        labels
            .get(&format!("app.kubernetes.io/{name}"))
            .map(String::as_str)
    };
    let ours = pod.metadata.namespace.as_deref() == Some(namespace)
        && label("name") == Some("bottlerocket-update-operator");
    label("component").filter(|component| ours && matches!(*component, "controller" | "apiserver"))
}

/// What has to be remembered of a pod, also when it is gone.
#[derive(Debug)]
struct Known {
    uid: Option<String>,
    node: Option<String>,
    component: Option<String>,
    /// Since when it is where it is.
    there_since: DateTime<Utc>,
    ready_since: Option<DateTime<Utc>>,
    /// Until when it was Ready, where it no longer is.
    ready_until: Option<DateTime<Utc>>,
    ends_since: Option<DateTime<Utc>>,
}

#[derive(Default)]
pub(super) struct Own {
    pods: BTreeMap<String, Known>,
}

impl Own {
    pub(super) fn new(initial: &State, namespace: &str) -> Self {
        let mut own = Self::default();
        for pod in initial.pods.values() {
            own.note(DateTime::<Utc>::MIN_UTC, pod, namespace);
        }
        own
    }

    fn note(&mut self, now: DateTime<Utc>, pod: &Pod, namespace: &str) {
        let node = node_of(pod).map(str::to_owned);
        let before = self.pods.remove(&key(pod));
        let before = before.filter(|before| before.uid == pod.metadata.uid && before.node == node);
        let ready = is_healthy(pod);
        let ready_since = before.as_ref().and_then(|before| before.ready_since);
        let ends_since = before.as_ref().and_then(|before| before.ends_since);
        let known = Known {
            uid: pod.metadata.uid.clone(),
            node,
            component: component(pod, namespace).map(str::to_owned),
            there_since: before.as_ref().map_or(now, |before| before.there_since),
            ready_since: ready.then(|| ready_since.unwrap_or(now)),
            ready_until: if ready {
                None
            } else {
                ready_since
                    .map(|_| now)
                    .or_else(|| before.as_ref().and_then(|before| before.ready_until))
            },
            ends_since: pod
                .metadata
                .deletion_timestamp
                .as_ref()
                .map(|_| ends_since.unwrap_or(now)),
        };
        self.pods.insert(key(pod), known);
    }

    fn forget(&mut self, now: DateTime<Utc>, pod: &Pod) {
        if let Some(known) = self.pods.get_mut(&key(pod))
            && known.ready_since.take().is_some()
        {
            known.ready_until = Some(now);
        }
    }

    /// The other pods of the component on other nodes, those that are gone included.
    fn elsewhere<'a>(&'a self, component: &'a str, node: &'a str) -> impl Iterator<Item = &'a Known> {
        self.pods.values().filter(move |known| {
            known.component.as_deref() == Some(component)
                && known.node.as_deref().is_some_and(|on| on != node)
        })
    }

    fn evicted(&self, now: &Moment<'_>, pod: &Pod, (node, cordon): (&str, &Disruption), report: &mut Report) {
        let namespace = &now.case.expectations.namespace;
        let Some(component) = component(pod, namespace) else {
            return;
        };
        let stands_in = |known: &Known| {
            let ready =
                known.ready_since.is_some() || known.ready_until.is_some_and(|until| until >= now.at - STALE);
            // One that is about to be rebooted itself stands in for nobody.
            let goes_too = cordon_of(now, known).is_some_and(|cordon| cordon.cordoned_at < now.at - STALE);
            ready && !goes_too
        };
        if !self.elsewhere(component, node).any(stands_in) {
            let message = format!(
                "pod {} of the operator was evicted from node {node}, and no other {component} was Ready elsewhere",
                key(pod)
            );
            report.add(Promise::S6, now.at, message);
        }
        let left = now.state.pods.values().find(|other| {
            let long = self
                .pods
                .get(&key(other.as_ref()))
                .is_some_and(|known| known.there_since <= now.at - STALE);
            node_of(other) == Some(node)
                && long
                && !is_own(other, namespace)
                && may_stay(other, cordon.cordoned_at, namespace).is_none()
        });
        if let Some(left) = left {
            let message = format!(
                "pod {} of the operator was evicted from node {node} before pod {} was gone",
                key(pod),
                key(left.as_ref())
            );
            report.add(Promise::S6, now.at, message);
        }
    }

    /// Those that are left at a reboot are left for a reason.
    fn left(&self, now: &Moment<'_>, uid: &str, grant: &Grant, permitted: bool, report: &mut Report) {
        let what = if permitted {
            "was permitted to reboot"
        } else {
            "was taken for drained"
        };
        let namespace = &now.case.expectations.namespace;
        let Some(cordon) = now.state.node_of_uid(uid).and_then(|node| cordon(node)) else {
            return;
        };
        let plan = now.case.plan_of(grant);
        // What its budget holds until the drain's time is over stays.
        let in_time =
            plan.is_some_and(|plan| now.at + LAG < cordon.cordoned_at + plan.spec.drain.timeout.delta());
        let long = |since: DateTime<Utc>| since <= now.at - STALE;
        let on_node = now.state.pods.values().filter(|pod| {
            let came = self.pods.get(&key(pod.as_ref())).map(|known| known.there_since);
            let came_back = came.is_some_and(|at| at > cordon.cordoned_at);
            node_of(pod) == Some(grant.node.as_str()) && !came_back
        });
        for pod in on_node {
            let (Some(component), Some(known)) =
                (component(pod, namespace), self.pods.get(&key(pod.as_ref())))
            else {
                continue;
            };
            let name = key(pod.as_ref());
            if permitted && known.ends_since.is_some_and(long) {
                let message = format!(
                    "node {} {what}, but pod {name} of the operator was still ending",
                    grant.node
                );
                report.add(Promise::S5, now.at, message);
            }
            let held = now.state.budgets.values().any(|budget| covers(budget, pod));
            let stands_in =
                |known: &Known| known.ready_since.is_some_and(long) && cordon_of(now, known).is_none();
            if known.ends_since.is_none()
                && long(known.there_since)
                && in_time
                && !held
                && self.elsewhere(component, &grant.node).any(stands_in)
            {
                let message = format!(
                    "node {} {what}, but pod {name} of the operator is left, and another {component} is Ready elsewhere",
                    grant.node
                );
                report.add(Promise::S5, now.at, message);
            }
        }
    }
}

impl Check for Own {
    fn changed(&mut self, now: &Moment<'_>, change: &Change, report: &mut Report) {
        let Change::Pod(pair) = change else { return };
        let ends = |pod: &Pod| pod.metadata.deletion_timestamp.is_some();
        if let Some(before) = pair.before.as_deref().filter(|before| !ends(before)) {
            let last = pair.after.as_deref().unwrap_or(before);
            let begins = pair.after.as_deref().is_none_or(ends);
            let node = node_of(before).and_then(|node| now.state.nodes.get(node));
            if begins
                && disrupted_by(last) == Some(EVICTED)
                && let Some(node) = node
                && let Some(cordon) = cordon(node)
            {
                self.evicted(now, before, (&key(node.as_ref()), &cordon), report);
            }
        }
        let namespace = &now.case.expectations.namespace;
        match (&pair.before, &pair.after) {
            (_, Some(after)) => self.note(now.at, after, namespace),
            (Some(before), None) => self.forget(now.at, before),
            (None, None) => {}
        }
    }

    fn ledger(&mut self, now: &Moment<'_>, change: &LedgerChange, report: &mut Report) {
        for (uid, before, after) in &change.kept {
            if (before.phase, after.phase) == (GrantPhase::Granted, GrantPhase::Drained) {
                self.left(now, uid, after, false, report);
            }
            if before.permit.is_none() && after.permit.is_some() {
                self.left(now, uid, after, true, report);
            }
        }
    }
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

/// Our cordon of the node that this pod is, or was, on.
fn cordon_of(now: &Moment<'_>, known: &Known) -> Option<Disruption> {
    cordon(now.state.nodes.get(known.node.as_ref()?)?)
}

fn cordon(node: &Node) -> Option<Disruption> {
    serde_json::from_str(annotation(node, DISRUPTION_ANNOTATION)?).ok()
}
