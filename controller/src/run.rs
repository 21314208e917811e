//! The loop, and what begins and ends with the lease.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use kube::Client;
use planner::decisions::{Action, Decisions};
use tokio::{
    net::TcpListener,
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    afresh,
    apply::{Writer, backoff},
    clock,
    context::Context,
    drain::Drains,
    events::{self, Publisher},
    finalizers,
    health::{self, Health},
    leader::Elector,
    ledger::{self, Swap},
    metrics::Metrics,
    observe,
    patch::Write,
    report::Statuses,
    request::{Fence, RequestError},
    settings::Settings,
    view::Snapshot,
    watch as watches,
};

/// The loop turns at least this often, so that a wall clock that was set is noticed. It asks nobody anything.
pub const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// A timer never fires sooner, so that a clock that is a little early does not make the loop spin.
const SHORTEST_WAIT: Duration = Duration::from_millis(5);

/// After it has written the ledger the loop lets so much time pass by grant in it, and no more than that altogether, until it
/// does so again: many nodes' changes go into one write, and the apiserver's permits do not lose their swaps to ours.
const PAUSE_BY_GRANT: Duration = Duration::from_millis(4);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Longer than any process lives.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Leads whenever it has the lease, until `stop` is cancelled. Then it ends what is under way and gives the lease back.
pub async fn run(settings: Settings, client: Client, listener: TcpListener, stop: CancellationToken) {
    let health = Arc::new(Health::default());
    let metrics = Arc::new(Metrics::default());
    let server = tokio::spawn(health::serve(listener, health.clone(), metrics.clone()));

    let release = CancellationToken::new();
    let (valid_until, lease) = watch::channel(None);
    let elector = if settings.leader_elect {
        let elector = Elector::new(client.clone(), &settings);
        tokio::spawn(elector.run(valid_until, release.clone(), health.clone()))
    } else {
        health.api_answers();
        valid_until.send_replace(Some(Instant::now() + FOR_EVER));
        let release = release.clone();
        tokio::spawn(async move {
            release.cancelled().await;
            drop(valid_until);
        })
    };
    let fence = Fence::new(lease, settings.request_timeout);
    let (events, notes) = Publisher::new();
    let publisher = tokio::spawn(events::send_all(
        client.clone(),
        fence.clone(),
        notes,
        settings.status_interval,
    ));

    while !stop.is_cancelled() {
        health.turned();
        tokio::select! {
            () = stop.cancelled() => {}
            () = sleep(LONGEST_WAIT) => {}
            () = fence.open() => {
                // Nothing is carried over from an earlier lease: others have acted since.
                let context = Context::new(
                    settings.clone(), client.clone(), fence.clone(), metrics.clone(), events.clone(),
                );
                Term::new(Arc::new(context), health.clone()).lead(&stop).await;
            }
        }
    }
    publisher.abort();
    release.cancel();
    if elector.await.is_err() {
        tracing::error!("the election has ended before its time");
    }
    server.abort();
}

/// What lives while a lease is held.
struct Term {
    context: Arc<Context>,
    health: Arc<Health>,
    writer: Writer,
    drains: Drains,
    statuses: Statuses,
    ledger_failures: u32,
    ledger_not_before: Instant,
    /// Until then changes of the ledger are collected.
    next_swap: Instant,
    /// The version of somebody else's ledger after which everything was read afresh.
    caught_up_with: Option<Option<String>>,
}

impl Term {
    fn new(context: Arc<Context>, health: Arc<Health>) -> Self {
        Self {
            health,
            writer: Writer::new(context.clone()),
            drains: Drains::new(context.clone()),
            statuses: Statuses::new(context.settings.status_interval),
            ledger_failures: 0,
            ledger_not_before: Instant::now(),
            next_swap: Instant::now(),
            caught_up_with: None,
            context,
        }
    }

