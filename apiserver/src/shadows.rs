//! A node's shadow: created for the node that is there now, and reported to.

use std::sync::Arc;

use api::{
    BottlerocketShadow,
    names::shadow_name,
    shadow::{BottlerocketShadowSpec, NodeState},
    wire::StatusReport,
};
use axum::http::StatusCode;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::{
    cluster::{CallError, Cluster},
    feed::Feed,
    identity::Identity,
    rejection::Rejection,
};

/// How often a change is tried again because the shadow was changed in between.
const ATTEMPTS: usize = 5;

/// The UID of the node that a shadow belongs to.
#[must_use]
pub fn owner_uid(shadow: &BottlerocketShadow) -> Option<&str> {
    let owners = shadow.metadata.owner_references.iter().flatten();
    owners
        .filter(|owner| owner.kind == "Node")
        .map(|owner| owner.uid.as_str())
        .next()
}

/// The shadow of a node that nothing is asked of yet.
#[must_use]
pub fn new_shadow(identity: &Identity) -> BottlerocketShadow {
    let spec = BottlerocketShadowSpec {
        state: NodeState::Idle,
        ..BottlerocketShadowSpec::default()
    };
    let mut shadow = BottlerocketShadow::new(&shadow_name(&identity.node), spec);
    shadow.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: identity.node.clone(),
        uid: identity.node_uid.clone(),
        ..OwnerReference::default()
    }]);
    shadow
}

/// Makes sure that the node has a shadow of its own, and stores the report in it. A shadow that an earlier node of
/// the same name left behind is replaced: nothing of it is inherited.
///
/// # Errors
/// Where it cannot be done now.
pub async fn create(
    cluster: &Cluster,
    watched: &Feed<BottlerocketShadow>,
    identity: &Identity,
    report: &StatusReport,
) -> Result<(), Rejection> {
    let shadow = ensure(cluster, identity).await?;
    store(cluster, watched, identity, shadow, report).await
}

/// Stores the report in the node's shadow.
///
/// # Errors
/// Where there is no such shadow, it belongs to another node, or it cannot be done now.
pub async fn report(
    cluster: &Cluster,
    watched: &Feed<BottlerocketShadow>,
    identity: &Identity,
    report: &StatusReport,
) -> Result<(), Rejection> {
    // What the watch shows may be old, so it is believed only where the write proves it: by the version that it
    // carries. That the node has no shadow, another one's, or nothing new to say, is not taken from it.
    let known = watched.get(&shadow_name(&identity.node)).filter(|shadow| {
        owner_uid(shadow) == Some(&identity.node_uid) && shadow.status.as_ref() != Some(report)
    });
    let shadow = match known {
        Some(shadow) => Arc::unwrap_or_clone(shadow),
        None => read(cluster, watched, identity).await?,
    };
    store(cluster, watched, identity, shadow, report).await
}

async fn read(
    cluster: &Cluster,
    watched: &Feed<BottlerocketShadow>,
    identity: &Identity,
) -> Result<BottlerocketShadow, Rejection> {
    let shadow = cluster
        .shadow(&identity.node)
        .await?
        .ok_or_else(|| missing(identity))?;
    watched.answered(shadow.clone());
    Ok(shadow)
}

async fn ensure(cluster: &Cluster, identity: &Identity) -> Result<BottlerocketShadow, Rejection> {
    for _ in 0..ATTEMPTS {
        let Some(shadow) = cluster.shadow(&identity.node).await? else {
            match cluster.create_shadow(&new_shadow(identity)).await {
                Ok(shadow) => {
                    tracing::info!(node = identity.node, "created the node's shadow");
                    return Ok(shadow);
                }
                Err(CallError::Exists) => continue,
                Err(error) => return Err(error.into()),
            }
        };
        if owner_uid(&shadow) == Some(&identity.node_uid) {
            return Ok(shadow);
        }
        tracing::info!(
            node = identity.node,
            "deleting the shadow that an earlier node left behind"
        );
        match cluster
            .delete_shadow(&identity.node, shadow.metadata.uid.as_deref().unwrap_or_default())
            .await
        {
            Ok(()) | Err(CallError::Conflict | CallError::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let name = shadow_name(&identity.node);
    Err(Rejection::unavailable(format!(
        "shadow {name} of an earlier node of this name is still being deleted; look at its finalizers"
    )))
}

async fn store(
    cluster: &Cluster,
    watched: &Feed<BottlerocketShadow>,
    identity: &Identity,
    mut shadow: BottlerocketShadow,
    report: &StatusReport,
) -> Result<(), Rejection> {
    let found = shadow.status.clone();
    for _ in 0..ATTEMPTS {
        if owner_uid(&shadow) != Some(&identity.node_uid) {
            return Err(foreign(identity));
        }
        if shadow.status.as_ref() == Some(report) {
            return Ok(());
        }
        // A request that was slow must not undo a later report of the same agent.
        if shadow.status != found {
            return Err(Rejection::new(
                StatusCode::CONFLICT,
                "another report was stored meanwhile: report what is true now",
            ));
        }
        let version = shadow.metadata.resource_version.as_deref().unwrap_or_default();
        match cluster.write_status(&identity.node, version, report).await {
            Ok(written) => {
                watched.answered(written);
                return Ok(());
            }
            Err(CallError::NotFound) => return Err(missing(identity)),
            Err(CallError::Conflict) => shadow = read(cluster, watched, identity).await?,
            Err(error) => return Err(error.into()),
        }
    }
    Err(Rejection::unavailable(
        "the shadow was changed too often while the report was stored; try again",
    ))
}

fn missing(identity: &Identity) -> Rejection {
    let name = shadow_name(&identity.node);
    Rejection::new(
        StatusCode::NOT_FOUND,
        format!("shadow {name} does not exist: create it with POST …/shadow"),
    )
}

fn foreign(identity: &Identity) -> Rejection {
    let name = shadow_name(&identity.node);
    Rejection::new(
        StatusCode::CONFLICT,
        format!(
            "shadow {name} belongs to another node than UID {}: replace it with POST …/shadow",
            identity.node_uid
        ),
    )
}
