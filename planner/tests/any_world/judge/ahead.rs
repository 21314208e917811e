//! Who is told to download ahead of its turn: as few as the install allows, nobody whom nothing is to be done with, and nothing is told
//! twice or for ever.

use api::shadow::{NodeState, StageAhead};
use planner::{
    decisions::{Action, Decisions},
    world::NodeFacts,
};

use super::Judge;
use crate::rules::{is_valid, owner, runs, spec, target, version};

fn told(node: &NodeFacts) -> Option<&StageAhead> {
    spec(node)
        .filter(|spec| spec.state == NodeState::Idle)?
        .stage
        .as_ref()
}

fn holds(node: &NodeFacts, version: &str) -> bool {
    let status = node.shadow.as_ref().and_then(|shadow| shadow.status.as_ref());
    status.is_some_and(|status| status.staged_version.as_deref() == Some(version))
}

impl Judge<'_> {
    pub(super) fn ahead(&self, decisions: &Decisions) {
        let limit = self.world.settings.stage_ahead;
        let downloading = self.world.nodes.iter().filter(|node| {
            let counts = |stage: &StageAhead| self.now < stage.until && !holds(node, &stage.version);
            !self.before.grants.contains_key(&node.uid) && told(node).is_some_and(counts)
        });
        let mut downloading = downloading.count();
        for action in &decisions.actions {
            let Action::SetShadow { node, spec: new } = action else {
                continue;
            };
            let node = self.world.nodes.iter().find(|known| known.name == *node).unwrap();
            let Some(stage) = new.stage.as_ref().filter(|stage| told(node) != Some(stage)) else {
                continue;
            };
            downloading += 1;
            let name = &node.name;
            assert!(
                downloading <= limit,
                "{name} is told to download, {downloading} of {limit} do"
            );
            assert!(
                stage.until > self.now && !holds(node, &stage.version),
                "{name}: {stage:?}"
            );
            let granted = self.before.grants.contains_key(&node.uid);
            assert!(
                !granted && new.state == NodeState::Idle && node.disruption.is_none(),
                "{name}"
            );
            let plan = owner(self.world, self.before, node).expect("S3: told by nobody's plan");
            let entry = &self.before.plans[&plan.uid];
            let goes_on = is_valid(plan) && !plan.deleting && !plan.spec.paused && !entry.halted;
            assert!(
                goes_on && !self.before.stop,
                "S11, S12: {name} is told for {}",
                plan.name
            );
            assert_eq!(
                Some(stage.version.as_str()),
                target(plan, entry, node),
                "S8: {name}"
            );
            assert_eq!(node.opt_out, None, "S3: {name} was taken out");
            assert!(
                version(runs(node).unwrap()) < version(&stage.version),
                "S8: {name}"
            );
            assert!(node.ready && node.agent.ready && !node.unschedulable, "{name}");
        }
        if decisions.ledger.is_none() {
            self.nothing_old(decisions);
        }
    }

    /// Who is told what is not its plan's target any more is told so.
    fn nothing_old(&self, decisions: &Decisions) {
        for node in &self.world.nodes {
            let Some(stage) = told(node).filter(|_| !self.before.grants.contains_key(&node.uid)) else {
                continue;
            };
            let plan = owner(self.world, self.before, node);
            let wanted = plan.is_some_and(|plan| {
                let entry = self.before.plans.get(&plan.uid).filter(|entry| !entry.halted);
                let version = entry.and_then(|entry| target(plan, entry, node));
                is_valid(plan) && !plan.spec.paused && version == Some(stage.version.as_str())
            });
            let wanted = wanted && !self.before.stop && node.opt_out.is_none();
            let new = decisions.actions.iter().find_map(|action| match action {
                Action::SetShadow { node: name, spec } if *name == node.name => Some(spec.stage.as_ref()),
                _ => None,
            });
            let gone = new.is_some_and(|new| new != Some(stage));
            assert!(wanted || gone, "{} goes on downloading {stage:?}", node.name);
        }
    }
}
