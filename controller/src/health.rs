//! `/metrics`, `/healthz` and `/readyz`: the only thing that listens.

use std::{
    io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpListener, time::Instant};

use crate::metrics::Metrics;

/// The loop turns at least every [`crate::run::LONGEST_WAIT`], and no request in it takes nearly this long more.
const STUCK: Duration = Duration::from_secs(180);

/// Whether this process works.
#[derive(Debug)]
pub struct Health {
    state: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    turned: Instant,
    /// Whether the API has answered.
    answers: bool,
    /// Whether a leader's watches are still to list everything once.
    syncing: bool,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            state: Mutex::new(Inner {
                turned: Instant::now(),
                answers: false,
                syncing: false,
            }),
        }
    }
}

impl Health {
    fn change(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The loop has turned.
    pub fn turned(&self) {
        self.change(|state| state.turned = Instant::now());
    }

    /// The API has answered.
    pub fn api_answers(&self) {
        self.change(|state| state.answers = true);
    }

    /// Whether the watches of a leader are still to list everything once.
    pub fn set_syncing(&self, syncing: bool) {
        self.change(|state| state.syncing = syncing);
    }

    /// Whether the loop turns.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .turned
            .elapsed()
            < STUCK
    }

    /// Whether it leads with all watches synced, or stands by and could.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.answers && !state.syncing
    }
}

/// Listens, and says where in `address_file`.
///
/// # Errors
/// Where the address cannot be had, or the file cannot be written.
pub async fn bind(address: SocketAddr, address_file: Option<&Path>) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    if let Some(file) = address_file {
        // Renamed into place, so that whoever waits for it never reads half an address.
        let partial = file.with_extension("partial");
        tokio::fs::write(&partial, bound.to_string()).await?;
        tokio::fs::rename(&partial, file).await?;
    }
    tracing::info!(address = %bound, "serving /metrics, /healthz and /readyz");
    Ok(listener)
}

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, health: Arc<Health>, metrics: Arc<Metrics>) {
    if let Err(error) = axum::serve(listener, routes(health, metrics)).await {
        tracing::error!(%error, "serving /metrics, /healthz and /readyz has ended");
    }
}

fn routes(health: Arc<Health>, metrics: Arc<Metrics>) -> Router {
    let answer = |ok: bool| {
        if ok {
            (StatusCode::OK, "ok\n")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "not ok\n")
        }
    };
    let probes = Router::new()
        .route(
            "/healthz",
            get(move |State(health): State<Arc<Health>>| async move { answer(health.is_alive()) }),
        )
        .route(
            "/readyz",
            get(move |State(health): State<Arc<Health>>| async move { answer(health.is_ready()) }),
        )
        .with_state(health);
    Router::new()
        .route("/metrics", get(scrape))
        .with_state(metrics)
        .merge(probes)
}

async fn scrape(State(metrics): State<Arc<Metrics>>) -> Response {
    match metrics.encode() {
        Ok(text) => (
            [(
                CONTENT_TYPE,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            )],
            text,
        )
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_does_not_turn_is_not_alive() {
        let health = Health::default();
        assert!(health.is_alive());
        tokio::time::sleep(STUCK).await;
        assert!(!health.is_alive());
        health.turned();
        assert!(health.is_alive());
    }

    #[tokio::test]
    async fn ready_is_who_reaches_the_api_and_is_not_syncing() {
        let health = Health::default();
        assert!(!health.is_ready());
        health.api_answers();
        assert!(health.is_ready(), "standing by");
        health.set_syncing(true);
        assert!(!health.is_ready());
        health.set_syncing(false);
        assert!(health.is_ready());
    }
}
