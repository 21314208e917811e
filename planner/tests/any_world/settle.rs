//! Decisions applied as their contract says, until nothing is left to do at this instant; each answer on the way is judged.

use api::{
    ledger::{PlanEntry, UpdateLedgerSpec},
    names::DO_NOT_DISRUPT_ANNOTATIONS,
    plan::UpdatePlanStatus,
    shadow::BottlerocketShadowSpec,
};
use chrono::{DateTime, TimeDelta, Utc};
use planner::{
    decisions::{Action, Decisions},
    plan,
    world::{NodeFacts, PlanFacts, World},
};

use super::{
    judge::judge,
    rules::{
        Windows, could_start, domains, down_in_install, failure_of_run, given_up, hosts_granted,
        install_limit, is_down, is_gated, is_left_out, is_valid, limit, needs, on_target, owned, recorded,
        selects, updated_at,
    },
};

/// A ledger is made anew, read, and written once more; each node then goes no further than its agent has to answer: at most
/// this many rounds, and so many more for each node.
const ROUNDS: usize = 10;
const ROUNDS_A_NODE: usize = 6;

/// Applies what is decided until nothing is. Nothing that was done is decided again.
pub fn settle(now: DateTime<Utc>, world: &mut World) -> Decisions {
    let mut done: Vec<Action> = Vec::new();
    for _ in 0..ROUNDS + ROUNDS_A_NODE * world.nodes.len() {
        let decisions = plan(now, world);
        judge(now, world, &decisions);
        if !apply(world, &decisions) {
            assert_eq!(plan(now, world), decisions, "the same question, another answer");
            return decisions;
        }
        for action in decisions.actions {
            done.retain(|before| !is_over_with(before, &action));
            assert!(
                !done.contains(&action),
                "decided again: {action:#?}\nafter {done:#?}"
            );
            done.push(action);
        }
    }
    panic!("it does not come to an end");
}

/// Whether the one is over with the other: a wish of what a node is to download ahead, or a finalizer for a first grant. What is
/// found out meanwhile (a failure is told, a threshold falls as a node leaves) takes them back; so there may be none, then
/// one, then none again. Whether this ends is seen all the same.
fn is_over_with(before: &Action, after: &Action) -> bool {
    match (before, after) {
        (Action::SetShadow { node, spec }, Action::SetShadow { node: of, spec: now }) => {
            let wished = BottlerocketShadowSpec {
                stage: now.stage.clone(),
                ..spec.clone()
            };
            node == of && spec.stage != now.stage && wished == *now
        }
        (Action::AddFinalizer { plan }, Action::RemoveFinalizer { plan: of })
        | (Action::RemoveFinalizer { plan }, Action::AddFinalizer { plan: of }) => plan == of,
        _ => false,
    }
}

/// Until the time at which the planner wants to be asked again, time alone changes nothing: asked before, nothing is to be
/// done, and nothing to be told.
pub fn nothing_is_due_before(now: DateTime<Utc>, world: &World, last: &Decisions) {
    let end = last.look_again.unwrap_or(now + TimeDelta::days(400));
    // What is no longer so after an instant is asked for a millisecond later: nothing is asked in between.
    let half = TimeDelta::milliseconds((end - now).num_milliseconds() / 2);
    for later in [now + half, end - TimeDelta::milliseconds(1)] {
        if later > now {
            let mut asked = plan(later, world);
            asked.look_again = last.look_again;
            assert_eq!(asked, *last, "at {later}, asked at {now}");
        }
    }
}

/// False: nothing was to be done.
pub fn apply(world: &mut World, decisions: &Decisions) -> bool {
    if let Some(change) = &decisions.ledger {
        world.ledger = Some(change.spec.clone());
        return true;
    }
    decisions.actions.iter().for_each(|action| act(world, action));
    let mut changed = !decisions.actions.is_empty();
    for new in &decisions.statuses {
        if let Some(plan) = world.plans.iter_mut().find(|plan| plan.name == new.plan) {
            let stored =
                serde_json::to_value(&new.status).and_then(serde_json::from_value::<UpdatePlanStatus>);
            changed |= plan.status != new.status;
            plan.status = stored.unwrap();
        }
    }
    changed
}

