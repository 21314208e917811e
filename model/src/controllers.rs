//! The controllers: what one sees, what the real planner makes of it, and what becomes of its writes.
//!
//! The thin code around the planner is told again here as `controller::run` has it: the ledger first and nothing else
//! beside it, one write of an object at a time, fresh nodes before a grant; everything afresh where somebody else has written the
//! ledger; the ledger says first which finalizer goes; and what the view does not explain only over a ledger that is still the same.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use api::{ledger::UpdateLedgerSpec, names::shadow_name};
use controller::{
    finalizers,
    ledger::{released, written_over},
    observe,
    patch::{self, Patched, Write},
    view::{Drained, Snapshot},
};
use kube_core::ResourceExt as _;
use planner::{
    decisions::{Action, Decisions},
    world::{Blocked, DrainFacts, Settings},
};

use crate::{
    config::Fault,
    model::Model,
    objects::{self, VERSION, disruption, node_name, plan_name},
    oracle,
    state::{self, Controller, Drain, Id, Key, NODES, PLANS, State, Swap},
    steps::{Next, Step},
    time::{TICK, at},
};

/// What a controller sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seen {
    now: u16,
    plans: [Id; PLANS],
    ledger: state::Ledger,
    nodes: [Id; NODES],
    shadows: [Id; NODES],
    drains: [Drain; NODES],
}

/// A write that it decides on.
#[derive(Debug)]
struct Planned {
    key: Key,
    /// What it makes of the object.
    id: Id,
    /// Whether the ledger is compared first.
    doubtful: bool,
}

/// What it decides on that.
#[derive(Debug, Default)]
pub struct Round {
    swap: Option<Swap>,
    /// The writes that must have ended before.
    waits_for: Vec<Key>,
    writes: Vec<Planned>,
    drains: [Id; NODES],
    /// A promise that the decision itself breaks.
    broken: Option<String>,
}

impl Model {
    /// What a controller sees.
    fn seen(&self, state: &State, c: usize) -> Seen {
        let controller = &state.controllers[c];
        let see = |key: Key| match controller.known(key) {
            0 => state.object(key),
            known => known,
        };
        let mut ledger = controller.ledger.unwrap_or(state.ledger);
        ledger.rest = self.by_writer(ledger.rest, String::new());
        Seen {
            now: state.now,
            plans: std::array::from_fn(|p| see(Key::Plan(p))),
            ledger,
            nodes: std::array::from_fn(|n| see(Key::Node(n))),
            shadows: std::array::from_fn(|n| see(Key::Shadow(n))),
            drains: controller.drains,
        }
    }

    /// The rest of a ledger as this one writes it.
    fn by_writer(&self, rest: Id, writer: String) -> Id {
        let written = self.rests.get(rest).map(|rest| UpdateLedgerSpec {
            writer,
            ..(*rest).clone()
        });
        written.map_or(0, |rest| self.rests.id(rest))
    }

    /// Whether all that a controller knows is at least as new as the ledger that it knows.
    fn is_in_step(&self, state: &State, c: usize) -> bool {
        let controller = &state.controllers[c];
        let ledger = controller.ledger.unwrap_or(state.ledger);
        let by_itself = |rest: Arc<UpdateLedgerSpec>| rest.writer == writer(c, controller);
        controller.caught_up || self.rests.get(ledger.rest).is_some_and(by_itself)
    }

    fn round(&self, seen: Seen) -> Arc<Round> {
        self.rounds.get(seen, || {
            let round = self.decide(&seen);
            Arc::new(round.unwrap_or_else(|error| Round {
                broken: Some(format!("the model cannot follow: {error:#}")),
                ..Round::default()
            }))
        })
    }

