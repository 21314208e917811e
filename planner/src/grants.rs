//! One plan's next grants, as far as waves, windows and budgets go; and why every other node waits.

use std::borrow::Cow;

use api::{
    ledger::{Grant, GrantPhase, PlanEntry},
    plan::Approval,
    verdict::Verdict,
};
use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    budgets::Budgets,
    machine,
    owners::Owned,
    pace::Pace,
    plan::{MAX_CLOCK_SKEW, Planning},
    rollout::Rollout,
    spec::ValidPlan,
    waves::{self, Assignment, Place},
    windows::{Closing, Room, WindowState},
    world::NodeFacts,
};

/// Chooses the nodes to grant, in the order of their waves and ranks, as far as window and budgets go; every other
/// node gets its verdict.
pub(crate) fn grant_next(
    planning: &mut Planning<'_>,
    rollout: &mut Rollout<'_>,
    valid: &ValidPlan,
    entry: &PlanEntry,
    assignment: &Assignment,
) -> Vec<(String, Grant)> {
    let mut grants = Vec::new();
    if let Some(verdict) = plan_verdict(planning, rollout, valid, entry) {
        rollout.all_wait(&verdict);
        return grants;
    }
    let clock = clock_verdict(planning);
    let closed = window_verdict(planning, rollout.owned, valid, Pace::of(valid, entry));
    let behind: Vec<Option<Verdict>> = (0..valid.waves.len())
        .map(|wave| wave_verdict(planning.now, valid, entry, assignment, wave))
        .collect();
    let (mut order, later): (Vec<usize>, Vec<usize>) = (0..rollout.members.len())
        .filter(|i| rollout.members[*i].place == Place::Waiting && rollout.verdicts[*i].is_none())
        // A node whose grant is released in this very round is judged in the next, when its owner is clear again.
        .filter(|i| !rollout.members[*i].released)
        .partition(|i| behind[assignment.wave_of[*i]].is_none());
    let mut budgets = Budgets::new(planning, rollout, valid, assignment);
    // Who comes first matters only where somebody comes.
    if clock.is_none() && closed.is_none() && !budgets.is_spent() {
        order.sort_by_cached_key(|i| turn(entry, assignment.wave_of[*i], rollout.members[*i].node));
    }
    order.extend(later);
    for i in order {
        let wave = assignment.wave_of[i];
        let node = rollout.members[i].node;
        // A node whose target is not known has a verdict already.
        let Some(target) = rollout.members[i].target.clone() else {
            continue;
        };
        let verdict = clock
            .clone()
            .or_else(|| behind[wave].clone())
            .or_else(|| closed.clone())
            .or_else(|| budgets.refusal(node, wave));
        if verdict.is_some() {
            rollout.verdicts[i] = verdict;
            continue;
        }
        budgets.take(node, wave);
        grants.push((
            node.uid.clone(),
            grant(planning.now, rollout.owned, valid, entry, (node, target), wave),
        ));
    }
    planning.hosts = budgets.hosts;
    grants
}

/// Who comes first: the lowest.
pub(crate) fn turn<'a>(entry: &PlanEntry, wave: usize, node: &'a NodeFacts) -> impl Ord + use<'a> {
    let spec = node.shadow.as_ref().map(|shadow| &shadow.spec);
    (
        wave,
        // Each of their drains costs the operator a replica, or the way to it.
        node.hosts_operator,
        // One that has outlasted a window comes after those that may not. One that has failed is not put off: until it is tried again
        // it is not known whether the plan is to halt.
        spec.is_some_and(|spec| machine::has_outlasted(spec, &entry.run)),
        waves::rank(&entry.run, &node.uid),
        node.uid.as_str(),
    )
}

