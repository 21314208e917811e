//! The apiserver: agents talk to it, and it alone talks to Kubernetes for them.
//!
//! It keeps no state that matters: any number of replicas serve any agent.
//!
//! * [`config`]: every setting, as a flag and as an environment variable
//! * [`identity`]: token review to node, a pure decision; [`reviews`]: asking for the review, with a bounded cache
//! * [`shadows`]: a node's shadow, created and reported to
//! * [`stream`]: a node's instructions, as they change; [`feed`]: the watches that serve all streams
//! * [`permit`]: the reboot permit: fresh reads, a pure decision, one swap of the ledger
//! * [`cluster`]: every call to the Kubernetes API
//! * [`routes`]: HTTP to the above; [`rejection`]: every answer that is a refusal
//! * [`server`]: connections and their limits; [`tls`]: the certificate, read again when it changes
//! * [`health`]: health, readiness and metrics, on a listener of their own; [`metrics`]: what is counted

pub mod cluster;
pub mod config;
pub mod feed;
pub mod health;
pub mod identity;
pub mod metrics;
pub mod permit;
pub mod rejection;
pub mod reviews;
pub mod routes;
pub mod server;
pub mod shadows;
pub mod stream;
pub mod tls;

use std::{path::Path, sync::Arc};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use kube::Client;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    cluster::Cluster, config::Config, feed::Feeds, health::Health, metrics::Metrics, reviews::Reviews,
    routes::App, tls::Certificates,
};

/// Tells the time; tests set it.
pub type Clock = Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>;

/// The clock of this machine.
#[must_use]
pub fn system_clock() -> Clock {
    Arc::new(Utc::now)
}

/// Serves until `shutdown`, against the cluster that KUBECONFIG or the pod's service account names.
///
/// # Errors
/// Where the cluster, the certificate or a listener cannot be had at start.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    // Another provider that was installed before serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = cluster::connect(&config)
        .await
        .context("no Kubernetes cluster is configured")?;
    serve(config, client, system_clock(), shutdown).await
}

/// Serves until `shutdown` with a client and a clock of the caller's.
///
/// # Errors
/// Where the certificate or a listener cannot be had at start.
pub async fn serve(
    config: Config,
    client: Client,
    clock: Clock,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let certificates = Certificates::load(
        &config.tls_cert_file,
        &config.tls_key_file,
        config.tls_check_interval,
    )?;
    let listener = bind(config.listen, config.listen_address_file.as_deref(), "agents").await?;
    let health_listener = bind(
        config.health_listen,
        config.health_address_file.as_deref(),
        "health",
    )
    .await?;

    let metrics = Arc::new(Metrics::default());
    let cluster = Cluster::new(client, &config);
    let feeds = Feeds::default();
    let watches = TaskTracker::new();
    let stop_watches = CancellationToken::new();
    feeds.watch(&cluster, &config, &watches, &stop_watches);

    let health = Health {
        feeds: feeds.clone(),
        metrics: metrics.clone(),
        shutdown: shutdown.clone(),
    };
    let stop_health = stop_watches.clone();
    watches.spawn(async move {
        let serving = axum::serve(health_listener, health::router(health)).into_future();
        tokio::select! {
            result = serving => if let Err(error) = result {
                tracing::error!(%error, "the health listener ended");
            },
            () = stop_health.cancelled() => {}
        }
    });

    let config = Arc::new(config);
    let app = App {
        reviews: Arc::new(Reviews::new(
            cluster.clone(),
            feeds.nodes.clone(),
            metrics.clone(),
            clock.clone(),
            &config,
        )),
        cluster,
        feeds,
        metrics,
        clock,
        config: config.clone(),
        shutdown: shutdown.clone(),
    };
    server::serve(listener, certificates, routes::router(app), &config, shutdown).await;
    stop_watches.cancel();
    watches.close();
    watches.wait().await;
    tracing::info!("stopped");
    Ok(())
}

async fn bind(address: std::net::SocketAddr, file: Option<&Path>, what: &str) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} for {what}: choose a free address"))?;
    let bound = listener.local_addr()?;
    tracing::info!(address = %bound, what, "listening");
    if let Some(file) = file {
        // Renamed into place, so that nobody reads half an address.
        let partial = file.with_extension("partial");
        tokio::fs::write(&partial, bound.to_string())
            .await
            .with_context(|| format!("cannot write {}", partial.display()))?;
        tokio::fs::rename(&partial, file)
            .await
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(listener)
}
