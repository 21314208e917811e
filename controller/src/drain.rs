//! Empties nodes by evictions, one task a node; nothing waits for them.
//!
//! A task reads the node's pods, evicts what may not stay, and then follows a watch of them: a pod that goes makes
//! it try at once those that were refused. It keeps watching while the node is to be drained, so that a pod that
//! comes late has to go as well. That a node is empty is said only after reading its pods afresh.
//!
//! The operator's own pods are evicted last, one at a time in the whole install, and each after reading afresh that
//! another replica is Ready elsewhere: so two nodes that are drained at once do not take each other's.

use std::{collections::HashMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, WatchEvent};
use planner::decisions::DrainOrder;
use tokio::{
    sync::OwnedSemaphorePermit,
    task::AbortHandle,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    context::Context,
    evict::{Evicted, evict},
    left::{Going, Left},
    observe, pods,
    request::{RequestError, read},
};

/// How much longer than its own time-out a watch may be silent.
const WATCH_MARGIN: Duration = Duration::from_secs(5);

/// The drains that run.
pub struct Drains {
    context: Arc<Context>,
    running: HashMap<(String, DateTime<Utc>), Running>,
    next_id: u64,
}

struct Running {
    id: u64,
    task: AbortHandle,
}

impl Drains {
    /// None yet.
    #[must_use]
    pub fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            running: HashMap::new(),
            next_id: 0,
        }
    }

    /// Starts what is listed and does not run; stops what runs and is not listed.
    pub fn follow(&mut self, orders: Vec<DrainOrder>) {
        let mut before = std::mem::take(&mut self.running);
        for order in orders {
            let key = (order.uid.clone(), order.cordoned_at);
            let running = before.remove(&key).unwrap_or_else(|| self.begin(order));
            self.running.insert(key, running);
        }
        for ((uid, _), running) in before {
            self.end(&uid, &running);
        }
    }

    fn begin(&mut self, order: DrainOrder) -> Running {
        self.next_id += 1;
        let id = self.next_id;
        tracing::info!(node = order.node, "draining");
        self.context.view.drain_began(&order.uid, id, order.cordoned_at);
        let task = tokio::spawn(drain(self.context.clone(), order, id)).abort_handle();
        Running { id, task }
    }

    fn end(&self, uid: &str, running: &Running) {
        running.task.abort();
        self.context.view.drain_ended(uid, running.id);
    }
}

impl Drop for Drains {
    fn drop(&mut self) {
        for ((uid, _), running) in &self.running {
            self.end(uid, running);
        }
    }
}

async fn drain(context: Arc<Context>, order: DrainOrder, id: u64) {
    let namespace = context.settings.namespace.clone();
    let mut left = Left::new(order.cordoned_at, order.node.clone(), namespace);
    loop {
        if let Err(error) = pass(&context, &order, id, &mut left).await {
            tracing::warn!(node = order.node, %error, "the node's pods cannot be read");
            sleep(context.settings.error_backoff).await;
        }
    }
}

/// Reads the pods, and follows them until they are to be read again.
async fn pass(
    context: &Arc<Context>,
    order: &DrainOrder,
    id: u64,
    left: &mut Left,
) -> Result<(), RequestError> {
    let stale = Instant::now() + context.settings.watch_timeout + WATCH_MARGIN;
    let (pods, mut events) = pods::follow(context, &order.node).await?;
    left.listed(&pods);
    drop(pods);
    context.view.drain_found(&order.uid, id, left.facts());
    let mut retry = None;
    loop {
        evict_all(context, left).await;
        evict_own(context, left).await?;
        if left.is_unconfirmed() {
            return Ok(());
        }
        context.view.drain_found(&order.uid, id, left.facts());
        if left.is_to_be_asked_again() {
            retry.get_or_insert_with(|| Instant::now() + context.settings.eviction_retry);
        }
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(WatchEvent::Added(pod) | WatchEvent::Modified(pod))) => left.seen(&pod),
                Some(Ok(WatchEvent::Deleted(pod))) => left.gone(&pod),
                Some(Ok(WatchEvent::Bookmark(_))) => {}
                Some(Ok(WatchEvent::Error(status))) => return Err(kube::Error::Api(status).into()),
                Some(Err(error)) => return Err(error.into()),
                None => return Ok(()),
            },
            () = sleep_until(retry.unwrap_or(stale)), if retry.is_some() => {
                // Also where nothing is left to ask for: a time that has passed would fire at every turn.
                retry = None;
                left.ask_again();
            }
            () = sleep_until(stale) => return Ok(()),
        }
    }
}

/// Asks for every eviction that is to be asked for.
async fn evict_all(context: &Arc<Context>, left: &mut Left) {
    let mut answers = stream::iter(left.to_ask())
        .map(|pod| async move {
            let evicted = ask(context.clone(), pod.clone(), None).await;
            (pod, evicted)
        })
        .buffer_unordered(context.settings.evictions.into());
    while let Some((pod, evicted)) = answers.next().await {
        left.answered(&pod, evicted);
    }
}

/// Asks for the evictions of the operator's own pods, where it is their turn.
async fn evict_own(context: &Arc<Context>, left: &mut Left) -> Result<(), RequestError> {
    while left.has_own_to_ask() {
        let Ok(turn) = context.own_eviction.clone().acquire_owned().await else {
            return Ok(());
        };
        let running = running(context).await?;
        let Some(pod) = left.next_own(&running) else {
            return Ok(());
        };
        let evicted = ask(context.clone(), pod.clone(), Some(turn)).await;
        left.answered(&pod, evicted);
    }
    Ok(())
}

/// The pods of the operator itself, by a quorum read, but for those on nodes that are cordoned or not Ready: these are about to go
/// themselves, or have gone and nobody has noticed.
async fn running(context: &Context) -> Result<Vec<Pod>, RequestError> {
    let own = ListParams::default().labels(&api::operator::selector());
    let pods = read(context.settings.request_timeout, context.own_pods.list(&own)).await?;
    let known = context
        .view
        .snapshot()
        .map(|known| known.nodes)
        .unwrap_or_default();
    let stays_up = |pod: &Pod| {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
        node.and_then(|node| known.get(node))
            .is_none_or(|node| observe::takes_pods(node))
    };
    Ok(pods.items.into_iter().filter(stays_up).collect())
}

/// Asks for one eviction. Once that is sent it goes on to its end, also where the drain ends before: one that is cut off
/// may have been taken off the PodDisruptionBudget and not have reached the pod, and then the budget counts the pod
/// as disrupted for two minutes, in which it may allow nobody anything. Until then nobody else has its turn.
async fn ask(context: Arc<Context>, pod: Going, turn: Option<OwnedSemaphorePermit>) -> Evicted {
    let unanswered = |message: String| Evicted::Refused {
        budget: None,
        message,
        by_api: false,
    };
    let slot = match context.evictions.clone().acquire_owned().await {
        Ok(slot) => slot,
        Err(closed) => return unanswered(closed.to_string()),
    };
    let request = {
        let context = context.clone();
        async move {
            let evicted = evict(&context, &pod.namespace, &pod.name, &pod.uid).await;
            drop((slot, turn));
            evicted
        }
    };
    let answer = context.evicting.spawn(request).await;
    answer.unwrap_or_else(|error| unanswered(error.to_string()))
}
