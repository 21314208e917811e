//! Waiting on watches, with deadlines: no sleeping and hoping.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::StreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Api, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What can be waited for.
pub trait Watchable: Resource + Clone + DeserializeOwned + Serialize + Debug + Send + 'static {}
impl<K: Resource + Clone + DeserializeOwned + Serialize + Debug + Send + 'static> Watchable for K {}

/// Waits until one object, or its absence, satisfies `wanted`, and gives it as it then was.
pub async fn for_object<K: Watchable>(
    api: Api<K>,
    name: &str,
    within: Duration,
    what: &str,
    wanted: impl Fn(Option<&K>) -> bool,
) -> Result<Option<K>> {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let found = for_objects(api, config, within, what, |objects| {
        wanted(objects.first().copied())
    })
    .await;
    Ok(found.with_context(|| format!("waiting for {name}"))?.pop())
}

/// Waits until the objects that the configuration selects satisfy `wanted`, and gives them as they then were.
pub async fn for_objects<K: Watchable>(
    api: Api<K>,
    config: watcher::Config,
    within: Duration,
    what: &str,
    wanted: impl Fn(&[&K]) -> bool,
) -> Result<Vec<K>> {
    let mut seen: BTreeMap<(Option<String>, String), K> = BTreeMap::new();
    let watching = async {
        let key = |object: &K| (object.namespace(), object.name_any());
        let mut events = pin!(watch(api, config).default_backoff());
        let mut complete = false;
        loop {
            // Errors are retried by the stream; the deadline bounds them.
            match events.next().await {
                Some(Ok(Event::Init)) => {
                    seen.clear();
                    complete = false;
                }
                Some(Ok(Event::InitApply(object) | Event::Apply(object))) => {
                    seen.insert(key(&object), object);
                }
                Some(Ok(Event::Delete(object))) => {
                    seen.remove(&key(&object));
                }
                Some(Ok(Event::InitDone)) => complete = true,
                Some(Err(error)) => tracing::debug!(%error, what, "watch interrupted"),
                None => bail!("the watch for {what} ended"),
            }
            if complete && wanted(&seen.values().collect::<Vec<_>>()) {
                return Ok(());
            }
        }
    };
    let outcome = tokio::time::timeout(within, watching).await;
    match outcome {
        Ok(ended) => ended?,
        Err(_) => bail!(
            "no {what} within {within:?}; last seen:\n{}",
            summary(seen.values())
        ),
    }
    Ok(seen.into_values().collect())
}

fn summary<'a, K: Watchable>(objects: impl Iterator<Item = &'a K>) -> String {
    const SHOWN: usize = 5;
    let mut texts: Vec<String> = Vec::new();
    let mut more = 0;
    for object in objects {
        if texts.len() == SHOWN {
            more += 1;
            continue;
        }
        let mut object = object.clone();
        object.meta_mut().managed_fields = None;
        texts.push(serde_json::to_string(&object).unwrap_or_else(|error| error.to_string()));
    }
    if more > 0 {
        texts.push(format!("... and {more} more"));
    }
    if texts.is_empty() {
        "nothing".to_owned()
    } else {
        texts.join("\n")
    }
}
