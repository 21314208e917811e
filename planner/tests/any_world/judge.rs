//! S1, S3 to S5 and S7 to S12 on one answer, in whatever world it was given.

use std::collections::BTreeSet;

use api::{
    ledger::{Grant, GrantPhase, PlanEntry, UpdateLedgerSpec},
    shadow::{BottlerocketShadowSpec, Failure, FailureReason, NodeState},
};
use chrono::{DateTime, TimeDelta, Utc};
use planner::{
    decisions::{Action, Decisions},
    world::{NodeFacts, PlanFacts, World},
};

use super::rules::{
    before_permit, could_start, counts, domains, given_up, gives_up, is_down, is_open, is_open_until,
    is_valid, limit, may_finish, needs, owned, owner, recorded, runs, selects, share, spec, takes_part,
    version,
};

/// What the answer is judged by.
struct Judge<'a> {
    now: DateTime<Utc>,
    world: &'a World,
    before: &'a UpdateLedgerSpec,
    after: &'a UpdateLedgerSpec,
}

/// Judges an answer.
pub fn judge(now: DateTime<Utc>, world: &World, decisions: &Decisions) {
    let Some(before) = &world.ledger else {
        // Without a ledger it is made anew, and nothing else is done.
        let change = decisions
            .ledger
            .as_ref()
            .expect("a ledger that is lost is made anew");
        assert!(
            !change.by_fresh_nodes && decisions.actions.is_empty() && decisions.drains.is_empty(),
            "S2: {change:?}"
        );
        return;
    };
    let later = |plan: &PlanFacts| {
        before
            .plans
            .get(&plan.uid)
            .is_some_and(|entry| entry.generation > plan.generation)
    };
    if world.plans.iter().any(later) {
        assert_eq!(
            *decisions,
            Decisions::default(),
            "S12: decided by an older plan than the ledger has seen"
        );
        return;
    }
    // A clock that is known to be wrong is corrected.
    let wrong = world
        .clock_skew
        .filter(|skew| skew.abs() >= TimeDelta::seconds(30));
    let judge = Judge {
        now: now - wrong.unwrap_or_default(),
        world,
        before,
        after: decisions.ledger.as_ref().map_or(before, |change| &change.spec),
    };
    if let Some(change) = &decisions.ledger {
        assert_ne!(change.spec, *before, "a write that changes nothing");
        assert!(decisions.actions.is_empty() && decisions.drains.is_empty() && decisions.statuses.is_empty());
        let made: Vec<_> = judge.made().collect();
        for (uid, grant) in &made {
            judge.grant(uid, grant);
        }
        let starts = judge.waves();
        assert!(
            change.by_fresh_nodes || !starts && made.is_empty(),
            "S1, S10: by nodes as they may have been long ago"
        );
        for (uid, grant) in &before.grants {
            judge.goes_on(uid, grant);
        }
    }
    judge.recorded();
    judge.withdrawn();
    decisions.actions.iter().for_each(|action| judge.action(action));
    for drain in &decisions.drains {
        let grant = judge
            .after
            .grants
            .get(&drain.uid)
            .expect("S1: drained without a grant");
        assert!(
            grant.node == drain.node && before_permit(grant),
            "S5: drained in {}",
            grant.phase
        );
    }
    judge.explained(decisions);
}

impl<'a> Judge<'a> {
    fn made(&self) -> impl Iterator<Item = (&'a String, &'a Grant)> {
        self.after
            .grants
            .iter()
            .filter(|(uid, _)| !self.before.grants.contains_key(*uid))
    }

