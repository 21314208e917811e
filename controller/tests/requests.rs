//! What is sent to the API, and what its answers do: against a server that answers what each test tells it to.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use api::{UpdateLedger, ledger::UpdateLedgerSpec};
use axum::{
    Router,
    body::{Bytes, to_bytes},
    extract::Request,
    http::StatusCode,
    response::IntoResponse,
};
use clap::Parser;
use controller::{
    afresh,
    apply::Writer,
    context::Context,
    events::Publisher,
    evict::{Evicted, evict},
    health::Health,
    leader::Elector,
    ledger::{Swap, swap},
    metrics::Metrics,
    patch::{Key, Write},
    request::{Fence, RequestError},
    settings::Settings,
};
use k8s_openapi::api::core::v1::Node;
use kube::{Client, runtime::watcher::Event};
use planner::decisions::{Action, LedgerChange};
use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "/namespaces/brupop-bottlerocket-aws";

/// What was asked, as `METHOD path?query`, and the body.
type Asked = Arc<Mutex<Vec<(String, Value)>>>;

struct Api {
    context: Context,
    asked: Asked,
    lease: watch::Sender<Option<Instant>>,
}

impl Api {
    /// One that gives these answers, in this order.
    fn new(answers: impl IntoIterator<Item = (u16, Value)>) -> Self {
        let asked = Asked::default();
        let answers = Arc::new(Mutex::new(answers.into_iter().collect::<VecDeque<_>>()));
        let recorded = asked.clone();
        let router = Router::new().fallback(move |request: Request| {
            let (asked, answers) = (recorded.clone(), answers.clone());
            async move {
                let what = format!("{} {}", request.method(), request.uri());
                let body: Bytes = to_bytes(request.into_body(), usize::MAX).await.unwrap();
                asked
                    .lock()
                    .unwrap()
                    .push((what, serde_json::from_slice(&body).unwrap_or(Value::Null)));
                let (status, answer) = answers
                    .lock()
                    .unwrap()
                    .pop_front()
                    .expect("one answer for each request");
                (StatusCode::from_u16(status).unwrap(), answer.to_string()).into_response()
            }
        });
        let (lease, valid_until) = watch::channel(Some(Instant::now() + Duration::from_secs(60)));
        let settings = Settings::try_parse_from(["controller"]).unwrap();
        let fence = Fence::new(valid_until, settings.request_timeout);
        let client = Client::new(router, "default");
        let mut context = Context::new(
            settings,
            client,
            fence,
            Arc::new(Metrics::default()),
            Publisher::new().0,
        );
        context.writer = "me".to_owned();
        Self {
            context,
            asked,
            lease,
        }
    }

    fn asked(&self) -> Vec<String> {
        self.asked
            .lock()
            .unwrap()
            .iter()
            .map(|(what, _)| what.trim_end_matches('?').to_owned())
            .collect()
    }

    fn body(&self, index: usize) -> Value {
        self.asked.lock().unwrap()[index].1.clone()
    }

    fn watched<K: controller::view::Viewed>(&self, objects: impl IntoIterator<Item = K>) {
        self.context.view.watched::<K>(Event::Init);
        objects
            .into_iter()
            .for_each(|object| self.context.view.watched(Event::InitApply(object)));
        self.context.view.watched::<K>(Event::InitDone);
    }

    /// A view with this ledger and one node, all watches synced.
    fn with(self, ledger: Option<UpdateLedger>) -> Self {
        self.watched(ledger);
        self.watched([node("1")]);
        self.watched::<api::UpdatePlan>([]);
        self.watched::<api::BottlerocketShadow>([]);
        self.watched::<k8s_openapi::api::core::v1::Pod>([]);
        self
    }

    async fn swap(&self, grants: bool) -> Result<Swap, RequestError> {
        let change = LedgerChange {
            spec: UpdateLedgerSpec::default(),
            by_fresh_nodes: grants,
            events: vec![],
        };
        swap(&self.context, &self.context.view.snapshot().unwrap(), change).await
    }

