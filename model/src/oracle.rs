//! The promises, by rules of their own: what is true of machines, cordons and pods, and who may change what. Nothing here
//! asks the planner.

mod limits;
mod plans;

use api::{
    ledger::{Grant, GrantPhase, PlanEntry},
    shadow::NodeState,
};
use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::core::v1::Node;
use kube_core::ResourceExt as _;
use planner::{decisions::Decisions, world::World};

use crate::{
    config::{Fault, NEW, NEWER, OLD},
    model::Model,
    objects::{disruption, is_cordoned, node_name, plan_name},
    state::{Ledger, State, Write},
    time::{TICK, at, far},
};

type Check = Result<(), String>;

fn ensure(holds: bool, promise: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(promise()) }
}

/// Until when the window is open that is open at a tick. None: none is.
fn open_until(model: &Model, plan: usize, now: u16) -> Option<DateTime<Utc>> {
    let windows = &model.config.plans[plan].windows;
    if windows.is_empty() {
        return Some(far());
    }
    let open = windows
        .iter()
        .filter(|(from, until)| *from <= now && until.is_none_or(|until| now < until));
    open.map(|(_, until)| until.map_or_else(far, at)).max()
}

/// Until when a node that was cordoned in time may be permitted to reboot.
fn permits_until(model: &Model, plan: usize, now: u16) -> Option<DateTime<Utc>> {
    if model.config.plans[plan].finish {
        return Some(far());
    }
    open_until(model, plan, now)
}

fn plan_of(grant: &Grant) -> Option<usize> {
    (0..crate::state::PLANS).find(|p| plan_name(*p) == grant.plan)
}

fn is_newer(to: &str, from: &str) -> bool {
    let rank = |version: &str| [OLD, NEW, NEWER].iter().position(|known| *known == version);
    rank(to) > rank(from)
}

/// What the planner says at once must hold together: a status never tells of a generation that the ledger does not hold.
pub fn decided(world: &World, decisions: &Decisions) -> Check {
    for status in &decisions.statuses {
        let Some(plan) = world.plans.iter().find(|plan| plan.name == status.plan) else {
            continue;
        };
        let entry = world
            .ledger
            .as_ref()
            .and_then(|ledger| ledger.plans.get(&plan.uid));
        let recorded = entry.is_none_or(|entry| Some(entry.generation) == status.status.observed_generation);
        ensure(recorded, || {
            format!("S12: {} is observed before the ledger holds it", plan.name)
        })?;
    }
    Ok(())
}

/// Whether a node is cordoned for this grant and empty.
pub fn is_fit(model: &Model, state: &State, n: usize, grant: &Grant) -> bool {
    let node = model.nodes.get(state.nodes[n].object);
    state.nodes[n].pods == 0 && node.is_some_and(|node| is_cordoned_for(&node, grant))
}

fn is_cordoned_for(node: &Node, grant: &Grant) -> bool {
    is_cordoned(node)
        && disruption(node)
            .is_some_and(|d| (&d.plan_uid, &d.run, d.attempt) == (&grant.plan, &grant.run, grant.attempt))
}

/// Before a controller's ledger is written.
pub fn ledger_written(model: &Model, state: &State, new: &Ledger) -> Check {
    let old = state.ledger;
    for p in 0..model.config.plans.len() {
        let (before, after) = (
            model.entries.get(old.entries[p]),
            model.entries.get(new.entries[p]),
        );
        if let (Some(before), Some(after)) = (before, after) {
            ensure(before.generation <= after.generation, || {
                let (from, to) = (before.generation, after.generation);
                format!(
                    "S12: the ledger goes back from generation {from} of {} to {to}",
                    plan_name(p)
                )
            })?;
        }
    }
    let mut made = [0; crate::state::PLANS];
    for n in 0..model.config.nodes {
        let (before, after) = (model.grants.get(old.grants[n]), model.grants.get(new.grants[n]));
        match (before, after) {
            (None, Some(grant)) => {
                granted(model, state, new, n, &grant)?;
                made[plan_of(&grant).unwrap_or_default()] += 1;
            }
            (Some(grant), None) => released(model, state, n, &grant)?,
            (Some(before), Some(after)) => moved_on(model, state, n, &before, &after)?,
            (None, None) => {}
        }
    }
    for (p, _) in made.iter().enumerate().filter(|(_, made)| **made > 0) {
        limits::within_budget(model, state, new, p)?;
        limits::within_install(model, state, new)?;
        limits::not_halted(model, state, &old, p)?;
    }
    plans::recorded(model, state, new)
}

