//! How long rollouts take, in virtual time, beside what a greedy schedule would take that knows how long each node takes and
//! starts the next whenever a place is free and the window leaves it enough time. Nothing here asks the planner for an order
//! other than the one in which it granted.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::collections::BTreeMap;

use api::plan::UpdatePlanSpec;
use chrono::{DateTime, TimeDelta, Timelike, Utc};
use planner::{
    simulate::{Group, Happening, Outcome, Rates, Step, Story, Timing, What, simulate},
    world::Settings,
};
use serde_json::{Value, json};

const FLEETS: u64 = 200;
/// How much longer than the greedy schedule a rollout may take.
const WITHIN: f64 = 1.02;
/// How long an agent takes to answer.
const AGENT: TimeDelta = TimeDelta::seconds(1);
/// The window opens at this hour every day, and is open for so many hours.
const OPENS: i64 = 8;

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    fn seconds(&mut self, least: u64, most: u64) -> TimeDelta {
        TimeDelta::seconds(i64::try_from(least + self.below(most - least)).unwrap())
    }
}

/// A fleet with its plan.
struct Fleet {
    groups: Vec<Group>,
    spec: Value,
    /// How many nodes may be on their way at once.
    places: usize,
    /// How many nodes the first wave takes, and how long it soaks.
    canaries: usize,
    soak: TimeDelta,
    min_ready: TimeDelta,
    /// For how long the window is open every day. None: there are no windows.
    open: Option<TimeDelta>,
}

fn start() -> DateTime<Utc> {
    "2026-11-22T08:00:00Z".parse().unwrap()
}

fn fleet(seed: u64) -> Fleet {
    let dice = &mut Dice(seed);
    let nodes = 5 + dice.below(56) as usize;
    let places = 1 + dice.below(8.min(nodes as u64)) as usize;
    // Where windows close, a node that takes longer than nine of ten others is started too late or not at all: that is what
    // S4 wants, and no matter of order. So there all nodes of a fleet take the same time.
    let open = (seed % 3 == 2).then(|| TimeDelta::minutes(30 + dice.below(600) as i64));
    let timing = |dice: &mut Dice| Timing {
        agent: AGENT,
        stage: dice.seconds(10, 600),
        drain: dice.seconds(5, 600),
        reboot: dice.seconds(30, 400),
        ready: dice.seconds(0, 60),
    };
    let alike = open.map(|_| Timing {
        stage: dice.seconds(10, 120),
        drain: dice.seconds(5, 300),
        ..timing(dice)
    });
    let groups = (0..nodes).map(|i| Group {
        prefix: format!("n{i:02}-"),
        count: 1,
        version: "1.20.3".to_owned(),
        variant: "aws-k8s-1.33".to_owned(),
        arch: "x86_64".to_owned(),
        offered: None,
        zone: None,
        labels: BTreeMap::new(),
        takes_part: true,
        hosts_operator: false,
        timing: alike.unwrap_or_else(|| timing(dice)),
        rates: Rates::new(),
    });
    let groups: Vec<Group> = groups.collect();
    let canaries = if dice.below(2) == 0 {
        0
    } else {
        1 + dice.below(3) as usize
    };
    let soak = dice.seconds(0, 3600);
    let min_ready = dice.seconds(0, 120);
    let mut spec = json!({
        "targetVersion": "1.21.0",
        "nodeSelector": {},
        "maxUnavailable": places,
        "drain": {"timeout": "1h"},
        "timeouts": {"stage": "1h", "reboot": "1h"},
        "monitoring": {"minReady": format!("{}s", min_ready.num_seconds()), "timeout": "1h"},
        "expectedNodeDuration": "1s",
    });
    if canaries > 0 {
        let soak = format!("{}s", soak.num_seconds());
        spec["waves"] = json!([{"name": "canary", "size": canaries, "soak": soak}, {"name": "rest"}]);
    }
    Fleet {
        groups,
        spec,
        places,
        canaries,
        soak,
        min_ready,
        open,
    }
}

fn story(groups: Vec<Group>, spec: &Value) -> Story {
    let spec: UpdatePlanSpec = serde_json::from_value(spec.clone()).unwrap();
    Story {
        start: start(),
        end: start() + TimeDelta::days(60),
        settings: Settings::default(),
        seed: 0,
        fleet: groups,
        events: vec![(
            start(),
            Happening::Apply {
                plan: "web".to_owned(),
                spec: Box::new(spec),
            },
        )],
    }
}

/// How long one node takes, as what it does takes: image, drain, the answer that asks for the permit, a second until the
/// machine goes down, the boot until it is Ready and has reported, `minReady`, the answer that all is put back. Nothing of it
/// comes from the planner: one that keeps a node longer than that is seen.
fn takes(timing: &Timing, min_ready: TimeDelta) -> TimeDelta {
    let asks = timing.agent + TimeDelta::seconds(1);
    timing.stage
        + timing.drain
        + asks
        + timing.reboot
        + timing.ready.max(timing.agent)
        + min_ready
        + timing.agent
}

