//! An apiserver over real TLS, in front of a Kubernetes API in memory, and an agent's client.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    dead_code,
    reason = "tests; not every test uses every helper"
)]

pub mod kubernetes;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use api::{names, wire::Line};
use apiserver::{Clock, config::Config};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use clap::Parser as _;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, StatusCode,
    body::{Bytes, Incoming},
};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use kubernetes::Kubernetes;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const NODES: &str = "/api/v1/nodes";
pub const AGENTS: &str = "/api/v1/namespaces/ns/pods";
pub const WORKLOADS: &str = "/api/v1/namespaces/web/pods";
pub const SHADOWS: &str = "/apis/brupop.bottlerocket.aws/v2/namespaces/ns/bottlerocketshadows";
pub const LEDGERS: &str = "/apis/brupop.bottlerocket.aws/v1alpha1/namespaces/ns/updateledgers";

type HttpClient =
    Client<hyper_rustls::HttpsConnector<hyper_util::client::legacy::connect::HttpConnector>, Full<Bytes>>;

/// Where the clock of the server stands at the beginning.
pub fn start() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

pub fn at(seconds: i64) -> DateTime<Utc> {
    start() + chrono::TimeDelta::seconds(seconds)
}

pub struct Server {
    pub kubernetes: Kubernetes,
    pub address: SocketAddr,
    pub health: SocketAddr,
    pub shutdown: CancellationToken,
    pub running: JoinHandle<anyhow::Result<()>>,
    seconds: Arc<AtomicI64>,
    client: HttpClient,
    _files: TempDir,
}

impl Server {
    /// A server with node `n1` (UID `u1`), its agent pod, and token `agent` for them.
    pub async fn start(extra: &[&str]) -> Self {
        let kubernetes = Kubernetes::default();
        kubernetes.put(NODES, "n1", json!({"metadata": {"uid": "u1"}, "spec": {}}));
        let daemon_set = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "d", "controller": true});
        let pod = json!({"metadata": {"uid": "p1", "namespace": "ns", "ownerReferences": [daemon_set]},
            "spec": {"nodeName": "n1", "containers": []}});
        kubernetes.put(AGENTS, "agent-n1", pod);
        kubernetes
            .objects()
            .tokens
            .insert(token("agent", 3600), review("n1", "u1", "agent-n1", "p1"));

        let files = tempfile::tempdir().unwrap();
        let path = |name: &str| files.path().join(name);
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(path("tls.crt"), made.cert.pem()).unwrap();
        std::fs::write(path("tls.key"), made.signing_key.serialize_pem()).unwrap();
        let file = |flag: &str, name: &str| format!("--{flag}={}", path(name).display());
        let mut arguments: Vec<String> = [
            "apiserver",
            "--namespace=ns",
            "--listen=127.0.0.1:0",
            "--health-listen=127.0.0.1:0",
        ]
        .map(str::to_owned)
        .to_vec();
        arguments.push(file("tls-cert-file", "tls.crt"));
        arguments.push(file("tls-key-file", "tls.key"));
        arguments.push(file("listen-address-file", "address"));
        arguments.push(file("health-address-file", "health"));
        arguments.extend(extra.iter().map(|argument| (*argument).to_owned()));
        let config = Config::try_parse_from(arguments).unwrap();

        let seconds = Arc::new(AtomicI64::new(0));
        let clock: Clock = Arc::new({
            let seconds = seconds.clone();
            move || at(seconds.load(Ordering::SeqCst))
        });
        let shutdown = CancellationToken::new();
        let serving = Box::pin(apiserver::serve(
            config,
            kubernetes.client(),
            clock,
            shutdown.clone(),
        ));
        let running = tokio::spawn(serving);
        let (address, health) = (written(path("address")).await, written(path("health")).await);
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let server = Self {
            kubernetes,
            address,
            health,
            shutdown,
            running,
            seconds,
            client: client(roots),
            _files: files,
        };
        server.until_ready().await;
        server
    }

    pub fn set_clock(&self, seconds: i64) {
        self.seconds.store(seconds, Ordering::SeqCst);
    }

    pub async fn get_health(&self, path: &str) -> (StatusCode, String) {
        let plain: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let uri = format!("http://{}{path}", self.health).parse().unwrap();
        let response = plain.get(uri).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn until_ready(&self) {
        for _ in 0..500 {
            if self.get_health("/readyz").await.0 == StatusCode::OK {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the server does not become ready");
    }

    pub async fn send(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: &str,
    ) -> hyper::Response<Incoming> {
        let uri = format!("https://localhost:{}{path}", self.address.port());
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        self.client
            .request(request.body(Full::from(body.to_owned())).unwrap())
            .await
            .unwrap()
    }

    pub async fn call(&self, method: Method, path: &str, body: &Value) -> (StatusCode, Value) {
        self.call_as(&token("agent", 3600), method, path, body).await
    }

    pub async fn call_as(
        &self,
        token: &str,
        method: Method,
        path: &str,
        body: &Value,
    ) -> (StatusCode, Value) {
        answer(self.send(method, path, Some(token), &body.to_string()).await).await
    }

    pub async fn open_stream(&self) -> Lines {
        let path = "/v1/nodes/n1/instructions";
        let response = self
            .send(Method::GET, path, Some(&token("agent", 3600)), "")
            .await;
        assert_eq!(response.status(), StatusCode::OK);
        Lines {
            body: response.into_body(),
            pending: Vec::new(),
        }
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        self.running.await.unwrap().unwrap();
    }
}

pub async fn answer(response: hyper::Response<Incoming>) -> (StatusCode, Value) {
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (
        status,
        if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&body).unwrap()
        },
    )
}

pub struct Lines {
    body: Incoming,
    pending: Vec<u8>,
}

impl Lines {
    pub async fn next(&mut self) -> Option<Line> {
        let limit = Duration::from_secs(10);
        tokio::time::timeout(limit, self.read())
            .await
            .expect("a line within ten seconds")
    }

    async fn read(&mut self) -> Option<Line> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = self.body.frame().await?.unwrap();
            self.pending.extend_from_slice(frame.data_ref().unwrap());
        }
    }
}

fn client(roots: rustls::RootCertStore) -> HttpClient {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let https = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .enable_http2()
        .build();
    Client::builder(TokioExecutor::new()).build(https)
}

async fn written(path: PathBuf) -> SocketAddr {
    for _ in 0..500 {
        if let Ok(address) = std::fs::read_to_string(&path) {
            return address.parse().unwrap();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} is not written", path.display());
}

/// A token that looks like one of Kubernetes'.
pub fn token(name: &str, expires: i64) -> String {
    let claims = json!({"sub": name, "exp": at(expires).timestamp()}).to_string();
    format!("header.{}.signature", URL_SAFE_NO_PAD.encode(claims))
}

/// What Kubernetes says of an agent's token.
pub fn review(node: &str, node_uid: &str, pod: &str, pod_uid: &str) -> Value {
    let claim = |name: &str| format!("authentication.kubernetes.io/{name}");
    json!({"authenticated": true, "audiences": [names::TOKEN_AUDIENCE], "user": {
        "username": "system:serviceaccount:ns:brupop-update-agent",
        "extra": {claim("node-name"): [node], claim("node-uid"): [node_uid],
            claim("pod-name"): [pod], claim("pod-uid"): [pod_uid]}}})
}

pub fn report(version: &str) -> Value {
    json!({"current_version": version, "target_version": version, "current_state": "Idle", "crash_count": 0,
        "boot_id": "boot-a"})
}
