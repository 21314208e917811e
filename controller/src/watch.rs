//! Keeps the view up to date.

use std::{fmt::Debug, pin::pin, sync::Arc, time::Duration};

use api::names::{
    COMPONENT_AGENT, COMPONENT_APISERVER, COMPONENT_CONTROLLER, COMPONENT_LABEL, NAME_LABEL, OPERATOR_NAME,
};
use futures::StreamExt;
use kube::{
    Api,
    runtime::{
        WatchStreamExt,
        utils::Backoff,
        watcher::{Config, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::{task::JoinSet, time::Instant};

use crate::{apply, context::Context, request::with_causes, view::Viewed};

/// Starts all watches; they end when the set is dropped.
///
/// Each begins with a list by quorum read, so that a new leader knows no less than the one before it. kube's
/// streaming lists ask for any state not older than version 0, which a lagging API server may serve from its past.
#[must_use]
pub fn start(context: &Arc<Context>) -> JoinSet<()> {
    let seconds = u32::try_from(context.settings.watch_timeout.as_secs())
        .unwrap_or(u32::MAX)
        .max(1);
    let all = Config::default().timeout(seconds);
    let own_pods = all.clone().labels(&format!(
        "{NAME_LABEL}={OPERATOR_NAME},{COMPONENT_LABEL} in ({COMPONENT_AGENT},{COMPONENT_APISERVER},{COMPONENT_CONTROLLER})"
    ));
    let mut watches = JoinSet::new();
    watches.spawn(follow(context.clone(), context.plans.clone(), all.clone()));
    watches.spawn(follow(context.clone(), context.nodes.clone(), all.clone()));
    watches.spawn(follow(context.clone(), context.shadows.clone(), all.clone()));
    watches.spawn(follow(context.clone(), context.ledgers.clone(), all));
    watches.spawn(follow(context.clone(), context.own_pods.clone(), own_pods));
    watches
}

async fn follow<K>(context: Arc<Context>, api: Api<K>, config: Config)
where
    K: Viewed<DynamicType = ()> + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let delays = Delays {
        base: context.settings.error_backoff,
        failures: 0,
        last: None,
    };
    let mut events = pin!(watcher(api, config).backoff(delays));
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => context.view.watched(event),
            Err(error) => {
                let error = with_causes(&error);
                tracing::warn!(kind = %K::kind(&()), error, "a watch was interrupted; it goes on");
            }
        }
    }
}

/// The same delays as after writes that fail. kube resets them before each list, also where no list succeeds; so
/// only time resets them here.
struct Delays {
    base: Duration,
    failures: u32,
    last: Option<Instant>,
}

impl Iterator for Delays {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let quiet = apply::backoff(self.base, u32::MAX) * 2;
        if self.last.is_some_and(|last| last.elapsed() > quiet) {
            self.failures = 0;
        }
        self.last = Some(Instant::now());
        self.failures = self.failures.saturating_add(1);
        Some(apply::backoff(self.base, self.failures))
    }
}

impl Backoff for Delays {
    fn reset(&mut self) {}
}
