//! Any world: plans, nodes, shadows and a ledger that chance puts together, whether or not one could have led to the
//! other. A byte that is 0 draws what is ordinary, so that a failure shrinks to a world where little is strange.

mod grants;
mod nodes;
mod plans;

use api::{
    ledger::UpdateLedgerSpec,
    plan::{LATEST, UpdatePlanSpec},
    quantity::IntOrPercent,
};
use chrono::{DateTime, TimeDelta, Utc};
use planner::{simulate::Cluster, world::World};
use proptest::prelude::*;
use serde_json::Value;

use crate::rules::frozen;

/// What the planner is asked.
#[derive(Clone, Debug)]
pub struct Asked {
    pub now: DateTime<Utc>,
    pub world: World,
}

/// Bytes that chance has drawn.
struct Draw<'a>(std::slice::Iter<'a, u8>);

impl Draw<'_> {
    fn byte(&mut self) -> u8 {
        self.0.next().copied().unwrap_or(0)
    }

    /// True in so many of a hundred cases.
    fn seldom(&mut self, percent: u32) -> bool {
        u32::from(self.byte()) * 100 >= 256 * (100 - percent)
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.byte()) * choices.len() / 256]
    }

    fn below(&mut self, end: u32) -> u32 {
        u32::from(self.byte()) * end / 256
    }

    /// So many minutes before `now`, at most `most`.
    fn before(&mut self, now: DateTime<Utc>, most: u32) -> DateTime<Utc> {
        now - TimeDelta::minutes(self.below(most).into())
    }
}

const NODES: usize = 10;
const PLANS: usize = 3;
/// Bytes for each plan, and for each node.
const OF_PLAN: usize = 112;
const OF_NODE: usize = 88;
/// Of each thing, what every world has is drawn from so many of them, and what only some have from those that follow.
const FIRST: usize = 64;

/// Variants and architectures.
const KINDS: [(&str, &str); 3] = [
    ("aws-k8s-1.33", "x86_64"),
    ("aws-k8s-1.34", "x86_64"),
    ("aws-k8s-1.33", "aarch64"),
];

/// Any world.
pub fn any_world() -> impl Strategy<Value = Asked> {
    let bytes = |long| prop::collection::vec(any::<u8>(), long);
    let things = |most, long| prop::collection::vec(bytes(long), 0..=most);
    (bytes(32), things(PLANS, OF_PLAN), things(NODES, OF_NODE))
        .prop_map(|(general, plans, nodes)| world(&mut Draw(general.iter()), &plans, &nodes))
}

