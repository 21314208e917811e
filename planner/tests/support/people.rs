//! What happens from outside, in the words of tests.

use api::plan::UpdatePlanSpec;
use planner::simulate::{Ask, Happening, ToNode, VirtualNode};

use super::{Fault, Sim, Timing};

impl Sim {
    /// Edits a plan's spec: a new generation.
    pub fn edit(&mut self, plan: &str, change: impl FnOnce(&mut UpdatePlanSpec)) {
        let before = self.plan_facts(plan).spec.clone();
        let mut spec = before.clone();
        change(&mut spec);
        assert_ne!(before, spec, "an edit that changes nothing");
        let (plan, spec) = (plan.to_owned(), Box::new(spec));
        self.happens(&Happening::Apply { plan, spec });
    }

    /// Deletes a plan: it is gone at once, or once its finalizer is.
    pub fn delete_plan(&mut self, plan: &str) {
        let plan = plan.to_owned();
        self.happens(&Happening::DeletePlan { plan });
    }

    pub fn has_plan(&self, plan: &str) -> bool {
        self.cluster.plan(plan).is_some()
    }

    fn node_happens(&mut self, node: &str, what: ToNode) {
        let node = node.to_owned();
        self.happens(&Happening::Node { node, what });
    }

    /// From now on the fault is there.
    pub fn break_node(&mut self, node: &str, fault: Fault) {
        self.break_node_times(node, fault, u32::MAX);
    }

    pub fn break_node_times(&mut self, node: &str, fault: Fault, times: u32) {
        self.node_happens(node, ToNode::Break(fault, times));
    }

    /// The node has no fault any more; where it was down it boots.
    pub fn mend_node(&mut self, node: &str) {
        self.node_happens(node, ToNode::Mend);
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
        self.node_happens(node, ToNode::NotReady);
    }

    pub fn ready(&mut self, node: &str) {
        self.node_happens(node, ToNode::Ready);
    }

    /// The node loses power and boots again, into whatever is activated.
    pub fn crash(&mut self, node: &str) {
        self.node_happens(node, ToNode::Crash);
    }

    /// `kubectl annotate uplan`: what a person asks of a run. The value replaces the one before.
    pub fn annotate(&mut self, plan: &str, annotation: &str, value: &str) {
        let annotations = &mut self.plan_mut(plan).annotations;
        annotations.insert(annotation.to_owned(), value.to_owned());
    }

    fn ask(&mut self, plan: &str, what: Ask) {
        let plan = plan.to_owned();
        self.happens(&Happening::Ask { plan, what });
    }

    /// Approves a wave of the plan's run.
    pub fn approve(&mut self, plan: &str, wave: &str) {
        self.ask(plan, Ask::Approve(wave.to_owned()));
    }

    /// Retries the plan's run.
    pub fn retry(&mut self, plan: &str, token: &str) {
        self.ask(plan, Ask::Retry(token.to_owned()));
    }

    /// The plan's run ignores its windows.
    pub fn run_now(&mut self, plan: &str) {
        self.ask(plan, Ask::RunNow);
    }

    pub fn run_of(&self, plan: &str) -> String {
        self.ledger().plans[&self.plan_facts(plan).uid].run.clone()
    }

    /// Somebody takes the node out of all updates, or back in.
    pub fn opt_out(&mut self, node: &str, why: Option<&str>) {
        self.node_happens(node, ToNode::OptOut(why.map(str::to_owned)));
    }

    /// `kubectl cordon`
    pub fn cordon(&mut self, node: &str) {
        self.node_happens(node, ToNode::Cordon);
    }

    /// `kubectl uncordon`
    pub fn uncordon(&mut self, node: &str) {
        self.node_happens(node, ToNode::Uncordon);
    }

    pub fn delete_node(&mut self, node: &str) {
        self.node_happens(node, ToNode::Delete);
    }

    /// Another machine takes the node's name.
    pub fn replace_node(&mut self, node: &str) {
        let version = "1.20.3".to_owned();
        self.node_happens(node, ToNode::Replace { version });
    }

    /// Somebody deletes the ledger.
    pub fn lose_ledger(&mut self) {
        self.happens(&Happening::LedgerLost);
    }

    /// Every node that is there and every one to come takes so long.
    pub fn timing(mut self, timing: Timing) -> Self {
        self.cluster.timing = timing;
        for node in self.nodes.values_mut() {
            node.timing = timing;
        }
        self
    }

    /// From now on this node's steps take so long; one that is under way begins again.
    pub fn retime(&mut self, node: &str, change: impl FnOnce(&mut Timing)) {
        let mut timing = self.hidden(node).timing;
        change(&mut timing);
        self.node_happens(node, ToNode::Retime(timing));
        self.settle();
    }

    /// This clock is ahead of the Kubernetes API's.
    pub fn skew(&mut self, seconds: i64) {
        self.happens(&Happening::ClockSkew(Some(super::seconds(seconds))));
    }
}
