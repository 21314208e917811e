//! How a node's pods are followed: by one request, or by two where the API server does not take that one.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, extract::Request, http::StatusCode};
use clap::Parser;
use controller::{
    context::Context, events::Publisher, metrics::Metrics, pods::follow, request::Fence, settings::Settings,
};
use futures::StreamExt as _;
use kube::{Client, ResourceExt as _, api::WatchEvent};
use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};

const PODS: &str = "GET /api/v1/pods?";
const STREAMED: &str = "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=";

/// A context whose API gives these answers, in this order, and what it was asked.
fn api(answers: impl IntoIterator<Item = (u16, String)>) -> (Context, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let answers = Arc::new(Mutex::new(answers.into_iter().collect::<VecDeque<_>>()));
    let recorded = asked.clone();
    let router = Router::new().fallback(move |request: Request| {
        let (asked, answers) = (recorded.clone(), answers.clone());
        async move {
            let what = format!("{} {}", request.method(), request.uri());
            asked.lock().unwrap().push(what);
            let (status, body) = answers
                .lock()
                .unwrap()
                .pop_front()
                .expect("one answer for each request");
            (StatusCode::from_u16(status).unwrap(), body)
        }
    });
    let settings = Settings::try_parse_from(["controller"]).unwrap();
    let valid_until = watch::channel(Some(Instant::now() + Duration::from_secs(60))).1;
    let fence = Fence::new(valid_until, settings.request_timeout);
    let client = Client::new(router, "default");
    let context = Context::new(
        settings,
        client,
        fence,
        Arc::new(Metrics::default()),
        Publisher::new().0,
    );
    (context, asked)
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "web", "name": name, "uid": name}})
}

fn events(events: &[(&str, Value)]) -> (u16, String) {
    let lines = events
        .iter()
        .map(|(kind, object)| format!("{}\n", json!({"type": kind, "object": object})));
    (200, lines.collect())
}

fn bookmark(annotations: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"resourceVersion": "9", "annotations": annotations}})
}

fn refusal() -> (u16, String) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 422, "reason": "Invalid",
        "message": "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"});
    (422, status.to_string())
}

fn list(names: &[&str]) -> (u16, String) {
    let items: Vec<Value> = names.iter().map(|name| pod(name)).collect();
    let list =
        json!({"apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "7"}, "items": items});
    (200, list.to_string())
}

#[tokio::test]
async fn one_request_tells_what_is_there_and_what_becomes_of_it() {
    let (context, asked) = api([events(&[
        ("ADDED", pod("a")),
        ("BOOKMARK", bookmark(&json!({}))),
        ("ADDED", pod("b")),
        ("MODIFIED", pod("a")),
        ("DELETED", pod("b")),
        (
            "BOOKMARK",
            bookmark(&json!({"k8s.io/initial-events-end": "true"})),
        ),
        ("ADDED", pod("late")),
    ])]);
    let (found, mut events) = follow(&context, "n").await.unwrap();
    let names: Vec<String> = found.iter().map(|pod| pod.name_any()).collect();
    assert_eq!(names, ["a"]);
    match events.next().await {
        Some(Ok(WatchEvent::Added(pod))) => assert_eq!(pod.name_any(), "late"),
        other => panic!("{other:?}"),
    }
    let asked = asked.lock().unwrap();
    assert_eq!(asked.len(), 1);
    assert!(
        asked[0].starts_with(PODS) && asked[0].ends_with(STREAMED),
        "a version would be answered from the past: {}",
        asked[0]
    );
    assert!(
        asked[0].contains("fieldSelector=spec.nodeName%3Dn"),
        "{}",
        asked[0]
    );
}

#[tokio::test]
async fn an_api_server_that_does_not_take_that_request_is_asked_twice_and_not_for_it_again() {
    let (context, asked) = api([
        refusal(),
        list(&["a", "b"]),
        events(&[("DELETED", pod("b"))]),
        list(&[]),
        events(&[]),
    ]);
    let (found, mut events) = follow(&context, "n").await.unwrap();
    assert_eq!(found.len(), 2);
    assert!(matches!(events.next().await, Some(Ok(WatchEvent::Deleted(_)))));
    assert!(follow(&context, "n").await.unwrap().0.is_empty());
    let asked = asked.lock().unwrap();
    let watches: Vec<bool> = asked.iter().map(|asked| asked.contains("watch=true")).collect();
    assert_eq!(watches, [true, false, true, false, true]);
    assert!(asked[2].ends_with("&resourceVersion=7"), "{}", asked[2]);
    assert!(!asked[4].contains("sendInitialEvents"), "{}", asked[4]);
}

#[tokio::test]
async fn s5_a_node_is_not_empty_because_the_answer_broke_off() {
    let (context, _) = api([events(&[]), events(&[("ADDED", pod("a"))])]);
    for _ in 0..2 {
        assert!(follow(&context, "n").await.is_err());
    }
}
