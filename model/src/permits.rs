//! The apiservers, as far as permits go: each request reads the ledger, then the node, then writes, then answers. Any
//! number of replicas serve; between any two steps anything may happen.

use api::wire::{PermitRequest, PermitResponse};
use apiserver::permit::{admit, check_node, response};

use crate::{
    actors::{Agent, Found, Leave, Op, Request},
    config::{Fault, Grain},
    model::Model,
    objects::{self, VERSION, node_name},
    oracle,
    state::{Asked, Ledger, State},
    steps::{Next, Step},
    time::at,
};

/// What becomes of a request.
enum Course {
    /// It goes on.
    On(Box<Request>),
    /// It is answered; None: refused.
    Answered(Option<PermitResponse>, Option<api::ledger::PermitRefusal>),
}

impl Model {
    /// Takes in a request of a node's agent.
    pub(crate) fn asks(&self, state: &mut State, n: usize, sent: PermitRequest) {
        let request = Request { sent, found: None };
        state.nodes[n].asked[0] = Asked {
            id: self.requests.id(request),
            unchanged: false,
        };
    }

    pub(crate) fn permit_steps(&self, state: &State, n: usize, next: &mut Next) {
        for slot in 0..2 {
            let Asked { id, .. } = state.nodes[n].asked[slot];
            if id == 0 {
                continue;
            }
            let (what, mut after) = self.permit_step(state, n, slot);
            if self.config.permits == Grain::Coarse {
                while let Ok(now) = &after
                    && now.nodes[n].asked[slot].id != 0
                {
                    after = self.permit_step(now, n, slot).1;
                }
            }
            next.push(state, Step::Permit(n as u8, slot as u8, what), after);
        }
        if state.nodes[n].asked[0].id != 0 && self.may_go_wrong(state, Fault::PermitLost) {
            let mut lost = *state;
            lost.faults[Fault::PermitLost as usize] += 1;
            lost.nodes[n].asked[0] = Asked::default();
            if let Some(agent) = self.agents.get(lost.nodes[n].agent) {
                let idle = Agent {
                    op: Op::Idle,
                    ..(*agent).clone()
                };
                self.set_agent(&mut lost, n, idle);
            }
            next.push(state, Step::Goes(Fault::PermitLost, n as u8, 0), Ok(lost));
        }
    }

    fn permit_step(&self, state: &State, n: usize, slot: usize) -> (&'static str, Result<State, String>) {
        let mut after = *state;
        let Some(request) = self.requests.get(state.nodes[n].asked[slot].id) else {
            return ("", Ok(after));
        };
        let mut request = (*request).clone();
        let (what, course) = match &request.found {
            None => ("reads the ledger", self.read_ledger(&mut after, n, slot, request)),
            Some(Found { checked: None, .. }) => ("reads the node", self.read_node(&mut after, n, request)),
            Some(Found {
                swap: Some(_),
                recorded: false,
                ..
            }) => ("writes the ledger", self.record(&mut after, n, slot, request)),
            Some(found) => {
                let answer = response(&found.grant, found.permit.clone(), at(state.now));
                let course = match answer {
                    Ok(given) => Course::Answered(Some(given), None),
                    Err(rejection) => Course::Answered(None, rejection.refusal.permit),
                };
                ("answers", Ok(course))
            }
        };
        let course = match course {
            Ok(course) => course,
            Err(broken) => return (what, Err(broken)),
        };
        match course {
            Course::On(on) => {
                request = *on;
                // Of one whose agent has gone nobody hears the answer.
                let heard = slot == 0 || request.found.as_ref().is_none_or(|found| !found.recorded);
                after.nodes[n].asked[slot].id = if heard {
                    self.requests.id(self.normal.request(request, state.now))
                } else {
                    0
                };
                (what, Ok(after))
            }
            Course::Answered(given, refusal) => {
                after.nodes[n].asked[slot] = Asked::default();
                let told = if slot == 0 {
                    self.tell(&mut after, n, &request_of(self, state, n, slot), given, refusal)
                } else {
                    Ok(())
                };
                (what, told.map(|()| after))
            }
        }
    }

