//! One plan's next grants: waves, windows, budgets; and why every other node waits.

use std::collections::HashMap;

use api::{
    ledger::{Grant, GrantPhase, MAX_GRANTS, PlanEntry},
    shadow::{BottlerocketShadowSpec, Failure, FailureReason, NodeState},
    verdict::Verdict,
};
use chrono::{DateTime, TimeDelta, Utc};
use semver::Version;

use crate::{
    decisions::{Action, NodeVerdict},
    machine,
    owners::Owned,
    plan::Planning,
    spec::ValidPlan,
    waves::{self, Assignment, Member, Place},
    windows::WindowState,
    world::NodeFacts,
};

/// A clock that disagrees with the Kubernetes API's by this much grants nothing.
const MAX_CLOCK_SKEW: TimeDelta = TimeDelta::seconds(30);

/// What a plan's rollout looks like after this round.
pub(crate) struct Rollout<'a> {
    pub owned: &'a Owned<'a>,
    pub members: Vec<Member<'a>>,
    /// Each member's verdict; None where it has a grant.
    pub verdicts: Vec<Option<Verdict>>,
    pub waves: Option<Assignment>,
    /// The wave that is under way.
    pub open_wave: usize,
    /// The number of nodes that may be unavailable.
    pub max_unavailable: usize,
    /// The nodes that are, each with the reason.
    pub unavailable: Vec<String>,
    /// The nodes that will be granted as soon as the plan has its finalizer.
    pub starting: Vec<String>,
    /// How many nodes have failed after their retries, as the threshold counts them.
    pub failed: usize,
    pub threshold: usize,
}

impl Rollout<'_> {
    /// One verdict for every node that does not move.
    pub fn verdicts(&self) -> impl Iterator<Item = NodeVerdict> {
        let plan = &self.owned.facts.name;
        let own = self
            .members
            .iter()
            .zip(&self.verdicts)
            .filter_map(|(m, v)| Some((m.node, v.clone()?)));
        let lost = self
            .owned
            .lost
            .iter()
            .map(|(node, name)| (*node, Verdict::OtherPlan { name: name.clone() }));
        own.chain(lost).map(|(node, verdict)| NodeVerdict {
            node: node.name.clone(),
            plan: plan.clone(),
            verdict,
        })
    }
}

/// Decides a plan's next grants.
pub(crate) fn rollout<'a>(planning: &mut Planning<'_>, owned: &'a Owned<'a>) -> Rollout<'a> {
    let facts = owned.facts;
    let entry = planning.ledger.plans.get(&facts.uid).cloned();
    let run = entry.as_ref().map_or("", |entry| entry.run.as_str());
    let valid = owned.valid.as_ref().ok();
    let members: Vec<Member<'a>> = owned
        .nodes
        .iter()
        .map(|node| member(planning, node, run, valid))
        .collect();
    let down: Vec<String> = members.iter().filter_map(unavailable).collect();
    let mut rollout = Rollout {
        owned,
        verdicts: members
            .iter()
            .map(|m| standing(planning, m, run, valid))
            .collect(),
        members,
        waves: None,
        open_wave: 0,
        max_unavailable: valid.map_or(0, |v| v.max_unavailable.at_most(owned.nodes.len())),
        unavailable: down,
        starting: Vec::new(),
        failed: 0,
        threshold: valid.map_or(1, |v| v.threshold.at_least(owned.nodes.len()).max(1)),
    };
    let (Some(valid), Some(mut entry)) = (valid, entry) else {
        let problem = owned.valid.as_ref().err().map(ToString::to_string);
        let verdict = problem.map_or(Verdict::Deleting, |problem| Verdict::InvalidPlan { problem });
        rollout.all_wait(&verdict);
        return rollout;
    };
    halt_at_threshold(planning, &mut rollout, valid, &mut entry);
    let matched = owned.nodes.len();
    let fixed = entry.wave_sizes.clone();
    let size_of = |wave: usize| {
        let wave = valid.waves.get(wave)?;
        let size = wave.size?.at_least(matched);
        Some(fixed.get(&wave.name).map_or(size, |fixed| *fixed as usize))
    };
    let assignment = waves::assign(
        valid,
        &entry.run,
        &rollout.members,
        entry.open_wave as usize,
        size_of,
    );
    watch_soaking_wave(planning, &rollout, valid, &assignment, &entry);
    open_next_wave(planning, owned, valid, &assignment, &mut entry);
    rollout.open_wave = (entry.open_wave as usize).min(valid.waves.len() - 1);
    let sizes = |entry: &mut PlanEntry| {
        for (i, wave) in valid.waves.iter().enumerate() {
            if let Some(size) = size_of(i) {
                entry
                    .wave_sizes
                    .entry(wave.name.clone())
                    .or_insert(u32::try_from(size).unwrap_or(u32::MAX));
            }
        }
    };
    let grants = grant_next(planning, &mut rollout, valid, &entry, &assignment);
    if !grants.is_empty() {
        if facts.finalizer {
            sizes(&mut entry);
            planning.ledger.plans.insert(facts.uid.clone(), entry);
            for (uid, grant) in grants {
                let note = format!(
                    "node {} may be updated from {} to {}",
                    grant.node, grant.from, grant.to
                );
                let node = grant.node.clone();
                if planning.ledger.grant(&uid, grant).is_ok() {
                    planning.grants_made = true;
                    planning.event(&facts.name, Some(&node), "NodeGranted", note, false);
                }
            }
            rollout.waves = Some(assignment);
            return rollout;
        }
        rollout.starting = grants.into_iter().map(|(_, grant)| grant.node).collect();
        planning.actions.push(Action::AddFinalizer {
            plan: facts.name.clone(),
        });
    }
    planning.ledger.plans.insert(facts.uid.clone(), entry);
    rollout.waves = Some(assignment);
    rollout
}