fn world(draw: &mut Draw<'_>, plans: &[Vec<u8>], nodes: &[Vec<u8>]) -> Asked {
    let sunday: DateTime<Utc> = "2026-11-22T08:00:00Z".parse().unwrap();
    let now = sunday + TimeDelta::seconds(i64::from(draw.below(256)) * 337 + i64::from(draw.below(3)) * 20);
    // Nobody has a grant or has failed, and many are done: what such worlds wait for is something else.
    let quiet = draw.seldom(30);
    let mut cluster = Cluster::new(now);
    let mut ledger = UpdateLedgerSpec::default();
    for (i, bytes) in plans.iter().enumerate() {
        let (draw, more) = both(bytes);
        let (draw, more) = (&mut Draw(draw.iter()), &mut Draw(more.iter()));
        let mut spec = plans::spec(draw, now);
        plans::further(more, &mut spec);
        cluster.add_plan(&format!("p{i}"), spec);
        let facts = cluster.world.plans.last_mut().unwrap();
        plans::plan(draw, now, facts);
        plans::told(more, now, facts);
        plans::people(more, facts);
        if let Some(mut entry) = plans::entry(draw, now, facts) {
            plans::remembered(more, now, facts, &mut entry);
            ledger.plans.insert(facts.uid.clone(), entry);
        }
    }
    for (i, bytes) in nodes.iter().enumerate() {
        let (draw, more) = both(bytes);
        let (last, draw) = (&mut Draw(draw[FIRST - 4..].iter()), &mut Draw(draw.iter()));
        let more = &mut Draw(more.iter());
        let version = draw.of(&["1.20.3", "1.20.3", "1.20.3", "1.21.0", "1.21.0", "1.22.0"]);
        // Its plan, its run and its attempt, where the grant, the shadow and the cordon agree.
        let of = usize::from(draw.byte()).checked_rem(plans.len()).unwrap_or(0);
        let target = cluster
            .world
            .plans
            .get(of)
            .map(|plan| plan.spec.target_version.clone());
        let exact = target.filter(|target| target.starts_with('1'));
        let is_done = more.seldom(60) && quiet;
        let version = exact.filter(|_| is_done).unwrap_or_else(|| version.to_owned());
        cluster.add_node(&format!("n{i}"), &version, &[]);
        let plan = cluster.world.plans.get(of);
        let facts = cluster.world.nodes.last_mut().unwrap();
        nodes::kind(more, now, facts);
        let waves = plan.map_or_else(Vec::new, |plan| wave_names(&plan.spec));
        let attempt = 1 + draw.below(3);
        let wave = waves
            .get(draw.below(waves.len() as u32) as usize)
            .cloned()
            .unwrap_or_default();
        let entry = plan.and_then(|plan| ledger.plans.get(&plan.uid));
        let target = match plan.map_or("1.21.0", |plan| &plan.spec.target_version) {
            LATEST => entry.and_then(|entry| frozen(entry, facts)).unwrap_or("1.22.0"),
            exact => exact,
        };
        let way = Way {
            plan: format!("p{of}"),
            wave,
            attempt,
            target: target.to_owned(),
        };
        nodes::node(draw, now, facts, &way);
        nodes::known(more, facts);
        if quiet {
            nodes::rest(more, now, facts, &way, is_done);
        } else if draw.seldom(30) {
            let mut grant = grants::grant(draw, now, facts, &way, &ledger);
            grants::further(more, &mut grant);
            if draw.seldom(75) {
                grants::along(draw, facts, &grant);
            }
            ledger.grants.insert(facts.uid.clone(), grant);
        }
        let is_granted = ledger.grants.contains_key(&facts.uid);
        nodes::outlasted(more, facts, is_granted);
        nodes::ahead(last, now, facts, &way.target);
    }
    if draw.seldom(5) {
        // A grant of a node that is gone, or was replaced under its name.
        if let Some((uid, grant)) = ledger.grants.pop_first() {
            ledger.grants.insert(format!("{uid}-gone"), grant);
        }
    }
    let lost = draw.seldom(6);
    let mut world = cluster.world;
    let skew = draw.of(&[Some(0); 16]
        .into_iter()
        .chain([Some(29), Some(-31), Some(4000), None])
        .collect::<Vec<_>>());
    world.clock_skew = skew.map(TimeDelta::seconds);
    world.settings.stage_ahead = draw.of(&[0, 1, 1, 3]);
    ledger.stop = draw.seldom(6);
    let caps = [
        None,
        None,
        None,
        None,
        None,
        None,
        Some(IntOrPercent::Int(3)),
        Some(IntOrPercent::Percent(50)),
        Some(IntOrPercent::Int(5)),
    ];
    ledger.max_unavailable = draw.of(&caps);
    world.settings.max_unavailable = draw.of(&caps).filter(|_| draw.seldom(30));
    world.ledger = (!lost).then_some(ledger);
    Asked { now, world }
}

/// The bytes of what every world has, and of what only some have.
fn both(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes.split_at(FIRST)
}

/// Where a node is on its way, as its plan, its run and its attempt say.
struct Way {
    plan: String,
    wave: String,
    attempt: u32,
    target: String,
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn wave_names(spec: &UpdatePlanSpec) -> Vec<String> {
    if spec.waves.is_empty() {
        return vec!["all".to_owned()];
    }
    spec.waves.iter().map(|wave| wave.name.clone()).collect()
}

fn run_of(plan: &str) -> String {
    format!("run-{plan}")
}
