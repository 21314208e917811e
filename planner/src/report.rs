//! A plan's status: counts, waves, and the nodes that a person would look for.

use api::{
    ledger::{Grant, PlanEntry},
    plan::{
        ActiveNode, Approval, FailedNode, NodeCounts, PastRun, Phase, Run, UpdatePlanStatus, WaitingNodes,
        WavePhase, WaveStatus, WindowStatus, condition,
    },
    verdict::{Verdict, instant},
};
use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    actions,
    message::{View, second},
    owners::Owned,
    pace,
    plan::Planning,
    rollout::Rollout,
    spec::ValidPlan,
    targets,
    waves::{Member, Place, WaveProgress},
    windows::{Closing, WindowState},
    world::NodeFacts,
};

/// Nodes named in `active` and `failed`.
const NAMED: usize = 20;
/// Runs told of in `history`.
const PAST_RUNS: usize = 5;
/// The outcome of a run whose target was changed before it was complete.
const SUPERSEDED: &str = "Superseded";
/// How often one reason is told for different things.
const OF_A_REASON: usize = 3;
/// Nodes named for each reason in `waiting`.
const NAMED_WAITING: usize = 5;

/// The plan's status after this round.
pub(crate) fn status(planning: &Planning<'_>, owned: &Owned<'_>, rollout: &Rollout<'_>) -> UpdatePlanStatus {
    let facts = owned.facts;
    let before = &facts.status;
    let valid = owned.valid.as_ref().ok();
    let entry = planning.ledger.plans.get(&facts.uid);
    let counts = counts(rollout);
    let active = active(planning, rollout);
    let waves = valid.map_or_else(Vec::new, |valid| waves(planning.now, rollout, valid, entry));
    let finished = counts.matched > 0
        && counts.updating + counts.waiting == 0
        && valid.is_some()
        && waves.iter().all(|wave| wave.phase == WavePhase::Done);
    let known = before
        .run
        .as_ref()
        .filter(|run| entry.is_some_and(|entry| entry.run == run.id));
    let completed_at = known
        .and_then(|run| run.completed_at)
        .or_else(|| (finished && entry.is_some_and(|entry| !entry.halted)).then_some(second(planning.now)));
    let run = entry.map(|entry| Run {
        id: entry.run.clone(),
        target: entry.target.clone(),
        targets: entry.targets.clone(),
        started_at: second(entry.started_at),
        completed_at,
        // To the moment: where the ledger is lost, they are taken from here.
        retried_at: entry.actions.retried_at,
        run_now_at: entry.actions.run_now,
    });
    let actions = actions::statuses(owned, entry);
    let targets = entry.map_or(&[][..], |entry| entry.targets.as_slice());
    let target = targets::words(&facts.spec.target_version, targets);
    let view = View {
        owned,
        target: &target,
        rollout,
        counts,
        active: &active,
        waves: &waves,
        actions: &actions,
        run: entry.map_or("", |entry| entry.run.as_str()),
        halted: entry.is_some_and(|entry| entry.halted),
        stopped: planning.ledger.stop,
        completed: completed_at.is_some(),
    };
    let phase = view.phase();
    let message = view.message(phase);
    let open = valid.and_then(|valid| {
        valid
            .waves
            .get(rollout.open_wave)
            .map(|wave| (wave, valid.waves.len()))
    });
    let over = phase == Phase::Complete && counts.updating + counts.waiting == 0;
    let idle = matches!(phase, Phase::Paused | Phase::Halted) || planning.ledger.stop || facts.deleting;
    UpdatePlanStatus {
        observed_generation: Some(facts.generation),
        phase: Some(phase),
        wave: open.map(|(wave, of)| format!("{} ({}/{of})", wave.name, rollout.open_wave + 1)),
        progress: Some(format!("{}/{}", counts.updated, counts.matched)),
        conditions: view.conditions(planning.now, phase, &message),
        message: Some(message),
        run,
        nodes: counts,
        max_unavailable: valid.map(|_| number(rollout.max_unavailable)),
        waves,
        // A plan that needs no window says nothing of windows, and so causes no writes when they come and go.
        window: (!over && counts.matched > 0 && !idle)
            .then(|| window(owned, valid))
            .flatten(),
        estimated_completion: rollout.estimate,
        node_duration: entry.and_then(|entry| pace::learned(&entry.durations)),
        actions,
        active,
        waiting: waiting(rollout),
        skipped: skipped(rollout),
        failed: failed(rollout),
        history: history(before, entry),
    }
}

