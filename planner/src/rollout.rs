//! One plan's rollout: what every node is to it, which wave is open, and in which order things are decided.

use std::{borrow::Cow, sync::Arc};

use api::{ledger::PlanEntry, plan::Approval, shadow::NodeState, verdict::Verdict};
use chrono::{DateTime, Utc};

use crate::{
    actions, ahead,
    decisions::{Action, NodeVerdict},
    estimate, failures, grants, held, machine,
    owners::Owned,
    plan::Planning,
    running::{Running, Versions, running_as_read},
    spec::ValidPlan,
    stuck, targets, waiting,
    waves::{self, Assignment, Member, Place},
    world::NodeFacts,
};

/// What a plan's rollout looks like after this round.
pub(crate) struct Rollout<'a> {
    pub owned: &'a Owned<'a>,
    pub members: Vec<Member<'a>>,
    /// Each member's verdict; None where it has a grant and gets on.
    pub verdicts: Vec<Option<Verdict>>,
    pub waves: Option<Assignment>,
    /// The wave that is under way.
    pub open_wave: usize,
    /// The number of nodes that may be unavailable.
    pub max_unavailable: usize,
    /// The members that are, by their place in the list.
    pub down: Vec<usize>,
    /// The same, each with the reason.
    pub unavailable: Vec<String>,
    /// The nodes that will be granted as soon as the plan has its finalizer.
    pub starting: Vec<String>,
    /// How many nodes have failed after their retries, as the threshold counts them.
    pub failed: usize,
    pub threshold: usize,
    /// When the last node will be done.
    pub estimate: Option<DateTime<Utc>>,
    /// When the nodes that alone hold the open waves are skipped.
    pub skip_at: Option<DateTime<Utc>>,
}

impl Rollout<'_> {
    /// One verdict for every node that does not move.
    pub fn verdicts(self, all: &mut Vec<NodeVerdict>) {
        let Self {
            owned,
            members,
            verdicts,
            ..
        } = self;
        let own = members
            .iter()
            .zip(verdicts)
            .filter_map(|(m, v)| Some((m.node, v?)));
        let lost = owned.lost.iter().map(|(node, name)| {
            let name = (*name).to_owned();
            (*node, Verdict::OtherPlan { name })
        });
        let plan: Arc<str> = owned.facts.name.as_str().into();
        all.extend(own.chain(lost).map(|(node, verdict)| NodeVerdict {
            node: node.name.clone(),
            plan: Arc::clone(&plan),
            verdict,
        }));
    }
}

/// What a plan's nodes are to its run, before anything is decided for it.
pub(crate) struct Looked<'a> {
    entry: Option<PlanEntry>,
    members: Vec<Member<'a>>,
    verdicts: Vec<Option<Verdict>>,
    down: Vec<usize>,
    unavailable: Vec<String>,
}

/// Looks at every node once, by name, for all plans: plan by plan would go through the whole of a big fleet's memory for each.
pub(crate) fn look<'a>(planning: &mut Planning<'_>, plans: &'a [Owned<'a>]) -> Vec<Looked<'a>> {
    let mut all: Vec<Looked<'a>> = plans
        .iter()
        .map(|owned| Looked {
            entry: planning.ledger.plans.get(&owned.facts.uid).cloned(),
            members: Vec::with_capacity(owned.nodes.len()),
            verdicts: Vec::with_capacity(owned.nodes.len()),
            down: Vec::new(),
            unavailable: Vec::new(),
        })
        .collect();
    let mut versions = Versions::default();
    for plan in std::mem::take(&mut planning.marked.plans) {
        let (owned, looked) = (&plans[plan], &mut all[plan]);
        let (entry, valid) = (looked.entry.as_ref(), owned.valid.as_ref().ok());
        let i = looked.members.len();
        let member = member(
            planning,
            &mut versions,
            owned.nodes[i],
            owned.granted[i],
            entry,
            valid,
        );
        if let Some(words) = why_unavailable(&member) {
            looked.down.push(i);
            looked.unavailable.push(words);
        }
        looked.verdicts.push(standing(planning, &member, entry, valid));
        looked.members.push(member);
    }
    all
}

