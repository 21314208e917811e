//! Client of the apiserver: HTTPS with the pod's token, one connection for everything.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use api::wire::{PermitRequest, PermitResponse, Refusal, StatusReport};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::{Bytes, Incoming},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde::Serialize;
use tokio::time::timeout;

use crate::{bottlerocket::one_line, config::Config};

const MAX_ANSWER: usize = 64 << 10;

type Https = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Why the apiserver did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// It answered, and refused.
    #[error("{status}: {}", refusal.message)]
    Refused {
        /// The answer's status.
        status: StatusCode,
        /// Its reason.
        refusal: Refusal,
    },
    /// It did not answer.
    #[error("no answer: {0}")]
    Unreachable(String),
    /// It answered something that is not what it should be.
    #[error("unreadable answer: {0}")]
    Unreadable(String),
    /// A file that is needed to ask it cannot be used.
    #[error("{path}: {problem}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl ServerError {
    /// Whether it says that the node has no shadow.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                status: StatusCode::NOT_FOUND,
                ..
            }
        )
    }
}

/// The address of the apiserver cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "SERVER_URL {url:?} cannot be used: give scheme https, host and port only, such as https://brupop-update-apiserver:443"
)]
pub struct BadUrl {
    url: String,
}

/// Client of the apiserver.
pub struct Server {
    /// `https://host:port/v1/nodes/node`
    base: String,
    ca_file: PathBuf,
    token_file: PathBuf,
    request_timeout: Duration,
    /// None until it is needed, and again when the connection has failed.
    client: Mutex<Option<Https>>,
}

impl Server {
    /// A client for this node.
    ///
    /// # Errors
    /// Where the address is none.
    pub fn new(config: &Config) -> Result<Self, BadUrl> {
        let bad = || BadUrl {
            url: config.server_url.clone(),
        };
        let url: Uri = config.server_url.parse().map_err(|_| bad())?;
        let authority = url.authority().ok_or_else(bad)?;
        if url.scheme_str() != Some("https") || url.path() != "/" || url.query().is_some() {
            return Err(bad());
        }
        Ok(Self {
            base: format!("https://{authority}/v1/nodes/{}", config.node_name),
            ca_file: config.server_ca_file.clone(),
            token_file: config.token_file.clone(),
            request_timeout: config.timings.request_timeout,
            client: Mutex::new(None),
        })
    }

    /// Has the shadow exist, with this status where it is created.
    ///
    /// # Errors
    /// See [`ServerError`].
    pub async fn ensure_shadow(&self, status: &StatusReport) -> Result<(), ServerError> {
        self.say(Method::POST, "/shadow", status).await.map(drop)
    }

    /// Reports the status.
    ///
    /// # Errors
    /// See [`ServerError`].
    pub async fn report(&self, status: &StatusReport) -> Result<(), ServerError> {
        self.say(Method::PUT, "/status", status).await.map(drop)
    }

    /// Asks for the reboot permit.
    ///
    /// # Errors
    /// See [`ServerError`].
    pub async fn permit(&self, request: &PermitRequest) -> Result<PermitResponse, ServerError> {
        let body = self.say(Method::POST, "/permit", request).await?;
        serde_json::from_slice(&body).map_err(|error| ServerError::Unreadable(error.to_string()))
    }

    /// Opens the instruction stream, on a new connection.
    ///
    /// # Errors
    /// See [`ServerError`].
    pub async fn instructions(&self) -> Result<Incoming, ServerError> {
        self.forget_connection();
        let response = self
            .within(self.request(Method::GET, "/instructions", Bytes::new()))
            .await?;
        Ok(response.into_body())
    }

    async fn say(&self, method: Method, path: &str, body: &impl Serialize) -> Result<Bytes, ServerError> {
        let body = serde_json::to_vec(body).map_err(|error| ServerError::Unreadable(error.to_string()))?;
        let exchange = async { read(self.request(method, path, body.into()).await?).await };
        self.within(exchange).await
    }

    /// The answer, if it is a good one.
    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ServerError> {
        let token = read_file(&self.token_file)?;
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("authorization", format!("Bearer {}", token.trim()))
            .header("content-type", "application/json")
            .header(
                "user-agent",
                concat!("brupop-update-agent/", env!("CARGO_PKG_VERSION")),
            )
            .body(Full::new(body))
            .map_err(|error| ServerError::Unreadable(error.to_string()))?;
        let client = self.client()?;
        let response = client
            .request(request)
            .await
            .map_err(|error| ServerError::Unreachable(chain(&error)))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = read(response).await?;
        let refusal = serde_json::from_slice(&body).unwrap_or_else(|_| Refusal {
            message: one_line(&String::from_utf8_lossy(&body)),
            permit: None,
        });
        Err(ServerError::Refused { status, refusal })
    }

    async fn within<T>(
        &self,
        exchange: impl Future<Output = Result<T, ServerError>>,
    ) -> Result<T, ServerError> {
        let answer = timeout(self.request_timeout, exchange).await;
        let answer = answer.unwrap_or_else(|_| {
            Err(ServerError::Unreachable(format!(
                "not within {:?}",
                self.request_timeout
            )))
        });
        if matches!(answer, Err(ServerError::Unreachable(_))) {
            self.forget_connection();
        }
        answer
    }

    /// Has the next request make a connection of its own, with the CA that the file then has.
    fn forget_connection(&self) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn client(&self) -> Result<Https, ServerError> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        // Else a request waits some 40 ms for the acknowledgement of the one before.
        tcp.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(self.tls()?)
            .https_only()
            .enable_http1()
            .enable_http2()
            .wrap_connector(tcp);
        Ok(client
            .insert(Client::builder(TokioExecutor::new()).build(connector))
            .clone())
    }

    fn tls(&self) -> Result<ClientConfig, ServerError> {
        let problem = |problem: String| ServerError::File {
            path: self.ca_file.clone(),
            problem,
        };
        let pem = read_file(&self.ca_file)?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|error| problem(error.to_string()))?;
            roots
                .add(certificate)
                .map_err(|error| problem(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(problem("holds no certificate".to_owned()));
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| problem(error.to_string()))?;
        Ok(config.with_root_certificates(roots).with_no_client_auth())
    }
}

async fn read(response: Response<Incoming>) -> Result<Bytes, ServerError> {
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    Ok(body
        .map_err(|error| ServerError::Unreachable(error.to_string()))?
        .to_bytes())
}

/// Small files, in memory: there is nothing to wait for.
fn read_file(path: &Path) -> Result<String, ServerError> {
    std::fs::read_to_string(path).map_err(|error: io::Error| ServerError::File {
        path: path.to_owned(),
        problem: error.to_string(),
    })
}

/// An error with what is behind it: a failed handshake is told by its last cause only.
fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}
