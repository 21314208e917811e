//! Writes the ledger, by compare-and-swap.

use std::time::Duration;

use api::{UpdateLedger, ledger::UpdateLedgerSpec, names::LEDGER_NAME};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Resource, ResourceExt,
    api::{ListParams, PostParams},
};
use planner::decisions::LedgerChange;
use tokio::time::Instant;

use crate::{
    context::Context,
    events::Note,
    patch::Key,
    request::{RequestError, read},
    store::Stored as _,
    view::Snapshot,
};

/// How many nodes are read at once, so that a large fleet neither has to be answered nor held in one piece.
const NODES_PER_PAGE: u32 = 500;

/// What came of a change.
#[derive(Debug, PartialEq, Eq)]
pub enum Swap {
    /// It is written.
    Written,
    /// What it was decided on has changed, or was too old: it is known afresh, and is to be decided on again.
    Renewed,
}

/// Writes `change` over the ledger that `snapshot` has.
///
/// # Errors
/// Where it is not known whether it is written, or it surely is not.
pub async fn swap(
    context: &Context,
    snapshot: &Snapshot,
    change: LedgerChange,
) -> Result<Swap, RequestError> {
    let mut limit = context.fence.limit();
    if change.grants {
        let Some(left) = nodes_fresh_for(context) else {
            list_nodes(context).await?;
            return Ok(Swap::Renewed);
        };
        limit = limit.min(left);
    }
    let before = snapshot.ledger.as_deref();
    let ledger = written_over(before, change.spec);
    let params = PostParams::default();
    let written = if before.is_some() {
        context
            .fence
            .write_within(limit, context.ledgers.replace(LEDGER_NAME, &params, &ledger))
            .await
    } else {
        context
            .fence
            .write_within(limit, context.ledgers.create(&params, &ledger))
            .await
    };
    match written {
        Ok(written) => {
            let whole = written.spec == ledger.spec;
            context.view.created(written);
            if !whole {
                return Err(RequestError::Pruned);
            }
            for event in &change.events {
                if let Some(note) = Note::planned(event, snapshot) {
                    context.events.publish(note);
                }
            }
            Ok(Swap::Written)
        }
        Err(error) if error.is_conflict() || error.is_not_found() => {
            context.metrics.ledger_conflict();
            tracing::debug!(%error, "the ledger has changed; it is read again");
            reread(context, before).await?;
            Ok(Swap::Renewed)
        }
        Err(RequestError::Fenced) => Err(RequestError::Fenced),
        Err(error) => {
            // It may be written all the same.
            reread(context, before).await?;
            Err(error)
        }
    }
}

/// The nodes that `spec` releases. A write of one must have ended before: a cordon that arrives when its grant is gone
/// would be one that no budget counts.
#[must_use]
pub fn released(before: Option<&UpdateLedger>, spec: &UpdateLedgerSpec) -> Vec<Key> {
    let grants = before.iter().flat_map(|before| &before.spec.grants);
    grants
        .filter(|(uid, _)| !spec.grants.contains_key(*uid))
        .map(|(_, grant)| Key::Node(grant.node.clone()))
        .collect()
}

/// The ledger with this content, to be written over the very version that the content was decided on.
#[must_use]
pub fn written_over(before: Option<&UpdateLedger>, spec: UpdateLedgerSpec) -> UpdateLedger {
    UpdateLedger {
        metadata: before.map_or_else(
            || ObjectMeta {
                name: Some(LEDGER_NAME.to_owned()),
                ..ObjectMeta::default()
            },
            |before| before.metadata.clone(),
        ),
        spec,
    }
}

async fn reread(context: &Context, before: Option<&UpdateLedger>) -> Result<(), RequestError> {
    let before = before.and_then(ResourceExt::uid);
    match read(
        context.settings.request_timeout,
        context.ledgers.get_opt(LEDGER_NAME),
    )
    .await?
    {
        Some(ledger) => {
            if let Some(before) = before.filter(|before| ledger.meta().uid.as_deref() != Some(before)) {
                context.view.found_gone::<UpdateLedger>(LEDGER_NAME, &before);
            }
            context.view.created(ledger);
        }
        None => {
            if let Some(before) = before {
                context.view.found_gone::<UpdateLedger>(LEDGER_NAME, &before);
            }
        }
    }
    Ok(())
}

/// For how long what is known of nodes stays fresh enough. None where too little of that is left for a write.
fn nodes_fresh_for(context: &Context) -> Option<Duration> {
    let limit = context.settings.node_freshness;
    let age = context.view.node_age(Instant::now())?;
    limit.checked_sub(age).filter(|left| *left >= limit / 2)
}

/// Brings what is known of nodes up to date by a quorum read.
async fn list_nodes(context: &Context) -> Result<(), RequestError> {
    let limit = context.settings.request_timeout;
    let selector = format!("{}={}", api::names::NODE_LABEL, api::names::NODE_LABEL_VALUE);
    let epoch = context.view.node_epoch();
    let begun = Instant::now();
    let mut params = ListParams::default().labels(&selector).limit(NODES_PER_PAGE);
    let (mut nodes, mut listed_at) = (Vec::new(), 0);
    loop {
        // Every page is of the same revision as the first.
        let page = read(limit, context.nodes.list(&params)).await?;
        let version = page
            .metadata
            .resource_version
            .as_deref()
            .and_then(|version| version.parse().ok());
        listed_at = version.unwrap_or(listed_at);
        nodes.extend(page.items.into_iter().map(|mut node| {
            node.trim();
            node
        }));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    for (name, uid) in context.view.nodes_listed(nodes, listed_at, epoch) {
        context.refresh(&context.nodes, &name, &uid).await?;
    }
    context.view.set_nodes_fresh(begun);
    Ok(())
}
