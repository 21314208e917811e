//! S1: no grant takes the unavailable nodes above a limit. Our own grants count absolutely, other nodes as far as the
//! operator must know of them.

use std::collections::BTreeSet;

use api::ledger::{Grant, MAX_GRANTS, UpdateLedgerSpec};

use super::changes::LedgerChange;
use super::selectors::takes_part;
use super::{Check, Moment, Promise, Report};

pub(super) struct Budget;

impl Check for Budget {
    fn ledger(&mut self, now: &Moment<'_>, change: &LedgerChange, report: &mut Report) {
        let Some(after) = &change.after else {
            return;
        };
        for (_, grant) in &change.made {
            check_plan(now, after, grant, report);
            check_wave(now, after, grant, report);
            check_topology(now, after, grant, report);
            check_install(now, after, grant, report);
        }
        if !change.made.is_empty() && after.grants.len() > MAX_GRANTS {
            report.add(
                Promise::S1,
                now.at,
                format!("{} grants, more than the ledger may hold", after.grants.len()),
            );
        }
    }
}

fn check_plan(now: &Moment<'_>, ledger: &UpdateLedgerSpec, made: &Grant, report: &mut Report) {
    let Some(plan) = now.case.plan_of(made) else {
        return;
    };
    let matched = now.tracks.matched(now.case, plan, now.state);
    let granted = ledger
        .grants
        .values()
        .filter(|grant| grant.plan == made.plan)
        .count();
    let others = matched.iter().filter(|(uid, node)| {
        let known = now.tracks.known_unavailable(node, now.at) && now.tracks.known_labels(node, now.at);
        known && !ledger.grants.contains_key(*uid) && now.state.is_live(node, uid)
    });
    let others: Vec<&str> = others.map(|(_, node)| node.as_str()).collect();
    let limit = plan.spec.max_unavailable.at_most(matched.len());
    if granted + others.len() > limit {
        let message = format!(
            "node {} was granted: {granted} granted and {} otherwise unavailable ({}) of {} nodes, limit {limit}",
            made.node,
            others.len(),
            others.join(", "),
            matched.len()
        );
        report.add(Promise::S1, now.at, message);
    }
}

/// Which nodes a wave will take is not known before they are granted. So its size is taken as the largest that it can
/// be, and of the nodes that are unavailable for other reasons only those count that were granted in it before.
fn check_wave(now: &Moment<'_>, ledger: &UpdateLedgerSpec, made: &Grant, report: &mut Report) {
    let Some(plan) = now.case.plan_of(made) else {
        return;
    };
    let Some(wave) = plan.spec.waves.iter().find(|wave| wave.name == made.wave) else {
        return;
    };
    let Some(limit) = wave.max_unavailable else {
        return;
    };
    let run = now.tracks.run(&made.plan, &made.run);
    let recorded = run.members.get(&made.wave).cloned().unwrap_or_default();
    let size = ledger
        .plans
        .get(&made.plan)
        .and_then(|entry| entry.wave_sizes.get(&made.wave));
    let largest = match size {
        Some(size) => recorded.len().max(*size as usize),
        None => {
            let matched = now.tracks.matched(now.case, plan, now.state);
            matched
                .keys()
                .filter(|uid| run.wave_of(uid).is_none_or(|other| other == made.wave))
                .count()
        }
    };
    let of_wave =
        |grant: &&Grant| (&grant.plan, &grant.run, &grant.wave) == (&made.plan, &made.run, &made.wave);
    let granted = ledger.grants.values().filter(of_wave).count();
    let others = recorded.iter().filter(|(uid, node)| {
        let live = now.state.is_live(node, uid);
        live && now.tracks.known_unavailable(node, now.at) && !ledger.grants.contains_key(*uid)
    });
    let (others, limit) = (others.count(), limit.at_most(largest));
    if granted + others > limit {
        let message = format!(
            "node {} was granted: {granted} of wave {} granted and {others} otherwise unavailable, limit {limit}",
            made.node, made.wave
        );
        report.add(Promise::S1, now.at, message);
    }
}

/// The install's own limit, over all nodes that take part; and its stop switch, by the ledger that the grant is written to.
fn check_install(now: &Moment<'_>, ledger: &UpdateLedgerSpec, made: &Grant, report: &mut Report) {
    if ledger.stop {
        let message = format!("node {} was granted, though the install is stopped", made.node);
        report.add(Promise::S1, now.at, message);
    }
    let Some(limit) = ledger.max_unavailable else {
        return;
    };
    let taking_part = now.state.nodes.iter().filter(|(_, node)| takes_part(node));
    let others = taking_part.clone().filter(|(name, node)| {
        let uid = node.metadata.uid.as_deref().unwrap_or_default();
        let known = now.tracks.known_unavailable(name, now.at) && now.tracks.known_labels(name, now.at);
        known && !ledger.grants.contains_key(uid)
    });
    let (granted, others) = (ledger.grants.len(), others.count());
    let limit = limit.at_most(taking_part.count());
    if granted + others > limit {
        let message = format!(
            "node {} was granted: {granted} granted and {others} otherwise unavailable, limit {limit} of the install",
            made.node
        );
        report.add(Promise::S1, now.at, message);
    }
}

/// A node without the label is a domain of its own. Whose labels have changed lately may be counted as before.
fn check_topology(now: &Moment<'_>, ledger: &UpdateLedgerSpec, made: &Grant, report: &mut Report) {
    let Some(plan) = now.case.plan_of(made) else {
        return;
    };
    let Some(topology) = &plan.spec.topology else {
        return;
    };
    let domain = |name: &str| {
        let node = now
            .state
            .nodes
            .get(name)
            .filter(|_| now.tracks.known_labels(name, now.at))?;
        let value = node
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(&topology.key));
        Some(value.map_or_else(|| format!("node {name}"), |value| format!("label {value}")))
    };
    let matched = now.tracks.matched(now.case, plan, now.state);
    let unavailable = matched.iter().filter(|(uid, node)| {
        let granted = ledger
            .grants
            .get(*uid)
            .is_some_and(|grant| grant.plan == made.plan);
        granted || now.tracks.known_unavailable(node, now.at) && now.state.is_live(node, uid)
    });
    let busy: BTreeSet<String> = unavailable.filter_map(|(_, node)| domain(node)).collect();
    if busy.len() > topology.max_domains as usize {
        let busy: Vec<String> = busy.into_iter().collect();
        let message = format!(
            "node {} was granted, and nodes of {} domains are unavailable ({}), limit {}",
            made.node,
            busy.len(),
            busy.join(", "),
            topology.max_domains
        );
        report.add(Promise::S1, now.at, message);
    }
}