fn act(world: &mut World, action: &Action) {
    let (Action::AddFinalizer { plan: name }
    | Action::RemoveFinalizer { plan: name }
    | Action::Cordon { node: name, .. }
    | Action::Uncordon { node: name, .. }
    | Action::SetShadow { node: name, .. }) = action;
    let plan = world.plans.iter_mut().find(|plan| plan.name == *name);
    let node = world.nodes.iter_mut().find(|node| node.name == *name);
    match (action, plan, node) {
        (Action::AddFinalizer { .. }, Some(plan), _) => plan.finalizer = true,
        (Action::RemoveFinalizer { .. }, Some(plan), _) => plan.finalizer = false,
        (Action::Cordon { disruption, .. }, _, Some(node)) => {
            node.unschedulable = true;
            node.disruption = Some(disruption.clone());
            for (key, value) in DO_NOT_DISRUPT_ANNOTATIONS {
                node.annotations.insert(key.to_owned(), value.to_owned());
            }
        }
        (Action::Uncordon { .. }, _, Some(node)) => {
            (node.unschedulable, node.disruption, node.drain) = (false, None, None);
            node.annotations.clear();
        }
        (Action::SetShadow { spec, .. }, _, Some(node)) => {
            if let Some(shadow) = &mut node.shadow {
                shadow.spec = spec.clone();
            }
        }
        _ => panic!("{action:?} of what is not there"),
    }
    // A plan that is being deleted is gone without its finalizer.
    if matches!(action, Action::RemoveFinalizer { .. }) {
        world.plans.retain(|plan| plan.finalizer || !plan.deleting);
    }
}

/// Progress: where nothing is left to do, no node waits that could be begun with, that its plan, its wave and its topology
/// have a place for, whose wave is under way, and that fits into the window.
pub fn nothing_is_held_back(now: DateTime<Utc>, world: &World, last: &Decisions) {
    let ledger = world.ledger.as_ref().expect("it was made anew");
    let is_ahead = |plan: &PlanFacts| {
        ledger
            .plans
            .get(&plan.uid)
            .is_some_and(|entry| entry.generation > plan.generation)
    };
    if world.plans.iter().any(is_ahead) {
        return;
    }
    let known_clock = world
        .clock_skew
        .is_some_and(|skew| skew.abs() < TimeDelta::seconds(30));
    if ledger.stop {
        return;
    }
    let down = down_in_install(world, ledger);
    let install_is_full = install_limit(world, ledger).is_some_and(|max| down >= max);
    for plan in &world.plans {
        let Some(entry) = ledger.plans.get(&plan.uid) else {
            continue;
        };
        let may = is_valid(plan) && !plan.deleting && !plan.spec.paused && !entry.halted && !entry.paused;
        let long = needs(plan, entry).max(TimeDelta::milliseconds(1));
        let fits = Windows::of(plan, ledger).is_open_until(now, now + long);
        let matched = owned(world, ledger, plan);
        if may {
            // A clock that is known to be wrong is corrected.
            let wrong = world.clock_skew.filter(|_| !known_clock).unwrap_or_default();
            let next = next_wave(now - wrong, plan, entry, ledger, &matched);
            assert_eq!(
                next, None,
                "of {}: a wave is held back: {:?}",
                plan.name, last.statuses
            );
        }
        if !may || !known_clock || !fits || install_is_full {
            continue;
        }
        let down: Vec<&NodeFacts> = matched
            .iter()
            .copied()
            .filter(|node| is_down(node, ledger))
            .collect();
        if down.len() >= limit(plan.spec.max_unavailable, matched.len()) {
            continue;
        }
        for node in &matched {
            if ledger.grants.contains_key(&node.uid) || !could_start(now, node, plan, entry, &world.settings)
            {
                continue;
            }
            // The nodes that the operator runs on come one at a time.
            if node.hosts_operator && hosts_granted(world, ledger, &node.uid) > 0 {
                continue;
            }
            let with_it = domains(plan, down.iter().copied().chain([*node]));
            let topology = plan.spec.topology.as_ref();
            if topology.is_some_and(|topology| with_it.len() > topology.max_domains as usize) {
                continue;
            }
            let verdict = last
                .verdicts
                .iter()
                .find(|v| v.node == node.name && *v.plan == *plan.name);
            assert!(
                !its_wave_takes_it(node, plan, entry, ledger, &matched),
                "{} of {} is held back: {verdict:?}",
                node.name,
                plan.name
            );
        }
    }
}

