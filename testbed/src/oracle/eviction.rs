//! S6: on a node that we cordoned, pods go by the eviction API alone, which keeps their PodDisruptionBudgets.

use std::collections::BTreeMap;

use api::drain::{MayStay, may_stay};
use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use super::nodes::is_ours;
use super::selectors::selects;
use super::{Check, Moment, Promise, Report, STALE};
use crate::history::{Change, Pair, key};

/// Why the eviction API says that a pod goes.
pub(super) const EVICTED: &str = "EvictionByEvictionAPI";

#[derive(Default)]
pub(super) struct Eviction {
    /// When each pod was Ready last, where it no longer is.
    ready_until: BTreeMap<String, DateTime<Utc>>,
}

impl Check for Eviction {
    fn changed(&mut self, now: &Moment<'_>, change: &Change, report: &mut Report) {
        match change {
            Change::Pod(pair) => {
                if let Some(before) = &pair.before {
                    if is_healthy(before) {
                        self.ready_until.insert(key(before.as_ref()), now.at);
                    }
                    self.check_pod(now, before, pair, report);
                }
            }
            Change::Budget(pair) => {
                let allowed = pair
                    .after
                    .as_ref()
                    .and_then(|b| b.status.as_ref())
                    .map(|s| s.disruptions_allowed);
                if let (Some(budget), Some(..0)) = (&pair.after, allowed) {
                    let message = format!("budget {} allows less than no disruption", key(budget.as_ref()));
                    report.add(Promise::S6, now.at, message);
                }
            }
            _ => {}
        }
    }
}

impl Eviction {
    fn check_pod(&self, now: &Moment<'_>, before: &Pod, pair: &Pair<Pod>, report: &mut Report) {
        let name = key(before);
        let deleting = |pod: &Pod| pod.metadata.deletion_timestamp.is_some();
        let begins = !deleting(before) && pair.after.as_ref().is_none_or(|after| deleting(after));
        let node = before.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
        let node = node
            .and_then(|node| now.state.nodes.get(node))
            .filter(|node| is_ours(node));
        let tests_own = now
            .case
            .expectations
            .deleted_pods
            .iter()
            .any(|own| name.starts_with(own.as_str()));
        // Asked as of the distant future: that it tolerates the cordon is no reason to delete it. Nor is that it is the
        // operator's own.
        let stays = may_stay(before, DateTime::<Utc>::MAX_UTC, &now.case.expectations.namespace)
            .is_some_and(|why| why != MayStay::Operator);
        let Some(node) = node.filter(|_| begins && !tests_own && !stays) else {
            return;
        };
        let last = pair.after.as_deref().unwrap_or(before);
        match disrupted_by(last) {
            None => {
                let message = format!(
                    "pod {name} on node {} was deleted, not evicted",
                    key(node.as_ref())
                );
                report.add(Promise::S6, now.at, message);
            }
            Some(EVICTED) if is_healthy(before) => {
                for budget in now.state.budgets.values().filter(|budget| covers(budget, before)) {
                    self.check_budget(now, budget, &name, report);
                }
            }
            // Kubernetes' own doing.
            Some(_) => {}
        }
    }

    fn check_budget(&self, now: &Moment<'_>, budget: &PodDisruptionBudget, pod: &str, report: &mut Report) {
        let status = budget.status.clone().unwrap_or_default();
        let evicted = pod.rsplit('/').next().unwrap_or_default();
        if !status
            .disrupted_pods
            .iter()
            .flatten()
            .any(|(name, _)| name == evicted)
        {
            let message = format!(
                "pod {pod} was evicted, and its budget {} knows nothing of it",
                key(budget)
            );
            report.add(Promise::S6, now.at, message);
        }
        let healthy = now
            .state
            .pods
            .values()
            .filter(|other| covers(budget, other))
            .filter(|other| {
                let lately = self
                    .ready_until
                    .get(&key(other.as_ref()))
                    .is_some_and(|until| *until >= now.at - STALE);
                other.metadata.deletion_timestamp.is_none() && (is_healthy(other) || lately)
            });
        let healthy = healthy.count();
        if healthy < usize::try_from(status.desired_healthy).unwrap_or(0) {
            let message = format!(
                "pod {pod} was evicted and left {healthy} healthy, but budget {} wants {}",
                key(budget),
                status.desired_healthy
            );
            report.add(Promise::S6, now.at, message);
        }
    }
}

/// Whether the budget is for the pod.
pub(super) fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    budget.metadata.namespace == pod.metadata.namespace
        && selector.is_some_and(|selector| selects(selector, &labels))
}

pub(super) fn is_healthy(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    let ready = conditions
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}

/// Who says that they disrupt the pod.
pub(super) fn disrupted_by(pod: &Pod) -> Option<&str> {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    let disrupted = conditions
        .iter()
        .find(|c| c.type_ == "DisruptionTarget" && c.status == "True");
    disrupted.and_then(|condition| condition.reason.as_deref())
}
