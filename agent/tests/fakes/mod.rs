//! An apiserver and a Bottlerocket API with fixed answers, on a real TLS port and a real Unix socket.
#![allow(dead_code, reason = "not every test uses every helper")]

use std::{
    collections::BTreeMap,
    convert::Infallible,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use agent::{Config, Timings};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{
    Request, Response,
    body::{Body, Bytes, Frame, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::mpsc,
    task::AbortHandle,
};
use tokio_rustls::TlsAcceptor;

/// A request that a server got.
#[derive(Clone, Debug)]
pub struct Got {
    pub call: String,
    pub token: String,
    pub body: Value,
}

#[derive(Default)]
struct Inner {
    got: Vec<Got>,
    streams: Vec<mpsc::UnboundedSender<Bytes>>,
    /// What is answered instead of 204, by call.
    answers: BTreeMap<String, (u16, Value)>,
    /// What each stream begins with, after its hello.
    stored: Option<Value>,
}

/// The node's side.
struct Host {
    /// Every call, as `METHOD path`.
    calls: Vec<String>,
    status: Value,
    settings: Value,
}

/// Both servers, and the files that an agent needs to find them.
pub struct World {
    inner: Arc<Mutex<Inner>>,
    host: Arc<Mutex<Host>>,
    folder: TempDir,
    port: u16,
    issuer: CertifiedIssuer<'static, KeyPair>,
    server: AbortHandle,
}

pub const NODE: &str = "/v1/nodes/node-1";

impl World {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let issuer = authority();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        std::fs::write(folder.path().join("token"), "token-1\n").unwrap();
        std::fs::write(folder.path().join("boot_id"), "boot-a\n").unwrap();
        let host = Arc::new(Mutex::new(Host {
            calls: Vec::new(),
            status: json!({"update_state": "Idle"}),
            settings: json!({"version-lock": "latest", "ignore-waves": false}),
        }));
        let socket = UnixListener::bind(folder.path().join("api.sock")).unwrap();
        tokio::spawn(bottlerocket(socket, host.clone()));
        let inner = Arc::new(Mutex::new(Inner::default()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(apiserver(listener, acceptor(&issuer), inner.clone())).abort_handle();
        Self {
            inner,
            host,
            folder,
            port,
            issuer,
            server,
        }
    }

    pub fn config(&self) -> Config {
        let millis = Duration::from_millis;
        Config {
            node_name: "node-1".into(),
            api_socket: self.file("api.sock"),
            boot_id_file: self.file("boot_id"),
            server_url: format!("https://127.0.0.1:{}", self.port),
            server_ca_file: self.file("ca.pem"),
            token_file: self.file("token"),
            timings: Timings {
                reconnect_base: millis(20),
                reconnect_cap: millis(50),
                reconnect_spread: millis(5),
                retry_min: millis(10),
                shadow_wait: millis(50),
                ..Timings::default()
            },
        }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Says a line on every stream that is open.
    pub fn say(&self, line: &Value) {
        let line = Bytes::from(format!("{line}\n"));
        self.inner
            .lock()
            .unwrap()
            .streams
            .retain(|stream| stream.send(line.clone()).is_ok());
    }

    /// Has each stream begin with this line.
    pub fn store(&self, line: Value) {
        self.inner.lock().unwrap().stored = Some(line);
    }

    /// Ends every stream.
    pub fn hang_up(&self) {
        self.inner.lock().unwrap().streams.clear();
    }

    pub fn answer(&self, call: &str, status: u16, body: Value) {
        self.inner
            .lock()
            .unwrap()
            .answers
            .insert(call.to_owned(), (status, body));
    }

    pub fn answer_well(&self, call: &str) {
        self.inner.lock().unwrap().answers.remove(call);
    }

    /// What the apiserver got of this call.
    pub fn got(&self, call: &str) -> Vec<Got> {
        self.inner
            .lock()
            .unwrap()
            .got
            .iter()
            .filter(|got| got.call == call)
            .cloned()
            .collect()
    }

    /// Everything that both servers got.
    pub fn requests(&self) -> usize {
        self.inner.lock().unwrap().got.len() + self.host.lock().unwrap().calls.len()
    }

    /// Every call that Bottlerocket's API got, as `METHOD path`.
    pub fn calls_of_the_node(&self) -> Vec<String> {
        self.host.lock().unwrap().calls.clone()
    }

    /// What Bottlerocket's API answers to `GET /updates/status`.
    pub fn set_status(&self, status: Value) {
        self.host.lock().unwrap().status = status;
    }

    /// What Bottlerocket's API answers to `GET /settings`, the part of the updates.
    pub fn set_settings(&self, settings: Value) {
        self.host.lock().unwrap().settings = settings;
    }

    /// Waits until the apiserver got this call so many times.
    pub async fn until(&self, call: &str, times: usize) -> Got {
        for _ in 0..1000 {
            if let Some(got) = self.got(call).get(times - 1) {
                return got.clone();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!(
            "{call} did not come {times} times: {:?}",
            self.inner.lock().unwrap().got
        );
    }

    /// Waits until so many streams are open, and nothing else happens any more.
    pub async fn until_streams(&self, streams: usize) {
        self.until("GET /instructions", streams).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    /// Waits until a stream is open.
    pub async fn until_open(&self) {
        for _ in 0..1000 {
            if !self.inner.lock().unwrap().streams.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("no stream was opened");
    }

    /// Another authority, and a server with its certificate in place of the one before.
    pub async fn renew_authority(&mut self) {
        self.server.abort();
        self.hang_up();
        self.issuer = authority();
        std::fs::write(self.file("ca.pem"), self.issuer.pem()).unwrap();
        let listener = loop {
            match TcpListener::bind(("127.0.0.1", self.port)).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        let server = apiserver(listener, acceptor(&self.issuer), self.inner.clone());
        self.server = tokio::spawn(server).abort_handle();
    }
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn acceptor(issuer: &CertifiedIssuer<'static, KeyPair>) -> TlsAcceptor {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

async fn apiserver(listener: TcpListener, acceptor: TlsAcceptor, inner: Arc<Mutex<Inner>>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (acceptor, inner) = (acceptor.clone(), inner.clone());
        connections.spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let service = service_fn(move |request| serve(inner.clone(), request));
            let server = http2::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn serve(inner: Arc<Mutex<Inner>>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let path = request.uri().path().strip_prefix(NODE).unwrap_or("?").to_owned();
    let call = format!("{} {path}", request.method());
    let token = request.headers()["authorization"].to_str().unwrap().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let mut inner = inner.lock().unwrap();
    inner.got.push(Got {
        call: call.clone(),
        token,
        body,
    });
    let (status, body) = match inner.answers.get(&call) {
        Some((status, body)) => (*status, Full::new(body.to_string().into()).boxed()),
        None if call == "GET /instructions" => {
            let (sender, receiver) = mpsc::unbounded_channel();
            sender
                .send("{\"type\":\"hello\",\"protocol\":1}\n".into())
                .unwrap();
            if let Some(stored) = &inner.stored {
                sender.send(format!("{stored}\n").into()).unwrap();
            }
            inner.streams.push(sender);
            (200, Lines(receiver).boxed())
        }
        None => (204, Full::new(Bytes::new()).boxed()),
    };
    Ok(Response::builder().status(status).body(body).unwrap())
}

struct Lines(mpsc::UnboundedReceiver<Bytes>);

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(context)
            .map(|data| data.map(|data| Ok(Frame::data(data))))
    }
}

async fn bottlerocket(listener: UnixListener, host: Arc<Mutex<Host>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let host = host.clone();
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let path = request.uri().path().to_owned();
                let mut host = host.lock().unwrap();
                host.calls.push(format!("{} {path}", request.method()));
                let body = match path.as_str() {
                    "/os" => json!({"variant_id": "aws-k8s-1.33", "version_id": "1.20.3", "arch": "x86_64"}),
                    "/settings" => json!({"updates": host.settings}),
                    "/actions/reboot" => Value::Null,
                    _ => host.status.clone(),
                };
                async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(body.to_string())))) }
            });
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}
