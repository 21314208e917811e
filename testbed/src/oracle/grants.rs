//! S2: the ledger changes only in legal steps, and nothing is done to a node without its leave.
//! S3: a grant is for one live node and one plan, and a replaced node inherits nothing.

use std::collections::BTreeMap;

use api::ledger::{Grant, GrantPhase};
use api::shadow::NodeState;

use super::changes::LedgerChange;
use super::nodes::{is_ours, owner_uid};
use super::selectors::{comes_before, plan_selects};
use super::{Check, Moment, Promise, Report, STALE};
use crate::history::{Change, key};

pub(super) struct Grants;

impl Check for Grants {
    fn changed(&mut self, now: &Moment<'_>, change: &Change, report: &mut Report) {
        let ledger = now.state.ledger(&now.case.expectations.namespace);
        let grant_of = |uid: &str| ledger.and_then(|ledger| ledger.spec.grants.get(uid));
        match change {
            Change::Node(pair) => {
                if let Some(after) = &pair.after
                    && is_ours(after)
                    && !pair.before.as_ref().is_some_and(|before| is_ours(before))
                    && let Some(uid) = after.metadata.uid.as_deref()
                    && grant_of(uid).is_none()
                    && !now.tracks.released_lately(uid, now.at)
                {
                    let node = after.metadata.name.as_deref().unwrap_or_default();
                    report.add(
                        Promise::S2,
                        now.at,
                        format!("node {node} was cordoned without a grant"),
                    );
                }
            }
            Change::Shadow(pair) => {
                let Some(after) = &pair.after else {
                    return;
                };
                let node = after.metadata.name.as_deref().unwrap_or_default();
                let asked = |state: NodeState| state != NodeState::Idle;
                if let Some(before) = &pair.before
                    && asked(before.spec.state)
                    && asked(after.spec.state)
                    && (&before.spec.plan, &before.spec.run) != (&after.spec.plan, &after.spec.run)
                {
                    let message =
                        format!("shadow {node} went over to another plan or run before it was Idle");
                    report.add(Promise::S3, now.at, message);
                    return;
                }
                let changed = pair
                    .before
                    .as_ref()
                    .is_none_or(|before| before.spec != after.spec);
                if !changed || !asked(after.spec.state) {
                    return;
                }
                let Some(uid) = owner_uid(after) else {
                    report.add(
                        Promise::S3,
                        now.at,
                        format!("shadow {node} belongs to no node, and is not Idle"),
                    );
                    return;
                };
                let leave = grant_of(uid).filter(|grant| {
                    Some(&grant.run) == after.spec.run.as_ref() && Some(grant.attempt) == after.spec.attempt
                });
                if now.state.node_of_uid(uid).is_none() && !now.tracks.lived_lately(uid, now.state) {
                    report.add(
                        Promise::S3,
                        now.at,
                        format!("shadow {node} of a node that is gone is asked for work"),
                    );
                } else if leave.is_none() && !now.tracks.released_lately(uid, now.at) {
                    let asked = after.spec.state;
                    report.add(
                        Promise::S2,
                        now.at,
                        format!("shadow {node} was asked for {asked} without a grant"),
                    );
                }
            }
            _ => {}
        }
    }

    fn ledger(&mut self, now: &Moment<'_>, change: &LedgerChange, report: &mut Report) {
        for (uid, grant) in &change.made {
            new_grant(now, uid, grant, report);
            check_owner(now, change, uid, grant, report);
            if !now.tracks.lived_lately(uid, now.state) {
                let message = format!("node {} was granted by UID {uid}, which no node has", grant.node);
                report.add(Promise::S3, now.at, message);
            }
        }
        let mut by_name: BTreeMap<&str, &str> = BTreeMap::new();
        for (uid, grant) in change.after.iter().flat_map(|after| &after.grants) {
            if let Some(other) = by_name.insert(&grant.node, uid) {
                let message = format!("node {} has two grants, by UIDs {other} and {uid}", grant.node);
                report.add(Promise::S3, now.at, message);
            }
        }
        for (_, before, after) in &change.kept {
            for message in illegal(before, after) {
                report.add(
                    Promise::S2,
                    now.at,
                    format!("grant of node {}: {message}", after.node),
                );
            }
        }
        for (uid, grant) in &change.released {
            let ends = grant.ending.is_some()
                || matches!(grant.phase, GrantPhase::Monitoring | GrantPhase::Withdrawing);
            if !ends && now.state.node_of_uid(uid).is_some() {
                let message = format!("grant of node {} vanished in phase {}", grant.node, grant.phase);
                report.add(Promise::S2, now.at, message);
            }
        }
    }
}

