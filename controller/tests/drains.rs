//! Drains, against an API in which an eviction takes its time.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::Method,
    response::{IntoResponse, Response},
};
use chrono::DateTime;
use clap::Parser;
use controller::{
    context::Context, drain::Drains, events::Publisher, metrics::Metrics, request::Fence, settings::Settings,
};
use futures::StreamExt;
use kube::Client;
use planner::decisions::DrainOrder;
use serde_json::json;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};

const SOON: Duration = Duration::from_secs(5);

/// What becomes of an eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Eviction {
    Unasked,
    Asked,
    Answered,
    CutOff,
}

struct Api {
    eviction: watch::Sender<Eviction>,
    answer: Notify,
}

/// Tells when a request is given up before its answer.
struct UnderWay<'a>(&'a watch::Sender<Eviction>);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.send_if_modified(|eviction| {
            let cut_off = *eviction == Eviction::Asked;
            if cut_off {
                *eviction = Eviction::CutOff;
            }
            cut_off
        });
    }
}

impl Api {
    async fn answer(&self, request: Request) -> Response {
        if request.method() == Method::POST {
            self.eviction.send_replace(Eviction::Asked);
            let _under_way = UnderWay(&self.eviction);
            self.answer.notified().await;
            self.eviction.send_replace(Eviction::Answered);
            return json!({"kind": "Status", "status": "Success"})
                .to_string()
                .into_response();
        }
        let asks = |what: &str| request.uri().query().is_some_and(|query| query.contains(what));
        if asks("sendInitialEvents=true") {
            let pod = json!({"kind": "Pod", "apiVersion": "v1",
                "metadata": {"name": "web-1", "namespace": "default", "uid": "u", "resourceVersion": "1"},
                "spec": {"nodeName": "n", "containers": []}});
            let end = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {
                "resourceVersion": "1", "annotations": {"k8s.io/initial-events-end": "true"}}});
            let lines = [("ADDED", pod), ("BOOKMARK", end)]
                .map(|(kind, object)| format!("{}\n", json!({"type": kind, "object": object})));
            let listed = futures::stream::iter(lines.map(|line| Ok(line.into_bytes())));
            let events = listed.chain(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
            return Body::from_stream(events).into_response();
        }
        if asks("watch=true") {
            return Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>())
                .into_response();
        }
        let pod = json!({"metadata": {"name": "web-1", "namespace": "default", "uid": "u"},
            "spec": {"nodeName": "n", "containers": []}});
        json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": [pod]})
            .to_string()
            .into_response()
    }

    async fn becomes(&self, wanted: Eviction) -> bool {
        let mut eviction = self.eviction.subscribe();
        let became = eviction.wait_for(|eviction| *eviction == wanted);
        timeout(SOON, became).await.is_ok()
    }
}

fn context(api: &Arc<Api>) -> Arc<Context> {
    let api = api.clone();
    let router = Router::new().fallback(move |request: Request| {
        let api = api.clone();
        async move { api.answer(request).await }
    });
    let (_, lease) = watch::channel(Some(Instant::now() + Duration::from_secs(60)));
    let settings = Settings::try_parse_from(["controller"]).unwrap();
    let fence = Fence::new(lease, settings.request_timeout);
    let client = Client::new(router, "default");
    Arc::new(Context::new(
        settings,
        client,
        fence,
        Arc::new(Metrics::default()),
        Publisher::new().0,
    ))
}

#[tokio::test]
async fn an_eviction_that_is_sent_is_not_cut_off_by_the_end_of_its_drain() {
    let api = Arc::new(Api {
        eviction: watch::Sender::new(Eviction::Unasked),
        answer: Notify::new(),
    });
    let context = context(&api);
    let mut drains = Drains::new(context.clone());
    drains.follow(vec![DrainOrder {
        node: "n".into(),
        uid: "n".into(),
        cordoned_at: DateTime::UNIX_EPOCH,
    }]);
    assert!(api.becomes(Eviction::Asked).await);
    drop(drains);
    context.evicting.close();
    assert!(
        timeout(Duration::from_millis(100), context.evicting.wait())
            .await
            .is_err(),
        "whoever ends in good order waits for it"
    );
    assert_eq!(*api.eviction.borrow(), Eviction::Asked);
    api.answer.notify_one();
    timeout(SOON, context.evicting.wait()).await.unwrap();
    assert_eq!(*api.eviction.borrow(), Eviction::Answered);
}
