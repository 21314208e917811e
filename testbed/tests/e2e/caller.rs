//! A client of the operator's apiserver that sends what a test gives it, right or wrong.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use testbed::lab::Lab;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::SOON;

/// Sends requests over one connection of HTTP/2.
pub struct Caller {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    address: SocketAddr,
    tls: ClientConfig,
}

/// A request, as it goes over the wire.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    pub method: &'static str,
    pub path: String,
    /// The whole header, such as `Bearer ...`.
    pub authorization: Option<String>,
    pub body: String,
}

/// An answer. A body that is no JSON is null.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Value,
    /// What `WWW-Authenticate` says.
    pub challenge: Option<String>,
}

impl Answer {
    pub fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }
}

impl Caller {
    /// A client with a connection of its own.
    pub fn new(lab: &Lab) -> Self {
        let read = |name: &str| std::fs::read_to_string(lab.plane.directory().join(name)).unwrap();
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(read("operator-ca.crt").as_bytes()).unwrap();
        roots.add(ca).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls.clone())
            .https_only()
            .enable_http2()
            .build();
        Self {
            client: Client::builder(TokioExecutor::new()).build(https),
            address: read("apiserver.address").trim().parse().unwrap(),
            tls,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub async fn send(&self, ask: &Ask) -> hyper::Response<Incoming> {
        let uri = format!("https://{}{}", self.address, ask.path);
        let mut request = Request::builder().method(ask.method).uri(uri);
        if let Some(value) = &ask.authorization {
            request = request.header("authorization", value);
        }
        let request = request.body(Full::from(ask.body.clone())).unwrap();
        let answer = tokio::time::timeout(SOON, self.client.request(request)).await;
        answer.expect("an answer").unwrap()
    }

    pub async fn ask(&self, ask: &Ask) -> Answer {
        let response = self.send(ask).await;
        let status = response.status();
        let challenge = response.headers().get("www-authenticate");
        let challenge = challenge.map(|value| value.to_str().unwrap().to_owned());
        let body = if status == StatusCode::OK && ask.path.ends_with("/instructions") {
            // It does not end: that it is there says enough.
            Value::Null
        } else {
            let body = response.into_body().collect().await.unwrap().to_bytes();
            serde_json::from_slice(&body).unwrap_or_default()
        };
        Answer {
            status,
            body,
            challenge,
        }
    }

    /// Asks as an agent does.
    pub async fn call(&self, method: &'static str, path: &str, token: &str, body: &Value) -> Answer {
        let ask = Ask {
            method,
            path: path.to_owned(),
            authorization: Some(bearer(token)),
            body: if body.is_null() {
                String::new()
            } else {
                body.to_string()
            },
        };
        self.ask(&ask).await
    }

    /// Opens an instruction stream, which must be given.
    pub async fn stream(&self, node: &str, token: &str) -> Lines {
        let ask = Ask {
            method: "GET",
            path: format!("/v1/nodes/{node}/instructions"),
            authorization: Some(bearer(token)),
            body: String::new(),
        };
        let response = self.send(&ask).await;
        assert_eq!(response.status(), StatusCode::OK, "the stream of {node}");
        Lines {
            body: response.into_body(),
            pending: Vec::new(),
        }
    }

    /// A bare TLS connection that offers these protocols and says nothing yet.
    pub async fn tls(&self, protocols: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        let mut tls = self.tls.clone();
        tls.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let tcp = TcpStream::connect(self.address).await?;
        let name = ServerName::IpAddress(self.address.ip().into());
        TlsConnector::from(Arc::new(tls)).connect(name, tcp).await
    }
}

pub fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// The lines of an instruction stream.
pub struct Lines {
    body: Incoming,
    pending: Vec<u8>,
}

impl Lines {
    /// The next line as it was sent; None once the stream has ended, in whatever way.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return Some(String::from_utf8(line).unwrap().trim_end().to_owned());
            }
            let frame = self.body.frame().await?.ok()?;
            self.pending
                .extend_from_slice(&frame.into_data().unwrap_or_default());
        }
    }

    /// The next instruction.
    pub async fn instruction(&mut self) -> Value {
        let search = async {
            loop {
                let line = self.next().await.expect("the stream has ended");
                let line: Value = serde_json::from_str(&line).unwrap();
                if line["type"] == "instruction" {
                    return line;
                }
            }
        };
        tokio::time::timeout(SOON, search).await.expect("an instruction")
    }

    /// Reads to the end, which must come within this time; gives the lines until then.
    pub async fn until_its_end(mut self, within: Duration) -> Vec<String> {
        let rest = async {
            let mut lines = Vec::new();
            while let Some(line) = self.next().await {
                lines.push(line);
            }
            lines
        };
        tokio::time::timeout(within, rest)
            .await
            .expect("the stream goes on")
    }
}

/// A report of a node that runs this version, in this boot.
pub fn report(version: &str, boot_id: &str) -> Value {
    json!({"current_version": version, "target_version": version, "current_state": "Idle", "crash_count": 0,
        "boot_id": boot_id})
}
