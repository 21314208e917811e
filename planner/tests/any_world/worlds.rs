//! Any world: plans, nodes, shadows and a ledger that chance puts together, whether or not one could have led to the
//! other. A byte that is 0 draws what is ordinary, so that a failure shrinks to a world where little is strange.

use api::{
    ledger::{Grant, PlanEntry, UpdateLedgerSpec},
    names::NODE_LABEL,
    plan::UpdatePlanSpec,
    quantity::Span,
    shadow::{AgentError, Disruption, Failure, FailureReason, NodeState, StageAhead},
};
use chrono::{DateTime, TimeDelta, Utc};
use planner::{
    simulate::Cluster,
    world::{DrainFacts, NodeFacts, PlanFacts, World},
};
use proptest::prelude::*;
use serde_json::{Value, json};

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
/// Bytes for each thing that is drawn.
const SIZE: usize = 64;

/// Any world.
pub fn any_world() -> impl Strategy<Value = Asked> {
    let bytes = || prop::array::uniform32(any::<u8>());
    let thing = (bytes(), prop::array::uniform32(any::<u8>()));
    let things = |most| prop::collection::vec(thing, 0..=most);
    (bytes(), things(PLANS), things(NODES)).prop_map(|(general, plans, nodes)| {
        let join = |(a, b): &([u8; 32], [u8; 32])| {
            let mut all = [0; SIZE];
            all[..32].copy_from_slice(a);
            all[32..].copy_from_slice(b);
            all
        };
        let plans: Vec<_> = plans.iter().map(join).collect();
        let nodes: Vec<_> = nodes.iter().map(join).collect();
        world(&mut Draw(general.iter()), &plans, &nodes)
    })
}

