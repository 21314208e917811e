//! What has to be remembered from revision to revision.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::{
    BottlerocketShadow, UpdatePlan,
    ledger::Grant,
    shadow::{FailureReason, NodeState},
};
use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::core::v1::Node;

use super::asked::Asked;
use super::case::Case;
use super::changes::LedgerChange;
use super::nodes::{has_opted_out, is_available, is_ready, owner_uid};
use super::runs::{Failures, Run, RunKey};
use super::windows::Windows;
use super::{LAG, STALE, offers, selectors};
use crate::history::{Change, Pair, State, Step, key};

/// A live node's condition.
#[derive(Debug)]
struct Condition {
    uid: String,
    labels: Option<BTreeMap<String, String>>,
    labels_since: DateTime<Utc>,
    unavailable_since: Option<DateTime<Utc>>,
    ready_since: Option<DateTime<Utc>>,
    opted_out_since: Option<DateTime<Utc>>,
    /// Until when it had, where it no longer has.
    opted_out_until: Option<DateTime<Utc>>,
}

/// What has to be remembered.
#[derive(Debug, Default)]
pub struct Tracks {
    nodes: BTreeMap<String, Condition>,
    /// Nodes as they were until not long ago.
    superseded: Vec<(DateTime<Utc>, Arc<Node>)>,
    runs: BTreeMap<RunKey, Run>,
    /// Grants of a ledger that was deleted: where they come back, they are not new.
    lost: BTreeMap<String, Grant>,
    /// When each node's last grant was released, by UID.
    last_release_of: BTreeMap<String, DateTime<Utc>>,
    /// How long each plan's nodes took from grant to release, by plan UID.
    took: BTreeMap<String, Vec<TimeDelta>>,
    /// Plans whose `expectedNodeDuration` was edited, and the generation that this made: once the ledger knows that, it is forgotten
    /// what nodes took before.
    edited: BTreeMap<String, i64>,
    /// Grants that came back after the loss of their ledger, which does not know how long their nodes took: UID and when it says that
    /// they were made.
    again: BTreeSet<(String, DateTime<Utc>)>,
    /// Since when nodes of a plan have not run its target, by plan UID, with the target; only of plans with a window that
    /// depends on it.
    behind: BTreeMap<String, (String, DateTime<Utc>)>,
    asked: Asked,
    nothing: Run,
}

impl Tracks {
    /// What the first state tells.
    #[must_use]
    pub fn new(case: &Case<'_>, initial: &State) -> Self {
        let mut tracks = Self::default();
        for node in initial.nodes.values() {
            tracks.note_node(DateTime::<Utc>::MIN_UTC, node);
        }
        for plan in initial.plans.values() {
            tracks.asked.note(plan);
        }
        for (uid, grant) in initial
            .ledger(&case.expectations.namespace)
            .iter()
            .flat_map(|l| &l.spec.grants)
        {
            tracks.note_grant(uid, grant);
        }
        tracks
    }

    /// What a change did to the grants; none where it is no change of the ledger.
    #[must_use]
    pub fn ledger_change(&self, case: &Case<'_>, change: &Change) -> Option<LedgerChange> {
        LedgerChange::of(change, &case.expectations.namespace, &self.lost)
    }

    /// Remembers one revision.
    pub fn update(&mut self, case: &Case<'_>, step: &Step<'_>, ledger: Option<&LedgerChange>) {
        let now = step.state.at;
        self.superseded.retain(|(until, _)| *until >= now - STALE);
        match &step.change {
            Change::Node(pair) => {
                self.superseded
                    .extend(pair.before.iter().map(|node| (now, node.clone())));
                match (&pair.before, &pair.after) {
                    (_, Some(node)) => self.note_node(now, node),
                    (Some(node), None) => {
                        self.nodes.remove(&key(node.as_ref()));
                    }
                    (None, None) => {}
                }
            }
            Change::Plan(pair) => {
                if let Some(plan) = &pair.after {
                    let expected = |plan: &UpdatePlan| plan.spec.expected_node_duration;
                    let uid = plan.metadata.uid.clone().unwrap_or_default();
                    if pair
                        .before
                        .as_ref()
                        .is_some_and(|before| expected(before) != expected(plan))
                    {
                        let generation = plan.metadata.generation.unwrap_or_default();
                        self.edited.insert(uid, generation);
                    }
                    self.asked.note(plan);
                }
            }
            Change::Shadow(pair) => {
                self.note_finish(pair, step.state);
                let spec = pair
                    .after
                    .as_ref()
                    .map(|shadow| (&shadow.spec, owner_uid(shadow)));
                if let Some((spec, Some(uid))) = spec
                    && let (Some(plan), Some(run)) = (&spec.plan, &spec.run)
                    && let Some(plan) = step
                        .state
                        .plans
                        .get(plan)
                        .and_then(|plan| plan.metadata.uid.clone())
                    && let Some(failure) = &spec.failure
                    && !offers::is_no_failure(failure.reason)
                    && self.run(&plan, run).retried_at.is_none_or(|at| failure.at >= at)
                {
                    let name = step
                        .state
                        .node_of_uid(uid)
                        .map(|node| key(node.as_ref()))
                        .unwrap_or_default();
                    let failures = self.failures((plan, run.clone()), uid, &name, failure.reason);
                    failures.told = failures.told.max(failure.count);
                }
            }
            _ => {}
        }
        if let Some(ledger) = ledger {
            self.note_ledger(case, step.state, ledger);
        }
        for plan in step.state.plans.values() {
            if Windows::open_until_done(&plan.spec) {
                self.note_behind(case, plan, step.state);
            }
        }
    }