/// Decides a plan's next grants.
pub(crate) fn rollout<'a>(
    planning: &mut Planning<'_>,
    owned: &'a Owned<'a>,
    looked: Looked<'a>,
) -> Rollout<'a> {
    let facts = owned.facts;
    let valid = owned.valid.as_ref().ok();
    let matched = owned.nodes.len();
    let Looked {
        entry,
        members,
        verdicts,
        down,
        unavailable,
    } = looked;
    let mut rollout = Rollout {
        owned,
        verdicts,
        members,
        waves: None,
        open_wave: 0,
        max_unavailable: valid.map_or(0, |v| v.max_unavailable.at_most(matched)),
        down,
        unavailable,
        starting: Vec::new(),
        failed: 0,
        threshold: valid.map_or(1, |v| v.threshold.at_least(matched).max(1)),
        estimate: None,
        skip_at: None,
    };
    let (Some(valid), Some(mut entry)) = (valid, entry) else {
        let problem = owned.valid.as_ref().err().map(ToString::to_string);
        let verdict = problem.map_or(Verdict::Deleting, |problem| Verdict::InvalidPlan { problem });
        rollout.all_wait(&verdict);
        return rollout;
    };
    find_open_wave(valid, &mut entry);
    failures::halt_at_threshold(planning, &mut rollout, valid, &mut entry);
    let fixed = entry.wave_sizes.clone();
    let size_of = |wave: usize| {
        let wave = valid.waves.get(wave)?;
        let size = wave.size?.at_least(matched);
        Some(fixed.get(&wave.name).map_or(size, |fixed| *fixed as usize))
    };
    let open_wave = entry.open_wave as usize;
    let run = entry.run.clone();
    let so_far = (open_wave, actions::is_complete(facts, &entry));
    let assign = |members: &[Member<'_>]| waves::assign(valid, &run, members, &owned.fits, so_far, size_of);
    let mut assignment = assign(&rollout.members);
    if held::skip(planning, &mut rollout, valid, &mut entry, &assignment) {
        assignment = assign(&rollout.members);
        if held::skip_replacements(&mut rollout, valid, &entry, &assignment) {
            assignment = assign(&rollout.members);
        }
    }
    waiting::record(planning, &rollout.members, valid, &mut entry);
    assignment.waves[open_wave].soaks_from(entry.soaks_from);
    owe_proof(&rollout, valid, &mut assignment, &mut entry);
    failures::watch_soaking_wave(planning, &rollout, valid, &assignment, &entry);
    open_next_wave(planning, &rollout, valid, &assignment, &mut entry);
    let open = entry.open_wave as usize;
    entry.soaks_from = assignment.waves[open].soak_since(valid.waves[open].soak);
    if entry.soaks_from.is_some() {
        // So that it is not taken for another's after an edit.
        entry.open_wave_name.clone_from(&valid.waves[open].name);
    }
    rollout.open_wave = entry.open_wave as usize;
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
    let granted = grants::grant_next(planning, &mut rollout, valid, &entry, &assignment);
    if !granted.is_empty() {
        if facts.finalizer {
            sizes(&mut entry);
            for (_, grant) in &granted {
                let started_at = entry.wave_started_at.entry(grant.wave.clone());
                started_at.or_insert(planning.now);
            }
            planning.ledger.plans.insert(facts.uid.clone(), entry);
            for (uid, grant) in granted {
                let note = format!(
                    "node {} may be updated from {} to {}",
                    grant.node, grant.from, grant.to
                );
                let node = grant.node.clone();
                if planning.ledger.grant(&uid, grant).is_ok() {
                    planning.by_fresh_nodes = true;
                    planning.event(&facts.name, Some(&node), "NodeGranted", note, false);
                }
            }
            rollout.waves = Some(assignment);
            return rollout;
        }
        rollout.starting = granted.into_iter().map(|(_, grant)| grant.node).collect();
        planning.starting += rollout.starting.len();
        planning.actions.push(Action::AddFinalizer {
            plan: facts.name.clone(),
        });
    }
    rollout.waves = Some(assignment);
    rollout.estimate = estimate::completion(planning, &rollout, valid, &entry);
    ahead::tell(planning, &mut rollout, valid, &entry);
    planning.ledger.plans.insert(facts.uid.clone(), entry);
    rollout
}

impl Rollout<'_> {
    /// Gives `verdict` to every node that needs the update: what is wrong with a node itself comes after.
    pub fn all_wait(&mut self, verdict: &Verdict) {
        for (member, slot) in self.members.iter().zip(&mut self.verdicts) {
            if member.place == Place::Waiting {
                *slot = Some(verdict.clone());
            }
        }
    }
}

/// Records whether the open wave has begun and updated nobody, before a node is told anything. By its name: an edit may put others
/// before it.
fn owe_proof(rollout: &Rollout<'_>, valid: &ValidPlan, assignment: &mut Assignment, entry: &mut PlanEntry) {
    // After the last wave there is nothing that a proof is needed for; nor where nobody waits.
    let last = valid.waves.len() - 1;
    let open = entry.open_wave as usize;
    if open < last {
        let name = &valid.waves[open].name;
        let owes = entry.owes_proof.as_ref() == Some(name);
        if assignment.waves[open].began_unproven(owes) {
            entry.owes_proof = Some(name.clone());
        } else if owes {
            entry.owes_proof = None;
        }
    }
    let waits = |member: &Member<'_>| matches!(member.place, Place::Waiting | Place::Granted);
    for (wave, progress) in valid.waves.iter().zip(&mut assignment.waves).take(last) {
        let owes = entry.owes_proof.as_ref() == Some(&wave.name);
        progress.owes_proof = owes && progress.began_unproven(true) && rollout.members.iter().any(waits);
    }
}

