//! The way out of a grant that ends without an update.

use api::{
    ledger::{GrantPhase, PERMIT_VALIDITY},
    shadow::{FailureReason, NodeState},
};
use chrono::{DateTime, TimeDelta, Utc};

use super::{Change, Granted, Step, acknowledged, describe_drain};

impl Granted<'_> {
    /// A node whose window is over is tried again in the next one. But where that was so before in this run it would be for ever,
    /// however long its timeouts are: so it has failed, as when those are over.
    pub(super) fn outlast(&self, reason: &str) -> Step {
        let failure = self.has_outlasted().then(|| self.what_is_not_done()).flatten();
        let (failure, message) = failure.map_or_else(
            || (None, reason.to_owned()),
            |(failure, what)| (Some(failure), format!("again outlasted its window: {what}")),
        );
        self.end_as(failure, message, true)
    }

    /// What a node that is granted was to do and has not done. None: that is not known, or no fault of the node.
    fn what_is_not_done(&self) -> Option<(FailureReason, String)> {
        let drain = self.node.drain.as_ref();
        Some(match (self.grant.phase, &self.node.disruption) {
            (GrantPhase::Granted, None) => (
                FailureReason::StageTimeout,
                format!("{} was not staged", self.grant.to),
            ),
            // A new leader does not know the pods yet; and the operator's own are no failure.
            (GrantPhase::Granted, Some(_)) => {
                let left = drain.filter(|drain| drain.left > drain.own)?;
                (
                    FailureReason::DrainTimeout,
                    format!("not drained: {}", describe_drain(left)),
                )
            }
            _ => (
                FailureReason::RebootTimeout,
                "the node was not given its reboot permit".to_owned(),
            ),
        })
    }

    /// Shadow, then node, then ledger.
    pub(super) fn leave(&self) -> Step {
        let (failed, since, message) = self.grant.ending.as_ref().map_or_else(
            || (false, self.grant.phase_since, "withdrawn".to_owned()),
            |ending| (ending.is_failure(), ending.at, ending.message.clone()),
        );
        let undo = if failed {
            NodeState::ErrorReset
        } else {
            NodeState::Idle
        };
        let doing = format!("being {}: {message}", if failed { "reset" } else { "withdrawn" });
        if let Some(step) = self.forget_cordon(&doing) {
            return step;
        }
        let mut acknowledged_undo = true;
        if let Some(shadow) = &self.node.shadow {
            let undone = failed && self.asks(&shadow.spec, NodeState::Idle) && shadow.spec.failure.is_some();
            if !undone {
                if !self.asks(&shadow.spec, undo) {
                    return Step::act(doing, self.set(undo), None);
                }
                let asked = shadow.spec.state_transition_timestamp.unwrap_or(since);
                let released = self.outlives_permit(asked + self.wait_limit());
                acknowledged_undo = acknowledged(shadow);
                if !acknowledged_undo && self.now < released {
                    return Step::wait(doing, Some(released));
                }
            }
            if let Some(cordon) = &self.node.disruption {
                return Step::act(doing, self.uncordon(cordon), None);
            }
            // Where the agent never answered the shadow stays in ErrorReset: it undoes that when it is back.
            if failed && !undone && acknowledged_undo {
                return Step::act(doing, self.set(NodeState::Idle), None);
            }
        } else if let Some(cordon) = &self.node.disruption {
            return Step::act(doing, self.uncordon(cordon), None);
        }
        Step::change(doing, Change::Release { updated: false })
    }

    /// Where somebody has uncordoned the node, our annotation goes at once: a cordon that comes after is not ours to undo.
    pub(super) fn forget_cordon(&self, doing: &str) -> Option<Step> {
        let cordon = self
            .node
            .disruption
            .as_ref()
            .filter(|_| !self.node.unschedulable)?;
        Some(Step::act(doing, self.uncordon(cordon), None))
    }

    /// A node that does not answer may still reboot, as long as its permit is valid.
    fn outlives_permit(&self, released: DateTime<Utc>) -> DateTime<Utc> {
        let permit = self.grant.permit.as_ref().and(self.grant.ending.as_ref());
        permit.map_or(released, |ending| released.max(ending.at + PERMIT_VALIDITY))
    }

    /// How long to wait for an answer: long while there is someone to give one.
    pub(super) fn wait_limit(&self) -> TimeDelta {
        let answers = self.node.ready && self.node.agent.ready;
        if answers {
            self.limits.stage.max(self.settings.release_wait)
        } else {
            self.settings.release_wait
        }
    }
}
