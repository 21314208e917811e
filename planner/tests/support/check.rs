//! The promises S1, S3, S4, S5, S8 to S12, checked at every write by rules of its own: nothing here asks the planner.

mod failures;
mod order;

use std::collections::{BTreeMap, BTreeSet};

use api::{
    ledger::{Grant, GrantPhase, PlanEntry, UpdateLedgerSpec},
    plan::{OnWindowEnd, UpdatePlanStatus},
    quantity::Span,
    shadow::{BottlerocketShadowSpec, NodeState, acknowledges},
};
use chrono::{DateTime, TimeDelta, Utc};
use planner::{
    decisions::{Action, Decisions, LedgerChange, NodeVerdict},
    simulate::{Cluster, Happening, ToNode},
    world::{NodeFacts, PlanFacts, World},
};
use semver::Version;

use super::asked::Approvals;
use super::limits;
use super::rules::{moves_on, node_of, owned, owner, plan_of, released};
use super::targets::{self, target_of};

/// What the checks remember from write to write.
#[derive(Clone, Debug, Default)]
pub struct Checker {
    /// Nodes that an admin has cordoned, by UID: they stay so.
    pub cordoned_by_admin: BTreeSet<String>,
    /// Every grant that was made: when, the node's name, and the grant.
    pub granted: Vec<(DateTime<Utc>, String, Grant)>,
    /// The most nodes of a plan that were unavailable at a grant, by plan UID.
    pub most_unavailable: BTreeMap<String, usize>,
    /// Nodes that failed for good, by run.
    failed: BTreeMap<String, BTreeSet<String>>,
    /// When the last node of a wave was updated, by run and wave.
    proven: BTreeMap<(String, String), DateTime<Utc>>,
    /// Whether a ledger was lost, and with it what had been begun.
    lost: bool,
    permits: BTreeSet<(String, String, u32)>,
    /// How many seconds each plan's nodes took, by plan UID.
    took: BTreeMap<String, Vec<u32>>,
    /// By what each plan expected its nodes to take, by plan UID.
    expected: BTreeMap<String, Span>,
    /// When each node was granted, by UID: as it was seen, whatever the ledger says of it since.
    begun: BTreeMap<String, DateTime<Utc>>,
    /// When each node was cordoned last, by UID.
    cordoned: BTreeMap<String, DateTime<Utc>>,
    approvals: Approvals,
}

impl Checker {
    /// Before something happens from outside.
    pub fn happens(&mut self, cluster: &Cluster, what: &Happening) {
        if let Happening::Node { node, what } = what
            && let Some(facts) = cluster.node(node)
        {
            match what {
                ToNode::Cordon => drop(self.cordoned_by_admin.insert(facts.uid.clone())),
                ToNode::Uncordon => drop(self.cordoned_by_admin.remove(&facts.uid)),
                _ => {}
            }
        }
    }

    /// Before the ledger is written, at this time of the Kubernetes API.
    pub fn ledger(&mut self, now: DateTime<Utc>, world: &World, change: &LedgerChange) {
        let new = &change.spec;
        self.approvals.look(world);
        self.forget_failures(world, new);
        for plan in &world.plans {
            let stops = plan.deleting || plan.spec.paused;
            let recorded = new
                .plans
                .get(&plan.uid)
                .is_none_or(|entry| entry.paused || !stops);
            assert!(
                recorded,
                "S12: the ledger does not record that {} is paused or deleted",
                plan.name
            );
        }
        let Some(old) = &world.ledger else {
            assert!(!change.by_fresh_nodes, "grants in a ledger that is made anew");
            let known = |(uid, entry): (&String, &PlanEntry)| (uid.clone(), entry.durations.clone());
            self.took = new.plans.iter().map(known).collect();
            self.begun.clear();
            self.lost = true;
            return;
        };
        self.count_failures(world, new);
        targets::check(now, world, old, new);
        self.order(now, world, old, new);
        self.forget_durations(world);
        self.learn(now, world, old, new);
        let made: Vec<_> = new
            .grants
            .iter()
            .filter(|(uid, _)| !old.grants.contains_key(*uid))
            .collect();
        let opens_wave = new.plans.iter().any(|(uid, entry)| {
            let before = old.plans.get(uid).filter(|before| before.run == entry.run);
            before.is_some_and(|before| before.open_wave < entry.open_wave)
        });
        let by_nodes = !made.is_empty() || opens_wave;
        assert!(
            change.by_fresh_nodes || !by_nodes,
            "decided by what the nodes are like"
        );
        for (uid, grant) in &made {
            self.grant(now, world, new, uid, grant);
        }
        let plans: BTreeSet<&str> = made.iter().map(|(_, grant)| grant.plan.as_str()).collect();
        for plan in plans {
            self.budget(world, old, new, plan);
        }
        for (uid, before) in &old.grants {
            match new.grants.get(uid) {
                Some(after) => moves_on(before, after),
                None => released(world, uid, before),
            }
        }
    }

