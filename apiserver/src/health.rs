//! Health, readiness and metrics, on a listener of their own.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use tokio_util::sync::CancellationToken;

use crate::{feed::Feeds, metrics::Metrics};

/// What the health routes look at.
#[derive(Clone)]
pub struct Health {
    /// Ready only when these are synced.
    pub feeds: Feeds,
    /// What `/metrics` shows.
    pub metrics: Arc<Metrics>,
    /// No longer ready once this is cancelled.
    pub shutdown: CancellationToken,
}

/// The health routes.
pub fn router(health: Health) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(health)
}

async fn ready(State(health): State<Health>) -> impl IntoResponse {
    if health.shutdown.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping")
    } else if health.feeds.are_synced() {
        (StatusCode::OK, "ok")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the watches of shadows, nodes and agent pods are not synced yet",
        )
    }
}

async fn metrics(State(health): State<Health>) -> impl IntoResponse {
    let openmetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, openmetrics)], health.metrics.text())
}
