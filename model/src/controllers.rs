//! The controllers, step by step.
//!
//! The thin code around the planner is told again here as `controller::run` has it: nothing beside a write of the ledger, one
//! write of an object at a time, fresh nodes before a grant, and everything afresh where somebody else has written the ledger.

use std::sync::Arc;

use api::ledger::UpdateLedgerSpec;

use crate::{
    config::{Fault, Grain},
    model::Model,
    rounds::Planned,
    state::{self, Controller, Drain, Key, NODES, PLANS, State, Swap},
    steps::{Next, Step},
};

impl Model {
    /// Whether all that a controller knows is at least as new as the ledger that it knows.
    fn is_in_step(&self, state: &State, c: usize) -> bool {
        let controller = &state.controllers[c];
        let ledger = controller.ledger.unwrap_or(state.ledger);
        let by_itself = |rest: Arc<UpdateLedgerSpec>| rest.writer == self.writer(c, controller);
        // Who sees everything as it is need not read it.
        c >= self.config.lagging || controller.caught_up || self.rests.get(ledger.rest).is_some_and(by_itself)
    }

    pub(crate) fn controller_steps(&self, state: &State, c: usize, next: &mut Next) {
        let (who, controller) = (c as u8, &state.controllers[c]);
        self.watch_steps(state, c, next);
        if controller.swap.sent {
            next.push(state, Step::LedgerAnswered(who), self.land_ledger(state, c));
        } else {
            self.round_steps(state, c, next);
        }
        for (w, write) in controller.writes.iter().enumerate() {
            let Some(key) = Key::of(write.key) else { continue };
            next.push(state, Step::Answered(who, key), self.land(state, c, w, true));
            if self.may_go_wrong(state, Fault::WriteLost) {
                let mut lost = *state;
                lost.faults[Fault::WriteLost as usize] += 1;
                if c < self.config.lagging && write.unchanged {
                    next.push(
                        state,
                        Step::Goes(Fault::WriteLost, who, 0),
                        self.land(&lost, c, w, false),
                    );
                }
                lost.controllers[c].writes[w] = state::Write::default();
                next.push(state, Step::Goes(Fault::WriteLost, who, 1), Ok(lost));
            }
        }
        for n in 0..self.config.nodes {
            let drain = &controller.drains[n];
            if drain.cordon == 0 {
                continue;
            }
            if state.nodes[n].pods > 0 && !self.config.blocked[n] {
                let mut after = *state;
                after.nodes[n].pods -= 1;
                if self.config.rounds == Grain::Coarse {
                    after.controllers[c].drains[n].found = after.nodes[n].pods + 1;
                }
                next.push(state, Step::Evicts(who, n as u8), Ok(after));
            }
            let mut after = *state;
            after.controllers[c].drains[n].found = state.nodes[n].pods + 1;
            next.push(state, Step::ReadsPods(who, n as u8), Ok(after));
        }
        if self.may_go_wrong(state, Fault::ControllerCrash) {
            next.push(
                state,
                Step::Goes(Fault::ControllerCrash, who, 0),
                Ok(self.crashed(state, c, false)),
            );
            next.push(
                state,
                Step::Goes(Fault::ControllerCrash, who, 1),
                Ok(self.crashed(state, c, true)),
            );
        }
    }

    fn watch_steps(&self, state: &State, c: usize, next: &mut Next) {
        let keys = (0..PLANS)
            .map(Key::Plan)
            .chain((0..NODES).flat_map(|n| [Key::Node(n), Key::Shadow(n)]));
        for key in keys.filter(|key| state.controllers[c].known(*key) != 0) {
            let mut after = *state;
            *after.controllers[c].known_mut(key) = 0;
            next.push(state, Step::Sees(c as u8, key), Ok(after));
        }
        if state.controllers[c].ledger.is_some() {
            let mut after = *state;
            after.controllers[c].ledger = None;
            after.controllers[c].caught_up = false;
            next.push(state, Step::SeesLedger(c as u8), Ok(after));
        }
    }

    fn round_steps(&self, state: &State, c: usize, next: &mut Next) {
        let (who, controller) = (c as u8, &state.controllers[c]);
        if !self.is_in_step(state, c) {
            let mut after = *state;
            let own = &mut after.controllers[c];
            own.ledger = None;
            own.plans = [0; PLANS];
            own.nodes = [0; NODES];
            own.shadows = [0; NODES];
            own.fresh = c < self.config.lagging;
            own.caught_up = true;
            return next.push(state, Step::CatchesUp(who), Ok(after));
        }
        let round = self.round(self.seen(state, c));
        if let Some(broken) = &round.broken {
            return next.push(state, Step::SendsLedger(who), Err(broken.clone()));
        }
        let mut after = *state;
        let own = &mut after.controllers[c];
        if let Some(swap) = &round.swap {
            let waits = round.waits_for.iter().any(|key| controller.is_writing(*key));
            if waits {
                return;
            }
            if swap.grants && c < self.config.lagging && !controller.fresh {
                own.fresh = true;
                own.nodes = [0; NODES];
                return next.push(state, Step::Lists(who), Ok(after));
            }
            own.swap = Swap {
                unchanged: controller.ledger.is_none(),
                ..*swap
            };
            own.swap.ledger.rest = self.by_writer(swap.ledger.rest, self.writer(c, controller));
            let after = if self.config.in_flight == 0 {
                self.land_ledger(&after, c)
            } else {
                Ok(after)
            };
            return next.push(state, Step::SendsLedger(who), after);
        }
        for (n, cordon) in round.drains.iter().enumerate() {
            if own.drains[n].cordon != *cordon {
                own.drains[n] = Drain {
                    cordon: *cordon,
                    found: 0,
                };
            }
        }
        if self.config.rounds == Grain::Coarse {
            let after =
                round
                    .writes
                    .iter()
                    .try_fold(after, |after, planned| match self.sent(&after, c, planned) {
                        Some(after) => after,
                        None => Ok(after),
                    });
            return next.push(state, Step::Round(who), after);
        }
        next.push(state, Step::Drains(who), Ok(after));
        for planned in &round.writes {
            if let Some(after) = self.sent(state, c, planned) {
                next.push(state, Step::Sends(who, planned.key), after);
            }
        }
    }

    /// A write is sent, and arrives at once where none is ever under way. None: it is not sent now.
    fn sent(&self, state: &State, c: usize, planned: &Planned) -> Option<Result<State, String>> {
        let Planned { key, id, doubtful } = planned;
        let mut after = *state;
        let own = &mut after.controllers[c];
        // Where the ledger is not the same any more it is seen first, and decided on again.
        if own.is_writing(*key) || *doubtful && own.ledger.is_some() {
            return None;
        }
        let free = (0..self.config.in_flight.max(1)).find(|w| own.writes[*w].key == 0)?;
        own.writes[free] = state::Write {
            key: key.number(),
            id: *id,
            unchanged: own.known(*key) == 0,
            aged: false,
        };
        Some(if self.config.in_flight == 0 {
            self.land(&after, c, free, true)
        } else {
            Ok(after)
        })
    }

    /// How a controller signs the ledger, where anybody looks at that.
    fn writer(&self, c: usize, controller: &Controller) -> String {
        if self.config.lagging == 0 {
            return String::new();
        }
        format!("c{c}-{}", controller.term)
    }
}
