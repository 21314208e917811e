//! What is counted and measured.

use std::{
    collections::BTreeMap,
    fmt,
    iter::successors,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use api::plan::{NodeCounts, Phase};
use planner::decisions::{NodeVerdict, PlanStatus};
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::view::Snapshot;

const PHASES: [Phase; 9] = [
    Phase::Invalid,
    Phase::Pending,
    Phase::WaitingForWindow,
    Phase::Progressing,
    Phase::Soaking,
    Phase::AwaitingApproval,
    Phase::Paused,
    Phase::Halted,
    Phase::Complete,
];

/// From a tenth of a millisecond, doubling, to some 3 s.
const PLAN_SECONDS: (f64, f64, usize) = (0.000_1, 2.0, 16);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Version {
    version: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HostState {
    state: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PlanState {
    plan: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PlanReason {
    plan: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PlanPhase {
    plan: String,
    phase: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EvictionResult {
    result: &'static str,
}

/// All metrics. A scrape never sees half an update.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    hosts_version: Family<Version, Gauge>,
    hosts_state: Family<HostState, Gauge>,
    plan_nodes: Family<PlanState, Gauge>,
    plan_verdicts: Family<PlanReason, Gauge>,
    plan_phase: Family<PlanPhase, Gauge>,
    ledger_conflicts: Counter,
    plan_duration: Histogram,
    leader: Gauge,
    evictions: Family<EvictionResult, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let (start, factor, buckets) = PLAN_SECONDS;
        // Not prometheus-client's `exponential_buckets`: powers are all that would bring the C library's mathematics into memory.
        let bounds = successors(Some(start), move |bound| Some(bound * factor));
        let plan_duration = Histogram::new(bounds.take(buckets));
        let mut metrics = Self {
            registry: Mutex::default(),
            hosts_version: Family::default(),
            hosts_state: Family::default(),
            plan_nodes: Family::default(),
            plan_verdicts: Family::default(),
            plan_phase: Family::default(),
            ledger_conflicts: Counter::default(),
            plan_duration,
            leader: Gauge::default(),
            evictions: Family::default(),
        };
        let mut registry = Registry::default();
        registry.register(
            "brupop_hosts_version",
            "Hosts by the version they run",
            metrics.hosts_version.clone(),
        );
        registry.register(
            "brupop_hosts_state",
            "Hosts by the state they report",
            metrics.hosts_state.clone(),
        );
        registry.register(
            "brupop_plan_nodes",
            "Nodes of a plan by where they are",
            metrics.plan_nodes.clone(),
        );
        registry.register(
            "brupop_plan_verdicts",
            "Nodes that a plan selects and that do not move, by the reason",
            metrics.plan_verdicts.clone(),
        );
        registry.register(
            "brupop_plan_phase",
            "1 for the phase that a plan is in",
            metrics.plan_phase.clone(),
        );
        registry.register(
            "brupop_ledger_conflicts",
            "Writes of the ledger that were refused because somebody else had written it",
            metrics.ledger_conflicts.clone(),
        );
        registry.register(
            "brupop_plan_duration_seconds",
            "Time that planning takes",
            metrics.plan_duration.clone(),
        );
        registry.register(
            "brupop_leader",
            "1 while this replica leads",
            metrics.leader.clone(),
        );
        registry.register(
            "brupop_evictions",
            "Evictions by what came of them",
            metrics.evictions.clone(),
        );
        metrics.registry = Mutex::new(registry);
        metrics
    }
}

impl Metrics {
    /// The text that a scrape gets.
    ///
    /// # Errors
    /// Where a metric cannot be written as text.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(
            &mut text,
            &self.registry.lock().unwrap_or_else(PoisonError::into_inner),
        )?;
        Ok(text)
    }

    /// Planning has taken so long.
    pub fn planned(&self, took: Duration) {
        self.plan_duration.observe(took.as_secs_f64());
    }

    /// A write of the ledger was refused.
    pub fn ledger_conflict(&self) {
        self.ledger_conflicts.inc();
    }

    /// Whether this replica leads. One that does not says nothing about plans and hosts.
    pub fn set_leading(&self, leading: bool) {
        let _scrapes_wait = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        self.leader.set(i64::from(leading));
        if !leading {
            self.hosts_version.clear();
            self.hosts_state.clear();
            self.clear_plans();
        }
    }

    /// What came of an eviction.
    pub fn evicted(&self, result: &'static str) {
        self.evictions.get_or_create(&EvictionResult { result }).inc();
    }

    fn clear_plans(&self) {
        self.plan_nodes.clear();
        self.plan_verdicts.clear();
        self.plan_phase.clear();
    }

    /// The hosts and plans as they are now; what is no longer there is no longer reported.
    pub fn report(&self, snapshot: &Snapshot, statuses: &[PlanStatus], verdicts: &[NodeVerdict]) {
        let mut versions = BTreeMap::<&str, i64>::new();
        let mut states = BTreeMap::<String, i64>::new();
        let mut reasons = BTreeMap::<(&str, &'static str), i64>::new();
        for NodeVerdict { plan, verdict, .. } in verdicts {
            *reasons.entry((plan, verdict.reason())).or_default() += 1;
        }
        for status in snapshot
            .shadows
            .values()
            .filter_map(|shadow| shadow.status.as_ref())
        {
            *versions.entry(&status.current_version).or_default() += 1;
            *states.entry(status.current_state.to_string()).or_default() += 1;
        }
        let _scrapes_wait = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        self.hosts_version.clear();
        for (version, count) in versions {
            self.hosts_version
                .get_or_create(&Version {
                    version: version.to_owned(),
                })
                .set(count);
        }
        self.hosts_state.clear();
        for (state, count) in states {
            self.hosts_state.get_or_create(&HostState { state }).set(count);
        }
        self.clear_plans();
        for ((plan, reason), count) in reasons {
            let plan = plan.to_owned();
            self.plan_verdicts
                .get_or_create(&PlanReason { plan, reason })
                .set(count);
        }
        for PlanStatus { plan, status } in statuses {
            let NodeCounts {
                matched,
                updated,
                updating,
                waiting,
                skipped,
                failed,
                unavailable,
            } = status.nodes;
            for (state, count) in [
                ("matched", matched),
                ("updated", updated),
                ("updating", updating),
                ("waiting", waiting),
                ("skipped", skipped),
                ("failed", failed),
                ("unavailable", unavailable),
            ] {
                self.plan_nodes
                    .get_or_create(&PlanState {
                        plan: plan.clone(),
                        state,
                    })
                    .set(count.into());
            }
            for phase in PHASES {
                let labels = PlanPhase {
                    plan: plan.clone(),
                    phase: format!("{phase:?}"),
                };
                self.plan_phase
                    .get_or_create(&labels)
                    .set((status.phase == Some(phase)).into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use std::sync::Arc;

    use api::{BottlerocketShadow, plan::UpdatePlanStatus, verdict::Verdict};
    use serde_json::json;

    use super::*;

    fn shadow(version: &str) -> Arc<BottlerocketShadow> {
        let shadow = json!({
            "apiVersion": "brupop.bottlerocket.aws/v2", "kind": "BottlerocketShadow", "metadata": {"name": "x"},
            "spec": {"state": "Idle"},
            "status": {"current_version": version, "target_version": version, "current_state": "Idle", "crash_count": 0}
        });
        Arc::new(serde_json::from_value(shadow).unwrap())
    }

    #[test]
    fn hosts_and_plans_are_reported_and_what_is_gone_is_not() {
        let metrics = Metrics::default();
        let shadows = [
            ("a".into(), shadow("1.20.0")),
            ("b".into(), shadow("1.21.0")),
            ("c".into(), shadow("1.21.0")),
        ];
        let snapshot = Snapshot {
            shadows: shadows.into(),
            ..Snapshot::default()
        };
        let status = UpdatePlanStatus {
            phase: Some(Phase::Progressing),
            nodes: NodeCounts {
                matched: 3,
                updated: 2,
                ..NodeCounts::default()
            },
            ..UpdatePlanStatus::default()
        };
        let verdict = |node: &str, verdict| NodeVerdict {
            node: node.into(),
            plan: "p".into(),
            verdict,
        };
        let verdicts = [
            verdict("a", Verdict::Paused),
            verdict("b", Verdict::UpToDate),
            verdict("c", Verdict::OptedOut { why: "x".into() }),
            verdict("d", Verdict::OptedOut { why: "y".into() }),
            verdict("e", Verdict::OtherPlan { name: "q".into() }),
        ];
        metrics.report(
            &snapshot,
            &[PlanStatus {
                plan: "p".into(),
                status,
            }],
            &verdicts,
        );
        metrics.ledger_conflict();
        let text = metrics.encode().unwrap();
        for line in [
            "brupop_hosts_version{version=\"1.21.0\"} 2",
            "brupop_hosts_state{state=\"Idle\"} 3",
            "brupop_plan_nodes{plan=\"p\",state=\"updated\"} 2",
            "brupop_plan_verdicts{plan=\"p\",reason=\"Paused\"} 1",
            "brupop_plan_verdicts{plan=\"p\",reason=\"OptedOut\"} 2",
            "brupop_plan_verdicts{plan=\"p\",reason=\"OtherPlan\"} 1",
            "brupop_plan_phase{plan=\"p\",phase=\"Progressing\"} 1",
            "brupop_plan_phase{plan=\"p\",phase=\"Complete\"} 0",
            "brupop_ledger_conflicts_total 1",
            "brupop_leader 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        metrics.report(&Snapshot::default(), &[], &[]);
        let text = metrics.encode().unwrap();
        assert!(
            !text.contains("plan=\"p\"") && !text.contains("version="),
            "{text}"
        );
    }
}