    fn note_behind(&mut self, case: &Case<'_>, plan: &UpdatePlan, state: &State) {
        let uid = plan.metadata.uid.clone().unwrap_or_default();
        let target = &plan.spec.target_version;
        let nodes = self.matched(case, plan, state);
        let entry = state
            .ledger(&case.expectations.namespace)
            .and_then(|ledger| ledger.spec.plans.get(&uid));
        let targets = entry.map_or(&[][..], |entry| entry.targets.as_slice());
        let wanted = offers::Wanted { target, targets };
        let is_behind = |node: &String| wanted.is_missing(plan, case.machines.of(node), state.at);
        if !nodes.values().any(is_behind) {
            self.behind.remove(&uid);
        } else if self.behind.get(&uid).is_none_or(|(known, _)| known != target) {
            self.behind.insert(uid, (target.clone(), state.at));
        }
    }

    /// Since when nodes of the plan have waited for its target or been on their way to it.
    #[must_use]
    pub fn behind_since(&self, plan: &UpdatePlan) -> Option<DateTime<Utc>> {
        let uid = plan.metadata.uid.as_deref().unwrap_or_default();
        let (target, since) = self.behind.get(uid)?;
        (*target == plan.spec.target_version).then_some(*since)
    }

    fn note_ledger(&mut self, case: &Case<'_>, state: &State, change: &LedgerChange) {
        if change.after.is_none() {
            self.lost = change
                .before
                .as_ref()
                .map(|before| before.grants.clone())
                .unwrap_or_default();
            return;
        }
        for (uid, grant) in state
            .ledger(&case.expectations.namespace)
            .iter()
            .flat_map(|l| &l.spec.grants)
        {
            if self
                .lost
                .remove(uid)
                .is_some_and(|lost| lost.attempt == grant.attempt)
            {
                self.again.insert((uid.clone(), grant.granted_at));
            }
            self.note_grant(uid, grant);
        }
        let known = |uid: &str| Some(change.after.as_ref()?.plans.get(uid)?.generation);
        let took = &mut self.took;
        self.edited.retain(|uid, edited| {
            let forgets = known(uid).is_some_and(|known| known >= *edited);
            if forgets {
                took.remove(uid);
            }
            !forgets
        });
        self.note_retries(change);
        for (uid, grant) in &change.made {
            let run = self
                .runs
                .entry((grant.plan.clone(), grant.run.clone()))
                .or_default();
            *run.granted.entry(uid.clone()).or_default() += 1;
            run.left_alone.remove(uid);
        }
        for (uid, grant) in &change.released {
            self.last_release_of.insert(uid.clone(), state.at);
            let run = (grant.plan.clone(), grant.run.clone());
            if LedgerChange::succeeded(uid, grant, state) {
                // How long a node took that was granted in a ledger that is lost, the new one does not know.
                if !self.again.contains(&(uid.clone(), grant.granted_at)) {
                    let took = self.took.entry(grant.plan.clone()).or_default();
                    took.push(state.at - grant.granted_at);
                }
                *self
                    .runs
                    .entry(run.clone())
                    .or_default()
                    .updated
                    .entry(grant.wave.clone())
                    .or_default() += 1;
            }
            let retried_at = self.run(&run.0, &run.1).retried_at;
            let ending = grant
                .ending
                .as_ref()
                .filter(|ending| retried_at.is_none_or(|at| ending.at >= at));
            let failed = ending.and_then(|ending| ending.failure);
            if let Some(reason) = failed.filter(|reason| offers::is_no_failure(*reason)) {
                let run = self.runs.entry(run).or_default();
                run.left_alone.insert(uid.clone(), reason);
            } else if let Some(reason) = failed.filter(|reason| *reason != FailureReason::PermitExpired) {
                self.failures(run, uid, &grant.node, reason).released += 1;
            }
        }
    }

