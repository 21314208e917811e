//! What holds up a granted node that does not get on: a pod that may not be evicted, or an agent that does not answer. Its
//! attempt ends by its own time-outs; this is what a person could see to before.

use api::{
    ledger::{Grant, GrantPhase},
    shadow::{BottlerocketShadowStatus, NodeState},
    verdict::Verdict,
};
use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    machine::acknowledged,
    plan::Planning,
    world::{Blocked, DrainFacts, NodeFacts, ShadowFacts},
};

/// What has lasted less is on its way: an eviction that waits for another replica, an agent that comes back.
const AFTER: TimeDelta = TimeDelta::seconds(60);

/// Why a granted node does not get on, once that has lasted; and the planner looks again when it will have.
pub(crate) fn verdict(planning: &mut Planning<'_>, node: &NodeFacts) -> Option<Verdict> {
    let grant = planning.ledger.grants.get(&node.uid)?;
    let (since, verdict) = held_up(grant, node)?;
    let due = since + AFTER;
    if planning.now < due {
        planning.wake(due);
        return None;
    }
    Some(verdict)
}

/// Since when the agent of a node without a grant could have undone what it is to undo, and has not; once that has lasted. Its pod is
/// ready.
pub(crate) fn undoes_nothing_since(planning: &mut Planning<'_>, node: &NodeFacts) -> Option<DateTime<Utc>> {
    let shadow = node.shadow.as_ref().filter(|shadow| !acknowledged(shadow))?;
    let asked = shadow.spec.state_transition_timestamp?;
    let since = node.agent.since.map_or(asked, |ready| ready.max(asked));
    let due = since + AFTER;
    if planning.now < due {
        planning.wake(due);
        return None;
    }
    Some(since)
}

/// That a pod cannot be evicted.
pub(crate) fn drain_blocked(blocked: &Blocked) -> Verdict {
    Verdict::DrainBlocked {
        pod: blocked.pod.clone(),
        budget: blocked.budget.clone(),
        message: blocked.message.clone(),
    }
}

/// What holds the node up, and since when.
fn held_up(grant: &Grant, node: &NodeFacts) -> Option<(DateTime<Utc>, Verdict)> {
    let drains = grant.ending.is_none() && matches!(grant.phase, GrantPhase::Granted | GrantPhase::Drained);
    if let Some(cordon) = node.disruption.as_ref().filter(|_| drains)
        && let Some(DrainFacts {
            left: 1..,
            blocked: Some(blocked),
            ..
        }) = &node.drain
    {
        return Some((cordon.cordoned_at, drain_blocked(blocked)));
    }
    let since = unanswered_since(grant, node, node.shadow.as_ref()?)?;
    Some((since, Verdict::AgentSilent { since: Some(since) }))
}

/// Since when the agent could have answered what it is asked, and has not.
fn unanswered_since(grant: &Grant, node: &NodeFacts, shadow: &ShadowFacts) -> Option<DateTime<Utc>> {
    let ShadowFacts { spec, status } = shadow;
    let ours = spec.run.as_deref() == Some(&grant.run) && spec.attempt == Some(grant.attempt);
    if !ours || acknowledged(shadow) {
        return None;
    }
    let asked = spec.state_transition_timestamp?;
    let status = status.as_ref();
    let undoes = matches!(spec.state, NodeState::Idle | NodeState::ErrorReset);
    let refuses = |status: &BottlerocketShadowStatus| {
        status.error.is_some() && status.run == spec.run && status.attempt == spec.attempt
    };
    if !undoes && status.is_some_and(refuses) {
        return None;
    }
    match (spec.state, grant.phase) {
        // A download takes its time; only its agent's pod can say then whether it goes on.
        (NodeState::StagedAndPerformedUpdate, _)
            if status.is_some_and(|status| has_begun(status, &grant.to)) =>
        {
            let gone = (!node.agent.ready).then_some(node.agent.since)?;
            Some(gone.map_or(asked, |gone| gone.max(asked)))
        }
        // It answers once the node has rebooted, which has a time-out of its own.
        (NodeState::RebootedIntoUpdate, GrantPhase::Rebooting) => {
            let permitted_boot = grant.permit.as_ref().map(|permit| permit.boot_id.as_str());
            let back = node.ready && permitted_boot != Some(&node.boot_id);
            let ready = back.then_some(node.ready_changed)?;
            Some(ready.map_or(grant.phase_since, |ready| ready.max(grant.phase_since)))
        }
        // It asks for its permit meanwhile, and is told to wait as long as a pod is left.
        (NodeState::RebootedIntoUpdate, GrantPhase::Drained) => {
            let gone = (!node.agent.ready).then_some(node.agent.since)?;
            Some(gone.map_or(asked, |gone| gone.max(asked)))
        }
        _ => Some(asked),
    }
}

