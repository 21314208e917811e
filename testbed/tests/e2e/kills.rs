//! Programs that are killed again and again in the middle of their work, at moments drawn from a seed: the rollout
//! ends as if nothing had been.
//!
//! A moment is a number of writes that the program has made, or of events on the machines, and a pause after that: so
//! that kills fall between two writes, and into requests. Five seeds are tried;
//! `KILL_SEEDS=20` tries the first twenty, `KILL_SEEDS=7-9` those three. What was drawn and done is printed where a
//! seed fails.

mod writes;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;
use testbed::bottlerocket::Version;
use testbed::fleet::{FleetSpec, LatencySpec};
use testbed::lab::Lab;
use testbed::operator::{Crashes, Options};
use testbed::oracle::Expectations;
use testbed::process::Process;
use testbed::truth::TruthLog;
use tokio::time::sleep;

use crate::budgets::forget_what_was_cut_off;
use crate::support::{
    SOON, assert_untouched, complete, edit, get_shadow, lab_with, machines, plan, reboots, show,
};
use writes::{Program, Writes};

const NODES: u32 = 8;
/// How often each is killed, for every seed.
const CONTROLLER: usize = 10;
const APISERVER: usize = 5;
const AGENTS: usize = 10;
/// Seeds that share a control plane: each takes the nodes one version further.
const TOGETHER: usize = 5;
/// All kills, and the rollout under them.
const WITHIN: Duration = Duration::from_secs(120);

/// When one of the kills comes.
#[derive(Clone, Copy, Debug)]
struct Moment {
    /// After so many writes of the program, or so many events on the machines.
    after: usize,
    /// So long after that.
    pause: Duration,
    /// Started again after so long.
    down: Duration,
}

/// All that is drawn from a seed.
#[derive(Debug)]
struct Moments {
    controller: Vec<Moment>,
    apiserver: Vec<Moment>,
    /// With whether all agents crash, or the one whose machine the last event was about.
    agents: Vec<(Moment, bool)>,
}

impl Moments {
    /// All over the rollout: a controller makes some 160 writes in it, an apiserver 50, and the machines tell of 950 events.
    fn drawn(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut moments = |count: usize, until: usize, down: u64| {
            let mut after = random.choose_multiple(1..=until, count);
            after.sort_unstable();
            let moment = |after| Moment {
                after,
                pause: Duration::from_millis(random.u64(0..20)),
                down: Duration::from_millis(random.u64(0..=down)),
            };
            after.into_iter().map(moment).collect::<Vec<_>>()
        };
        Self {
            // The lease of the one that was killed has to end first: time enough.
            controller: moments(CONTROLLER, 120, 0),
            apiserver: moments(APISERVER, 40, 500),
            agents: moments(AGENTS, 750, 0)
                .into_iter()
                .enumerate()
                .map(|(turn, moment)| (moment, turn % 4 == 3))
                .collect(),
        }
    }
}

/// What is done and when, printed as it happens.
#[derive(Clone, Copy)]
struct Story(Instant);

impl Story {
    fn tell(self, what: &str) {
        println!("{:8.3} s  {what}", self.0.elapsed().as_secs_f64());
    }
}

/// The seeds that are asked for.
fn seeds() -> Vec<u64> {
    let wanted = std::env::var("KILL_SEEDS").unwrap_or_else(|_| "5".to_owned());
    let (first, last) = wanted.split_once('-').unwrap_or(("1", &wanted));
    let number = |text: &str| {
        text.trim().parse::<u64>().unwrap_or_else(|_| {
            panic!("KILL_SEEDS={wanted}: give a number of seeds, or the first and the last, such as 7-9")
        })
    };
    (number(first)..=number(last)).collect()
}

/// The version that the so-manieth seed on a control plane takes the nodes to.
fn target(turn: usize) -> String {
    format!("1.{}.0", 21 + turn)
}

fn fleet() -> FleetSpec {
    let mut fleet = machines(NODES);
    fleet.offered.truncate(1);
    fleet
        .offered
        .extend((0..TOGETHER).map(|turn| target(turn).parse::<Version>().unwrap()));
    let moment = Duration::from_millis;
    fleet.latencies = LatencySpec {
        prepare: moment(150),
        activate: moment(50),
        deactivate: moment(50),
        boot: moment(150),
        pod_stop: moment(100),
        ..LatencySpec::default()
    };
    let workloads = json!([
        {"name": "web", "replicas": NODES, "maxUnavailable": 1},
        {"name": "db", "replicas": 3, "minAvailable": 2},
    ]);
    fleet.workloads = serde_json::from_value(workloads).unwrap();
    fleet
}