fn makespan(outcome: &Outcome) -> TimeDelta {
    outcome
        .makespan
        .get("web")
        .copied()
        .unwrap_or_else(|| panic!("not complete: {:#?}", outcome.statuses))
}

/// Nodes in the order in which they were granted, with the time of the grant.
fn granted(outcome: &Outcome) -> Vec<String> {
    let grants = outcome.timeline.iter().filter_map(|moment| match &moment.what {
        What::Step {
            node,
            step: Step::Granted { .. },
            ..
        } => Some(node.clone()),
        _ => None,
    });
    grants.collect()
}

/// The first instant from `at` on at which the window leaves so much time.
fn fits(open: Option<TimeDelta>, at: DateTime<Utc>, takes: TimeDelta) -> DateTime<Utc> {
    let Some(open) = open else { return at };
    let into =
        TimeDelta::seconds((i64::from(at.num_seconds_from_midnight()) - OPENS * 3600).rem_euclid(86_400));
    if into + takes <= open {
        at
    } else {
        at - into + TimeDelta::days(1)
    }
}

/// When a greedy schedule is done with these nodes, in this order, on so many places.
fn greedy(
    fleet: &Fleet,
    takes: &BTreeMap<&str, TimeDelta>,
    order: &[String],
    from: DateTime<Utc>,
) -> DateTime<Utc> {
    let mut free = vec![from; fleet.places];
    for node in order {
        let takes = takes[node.as_str()];
        let place = free.iter_mut().min().unwrap();
        *place = fits(fleet.open, *place, takes) + takes;
    }
    free.into_iter().max().unwrap()
}

#[test]
fn a_rollout_takes_no_longer_than_a_greedy_schedule() {
    let (mut worst, mut worst_to_ideal) = ((0.0, 0), (0.0, 0));
    for seed in 0..FLEETS {
        let mut fleet = fleet(seed);
        let all: Vec<TimeDelta> = fleet
            .groups
            .iter()
            .map(|group| takes(&group.timing, fleet.min_ready))
            .collect();
        let longest = *all.iter().max().unwrap();
        if let Some(open) = fleet.open {
            let open = open.max(longest);
            fleet.open = Some(open);
            fleet.spec["expectedNodeDuration"] = json!(format!("{}s", longest.num_seconds()));
            fleet.spec["maintenanceWindows"] = json!([{"name": "daily", "schedule": format!("0 {OPENS} * * *"), "duration": format!("{}s", open.num_seconds())}]);
        }
        let outcome = simulate(&story(fleet.groups.clone(), &fleet.spec)).unwrap();
        let order = granted(&outcome);
        assert_eq!(order.len(), fleet.groups.len(), "each node is granted once");
        let names: Vec<String> = fleet
            .groups
            .iter()
            .map(|group| format!("{}1", group.prefix))
            .collect();
        let takes: BTreeMap<&str, TimeDelta> = names
            .iter()
            .map(String::as_str)
            .zip(all.iter().copied())
            .collect();
        let (canaries, rest) = order.split_at(fleet.canaries.min(order.len()));
        let mut bound = start();
        if !canaries.is_empty() {
            bound = greedy(&fleet, &takes, canaries, bound);
            if !rest.is_empty() {
                // A wave soaks from when its last node is told that it is done; its agent answers to that a second later.
                bound = bound.max(bound - AGENT + fleet.soak);
            }
        }
        bound = greedy(&fleet, &takes, rest, bound);
        let (took, bound) = (makespan(&outcome), bound - start());
        let ratio = took.as_seconds_f64() / bound.as_seconds_f64();
        if ratio > worst.0 {
            worst = (ratio, seed);
        }
        // Without waves and windows: no schedule is shorter than the longest node, or than all nodes spread evenly.
        if fleet.canaries == 0 && fleet.open.is_none() {
            let work = all.iter().fold(TimeDelta::zero(), |sum, takes| sum + *takes);
            let ideal = longest
                .as_seconds_f64()
                .max(work.as_seconds_f64() / fleet.places as f64);
            let ratio = took.as_seconds_f64() / ideal;
            if ratio > worst_to_ideal.0 {
                worst_to_ideal = (ratio, seed);
            }
        }
        assert!(
            (1.0..=WITHIN).contains(&ratio),
            "fleet {seed}: {} nodes, {} places: {took} beside {bound}, {ratio:.4}",
            order.len(),
            fleet.places
        );
    }
    println!(
        "{FLEETS} fleets: at most {:.4} of the greedy schedule (fleet {}), {:.4} of what no schedule is shorter than (fleet {})",
        worst.0, worst.1, worst_to_ideal.0, worst_to_ideal.1
    );
}
