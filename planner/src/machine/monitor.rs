//! A node that is back on its target: uncordoned, and watched until it has been Ready for long enough.

use api::shadow::{FailureReason, NodeState};
use chrono::{DateTime, Utc};

use super::{Change, Granted, Step, acknowledged, spell};
use crate::running::contradicts;

impl Granted<'_> {
    pub(super) fn monitor(&self) -> Step {
        let deadline = self.grant.phase_since + self.limits.monitoring;
        let Some(shadow) = &self.node.shadow else {
            return self.monitored_too_long(deadline, "its shadow is gone");
        };
        let done = self.asks(&shadow.spec, NodeState::Idle) && shadow.spec.failure.is_none();
        let monitors = self.asks(&shadow.spec, NodeState::MonitoringUpdate);
        if let Some(cordon) = &self.node.disruption {
            let runs = shadow.status.as_ref().map(|status| &status.current_version);
            // Neither instruction has anything to do with the cordon: it need not wait for the uncordon.
            let next = if done || runs != Some(&self.grant.to) {
                None
            } else if self.is_not_monitored(runs) {
                Some(NodeState::Idle)
            } else {
                (!monitors).then_some(NodeState::MonitoringUpdate)
            };
            return Step {
                beside: next.map(|state| self.set(state)),
                ..Step::act("being uncordoned", self.uncordon(cordon), Some(deadline))
            };
        }
        if done {
            let asked = shadow
                .spec
                .state_transition_timestamp
                .unwrap_or(self.grant.phase_since);
            let released = asked + self.wait_limit();
            if acknowledged(shadow) || self.now >= released {
                return Step::change("updated", Change::Release { updated: true });
            }
            return Step::wait("putting settings back", Some(released));
        }
        let Some(status) = &shadow.status else {
            return self.monitored_too_long(deadline, "its agent has not reported");
        };
        let runs = &status.current_version;
        if *runs != self.grant.to {
            let message = format!("runs {runs} instead of {} while it is monitored", self.grant.to);
            return self.end(Some(FailureReason::Unhealthy), message);
        }
        if contradicts(&self.node.os_image, runs) {
            let os_image = &self.node.os_image;
            let message = format!("reports {runs} while it is monitored, but its kubelet reports {os_image}");
            return self.end(Some(FailureReason::Unhealthy), message);
        }
        if !monitors {
            return Step::act(
                "being monitored",
                self.set(NodeState::MonitoringUpdate),
                Some(deadline),
            );
        }
        if !self.node.ready {
            return self.monitored_too_long(deadline, "it is not Ready now");
        }
        let ready_since = self
            .node
            .ready_changed
            .map_or(self.grant.phase_since, |at| at.max(self.grant.phase_since));
        let healthy = ready_since + self.limits.min_ready;
        if self.now >= healthy {
            return Step::act("healthy", self.set(NodeState::Idle), Some(deadline));
        }
        let step = self.monitored_too_long(deadline, "it was not Ready without interruption");
        Step {
            wake: Some(healthy.min(deadline)),
            ..step
        }
    }

    /// Whether there is nothing to be monitored: what has proven the reboot is all that is asked for.
    fn is_not_monitored(&self, runs: Option<&String>) -> bool {
        let contradicted = runs.is_some_and(|runs| contradicts(&self.node.os_image, runs));
        self.limits.min_ready.is_zero() && self.node.ready && !contradicted
    }

    fn monitored_too_long(&self, deadline: DateTime<Utc>, why: &str) -> Step {
        if self.now < deadline {
            return Step::wait("being monitored", Some(deadline));
        }
        let (min, limit) = (spell(self.limits.min_ready), spell(self.limits.monitoring));
        self.end(
            Some(FailureReason::Unhealthy),
            format!("not Ready for {min} on end within {limit} of being back on its target: {why}"),
        )
    }
}
