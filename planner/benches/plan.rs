//! `make bench`, second part: how long one call of `plan()` takes, and that it grows no faster than the fleet.
//!
//! Each world is in the middle of a rollout: half of the nodes run the target, some are on their way, the others wait, and
//! nothing is left to do at this instant: what the controller asks again with whatever moves. It ends with a table; the exit
//! status says whether every step of ten nodes to a hundred, and so on, cost no more than [`LINEAR`] times ten, and
//! whether [`FLEET`] nodes are planned within [`LIMIT`].
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark: what is wrong with it is a panic"
)]

use std::{hint::black_box, path::Path, process::ExitCode, time::Duration};

use api::plan::UpdatePlanSpec;
use chrono::{DateTime, Utc};
use criterion::{
    BenchmarkId, Criterion, SamplingMode,
    measurement::{Measurement, ValueFormatter, WallTime},
};
use nix::time::{ClockId, clock_gettime};
use planner::{plan, simulate::Cluster};

const SIZES: [usize; 4] = [100, 1_000, 10_000, 100_000];
const PLANS: [usize; 2] = [1, 20];
/// How much more than ten times a fleet of ten times as many nodes may take: for memory that no cache holds, which was measured to
/// cost up to 2.5 from 10,000 to 100,000 nodes, and 1.2 from there to a million. By n√n it would be 3.2, quadratic is 10.
const LINEAR: f64 = 3.0;
/// The fleet that has a limit of its own.
const FLEET: usize = 10_000;
const LIMIT: Duration = Duration::from_millis(10);

/// Where criterion keeps its figures.
const FIGURES: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/criterion");

/// The processor's time that this thread takes: what else the machine does is not measured.
struct CpuTime(WallTime);

fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        cpu_time()
    }

    fn end(&self, begun: Duration) -> Duration {
        cpu_time() - begun
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        self.0.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        self.0.formatter()
    }
}

fn main() -> ExitCode {
    let mut criterion = Criterion::default()
        .with_measurement(CpuTime(WallTime))
        .output_directory(Path::new(FIGURES))
        .without_plots()
        .configure_from_args();
    let mut group = criterion.benchmark_group("plan");
    group.sampling_mode(SamplingMode::Flat);
    for plans in PLANS {
        for nodes in SIZES {
            let cluster = rollout(nodes, plans);
            let id = BenchmarkId::new(plans.to_string(), nodes);
            group
                .sample_size(20)
                .measurement_time(Duration::from_secs(3))
                .warm_up_time(Duration::from_secs(1))
                .bench_with_input(id, &cluster, |bencher, Cluster { now, world, .. }| {
                    // What is decided is dropped too: the controller pays for that as well.
                    bencher.iter(|| plan(black_box(*now), black_box(world)));
                });
        }
    }
    group.finish();
    if std::env::args().any(|arg| arg == "--test") {
        return ExitCode::SUCCESS;
    }
    table()
}

/// So many nodes in so many pools, a plan for each.
fn rollout(nodes: usize, plans: usize) -> Cluster {
    let now: DateTime<Utc> = "2026-11-22T08:00:00Z".parse().unwrap();
    let mut cluster = Cluster::new(now);
    for i in 0..nodes {
        let version = if i % 2 == 0 { "1.21.0" } else { "1.20.3" };
        let (name, pool) = (
            format!("ip-10-0-{}-{}.eu-central-1.compute.internal", i / 256, i % 256),
            i / 2 % plans,
        );
        let pool = format!("pool-{pool}");
        let zone = ["eu-central-1a", "eu-central-1b", "eu-central-1c"][i % 3];
        cluster.add_node(
            &name,
            version,
            &[
                ("pool", &pool),
                ("tier", if i % 16 == 1 { "dev" } else { "prod" }),
                ("kubernetes.io/hostname", &name),
                ("kubernetes.io/arch", "arm64"),
                ("kubernetes.io/os", "linux"),
                ("node.kubernetes.io/instance-type", "m7g.2xlarge"),
                ("topology.kubernetes.io/region", "eu-central-1"),
                ("topology.kubernetes.io/zone", zone),
            ],
        );
    }
    for i in 0..plans {
        cluster.add_plan(&format!("plan-{i}"), spec(&format!("pool-{i}")));
    }
    // As the controller lists them.
    cluster.world.nodes.sort_by(|a, b| a.name.cmp(&b.name));
    cluster.settle(&mut ()).unwrap();
    cluster
}

fn spec(pool: &str) -> UpdatePlanSpec {
    let yaml = format!(
        "
targetVersion: 1.21.0
nodeSelector: {{matchLabels: {{pool: {pool}}}}}
maxUnavailable: 1%
maintenanceWindows: [{{name: daily, schedule: '0 6 * * *', timeZone: Europe/Berlin, duration: 12h}}]
exclusions: [{{name: sale, start: 2026-11-27T00:00:00Z, end: 2026-12-01T00:00:00Z}}]
waves:
- {{name: dev, nodeSelector: {{matchLabels: {{tier: dev}}}}, maxUnavailable: 10%}}
- {{name: tenth, size: 10%, soak: 1h}}
- {{name: rest}}
"
    );
    serde_saphyr::from_str(&yaml).unwrap()
}

/// The median of one world, in nanoseconds.
fn measured(plans: usize, nodes: usize) -> Option<f64> {
    let path = Path::new(FIGURES).join(format!("plan/{plans}/{nodes}/new/estimates.json"));
    let estimates: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()?;
    estimates["median"]["point_estimate"].as_f64()
}

fn table() -> ExitCode {
    let mut within = true;
    println!(
        "\n| nodes | plans | one call of plan() | a node | ten times the nodes (1.0 is linear, at most {LINEAR}) |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: |");
    for plans in PLANS {
        let mut before: Option<f64> = None;
        for nodes in SIZES {
            let Some(taken) = measured(plans, nodes) else {
                println!("| {nodes} | {plans} | not measured | | |");
                before = None;
                continue;
            };
            let ratio = before.map(|before| taken / before / 10.0);
            let too_slow = nodes == FLEET && taken > LIMIT.as_secs_f64() * 1e9;
            within &= !too_slow && ratio.is_none_or(|ratio| ratio <= LINEAR);
            println!(
                "| {nodes} | {plans} | {:.3} ms{} | {:.0} ns | {} |",
                taken / 1e6,
                if too_slow {
                    format!(", at most {LIMIT:?}")
                } else {
                    String::new()
                },
                taken / nodes as f64,
                ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
            );
            before = Some(taken);
        }
    }
    println!("{}", if within { "linear" } else { "NOT within its bounds" });
    if within {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
