//! Who may speak for a node: its agent's pod, by a token of Kubernetes' for our audience. Everybody else is told why not,
//! and nothing is written.
//!
//! The node that they ask for is drained and would get its reboot permit at once: its own agent only cannot ask, being cut
//! off from its node.

use std::collections::BTreeMap;

use api::BottlerocketShadow;
use api::ledger::{Grant, GrantPhase};
use chrono::{DateTime, TimeDelta, Utc};
use hyper::StatusCode;
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use testbed::lab::Lab;
use testbed::operator::NAMESPACE;
use testbed::oracle::Expectations;

use crate::caller::{Ask, Caller, bearer, report};
use crate::strangers::{PATHS, Stranger, with_a_bad_token, with_another_token, with_nothing_behind_it};
use crate::support::{
    SOON, assert_says, complete, get_ledger, get_node, get_shadow, lab, machines, plan, relent, seconds,
    status, stubborn_pod,
};
use crate::tokens::{AGENT, agent_pod, delete_pod, make_pod, of_pod, signed};

/// A lab in which node n1 is drained, and its agent cannot ask for the permit.
struct Drained {
    lab: Lab,
    grant: Grant,
    boot_id: String,
}

impl Drained {
    async fn start() -> Self {
        let mut fleet = machines(2);
        fleet.workloads = vec![stubborn_pod("n1")];
        let lab = lab(fleet).await;
        let first = json!([
            {"name": "first", "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "n1"}}},
            {"name": "rest"},
        ]);
        lab.apply(&plan("p", &json!({"waves": first}))).await.unwrap();
        status(&lab, "p", "node that is drained", |status| {
            status
                .active
                .iter()
                .any(|active| active.doing.starts_with("draining, "))
        })
        .await;
        let node = lab.fleet.node("n1").unwrap();
        node.set_socket(false);
        relent(&lab, "n1").await;
        Box::pin(lab.ledger(SOON, "grant in phase Drained", |ledger| {
            ledger
                .spec
                .grants
                .values()
                .any(|grant| grant.phase == GrantPhase::Drained)
        }))
        .await
        .unwrap();
        Box::pin(lab.shadows(SOON, "node that is told to reboot", |shadows| {
            let told = api::shadow::NodeState::RebootedIntoUpdate;
            shadows.iter().any(|shadow| shadow.spec.state == told)
        }))
        .await
        .unwrap();
        // A pod that comes in a later second than the cordon may stay.
        let annotation = get_node(&lab, "n1").await.annotations()[api::names::DISRUPTION_ANNOTATION].clone();
        let cordon: Value = serde_json::from_str(&annotation).unwrap();
        let cordoned: DateTime<Utc> = cordon["cordonedAt"].as_str().unwrap().parse().unwrap();
        let later = DateTime::from_timestamp(cordoned.timestamp() + 1, 0).unwrap();
        tokio::time::sleep((later - Utc::now()).to_std().unwrap_or_default()).await;
        let grants = get_ledger(&lab).await.spec.grants;
        Self {
            grant: grants.into_values().next().unwrap(),
            boot_id: node.boot_id(),
            lab,
        }
    }

    /// What gets the permit, with the right token.
    fn permit(&self) -> Value {
        json!({"run": self.grant.run, "attempt": self.grant.attempt, "boot_id": self.boot_id})
    }

    /// Every endpoint for a node, with a body that would have an effect.
    fn endpoints(&self, node: &str) -> [Ask; 4] {
        let forged_report = report("9.9.9", "made-up").to_string();
        let ask = |method, what: &str, body: &str| Ask {
            method,
            path: format!("/v1/nodes/{node}/{what}"),
            authorization: None,
            body: body.to_owned(),
        };
        [
            ask("POST", "shadow", &forged_report),
            ask("PUT", "status", &forged_report),
            ask("GET", "instructions", ""),
            ask("POST", "permit", &self.permit().to_string()),
        ]
    }

    /// Gives n1 back to its agent, and lets the rollout come to its end under the oracle.
    async fn finish(self, deleted_pods: &[&str]) {
        self.lab.fleet.node("n1").unwrap().set_socket(true);
        complete(&self.lab, "p").await;
        let expectations = Expectations {
            asked_again: ["n1".to_owned()].into(),
            deleted_pods: deleted_pods
                .iter()
                .map(|pod| format!("{NAMESPACE}/{pod}"))
                .collect(),
            ..Expectations::complete("p")
        };
        self.lab.finish(&expectations).await.unwrap();
    }
}

/// What the apiserver could have written: every shadow and the ledger, by resourceVersion, and what the audit log holds of it.
async fn written(lab: &Lab) -> BTreeMap<String, String> {
    let shadows: Api<BottlerocketShadow> = Api::namespaced(lab.client.clone(), NAMESPACE);
    let mut written: BTreeMap<String, String> = shadows
        .list(&Default::default())
        .await
        .unwrap()
        .items
        .into_iter()
        .map(|shadow| (shadow.name_any(), shadow.resource_version().unwrap()))
        .collect();
    written.insert(
        "ledger".to_owned(),
        get_ledger(lab).await.resource_version().unwrap(),
    );
    let user = format!("system:serviceaccount:{NAMESPACE}:brupop-update-apiserver");
    let log = std::fs::read_to_string(lab.plane.audit_log()).unwrap();
    // The last line may be half written.
    let events = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let writes = events
        .filter(|event| event["user"]["username"] == *user)
        .filter(|event| !["get", "list", "watch"].contains(&event["verb"].as_str().unwrap()))
        .filter(|event| event["objectRef"]["resource"] != "tokenreviews")
        .map(|event| event["requestURI"].to_string());
    written.insert("writes".to_owned(), writes.collect::<Vec<_>>().join(" "));
    written
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_nobody_but_a_nodes_own_agent_speaks_for_it_and_who_tries_changes_nothing() {
    let drained = Drained::start().await;
    let lab = &drained.lab;
    let caller = Caller::new(lab);
    let own = of_pod(lab, &agent_pod(lab, "n1").await).await;
    let mut strangers = with_a_bad_token(lab, &own).await;
    strangers.extend(with_another_token(lab, &own).await);
    strangers.extend(with_nothing_behind_it(lab).await);
    let before = written(lab).await;

    for stranger in &strangers {
        let Stranger {
            what,
            node,
            authorization,
            ..
        } = stranger;
        for mut ask in drained.endpoints(node) {
            ask.authorization.clone_from(authorization);
            let answer = caller.ask(&ask).await;
            let case = format!("{what}: {} {}: {answer:?}", ask.method, ask.path);
            assert_eq!(answer.status, stranger.status, "{case}");
            assert!(
                stranger.told.iter().all(|words| answer.message().contains(words)),
                "{case}"
            );
            let challenged = answer.challenge.as_deref() == Some("Bearer");
            assert_eq!(challenged, answer.status == StatusCode::UNAUTHORIZED, "{case}");
        }
    }
    for mut ask in drained.endpoints("n1") {
        ask.path += &format!("?access_token={own}");
        let answer = caller.ask(&ask).await;
        assert_eq!(
            answer.status,
            StatusCode::UNAUTHORIZED,
            "the token in the query: {answer:?}"
        );
    }
    for (path, status, told) in PATHS {
        for mut ask in drained.endpoints("n1") {
            ask.path = ask.path.replace("/v1/nodes/n1/", path);
            ask.authorization = Some(bearer(&own));
            let answer = caller.ask(&ask).await;
            assert_eq!(answer.status, status, "{ask:?} {answer:?}");
            assert_says(answer.message(), &[told]);
        }
    }
    for mut ask in drained.endpoints("n1") {
        ask.path += "/";
        ask.authorization = Some(bearer(&own));
        assert_eq!(caller.ask(&ask).await.status, StatusCode::NOT_FOUND, "{ask:?}");
    }
    let other = |method, path: &str| Ask {
        method,
        path: path.to_owned(),
        authorization: Some(bearer(&own)),
        body: String::new(),
    };
    let answer = caller.ask(&other("POST", "/v1/nodes/n1/instructions")).await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{answer:?}");
    assert_says(answer.message(), &["POST is not served here"]);
    let answer = caller.ask(&other("GET", "/v1/nodes/n1")).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND, "{answer:?}");
    assert_eq!(written(lab).await, before, "nothing was written");
    let metrics = lab.operator.apiserver_metrics().await.unwrap();
    let refused = "brupop_apiserver_requests_total{route=\"/v1/nodes/{node}/permit\",status=\"401\"}";
    assert_says(&metrics, &[refused]);

    // It was the identity that was wrong, and nothing else: the node's own agent gets what it asks for, by any spelling
    // of its name that is its name.
    let known = serde_json::to_value(get_shadow(lab, "n1").await.status).unwrap();
    for node in ["n1", "%6e1"] {
        let path = |what: &str| format!("/v1/nodes/{node}/{what}");
        let again = signed(lab, &own, |_| ());
        assert_eq!(
            caller.call("PUT", &path("status"), &again, &known).await.status,
            StatusCode::NO_CONTENT
        );
        assert_eq!(
            caller.call("POST", &path("shadow"), &own, &known).await.status,
            StatusCode::NO_CONTENT
        );
        caller.stream(node, &own).await;
    }
    assert_eq!(written(lab).await, before, "nothing new was reported");
    let given = caller
        .call("POST", "/v1/nodes/n1/permit", &own, &drained.permit())
        .await;
    assert_eq!(given.status, StatusCode::OK, "{given:?}");
    drained
        .finish(&["gone", "again", "nowhere", "lost-node", "replaced-node"])
        .await;
}

/// How many tokens the apiserver has had reviewed so far.
async fn reviews(lab: &Lab) -> u64 {
    let metrics = lab.operator.apiserver_metrics().await.unwrap();
    let counts = metrics
        .lines()
        .filter(|line| line.starts_with("brupop_apiserver_token_reviews_total"));
    counts
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn s5_a_token_that_was_good_a_moment_before_gets_no_permit_and_its_stream_ends() {
    let drained = Drained::start().await;
    let lab = &drained.lab;
    let caller = Caller::new(lab);
    let (status_path, permit_path) = ("/v1/nodes/n1/status", "/v1/nodes/n1/permit");
    let known = serde_json::to_value(get_shadow(lab, "n1").await.status).unwrap();

    // A pod that is deleted, with its stream open and its token remembered as good.
    make_pod(lab, AGENT, "doomed", "n1").await;
    let token = of_pod(lab, "doomed").await;
    let mut stream = caller.stream("n1", &token).await;
    assert_eq!(stream.instruction().await["spec"]["state"], "RebootedIntoUpdate");
    assert_eq!(
        caller.call("PUT", status_path, &token, &known).await.status,
        StatusCode::NO_CONTENT
    );
    let before = written(lab).await;
    delete_pod(lab, "doomed").await;
    let answer = caller.call("POST", permit_path, &token, &drained.permit()).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{answer:?}");
    assert_eq!(written(lab).await, before);
    let lines = stream.until_its_end(SOON).await;
    assert_eq!(
        lines.last().map(String::as_str),
        Some("{\"type\":\"goodbye\"}"),
        "{lines:?}"
    );

    // A token that expires, remembered as good as well.
    let own = of_pod(lab, &agent_pod(lab, "n1").await).await;
    let expires = Utc::now().timestamp() + 4;
    let short = signed(lab, &own, |claims| claims["exp"] = expires.into());
    let stream = caller.stream("n1", &short).await;
    assert_eq!(
        caller.call("PUT", status_path, &short, &known).await.status,
        StatusCode::NO_CONTENT
    );
    let lines = stream.until_its_end(SOON).await;
    assert_eq!(
        lines.last().map(String::as_str),
        Some("{\"type\":\"goodbye\"}"),
        "{lines:?}"
    );
    let late = Utc::now() - DateTime::from_timestamp(expires, 0).unwrap();
    assert!(
        late >= TimeDelta::zero() && late < TimeDelta::seconds(3),
        "it ended {late} after the token"
    );
    for mut ask in drained.endpoints("n1") {
        ask.authorization = Some(bearer(&short));
        let answer = caller.ask(&ask).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{ask:?} {answer:?}");
        assert_says(answer.message(), &["it expired at"]);
    }
    assert_eq!(written(lab).await, before);

    // What is remembered is asked once; every permit and every stream asks again.
    let wrong = json!({"run": drained.grant.run, "attempt": 99, "boot_id": drained.boot_id});
    caller.call("PUT", status_path, &own, &known).await;
    let asked = reviews(lab).await;
    for _ in 0..3 {
        caller.call("PUT", status_path, &own, &known).await;
    }
    assert_eq!(reviews(lab).await, asked, "remembered");
    for more in 1..=3 {
        let answer = caller.call("POST", permit_path, &own, &wrong).await;
        assert_eq!(answer.body["permit"]["reason"], "OtherAttempt", "{answer:?}");
        assert_eq!(reviews(lab).await, asked + more, "afresh");
    }
    caller.stream("n1", &own).await;
    assert_eq!(reviews(lab).await, asked + 4, "afresh");
    drained.finish(&["doomed"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_remembered_for_no_longer_than_it_is_told_to() {
    let options = testbed::operator::Options {
        apiserver_flags: vec!["--token-cache-time=3s".to_owned()],
        ..Default::default()
    };
    let lab = Box::pin(Lab::start(machines(1), &options)).await.unwrap();
    let caller = Caller::new(&lab);
    let own = of_pod(&lab, &agent_pod(&lab, "n1").await).await;
    let known = serde_json::to_value(get_shadow(&lab, "n1").await.status).unwrap();
    // Good in two seconds, by Kubernetes' own leniency of a minute; until then it is not valid yet.
    let good_from = Utc::now().timestamp() + 3;
    let token = signed(&lab, &own, |claims| claims["nbf"] = (good_from + 60).into());
    let asked_at = tokio::time::Instant::now();
    let put = || caller.call("PUT", "/v1/nodes/n1/status", &token, &known);
    let refused = put().await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{refused:?}");
    assert_says(refused.message(), &["not valid yet"]);
    let reviewed = reviews(&lab).await;
    // Asking again and again does not keep it in memory.
    let taken = loop {
        let answer = put().await;
        if answer.status == StatusCode::NO_CONTENT {
            break asked_at.elapsed();
        }
        assert_eq!(answer, refused);
        assert!(asked_at.elapsed() < seconds(10), "it is remembered for ever");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    assert!(taken >= seconds(3), "it was remembered: {taken:?}");
    assert!(taken < seconds(8), "and not for longer: {taken:?}");
    assert_eq!(
        reviews(&lab).await,
        reviewed + 1,
        "the refusal was asked for once"
    );
    lab.finish(&Expectations {
        quiet: true,
        ..Expectations::default()
    })
    .await
    .unwrap();
}
