//! Carries out writes: concurrently, at most one at a time for each object, with a backoff where one fails.

use std::{
    collections::{HashMap, HashSet},
    fmt::Debug,
    sync::Arc,
    time::Duration,
};

use kube::{
    Api, Resource,
    api::{Patch, PatchParams, PostParams},
};
use serde::de::DeserializeOwned;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    context::Context,
    patch::{Key, Patched, Target, Write},
    request::RequestError,
    view::Viewed,
};

/// How often a write that found its object changed is repeated at once.
const CONFLICTS_AT_ONCE: u32 = 3;

/// Writes that are under way, and those that wait to be tried again.
pub struct Writer {
    context: Arc<Context>,
    under_way: JoinSet<(Key, Outcome)>,
    busy: HashSet<Key>,
    retries: HashMap<Key, Retry>,
}

#[derive(Clone, Copy, Debug)]
struct Retry {
    failures: u32,
    at: Instant,
}

/// What came of a write.
#[derive(Debug)]
enum Outcome {
    Done,
    /// The object has changed, or is gone: it was read again.
    Changed,
    /// Nothing was sent: the lease ends.
    Fenced,
    Failed(String),
}

impl Writer {
    /// One with nothing under way.
    #[must_use]
    pub fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            under_way: JoinSet::new(),
            busy: HashSet::new(),
            retries: HashMap::new(),
        }
    }

    /// Whether a write of this object would be started now.
    #[must_use]
    pub fn is_free(&self, key: &Key, now: Instant) -> bool {
        !self.busy.contains(key) && self.retries.get(key).is_none_or(|retry| retry.at <= now)
    }

    /// Whether a write of this object is under way.
    #[must_use]
    pub fn is_writing(&self, key: &Key) -> bool {
        self.busy.contains(key)
    }

    /// Starts each write whose object is free. What is not started is decided on again when the object is.
    pub fn start(&mut self, writes: Vec<Write>, now: Instant) {
        for write in writes {
            let key = write.key();
            if self.is_free(&key, now) {
                self.busy.insert(key.clone());
                let context = self.context.clone();
                self.under_way.spawn(async move {
                    let outcome = send(&context, write).await;
                    (key, outcome)
                });
            }
        }
    }

    /// Ends when a write has ended; never where none is under way.
    pub async fn finished(&mut self) {
        match self.under_way.join_next().await {
            None => std::future::pending().await,
            Some(Ok((key, outcome))) => self.ended(key, outcome, Instant::now()),
            Some(Err(error)) => {
                if let Ok(panic) = error.try_into_panic() {
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }

    fn ended(&mut self, key: Key, outcome: Outcome, now: Instant) {
        self.busy.remove(&key);
        let failures = self.retries.get(&key).map_or(0, |retry| retry.failures) + 1;
        let delay = match outcome {
            Outcome::Done => {
                self.retries.remove(&key);
                return;
            }
            Outcome::Fenced => self.backoff(1),
            Outcome::Changed if failures <= CONFLICTS_AT_ONCE => Duration::ZERO,
            Outcome::Changed => self.backoff(failures),
            Outcome::Failed(error) => {
                let delay = self.backoff(failures);
                tracing::warn!(?key, error, failures, ?delay, "a write failed");
                delay
            }
        };
        self.retries.insert(
            key,
            Retry {
                failures,
                at: now + delay,
            },
        );
    }

    fn backoff(&self, failures: u32) -> Duration {
        backoff(self.context.settings.error_backoff, failures)
    }

    /// When a write may be tried again that could not be now.
    pub fn next_retry(&mut self, now: Instant) -> Option<Instant> {
        // Long after its delay a failure says nothing any more.
        let forget = backoff(self.context.settings.error_backoff, u32::MAX) * 2;
        self.retries.retain(|_, retry| now < retry.at + forget);
        self.retries
            .values()
            .map(|retry| retry.at)
            .filter(|at| *at > now)
            .min()
    }

    /// Waits for what is under way; each write has its own time-out.
    pub async fn finish(mut self) {
        while self.under_way.join_next().await.is_some() {}
    }
}

/// The delay after so many failures in a row: doubled with each, up to 32 times.
#[must_use]
pub fn backoff(base: Duration, failures: u32) -> Duration {
    base * 2_u32.pow(failures.saturating_sub(1).min(5))
}

async fn send(context: &Context, write: Write) -> Outcome {
    let Ok(_slot) = context.writes.acquire().await else {
        return Outcome::Fenced;
    };
    match write {
        Write::Hold(patched) | Write::Release(patched) => patch(context, &context.plans, patched).await,
        Write::Node(patched) => patch(context, &context.nodes, patched).await,
        Write::Shadow(shadow) => {
            let target = Target::from(shadow.meta());
            let params = PostParams::default();
            let written = context
                .fence
                .write(context.shadows.replace(&target.name, &params, &shadow))
                .await;
            settle(context, &context.shadows, &target, written).await
        }
        Write::Status(plan, notes) => {
            let target = Target::from(plan.meta());
            let params = PostParams::default();
            let written = context
                .fence
                .write(context.plans.replace_status(&target.name, &params, &plan))
                .await;
            let outcome = settle(context, &context.plans, &target, written).await;
            if matches!(outcome, Outcome::Done) {
                notes.into_iter().for_each(|note| context.events.publish(note));
            }
            outcome
        }
    }
}

async fn patch<K: Viewed + DeserializeOwned + Debug>(
    context: &Context,
    api: &Api<K>,
    patched: Patched,
) -> Outcome {
    let Patched { target, patch } = patched;
    let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
    let written = context
        .fence
        .write(api.patch(&target.name, &params, &patch))
        .await;
    settle(context, api, &target, written).await
}

/// Takes the answer into the view, or reads the object afresh where it has changed.
async fn settle<K: Viewed + DeserializeOwned + Debug>(
    context: &Context,
    api: &Api<K>,
    target: &Target,
    written: Result<K, RequestError>,
) -> Outcome {
    match written {
        Ok(object) if object.meta().resource_version == target.version => {
            Outcome::Failed("the write was accepted but changed nothing".to_owned())
        }
        Ok(object) => {
            context.view.answered(object);
            Outcome::Done
        }
        Err(RequestError::Fenced) => Outcome::Fenced,
        Err(error) if error.is_conflict() || error.is_not_found() => {
            tracing::debug!(name = target.name, %error, "the object has changed; it is read again");
            match context.refresh(api, &target.name, &target.uid).await {
                Ok(()) => Outcome::Changed,
                Err(error) => Outcome::Failed(error.to_string()),
            }
        }
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backoff_doubles_up_to_a_bound() {
        let base = Duration::from_secs(1);
        let delays: Vec<u64> = (1..=8)
            .map(|failures| backoff(base, failures).as_secs())
            .collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 32, 32]);
    }
}
