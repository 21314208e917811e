//! The planner's own simulator ([`Cluster`]) with the promises checked at every write, and with words for tests: what
//! is not there is a panic here.

use std::collections::{BTreeSet, VecDeque};
use std::ops::{Deref, DerefMut};

use api::{
    ledger::UpdateLedgerSpec,
    plan::{Phase, UpdatePlanSpec, UpdatePlanStatus},
    shadow::NodeState,
    verdict::Verdict,
};
use chrono::{DateTime, TimeDelta, Utc};
use planner::{
    decisions::Decisions,
    plan,
    simulate::{Cluster, Happening, VirtualNode, status_text},
    world::{NodeFacts, PlanFacts},
};

use super::{
    START,
    check::Checker,
    time,
    watch::{History, Watch, story},
};

/// A cluster under the eyes of the checker.
#[derive(Clone)]
pub struct Sim {
    pub cluster: Cluster,
    pub checker: Checker,
    /// The latest of what happened, for failures.
    pub history: History,
}

/// How many events may pass until what a test waits for.
const STEPS: usize = 5_000;

impl Deref for Sim {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl DerefMut for Sim {
    fn deref_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }
}

impl Default for Sim {
    fn default() -> Self {
        Self::new()
    }
}

impl Sim {
    /// An empty cluster with an empty ledger and a clock that is right.
    pub fn new() -> Self {
        Self {
            cluster: Cluster::new(time(START)),
            checker: Checker::default(),
            history: VecDeque::new(),
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

    /// Adds a plan that is created now.
    pub fn apply_plan(&mut self, name: &str, spec: &str) {
        self.cluster.add_plan(name, read_spec(spec));
    }

    pub fn plan_facts(&self, name: &str) -> &PlanFacts {
        self.cluster
            .plan(name)
            .unwrap_or_else(|| panic!("no plan {name}"))
    }

    pub fn status(&self, plan: &str) -> &UpdatePlanStatus {
        &self.plan_facts(plan).status
    }

    pub fn phase(&self, plan: &str) -> Option<Phase> {
        self.status(plan).phase
    }

    pub fn facts(&self, name: &str) -> &NodeFacts {
        self.cluster
            .node(name)
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

    /// What happened lately, and how things stand.
    pub fn story(&self) -> String {
        story(&self.history, &self.cluster)
    }

    /// A plan's status as a person reads it.
    pub fn describe(&self, plan: &str) -> String {
        status_text(self.status(plan))
    }

    pub fn note(&mut self, text: String) {
        super::watch::note(&mut self.history, self.cluster.now, text);
    }

    /// Lets something happen from outside.
    pub fn happens(&mut self, what: &Happening) {
        self.note(what.to_string());
        self.checker.happens(&self.cluster, what);
        self.cluster
            .happens(what)
            .unwrap_or_else(|problem| panic!("{problem}"));
    }

    fn watched<T>(&mut self, go: impl FnOnce(&mut Cluster, &mut Watch<'_>) -> T) -> T {
        let mut watch = Watch::new(&mut self.checker, &mut self.history);
        go(&mut self.cluster, &mut watch)
    }

    /// Plans and applies until there is nothing left to do at this instant.
    pub fn settle(&mut self) {
        let settled = self.watched(|cluster, watch| cluster.settle(watch));
        settled.unwrap_or_else(|circles| panic!("{circles}: {:#?}\n{}", self.last, self.story()));
    }

    /// One round: what is decided now, applied. False: nothing was to be done.
    pub fn step(&mut self) -> bool {
        self.watched(|cluster, watch| cluster.step(watch))
    }

    /// What is decided now; the same whatever the order in which things are listed.
    pub fn decide(&self) -> Decisions {
        let decisions = plan(self.now, &self.world);
        super::watch::order_does_not_matter(&self.cluster, &decisions, || self.story());
        decisions
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

    /// Moves to `to`, through all that happens until then.
    pub fn run_to(&mut self, to: DateTime<Utc>) {
        let done = self.watched(|cluster, watch| cluster.run_to(to, watch));
        done.unwrap_or_else(|circles| panic!("{circles}: {:#?}\n{}", self.last, self.story()));
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
        let done = self.watched(|cluster, watch| cluster.advance(to, watch));
        done.unwrap_or_else(|circles| panic!("{circles}: {:#?}\n{}", self.last, self.story()));
    }
}

/// A spec in YAML as a user writes it; without them it has targetVersion 1.21.0 and takes every node.
pub fn read_spec(yaml: &str) -> UpdatePlanSpec {
    let mut whole = String::new();
    for (field, default) in [("targetVersion", "\"1.21.0\""), ("nodeSelector", "{}")] {
        if !yaml.contains(&format!("{field}:")) || !yaml.lines().any(|line| line.starts_with(field)) {
            whole += &format!("{field}: {default}\n");
        }
    }
    whole += yaml;
    serde_saphyr::from_str(&whole).unwrap_or_else(|error| panic!("{error}\n{whole}"))
}