fn grant(
    now: DateTime<Utc>,
    owned: &Owned<'_>,
    valid: &ValidPlan,
    entry: &PlanEntry,
    (node, to): (&NodeFacts, Cow<'_, str>),
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
        to: to.into_owned(),
        phase: GrantPhase::Granted,
        granted_at: now,
        phase_since: now,
        not_after: owned.window.not_after(now),
        hosts_operator: node.hosts_operator,
        rebuilt: false,
        permit: None,
        ending: None,
    }
}

/// Why the whole plan grants nothing.
pub(crate) fn plan_verdict(
    planning: &Planning<'_>,
    rollout: &Rollout<'_>,
    valid: &ValidPlan,
    entry: &PlanEntry,
) -> Option<Verdict> {
    if rollout.owned.facts.deleting {
        return Some(Verdict::Deleting);
    }
    if valid.paused {
        return Some(Verdict::Paused);
    }
    if planning.ledger.stop {
        return Some(Verdict::Stopped);
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
fn window_verdict(
    planning: &mut Planning<'_>,
    owned: &Owned<'_>,
    valid: &ValidPlan,
    pace: Pace,
) -> Option<Verdict> {
    let (now, long) = (planning.now, pace.window());
    let Pace { needs, samples, .. } = pace;
    // In the window that is open, or opens next, there is no room.
    let no_room = |from: Option<DateTime<Utc>>, closes: DateTime<Utc>, of: &WindowState, room: Room| {
        let opens = |opens| Verdict::WontFitInWindow {
            needs_seconds: needs.num_seconds(),
            samples,
            from,
            closes,
            exclusion: of.exclusion().map(str::to_owned),
            opens,
        };
        match room {
            Room::From(at) => opens(Some(at)),
            Room::None => opens(None),
            Room::TooShort {
                opens,
                open,
                exclusion,
            } => Verdict::WindowTooShort {
                needs_seconds: if open < needs { needs } else { long }.num_seconds(),
                samples,
                window_seconds: open.num_seconds(),
                opens,
                exclusion,
            },
        }
    };
    owned.window.changes().for_each(|at| planning.wake(at));
    match &owned.window {
        WindowState::Always => None,
        WindowState::Open {
            by: Closing::RunDone, ..
        } => None,
        WindowState::Open { closes, .. } => {
            let last_start = *closes - needs;
            if planning.now <= last_start {
                planning.wake(last_start + TimeDelta::milliseconds(1));
                return None;
            }
            Some(no_room(
                None,
                *closes,
                &owned.window,
                valid.windows.room(now, long),
            ))
        }
        WindowState::Closed {
            next,
            unsure,
            exclusion,
            ..
        } => {
            let opens = next.as_ref().map(|next| next.at);
            if let Some(opens) = opens {
                let then = valid.windows.at(opens);
                if let WindowState::Open { closes, .. } = then
                    && closes - opens < long
                {
                    let room = valid.windows.room(now, long);
                    return Some(no_room(Some(opens), closes, &then, room));
                }
            }
            Some(match exclusion.clone() {
                _ if *unsure => Verdict::NoWindowFound,
                Some(exclusion) => Verdict::Excluded { exclusion, opens },
                None => Verdict::OutsideWindow { opens },
            })
        }
    }
}

/// Why a node's wave has not started.
fn wave_verdict(
    now: DateTime<Utc>,
    valid: &ValidPlan,
    entry: &PlanEntry,
    assignment: &Assignment,
    wave: usize,
) -> Option<Verdict> {
    let open = entry.open_wave as usize;
    if wave <= open {
        return None;
    }
    let (current, progress) = (&valid.waves[open], &assignment.waves[open]);
    let soak = progress
        .done()
        .then(|| progress.soak_until(current.soak))
        .flatten();
    let approved =
        current.approval == Approval::Automatic || entry.actions.approved.contains_key(&current.name);
    let soaks = soak.is_some_and(|until| until > now);
    Some(match soak {
        _ if progress.done() && !soaks && !approved => Verdict::AwaitingApproval {
            wave: current.name.clone(),
            run: entry.run.clone(),
        },
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
