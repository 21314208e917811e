//! Every call to the Kubernetes API. Reads carry no resourceVersion, so each is as fresh as a quorum read.

use std::{future::Future, sync::Arc, time::Duration};

use anyhow::Context as _;
use api::{
    BottlerocketShadow, UpdateLedger,
    names::{self, shadow_name},
    shadow::BottlerocketShadowStatus,
};
use hyper_timeout::TimeoutConnector;
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioExecutor};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus},
    core::v1::{Node, Pod},
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
    client::{Body, ConfigExt as _, retry::RetryPolicy},
    core::{DeserializeGuard, PartialObjectMeta},
};
use serde_json::json;
use tokio::sync::{Mutex, MutexGuard};
use tower::{BoxError, ServiceBuilder, retry::RetryLayer};

use crate::config::Config;

/// Why a call did not do what it was to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The object was changed or replaced after it was read.
    #[error("the object was changed meanwhile")]
    Conflict,
    /// The object exists.
    #[error("the object exists already")]
    Exists,
    /// The object does not exist.
    #[error("the object does not exist")]
    NotFound,
    /// The object breaks the resource's schema.
    #[error("{0}")]
    Invalid(String),
    /// There was no answer in time, or none that says whether the call was carried out.
    #[error("the Kubernetes API is unavailable: {0}")]
    Unavailable(String),
}

impl From<kube::Error> for CallError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.is_already_exists() => Self::Exists,
            kube::Error::Api(status) if status.is_conflict() => Self::Conflict,
            kube::Error::Api(status) if status.is_not_found() => Self::NotFound,
            kube::Error::Api(status) if matches!(status.code, 400 | 422) => Self::Invalid(status.message),
            kube::Error::Api(status) => Self::Unavailable(status.message),
            other => Self::Unavailable(other.to_string()),
        }
    }
}

/// The read buffer of a connection grows up to this, and stays so large: lists come in pieces.
const LARGEST_BUFFER: usize = 64 << 10;

/// The client for the cluster that KUBECONFIG or the pod's service account names.
///
/// It is put together here because kube's own leaves Nagle's algorithm on: then every other request waits some 40 ms
/// for the acknowledgement of the one before.
///
/// # Errors
/// Where neither names one.
pub async fn connect(config: &Config) -> anyhow::Result<Client> {
    let mut settings = kube::Config::infer().await?;
    let agent = concat!("brupop-update-apiserver/", env!("CARGO_PKG_VERSION"));
    settings.headers.push((
        hyper::header::USER_AGENT,
        hyper::header::HeaderValue::from_static(agent),
    ));
    let problem = "the client's settings";
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let tls = settings.rustls_https_connector_with_connector(tcp);
    let mut connector = TimeoutConnector::new(tls.context(problem)?);
    connector.set_connect_timeout(Some(config.client_request_timeout));
    connector.set_write_timeout(Some(config.client_request_timeout));
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .http1_max_buf_size(LARGEST_BUFFER)
        .build::<_, Body>(connector);
    let service = ServiceBuilder::new()
        .layer(settings.base_uri_layer())
        .layer(RetryLayer::new(RetryPolicy::server_retry()))
        .option_layer(settings.auth_layer().context(problem)?)
        .layer(settings.extra_headers_layer().context(problem)?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, settings.default_namespace))
}

/// The Kubernetes API, as far as it is needed.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespace: String,
    timeout: Duration,
    swapping: Arc<Mutex<()>>,
}

impl Cluster {
    /// The cluster that `client` reaches.
    #[must_use]
    pub fn new(client: Client, config: &Config) -> Self {
        Self {
            client,
            namespace: config.namespace.clone(),
            timeout: config.client_request_timeout,
            swapping: Arc::default(),
        }
    }

