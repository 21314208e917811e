//! The lease: who of the controllers acts.
//!
//! Written here because the fence needs to know until when the lease is sure to be ours. kube-lease-manager says
//! only whether it is, judges that by comparing wall clocks of two machines, and takes a lease over by a patch
//! without precondition, so that two may for a while believe to hold it. Here, as in client-go, every write is a
//! compare-and-swap, and time is measured on each machine's own monotonic clock: the holder counts from before it
//! sent its renewal, the others from after they saw it.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    sync::Arc,
    time::Duration,
};

use api::{names::LEASE_NAME, time::to_kubernetes_micro};
use chrono::Utc;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    health::Health,
    request::{RequestError, read},
    settings::Settings,
};

/// Takes part in the election.
pub struct Elector {
    api: Api<Lease>,
    identity: String,
    duration: Duration,
    renew: Duration,
    limit: Duration,
    /// The lease as we last wrote it, while it is ours.
    ours: Option<Lease>,
    /// Somebody else's renewal, and when we first saw it.
    seen: Option<(Option<String>, Instant)>,
}

/// Whose a lease is.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    Free,
    Ours,
    Held { until: Instant },
}

/// What came of one attempt.
enum Attempt {
    Leading { until: Instant },
    Standby { look_again: Instant },
}

impl Elector {
    /// One that knows nothing yet.
    #[must_use]
    pub fn new(client: Client, settings: &Settings) -> Self {
        // The suffix tells this process from the one before it, whose writes may still be under way.
        let suffix = RandomState::new().build_hasher().finish();
        Self {
            api: Api::namespaced(client, &settings.namespace),
            identity: format!("{}_{suffix:016x}", settings.identity),
            duration: settings.lease_duration,
            renew: settings.lease_renew,
            limit: settings.request_timeout,
            ours: None,
            seen: None,
        }
    }

    /// Gets and keeps the lease, and says in `valid_until` how long it is ours. Gives it back when `release` is
    /// cancelled.
    pub async fn run(
        mut self,
        valid_until: watch::Sender<Option<Instant>>,
        release: CancellationToken,
        health: Arc<Health>,
    ) {
        loop {
            let begun = Instant::now();
            let next = match self.attempt(begun).await {
                Ok(Attempt::Leading { until }) => {
                    health.api_answers();
                    if valid_until.send_replace(Some(until)).is_none() {
                        tracing::info!(identity = self.identity, "leading");
                    }
                    begun + self.renew
                }
                Ok(Attempt::Standby { look_again }) => {
                    health.api_answers();
                    self.stand_by(&valid_until, "the lease is somebody else's");
                    look_again
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot renew or get the lease");
                    if valid_until.borrow().is_some_and(|until| until <= Instant::now()) {
                        self.stand_by(&valid_until, "the lease could not be renewed");
                    }
                    begun + self.renew
                }
            };
            tokio::select! {
                () = release.cancelled() => break,
                () = sleep_until(next) => {}
            }
        }
        valid_until.send_replace(None);
        self.release().await;
    }

    fn stand_by(&self, valid_until: &watch::Sender<Option<Instant>>, why: &str) {
        if valid_until.send_replace(None).is_some() {
            tracing::warn!(why, "not leading any more");
        }
    }