fn new_grant(now: &Moment<'_>, uid: &str, grant: &Grant, report: &mut Report) {
    if grant.phase != GrantPhase::Granted || grant.permit.is_some() || grant.ending.is_some() {
        report.add(
            Promise::S2,
            now.at,
            format!("grant of node {} began in phase {}", grant.node, grant.phase),
        );
    }
    if grant.granted_at > now.at || grant.granted_at < now.at - STALE {
        let message = format!(
            "grant of node {} says that it was made at {}",
            grant.node, grant.granted_at
        );
        report.add(Promise::S2, now.at, message);
    }
    if now.tracks.known_opted_out(&grant.node, now.at) {
        report.add(
            Promise::S3,
            now.at,
            format!("node {} was granted, though it has opted out", grant.node),
        );
    }
    if let Some(node) = now.state.node_of_uid(uid)
        && node.metadata.name.as_ref() != Some(&grant.node)
    {
        report.add(
            Promise::S3,
            now.at,
            format!("the grant for UID {uid} names node {}, not its own", grant.node),
        );
    }
    let before = now
        .tracks
        .run(&grant.plan, &grant.run)
        .granted
        .get(uid)
        .copied()
        .unwrap_or(0);
    if grant.attempt > before + 1 {
        let message = format!(
            "node {} of UID {uid} was granted for attempt {}, after {before} of its own",
            grant.node, grant.attempt
        );
        report.add(Promise::S3, now.at, message);
    }
}

/// A node is granted by the plan that comes first of those that select it, as far as the ledger's writer knew them: by the
/// generations that the ledger records.
fn check_owner(now: &Moment<'_>, change: &LedgerChange, uid: &str, grant: &Grant, report: &mut Report) {
    let Some(own) = now.case.plan_of(grant) else {
        return;
    };
    let Some(node) = now.state.node_of_uid(uid) else {
        return;
    };
    if !now.tracks.known_labels(&grant.node, now.at) {
        return;
    }
    for (other, entry) in change.after.iter().flat_map(|after| &after.plans) {
        let first = now.case.plan(other, entry.generation).filter(|plan| {
            let deleting = plan.metadata.deletion_timestamp.is_some();
            *other != grant.plan && !deleting && plan_selects(plan, node) && comes_before(plan, own)
        });
        if first.is_some() {
            let message = format!(
                "node {} was granted by plan {}, but belongs to {}",
                grant.node,
                key(own.as_ref()),
                entry.name
            );
            report.add(Promise::S3, now.at, message);
        }
    }
}

/// What is not legal about this change of a grant.
fn illegal(before: &Grant, after: &Grant) -> Vec<String> {
    use GrantPhase::{Drained, Granted, Monitoring, Rebooting, Withdrawing};

    let mut found = Vec::new();
    let legal = before.phase == after.phase
        || matches!(
            (before.phase, after.phase),
            (Granted, Drained)
                | (Drained, Rebooting)
                | (Rebooting, Monitoring)
                | (Granted | Drained, Withdrawing)
        );
    if !legal {
        found.push(format!("went from {} to {}", before.phase, after.phase));
    }
    let permitted = (before.phase, after.phase) == (Drained, Rebooting);
    if before.permit != after.permit && (before.permit.is_some() || !permitted) {
        found.push("its permit changed".to_owned());
    }
    if permitted && after.permit.is_none() {
        found.push("went to Rebooting without a permit".to_owned());
    }
    let fixed = |grant: &Grant| {
        (
            grant.node.clone(),
            grant.wave.clone(),
            grant.from.clone(),
            grant.to.clone(),
        )
    };
    if fixed(before) != fixed(after) {
        found.push("its node, wave or versions changed".to_owned());
    }
    if after.generation < before.generation {
        found.push(format!(
            "its generation went from {} back to {}",
            before.generation, after.generation
        ));
    }
    if before.ending.is_some() && before.ending != after.ending {
        found.push("its ending changed".to_owned());
    }
    if before.ending.is_some() && before.phase != after.phase {
        found.push(format!("went on to {} though it was ending", after.phase));
    }
    if after.phase == Withdrawing && after.ending.is_none() {
        found.push("is withdrawn without a reason".to_owned());
    }
    found
}
