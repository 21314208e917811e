//! The whole agent against servers with fixed answers: what it asks, when, and when it is silent.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod fakes;

use std::time::Duration;

use agent::{AgentError, run};
use fakes::World;
use serde_json::{Value, json};
use tokio::{task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

fn start(world: &World) -> (JoinHandle<Result<(), AgentError>>, CancellationToken) {
    let shutdown = CancellationToken::new();
    (tokio::spawn(run(world.config(), shutdown.clone())), shutdown)
}

fn instruction(spec: &Value, status: &Value) -> Value {
    json!({"type": "instruction", "spec": spec, "status": status})
}

#[tokio::test]
async fn l7_an_idle_agent_is_silent() {
    let world = World::start().await;
    let (agent, shutdown) = start(&world);
    let introduced = world.until("POST /shadow", 1).await.body;
    assert_eq!(introduced["current_state"], "Idle");
    assert_eq!(introduced["current_version"], "1.20.3");
    assert_eq!(introduced["boot_id"], "boot-a");
    world.until_streams(1).await;
    world.say(&instruction(&json!({"state": "Idle"}), &introduced));
    sleep(Duration::from_millis(100)).await;
    let requests = world.requests();
    for _ in 0..3 {
        world.say(&json!({"type": "heartbeat"}));
        world.say(&instruction(&json!({"state": "Idle"}), &introduced));
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(world.requests(), requests, "nothing is asked, of nobody");
    assert!(world.got("PUT /status").is_empty());
    shutdown.cancel();
    agent.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_stored_is_the_start_and_is_only_put_right() {
    let world = World::start().await;
    let stored = json!({
        "current_version": "1.19.5", "target_version": "1.20.3", "current_state": "MonitoringUpdate",
        "crash_count": 2, "run": "r1", "attempt": 1, "boot_id": "boot-0",
        "saved_settings": {"version_lock": "latest", "ignore_waves": false},
    });
    world.store(instruction(
        &json!({"state": "MonitoringUpdate", "run": "r1", "attempt": 1}),
        &stored,
    ));
    let (_agent, _) = start(&world);
    let report = world.until("PUT /status", 1).await.body;
    assert_eq!(
        (&report["current_version"], &report["boot_id"]),
        (&json!("1.20.3"), &json!("boot-a"))
    );
    assert_eq!(
        (&report["saved_settings"], &report["crash_count"]),
        (&stored["saved_settings"], &json!(2))
    );
    sleep(Duration::from_millis(200)).await;
    assert!(world.got("POST /shadow").is_empty(), "it exists");
    assert_eq!(world.got("PUT /status").len(), 1);
}

#[tokio::test]
async fn an_instruction_is_echoed_and_reports_are_tried_until_they_are_taken() {
    let world = World::start().await;
    let (_agent, _) = start(&world);
    let stored = world.until("POST /shadow", 1).await.body;
    world.until_streams(1).await;
    world.answer("PUT /status", 503, json!({"message": "later"}));
    world.say(&instruction(
        &json!({"state": "MonitoringUpdate", "run": "r1", "attempt": 2}),
        &stored,
    ));
    world.until("PUT /status", 3).await;
    world.answer_well("PUT /status");
    sleep(Duration::from_millis(200)).await;
    let reports = world.got("PUT /status");
    let last = &reports.last().unwrap().body;
    assert_eq!(
        (&last["current_state"], &last["run"], &last["attempt"]),
        (&json!("MonitoringUpdate"), &json!("r1"), &json!(2))
    );
    sleep(Duration::from_millis(100)).await;
    assert_eq!(
        world.got("PUT /status").len(),
        reports.len(),
        "once it is taken that is all"
    );
}

#[tokio::test]
async fn what_is_not_understood_is_left_undone_and_reported_once() {
    let world = World::start().await;
    let (_agent, _) = start(&world);
    let stored = world.until("POST /shadow", 1).await.body;
    world.until_streams(1).await;
    for _ in 0..2 {
        world.say(&instruction(
            &json!({"state": "Hibernate", "run": "r1", "attempt": 2}),
            &stored,
        ));
        sleep(Duration::from_millis(100)).await;
    }
    let reports = world.got("PUT /status");
    assert_eq!(reports.len(), 1);
    let report = &reports[0].body;
    assert_eq!((&report["run"], &report["attempt"]), (&json!("r1"), &json!(2)));
    assert!(report["error"]["message"].as_str().unwrap().contains("Hibernate"));
    world.say(&instruction(&json!({"state": "Idle"}), report));
    let report = world.until("PUT /status", 2).await.body;
    assert_eq!(report["error"], Value::Null, "what is understood again clears it");
}

#[tokio::test]
async fn streams_are_opened_again_and_the_token_is_read_each_time() {
    let world = World::start().await;
    let (_agent, _) = start(&world);
    world.until_streams(1).await;
    std::fs::write(world.file("token"), "token-2").unwrap();
    world.hang_up();
    world.until_streams(2).await;
    world.say(&json!({"type": "goodbye"}));
    world.until_streams(3).await;
    let tokens: Vec<String> = world
        .got("GET /instructions")
        .into_iter()
        .map(|got| got.token)
        .collect();
    assert_eq!(tokens, ["Bearer token-1", "Bearer token-2", "Bearer token-2"]);
    world.answer("GET /instructions", 401, json!({"message": "expired"}));
    world.hang_up();
    world.until("GET /instructions", 5).await;
    world.answer_well("GET /instructions");
    world.until_open().await;
}

#[tokio::test]
async fn a_deleted_shadow_is_created_again() {
    let world = World::start().await;
    let (_agent, _) = start(&world);
    world.until_streams(1).await;
    world.answer("GET /instructions", 404, json!({"message": "no shadow"}));
    world.hang_up();
    world.until("POST /shadow", 2).await;
    world.answer_well("GET /instructions");
    world.until_open().await;
    world.until("POST /shadow", 3).await;
}

#[tokio::test]
async fn the_certificates_are_read_at_each_connect_and_checked() {
    let mut world = World::start().await;
    let (_agent, _) = start(&world);
    world.until_streams(1).await;
    world.renew_authority().await;
    world.until_streams(2).await;

    // A server that somebody else vouches for is told nothing.
    let other = World::start().await;
    let mut config = world.config();
    config.server_ca_file = other.file("ca.pem");
    let before = world.got("GET /instructions").len();
    let stranger = tokio::spawn(run(config, CancellationToken::new()));
    sleep(Duration::from_millis(300)).await;
    assert_eq!(world.got("GET /instructions").len(), before);
    stranger.abort();
}

#[tokio::test(start_paused = true)]
async fn an_agent_whose_socket_refuses_for_a_minute_ends() {
    let world = World::start().await;
    let mut config = world.config();
    config.api_socket = world.file("stale.sock");
    drop(tokio::net::UnixListener::bind(&config.api_socket).unwrap());
    let begun = tokio::time::Instant::now();
    let error = run(config, CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, AgentError::SocketRefused { .. }), "{error}");
    let after = begun.elapsed();
    assert!(
        after >= Duration::from_secs(60) && after < Duration::from_secs(90),
        "{after:?}"
    );
}

#[tokio::test]
async fn an_address_that_is_none_is_named() {
    let world = World::start().await;
    for url in ["http://server:80", "https://server/path", "server", ""] {
        let mut config = world.config();
        config.server_url = url.to_owned();
        let error = run(config, CancellationToken::new())
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(&format!("{url:?}")), "{error}");
    }
}

#[test]
fn an_agent_can_be_spawned() {
    fn is_send(_: &impl Send) {}
    let config = <agent::Config as clap::Parser>::parse_from([
        "agent",
        "--node-name=n",
        "--server-url=https://s",
        "--server-ca-file=/c",
        "--token-file=/t",
    ]);
    is_send(&run(config, CancellationToken::new()));
}