    fn snapshot(&self, seen: &Seen) -> anyhow::Result<Snapshot> {
        let mut snapshot = Snapshot {
            ledger: self
                .ledger_spec(&seen.ledger)
                .map(|spec| Arc::new(objects::ledger(spec))),
            clock_skew: Some(chrono::TimeDelta::zero()),
            ..Snapshot::default()
        };
        for plan in seen.plans.iter().filter_map(|id| self.plans.get(*id)) {
            snapshot.plans.insert(plan.name_any(), plan);
        }
        for n in 0..self.config.nodes {
            let (Some(node), Some(shadow)) =
                (self.nodes.get(seen.nodes[n]), self.shadows.get(seen.shadows[n]))
            else {
                continue;
            };
            let pod = objects::agent_pod(n, objects::is_ready(&node))?;
            snapshot.own_pods.insert(pod.name_any(), pod);
            let drain = &seen.drains[n];
            if let (Some(cordon), Some(left)) = (disruption(&node), drain.found.checked_sub(1))
                && self.cordon_id(&cordon) == drain.cordon
            {
                let blocked = (self.config.blocked[n] && left > 0).then(|| Blocked {
                    pod: format!("web/web-{n}-0"),
                    budget: Some("web".to_owned()),
                    message: String::new(),
                });
                let facts = DrainFacts {
                    left: left.into(),
                    own: 0,
                    blocked,
                };
                let drained = Drained {
                    cordoned_at: cordon.cordoned_at,
                    facts,
                };
                snapshot.drains.insert(node_name(n), drained);
            }
            snapshot.nodes.insert(node_name(n), node);
            snapshot.shadows.insert(shadow_name(&node_name(n)), shadow);
        }
        Ok(snapshot)
    }

    /// Tells cordons apart as their time does, which may look the same here.
    fn cordon_id(&self, cordon: &api::shadow::Disruption) -> Id {
        let api::shadow::Disruption {
            plan_uid,
            run,
            attempt,
            ..
        } = cordon;
        self.cordons.id(format!("{plan_uid}/{run}/{attempt}"))
    }

    fn decide(&self, seen: &Seen) -> anyhow::Result<Round> {
        let snapshot = self.snapshot(seen)?;
        let limits = &self.config.limits;
        let settings = Settings {
            retry_backoff: TICK * i32::from(limits.backoff),
            release_wait: TICK * i32::from(limits.release_wait),
            max_unavailable: None,
            stage_ahead: 0,
        };
        let world = observe::world(&snapshot, settings);
        let decisions = planner::plan(at(seen.now), &world);
        let mut round = Round {
            broken: oracle::decided(&world, &decisions).err(),
            ..Round::default()
        };
        let Decisions {
            ledger,
            actions,
            unexplained,
            drains,
            ..
        } = decisions;
        if let Some(change) = ledger.or_else(|| finalizers::ledger_first(&actions, &snapshot)) {
            let nodes = released(snapshot.ledger.as_deref(), &change.spec);
            let keys = nodes.iter().filter_map(|key| match key {
                patch::Key::Node(name) => (0..NODES).find(|n| node_name(*n) == *name).map(Key::Node),
                patch::Key::Plan(_) | patch::Key::Shadow(_) => None,
            });
            round.waits_for = keys.collect();
            let ledger = written_over(snapshot.ledger.as_deref(), change.spec);
            round.swap = Some(Swap {
                sent: true,
                ledger: self.ledger_ids(&ledger.spec, seen.now),
                fenced: ledger.metadata.resource_version.as_deref() == Some(VERSION),
                grants: change.by_fresh_nodes,
                ..Swap::default()
            });
            return Ok(round);
        }
        for action in actions.into_iter().chain(finalizers::under_way(&snapshot)) {
            let doubtful = is_doubtful(&action, &unexplained, &snapshot);
            if let Some(write) = Write::of(action, &snapshot) {
                let (key, id) = self.written(seen, &write)?;
                round.writes.push(Planned { key, id, doubtful });
            }
        }
        let by_name: HashMap<String, usize> = (0..NODES).map(|n| (node_name(n), n)).collect();
        for order in drains {
            let n = by_name.get(&order.node).copied().unwrap_or_default();
            let cordon = self.nodes.get(seen.nodes[n]).and_then(|node| disruption(&node));
            round.drains[n] = cordon.map_or(0, |cordon| self.cordon_id(&cordon));
        }
        Ok(round)
    }

