//! When the last node will be done, if all goes on as it does.

use std::collections::BTreeMap;

use api::{ledger::PlanEntry, plan::Approval, verdict::Verdict};
use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};

use crate::{
    budgets::Domain,
    pace::Pace,
    plan::Planning,
    rollout::Rollout,
    spec::{ValidPlan, ValidWave},
    waves::{Member, Place},
    windows::{Closing, WindowState, Windows},
};

/// How many windows the rest of a rollout may take until nothing is said of its end.
const WINDOWS: usize = 100;

/// When the plan will be complete, rounded up to the minute. None where that depends on something other than time: a
/// person, a failed node, a window that never opens. It follows from instants that are stored, not from the time it is
/// asked at, so that waiting changes nothing.
pub(crate) fn completion(
    planning: &mut Planning<'_>,
    rollout: &Rollout<'_>,
    valid: &ValidPlan,
    entry: &PlanEntry,
) -> Option<DateTime<Utc>> {
    let assignment = rollout.waves.as_ref()?;
    let members = || {
        rollout
            .members
            .iter()
            .zip(&rollout.verdicts)
            .zip(&assignment.wave_of)
    };
    if entry.paused
        || entry.halted
        || planning.ledger.stop
        || !members().any(|(member, _)| moves_by_itself(&member))
    {
        return None;
    }
    let asks = |wave: &ValidWave| {
        wave.approval == Approval::Manual && !entry.actions.approved.contains_key(&wave.name)
    };
    if valid.waves.iter().skip(entry.open_wave as usize).any(asks) {
        return None;
    }
    let pace = Pace::of(valid, entry);
    let granted = rollout
        .members
        .iter()
        .filter(|member| member.place == Place::Granted)
        .count();
    let others = rollout.unavailable.len() - granted;
    // What other plans' nodes spend of the install's limit now is taken as spent for good.
    let of_install = planning.install.as_ref().map_or(usize::MAX, |(max, down)| {
        max.saturating_sub(down.len() + planning.ledger.grants.len() - granted)
    });
    let places = rollout
        .max_unavailable
        .checked_sub(others)
        .map(|left| left.min(of_install))
        .filter(|left| *left > 0)?;
    let mut under_way = vec![Vec::new(); valid.waves.len()];
    for ((member, _), of) in members() {
        if member.place == Place::Granted
            && let Some(grant) = planning.ledger.grants.get(&member.node.uid)
        {
            under_way[*of].push(done_at(planning.now, grant.granted_at, &pace)?);
        }
    }
    let first_done = under_way.iter().flatten().min().copied();
    if let Some(first_done) = first_done {
        planning.wake(first_done);
    }
    let mut at = planning.now;
    for (index, (wave, progress)) in valid.waves.iter().zip(&assignment.waves).enumerate() {
        let of_wave = || {
            members()
                .filter(|(_, of)| **of == index)
                .map(|(member, _)| member)
        };
        let turns: Vec<_> = of_wave()
            .filter(|(member, verdict)| {
                member.place == Place::Waiting && verdict.as_ref().is_none_or(is_in_turn)
            })
            .collect();
        let domains = valid.topology.as_ref().map(|topology| {
            let mut domains: BTreeMap<Domain, usize> = BTreeMap::new();
            for (member, _) in &turns {
                *domains.entry(Domain::of(topology, member.node)).or_default() += 1;
            }
            (domains, topology.max_domains as usize)
        });
        let (waiting, first_try) =
            turns
                .iter()
                .fold((0, None), |(waiting, first), (_, verdict)| match verdict {
                    Some(Verdict::Backoff { until }) => (
                        waiting + 1,
                        Some(first.map_or(*until, |first| (*until).min(first))),
                    ),
                    _ => (waiting + 1, first),
                });
        if waiting + under_way[index].len() == 0 {
            // What it still soaks is wall time.
            at = at.max(progress.soak_until(wave.soak).unwrap_or(at));
            continue;
        }
        let down =
            |i: &&usize| assignment.wave_of[**i] == index && rollout.members[**i].place != Place::Granted;
        let of_wave = wave.max_unavailable.map_or(usize::MAX, |max| {
            max.at_most(progress.nodes)
                .saturating_sub(rollout.down.iter().filter(down).count())
        });
        let limit = places.min(of_wave);
        let last = under_way[index].iter().max().copied();
        if waiting > 0 {
            // A place is free when the first node is done, in whatever wave.
            let first = first_done.or(first_try);
            let held = first.is_none() && at == planning.now && !turns.iter().any(moves_by_itself);
            if limit == 0 || held {
                // By nodes that are down, and not because they are updated.
                return None;
            }
            let from = first.map_or(at, |from| from.max(at));
            // A domain's nodes are begun with when those of another are done.
            let by_domain = domains.map_or(0, |(domains, max)| {
                let batches: usize = domains.values().map(|nodes| nodes.div_ceil(limit)).sum();
                batches.div_ceil(max.max(1))
            });
            let batches = i64::try_from(waiting.div_ceil(limit).max(by_domain)).ok()?;
            at = batches_end(&valid.windows, from, batches, &pace)?;
        }
        at = last.map_or(at, |last| last.max(at)) + wave.soak;
    }
    at.checked_add_signed(TimeDelta::seconds(59))?
        .duration_trunc(TimeDelta::minutes(1))
        .ok()
}

