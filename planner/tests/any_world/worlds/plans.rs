//! Plans, what people ask of them, and what the ledger knows of them.

use api::{
    ledger::{Actions, PlanEntry},
    names::{APPROVE_ANNOTATION, RETRY_ANNOTATION, RUN_NOW_ANNOTATION},
    offer::Target,
    plan::{Approval, LATEST, UpdatePlanSpec},
    quantity::Span,
};
use chrono::{DateTime, TimeDelta, Utc};
use planner::world::PlanFacts;
use serde_json::{Value, json};

use super::{Draw, KINDS, read, run_of, wave_names};

pub fn spec(draw: &mut Draw<'_>, now: DateTime<Utc>) -> UpdatePlanSpec {
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
    spec["exclusions"] = windows(draw, now, "x", &[0, 0, 0, 1, 2]);
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

/// What only some plans have: the newest version, the way down, waves that people let go on, nodes that are not waited for.
pub fn further(draw: &mut Draw<'_>, spec: &mut UpdatePlanSpec) {
    let latest = draw.seldom(20) && spec.target_version != "bad";
    if latest {
        LATEST.clone_into(&mut spec.target_version);
    }
    spec.min_release_age = draw
        .of(&[None, None, Some(60), Some(300)])
        .filter(|_| latest)
        .map(Span::minutes);
    spec.allow_downgrade = draw.seldom(20) && !latest;
    spec.skip_after = Span::minutes(draw.of(&[60, 60, 0, 10]));
    let gated = draw.seldom(35);
    for wave in &mut spec.waves {
        if draw.seldom(60) && gated {
            wave.approval = Approval::Manual;
            wave.soak = draw.of(&[wave.soak, Span::minutes(0)]);
        }
    }
}

pub fn plan(draw: &mut Draw<'_>, now: DateTime<Utc>, facts: &mut PlanFacts) {
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

/// What the status tells of what people have asked of a run that the ledger may know nothing of any more.
pub fn told(draw: &mut Draw<'_>, now: DateTime<Utc>, facts: &mut PlanFacts) {
    let Some(run) = &mut facts.status.run else { return };
    if draw.seldom(50) && run.target == LATEST {
        run.completed_at = Some(now - TimeDelta::hours(1));
    }
    if draw.seldom(15) {
        run.retried_at = Some(draw.before(now, 30));
    }
    if draw.seldom(10) {
        run.run_now_at = Some(draw.before(now, 120));
    }
    if draw.seldom(25) {
        let waves = wave_names(&facts.spec).into_iter().map(|name| {
            json!({"name": name, "phase": "Done", "nodes": 1, "updated": 1, "updating": 0, "skipped": 0, "failed": 0,
                "approvedAt": now - TimeDelta::hours(1), "startedAt": now - TimeDelta::hours(2)})
        });
        facts.status.waves = read(waves.collect());
    }
}

/// What people ask of a run: of this one, of the one before, and what cannot be read.
pub fn people(draw: &mut Draw<'_>, facts: &mut PlanFacts) {
    let run = draw
        .of(&[run_of(&facts.name).as_str(), "", "", "run-before"])
        .to_owned();
    let run = if run.is_empty() { run_of(&facts.name) } else { run };
    let mut approved = Vec::new();
    let approves = draw.seldom(50);
    for wave in wave_names(&facts.spec) {
        if draw.seldom(70) && approves {
            approved.push(format!("{run}/{wave}"));
        }
    }
    if draw.seldom(5) {
        approved.push("canary".to_owned());
    }
    let mut say = |annotation: &str, value: String| facts.annotations.insert(annotation.to_owned(), value);
    if !approved.is_empty() {
        say(APPROVE_ANNOTATION, approved.join(", "));
    }
    if draw.seldom(15) {
        say(
            RETRY_ANNOTATION,
            format!("{run}/{}", draw.of(&["again", "", "once-more"])),
        );
    }
    if draw.seldom(15) {
        say(RUN_NOW_ANNOTATION, run);
    }
}

/// What people have asked before; of what the annotations say only what is recorded as done.
fn actions(draw: &mut Draw<'_>, now: DateTime<Utc>, facts: &PlanFacts) -> Actions {
    let mut actions = Actions::default();
    for wave in wave_names(&facts.spec) {
        if draw.seldom(50) {
            actions.approved.insert(wave, draw.before(now, 300));
        }
    }
    if draw.seldom(15) {
        actions.retried_at = Some(draw.before(now, 30));
    }
    if draw.seldom(12) {
        actions.run_now = Some(draw.before(now, 300));
    }
    let words = [
        ("approve", APPROVE_ANNOTATION),
        ("retry", RETRY_ANNOTATION),
        ("run-now", RUN_NOW_ANNOTATION),
    ];
    for (word, annotation) in words {
        let values = facts.annotations.get(annotation).map_or("", String::as_str);
        if draw.seldom(30) {
            let values = values.split(", ").filter(|value| !value.is_empty());
            actions
                .taken
                .extend(values.map(|value| format!("{word} {value}")));
        }
    }
    actions
}

/// What the ledger remembers of such plans besides.
pub fn remembered(draw: &mut Draw<'_>, now: DateTime<Utc>, facts: &PlanFacts, entry: &mut PlanEntry) {
    entry.actions = actions(draw, now, facts);
    if draw.seldom(30) {
        entry.held_since = Some(draw.before(now, 600));
        entry.held_out = draw.seldom(20);
    }
    if draw.seldom(30) {
        entry.soaks_from = Some(draw.before(now, 30));
    }
    if draw.seldom(30) {
        let waves = facts.spec.waves.iter().map(|wave| wave.name.as_str());
        let names: Vec<&str> = waves.chain(["gone"]).collect();
        entry.owes_proof = Some(draw.of(&names).to_owned());
    }
    for name in wave_names(&facts.spec) {
        if draw.seldom(30) {
            entry.wave_started_at.insert(name, draw.before(now, 600));
        }
    }
    for (variant, arch) in KINDS {
        let version = draw.of(&["1.22.0", "1.21.0", ""]);
        if entry.target == LATEST && !version.is_empty() {
            entry.targets.push(Target {
                variant: variant.to_owned(),
                arch: arch.to_owned(),
                version: version.to_owned(),
            });
        }
    }
    entry.targets.sort();
}

pub fn entry(draw: &mut Draw<'_>, now: DateTime<Utc>, facts: &PlanFacts) -> Option<PlanEntry> {
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
