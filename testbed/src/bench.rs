//! `make bench`: the operator's own time per node, and the requests that an update costs.
//!
//! Nodes have no latencies and `minReady` is 0, so that all time is the operator's. Requests are counted from the
//! kube-apiserver's audit log, by user and verb; watches are left out.

#![allow(clippy::print_stdout, reason = "a program for people")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::fleet::FleetSpec;
use crate::lab::Lab;
use crate::operator;
use crate::oracle::{self, Expectations};

const WITHIN: Duration = Duration::from_secs(300);

/// Runs both rollouts and prints their figures.
///
/// # Errors
/// Where a rollout does not come to an end, or a promise was broken.
pub async fn run() -> Result<()> {
    rollout(20, "1").await?;
    rollout(50, "100%").await
}

async fn rollout(nodes: u32, max_unavailable: &str) -> Result<()> {
    let fleet = FleetSpec::simple(nodes, "1.20.3".parse()?, "1.21.0".parse()?);
    let lab = Box::pin(Lab::start(fleet, &operator::Options::default())).await?;
    let before = requests(&lab.plane.audit_log())?;
    let quoted = if max_unavailable.ends_with('%') {
        format!("\"{max_unavailable}\"")
    } else {
        max_unavailable.to_owned()
    };
    let began = Instant::now();
    lab.apply(&format!(
        r#"
apiVersion: brupop.bottlerocket.aws/v1alpha1
kind: UpdatePlan
metadata: {{name: bench}}
spec:
  targetVersion: "1.21.0"
  nodeSelector: {{}}
  maxUnavailable: {quoted}
  monitoring: {{minReady: 0s}}
"#
    ))
    .await?;
    lab.complete("bench", WITHIN).await?;
    let took = began.elapsed();
    let after = requests(&lab.plane.audit_log())?;
    let evidence = lab.stop().await?;
    println!(
        "{nodes} nodes, maxUnavailable {max_unavailable}: {:.2} s, {:.0} ms a node",
        took.as_secs_f64(),
        took.as_secs_f64() * 1000.0 / f64::from(nodes)
    );
    let mut total = 0;
    for (who, count) in &after {
        let count = count - before.get(who).copied().unwrap_or_default();
        total += count;
        if count > 0 {
            println!("  {who:<60} {:>6.2} a node", f64::from(count) / f64::from(nodes));
        }
    }
    println!(
        "  {:<60} {:>6.2} a node",
        "requests",
        f64::from(total) / f64::from(nodes)
    );
    let violations = oracle::check(&evidence.history, &evidence.truth, &Expectations::default());
    if let Some(violation) = violations.first() {
        bail!("{} promises were broken, first: {violation}", violations.len());
    }
    Ok(())
}

/// Requests of the operator's components so far, by component, verb and resource.
fn requests(audit_log: &Path) -> Result<BTreeMap<String, u32>> {
    let log = std::fs::read_to_string(audit_log).context("reading the audit log")?;
    let mut counts = BTreeMap::new();
    for line in log.lines() {
        // The last line may be half written.
        let Ok(event) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let user = event["user"]["username"].as_str().unwrap_or_default();
        let Some(component) =
            user.strip_prefix("system:serviceaccount:brupop-bottlerocket-aws:brupop-update-")
        else {
            continue;
        };
        let (verb, object) = (event["verb"].as_str().unwrap_or_default(), &event["objectRef"]);
        let resource = object["resource"].as_str().unwrap_or_default();
        let subresource = object["subresource"]
            .as_str()
            .map_or_else(String::new, |sub| format!("/{sub}"));
        if verb != "watch" && event["stage"] == "ResponseComplete" {
            *counts
                .entry(format!("{component} {verb} {resource}{subresource}"))
                .or_insert(0) += 1;
        }
    }
    Ok(counts)
}