/// The runs before this one; the one that the status still speaks of is the last of them once another has started.
fn history(before: &UpdatePlanStatus, entry: Option<&PlanEntry>) -> Vec<PastRun> {
    let over = before
        .run
        .as_ref()
        .zip(entry)
        .filter(|(run, entry)| run.id != entry.run);
    let over = over.map(|(run, entry)| {
        let complete = before
            .conditions
            .iter()
            .find(|c| c.type_ == condition::COMPLETE && c.status == "True");
        PastRun {
            id: run.id.clone(),
            target: run.target.clone(),
            targets: run.targets.clone(),
            started_at: run.started_at,
            ended_at: run.completed_at.unwrap_or_else(|| second(entry.started_at)),
            outcome: complete.map_or_else(|| SUPERSEDED.to_owned(), |complete| complete.reason.clone()),
            nodes: before.nodes,
        }
    });
    over.into_iter()
        .chain(before.history.iter().cloned())
        .take(PAST_RUNS)
        .collect()
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn counts(rollout: &Rollout<'_>) -> NodeCounts {
    let mut counts = NodeCounts {
        matched: number(rollout.members.len()),
        unavailable: number(rollout.unavailable.len()),
        ..NodeCounts::default()
    };
    for member in &rollout.members {
        match member.place {
            Place::Waiting => counts.waiting += 1,
            Place::Granted => counts.updating += 1,
            Place::Updated => counts.updated += 1,
            Place::Failed => counts.failed += 1,
            Place::Skipped => counts.skipped += 1,
        }
    }
    counts
}

fn active(planning: &Planning<'_>, rollout: &Rollout<'_>) -> Vec<ActiveNode> {
    let granted = rollout
        .members
        .iter()
        .zip(&rollout.verdicts)
        .filter(|(member, _)| member.place == Place::Granted)
        .filter_map(|(m, verdict)| Some((m.node, planning.ledger.grants.get(&m.node.uid)?, verdict)));
    let mut granted: Vec<(&NodeFacts, &Grant, &Option<Verdict>)> = granted.collect();
    // Who is held up is told of in any case.
    granted.sort_by_key(|(node, grant, verdict)| (verdict.is_none(), grant.granted_at, node.name.as_str()));
    granted
        .into_iter()
        .take(NAMED)
        .map(|(node, grant, verdict)| ActiveNode {
            node: node.name.clone(),
            wave: grant.wave.clone(),
            doing: planning
                .doing
                .get(&node.uid)
                .cloned()
                .unwrap_or_else(|| "granted".to_owned()),
            since: second(grant.phase_since),
            reason: verdict.as_ref().map(|verdict| verdict.reason().to_owned()),
            message: verdict.as_ref().map(ToString::to_string),
        })
        .collect()
}

pub(crate) fn failed(rollout: &Rollout<'_>) -> Vec<FailedNode> {
    let mut failed: Vec<FailedNode> = rollout
        .members
        .iter()
        .filter(|member| member.place == Place::Failed)
        .filter_map(|member| {
            let spec = &member.node.shadow.as_ref()?.spec;
            let failure = spec.failure.as_ref()?;
            Some(FailedNode {
                node: member.node.name.clone(),
                reason: failure.reason,
                message: failure.message.clone(),
                attempts: failure.count,
                at: failure.at,
            })
        })
        .collect();
    failed.sort_by(|a, b| (b.at, &a.node).cmp(&(a.at, &b.node)));
    failed.truncate(NAMED);
    failed
}

pub(crate) fn waiting(rollout: &Rollout<'_>) -> Vec<WaitingNodes> {
    reasons(rollout, |member| member.place == Place::Waiting)
}

/// Why nodes are left alone.
pub(crate) fn skipped(rollout: &Rollout<'_>) -> Vec<WaitingNodes> {
    reasons(rollout, |member| member.place == Place::Skipped)
}

/// The verdicts of some of the nodes, with those that have the same.
fn reasons(rollout: &Rollout<'_>, of: impl Fn(&Member<'_>) -> bool) -> Vec<WaitingNodes> {
    // A few reasons for many nodes.
    let mut reasons: Vec<(&Verdict, WaitingNodes)> = Vec::new();
    for (member, verdict) in rollout.members.iter().zip(&rollout.verdicts) {
        let Some(verdict) = verdict.as_ref().filter(|_| of(member)) else {
            continue;
        };
        let (mut same, mut last, mut of_reason) = (None, None, 0);
        for (i, (known, _)) in reasons.iter().enumerate() {
            if known.says_the_same_as(verdict) {
                same = Some(i);
                break;
            }
            if known.reason() == verdict.reason() {
                (last, of_reason) = (Some(i), of_reason + 1);
            }
        }
        let index = same
            .or(last.filter(|_| of_reason >= OF_A_REASON))
            .unwrap_or_else(|| {
                let group = WaitingNodes {
                    reason: verdict.reason().to_owned(),
                    count: 0,
                    message: describe(member, verdict),
                    nodes: Vec::new(),
                };
                reasons.push((verdict, group));
                reasons.len() - 1
            });
        let entry = &mut reasons[index].1;
        entry.count += 1;
        if entry.nodes.len() < NAMED_WAITING {
            entry.nodes.push(member.node.name.clone());
        }
    }
    let mut reasons: Vec<WaitingNodes> = reasons.into_iter().map(|(_, group)| group).collect();
    reasons.sort_by(|a, b| a.reason.cmp(&b.reason));
    reasons
}

