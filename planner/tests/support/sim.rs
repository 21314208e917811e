//! The virtual cluster: applies decisions as their contract says, and moves time from event to event.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use api::{
    ledger::UpdateLedgerSpec,
    plan::{Phase, UpdatePlanSpec, UpdatePlanStatus},
    shadow::NodeState,
    verdict::Verdict,
};
use chrono::{DateTime, TimeDelta, Utc};
use planner::{
    decisions::{Action, Decisions, Event},
    plan,
    world::{NodeFacts, PlanFacts, World},
};

use super::{
    START,
    check::Checker,
    faults::Timing,
    node::{Did, VirtualNode},
    time,
};

/// A controller, an apiserver and nodes, with a clock that only this moves.
#[derive(Clone)]
pub struct Sim {
    pub now: DateTime<Utc>,
    /// What the planner is told, and what is stored.
    pub world: World,
    /// What it is not told, by node UID.
    pub nodes: BTreeMap<String, VirtualNode>,
    pub timing: Timing,
    /// The drains that run, by node UID.
    pub drains: BTreeSet<String>,
    pub checker: Checker,
    /// The last decisions.
    pub last: Decisions,
    pub events: Vec<Event>,
    /// Writes to the API so far.
    pub writes: usize,
    /// The latest of what happened, for failures.
    pub history: VecDeque<String>,
    /// Whether only the first write of each answer gets through, as if the controller crashed after each.
    pub one_write_a_round: bool,
    pub(super) born: u32,
}

/// How many events may pass until what a test waits for.
const STEPS: usize = 5_000;

/// How many rounds without time may pass before the planner is going in circles.
const ROUNDS: usize = 60;

impl Default for Sim {
    fn default() -> Self {
        Self::new()
    }
}

impl Sim {
    /// An empty cluster with an empty ledger and a clock that is right.
    pub fn new() -> Self {
        let world = World {
            ledger: Some(UpdateLedgerSpec::default()),
            clock_skew: Some(TimeDelta::zero()),
            ..World::default()
        };
        Self {
            now: time(START),
            world,
            nodes: BTreeMap::new(),
            timing: Timing::default(),
            drains: BTreeSet::new(),
            checker: Checker::default(),
            last: Decisions::default(),
            events: Vec::new(),
            writes: 0,
            history: VecDeque::new(),
            one_write_a_round: false,
            born: 0,
        }
    }

    /// `count` more nodes, `n01` and so on, Ready, on version 1.20.3.
    pub fn nodes(mut self, count: usize) -> Self {
        for _ in 0..count {
            let name = format!("n{:02}", self.world.nodes.len() + 1);
            self.add_node(&name, "1.20.3", &[]);
        }
        self
    }

    /// One more node, with labels.
    pub fn node_with(mut self, name: &str, version: &str, labels: &[(&str, &str)]) -> Self {
        self.add_node(name, version, labels);
        self
    }

    /// The controller crashes after every write.
    pub fn one_write_a_round(mut self) -> Self {
        self.one_write_a_round = true;
        self
    }

    /// A plan, its spec in YAML as a user writes it. Without them it has targetVersion 1.21.0 and takes every node.
    pub fn plan(mut self, name: &str, spec: &str) -> Self {
        self.apply_plan(name, spec);
        self
    }

    /// Adds a node that joins now.
    pub fn add_node(&mut self, name: &str, version: &str, labels: &[(&str, &str)]) {
        self.born += 1;
        let uid = format!("uid-{name}-{}", self.born);
        let (hidden, mut facts) = VirtualNode::new(name, &uid, version, self.now, self.timing);
        facts.labels.extend(
            labels
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
        );
        self.nodes.insert(uid, hidden);
        self.world.nodes.push(facts);
    }

    /// Adds a plan that is created now.
    pub fn apply_plan(&mut self, name: &str, spec: &str) {
        self.world.plans.push(PlanFacts {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            generation: 1,
            created: self.now + TimeDelta::milliseconds(self.world.plans.len() as i64),
            deleting: false,
            finalizer: false,
            spec: read_spec(spec),
            status: UpdatePlanStatus::default(),
        });
    }

    pub fn plan_facts(&self, name: &str) -> &PlanFacts {
        self.world
            .plans
            .iter()
            .find(|plan| plan.name == name)
            .unwrap_or_else(|| panic!("no plan {name}"))
    }

    pub fn status(&self, plan: &str) -> &UpdatePlanStatus {
        &self.plan_facts(plan).status
    }

    pub fn phase(&self, plan: &str) -> Option<Phase> {
        self.status(plan).phase
    }