    /// Where the operator is installed.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A turn to change the ledger. Where many nodes ask at once, requests of this process would make each other's
    /// swaps fail; what other processes change the swap itself finds out.
    pub async fn turn_to_swap(&self) -> MutexGuard<'_, ()> {
        self.swapping.lock().await
    }

    async fn within<T>(&self, call: impl Future<Output = kube::Result<T>> + Send) -> Result<T, CallError> {
        match tokio::time::timeout(self.timeout, Box::pin(call)).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(CallError::Unavailable(format!(
                "no answer within {:?}",
                self.timeout
            ))),
        }
    }

    /// What the nodes are called, without what they hold.
    #[must_use]
    pub fn nodes(&self) -> Api<PartialObjectMeta<Node>> {
        Api::all(self.client.clone())
    }

    /// What the pods of the install's namespace are called, without what they hold.
    #[must_use]
    pub fn own_pods(&self) -> Api<PartialObjectMeta<Pod>> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn shadows(&self) -> Api<BottlerocketShadow> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The shadows, each of which may be one that only another version understands.
    #[must_use]
    pub fn readable_shadows(&self) -> Api<DeserializeGuard<BottlerocketShadow>> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The ledger, alone of its kind.
    #[must_use]
    pub fn ledgers(&self) -> Api<UpdateLedger> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Asks whose token this is.
    ///
    /// # Errors
    /// Where there is no answer.
    pub async fn review(&self, token: &str) -> Result<TokenReviewStatus, CallError> {
        let spec = TokenReviewSpec {
            audiences: Some(vec![names::TOKEN_AUDIENCE.to_owned()]),
            token: Some(token.to_owned()),
        };
        let review = TokenReview {
            spec,
            ..TokenReview::default()
        };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let answer = self
            .within(reviews.create(&PostParams::default(), &review))
            .await?;
        Ok(answer.status.unwrap_or_default())
    }

    /// The node's UID, if there is such a node.
    ///
    /// # Errors
    /// Where there is no answer.
    pub async fn node_uid(&self, name: &str) -> Result<Option<String>, CallError> {
        let node = self.within(self.nodes().get_opt(name)).await?;
        Ok(node.and_then(|node| node.metadata.uid))
    }

    /// The node, if there is one of this name.
    ///
    /// # Errors
    /// Where there is no answer.
    pub async fn node(&self, name: &str) -> Result<Option<Node>, CallError> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        self.within(nodes.get_opt(name)).await
    }

    /// The pods bound to a node, in all namespaces.
    ///
    /// # Errors
    /// Where there is no answer.
    pub async fn pods_on(&self, node: &str) -> Result<Vec<Pod>, CallError> {
        let pods: Api<Pod> = Api::all(self.client.clone());
        let on_node = ListParams::default().fields(&format!("spec.nodeName={node}"));
        Ok(self.within(pods.list(&on_node)).await?.items)
    }

    /// The ledger, if there is one.
    ///
    /// # Errors
    /// Where there is no answer.
    pub async fn ledger(&self) -> Result<Option<UpdateLedger>, CallError> {
        self.within(self.ledgers().get_opt(names::LEDGER_NAME)).await
    }

    /// Replaces the ledger, if it still is at the resourceVersion that `ledger` carries.
    ///
    /// # Errors
    /// [`CallError::Conflict`] where it is not, or where there is no answer.
    pub async fn swap_ledger(&self, ledger: &UpdateLedger) -> Result<UpdateLedger, CallError> {
        self.within(
            self.ledgers()
                .replace(names::LEDGER_NAME, &PostParams::default(), ledger),
        )
        .await
    }

    /// The shadow of a node, if there is one.
    ///
    /// # Errors
    /// Where there is no answer.
    pub async fn shadow(&self, node: &str) -> Result<Option<BottlerocketShadow>, CallError> {
        self.within(self.shadows().get_opt(&shadow_name(node))).await
    }

    /// Creates a shadow.
    ///
    /// # Errors
    /// [`CallError::Exists`], or where there is no answer.
    pub async fn create_shadow(&self, shadow: &BottlerocketShadow) -> Result<BottlerocketShadow, CallError> {
        self.within(self.shadows().create(&PostParams::default(), shadow))
            .await
    }

    /// Deletes the shadow of a node, if it still has this UID.
    ///
    /// # Errors
    /// [`CallError::Conflict`] or [`CallError::NotFound`] where it does not, or where there is no answer.
    pub async fn delete_shadow(&self, node: &str, uid: &str) -> Result<(), CallError> {
        let params = DeleteParams::default().preconditions(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        });
        self.within(self.shadows().delete(&shadow_name(node), &params))
            .await?;
        Ok(())
    }

    /// Replaces the status of a shadow, field by field, if it still is at this resourceVersion.
    ///
    /// # Errors
    /// [`CallError::Conflict`] where it is not, or where there is no answer.
    pub async fn write_status(
        &self,
        node: &str,
        resource_version: &str,
        status: &BottlerocketShadowStatus,
    ) -> Result<BottlerocketShadow, CallError> {
        let patch =
            Patch::Merge(json!({"metadata": {"resourceVersion": resource_version}, "status": status}));
        self.within(
            self.shadows()
                .patch_status(&shadow_name(node), &PatchParams::default(), &patch),
        )
        .await
    }
}
