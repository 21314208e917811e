//! Instruction streams over HTTP/2 and TLS, and connections at their limits.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::time::Duration;

use api::{
    shadow::NodeState,
    wire::{Instruction, Line, PROTOCOL},
};
use hyper::{Method, StatusCode};
use support::{AGENTS, SHADOWS, Server, report};
use tokio::{io::AsyncReadExt as _, net::TcpStream, time::timeout};

fn instruction(line: Option<Line>) -> Instruction {
    match line {
        Some(Line::Instruction(instruction)) => *instruction,
        other => panic!("no instruction: {other:?}"),
    }
}

#[tokio::test]
async fn a_stream_follows_the_shadow_and_ends_with_the_server() {
    let server = Server::start(&["--heartbeat=200ms"]).await;
    let mut lines = server.open_stream().await;
    assert_eq!(lines.next().await, Some(Line::Hello { protocol: PROTOCOL }));
    assert_eq!(
        lines.next().await,
        Some(Line::Heartbeat),
        "no shadow, no instruction"
    );
    assert_eq!(
        server
            .call(Method::POST, "/v1/nodes/n1/shadow", &report("1.20.3"))
            .await
            .0,
        StatusCode::NO_CONTENT
    );
    let mut next = lines.next().await;
    while next == Some(Line::Heartbeat) {
        next = lines.next().await;
    }
    assert_eq!(instruction(next).spec.state, NodeState::Idle);

    server.kubernetes.edit(SHADOWS, "brs-n1", |shadow| {
        shadow["spec"]["state"] = "StagedAndPerformedUpdate".into();
        shadow["spec"]["run"] = "r1".into();
    });
    let mut next = lines.next().await;
    while next == Some(Line::Heartbeat) {
        next = lines.next().await;
    }
    let next = instruction(next);
    assert_eq!(next.spec.state, NodeState::StagedAndPerformedUpdate);
    assert_eq!(next.spec.run.as_deref(), Some("r1"));

    let mut again = server.open_stream().await;
    assert_eq!(again.next().await, Some(Line::Hello { protocol: PROTOCOL }));
    assert_eq!(
        instruction(again.next().await).status.unwrap().current_version,
        "1.20.3"
    );
    assert!(
        server
            .get_health("/metrics")
            .await
            .1
            .contains("brupop_apiserver_streams 2")
    );

    server.shutdown.cancel();
    while let Some(line) = lines.next().await {
        assert!(matches!(line, Line::Heartbeat | Line::Goodbye), "{line:?}");
    }
    timeout(Duration::from_secs(5), server.stop()).await.unwrap();
}

#[tokio::test]
async fn a_stream_ends_when_its_pod_is_replaced() {
    let server = Server::start(&[]).await;
    let mut lines = server.open_stream().await;
    assert_eq!(lines.next().await, Some(Line::Hello { protocol: PROTOCOL }));
    server
        .kubernetes
        .edit(AGENTS, "agent-n1", |pod| pod["metadata"]["uid"] = "p2".into());
    assert_eq!(lines.next().await, Some(Line::Goodbye));
    assert_eq!(lines.next().await, None);
    server.stop().await;
}

#[tokio::test]
async fn silent_and_idle_connections_are_closed() {
    let server = Server::start(&[
        "--tls-handshake-timeout=200ms",
        "--idle-timeout=200ms",
        "--shutdown-timeout=1s",
    ])
    .await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let read = timeout(Duration::from_secs(5), silent.read(&mut [0; 16]))
        .await
        .unwrap();
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    let mut lines = server.open_stream().await;
    assert_eq!(lines.next().await, Some(Line::Hello { protocol: PROTOCOL }));
    tokio::time::sleep(Duration::from_millis(600)).await;
    server.kubernetes.delete(AGENTS, "agent-n1");
    assert_eq!(lines.next().await, Some(Line::Goodbye), "a stream is not idle");
    server.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_until_another_ends() {
    let server = Server::start(&["--max-connections=1", "--tls-handshake-timeout=400ms"]).await;
    let silent = TcpStream::connect(server.address).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let begun = std::time::Instant::now();
    let mut lines = server.open_stream().await;
    assert_eq!(lines.next().await, Some(Line::Hello { protocol: PROTOCOL }));
    assert!(
        begun.elapsed() >= Duration::from_millis(200),
        "{:?}",
        begun.elapsed()
    );
    drop(silent);
    server.stop().await;
}