    fn grant(&mut self, now: DateTime<Utc>, world: &World, new: &UpdateLedgerSpec, uid: &str, grant: &Grant) {
        let plan = plan_of(world, grant);
        let node =
            node_of(world, uid).unwrap_or_else(|| panic!("S3: granted a node that is not there: {grant:?}"));
        let entry = &new.plans[&grant.plan];
        let who = format!("{} of plan {}", node.name, plan.name);
        assert_eq!(node.name, grant.node, "S3: name and UID");
        assert!(
            owner(world, new, node).is_some_and(|owner| owner.uid == plan.uid),
            "S3: {who} belongs to another plan"
        );
        assert!(
            !plan.deleting && !plan.spec.paused && !entry.paused && !entry.halted,
            "S12: {who} granted"
        );
        assert!(plan.finalizer, "S12: {who} granted without a finalizer");
        assert_eq!(
            (grant.generation, entry.generation),
            (plan.generation, plan.generation),
            "S12: {who}"
        );
        assert_eq!(
            (&grant.run, Some(grant.to.as_str()), &entry.target),
            (
                &entry.run,
                target_of(node, plan, &entry.targets),
                &plan.spec.target_version
            )
        );
        assert!(
            (grant.phase, &grant.permit, &grant.ending) == (GrantPhase::Granted, &None, &None),
            "{grant:?}"
        );

        let shadow = node.shadow.as_ref().expect("a granted node has a shadow");
        let status = shadow.status.as_ref().expect("and has reported");
        assert!(
            node.ready && node.agent.ready && !node.unschedulable && node.disruption.is_none(),
            "S9: {who}"
        );
        assert_eq!(node.opt_out, None, "S3: {who}");
        assert!(
            shadow.spec.state == NodeState::Idle && acknowledges(status, &shadow.spec),
            "S9: {who} is not Idle"
        );
        let last = shadow
            .spec
            .attempt
            .filter(|_| shadow.spec.run.as_ref() == Some(&grant.run));
        assert!(
            grant.attempt > last.unwrap_or(0),
            "S5: attempt {} again",
            grant.attempt
        );
        if shadow.spec.run.is_some() && shadow.spec.run.as_ref() != Some(&grant.run) {
            // Another plan's run lies between, after which attempts are counted anew.
            self.permits
                .remove(&(uid.to_owned(), grant.run.clone(), grant.attempt));
        }
        let version = |text: &str| Version::parse(text).expect("a version");
        assert_eq!(grant.from, status.current_version);
        assert!(
            version(&grant.to) > version(&grant.from)
                || plan.spec.allow_downgrade && version(&grant.to) < version(&grant.from),
            "S8: {who} from {} to {}",
            grant.from,
            grant.to
        );

        let skew = world
            .clock_skew
            .expect("S4: nothing is granted by a clock that was not compared");
        assert!(
            skew.abs() < TimeDelta::seconds(30),
            "S4: granted by a clock that is {skew} off"
        );
        let closes = self
            .approvals
            .open_until(plan, &grant.run, entry.waiting_since, now)
            .unwrap_or_else(|| panic!("S4: {who} granted outside a window"));
        if let Some(closes) = closes {
            let needs = self.needs(plan);
            assert!(
                now + needs <= closes,
                "S4: {who} needs {needs}, and does not fit before {closes}"
            );
        }
        assert!(
            grant.not_after <= closes && grant.not_after.is_some() == closes.is_some(),
            "S4: {who} {grant:?}"
        );

        let failed = self.failed.get(&grant.run).map_or(0, BTreeSet::len);
        let matched = owned(world, new, plan).len();
        let threshold = plan.spec.failure_policy.threshold.at_least(matched).max(1);
        assert!(
            failed < threshold,
            "S11: {who} granted though {failed} have failed"
        );
        let index = plan.spec.waves.iter().position(|wave| wave.name == grant.wave);
        let open = entry.open_wave as usize;
        assert!(
            index.is_none_or(|index| index <= open),
            "S10: {who} in a wave that has not started"
        );
        self.granted.push((now, node.name.clone(), grant.clone()));
        self.begun.insert(uid.to_owned(), now);
    }

