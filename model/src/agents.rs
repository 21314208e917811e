//! The agents: the real memory and step function, around a machine that is told here.

use std::sync::Arc;

use agent::{
    bottlerocket::{CallError, Command},
    step::{Step as Does, step},
};
use api::wire::{Instruction, PermitRequest};

use crate::{
    actors::{Agent, Op},
    config::{Fault, Grain},
    host::Host,
    model::Model,
    oracle,
    state::{Id, Key, State},
    steps::{Next, Step},
    time::elapsed,
};

/// What an agent decides on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Acting {
    agent: Id,
    host: Id,
    now: u16,
}

/// What comes of it.
#[derive(Clone, Debug)]
pub struct Acted {
    agent: Id,
    host: Id,
    asks: Option<PermitRequest>,
    /// What had to go wrong for it.
    fault: Option<Fault>,
}

impl Model {
    pub(crate) fn agent_steps(&self, state: &State, n: usize, next: &mut Next) {
        let node = &state.nodes[n];
        let Some(agent) = self.agents.get(node.agent) else {
            return;
        };
        match &agent.op {
            Op::Idle => {
                self.told_step(state, n, &agent, next);
                if agent.order.is_some() && !agent.memory.settled {
                    self.act_steps(state, n, next);
                }
            }
            Op::Report(_) => next.push(state, Step::Reports(n as u8), Ok(self.reported(state, n))),
            Op::Ask { .. } => {}
            Op::Reboot { until } => {
                let after = self.rebooted(state, n, elapsed(state.now) < *until);
                next.push(state, Step::Reboots(n as u8), after);
            }
        }
        if self.may_go_wrong(state, Fault::AgentRestart) {
            let mut after = *state;
            after.faults[Fault::AgentRestart as usize] += 1;
            self.start_agent(&mut after, n);
            next.push(state, Step::Goes(Fault::AgentRestart, n as u8, 0), Ok(after));
        }
    }

    /// An agent starts anew; what the one before it has asked for goes on without it.
    pub(crate) fn start_agent(&self, state: &mut State, n: usize) {
        self.stop_agent(state, n);
        self.set_agent(state, n, Agent::default());
    }

    pub(crate) fn stop_agent(&self, state: &mut State, n: usize) {
        let asked = std::mem::take(&mut state.nodes[n].asked[0]);
        if asked.id != 0 {
            state.nodes[n].asked[1] = asked;
        }
        state.nodes[n].agent = 0;
        self.remember(state, n, |ghost| ghost.leave = None);
    }

    fn told_step(&self, state: &State, n: usize, agent: &Agent, next: &mut Next) {
        let Some(shadow) = self.shadows.get(state.nodes[n].shadow) else {
            return;
        };
        if agent
            .order
            .as_ref()
            .is_some_and(|order| order.spec == shadow.spec)
        {
            return;
        }
        let order = Instruction {
            spec: shadow.spec.clone(),
            status: shadow.status.clone(),
        };
        let mut agent = agent.clone();
        agent.memory.instructed(&order);
        agent.order = Some(order);
        let mut after = *state;
        self.set_agent(&mut after, n, agent);
        if self.config.agents == Grain::Coarse {
            // That it knows shows only in what it does.
            let count = next.steps.len();
            self.act_steps(&after, n, next);
            if next.steps[count..].iter().any(|(step, _)| step.is_regular()) {
                return;
            }
        }
        next.push(state, Step::Told(n as u8), Ok(after));
    }

    fn act_steps(&self, state: &State, n: usize, next: &mut Next) {
        let acting = Acting {
            agent: state.nodes[n].agent,
            host: state.nodes[n].host,
            now: state.now,
        };
        let acted = self.acted.get(acting, || Arc::new(self.act(acting)));
        for Acted {
            agent,
            host,
            asks,
            fault,
        } in acted.iter()
        {
            let mut after = *state;
            after.nodes[n].agent = *agent;
            after.nodes[n].host = *host;
            if let Some(asks) = asks {
                self.asks(&mut after, n, asks.clone());
            }
            if self.config.agents == Grain::Coarse {
                after = self.reported(&after, n);
            }
            let step = match fault {
                None => Step::Acts(n as u8),
                Some(fault) if self.may_go_wrong(state, *fault) => {
                    after.faults[*fault as usize] += 1;
                    Step::Goes(*fault, n as u8, 0)
                }
                Some(_) => continue,
            };
            next.push(state, step, Ok(after));
        }
    }

