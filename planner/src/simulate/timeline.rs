//! What happened when, as a list that programs and people read.

use std::collections::BTreeMap;

use api::{
    ledger::{Grant, GrantPhase},
    plan::{Phase, UpdatePlanStatus},
    shadow::FailureReason,
    verdict::Verdict,
};
use chrono::{DateTime, Utc};

use super::{
    cluster::{Cluster, Observer},
    people::Happening,
};
use crate::{
    decisions::{Action, LedgerChange},
    world::{NodeFacts, PlanFacts},
};

/// Something, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Moment {
    /// When.
    pub at: DateTime<Utc>,
    /// What.
    pub what: What,
}

/// What a timeline consists of.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// Something from outside, in words.
    Happened {
        /// The node to which it happened, where it was one.
        node: Option<String>,
        /// What.
        text: String,
    },
    /// A granted node reaches its next step.
    Step {
        /// The node's name.
        node: String,
        /// The attempt that the step belongs to.
        attempt: Attempt,
        /// The step.
        step: Step,
    },
    /// Something is done to a node that has no grant.
    Done {
        /// The node's name.
        node: String,
        /// What: something that was left on it is undone, a failure is noted in its shadow, or it is to download ahead.
        done: &'static str,
    },
    /// A node without a grant waits, for another reason than before.
    Waits {
        /// The node's name.
        node: String,
        /// Its plan's.
        plan: String,
        /// Why.
        verdict: Verdict,
    },
    /// A plan's phase changes.
    Phase {
        /// The plan's name.
        plan: String,
        /// The phase.
        phase: Phase,
        /// Its message.
        message: String,
    },
    /// An Event about a plan.
    Event {
        /// The plan's name.
        plan: String,
        /// What the Event says.
        note: String,
    },
    /// How a plan stands.
    Status {
        /// The plan's name.
        plan: String,
        /// Its status.
        status: Box<UpdatePlanStatus>,
        /// Why its nodes do not move, by the node's name.
        verdicts: Vec<(String, Verdict)>,
    },
}

/// One attempt to update a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attempt {
    /// UID of the node: another machine may take its name.
    pub node_uid: String,
    /// Name of the plan.
    pub plan: String,
    /// Its run.
    pub run: String,
    /// The wave.
    pub wave: String,
    /// The attempt's number, from 1.
    pub number: u32,
}

/// The steps of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It has a grant. Its reboot must begin before `not_after`.
    Granted {
        /// The close of the window, where there is one.
        not_after: Option<DateTime<Utc>>,
    },
    /// It is cordoned; its image is staged.
    Cordoned,
    /// No pod is left that may not stay.
    Drained,
    /// It has the reboot permit.
    Reboots,
    /// It is back, Ready, on the target.
    Back,
    /// It is uncordoned.
    Uncordoned,
    /// The attempt has failed; what it changed is being undone.
    Failed {
        /// Why.
        reason: FailureReason,
        /// In words.
        message: String,
    },
    /// The attempt is taken back; what it changed is being undone.
    Withdrawn {
        /// Why.
        message: String,
    },
    /// It is updated, and has no grant any more.
    Updated,
    /// It has no grant any more, and is not updated.
    Released,
    /// The node is gone, and its grant with it.
    Gone,
    /// The ledger was lost, and its grant is made anew.
    Rebuilt {
        /// How far it is taken to be.
        phase: GrantPhase,
    },
}

/// Writes the timeline.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    /// What has happened so far.
    pub timeline: Vec<Moment>,
    phases: BTreeMap<String, Phase>,
    waits: BTreeMap<String, Verdict>,
}

impl Recorder {
    fn add(&mut self, cluster: &Cluster, what: What) {
        self.timeline.push(Moment {
            at: cluster.now,
            what,
        });
    }

    fn step(&mut self, cluster: &Cluster, uid: &str, grant: &Grant, step: Step) {
        let attempt = attempt(cluster, uid, grant);
        self.add(
            cluster,
            What::Step {
                node: grant.node.clone(),
                attempt,
                step,
            },
        );
    }

    fn happened(&mut self, cluster: &Cluster, node: Option<&String>, text: String) {
        let node = node.cloned();
        self.add(cluster, What::Happened { node, text });
    }

    /// How every plan stands.
    fn look(&mut self, cluster: &Cluster) {
        for plan in &cluster.world.plans {
            let own = cluster
                .last
                .verdicts
                .iter()
                .filter(|verdict| *verdict.plan == *plan.name);
            let what = What::Status {
                plan: plan.name.clone(),
                status: Box::new(plan.status.clone()),
                verdicts: own.map(|v| (v.node.clone(), v.verdict.clone())).collect(),
            };
            self.add(cluster, what);
        }
    }
}

impl Observer for Recorder {
    fn ledger(&mut self, cluster: &Cluster, change: &LedgerChange) {
        let before = cluster.world.ledger.as_ref();
        for event in change.events.iter().filter(|event| event.node.is_none()) {
            let (plan, note) = (event.plan.clone(), event.note.clone());
            self.add(cluster, What::Event { plan, note });
        }
        for (uid, grant) in before.iter().flat_map(|ledger| &ledger.grants) {
            let Some(now) = change.spec.grants.get(uid) else {
                let step = if !cluster.nodes.contains_key(uid) {
                    Step::Gone
                } else if grant.phase == GrantPhase::Monitoring && grant.ending.is_none() {
                    // That it is up to date needs no saying any more.
                    self.waits.insert(grant.node.clone(), Verdict::UpToDate);
                    Step::Updated
                } else {
                    Step::Released
                };
                self.step(cluster, uid, grant, step);
                continue;
            };
            match (&grant.ending, &now.ending) {
                (None, Some(ending)) => {
                    let message = ending.message.clone();
                    let step = match ending.failure {
                        Some(reason) => Step::Failed { reason, message },
                        None => Step::Withdrawn { message },
                    };
                    self.step(cluster, uid, now, step);
                }
                _ if grant.phase == now.phase => {}
                _ if now.phase == GrantPhase::Drained => self.step(cluster, uid, now, Step::Drained),
                _ if now.phase == GrantPhase::Monitoring => self.step(cluster, uid, now, Step::Back),
                _ => {}
            }
        }
        let known = |uid: &String| before.is_some_and(|ledger| ledger.grants.contains_key(uid));
        for (uid, grant) in change.spec.grants.iter().filter(|(uid, _)| !known(uid)) {
            let step = match before {
                Some(_) => Step::Granted {
                    not_after: grant.not_after,
                },
                None => Step::Rebuilt { phase: grant.phase },
            };
            self.step(cluster, uid, grant, step);
        }
    }

