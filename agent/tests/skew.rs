//! The whole agent against an apiserver of another version, which says what is recorded in `api/tests/recorded/`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod fakes;

use std::time::Duration;

use agent::run;
use fakes::World;
use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

const NEWER: &str = include_str!("../../api/tests/recorded/newer/stream.ndjson");
const NEWER_REFUSALS: &str = include_str!("../../api/tests/recorded/newer/refusals.ndjson");
const NEWER_PERMITTED: &str = include_str!("../../api/tests/recorded/newer/permitted.ndjson");

fn lines(text: &str) -> impl Iterator<Item = Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap())
}

#[tokio::test]
async fn a_newer_apiserver_is_obeyed_as_far_as_it_is_understood_and_told_of_the_rest() {
    let world = World::start().await;
    let _agent = tokio::spawn(run(world.config(), CancellationToken::new()));
    world.until("POST /shadow", 1).await;
    world.until_streams(1).await;
    let told = |line: &Value| line["spec"]["state"].as_str().map(str::to_owned);
    for line in lines(NEWER) {
        let reports = world.got("PUT /status").len();
        let calls = world.calls_of_the_node();
        world.say(&line);
        match told(&line).as_deref() {
            Some("Hibernate") => {
                let report = world.until("PUT /status", reports + 1).await.body;
                assert_eq!((&report["run"], &report["attempt"]), (&json!("r1"), &json!(3)));
                let message = report["error"]["message"].as_str().unwrap();
                assert!(
                    message.contains("does not understand") && message.contains("Hibernate"),
                    "{message}"
                );
                assert_eq!(report["current_state"], "MonitoringUpdate", "it is left undone");
                let since = &world.calls_of_the_node()[calls.len()..];
                assert!(since.iter().all(|call| call.starts_with("GET ")), "{since:?}");
            }
            Some(state) => {
                let report = world.until("PUT /status", reports + 1).await.body;
                assert_eq!(
                    (&report["current_state"], &report["attempt"], &report["error"]),
                    (&json!(state), &line["spec"]["attempt"], &Value::Null)
                );
            }
            // Nothing is asked by it. It is over at the goodbye, and another stream is opened.
            None if line["type"] == "goodbye" => world.until_streams(2).await,
            None => {
                sleep(Duration::from_millis(50)).await;
                assert_eq!(world.got("PUT /status").len(), reports, "{line}");
                assert_eq!(world.calls_of_the_node(), calls, "{line}");
            }
        }
    }
}

#[tokio::test]
async fn a_newer_apiservers_answers_to_a_permit_are_understood() {
    let world = World::start().await;
    world.set_status(json!({
        "update_state": "Ready",
        "staging_partition": {"next_to_boot": true,
            "image": {"arch": "x86_64", "version": "1.21.0", "variant": "aws-k8s-1.33"}},
    }));
    world.set_settings(json!({"version-lock": "1.21.0", "ignore-waves": true}));
    let stored = json!({"current_version": "1.20.3", "target_version": "1.21.0", "crash_count": 0,
        "current_state": "StagedAndPerformedUpdate", "run": "r1", "attempt": 2, "boot_id": "boot-a",
        "saved_settings": {"version_lock": "latest", "ignore_waves": false}});
    world.store(json!({"type": "instruction", "status": stored, "spec": {
        "state": "RebootedIntoUpdate", "version": "1.21.0", "run": "r1", "attempt": 2}}));
    let mut asked = 0;
    let mut refusals = lines(NEWER_REFUSALS);
    let mut refuse = |world: &World| {
        let refusal = refusals.next();
        let is_refused = refusal.is_some();
        match refusal {
            Some(refusal) => world.answer("POST /permit", 409, refusal),
            None => world.answer("POST /permit", 200, lines(NEWER_PERMITTED).next().unwrap()),
        }
        is_refused
    };
    refuse(&world);
    let mut config = world.config();
    config.timings.permit_retry = Duration::from_millis(20);
    let _agent = tokio::spawn(run(config, CancellationToken::new()));
    loop {
        asked += 1;
        let request = world.until("POST /permit", asked).await.body;
        assert_eq!(request, json!({"run": "r1", "attempt": 2, "boot_id": "boot-a"}));
        let rebooted = || {
            world
                .calls_of_the_node()
                .iter()
                .any(|call| call == "POST /actions/reboot")
        };
        if !refuse(&world) {
            for _ in 0..1000 {
                if rebooted() {
                    return;
                }
                sleep(Duration::from_millis(5)).await;
            }
            panic!("it does not reboot: {:?}", world.calls_of_the_node());
        }
        assert!(!rebooted(), "it was not permitted to");
    }
}