    fn ledger_version(&self) -> Option<String> {
        let ledger = self.context.view.snapshot().unwrap().ledger;
        ledger.and_then(|ledger| ledger.metadata.resource_version.clone())
    }
}

fn node(version: &str) -> Node {
    serde_json::from_value(
        json!({"metadata": {"name": "n", "uid": "u", "resourceVersion": version,
        "labels": {"bottlerocket.aws/updater-interface-version": "2.0.0"}}}),
    )
    .unwrap()
}

fn ledger(version: &str) -> Value {
    json!({"apiVersion": "brupop.bottlerocket.aws/v1alpha1", "kind": "UpdateLedger",
        "metadata": {"name": "cluster", "uid": "l", "resourceVersion": version},
        "spec": {"plans": {}, "grants": {}, "writer": "me"}})
}

fn stored(version: &str) -> Option<UpdateLedger> {
    Some(serde_json::from_value(ledger(version)).unwrap())
}

fn refusal(code: u16, reason: &str) -> (u16, Value) {
    (
        code,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason}),
    )
}

fn ledgers(verb: &str, name: &str) -> String {
    format!("{verb} /apis/brupop.bottlerocket.aws/v1alpha1{NAMESPACE}/updateledgers{name}")
}

#[tokio::test]
async fn an_eviction_is_of_the_pod_with_this_uid_only() {
    let api = Api::new([(201, json!({"kind": "Status", "status": "Success"}))]);
    assert_eq!(
        evict(&api.context, "web", "pod", "the-uid").await,
        Evicted::Accepted
    );
    assert_eq!(api.asked(), ["POST /api/v1/namespaces/web/pods/pod/eviction"]);
    let body = api.body(0);
    assert_eq!(body["deleteOptions"]["preconditions"], json!({"uid": "the-uid"}));
    assert_eq!(
        (&body["apiVersion"], &body["kind"]),
        (&json!("policy/v1"), &json!("Eviction"))
    );
}

#[tokio::test]
async fn an_eviction_is_not_repeated_behind_our_back() {
    let api = Api::new([refusal(429, "TooManyRequests")]);
    assert!(matches!(
        evict(&api.context, "web", "pod", "the-uid").await,
        Evicted::Refused { .. }
    ));
}

#[tokio::test]
async fn s2_nothing_is_written_without_the_lease() {
    let api = Api::new([]).with(stored("5"));
    api.lease
        .send_replace(Some(Instant::now() + Duration::from_secs(1)));
    assert!(matches!(api.swap(false).await, Err(RequestError::Fenced)));
    assert!(matches!(
        evict(&api.context, "web", "pod", "u").await,
        Evicted::Refused { by_api: false, .. }
    ));
    assert!(api.asked().is_empty());
}

#[tokio::test]
async fn the_ledger_is_written_on_the_version_that_was_decided_on() {
    let api = Api::new([(200, ledger("6"))]).with(stored("5"));
    assert_eq!(api.swap(false).await.unwrap(), Swap::Written);
    assert_eq!(api.asked(), [ledgers("PUT", "/cluster")]);
    assert_eq!(
        api.body(0)["metadata"],
        json!({"name": "cluster", "uid": "l", "resourceVersion": "5"})
    );
    assert_eq!(
        api.ledger_version().as_deref(),
        Some("6"),
        "the next decision is made on what was written"
    );
}

#[tokio::test]
async fn a_ledger_that_is_not_stored_as_it_was_sent_is_an_error_and_not_tried_again_at_once() {
    let mut other = ledger("6");
    other["spec"]["plans"]["p"] = json!({"name": "p", "generation": 1, "run": "r", "target": "1.21.0",
        "startedAt": "2026-11-22T08:00:00Z"});
    let api = Api::new([(200, other)]).with(stored("5"));
    let error = api.swap(false).await.unwrap_err();
    assert!(matches!(error, RequestError::Pruned));
    assert!(error.to_string().contains("apply the CRDs"), "{error}");
    assert_eq!(api.ledger_version().as_deref(), Some("6"), "it is known as it is");
}