    /// Who edits what nodes are expected to take forgets what they took.
    fn forget_durations(&mut self, world: &World) {
        for plan in &world.plans {
            let expected = plan.spec.expected_node_duration;
            let before = self.expected.insert(plan.uid.clone(), expected);
            if before.is_some_and(|before| before != expected) {
                self.took.remove(&plan.uid);
            }
        }
    }

    /// How long each node took whose grant is over. Of one that was granted in a ledger that is lost it is not known.
    fn learn(&mut self, now: DateTime<Utc>, world: &World, old: &UpdateLedgerSpec, new: &UpdateLedgerSpec) {
        for (uid, grant) in &old.grants {
            let over = !new.grants.contains_key(uid) && node_of(world, uid).is_some();
            let begun = self.begun.get(uid).filter(|_| over);
            if let Some(begun) = begun
                && grant.phase == GrantPhase::Monitoring
                && grant.ending.is_none()
            {
                let took = (now - *begun).num_milliseconds();
                let known = self.took.entry(grant.plan.clone()).or_default();
                known.push(u32::try_from((took + 999) / 1000).unwrap());
                if known.len() > 50 {
                    known.remove(0);
                }
            }
        }
    }

    /// How much of a window a grant of the plan needs: as long as nine of ten nodes took no longer than.
    fn needs(&self, plan: &PlanFacts) -> TimeDelta {
        let spec = &plan.spec;
        let Some(took) = self.took.get(&plan.uid).filter(|took| !took.is_empty()) else {
            return spec.expected_node_duration.delta();
        };
        let enough =
            |seconds: u32| took.iter().filter(|took| **took <= seconds).count() * 10 >= took.len() * 9;
        let p90 = took
            .iter()
            .copied()
            .filter(|seconds| enough(*seconds))
            .min()
            .unwrap();
        let steps = [
            spec.timeouts.stage,
            spec.drain.timeout,
            spec.timeouts.reboot,
            spec.monitoring.timeout,
        ];
        let longest = steps
            .iter()
            .fold(TimeDelta::zero(), |sum, step| sum + step.delta());
        TimeDelta::seconds(p90.into()).min(longest)
    }

    /// S1, for a plan that has just granted.
    fn budget(&mut self, world: &World, old: &UpdateLedgerSpec, new: &UpdateLedgerSpec, plan: &str) {
        let plan = world
            .plans
            .iter()
            .find(|facts| facts.uid == plan)
            .expect("the plan is there");
        let both = UpdateLedgerSpec {
            grants: new.grants.clone().into_iter().chain(old.grants.clone()).collect(),
            ..new.clone()
        };
        let matched = owned(world, &both, plan);
        let down =
            |node: &&&NodeFacts| new.grants.contains_key(&node.uid) || !node.ready || node.unschedulable;
        let unavailable = matched.iter().filter(down).count();
        let max = plan.spec.max_unavailable.at_most(matched.len());
        assert!(
            unavailable <= max,
            "S1: {unavailable} of at most {max} nodes of {} are unavailable",
            plan.name
        );
        limits::domains(plan, matched.iter().filter(down).copied());
        let most = self.most_unavailable.entry(plan.uid.clone()).or_default();
        *most = unavailable.max(*most);
        let run = &new.plans[&plan.uid].run;
        for wave in &plan.spec.waves {
            let Some(limit) = wave.max_unavailable else {
                continue;
            };
            let known = plan.status.waves.iter().find(|status| status.name == wave.name);
            // The status may not know who has joined at this very instant.
            let joined = matched.len().saturating_sub(plan.status.nodes.matched as usize);
            let max = limit.at_most(known.map_or(matched.len(), |status| status.nodes as usize + joined));
            let of_wave = |node: &&&NodeFacts| match new.grants.get(&node.uid) {
                Some(grant) => grant.run == *run && grant.wave == wave.name,
                None => node.shadow.as_ref().is_some_and(|shadow| {
                    shadow.spec.run.as_ref() == Some(run) && shadow.spec.wave.as_ref() == Some(&wave.name)
                }),
            };
            let made = self
                .granted
                .last()
                .is_some_and(|(_, _, grant)| grant.wave == wave.name);
            let unavailable = matched.iter().filter(of_wave).filter(down).count();
            assert!(
                !made || unavailable <= max,
                "S1: {unavailable} of at most {max} of wave {}",
                wave.name
            );
        }
    }