/// Whether the agent has reported that it begins to stage the version: the status acknowledges nothing since.
fn has_begun(status: &BottlerocketShadowStatus, version: &str) -> bool {
    let saved = status.saved_settings.as_ref();
    let acknowledges = status.current_state == NodeState::Idle && status.run.is_some();
    saved.is_some_and(|saved| saved.locks.iter().any(|lock| lock == version)) && !acknowledges
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use api::shadow::{AgentError, FailureReason};

    use super::*;
    use crate::simulate::Cluster;

    fn at(minute: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::minutes(minute)
    }

    /// Since when its agent is silent: a node that is asked for `state` at minute 10, with its grant in `phase` since minute 5.
    fn silent_since(
        state: NodeState,
        phase: GrantPhase,
        change: impl FnOnce(&mut NodeFacts),
    ) -> Option<DateTime<Utc>> {
        let mut cluster = Cluster::new(at(0));
        cluster.add_node("n", "1.20.3", &[]);
        let mut node = cluster.node("n").unwrap().clone();
        let spec = &mut node.shadow.as_mut().unwrap().spec;
        spec.state = state;
        spec.state_transition_timestamp = Some(at(10));
        (spec.run, spec.attempt) = (Some("r".to_owned()), Some(1));
        change(&mut node);
        let grant = Grant {
            node: "n".to_owned(),
            plan: "p".to_owned(),
            generation: 1,
            run: "r".to_owned(),
            wave: "w".to_owned(),
            attempt: 1,
            from: "1.20.3".to_owned(),
            to: "1.21.0".to_owned(),
            phase,
            granted_at: at(5),
            phase_since: at(5),
            not_after: None,
            hosts_operator: false,
            permit: None,
            ending: None,
            rebuilt: false,
        };
        match held_up(&grant, &node)? {
            (since, Verdict::AgentSilent { .. }) => Some(since),
            (_, other) => panic!("{other:?}"),
        }
    }

    fn status(node: &mut NodeFacts) -> &mut BottlerocketShadowStatus {
        node.shadow.as_mut().unwrap().status.as_mut().unwrap()
    }

    #[test]
    fn an_agent_is_silent_from_the_instruction_on_that_it_has_not_answered() {
        use NodeState::{ErrorReset, Idle, MonitoringUpdate, StagedAndPerformedUpdate};
        let as_told = |_: &mut NodeFacts| {};
        for (state, phase) in [
            (StagedAndPerformedUpdate, GrantPhase::Granted),
            (MonitoringUpdate, GrantPhase::Monitoring),
            (Idle, GrantPhase::Monitoring),
            (ErrorReset, GrantPhase::Withdrawing),
        ] {
            assert_eq!(silent_since(state, phase, as_told), Some(at(10)), "{state}");
            let answers = |node: &mut NodeFacts| {
                let status = status(node);
                status.current_state = state;
                (status.run, status.attempt) = (Some("r".to_owned()), Some(1));
            };
            assert_eq!(silent_since(state, phase, answers), None, "{state}");
        }
    }

    #[test]
    fn a_refusal_is_an_answer_but_for_what_is_to_be_undone() {
        let refuses = |node: &mut NodeFacts| {
            let status = status(node);
            (status.run, status.attempt) = (Some("r".to_owned()), Some(1));
            status.error = Some(AgentError {
                reason: FailureReason::StageFailed,
                message: "x".to_owned(),
            });
        };
        let state = NodeState::StagedAndPerformedUpdate;
        assert_eq!(silent_since(state, GrantPhase::Granted, refuses), None);
        assert_eq!(
            silent_since(NodeState::ErrorReset, GrantPhase::Withdrawing, refuses),
            Some(at(10))
        );
    }

    #[test]
    fn an_agent_that_waits_for_its_permit_is_silent_only_once_its_pod_is_gone() {
        let (state, phase) = (NodeState::RebootedIntoUpdate, GrantPhase::Drained);
        assert_eq!(silent_since(state, phase, |_| {}), None);
        let gone = |node: &mut NodeFacts| {
            node.agent.ready = false;
            node.agent.since = Some(at(12));
        };
        assert_eq!(silent_since(state, phase, gone), Some(at(12)));
    }

    #[test]
    fn a_node_that_reboots_is_silent_only_once_it_is_back_and_ready() {
        let (state, phase) = (NodeState::RebootedIntoUpdate, GrantPhase::Rebooting);
        let down = |node: &mut NodeFacts| node.ready = false;
        assert_eq!(silent_since(state, phase, down), None);
        let back = |node: &mut NodeFacts| node.ready_changed = Some(at(12));
        assert_eq!(silent_since(state, phase, back), Some(at(12)));
    }
}
