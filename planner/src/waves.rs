//! Which node belongs to which wave, and how far each wave is.

use std::{borrow::Cow, cmp::Reverse, collections::BTreeMap};

use chrono::{DateTime, Utc};
use kube_core::SelectorExt;
use sha2::{Digest, Sha256};

use crate::{
    running::Running,
    spec::{ValidPlan, ValidWave},
    world::NodeFacts,
};

/// A matched node, as far as its wave depends on it.
pub(crate) struct Member<'a> {
    pub node: &'a NodeFacts,
    /// The version that it runs.
    pub running: Running<'a>,
    /// The wave that its grant or its shadow records for this run.
    pub recorded: Option<Cow<'a, str>>,
    pub place: Place,
    /// The version that it is to run, where that is known.
    pub target: Option<Cow<'a, str>>,
    /// Whether an agent reports for it.
    pub live: bool,
    /// Whether its grant is released in this very round.
    pub released: bool,
    /// When the run was retried, where the node had failed before, which does not count any more.
    pub retried_at: Option<DateTime<Utc>>,
    /// Whether it needs the update, and is skipped because it cannot have it, or could not be updated for too long.
    pub passed_over: bool,
    /// Whether nobody waits any more for the proof that it was to give, as the run was retried since and it runs a newer version.
    pub forgiven: bool,
}

/// Where a matched node is in the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It needs the update and has no grant.
    Waiting,
    /// It has a grant.
    Granted,
    /// It runs the target.
    Updated,
    /// It failed after its retries.
    Failed,
    /// It is left alone.
    Skipped,
}

/// The waves whose selectors take a node, a bit for each: there are at most twenty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fits(u32);

impl Fits {
    /// Of a node with these labels.
    pub fn of(plan: &ValidPlan, labels: &BTreeMap<String, String>) -> Self {
        let takes = |wave: &ValidWave| wave.selector.as_ref().is_none_or(|s| s.matches(labels));
        let taken = plan.waves.iter().enumerate().filter(|(_, wave)| takes(wave));
        Self(taken.fold(0, |bits, (i, _)| bits | 1 << i))
    }

    pub const fn take(self, wave: usize) -> bool {
        self.0 >> wave & 1 == 1
    }
}

/// Where every member belongs.
pub(crate) struct Assignment {
    /// The wave of each member, by index.
    pub wave_of: Vec<usize>,
    /// How far each wave is.
    pub waves: Vec<WaveProgress>,
}

/// How far a wave is.
#[derive(Clone, Debug, Default)]
pub(crate) struct WaveProgress {
    pub nodes: usize,
    pub updated: usize,
    pub granted: usize,
    pub skipped: usize,
    pub failed: usize,
    /// Members that were granted in this run, or need it, and are not left alone.
    pub needed: usize,
    /// Members that were granted in this run, and were not taken out.
    begun: usize,
    /// Members that were updated by this run.
    proven: usize,
    /// Whether others wait for a proof of this wave though none of its members may need one: nodes that it began with are gone.
    pub owes_proof: bool,
    /// When the last member was updated, or given up, by this run.
    last: Option<DateTime<Utc>>,
}

impl WaveProgress {
    /// Every member is updated, failed or skipped; and if any needed the update, at least one got it.
    pub fn done(&self) -> bool {
        let needs_proof = self.needed > 0 || self.owes_proof;
        self.updated + self.skipped + self.failed == self.nodes && (!needs_proof || self.proven > 0)
    }

    /// Whether nodes were begun with and none of them has been updated. `others` were, which are not among the members any more: they
    /// are made up for by a member that is updated, and by members none of which needs to be.
    pub const fn began_unproven(&self, others: bool) -> bool {
        let nobody_needs_it = self.nodes > 0 && self.needed == 0;
        self.proven == 0 && (self.begun > 0 || others && !nobody_needs_it)
    }

    /// Every member is updated, failed or skipped, but none of those that needed the update got it.
    pub fn unproven(&self) -> bool {
        self.updated + self.skipped + self.failed == self.nodes && !self.done()
    }

    /// The wave soaks from this time on, or later: a node that was its last is gone by now.
    pub fn soaks_from(&mut self, at: Option<DateTime<Utc>>) {
        self.last = self.last.max(at);
    }

    /// Since when a wave that is done is watched. None where it has no soak.
    pub fn soak_since(&self, soak: chrono::TimeDelta) -> Option<DateTime<Utc>> {
        self.last.filter(|_| !soak.is_zero())
    }

    /// Until when a wave that is done is watched. One without a soak is not, also where its last node's time, written by
    /// a clock that was wrong, is still to come.
    pub fn soak_until(&self, soak: chrono::TimeDelta) -> Option<DateTime<Utc>> {
        self.soak_since(soak).map(|at| at + soak)
    }
}

