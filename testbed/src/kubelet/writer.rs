//! Writes that are repeated until they succeed or make no sense any more.

use std::time::Duration;

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt as _};
use serde_json::Value;
use tokio::sync::Semaphore;

/// How many writes are under way at once, for all nodes together.
const AT_ONCE: usize = 32;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// A conflict that stays is not one of timing.
const CONFLICTS: u32 = 5;

pub(super) struct Writer {
    client: Client,
    permits: Semaphore,
}

impl Writer {
    pub fn new(client: Client) -> Self {
        Self {
            client,
            permits: Semaphore::new(AT_ONCE),
        }
    }

    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Repeats the attempt until it succeeds. None: the object is gone or is not what was meant.
    pub async fn persist<T, F>(&self, what: &str, attempt: impl Fn() -> F) -> Option<T>
    where
        F: Future<Output = kube::Result<T>>,
    {
        let mut pause = FIRST_PAUSE;
        let mut conflicts = 0;
        loop {
            let outcome = {
                // The semaphore is never closed.
                let _permit = self.permits.acquire().await.ok();
                attempt().await
            };
            match outcome {
                Ok(value) => return Some(value),
                Err(kube::Error::Api(status)) if status.code == 404 => return None,
                Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 422) => {
                    tracing::warn!(what, code = status.code, answer = status.message, "refused");
                    return None;
                }
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    conflicts += 1;
                    if conflicts == CONFLICTS {
                        tracing::debug!(what, answer = status.message, "given up");
                        return None;
                    }
                }
                Err(error) => tracing::debug!(what, %error, "tried again"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// Changes a pod's status; none where this very pod is gone.
    pub async fn patch_pod_status(&self, pod: &Pod, status: &Value) -> Option<()> {
        let api: Api<Pod> = Api::namespaced(self.client(), &pod.namespace().unwrap_or_default());
        // The uid makes it a conflict where another pod has the name by now.
        let patch = serde_json::json!({ "metadata": { "uid": pod.uid() }, "status": status });
        let name = pod.name_any();
        self.persist("pod status", || async {
            api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(&patch))
                .await
                .map(|_| ())
        })
        .await
    }

    /// Ends a pod for good, as a kubelet does when its containers have ended.
    pub async fn delete_pod(&self, pod: &Pod) {
        let api: Api<Pod> = Api::namespaced(self.client(), &pod.namespace().unwrap_or_default());
        let parameters = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: pod.uid(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let name = pod.name_any();
        self.persist("pod deletion", || async {
            api.delete(&name, &parameters).await.map(|_| ())
        })
        .await;
    }

    /// Asks for a service account token.
    pub async fn token(
        &self,
        namespace: &str,
        account: &str,
        request: &TokenRequest,
    ) -> Option<TokenRequest> {
        let api: Api<ServiceAccount> = Api::namespaced(self.client(), namespace);
        let asked = self.persist("token request", || async {
            api.create_token_request(account, &PostParams::default(), request)
                .await
        });
        asked.await
    }
}