    fn action(&mut self, cluster: &Cluster, action: &Action) {
        let (name, step, done) = match action {
            Action::Cordon { node, .. } => (node, Some(Step::Cordoned), "cordoned without a grant"),
            Action::Uncordon { node, .. } => (node, Some(Step::Uncordoned), "uncordoned, as it has no grant"),
            Action::SetShadow { node, spec } => {
                let before = cluster.node(node).and_then(|node| node.shadow.as_ref());
                let noted = before.is_some_and(|before| before.spec.failure != spec.failure);
                let ahead = before.is_some_and(|before| before.spec.stage != spec.stage);
                let done = match &spec.stage {
                    _ if noted => "its failure is noted",
                    Some(_) if ahead => "told to download ahead of its turn",
                    None if ahead => "told not to download ahead of its turn",
                    _ => "set to Idle, as it has no grant",
                };
                (node, None, done)
            }
            Action::RemoveFinalizer { plan } if cluster.plan(plan).is_some_and(|plan| plan.deleting) => {
                let (plan, note) = (plan.clone(), "the plan is gone".to_owned());
                return self.add(cluster, What::Event { plan, note });
            }
            Action::AddFinalizer { .. } | Action::RemoveFinalizer { .. } => return,
        };
        let uid = cluster.node(name).map(|node| node.uid.as_str());
        let grant = uid.and_then(|uid| Some((uid, cluster.world.ledger.as_ref()?.grants.get(uid)?)));
        match (grant, step) {
            (Some((uid, grant)), Some(step)) => self.step(cluster, uid, grant, step),
            (Some(_), None) => {}
            (None, _) => {
                let node = name.clone();
                self.add(cluster, What::Done { node, done });
            }
        }
    }

    fn status(&mut self, cluster: &Cluster, plan: &PlanFacts, new: &UpdatePlanStatus) {
        let Some(phase) = new.phase else { return };
        if self.phases.insert(plan.name.clone(), phase) != Some(phase) {
            let what = What::Phase {
                plan: plan.name.clone(),
                phase,
                message: new.message.clone().unwrap_or_default(),
            };
            self.add(cluster, what);
        }
    }

    fn permitted(&mut self, cluster: &Cluster, node: &NodeFacts) {
        let ledger = cluster.world.ledger.as_ref();
        if let Some(grant) = ledger.and_then(|ledger| ledger.grants.get(&node.uid)) {
            self.step(cluster, &node.uid, grant, Step::Reboots);
        }
    }

    fn happens(&mut self, cluster: &Cluster, what: &Happening) {
        match what {
            Happening::Look => self.look(cluster),
            Happening::Node { node, what } => self.happened(cluster, Some(node), what.to_string()),
            Happening::Join(machine) => {
                let text = format!("joins, runs {}", machine.version);
                self.happened(cluster, Some(&machine.name), text);
            }
            Happening::Apply { plan, .. } if cluster.plan(plan).is_some() => {
                self.happened(cluster, None, format!("plan {plan} is edited"));
            }
            what => self.happened(cluster, None, what.to_string()),
        }
    }

    fn settled(&mut self, cluster: &Cluster) {
        let mut waits = BTreeMap::new();
        for found in &cluster.last.verdicts {
            if matches!(found.verdict, Verdict::OtherPlan { .. }) {
                continue;
            }
            let before = self.waits.remove(&found.node);
            if before.is_none_or(|before| !same(&before, &found.verdict)) {
                let what = What::Waits {
                    node: found.node.clone(),
                    plan: found.plan.to_string(),
                    verdict: found.verdict.clone(),
                };
                self.add(cluster, what);
            }
            waits.insert(found.node.clone(), found.verdict.clone());
        }
        self.waits = waits;
    }
}

/// Whether a person would call the two the same reason: which nodes spend a budget changes all the time.
fn same(before: &Verdict, now: &Verdict) -> bool {
    match (before, now) {
        (
            Verdict::BudgetSpent {
                max: a, limit: of_a, ..
            },
            Verdict::BudgetSpent {
                max: b, limit: of_b, ..
            },
        ) => (a, of_a) == (b, of_b),
        _ => before == now,
    }
}

fn attempt(cluster: &Cluster, uid: &str, grant: &Grant) -> Attempt {
    let plan = cluster.world.plans.iter().find(|plan| plan.uid == grant.plan);
    let entry = || cluster.world.ledger.as_ref()?.plans.get(&grant.plan);
    Attempt {
        node_uid: uid.to_owned(),
        plan: plan
            .map(|plan| plan.name.clone())
            .or_else(|| entry().map(|entry| entry.name.clone()))
            .unwrap_or_else(|| grant.plan.clone()),
        run: grant.run.clone(),
        wave: grant.wave.clone(),
        number: grant.attempt,
    }
}
