//! Waves that are held by nodes that cannot be updated: after `skipAfter` of open window these are left alone, and counted
//! as skipped with what is wrong with them.
//!
//! The ledger remembers one instant for each plan: since when its waves, as far as they are open, wait for nothing but
//! such nodes. It begins anew whenever something else of the plan moves, so that a node is waited for again as long as
//! there are others to do.

use api::{ledger::PlanEntry, verdict::Verdict};

use crate::{
    plan::Planning,
    rollout::Rollout,
    spec::ValidPlan,
    waves::{Assignment, Place},
};

/// Records whether the waves that are open are held, and skips the nodes that have held them for long enough. `assignment`
/// must be that of the nodes as they are, none of them skipped for this. True: some are, and the waves have changed.
pub(crate) fn skip(
    planning: &mut Planning<'_>,
    rollout: &mut Rollout<'_>,
    valid: &ValidPlan,
    entry: &mut PlanEntry,
    assignment: &Assignment,
) -> bool {
    let holding = holding(rollout, entry, assignment);
    if holding.is_empty() || entry.paused || entry.halted || planning.ledger.stop {
        (entry.held_since, entry.held_out) = (None, false);
        return false;
    }
    let since = *entry.held_since.get_or_insert(planning.now);
    if !entry.held_out {
        let Some(at) = valid.windows.has_been_open(since, valid.skip_after) else {
            return false;
        };
        if at > planning.now {
            rollout.skip_at = Some(at);
            planning.wake(at);
            return false;
        }
        // With them such a window closes, and a run that ignores its windows is complete: it could not be found again.
        entry.held_out = valid.windows.open_until_done() || valid.windows.are_ignored();
    }
    pass_over(rollout, valid, entry, holding);
    true
}

/// Where those hold a wave that have taken the places of the skipped, all that could take one and cannot be updated are
/// skipped with them: so one that can has it, if there is any. `assignment` is that after [`skip`].
pub(crate) fn skip_replacements(
    rollout: &mut Rollout<'_>,
    valid: &ValidPlan,
    entry: &PlanEntry,
    assignment: &Assignment,
) -> bool {
    if holding(rollout, entry, assignment).is_empty() {
        return false;
    }
    let (open, fits) = (entry.open_wave as usize, &rollout.owned.fits);
    let is_no_better = |i: &usize| {
        let (member, verdict) = (&rollout.members[*i], &rollout.verdicts[*i]);
        let could_take_it =
            member.place == Place::Waiting && member.recorded.is_none() && fits[*i].take(open);
        could_take_it && verdict.as_ref().is_some_and(is_stuck)
    };
    let no_better: Vec<usize> = (0..rollout.members.len()).filter(is_no_better).collect();
    pass_over(rollout, valid, entry, no_better);
    true
}

fn pass_over(rollout: &mut Rollout<'_>, valid: &ValidPlan, entry: &PlanEntry, nodes: Vec<usize>) {
    // Where nothing but these is left of the last wave there is nothing that has to be proven first.
    let last = entry.open_wave as usize + 1 == valid.waves.len();
    for i in nodes {
        rollout.members[i].place = Place::Skipped;
        rollout.members[i].passed_over = !last;
    }
}

/// The nodes for which alone the open waves wait; none where something else is to be done there.
fn holding(rollout: &Rollout<'_>, entry: &PlanEntry, assignment: &Assignment) -> Vec<usize> {
    let open = entry.open_wave as usize;
    let mut holding = Vec::new();
    for (i, (member, wave)) in rollout.members.iter().zip(&assignment.wave_of).enumerate() {
        match member.place {
            Place::Granted => return Vec::new(),
            Place::Waiting if *wave > open => {}
            Place::Waiting if rollout.verdicts[i].as_ref().is_some_and(is_stuck) => holding.push(i),
            Place::Waiting => return Vec::new(),
            Place::Updated | Place::Failed | Place::Skipped => {}
        }
    }
    holding
}

/// Whether the node cannot be updated, for a reason that neither time nor the plan is known to take away.
const fn is_stuck(verdict: &Verdict) -> bool {
    matches!(
        verdict,
        Verdict::NotReady { .. }
            | Verdict::AgentSilent { .. }
            | Verdict::VersionDisputed { .. }
            | Verdict::CordonedByOther
            | Verdict::Resetting
            | Verdict::AgentOutdated
            | Verdict::NothingOffered { .. }
    )
}
