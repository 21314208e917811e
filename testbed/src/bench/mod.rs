//! `make bench`: the operator's own time per node, the requests that an update costs, and what its programs take.
//!
//! Machines have no latencies and `minReady` is 0, so that all time is the operator's and the control plane's. Every delay
//! of the operator is its default, the status interval among them; none is one of the testbed's quick ones.
//!
//! - `rollout`: one rollout on a control plane of its own, judged by the oracle
//! - `requests`: what it asked of the Kubernetes API, from the audit log
//! - `memory`: what the processes hold
//! - `table`: the figures beside what is aimed at and what Brupop needs
//! - `timeline`: where the time of one update goes, request by request

#![allow(clippy::print_stdout, reason = "a program for people")]

mod memory;
mod requests;
mod rollout;
mod table;
mod timeline;

use std::time::Duration;

use anyhow::Result;
use clap::Parser;

use crate::fleet::LatencySpec;
use crate::operator::Agents;
use rollout::{Figures, Rollout};
use table::{Row, Table};

/// How long the idle fleet is watched. The controller's slowest habit comes once a minute.
const IDLE: Duration = Duration::from_secs(120);

/// Measures the operator on a real control plane and simulated machines.
#[derive(Debug, Parser)]
pub struct Bench {
    /// Show where the time of one update goes, request by request.
    #[arg(long)]
    timeline: bool,
    /// Only the rollout one node at a time.
    #[arg(long)]
    short: bool,
    /// Only the rollout to 50 nodes at once, and the idle fleet after it.
    #[arg(long, conflicts_with = "short")]
    fleet: bool,
}

/// Runs all rollouts and prints their figures.
///
/// # Errors
/// Where a rollout does not come to an end, or a promise was broken.
pub async fn run(bench: &Bench) -> Result<()> {
    if cfg!(debug_assertions) {
        println!("This is a debug build: only the numbers of requests say anything.\n");
    }
    println!("Machines without latencies, minReady 0s, every delay of the operator its default.\n");
    if bench.fleet {
        fleet().run(bench.timeline).await?;
        return Ok(());
    }
    let one = Rollout {
        title: "20 nodes, one at a time",
        nodes: 20,
        max_unavailable: "1",
        // Real processes: with what a start of one takes, and to see what one holds.
        agents: Agents::Processes,
        ..Rollout::default()
    };
    let one = one.run(bench.timeline).await?;
    if bench.short {
        return Ok(());
    }
    let all = fleet().run(false).await?;
    let pods = Rollout {
        title: "10 nodes with ten pods each, one at a time",
        nodes: 10,
        max_unavailable: "1",
        pods: 10,
        ..Rollout::default()
    };
    let pods = pods.run(false).await?;
    let slow = Rollout {
        title: "3 nodes that take their time, one at a time",
        nodes: 3,
        max_unavailable: "1",
        latencies: LatencySpec {
            refresh: Duration::from_secs(1),
            prepare: Duration::from_secs(5),
            activate: Duration::from_secs(1),
            shut_down: Duration::from_secs(2),
            boot: Duration::from_secs(6),
            ..LatencySpec::default()
        },
        ..Rollout::default()
    };
    let slow = slow.run(false).await?;
    println!("{}", summary(&one, &all, &pods, &slow)?);
    Ok(())
}

/// 50 nodes at once.
fn fleet() -> Rollout {
    Rollout {
        title: "50 nodes at once",
        nodes: 50,
        max_unavailable: "100%",
        idle: Some(IDLE),
        ..Rollout::default()
    }
}

fn summary(one: &Figures, all: &Figures, pods: &Figures, slow: &Figures) -> Result<Table> {
    const MB: f64 = 1e6;
    let agent = memory::median(&one.agents);
    let mut table = Table::default();
    let mut row =
        |what: &str, unit, measured, aim, brupop| table.0.push(Row::new(what, unit, measured, aim, brupop));
    row(
        "one at a time: grant to release, median",
        "s",
        one.median().as_secs_f64(),
        Some(0.5),
        Some(82.0),
    );
    row(
        "one at a time: grant to release, longest",
        "s",
        one.longest().as_secs_f64(),
        None,
        None,
    );
    row(
        "one at a time: whole rollout, by node",
        "s",
        one.wall_by_node().as_secs_f64(),
        Some(0.5),
        Some(82.0),
    );
    row(
        "50 nodes at once: whole rollout",
        "s",
        all.took.as_secs_f64(),
        Some(10.0),
        Some(268.0),
    );
    row(
        "requests by node, one at a time",
        "",
        one.requests_by_node(),
        Some(20.0),
        Some(26.0),
    );
    row(
        "requests by node, 50 at once",
        "",
        all.requests_by_node(),
        Some(20.0),
        None,
    );
    row(
        "requests by node, with ten pods on it",
        "",
        pods.requests_by_node(),
        Some(32.0),
        Some(57.0),
    );
    row(
        "requests by node, where each takes 16 s",
        "",
        slow.requests_by_node(),
        None,
        None,
    );
    let idle = all.idle.unwrap_or_default();
    row(
        "requests a minute of an idle agent",
        "",
        idle.by_agent,
        Some(0.0),
        Some(0.42),
    );
    row("requests a minute for the lease", "", idle.lease, None, None);
    row(
        "requests a minute of an idle install besides",
        "",
        idle.others,
        None,
        None,
    );
    row(
        "memory of an agent",
        "MB",
        agent.resident / MB,
        Some(8.0),
        Some(11.5),
    );
    row(
        "memory of the controller, 50 nodes",
        "MB",
        all.controller.resident / MB,
        Some(14.0),
        Some(14.0),
    );
    row(
        "memory of the controller, its most",
        "MB",
        all.controller.peak / MB,
        None,
        None,
    );
    row(
        "memory of the apiserver, 50 nodes",
        "MB",
        all.apiserver.resident / MB,
        None,
        Some(25.0),
    );
    row(
        "memory of the apiserver, its most",
        "MB",
        all.apiserver.peak / MB,
        None,
        None,
    );
    row(
        "size of the agent",
        "MB",
        memory::agent_size()? / MB,
        Some(6.0),
        None,
    );
    Ok(table)
}