/// Where an edit has moved the wave that was under way, or taken it away, the waves are gone through again from the
/// first: those that are done still are, and those that are new come in their order.
fn find_open_wave(valid: &ValidPlan, entry: &mut PlanEntry) {
    let open = valid.waves.get(entry.open_wave as usize);
    let never_moved = entry.open_wave == 0 && entry.open_wave_name.is_empty();
    if !never_moved && open.is_none_or(|wave| wave.name != entry.open_wave_name) {
        entry.open_wave = 0;
        entry.open_wave_name.clear();
        entry.soaks_from = None;
    }
}

/// What a node is to this run.
fn member<'a>(
    planning: &Planning<'_>,
    versions: &mut Versions,
    node: &'a NodeFacts,
    was_granted: bool,
    entry: Option<&PlanEntry>,
    valid: Option<&'a ValidPlan>,
) -> Member<'a> {
    let run = entry.map_or("", |entry| entry.run.as_str());
    let spec = node.shadow.as_ref().map(|shadow| &shadow.spec);
    let grant = was_granted
        .then(|| planning.ledger.grants.get(&node.uid))
        .flatten();
    let in_run = spec.filter(|spec| spec.run.as_deref() == Some(run));
    let recorded = grant
        .filter(|grant| grant.run == run)
        .map(|grant| Cow::Owned(grant.wave.clone()))
        .or_else(|| in_run.and_then(|spec| spec.wave.as_deref()).map(Cow::Borrowed));
    let witnessed = running_as_read(node, |word| versions.read(word).is_some());
    let running = witnessed.version();
    let retried_at = entry.and_then(|entry| entry.actions.retried_at);
    let targets = entry.map_or(&[][..], |entry| entry.targets.as_slice());
    let target = valid.and_then(|valid| targets::of(valid, targets, node));
    // Most nodes run what they are to run, soon or late: that needs no reading of versions.
    let on_target = running.is_some() && running == target.as_deref();
    let version = running
        .filter(|_| !on_target)
        .and_then(|running| versions.read(running));
    // Who cannot be updated yet is waited for only if nobody else is left.
    let live = (on_target || version.is_some()) && node.agent.ready && (valid.is_none() || target.is_some());
    let exhausted = in_run.is_some_and(|spec| {
        machine::failure_in_run(spec, run, retried_at)
            .is_some_and(|failure| failures::exhausted(failure, spec, valid, target.as_deref(), node))
    });
    let failed_before = in_run.is_some_and(|spec| machine::failure_in_run(spec, run, None).is_some());
    let left_alone = targets::left_alone(node, run, retried_at, target.as_deref()).is_some();
    let place = match (grant, valid) {
        (Some(_), _) => Place::Granted,
        _ if exhausted && node.opt_out.is_none() => Place::Failed,
        (None, Some(_)) if on_target => Place::Updated,
        (None, Some(valid)) => {
            let wanted = target.as_deref().and_then(|target| versions.read(target));
            targets::place(node, version.as_ref(), wanted.as_ref(), valid, left_alone)
        }
        (None, None) => Place::Waiting,
    };
    let place = match place {
        Place::Waiting if node.opt_out.is_some() => Place::Skipped,
        place => place,
    };
    Member {
        node,
        running: witnessed,
        recorded,
        place,
        target,
        live,
        released: was_granted && grant.is_none(),
        retried_at: retried_at.filter(|_| failed_before && !exhausted),
        passed_over: left_alone && place == Place::Skipped && node.opt_out.is_none(),
        forgiven: !left_alone
            && in_run.is_some_and(|spec| {
                // It cannot run another version without having been down.
                let last = spec.state_transition_timestamp.max(node.ready_changed);
                retried_at.is_some_and(|at| last <= Some(at))
            }),
    }
}

/// The node's name with the reason, where it counts as unavailable.
fn why_unavailable(member: &Member<'_>) -> Option<String> {
    if member.place == Place::Granted {
        return Some(being_updated(member.node));
    }
    is_down(member.node)
}

/// The node, as one that is unavailable because it is updated.
pub(crate) fn being_updated(node: &NodeFacts) -> String {
    format!("{} (being updated)", node.name)
}

/// The node with the reason, where it is unavailable and that is not our doing.
pub(crate) fn is_down(node: &NodeFacts) -> Option<String> {
    let why = if !node.ready {
        "not Ready"
    } else if node.unschedulable {
        "cordoned"
    } else {
        return None;
    };
    Some(format!("{} ({why})", node.name))
}

