//! The model: tables of values, the first state, and what can happen in a state.

use agent::{Timings, memory::Now};
use api::{
    BottlerocketShadow, UpdatePlan,
    ledger::{Grant, PlanEntry, UpdateLedgerSpec},
};
use k8s_openapi::api::core::v1::Node;

use crate::{
    actors::{Agent, Ghost, Request},
    agents::{Acted, Acting},
    config::Config,
    host::Host,
    normal::Normal,
    objects::{self, node_name, plan_name},
    oracle,
    rounds::{Round, Seen},
    state::{self, Id, NODES, PLANS, State},
    steps::{Next, Step},
    table::{Memo, Table},
    time::{at, elapsed},
};

use std::{sync::Arc, time::Duration};

/// The model of one configuration.
pub struct Model {
    /// What it is about.
    pub config: Config,
    /// How values are told.
    pub normal: Normal,
    pub(crate) plans: Table<UpdatePlan>,
    pub(crate) rests: Table<UpdateLedgerSpec>,
    pub(crate) entries: Table<PlanEntry>,
    pub(crate) grants: Table<Grant>,
    pub(crate) nodes: Table<Node>,
    pub(crate) shadows: Table<BottlerocketShadow>,
    pub(crate) hosts: Table<Host>,
    pub(crate) agents: Table<Agent>,
    pub(crate) requests: Table<Request>,
    pub(crate) ghosts: Table<Ghost>,
    pub(crate) cordons: Table<String>,
    pub(crate) rounds: Memo<Seen, Arc<Round>>,
    pub(crate) acted: Memo<Acting, Arc<Vec<Acted>>>,
    pub(crate) timings: Timings,
}

impl Model {
    /// The model of a configuration; with `normal`, values are told as far as they matter.
    ///
    /// # Errors
    /// Where the configuration does not fit.
    pub fn new(config: Config, normal: bool) -> anyhow::Result<Self> {
        config.check().map_err(anyhow::Error::msg)?;
        let normal = Normal {
            ages: config.ages(),
            last: config.last_tick(),
            finishes: config.plans.iter().any(|plan| plan.finish),
            late: config.sees_late(),
            on: normal,
        };
        Ok(Self {
            config,
            normal,
            plans: Table::default(),
            rests: Table::default(),
            entries: Table::default(),
            grants: Table::default(),
            nodes: Table::default(),
            shadows: Table::default(),
            hosts: Table::default(),
            agents: Table::default(),
            requests: Table::default(),
            ghosts: Table::default(),
            cordons: Table::default(),
            rounds: Memo::default(),
            acted: Memo::default(),
            // Shorter than a tick, and a report that waits may here come at any time anyway.
            timings: Timings {
                monitoring_report: Duration::ZERO,
                ..Timings::default()
            },
        })
    }

    /// The first state: plans and nodes as they are created, an empty ledger, agents that have reported.
    ///
    /// # Errors
    /// Where the configuration says nothing sensible.
    pub fn first(&self) -> anyhow::Result<State> {
        let mut state = State::default();
        for p in 0..self.config.plans.len() {
            state.plans[p] = self.plans.id(objects::plan(&self.config, p)?);
        }
        state.ledger = self.ledger_ids(&UpdateLedgerSpec::default(), 0);
        for n in 0..self.config.nodes {
            let host = Host::default();
            let node = &mut state.nodes[n];
            node.object = self.nodes.id(self.normal.node(objects::node(n, &host)?, 0));
            node.shadow = self.shadows.id(self.normal.shadow(objects::shadow(n, &host)?, 0));
            node.host = self.hosts.id(host);
            node.agent = self.agents.id(self.normal.agent(Agent::default(), 0));
            node.ghost = self.ghosts.id(Ghost::default());
            node.pods = 1;
            self.settle_agent(&mut state, n)?;
        }
        Ok(state)
    }

    /// Has an agent do what it does by itself before anything is asked of it.
    fn settle_agent(&self, state: &mut State, n: usize) -> anyhow::Result<()> {
        for _ in 0..50 {
            let mut next = Next::default();
            self.agent_steps(state, n, &mut next);
            self.machine_steps(state, n, &mut next);
            let Some((_, after)) = next.steps.into_iter().find(|(step, _)| step.is_regular()) else {
                return Ok(());
            };
            *state = after;
        }
        anyhow::bail!("the agent of node {n} never comes to rest")
    }

