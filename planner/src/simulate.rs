//! The planner run forward in virtual time: the same [`plan()`](crate::plan()), around it a cluster of nodes that take
//! their time and fail as they are told. Nothing here decides anything that the planner decides.
//!
//! * [`simulate`]: a [`Story`] in, an [`Outcome`] with its timeline out
//! * `fleet`: the nodes; `faults`: how long they take, and what goes wrong on them, for certain or by chance
//! * `people`: what happens from outside: edits, deletions, cordons, crashes
//! * `cluster`: [`Cluster`] asks the planner and moves time from event to event; an [`Observer`] sees every write
//! * `apply`: decisions, applied as their contract says
//! * `node`: what a node and its agent do
//! * `timeline`: what happened when; `show`: the same, and a status, as text
//!
//! No randomness but what follows from the story's seed.

mod apply;
mod cluster;
mod faults;
mod fleet;
mod node;
mod people;
mod show;
mod timeline;

use std::collections::BTreeMap;

use api::{
    plan::{Phase, UpdatePlanStatus},
    verdict::Verdict,
};
use chrono::{DateTime, TimeDelta, Utc};

pub use cluster::{Cluster, InCircles, Observer};
pub use faults::{Dice, Fault, Percent, Rates, Timing};
pub use fleet::{Group, Machine};
pub use node::VirtualNode;
pub use people::{Ask, Happening, NotThere, ToNode};
pub use show::{status_text, timeline_text};
pub use timeline::{Attempt, Moment, Recorder, Step, What};

use crate::{
    decisions::{Action, Decisions, LedgerChange},
    world::{NodeFacts, PlanFacts, Settings, World},
};

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Story {
    /// When it begins.
    pub start: DateTime<Utc>,
    /// When it ends, unless nothing more can happen before.
    pub end: DateTime<Utc>,
    /// The operator's settings.
    pub settings: Settings,
    /// What chance begins with.
    pub seed: u64,
    /// The fleet.
    pub fleet: Vec<Group>,
    /// What happens from outside, in the order of time; the plans too are applied by it.
    pub events: Vec<(DateTime<Utc>, Happening)>,
}

/// How it went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What happened when.
    pub timeline: Vec<Moment>,
    /// When it was over.
    pub ended: DateTime<Utc>,
    /// The end state.
    pub world: World,
    /// The status of every plan, in the end.
    pub statuses: BTreeMap<String, UpdatePlanStatus>,
    /// Why nodes do not move, in the end, by plan and node.
    pub verdicts: BTreeMap<(String, String), Verdict>,
    /// From the start to the moment when a plan was first Complete; plans that were not are left out.
    pub makespan: BTreeMap<String, TimeDelta>,
}

/// Why a story cannot be simulated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It speaks of something that is not there.
    #[error("at {at}: {why}")]
    NotThere {
        /// When.
        at: DateTime<Utc>,
        /// What.
        why: NotThere,
    },
    /// Events are not in the order of time, or come before the start or after the end.
    #[error("the event at {at} comes too early or too late")]
    OutOfOrder {
        /// When.
        at: DateTime<Utc>,
    },
    /// The planner does not come to an end.
    #[error(transparent)]
    InCircles(#[from] InCircles),
}

/// Lets a story happen. It ends early when no event is left, no plan wants anything, no node has a grant or does anything;
/// or when nothing is due by time alone.
///
/// # Errors
/// Where the story speaks of what is not there, or not in the order of time.
pub fn simulate(story: &Story) -> Result<Outcome, Error> {
    simulate_watched(story, &mut ())
}

