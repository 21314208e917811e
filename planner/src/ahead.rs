//! Staging ahead of the slot: nodes whose turn is near download what they will need, while they are still Idle and nothing is
//! disturbed. At most so many download at a time as the install allows; who has downloaded, or has been told so long ago
//! that staging would have failed by now, is not counted any more.

use std::collections::HashSet;

use api::{
    ledger::PlanEntry,
    offer::is_older,
    shadow::{BottlerocketShadowSpec, NodeState, StageAhead},
    verdict::Verdict,
};
use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    decisions::Action,
    grants,
    owners::Marked,
    plan::Planning,
    rollout::Rollout,
    running::running,
    spec::ValidPlan,
    waves::{self, Place},
    world::{NodeFacts, World},
};

/// Who downloads ahead of its turn.
pub(crate) struct Ahead {
    /// How many more may be told to.
    free: usize,
    /// UIDs of the nodes that are to have been told.
    told: HashSet<String>,
}

impl Ahead {
    pub fn new(now: DateTime<Utc>, world: &World, marked: &Marked<'_>) -> Self {
        let downloading = marked
            .ahead
            .iter()
            .filter(|node| downloads(now, node).is_some() && !marked.granted.contains_key(node.uid.as_str()));
        Self {
            free: world.settings.stage_ahead.saturating_sub(downloading.count()),
            told: HashSet::new(),
        }
    }
}

/// What the node has been told to download, and is not there yet.
fn downloads(now: DateTime<Utc>, node: &NodeFacts) -> Option<&StageAhead> {
    let stage = asked(node)?;
    (now < stage.until && !holds(node, &stage.version)).then_some(stage)
}

/// What the node has been told to download.
pub(crate) fn asked(node: &NodeFacts) -> Option<&StageAhead> {
    let spec = &node.shadow.as_ref()?.spec;
    spec.stage.as_ref().filter(|_| spec.state == NodeState::Idle)
}

/// Whether the version is on the node's inactive partition, as far as its agent says.
fn holds(node: &NodeFacts, version: &str) -> bool {
    let status = node.shadow.as_ref().and_then(|shadow| shadow.status.as_ref());
    status.is_some_and(|status| status.staged_version.as_deref() == Some(version))
}

/// Tells the next nodes of the plan to download, in the order in which they will be granted.
pub(crate) fn tell(
    planning: &mut Planning<'_>,
    rollout: &mut Rollout<'_>,
    valid: &ValidPlan,
    entry: &PlanEntry,
) {
    let Some(assignment) = &rollout.waves else { return };
    if planning.world.settings.stage_ahead == 0
        || grants::plan_verdict(planning, rollout, valid, entry).is_some()
    {
        return;
    }
    let mut next = Vec::new();
    let ours_spend = rollout
        .members
        .iter()
        .any(|member| member.place == Place::Granted);
    for (i, (member, verdict)) in rollout.members.iter().zip(&mut rollout.verdicts).enumerate() {
        let (Place::Waiting, Some(target)) = (member.place, &member.target) else {
            continue;
        };
        let node = member.node;
        if asked(node).is_some_and(|stage| stage.version == **target) {
            planning.ahead.told.insert(node.uid.clone());
            let Some(stage) = downloads(planning.now, node) else {
                continue;
            };
            planning.wake(stage.until);
            // Whoever waits for a window is told when that opens, not what it does meanwhile; and where a node that is down has
            // the only place, who that is.
            let waits = matches!(
                verdict,
                Some(Verdict::BudgetSpent { .. } | Verdict::DomainBusy { .. })
            );
            if waits && ours_spend {
                let version = stage.version.clone();
                *verdict = Some(Verdict::Staging { version });
            }
        } else if is_near(planning, verdict.as_ref(), valid.limits.stage) && !holds(node, target) {
            next.push(i);
        }
    }
    // An agent downloads nothing ahead that is older than what runs.
    if valid.allow_downgrade {
        let runs = |i: usize| running(rollout.members[i].node).version();
        next.retain(|i| {
            let target = rollout.members[*i].target.as_deref();
            target
                .zip(runs(*i))
                .is_some_and(|(target, runs)| !is_older(target, runs))
        });
    }
    // Who comes first matters only where somebody comes.
    if planning.ahead.free == 0 {
        return;
    }
    let turn = |i: &usize| grants::turn(entry, assignment.wave_of[*i], rollout.members[*i].node);
    let mut next = waves::first(next, planning.ahead.free, turn);
    next.sort_by_cached_key(turn);
    planning.ahead.free -= next.len();
    for i in next {
        let member = &rollout.members[i];
        let stage = member.target.as_ref().map(|target| StageAhead {
            version: target.clone().into_owned(),
            until: planning.now + valid.limits.stage,
        });
        planning.ahead.told.insert(member.node.uid.clone());
        planning.actions.extend(set(member.node, stage));
    }
}

/// Whether the node waits for nothing but its turn, or for a window that opens before a download would have failed. Later waves
/// are not near: what is found out before they start may say that nobody should have the version.
fn is_near(planning: &mut Planning<'_>, verdict: Option<&Verdict>, lead: TimeDelta) -> bool {
    let opens = match verdict {
        Some(Verdict::BudgetSpent { .. } | Verdict::DomainBusy { .. }) => return true,
        Some(
            Verdict::OutsideWindow { opens: Some(opens) }
            | Verdict::Excluded {
                opens: Some(opens), ..
            }
            | Verdict::WontFitInWindow {
                opens: Some(opens), ..
            },
        ) => *opens,
        _ => return false,
    };
    planning.wake(opens - lead);
    planning.now >= opens - lead
}

/// Takes back what nodes were told that are not to download any more.
pub(crate) fn take_back(planning: &mut Planning<'_>) {
    // Whose failure is noted in this very round is told by that.
    let written = planning.actions.iter().filter_map(|action| match action {
        Action::SetShadow { node, .. } => Some(node.as_str()),
        _ => None,
    });
    let written: HashSet<&str> = written.collect();
    let left = planning.marked.ahead.iter().filter(|node| {
        !planning.ahead.told.contains(&node.uid)
            && !planning.ledger.grants.contains_key(&node.uid)
            && !written.contains(node.name.as_str())
    });
    let back: Vec<Action> = left.filter_map(|node| set(node, None)).collect();
    planning.actions.extend(back);
}

/// The rest of the instruction stays as it is, but for what was to be run in a turn that is over: else nobody could tell, later,
/// which lock on the node is ours.
fn set(node: &NodeFacts, stage: Option<StageAhead>) -> Option<Action> {
    let spec = BottlerocketShadowSpec {
        version: None,
        downgrade: None,
        stage,
        ..node.shadow.as_ref()?.spec.clone()
    };
    Some(Action::SetShadow {
        node: node.name.clone(),
        spec,
    })
}
