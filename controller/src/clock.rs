//! By how much this clock and the Kubernetes API's disagree.

use std::{sync::Arc, time::Duration};

use axum::http::{Request, header::DATE};
use chrono::{DateTime, TimeDelta, Utc};
use kube::{Client, client::Body};
use tokio::time::{Instant, sleep};

use crate::{
    request::{RequestError, read},
    view::View,
};

/// The `Date` header has whole seconds.
const GRANULARITY: TimeDelta = TimeDelta::seconds(1);

/// A measurement.
#[derive(Clone, Copy, Debug)]
pub struct Skew {
    ahead: TimeDelta,
    wall: DateTime<Utc>,
    monotonic: Instant,
}

impl Skew {
    /// What an answer tells that was asked for at `sent` and here at `received`, with `date` in its header.
    #[must_use]
    pub fn measured(
        sent: DateTime<Utc>,
        received: DateTime<Utc>,
        date: DateTime<Utc>,
        monotonic: Instant,
    ) -> Self {
        let uncertainty = (received - sent + GRANULARITY) / 2;
        let ahead = sent + (received - sent) / 2 - (date + GRANULARITY / 2);
        let ahead = if ahead.abs() <= uncertainty {
            TimeDelta::zero()
        } else {
            ahead
        };
        Self {
            ahead,
            wall: received,
            monotonic,
        }
    }

    /// By how much this clock is ahead now. One that was set since the measurement shows at once, because the
    /// monotonic clock was not.
    #[must_use]
    pub fn at(&self, wall: DateTime<Utc>, monotonic: Instant) -> TimeDelta {
        let passed = TimeDelta::from_std(monotonic.saturating_duration_since(self.monotonic))
            .unwrap_or(TimeDelta::MAX);
        let jumped = (wall - self.wall)
            .checked_sub(&passed)
            .unwrap_or(TimeDelta::zero());
        let jumped = if jumped.abs() < GRANULARITY {
            TimeDelta::zero()
        } else {
            jumped
        };
        self.ahead + jumped
    }
}

/// Measures now and then, by reads only.
pub async fn keep_measuring(client: Client, view: Arc<View>, interval: Duration, timeout: Duration) {
    loop {
        match measure(&client, timeout).await {
            Ok(Some(skew)) => {
                if !skew.ahead.is_zero() {
                    tracing::warn!(
                        milliseconds = skew.ahead.num_milliseconds(),
                        "this clock is ahead of the Kubernetes API's"
                    );
                }
                view.measured(skew);
            }
            Ok(None) => {
                tracing::warn!("the Kubernetes API's answer has no date; the clock cannot be compared")
            }
            Err(error) => tracing::warn!(%error, "the clock cannot be compared with the Kubernetes API's"),
        }
        sleep(interval).await;
    }
}

async fn measure(client: &Client, timeout: Duration) -> Result<Option<Skew>, RequestError> {
    let request = Request::get("/version")
        .body(Body::empty())
        .map_err(kube::Error::HttpError)?;
    let sent = Utc::now();
    let response = read(timeout, client.send(request)).await?;
    let received = Utc::now();
    let date = response.headers().get(DATE).and_then(|date| date.to_str().ok());
    let date = date.and_then(|date| DateTime::parse_from_rfc2822(date).ok());
    Ok(date.map(|date| Skew::measured(sent, received, date.to_utc(), Instant::now())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;

    fn at(millis: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_800_000_000_000 + millis).unwrap()
    }

    fn skew(sent: i64, received: i64, date: i64) -> i64 {
        let now = Instant::now();
        Skew::measured(at(sent), at(received), at(date), now)
            .at(at(received), now)
            .num_milliseconds()
    }

    #[test]
    fn what_the_granularity_explains_is_no_skew() {
        assert_eq!(skew(0, 20, 0), 0);
        assert_eq!(skew(980, 999, 0), 0, "the header's second is nearly over");
        assert_eq!(skew(-990, -980, 0), -1485);
        assert_eq!(skew(0, 4000, 1000), 0, "a slow answer");
    }

    #[test]
    fn a_clock_that_is_off_is_measured_from_the_middle() {
        assert_eq!(skew(30_500, 30_500, 0), 30_000, "ahead");
        assert_eq!(skew(-29_500, -29_500, 0), -30_000, "behind");
    }

    #[test]
    fn a_date_header_is_read() {
        let date = DateTime::parse_from_rfc2822("Sun, 22 Nov 2026 08:49:37 GMT").unwrap();
        assert_eq!(date.to_utc().to_rfc3339(), "2026-11-22T08:49:37+00:00");
    }

    #[test]
    fn a_clock_that_was_set_shows_at_once() {
        let now = Instant::now();
        let skew = Skew::measured(at(0), at(10), at(0), now);
        let later = now + Duration::from_secs(20);
        assert_eq!(skew.at(at(20_010), later), TimeDelta::zero());
        assert_eq!(skew.at(at(20_310), later), TimeDelta::zero(), "drift is no jump");
        assert_eq!(skew.at(at(80_010), later), TimeDelta::seconds(60));
        assert_eq!(skew.at(at(-39_990), later), TimeDelta::seconds(-60));
    }
}