    async fn attempt(&mut self, begun: Instant) -> Result<Attempt, RequestError> {
        if let Some(lease) = self.ours.take() {
            match self.put(lease).await {
                Ok(()) => {
                    return Ok(Attempt::Leading {
                        until: begun + self.duration,
                    });
                }
                Err(error) if error.is_conflict() || error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let Some(lease) = read(self.limit, self.api.get_opt(LEASE_NAME)).await? else {
            let written = self.create().await;
            return self.taken(written, begun);
        };
        match self.standing(&lease, Instant::now()) {
            Standing::Held { until } => Ok(Attempt::Standby {
                look_again: until.min(begun + self.renew),
            }),
            Standing::Free | Standing::Ours => {
                let written = self.put(lease).await;
                self.taken(written, begun)
            }
        }
    }

    fn taken(&self, written: Result<(), RequestError>, begun: Instant) -> Result<Attempt, RequestError> {
        match written {
            Ok(()) => Ok(Attempt::Leading {
                until: begun + self.duration,
            }),
            Err(error) if error.is_conflict() || error.is_not_found() => Ok(Attempt::Standby {
                look_again: begun + self.renew,
            }),
            Err(error) => Err(error),
        }
    }

    fn standing(&mut self, lease: &Lease, now: Instant) -> Standing {
        let spec = lease.spec.clone().unwrap_or_default();
        let Some(holder) = spec.holder_identity.filter(|holder| !holder.is_empty()) else {
            return Standing::Free;
        };
        if holder == self.identity {
            return Standing::Ours;
        }
        let version = &lease.metadata.resource_version;
        let since = match &self.seen {
            Some((seen, since)) if seen == version => *since,
            _ => {
                self.seen = Some((version.clone(), now));
                now
            }
        };
        let theirs = spec
            .lease_duration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok());
        let until = since + theirs.map_or(self.duration, Duration::from_secs);
        if now >= until {
            Standing::Free
        } else {
            Standing::Held { until }
        }
    }

    /// Writes the lease as ours, on the version that `lease` has.
    async fn put(&mut self, mut lease: Lease) -> Result<(), RequestError> {
        let before = lease.spec.take().unwrap_or_default();
        lease.spec = Some(self.renewed(&before));
        let params = PostParams::default();
        self.ours = Some(read(self.limit, self.api.replace(LEASE_NAME, &params, &lease)).await?);
        Ok(())
    }

    async fn create(&mut self) -> Result<(), RequestError> {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(LEASE_NAME.to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(self.renewed(&LeaseSpec::default())),
        };
        self.ours = Some(read(self.limit, self.api.create(&PostParams::default(), &lease)).await?);
        Ok(())
    }

    fn renewed(&self, before: &LeaseSpec) -> LeaseSpec {
        let now = to_kubernetes_micro(Utc::now());
        let was_ours = before.holder_identity.as_deref() == Some(&self.identity);
        let transitions = before.lease_transitions.unwrap_or(0);
        // Whole seconds, rounded up: the others wait at least as long as we count on.
        let seconds = self.duration.as_secs() + u64::from(self.duration.subsec_nanos() > 0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(seconds).unwrap_or(i32::MAX)),
            acquire_time: before
                .acquire_time
                .clone()
                .filter(|_| was_ours)
                .or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if was_ours {
                transitions
            } else {
                transitions.saturating_add(1)
            }),
            ..LeaseSpec::default()
        }
    }

    /// Lets another one take over at once. Where this fails it has to wait.
    async fn release(&mut self) {
        let Some(mut lease) = self.ours.take() else { return };
        let transitions = lease.spec.take().and_then(|spec| spec.lease_transitions);
        lease.spec = Some(LeaseSpec {
            lease_transitions: transitions,
            ..LeaseSpec::default()
        });
        match read(
            self.limit,
            self.api.replace(LEASE_NAME, &PostParams::default(), &lease),
        )
        .await
        {
            Ok(_) => tracing::info!("the lease is given back"),
            Err(error) => tracing::warn!(%error, "the lease could not be given back"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use axum::Router;
    use clap::Parser;

    use super::*;

    fn elector() -> Elector {
        let settings =
            Settings::try_parse_from(["controller", "--identity=me", "--lease-duration=7500ms"]).unwrap();
        Elector::new(Client::new(Router::new(), "default"), &settings)
    }

    fn lease(holder: Option<&str>, version: &str, seconds: Option<i32>) -> Lease {
        Lease {
            metadata: ObjectMeta {
                resource_version: Some(version.to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: holder.map(str::to_owned),
                lease_duration_seconds: seconds,
                lease_transitions: Some(3),
                ..LeaseSpec::default()
            }),
        }
    }

    #[tokio::test]
    async fn s2_a_lease_is_taken_only_when_no_renewal_was_seen_for_its_duration() {
        let mut elector = elector();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let held = |until| Standing::Held { until: at(until) };
        assert_eq!(
            elector.standing(&lease(Some("other"), "1", Some(15)), at(0)),
            held(15)
        );
        assert_eq!(
            elector.standing(&lease(Some("other"), "1", Some(15)), at(10)),
            held(15)
        );
        assert_eq!(
            elector.standing(&lease(Some("other"), "2", Some(15)), at(12)),
            held(27),
            "renewed"
        );
        assert_eq!(
            elector.standing(&lease(Some("other"), "2", Some(15)), at(26)),
            held(27)
        );
        assert_eq!(
            elector.standing(&lease(Some("other"), "2", Some(15)), at(27)),
            Standing::Free
        );
    }

    #[tokio::test]
    async fn a_lease_that_was_given_back_is_free_and_ours_is_ours() {
        let mut elector = elector();
        let now = Instant::now();
        assert_eq!(elector.standing(&lease(None, "1", None), now), Standing::Free);
        assert_eq!(elector.standing(&lease(Some(""), "1", None), now), Standing::Free);
        let me = elector.identity.clone();
        assert!(me.starts_with("me_"));
        assert_eq!(
            elector.standing(&lease(Some(&me), "1", None), now),
            Standing::Ours
        );
        let before_a_restart = lease(Some("me"), "1", Some(15));
        assert!(matches!(
            elector.standing(&before_a_restart, now),
            Standing::Held { .. }
        ));
    }

    #[tokio::test]
    async fn a_renewal_promises_the_others_no_less_than_we_count_on() {
        let elector = elector();
        let taken = elector.renewed(&lease(Some("other"), "1", Some(15)).spec.unwrap());
        assert_eq!(taken.lease_duration_seconds, Some(8));
        assert_eq!(taken.lease_transitions, Some(4));
        let renewed = elector.renewed(&taken);
        assert_eq!(renewed.lease_transitions, Some(4));
        assert_eq!(renewed.acquire_time, taken.acquire_time);
    }
}
