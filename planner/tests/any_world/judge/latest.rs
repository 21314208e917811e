//! What `latest` is: chosen once for each kind of node, and then fixed until the run is over and another follows.

use api::plan::LATEST;

use super::Judge;
use crate::rules::{is_superseded, is_valid, kind, newest, owned};

impl Judge<'_> {
    pub(super) fn latest(&self) {
        for plan in self.world.plans.iter().filter(|plan| is_valid(plan)) {
            let Some(after) = self.after.plans.get(&plan.uid) else {
                continue;
            };
            let name = &plan.name;
            let before = self.before.plans.get(&plan.uid);
            let before = before.filter(|before| before.target == plan.spec.target_version);
            if let Some(before) = before {
                let over = is_superseded(self.now, self.world, self.before, plan, before);
                assert_eq!(
                    before.run != after.run,
                    over,
                    "S8: whether another run of {name} begins"
                );
            }
            let known = plan.status.run.as_ref().filter(|run| run.id == after.run);
            let fixed = match before.filter(|before| before.run == after.run) {
                Some(before) => &before.targets[..],
                None => known.map_or(&[][..], |run| &run.targets),
            };
            for target in fixed {
                let stays = after.targets.contains(target);
                assert!(stays, "S8: {target:?} of {name} becomes another in its run");
            }
            let nodes = owned(self.world, self.before, plan);
            let mut kinds: Vec<_> = nodes.iter().filter_map(|node| kind(node)).collect();
            kinds.sort_unstable();
            kinds.dedup();
            // What is lifted by this very answer is chosen for in the next.
            let rests = after.paused || after.halted || self.is_retried(plan);
            for of in kinds {
                let is_of = |target: &&api::offer::Target| (&*target.variant, &*target.arch) == of;
                if fixed.iter().any(|target| is_of(&target)) {
                    continue;
                }
                let chosen: Vec<_> = after.targets.iter().filter(is_of).collect();
                let versions: Vec<&str> = chosen.iter().map(|target| &*target.version).collect();
                let newest =
                    newest(self.now, plan, &nodes, of).filter(|_| plan.spec.target_version == LATEST);
                assert!(
                    versions.is_empty() && (rests || newest.is_none()) || versions == Vec::from_iter(newest),
                    "S8: {versions:?} for {of:?} of {name}, and {newest:?} is the newest"
                );
            }
            for (i, target) in after.targets.iter().enumerate() {
                let twice = after.targets[..i]
                    .iter()
                    .any(|other| (&other.variant, &other.arch) == (&target.variant, &target.arch));
                assert!(!twice, "S8: two versions for {target:?} of {name}");
            }
        }
    }
}