    /// What had failed when a run was retried does not count any more. Whether somebody has asked for it is another matter.
    fn note_retries(&mut self, change: &LedgerChange) {
        for (uid, entry) in change.after.iter().flat_map(|after| &after.plans) {
            let run = self.runs.entry((uid.clone(), entry.run.clone())).or_default();
            if run.retried_at != entry.actions.retried_at {
                run.retried_at = entry.actions.retried_at;
                run.retries += 1;
                run.failed.clear();
            }
        }
    }

    fn note_finish(&mut self, pair: &Pair<BottlerocketShadow>, state: &State) {
        if let (Some(before), Some(after)) = (&pair.before, &pair.after)
            && before.spec.state != NodeState::Idle
            && after.spec.state == NodeState::Idle
            && let (Some(plan), Some(run), Some(wave)) = (&after.spec.plan, &after.spec.run, &after.spec.wave)
            && let Some(plan) = state.plans.get(plan).and_then(|plan| plan.metadata.uid.clone())
        {
            self.runs
                .entry((plan, run.clone()))
                .or_default()
                .finished
                .insert(wave.clone(), state.at);
        }
    }

    fn note_grant(&mut self, uid: &str, grant: &Grant) {
        let run = self
            .runs
            .entry((grant.plan.clone(), grant.run.clone()))
            .or_default();
        run.members
            .entry(grant.wave.clone())
            .or_default()
            .insert(uid.to_owned(), grant.node.clone());
    }

    fn failures(&mut self, run: RunKey, uid: &str, node: &str, reason: FailureReason) -> &mut Failures {
        let run = self.runs.entry(run).or_default();
        let first = || Failures {
            node: node.to_owned(),
            reason,
            released: 0,
            told: 0,
        };
        let failures = run.failed.entry(uid.to_owned()).or_insert_with(first);
        failures.reason = reason;
        failures
    }

    fn note_node(&mut self, now: DateTime<Utc>, node: &Node) {
        let uid = node.metadata.uid.clone().unwrap_or_default();
        let before = self.nodes.remove(&key(node)).filter(|before| before.uid == uid);
        let labels = node.metadata.labels.clone();
        let since = |holds: bool, before: Option<DateTime<Utc>>| holds.then(|| before.unwrap_or(now));
        let condition = Condition {
            uid,
            labels_since: before
                .as_ref()
                .filter(|b| b.labels == labels)
                .map_or(now, |b| b.labels_since),
            labels,
            unavailable_since: since(
                !is_available(node),
                before.as_ref().and_then(|b| b.unavailable_since),
            ),
            ready_since: since(is_ready(node), before.as_ref().and_then(|b| b.ready_since)),
            opted_out_since: since(
                has_opted_out(node),
                before.as_ref().and_then(|b| b.opted_out_since),
            ),
            opted_out_until: before.as_ref().and_then(|b| {
                let until = b.opted_out_since.map(|_| now).or(b.opted_out_until);
                until.filter(|_| !has_opted_out(node))
            }),
        };
        self.nodes.insert(key(node), condition);
    }

    /// Since when the live node of this name is Ready without interruption.
    #[must_use]
    pub fn ready_since(&self, node: &str) -> Option<DateTime<Utc>> {
        self.nodes.get(node)?.ready_since
    }

    /// Whether the operator must know by now that the node is unavailable.
    #[must_use]
    pub fn known_unavailable(&self, node: &str, now: DateTime<Utc>) -> bool {
        self.nodes
            .get(node)
            .and_then(|c| c.unavailable_since)
            .is_some_and(|since| since <= now - STALE)
    }

    /// Since when the node is not Ready, or cordoned.
    #[must_use]
    pub fn unavailable_since(&self, node: &str) -> Option<DateTime<Utc>> {
        self.nodes.get(node).and_then(|c| c.unavailable_since)
    }