#[tokio::test]
async fn s2_a_swap_that_is_lost_shows_what_won() {
    let api = Api::new([refusal(409, "Conflict"), (200, ledger("9"))]).with(stored("5"));
    assert_eq!(api.swap(false).await.unwrap(), Swap::Renewed);
    assert_eq!(
        api.asked(),
        [ledgers("PUT", "/cluster"), ledgers("GET", "/cluster")]
    );
    assert_eq!(api.ledger_version().as_deref(), Some("9"));
    assert!(
        api.context
            .metrics
            .encode()
            .unwrap()
            .contains("brupop_ledger_conflicts_total 1")
    );
}

#[test]
fn s1_a_grant_is_released_only_when_no_write_of_its_node_is_under_way() {
    let grant = |node: &str| {
        json!({"node": node, "plan": "p", "generation": 1, "run": "r", "wave": "w", "attempt": 1, "from": "1.0.0",
            "to": "1.1.0", "phase": "Withdrawing", "grantedAt": "2026-11-22T08:00:00Z", "phaseSince": "2026-11-22T08:00:00Z"})
    };
    let of = |grants: Value| -> UpdateLedger {
        serde_json::from_value(json!({
            "apiVersion": "brupop.bottlerocket.aws/v1alpha1", "kind": "UpdateLedger",
            "metadata": {"name": "cluster"}, "spec": {"grants": grants}
        }))
        .unwrap()
    };
    let before = of(json!({"1": grant("a"), "2": grant("b")}));
    let after = of(json!({"2": grant("b"), "3": grant("c")}));
    assert_eq!(
        controller::ledger::released(Some(&before), &after.spec),
        [Key::Node("a".into())]
    );
    assert_eq!(controller::ledger::released(Some(&before), &before.spec), []);
    assert_eq!(controller::ledger::released(None, &after.spec), []);
}

#[tokio::test]
async fn a_ledger_that_is_missing_is_created_and_one_that_is_gone_is_known_to_be() {
    let api = Api::new([(201, ledger("7"))]).with(None);
    assert_eq!(api.swap(false).await.unwrap(), Swap::Written);
    assert_eq!(api.asked(), [ledgers("POST", "")]);
    assert_eq!(api.ledger_version().as_deref(), Some("7"));

    let api = Api::new([refusal(404, "NotFound"), refusal(404, "NotFound")]).with(stored("5"));
    assert_eq!(api.swap(false).await.unwrap(), Swap::Renewed);
    assert_eq!(api.ledger_version(), None);
}

#[tokio::test]
async fn s1_a_grant_is_written_only_on_nodes_read_within_five_seconds() {
    let page = |token: &str, items: &[_]| {
        let metadata = json!({"resourceVersion": "20", "continue": token});
        json!({"kind": "NodeList", "apiVersion": "v1", "metadata": metadata, "items": items})
    };
    let pages = [
        page("more", &[]),
        page("", &[serde_json::to_value(node("12")).unwrap()]),
    ];
    let [first, second] = pages;
    let api = Api::new([(200, first), (200, second), (200, ledger("21"))]).with(stored("5"));
    assert_eq!(
        api.swap(true).await.unwrap(),
        Swap::Renewed,
        "to be decided on again"
    );
    let selector = "labelSelector=bottlerocket.aws%2Fupdater-interface-version%3D2.0.0";
    assert_eq!(
        api.asked(),
        [
            format!("GET /api/v1/nodes?&{selector}&limit=500"),
            format!("GET /api/v1/nodes?&{selector}&limit=500&continue=more")
        ],
        "without resourceVersion: a quorum read"
    );
    let nodes = api.context.view.snapshot().unwrap().nodes;
    assert_eq!(nodes["n"].metadata.resource_version.as_deref(), Some("12"));
    assert_eq!(api.swap(true).await.unwrap(), Swap::Written);
}