fn describe(member: &Member<'_>, verdict: &Verdict) -> String {
    let spec = member.node.shadow.as_ref().map(|shadow| &shadow.spec);
    match (verdict, spec.and_then(|spec| spec.failure.as_ref())) {
        (Verdict::Backoff { .. }, Some(failure)) => {
            format!("{verdict} ({}: {})", failure.reason, failure.message)
        }
        _ => verdict.to_string(),
    }
}

fn waves(
    now: DateTime<Utc>,
    rollout: &Rollout<'_>,
    valid: &ValidPlan,
    entry: Option<&PlanEntry>,
) -> Vec<WaveStatus> {
    let Some(assignment) = &rollout.waves else {
        return Vec::new();
    };
    let started_at = |name: &str| entry.and_then(|entry| entry.wave_started_at.get(name).copied());
    let approved_at = |name: &str| entry.and_then(|entry| entry.actions.approved.get(name).copied());
    let open = rollout.open_wave;
    let gated = valid
        .waves
        .get(open)
        .is_some_and(|wave| wave.approval == Approval::Manual && approved_at(&wave.name).is_none());
    // Where nothing was done and nothing is left to do there is nothing to approve.
    let idle = assignment.waves.iter().all(WaveProgress::done)
        && assignment
            .waves
            .get(open)
            .is_some_and(|progress| progress.needed == 0);
    let phase = |index: usize, progress: &WaveProgress, soak: TimeDelta| {
        if rollout.members.is_empty() || index > open && !(gated && idle) {
            WavePhase::Pending
        } else if !progress.done() {
            WavePhase::Progressing
        } else if index == open && progress.soak_until(soak).is_some_and(|until| until > now) {
            WavePhase::Soaking
        } else if index == open && gated && !idle {
            WavePhase::AwaitingApproval
        } else {
            WavePhase::Done
        }
    };
    let with_progress = valid.waves.iter().zip(&assignment.waves).enumerate();
    with_progress
        .map(|(index, (wave, progress))| {
            let phase = phase(index, progress, wave.soak);
            WaveStatus {
                name: wave.name.clone(),
                phase,
                nodes: number(progress.nodes),
                updated: number(progress.updated),
                updating: number(progress.granted),
                skipped: number(progress.skipped),
                failed: number(progress.failed),
                started_at: started_at(&wave.name).map(second),
                skip_at: rollout
                    .skip_at
                    .filter(|_| index == open && phase == WavePhase::Progressing)
                    .map(second),
                soak_until: progress
                    .soak_until(wave.soak)
                    .filter(|_| phase == WavePhase::Soaking)
                    .map(second),
                approved_at: approved_at(&wave.name).map(second),
            }
        })
        .collect()
}

fn window(owned: &Owned<'_>, valid: Option<&ValidPlan>) -> Option<WindowStatus> {
    match &owned.window {
        WindowState::Always if valid.is_some_and(|valid| valid.windows.are_ignored()) => Some(WindowStatus {
            open: true,
            next: "ignored (run-now)".to_owned(),
            name: None,
            closes_at: None,
            next_opens_at: None,
            exclusion: None,
        }),
        WindowState::Always => None,
        WindowState::Open { name, closes, by } => {
            let closes = matches!(by, Closing::End | Closing::Exclusion(_)).then_some(*closes);
            let next = match (closes, by) {
                (Some(at), _) => format!("open until {}", instant(at)),
                (None, Closing::RunDone) => "open until the run is done".to_owned(),
                (None, _) => "open".to_owned(),
            };
            Some(WindowStatus {
                open: true,
                next,
                name: name.clone(),
                closes_at: closes,
                next_opens_at: None,
                exclusion: owned.window.exclusion().map(str::to_owned),
            })
        }
        WindowState::Closed { next, unsure, .. } => Some(WindowStatus {
            open: false,
            next: match next {
                Some(next) => instant(next.at),
                None if *unsure => "none found".to_owned(),
                None => "never again".to_owned(),
            },
            name: next.as_ref().and_then(|next| next.name.clone()),
            closes_at: None,
            next_opens_at: next.as_ref().map(|next| next.at),
            exclusion: owned.window.exclusion().map(str::to_owned),
        }),
    }
}