    pub fn facts(&self, name: &str) -> &NodeFacts {
        self.world
            .nodes
            .iter()
            .find(|node| node.name == name)
            .unwrap_or_else(|| panic!("no node {name}"))
    }

    pub fn hidden(&self, name: &str) -> &VirtualNode {
        &self.nodes[&self.facts(name).uid]
    }

    /// The granted nodes, by name, in the order of their grants.
    pub fn granted(&self) -> Vec<String> {
        let mut grants: Vec<_> = self
            .ledger()
            .grants
            .values()
            .map(|g| (g.granted_at, g.node.clone()))
            .collect();
        grants.sort();
        grants.into_iter().map(|(_, node)| node).collect()
    }

    /// Why a node does not move, by its owner's word.
    pub fn verdict(&self, node: &str) -> Verdict {
        let mut found = self.last.verdicts.iter().filter(|v| v.node == node);
        let all: Vec<&Verdict> = found.by_ref().map(|v| &v.verdict).collect();
        let own = all
            .iter()
            .find(|verdict| !matches!(verdict, Verdict::OtherPlan { .. }));
        (*own.unwrap_or_else(|| panic!("{node} has no verdict: {all:?}\n{}", self.story()))).clone()
    }

    /// The reasons of all verdicts, each once.
    pub fn reasons(&self) -> BTreeSet<&'static str> {
        self.last.verdicts.iter().map(|v| v.verdict.reason()).collect()
    }

    /// The end of every story: nothing of ours is left anywhere, and an idle cluster causes no writes.
    pub fn ends_well(&mut self) {
        self.run_for(TimeDelta::minutes(5));
        let writes = self.writes;
        self.run_for(TimeDelta::days(3));
        assert_eq!(
            self.writes,
            writes,
            "L7: an idle cluster is written to\n{}",
            self.story()
        );
        assert!(
            self.ledger().grants.is_empty(),
            "L1: grants are left\n{}",
            self.story()
        );
        for plan in &self.world.plans {
            assert!(
                !plan.finalizer && !plan.deleting,
                "S12: {}\n{}",
                plan.name,
                self.story()
            );
        }
        for facts in &self.world.nodes {
            let hidden = &self.nodes[&facts.uid];
            let who = format!("{}\n{}", facts.name, self.story());
            assert!(
                facts.disruption.is_none() && facts.annotations.is_empty(),
                "L1: our annotation is left on {who}"
            );
            let by_admin = self.checker.cordoned_by_admin.contains(&facts.uid);
            assert_eq!(facts.unschedulable, by_admin, "L1: cordon of {who}");
            if let Some(shadow) = facts.shadow.as_ref().filter(|_| facts.ready && facts.agent.ready) {
                assert_eq!(shadow.spec.state, NodeState::Idle, "L1: {who}");
                assert!(
                    !hidden.settings_changed && !hidden.activated,
                    "L1: left changed: {who}"
                );
            }
        }
    }

    pub fn ledger(&self) -> &UpdateLedgerSpec {
        self.world.ledger.as_ref().expect("the ledger is there")
    }

    /// Plans and applies until there is nothing left to do at this instant.
    pub fn settle(&mut self) {
        let mut done: Vec<Action> = Vec::new();
        for _ in 0..ROUNDS {
            self.look();
            let decisions = self.decide();
            let again: Vec<_> = decisions
                .actions
                .iter()
                .filter(|action| done.contains(action))
                .collect();
            assert!(
                again.is_empty(),
                "decided again what is done already: {again:?}\n{}",
                self.story()
            );
            let first = if self.one_write_a_round { 1 } else { usize::MAX };
            done.extend(decisions.actions.iter().take(first).cloned());
            let applied = self.apply(&decisions);
            self.last = decisions;
            if !applied {
                self.checker.settled(self.now, &self.world, &self.last);
                return;
            }
        }
        panic!("the planner goes in circles: {:#?}\n{}", self.last, self.story());
    }

    /// One round: what is decided now, applied. False: nothing was to be done.
    pub fn step(&mut self) -> bool {
        self.look();
        let decisions = self.decide();
        let applied = self.apply(&decisions);
        self.last = decisions;
        applied
    }

    /// What is decided now; the same whatever the order in which things are listed.
    pub fn decide(&self) -> Decisions {
        let decisions = plan(self.now, &self.world);
        let mut shuffled = self.world.clone();
        shuffled.plans.reverse();
        shuffled.nodes.reverse();
        let middle = shuffled.nodes.len() / 3;
        shuffled.nodes.rotate_left(middle);
        let other = plan(self.now, &shuffled);
        assert_eq!(
            decisions,
            other,
            "the order of the world matters\n{}",
            self.story()
        );
        decisions
    }

    /// Every agent looks at its instruction.
    fn look(&mut self) {
        for facts in &self.world.nodes {
            if let Some(node) = self.nodes.get_mut(&facts.uid) {
                node.react(self.now, facts);
            }
        }
    }

    pub fn plan_mut(&mut self, name: &str) -> &mut PlanFacts {
        self.world
            .plans
            .iter_mut()
            .find(|plan| plan.name == name)
            .unwrap_or_else(|| panic!("no plan {name}"))
    }

    pub fn facts_mut(&mut self, name: &str) -> &mut NodeFacts {
        self.world
            .nodes
            .iter_mut()
            .find(|node| node.name == name)
            .unwrap_or_else(|| panic!("no node {name}"))
    }

    /// When something happens next: a node does something, or the planner wants to look again.
    pub fn next(&self) -> Option<DateTime<Utc>> {
        let nodes = self.nodes.values().filter_map(VirtualNode::next);
        nodes.chain(self.last.look_again).min()
    }

    /// Moves to `to`, through all that happens until then.
    pub fn run_to(&mut self, to: DateTime<Utc>) {
        self.settle();
        while let Some(next) = self.next().filter(|next| *next <= to) {
            self.advance(next);
        }
        if self.now < to {
            self.advance(to);
        }
    }

    pub fn run_for(&mut self, time: TimeDelta) {
        self.run_to(self.now + time);
    }

    /// Runs until `condition` holds; it must within ten days.
    pub fn run_until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let limit = self.now + TimeDelta::days(10);
        self.settle();
        for step in 0.. {
            if condition(self) {
                return;
            }
            let next = self.next().filter(|next| *next <= limit && step < STEPS);
            let Some(next) = next else {
                panic!("it never comes to this: {what}\n{}", self.story())
            };
            self.advance(next);
        }
    }

    pub fn run_until_phase(&mut self, plan: &str, phase: Phase) {
        self.run_until(&format!("{plan} is {phase:?}"), |sim| {
            sim.phase(plan) == Some(phase)
        });
    }

    fn advance(&mut self, to: DateTime<Utc>) {
        assert!(to >= self.now, "time goes one way: {} to {to}", self.now);
        self.nothing_is_due_before(to);
        self.now = to;
        for facts in &mut self.world.nodes {
            let Some(node) = self.nodes.get_mut(&facts.uid) else {
                continue;
            };
            let plans = &self.world.plans;
            if let Did::GotPermit = node.fire(to, facts, &mut self.world.ledger) {
                self.checker.permit(to, plans, facts, self.world.ledger.as_ref());
            }
        }
        self.settle();
    }

    /// Looked at between two events, there is nothing to do: `look_again` leaves nothing out.
    fn nothing_is_due_before(&self, to: DateTime<Utc>) {
        let gap = to - self.now;
        if gap <= TimeDelta::milliseconds(2) {
            return;
        }
        for between in [self.now + gap / 2, to - TimeDelta::milliseconds(1)] {
            let decisions = plan(between, &self.world);
            let due = if let Some(change) = decisions.ledger {
                format!("{:#?}", change.events)
            } else if !decisions.actions.is_empty() || decisions.drains != self.last.drains {
                format!("{:#?} {:#?}", decisions.actions, decisions.drains)
            } else if decisions.statuses != self.last.statuses {
                let mut later = self.clone();
                later
                    .world
                    .plans
                    .iter_mut()
                    .zip(&self.world.plans)
                    .for_each(|(plan, before)| {
                        let new = decisions
                            .statuses
                            .iter()
                            .find(|status| status.plan == before.name);
                        plan.status = new.map_or_else(|| before.status.clone(), |new| new.status.clone());
                    });
                later.story()
            } else {
                continue;
            };
            let again = self.last.look_again;
            panic!(
                "due at {between} already, but look_again is {again:?}: {due}\n{}",
                self.story()
            );
        }
    }
}

fn read_spec(yaml: &str) -> UpdatePlanSpec {
    let mut whole = String::new();
    for (field, default) in [("targetVersion", "\"1.21.0\""), ("nodeSelector", "{}")] {
        if !yaml.contains(&format!("{field}:")) || !yaml.lines().any(|line| line.starts_with(field)) {
            whole += &format!("{field}: {default}\n");
        }
    }
    whole += yaml;
    serde_saphyr::from_str(&whole).unwrap_or_else(|error| panic!("{error}\n{whole}"))
}
