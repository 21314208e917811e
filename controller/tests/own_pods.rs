//! The operator's own pods on two nodes that are drained at once, against a server that knows these pods.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use api::names::{COMPONENT_APISERVER, COMPONENT_LABEL, DEFAULT_NAMESPACE, NAME_LABEL, OPERATOR_NAME};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::Request,
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use clap::Parser;
use controller::{
    context::Context, drain::Drains, events::Publisher, metrics::Metrics, request::Fence, settings::Settings,
    view::Viewed,
};
use futures::stream;
use k8s_openapi::api::core::v1::Node;
use kube::{Client, runtime::watcher::Event};
use planner::{decisions::DrainOrder, world::DrainFacts};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

/// How long an eviction takes until others can see that the pod ends.
const EVICTION: Duration = Duration::from_millis(50);

/// A server with an apiserver pod of the operator on each of nodes n1 and n2.
#[derive(Clone, Default)]
struct Server {
    evicted: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn pod(&self, node: &str) -> Value {
        let name = format!("apiserver-{node}");
        let ends = self.evicted.lock().unwrap().contains(&name);
        json!({
            "metadata": {"namespace": DEFAULT_NAMESPACE, "name": name, "uid": name,
                "deletionTimestamp": ends.then_some("2026-11-22T08:01:00Z"),
                "labels": {NAME_LABEL: OPERATOR_NAME, COMPONENT_LABEL: COMPONENT_APISERVER}},
            "spec": {"nodeName": node, "containers": []},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}})
    }

    async fn answer(self, request: Request) -> Response {
        let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
        if request.method() == Method::POST {
            let name = path.rsplit('/').nth(1).unwrap().to_owned();
            sleep(EVICTION).await;
            self.evicted.lock().unwrap().push(name);
            return (
                StatusCode::CREATED,
                json!({"kind": "Status", "status": "Success"}).to_string(),
            )
                .into_response();
        }
        if query.contains("sendInitialEvents") {
            let refusal = json!({"kind": "Status", "status": "Failure", "code": 422, "reason": "Invalid"});
            return (StatusCode::UNPROCESSABLE_ENTITY, refusal.to_string()).into_response();
        }
        if query.contains("watch=") {
            return Body::from_stream(stream::pending::<Result<Bytes, Infallible>>()).into_response();
        }
        let nodes = ["n1", "n2"].into_iter();
        // By node, or all of them by their labels.
        let wanted =
            nodes.filter(|node| query.contains("labelSelector=") || query.contains(&format!("%3D{node}")));
        let items: Vec<Value> = wanted.map(|node| self.pod(node)).collect();
        let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "5"}, "items": items});
        list.to_string().into_response()
    }

    fn context(&self) -> Context {
        let server = self.clone();
        let router = Router::new().fallback(move |request: Request| server.clone().answer(request));
        let settings = Settings::try_parse_from(["controller"]).unwrap();
        let valid_until = watch::channel(Some(Instant::now() + Duration::from_secs(60))).1;
        let fence = Fence::new(valid_until, settings.request_timeout);
        Context::new(
            settings,
            Client::new(router, "default"),
            fence,
            Arc::new(Metrics::default()),
            Publisher::new().0,
        )
    }
}

fn watched<K: Viewed>(context: &Context) {
    context.view.watched::<K>(Event::Init);
    context.view.watched::<K>(Event::InitDone);
}

fn order(node: &str) -> DrainOrder {
    DrainOrder {
        node: node.to_owned(),
        uid: format!("uid-{node}"),
        cordoned_at: DateTime::<Utc>::UNIX_EPOCH,
    }
}

/// Waits until it is decided what becomes of the operator's pods on both nodes.
async fn decided(context: &Context) -> Vec<DrainFacts> {
    loop {
        let drains = context.view.snapshot().unwrap().drains;
        // One of the two stays, and so nothing is left of its node.
        if drains.len() == 2 && drains.values().any(|drained| drained.facts.left == 0) {
            return drains.into_values().map(|drained| drained.facts).collect();
        }
        context.view.changed().await;
    }
}

fn node(name: &str, cordoned: bool, ready: &str) -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": name, "uid": format!("uid-{name}")}, "spec": {"unschedulable": cordoned},
        "status": {"conditions": [{"type": "Ready", "status": ready}]}}))
    .unwrap()
}

#[tokio::test]
async fn a_replica_on_a_node_that_is_cordoned_or_not_ready_stands_in_for_nobody() {
    for (cordoned, ready, evicted) in [(false, "True", 1), (true, "True", 0), (false, "Unknown", 0)] {
        let server = Server::default();
        let context = Arc::new(server.context());
        watched::<api::UpdatePlan>(&context);
        watched::<api::BottlerocketShadow>(&context);
        watched::<api::UpdateLedger>(&context);
        watched::<k8s_openapi::api::core::v1::Pod>(&context);
        context.view.watched::<Node>(Event::Init);
        for node in [node("n1", true, "True"), node("n2", cordoned, ready)] {
            context.view.watched(Event::InitApply(node));
        }
        context.view.watched::<Node>(Event::InitDone);
        let mut drains = Drains::new(context.clone());
        drains.follow(vec![order("n1")]);
        let decided = async {
            loop {
                let drains = context.view.snapshot().unwrap().drains;
                let stays = drains.values().any(|drained| drained.facts.left == 0);
                if stays || !server.evicted.lock().unwrap().is_empty() {
                    return;
                }
                // The server does not say when it is asked.
                sleep(EVICTION / 5).await;
            }
        };
        timeout(Duration::from_secs(30), decided).await.unwrap();
        assert_eq!(
            server.evicted.lock().unwrap().len(),
            evicted,
            "{cordoned} {ready}"
        );
    }
}

#[tokio::test]
async fn two_nodes_that_are_drained_at_once_do_not_take_the_last_replica() {
    let server = Server::default();
    let context = Arc::new(server.context());
    watched::<api::UpdatePlan>(&context);
    watched::<api::BottlerocketShadow>(&context);
    watched::<api::UpdateLedger>(&context);
    watched::<Node>(&context);
    watched::<k8s_openapi::api::core::v1::Pod>(&context);
    let mut drains = Drains::new(context.clone());
    drains.follow(vec![order("n1"), order("n2")]);
    let found = timeout(Duration::from_secs(30), decided(&context)).await.unwrap();
    assert_eq!(server.evicted.lock().unwrap().len(), 1);
    let left: u32 = found.iter().map(|facts| facts.left).sum();
    assert_eq!(left, 1, "one ends, the other stays: {found:?}");
}
