//! The one function that decides, and the order in which it does.

use std::collections::{BTreeSet, HashMap, HashSet};

use api::ledger::{Ending, Grant, GrantPhase, UpdateLedgerSpec};
use api::offer::is_older;
use api::shadow::{BottlerocketShadowSpec, NodeState};
use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    actions,
    ahead::{self, Ahead},
    decisions::{Action, Decisions, DrainOrder, Event, LedgerChange, PlanStatus},
    entries,
    machine::{self, Change, Granted},
    owners::{self, Marked, Owned},
    pace, rebuild, report, rollout,
    spec::Limits,
    targets,
    windows::WindowState,
    world::{NodeFacts, World},
};

/// A clock that disagrees with the Kubernetes API's by this much grants nothing.
pub(crate) const MAX_CLOCK_SKEW: TimeDelta = TimeDelta::seconds(30);

/// Why a grant is taken back where nothing else is wrong than the time.
const WINDOW_CLOSED: &str = "the window is closed";

/// Decides what is to be done at `now` in `world`. Pure: the same arguments give the same answer, in whatever order
/// plans and nodes are listed.
///
/// Where this clock and the Kubernetes API's are known to disagree, the API's counts: nothing is granted then, but what
/// was granted before must still not be cordoned outside its window.
pub fn plan(now: DateTime<Utc>, world: &World) -> Decisions {
    let wrong = world
        .clock_skew
        .filter(|skew| skew.abs() >= MAX_CLOCK_SKEW)
        .unwrap_or_default();
    let mut decisions = decide(now - wrong, world);
    decisions.look_again = decisions.look_again.map(|at| at + wrong);
    decisions
}

fn decide(now: DateTime<Utc>, world: &World) -> Decisions {
    let Some(ledger) = &world.ledger else {
        return rebuild::rebuild(now, world);
    };
    if entries::is_ahead(world, ledger) {
        return Decisions::default();
    }
    let (plans, marked) = owners::owned(now, world, ledger);
    let mut planning = Planning::new(now, world, ledger, marked);
    for owned in &plans {
        entries::record(&mut planning, owned);
        actions::take(&mut planning, owned);
    }
    entries::forget(&mut planning);
    planning.step_grants(&plans);
    planning.repair();
    planning.count_down();
    let looked = rollout::look(&mut planning, &plans);
    let rollouts: Vec<_> = plans
        .iter()
        .zip(looked)
        .map(|(owned, looked)| rollout::rollout(&mut planning, owned, looked))
        .collect();
    planning.finish(&plans, rollouts)
}

/// Whether the node was cordoned for this grant inside a window, and its plan lets it finish after it.
fn may_finish(grant: &Grant, node: &NodeFacts, owned: &Owned<'_>) -> bool {
    let cordon = node.disruption.as_ref();
    let ours = cordon.filter(|cordon| cordon.run == grant.run && cordon.attempt == grant.attempt);
    owned.valid.as_ref().is_ok_and(|valid| valid.may_finish(ours))
}

/// An answer in the making.
pub(crate) struct Planning<'a> {
    pub now: DateTime<Utc>,
    pub world: &'a World,
    /// The ledger as it is to be.
    pub ledger: UpdateLedgerSpec,
    /// Whether the ledger changes by what the nodes are like now.
    pub by_fresh_nodes: bool,
    pub actions: Vec<Action>,
    unexplained: BTreeSet<String>,
    pub events: Vec<Event>,
    /// What each granted node does, by node UID.
    pub doing: HashMap<String, String>,
    drains: Vec<DrainOrder>,
    look_again: Option<DateTime<Utc>>,
    /// What was found as all nodes were gone through.
    pub marked: Marked<'a>,
    /// The install's own limit, and the nodes without a grant that spend it.
    pub install: Option<(usize, Vec<String>)>,
    /// Who downloads ahead of its turn.
    pub ahead: Ahead,
    /// The nodes with pods of the operator itself that are being updated.
    pub hosts: Vec<String>,
    /// How many nodes will be granted as soon as their plans have their finalizers.
    pub starting: usize,
}

impl<'a> Planning<'a> {
    fn new(now: DateTime<Utc>, world: &'a World, ledger: &UpdateLedgerSpec, marked: Marked<'a>) -> Self {
        Self {
            now,
            world,
            ledger: ledger.clone(),
            by_fresh_nodes: false,
            actions: Vec::new(),
            unexplained: BTreeSet::new(),
            events: Vec::new(),
            doing: HashMap::new(),
            drains: Vec::new(),
            look_again: None,
            install: None,
            ahead: Ahead::new(now, world, &marked),
            marked,
            hosts: Vec::new(),
            starting: 0,
        }
    }

