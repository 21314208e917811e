//! Connections: accepted over TLS, limited in number, size and time, and drained at the end.

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::Request};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use crate::{config::Config, tls::Certificates};

/// Pause after a connection could not be accepted: file descriptors may be short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Most bytes that the headers of a request may have.
const MAX_HEADERS: u32 = 16 * 1024;
/// Most bytes that are read ahead on an HTTP/1 connection, headers included.
const MAX_BUFFER: usize = 64 * 1024;
/// Requests at once on one HTTP/2 connection: an agent has a stream and one more.
const MAX_CONCURRENT_REQUESTS: u32 = 16;

#[derive(Clone, Copy)]
struct Limits {
    handshake: Duration,
    idle: Duration,
    closing: Duration,
}

/// Serves `router` until `shutdown`, and then until the connections have ended or had their time.
pub async fn serve(
    listener: TcpListener,
    certificates: Certificates,
    router: Router,
    config: &Config,
    shutdown: CancellationToken,
) {
    let limits = Limits {
        handshake: config.tls_handshake_timeout,
        idle: config.idle_timeout,
        closing: config.shutdown_timeout,
    };
    let builder = Arc::new(http(config));
    let places = Arc::new(Semaphore::new(
        config.max_connections.get().min(Semaphore::MAX_PERMITS),
    ));
    let connections = TaskTracker::new();
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            next = next => next,
        };
        let tcp = match accepted {
            Ok((tcp, _)) => tcp,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let tls = TlsAcceptor::from(certificates.current());
        let (builder, router, shutdown) = (builder.clone(), router.clone(), shutdown.clone());
        connections.spawn(async move {
            if let Some(stream) = handshake(tls, tcp, limits, &shutdown).await {
                Box::pin(connection(&builder, stream, router, limits, shutdown)).await;
            }
            drop(place);
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

fn http(config: &Config) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        .max_buf_size(MAX_BUFFER);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(config.ping_interval)
        .keep_alive_timeout(config.ping_interval)
        .max_header_list_size(MAX_HEADERS)
        .max_concurrent_streams(MAX_CONCURRENT_REQUESTS);
    builder
}

async fn handshake(
    tls: TlsAcceptor,
    tcp: TcpStream,
    limits: Limits,
    shutdown: &CancellationToken,
) -> Option<TlsStream<TcpStream>> {
    // Instructions are short and urgent; the option only makes them faster.
    let _ = tcp.set_nodelay(true);
    let accepted = tokio::select! {
        () = shutdown.cancelled() => return None,
        accepted = timeout(limits.handshake, tls.accept(tcp)) => accepted,
    };
    match accepted {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            None
        }
        Err(_) => None,
    }
}

async fn connection(
    builder: &Builder<TokioExecutor>,
    stream: TlsStream<TcpStream>,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let activity = Activity::default();
    let service = service_fn({
        let activity = activity.clone();
        move |request| answer(router.clone(), request, activity.begin())
    });
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let told_to_end = async {
        tokio::select! { () = shutdown.cancelled() => {}, () = activity.none_for(limits.idle) => {} }
    };
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = told_to_end => {
            connection.as_mut().graceful_shutdown();
            timeout(limits.closing, connection.as_mut()).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = result {
        tracing::debug!(error, "a connection failed");
    }
}

fn answer(
    router: Router,
    request: Request<Incoming>,
    busy: Busy,
) -> impl Future<Output = Result<axum::response::Response, Infallible>> {
    let answer = router.oneshot(request.map(Body::new));
    async move {
        // The request lasts until its body has been sent, or given up.
        answer.await.map(|response| {
            response.map(|body| {
                Body::new(body.map_err(move |error| {
                    let _ = &busy;
                    error
                }))
            })
        })
    }
}

/// The requests that a connection is busy with.
#[derive(Clone)]
struct Activity(Arc<watch::Sender<usize>>);

/// One of them.
struct Busy(Activity);

impl Default for Activity {
    fn default() -> Self {
        Self(Arc::new(watch::channel(0).0))
    }
}

impl Activity {
    fn begin(&self) -> Busy {
        self.0.send_modify(|requests| *requests += 1);
        Busy(self.clone())
    }

    /// Waits until there has been no request for so long.
    async fn none_for(&self, idle: Duration) {
        let mut requests = self.0.subscribe();
        loop {
            let is_idle = *requests.borrow_and_update() == 0;
            if is_idle {
                if timeout(idle, requests.changed()).await.is_err() {
                    return;
                }
            } else if requests.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.send_modify(|requests| *requests -= 1);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn idle_is_the_time_since_the_last_request_ended() {
        let activity = Activity::default();
        let idle = Duration::from_secs(10);
        let begun = Instant::now();
        let requests = async {
            sleep(Duration::from_secs(9)).await;
            let long = activity.begin();
            sleep(Duration::from_secs(50)).await;
            drop(long);
            sleep(Duration::from_secs(9)).await;
            drop(activity.begin());
        };
        tokio::join!(requests, activity.none_for(idle));
        assert_eq!(begun.elapsed(), Duration::from_secs(9 + 50 + 9 + 10));
    }
}
