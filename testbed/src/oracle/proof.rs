//! S7: a node is updated only if its machine says so. S8: no machine goes where nobody wanted it.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use api::UpdatePlan;
use api::ledger::Grant;
use api::plan::{Phase, Run};
use chrono::TimeDelta;
use k8s_openapi::api::core::v1::Node;

use super::changes::LedgerChange;
use super::machines::compare;
use super::offers::{Wanted, is_left_alone};
use super::skips::may_be_skipped;
use super::{Check, LAG, Moment, Promise, Report};
use crate::history::{Change, key};

/// Kubernetes' own times, by which readiness is counted, are whole seconds.
const GRAIN: TimeDelta = TimeDelta::seconds(1);

#[derive(Default)]
pub(super) struct Proof {
    /// Nodes that a plan has taken to an older version, with that version: it says that it may.
    lowered: BTreeSet<(String, String)>,
}

impl Proof {
    fn is_lowered(&self, node: &str, version: &str) -> bool {
        self.lowered.contains(&(node.to_owned(), version.to_owned()))
    }
}

impl Check for Proof {
    fn changed(&mut self, now: &Moment<'_>, change: &Change, report: &mut Report) {
        match change {
            Change::Plan(pair) => {
                if let Some(plan) = &pair.after {
                    check_claims(now, pair.before.as_deref(), plan, report);
                }
            }
            Change::Node(pair) => {
                if let (Some(before), Some(after)) = (&pair.before, &pair.after)
                    && before.metadata.uid == after.metadata.uid
                    && let (Some(was), Some(is)) = (kind_of_machine(before), kind_of_machine(after))
                    && was != is
                {
                    let message = format!(
                        "node {} became another variant or architecture",
                        key(after.as_ref())
                    );
                    report.add(Promise::S8, now.at, message);
                }
            }
            _ => {}
        }
    }

    fn ledger(&mut self, now: &Moment<'_>, change: &LedgerChange, report: &mut Report) {
        for (_, grant) in &change.made {
            let plan = now.case.plan_of(grant);
            let machine = now.case.machines.of(&grant.node);
            let entry = change
                .after
                .as_ref()
                .and_then(|after| after.plans.get(&grant.plan));
            let asked = plan.zip(entry).and_then(|(plan, entry)| {
                let target = &plan.spec.target_version;
                Wanted {
                    target,
                    ..Wanted::of(entry)
                }
                .on(machine, now.at)
            });
            let down = compare(&grant.to, &grant.from) == Some(Ordering::Less);
            let may = plan.is_some_and(|plan| plan.spec.allow_downgrade);
            if down && may {
                self.lowered.insert((grant.node.clone(), grant.to.clone()));
            }
            if down && !may {
                let message = format!(
                    "node {} was granted to go from {} down to {}",
                    grant.node, grant.from, grant.to
                );
                report.add(Promise::S8, now.at, message);
            } else if asked.is_some_and(|asked| asked != grant.to) {
                let message = format!(
                    "node {} was granted to go to {}, which the plan does not ask",
                    grant.node, grant.to
                );
                report.add(Promise::S8, now.at, message);
            }
        }
        for (uid, grant) in &change.released {
            if LedgerChange::succeeded(uid, grant, now.state)
                && let Some(missing) = unproven(now, grant)
            {
                let message = format!(
                    "node {} was taken for updated to {}, but {missing}",
                    grant.node, grant.to
                );
                report.add(Promise::S7, now.at, message);
            }
        }
    }

    fn ended(&mut self, now: &Moment<'_>, report: &mut Report) {
        let unasked = now
            .case
            .machines
            .iter()
            .filter(|(node, _)| !now.case.expectations.downgraded.contains(*node));
        for (node, machine) in unasked {
            let mut version = None;
            for boot in machine.boots() {
                let before = if boot.first { None } else { version };
                let down = before.and_then(|before| compare(boot.version, before)) == Some(Ordering::Less);
                if down && !self.is_lowered(node, boot.version) {
                    let message = format!("node {node} went down to version {}", boot.version);
                    report.add(Promise::S8, boot.at, message);
                }
                version = Some(boot.version);
            }
            for (at, flagged, running) in machine.activations() {
                if compare(flagged, running) == Some(Ordering::Less) && !self.is_lowered(node, flagged) {
                    let message = format!("node {node} was made to boot {flagged}, older than {running}");
                    report.add(Promise::S8, at, message);
                }
            }
        }
    }
}

