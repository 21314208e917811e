//! Instruction streams over HTTP/2 and TLS.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::time::Duration;

use api::{
    shadow::NodeState,
    wire::{Instruction, Line, PROTOCOL},
};
use hyper::{Method, StatusCode};
use support::{SHADOWS, Server, report};
use tokio::time::timeout;

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
