//! What everything that sends requests shares.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use api::{BottlerocketShadow, UpdateLedger, UpdatePlan};
use axum::http::{HeaderValue, header::USER_AGENT};
use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::legacy::connect::HttpConnector,
    rt::{TokioExecutor, TokioTimer},
};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client,
    client::{Body, ConfigExt},
};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tower::{BoxError, ServiceBuilder};

use crate::{
    events::Publisher,
    metrics::Metrics,
    request::{Fence, RequestError, read},
    settings::Settings,
    view::{View, Viewed},
};

/// What everything that sends requests shares.
pub struct Context {
    /// The flags.
    pub settings: Settings,
    /// What is known.
    pub view: Arc<View>,
    /// The word by which the ledger tells this term's writes from those of any other.
    pub writer: String,
    /// Through which every write goes.
    pub fence: Fence,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where Events go.
    pub events: Publisher,
    /// Bounds the writes under way.
    pub writes: Semaphore,
    /// Bounds the evictions under way.
    pub evictions: Arc<Semaphore>,
    /// The one turn to evict a pod of the operator itself.
    pub own_eviction: Arc<Semaphore>,
    /// The evictions that are sent. They outlive the drain that has sent them.
    pub evicting: TaskTracker,
    /// The API server was found not to list and watch by one request.
    pub lists_apart: AtomicBool,
    /// Each plan.
    pub plans: Api<UpdatePlan>,
    /// Each node.
    pub nodes: Api<Node>,
    /// The shadows of this install.
    pub shadows: Api<BottlerocketShadow>,
    /// The ledger of this install.
    pub ledgers: Api<UpdateLedger>,
    /// The pods of this install.
    pub own_pods: Api<Pod>,
    /// For what has no type of its own here.
    pub client: Client,
}

/// The read buffer of a connection grows up to this, and stays so large: lists come in pieces.
const LARGEST_BUFFER: usize = 64 << 10;

/// A connection that nothing uses is kept for that long: a burst of writes leaves many, each with buffers of its own.
const IDLE_CONNECTION: Duration = Duration::from_secs(20);

/// A client that names itself, and that repeats nothing on its own: every repetition is decided on afresh, and a
/// write that was refused by a PodDisruptionBudget is not to be sent again after the lease has ended.
///
/// It is put together here because kube's own leaves Nagle's algorithm on: then every other request waits some 40 ms
/// for the acknowledgement of the one before.
///
/// # Errors
/// Where the configuration cannot be used.
pub fn client(mut config: kube::Config, settings: &Settings) -> kube::Result<Client> {
    let agent = HeaderValue::from_static(concat!("brupop-update-controller/", env!("CARGO_PKG_VERSION")));
    config.headers.push((USER_AGENT, agent));
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    connector.set_connect_timeout(Some(settings.request_timeout));
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .http1_max_buf_size(LARGEST_BUFFER)
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_CONNECTION)
        .build::<_, Body>(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace))
}

impl Context {
    /// One for a new view.
    #[must_use]
    pub fn new(
        settings: Settings,
        client: Client,
        fence: Fence,
        metrics: Arc<Metrics>,
        events: Publisher,
    ) -> Self {
        Self {
            view: Arc::default(),
            writer: format!("{:016x}", RandomState::new().build_hasher().finish()),
            fence,
            metrics,
            events,
            writes: Semaphore::new(settings.writes.into()),
            evictions: Arc::new(Semaphore::new(settings.evictions.into())),
            own_eviction: Arc::new(Semaphore::new(1)),
            evicting: TaskTracker::new(),
            lists_apart: AtomicBool::new(false),
            plans: Api::all(client.clone()),
            nodes: Api::all(client.clone()),
            shadows: Api::namespaced(client.clone(), &settings.namespace),
            ledgers: Api::namespaced(client.clone(), &settings.namespace),
            own_pods: Api::namespaced(client.clone(), &settings.namespace),
            client,
            settings,
        }
    }

    /// Reads an object afresh into the view.
    ///
    /// # Errors
    /// The read's.
    pub async fn refresh<K>(&self, api: &Api<K>, name: &str, uid: &str) -> Result<(), RequestError>
    where
        K: Viewed + serde::de::DeserializeOwned + std::fmt::Debug,
    {
        match read(self.settings.request_timeout, api.get_opt(name)).await? {
            Some(object) if object.meta().uid.as_deref() == Some(uid) => self.view.answered(object),
            _ => self.view.found_gone::<K>(name, uid),
        }
        Ok(())
    }
}
