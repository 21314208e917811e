//! Writes the ledger, by compare-and-swap.

use std::time::Duration;

use api::{UpdateLedger, ledger::UpdateLedgerSpec, names::LEDGER_NAME};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use planner::decisions::LedgerChange;
use tokio::time::Instant;

use crate::{afresh, context::Context, events::Note, patch::Key, request::RequestError, view::Snapshot};

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
    mut change: LedgerChange,
) -> Result<Swap, RequestError> {
    let mut limit = context.fence.limit();
    if change.by_fresh_nodes {
        let Some(left) = nodes_fresh_for(context) else {
            afresh::nodes(context).await?;
            return Ok(Swap::Renewed);
        };
        limit = limit.min(left);
    }
    change.spec.writer.clone_from(&context.writer);
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
            afresh::ledger(context, before).await?;
            Ok(Swap::Renewed)
        }
        Err(RequestError::Fenced) => Err(RequestError::Fenced),
        Err(error) => {
            // It may be written all the same.
            afresh::ledger(context, before).await?;
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

/// For how long what is known of nodes stays fresh enough. None where too little of that is left for a write.
fn nodes_fresh_for(context: &Context) -> Option<Duration> {
    let limit = context.settings.node_freshness;
    let age = context.view.node_age(Instant::now())?;
    limit.checked_sub(age).filter(|left| *left >= limit / 2)
}