    async fn lead(mut self, stop: &CancellationToken) {
        let context = self.context.clone();
        context.metrics.set_leading(true);
        self.health.set_syncing(true);
        let mut watches = watches::start(&context);
        watches.spawn(clock::keep_measuring(
            context.client.clone(),
            context.view.clone(),
            context.settings.clock_check_interval,
            context.settings.request_timeout,
        ));
        loop {
            self.health.turned();
            let next = self.turn().await;
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = context.fence.lost() => break,
                () = self.writer.finished() => {}
                () = context.view.changed() => {}
                () = sleep_until(next) => {}
            }
        }
        drop(watches);
        drop(self.drains);
        // What waits for its turn is not sent any more; what is sent ends within its time-out.
        context.writes.close();
        context.evicting.close();
        self.writer.finish().await;
        context.evicting.wait().await;
        self.health.set_syncing(false);
        context.metrics.set_leading(false);
    }

    /// Looks, plans and starts what is to be done. Returns when to look again at the latest.
    async fn turn(&mut self) -> Instant {
        let now = Instant::now();
        let latest = now + LONGEST_WAIT;
        let Some(snapshot) = self.context.view.snapshot() else {
            return latest;
        };
        self.health.set_syncing(false);
        if !self.is_in_step(&snapshot) {
            return self.catch_up(now, &snapshot).await.min(latest);
        }
        let world = observe::world(&snapshot, self.context.settings.planner());
        let decisions = planner::plan(Utc::now(), &world);
        self.context.metrics.planned(now.elapsed());
        let Decisions {
            ledger,
            mut actions,
            unexplained,
            drains,
            statuses,
            verdicts,
            look_again,
        } = decisions;
        if let Some(change) = ledger.or_else(|| finalizers::ledger_first(&actions, &snapshot)) {
            // When it has ended the loop turns again.
            let released = ledger::released(snapshot.ledger.as_deref(), &change.spec);
            if released.iter().any(|node| self.writer.is_writing(node)) {
                return latest;
            }
            let due = self.ledger_not_before.max(self.next_swap);
            if now < due {
                return due.min(latest);
            }
            let pause = pause(change.spec.grants.len());
            let swap = ledger::swap(&self.context, &snapshot, change).await;
            // Where nodes were only read again they must still be fresh when the write is made.
            if !matches!(swap, Ok(Swap::Renewed)) {
                self.next_swap = Instant::now() + pause;
            }
            return self.swapped(swap).min(latest);
        }
        actions.extend(finalizers::under_way(&snapshot));
        let (doubtful, sure): (Vec<Action>, Vec<Action>) = actions
            .into_iter()
            .partition(|action| is_doubtful(action, &unexplained, &snapshot));
        let writes = |actions: Vec<Action>| -> Vec<Write> {
            let writes = actions
                .into_iter()
                .filter_map(|action| Write::of(action, &snapshot));
            writes.collect()
        };
        self.writer.start(writes(sure), now);
        let mut doubtful = writes(doubtful);
        doubtful.retain(|write| now >= self.ledger_not_before && self.writer.is_free(&write.key(), now));
        if !doubtful.is_empty() {
            match afresh::ledger_is_still(&self.context, &snapshot).await {
                Ok(true) => self.writer.start(doubtful, now),
                Ok(false) => return now,
                Err(error) => return self.ledger_failed(&error).min(latest),
            }
        }
        self.drains.follow(drains);
        self.context.metrics.report(&snapshot, &statuses, &verdicts);
        let next_status = self.report(now, &snapshot, statuses);
        let times = [
            look_again.map(|at| due(at, Utc::now(), now)),
            next_status,
            self.writer.next_retry(now),
            Some(self.ledger_not_before).filter(|at| *at > now),
        ];
        times.into_iter().flatten().fold(latest, Instant::min)
    }

    fn report(
        &mut self,
        now: Instant,
        snapshot: &Snapshot,
        statuses: Vec<planner::decisions::PlanStatus>,
    ) -> Option<Instant> {
        let (writes, next) = self
            .statuses
            .due(now, snapshot, statuses, |key| self.writer.is_free(key, now));
        self.writer.start(writes, now);
        next
    }

    /// Whether everything that is known is at least as new as the ledger. What this term has not written itself was
    /// decided on by somebody who may have seen and done what the watches here have not shown yet.
    fn is_in_step(&self, snapshot: &Snapshot) -> bool {
        let ledger = snapshot.ledger.as_deref();
        ledger.is_some_and(|ledger| ledger.spec.writer == self.context.writer)
            || self.caught_up_with == Some(afresh::version(ledger))
    }

    async fn catch_up(&mut self, now: Instant, snapshot: &Snapshot) -> Instant {
        if now < self.ledger_not_before {
            return self.ledger_not_before;
        }
        match afresh::everything(&self.context, snapshot.ledger.as_deref()).await {
            Ok(version) => {
                self.ledger_failures = 0;
                self.caught_up_with = Some(version);
                Instant::now()
            }
            Err(error) => self.ledger_failed(&error),
        }
    }

    /// When to plan again after a swap of the ledger.
    fn swapped(&mut self, swap: Result<Swap, RequestError>) -> Instant {
        match swap {
            Ok(Swap::Written | Swap::Renewed) => {
                self.ledger_failures = 0;
                Instant::now()
            }
            Err(error) => self.ledger_failed(&error),
        }
    }

    fn ledger_failed(&mut self, error: &RequestError) -> Instant {
        self.ledger_failures = self.ledger_failures.saturating_add(1);
        let delay = backoff(self.context.settings.error_backoff, self.ledger_failures);
        tracing::warn!(%error, ?delay, "the ledger cannot be written, or not be compared with what is known");
        self.ledger_not_before = Instant::now() + delay;
        self.ledger_not_before
    }
}