fn granted(model: &Model, state: &State, new: &Ledger, n: usize, grant: &Grant) -> Check {
    let who = format!("{} of {}", node_name(n), grant.plan);
    let p = plan_of(grant).ok_or_else(|| format!("S3: {who} granted by no plan"))?;
    let fresh = (grant.phase, &grant.permit, &grant.ending) == (GrantPhase::Granted, &None, &None);
    ensure(fresh && grant.node == node_name(n), || {
        format!("S3: {who} granted as {grant:?}")
    })?;
    ensure(model.config.plans[p].nodes.contains(&n), || {
        format!("S3: {who} is not its node")
    })?;
    ensure(is_newer(&grant.to, &grant.from), || {
        format!("S8: {who} from {} to {}", grant.from, grant.to)
    })?;
    let entry = model
        .entries
        .get(new.entries[p])
        .ok_or_else(|| format!("S12: {who} granted without an entry"))?;
    ensure(
        entry.generation == grant.generation && entry.run == grant.run && !entry.paused && !entry.halted,
        || format!("S12: {who} granted from {grant:?} by {entry:?}"),
    )?;
    let closes =
        open_until(model, p, state.now).ok_or_else(|| format!("S4: {who} granted outside a window"))?;
    let finished = at(state.now) + expected(model, p, &entry);
    ensure(finished <= closes, || {
        format!("S4: {who} does not fit before {closes}")
    })?;
    plans::belongs(model, state, p, n)?;
    plans::is_wanted(grant, &entry)?;
    limits::not_given_up(model, state, n, p, &entry)?;
    plans::in_order(model, state, p, grant)
}

/// How long a node is expected to take: as nine of ten nodes before it took, at most.
fn expected(model: &Model, p: usize, entry: &PlanEntry) -> TimeDelta {
    let mut took = entry.durations.clone();
    took.sort_unstable();
    let longest_of_nine = (took.len() * 9).div_ceil(10).checked_sub(1);
    longest_of_nine.map_or_else(
        || TICK * i32::from(model.config.plans[p].expected),
        |i| TimeDelta::seconds(took[i].into()),
    )
}

fn released(model: &Model, state: &State, n: usize, grant: &Grant) -> Check {
    let who = node_name(n);
    let cordoned = model
        .nodes
        .get(state.nodes[n].object)
        .is_some_and(|node| is_cordoned_for(&node, grant));
    // What others have just cordoned, or a controller that has ended, is found and undone later.
    let alone = model.config.controllers == 1 && model.config.bound(Fault::ControllerCrash) == 0;
    ensure(!cordoned || !alone, || {
        format!("L1: the grant of {who} is released and its cordon is left")
    })?;
    if grant.ending.is_none() {
        ensure(grant.phase == GrantPhase::Monitoring, || {
            format!("S7: {who} is released in {}", grant.phase)
        })?;
        proven(model, state, n, grant)?;
    }
    Ok(())
}

/// S7: the machine runs the target since another boot.
fn proven(model: &Model, state: &State, n: usize, grant: &Grant) -> Check {
    let host = model.hosts.get(state.nodes[n].host);
    let other_boot = |boot: &str| grant.permit.as_ref().is_some_and(|permit| permit.boot_id != boot);
    let proven = host.is_some_and(|host| host.version == grant.to && other_boot(&host.boot_id()));
    ensure(proven, || {
        format!("S7: {} counts as updated to {}", node_name(n), grant.to)
    })
}