    /// What can happen next.
    #[must_use]
    pub fn next(&self, state: &State) -> Next {
        let mut next = Next::default();
        for c in 0..self.config.controllers {
            self.controller_steps(state, c, &mut next);
        }
        self.late_steps(state, &mut next);
        for n in 0..self.config.nodes {
            self.permit_steps(state, n, &mut next);
            self.agent_steps(state, n, &mut next);
            self.machine_steps(state, n, &mut next);
        }
        self.people_steps(state, &mut next);
        for (_, after) in &mut next.steps {
            self.forget_which(after);
            self.forget_versions(after);
        }
        next.push(state, Step::Tick, Ok(self.tick(state)));
        if next.broken.is_none() {
            let broken = next
                .steps
                .iter()
                .find_map(|(step, after)| Some((*step, oracle::holds(self, after).err()?)));
            next.broken = broken;
        }
        next
    }

    /// Time passes, unless a request would have to outlive its time-out for it.
    fn tick(&self, state: &State) -> State {
        let swaps = || {
            state
                .controllers
                .iter()
                .map(|c| &c.swap)
                .chain([&state.late_swap])
                .filter(|swap| swap.sent)
        };
        let writes = || {
            state
                .controllers
                .iter()
                .flat_map(|c| &c.writes)
                .chain(&state.late)
        };
        if !self.config.ticks
            || swaps().any(|swap| swap.aged || swap.grants)
            || writes().any(|write| write.key != 0 && write.aged)
        {
            return *state;
        }
        let mut after = self.told_at(self, state, state.now + 1);
        for node in after.nodes.iter_mut().take(self.config.nodes) {
            if let Some(ghost) = self.ghosts.get(node.ghost).filter(|ghost| ghost.recent) {
                node.ghost = self.ghosts.id(Ghost {
                    recent: false,
                    ..(*ghost).clone()
                });
            }
        }
        for controller in &mut after.controllers {
            controller.fresh = false;
            controller.swap.aged = controller.swap.sent;
            for write in &mut controller.writes {
                write.aged = write.key != 0;
            }
        }
        after.late_swap.aged = after.late_swap.sent;
        for write in &mut after.late {
            write.aged = write.key != 0;
        }
        after
    }

    /// A state of `from`, whose values are told as this model tells them, at `now`.
    #[must_use]
    pub fn told(&self, from: &Self, state: &State) -> State {
        self.told_at(from, state, state.now)
    }

    fn told_at(&self, from: &Self, state: &State, now: u16) -> State {
        let mut told = *state;
        told.now = self.normal.now(now);
        let same = std::ptr::eq(self, from);
        let plan = |id: &mut Id| {
            if !same {
                *id = from
                    .plans
                    .get(*id)
                    .map_or(0, |plan| self.plans.id((*plan).clone()));
            }
        };
        let node = |id: &mut Id| {
            *id = self.carried(&self.nodes, &from.nodes, *id, now, |n| self.normal.node(n, now))
        };
        let shadow = |id: &mut Id| {
            *id = self.carried(&self.shadows, &from.shadows, *id, now, |s| {
                self.normal.shadow(s, now)
            })
        };
        let ledger = |ledger: &mut state::Ledger| {
            let rest = from.rests.get(ledger.rest).filter(|_| !same);
            let unknown = if same { ledger.rest } else { 0 };
            ledger.rest = rest.map_or(unknown, |rest| self.rests.id((*rest).clone()));
            for entry in &mut ledger.entries {
                *entry = self.carried(&self.entries, &from.entries, *entry, now, |e| {
                    self.normal.entry(e, now)
                });
            }
            for grant in &mut ledger.grants {
                *grant = self.carried(&self.grants, &from.grants, *grant, now, |g| {
                    self.normal.grant(g, now)
                });
            }
        };
        let write = |write: &mut state::Write| match state::Key::of(write.key) {
            Some(state::Key::Plan(_)) => plan(&mut write.id),
            Some(state::Key::Node(_)) => node(&mut write.id),
            Some(state::Key::Shadow(_)) => shadow(&mut write.id),
            None => {}
        };
        told.plans.iter_mut().for_each(plan);
        ledger(&mut told.ledger);
        for facts in &mut told.nodes {
            node(&mut facts.object);
            shadow(&mut facts.shadow);
            facts.host = self.carried(&self.hosts, &from.hosts, facts.host, 0, |host| host);
            facts.agent = self.carried(&self.agents, &from.agents, facts.agent, now, |a| {
                self.normal.agent(a, now)
            });
            facts.ghost = self.carried(&self.ghosts, &from.ghosts, facts.ghost, now, |g| {
                self.normal.ghost(g, now)
            });
            for asked in &mut facts.asked {
                asked.id = self.carried(&self.requests, &from.requests, asked.id, now, |mut request| {
                    if let Some(swap) = request.found.as_mut().and_then(|found| found.swap.as_mut()) {
                        ledger(swap);
                    }
                    self.normal.request(request, now)
                });
            }
        }
        for controller in &mut told.controllers {
            controller.plans.iter_mut().for_each(plan);
            controller.nodes.iter_mut().for_each(node);
            controller.shadows.iter_mut().for_each(shadow);
            controller.ledger.iter_mut().for_each(ledger);
            ledger(&mut controller.swap.ledger);
            controller.writes.iter_mut().for_each(write);
            for drain in &mut controller.drains {
                drain.cordon = self.carried(&self.cordons, &from.cordons, drain.cordon, 0, |cordon| cordon);
            }
        }
        told.late.iter_mut().for_each(write);
        ledger(&mut told.late_swap.ledger);
        self.forget_which(&mut told);
        self.forget_versions(&mut told);
        told
    }