    /// One look and what follows; with coarse steps, everything up to what others can see.
    fn act(&self, acting: Acting) -> Vec<Acted> {
        let (Some(agent), Some(host)) = (self.agents.get(acting.agent), self.hosts.get(acting.host)) else {
            return Vec::new();
        };
        let mut acted = Vec::new();
        for prepares in [true, false] {
            let (mut agent, mut host) = ((*agent).clone(), (*host).clone());
            let mut failed = false;
            let mut asks = None;
            for _ in 0..100 {
                let (idle, did) = self.look(&mut agent, &mut host, acting.now);
                asks = did;
                if self.config.agents == Grain::Fine || idle {
                    break;
                }
                let fails = host.running == Some(Command::Prepare) && !prepares;
                failed |= fails;
                host.finish(!fails);
            }
            if prepares || failed {
                acted.push(Acted {
                    agent: self.agents.id(self.normal.agent(agent, acting.now)),
                    host: self.hosts.id(host),
                    asks,
                    fault: failed.then_some(Fault::PrepareFails),
                });
            }
        }
        acted
    }

    /// One look at the machine, and the one thing that comes next. True where nothing more comes of itself.
    fn look(&self, agent: &mut Agent, host: &mut Host, now: u16) -> (bool, Option<PermitRequest>) {
        let (facts, now) = (host.facts(), Self::agent_now(now));
        let Some(order) = &agent.order else {
            return (true, None);
        };
        let memory = &mut agent.memory;
        memory.saw(&facts, &self.timings, now);
        let does = step(order, memory, &facts, &self.timings, now);
        match does {
            Does::Call(call) => {
                let answer = host.call(&call);
                memory.called(&call, &answer, &facts, &self.timings, now);
                memory.forget_pace();
                return (false, None);
            }
            Does::Report(status) => agent.op = Op::Report(status),
            Does::AskPermit(request) => {
                agent.op = Op::Ask { asked: now.elapsed };
                return (true, Some(request));
            }
            Does::Reboot { until } => {
                memory.rebooting(&facts.boot_id, now);
                agent.op = Op::Reboot { until };
            }
            Does::Wait { .. } => memory.forget_pace(),
            Does::Done => memory.settled = true,
        }
        (true, None)
    }

    /// A report arrives and is answered.
    fn reported(&self, state: &State, n: usize) -> State {
        let mut after = *state;
        let (Some(agent), Some(shadow)) = (
            self.agents.get(after.nodes[n].agent),
            self.shadows.get(after.nodes[n].shadow),
        ) else {
            return after;
        };
        let Op::Report(status) = &agent.op else {
            return after;
        };
        let mut agent = (*agent).clone();
        let mut shadow = (*shadow).clone();
        shadow.status = Some((**status).clone());
        agent.memory.reported((**status).clone());
        agent.op = Op::Idle;
        self.set_agent(&mut after, n, agent);
        let id = self.shadows.id(self.normal.shadow(shadow, state.now));
        if id != after.nodes[n].shadow {
            after.write(Key::Shadow(n), id, self.config.lag(), None);
        }
        after
    }

    /// The call for the reboot is made, unless it is too late for it.
    fn rebooted(&self, state: &State, n: usize, in_time: bool) -> Result<State, String> {
        let mut after = *state;
        if in_time {
            oracle::rebooted(self, &mut after, n)?;
            self.go_down(&mut after, n);
        } else if let Some(agent) = self.agents.get(after.nodes[n].agent) {
            let mut agent = (*agent).clone();
            let late = std::io::ErrorKind::TimedOut.into();
            let answer = Err(CallError::NotSent(late));
            agent
                .memory
                .reboot_answered(&answer, &self.timings, Self::agent_now(state.now));
            agent.op = Op::Idle;
            self.set_agent(&mut after, n, agent);
        }
        Ok(after)
    }

    /// A machine goes down, and its agent with it.
    pub(crate) fn go_down(&self, state: &mut State, n: usize) {
        self.stop_agent(state, n);
        self.change_host(state, n, Host::go_down);
    }

    pub(crate) fn change_host(&self, state: &mut State, n: usize, change: impl FnOnce(&mut Host)) {
        if let Some(host) = self.hosts.get(state.nodes[n].host) {
            let mut host = (*host).clone();
            change(&mut host);
            state.nodes[n].host = self.hosts.id(host);
        }
    }
}