fn world(draw: &mut Draw<'_>, plans: &[[u8; SIZE]], nodes: &[[u8; SIZE]]) -> Asked {
    let sunday: DateTime<Utc> = "2026-11-22T08:00:00Z".parse().unwrap();
    let now = sunday + TimeDelta::seconds(i64::from(draw.below(256)) * 337 + i64::from(draw.below(3)) * 20);
    let mut cluster = Cluster::new(now);
    let mut ledger = UpdateLedgerSpec::default();
    for (i, bytes) in plans.iter().enumerate() {
        let draw = &mut Draw(bytes.iter());
        let (name, spec) = (format!("p{i}"), spec(draw, now));
        cluster.add_plan(&name, spec);
        let facts = cluster.world.plans.last_mut().unwrap();
        plan(draw, now, facts);
        if let Some(entry) = entry(draw, now, facts) {
            ledger.plans.insert(facts.uid.clone(), entry);
        }
    }
    for (i, bytes) in nodes.iter().enumerate() {
        let draw = &mut Draw(bytes.iter());
        let version = draw.of(&["1.20.3", "1.20.3", "1.20.3", "1.21.0", "1.21.0", "1.22.0"]);
        cluster.add_node(&format!("n{i}"), version, &[]);
        let facts = cluster.world.nodes.last_mut().unwrap();
        // Its plan, its run and its attempt, where the grant, the shadow and the cordon agree.
        let of = usize::from(draw.byte()).checked_rem(plans.len()).unwrap_or(0);
        let name = format!("p{of}");
        let spec = cluster.world.plans.get(of).map(|plan| plan.spec.clone());
        let waves = spec.as_ref().map_or_else(Vec::new, wave_names);
        let attempt = 1 + draw.below(3);
        let wave = waves
            .get(draw.below(waves.len() as u32) as usize)
            .cloned()
            .unwrap_or_default();
        let target = spec.map_or_else(|| "1.21.0".to_owned(), |spec| spec.target_version);
        let way = Way {
            plan: name,
            wave,
            attempt,
            target,
        };
        node(draw, now, facts, &way);
        if draw.seldom(30) {
            let grant = grant(draw, now, facts, &way, &ledger);
            if draw.seldom(75) {
                along(draw, facts, &grant);
            }
            ledger.grants.insert(facts.uid.clone(), grant);
        }
        ahead(&mut Draw(bytes[SIZE - 4..].iter()), now, facts, &way.target);
    }
    if draw.seldom(5) {
        // A grant of a node that is gone, or was replaced under its name.
        if let Some((uid, grant)) = ledger.grants.pop_first() {
            ledger.grants.insert(format!("{uid}-gone"), grant);
        }
    }
    let mut world = cluster.world;
    world.ledger = (!draw.seldom(6)).then_some(ledger);
    let skew = draw.of(&[Some(0); 16]
        .into_iter()
        .chain([Some(29), Some(-31), Some(4000), None])
        .collect::<Vec<_>>());
    world.clock_skew = skew.map(TimeDelta::seconds);
    world.settings.stage_ahead = draw.of(&[0, 1, 1, 3]);
    Asked { now, world }
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

fn spec(draw: &mut Draw<'_>, now: DateTime<Utc>) -> UpdatePlanSpec {
    let selector = draw.of(&[
        "{}",
        "{}",
        r#"{"matchLabels": {"pool": "a"}}"#,
        r#"{"matchLabels": {"pool": "b"}}"#,
        r#"{"matchExpressions": [{"key": "tier", "operator": "In", "values": ["dev"]}]}"#,
    ]);
    let waves = draw.of(&[
        "[]",
        "[]",
        r#"[{"name": "canary", "size": 1, "soak": "30m"}, {"name": "rest"}]"#,
        r#"[{"name": "dev", "nodeSelector": {"matchLabels": {"tier": "dev"}}, "maxUnavailable": 1, "soak": "10m"},
            {"name": "half", "size": "50%"}, {"name": "rest", "maxUnavailable": 2}]"#,
        r#"[{"name": "two", "size": 2, "nodeSelector": {"matchLabels": {"pool": "a"}}}, {"name": "rest"}]"#,
    ]);
    let topology = draw.of(&[
        "null",
        "null",
        r#"{"key": "zone", "maxDomains": 1}"#,
        r#"{"key": "zone", "maxDomains": 2}"#,
    ]);
    let limits = [json!(1), json!(2), json!("25%"), json!(3), json!("100%")];
    let parse = |text: &str| -> Value { serde_json::from_str(text).unwrap() };
    let mut spec = json!({
        "targetVersion": draw.of(&["1.21.0", "1.21.0", "1.21.0", "1.22.0", "1.20.3", "bad"]),
        "nodeSelector": parse(selector),
        "waves": parse(waves),
        "maxUnavailable": limits[draw.below(5) as usize],
        "expectedNodeDuration": draw.of(&["1s", "20m", "2h"]),
        "paused": draw.seldom(8),
        "priority": draw.of(&[0, 0, 0, 10, -5]),
        "topology": parse(topology),
        "onWindowEnd": draw.of(&["Withdraw", "Withdraw", "Finish"]),
        "failurePolicy": {"retries": draw.below(3), "threshold": draw.of(&["1", "2", "30%", "1"])},
        "monitoring": {"minReady": "1m", "timeout": "15m"},
    });
    let threshold = &mut spec["failurePolicy"]["threshold"];
    if let Ok(number) = threshold.as_str().unwrap().parse::<u32>() {
        *threshold = json!(number);
    }
    spec["maintenanceWindows"] = windows(draw, now, "w", &[0, 0, 1, 2]);
    spec["exclusions"] = windows(draw, now, "x", &[0, 0, 0, 0, 1]);
    read(spec)
}

/// Windows on whole minutes around `now`: single ones, and such as come every day.
fn windows(draw: &mut Draw<'_>, now: DateTime<Utc>, prefix: &str, how_many: &[u32]) -> Value {
    let minute = DateTime::from_timestamp(now.timestamp().div_euclid(60) * 60, 0).unwrap();
    (0..draw.of(how_many))
        .map(|i| {
            let name = format!("{prefix}{i}");
            if draw.seldom(50) {
                let schedule = format!("0 {} * * *", draw.below(24));
                json!({"name": name, "schedule": schedule, "duration": format!("{}m", 30 + draw.below(600))})
            } else {
                let start = minute + TimeDelta::minutes(i64::from(draw.below(120)) - 80);
                let end = start + TimeDelta::minutes(i64::from(draw.below(200)) + 1);
                json!({"name": name, "start": start, "end": end})
            }
        })
        .collect()
}