    /// A value of a table of another model, or of this one, as it is told at `now`.
    fn carried<T: crate::table::Distinct + Clone>(
        &self,
        into: &Table<T>,
        from: &Table<T>,
        id: Id,
        now: u16,
        tell: impl FnOnce(T) -> T,
    ) -> Id {
        if std::ptr::eq(into, from) {
            into.aged(id, now, tell)
        } else {
            from.get(id).map_or(0, |value| into.id(tell((*value).clone())))
        }
    }

    /// The ledger, put together.
    #[must_use]
    pub(crate) fn ledger_spec(&self, ids: &state::Ledger) -> Option<UpdateLedgerSpec> {
        let mut spec = (*self.rests.get(ids.rest)?).clone();
        for (p, id) in ids.entries.iter().enumerate() {
            if let Some(entry) = self.entries.get(*id) {
                spec.plans.insert(plan_name(p), (*entry).clone());
            }
        }
        for (n, id) in ids.grants.iter().enumerate() {
            if let Some(grant) = self.grants.get(*id) {
                spec.grants.insert(node_name(n), (*grant).clone());
            }
        }
        Some(spec)
    }

    /// The ledger, taken apart.
    pub(crate) fn ledger_ids(&self, spec: &UpdateLedgerSpec, now: u16) -> state::Ledger {
        let rest = UpdateLedgerSpec {
            plans: Default::default(),
            grants: Default::default(),
            ..spec.clone()
        };
        let mut ids = state::Ledger {
            rest: self.rests.id(rest),
            ..state::Ledger::default()
        };
        for p in 0..PLANS {
            if let Some(entry) = spec.plans.get(&plan_name(p)) {
                ids.entries[p] = self.entries.id(self.normal.entry(entry.clone(), now));
            }
        }
        for n in 0..NODES {
            if let Some(grant) = spec.grants.get(&node_name(n)) {
                ids.grants[n] = self.grants.id(self.normal.grant(grant.clone(), now));
            }
        }
        ids
    }

    /// Stores a node's agent.
    pub(crate) fn set_agent(&self, state: &mut State, n: usize, agent: Agent) {
        state.nodes[n].agent = self.agents.id(self.normal.agent(agent, state.now));
    }

    /// Changes what the checks remember of a node.
    pub(crate) fn remember(&self, state: &mut State, n: usize, change: impl FnOnce(&mut Ghost)) {
        let mut ghost = self
            .ghosts
            .get(state.nodes[n].ghost)
            .map(|ghost| (*ghost).clone())
            .unwrap_or_default();
        change(&mut ghost);
        state.nodes[n].ghost = self.ghosts.id(self.normal.ghost(ghost, state.now));
    }

    /// The time, by both of an agent's clocks.
    pub(crate) fn agent_now(now: u16) -> Now {
        Now {
            elapsed: elapsed(now),
            wall: at(now),
        }
    }

    /// How many values of each kind there are.
    #[must_use]
    pub fn sizes(&self) -> String {
        format!(
            "{} plans, {} entries, {} grants, {} nodes, {} shadows, {} hosts, {} agents, {} requests, {} ghosts, {} rounds, {} acts",
            self.plans.len(),
            self.entries.len(),
            self.grants.len(),
            self.nodes.len(),
            self.shadows.len(),
            self.hosts.len(),
            self.agents.len(),
            self.requests.len(),
            self.ghosts.len(),
            self.rounds.len(),
            self.acted.len()
        )
    }

    /// Whether a fault may still happen.
    pub(crate) fn may_go_wrong(&self, state: &State, fault: crate::config::Fault) -> bool {
        state.faults[fault as usize] < self.config.bound(fault)
            && state.faults_in_all() < self.config.faults_in_all
    }
}