/// What is missing of the proof that the grant's node is updated.
fn unproven(now: &Moment<'_>, grant: &Grant) -> Option<String> {
    let machine = now.case.machines.of(&grant.node);
    let Some(boot) = machine.running_at(now.at) else {
        return Some("its machine has never been up".to_owned());
    };
    if boot.version != grant.to {
        return Some(format!("it runs {}", boot.version));
    }
    if grant
        .permit
        .as_ref()
        .is_some_and(|permit| permit.boot_id == boot.boot_id)
    {
        return Some("it has not rebooted".to_owned());
    }
    let min_ready = now.case.plan_of(grant)?.spec.monitoring.min_ready;
    let Some(since) = now.tracks.ready_since(&grant.node) else {
        return Some("it is not Ready".to_owned());
    };
    let proven_for = now.at - since.max(boot.at);
    (proven_for < min_ready.delta() - LAG - GRAIN).then(|| {
        format!(
            "it had been Ready for {} ms, not {min_ready}",
            proven_for.num_milliseconds()
        )
    })
}

/// What a plan's status says of nodes that are updated must not be more than is true.
fn check_claims(now: &Moment<'_>, before: Option<&UpdatePlan>, plan: &UpdatePlan, report: &mut Report) {
    let name = key(plan);
    let Some(status) = &plan.status else {
        return;
    };
    let Some(run) = &status.run else {
        return;
    };
    let earlier = before.and_then(|before| before.status.as_ref());
    if earlier == Some(status) {
        return;
    }
    let matched = now.tracks.matched(now.case, plan, now.state);
    let wanted = wanted(run);
    let updated = matched
        .values()
        .filter(|node| wanted.is_reached(now.case.machines.of(node), now.at))
        .count();
    if status.nodes.updated as usize > updated {
        let message = format!(
            "plan {name} says that {} nodes are updated, but {updated} are",
            status.nodes.updated
        );
        report.add(Promise::S7, now.at, message);
    }
    let was_complete = earlier.is_some_and(|earlier| {
        earlier.phase == Some(Phase::Complete) && earlier.run.as_ref().map(|run| &run.id) == Some(&run.id)
    });
    if status.phase == Some(Phase::Complete) && !was_complete {
        check_complete(now, plan, run, report);
    }
}

fn check_complete(now: &Moment<'_>, plan: &UpdatePlan, run: &Run, report: &mut Report) {
    let uid = plan.metadata.uid.as_deref().unwrap_or_default();
    let retries = plan.spec.failure_policy.retries;
    let reached = now.tracks.run(uid, &run.id);
    for (uid, node) in now.tracks.matched(now.case, plan, now.state) {
        let live = now.state.is_live(&node, &uid) && now.tracks.known_labels(&node, now.at);
        let behind = wanted(run).is_missing(plan, now.case.machines.of(&node), now.at);
        let left_alone = is_left_alone(now, reached, &uid, &node, wanted(run));
        let out = now.tracks.may_have_opted_out(&node, now.at) || may_be_skipped(now, plan, &run.id, &node);
        if live && behind && !left_alone && !out && !reached.given_up(&uid, retries, now.lies(&node)) {
            let message = format!(
                "plan {} says it is complete, but node {node} is behind",
                key(plan)
            );
            report.add(Promise::S7, now.at, message);
        }
    }
}

fn wanted(run: &Run) -> Wanted<'_> {
    Wanted {
        target: &run.target,
        targets: &run.targets,
    }
}

/// Variant, in brackets at the end of the image's name, and architecture, once the node has said.
fn kind_of_machine(node: &Node) -> Option<(&str, &str)> {
    let info = node.status.as_ref()?.node_info.as_ref()?;
    let (_, variant) = info.os_image.split_once('(')?;
    Some((variant, info.architecture.as_str()))
}
