//! What agents may do over HTTPS. Who is refused, and how much anyone gets, is tested on the real Kubernetes API: see
//! `testbed/tests/e2e/identity.rs` and `limits.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use support::{NODES, SHADOWS, Server, kubernetes::Fault, report};

const SHADOW: &str = "/v1/nodes/n1/shadow";
const STATUS: &str = "/v1/nodes/n1/status";

#[tokio::test]
async fn a_shadow_is_created_and_reported_to_and_written_only_when_something_changed() {
    let server = Server::start(&[]).await;
    let (status, refusal) = server.call(Method::PUT, STATUS, &report("1.20.3")).await;
    assert_eq!(
        (
            status,
            refusal["message"].as_str().unwrap().contains("does not exist")
        ),
        (StatusCode::NOT_FOUND, true)
    );

    assert_eq!(
        server.call(Method::POST, SHADOW, &report("1.20.3")).await,
        (StatusCode::NO_CONTENT, Value::Null)
    );
    let shadow = server.kubernetes.get(SHADOWS, "brs-n1").unwrap();
    assert_eq!(shadow["spec"], json!({"state": "Idle"}));
    assert_eq!(
        shadow["metadata"]["ownerReferences"],
        json!([{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u1"}])
    );
    assert_eq!(shadow["status"]["current_version"], "1.20.3");
    assert_eq!(
        shadow["status"]["staged_version"],
        Value::Null,
        "absent fields are written as null"
    );
    assert!(
        shadow["status"]
            .as_object()
            .unwrap()
            .contains_key("staged_version")
    );

    let writes = server.kubernetes.calls("PATCH");
    for method in [(Method::POST, SHADOW), (Method::PUT, STATUS)] {
        assert_eq!(
            server.call(method.0, method.1, &report("1.20.3")).await.0,
            StatusCode::NO_CONTENT
        );
    }
    assert_eq!(server.kubernetes.calls("PATCH"), writes, "nothing changed");
    assert_eq!(
        server.call(Method::PUT, STATUS, &report("1.21.0")).await.0,
        StatusCode::NO_CONTENT
    );
    assert_eq!(server.kubernetes.calls("PATCH"), writes + 1);
    let created = server.kubernetes.get(SHADOWS, "brs-n1").unwrap();
    assert_eq!(created["status"]["current_version"], "1.21.0");
    assert_eq!(created["metadata"]["uid"], shadow["metadata"]["uid"]);
    assert_eq!(
        server.kubernetes.calls("POST /apis/authentication"),
        1,
        "the review is remembered"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_report_needs_no_read_and_what_the_watch_shows_is_believed_only_where_the_write_proves_it() {
    let server = Server::start(&[]).await;
    server.call(Method::POST, SHADOW, &report("1.20.3")).await;
    let mut lines = server.open_stream().await;
    while !matches!(lines.next().await, Some(api::wire::Line::Instruction(_))) {}
    // The watch has shown it by now, or the answers to what follows have.
    server.call(Method::PUT, STATUS, &report("1.20.4")).await;
    let reads = format!("GET {SHADOWS}/brs-n1");
    let before = server.kubernetes.calls(&reads);
    for version in ["1.20.5", "1.20.6", "1.20.7"] {
        let (status, refusal) = server.call(Method::PUT, STATUS, &report(version)).await;
        assert_eq!(status, StatusCode::NO_CONTENT, "{refusal}");
    }
    assert_eq!(server.kubernetes.calls(&reads), before);

    // Another replica has stored a report, and this one's watch lags.
    let stored = |version: &str| {
        server.kubernetes.edit(SHADOWS, "brs-n1", |shadow| {
            shadow["status"]["current_version"] = version.into();
        });
    };
    let version = || {
        let shadow = server.kubernetes.get(SHADOWS, "brs-n1").unwrap();
        shadow["status"]["current_version"].clone()
    };
    server.kubernetes.objects().watches_lag = true;
    stored("1.21.0");
    let (status, _) = server.call(Method::PUT, STATUS, &report("1.20.7")).await;
    assert_eq!(
        (status, version()),
        (StatusCode::NO_CONTENT, json!("1.20.7")),
        "it is not what is stored, though the watch says so"
    );
    stored("1.21.0");
    let (status, refusal) = server.call(Method::PUT, STATUS, &report("1.21.1")).await;
    assert_eq!(
        (status, version()),
        (StatusCode::CONFLICT, json!("1.21.0")),
        "{refusal}"
    );
    let (status, _) = server.call(Method::PUT, STATUS, &report("1.21.1")).await;
    assert_eq!((status, version()), (StatusCode::NO_CONTENT, json!("1.21.1")));
    server.stop().await;
}

#[tokio::test]
async fn s3_a_replaced_node_of_the_same_name_inherits_nothing() {
    let server = Server::start(&[]).await;
    let inherited = server.kubernetes.put(SHADOWS, "brs-n1", json!({
        "apiVersion": "brupop.bottlerocket.aws/v2", "kind": "BottlerocketShadow",
        "metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u0"}]},
        "spec": {"state": "RebootedIntoUpdate", "version": "1.21.0", "run": "r1", "attempt": 3},
    }));
    let (status, refusal) = server.call(Method::PUT, STATUS, &report("1.20.3")).await;
    assert_eq!(status, StatusCode::CONFLICT, "{refusal}");
    assert_eq!(
        server.call(Method::POST, SHADOW, &report("1.20.3")).await.0,
        StatusCode::NO_CONTENT
    );
    let shadow = server.kubernetes.get(SHADOWS, "brs-n1").unwrap();
    assert_ne!(shadow["metadata"]["uid"], inherited["metadata"]["uid"]);
    assert_eq!(shadow["spec"], json!({"state": "Idle"}));

    server.kubernetes.delete(NODES, "n1");
    server
        .kubernetes
        .put(NODES, "n1", json!({"metadata": {"uid": "u2"}, "spec": {}}));
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let (status, refusal) = server.call(Method::PUT, STATUS, &report("1.20.3")).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{refusal}");
    server.stop().await;
}

#[tokio::test]
async fn a_change_of_the_spec_in_between_is_no_obstacle_and_an_outage_is_said() {
    let server = Server::start(&[]).await;
    server.call(Method::POST, SHADOW, &report("1.20.3")).await;
    server
        .kubernetes
        .objects()
        .faults
        .extend([("/status", Fault::Conflict), ("/status", Fault::Conflict)]);
    assert_eq!(
        server.call(Method::PUT, STATUS, &report("1.21.0")).await.0,
        StatusCode::NO_CONTENT
    );
    server
        .kubernetes
        .objects()
        .faults
        .push_back(("/status", Fault::Down));
    let (status, refusal) = server.call(Method::PUT, STATUS, &report("1.22.0")).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{refusal}");

    server
        .kubernetes
        .objects()
        .faults
        .push_back(("/tokenreviews", Fault::Down));
    let (status, refusal) = server
        .call_as("unknown", Method::PUT, STATUS, &report("1.22.0"))
        .await;
    assert_eq!(
        status,
        StatusCode::SERVICE_UNAVAILABLE,
        "an outage says nothing about a token: {refusal}"
    );
    server.stop().await;
}