/// How long changes of a ledger with so many grants are collected. One node alone waits for nobody.
fn pause(grants: usize) -> Duration {
    let others = u32::try_from(grants.saturating_sub(1)).unwrap_or(u32::MAX);
    PAUSE_BY_GRANT.saturating_mul(others).min(LONGEST_PAUSE)
}

/// Whether what an action overwrites may be newer than the ledger that it was decided on.
#[must_use]
pub fn is_doubtful(action: &Action, unexplained: &BTreeSet<String>, snapshot: &Snapshot) -> bool {
    match action {
        Action::Cordon { node, .. } | Action::Uncordon { node, .. } | Action::SetShadow { node, .. } => {
            unexplained.contains(node)
        }
        Action::RemoveFinalizer { plan } => !finalizers::is_recorded(plan, snapshot),
        Action::AddFinalizer { .. } => false,
    }
}

/// When a timer for `at` fires.
fn due(at: DateTime<Utc>, wall: DateTime<Utc>, now: Instant) -> Instant {
    let wait = (at - wall).to_std().unwrap_or_default();
    now + wait.clamp(SHORTEST_WAIT, LONGEST_WAIT)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn the_ledger_is_written_the_more_seldom_the_more_nodes_it_grants() {
        let pauses: Vec<u128> = [0, 1, 2, 11, 50, 1000]
            .map(|grants| pause(grants).as_millis())
            .to_vec();
        assert_eq!(pauses, [0, 0, 4, 40, 196, 200]);
    }

    #[test]
    fn a_timer_follows_the_wall_clock_within_bounds() {
        let (wall, now) = (Utc::now(), Instant::now());
        let wait = |delta| due(wall + delta, wall, now) - now;
        assert_eq!(wait(TimeDelta::seconds(2)), Duration::from_secs(2));
        assert_eq!(wait(TimeDelta::days(2)), LONGEST_WAIT);
        assert_eq!(wait(TimeDelta::seconds(-2)), SHORTEST_WAIT);
    }
}
