//! The virtual cluster: asks the planner, applies what it says, and moves time from event to event.

use std::collections::{BTreeMap, BTreeSet};

use api::{
    ledger::UpdateLedgerSpec,
    plan::{UpdatePlanSpec, UpdatePlanStatus},
};
use chrono::{DateTime, TimeDelta, Utc};

use super::{
    faults::Timing,
    node::{Did, VirtualNode},
    people::Happening,
};
use crate::{
    decisions::{Action, Decisions, Event, LedgerChange},
    plan,
    world::{NodeFacts, PlanFacts, World},
};

/// A controller, an apiserver and nodes, with a clock that only this moves.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The virtual time.
    pub now: DateTime<Utc>,
    /// What the planner is told, and what is stored.
    pub world: World,
    /// What it is not told, by node UID.
    pub nodes: BTreeMap<String, VirtualNode>,
    /// How long the steps of nodes take that are still to come.
    pub timing: Timing,
    /// What chance begins with.
    pub seed: u64,
    /// The drains that run, by node UID.
    pub drains: BTreeSet<String>,
    /// The nodes and shadows as the controller's watches have brought them, where those stall. Else what is stored.
    pub watched: Option<Vec<NodeFacts>>,
    /// The last decisions.
    pub last: Decisions,
    /// The Events published so far.
    pub events: Vec<Event>,
    /// Writes to the API so far.
    pub writes: usize,
    /// Whether only the first write of each answer gets through, as if the controller crashed after each.
    pub one_write_a_round: bool,
    nodes_born: u32,
    plans_born: BTreeMap<String, u32>,
}

/// Sees everything that is written, just before it is.
pub trait Observer {
    /// The planner has answered.
    fn decided(&mut self, _cluster: &Cluster, _decisions: &Decisions) {}
    /// The ledger is about to be written.
    fn ledger(&mut self, _cluster: &Cluster, _change: &LedgerChange) {}
    /// A node, a shadow or a plan is about to be written.
    fn action(&mut self, _cluster: &Cluster, _action: &Action) {}
    /// A plan's status is about to be written.
    fn status(&mut self, _cluster: &Cluster, _plan: &PlanFacts, _new: &UpdatePlanStatus) {}
    /// A reboot permit was given to this node.
    fn permitted(&mut self, _cluster: &Cluster, _node: &NodeFacts) {}
    /// Nothing is left to do at this instant.
    fn settled(&mut self, _cluster: &Cluster) {}
    /// Something is about to happen from outside; a look is taken.
    fn happens(&mut self, _cluster: &Cluster, _what: &Happening) {}
    /// Time is about to move on.
    fn moves_on(&mut self, _cluster: &Cluster, _to: DateTime<Utc>) {}
}

/// Nobody watches.
impl Observer for () {}

/// The planner wants something written again and again without time passing. It should not be able to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at {at} the planner goes in circles")]
pub struct InCircles {
    /// When.
    pub at: DateTime<Utc>,
}

/// How many rounds without time may pass before the planner is going in circles, and one more for each node.
const ROUNDS: usize = 60;

impl Cluster {
    /// An empty cluster with an empty ledger and a clock that is right.
    #[must_use]
    pub fn new(now: DateTime<Utc>) -> Self {
        let world = World {
            ledger: Some(UpdateLedgerSpec::default()),
            clock_skew: Some(TimeDelta::zero()),
            ..World::default()
        };
        Self {
            now,
            world,
            nodes: BTreeMap::new(),
            timing: Timing::default(),
            seed: 0,
            drains: BTreeSet::new(),
            watched: None,
            last: Decisions::default(),
            events: Vec::new(),
            writes: 0,
            one_write_a_round: false,
            nodes_born: 0,
            plans_born: BTreeMap::new(),
        }
    }

    /// Adds a node that joins now: it is Ready, and its agent has reported.
    pub fn add_node(&mut self, name: &str, version: &str, labels: &[(&str, &str)]) -> &mut VirtualNode {
        self.nodes_born += 1;
        let uid = format!("uid-{name}-{}", self.nodes_born);
        let (hidden, mut facts) = VirtualNode::new(name, &uid, version, self.now, self.timing, self.seed);
        facts.labels.extend(
            labels
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
        );
        self.world.nodes.push(facts);
        self.nodes.entry(uid).or_insert(hidden)
    }

    /// Adds a plan that is created now.
    pub fn add_plan(&mut self, name: &str, spec: UpdatePlanSpec) {
        let born = self.plans_born.entry(name.to_owned()).or_default();
        *born += 1;
        let uid = match born {
            1 => format!("uid-{name}"),
            again => format!("uid-{name}-{again}"),
        };
        self.world.plans.push(PlanFacts {
            name: name.to_owned(),
            uid,
            generation: 1,
            created: self.now + TimeDelta::milliseconds(self.world.plans.len() as i64),
            deleting: false,
            finalizer: false,
            annotations: BTreeMap::new(),
            spec,
            status: UpdatePlanStatus::default(),
        });
    }

