//! What happens from outside: people edit and delete, nodes come, go and crash, the ledger is lost.

use std::fmt;

use api::{
    names,
    plan::UpdatePlanSpec,
    quantity::{IntOrPercent, Span},
};
use chrono::TimeDelta;

use super::{
    Fault, Timing,
    cluster::Cluster,
    fleet::Machine,
    node::{VirtualNode, set_ready},
};
use crate::world::{AgentFacts, NodeFacts};

/// Something that happens from outside.
#[derive(Clone, Debug, PartialEq)]
pub enum Happening {
    /// `kubectl apply` of a plan: it is created, or edited where the spec is another one.
    Apply {
        /// The plan's name.
        plan: String,
        /// Its spec.
        spec: Box<UpdatePlanSpec>,
    },
    /// `kubectl delete updateplan`
    DeletePlan {
        /// The plan's name.
        plan: String,
    },
    /// Somebody asks something of the plan's run, by an annotation. It replaces the one before.
    Ask {
        /// The plan's name.
        plan: String,
        /// What.
        what: Ask,
    },
    /// A node joins.
    Join(Box<Machine>),
    /// Something happens to one node.
    Node {
        /// The node's name.
        node: String,
        /// What.
        what: ToNode,
    },
    /// Somebody deletes the ledger.
    LedgerLost,
    /// Somebody stops the whole install, or lets it go on.
    Stop(bool),
    /// Somebody sets the install's own limit, or takes it away.
    MaxUnavailable(Option<IntOrPercent>),
    /// The install lets so many nodes download ahead of their turn at a time.
    StageAhead(usize),
    /// The controller's clock is so far ahead of the Kubernetes API's; None: it is not known how far.
    ClockSkew(Option<TimeDelta>),
    /// The controller's watches of nodes and shadows stall, or catch up.
    Stall(bool),
    /// Nothing happens; the timeline shows how everything stands.
    Look,
}

/// What a person asks of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// That this wave is approved.
    Approve(String),
    /// That what has failed is tried again; the token tells one retry from another.
    Retry(String),
    /// That it does not wait for its windows.
    RunNow,
}

impl Ask {
    fn annotation(&self, run: &str) -> (&'static str, String) {
        match self {
            Self::Approve(wave) => (names::APPROVE_ANNOTATION, format!("{run}/{wave}")),
            Self::Retry(token) => (names::RETRY_ANNOTATION, format!("{run}/{token}")),
            Self::RunNow => (names::RUN_NOW_ANNOTATION, run.to_owned()),
        }
    }
}

/// Something that happens to one node.
#[derive(Clone, Debug, PartialEq)]
pub enum ToNode {
    /// `kubectl cordon`
    Cordon,
    /// `kubectl uncordon`
    Uncordon,
    /// Its Node object is deleted, and the machine with it.
    Delete,
    /// Another machine takes its name, with the labels that this one has.
    Replace {
        /// The version that machine runs.
        version: String,
    },
    /// A label is set, or taken away.
    Label(String, Option<String>),
    /// An annotation is set, or taken away.
    Annotate(String, Option<String>),
    /// Somebody takes it out of all updates, with a reason, or back in.
    OptOut(Option<String>),
    /// Its repository offers this version.
    Offer(String),
    /// Its repository offers this version no more.
    Recall(String),
    /// It loses power and boots again, into whatever is activated.
    Crash,
    /// Its kubelet stops reporting; the node itself goes on.
    NotReady,
    /// Its kubelet reports that it is Ready.
    Ready,
    /// From now on the fault is there, so many times.
    Break(Fault, u32),
    /// It has no fault any more; where it was down it boots.
    Mend,
    /// From now on its steps take so long; one that is under way begins again.
    Retime(Timing),
}

/// What was spoken of is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotThere {
    /// No such node.
    #[error("there is no node {0}")]
    Node(String),
    /// No such plan.
    #[error("there is no plan {0}")]
    Plan(String),
}