fn moved_on(model: &Model, state: &State, n: usize, before: &Grant, after: &Grant) -> Check {
    use GrantPhase::{Drained, Granted, Monitoring, Rebooting, Withdrawing};

    let who = node_name(n);
    let same = |grant: &Grant| {
        (
            grant.plan.clone(),
            grant.run.clone(),
            grant.attempt,
            grant.to.clone(),
        )
    };
    ensure(same(before) == same(after), || {
        format!("S3: the grant of {who} becomes another: {after:?}")
    })?;
    ensure(before.permit == after.permit, || {
        format!("S5: a controller changes the permit of {who}")
    })?;
    ensure(before.ending.is_none() || before.ending == after.ending, || {
        format!("S5: the grant of {who} ends no more")
    })?;
    let legal = match (before.phase, after.phase) {
        (from, to) if from == to => true,
        (Granted, Drained) | (Granted | Drained, Withdrawing) | (Rebooting, Monitoring) => true,
        _ => false,
    };
    ensure(legal, || {
        format!(
            "S5: the grant of {who} goes from {} to {}",
            before.phase, after.phase
        )
    })?;
    if (before.phase, after.phase) == (Rebooting, Monitoring) {
        proven(model, state, n, after)?;
    }
    Ok(())
}

/// Before a permit is written into the ledger.
pub fn permit_recorded(model: &Model, state: &State, n: usize, grant: &Grant) -> Check {
    let who = node_name(n);
    let before = model.grants.get(state.ledger.grants[n]);
    let before = before.ok_or_else(|| format!("S5: a permit for {who}, which has no grant"))?;
    ensure(
        (&before.run, before.attempt) == (&grant.run, grant.attempt),
        || format!("S5: a permit for another attempt of {who}"),
    )?;
    ensure(
        before.phase == GrantPhase::Drained && before.ending.is_none(),
        || {
            format!(
                "S5: a permit for {who}, whose grant is {} and ends for {:?}",
                before.phase, before.ending
            )
        },
    )?;
    plans::still_wants(model, state, &before)
}

/// Before a permit is given to an agent: until when it may be used.
pub fn permit_given(model: &Model, state: &State, n: usize) -> Result<DateTime<Utc>, String> {
    let who = node_name(n);
    // A grant that is gone by now does no harm yet: only a reboot would.
    let grant = model.grants.get(state.ledger.grants[n]);
    let plan = grant.as_ref().and_then(|grant| plan_of(grant));
    let closes = plan.map_or(Some(far()), |p| permits_until(model, p, state.now));
    let closes = closes.ok_or_else(|| format!("S4: {who} is given a permit outside a window"))?;
    Ok(closes.min(at(state.now) + api::ledger::PERMIT_VALIDITY))
}

/// Before a machine reboots because its agent calls for it.
pub fn rebooted(model: &Model, state: &mut State, n: usize) -> Check {
    let who = node_name(n);
    let (Some(ghost), Some(host), Some(node)) = (
        model.ghosts.get(state.nodes[n].ghost),
        model.hosts.get(state.nodes[n].host),
        model.nodes.get(state.nodes[n].object),
    ) else {
        return Err(format!("the model cannot follow: no machine {who}"));
    };
    let leave = ghost
        .leave
        .as_ref()
        .ok_or_else(|| format!("S5: {who} reboots without a permit"))?;
    ensure(leave.boot == host.boot_id(), || {
        format!("S5: {who} reboots with the permit of another boot")
    })?;
    ensure(at(state.now) < leave.until, || {
        format!("S4: {who} reboots after its permit ended at {}", leave.until)
    })?;
    ensure(leave.fit, || {
        format!("S5: {who} reboots, and was not cordoned and empty when it was looked at")
    })?;
    ensure(ghost.rebooted.as_ref() != Some(&leave.attempt), || {
        format!("S5: {who} reboots twice in attempt {:?}", leave.attempt)
    })?;
    let grant = model.grants.get(state.ledger.grants[n]);
    let grant = grant.ok_or_else(|| format!("S5: {who} reboots without a grant"))?;
    let permitted = grant
        .permit
        .as_ref()
        .is_some_and(|permit| permit.boot_id == host.boot_id());
    ensure(
        grant.phase == GrantPhase::Rebooting
            && permitted
            && (grant.run.clone(), grant.attempt) == leave.attempt,
        || format!("S5: {who} reboots with {grant:?}"),
    )?;
    let open = plan_of(&grant).and_then(|p| permits_until(model, p, state.now));
    ensure(open.is_some(), || format!("S4: {who} reboots outside a window"))?;
    let fit = is_cordoned_for(&node, &grant) && state.nodes[n].pods == 0;
    ensure(fit || ghost.excused, || {
        format!("S5: {who} reboots, and is not cordoned and empty")
    })?;
    let attempt = leave.attempt.clone();
    model.remember(state, n, |ghost| ghost.rebooted = Some(attempt));
    Ok(())
}