    fn read_ledger(
        &self,
        after: &mut State,
        n: usize,
        slot: usize,
        request: Request,
    ) -> Result<Course, String> {
        let Some(spec) = self.ledger_spec(&after.ledger) else {
            return Ok(Course::Answered(None, Some(api::ledger::PermitRefusal::NoGrant)));
        };
        let ledger = objects::ledger(spec);
        let (swapped, grant, permit) = match admit(&ledger, &node_name(n), &request.sent, at(after.now)) {
            Ok(admitted) => admitted,
            Err(refusal) => return Ok(Course::Answered(None, Some(refusal))),
        };
        let fenced = swapped.metadata.resource_version.as_deref() == Some(VERSION);
        let changed = swapped.spec != ledger.spec;
        let mut swap = self.ledger_ids(&swapped.spec, after.now);
        if fenced {
            // Written only over the ledger that was read: the rest of it is then as it is.
            let mut own = Ledger::default();
            own.grants[n] = swap.grants[n];
            swap = own;
        }
        after.nodes[n].asked[slot].unchanged = true;
        Ok(Course::On(Box::new(Request {
            found: Some(Found {
                grant,
                permit,
                swap: changed.then_some(swap),
                fenced,
                checked: None,
                recorded: false,
            }),
            ..request
        })))
    }

    fn read_node(&self, after: &mut State, n: usize, mut request: Request) -> Result<Course, String> {
        let node = self.nodes.get(after.nodes[n].object);
        let pods = objects::pods(n, after.nodes[n].pods);
        let (Some(node), Ok(pods), Some(found)) = (node, pods, &mut request.found) else {
            return Err("the model cannot follow: there is no node".to_owned());
        };
        if let Err(refusal) = check_node(&node, &pods, &found.grant, api::names::DEFAULT_NAMESPACE) {
            return Ok(Course::Answered(None, Some(refusal)));
        }
        found.checked = Some(oracle::is_fit(self, after, n, &found.grant));
        self.remember(after, n, |ghost| ghost.excused = false);
        Ok(Course::On(Box::new(request)))
    }

    fn record(
        &self,
        after: &mut State,
        n: usize,
        slot: usize,
        mut request: Request,
    ) -> Result<Course, String> {
        let asked = after.nodes[n].asked[slot];
        let Some((found, swap)) = request.found.as_mut().and_then(|found| {
            let swap = found.swap?;
            Some((found, swap))
        }) else {
            return Err("the model cannot follow: there is nothing to write".to_owned());
        };
        if found.fenced && !asked.unchanged {
            // It was changed meanwhile: all over again.
            request.found = None;
            return Ok(Course::On(Box::new(request)));
        }
        let ledger = if found.fenced {
            let mut ledger = after.ledger;
            ledger.grants[n] = swap.grants[n];
            ledger
        } else {
            swap
        };
        oracle::permit_recorded(self, after, n, &found.grant)?;
        after.write_ledger(ledger, self.config.lag(), None);
        found.recorded = true;
        Ok(Course::On(Box::new(request)))
    }

    /// The agent hears the answer.
    fn tell(
        &self,
        after: &mut State,
        n: usize,
        request: &Request,
        given: Option<PermitResponse>,
        refusal: Option<api::ledger::PermitRefusal>,
    ) -> Result<(), String> {
        let Some(agent) = self.agents.get(after.nodes[n].agent) else {
            return Ok(());
        };
        let Op::Ask { asked } = agent.op else {
            return Ok(());
        };
        let mut agent = (*agent).clone();
        agent.op = Op::Idle;
        match given {
            Some(given) => {
                let found = request.found.as_ref();
                let fit = found.and_then(|found| found.checked).unwrap_or(false);
                let until = oracle::permit_given(self, after, n)?;
                agent.memory.permitted(given, asked);
                self.remember(after, n, |ghost| {
                    ghost.leave = Some(Leave {
                        attempt: (request.sent.run.clone(), request.sent.attempt),
                        boot: request.sent.boot_id.clone(),
                        until,
                        fit,
                    });
                });
            }
            None => agent
                .memory
                .permit_refused(refusal, &self.timings, Self::agent_now(after.now)),
        }
        self.set_agent(after, n, agent);
        Ok(())
    }
}

fn request_of(model: &Model, state: &State, n: usize, slot: usize) -> Request {
    let id = state.nodes[n].asked[slot].id;
    model.requests.get(id).map_or_else(
        || Request {
            sent: PermitRequest {
                run: String::new(),
                attempt: 0,
                boot_id: String::new(),
            },
            found: None,
        },
        |request| (*request).clone(),
    )
}