/// When a node that runs the target has got it, as far as is known.
fn updated_at(node: &NodeFacts, complete: bool) -> Option<DateTime<Utc>> {
    let spec = &node.shadow.as_ref()?.spec;
    // One that was withdrawn, and updated by a person: not before it was Ready again.
    let by_others = spec.version.is_none() && !complete;
    let ready = node.ready_changed.filter(|_| by_others);
    spec.state_transition_timestamp.max(ready)
}

/// The order in which nodes are taken: by hash of run and node, so that it is fair, and the same for everyone who asks.
pub(crate) fn rank(run: &str, node_uid: &str) -> u64 {
    let digest = Sha256::new()
        .chain_update(run)
        .chain_update([0])
        .chain_update(node_uid)
        .finalize();
    digest
        .iter()
        .take(8)
        .fold(0, |rank, byte| rank << 8 | u64::from(*byte))
}

/// So many of `all` whose keys are the lowest, in no order.
pub(crate) fn first<K: Ord>(all: Vec<usize>, many: usize, key: impl Fn(&usize) -> K) -> Vec<usize> {
    if all.len() <= many {
        return all;
    }
    let mut keyed: Vec<(K, usize)> = all.into_iter().map(|i| (key(&i), i)).collect();
    keyed.select_nth_unstable_by(many, |(a, _), (b, _)| a.cmp(b));
    keyed.truncate(many);
    keyed.into_iter().map(|(_, i)| i).collect()
}

/// Puts every member into its wave. `size_of` is the number of nodes that a wave with a size takes; waves before
/// `open_wave` take no new ones. Once the run is complete nothing is watched anew.
pub(crate) fn assign(
    plan: &ValidPlan,
    run: &str,
    members: &[Member<'_>],
    fits: &[Fits],
    (open_wave, complete): (usize, bool),
    size_of: impl Fn(usize) -> Option<usize>,
) -> Assignment {
    let rest = plan.waves.len() - 1;
    let mut wave_of: Vec<Option<usize>> = members
        .iter()
        .map(|member| {
            member
                .recorded
                .as_ref()
                .and_then(|name| plan.waves.iter().position(|w| w.name == *name))
        })
        .collect();
    let mut taken = vec![0_usize; plan.waves.len()];
    // A node that is left alone after all gives its place back: another is to prove what it could not.
    for (member, wave) in members.iter().zip(&wave_of) {
        if let Some(wave) = wave.filter(|_| member.place != Place::Skipped) {
            taken[wave] += 1;
        }
    }
    for (index, taken) in taken.iter().enumerate().take(rest) {
        let free = (0..members.len()).filter(|i| wave_of[*i].is_none() && fits[*i].take(index));
        let chosen: Vec<usize> = match size_of(index) {
            None => free.collect(),
            Some(size) if index >= open_wave && size > *taken => {
                // Where none is left but those that are passed over, the wave is theirs: it has nodes, and has proven nothing.
                let (left, passed): (Vec<usize>, Vec<usize>) = free
                    .filter(|i| members[*i].place == Place::Waiting || members[*i].passed_over)
                    .partition(|i| members[*i].place == Place::Waiting);
                let free = if left.is_empty() && *taken == 0 {
                    passed
                } else {
                    left
                };
                // Nodes without a live agent come last: they are waited for only if no other is left.
                first(free, size - taken, |i| {
                    let Member { node, live, .. } = &members[*i];
                    (Reverse(*live), rank(run, &node.uid), node.uid.as_str())
                })
            }
            Some(_) => Vec::new(),
        };
        for i in chosen {
            wave_of[i] = Some(index);
        }
    }
    let wave_of: Vec<usize> = wave_of.into_iter().map(|wave| wave.unwrap_or(rest)).collect();
    let mut waves = vec![WaveProgress::default(); plan.waves.len()];
    for (member, wave) in members.iter().zip(&wave_of) {
        let progress = &mut waves[*wave];
        progress.nodes += 1;
        let by_this_run = member.recorded.is_some();
        // One that has opted out is nobody's proof any more; one that runs a newer version by now has proven nothing, and a person
        // who has the run retried goes on without it. After the last wave there is nothing that a proof is needed for.
        let is_out = member.place == Place::Skipped
            && (member.node.opt_out.is_some() || member.forgiven || *wave == rest);
        let began = by_this_run && !is_out;
        progress.begun += usize::from(began);
        progress.needed += usize::from(began || member.passed_over || member.place == Place::Waiting);
        match member.place {
            Place::Waiting => {}
            Place::Granted => progress.granted += 1,
            Place::Failed => {
                progress.failed += 1;
                let failure = member.node.shadow.as_ref().and_then(|s| s.spec.failure.as_ref());
                progress.last = progress
                    .last
                    .max(failure.filter(|_| by_this_run).map(|failure| failure.at));
            }
            Place::Skipped => progress.skipped += 1,
            Place::Updated => {
                progress.updated += 1;
                if by_this_run {
                    progress.proven += 1;
                    // After a retry the wave is watched anew.
                    progress.last = progress
                        .last
                        .max(updated_at(member.node, complete))
                        .max(member.retried_at);
                }
            }
        }
    }
    Assignment { wave_of, waves }
}