#[tokio::test]
async fn s1_nodes_that_were_read_too_long_ago_are_read_again_before_a_grant_is_written() {
    let list = || json!({"kind": "NodeList", "apiVersion": "v1", "metadata": {"resourceVersion": "20"}, "items": [node("12")]});
    let api = Api::new([(200, ledger("21")), (200, list()), (200, list())]).with(stored("5"));
    let limit = api.context.settings.node_freshness;
    let known_for = |age| api.context.view.set_nodes_fresh(Instant::now() - age);
    known_for(limit / 4);
    assert_eq!(api.swap(true).await.unwrap(), Swap::Written);
    // The second would be too old by the time the write has arrived.
    for age in [limit * 2, limit * 3 / 4] {
        known_for(age);
        assert_eq!(api.swap(true).await.unwrap(), Swap::Renewed, "{age:?}");
        assert!(api.asked().last().unwrap().starts_with("GET /api/v1/nodes?"));
    }
}

#[tokio::test]
async fn s1_a_node_that_the_list_lacks_is_read_by_itself() {
    let list =
        json!({"kind": "NodeList", "apiVersion": "v1", "metadata": {"resourceVersion": "20"}, "items": []});
    let api = Api::new([(200, list), refusal(404, "NotFound")]).with(stored("5"));
    assert_eq!(api.swap(true).await.unwrap(), Swap::Renewed);
    assert!(api.context.view.snapshot().unwrap().nodes.is_empty());
}

#[tokio::test]
async fn s2_everything_is_read_afresh_after_the_ledger_and_replaces_what_the_watches_have_shown() {
    let list = |kind: &str, items: Value| json!({"kind": kind, "apiVersion": "v1", "metadata": {"resourceVersion": "20"}, "items": items});
    let plan = json!({"apiVersion": "brupop.bottlerocket.aws/v1alpha1", "kind": "UpdatePlan",
        "metadata": {"name": "p", "uid": "p", "resourceVersion": "13"},
        "spec": {"targetVersion": "1.21.0", "nodeSelector": {}}});
    let shadow = json!({"apiVersion": "brupop.bottlerocket.aws/v2", "kind": "BottlerocketShadow",
        "metadata": {"name": "brs-n", "uid": "s", "resourceVersion": "14"}, "spec": {"state": "Idle"}});
    let api = Api::new([
        (200, ledger("9")),
        (200, list("NodeList", json!([node("12")]))),
        (200, list("UpdatePlanList", json!([plan]))),
        (200, list("BottlerocketShadowList", json!([shadow]))),
    ])
    .with(stored("5"));
    let version = afresh::everything(&api.context, stored("5").as_ref())
        .await
        .unwrap();
    assert_eq!(version.as_deref(), Some("9"));
    assert_eq!(api.asked()[0], ledgers("GET", "/cluster"), "the ledger first");
    let snapshot = api.context.view.snapshot().unwrap();
    assert_eq!(api.ledger_version().as_deref(), Some("9"));
    assert_eq!(
        snapshot.nodes["n"].metadata.resource_version.as_deref(),
        Some("12")
    );
    assert!(snapshot.plans.contains_key("p") && snapshot.shadows.contains_key("brs-n"));
    assert!(api.context.view.node_age(Instant::now()).is_some());
}

