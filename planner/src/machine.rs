//! One granted node's way, step by step.
//!
//! Each step looks at what is stored (the grant, the node, its shadow) and says the one thing that comes next, so
//! that a crash between any two writes leaves nothing to remember.

mod explain;
mod monitor;
mod proof;
mod undo;

use api::{
    ledger::{Ending, Grant, GrantPhase},
    offer::is_older,
    shadow::{BottlerocketShadowSpec, Disruption, Failure, FailureReason, NodeState},
};
use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    decisions::Action,
    spec::Limits,
    stuck::drain_blocked,
    world::{DrainFacts, NodeFacts, Settings, ShadowFacts},
};
pub(crate) use explain::explains;
use proof::Booted;

/// What a step is decided on.
pub(crate) struct Granted<'a> {
    pub now: DateTime<Utc>,
    pub settings: &'a Settings,
    pub grant: &'a Grant,
    pub node: &'a NodeFacts,
    /// Name of the grant's plan.
    pub plan: &'a str,
    pub limits: &'a Limits,
    /// When the grant's run was last retried: what failed before does not count.
    pub retried_at: Option<DateTime<Utc>>,
    /// Why the grant is to be taken back, as long as no permit was given.
    pub withdraw: Option<String>,
    /// Whether that is because its window is over: by its own end, not by an edit.
    pub outlasts: bool,
}

/// What comes next for a granted node.
pub(crate) struct Step {
    /// How the grant changes. Where it does, nothing else is done before that is written.
    pub change: Option<Change>,
    /// What to do to the node or its shadow.
    pub action: Option<Action>,
    /// What to do beside that, in no order.
    pub beside: Option<Action>,
    /// Whether the node is to be drained, and since when it is cordoned.
    pub drain: Option<DateTime<Utc>>,
    /// What the node does, for people.
    pub doing: String,
    /// When time alone changes the answer.
    pub wake: Option<DateTime<Utc>>,
}

/// How a grant changes.
#[derive(Debug, PartialEq)]
pub(crate) enum Change {
    Drained,
    Monitoring {
        /// False where nothing follows that takes time.
        lasts: bool,
    },
    End(Ending),
    /// The grant is removed; true where the node was updated.
    Release {
        updated: bool,
    },
}

impl Step {
    fn wait(doing: impl Into<String>, wake: Option<DateTime<Utc>>) -> Self {
        Self {
            change: None,
            action: None,
            beside: None,
            drain: None,
            doing: doing.into(),
            wake,
        }
    }

    fn act(doing: impl Into<String>, action: Action, wake: Option<DateTime<Utc>>) -> Self {
        Self {
            action: Some(action),
            ..Self::wait(doing, wake)
        }
    }

    fn change(doing: impl Into<String>, change: Change) -> Self {
        Self {
            change: Some(change),
            ..Self::wait(doing, None)
        }
    }
}

/// What comes next for a granted node.
pub(crate) fn step(g: &Granted<'_>) -> Step {
    if g.grant.ending.is_some() || g.grant.phase == GrantPhase::Withdrawing {
        return g.leave();
    }
    let before_permit = matches!(g.grant.phase, GrantPhase::Granted | GrantPhase::Drained);
    if let Some(reason) = g.withdraw.as_ref().filter(|_| before_permit) {
        return if g.outlasts {
            g.outlast(reason)
        } else {
            g.end(None, reason.clone())
        };
    }
    match g.grant.phase {
        GrantPhase::Granted => g
            .node
            .disruption
            .as_ref()
            .map_or_else(|| g.stage(), |cordon| g.drain(cordon)),
        GrantPhase::Drained => g.reboot(),
        GrantPhase::Rebooting => g.come_back(),
        GrantPhase::Monitoring => g.monitor(),
        GrantPhase::Withdrawing => g.leave(),
    }
}