fn plan(draw: &mut Draw<'_>, now: DateTime<Utc>, facts: &mut PlanFacts) {
    facts.created = now - TimeDelta::hours(draw.below(3).into());
    facts.generation = 1 + i64::from(draw.below(3));
    facts.deleting = draw.seldom(6);
    facts.finalizer = !draw.seldom(15);
    if draw.seldom(30) {
        let halted = draw.seldom(20);
        let status = json!({
            "run": {
                "id": run_of(&facts.name), "target": facts.spec.target_version, "startedAt": now - TimeDelta::hours(2),
                "completedAt": draw.seldom(20).then_some(now - TimeDelta::hours(1)),
            },
            "conditions": if halted {
                json!([{"type": "Degraded", "status": "True", "reason": "Halted", "message": "", "lastTransitionTime": "2026-11-22T07:00:00Z"}])
            } else {
                json!([])
            },
        });
        facts.status = read(status);
    }
}

fn entry(draw: &mut Draw<'_>, now: DateTime<Utc>, facts: &PlanFacts) -> Option<PlanEntry> {
    if draw.seldom(12) {
        return None;
    }
    let waves = wave_names(&facts.spec);
    let beyond = u32::from(draw.seldom(10));
    let open = draw.below(waves.len() as u32 + beyond);
    let name = if open == 0 || draw.seldom(5) {
        ""
    } else {
        waves.get(open as usize).map_or("gone", String::as_str)
    };
    // A run that is over has another name.
    let (target, run) = if draw.seldom(8) {
        ("1.20.9", "run-before".to_owned())
    } else {
        (facts.spec.target_version.as_str(), run_of(&facts.name))
    };
    let sizes = if draw.seldom(40) {
        json!({"canary": 1, "half": draw.below(6), "two": 2})
    } else {
        json!({})
    };
    let failed: Vec<String> = (0..draw.of(&[0, 0, 0, 1, 2]))
        .map(|i| format!("uid-gone-{i}"))
        .collect();
    let expected = facts.spec.expected_node_duration;
    // Else the plan has just been edited.
    let expected = if draw.seldom(40) {
        Span::seconds(77)
    } else {
        expected
    };
    let durations: Vec<u32> = (0..draw.of(&[0, 0, 1, 12])).map(|i| 60 + 100 * i).collect();
    Some(read(json!({
        "name": facts.name,
        "generation": facts.generation + i64::from(draw.of(&[0; 20].into_iter().chain([-1, -1, 1]).collect::<Vec<i32>>())),
        "run": run,
        "target": target,
        "startedAt": draw.before(now, 600),
        "paused": facts.spec.paused || facts.deleting || draw.seldom(4),
        "halted": draw.seldom(7),
        "waveSizes": sizes,
        "openWave": open,
        "openWaveName": name,
        "failed": failed,
        "durations": durations,
        "expectedNodeDuration": expected,
    })))
}