/// The same, with somebody who sees every write.
///
/// # Errors
/// Where the story speaks of what is not there, or not in the order of time.
pub fn simulate_watched(story: &Story, watching: &mut dyn Observer) -> Result<Outcome, Error> {
    let mut cluster = Cluster::new(story.start);
    cluster.world.settings = story.settings;
    cluster.seed = story.seed;
    for machine in story.fleet.iter().flat_map(Group::machines) {
        cluster.join(&machine);
    }
    let mut both = Both(Recorder::default(), watching);
    for (at, happening) in &story.events {
        let at = *at;
        if at < cluster.now || at > story.end {
            return Err(Error::OutOfOrder { at });
        }
        // What happens at one instant happens before anything is decided.
        if at > cluster.now {
            cluster.run_before(at, &mut both)?;
            cluster.move_to(at, &mut both);
        }
        if *happening == Happening::Look {
            cluster.settle(&mut both)?;
        }
        both.happens(&cluster, happening);
        cluster
            .happens(happening)
            .map_err(|why| Error::NotThere { at, why })?;
    }
    cluster.settle(&mut both)?;
    while !is_over(&cluster) {
        match cluster.next().filter(|next| *next <= story.end) {
            Some(next) => cluster.advance(next, &mut both)?,
            None => break,
        }
    }
    let shown = |last: &Moment| last.at == cluster.now && matches!(last.what, What::Status { .. });
    if !both.0.timeline.last().is_some_and(shown) {
        both.happens(&cluster, &Happening::Look);
    }
    Ok(outcome(story, cluster, both.0))
}

fn is_over(cluster: &Cluster) -> bool {
    let granted = cluster
        .world
        .ledger
        .as_ref()
        .is_none_or(|ledger| !ledger.grants.is_empty());
    let wants = |status: &UpdatePlanStatus| {
        !matches!(
            status.phase,
            Some(Phase::Complete | Phase::Halted | Phase::Paused | Phase::Invalid | Phase::Pending)
        ) || status.phase == Some(Phase::Complete) && status.nodes.waiting > 0
    };
    let busy = cluster.nodes.values().any(|node| node.next().is_some());
    !granted && !busy && !cluster.world.plans.iter().any(|plan| wants(&plan.status))
}

fn outcome(story: &Story, cluster: Cluster, recorder: Recorder) -> Outcome {
    let mut makespan = BTreeMap::new();
    for moment in &recorder.timeline {
        if let What::Phase {
            plan,
            phase: Phase::Complete,
            ..
        } = &moment.what
        {
            makespan.entry(plan.clone()).or_insert(moment.at - story.start);
        }
    }
    let plans = cluster.world.plans.iter();
    Outcome {
        timeline: recorder.timeline,
        ended: cluster.now,
        statuses: plans
            .map(|plan| (plan.name.clone(), plan.status.clone()))
            .collect(),
        verdicts: cluster
            .last
            .verdicts
            .iter()
            .map(|v| ((v.plan.to_string(), v.node.clone()), v.verdict.clone()))
            .collect(),
        makespan,
        world: cluster.world,
    }
}

/// Two that watch.
struct Both<'a>(Recorder, &'a mut dyn Observer);

impl Observer for Both<'_> {
    fn decided(&mut self, cluster: &Cluster, decisions: &Decisions) {
        self.0.decided(cluster, decisions);
        self.1.decided(cluster, decisions);
    }
    fn ledger(&mut self, cluster: &Cluster, change: &LedgerChange) {
        self.0.ledger(cluster, change);
        self.1.ledger(cluster, change);
    }
    fn action(&mut self, cluster: &Cluster, action: &Action) {
        self.0.action(cluster, action);
        self.1.action(cluster, action);
    }
    fn status(&mut self, cluster: &Cluster, plan: &PlanFacts, new: &UpdatePlanStatus) {
        self.0.status(cluster, plan, new);
        self.1.status(cluster, plan, new);
    }
    fn permitted(&mut self, cluster: &Cluster, node: &NodeFacts) {
        self.0.permitted(cluster, node);
        self.1.permitted(cluster, node);
    }
    fn settled(&mut self, cluster: &Cluster) {
        self.0.settled(cluster);
        self.1.settled(cluster);
    }
    fn happens(&mut self, cluster: &Cluster, what: &Happening) {
        self.0.happens(cluster, what);
        self.1.happens(cluster, what);
    }
    fn moves_on(&mut self, cluster: &Cluster, to: DateTime<Utc>) {
        self.0.moves_on(cluster, to);
        self.1.moves_on(cluster, to);
    }
}