    /// What a write makes of its object.
    fn written(&self, seen: &Seen, write: &Write) -> anyhow::Result<(Key, Id)> {
        let fenced = |patched: &Patched, version: Option<&str>| {
            let named = patched.patch["metadata"]["resourceVersion"].as_str() == version;
            anyhow::ensure!(named, "a write of {} names no version", patched.target.name);
            Ok(())
        };
        let index =
            |name: &str, of: fn(usize) -> String| (0..NODES.max(PLANS)).find(|i| of(*i) == name).unwrap_or(0);
        let gone = || anyhow::anyhow!("a write of an object that is not seen");
        match write {
            Write::Hold(patched) | Write::Release(patched) => {
                let p = index(&patched.target.name, plan_name);
                let plan = self.plans.get(seen.plans[p]).ok_or_else(gone)?;
                fenced(patched, plan.metadata.resource_version.as_deref())?;
                let after = objects::next_version(objects::patched(&*plan, &patched.patch)?);
                Ok((Key::Plan(p), self.plans.id(after)))
            }
            Write::Node(patched) => {
                fenced(patched, Some(VERSION))?;
                let n = index(&patched.target.name, node_name);
                let node = self.nodes.get(seen.nodes[n]).ok_or_else(gone)?;
                let after = self
                    .normal
                    .node(objects::patched(&*node, &patched.patch)?, seen.now);
                Ok((Key::Node(n), self.nodes.id(after)))
            }
            Write::Shadow(shadow) => {
                let named = shadow.metadata.resource_version.as_deref() == Some(VERSION);
                anyhow::ensure!(named, "a write of {} names no version", shadow.name_any());
                let n = index(&shadow.name_any(), |n| shadow_name(&node_name(n)));
                let after = self.normal.shadow((**shadow).clone(), seen.now);
                Ok((Key::Shadow(n), self.shadows.id(after)))
            }
            Write::Status(..) => anyhow::bail!("the planner's statuses are not written here"),
        }
    }

    pub(crate) fn controller_steps(&self, state: &State, c: usize, next: &mut Next) {
        let (who, controller) = (c as u8, &state.controllers[c]);
        self.watch_steps(state, c, next);
        if controller.swap.sent {
            next.push(state, Step::LedgerAnswered(who), self.land_ledger(state, c));
        } else {
            self.round_steps(state, c, next);
        }
        for (w, write) in controller.writes.iter().enumerate() {
            let Some(key) = Key::of(write.key) else { continue };
            next.push(state, Step::Answered(who, key), self.land(state, c, w, true));
            if self.may_go_wrong(state, Fault::WriteLost) {
                let mut lost = *state;
                lost.faults[Fault::WriteLost as usize] += 1;
                if c < self.config.lagging && write.unchanged {
                    next.push(
                        state,
                        Step::Goes(Fault::WriteLost, who, 0),
                        self.land(&lost, c, w, false),
                    );
                }
                lost.controllers[c].writes[w] = state::Write::default();
                next.push(state, Step::Goes(Fault::WriteLost, who, 1), Ok(lost));
            }
        }
        for n in 0..self.config.nodes {
            let drain = &controller.drains[n];
            if drain.cordon == 0 {
                continue;
            }
            if state.nodes[n].pods > 0 && !self.config.blocked[n] {
                let mut after = *state;
                after.nodes[n].pods -= 1;
                next.push(state, Step::Evicts(who, n as u8), Ok(after));
            }
            let mut after = *state;
            after.controllers[c].drains[n].found = state.nodes[n].pods + 1;
            next.push(state, Step::ReadsPods(who, n as u8), Ok(after));
        }
        if self.may_go_wrong(state, Fault::ControllerCrash) {
            next.push(
                state,
                Step::Goes(Fault::ControllerCrash, who, 0),
                Ok(self.crashed(state, c, false)),
            );
            next.push(
                state,
                Step::Goes(Fault::ControllerCrash, who, 1),
                Ok(self.crashed(state, c, true)),
            );
        }
    }

