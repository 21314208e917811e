//! HTTP to the parts that do the work: who asks, for what, and how it is answered.

use std::{convert::Infallible, sync::Arc};

use api::{
    names::shadow_name,
    wire::{Line, PermitRequest, PermitResponse, StatusReport},
};
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{
        DefaultBodyLimit, FromRequestParts, MatchedPath, Path, Request, State, rejection::BytesRejection,
    },
    http::{Method, StatusCode, header, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{get, post, put},
};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::{
    Clock,
    cluster::Cluster,
    config::Config,
    feed::Feeds,
    identity::Denied,
    metrics::Metrics,
    permit,
    rejection::Rejection,
    reviews::{Caller, Review, Reviews},
    shadows,
    stream::{Delays, Session},
};

/// What the routes need.
#[derive(Clone)]
pub struct App {
    /// Who bears which token.
    pub reviews: Arc<Reviews>,
    /// The Kubernetes API.
    pub cluster: Cluster,
    /// The watches.
    pub feeds: Feeds,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: Clock,
    /// The settings.
    pub config: Arc<Config>,
    /// Ends the streams.
    pub shutdown: CancellationToken,
}

/// The routes for agents.
pub fn router(app: App) -> Router {
    Router::new()
        .route("/v1/nodes/{node}/shadow", post(create_shadow))
        .route("/v1/nodes/{node}/status", put(report_status))
        .route("/v1/nodes/{node}/instructions", get(instructions))
        .route("/v1/nodes/{node}/permit", post(give_permit))
        .fallback(|| async { Rejection::new(StatusCode::NOT_FOUND, "there is no such path") })
        .method_not_allowed_fallback(|method: Method| async move {
            Rejection::new(
                StatusCode::METHOD_NOT_ALLOWED,
                format!("{method} is not served here"),
            )
        })
        .layer(DefaultBodyLimit::max(app.config.max_body))
        .layer(middleware::from_fn_with_state(app.clone(), limit_time))
        .layer(middleware::from_fn_with_state(app.clone(), count))
        .with_state(app)
}

/// A caller whose token was reviewed within the last seconds.
struct Known(Caller);
/// A caller whose token was reviewed for this request.
struct Fresh(Caller);

impl FromRequestParts<App> for Known {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Rejection> {
        identify(parts, app, Review::Remembered).await.map(Self)
    }
}

impl FromRequestParts<App> for Fresh {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Rejection> {
        identify(parts, app, Review::Afresh).await.map(Self)
    }
}

async fn identify(parts: &mut Parts, app: &App, wanted: Review) -> Result<Caller, Rejection> {
    let Path(node) = Path::<String>::from_request_parts(parts, app)
        .await
        .map_err(|error| Rejection::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let token = bearer(parts).ok_or(Denied::NoToken)?;
    let result = app
        .reviews
        .identify(token, &node, wanted)
        .await
        .map_err(Rejection::from);
    result.inspect_err(|rejection| {
        tracing::info!(
            node,
            status = rejection.status.as_u16(),
            reason = rejection.refusal.message,
            "refused"
        );
    })
}

fn bearer(parts: &Parts) -> Option<&str> {
    let value = parts.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("Bearer") && !token.is_empty()).then_some(token)
}

type Received = Result<Bytes, BytesRejection>;

fn read<T: DeserializeOwned>(body: Received) -> Result<T, Rejection> {
    let body = body.map_err(|error| Rejection::new(error.status(), error.body_text()))?;
    Json::from_bytes(&body)
        .map(|Json(value)| value)
        .map_err(|error| Rejection::new(StatusCode::BAD_REQUEST, error.body_text()))
}

async fn create_shadow(
    Known(caller): Known,
    State(app): State<App>,
    body: Received,
) -> Result<StatusCode, Rejection> {
    let report: StatusReport = read(body)?;
    shadows::create(&app.cluster, &app.feeds.shadows, &caller.identity, &report).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn report_status(
    Known(caller): Known,
    State(app): State<App>,
    body: Received,
) -> Result<StatusCode, Rejection> {
    let report: StatusReport = read(body)?;
    shadows::report(&app.cluster, &app.feeds.shadows, &caller.identity, &report).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn give_permit(
    Fresh(caller): Fresh,
    State(app): State<App>,
    body: Received,
) -> Result<Json<PermitResponse>, Rejection> {
    let request: PermitRequest = read(body)?;
    let result = permit::give(
        &app.cluster,
        &app.feeds.ledgers,
        &app.clock,
        &caller.identity,
        &request,
    )
    .await;
    app.metrics.permit(permit::result_label(&result));
    let (node, run, attempt) = (&caller.identity.node, &request.run, request.attempt);
    match &result {
        Ok(given) => tracing::info!(
            node,
            run,
            attempt,
            permit = given.permit_id,
            "reboot permit given"
        ),
        Err(refused) => {
            let reason = &refused.refusal.message;
            tracing::info!(node, run, attempt, reason, "reboot permit refused");
        }
    }
    result.map(Json)
}

async fn instructions(Fresh(caller): Fresh, State(app): State<App>) -> Result<Response, Rejection> {
    let Caller { identity, expires } = caller;
    let follow = (
        app.feeds.shadows.subscribe(&shadow_name(&identity.node)),
        app.feeds.pods.subscribe(&identity.pod),
    );
    // Read after following has begun, so that no change is missed; and read, so that an agent that was restarted
    // gets what it has reported last even where the watch lags.
    let stored = app.cluster.shadow(&identity.node).await?;
    if let Some(stored) = &stored {
        app.feeds.shadows.answered(stored.clone());
    }
    let delays = Delays {
        token: (expires - (app.clock)()).to_std().unwrap_or_default(),
        pod_grace: app.config.pod_grace,
        heartbeat: app.config.heartbeat,
    };
    let open = app.metrics.stream();
    let session = Session::new(identity, stored.as_ref(), follow, delays, app.shutdown, open);
    let lines = futures::stream::unfold(session, |mut session| async move {
        let line = session.next().await?;
        Some((Ok::<_, Infallible>(encode(&line)), session))
    });
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, Body::from_stream(lines)).into_response())
}

fn encode(line: &Line) -> Vec<u8> {
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    text
}

async fn limit_time(State(app): State<App>, request: Request, next: Next) -> Response {
    let limit = app.config.request_timeout;
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Rejection::unavailable(format!("the request took longer than {limit:?}; try again"))
            .into_response(),
    }
}

async fn count(State(app): State<App>, path: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    app.metrics.request(
        path.as_ref().map_or("none", MatchedPath::as_str),
        response.status().as_u16(),
    );
    response
}
