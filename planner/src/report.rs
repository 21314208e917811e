//! A plan's status: counts, conditions, and one line that a person understands.

use std::collections::BTreeMap;

use api::{
    ledger::Grant,
    plan::{
        ActiveNode, FailedNode, NodeCounts, Phase, Run, UpdatePlanStatus, WaitingNodes, WavePhase,
        WaveStatus, WindowStatus, condition,
    },
    verdict::{Verdict, instant},
};
use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::{
    owners::Owned,
    plan::Planning,
    rollout::Rollout,
    spec::ValidPlan,
    waves::{Member, Place, WaveProgress},
    windows::WindowState,
};

/// Nodes named in `active` and `failed`.
const NAMED: usize = 20;
/// Reasons that follow from what other nodes do: there is nothing that a person could do about them.
const FOLLOWS: [&str; 2] = ["WaveNotReached", "BudgetSpent"];
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
    let waves = valid.map_or_else(Vec::new, |valid| waves(planning.now, rollout, valid));
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
        .or_else(|| (finished && entry.is_some_and(|entry| !entry.halted)).then_some(planning.now));
    let run = entry.map(|entry| Run {
        id: entry.run.clone(),
        target: entry.target.clone(),
        started_at: entry.started_at,
        completed_at,
    });
    let view = View {
        owned,
        rollout,
        counts,
        active: &active,
        waves: &waves,
        halted: entry.is_some_and(|entry| entry.halted),
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
        window: (!over && !matches!(phase, Phase::Paused | Phase::Halted))
            .then(|| window(owned))
            .flatten(),
        active,
        waiting: waiting(rollout),
        failed: failed(rollout),
    }
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
        .filter_map(|m| Some((m.node, planning.ledger.grants.get(&m.node.uid)?)));
    let mut granted: Vec<(&str, &str, &Grant)> = granted
        .map(|(node, grant)| (node.uid.as_str(), node.name.as_str(), grant))
        .collect();
    granted.sort_by_key(|(_, name, grant)| (grant.granted_at, *name));
    granted
        .into_iter()
        .take(NAMED)
        .map(|(uid, name, grant)| ActiveNode {
            node: name.to_owned(),
            wave: grant.wave.clone(),
            doing: planning
                .doing
                .get(uid)
                .cloned()
                .unwrap_or_else(|| "granted".to_owned()),
            since: grant.phase_since,
        })
        .collect()
}

fn failed(rollout: &Rollout<'_>) -> Vec<FailedNode> {
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

fn waiting(rollout: &Rollout<'_>) -> Vec<WaitingNodes> {
    let mut reasons: BTreeMap<&'static str, WaitingNodes> = BTreeMap::new();
    for (member, verdict) in rollout.members.iter().zip(&rollout.verdicts) {
        let Some(verdict) = verdict.as_ref().filter(|_| member.place == Place::Waiting) else {
            continue;
        };
        let entry = reasons.entry(verdict.reason()).or_insert_with(|| WaitingNodes {
            reason: verdict.reason().to_owned(),
            count: 0,
            message: describe(member, verdict),
            nodes: Vec::new(),
        });
        entry.count += 1;
        if entry.nodes.len() < NAMED_WAITING {
            entry.nodes.push(member.node.name.clone());
        }
    }
    reasons.into_values().collect()
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

fn waves(now: DateTime<Utc>, rollout: &Rollout<'_>, valid: &ValidPlan) -> Vec<WaveStatus> {
    let Some(assignment) = &rollout.waves else {
        return Vec::new();
    };
    let phase = |index: usize, progress: &WaveProgress, soak: TimeDelta| {
        if index > rollout.open_wave || rollout.members.is_empty() {
            WavePhase::Pending
        } else if !progress.done() {
            WavePhase::Progressing
        } else if index == rollout.open_wave && progress.soak_until(soak).is_some_and(|until| until > now) {
            WavePhase::Soaking
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
                soak_until: progress
                    .soak_until(wave.soak)
                    .filter(|_| phase == WavePhase::Soaking),
            }
        })
        .collect()
}

fn window(owned: &Owned<'_>) -> Option<WindowStatus> {
    match &owned.window {
        WindowState::Always => None,
        WindowState::Open { name, closes } => Some(WindowStatus {
            open: true,
            next: format!("open until {}", instant(*closes)),
            name: Some(name.clone()),
            closes_at: Some(*closes),
            next_opens_at: None,
        }),
        WindowState::Closed { next } => Some(WindowStatus {
            open: false,
            next: next
                .as_ref()
                .map_or_else(|| "never again".to_owned(), |(at, _)| instant(*at)),
            name: next.as_ref().map(|(_, name)| name.clone()),
            closes_at: None,
            next_opens_at: next.as_ref().map(|(at, _)| *at),
        }),
    }
}

fn nodes_run(n: u32) -> String {
    if n == 1 {
        "1 node runs".to_owned()
    } else {
        format!("{n} nodes run")
    }
}

/// What phase and message are made of.
struct View<'a> {
    owned: &'a Owned<'a>,
    rollout: &'a Rollout<'a>,
    counts: NodeCounts,
    active: &'a [ActiveNode],
    waves: &'a [WaveStatus],
    halted: bool,
    completed: bool,
}

