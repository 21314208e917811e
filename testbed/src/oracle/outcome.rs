//! L1: where a run is to have ended, every matched node has come to an end, and nothing is left behind.

use api::UpdatePlan;
use api::shadow::NodeState;

use super::nodes::{annotation, has_opted_out, is_ours};
use super::offers::{Wanted, is_left_alone};
use super::skips::may_be_skipped;
use super::{Check, Moment, Promise, Report};
use crate::history::key;

pub(super) struct Outcome;

impl Check for Outcome {
    fn ended(&mut self, now: &Moment<'_>, report: &mut Report) {
        if now.case.expectations.quiet {
            check_quiet(now, report);
        }
        for name in &now.case.expectations.complete {
            match now.state.plans.get(name) {
                Some(plan) => check_nodes(now, plan, report),
                None => report.add(
                    Promise::L1,
                    now.at,
                    format!("plan {name} is to be complete, and is gone"),
                ),
            }
        }
    }
}

fn check_quiet(now: &Moment<'_>, report: &mut Report) {
    let mut left = |message: String| report.add(Promise::L1, now.at, message);
    for grant in now
        .state
        .ledger(&now.case.expectations.namespace)
        .iter()
        .flat_map(|l| l.spec.grants.values())
    {
        left(format!(
            "node {} still has its grant, in phase {}",
            grant.node, grant.phase
        ));
    }
    for node in now.state.nodes.values().filter(|node| is_ours(node)) {
        let by = annotation(node, api::names::DISRUPTION_ANNOTATION).unwrap_or_default();
        left(format!(
            "node {} is still cordoned by us: {by}",
            key(node.as_ref())
        ));
    }
    for shadow in now.state.shadows.values() {
        let name = key(shadow.as_ref());
        let node = shadow
            .metadata
            .name
            .as_deref()
            .and_then(|name| name.strip_prefix("brs-"))
            .unwrap_or_default();
        let up = now.case.machines.of(node).up_at(now.at);
        match shadow.spec.state {
            NodeState::Idle if up && !shadow.is_acknowledged() => {
                left(format!("shadow {name} is Idle, and its node has not said so"));
            }
            // What a machine that is down has to undo, it undoes when it is back.
            NodeState::Idle => {}
            NodeState::ErrorReset if !up => {}
            state => left(format!("shadow {name} still asks for {state}")),
        }
    }
}

fn check_nodes(now: &Moment<'_>, plan: &UpdatePlan, report: &mut Report) {
    let uid = plan.metadata.uid.as_deref().unwrap_or_default();
    let ledger = now.state.ledger(&now.case.expectations.namespace);
    let entry = ledger.and_then(|ledger| ledger.spec.plans.get(uid));
    let run = entry.map(|entry| now.tracks.run(uid, &entry.run));
    for (uid, node) in now.tracks.matched(now.case, plan, now.state) {
        let live = now.state.is_live(&node, &uid);
        let out = now.state.nodes.get(&node).is_some_and(|node| has_opted_out(node))
            || entry.is_some_and(|entry| may_be_skipped(now, plan, &entry.run, &node));
        let given_up =
            run.is_some_and(|run| run.given_up(&uid, plan.spec.failure_policy.retries, now.lies(&node)));
        let machine = now.case.machines.of(&node);
        let wanted = Wanted {
            target: &plan.spec.target_version,
            targets: entry.map_or(&[][..], |entry| entry.targets.as_slice()),
        };
        let left_alone = run.is_some_and(|run| is_left_alone(now, run, &uid, &node, wanted));
        let behind = machine.running_at(now.at).is_none() || wanted.is_missing(plan, machine, now.at);
        if live && !given_up && !left_alone && !out && behind {
            report.add(
                Promise::L1,
                now.at,
                format!("node {node} of plan {} has come to no end", key(plan)),
            );
        }
    }
}
