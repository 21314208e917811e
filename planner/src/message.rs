//! A plan's phase, conditions, and the one line that a person understands.

use api::{
    plan::{ActionStatus, ActiveNode, NodeCounts, Phase, WaitingNodes, WavePhase, WaveStatus, condition},
    verdict::{Verdict, halted_by, instant},
};
use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::{
    actions,
    failures::is_watched,
    owners::Owned,
    report::{failed, skipped as skipped_nodes, waiting},
    rollout::{Rollout, is_down},
    waves::{Place, WaveProgress},
};

/// Reasons that follow from what other nodes do: there is nothing that a person could do about them.
const FOLLOWS: [&str; 4] = ["WaveNotReached", "BudgetSpent", "DomainBusy", "Staging"];

/// What phase and message are made of.
pub(crate) struct View<'a> {
    pub owned: &'a Owned<'a>,
    /// What nodes are to run, in words.
    pub target: &'a str,
    pub rollout: &'a Rollout<'a>,
    pub counts: NodeCounts,
    pub active: &'a [ActiveNode],
    pub waves: &'a [WaveStatus],
    pub actions: &'a [ActionStatus],
    /// The run's id; empty where there is none.
    pub run: &'a str,
    pub halted: bool,
    /// The whole install is stopped.
    pub stopped: bool,
    pub completed: bool,
}