impl Rollout<'_> {
    /// Gives `verdict` to every node that needs the update: what is wrong with a node itself comes after.
    fn all_wait(&mut self, verdict: &Verdict) {
        for (member, slot) in self.members.iter().zip(&mut self.verdicts) {
            if member.place == Place::Waiting {
                *slot = Some(verdict.clone());
            }
        }
    }
}

/// What a node is to this run.
fn member<'a>(
    planning: &Planning<'_>,
    node: &'a NodeFacts,
    run: &str,
    valid: Option<&ValidPlan>,
) -> Member<'a> {
    let spec = node.shadow.as_ref().map(|shadow| &shadow.spec);
    let status = node.shadow.as_ref().and_then(|shadow| shadow.status.as_ref());
    let grant = planning.ledger.grants.get(&node.uid);
    let in_run = spec.filter(|spec| spec.run.as_deref() == Some(run));
    let recorded = grant
        .filter(|grant| grant.run == run)
        .map(|grant| grant.wave.clone())
        .or_else(|| in_run.and_then(|spec| spec.wave.clone()));
    let running = status.and_then(|status| Version::parse(&status.current_version).ok());
    let live = running.is_some() && node.agent.ready;
    let place = match (grant, running, valid) {
        (Some(_), ..) => Place::Granted,
        _ if in_run
            .is_some_and(|spec| exhausted(spec, valid, status.map(|s| s.current_version.as_str()), node)) =>
        {
            Place::Failed
        }
        (None, Some(running), Some(valid)) if running == valid.target_version => Place::Updated,
        (None, Some(running), Some(valid)) if running > valid.target_version => Place::Skipped,
        _ => Place::Waiting,
    };
    Member {
        node,
        recorded,
        place,
        live,
    }
}

/// Whether the run has given the node up: its retries are used, or it cannot be tried again. One that was given up for
/// not coming back is judged by what it is now.
fn exhausted(
    spec: &BottlerocketShadowSpec,
    valid: Option<&ValidPlan>,
    running: Option<&str>,
    node: &NodeFacts,
) -> bool {
    let Some(failure) = &spec.failure else {
        return false;
    };
    let came_back = failure.reason == FailureReason::RebootTimeout
        && node.ready
        && spec.state == NodeState::Idle
        && valid.is_some_and(|valid| running == Some(&valid.target));
    let retries = valid.map_or(0, |valid| valid.retries);
    !came_back && (is_final(failure.reason, node) || failure.count > retries)
}

/// Whether a node cannot be tried again after this failure: one that is unhealthy on the target has nothing to update,
/// and one that is down does not answer.
fn is_final(reason: FailureReason, node: &NodeFacts) -> bool {
    match reason {
        FailureReason::Unhealthy => true,
        FailureReason::RebootTimeout => !node.ready,
        _ => false,
    }
}

/// The node's name with the reason, where it counts as unavailable.
fn unavailable(member: &Member<'_>) -> Option<String> {
    let why = if member.place == Place::Granted {
        "being updated"
    } else if !member.node.ready {
        "not Ready"
    } else if member.node.unschedulable {
        "cordoned"
    } else {
        return None;
    };
    Some(format!("{} ({why})", member.node.name))
}