    fn plan(&self, uid: &str) -> Option<&'a PlanFacts> {
        self.world.plans.iter().find(|plan| plan.uid == uid)
    }

    fn node(&self, uid: &str) -> Option<&'a NodeFacts> {
        self.world.nodes.iter().find(|node| node.uid == uid)
    }

    fn grant(&self, uid: &str, grant: &Grant) {
        let node = self.node(uid).expect("S3: granted to a node that is not there");
        let plan = self
            .plan(&grant.plan)
            .expect("S12: granted by a plan that is not there");
        let entry = &self.after.plans[&plan.uid];
        let who = format!("{} by {}", node.name, plan.name);

        assert_eq!(node.name, grant.node, "S3");
        let owner = owner(self.world, self.before, node);
        assert_eq!(owner.map(|plan| &plan.uid), Some(&plan.uid), "S3: {who}");
        assert!(
            could_start(self.now, node, plan, entry, &self.world.settings),
            "S9: {who}: it is not Idle, Ready and older"
        );

        assert_eq!(grant.from, runs(node).unwrap(), "S8: {who}");
        assert_eq!(
            (&grant.to, &entry.target),
            (&plan.spec.target_version, &grant.to),
            "S8: {who}"
        );
        assert!(
            version(&grant.from).unwrap() < version(&grant.to).unwrap(),
            "S8: {who} would go down"
        );

        let skew = self
            .world
            .clock_skew
            .expect("S4: granted by a clock that was not compared");
        assert!(
            skew.abs() < TimeDelta::seconds(30),
            "S4: granted by a clock that is wrong"
        );
        assert!(is_open(&plan.spec, self.now), "S4: {who} outside a window");
        let needs = needs(plan, entry);
        assert!(
            is_open_until(&plan.spec, self.now, self.now + needs),
            "S4: {who} does not fit"
        );
        match grant.not_after {
            Some(end) => assert!(is_open_until(&plan.spec, self.now, end), "S4: {who} until {end}"),
            None => {
                let always = plan.spec.maintenance_windows.is_empty() && plan.spec.exclusions.is_empty();
                let far = self.now + TimeDelta::days(3);
                assert!(
                    always || is_open_until(&plan.spec, self.now, far),
                    "S4: {who} without an end"
                );
            }
        }

        assert!(
            plan.finalizer && !plan.deleting && !plan.spec.paused && is_valid(plan),
            "S12: {who}"
        );
        assert!(!entry.paused && !entry.halted, "S11, S12: {who}");
        let generations = (grant.generation, entry.generation);
        assert_eq!(
            generations,
            (plan.generation, plan.generation),
            "S12: {who} by an older plan"
        );
        assert_eq!(grant.run, entry.run);

        let matched = owned(self.world, self.before, plan);
        let failed = self.failed(plan, entry, &matched);
        let threshold = share(plan.spec.failure_policy.threshold, matched.len()).max(1);
        assert!(
            failed < threshold,
            "S11: {who} though {failed} of {threshold} have failed"
        );

        let down = matched.iter().filter(|node| is_down(node, self.after)).count();
        let max = limit(plan.spec.max_unavailable, matched.len());
        assert!(down <= max, "S1: {down} of at most {max} nodes of {}", plan.name);
        if let Some(topology) = &plan.spec.topology {
            let down = matched.iter().filter(|node| is_down(node, self.after)).copied();
            let (busy, max) = (domains(plan, down), topology.max_domains as usize);
            assert!(
                busy.len() <= max,
                "S1: {busy:?} of at most {max} domains of {}",
                plan.name
            );
        }
        self.wave_of_grant(plan, entry, grant, &matched);
    }

    /// The nodes that a run has given up, those that are about to go back and those that are gone too.
    fn failed(&self, plan: &PlanFacts, entry: &PlanEntry, matched: &[&NodeFacts]) -> usize {
        let now = matched
            .iter()
            .filter(|node| match self.after.grants.get(&node.uid) {
                Some(grant) => gives_up(node, plan, &entry.run, grant),
                None => given_up(node, plan, &entry.run),
            });
        let mut failed: BTreeSet<&str> = now.map(|node| node.uid.as_str()).collect();
        let before = self
            .before
            .plans
            .get(&plan.uid)
            .filter(|before| before.run == entry.run);
        let is_matched = |uid: &str| matched.iter().any(|node| node.uid == uid);
        failed.extend(
            before
                .iter()
                .flat_map(|before| &before.failed)
                .map(String::as_str)
                .filter(|uid| !is_matched(uid)),
        );
        failed.len()
    }

    /// S10 and the wave's own limit.
    fn wave_of_grant(&self, plan: &PlanFacts, entry: &PlanEntry, grant: &Grant, matched: &[&NodeFacts]) {
        let waves = &plan.spec.waves;
        let Some(index) = waves.iter().position(|wave| wave.name == grant.wave) else {
            assert!(waves.is_empty(), "S10: {grant:?} in a wave that is none");
            return;
        };
        assert!(
            index <= entry.open_wave as usize,
            "S10: {} in a wave that has not started",
            grant.node
        );
        let wave = &waves[index];
        let node = matched.iter().find(|node| node.name == grant.node).unwrap();
        let was_in = spec(node)
            .filter(|spec| spec.run.as_ref() == Some(&entry.run))
            .and_then(|spec| spec.wave.as_deref());
        let known = was_in.filter(|name| waves.iter().any(|wave| wave.name == *name));
        match known {
            Some(known) => assert_eq!(known, grant.wave, "S10: {} changes its wave", grant.node),
            None => {
                let fits = wave
                    .node_selector
                    .as_ref()
                    .is_none_or(|selector| selects(selector, &node.labels));
                assert!(fits, "S10: {} does not fit into {}", grant.node, grant.wave);
            }
        }
        let of_wave = |node: &&&NodeFacts| recorded(node, self.after, &entry.run) == Some(&grant.wave);
        let members: Vec<_> = matched.iter().filter(of_wave).collect();
        if let (Some(size), Some(_)) = (wave.size, self.made().find(|(_, made)| *made == grant)) {
            let fixed = entry
                .wave_sizes
                .get(&wave.name)
                .map_or(share(size, matched.len()), |size| *size as usize);
            let before = matched
                .iter()
                .filter(|node| recorded(node, self.before, &entry.run) == Some(&grant.wave))
                .count();
            assert!(
                members.len() <= fixed.max(before),
                "S10: {} of {fixed} in wave {}",
                members.len(),
                wave.name
            );
        }
        if let Some(max) = wave.max_unavailable {
            let down = members.iter().filter(|node| is_down(node, self.after)).count();
            // The share of a wave is at most that of all nodes.
            let max = limit(max, matched.len());
            assert!(down <= max, "S1: {down} of at most {max} in wave {}", wave.name);
        }
    }

    /// The wave that was recorded for a node before this answer, unless only by a grant that goes
    /// and leaves nothing behind, since the node has no shadow.
    fn wave_so_far(&self, node: &'a NodeFacts, run: &str) -> Option<&'a str> {
        let stays = self.after.grants.contains_key(&node.uid) || node.shadow.is_some();
        let grant = self
            .before
            .grants
            .get(&node.uid)
            .filter(|grant| stays && grant.run == run);
        let in_run = spec(node).filter(|spec| spec.run.as_deref() == Some(run));
        grant
            .map(|grant| grant.wave.as_str())
            .or_else(|| in_run?.wave.as_deref())
    }

    /// S10: what has to be so where a wave starts. Whether one does.
    fn waves(&self) -> bool {
        let mut starts = false;
        for plan in self.world.plans.iter().filter(|plan| is_valid(plan)) {
            let Some(after) = self.after.plans.get(&plan.uid) else {
                continue;
            };
            let run = plan.status.run.as_ref().filter(|run| run.id == after.run);
            let first = match self.before.plans.get(&plan.uid) {
                Some(before) if before.run == after.run => {
                    let open = plan.spec.waves.get(before.open_wave as usize);
                    let moved = open.is_none_or(|wave| wave.name != before.open_wave_name);
                    // Where an edit has moved the wave all are gone through again.
                    if moved { 0 } else { before.open_wave }
                }
                // A run that was complete and is taken up again has been through its waves.
                _ if run.is_some_and(|run| run.completed_at.is_some()) => continue,
                _ => 0,
            };
            let matched = owned(self.world, self.before, plan);
            for index in first as usize..after.open_wave as usize {
                let (wave, who) = (&plan.spec.waves[index], &plan.name);
                starts = true;
                assert!(!after.halted && !after.paused, "S11, S12: a wave of {who} starts");
                let of_wave = |node: &&&NodeFacts| self.wave_so_far(node, &after.run) == Some(&wave.name);
                let members: Vec<_> = matched.iter().filter(of_wave).collect();
                let on_target = |node: &&&&NodeFacts| {
                    runs(node) == Some(plan.spec.target_version.as_str()) && !given_up(node, plan, &after.run)
                };
                for node in &members {
                    let newer = runs(node).and_then(version) > version(&plan.spec.target_version);
                    let over = on_target(&node) || given_up(node, plan, &after.run) || newer;
                    let granted = self.after.grants.contains_key(&node.uid);
                    assert!(
                        over && !granted,
                        "S10: {} is not done with wave {} of {who}",
                        node.name,
                        wave.name
                    );
                }
                let proven: Vec<_> = members.iter().filter(on_target).collect();
                assert!(
                    members.is_empty() || !proven.is_empty(),
                    "S10: wave {} of {who} has proven nothing",
                    wave.name
                );
                for node in proven {
                    let at = spec(node).and_then(|spec| spec.state_transition_timestamp);
                    let soak = wave.soak.delta();
                    assert!(
                        at.is_some_and(|at| at + soak <= self.now),
                        "S10: wave {} of {who} has not soaked",
                        wave.name
                    );
                    assert!(
                        node.ready || soak.is_zero(),
                        "S10: wave {} of {who} is not healthy",
                        wave.name
                    );
                }
                self.has_no_place_left(plan, after, index, &matched);
            }
        }
        starts
    }

    /// A wave that starts leaves no node behind that the one before it would have taken.
    fn has_no_place_left(&self, plan: &PlanFacts, entry: &PlanEntry, index: usize, matched: &[&NodeFacts]) {
        let wave = &plan.spec.waves[index];
        let fits = |node: &NodeFacts, index: usize| {
            let selector = plan.spec.waves[index].node_selector.as_ref();
            selector.is_none_or(|selector| selects(selector, &node.labels))
        };
        let known = |node: &NodeFacts| {
            let name = self.wave_so_far(node, &entry.run);
            plan.spec
                .waves
                .iter()
                .position(|wave| Some(wave.name.as_str()) == name)
        };
        let is_over = |node: &NodeFacts| {
            let target = version(&plan.spec.target_version);
            given_up(node, plan, &entry.run)
                || runs(node)
                    .and_then(version)
                    .is_some_and(|runs| Some(runs) >= target)
        };
        let left = matched.iter().filter(|node| {
            let earlier = (0..index).any(|earlier| fits(node, earlier));
            // A node on its way in another run takes no place of a wave that has not one for everybody.
            let (before, after) = (&self.before.grants, &self.after.grants);
            let elsewhere = before.contains_key(&node.uid) && after.contains_key(&node.uid);
            known(node).is_none()
                && !earlier
                && fits(node, index)
                && !is_over(node)
                && (wave.size.is_none() || !elsewhere)
        });
        let left: Vec<&str> = left.map(|node| node.name.as_str()).collect();
        let taken = matched.iter().filter(|node| known(node) == Some(index)).count();
        let before = self
            .before
            .plans
            .get(&plan.uid)
            .filter(|before| before.run == entry.run);
        let fixed = before
            .and_then(|before| before.wave_sizes.get(&wave.name))
            .map(|size| *size as usize);
        let size = wave
            .size
            .map_or(usize::MAX, |size| fixed.unwrap_or(share(size, matched.len())));
        assert!(
            taken >= size || left.is_empty(),
            "S10: wave {} of {} leaves {left:?} behind",
            wave.name,
            plan.name
        );
    }

    /// What may become of a grant.
    fn goes_on(&self, uid: &str, before: &Grant) {
        use GrantPhase::{Drained, Granted, Monitoring, Rebooting, Withdrawing};
        let node = self.node(uid);
        let Some(after) = self.after.grants.get(uid) else {
            let Some(node) = node else { return };
            assert!(
                node.disruption.is_none(),
                "S9: {} is released with our cordon",
                node.name
            );
            let over = before.phase == Monitoring || before.phase == Withdrawing || before.ending.is_some();
            assert!(over, "S3: {} is released in {}", node.name, before.phase);
            if let Some(spec) = spec(node) {
                let is_back = match spec.state {
                    NodeState::Idle => true,
                    NodeState::ErrorReset => before.ending.is_some(),
                    _ => false,
                };
                assert!(is_back, "S9: {} is released in {:?}", node.name, spec.state);
                let ours = (spec.run.as_ref(), spec.attempt) == (Some(&before.run), Some(before.attempt));
                assert!(ours, "S3: {} was not told of {before:?}", node.name);
            }
            return;
        };
        assert!(
            node.is_some(),
            "S3, L5: the grant of a node that is gone stays: {after:?}"
        );
        let identity = |grant: &Grant| {
            let Grant {
                node,
                plan,
                run,
                wave,
                attempt,
                from,
                to,
                permit,
                ..
            } = grant.clone();
            (node, plan, run, wave, attempt, from, to, permit)
        };
        assert_eq!(identity(before), identity(after), "S3: a grant becomes another");
        let on = before.phase == after.phase
            || matches!(
                (before.phase, after.phase),
                (Granted, Drained) | (Rebooting, Monitoring) | (Granted | Drained, Withdrawing)
            );
        assert!(on, "S5: {} becomes {}", before.phase, after.phase);
        assert!(
            before.ending.is_none() || before.ending == after.ending,
            "{after:?}"
        );
        let (Some(plan), Some(node)) = (self.plan(&after.plan), node) else {
            return;
        };
        if (before.phase, after.phase) == (Rebooting, Monitoring) {
            let boot = node
                .shadow
                .as_ref()
                .and_then(|shadow| shadow.status.as_ref()?.boot_id.as_ref());
            assert_eq!(runs(node), Some(before.to.as_str()), "S7: {}", node.name);
            let earlier = before.permit.as_ref().map(|permit| &permit.boot_id);
            assert!(
                node.ready && boot == Some(&node.boot_id) && boot != earlier,
                "S7: {} has not rebooted",
                node.name
            );
        }
        if before.not_after != after.not_after && is_valid(plan) {
            let open = match after.not_after {
                Some(end) => is_open_until(&plan.spec, self.now, end),
                None => {
                    may_finish(plan, after, node)
                        || is_open_until(&plan.spec, self.now, self.now + TimeDelta::days(3))
                }
            };
            assert!(open, "S4: {} may reboot until {:?}", node.name, after.not_after);
        }
    }

    /// S12: what a plan says now is recorded before anything is done.
    fn recorded(&self) {
        for plan in &self.world.plans {
            let Some(entry) = self.after.plans.get(&plan.uid) else {
                assert!(
                    plan.deleting || !is_valid(plan),
                    "S12: {} is not recorded",
                    plan.name
                );
                continue;
            };
            assert_eq!(entry.generation, plan.generation, "S12: {}", plan.name);
            assert!(
                entry.paused || !(plan.deleting || (plan.spec.paused && is_valid(plan))),
                "S12: {}",
                plan.name
            );
            let same_run = self
                .before
                .plans
                .get(&plan.uid)
                .filter(|before| before.run == entry.run);
            let Some(before) = same_run else { continue };
            assert!(
                entry.halted || !before.halted,
                "S11: {} is halted no more",
                plan.name
            );
            if is_valid(plan) && !before.halted {
                let matched = owned(self.world, self.before, plan);
                let failed = self.failed(plan, entry, &matched);
                let threshold = share(plan.spec.failure_policy.threshold, matched.len()).max(1);
                assert_eq!(
                    entry.halted,
                    failed >= threshold,
                    "S11: {}: {failed} of {threshold} have failed",
                    plan.name
                );
            }
        }
    }

    /// S12: a node that does not reboot yet is on its way back where its plan does not want it any more.
    fn withdrawn(&self) {
        for (uid, grant) in self
            .after
            .grants
            .iter()
            .filter(|(_, grant)| before_permit(grant) && grant.ending.is_none())
        {
            let node = self.node(uid).expect("S3: the node is there");
            let who = format!("{} in {}", node.name, grant.phase);
            let plan = self
                .plan(&grant.plan)
                .unwrap_or_else(|| panic!("S12: {who}: its plan is gone"));
            assert!(
                is_valid(plan) && !plan.deleting && !plan.spec.paused,
                "S12: {who}"
            );
            let entry = &self.after.plans[&plan.uid];
            assert_eq!(
                (&grant.to, &grant.run),
                (&plan.spec.target_version, &entry.run),
                "S12: {who}"
            );
            assert!(
                takes_part(node) && selects(&plan.spec.node_selector, &node.labels),
                "S12: {who} is selected no more"
            );
            let closed = grant.not_after.is_some_and(|end| self.now >= end);
            assert!(!closed, "S4: {who} after its window");
            assert!(
                is_open(&plan.spec, self.now) || may_finish(plan, grant, node),
                "S4: {who} outside a window"
            );
            let was_halted = self
                .before
                .plans
                .get(&plan.uid)
                .is_some_and(|before| before.run == entry.run && before.halted);
            assert!(!was_halted, "S11: {who} though its plan is halted");
        }
    }

    fn action(&self, action: &Action) {
        let named = |name: &String| {
            self.world
                .nodes
                .iter()
                .find(|node| node.name == *name)
                .expect("the node is there")
        };
        let plan_named = |name: &String| {
            self.world
                .plans
                .iter()
                .find(|plan| plan.name == *name)
                .expect("the plan is there")
        };
        match action {
            Action::AddFinalizer { plan } => {
                let plan = plan_named(plan);
                assert!(!plan.finalizer && !plan.deleting, "S12: {}", plan.name);
            }
            Action::RemoveFinalizer { plan } => {
                let plan = plan_named(plan);
                let granted = self.after.grants.values().any(|grant| grant.plan == plan.uid);
                assert!(
                    plan.finalizer && !granted,
                    "S12: {} goes before its grants",
                    plan.name
                );
            }
            Action::Cordon { node, disruption } => {
                let node = named(node);
                let grant = self
                    .after
                    .grants
                    .get(&node.uid)
                    .expect("S1: cordoned without a grant");
                assert_eq!(
                    (grant.phase, &grant.ending),
                    (GrantPhase::Granted, &None),
                    "S5: {}",
                    node.name
                );
                assert_eq!(
                    (&disruption.run, disruption.attempt),
                    (&grant.run, grant.attempt),
                    "S3: {}",
                    node.name
                );
                assert!(
                    !node.unschedulable && node.disruption.is_none(),
                    "S9: {}",
                    node.name
                );
                let plan = self
                    .plan(&grant.plan)
                    .expect("S12: cordoned by a plan that is gone");
                assert!(
                    is_open(&plan.spec, self.now),
                    "S4: {} is cordoned outside a window",
                    node.name
                );
            }
            Action::Uncordon { node, disruption } => {
                assert_eq!(named(node).disruption.as_ref(), Some(disruption), "S9: {node}");
            }
            Action::SetShadow { node, spec: new } => {
                let node = named(node);
                let grant = self.after.grants.get(&node.uid);
                let ours = grant.filter(|grant| {
                    (new.run.as_ref(), new.attempt) == (Some(&grant.run), Some(grant.attempt))
                });
                let forth = match new.state {
                    NodeState::Idle | NodeState::ErrorReset => return self.goes_back(node, new, grant),
                    NodeState::StagedAndPerformedUpdate => [GrantPhase::Granted].as_slice(),
                    NodeState::RebootedIntoUpdate => &[GrantPhase::Drained, GrantPhase::Rebooting],
                    NodeState::MonitoringUpdate => &[GrantPhase::Monitoring],
                };
                let grant =
                    ours.unwrap_or_else(|| panic!("S3: {} is told {new:?} without a grant", node.name));
                assert!(
                    forth.contains(&grant.phase) && grant.ending.is_none(),
                    "S5: {} is told {new:?}",
                    node.name
                );
                assert_eq!(new.version.as_ref(), Some(&grant.to), "S8: {}", node.name);
                assert_eq!(new.wave.as_ref(), Some(&grant.wave), "S10: {}", node.name);
            }
        }
    }

    /// A node that is told to go back, or that it is done: a failure is counted once, and what is no failure is not.
    fn goes_back(&self, node: &NodeFacts, new: &BottlerocketShadowSpec, grant: Option<&Grant>) {
        let (found, name) = (spec(node).unwrap(), &node.name);
        let Some(grant) = grant else {
            assert_eq!(new.state, NodeState::Idle, "S3: {name} is reset without a grant");
            let added = new.failure.as_ref().filter(|_| new.failure != found.failure);
            let unhealthy =
                |failure: &Failure| failure.reason == FailureReason::Unhealthy && failure.at == self.now;
            assert!(
                added.is_none_or(|failure| unhealthy(failure) && !node.ready),
                "S10: {name} has failed: {added:?}"
            );
            return;
        };
        assert_eq!(
            (new.run.as_ref(), new.attempt),
            (Some(&grant.run), Some(grant.attempt)),
            "S3: {name}"
        );
        let so_far = found
            .failure
            .as_ref()
            .filter(|_| found.run.as_ref() == Some(&grant.run));
        let Some(ending) = &grant.ending else {
            let done =
                (new.state, grant.phase, &new.failure) == (NodeState::Idle, GrantPhase::Monitoring, &None);
            assert!(done, "S5: {name} is told {new:?} in {}", grant.phase);
            assert_eq!(runs(node), Some(grant.to.as_str()), "S7: {name} is done");
            assert!(node.ready, "S7: {name} is done, and not Ready");
            return;
        };
        // Only ours is in ErrorReset, and what led there was counted on the way.
        let is_counted =
            (found.state, &found.run, found.attempt) == (NodeState::ErrorReset, &new.run, new.attempt);
        match ending.failure.filter(|reason| counts(*reason) && !is_counted) {
            Some(reason) => {
                let count = 1 + so_far.map_or(0, |failure| failure.count);
                let failure = new.failure.as_ref().expect("S11: a failure is written down");
                assert_eq!(
                    (failure.reason, failure.at, failure.count),
                    (reason, ending.at, count),
                    "S11: {name}"
                );
            }
            None => assert_eq!(new.failure.as_ref(), so_far, "S11: {name} has not failed again"),
        }
        let failed = ending.failure.is_some_and(counts);
        assert!(
            failed || new.state == NodeState::Idle,
            "S9: {name} is reset for nothing"
        );
    }

    /// Every node that does not move has one verdict of its owner.
    fn explained(&self, decisions: &Decisions) {
        for node in &self.world.nodes {
            let Some(owner) = owner(self.world, self.before, node) else {
                continue;
            };
            let of_owner = decisions
                .verdicts
                .iter()
                .filter(|v| (&v.node, &v.plan) == (&node.name, &owner.name));
            let found = of_owner.count();
            let granted =
                self.before.grants.contains_key(&node.uid) || self.after.grants.contains_key(&node.uid);
            assert!(found <= 1, "{} has {found} verdicts", node.name);
            let asks =
                |action: &Action| matches!(action, Action::AddFinalizer { plan } if *plan == owner.name);
            // What is done comes after the ledger.
            let starts =
                !owner.finalizer && (decisions.ledger.is_some() || decisions.actions.iter().any(asks));
            assert!(found == 1 || granted || starts, "{} has no verdict", node.name);
            assert!(
                found == 0 || !self.after.grants.contains_key(&node.uid),
                "{} is granted, and waits",
                node.name
            );
        }
    }
}
