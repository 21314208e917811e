//! What happens from outside: people edit and delete, nodes come, go and crash, the ledger is lost.

use api::plan::UpdatePlanSpec;
use chrono::TimeDelta;

use super::{
    Fault, Sim, Timing,
    node::{VirtualNode, set_ready},
};

impl Sim {
    /// Edits a plan's spec: a new generation.
    pub fn edit(&mut self, plan: &str, change: impl FnOnce(&mut UpdatePlanSpec)) {
        let facts = self.plan_mut(plan);
        let before = facts.spec.clone();
        change(&mut facts.spec);
        assert_ne!(before, facts.spec, "an edit that changes nothing");
        facts.generation += 1;
        self.note(format!("{plan} is edited"));
    }

    /// Deletes a plan: it is gone at once, or once its finalizer is.
    pub fn delete_plan(&mut self, plan: &str) {
        let facts = self.plan_mut(plan);
        facts.deleting = true;
        facts.generation += 1;
        self.world.plans.retain(|plan| plan.finalizer || !plan.deleting);
        self.note(format!("{plan} is deleted"));
    }

    pub fn has_plan(&self, plan: &str) -> bool {
        self.world.plans.iter().any(|facts| facts.name == plan)
    }

    /// From now on the fault is there.
    pub fn break_node(&mut self, node: &str, fault: Fault) {
        self.break_node_times(node, fault, u32::MAX);
    }

    pub fn break_node_times(&mut self, node: &str, fault: Fault, times: u32) {
        self.note(format!("{node}: {fault:?}"));
        let uid = self.facts(node).uid.clone();
        self.hidden_mut(node).faults.push((fault, times));
        if fault == Fault::AgentSilent {
            let now = self.now;
            let facts = self.facts_mut(node);
            facts.agent = planner::world::AgentFacts {
                ready: false,
                since: Some(now),
            };
        }
        assert!(self.nodes.contains_key(&uid));
    }

    /// The node has no fault any more; where it was down it boots.
    pub fn mend_node(&mut self, node: &str) {
        self.note(format!("{node} is mended"));
        let now = self.now;
        self.hidden_mut(node).faults.clear();
        let was_down = !self.hidden(node).up;
        let mut facts = self.facts(node).clone();
        if was_down {
            self.hidden_mut(node).come_up(now, &mut facts);
        } else {
            set_ready(&mut facts, true, now);
            facts.agent = planner::world::AgentFacts {
                ready: true,
                since: Some(now),
            };
        }
        *self.facts_mut(node) = facts;
    }

    pub fn break_every_node(&mut self, fault: Fault) {
        let names: Vec<String> = self.world.nodes.iter().map(|node| node.name.clone()).collect();
        for name in names {
            self.break_node(&name, fault);
        }
    }

    pub fn mend_every_node(&mut self) {
        let names: Vec<String> = self.world.nodes.iter().map(|node| node.name.clone()).collect();
        for name in names {
            self.mend_node(&name);
        }
    }

    pub fn hidden_mut(&mut self, node: &str) -> &mut VirtualNode {
        let uid = self.facts(node).uid.clone();
        self.nodes.get_mut(&uid).expect("a node has both sides")
    }

    /// The node's kubelet stops reporting; the node itself goes on.
    pub fn not_ready(&mut self, node: &str) {
        self.note(format!("{node} is not Ready"));
        let now = self.now;
        set_ready(self.facts_mut(node), false, now);
    }

    pub fn ready(&mut self, node: &str) {
        self.note(format!("{node} is Ready"));
        let now = self.now;
        set_ready(self.facts_mut(node), true, now);
    }

    /// The node loses power and boots again, into whatever is activated.
    pub fn crash(&mut self, node: &str) {
        self.note(format!("{node} crashes"));
        let now = self.now;
        let mut facts = self.facts(node).clone();
        self.hidden_mut(node).go_down(now, &mut facts);
        *self.facts_mut(node) = facts;
    }

    /// `kubectl cordon`
    pub fn cordon(&mut self, node: &str) {
        self.note(format!("an admin cordons {node}"));
        self.facts_mut(node).unschedulable = true;
        let uid = self.facts(node).uid.clone();
        self.checker.cordoned_by_admin.insert(uid);
    }

    /// `kubectl uncordon`
    pub fn uncordon(&mut self, node: &str) {
        self.note(format!("an admin uncordons {node}"));
        self.facts_mut(node).unschedulable = false;
        let uid = self.facts(node).uid.clone();
        self.checker.cordoned_by_admin.remove(&uid);
    }

    pub fn delete_node(&mut self, node: &str) {
        self.note(format!("{node} is deleted"));
        let uid = self.facts(node).uid.clone();
        self.world.nodes.retain(|facts| facts.uid != uid);
        self.nodes.remove(&uid);
        self.drains.remove(&uid);
    }

    /// Another machine takes the node's name.
    pub fn replace_node(&mut self, node: &str) {
        self.delete_node(node);
        self.add_node(node, "1.20.3", &[]);
    }

    /// Somebody deletes the ledger.
    pub fn lose_ledger(&mut self) {
        self.note("the ledger is lost".to_owned());
        self.world.ledger = None;
    }

    /// Every node that is there and every one to come takes so long.
    pub fn timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        for node in self.nodes.values_mut() {
            node.timing = timing;
        }
        self
    }

    /// From now on this node's steps take so long; one that is under way begins again.
    pub fn retime(&mut self, node: &str, change: impl FnOnce(&mut Timing)) {
        let now = self.now;
        let hidden = self.hidden_mut(node);
        change(&mut hidden.timing);
        hidden.begin_again(now);
        self.settle();
    }

    /// This clock is ahead of the Kubernetes API's.
    pub fn skew(&mut self, seconds: i64) {
        self.world.clock_skew = Some(TimeDelta::seconds(seconds));
    }
}
