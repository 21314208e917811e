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
use k8s_openapi::api::core::v1::{Namespace, Node, Secret, ServiceAccount};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use testbed::lab::Lab;
use testbed::operator::NAMESPACE;
use testbed::oracle::Expectations;
use testbed::wait;

use crate::caller::{Ask, Caller, bearer, report};
use crate::support::{
    SOON, assert_says, complete, get_ledger, get_node, get_shadow, lab, machines, plan, relent, seconds,
    status, stubborn_pod,
};
use crate::tokens::{
    ACCOUNT, AUDIENCE, agent_pod, claims, delete_pod, forged, issue, make_pod, of_pod, signed, tampered,
    unsigned,
};

const AGENT: (&str, &str) = (NAMESPACE, ACCOUNT);

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

/// Somebody who may not speak for the node.
struct Stranger {
    what: &'static str,
    /// The node that it asks for.
    node: &'static str,
    authorization: Option<String>,
    status: StatusCode,
    told: &'static [&'static str],
}

fn bears(what: &'static str, token: &str, status: StatusCode, told: &'static [&'static str]) -> Stranger {
    Stranger {
        what,
        node: "n1",
        authorization: Some(bearer(token)),
        status,
        told,
    }
}

async fn make_node(lab: &Lab, name: &str) {
    let node = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    Api::<Node>::all(lab.client.clone())
        .create(&PostParams::default(), &node)
        .await
        .unwrap();
}

async fn delete_node(lab: &Lab, name: &str) {
    let nodes: Api<Node> = Api::all(lab.client.clone());
    nodes.delete(name, &DeleteParams::default()).await.unwrap();
    wait::for_object(nodes, name, SOON, "node that is gone", |node| node.is_none())
        .await
        .unwrap();
}

/// Those with a token that is none of Kubernetes', or that it does not take any more.
async fn with_a_bad_token(lab: &Lab, own: &str) -> Vec<Stranger> {
    const UNAUTHORIZED: StatusCode = StatusCode::UNAUTHORIZED;
    let now = Utc::now().timestamp();
    let expired = |ago: i64| {
        signed(lab, own, |claims| {
            (claims["iat"], claims["nbf"], claims["exp"]) =
                ((now - 4000).into(), (now - 4000).into(), (now - ago).into());
        })
    };
    let early = signed(lab, own, |claims| claims["nbf"] = (now + 600).into());
    let invalid: &[&str] = &["not valid for audience brupop-update-apiserver"];
    let mut strangers = vec![
        bears("garbage", "garbage", UNAUTHORIZED, invalid),
        bears("three parts of garbage", "e30.e30.e30", UNAUTHORIZED, invalid),
        bears(
            "the token signed by another key",
            &forged(own),
            UNAUTHORIZED,
            invalid,
        ),
        bears(
            "the token without a signature",
            &unsigned(own),
            UNAUTHORIZED,
            invalid,
        ),
        bears(
            "a token that expired an hour ago",
            &expired(3600),
            UNAUTHORIZED,
            &["expired"],
        ),
        // Kubernetes forgives a minute; that would be a minute in which nobody can take it away.
        bears(
            "a token that expired just now",
            &expired(5),
            UNAUTHORIZED,
            &["it expired at"],
        ),
        bears(
            "a token that is not valid yet",
            &early,
            UNAUTHORIZED,
            &["not valid yet"],
        ),
    ];
    let scheme = |what, authorization: Option<String>| Stranger {
        what,
        node: "n1",
        authorization,
        status: UNAUTHORIZED,
        told: &["no token was sent", "Authorization: Bearer"],
    };
    strangers.extend([
        scheme("no token", None),
        scheme("no scheme", Some(own.to_owned())),
        scheme("another scheme", Some(format!("Basic {own}"))),
        scheme("an empty token", Some("Bearer ".to_owned())),
    ]);
    strangers
}

/// Those with a good token of somebody else, or for something else.
async fn with_another_token(lab: &Lab, own: &str) -> Vec<Stranger> {
    const UNAUTHORIZED: StatusCode = StatusCode::UNAUTHORIZED;
    let own_pod = agent_pod(lab, "n1").await;
    let others = of_pod(lab, &agent_pod(lab, "n2").await).await;
    let retold = tampered(&others, |claims| {
        claims["kubernetes.io"]["node"] = self::claims(own)["kubernetes.io"]["node"].clone()
    });
    let pod = Some(("Pod", own_pod.as_str()));
    let vault = issue(lab, AGENT, &["vault"], pod).await;
    let kubernetes = issue(lab, AGENT, &[], pod).await;
    let unbound = issue(lab, AGENT, &[AUDIENCE], None).await;

    let secrets: Api<Secret> = Api::namespaced(lab.client.clone(), NAMESPACE);
    let secret = serde_json::from_value(json!({"metadata": {"name": "bound"}})).unwrap();
    secrets.create(&PostParams::default(), &secret).await.unwrap();
    let of_secret = issue(lab, AGENT, &[AUDIENCE], Some(("Secret", "bound"))).await;
    let of_node = issue(lab, AGENT, &[AUDIENCE], Some(("Node", "n1"))).await;

    let namespaces: Api<Namespace> = Api::all(lab.client.clone());
    let namespace = serde_json::from_value(json!({"metadata": {"name": "elsewhere"}})).unwrap();
    namespaces
        .create(&PostParams::default(), &namespace)
        .await
        .unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(lab.client.clone(), "elsewhere");
    let account = serde_json::from_value(json!({"metadata": {"name": ACCOUNT}})).unwrap();
    accounts.create(&PostParams::default(), &account).await.unwrap();
    let elsewhere = ("elsewhere", ACCOUNT);
    make_pod(lab, elsewhere, &own_pod, "n1").await;
    let of_namesake = issue(lab, elsewhere, &[AUDIENCE], pod).await;
    let controller = (NAMESPACE, "brupop-update-controller");
    make_pod(lab, controller, "not-an-agent", "n1").await;
    let of_controller = issue(lab, controller, &[AUDIENCE], Some(("Pod", "not-an-agent"))).await;
    let kubeconfig = std::fs::read_to_string(lab.plane.kubeconfig_file()).unwrap();
    let admin = kubeconfig
        .lines()
        .find_map(|line| line.trim().strip_prefix("token: "))
        .unwrap();

    let other_node: &[&str] = &["the token is for node \"n2\", not for node \"n1\""];
    let audience: &[&str] = &["not valid for audience brupop-update-apiserver"];
    vec![
        bears("another node's token", &others, StatusCode::FORBIDDEN, other_node),
        bears(
            "another node's token with this node written into it",
            &retold,
            UNAUTHORIZED,
            audience,
        ),
        bears("a token of another audience", &vault, UNAUTHORIZED, audience),
        bears(
            "the pod's token for Kubernetes itself",
            &kubernetes,
            UNAUTHORIZED,
            audience,
        ),
        bears("the cluster admin's token", admin, UNAUTHORIZED, audience),
        bears(
            "a token that is bound to nothing",
            &unbound,
            UNAUTHORIZED,
            &[
                "not bound to a pod on a node",
                "no authentication.kubernetes.io/node-name",
            ],
        ),
        bears(
            "a token that is bound to a Secret",
            &of_secret,
            UNAUTHORIZED,
            &[
                "not bound to a pod on a node",
                "no authentication.kubernetes.io/node-name",
            ],
        ),
        bears(
            "a token that is bound to the node itself",
            &of_node,
            UNAUTHORIZED,
            &[
                "not bound to a pod on a node",
                "no authentication.kubernetes.io/pod-name",
            ],
        ),
        bears(
            "a pod of the same name and account in another namespace",
            &of_namesake,
            UNAUTHORIZED,
            &["\"system:serviceaccount:elsewhere:brupop-update-agent\", and only agents are served"],
        ),
        bears(
            "a pod of another account in the right namespace",
            &of_controller,
            UNAUTHORIZED,
            &["brupop-update-controller\", and only agents are served"],
        ),
    ]
}

/// Those whose token was good, and what it is bound to is not there any more.
async fn with_nothing_behind_it(lab: &Lab) -> Vec<Stranger> {
    make_pod(lab, AGENT, "gone", "n1").await;
    let of_gone = of_pod(lab, "gone").await;
    delete_pod(lab, "gone").await;
    make_pod(lab, AGENT, "again", "n1").await;
    let of_earlier = of_pod(lab, "again").await;
    delete_pod(lab, "again").await;
    make_pod(lab, AGENT, "again", "n1").await;

    make_pod(lab, AGENT, "nowhere", "never-there").await;
    let of_nowhere = of_pod(lab, "nowhere").await;
    for node in ["lost-node", "replaced-node"] {
        make_node(lab, node).await;
        make_pod(lab, AGENT, node, node).await;
    }
    let (of_lost, of_replaced) = (of_pod(lab, "lost-node").await, of_pod(lab, "replaced-node").await);
    for node in ["lost-node", "replaced-node"] {
        delete_node(lab, node).await;
    }
    make_node(lab, "replaced-node").await;

    let on = |node, stranger: Stranger| Stranger { node, ..stranger };
    let (unauthorized, forbidden) = (StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN);
    vec![
        bears(
            "a pod that is gone",
            &of_gone,
            unauthorized,
            &["has been invalidated"],
        ),
        bears(
            "an earlier pod of the same name",
            &of_earlier,
            unauthorized,
            &["does not match service account pod ref claim"],
        ),
        on(
            "never-there",
            bears(
                "a pod on a node that never was",
                &of_nowhere,
                unauthorized,
                &["no authentication.kubernetes.io/node-uid"],
            ),
        ),
        on(
            "lost-node",
            bears(
                "a pod whose node is gone",
                &of_lost,
                forbidden,
                &["node \"lost-node\" does not exist"],
            ),
        ),
        on(
            "replaced-node",
            bears(
                "a pod whose node was replaced under its name",
                &of_replaced,
                forbidden,
                &[
                    "an earlier node \"replaced-node\", with UID ",
                    "that was replaced",
                ],
            ),
        ),
    ]
}

/// Other ways to write a path than that of the token's node, and what is answered to each.
const PATHS: [(&str, StatusCode, &str); 15] = [
    ("/v1/nodes/n2/", StatusCode::FORBIDDEN, "not for node \"n2\""),
    ("/v1/nodes/%6e2/", StatusCode::FORBIDDEN, "not for node \"n2\""),
    ("/v1/nodes/N1/", StatusCode::FORBIDDEN, "not for node \"N1\""),
    ("/v1/nodes/n1./", StatusCode::FORBIDDEN, "not for node \"n1.\""),
    ("/v1/nodes/n1%20/", StatusCode::FORBIDDEN, "not for node \"n1 \""),
    (
        "/v1/nodes/n1%00/",
        StatusCode::FORBIDDEN,
        "not for node \"n1\\0\"",
    ),
    (
        "/v1/nodes/n1;n2/",
        StatusCode::FORBIDDEN,
        "not for node \"n1;n2\"",
    ),
    (
        "/v1/nodes/n2%2f..%2fn1/",
        StatusCode::FORBIDDEN,
        "not for node \"n2/../n1\"",
    ),
    ("/v1/nodes/%ff/", StatusCode::BAD_REQUEST, "UTF-8"),
    ("/v1/nodes/n1/../n2/", StatusCode::NOT_FOUND, "no such path"),
    ("/v1/nodes/n2/%2e%2e/n1/", StatusCode::NOT_FOUND, "no such path"),
    ("/v1/nodes/n1//", StatusCode::NOT_FOUND, "no such path"),
    ("/v1/nodes//", StatusCode::FORBIDDEN, "not for node \"\""),
    ("//v1/nodes/n1/", StatusCode::NOT_FOUND, "no such path"),
    ("/V1/nodes/n1/", StatusCode::NOT_FOUND, "no such path"),
];

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
    // Good in a second, by Kubernetes' own leniency of a minute; until then it is not valid yet.
    let good_from = Utc::now().timestamp() + 2;
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
    assert!(taken < seconds(5), "and not for longer: {taken:?}");
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
