//! Machines, kubelets, people and bad luck.

use api::time::to_kubernetes;

use crate::{
    config::{Deed, Fault, Grain, NEWER},
    host::Host,
    model::Model,
    objects,
    state::{Key, State},
    steps::{Next, Step},
    time::at,
};

impl Model {
    pub(crate) fn machine_steps(&self, state: &State, n: usize, next: &mut Next) {
        let (who, facts) = (n as u8, &state.nodes[n]);
        let (Some(host), Some(node)) = (self.hosts.get(facts.host), self.nodes.get(facts.object)) else {
            return;
        };
        let ready = objects::is_ready(&node);
        let coarse = self.config.machines == Grain::Coarse;
        if !host.up {
            if ready && (host.dead || !coarse) {
                next.push(state, Step::FoundDown(who), Ok(self.with_ready(state, n, false)));
            }
            if !host.dead {
                self.boot_steps(state, n, host.flagged, next);
            }
            return;
        }
        if host.running.is_some() {
            let mut after = *state;
            self.change_host(&mut after, n, |host| host.finish(true));
            next.push(state, Step::CommandEnds(who), Ok(after));
            if self.may_go_wrong(state, Fault::PrepareFails) && self.config.agents == Grain::Fine {
                let mut after = *state;
                after.faults[Fault::PrepareFails as usize] += 1;
                self.change_host(&mut after, n, |host| host.finish(false));
                next.push(state, Step::Goes(Fault::PrepareFails, who, 0), Ok(after));
            }
        }
        let known_boot = node.status.as_ref().and_then(|status| status.node_info.as_ref());
        if !ready || known_boot.is_none_or(|info| info.boot_id != host.boot_id()) {
            next.push(state, Step::Ready(who), Ok(self.with_ready(state, n, true)));
        }
        if ready && self.may_go_wrong(state, Fault::NotReady) {
            let mut after = self.with_ready(state, n, false);
            after.faults[Fault::NotReady as usize] += 1;
            next.push(state, Step::Goes(Fault::NotReady, who, 0), Ok(after));
        }
        if self.may_go_wrong(state, Fault::PowerLoss) {
            let mut after = *state;
            after.faults[Fault::PowerLoss as usize] += 1;
            self.go_down(&mut after, n);
            next.push(state, Step::Goes(Fault::PowerLoss, who, 0), Ok(after));
        }
        if facts.pods == 0 && objects::is_cordoned(&node) && self.may_go_wrong(state, Fault::LatePod) {
            let mut after = *state;
            after.faults[Fault::LatePod as usize] += 1;
            after.nodes[n].pods = 1;
            self.remember(&mut after, n, |ghost| ghost.excused = true);
            next.push(state, Step::Goes(Fault::LatePod, who, 0), Ok(after));
        }
    }

    fn boot_steps(&self, state: &State, n: usize, flagged: bool, next: &mut Next) {
        let boot = |fallback: bool| {
            let mut after = *state;
            self.change_host(&mut after, n, |host: &mut Host| host.boot(fallback));
            self.start_agent(&mut after, n);
            if self.config.machines == Grain::Coarse {
                after = self.with_ready(&after, n, true);
            }
            after
        };
        next.push(state, Step::Boots(n as u8), Ok(boot(false)));
        if flagged && self.may_go_wrong(state, Fault::BootsOld) {
            let mut after = boot(true);
            after.faults[Fault::BootsOld as usize] += 1;
            next.push(state, Step::Goes(Fault::BootsOld, n as u8, 0), Ok(after));
        }
        if self.may_go_wrong(state, Fault::NeverReturns) {
            let mut after = *state;
            after.faults[Fault::NeverReturns as usize] += 1;
            self.change_host(&mut after, n, |host| host.dead = true);
            next.push(state, Step::Goes(Fault::NeverReturns, n as u8, 0), Ok(after));
        }
    }