/// The verdict that follows from the node alone.
fn standing(
    planning: &mut Planning<'_>,
    member: &Member<'_>,
    run: &str,
    valid: Option<&ValidPlan>,
) -> Option<Verdict> {
    let node = member.node;
    let shadow = node.shadow.as_ref();
    let status = shadow.and_then(|shadow| shadow.status.as_ref());
    match member.place {
        Place::Granted => return None,
        Place::Failed => {
            let failure = shadow.and_then(|s| s.spec.failure.as_ref())?;
            return Some(Verdict::Failed {
                failure: failure.reason,
                message: failure.message.clone(),
            });
        }
        Place::Updated => return Some(Verdict::UpToDate),
        Place::Skipped => {
            let running = status.map(|s| s.current_version.clone()).unwrap_or_default();
            return Some(Verdict::NewerThanTarget { running });
        }
        Place::Waiting => {}
    }
    // What is wrong with the plan comes before what is wrong with the node: it is what a person has to change.
    valid?;
    let since = node.ready_changed;
    if !node.ready {
        return Some(Verdict::NotReady { since });
    }
    if !member.live {
        return Some(Verdict::AgentSilent {
            since: node.agent.since.filter(|_| !node.agent.ready),
        });
    }
    if node.disruption.is_some()
        || shadow.is_some_and(|s| s.spec.state != NodeState::Idle || !machine::acknowledged(s))
    {
        return Some(Verdict::Resetting);
    }
    if node.unschedulable {
        return Some(Verdict::CordonedByOther);
    }
    let failure = shadow.and_then(|s| machine::failure_in_run(&s.spec, run))?;
    let doublings = failure.count.saturating_sub(1).min(4);
    let pause = (planning.world.settings.retry_backoff * 2_i32.pow(doublings))
        .min(planning.world.settings.retry_backoff * 10);
    let until = failure.at + pause;
    if planning.now >= until {
        return None;
    }
    planning.wake(until);
    Some(Verdict::Backoff { until })
}

/// Halts the plan at its threshold; and counts a node that turns unhealthy while its wave is watched.
fn halt_at_threshold(
    planning: &mut Planning<'_>,
    rollout: &mut Rollout<'_>,
    valid: &ValidPlan,
    entry: &mut PlanEntry,
) {
    let failing = |member: &&Member<'_>| {
        // A grant that ends with the last allowed failure counts before its node has gone all the way back.
        let grant = planning
            .ledger
            .grants
            .get(&member.node.uid)
            .filter(|grant| grant.run == entry.run);
        let ending = grant
            .and_then(|grant| grant.ending.as_ref())
            .and_then(|ending| ending.failure);
        let spec = member.node.shadow.as_ref().map(|shadow| &shadow.spec);
        let before = spec
            .and_then(|spec| machine::failure_in_run(spec, &entry.run))
            .map_or(0, |f| f.count);
        let counted = spec.is_some_and(|spec| {
            spec.state == NodeState::ErrorReset && spec.attempt == grant.map(|grant| grant.attempt)
        });
        ending.is_some_and(|reason| {
            is_final(reason, member.node) || before + u32::from(!counted) > valid.retries
        })
    };
    let given_up = rollout
        .members
        .iter()
        .filter(|m| m.place == Place::Failed)
        .count();
    rollout.failed = given_up
        + rollout
            .members
            .iter()
            .filter(|m| m.place == Place::Granted)
            .filter(failing)
            .count();
    if rollout.failed >= rollout.threshold && !entry.halted {
        entry.halted = true;
        let note = format!(
            "halted: {} failed, threshold {}; set a new targetVersion to go on",
            rollout.failed, rollout.threshold
        );
        planning.event(&rollout.owned.facts.name, None, "Halted", note, true);
    }
}

/// While a wave soaks its nodes are checked: one that is not Ready has failed. The failure goes to its shadow, where
/// every other failure is.
fn watch_soaking_wave(
    planning: &mut Planning<'_>,
    rollout: &Rollout<'_>,
    valid: &ValidPlan,
    assignment: &Assignment,
    entry: &PlanEntry,
) {
    let index = (entry.open_wave as usize).min(valid.waves.len() - 1);
    let (wave, progress) = (&valid.waves[index], &assignment.waves[index]);
    let soaks = progress
        .soak_until(wave.soak)
        .filter(|until| progress.done() && *until > planning.now);
    let Some(until) = soaks else { return };
    planning.wake(until);
    for (member, of) in rollout.members.iter().zip(&assignment.wave_of) {
        let watched = *of == index && member.place == Place::Updated && member.recorded.is_some();
        let Some(shadow) = member
            .node
            .shadow
            .as_ref()
            .filter(|_| watched && !member.node.ready)
        else {
            continue;
        };
        let failure = Failure {
            reason: FailureReason::Unhealthy,
            message: format!("not Ready while wave {} soaks", wave.name),
            at: planning.now,
            count: machine::failure_in_run(&shadow.spec, &entry.run).map_or(0, |f| f.count) + 1,
        };
        let spec = BottlerocketShadowSpec {
            failure: Some(failure),
            ..shadow.spec.clone()
        };
        planning.actions.push(Action::SetShadow {
            node: member.node.name.clone(),
            spec,
        });
    }
}