#[tokio::test]
async fn s2_a_ledger_that_has_gone_on_is_found_so_and_known_as_it_is() {
    let snapshot = |api: &Api| api.context.view.snapshot().unwrap();
    let api = Api::new([(200, ledger("5")), (200, ledger("9")), refusal(404, "NotFound")]).with(stored("5"));
    assert!(
        afresh::ledger_is_still(&api.context, &snapshot(&api))
            .await
            .unwrap()
    );
    assert!(
        !afresh::ledger_is_still(&api.context, &snapshot(&api))
            .await
            .unwrap()
    );
    assert_eq!(api.ledger_version().as_deref(), Some("9"));
    assert!(
        !afresh::ledger_is_still(&api.context, &snapshot(&api))
            .await
            .unwrap()
    );
    assert_eq!(api.ledger_version(), None);
}

#[tokio::test]
async fn a_node_that_has_changed_is_read_again_before_it_is_decided_on_again() {
    let api = Api::new([
        refusal(409, "Conflict"),
        (200, serde_json::to_value(node("8")).unwrap()),
        (200, serde_json::to_value(node("9")).unwrap()),
    ])
    .with(None);
    let disruption = api::shadow::Disruption {
        plan_uid: "p".into(),
        run: "r".into(),
        wave: "w".into(),
        attempt: 1,
        cordoned_at: chrono::DateTime::UNIX_EPOCH,
        annotations_before: [].into(),
    };
    let Api {
        context,
        asked,
        lease: _lease,
    } = api;
    let context = Arc::new(context);
    let mut writer = Writer::new(context.clone());
    let version = || {
        context.view.snapshot().unwrap().nodes["n"]
            .metadata
            .resource_version
            .clone()
            .unwrap()
    };
    for expected in ["8", "9"] {
        let uncordon = Action::Uncordon {
            node: "n".into(),
            disruption: disruption.clone(),
        };
        let write = Write::of(uncordon, &context.view.snapshot().unwrap()).unwrap();
        let key = write.key();
        writer.start(vec![write.clone(), write], Instant::now());
        assert!(!writer.is_free(&key, Instant::now()), "one at a time");
        assert!(writer.is_writing(&key));
        writer.finished().await;
        assert_eq!(version(), expected);
        assert!(writer.is_free(&key, Instant::now()) && !writer.is_writing(&key));
    }
    let asked = asked.lock().unwrap();
    let verbs: Vec<_> = asked
        .iter()
        .map(|(what, _)| what.split(' ').next().unwrap())
        .collect();
    assert_eq!(verbs, ["PATCH", "GET", "PATCH"]);
    assert_eq!(asked[2].1["metadata"]["resourceVersion"], "8");
}

#[tokio::test]
async fn a_lease_is_taken_counted_from_before_the_request_and_given_back() {
    let lease = json!({"kind": "Lease", "apiVersion": "coordination.k8s.io/v1",
        "metadata": {"name": "brupop-update-controller", "resourceVersion": "3"},
        "spec": {"holderIdentity": "me", "leaseTransitions": 1}});
    let api = Api::new([refusal(404, "NotFound"), (201, lease.clone()), (200, lease)]);
    let elector = Elector::new(api.context.client.clone(), &api.context.settings);
    let (valid_until, mut valid) = watch::channel(None);
    let release = CancellationToken::new();
    let before = Instant::now();
    let running = tokio::spawn(elector.run(valid_until, release.clone(), Arc::new(Health::default())));
    let until = valid.wait_for(Option::is_some).await.unwrap().unwrap();
    assert!(until >= before + api.context.settings.lease_duration);
    assert!(until <= Instant::now() + api.context.settings.lease_duration);
    release.cancel();
    running.await.unwrap();
    assert_eq!(*valid.borrow(), None);
    let verbs: Vec<_> = api
        .asked()
        .iter()
        .map(|what| what.split(' ').next().unwrap().to_owned())
        .collect();
    assert_eq!(verbs, ["GET", "POST", "PUT"]);
    assert_eq!(api.body(1)["spec"]["leaseDurationSeconds"], 15);
    assert_eq!(api.body(2)["spec"], json!({"leaseTransitions": 1}));
    assert_eq!(api.body(2)["metadata"]["resourceVersion"], "3");
}