impl Granted<'_> {
    fn stage(&self) -> Step {
        let deadline = self.grant.granted_at + self.limits.stage;
        let doing = format!("staging {}", self.grant.to);
        if self.node.unschedulable {
            return self.end(None, "the node was cordoned by somebody else".to_owned());
        }
        if let Some(shadow) = &self.node.shadow {
            if let Some(why) = self.granted_too_late(shadow) {
                return self.end(None, why);
            }
            if let Some((reason, message)) = self.reported_error(shadow) {
                return self.end(Some(reason), message);
            }
            if !self.asks(&shadow.spec, NodeState::StagedAndPerformedUpdate) {
                return Step::act(
                    doing,
                    self.set(NodeState::StagedAndPerformedUpdate),
                    Some(deadline),
                );
            }
            if acknowledged(shadow) {
                return Step::act("being cordoned", self.cordon(), Some(deadline));
            }
        }
        if self.now >= deadline {
            let silent = if self.node.agent.ready {
                ""
            } else {
                "; its agent is not Ready"
            };
            let message = format!(
                "{} was not staged within {}{silent}",
                self.grant.to,
                spell(self.limits.stage)
            );
            return self.end(Some(FailureReason::StageTimeout), message);
        }
        Step::wait(doing, Some(deadline))
    }

    /// Whether the grant was made by an older shadow than there is, as by a controller whose watch was behind. Then the
    /// attempt has its number from another one, or nothing is to be updated: it goes back before anybody is told of it.
    fn granted_too_late(&self, shadow: &ShadowFacts) -> Option<String> {
        let ShadowFacts { spec, status } = shadow;
        let used = spec.run.as_ref() == Some(&self.grant.run)
            && spec.attempt >= Some(self.grant.attempt)
            && !self.asks(spec, NodeState::StagedAndPerformedUpdate);
        let asked = self.is_ours(spec);
        let runs = status.as_ref().map(|status| &status.current_version);
        if used {
            Some("its attempt had been made already".to_owned())
        } else if !asked && runs == Some(&self.grant.to) {
            Some(format!("it runs {} already", self.grant.to))
        } else {
            None
        }
    }

    fn cordon(&self) -> Action {
        let before = api::names::DO_NOT_DISRUPT_ANNOTATIONS
            .iter()
            .map(|(key, _)| ((*key).to_owned(), self.node.annotations.get(*key).cloned()))
            .collect();
        let disruption = Disruption {
            plan_uid: self.grant.plan.clone(),
            run: self.grant.run.clone(),
            wave: self.grant.wave.clone(),
            attempt: self.grant.attempt,
            cordoned_at: self.now,
            annotations_before: before,
        };
        Action::Cordon {
            node: self.node.name.clone(),
            disruption,
        }
    }

    fn drain(&self, cordon: &Disruption) -> Step {
        if cordon.run != self.grant.run || cordon.attempt != self.grant.attempt {
            return Step::act(
                "undoing the cordon of an earlier attempt",
                self.uncordon(cordon),
                None,
            );
        }
        if !self.node.unschedulable {
            return self.was_uncordoned();
        }
        if let Some((reason, message)) = self
            .node
            .shadow
            .as_ref()
            .and_then(|shadow| self.reported_error(shadow))
        {
            return self.end(Some(reason), message);
        }
        let deadline = cordon.cordoned_at + self.limits.drain;
        // Where a window was over before that, the next would be, too.
        let own_deadline = if self.has_outlasted() {
            deadline.min(cordon.cordoned_at + self.settings.release_wait)
        } else {
            deadline
        };
        // A leader that is new knows nothing of the pods yet, and must not take that for a failure; nor one that comes after a long outage.
        let known_by = deadline + self.settings.release_wait;
        match &self.node.drain {
            Some(DrainFacts { left: 0, .. }) => return Step::change("drained", Change::Drained),
            // The operator's own pods are never what its work fails for: those that no budget lets go stay.
            Some(facts) if self.now >= own_deadline && facts.left == facts.own => {
                return Step::change("drained", Change::Drained);
            }
            Some(facts) if self.now >= deadline => {
                let limit = spell(self.limits.drain);
                let message = format!("not drained within {limit}: {}", describe_drain(facts));
                return self.end(Some(FailureReason::DrainTimeout), message);
            }
            None if self.now >= known_by => {
                let unknown = "it is not known which of its pods are left".to_owned();
                // Once: where pods can never be listed it would be for ever.
                let again = self.has_outlasted().then_some(FailureReason::DrainTimeout);
                return self.end_as(again, unknown, true);
            }
            _ => {}
        }
        let doing = self.node.drain.as_ref().map_or_else(
            || "draining".to_owned(),
            |facts| format!("draining, {}", describe_drain(facts)),
        );
        let times = [own_deadline, deadline, known_by];
        Step {
            drain: Some(cordon.cordoned_at),
            ..Step::wait(doing, times.into_iter().find(|at| *at > self.now))
        }
    }

    fn reboot(&self) -> Step {
        let deadline = self.grant.phase_since + self.limits.reboot;
        let doing = "drained, about to reboot";
        // A pod that came late makes the permit be refused, so it is evicted as long as there is none.
        let drain = self.node.disruption.as_ref().map(|cordon| cordon.cordoned_at);
        if !self.node.unschedulable {
            return self.was_uncordoned();
        }
        if let Some(shadow) = &self.node.shadow {
            if let Some((reason, message)) = self.reported_error(shadow) {
                return self.end(Some(reason), message);
            }
            if !self.asks(&shadow.spec, NodeState::RebootedIntoUpdate) {
                let action = self.set(NodeState::RebootedIntoUpdate);
                return Step {
                    drain,
                    ..Step::act(doing, action, Some(deadline))
                };
            }
        }
        let claims = self.node.shadow.as_ref().filter(|shadow| acknowledged(shadow));
        match claims.and_then(|shadow| self.booted(shadow, "")) {
            Some(Booted::Target) => {
                return self.end(None, "the node rebooted before it was permitted to".to_owned());
            }
            Some(Booted::Other(message)) => {
                return self.end(Some(FailureReason::BootedOtherVersion), message);
            }
            None => {}
        }
        if self.now >= deadline {
            let left = self.node.drain.as_ref().filter(|facts| facts.left > 0);
            let why = match left {
                Some(facts) => format!(": {}", describe_drain(facts)),
                None if claims.is_some() => {
                    ": its agent reports a reboot that its kubelet does not report".to_owned()
                }
                None => String::new(),
            };
            let limit = spell(self.limits.reboot);
            let message = format!("the node was not given its reboot permit within {limit}{why}");
            return self.end(Some(FailureReason::RebootTimeout), message);
        }
        Step {
            drain,
            ..Step::wait(doing, Some(deadline))
        }
    }

    fn come_back(&self) -> Step {
        let deadline = self.grant.phase_since + self.limits.reboot;
        if let Some(step) = self.forget_cordon("rebooting") {
            return Step {
                wake: Some(deadline),
                ..step
            };
        }
        let permitted_boot = self
            .grant
            .permit
            .as_ref()
            .map_or("", |permit| permit.boot_id.as_str());
        if let Some(shadow) = &self.node.shadow {
            if let Some((reason, message)) = self.reported_error(shadow) {
                return self.end(Some(reason), message);
            }
            if !self.asks(&shadow.spec, NodeState::RebootedIntoUpdate) {
                // Only after the ledger was lost: the node is past this point and is asked again for what it did.
                return Step::act(
                    "rebooting",
                    self.set(NodeState::RebootedIntoUpdate),
                    Some(deadline),
                );
            }
            match self.booted(shadow, permitted_boot) {
                Some(Booted::Other(message)) => {
                    return self.end(Some(FailureReason::BootedOtherVersion), message);
                }
                Some(Booted::Target) if acknowledged(shadow) && self.node.ready => {
                    let lasts = !self.limits.min_ready.is_zero();
                    return Step::change("rebooted", Change::Monitoring { lasts });
                }
                Some(Booted::Target) | None => {}
            }
        }
        if self.now >= deadline {
            let message = format!(
                "not back on {} within {} of its reboot permit; {}",
                self.grant.to,
                spell(self.limits.reboot),
                self.whereabouts(permitted_boot)
            );
            return self.end(Some(FailureReason::RebootTimeout), message);
        }
        Step::wait("rebooting", Some(deadline))
    }

    fn end(&self, failure: Option<FailureReason>, message: String) -> Step {
        self.end_as(failure, message, false)
    }

    fn end_as(&self, failure: Option<FailureReason>, message: String, outlasted: bool) -> Step {
        Step::change(
            message.clone(),
            Change::End(Ending {
                message,
                failure,
                at: failure.map_or(self.now, |_| fails_at(self.now, self.retried_at)),
                outlasted,
            }),
        )
    }

    /// Whoever uncordons a node does not want it drained, now at least. As a failure it is tried again after a while, and not for ever.
    fn was_uncordoned(&self) -> Step {
        self.end(
            Some(FailureReason::Uncordoned),
            "the node was uncordoned by somebody else while it was being updated".to_owned(),
        )
    }

    /// Whether the node has outlasted a window of this run before.
    fn has_outlasted(&self) -> bool {
        let shadow = self.node.shadow.as_ref();
        shadow.is_some_and(|shadow| has_outlasted(&shadow.spec, &self.grant.run))
    }

    fn uncordon(&self, cordon: &Disruption) -> Action {
        Action::Uncordon {
            node: self.node.name.clone(),
            disruption: cordon.clone(),
        }
    }

    fn asks(&self, spec: &BottlerocketShadowSpec, state: NodeState) -> bool {
        spec.state == state && self.is_ours(spec)
    }

    fn is_ours(&self, spec: &BottlerocketShadowSpec) -> bool {
        spec.run.as_deref() == Some(&self.grant.run) && spec.attempt == Some(self.grant.attempt)
    }

    /// The error that the agent reports for this attempt.
    fn reported_error(&self, shadow: &ShadowFacts) -> Option<(FailureReason, String)> {
        let status = shadow.status.as_ref()?;
        let ours = self.is_ours(&shadow.spec)
            && status.run.as_deref() == Some(&self.grant.run)
            && status.attempt == Some(self.grant.attempt);
        let error = status.error.as_ref().filter(|_| ours)?;
        // Once it is to reboot, a node has been offered its version, and its image can be updated.
        let reason = match self.grant.phase {
            GrantPhase::Granted => error.reason,
            _ if !error.reason.leaves_alone() => error.reason,
            _ => FailureReason::Other,
        };
        Some((reason, error.message.clone()))
    }

    fn set(&self, state: NodeState) -> Action {
        let of_this_attempt =
            self.node.shadow.as_ref().is_some_and(|shadow| {
                self.is_ours(&shadow.spec) && shadow.spec.state == NodeState::ErrorReset
            });
        // A retry that comes while a failure is being undone forgets none of what is being done.
        let retried_at = self.retried_at.filter(|_| !of_this_attempt);
        let before = self
            .node
            .shadow
            .as_ref()
            .and_then(|shadow| failure_in_run(&shadow.spec, &self.grant.run, retried_at));
        let ending = self.grant.ending.as_ref();
        let failure = match (ending, state) {
            // Already counted on the way into ErrorReset.
            (Some(_), _) if of_this_attempt => before.cloned(),
            (Some(ending), _) => ending
                .as_failure(before.map_or(0, |f| f.count))
                .or_else(|| before.cloned()),
            (None, NodeState::Idle) => None,
            (None, _) => before.cloned(),
        };
        let outlasted = match ending {
            None if state == NodeState::Idle => false,
            _ => ending.is_some_and(|ending| ending.outlasted) || self.has_outlasted(),
        };
        let version = (ending.is_none()).then(|| self.grant.to.clone());
        let downgrade = version.is_some() && is_older(&self.grant.to, &self.grant.from);
        let spec = BottlerocketShadowSpec {
            state,
            state_transition_timestamp: Some(self.now),
            version,
            downgrade: downgrade.then_some(true),
            plan: Some(self.plan.to_owned()),
            run: Some(self.grant.run.clone()),
            wave: Some(self.grant.wave.clone()),
            attempt: Some(self.grant.attempt),
            from_version: Some(self.grant.from.clone()),
            failure,
            outlasted: outlasted.then_some(true),
            stage: None,
        };
        Action::SetShadow {
            node: self.node.name.clone(),
            spec,
        }
    }
}