    /// Takes the install's own limit over from the settings, and counts who spends it.
    fn count_down(&mut self) {
        let world = self.world;
        // Its pods may have left it by now, which is no reason to take the next one too.
        let of_host = |node: &&&NodeFacts| {
            let grant = self.ledger.grants.get(&node.uid);
            grant.is_some_and(|grant| grant.hosts_operator || node.hosts_operator)
        };
        self.hosts = self
            .marked
            .granted
            .values()
            .filter(of_host)
            .map(|node| rollout::being_updated(node))
            .collect();
        self.hosts.sort();
        if world.settings.max_unavailable.is_some() {
            self.ledger.max_unavailable = world.settings.max_unavailable;
        }
        let Some(limit) = self.ledger.max_unavailable else {
            return;
        };
        let taking_part = || world.nodes.iter().filter(|node| owners::takes_part(node));
        let down = taking_part().filter(|node| !self.ledger.grants.contains_key(&node.uid));
        let mut down: Vec<String> = down.filter_map(rollout::is_down).collect();
        down.sort();
        self.install = Some((limit.at_most(taking_part().count()), down));
    }

    /// Time alone changes the answer at `at`.
    pub fn wake(&mut self, at: DateTime<Utc>) {
        if at > self.now {
            self.look_again = Some(self.look_again.map_or(at, |earlier| earlier.min(at)));
        }
    }

    pub fn event(
        &mut self,
        plan: &str,
        node: Option<&str>,
        reason: &'static str,
        note: String,
        warning: bool,
    ) {
        self.events.push(Event {
            plan: plan.to_owned(),
            node: node.map(str::to_owned),
            reason,
            note,
            warning,
        });
    }