/// When a node that was granted then will be done: as most nodes are; if it is not, as nine of ten are; and if it is
/// not even then, when its time is over.
fn done_at(now: DateTime<Utc>, granted_at: DateTime<Utc>, pace: &Pace) -> Option<DateTime<Utc>> {
    [pace.typical, pace.needs, pace.longest]
        .iter()
        .map(|takes| granted_at + *takes)
        .find(|done| *done > now)
}

/// Whether a node is being updated, or waits for time alone.
fn moves_by_itself((member, verdict): &(&Member<'_>, &Option<Verdict>)) -> bool {
    let waits_for_time = || {
        verdict.as_ref().is_none_or(|verdict| {
            matches!(
                verdict,
                Verdict::OutsideWindow { opens: Some(_) }
                    | Verdict::Excluded { opens: Some(_), .. }
                    | Verdict::WontFitInWindow { opens: Some(_), .. }
                    | Verdict::Soaking { .. }
                    | Verdict::Backoff { .. }
            )
        })
    };
    member.place == Place::Granted || (member.place == Place::Waiting && waits_for_time())
}

/// Whether a node that waits will have its turn as the rollout goes on, if a window has room for it: where none has, nothing is
/// known of the end.
fn is_in_turn(verdict: &Verdict) -> bool {
    matches!(
        verdict,
        Verdict::OutsideWindow { .. }
            | Verdict::Excluded { .. }
            | Verdict::NoWindowFound
            | Verdict::WontFitInWindow { .. }
            | Verdict::WindowTooShort { .. }
            | Verdict::WaveNotReached { .. }
            | Verdict::Soaking { .. }
            | Verdict::BudgetSpent { .. }
            | Verdict::DomainBusy { .. }
            | Verdict::Backoff { .. }
            | Verdict::Resetting
    )
}

/// When so many batches, one after the other from `from` on, are done inside the windows.
fn batches_end(
    windows: &Windows,
    from: DateTime<Utc>,
    mut batches: i64,
    pace: &Pace,
) -> Option<DateTime<Utc>> {
    let mut at = from;
    let after = |at: DateTime<Utc>, batches: i64| {
        let milliseconds = pace.typical.num_milliseconds().checked_mul(batches)?;
        at.checked_add_signed(TimeDelta::try_milliseconds(milliseconds)?)
    };
    for _ in 0..WINDOWS {
        match windows.at(at) {
            WindowState::Always
            | WindowState::Open {
                by: Closing::RunDone, ..
            } => return after(at, batches),
            WindowState::Open { closes, .. } => {
                let last_start = closes - pace.needs;
                let fit = if last_start < at {
                    0
                } else {
                    (last_start - at).num_milliseconds() / pace.typical.num_milliseconds() + 1
                };
                if fit >= batches {
                    return after(at, batches);
                }
                batches -= fit;
                at = closes;
            }
            WindowState::Closed { next, .. } => {
                let opens = next?.at;
                let too_short = |closes: &DateTime<Utc>| *closes - opens < pace.window();
                // One that is too short is not waited for.
                at = windows
                    .at(opens)
                    .not_after(opens)
                    .filter(too_short)
                    .unwrap_or(opens);
            }
        }
    }
    None
}
