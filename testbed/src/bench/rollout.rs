//! One rollout on a control plane of its own, judged by the oracle.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use chrono::{DateTime, Utc};
use serde_json::json;

use super::memory::{self, Memory};
use super::requests::{self, Request};
use super::timeline;
use crate::fleet::{FleetSpec, LatencySpec, WorkloadSpec};
use crate::history::{Change, History};
use crate::lab::Lab;
use crate::operator::{self, Agents, NAMESPACE};
use crate::oracle::{self, Expectations};

const WITHIN: Duration = Duration::from_secs(300);

/// After this what the last update has caused is over, its last Event included.
const SETTLED: Duration = Duration::from_secs(3);

/// What is rolled out to what.
#[derive(Default)]
pub(super) struct Rollout {
    pub title: &'static str,
    pub nodes: u32,
    pub max_unavailable: &'static str,
    /// How many pods with a Deployment behind them each node has.
    pub pods: u32,
    pub latencies: LatencySpec,
    pub agents: Agents,
    /// How long to watch the fleet when all is done.
    pub idle: Option<Duration>,
}

/// What came of it.
pub(super) struct Figures {
    nodes: f64,
    /// From apply to Complete.
    pub took: Duration,
    /// From the grant to its release, of each node.
    spans: Vec<Duration>,
    requests: usize,
    pub controller: Memory,
    pub apiserver: Memory,
    /// Of the agents that are processes.
    pub agents: Vec<Memory>,
    pub idle: Option<Idle>,
}

/// Requests a minute while there is nothing to do.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Idle {
    /// Of each agent, to its apiserver or by it.
    pub by_agent: f64,
    /// For the controller's lease.
    pub lease: f64,
    /// Of everything else.
    pub others: f64,
}

impl Figures {
    pub fn median(&self) -> Duration {
        self.spans.get(self.spans.len() / 2).copied().unwrap_or_default()
    }

    pub fn longest(&self) -> Duration {
        self.spans.last().copied().unwrap_or_default()
    }

    pub fn wall_by_node(&self) -> Duration {
        self.took.div_f64(self.nodes)
    }

    pub fn requests_by_node(&self) -> f64 {
        self.requests as f64 / self.nodes
    }
}

impl Rollout {
    /// Runs it and prints its requests.
    pub async fn run(&self, with_timeline: bool) -> Result<Figures> {
        let options = operator::Options {
            agents: self.agents,
            production_delays: true,
            ..operator::Options::default()
        };
        let lab = Box::pin(Lab::start(self.fleet()?, &options)).await?;
        let (began, from) = (Instant::now(), Utc::now());
        lab.apply(&self.plan()).await?;
        lab.complete("bench", WITHIN).await?;
        let took = began.elapsed();
        tokio::time::sleep(SETTLED).await;
        let asked = requests::between(&lab.plane.audit_log(), from, Utc::now())?;
        let idle = match self.idle {
            Some(time) => Some(self.watch_idle(&lab, time).await?),
            None => None,
        };
        let controller = memory::of(lab.operator.controller.pid())?;
        let apiserver = memory::of(lab.operator.apiserver.pid())?;
        let agents = memory::of_agents()?;
        let evidence = lab.stop().await?;
        let mut spans = spans(&evidence.history);
        spans.sort_unstable();
        let figures = Figures {
            nodes: self.nodes.into(),
            took,
            spans,
            requests: asked.iter().filter(|request| !request.is_background()).count(),
            controller,
            apiserver,
            agents,
            idle,
        };
        self.show(&figures, &asked);
        if with_timeline {
            println!("{}", timeline::of_one_update(&evidence, &asked));
        }
        let violations = oracle::check(
            &evidence.history,
            &evidence.truth,
            &Expectations::complete("bench"),
        );
        if let Some(violation) = violations.first() {
            bail!("{} promises were broken, first: {violation}", violations.len());
        }
        Ok(figures)
    }