    /// Before an action is done, at this time of the Kubernetes API.
    pub fn action(&mut self, now: DateTime<Utc>, world: &World, action: &Action) {
        let ledger = world.ledger.as_ref().expect("no action without a ledger");
        let by_name = |name: &str| {
            world
                .nodes
                .iter()
                .find(|node| node.name == name)
                .expect("the node is there")
        };
        let plan_named = |name: &str| {
            world
                .plans
                .iter()
                .find(|plan| plan.name == name)
                .expect("the plan is there")
        };
        match action {
            Action::AddFinalizer { plan } => {
                let plan = plan_named(plan);
                assert!(
                    !plan.finalizer && !plan.deleting,
                    "S12: finalizer added to {}",
                    plan.name
                );
            }
            Action::RemoveFinalizer { plan } => {
                let plan = plan_named(plan);
                let granted = ledger.grants.values().any(|grant| grant.plan == plan.uid);
                assert!(
                    plan.finalizer && !granted,
                    "S12: finalizer removed from {}",
                    plan.name
                );
            }
            Action::Cordon { node, disruption } => {
                let node = by_name(node);
                let grant = ledger
                    .grants
                    .get(&node.uid)
                    .expect("S1: cordoned without a grant");
                assert!(
                    !node.unschedulable && node.disruption.is_none(),
                    "S9: {} is cordoned already",
                    node.name
                );
                assert_eq!(grant.phase, GrantPhase::Granted, "S5: {}", node.name);
                assert_eq!((&disruption.run, disruption.attempt), (&grant.run, grant.attempt));
                let plan = plan_of(world, grant);
                let since = ledger.plans[&grant.plan].waiting_since;
                self.cordoned.insert(node.uid.clone(), now);
                assert!(
                    self.approvals.open_until(plan, &grant.run, since, now).is_some(),
                    "S4: {} cordoned outside a window",
                    node.name
                );
            }
            Action::Uncordon { node, disruption } => {
                let node = by_name(node);
                assert_eq!(
                    node.disruption.as_ref(),
                    Some(disruption),
                    "S9: {} is not ours",
                    node.name
                );
            }
            Action::SetShadow { node, spec } => self.instruction(now, ledger, by_name(node), spec),
        }
    }

    fn instruction(
        &mut self,
        now: DateTime<Utc>,
        ledger: &UpdateLedgerSpec,
        node: &NodeFacts,
        spec: &BottlerocketShadowSpec,
    ) {
        let grant = ledger.grants.get(&node.uid);
        let ours = grant
            .filter(|grant| (Some(&grant.run), Some(grant.attempt)) == (spec.run.as_ref(), spec.attempt));
        let phases: &[GrantPhase] = match spec.state {
            NodeState::StagedAndPerformedUpdate => &[GrantPhase::Granted],
            NodeState::RebootedIntoUpdate => &[GrantPhase::Drained, GrantPhase::Rebooting],
            NodeState::MonitoringUpdate => &[GrantPhase::Monitoring],
            NodeState::Idle | NodeState::ErrorReset => {
                if let Some(grant) =
                    ours.filter(|g| g.phase == GrantPhase::Monitoring && spec.failure.is_none())
                {
                    self.proven.insert((grant.run.clone(), grant.wave.clone()), now);
                }
                return;
            }
        };
        let phase = ours.map(|grant| grant.phase);
        assert!(
            phase.is_some_and(|phase| phases.contains(&phase)),
            "{} told {spec:?} in {phase:?}",
            node.name
        );
        assert!(
            ours.is_some_and(|grant| grant.ending.is_none()),
            "{} told {spec:?} while it ends",
            node.name
        );
    }