    /// The plan of this name.
    #[must_use]
    pub fn plan(&self, name: &str) -> Option<&PlanFacts> {
        self.world.plans.iter().find(|plan| plan.name == name)
    }

    pub(super) fn plan_mut(&mut self, name: &str) -> Option<&mut PlanFacts> {
        self.world.plans.iter_mut().find(|plan| plan.name == name)
    }

    /// The node of this name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&NodeFacts> {
        self.world.nodes.iter().find(|node| node.name == name)
    }

    pub(super) fn node_mut(&mut self, name: &str) -> Option<&mut NodeFacts> {
        self.world.nodes.iter_mut().find(|node| node.name == name)
    }

    /// Plans and applies until there is nothing left to do at this instant.
    ///
    /// # Errors
    /// Where that does not end.
    pub fn settle(&mut self, observer: &mut dyn Observer) -> Result<(), InCircles> {
        for _ in 0..ROUNDS + self.nodes.len() {
            if !self.step(observer) {
                observer.settled(self);
                return Ok(());
            }
        }
        Err(InCircles { at: self.now })
    }

    /// One round: what is decided now, applied. False: nothing was to be done.
    pub fn step(&mut self, observer: &mut dyn Observer) -> bool {
        self.look();
        let watched = self.watched.as_ref().map(|nodes| World {
            nodes: nodes.clone(),
            ..self.world.clone()
        });
        let decisions = plan(self.now, watched.as_ref().unwrap_or(&self.world));
        let by_fresh_nodes = decisions
            .ledger
            .as_ref()
            .is_some_and(|change| change.by_fresh_nodes);
        if by_fresh_nodes
            && self
                .watched
                .as_ref()
                .is_some_and(|nodes| *nodes != self.world.nodes)
        {
            // They are read, and it is decided again.
            self.watched = Some(self.world.nodes.clone());
            return true;
        }
        observer.decided(self, &decisions);
        let applied = self.apply(&decisions, observer);
        self.last = decisions;
        applied
    }

    /// Whether the controller knows the node and its shadow as they are.
    pub(super) fn knows(&self, node: &str) -> bool {
        self.watched.as_ref().is_none_or(|watched| {
            let known = watched.iter().find(|known| known.name == node);
            known == self.node(node)
        })
    }

    /// Every agent looks at its instruction.
    fn look(&mut self) {
        for facts in &mut self.world.nodes {
            if let Some(node) = self.nodes.get_mut(&facts.uid) {
                node.react(self.now, facts);
            }
        }
    }

    /// When something happens next: a node does something, or the planner wants to look again.
    #[must_use]
    pub fn next(&self) -> Option<DateTime<Utc>> {
        let nodes = self.nodes.values().filter_map(VirtualNode::next);
        nodes.chain(self.last.look_again).min()
    }

    /// Moves to `to`, through all that happens until then.
    ///
    /// # Errors
    /// Where the planner goes in circles.
    pub fn run_to(&mut self, to: DateTime<Utc>, observer: &mut dyn Observer) -> Result<(), InCircles> {
        self.run_before(to, observer)?;
        while let Some(next) = self.next().filter(|next| *next <= to) {
            self.advance(next, observer)?;
        }
        if self.now < to {
            self.advance(to, observer)?;
        }
        Ok(())
    }

    /// Goes through all that happens before `to`.
    pub(super) fn run_before(
        &mut self,
        to: DateTime<Utc>,
        observer: &mut dyn Observer,
    ) -> Result<(), InCircles> {
        self.settle(observer)?;
        while let Some(next) = self.next().filter(|next| *next < to) {
            self.advance(next, observer)?;
        }
        Ok(())
    }

    /// Moves to `to`, before which nothing happens, and settles.
    ///
    /// # Errors
    /// Where the planner goes in circles.
    pub fn advance(&mut self, to: DateTime<Utc>, observer: &mut dyn Observer) -> Result<(), InCircles> {
        self.move_to(to, observer);
        self.settle(observer)
    }

    /// Moves to `to`, before which nothing happens: nodes do what is due, and nothing is decided yet.
    pub(super) fn move_to(&mut self, to: DateTime<Utc>, observer: &mut dyn Observer) {
        observer.moves_on(self, to);
        self.now = self.now.max(to);
        for i in 0..self.world.nodes.len() {
            let facts = &mut self.world.nodes[i];
            let Some(node) = self.nodes.get_mut(&facts.uid) else {
                continue;
            };
            if let Did::GotPermit = node.fire(self.now, facts, &mut self.world.ledger) {
                observer.permitted(self, &self.world.nodes[i]);
            }
        }
    }
}