fn node(draw: &mut Draw<'_>, now: DateTime<Utc>, facts: &mut NodeFacts, way: &Way) {
    facts
        .labels
        .insert("pool".to_owned(), draw.of(&["a", "b"]).to_owned());
    facts
        .labels
        .insert("tier".to_owned(), draw.of(&["prod", "prod", "dev"]).to_owned());
    if let Some(zone) = draw.of(&[Some("a"), Some("b"), Some("c"), None]) {
        facts.labels.insert("zone".to_owned(), zone.to_owned());
    }
    if draw.seldom(4) {
        facts.labels.remove(NODE_LABEL);
    }
    facts.ready = !draw.seldom(8);
    facts.ready_changed = (!draw.seldom(10)).then(|| draw.before(now, 240));
    facts.unschedulable = draw.seldom(8);
    facts.agent.ready = !draw.seldom(8);
    facts.agent.since = facts.ready_changed;
    if draw.seldom(6) {
        "Bottlerocket OS 1.19.0 (aws-k8s-1.33)".clone_into(&mut facts.os_image);
    }
    facts.drain = draw.of(&[None, None, Some(0), Some(2)]).map(|left| DrainFacts {
        left,
        own: draw.of(&[0, 0, 0, left]),
        blocked: None,
    });
    facts.hosts_operator = draw.seldom(10);
    if draw.seldom(10) {
        facts.disruption = Some(disruption(draw, now, way));
        facts.unschedulable = !draw.seldom(20);
    }
    if draw.seldom(4) {
        facts.shadow = None;
    }
    let Some(shadow) = &mut facts.shadow else { return };
    let spec = &mut shadow.spec;
    if draw.seldom(45) {
        use NodeState::{ErrorReset, Idle, MonitoringUpdate, RebootedIntoUpdate, StagedAndPerformedUpdate};
        let run = if draw.seldom(15) {
            "run-before".to_owned()
        } else {
            run_of(&way.plan)
        };
        spec.state = draw.of(&[
            Idle,
            Idle,
            Idle,
            Idle,
            StagedAndPerformedUpdate,
            RebootedIntoUpdate,
            MonitoringUpdate,
            ErrorReset,
        ]);
        spec.state_transition_timestamp = Some(draw.before(now, 90));
        (spec.plan, spec.run) = (Some(way.plan.clone()), Some(run));
        (spec.wave, spec.attempt) = (Some(way.wave.clone()), Some(way.attempt));
        spec.from_version = Some("1.20.3".to_owned());
        spec.failure = draw.seldom(45).then(|| failure(draw, now));
    }
    let agrees = !draw.seldom(12);
    let spec = spec.clone();
    shadow.status = shadow
        .status
        .take()
        .filter(|_| !draw.seldom(4))
        .map(|mut status| {
            if agrees {
                (status.current_state, status.run, status.attempt) =
                    (spec.state, spec.run.clone(), spec.attempt);
            }
            if draw.seldom(6) {
                status.boot_id = Some("another".to_owned());
            }
            if draw.seldom(8) {
                status.error = Some(AgentError {
                    reason: draw.of(&[FailureReason::StageFailed, FailureReason::PermitExpired]),
                    message: "no".to_owned(),
                });
            }
            status
        });
}

/// What a node is told to download ahead of its turn, and what is on its inactive partition.
fn ahead(draw: &mut Draw<'_>, now: DateTime<Utc>, facts: &mut NodeFacts, target: &str) {
    let Some(shadow) = &mut facts.shadow else { return };
    let version = draw.of(&[target, target, "1.22.0"]).to_owned();
    if let Some(status) = shadow.status.as_mut().filter(|_| draw.seldom(20)) {
        status.staged_version = Some(version.clone());
    }
    if draw.seldom(30) {
        let until = now + TimeDelta::minutes(i64::from(draw.below(60)) - 15);
        shadow.spec.stage = Some(StageAhead { version, until });
    }
}

fn failure(draw: &mut Draw<'_>, now: DateTime<Utc>) -> Failure {
    use FailureReason::{BootedOtherVersion, DrainTimeout, RebootTimeout, StageFailed, Unhealthy};
    Failure {
        reason: draw.of(&[
            StageFailed,
            DrainTimeout,
            RebootTimeout,
            BootedOtherVersion,
            Unhealthy,
        ]),
        message: "it failed".to_owned(),
        at: draw.before(now, 20),
        count: 1 + draw.below(3),
    }
}

fn disruption(draw: &mut Draw<'_>, now: DateTime<Utc>, way: &Way) -> Disruption {
    Disruption {
        plan_uid: format!("uid-{}", way.plan),
        run: if draw.seldom(20) {
            "run-before".to_owned()
        } else {
            run_of(&way.plan)
        },
        wave: way.wave.clone(),
        attempt: way.attempt,
        cordoned_at: draw.before(now, 60),
        annotations_before: Default::default(),
    }
}