impl View<'_> {
    pub fn phase(&self) -> Phase {
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
        } else if self.stopped {
            Phase::Paused
        } else if self.counts.matched == 0 {
            Phase::Pending
        } else if self.counts.updating > 0 {
            Phase::Progressing
        } else if waits_for(Verdict::is_of_windows) {
            Phase::WaitingForWindow
        } else if self.waves.iter().any(|wave| wave.phase == WavePhase::Soaking) {
            Phase::Soaking
        } else if self
            .waves
            .iter()
            .any(|wave| wave.phase == WavePhase::AwaitingApproval)
        {
            Phase::AwaitingApproval
        } else {
            Phase::Progressing
        }
    }

    pub fn message(&self, phase: Phase) -> String {
        let NodeCounts {
            matched,
            updated,
            skipped,
            failed,
            ..
        } = self.counts;
        let target = self.target;
        if self.owned.facts.deleting {
            return format!("the plan is being deleted{}", self.finishing());
        }
        let done = format!("{updated} of {matched} nodes run {target}");
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
            Phase::Paused if self.stopped => format!("; {}{}", Verdict::Stopped, self.finishing()),
            Phase::Paused => format!("; paused{}", self.finishing()),
            Phase::Halted => {
                let Rollout {
                    failed, threshold, ..
                } = self.rollout;
                let by = halted_by(failed, threshold);
                format!(
                    "; halted: {by}{}{}; {}",
                    self.failures(),
                    self.finishing(),
                    actions::how_to_go_on(self.run)
                )
            }
            Phase::Complete => {
                let why = by_reason(&skipped_nodes(self.rollout)).join("; ");
                let but = [
                    (skipped, format!("skipped ({why})")),
                    (failed, "failed".to_owned()),
                ]
                .into_iter()
                .filter(|(n, _)| *n > 0)
                .map(|(n, what)| format!(", {n} {what}"));
                // A wave that newcomers are the first nodes of holds the others like any.
                let waiting = if self.is_unproven() {
                    self.unproven()
                } else {
                    self.reasons()
                };
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
            Phase::WaitingForWindow | Phase::Soaking | Phase::AwaitingApproval => {
                format!("; {}{}", self.reasons(), self.failures())
            }
            Phase::Progressing => format!("; {}{}", self.progress(), self.failures()),
        };
        done + &tail + &self.elsewhere() + &self.ignored()
    }

    /// The nodes that the plan selects and that belong to others.
    fn elsewhere(&self) -> String {
        let lost = self.owned.lost.as_slice();
        let Some((first, plan)) = lost.first() else {
            return String::new();
        };
        let (nodes, belong) = match lost.len() {
            1 => (first.name.clone(), "belongs"),
            many => (format!("{many} other nodes"), "belong"),
        };
        if lost.iter().all(|(_, other)| other == plan) {
            format!("; {nodes} {belong} to plan {plan}")
        } else {
            format!("; {nodes} {belong} to other plans, such as {plan}")
        }
    }

    /// What people have asked that is not done, and why.
    fn ignored(&self) -> String {
        let ignored = self.actions.iter().filter(|action| !action.taken);
        ignored
            .take(2)
            .map(|action| format!("; {} {}: {}", action.action, action.value, action.message))
            .collect()
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
                format!(
                    "every node that nodeSelector matches belongs to a plan that comes before this one, or is updating it: {plan}{others}"
                )
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
        let shown = self.active.iter().take(3).map(|active| {
            // What a drain waits for it says itself.
            let stuck = active
                .message
                .as_ref()
                .filter(|message| !active.doing.ends_with(*message));
            let stuck = stuck.map_or_else(String::new, |message| format!(" ({message})"));
            format!("{} is {}{stuck}", active.node, active.doing)
        });
        let mut text = shown.collect::<Vec<_>>().join("; ");
        let more = (self.counts.updating as usize).saturating_sub(3);
        if more > 0 {
            text += &format!(" and {more} more");
        }
        text
    }

    /// That the wave under way has updated none of its nodes, and what a person can do about it.
    fn unproven(&self) -> String {
        let wave = self.open_wave();
        let next = if self.rollout.open_wave + 1 < self.waves.len() {
            ", so the next wave does not start"
        } else {
            ""
        };
        let how = actions::how_to_go_on(self.run);
        let why = by_reason(&skipped_nodes(self.rollout)).join("; ");
        // Nobody is left of whom it could be told.
        let gone = self
            .waves
            .get(self.rollout.open_wave)
            .is_some_and(|wave| wave.nodes == 0);
        let why = match why.as_str() {
            "" if gone => " (those that were begun with are gone)".to_owned(),
            "" => why,
            why => format!(" ({why})"),
        };
        format!("{wave}none of its nodes could be updated{why}{next}; {how}")
    }

    /// The wave under way, as the beginning of what is said of it; nothing where it is the only one.
    fn open_wave(&self) -> String {
        let wave = self
            .waves
            .get(self.rollout.open_wave)
            .filter(|_| self.waves.len() > 1);
        wave.map_or_else(String::new, |wave| format!("wave {}: ", wave.name))
    }

    fn progress(&self) -> String {
        let wave = self.open_wave();
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
        if self.is_unproven() {
            return self.unproven();
        }
        let reasons = self.reasons();
        let why = if reasons.is_empty() {
            self.down_in_open_wave()
        } else {
            reasons
        };
        format!("{wave}{why}")
    }

    /// The nodes that hold the next wave where nobody waits any more: they are about to count as failed.
    fn down_in_open_wave(&self) -> String {
        let Some(waves) = &self.rollout.waves else {
            return String::new();
        };
        let members = self.rollout.members.iter().zip(&waves.wave_of);
        let down = members
            .filter(|(member, wave)| {
                **wave == self.rollout.open_wave && is_watched(member) && !member.node.ready
            })
            .filter_map(|(member, _)| is_down(member.node));
        down.take(3).collect::<Vec<_>>().join(", ")
    }

    /// Whether the wave that is under way has proven nothing, so that nothing goes on without a person.
    fn is_unproven(&self) -> bool {
        let waves = self.rollout.waves.as_ref();
        let open = waves.and_then(|assignment| assignment.waves.get(self.rollout.open_wave));
        open.is_some_and(WaveProgress::unproven)
    }

    /// Whether nothing goes on until a person edits the windows: none opens again, none is found, or none is long enough.
    fn is_out_of_windows(&self) -> bool {
        let mut of_windows = self
            .rollout
            .verdicts
            .iter()
            .flatten()
            .filter(|v| v.is_of_windows())
            .peekable();
        let no_use = |verdict: &Verdict| {
            matches!(
                verdict,
                Verdict::OutsideWindow { opens: None }
                    | Verdict::Excluded { opens: None, .. }
                    | Verdict::NoWindowFound
                    | Verdict::WontFitInWindow { opens: None, .. }
                    | Verdict::WindowTooShort { .. }
            )
        };
        of_windows.peek().is_some() && of_windows.all(no_use)
    }

    /// Whether nothing goes on until a person sees to nodes that cannot be updated: no node is on its way or will be skipped, and
    /// what the others wait for are those nodes.
    fn is_held_up(&self) -> bool {
        let waiting = || {
            let members = self.rollout.members.iter().zip(&self.rollout.verdicts);
            members.filter(|(member, _)| member.place == Place::Waiting)
        };
        let blocks = |verdict: &Verdict| {
            matches!(
                verdict,
                Verdict::NotReady { .. }
                    | Verdict::CordonedByOther
                    | Verdict::AgentSilent { .. }
                    | Verdict::VersionDisputed { .. }
                    | Verdict::AgentOutdated
            )
        };
        // Other plans' nodes, which come back by themselves, spend no limit of the plan.
        let follows = |verdict: &Verdict| match verdict {
            Verdict::BudgetSpent { limit, .. } => limit == "plan" || limit.starts_with("wave "),
            Verdict::DomainBusy { .. } | Verdict::WaveNotReached { .. } => true,
            _ => false,
        };
        self.counts.updating == 0
            && self.rollout.starting.is_empty()
            && self.rollout.skip_at.is_none()
            && self
                .rollout
                .members
                .iter()
                .any(|member| is_down(member.node).is_some())
            && waiting().next().is_some()
            && waiting().all(|(_, verdict)| verdict.as_ref().is_some_and(|v| blocks(v) || follows(v)))
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
        let mut parts = by_reason(&waiting);
        if parts.is_empty()
            && wanted("AwaitingApproval")
            && let Some(wave) = self
                .waves
                .iter()
                .find(|wave| wave.phase == WavePhase::AwaitingApproval)
        {
            let (wave, run) = (wave.name.clone(), self.run.to_owned());
            parts.push(Verdict::AwaitingApproval { wave, run }.to_string());
        }
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

    pub fn conditions(&self, now: DateTime<Utc>, phase: Phase, message: &str) -> Vec<Condition> {
        let invalid = self.owned.valid.as_ref().err();
        let NodeCounts { skipped, failed, .. } = self.counts;
        let moves = matches!(
            phase,
            Phase::Progressing | Phase::WaitingForWindow | Phase::Soaking
        );
        let stuck = self.is_unproven()
            || self.is_out_of_windows()
            || phase == Phase::Progressing && self.is_held_up();
        let progressing = moves && (!stuck || self.counts.updating > 0);
        let complete = match (self.completed, failed, skipped) {
            // What an invalid plan's nodes are is not known: the run ended as it did.
            (true, ..) if invalid.is_some() => self.ended_as().unwrap_or("InProgress"),
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
            // What an invalid plan's threshold is is not known.
            (_, _) if invalid.is_some() => format!("{} failed{}", self.counts.failed, self.failures()),
            (condition::HALTED, failed) => format!("{}{}", halted_by(failed, threshold), self.failures()),
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

    /// The reason that the status has for the run being complete.
    fn ended_as(&self) -> Option<&str> {
        let before = self.owned.facts.status.conditions.iter();
        let mut complete = before.filter(|c| c.type_ == condition::COMPLETE && c.status == "True");
        complete.next().map(|c| c.reason.as_str())
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

/// The first reasons, each with the nodes that it holds for.
fn by_reason(groups: &[WaitingNodes]) -> Vec<String> {
    groups.iter().take(2).map(WaitingNodes::words).collect()
}

/// Kubernetes stores times to the second; a status must compare equal to itself as stored.
pub(crate) fn second(at: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp(at.timestamp(), 0).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use api::verdict::Told;

    use super::FOLLOWS;

    #[test]
    fn what_follows_from_other_nodes_is_a_reason_that_there_is_and_no_event_of_its_own() {
        for reason in FOLLOWS {
            assert_eq!(Told::of(reason), Some(Told::Otherwise), "{reason}");
        }
    }
}
