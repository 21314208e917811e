//! What counts as a failed node, and what failed nodes do to their plan.

use std::collections::HashSet;

use api::{
    ledger::PlanEntry,
    plan::Approval,
    shadow::{BottlerocketShadowSpec, Failure, FailureReason, NodeState},
};

use crate::{
    actions,
    decisions::Action,
    machine,
    plan::Planning,
    rollout::Rollout,
    running::{Running, running},
    spec::ValidPlan,
    waves::{Assignment, Member, Place},
    world::NodeFacts,
};

/// Whether the run has given the node up: its retries are used, or it cannot be tried again. One that runs the target all
/// the same, and was not given up for being unhealthy on it, is judged by what it is now.
pub(crate) fn exhausted(
    failure: &Failure,
    spec: &BottlerocketShadowSpec,
    valid: Option<&ValidPlan>,
    target: Option<&str>,
    node: &NodeFacts,
) -> bool {
    let came_back = failure.reason != FailureReason::Unhealthy
        && node.ready
        && spec.state == NodeState::Idle
        && target.is_some_and(|target| running(node) == Running::Version(target));
    let retries = valid.map_or(0, |valid| valid.retries);
    !came_back && (is_final(failure.reason, node) || failure.count > retries)
}

/// Whether a node cannot be tried again after this failure: one that is unhealthy on the target has nothing to update,
/// one that is down does not answer, and one whose agent and kubelet disagree proves no more by another reboot.
fn is_final(reason: FailureReason, node: &NodeFacts) -> bool {
    match reason {
        FailureReason::Unhealthy => true,
        FailureReason::RebootTimeout => !node.ready,
        FailureReason::BootedOtherVersion => matches!(running(node), Running::Disputed { .. }),
        _ => false,
    }
}

/// Halts the plan at its threshold; and counts a node that turns unhealthy while its wave is watched.
pub(crate) fn halt_at_threshold(
    planning: &mut Planning<'_>,
    rollout: &mut Rollout<'_>,
    valid: &ValidPlan,
    entry: &mut PlanEntry,
) {
    let mut failed: Vec<String> = rollout
        .members
        .iter()
        .filter(|member| has_failed(planning, member, valid, entry))
        .map(|member| member.node.uid.clone())
        .collect();
    // A node that failed and is gone, or belongs to another plan by now, has failed all the same; also where it is back, and its
    // shadow tells of that plan's run.
    if !entry.failed.is_empty() {
        let told: HashSet<&str> = rollout
            .members
            .iter()
            .filter(|member| {
                let is_to_be_updated = matches!(member.place, Place::Waiting | Place::Granted);
                !is_to_be_updated || is_told(member, &entry.run)
            })
            .map(|member| member.node.uid.as_str())
            .collect();
        let gone = entry.failed.iter().filter(|uid| !told.contains(uid.as_str()));
        failed.extend(gone.cloned());
    }
    failed.sort_unstable();
    failed.dedup();
    rollout.failed = failed.len();
    entry.failed = failed;
    if rollout.failed >= rollout.threshold && !entry.halted {
        entry.halted = true;
        let note = format!(
            "halted: {} failed, threshold {}; {}",
            rollout.failed,
            rollout.threshold,
            actions::how_to_go_on(&entry.run)
        );
        planning.event(&rollout.owned.facts.name, None, "Halted", note, true);
    }
}

/// Whether the node's shadow tells of the run.
fn is_told(member: &Member<'_>, run: &str) -> bool {
    let shadow = member.node.shadow.as_ref();
    shadow.is_some_and(|shadow| shadow.spec.run.as_deref() == Some(run))
}

/// Whether the threshold counts the node.
fn has_failed(planning: &Planning<'_>, member: &Member<'_>, valid: &ValidPlan, entry: &PlanEntry) -> bool {
    if member.place != Place::Granted {
        return member.place == Place::Failed;
    }
    let retried_at = entry.actions.retried_at;
    // A grant that ends with the last allowed failure counts before its node has gone all the way back.
    let grant = planning
        .ledger
        .grants
        .get(&member.node.uid)
        .filter(|grant| grant.run == entry.run);
    let Some((ending, reason)) = grant
        .and_then(|g| g.ending.as_ref())
        .and_then(|e| Some((e, e.failure.filter(|reason| reason.counts())?)))
        .filter(|(ending, _)| retried_at.is_none_or(|at| ending.at >= at))
    else {
        return false;
    };
    let spec = member.node.shadow.as_ref().map(|shadow| &shadow.spec);
    let recorded = spec.and_then(|spec| machine::failure_in_run(spec, &entry.run, retried_at));
    let count = recorded.map_or(1, |failure| failure.count + u32::from(failure.at != ending.at));
    is_final(reason, member.node) || count > valid.retries
}

/// Whether the member's health counts for its wave: it was updated in this run, and nobody has taken it out.
pub(crate) fn is_watched(member: &Member<'_>) -> bool {
    member.place == Place::Updated && member.recorded.is_some() && member.node.opt_out.is_none()
}

/// While a wave soaks, or waits for its approval, its nodes are checked: one that is not Ready has failed. The failure goes to its shadow, where
/// every other failure is.
pub(crate) fn watch_soaking_wave(
    planning: &mut Planning<'_>,
    rollout: &Rollout<'_>,
    valid: &ValidPlan,
    assignment: &Assignment,
    entry: &PlanEntry,
) {
    let index = entry.open_wave as usize;
    let (wave, progress) = (&valid.waves[index], &assignment.waves[index]);
    // Until the next wave starts, which it does not while a node is down: so none slips through as the soak ends.
    let last = index + 1 == valid.waves.len();
    let until = progress.soak_until(wave.soak);
    let soaks = until.is_some_and(|until| !last || until > planning.now);
    let manual = wave.approval == Approval::Manual;
    let awaits = manual && (!last || !entry.actions.approved.contains_key(&wave.name));
    if !progress.done() || !(soaks || awaits) {
        return;
    }
    let doing = if until.is_some_and(|until| until > planning.now) {
        "soaks"
    } else if awaits {
        "awaits its approval"
    } else {
        "is about to make way for the next"
    };
    if let Some(until) = until {
        planning.wake(until);
    }
    for (member, of) in rollout.members.iter().zip(&assignment.wave_of) {
        let watched = *of == index && is_watched(member);
        let Some(shadow) = member
            .node
            .shadow
            .as_ref()
            .filter(|shadow| watched && !member.node.ready && shadow.spec.state == NodeState::Idle)
        else {
            continue;
        };
        let failure = Failure {
            reason: FailureReason::Unhealthy,
            message: format!("not Ready while wave {} {doing}", wave.name),
            at: machine::fails_at(planning.now, entry.actions.retried_at),
            count: machine::failure_in_run(&shadow.spec, &entry.run, entry.actions.retried_at)
                .map_or(0, |f| f.count)
                + 1,
        };
        let spec = BottlerocketShadowSpec {
            failure: Some(failure),
            stage: None,
            ..shadow.spec.clone()
        };
        planning.actions.push(Action::SetShadow {
            node: member.node.name.clone(),
            spec,
        });
    }
}