    /// Whether the operator must know by now that the node has opted out.
    #[must_use]
    pub fn known_opted_out(&self, node: &str, now: DateTime<Utc>) -> bool {
        let since = self.nodes.get(node).and_then(|c| c.opted_out_since);
        since.is_some_and(|since| since <= now - STALE)
    }

    /// Whether the operator may take the node for one that has opted out.
    #[must_use]
    pub fn may_have_opted_out(&self, node: &str, now: DateTime<Utc>) -> bool {
        self.nodes.get(node).is_some_and(|c| {
            c.opted_out_since.is_some() || c.opted_out_until.is_some_and(|until| until >= now - STALE)
        })
    }

    /// What people have asked.
    #[must_use]
    pub const fn asked(&self) -> &Asked {
        &self.asked
    }

    /// Whether the node has had its labels for so long that the operator must know them.
    #[must_use]
    pub fn known_labels(&self, node: &str, now: DateTime<Utc>) -> bool {
        self.was_there(node, now - STALE)
    }

    /// Whether the node has been so, as far as its labels say, since this time.
    #[must_use]
    pub fn was_there(&self, node: &str, then: DateTime<Utc>) -> bool {
        self.nodes
            .get(node)
            .is_some_and(|condition| condition.labels_since <= then)
    }

    /// Whether a grant of the node was released not long ago.
    #[must_use]
    pub fn released_lately(&self, uid: &str, now: DateTime<Utc>) -> bool {
        self.last_release_of
            .get(uid)
            .is_some_and(|until| *until >= now - STALE)
    }

    /// Whether a live or lately live node has this UID.
    #[must_use]
    pub fn lived_lately(&self, uid: &str, state: &State) -> bool {
        let lately = self
            .superseded
            .iter()
            .filter(|(until, _)| *until >= state.at - STALE);
        state.node_of_uid(uid).is_some()
            || lately
                .clone()
                .any(|(_, node)| node.metadata.uid.as_deref() == Some(uid))
    }

    /// The nodes that the plan owns, by UID with their names, as anyone may have seen them who is not out of date.
    #[must_use]
    pub fn matched(&self, case: &Case<'_>, plan: &UpdatePlan, state: &State) -> BTreeMap<String, String> {
        let live = state.nodes.values();
        let lately = self
            .superseded
            .iter()
            .filter(|(until, _)| *until >= state.at - STALE)
            .map(|(_, node)| node);
        live.chain(lately)
            .filter(|node| selectors::owned_by(plan, node, state, &case.expectations.namespace))
            .map(|node| (node.metadata.uid.clone().unwrap_or_default(), key(node.as_ref())))
            .collect()
    }

    /// How much of a window a grant of the plan needs at the least, by its last fifty nodes: as long as nine of ten took
    /// no longer than, and as long as its spec says before there were any. What the same write releases may count.
    #[must_use]
    pub fn needs(&self, plan: &UpdatePlan, uid: &str, change: &LedgerChange, state: &State) -> TimeDelta {
        let before = self.took.get(uid).map_or(&[][..], Vec::as_slice);
        let released = change
            .released
            .iter()
            .filter(|(node, grant)| grant.plan == uid && LedgerChange::succeeded(node, grant, state))
            .filter(|(node, grant)| !self.again.contains(&(node.clone(), grant.granted_at)));
        let released = released.map(|(_, grant)| state.at - grant.granted_at);
        let after: Vec<TimeDelta> = before.iter().copied().chain(released).collect();
        let expected = plan.spec.expected_node_duration.delta();
        // Both are by the recorder's clock, which is late by up to its lag.
        [before, after.as_slice()]
            .map(|took| ninth_of_ten(took).map_or(expected, |took| took - LAG))
            .into_iter()
            // Whether the edit is known to who grants is seen by this very write.
            .chain(self.edited.contains_key(uid).then_some(expected))
            .min()
            .unwrap_or(expected)
    }

    /// What a run has come to so far.
    #[must_use]
    pub fn run(&self, plan: &str, run: &str) -> &Run {
        self.runs
            .get(&(plan.to_owned(), run.to_owned()))
            .unwrap_or(&self.nothing)
    }
}

/// What nine of ten of the last fifty took no longer than.
fn ninth_of_ten(took: &[TimeDelta]) -> Option<TimeDelta> {
    let mut last: Vec<TimeDelta> = took.iter().rev().take(50).copied().collect();
    last.sort_unstable();
    let beyond = last.len() / 10;
    last.iter().rev().nth(beyond).copied()
}