impl Cluster {
    /// Lets it happen; nothing is decided yet.
    ///
    /// # Errors
    /// Where it speaks of a node or a plan that is not there.
    pub fn happens(&mut self, what: &Happening) -> Result<(), NotThere> {
        match what {
            Happening::Apply { plan, spec } => match self.plan_mut(plan) {
                Some(facts) => {
                    facts.generation += i64::from(facts.spec != **spec);
                    facts.spec.clone_from(spec);
                }
                None => self.add_plan(plan, (**spec).clone()),
            },
            Happening::DeletePlan { plan } => {
                let facts = self.plan_mut(plan).ok_or_else(|| NotThere::Plan(plan.clone()))?;
                facts.deleting = true;
                facts.generation += 1;
                self.world.plans.retain(|plan| plan.finalizer || !plan.deleting);
            }
            Happening::Ask { plan, what } => {
                let ledger = self.world.ledger.clone().unwrap_or_default();
                let facts = self.plan_mut(plan).ok_or_else(|| NotThere::Plan(plan.clone()))?;
                let run = ledger.plans.get(&facts.uid).map_or("", |entry| &entry.run);
                let (annotation, value) = what.annotation(run);
                facts.annotations.insert(annotation.to_owned(), value);
            }
            Happening::Join(machine) => self.join(machine),
            Happening::Node { node, what } => self.happens_to(node, what)?,
            Happening::LedgerLost => self.world.ledger = None,
            Happening::Stop(stop) => self.world.ledger.get_or_insert_default().stop = *stop,
            Happening::MaxUnavailable(limit) => {
                self.world.ledger.get_or_insert_default().max_unavailable = *limit;
            }
            Happening::StageAhead(limit) => self.world.settings.stage_ahead = *limit,
            Happening::ClockSkew(skew) => self.world.clock_skew = *skew,
            Happening::Stall(stall) => self.watched = stall.then(|| self.world.nodes.clone()),
            Happening::Look => {}
        }
        Ok(())
    }

    /// Adds a machine of a fleet.
    pub fn join(&mut self, machine: &Machine) {
        let labels: Vec<(&str, &str)> = machine
            .labels
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        let hidden = self.add_node(&machine.name, &machine.version, &labels);
        hidden.timing = machine.timing;
        hidden.rates.clone_from(&machine.rates);
        let now = self.now;
        if let Some((facts, hidden)) = self.both(&machine.name) {
            hidden.become_image(
                now,
                facts,
                &machine.variant,
                &machine.arch,
                machine.offered.clone(),
            );
            facts.hosts_operator = machine.hosts_operator;
            if !machine.takes_part {
                facts.labels.remove(names::NODE_LABEL);
            }
        }
    }

    fn happens_to(&mut self, node: &str, what: &ToNode) -> Result<(), NotThere> {
        let now = self.now;
        let not_there = || NotThere::Node(node.to_owned());
        match what {
            ToNode::Delete => return self.remove_node(node).map(drop).ok_or_else(not_there),
            ToNode::Replace { version } => {
                let now = self.now;
                let (mut gone, hidden) = self.remove_node(node).ok_or_else(not_there)?;
                gone.labels.remove(names::NODE_LABEL);
                let labels: Vec<(&str, &str)> = gone
                    .labels
                    .iter()
                    .map(|(key, value)| (key.as_str(), value.as_str()))
                    .collect();
                let new = self.add_node(node, version, &labels);
                (new.timing, new.rates) = (hidden.timing, hidden.rates);
                let (variant, arch, offered) = (hidden.variant, hidden.arch, hidden.repository);
                if let Some((facts, new)) = self.both(node) {
                    new.become_image(now, facts, &variant, &arch, offered);
                }
                return Ok(());
            }
            _ => {}
        }
        let (facts, hidden) = self.both(node).ok_or_else(not_there)?;
        match what {
            ToNode::Cordon => facts.unschedulable = true,
            ToNode::Uncordon => facts.unschedulable = false,
            ToNode::Label(key, value) => set(&mut facts.labels, key, value.as_deref()),
            ToNode::Annotate(key, value) => set(&mut facts.annotations, key, value.as_deref()),
            ToNode::OptOut(why) => facts.opt_out.clone_from(why),
            ToNode::Offer(version) => hidden.offer(now, facts, version),
            ToNode::Recall(version) => hidden.recall(now, facts, version),
            ToNode::Crash => hidden.go_down(now, facts),
            ToNode::NotReady => set_ready(facts, false, now),
            ToNode::Ready => set_ready(facts, true, now),
            ToNode::Break(fault, times) => {
                hidden.faults.push((*fault, *times));
                if *fault == Fault::AgentSilent {
                    facts.agent = agent(false, now);
                }
            }
            ToNode::Mend => {
                hidden.faults.clear();
                hidden.unhealthy_at = None;
                if hidden.up {
                    set_ready(facts, true, now);
                    facts.agent = agent(true, now);
                } else {
                    hidden.come_up(now, facts);
                }
            }
            ToNode::Retime(timing) => {
                hidden.timing = *timing;
                hidden.begin_again(now);
            }
            ToNode::Delete | ToNode::Replace { .. } => {}
        }
        Ok(())
    }

