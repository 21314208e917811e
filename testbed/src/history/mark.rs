//! A change of every kind, made when a history ends: a watch that shows it has shown everything before it.
//!
//! Without one the API server says how far a watch is only when that is about to end, which takes a second or two.

use std::fmt::Debug;

use api::{BottlerocketShadow, UpdateLedger, UpdatePlan};
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, Result};
use serde_json::{Value, json};

/// The annotation that is changed, and the name of what is made for it.
const MARK: &str = "testbed-recorded";

/// Changes one object of each kind. Where that fails, or a kind has none, the recorder has to wait for its watch to end.
pub(super) async fn all(client: &Client, revision: u64) {
    let selector = json!({"matchLabels": {MARK: "none"}});
    let kinds = [
        kind::<Node>(None),
        kind::<Pod>(None),
        kind::<PodDisruptionBudget>(Some(json!({"selector": selector, "maxUnavailable": 1}))),
        kind::<UpdatePlan>(Some(
            json!({"nodeSelector": selector, "targetVersion": "0.0.1", "paused": true}),
        )),
        kind::<BottlerocketShadow>(None),
        kind::<UpdateLedger>(None),
    ];
    let marks = kinds
        .into_iter()
        .map(|(kind, spec)| async move { (kind.plural.clone(), one(client, &kind, spec, revision).await) });
    for (kind, marked) in join_all(marks).await {
        if let Err(error) = marked {
            tracing::debug!(kind, %error, "no mark");
        }
    }
}

/// A kind, and the spec by which one can be made that nobody minds.
fn kind<K: Resource<DynamicType = ()> + Debug>(spec: Option<Value>) -> (ApiResource, Option<Value>) {
    (ApiResource::erase::<K>(&()), spec)
}

async fn one(client: &Client, kind: &ApiResource, spec: Option<Value>, revision: u64) -> Result<()> {
    let everywhere: Api<DynamicObject> = Api::all_with(client.clone(), kind);
    let some = everywhere
        .list_metadata(&ListParams::default().limit(1))
        .await?
        .items
        .pop();
    let within = |namespace: Option<&str>| match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, kind),
        None => everywhere.clone(),
    };
    if let Some(some) = some {
        let api: Api<DynamicObject> = within(some.metadata.namespace.as_deref());
        let name = some.metadata.name.unwrap_or_default();
        let patch = json!({"metadata": {"annotations": {MARK: revision.to_string()}}});
        api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
    } else if let Some(spec) = spec {
        let mut made = DynamicObject::new(MARK, kind);
        made.data = json!({"spec": spec});
        let namespaced = kind.plural == PodDisruptionBudget::plural(&());
        let api = within(namespaced.then_some("default"));
        api.create(&PostParams::default(), &made).await?;
    }
    Ok(())
}
