//! Every request's time-out, and the fence that the lease puts around writes.

use std::{error::Error, future::Future, time::Duration};

use kube::core::Status;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

/// Why a request has no answer that is of use.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The lease may end before the request does: it was not sent.
    #[error("not sent: the lease ends too soon")]
    Fenced,
    /// There was no answer in time; whether it was carried out is not known.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The answer ended before it was whole.
    #[error("the answer broke off")]
    BrokenOff,
    /// The API has stored something else than was sent.
    #[error(
        "stored without some of its fields, which the CustomResourceDefinition does not know: \
         apply the CRDs that belong to this version"
    )]
    Pruned,
    /// The API's refusal, or no connection to it.
    #[error("{}", explain(.0))]
    Kube(#[from] kube::Error),
}

/// The API's own words without the frame that kube puts around them; otherwise the error with all its causes.
fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => with_causes(other),
    }
}

/// An error with all its causes: the last one is what a person needs, such as that the connection was refused.
#[must_use]
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

impl RequestError {
    /// The API's refusal.
    #[must_use]
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Kube(kube::Error::Api(status)) => Some(status),
            _ => None,
        }
    }

    /// Whether the object was changed by somebody else, or exists already.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.status().is_some_and(|status| status.code == 409)
    }

    /// Whether the object is gone.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.status().is_some_and(Status::is_not_found)
    }
}

/// Sends a request that changes nothing.
///
/// # Errors
/// The API's, or that there was no answer in time.
pub async fn read<T>(
    limit: Duration,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, RequestError> {
    match timeout(limit, request).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(RequestError::TimedOut(limit)),
    }
}

/// Lets writes through only while the lease is sure to outlive them.
#[derive(Clone, Debug)]
pub struct Fence {
    valid_until: watch::Receiver<Option<Instant>>,
    limit: Duration,
}

impl Fence {
    /// A fence around requests that take `limit` at most, while the lease is valid until what `valid_until` says.
    #[must_use]
    pub const fn new(valid_until: watch::Receiver<Option<Instant>>, limit: Duration) -> Self {
        Self { valid_until, limit }
    }

    /// How long a request may take.
    #[must_use]
    pub const fn limit(&self) -> Duration {
        self.limit
    }

    /// Sends a request that changes something.
    ///
    /// # Errors
    /// That it was not sent, the API's, or that there was no answer in time.
    pub async fn write<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<T, RequestError> {
        self.write_within(self.limit, request).await
    }

    /// Sends a request that changes something and may take `limit` at most, which is no longer than usual.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn write_within<T>(
        &self,
        limit: Duration,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, RequestError> {
        let outlives = (*self.valid_until.borrow()).is_some_and(|until| until >= Instant::now() + limit);
        if outlives {
            read(limit, request).await
        } else {
            Err(RequestError::Fenced)
        }
    }

    /// Ends when the lease is lost.
    pub async fn lost(&self) {
        let mut valid_until = self.valid_until.clone();
        loop {
            let until = *valid_until.borrow_and_update();
            let Some(until) = until.filter(|until| *until > Instant::now()) else {
                return;
            };
            tokio::select! {
                changed = valid_until.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    /// Ends when there is a lease that outlives a request.
    pub async fn open(&self) {
        let mut valid_until = self.valid_until.clone();
        let limit = self.limit;
        let outlives =
            move |until: &Option<Instant>| until.is_some_and(|until| until >= Instant::now() + limit);
        // An elector that has ended gives no lease any more.
        if valid_until.wait_for(outlives).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn fence() -> (watch::Sender<Option<Instant>>, Fence) {
        let (sender, receiver) = watch::channel(None);
        (sender, Fence::new(receiver, 5 * SECOND))
    }

    async fn sent(fence: &Fence) -> bool {
        fence.write(async { Ok(()) }).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn s2_nothing_is_sent_that_the_lease_might_not_outlive() {
        let (lease, fence) = fence();
        assert!(!sent(&fence).await);
        lease.send_replace(Some(Instant::now() + 15 * SECOND));
        assert!(sent(&fence).await);
        tokio::time::sleep(10 * SECOND).await;
        assert!(sent(&fence).await);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(!sent(&fence).await);
        assert!(fence.write_within(SECOND, async { Ok(()) }).await.is_ok());
        lease.send_replace(None);
        assert!(!sent(&fence).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_ends_with_its_time_out() {
        let (lease, fence) = fence();
        lease.send_replace(Some(Instant::now() + 15 * SECOND));
        let hangs = fence.write(std::future::pending::<kube::Result<()>>()).await;
        assert!(matches!(hangs, Err(RequestError::TimedOut(limit)) if limit == 5 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_renewed_is_not_lost_until_it_ends() {
        let (lease, fence) = fence();
        let start = Instant::now();
        lease.send_replace(Some(start + 15 * SECOND));
        let renewals = tokio::spawn(async move {
            tokio::time::sleep(10 * SECOND).await;
            lease.send_replace(Some(Instant::now() + 15 * SECOND));
            tokio::time::sleep(60 * SECOND).await;
        });
        fence.lost().await;
        assert_eq!(Instant::now(), start + 25 * SECOND);
        renewals.abort();
    }
}
