//! Reads afresh what is decided on: always the ledger first, so that nothing that is compared with it is older.

use std::fmt::Debug;

use api::{BottlerocketShadow, UpdateLedger, UpdatePlan, names::LEDGER_NAME};
use kube::{Api, ResourceExt, api::ListParams};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::{
    context::Context,
    observe::has_label,
    request::{RequestError, read},
    view::{Snapshot, Viewed},
};

/// How many objects are read at once, so that a large fleet neither has to be answered nor held in one piece.
const PAGE: u32 = 500;

/// The version of a ledger; None where there is none.
#[must_use]
pub fn version(ledger: Option<&UpdateLedger>) -> Option<String> {
    ledger.and_then(ResourceExt::resource_version)
}

/// Reads the ledger. Returns its version.
///
/// # Errors
/// The read's.
pub async fn ledger(
    context: &Context,
    before: Option<&UpdateLedger>,
) -> Result<Option<String>, RequestError> {
    let before = before.and_then(ResourceExt::uid);
    let limit = context.settings.request_timeout;
    let found = read(limit, context.ledgers.get_opt(LEDGER_NAME)).await?;
    let version = version(found.as_ref());
    let is_another = found.as_ref().and_then(ResourceExt::uid) != before;
    if let Some(before) = before.filter(|_| is_another) {
        context.view.found_gone::<UpdateLedger>(LEDGER_NAME, &before);
    }
    if let Some(ledger) = found {
        context.view.created(ledger);
    }
    Ok(version)
}

/// Whether the ledger is still the one in the snapshot. Where it is, nothing in the snapshot is newer than it.
///
/// # Errors
/// The read's.
pub async fn ledger_is_still(context: &Context, snapshot: &Snapshot) -> Result<bool, RequestError> {
    let known = snapshot.ledger.as_deref();
    Ok(ledger(context, known).await? == version(known))
}

/// Reads the ledger, and then everything that grants depend on. Returns the ledger's version.
///
/// # Errors
/// The reads'.
pub async fn everything(
    context: &Context,
    before: Option<&UpdateLedger>,
) -> Result<Option<String>, RequestError> {
    let version = ledger(context, before).await?;
    nodes(context).await?;
    list::<UpdatePlan>(context, &context.plans, ListParams::default(), |_| true).await?;
    list::<BottlerocketShadow>(context, &context.shadows, ListParams::default(), |_| true).await?;
    Ok(version)
}

/// Reads all nodes that take part.
///
/// # Errors
/// The reads'.
pub async fn nodes(context: &Context) -> Result<(), RequestError> {
    let selector = format!("{}={}", api::names::NODE_LABEL, api::names::NODE_LABEL_VALUE);
    let begun = Instant::now();
    let params = ListParams::default().labels(&selector);
    list(context, &context.nodes, params, has_label).await?;
    context.view.set_nodes_fresh(begun);
    Ok(())
}

/// Brings what is known of a kind up to date by a quorum read of all objects for which `covers` holds.
async fn list<K>(
    context: &Context,
    api: &Api<K>,
    params: ListParams,
    covers: impl Fn(&K) -> bool,
) -> Result<(), RequestError>
where
    K: Viewed + DeserializeOwned + Debug,
{
    let limit = context.settings.request_timeout;
    let epoch = context.view.epoch::<K>();
    let mut params = params.limit(PAGE);
    let (mut objects, mut listed_at) = (Vec::new(), 0);
    loop {
        // Every page is of the same revision as the first.
        let page = read(limit, api.list(&params)).await?;
        let version = page
            .metadata
            .resource_version
            .as_deref()
            .and_then(|version| version.parse().ok());
        listed_at = version.unwrap_or(listed_at);
        objects.extend(page.items.into_iter().map(|mut object| {
            object.trim();
            object
        }));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    for (name, uid) in context.view.listed(objects, listed_at, epoch, covers) {
        context.refresh(api, &name, &uid).await?;
    }
    Ok(())
}