/// Starts the wave after one that is done and soaked. Once started it stays so, also where newcomers join an earlier one.
fn open_next_wave(
    planning: &mut Planning<'_>,
    owned: &Owned<'_>,
    valid: &ValidPlan,
    assignment: &Assignment,
    entry: &mut PlanEntry,
) {
    while (entry.open_wave as usize) + 1 < valid.waves.len() {
        let index = entry.open_wave as usize;
        let (wave, progress) = (&valid.waves[index], &assignment.waves[index]);
        // Before any node is known nothing is done, there is just nothing yet.
        if owned.nodes.is_empty() || !progress.done() || entry.halted || entry.paused {
            return;
        }
        if progress
            .soak_until(wave.soak)
            .is_some_and(|until| until > planning.now)
        {
            return;
        }
        entry.open_wave += 1;
        let next = &valid.waves[index + 1].name;
        let note = format!(
            "wave {} is done, {} of {} updated; wave {next} starts",
            wave.name, progress.updated, progress.nodes
        );
        planning.event(&owned.facts.name, None, "WaveDone", note, false);
    }
}

/// Chooses the nodes to grant, in the order of their waves and ranks, as far as window and budgets go; every other
/// node gets its verdict.
fn grant_next(
    planning: &mut Planning<'_>,
    rollout: &mut Rollout<'_>,
    valid: &ValidPlan,
    entry: &PlanEntry,
    assignment: &Assignment,
) -> Vec<(String, Grant)> {
    let mut grants = Vec::new();
    if let Some(verdict) = plan_verdict(rollout, valid, entry) {
        rollout.all_wait(&verdict);
        return grants;
    }
    // A node whose grant is released in this very round is judged in the next, when its owner is clear again.
    let world = planning.world;
    let released = |uid: &str| {
        world
            .ledger
            .as_ref()
            .is_some_and(|ledger| ledger.grants.contains_key(uid))
    };
    let mut order: Vec<usize> = (0..rollout.members.len())
        .filter(|i| rollout.members[*i].place == Place::Waiting && rollout.verdicts[*i].is_none())
        .filter(|i| !released(&rollout.members[*i].node.uid))
        .collect();
    order.sort_by_cached_key(|i| {
        let uid = &rollout.members[*i].node.uid;
        (assignment.wave_of[*i], waves::rank(&entry.run, uid), uid.clone())
    });
    let clock = clock_verdict(planning);
    let closed = window_verdict(planning, rollout.owned, valid);
    let mut down = rollout.unavailable.clone();
    let mut down_in_wave: HashMap<usize, Vec<String>> = HashMap::new();
    for (member, wave) in rollout.members.iter().zip(&assignment.wave_of) {
        if let Some(node) = unavailable(member) {
            down_in_wave.entry(*wave).or_default().push(node);
        }
    }
    for i in order {
        let wave = assignment.wave_of[i];
        let node = rollout.members[i].node;
        let verdict = clock
            .clone()
            .or_else(|| wave_verdict(valid, entry, assignment, wave))
            .or_else(|| closed.clone())
            .or_else(|| {
                let max = rollout.max_unavailable;
                (down.len() >= max).then(|| spent(&down, max, "plan".to_owned()))
            })
            .or_else(|| {
                let max = valid.waves[wave]
                    .max_unavailable?
                    .at_most(assignment.waves[wave].nodes);
                let down = down_in_wave.get(&wave).map_or(&[][..], Vec::as_slice);
                (down.len() >= max).then(|| spent(down, max, format!("wave {}", valid.waves[wave].name)))
            })
            .or_else(|| {
                let live = planning.ledger.grants.len() + grants.len();
                (live >= MAX_GRANTS).then(|| spent(&down, MAX_GRANTS, "operator".to_owned()))
            });
        if verdict.is_some() {
            rollout.verdicts[i] = verdict;
            continue;
        }
        let granted = format!("{} (being updated)", node.name);
        down_in_wave.entry(wave).or_default().push(granted.clone());
        down.push(granted);
        grants.push((
            node.uid.clone(),
            grant(planning.now, rollout.owned, valid, entry, node, wave),
        ));
    }
    grants
}

