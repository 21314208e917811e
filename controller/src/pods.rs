//! The pods of a node, and what becomes of them, by one request where the API server answers both with it.

use std::{pin::Pin, sync::atomic::Ordering};

use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{ListParams, WatchEvent, WatchParams},
};
use tokio::time::timeout;

use crate::{
    context::Context,
    request::{RequestError, read},
};

/// The bookmark with this annotation ends what was there when the watch began.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// What becomes of pods.
pub type PodEvents = Pin<Box<dyn Stream<Item = kube::Result<WatchEvent<Pod>>> + Send>>;

/// The pods of a node as they are now, by a quorum read, and a watch of them from there.
///
/// # Errors
/// The API's, or that there was no answer in time.
pub async fn follow(context: &Context, node: &str) -> Result<(Vec<Pod>, PodEvents), RequestError> {
    let streamed = !context.lists_apart.load(Ordering::Relaxed);
    if streamed {
        match streamed_list(context, node).await {
            Err(error) if is_refusal(&error) => {
                tracing::info!(%error, "the API server does not list and watch by one request; two are made from now on");
                context.lists_apart.store(true, Ordering::Relaxed);
            }
            answer => return answer,
        }
    }
    let pods: Api<Pod> = Api::all(context.client.clone());
    let list = ListParams::default().fields(&on_node(node));
    let list = read(context.settings.request_timeout, pods.list(&list)).await?;
    let version = list.metadata.resource_version.unwrap_or_default();
    let events = watch(context, &params(context, node), &version).await?;
    Ok((list.items, events))
}

/// With no version: a state at least as new as the request, like that of a list by quorum read.
async fn streamed_list(context: &Context, node: &str) -> Result<(Vec<Pod>, PodEvents), RequestError> {
    let limit = context.settings.request_timeout;
    let answer = timeout(limit, async {
        let params = params(context, node).initial_events();
        let mut events = watch(context, &params, "").await?;
        let mut pods = Vec::new();
        loop {
            match events.try_next().await? {
                Some(WatchEvent::Added(pod) | WatchEvent::Modified(pod)) => {
                    remove(&mut pods, &pod);
                    pods.push(pod);
                }
                Some(WatchEvent::Deleted(pod)) => remove(&mut pods, &pod),
                Some(WatchEvent::Bookmark(mark))
                    if mark.metadata.annotations.contains_key(INITIAL_EVENTS_END) =>
                {
                    return Ok((pods, events));
                }
                Some(WatchEvent::Bookmark(_)) => {}
                Some(WatchEvent::Error(status)) => return Err(kube::Error::Api(status).into()),
                None => return Err(RequestError::BrokenOff),
            }
        }
    });
    answer.await.unwrap_or(Err(RequestError::TimedOut(limit)))
}

fn remove(pods: &mut Vec<Pod>, pod: &Pod) {
    pods.retain(|known| known.metadata.uid != pod.metadata.uid);
}

async fn watch(context: &Context, params: &WatchParams, version: &str) -> Result<PodEvents, RequestError> {
    let pods: Api<Pod> = Api::all(context.client.clone());
    let events = read(context.settings.request_timeout, pods.watch(params, version)).await?;
    Ok(events.boxed())
}

fn params(context: &Context, node: &str) -> WatchParams {
    let seconds = u32::try_from(context.settings.watch_timeout.as_secs())
        .unwrap_or(u32::MAX)
        .max(1);
    WatchParams::default().fields(&on_node(node)).timeout(seconds)
}

fn on_node(node: &str) -> String {
    format!("spec.nodeName={node}")
}

/// Whether the request is none that this API server takes: its feature WatchList may be off.
fn is_refusal(error: &RequestError) -> bool {
    error
        .status()
        .is_some_and(|status| matches!(status.code, 400 | 422))
}
