//! The run in figures, from the history of every object and from the machines: never from the plan's status.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::plan::Copy;
use crate::fleet::is_ready;
use crate::lab::Evidence;
use crate::truth::SimEventKind;

/// The run in figures.
pub(super) struct Summary {
    reboots: usize,
    rebooted: usize,
    most_unavailable: usize,
    outside_window: usize,
    cordons_left: usize,
    evicted: usize,
    reads: usize,
}

impl Summary {
    pub fn of(evidence: &Evidence, plan: &Copy) -> Self {
        let inside = |at: DateTime<Utc>| plan.windows.iter().any(|(from, to)| *from <= at && at < *to);
        let reboots: Vec<_> = evidence
            .truth
            .iter()
            .filter(|event| matches!(event.kind, SimEventKind::RebootBegun { .. }))
            .collect();
        let mut outside_window = reboots.iter().filter(|event| !inside(event.at)).count();
        let (mut most_unavailable, mut cordons_left) = (0, 0);
        let (mut cordoned, mut evicted) = (BTreeSet::new(), BTreeSet::new());
        let mut replay = evidence.history.replay();
        let mut reads = 0;
        while let Some(step) = replay.step() {
            // Before the plan nodes were not Ready because they were being started.
            if step.state.plans.is_empty() {
                continue;
            }
            reads += 1;
            let mut unavailable = 0;
            cordons_left = 0;
            for (name, node) in &step.state.nodes {
                let unschedulable = node
                    .spec
                    .as_ref()
                    .and_then(|spec| spec.unschedulable)
                    .unwrap_or_default();
                unavailable += usize::from(unschedulable || !is_ready(node));
                cordons_left += usize::from(unschedulable);
                if unschedulable && cordoned.insert(name.clone()) {
                    outside_window += usize::from(!inside(step.state.at));
                } else if !unschedulable {
                    cordoned.remove(name);
                }
            }
            most_unavailable = most_unavailable.max(unavailable);
            for (name, pod) in &step.state.pods {
                let conditions = pod
                    .status
                    .as_ref()
                    .and_then(|status| status.conditions.as_deref())
                    .unwrap_or_default();
                if conditions
                    .iter()
                    .any(|c| c.type_ == "DisruptionTarget" && c.status == "True")
                {
                    evicted.insert((name.clone(), pod.metadata.uid.clone()));
                }
            }
        }
        let nodes: BTreeSet<&str> = reboots.iter().map(|event| event.node.as_str()).collect();
        Self {
            reboots: reboots.len(),
            rebooted: nodes.len(),
            most_unavailable,
            outside_window,
            cordons_left,
            evicted: evicted.len(),
            reads,
        }
    }

    pub fn is_clean(&self) -> bool {
        self.outside_window == 0 && self.cordons_left == 0
    }

    pub fn table(&self, took: Duration, nodes: usize) -> String {
        let mut text = format!(
            "From the watch history ({} revisions) and the machines' own log:\n",
            self.reads
        );
        let mut row = |what: &str, figure: String| {
            let _infallible = writeln!(text, "  {what:<42} {figure}");
        };
        row(
            "time from apply to Complete",
            format!("{:.1} s", took.as_secs_f64()),
        );
        row("nodes", format!("{nodes}"));
        row(
            "nodes rebooted, reboots",
            format!("{}, {}", self.rebooted, self.reboots),
        );
        row("pods evicted", format!("{}", self.evicted));
        row(
            "most nodes unavailable at once",
            format!("{}", self.most_unavailable),
        );
        row(
            "disruptions begun outside a window",
            format!("{}", self.outside_window),
        );
        row("cordons left", format!("{}", self.cordons_left));
        text
    }
}
