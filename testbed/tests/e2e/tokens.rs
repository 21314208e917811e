//! Tokens of every kind: those that Kubernetes gives, and those that somebody makes of them.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, ResourceExt as _};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use testbed::lab::Lab;
use testbed::operator::NAMESPACE;
use testbed::wait;

use crate::support::SOON;

pub const ACCOUNT: &str = api::names::AGENT_SERVICE_ACCOUNT;
pub const AUDIENCE: &str = api::names::TOKEN_AUDIENCE;
/// Namespace and account of the agents.
pub const AGENT: (&str, &str) = (NAMESPACE, ACCOUNT);

/// Asks Kubernetes for a token, bound to an object if one is named by kind and name.
pub async fn issue(
    lab: &Lab,
    (namespace, account): (&str, &str),
    audiences: &[&str],
    bound_to: Option<(&str, &str)>,
) -> String {
    let accounts: Api<ServiceAccount> = Api::namespaced(lab.client.clone(), namespace);
    let wanted = TokenRequest {
        spec: TokenRequestSpec {
            audiences: audiences.iter().map(|audience| (*audience).to_owned()).collect(),
            expiration_seconds: Some(3600),
            bound_object_ref: bound_to.map(|(kind, name)| BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some(kind.to_owned()),
                name: Some(name.to_owned()),
                uid: None,
            }),
        },
        ..TokenRequest::default()
    };
    let answer = accounts
        .create_token_request(account, &PostParams::default(), &wanted)
        .await;
    let answer = answer.unwrap_or_else(|error| panic!("{account} {bound_to:?}: {error}"));
    answer.status.unwrap().token
}

/// The token that an agent in this pod has.
pub async fn of_pod(lab: &Lab, pod: &str) -> String {
    issue(lab, AGENT, &[AUDIENCE], Some(("Pod", pod))).await
}

/// The pod of the DaemonSet on a node.
pub async fn agent_pod(lab: &Lab, node: &str) -> String {
    let pods: Api<Pod> = Api::namespaced(lab.client.clone(), NAMESPACE);
    let on_node = ListParams::default()
        .fields(&format!("spec.nodeName={node}"))
        .labels("app.kubernetes.io/name=bottlerocket-update-operator");
    let found = pods.list(&on_node).await.unwrap().items;
    assert_eq!(found.len(), 1, "agent pods of {node}");
    found[0].name_any()
}

/// Makes a pod that is bound to a node, as an agent's is. It tolerates every taint, so that it may stay on a node that was
/// cordoned before.
pub async fn make_pod(lab: &Lab, (namespace, account): (&str, &str), name: &str, node: &str) -> Pod {
    let pods: Api<Pod> = Api::namespaced(lab.client.clone(), namespace);
    let pod = json!({
        "metadata": {"name": name, "labels": {api::names::COMPONENT_LABEL: api::names::COMPONENT_AGENT}},
        "spec": {
            "serviceAccountName": account, "automountServiceAccountToken": false, "nodeName": node,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "c", "image": "registry.invalid/c:1"}],
        },
    });
    let pod = serde_json::from_value(pod).unwrap();
    pods.create(&PostParams::default(), &pod).await.unwrap()
}

/// Deletes a pod of the install's namespace at once.
pub async fn delete_pod(lab: &Lab, name: &str) {
    let pods: Api<Pod> = Api::namespaced(lab.client.clone(), NAMESPACE);
    pods.delete(name, &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    wait::for_object(pods, name, SOON, "pod that is gone", |pod| pod.is_none())
        .await
        .unwrap();
}

/// What a token claims.
pub fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// The token with other claims under the old signature.
pub fn tampered(token: &str, change: impl FnOnce(&mut Value)) -> String {
    let parts: Vec<&str> = token.split('.').collect();
    let mut claims = claims(token);
    change(&mut claims);
    format!("{}.{}.{}", parts[0], part(&claims), parts[2])
}

/// The token without a signature, and a header that says that there is none.
pub fn unsigned(token: &str) -> String {
    format!(
        "{}.{}.",
        part(&json!({"alg": "none", "typ": "JWT"})),
        part(&claims(token))
    )
}

/// The token signed by a key of somebody's own, under the name of the real one.
pub fn forged(token: &str) -> String {
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
    sign(token, claims(token), key.as_ref())
}

/// The token with other claims, signed by the key that kube-apiserver itself signs with: what it would have given, had
/// it been asked at another time or for a shorter one than it gives.
pub fn signed(lab: &Lab, token: &str, change: impl FnOnce(&mut Value)) -> String {
    let file = lab.plane.directory().join("service-account.key");
    let key = PrivatePkcs8KeyDer::from_pem_file(file).unwrap();
    let mut claims = claims(token);
    change(&mut claims);
    sign(token, claims, key.secret_pkcs8_der())
}

#[allow(clippy::needless_pass_by_value, reason = "claims are made for it")]
fn sign(token: &str, claims: Value, key: &[u8]) -> String {
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key, &random).unwrap();
    let signed = format!("{}.{}", token.split('.').next().unwrap(), part(&claims));
    let signature = key.sign(&random, signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}