/// The wave that should be under way: the one before is done, has proven something, and is soaked, healthy and approved, for all
/// that is known without the order in which waves take their nodes.
fn next_wave<'a>(
    now: DateTime<Utc>,
    plan: &'a PlanFacts,
    entry: &PlanEntry,
    ledger: &UpdateLedgerSpec,
    matched: &[&NodeFacts],
) -> Option<&'a str> {
    let open = entry.open_wave as usize;
    let (wave, next) = (plan.spec.waves.get(open)?, plan.spec.waves.get(open + 1)?);
    let wave_of = |node: &NodeFacts| {
        let name = recorded(node, ledger, &entry.run)?;
        plan.spec.waves.iter().position(|wave| wave.name == name)
    };
    let takes = |node: &NodeFacts| {
        let selector = wave.node_selector.as_ref();
        selector.is_none_or(|selector| selects(selector, &node.labels))
    };
    let updated = |node: &&NodeFacts| on_target(node, plan, entry) && !given_up(node, plan, entry);
    let members = || matched.iter().copied().filter(|node| wave_of(node) == Some(open));
    // Of those that no wave has taken yet one may be of this.
    let may_join = |node: &&&NodeFacts| {
        let rests = updated(node) && !ledger.grants.contains_key(&node.uid);
        wave_of(node).is_none() && takes(node) && !rests
    };
    let is_over = |node: &NodeFacts| {
        let failed = given_up(node, plan, entry);
        let over = updated(&node) || failed || is_left_out(node, plan, entry);
        over && !ledger.grants.contains_key(&node.uid)
    };
    let ended = |node: &NodeFacts| {
        let failure = failure_of_run(node, entry).map(|failure| failure.at);
        updated_at(node, plan, entry)
            .max(failure)
            .max(entry.actions.retried_at)
    };
    let soaked = |node: &NodeFacts| ended(node).is_some_and(|at| at + wave.soak.delta() <= now);
    let nobody = members().next().is_none();
    let proven =
        members().any(|node| updated(&node)) || nobody && entry.owes_proof.as_ref() != Some(&wave.name);
    let done =
        proven && !matched.is_empty() && matched.iter().find(may_join).is_none() && members().all(is_over);
    // Also from the last of those that are gone.
    let all_soaked = entry.soaks_from.is_none_or(|at| at + wave.soak.delta() <= now);
    let fine = members().all(|node| soaked(node) && node.ready) && all_soaked && !is_gated(wave, entry);
    (done && fine).then_some(next.name.as_str())
}

/// Whether the node's wave is under way and has a place for it, for all that is known without the order in which waves
/// take their nodes.
fn its_wave_takes_it(
    node: &NodeFacts,
    plan: &PlanFacts,
    entry: &PlanEntry,
    ledger: &UpdateLedgerSpec,
    matched: &[&NodeFacts],
) -> bool {
    let waves = &plan.spec.waves;
    let wave_of = |node: &NodeFacts| {
        let name = recorded(node, ledger, &entry.run)?;
        waves.iter().position(|wave| wave.name == name)
    };
    let of = wave_of(node);
    let may_be_its = |index: usize| of.is_none_or(|of| of == index);
    (0..waves.len()).filter(|index| may_be_its(*index)).all(|index| {
        // Nodes whose wave is not known may be of this one.
        let members = matched
            .iter()
            .filter(|other| wave_of(other) == Some(index))
            .count();
        let down = matched
            .iter()
            .filter(|other| wave_of(other).is_none_or(|of| of == index) && is_down(other, ledger));
        let has_place = waves[index]
            .max_unavailable
            .is_none_or(|max| down.count() < limit(max, members));
        index <= entry.open_wave as usize && has_place
    })
}