/// The verdict that follows from the node alone.
fn standing(
    planning: &mut Planning<'_>,
    member: &Member<'_>,
    entry: Option<&PlanEntry>,
    valid: Option<&ValidPlan>,
) -> Option<Verdict> {
    let node = member.node;
    let shadow = node.shadow.as_ref();
    let status = shadow.and_then(|shadow| shadow.status.as_ref());
    let run = entry.map_or("", |entry| entry.run.as_str());
    let retried_at = entry.and_then(|entry| entry.actions.retried_at);
    match member.place {
        Place::Granted => return stuck::verdict(planning, node),
        Place::Failed => {
            let failure = shadow.and_then(|s| s.spec.failure.as_ref())?;
            return Some(Verdict::Failed {
                failure: failure.reason,
                message: failure.message.clone(),
            });
        }
        Place::Updated => return Some(Verdict::UpToDate),
        Place::Skipped if node.opt_out.is_some() => {
            let why = node.opt_out.clone().unwrap_or_default();
            return Some(Verdict::OptedOut { why });
        }
        Place::Skipped => {
            if let Some(verdict) = targets::left_alone(node, run, retried_at, member.target.as_deref()) {
                return Some(verdict);
            }
            let running = status.map(|s| s.current_version.clone()).unwrap_or_default();
            return Some(Verdict::NewerThanTarget { running });
        }
        Place::Waiting => {}
    }
    // What is wrong with the plan comes before what is wrong with the node: it is what a person has to change.
    let valid = valid?;
    let since = node.ready_changed;
    if !node.ready {
        return Some(Verdict::NotReady { since });
    }
    if let Running::Disputed { reported, os_image } = member.running
        && node.agent.ready
    {
        let (reported, os_image) = (reported.to_owned(), os_image.to_owned());
        return Some(Verdict::VersionDisputed { reported, os_image });
    }
    if node.agent.ready && member.target.is_none() && matches!(member.running, Running::Version(_)) {
        return Some(targets::unknown(planning.now, node, valid));
    }
    if !member.live {
        return Some(Verdict::AgentSilent {
            since: node.agent.since.filter(|_| !node.agent.ready),
        });
    }
    if node.disruption.is_some()
        || shadow.is_some_and(|s| s.spec.state != NodeState::Idle || !machine::acknowledged(s))
    {
        let silent = stuck::undoes_nothing_since(planning, node);
        return Some(silent.map_or(Verdict::Resetting, |since| Verdict::AgentSilent {
            since: Some(since),
        }));
    }
    if node.unschedulable {
        return Some(Verdict::CordonedByOther);
    }
    let entry = entry?;
    let failure =
        shadow.and_then(|s| machine::failure_in_run(&s.spec, &entry.run, entry.actions.retried_at))?;
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

/// Starts the wave after one that is done, soaked and, where it has to be, approved. Once started it stays so, also where
/// newcomers join an earlier one.
fn open_next_wave(
    planning: &mut Planning<'_>,
    rollout: &Rollout<'_>,
    valid: &ValidPlan,
    assignment: &Assignment,
    entry: &mut PlanEntry,
) {
    while (entry.open_wave as usize) + 1 < valid.waves.len() {
        let index = entry.open_wave as usize;
        let (wave, progress) = (&valid.waves[index], &assignment.waves[index]);
        // Before any node is known nothing is done, there is just nothing yet.
        if rollout.members.is_empty()
            || !progress.done()
            || entry.halted
            || entry.paused
            || planning.ledger.stop
        {
            return;
        }
        if progress
            .soak_until(wave.soak)
            .is_some_and(|until| until > planning.now)
        {
            return;
        }
        // A node that is down as the soak ends is about to count as failed; the wave is not healthy.
        let down = |(member, of): (&Member<'_>, &usize)| {
            *of == index && failures::is_watched(member) && !member.node.ready
        };
        let watched = !wave.soak.is_zero() || wave.approval == Approval::Manual;
        if watched && rollout.members.iter().zip(&assignment.wave_of).any(down) {
            return;
        }
        if wave.approval == Approval::Manual && !entry.actions.approved.contains_key(&wave.name) {
            return;
        }
        let next = &valid.waves[index + 1].name;
        entry.open_wave += 1;
        entry.open_wave_name.clone_from(next);
        // Who cannot be updated in the wave that starts is waited for from now on.
        (entry.held_since, entry.held_out) = (None, false);
        planning.by_fresh_nodes = true;
        let note = format!(
            "wave {} is done, {} of {} updated; wave {next} starts",
            wave.name, progress.updated, progress.nodes
        );
        planning.event(&rollout.owned.facts.name, None, "WaveDone", note, false);
    }
}