    /// The kubelet, or the lack of one, has the node's condition changed.
    fn with_ready(&self, state: &State, n: usize, ready: bool) -> State {
        let mut after = *state;
        let (Some(host), Some(node)) = (
            self.hosts.get(state.nodes[n].host),
            self.nodes.get(state.nodes[n].object),
        ) else {
            return after;
        };
        let mut node = (*node).clone();
        if let Some(status) = &mut node.status {
            for condition in status.conditions.iter_mut().flatten() {
                let word = if ready { "True" } else { "False" };
                if condition.status != word {
                    condition.status = word.to_owned();
                    condition.last_transition_time = Some(to_kubernetes(at(state.now)));
                }
            }
            if let Some(info) = status.node_info.as_mut().filter(|_| ready) {
                info.boot_id = host.boot_id();
            }
        }
        if !ready {
            self.remember(&mut after, n, |ghost| ghost.recent = true);
        }
        let id = self.nodes.id(self.normal.node(node, state.now));
        after.write(Key::Node(n), id, self.config.lag(), None);
        after
    }

    pub(crate) fn people_steps(&self, state: &State, next: &mut Next) {
        if state.deeds.count_ones() >= self.config.deeds_in_all.into() {
            return;
        }
        for (i, deed) in self
            .config
            .deeds
            .iter()
            .enumerate()
            .filter(|(i, _)| state.deeds & (1 << i) == 0)
        {
            if let Some(mut after) = self.done(state, *deed) {
                after.deeds |= 1 << i;
                next.push(state, Step::People(*deed), Ok(after));
            }
        }
    }

    /// What a deed makes of everything. None where there is nothing to be done.
    fn done(&self, state: &State, deed: Deed) -> Option<State> {
        let mut after = *state;
        match deed {
            Deed::Pause(p) | Deed::Resume(p) | Deed::Retarget(p) => {
                let mut plan = (*self.plans.get(state.plans[p])?).clone();
                let before = plan.spec.clone();
                match deed {
                    Deed::Pause(_) => plan.spec.paused = true,
                    Deed::Resume(_) => plan.spec.paused = false,
                    _ => plan.spec.target_version = NEWER.to_owned(),
                }
                if plan.spec == before || plan.metadata.deletion_timestamp.is_some() {
                    return None;
                }
                plan.metadata.generation = plan.metadata.generation.map(|generation| generation + 1);
                let id = self.plans.id(objects::next_version(plan));
                after.write(Key::Plan(p), id, self.config.lag(), None);
            }
            Deed::Delete(p) => {
                let mut plan = (*self.plans.get(state.plans[p])?).clone();
                let held = plan
                    .metadata
                    .finalizers
                    .as_ref()
                    .is_some_and(|held| !held.is_empty());
                plan.metadata.deletion_timestamp = Some(to_kubernetes(at(0)));
                plan.metadata.generation = plan.metadata.generation.map(|generation| generation + 1);
                let id = if held {
                    self.plans.id(objects::next_version(plan))
                } else {
                    0
                };
                after.write(Key::Plan(p), id, self.config.lag(), None);
            }
            Deed::Cordon(n) | Deed::Uncordon(n) => {
                let mut node = (*self.nodes.get(state.nodes[n].object)?).clone();
                let cordon = matches!(deed, Deed::Cordon(_));
                if objects::is_cordoned(&node) == cordon {
                    return None;
                }
                // On a node that still carries our annotation nobody could tell whose cordon it is.
                let theirs = cordon && objects::disruption(&node).is_none();
                objects::set_cordoned(&mut node, cordon);
                self.remember(&mut after, n, |ghost| {
                    ghost.admin = theirs;
                    ghost.recent |= cordon;
                    ghost.excused = true;
                });
                if !cordon {
                    after.nodes[n].pods = 1;
                }
                after.write(Key::Node(n), self.nodes.id(node), self.config.lag(), None);
            }
        }
        Some(after)
    }
}
