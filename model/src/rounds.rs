//! What a controller sees, and what the real planner makes of it.
//!
//! The order of what follows is that of `controller::run`: the ledger first and nothing else beside it, the ledger says first
//! which finalizer goes, and what the view does not explain only over a ledger that is still the same.

use std::{collections::HashMap, sync::Arc};

use api::{ledger::UpdateLedgerSpec, names::shadow_name, quantity::IntOrPercent};
use controller::{
    finalizers,
    ledger::{released, written_over},
    observe,
    patch::{self, Patched, Write},
    run::is_doubtful,
    view::{Drained, Snapshot},
};
use kube_core::ResourceExt as _;
use planner::{
    decisions::Decisions,
    world::{Blocked, DrainFacts, Settings},
};

use crate::{
    model::Model,
    objects::{self, VERSION, disruption, node_name, plan_name},
    oracle,
    state::{self, Drain, Id, Key, NODES, PLANS, State, Swap},
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
pub struct Planned {
    pub key: Key,
    /// What it makes of the object.
    pub id: Id,
    /// Whether the ledger is compared first.
    pub doubtful: bool,
}

/// What it decides on that.
#[derive(Debug, Default)]
pub struct Round {
    /// The ledger that is to be written; then nothing else is done.
    pub swap: Option<Swap>,
    /// The writes that must have ended before.
    pub waits_for: Vec<Key>,
    pub writes: Vec<Planned>,
    /// The drains that are to run, by node: for which cordon.
    pub drains: [Id; NODES],
    /// A promise that the decision itself breaks.
    pub broken: Option<String>,
}

impl Model {
    /// What a controller sees.
    pub(crate) fn seen(&self, state: &State, c: usize) -> Seen {
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
    pub(crate) fn by_writer(&self, rest: Id, writer: String) -> Id {
        let written = self.rests.get(rest).map(|rest| UpdateLedgerSpec {
            writer,
            ..(*rest).clone()
        });
        written.map_or(0, |rest| self.rests.id(rest))
    }

    pub(crate) fn round(&self, seen: Seen) -> Arc<Round> {
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
            max_unavailable: self.config.install.map(IntOrPercent::Int),
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
}