/// A lease that is soon over, and agents that are waited for as long as it takes.
fn options() -> Options {
    let flags = [
        "--lease-duration=1s",
        "--lease-renew=200ms",
        "--request-timeout=700ms",
        "--release-wait=20s",
    ];
    Options {
        controller_flags: flags.map(str::to_owned).to_vec(),
        ..Options::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn l2_a_rollout_ends_well_whatever_is_killed_however_often() {
    for seeds in seeds().chunks(TOGETHER) {
        let mut lab = lab_with(fleet(), &options()).await;
        for (turn, seed) in seeds.iter().enumerate() {
            let began = Instant::now();
            Box::pin(one_seed(&mut lab, *seed, &target(turn))).await;
            show(
                &format!("seed {seed}"),
                &format!(
                    "{CONTROLLER} kills of the controller, {APISERVER} of the apiserver, {AGENTS} of agents: {:.1} s",
                    began.elapsed().as_secs_f64()
                ),
            );
        }
        let nodes = lab.fleet.nodes();
        let expectations = Expectations {
            asked_again: nodes.iter().map(|node| node.name().to_owned()).collect(),
            ..Expectations::complete("p")
        };
        // Times in what it says are those of the day: the seeds' beginnings are printed.
        lab.finish(&expectations).await.unwrap();
    }
}

async fn one_seed(lab: &mut Lab, seed: u64, target: &str) {
    let moments = Moments::drawn(seed);
    println!(
        "seed {seed}, to {target}, at {}: KILL_SEEDS={seed}-{seed} tries it alone\n{moments:?}",
        chrono::Utc::now().format("%H:%M:%S%.3f")
    );
    let story = Story(Instant::now());
    let before: BTreeMap<String, usize> = lab
        .fleet
        .nodes()
        .iter()
        .map(|node| (node.name().to_owned(), reboots(lab, node.name())))
        .collect();
    let writes = Writes::follow(&lab.plane.audit_log());
    let truth = lab.fleet.truth().clone();
    let events = truth.events().len();
    let crashes = lab.operator.crashes();
    let _janitor = forget_what_was_cut_off(lab.client.clone());
    start(lab, target).await;

    let operator = &mut lab.operator;
    let kills = async {
        tokio::join!(
            kill(
                &mut operator.controller,
                &moments.controller,
                &writes,
                Program::Controller,
                story
            ),
            kill(
                &mut operator.apiserver,
                &moments.apiserver,
                &writes,
                Program::Apiserver,
                story
            ),
            crash_agents(&truth, events, &crashes, &moments.agents, story),
        )
    };
    if tokio::time::timeout(WITHIN, kills).await.is_err() {
        panic!(
            "not all kills within {WITHIN:?}: is the rollout over, or does it not go on?\n{}",
            lab.describe().await
        );
    }
    story.tell("no more kills");
    let done = complete(lab, "p").await;
    story.tell(&format!(
        "the plan is Complete, after {} writes of the controller, {} of the apiserver, {} events on the machines",
        writes.so_far(Program::Controller),
        writes.so_far(Program::Apiserver),
        truth.events().len() - events,
    ));
    assert_eq!(done.nodes.updated, NODES, "{:?}", done.nodes);
    lab.shadows(SOON, "acknowledgement of every node", |shadows| {
        shadows.iter().all(api::BottlerocketShadow::is_acknowledged)
    })
    .await
    .unwrap();
    for (node, before) in &before {
        let shadow = get_shadow(lab, node).await;
        assert_eq!(
            shadow.spec.failure, None,
            "no attempt on {node} had a reason to fail"
        );
        assert_eq!(lab.fleet.node(node).unwrap().version(), target);
        assert_eq!(reboots(lab, node) - before, 1, "reboots of {node}");
        assert_untouched(lab, node).await;
    }
}

/// Applies the plan, or raises its target.
async fn start(lab: &Lab, target: &str) {
    if target != self::target(0) {
        return edit(lab, "p", &json!({"targetVersion": target})).await;
    }
    let spec = json!({
        "targetVersion": target,
        "maxUnavailable": 2,
        "waves": [{"name": "canary", "size": 1, "soak": "500ms"}, {"name": "rest"}],
        "monitoring": {"minReady": "300ms"},
    });
    lab.apply(&plan("p", &spec)).await.unwrap();
}

/// Kills a program at each of these moments, and starts it again without waiting for anything.
async fn kill(process: &mut Process, moments: &[Moment], writes: &Writes, program: Program, story: Story) {
    let mut seen = 0;
    for Moment { after, pause, down } in moments {
        // At least one since it was started.
        let after = (*after).max(seen + 1);
        writes.reach(program, after).await;
        sleep(*pause).await;
        process.kill().await.unwrap();
        seen = writes.so_far(program);
        story.tell(&format!(
            "{program:?} killed {pause:?} after write {after}, at {seen}"
        ));
        sleep(*down).await;
        *process = process.recipe().spawn().unwrap();
    }
}

/// Lets agents crash at each of these moments; the kubelets start them again.
async fn crash_agents(
    truth: &TruthLog,
    seen: usize,
    crashes: &Crashes,
    moments: &[(Moment, bool)],
    story: Story,
) {
    for (Moment { after, pause, .. }, all) in moments {
        let last = seen + after - 1;
        truth.longer_than(last).await;
        let node = truth.since(last).swap_remove(0).node;
        sleep(*pause).await;
        if *all {
            crashes.all();
        } else {
            crashes.one(&node);
        }
        let whose = if *all { "all" } else { &node };
        story.tell(&format!("agent crashed {pause:?} after event {after}: {whose}"));
    }
}