    /// What is known of a node, and what is not.
    fn both(&mut self, name: &str) -> Option<(&mut NodeFacts, &mut VirtualNode)> {
        let facts = self.world.nodes.iter_mut().find(|node| node.name == name)?;
        let hidden = self.nodes.get_mut(&facts.uid)?;
        Some((facts, hidden))
    }

    fn remove_node(&mut self, name: &str) -> Option<(NodeFacts, VirtualNode)> {
        let i = self.world.nodes.iter().position(|node| node.name == name)?;
        let facts = self.world.nodes.remove(i);
        self.drains.remove(&facts.uid);
        let hidden = self.nodes.remove(&facts.uid)?;
        Some((facts, hidden))
    }
}

fn agent(ready: bool, now: chrono::DateTime<chrono::Utc>) -> AgentFacts {
    AgentFacts {
        ready,
        since: Some(now),
    }
}

fn set(map: &mut std::collections::BTreeMap<String, String>, key: &str, value: Option<&str>) {
    match value {
        Some(value) => map.insert(key.to_owned(), value.to_owned()),
        None => map.remove(key),
    };
}

impl fmt::Display for Happening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apply { plan, .. } => write!(f, "plan {plan} is applied"),
            Self::DeletePlan { plan } => write!(f, "plan {plan} is deleted"),
            Self::Ask { plan, what } => write!(f, "plan {plan} is {what}"),
            Self::Join(machine) => write!(f, "{}: joins, runs {}", machine.name, machine.version),
            Self::Node { node, what } => write!(f, "{node}: {what}"),
            Self::LedgerLost => f.write_str("the ledger is lost"),
            Self::Stop(true) => f.write_str("the install is stopped"),
            Self::Stop(false) => f.write_str("the install is no longer stopped"),
            Self::MaxUnavailable(Some(limit)) => write!(f, "maxUnavailable of the install is {limit}"),
            Self::MaxUnavailable(None) => f.write_str("the install has no limit"),
            Self::StageAhead(limit) => {
                write!(f, "at most {limit} at a time may download ahead of their turn")
            }
            Self::ClockSkew(Some(skew)) => {
                let side = if *skew < TimeDelta::zero() {
                    "behind"
                } else {
                    "ahead"
                };
                write!(f, "the clock is {} s {side}", skew.num_seconds().abs())
            }
            Self::ClockSkew(None) => f.write_str("the clock is not compared"),
            Self::Stall(true) => f.write_str("the controller's watches of nodes and shadows stall"),
            Self::Stall(false) => f.write_str("the controller's watches catch up"),
            Self::Look => f.write_str("a look"),
        }
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Approve(wave) => write!(f, "approved: wave {wave}"),
            Self::Retry(token) => write!(f, "retried: {token}"),
            Self::RunNow => f.write_str("to run now"),
        }
    }
}

impl fmt::Display for ToNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = |delta: TimeDelta| Span::seconds(u32::try_from(delta.num_seconds()).unwrap_or(u32::MAX));
        match self {
            Self::Cordon => f.write_str("cordoned by an admin"),
            Self::Uncordon => f.write_str("uncordoned by an admin"),
            Self::Delete => f.write_str("deleted"),
            Self::Replace { version } => write!(f, "replaced by another machine, which runs {version}"),
            Self::Label(key, Some(value)) => write!(f, "label {key}={value}"),
            Self::Label(key, None) => write!(f, "label {key} is taken away"),
            Self::Annotate(key, Some(value)) => write!(f, "annotation {key}={value}"),
            Self::Annotate(key, None) => write!(f, "annotation {key} is taken away"),
            Self::OptOut(Some(why)) => write!(f, "opted out: {why}"),
            Self::OptOut(None) => f.write_str("no longer opted out"),
            Self::Offer(version) => write!(f, "{version} is on offer"),
            Self::Recall(version) => write!(f, "{version} is on offer no more"),
            Self::Crash => f.write_str("crashes"),
            Self::NotReady => f.write_str("not Ready"),
            Self::Ready => f.write_str("Ready"),
            Self::Break(fault, u32::MAX) => write!(f, "from now on {fault}"),
            Self::Break(fault, times) => write!(f, "from now on {fault}, {times} times"),
            Self::Mend => f.write_str("mended"),
            Self::Retime(timing) => write!(
                f,
                "takes {} to stage, {} to drain, {} to reboot, {} to be Ready",
                span(timing.stage),
                span(timing.drain),
                span(timing.reboot),
                span(timing.ready)
            ),
        }
    }
}