    fn watch_steps(&self, state: &State, c: usize, next: &mut Next) {
        let keys = (0..PLANS)
            .map(Key::Plan)
            .chain((0..NODES).flat_map(|n| [Key::Node(n), Key::Shadow(n)]));
        for key in keys.filter(|key| state.controllers[c].known(*key) != 0) {
            let mut after = *state;
            *after.controllers[c].known_mut(key) = 0;
            next.push(state, Step::Sees(c as u8, key), Ok(after));
        }
        if state.controllers[c].ledger.is_some() {
            let mut after = *state;
            after.controllers[c].ledger = None;
            after.controllers[c].caught_up = false;
            next.push(state, Step::SeesLedger(c as u8), Ok(after));
        }
    }

    fn round_steps(&self, state: &State, c: usize, next: &mut Next) {
        let (who, controller) = (c as u8, &state.controllers[c]);
        if !self.is_in_step(state, c) {
            let mut after = *state;
            let own = &mut after.controllers[c];
            own.ledger = None;
            own.plans = [0; PLANS];
            own.nodes = [0; NODES];
            own.shadows = [0; NODES];
            own.fresh = c < self.config.lagging;
            own.caught_up = true;
            return next.push(state, Step::CatchesUp(who), Ok(after));
        }
        let round = self.round(self.seen(state, c));
        if let Some(broken) = &round.broken {
            return next.push(state, Step::SendsLedger(who), Err(broken.clone()));
        }
        let mut after = *state;
        let own = &mut after.controllers[c];
        if let Some(swap) = &round.swap {
            let waits = round.waits_for.iter().any(|key| controller.is_writing(*key));
            if waits {
                return;
            }
            if swap.grants && c < self.config.lagging && !controller.fresh {
                own.fresh = true;
                own.nodes = [0; NODES];
                return next.push(state, Step::Lists(who), Ok(after));
            }
            own.swap = Swap {
                unchanged: controller.ledger.is_none(),
                ..*swap
            };
            own.swap.ledger.rest = self.by_writer(swap.ledger.rest, writer(c, controller));
            let after = if self.config.in_flight == 0 {
                self.land_ledger(&after, c)
            } else {
                Ok(after)
            };
            return next.push(state, Step::SendsLedger(who), after);
        }
        for (n, cordon) in round.drains.iter().enumerate() {
            if own.drains[n].cordon != *cordon {
                own.drains[n] = Drain {
                    cordon: *cordon,
                    found: 0,
                };
            }
        }
        next.push(state, Step::Drains(who), Ok(after));
        for Planned { key, id, doubtful } in &round.writes {
            let mut after = *state;
            let own = &mut after.controllers[c];
            // Where the ledger is not the same any more it is seen first, and decided on again.
            if own.is_writing(*key) || *doubtful && own.ledger.is_some() {
                continue;
            }
            let Some(free) = (0..self.config.in_flight.max(1)).find(|w| own.writes[*w].key == 0) else {
                continue;
            };
            own.writes[free] = state::Write {
                key: key.number(),
                id: *id,
                unchanged: controller.known(*key) == 0,
                aged: false,
            };
            let after = if self.config.in_flight == 0 {
                self.land(&after, c, free, true)
            } else {
                Ok(after)
            };
            next.push(state, Step::Sends(who, *key), after);
        }
    }

    /// The ledger arrives, and is written if it is still at its version.
    fn land_ledger(&self, state: &State, c: usize) -> Result<State, String> {
        let mut after = *state;
        let swap = std::mem::take(&mut after.controllers[c].swap);
        self.write_ledger(&mut after, &swap, Some(c))?;
        // Where it was refused it is read again.
        after.controllers[c].ledger = None;
        after.controllers[c].caught_up = false;
        Ok(after)
    }

