//! What becomes of a controller's writes: on their way, after its end, and where they arrive.

use kube_core::ResourceExt as _;

use crate::{
    config::Fault,
    model::Model,
    objects, oracle,
    state::{self, Key, State, Swap},
    steps::{Next, Step},
};

impl Model {
    /// The ledger arrives, and is written if it is still at its version.
    pub(crate) fn land_ledger(&self, state: &State, c: usize) -> Result<State, String> {
        let mut after = *state;
        let swap = std::mem::take(&mut after.controllers[c].swap);
        self.write_ledger(&mut after, &swap, Some(c))?;
        // Where it was refused it is read again.
        after.controllers[c].ledger = None;
        after.controllers[c].caught_up = false;
        Ok(after)
    }

    fn write_ledger(&self, after: &mut State, swap: &Swap, writer: Option<usize>) -> Result<(), String> {
        if swap.unchanged || !swap.fenced {
            oracle::ledger_written(self, after, &swap.ledger)?;
            after.write_ledger(swap.ledger, self.config.lag(), writer);
        }
        Ok(())
    }

    /// A write arrives, and is done if its object is still at its version.
    pub(crate) fn land(&self, state: &State, c: usize, w: usize, answered: bool) -> Result<State, String> {
        let mut after = *state;
        let write = std::mem::take(&mut after.controllers[c].writes[w]);
        self.write(&mut after, &write, Some(c).filter(|_| answered))?;
        if answered && let Some(key) = Key::of(write.key) {
            *after.controllers[c].known_mut(key) = 0;
        }
        Ok(after)
    }

    fn write(&self, after: &mut State, write: &state::Write, writer: Option<usize>) -> Result<(), String> {
        let Some(key) = Key::of(write.key).filter(|_| write.unchanged) else {
            return Ok(());
        };
        let mut id = write.id;
        match key {
            Key::Plan(_) => {
                let ended = self.plans.get(id).is_some_and(|plan| {
                    plan.metadata.deletion_timestamp.is_some() && plan.finalizers().is_empty()
                });
                if ended {
                    id = 0;
                }
            }
            Key::Node(n) => {
                oracle::node_written(self, after, n, write)?;
                let cordoned = self.nodes.get(id).is_some_and(|node| objects::is_cordoned(&node));
                if !cordoned {
                    after.nodes[n].pods = 1;
                }
                self.remember(after, n, |ghost| ghost.recent |= cordoned);
            }
            Key::Shadow(n) => oracle::shadow_written(self, after, n, write)?,
        }
        after.write(key, id, self.config.lag(), writer);
        Ok(())
    }

    /// A controller ends and starts again: it lists everything, and what it has sent is gone, or goes on its way.
    pub(crate) fn crashed(&self, state: &State, c: usize, late: bool) -> State {
        let mut after = *state;
        after.faults[Fault::ControllerCrash as usize] += 1;
        let ended = std::mem::take(&mut after.controllers[c]);
        after.controllers[c].term = ended.term + 1;
        if late {
            for write in ended.writes.into_iter().filter(|write| write.key != 0) {
                if let Some(free) = after.late.iter_mut().find(|write| write.key == 0) {
                    *free = write;
                }
            }
            if !after.late_swap.sent {
                after.late_swap = ended.swap;
            }
        }
        after
    }

    /// What a controller that has ended has sent.
    pub(crate) fn late_steps(&self, state: &State, next: &mut Next) {
        for w in 0..state.late.len() {
            let mut after = *state;
            let write = std::mem::take(&mut after.late[w]);
            if write.key != 0 {
                let written = self.write(&mut after, &write, None).map(|()| after);
                next.push(state, Step::LateWrite(w as u8), written);
            }
        }
        let mut after = *state;
        let swap = std::mem::take(&mut after.late_swap);
        if swap.sent {
            let written = self.write_ledger(&mut after, &swap, None).map(|()| after);
            next.push(state, Step::LateLedger, written);
        }
    }
}