impl View<'_> {
    fn phase(&self) -> Phase {
        let waits_for = |reason: fn(&Verdict) -> bool| self.rollout.verdicts.iter().flatten().any(reason);
        let Ok(valid) = &self.owned.valid else {
            return Phase::Invalid;
        };
        if valid.paused {
            Phase::Paused
        } else if self.halted {
            Phase::Halted
        } else if self.completed {
            Phase::Complete
        } else if self.counts.matched == 0 {
            Phase::Pending
        } else if self.counts.updating > 0 {
            Phase::Progressing
        } else if waits_for(|v| matches!(v, Verdict::OutsideWindow { .. } | Verdict::WontFitInWindow { .. }))
        {
            Phase::WaitingForWindow
        } else if self.waves.iter().any(|wave| wave.phase == WavePhase::Soaking) {
            Phase::Soaking
        } else {
            Phase::Progressing
        }
    }

    fn message(&self, phase: Phase) -> String {
        let NodeCounts {
            matched,
            updated,
            skipped,
            failed,
            ..
        } = self.counts;
        let target = &self.owned.facts.spec.target_version;
        if self.owned.facts.deleting {
            return format!("the plan is being deleted{}", self.finishing());
        }
        let done = format!("{updated} of {} {target}", nodes_run(matched));
        let tail = match phase {
            Phase::Invalid => {
                return self
                    .owned
                    .valid
                    .as_ref()
                    .err()
                    .map(ToString::to_string)
                    .unwrap_or_default();
            }
            Phase::Pending => return self.nothing_matches(),
            Phase::Paused => format!("; paused{}", self.finishing()),
            Phase::Halted => {
                let Rollout {
                    failed, threshold, ..
                } = self.rollout;
                let halt = format!("; halted: {failed} failed, threshold {threshold}");
                format!(
                    "{halt}{}{}; set a new targetVersion to go on",
                    self.failures(),
                    self.finishing()
                )
            }
            Phase::Complete => {
                let but = [(skipped, "skipped"), (failed, "failed")]
                    .into_iter()
                    .filter(|(n, _)| *n > 0)
                    .map(|(n, what)| format!(", {n} {what}"));
                let waiting = self.reasons();
                let waiting = if waiting.is_empty() {
                    waiting
                } else {
                    format!("; {waiting}")
                };
                format!(
                    "{}{}{}{waiting}",
                    but.collect::<String>(),
                    self.failures(),
                    self.finishing()
                )
            }
            Phase::WaitingForWindow | Phase::Soaking => format!("; {}{}", self.reasons(), self.failures()),
            Phase::Progressing => format!("; {}{}", self.progress(), self.failures()),
        };
        done + &tail
    }

    fn nothing_matches(&self) -> String {
        match self.owned.lost.as_slice() {
            [] => format!(
                "no node with the label {}={} matches nodeSelector",
                api::names::NODE_LABEL,
                api::names::NODE_LABEL_VALUE
            ),
            [(_, plan), rest @ ..] => {
                let others = if rest.iter().all(|(_, other)| other == plan) {
                    ""
                } else {
                    " and others"
                };
                format!("every node that nodeSelector matches belongs to an older plan: {plan}{others}")
            }
        }
    }

    /// The nodes that are on their way whatever the plan says now.
    fn finishing(&self) -> String {
        if self.active.is_empty() {
            String::new()
        } else {
            format!("; {}", self.active_nodes())
        }
    }

    fn active_nodes(&self) -> String {
        let shown = self
            .active
            .iter()
            .take(3)
            .map(|active| format!("{} is {}", active.node, active.doing));
        let mut text = shown.collect::<Vec<_>>().join("; ");
        let more = (self.counts.updating as usize).saturating_sub(3);
        if more > 0 {
            text += &format!(" and {more} more");
        }
        text
    }

    fn progress(&self) -> String {
        let wave = self
            .waves
            .get(self.rollout.open_wave)
            .filter(|_| self.waves.len() > 1);
        let wave = wave.map_or_else(String::new, |wave| format!("wave {}: ", wave.name));
        if !self.active.is_empty() {
            // What holds the others up besides these.
            let others = self.reasons_of(|reason| !FOLLOWS.contains(&reason));
            let others = if others.is_empty() {
                others
            } else {
                format!("; {others}")
            };
            return format!("{wave}{}{others}", self.active_nodes());
        }
        let open = self
            .rollout
            .waves
            .as_ref()
            .and_then(|w| w.waves.get(self.rollout.open_wave));
        if open.is_some_and(WaveProgress::unproven) && self.counts.waiting > 0 {
            return format!("{wave}none of its nodes could be updated, so the next wave does not start");
        }
        format!("{wave}{}", self.reasons())
    }

    /// Why nodes wait: the most frequent reason that a person can act on comes first.
    fn reasons(&self) -> String {
        if !self.rollout.starting.is_empty() {
            return format!("{} about to start", self.rollout.starting.join(", "));
        }
        self.reasons_of(|_| true)
    }

    fn reasons_of(&self, wanted: impl Fn(&str) -> bool) -> String {
        let mut waiting = waiting(self.rollout);
        waiting.retain(|group| wanted(&group.reason));
        let follows = |group: &WaitingNodes| FOLLOWS.contains(&group.reason.as_str());
        waiting.sort_by(|a, b| (follows(a), b.count, &a.reason).cmp(&(follows(b), a.count, &b.reason)));
        let mut parts: Vec<String> = waiting
            .iter()
            .take(2)
            .map(|group| {
                let nodes = match group.nodes.as_slice() {
                    [node] => node.clone(),
                    nodes if group.count <= 3 => nodes.join(", "),
                    _ => format!("{} nodes", group.count),
                };
                format!("{nodes}: {}", group.message)
            })
            .collect();
        if parts.is_empty()
            && wanted("Soaking")
            && let Some(soaking) = self.waves.iter().find(|wave| wave.phase == WavePhase::Soaking)
        {
            let until = soaking.soak_until.map(instant).unwrap_or_default();
            parts.push(format!("wave {} soaks until {until}", soaking.name));
        }
        parts.join("; ")
    }

    /// The nodes that failed last, as a part of a message.
    fn failures(&self) -> String {
        let failed = failed(self.rollout);
        let shown = failed
            .iter()
            .take(3)
            .map(|f| format!("; {} failed ({}: {})", f.node, f.reason, f.message));
        let mut text: String = shown.collect();
        let more = (self.counts.failed as usize).saturating_sub(3);
        if more > 0 {
            text += &format!(" and {more} more failed");
        }
        text
    }

    fn conditions(&self, now: DateTime<Utc>, phase: Phase, message: &str) -> Vec<Condition> {
        let invalid = self.owned.valid.as_ref().err();
        let NodeCounts { skipped, failed, .. } = self.counts;
        let progressing = matches!(
            phase,
            Phase::Progressing | Phase::WaitingForWindow | Phase::Soaking | Phase::Pending
        );
        let complete = match (self.completed && invalid.is_none(), failed, skipped) {
            (false, ..) => "InProgress",
            (true, 0, 0) => "AllUpdated",
            (true, 0, _) => "WithSkipped",
            (true, ..) => "WithFailed",
        };
        let degraded = match (self.halted, failed) {
            (true, _) => condition::HALTED,
            (false, 0) => "Healthy",
            (false, _) => "NodesFailed",
        };
        let valid = invalid.map_or_else(|| "the spec can be carried out".to_owned(), ToString::to_string);
        let Rollout {
            failed, threshold, ..
        } = self.rollout;
        let failures = match (degraded, failed) {
            ("Healthy", _) => "no node has failed".to_owned(),
            (_, failed) => format!("{failed} failed, threshold {threshold}{}", self.failures()),
        };
        [
            (
                condition::VALID,
                invalid.is_none(),
                if invalid.is_none() { "Valid" } else { "Invalid" }.to_owned(),
                valid,
            ),
            (
                condition::PROGRESSING,
                progressing,
                format!("{phase:?}"),
                message.to_owned(),
            ),
            (
                condition::COMPLETE,
                complete != "InProgress",
                complete.to_owned(),
                message.to_owned(),
            ),
            (
                condition::DEGRADED,
                degraded != "Healthy",
                degraded.to_owned(),
                failures,
            ),
        ]
        .into_iter()
        .map(|(type_, holds, reason, message)| self.condition(now, type_, holds, reason, message))
        .collect()
    }

    fn condition(
        &self,
        now: DateTime<Utc>,
        type_: &str,
        holds: bool,
        reason: String,
        message: String,
    ) -> Condition {
        let status = if holds { "True" } else { "False" };
        let before = self
            .owned
            .facts
            .status
            .conditions
            .iter()
            .find(|c| c.type_ == type_ && c.status == status);
        Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason,
            message,
            last_transition_time: before.map_or_else(
                || api::time::to_kubernetes(second(now)),
                |before| before.last_transition_time.clone(),
            ),
            observed_generation: Some(self.owned.facts.generation),
        }
    }
}

/// Kubernetes stores times to the second; a status must compare equal to itself as stored.
fn second(at: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp(at.timestamp(), 0).unwrap_or(at)
}
