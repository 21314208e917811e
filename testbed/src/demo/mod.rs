//! The demo: control plane, fleet, example plan, live progress, a summary in figures, a verdict.
//!
//! - `plan`: the example with windows that suit a demo
//! - `progress`: how far it is, for a terminal or as plain lines
//! - `summary`: what the history and the machines say about the run

#![allow(clippy::print_stdout, reason = "a program for people")]

mod plan;
mod progress;
mod summary;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use api::plan::Phase;
use clap::Parser;

use crate::binaries::workspace_root;
use crate::fleet::FleetSpec;
use crate::lab::Lab;
use crate::operator::{self, Agents};
use crate::oracle::{self, Expectations};

/// How long the rollout may take until the demo gives up.
const WITHIN: Duration = Duration::from_secs(300);

/// Rolls an example plan out to the end on a real control plane and a simulated fleet.
#[derive(Debug, Parser)]
pub struct Demo {
    /// The plan; its windows are replaced by two that suit a demo.
    #[arg(long, default_value_os_t = workspace_root().join("examples/canary.yaml"))]
    plan: PathBuf,
    /// The fleet.
    #[arg(long, default_value_os_t = workspace_root().join("examples/fleets/three-zones.yaml"))]
    fleet: PathBuf,
    /// Leave everything up at the end, until Ctrl-C.
    #[arg(long)]
    keep: bool,
}

/// Runs the demo; false where the verdict is bad.
///
/// # Errors
/// Where something could not be started, or the rollout did not come to an end.
pub async fn run(demo: &Demo) -> Result<bool> {
    let fleet = FleetSpec::from_file(&demo.fleet)?;
    let nodes = fleet.nodes().len();
    println!(
        "Starting a Kubernetes control plane, the operator and a fleet of {nodes} simulated Bottlerocket nodes ..."
    );
    let began = Instant::now();
    let options = operator::Options {
        agents: Agents::Processes,
        ..operator::Options::default()
    };
    let lab = tokio::select! {
        lab = Lab::start(fleet, &options) => lab?,
        () = interrupted() => anyhow::bail!("interrupted"),
    };
    println!(
        "Ready in {:.1} s: kube-apiserver at {}, {nodes} agents report.",
        began.elapsed().as_secs_f64(),
        lab.plane.url()
    );

    let copy = plan::for_demo(&demo.plan, lab.plane.directory(), chrono::Utc::now())?;
    println!(
        "\n$ kubectl apply -f {}   (a copy of {})",
        copy.file.display(),
        demo.plan.display()
    );
    println!("{}", copy.yaml.trim_end());
    lab.plane
        .kubectl_ok(&["apply", "-f", &copy.file.to_string_lossy()])
        .await?;
    println!();
    let began = Instant::now();
    let finished = tokio::select! {
        finished = tokio::time::timeout(WITHIN, progress::follow(&lab.client, &copy.name, began)) => {
            finished.with_context(|| format!("the plan was not Complete within {} s", WITHIN.as_secs()))??
        }
        () = interrupted() => anyhow::bail!("interrupted"),
    };
    let took = began.elapsed();
    println!(
        "\n$ kubectl get uplan\n{}",
        lab.plane.kubectl_ok(&["get", "uplan"]).await?.trim_end()
    );
    if demo.keep {
        let kubeconfig = lab.plane.kubeconfig_file();
        println!("\nEverything stays up until Ctrl-C. Use it with:");
        println!("  export KUBECONFIG={}", kubeconfig.display());
        println!(
            "  export PATH={}:$PATH",
            workspace_root().join(".tools/bin").display()
        );
        println!(
            "  kubectl get uplan,nodes; kubectl describe uplan {}; kubectl get brs -A",
            copy.name
        );
        interrupted().await;
        println!();
    }
    let evidence = lab.stop().await?;
    let violations = oracle::check(&evidence.history, &evidence.truth, &Expectations::default());
    let summary = summary::Summary::of(&evidence, &copy);
    println!("\n{}", summary.table(took, nodes));
    for violation in &violations {
        println!("BROKEN  {violation}");
    }
    let good = finished == Phase::Complete && violations.is_empty() && summary.is_clean();
    let verdict = if good {
        "OK: the plan is Complete, and no promise was broken."
    } else {
        "FAILED: see above."
    };
    println!("{verdict}");
    Ok(good)
}

async fn interrupted() {
    // Without a handler Ctrl-C ends the process, which is what is wanted then.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