    fn write_ledger(&self, after: &mut State, swap: &Swap, writer: Option<usize>) -> Result<(), String> {
        if swap.unchanged || !swap.fenced {
            oracle::ledger_written(self, after, &swap.ledger)?;
            after.write_ledger(swap.ledger, self.config.lag(), writer);
        }
        Ok(())
    }

    /// A write arrives, and is done if its object is still at its version.
    fn land(&self, state: &State, c: usize, w: usize, answered: bool) -> Result<State, String> {
        let mut after = *state;
        let write = std::mem::take(&mut after.controllers[c].writes[w]);
        self.write(&mut after, &write, Some(c).filter(|_| answered))?;
        if answered && let Some(key) = Key::of(write.key) {
            *after.controllers[c].known_mut(key) = 0;
        }
        Ok(after)
    }

    fn write(&self, after: &mut State, write: &state::Write, writer: Option<usize>) -> Result<(), String> {
        let Some(key) = Key::of(write.key).filter(|_| write.unchanged) else {
            return Ok(());
        };
        let mut id = write.id;
        match key {
            Key::Plan(_) => {
                let ended = self.plans.get(id).is_some_and(|plan| {
                    plan.metadata.deletion_timestamp.is_some() && plan.finalizers().is_empty()
                });
                if ended {
                    id = 0;
                }
            }
            Key::Node(n) => {
                oracle::node_written(self, after, n, write)?;
                let cordoned = self.nodes.get(id).is_some_and(|node| objects::is_cordoned(&node));
                if !cordoned {
                    after.nodes[n].pods = 1;
                }
                self.remember(after, n, |ghost| ghost.recent |= cordoned);
            }
            Key::Shadow(n) => oracle::shadow_written(self, after, n, write)?,
        }
        after.write(key, id, self.config.lag(), writer);
        Ok(())
    }

    /// A controller ends and starts again: it lists everything, and what it has sent is gone, or goes on its way.
    fn crashed(&self, state: &State, c: usize, late: bool) -> State {
        let mut after = *state;
        after.faults[Fault::ControllerCrash as usize] += 1;
        let ended = std::mem::take(&mut after.controllers[c]);
        after.controllers[c].term = ended.term + 1;
        if late {
            for write in ended.writes.into_iter().filter(|write| write.key != 0) {
                if let Some(free) = after.late.iter_mut().find(|write| write.key == 0) {
                    *free = write;
                }
            }
            if !after.late_swap.sent {
                after.late_swap = ended.swap;
            }
        }
        after
    }

    /// What a controller that has ended has sent.
    pub(crate) fn late_steps(&self, state: &State, next: &mut Next) {
        for w in 0..state.late.len() {
            let mut after = *state;
            let write = std::mem::take(&mut after.late[w]);
            if write.key != 0 {
                let written = self.write(&mut after, &write, None).map(|()| after);
                next.push(state, Step::LateWrite(w as u8), written);
            }
        }
        let mut after = *state;
        let swap = std::mem::take(&mut after.late_swap);
        if swap.sent {
            let written = self.write_ledger(&mut after, &swap, None).map(|()| after);
            next.push(state, Step::LateLedger, written);
        }
    }
}

/// How a controller signs the ledger.
fn writer(c: usize, controller: &Controller) -> String {
    format!("c{c}-{}", controller.term)
}

/// Whether what an action overwrites may be newer than the ledger that it was decided on.
fn is_doubtful(action: &Action, unexplained: &BTreeSet<String>, snapshot: &Snapshot) -> bool {
    match action {
        Action::Cordon { node, .. } | Action::Uncordon { node, .. } | Action::SetShadow { node, .. } => {
            unexplained.contains(node)
        }
        Action::RemoveFinalizer { plan } => !finalizers::is_recorded(plan, snapshot),
        Action::AddFinalizer { .. } => false,
    }
}
