//! Connections, requests and answers.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::{Stream, StreamExt as _, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, BodyStream, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{CONNECTION, HOST, TRANSFER_ENCODING};
use hyper::service::service_fn;
use hyper::{Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsAcceptor;

use super::faults::{Asked, Faults, When};
use crate::pki::KeyedCertificate;

pub(super) type Client = legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;
type Body = UnsyncBoxBody<Bytes, Failure>;
type Answer = Response<Body>;

/// On this the connection is closed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("the answer is lost on purpose")]
    Lost,
    #[error("kube-apiserver does not answer: {0}")]
    Upstream(#[from] legacy::Error),
    #[error("a body broke off: {0}")]
    Body(#[from] hyper::Error),
    #[error("a request cannot be passed on: {0}")]
    Request(#[from] hyper::http::Error),
    #[error("the task that passes a request on has ended")]
    Task,
}

pub(super) struct Server {
    tls: TlsAcceptor,
    way: Arc<Way>,
}

/// What every request needs.
struct Way {
    upstream: String,
    client: Client,
    faults: Arc<Faults>,
}

impl Server {
    pub(super) fn new(
        certificate: &KeyedCertificate,
        upstream: &str,
        upstream_ca: &str,
        faults: Arc<Faults>,
    ) -> Result<Self> {
        let way = Way {
            upstream: upstream.to_owned(),
            client: client(upstream_ca)?,
            faults,
        };
        Ok(Self {
            tls: acceptor(certificate)?,
            way: Arc::new(way),
        })
    }

    pub(super) async fn serve(self, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((tcp, _)) => drop(tokio::spawn(converse(self.tls.clone(), tcp, self.way.clone()))),
                Err(error) => {
                    tracing::warn!(%error, "the fault layer cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

async fn converse(tls: TlsAcceptor, tcp: TcpStream, way: Arc<Way>) {
    let mut cuts = way.faults.cuts.subscribe();
    let _ = tcp.set_nodelay(true);
    let conversation = async {
        let Ok(stream) = tls.accept(tcp).await else { return };
        let service = service_fn(|request| {
            // By itself: what was taken is carried out, whatever becomes of its sender.
            let passing = tokio::spawn(Arc::clone(&way).pass(request));
            async move { passing.await.unwrap_or(Err(Failure::Task)) }
        });
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        if let Err(error) = connection.await {
            tracing::debug!(error = ?error, "a connection of the fault layer has ended");
        }
    };
    tokio::select! {
        () = conversation => {}
        _ = cuts.changed() => {}
    }
}

impl Way {
    async fn pass(self: Arc<Self>, request: Request<Incoming>) -> Result<Answer, Failure> {
        // Bodies of requests are small, and faults may depend on them; those of answers are streamed.
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let asked = Asked::new(head.method.clone(), &head.uri, body.clone());
        let place = self.faults.came(asked.clone());
        let released = self.faults.wait(When::Asked, &asked, None).await;

        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut onward = Request::new(Full::new(body));
        *onward.method_mut() = head.method;
        *onward.uri_mut() = format!("{}{path}", self.upstream)
            .parse::<Uri>()
            .map_err(hyper::http::Error::from)?;
        *onward.headers_mut() = head.headers;
        for of_this_connection in [HOST, CONNECTION, TRANSFER_ENCODING] {
            onward.headers_mut().remove(of_this_connection);
        }
        let answer = self.client.request(onward).await;
        let status = answer.as_ref().ok().map(Response::status);
        released.done(status);
        let mut answer = answer?;
        self.faults.answered(place, answer.status());
        let released = self.faults.wait(When::Answered, &asked, status).await;
        released.done(status);
        if self.faults.loses_answer(&asked) {
            return Err(Failure::Lost);
        }
        for of_that_connection in [CONNECTION, TRANSFER_ENCODING] {
            answer.headers_mut().remove(of_that_connection);
        }
        Ok(answer.map(|body| {
            if asked.is_watch() {
                StreamBody::new(late(body, self.faults.clone(), asked)).boxed_unsync()
            } else {
                body.map_err(Failure::from).boxed_unsync()
            }
        }))
    }
}

/// The body, of which everything arrives when it is due, in order.
fn late(
    body: Incoming,
    faults: Arc<Faults>,
    asked: Asked,
) -> impl Stream<Item = Result<Frame<Bytes>, Failure>> {
    let (sender, due) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut frames = BodyStream::new(body);
        loop {
            tokio::select! {
                // Nobody listens any more: with the body the watch upstream ends.
                () = sender.closed() => return,
                frame = frames.next() => {
                    let Some(frame) = frame else { return };
                    let at = Instant::now() + faults.delay_of(&asked);
                    let _nobody_listens = sender.send((at, frame.map_err(Failure::from)));
                }
            }
        }
    });
    stream::unfold(due, |mut due| async move {
        let (at, frame) = due.recv().await?;
        sleep_until(at).await;
        Some((frame, due))
    })
}

pub(super) fn acceptor(certificate: &KeyedCertificate) -> Result<TlsAcceptor> {
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(certificate.certificate.as_bytes())
            .collect::<Result<_, _>>()
            .context("the fault layer's certificate")?;
    let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).context("its key")?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// HTTP/1.1 as the programs speak it: a watch has a connection of its own.
pub(super) fn client(ca: &str) -> Result<Client> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(certificate.context("kube-apiserver's authority")?)?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_only()
        .enable_http1()
        .build();
    Ok(legacy::Client::builder(TokioExecutor::new()).build(connector))
}