/// The failure that a shadow records for a run, unless it is from before the run was retried.
pub(crate) fn failure_in_run<'a>(
    spec: &'a BottlerocketShadowSpec,
    run: &str,
    retried_at: Option<DateTime<Utc>>,
) -> Option<&'a Failure> {
    let counts = |failure: &&Failure| retried_at.is_none_or(|at| failure.at >= at);
    spec.failure
        .as_ref()
        .filter(|_| spec.run.as_deref() == Some(run))
        .filter(counts)
}

/// The instant of a failure. One that comes after a retry is not before it, also where that was by a clock that was ahead.
pub(crate) fn fails_at(now: DateTime<Utc>, retried_at: Option<DateTime<Utc>>) -> DateTime<Utc> {
    retried_at.map_or(now, |at| at.max(now))
}

/// Whether a node has outlasted a window of the run.
pub(crate) fn has_outlasted(spec: &BottlerocketShadowSpec, run: &str) -> bool {
    spec.outlasted == Some(true) && spec.run.as_deref() == Some(run)
}

pub(crate) fn acknowledged(shadow: &ShadowFacts) -> bool {
    shadow
        .status
        .as_ref()
        .is_some_and(|status| api::shadow::acknowledges(status, &shadow.spec))
}

fn describe_drain(facts: &DrainFacts) -> String {
    let pods = if facts.left == 1 {
        "1 pod left".to_owned()
    } else {
        format!("{} pods left", facts.left)
    };
    match &facts.blocked {
        Some(blocked) => format!("{pods}: {}", drain_blocked(blocked)),
        None => pods,
    }
}

fn spell(delta: TimeDelta) -> String {
    let seconds = u32::try_from(delta.num_seconds()).unwrap_or(u32::MAX);
    api::quantity::Span::seconds(seconds).to_string()
}
