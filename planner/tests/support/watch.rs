//! What is looked at whenever the simulator asks the planner, writes, or moves time: [`Watch`]. A failure tells its story.

use std::collections::VecDeque;

use api::{ledger::UpdateLedgerSpec, plan::UpdatePlanStatus, verdict::instant};
use chrono::{DateTime, TimeDelta, Utc};
use planner::{
    decisions::{Action, Decisions, LedgerChange},
    plan,
    simulate::{Cluster, Happening, Observer, status_text},
    world::{NodeFacts, PlanFacts},
};

use super::check::Checker;

/// The latest of what happened.
pub type History = VecDeque<String>;

/// How much of the history is kept.
const KEPT: usize = 60;

/// The checker, and what a failure tells.
pub struct Watch<'a> {
    checker: &'a mut Checker,
    history: &'a mut History,
    /// What was done at this instant.
    done: Vec<Action>,
}

impl<'a> Watch<'a> {
    pub fn new(checker: &'a mut Checker, history: &'a mut History) -> Self {
        let done = Vec::new();
        Self {
            checker,
            history,
            done,
        }
    }
}

/// What time it is by the Kubernetes API's clock, by which the promises are kept: where ours is found to be wrong meanwhile, it is that
/// which soaks and windows end by.
fn api_now(cluster: &Cluster) -> DateTime<Utc> {
    let wrong = cluster
        .world
        .clock_skew
        .filter(|skew| skew.abs() >= TimeDelta::seconds(30));
    cluster.now - wrong.unwrap_or_default()
}

impl Observer for Watch<'_> {
    fn decided(&mut self, cluster: &Cluster, decisions: &Decisions) {
        order_does_not_matter(cluster, decisions, || story(self.history, cluster));
        let again: Vec<_> = decisions
            .actions
            .iter()
            .filter(|action| self.done.contains(action))
            .collect();
        assert!(
            again.is_empty(),
            "decided again what is done already: {again:?}\n{}",
            story(self.history, cluster)
        );
        if decisions.ledger.is_some() {
            assert!(
                decisions.actions.is_empty() && decisions.drains.is_empty() && decisions.statuses.is_empty()
            );
        }
    }

    fn ledger(&mut self, cluster: &Cluster, change: &LedgerChange) {
        assert_ne!(
            cluster.world.ledger.as_ref(),
            Some(&change.spec),
            "a ledger write without a change"
        );
        self.checker.ledger(api_now(cluster), &cluster.world, change);
        self.note_ledger(cluster, &change.spec);
    }

    fn action(&mut self, cluster: &Cluster, action: &Action) {
        self.checker.action(api_now(cluster), &cluster.world, action);
        note(self.history, cluster.now, in_words(action));
        self.done.push(action.clone());
    }

    fn status(&mut self, cluster: &Cluster, plan: &PlanFacts, new: &UpdatePlanStatus) {
        self.checker.status(plan, new, cluster.world.ledger.as_ref());
        let stored = serde_json::to_value(new).and_then(serde_json::from_value::<UpdatePlanStatus>);
        assert_eq!(
            stored.as_ref().ok(),
            Some(new),
            "a status is not what is stored of it"
        );
    }

    fn permitted(&mut self, cluster: &Cluster, node: &NodeFacts) {
        let world = &cluster.world;
        self.checker
            .permit(cluster.now, &world.plans, node, world.ledger.as_ref());
    }

    fn settled(&mut self, cluster: &Cluster) {
        self.done.clear();
        self.checker.settled(cluster.now, &cluster.world, &cluster.last);
    }

    fn happens(&mut self, cluster: &Cluster, what: &Happening) {
        self.checker.happens(cluster, what);
        note(self.history, cluster.now, what.to_string());
    }

    fn moves_on(&mut self, cluster: &Cluster, to: DateTime<Utc>) {
        nothing_is_due_before(cluster, to, || story(self.history, cluster));
    }
}