fn grant(
    now: DateTime<Utc>,
    owned: &Owned<'_>,
    valid: &ValidPlan,
    entry: &PlanEntry,
    node: &NodeFacts,
    wave: usize,
) -> Grant {
    let shadow = node.shadow.as_ref();
    let last = shadow
        .filter(|s| s.spec.run.as_deref() == Some(&entry.run))
        .and_then(|s| s.spec.attempt);
    let from = shadow
        .and_then(|s| s.status.as_ref())
        .map(|status| status.current_version.clone());
    Grant {
        node: node.name.clone(),
        plan: owned.facts.uid.clone(),
        generation: entry.generation,
        run: entry.run.clone(),
        wave: valid.waves[wave].name.clone(),
        attempt: last.unwrap_or(0) + 1,
        from: from.unwrap_or_default(),
        to: valid.target.clone(),
        phase: GrantPhase::Granted,
        granted_at: now,
        phase_since: now,
        not_after: match &owned.window {
            WindowState::Open { closes, .. } => Some(*closes),
            WindowState::Always | WindowState::Closed { .. } => None,
        },
        permit: None,
        ending: None,
    }
}

fn spent(down: &[String], max: usize, limit: String) -> Verdict {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let by = down.iter().take(5).cloned().collect();
    Verdict::BudgetSpent {
        unavailable: number(down.len()),
        max: number(max),
        limit,
        by,
    }
}

/// Why the whole plan grants nothing.
fn plan_verdict(rollout: &Rollout<'_>, valid: &ValidPlan, entry: &PlanEntry) -> Option<Verdict> {
    if rollout.owned.facts.deleting {
        return Some(Verdict::Deleting);
    }
    if valid.paused {
        return Some(Verdict::Paused);
    }
    if entry.halted {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        return Some(Verdict::Halted {
            failed: number(rollout.failed),
            threshold: number(rollout.threshold),
        });
    }
    None
}

/// Why no clock-bound decision can be made now.
fn clock_verdict(planning: &Planning<'_>) -> Option<Verdict> {
    match planning.world.clock_skew {
        None => Some(Verdict::ClockSkewed { seconds: None }),
        Some(skew) if skew.abs() >= MAX_CLOCK_SKEW => Some(Verdict::ClockSkewed {
            seconds: Some(skew.num_seconds()),
        }),
        Some(_) => None,
    }
}

/// Why no node can be granted now, as far as the plan's windows go.
fn window_verdict(planning: &mut Planning<'_>, owned: &Owned<'_>, valid: &ValidPlan) -> Option<Verdict> {
    match &owned.window {
        WindowState::Always => None,
        WindowState::Open { closes, .. } => {
            planning.wake(*closes);
            let last_start = *closes - valid.node_duration;
            if planning.now <= last_start {
                planning.wake(last_start + TimeDelta::milliseconds(1));
                return None;
            }
            Some(Verdict::WontFitInWindow {
                needs_seconds: valid.node_duration.num_seconds(),
                closes: *closes,
                opens: valid
                    .windows
                    .opens_after(*closes - TimeDelta::milliseconds(1))
                    .map(|(at, _)| at),
            })
        }
        WindowState::Closed { next } => {
            let opens = next.as_ref().map(|(at, _)| *at);
            if let Some(opens) = opens {
                planning.wake(opens);
            }
            Some(Verdict::OutsideWindow { opens })
        }
    }
}

/// Why a node's wave has not started.
fn wave_verdict(
    valid: &ValidPlan,
    entry: &PlanEntry,
    assignment: &Assignment,
    wave: usize,
) -> Option<Verdict> {
    let open = (entry.open_wave as usize).min(valid.waves.len() - 1);
    if wave <= open {
        return None;
    }
    let (current, progress) = (&valid.waves[open], &assignment.waves[open]);
    let soak = progress
        .done()
        .then(|| progress.soak_until(current.soak))
        .flatten();
    Some(match soak {
        Some(until) => Verdict::Soaking {
            wave: current.name.clone(),
            until,
        },
        None => Verdict::WaveNotReached {
            wave: valid.waves[wave].name.clone(),
            behind: current.name.clone(),
        },
    })
}