    /// Takes every granted node one step on.
    fn step_grants(&mut self, plans: &[Owned<'_>]) {
        let by_uid: HashMap<&str, &Owned<'_>> = plans.iter().map(|p| (p.facts.uid.as_str(), p)).collect();
        let grants: Vec<(String, Grant)> = self
            .ledger
            .grants
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        for (uid, grant) in grants {
            let owned = by_uid.get(grant.plan.as_str()).copied();
            let plan_name = owned.map(|owned| owned.facts.name.clone()).unwrap_or_else(|| {
                let entry = self.ledger.plans.get(&grant.plan);
                entry.map_or_else(|| grant.plan.clone(), |entry| entry.name.clone())
            });
            let Some(node) = self.marked.granted.get(uid.as_str()).copied() else {
                self.ledger.release(&uid);
                let note = format!("node {} is gone; its grant is released", grant.node);
                self.event(&plan_name, Some(&grant.node), "NodeGone", note, true);
                continue;
            };
            let edited = owned.is_some_and(|owned| grant.generation != owned.facts.generation);
            let grant = self.refresh(&uid, grant, node, owned);
            let entry = self
                .ledger
                .plans
                .get(&grant.plan)
                .filter(|entry| entry.run == grant.run);
            let withdraw = self.why_withdraw(&grant, node, owned);
            let step = machine::step(&Granted {
                now: self.now,
                settings: &self.world.settings,
                grant: &grant,
                node,
                plan: &plan_name,
                // Also where its plan has become invalid: what is on its way goes on as it was begun.
                limits: &owned.map_or_else(Limits::default, |owned| Limits::of(&owned.facts.spec)),
                retried_at: entry.and_then(|entry| entry.actions.retried_at),
                outlasts: withdraw.as_deref() == Some(WINDOW_CLOSED)
                    && !edited
                    && grant.not_after.is_some_and(|at| self.now >= at),
                withdraw,
            });
            if let Some(at) = step.wake {
                self.wake(at);
            }
            if let (Some(not_after), GrantPhase::Granted | GrantPhase::Drained) =
                (grant.not_after, grant.phase)
            {
                self.wake(not_after);
            }
            if let (Some(WindowState::Open { closes, .. }), GrantPhase::Granted | GrantPhase::Drained) =
                (owned.map(|owned| &owned.window), grant.phase)
            {
                self.wake(*closes);
            }
            for action in step.action.into_iter().chain(step.beside) {
                if !machine::explains(&grant, node, &action) {
                    self.unexplained.insert(node.name.clone());
                }
                self.actions.push(action);
            }
            self.drains.extend(step.drain.map(|cordoned_at| DrainOrder {
                node: node.name.clone(),
                uid: uid.clone(),
                cordoned_at,
            }));
            let drained = step.change == Some(Change::Drained);
            if let Some(change) = step.change {
                self.apply(&uid, &grant, &plan_name, change);
            }
            // From here on the permit is the apiserver's to give, whether or not anyone is here when the window closes.
            if drained
                && owned.is_some_and(|owned| may_finish(&grant, node, owned))
                && let Some(live) = self.ledger.grants.get_mut(&uid)
            {
                live.not_after = None;
            }
            self.doing.insert(uid, step.doing);
        }
    }

    /// Brings a grant up to date with its plan: the generation it was checked against, and when the window closes.
    fn refresh(&mut self, uid: &str, mut grant: Grant, node: &NodeFacts, owned: Option<&Owned<'_>>) -> Grant {
        let Some(owned) = owned else { return grant };
        let edited = grant.generation != owned.facts.generation;
        let over = grant.not_after.is_some_and(|not_after| self.now >= not_after);
        let before_permit = matches!(grant.phase, GrantPhase::Granted | GrantPhase::Drained);
        if before_permit && (edited || over) {
            grant.not_after = match &owned.window {
                _ if may_finish(&grant, node, owned) => None,
                // Where it is open it has passed midnight, say, into a window that follows without a gap.
                WindowState::Closed { .. } => Some(grant.not_after.unwrap_or(self.now).min(self.now)),
                open => open.not_after(self.now),
            }
        }
        if edited || over {
            grant.generation = owned.facts.generation;
            if let Some(live) = self.ledger.grants.get_mut(uid) {
                live.generation = grant.generation;
                live.not_after = grant.not_after;
            }
        }
        grant
    }

    fn why_withdraw(&self, grant: &Grant, node: &NodeFacts, owned: Option<&Owned<'_>>) -> Option<String> {
        if self.ledger.stop {
            return Some("the install is stopped".to_owned());
        }
        let Some(owned) = owned else {
            return Some("the plan is gone".to_owned());
        };
        if owned.facts.deleting {
            return Some("the plan is being deleted".to_owned());
        }
        let valid = match &owned.valid {
            Ok(valid) => valid,
            Err(invalid) => return Some(format!("the plan has become invalid: {invalid}")),
        };
        let entry = self.ledger.plans.get(&grant.plan);
        if valid.paused {
            Some("the plan is paused".to_owned())
        } else if entry.is_some_and(|entry| entry.halted) {
            Some("the plan is halted".to_owned())
        } else if entry.is_none_or(|entry| {
            let target = targets::of(valid, &entry.targets, node);
            entry.run != grant.run || target.is_some_and(|target| target != grant.to)
        }) {
            let targets = entry.map_or(&[][..], |entry| entry.targets.as_slice());
            let target = targets::of(valid, targets, node);
            let target = target.as_deref().unwrap_or(&valid.target);
            Some(format!("the target is now {target}"))
        } else if is_older(&grant.to, &grant.from) && !valid.allow_downgrade {
            Some(format!(
                "{} is older than {}, and allowDowngrade is off",
                grant.to, grant.from
            ))
        } else if !valid.selects(&node.labels) || !owners::takes_part(node) {
            Some("the plan no longer selects the node".to_owned())
        } else if let Some(why) = &node.opt_out {
            Some(format!("the node has opted out: {why}"))
        } else if grant.not_after.is_some_and(|not_after| self.now >= not_after)
            // Whatever the grant says: the plan's windows count.
            || (matches!(owned.window, WindowState::Closed { .. }) && !may_finish(grant, node, owned))
        {
            Some(WINDOW_CLOSED.to_owned())
        } else {
            None
        }
    }

    fn apply(&mut self, uid: &str, grant: &Grant, plan: &str, change: Change) {
        let node = Some(grant.node.as_str());
        // The machine offers only changes that the phase allows; should that ever be wrong, the grant stays as it is.
        let _illegal = match change {
            Change::Drained => self.ledger.drained(uid, self.now),
            Change::Monitoring { lasts } => {
                // Where nothing is monitored, that it is updated follows at once.
                if lasts {
                    let note = format!("node {} has rebooted into {}", grant.node, grant.to);
                    self.event(plan, node, "NodeRebooted", note, false);
                }
                self.ledger.monitoring(uid, self.now)
            }
            Change::End(ending) => {
                self.announce(grant, plan, &ending);
                self.ledger.end(uid, ending)
            }
            Change::Release { updated } => {
                self.ledger.release(uid);
                if updated {
                    if let Some(entry) = self.ledger.plans.get_mut(&grant.plan)
                        && !grant.rebuilt
                    {
                        pace::learn(entry, self.now - grant.granted_at);
                    }
                    let note = format!(
                        "node {} is updated from {} to {}",
                        grant.node, grant.from, grant.to
                    );
                    self.event(plan, node, "NodeUpdated", note, false);
                }
                Ok(())
            }
        };
    }

    fn announce(&mut self, grant: &Grant, plan: &str, ending: &Ending) {
        let node = Some(grant.node.as_str());
        match ending
            .failure
            .filter(|failure| failure.counts() || failure.leaves_alone())
        {
            Some(reason) if reason.leaves_alone() => {
                let note = format!("node {} is left alone ({reason}): {}", grant.node, ending.message);
                self.event(plan, node, "NodeSkipped", note, true);
            }
            Some(failure) => {
                let note = format!("node {} failed ({failure}): {}", grant.node, ending.message);
                self.event(plan, node, "NodeFailed", note, true);
            }
            None => {
                let note = format!("node {} goes back to Idle: {}", grant.node, ending.message);
                self.event(plan, node, "NodeWithdrawn", note, false);
            }
        }
    }

    /// Undoes what is on nodes without a grant: a crash, or a late write of a former leader, left it behind.
    fn repair(&mut self) {
        for node in std::mem::take(&mut self.marked.touched) {
            if self.ledger.grants.contains_key(&node.uid) {
                continue;
            }
            if let Some(shadow) = &node.shadow {
                let idle = BottlerocketShadowSpec {
                    state: NodeState::Idle,
                    state_transition_timestamp: Some(self.now),
                    version: None,
                    downgrade: None,
                    stage: None,
                    ..shadow.spec.clone()
                };
                let answered = shadow.spec.state != NodeState::ErrorReset || machine::acknowledged(shadow);
                if shadow.spec.state != NodeState::Idle && answered {
                    self.unexplained.insert(node.name.clone());
                    self.actions.push(Action::SetShadow {
                        node: node.name.clone(),
                        spec: idle,
                    });
                    continue;
                }
            }
            // Settings and boot flag first, as on the regular way out; but a silent agent keeps no node cordoned.
            // Where somebody has uncordoned it there is nothing to wait for: the next cordon would not be ours.
            let undone = !node.unschedulable || node.shadow.as_ref().is_none_or(machine::acknowledged);
            if let Some(disruption) = node.disruption.as_ref().filter(|_| undone || !node.agent.ready) {
                self.unexplained.insert(node.name.clone());
                self.actions.push(Action::Uncordon {
                    node: node.name.clone(),
                    disruption: disruption.clone(),
                });
            }
        }
    }

    fn finish(mut self, plans: &[Owned<'_>], rollouts: Vec<rollout::Rollout<'_>>) -> Decisions {
        self.finalizers(plans);
        ahead::take_back(&mut self);
        let written = self.world.ledger.as_ref() == Some(&self.ledger);
        let mut decisions = Decisions::default();
        if written {
            let status = |(owned, rollout): (&Owned<'_>, &rollout::Rollout<'_>)| PlanStatus {
                plan: owned.facts.name.clone(),
                status: report::status(&self, owned, rollout),
            };
            decisions.statuses = plans.iter().zip(&rollouts).map(status).collect();
            decisions.actions = self.actions;
            decisions.unexplained = self.unexplained;
            decisions.drains = self.drains;
        } else {
            decisions.ledger = Some(LedgerChange {
                spec: self.ledger,
                by_fresh_nodes: self.by_fresh_nodes,
                events: self.events,
            });
        }
        let nodes = rollouts
            .iter()
            .map(|rollout| rollout.members.len() + rollout.owned.lost.len());
        decisions.verdicts.reserve_exact(nodes.sum());
        for rollout in rollouts {
            rollout.verdicts(&mut decisions.verdicts);
        }
        decisions.look_again = self.look_again;
        decisions
    }

    /// A finalizer is there only while the plan has grants; it goes last.
    fn finalizers(&mut self, plans: &[Owned<'_>]) {
        let granted: HashSet<&str> = self
            .ledger
            .grants
            .values()
            .map(|grant| grant.plan.as_str())
            .collect();
        for owned in plans
            .iter()
            .filter(|o| o.facts.finalizer && !granted.contains(o.facts.uid.as_str()))
        {
            self.actions.push(Action::RemoveFinalizer {
                plan: owned.facts.name.clone(),
            });
        }
    }
}
