//! Where the time of one update goes: requests, and what happened on the machine, in order.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};

use super::requests::Request;
use crate::history::Change;
use crate::lab::Evidence;
use crate::operator::NAMESPACE;
use crate::truth::SimEventKind;

/// One node's update, from its grant to its release: the one in the middle of the rollout.
pub(super) fn of_one_update(evidence: &Evidence, asked: &[Request]) -> String {
    let mut grants: Vec<(DateTime<Utc>, String, Option<DateTime<Utc>>)> = Vec::new();
    let mut replay = evidence.history.replay();
    while let Some(step) = replay.step() {
        let (Change::Ledger(_), Some(ledger)) = (&step.change, step.state.ledger(NAMESPACE)) else {
            continue;
        };
        for grant in ledger.spec.grants.values() {
            if !grants.iter().any(|(_, node, _)| *node == grant.node) {
                grants.push((grant.granted_at, grant.node.clone(), None));
            }
        }
        for (_, node, released) in &mut grants {
            let held = ledger.spec.grants.values().any(|grant| grant.node == *node);
            if released.is_none() && !held {
                *released = Some(step.state.at);
            }
        }
    }
    let Some((from, node, Some(to))) = grants.get(grants.len() / 2) else {
        return String::new();
    };
    let mut lines: Vec<(DateTime<Utc>, String)> = Vec::new();
    for request in asked
        .iter()
        .filter(|request| (*from..*to).contains(&request.received))
    {
        let took = (request.answered - request.received)
            .num_microseconds()
            .unwrap_or_default();
        let Request {
            component,
            verb,
            resource,
            code,
            ..
        } = request;
        let text = format!(
            "{component} {verb} {resource} {code}, {:.1} ms",
            took as f64 / 1000.0
        );
        lines.push((request.received, text));
    }
    for event in evidence.truth.iter().filter(|event| event.node == *node) {
        if (*from..*to).contains(&event.at) {
            let text = match &event.kind {
                SimEventKind::Called { call, status } => format!("      machine: {call:?} {status:?}"),
                other => format!("      machine: {other:?}"),
            };
            lines.push((event.at, text));
        }
    }
    lines.sort();
    let mut text = format!("{node}, from its grant to its release:\n");
    for (at, line) in lines {
        let since = (at - *from).num_microseconds().unwrap_or_default() as f64 / 1000.0;
        let _infallible = writeln!(text, "  {since:>8.1} ms  {line}");
    }
    let whole = (*to - *from).num_microseconds().unwrap_or_default() as f64 / 1000.0;
    let _infallible = writeln!(text, "  {whole:>8.1} ms  released");
    text
}