/// Before a controller's write of a node is done.
pub fn node_written(model: &Model, state: &State, n: usize, write: &Write) -> Check {
    let who = node_name(n);
    let (Some(before), Some(after), Some(ghost)) = (
        model.nodes.get(state.nodes[n].object),
        model.nodes.get(write.id),
        model.ghosts.get(state.nodes[n].ghost),
    ) else {
        return Err(format!("the model cannot follow: no node {who}"));
    };
    match (is_cordoned(&before), is_cordoned(&after)) {
        (false, true) => {
            let plan = disruption(&after)
                .and_then(|d| (0..model.config.plans.len()).find(|p| plan_name(*p) == d.plan_uid));
            let p = plan.ok_or_else(|| format!("S9: {who} is cordoned without our annotation"))?;
            let sent = state.now - u16::from(write.aged && state.now > 0);
            let open = [state.now, sent]
                .into_iter()
                .any(|now| open_until(model, p, now).is_some());
            ensure(open, || format!("S4: {who} is cordoned outside a window"))?;
        }
        (true, false) => {
            ensure(!ghost.admin, || {
                format!("S9: {who} was cordoned by a person and is uncordoned")
            })?;
            ensure(disruption(&before).is_some(), || {
                format!("S9: {who} is uncordoned without our annotation")
            })?;
        }
        _ => {}
    }
    if disruption(&before).is_some() && disruption(&after).is_none() {
        let annotations = after.annotations();
        let kept = annotations
            .get("karpenter.sh/do-not-disrupt")
            .is_some_and(|value| value == "false");
        ensure(kept && annotations.len() == 1, || {
            format!("S9: {who} keeps {annotations:?}")
        })?;
    }
    Ok(())
}

/// Before a controller's write of a shadow is done: an attempt is begun once, by an agent's eyes.
pub fn shadow_written(model: &Model, state: &mut State, n: usize, write: &Write) -> Check {
    let (Some(before), Some(after)) = (
        model.shadows.get(state.nodes[n].shadow),
        model.shadows.get(write.id),
    ) else {
        return Err(format!("the model cannot follow: no shadow of {}", node_name(n)));
    };
    let (Some(run), Some(attempt)) = (after.spec.run.clone(), after.spec.attempt) else {
        return Ok(());
    };
    if after.spec.state != NodeState::StagedAndPerformedUpdate || before.spec.state == after.spec.state {
        return Ok(());
    }
    let ghost = model.ghosts.get(state.nodes[n].ghost).unwrap_or_default();
    let again = ghost
        .begun
        .as_ref()
        .is_some_and(|(r, a)| *r == run && *a >= attempt);
    ensure(!again, || {
        format!("S5: {} begins attempt {attempt} again", node_name(n))
    })?;
    model.remember(state, n, |ghost| ghost.begun = Some((run, attempt)));
    Ok(())
}

/// What holds in every state.
pub fn holds(model: &Model, state: &State) -> Check {
    for n in 0..model.config.nodes {
        let Some(grant) = model.grants.get(state.ledger.grants[n]) else {
            continue;
        };
        ensure(
            grant.phase != GrantPhase::Withdrawing || grant.permit.is_none(),
            || format!("S5: {} is withdrawn with a permit", node_name(n)),
        )?;
        let plan = plan_of(&grant).and_then(|p| model.plans.get(state.plans[p]));
        let held = plan.is_some_and(|plan| !plan.finalizers().is_empty());
        ensure(held, || {
            format!(
                "S12: {} has a grant of {}, which has no finalizer",
                node_name(n),
                grant.plan
            )
        })?;
    }
    Ok(())
}
