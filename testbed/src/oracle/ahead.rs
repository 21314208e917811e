//! S1: no more machines download ahead of their turn at a time than the install allows. What a machine does is what its log says.

use std::collections::BTreeMap;

use api::BottlerocketShadow;
use api::shadow::NodeState;
use chrono::{DateTime, Utc};

use super::{Check, LAG, Moment, Promise, Report};
use crate::history::Change;

/// From when to when a node was told to download, by its name.
type Told = BTreeMap<String, Vec<(DateTime<Utc>, Option<DateTime<Utc>>)>>;

#[derive(Default)]
pub(super) struct Ahead {
    told: Told,
}

/// What the shadow's node is to download ahead of its turn.
pub(super) fn stages_ahead(shadow: &BottlerocketShadow) -> bool {
    shadow.spec.state == NodeState::Idle && shadow.spec.stage.is_some()
}

impl Check for Ahead {
    fn changed(&mut self, now: &Moment<'_>, change: &Change, _: &mut Report) {
        let Change::Shadow(pair) = change else {
            return;
        };
        let is = |shadow: Option<&BottlerocketShadow>| shadow.is_some_and(stages_ahead);
        let (before, after) = (is(pair.before.as_deref()), is(pair.after.as_deref()));
        let Some(shadow) = pair.after.as_ref().or(pair.before.as_ref()) else {
            return;
        };
        let name = shadow.metadata.name.clone().unwrap_or_default();
        let node = name.trim_start_matches(&api::names::shadow_name("")).to_owned();
        let told = self.told.entry(node).or_default();
        match (before, after) {
            (false, true) => told.push((now.at, None)),
            (true, false) => told.iter_mut().for_each(|(_, until)| {
                until.get_or_insert(now.at);
            }),
            _ => {}
        }
    }

    fn ended(&mut self, now: &Moment<'_>, report: &mut Report) {
        let limit = now.case.expectations.stage_ahead;
        let mut downloads = Vec::new();
        for (node, told) in &self.told {
            let machine = now.case.machines.of(node);
            for (begun, ended) in machine.prepares() {
                let of = told
                    .iter()
                    .find(|(from, until)| *from - LAG <= begun && until.is_none_or(|until| begun < until));
                if let Some((_, until)) = of {
                    let over = [ended, *until].into_iter().flatten().min().unwrap_or(now.at);
                    downloads.push((begun, over, node));
                }
            }
        }
        for (at, ..) in &downloads {
            let mut running: Vec<&str> = downloads
                .iter()
                .filter(|(from, to, _)| from <= at && at < to)
                .map(|(.., node)| node.as_str())
                .collect();
            running.sort_unstable();
            if running.len() > limit {
                let message = format!(
                    "{} download ahead of their turn, and {limit} may: {}",
                    running.len(),
                    running.join(", ")
                );
                report.add(Promise::S1, *at, message);
            }
        }
    }
}