    fn show(&self, figures: &Figures, asked: &[Request]) {
        println!(
            "{}: {:.2} s, {:.0} ms by node; a node's grant is held for {:.0} ms (median), {:.0} ms at most",
            self.title,
            figures.took.as_secs_f64(),
            figures.wall_by_node().as_secs_f64() * 1000.0,
            figures.median().as_secs_f64() * 1000.0,
            figures.longest().as_secs_f64() * 1000.0,
        );
        let by_node = |count: u32| f64::from(count) / f64::from(self.nodes);
        for (what, count) in requests::counted(asked.iter().filter(|request| !request.is_background())) {
            println!("  {what:<50} {:>7.2} by node", by_node(count));
        }
        let conflicts = asked.iter().filter(|request| request.code == 409).count();
        println!(
            "  {:<50} {:>7.2} by node, {conflicts} conflicts among them",
            "together",
            figures.requests_by_node()
        );
        for (who, memory) in [
            ("controller", figures.controller),
            ("apiserver", figures.apiserver),
        ] {
            println!("  memory of the {who}: {memory}");
        }
        for (what, count) in requests::counted(asked.iter().filter(|request| request.is_background())) {
            println!("  apart from that, with time: {what:<22} {count:>7}");
        }
        println!();
    }

    fn plan(&self) -> String {
        let max_unavailable = match self.max_unavailable.parse::<u32>() {
            Ok(number) => json!(number),
            Err(_) => json!(self.max_unavailable),
        };
        // JSON is YAML.
        json!({
            "apiVersion": "brupop.bottlerocket.aws/v1alpha1",
            "kind": "UpdatePlan",
            "metadata": {"name": "bench"},
            "spec": {
                "targetVersion": "1.21.0",
                "nodeSelector": {},
                "maxUnavailable": max_unavailable,
                "monitoring": {"minReady": "0s"},
            },
        })
        .to_string()
    }

    fn fleet(&self) -> Result<FleetSpec> {
        let mut fleet = FleetSpec::simple(self.nodes, "1.20.3".parse()?, "1.21.0".parse()?);
        fleet.latencies = self.latencies;
        // A Deployment for each node, so that each has as many pods when its turn comes.
        if self.pods > 0 {
            for node in fleet.nodes() {
                let workload: WorkloadSpec = serde_json::from_value(json!({
                    "name": format!("on-{}", node.name),
                    "replicas": self.pods,
                    "nodeSelector": {"kubernetes.io/hostname": node.name},
                }))?;
                fleet.workloads.push(workload);
            }
        }
        Ok(fleet)
    }

    /// Nothing is to be done: what is asked all the same?
    async fn watch_idle(&self, lab: &Lab, time: Duration) -> Result<Idle> {
        let from = Utc::now();
        let of_agents = agents_requests(&lab.operator.apiserver_metrics().await?);
        tokio::time::sleep(time).await;
        let of_agents = agents_requests(&lab.operator.apiserver_metrics().await?) - of_agents;
        let asked = requests::between(&lab.plane.audit_log(), from, Utc::now())?;
        let minutes = time.as_secs_f64() / 60.0;
        let (by_apiserver, others): (Vec<&Request>, Vec<&Request>) = asked
            .iter()
            .filter(|request| !request.is_lease())
            .partition(|request| request.component == "apiserver");
        let leases = asked.iter().filter(|request| request.is_lease()).count();
        println!("{} nodes idle for {} s:", self.nodes, time.as_secs());
        for (what, count) in requests::counted(asked.iter()) {
            println!("  {what:<50} {:>7.2} a minute", f64::from(count) / minutes);
        }
        println!(
            "  {:<50} {:>7.2} a minute",
            "agents to their apiserver",
            of_agents / minutes
        );
        println!();
        let for_agents = of_agents + by_apiserver.len() as f64;
        Ok(Idle {
            by_agent: for_agents / minutes / f64::from(self.nodes),
            lease: leases as f64 / minutes,
            others: others.len() as f64 / minutes,
        })
    }
}

/// All requests of agents so far, by the apiserver's own count.
fn agents_requests(metrics: &str) -> f64 {
    let counters = metrics
        .lines()
        .filter(|line| line.starts_with("brupop_apiserver_requests_total"));
    counters
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// From each grant to its release.
fn spans(history: &History) -> Vec<Duration> {
    let mut granted: BTreeMap<String, DateTime<Utc>> = BTreeMap::new();
    let mut spans = Vec::new();
    let mut replay = history.replay();
    while let Some(step) = replay.step() {
        let Change::Ledger(_) = step.change else { continue };
        let Some(ledger) = step.state.ledger(NAMESPACE) else {
            continue;
        };
        let grants = &ledger.spec.grants;
        granted.retain(|uid, since| {
            let held = grants.contains_key(uid);
            if !held {
                spans.extend((step.state.at - *since).to_std());
            }
            held
        });
        for (uid, grant) in grants {
            granted.entry(uid.clone()).or_insert(grant.granted_at);
        }
    }
    spans
}