    /// After a permit was given to a node that is about to reboot.
    pub fn permit(
        &mut self,
        now: DateTime<Utc>,
        plans: &[PlanFacts],
        node: &NodeFacts,
        ledger: Option<&UpdateLedgerSpec>,
    ) {
        let ledger = ledger.expect("S5: no permit without a ledger");
        let grant = &ledger.grants[&node.uid];
        let first = self
            .permits
            .insert((node.uid.clone(), grant.run.clone(), grant.attempt));
        assert!(
            first,
            "S5: {} reboots twice in attempt {}",
            node.name, grant.attempt
        );
        assert!(
            node.unschedulable && node.disruption.is_some(),
            "S5: {} is not cordoned",
            node.name
        );
        if let Some(plan) = plans.iter().find(|plan| plan.uid == grant.plan) {
            let since = ledger
                .plans
                .get(&grant.plan)
                .and_then(|entry| entry.waiting_since);
            let open = |at| self.approvals.open_until(plan, &grant.run, since, at).is_some();
            let cordoned = self.cordoned.get(&node.uid);
            let finishes =
                plan.spec.on_window_end == OnWindowEnd::Finish && cordoned.is_some_and(|at| open(*at));
            assert!(
                open(now) || finishes,
                "S4: {} reboots outside a window",
                node.name
            );
        }
    }

    /// Before a status is written.
    pub fn status(&self, plan: &PlanFacts, status: &UpdatePlanStatus, ledger: Option<&UpdateLedgerSpec>) {
        assert_eq!(status.observed_generation, Some(plan.generation));
        let entry = ledger.and_then(|ledger| ledger.plans.get(&plan.uid));
        assert!(
            entry.is_none_or(|entry| entry.generation == plan.generation),
            "S12: {} observed first",
            plan.name
        );
        let nodes = status.nodes;
        assert_eq!(
            nodes.matched,
            nodes.updated + nodes.updating + nodes.waiting + nodes.skipped + nodes.failed
        );
        let message = status.message.as_deref().unwrap_or_default();
        assert!(
            !message.is_empty() && !message.ends_with([' ', ';', ':', ',']),
            "a message ends early: {message:?}"
        );
    }

    /// When nothing is left to do: every node has exactly one verdict, or a grant.
    pub fn settled(&self, now: DateTime<Utc>, world: &World, decisions: &Decisions) {
        let Some(ledger) = &world.ledger else { return };
        assert!(
            decisions.look_again.is_none_or(|at| at > now),
            "look_again is in the past"
        );
        for node in &world.nodes {
            let Some(owner) = owner(world, ledger, node) else {
                continue;
            };
            let of_node = decisions
                .verdicts
                .iter()
                .filter(|v| v.node == node.name && *v.plan == *owner.name);
            let found: Vec<_> = of_node.collect();
            let stuck = |v: &&NodeVerdict| ["DrainBlocked", "AgentSilent"].contains(&v.verdict.reason());
            let granted = ledger.grants.contains_key(&node.uid);
            assert!(
                found.len() == 1 && (!granted || stuck(&found[0])) || granted && found.is_empty(),
                "verdicts of {} by {}: {found:?}",
                node.name,
                owner.name
            );
            assert!(
                !node.unschedulable
                    || node.disruption.is_some()
                    || self.cordoned_by_admin.contains(&node.uid)
            );
        }
        for uid in &self.cordoned_by_admin {
            assert!(
                node_of(world, uid).is_none_or(|node| node.unschedulable),
                "S9: {uid} is uncordoned"
            );
        }
    }
}
