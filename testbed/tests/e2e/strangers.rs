//! Those who may not speak for a node, each in a way of its own, and what each is told.

use chrono::Utc;
use hyper::StatusCode;
use k8s_openapi::api::core::v1::{Namespace, Node, Secret, ServiceAccount};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;
use testbed::lab::Lab;
use testbed::operator::NAMESPACE;
use testbed::wait;

use crate::caller::bearer;
use crate::support::SOON;
use crate::tokens::{
    ACCOUNT, AGENT, AUDIENCE, agent_pod, delete_pod, forged, issue, make_pod, of_pod, signed, tampered,
    unsigned,
};

/// Somebody who may not speak for the node.
pub struct Stranger {
    pub what: &'static str,
    /// The node that it asks for.
    pub node: &'static str,
    pub authorization: Option<String>,
    pub status: StatusCode,
    pub told: &'static [&'static str],
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
pub async fn with_a_bad_token(lab: &Lab, own: &str) -> Vec<Stranger> {
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
pub async fn with_another_token(lab: &Lab, own: &str) -> Vec<Stranger> {
    const UNAUTHORIZED: StatusCode = StatusCode::UNAUTHORIZED;
    let own_pod = agent_pod(lab, "n1").await;
    let others = of_pod(lab, &agent_pod(lab, "n2").await).await;
    let retold = tampered(&others, |claims| {
        claims["kubernetes.io"]["node"] = crate::tokens::claims(own)["kubernetes.io"]["node"].clone()
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
pub async fn with_nothing_behind_it(lab: &Lab) -> Vec<Stranger> {
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
pub const PATHS: [(&str, StatusCode, &str); 15] = [
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