/// A grant in any phase, by a plan that may be gone, or whose run may be over.
fn grant(
    draw: &mut Draw<'_>,
    now: DateTime<Utc>,
    facts: &NodeFacts,
    way: &Way,
    ledger: &UpdateLedgerSpec,
) -> Grant {
    let plan = if draw.seldom(5) {
        "uid-gone".to_owned()
    } else {
        format!("uid-{}", way.plan)
    };
    let entry = ledger.plans.get(&plan);
    let phase = draw.of(&["Granted", "Drained", "Rebooting", "Monitoring", "Withdrawing"]);
    let ends = phase == "Withdrawing" || (draw.seldom(10) && matches!(phase, "Rebooting" | "Monitoring"));
    let at = draw.before(now, 40);
    let failure = if phase == "Withdrawing" && !draw.seldom(40) {
        Value::Null
    } else {
        json!(draw.of(&["StageFailed", "StageFailed", "Unhealthy", "PermitExpired"]))
    };
    read(json!({
        "node": facts.name,
        "plan": plan,
        "generation": entry.map_or(1, |entry| entry.generation) - i64::from(draw.seldom(15)),
        "run": if draw.seldom(8) { "run-before".to_owned() } else { run_of(&way.plan) },
        "wave": way.wave,
        "attempt": way.attempt,
        "from": "1.20.3",
        "to": if draw.seldom(8) { "1.21.7" } else { &way.target },
        "phase": phase,
        "grantedAt": at - TimeDelta::minutes(draw.below(20).into()),
        "phaseSince": at,
        "notAfter": draw.of(&[None, Some(30), Some(-5)]).map(|minutes| now + TimeDelta::minutes(minutes)),
        "permit": matches!(phase, "Rebooting" | "Monitoring")
            .then(|| json!({"id": "permit", "bootId": if draw.seldom(50) { facts.boot_id.as_str() } else { "before" }, "at": at})),
        "ending": ends.then(|| json!({"message": "it ends", "failure": failure, "at": draw.before(now, 10)})),
    }))
}

/// Puts node and shadow where a grant of this phase leads to.
fn along(draw: &mut Draw<'_>, facts: &mut NodeFacts, grant: &Grant) {
    use NodeState::{ErrorReset, Idle, MonitoringUpdate, RebootedIntoUpdate, StagedAndPerformedUpdate};
    use api::ledger::GrantPhase::{Drained, Granted, Monitoring, Rebooting, Withdrawing};
    let Some(shadow) = &mut facts.shadow else { return };
    shadow.spec.state = match grant.phase {
        Granted => draw.of(&[Idle, StagedAndPerformedUpdate]),
        Drained => draw.of(&[StagedAndPerformedUpdate, RebootedIntoUpdate]),
        Rebooting => RebootedIntoUpdate,
        Monitoring => draw.of(&[RebootedIntoUpdate, MonitoringUpdate, Idle]),
        Withdrawing => draw.of(&[StagedAndPerformedUpdate, ErrorReset, Idle]),
    };
    if shadow.spec.state == Idle && grant.phase == Granted {
        shadow.spec.run = None;
        shadow.spec.failure = None;
    } else {
        (shadow.spec.run, shadow.spec.attempt) = (Some(grant.run.clone()), Some(grant.attempt));
        (shadow.spec.wave, shadow.spec.version) = (Some(grant.wave.clone()), Some(grant.to.clone()));
        shadow.spec.state_transition_timestamp = Some(grant.phase_since);
    }
    if let Some(status) = &mut shadow.status {
        (status.current_state, status.run, status.attempt) =
            (shadow.spec.state, shadow.spec.run.clone(), shadow.spec.attempt);
    }
    let cordoned = matches!(grant.phase, Drained | Rebooting) || draw.seldom(50);
    facts.disruption = cordoned.then(|| Disruption {
        plan_uid: grant.plan.clone(),
        run: grant.run.clone(),
        wave: grant.wave.clone(),
        attempt: grant.attempt,
        cordoned_at: grant.granted_at,
        annotations_before: Default::default(),
    });
    facts.unschedulable = cordoned;
}