impl Watch<'_> {
    fn note_ledger(&mut self, cluster: &Cluster, new: &UpdateLedgerSpec) {
        let before = cluster.world.ledger.clone().unwrap_or_default();
        for (uid, grant) in &new.grants {
            if before.grants.get(uid) != Some(grant) {
                let ending = grant
                    .ending
                    .as_ref()
                    .map(|ending| ending.message.clone())
                    .unwrap_or_default();
                let text = format!(
                    "ledger: {} {} attempt {} {ending}",
                    grant.node, grant.phase, grant.attempt
                );
                note(self.history, cluster.now, text);
            }
        }
        for (uid, grant) in &before.grants {
            if !new.grants.contains_key(uid) {
                note(
                    self.history,
                    cluster.now,
                    format!("ledger: {} released", grant.node),
                );
            }
        }
        if before.plans != new.plans {
            note(self.history, cluster.now, format!("ledger: {:?}", new.plans));
        }
    }
}

/// The same is decided whatever the order in which things are listed.
pub fn order_does_not_matter(cluster: &Cluster, decisions: &Decisions, story: impl Fn() -> String) {
    // What the planner was asked with is another world where the watches stall.
    if cluster.watched.is_some() {
        return;
    }
    let mut shuffled = cluster.world.clone();
    shuffled.plans.reverse();
    shuffled.nodes.reverse();
    let middle = shuffled.nodes.len() / 3;
    shuffled.nodes.rotate_left(middle);
    let other = plan(cluster.now, &shuffled);
    assert_eq!(*decisions, other, "the order of the world matters\n{}", story());
}

/// Looked at between two events, there is nothing to do: `look_again` leaves nothing out.
fn nothing_is_due_before(cluster: &Cluster, to: DateTime<Utc>, story: impl Fn() -> String) {
    let gap = to - cluster.now;
    if gap <= TimeDelta::milliseconds(2) || cluster.watched.is_some() {
        return;
    }
    for between in [cluster.now + gap / 2, to - TimeDelta::milliseconds(1)] {
        let decisions = plan(between, &cluster.world);
        let due = if let Some(change) = decisions.ledger {
            format!("{:#?}", change.events)
        } else if !decisions.actions.is_empty() || decisions.drains != cluster.last.drains {
            format!("{:#?} {:#?}", decisions.actions, decisions.drains)
        } else if decisions.statuses != cluster.last.statuses {
            let new = decisions
                .statuses
                .iter()
                .map(|new| format!("{}: {}", new.plan, status_text(&new.status)));
            new.collect::<Vec<_>>().join("\n")
        } else {
            continue;
        };
        let again = cluster.last.look_again;
        panic!(
            "due at {between} already, but look_again is {again:?}: {due}\n{}",
            story()
        );
    }
}

pub fn note(history: &mut History, now: DateTime<Utc>, mut text: String) {
    if history.len() == KEPT {
        history.pop_front();
    }
    text.truncate(400);
    history.push_back(format!("{} {text}", instant(now)));
}

/// What has happened lately, and how things stand.
pub fn story(history: &History, cluster: &Cluster) -> String {
    let history: Vec<&str> = history.iter().map(String::as_str).collect();
    let plans: Vec<String> = cluster
        .world
        .plans
        .iter()
        .map(|plan| status_text(&plan.status))
        .collect();
    format!(
        "now {}\n{}\n{}",
        instant(cluster.now),
        history.join("\n"),
        plans.join("\n")
    )
}

fn in_words(action: &Action) -> String {
    match action {
        Action::AddFinalizer { plan } => format!("finalizer added to {plan}"),
        Action::RemoveFinalizer { plan } => format!("finalizer removed from {plan}"),
        Action::Cordon { node, .. } => format!("{node} cordoned"),
        Action::Uncordon { node, .. } => format!("{node} uncordoned"),
        Action::SetShadow { node, spec } => {
            format!("{node} told {} {:?} {:?}", spec.state, spec.attempt, spec.failure)
        }
    }
}
