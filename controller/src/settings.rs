//! Flags and environment.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use api::quantity::{IntOrPercent, InvalidIntOrPercent, InvalidSpan, Span};
use chrono::TimeDelta;
use clap::{ArgAction, Parser, ValueEnum};

/// Decides which Bottlerocket nodes are updated when, and cordons and drains them.
#[derive(Clone, Debug, Parser)]
#[command(name = "controller", version)]
pub struct Settings {
    /// Namespace of the install: shadows, ledger, lease and agents are here.
    #[arg(long, env = "BRUPOP_NAMESPACE", default_value = api::names::DEFAULT_NAMESPACE)]
    pub namespace: String,

    /// Where /metrics, /healthz and /readyz are served. Port 0: one that the system picks.
    #[arg(long, env = "BRUPOP_HEALTH_LISTEN", default_value = "0.0.0.0:8080")]
    pub health_listen: SocketAddr,

    /// File that the address in use is written to.
    #[arg(long, env = "BRUPOP_HEALTH_ADDRESS_FILE")]
    pub health_address_file: Option<PathBuf>,

    /// How long after its first failure a node is tried again; doubled with each further failure, up to ten times as long.
    #[arg(long, env = "BRUPOP_RETRY_BACKOFF", default_value = "1m", value_parser = span)]
    pub retry_backoff: Duration,

    /// How long a grant that ends waits for a node that does not answer before it is released.
    #[arg(long, env = "BRUPOP_RELEASE_WAIT", default_value = "1m", value_parser = span)]
    pub release_wait: Duration,

    /// How many of all nodes that take part may be unavailable, whatever their plans allow: an integer, or a percentage of
    /// them, rounded down, at least 1. Default: what `spec.maxUnavailable` of the UpdateLedger says, or no such limit.
    #[arg(long, env = "BRUPOP_MAX_UNAVAILABLE", value_parser = limit)]
    pub max_unavailable: Option<IntOrPercent>,

    /// How many nodes may at a time download ahead of their turn. They are those that wait for the budget, or for a window that
    /// opens within their plan's `timeouts.stage`; later waves are not told before they start. The download overwrites the image
    /// on the inactive partition, which may be older: there is nothing to go back to from then on. 0: none.
    #[arg(long, env = "BRUPOP_STAGE_AHEAD", default_value_t = 0)]
    pub stage_ahead: u16,

    /// Whether to take part in leader election. Only tests run without.
    #[arg(long, env = "BRUPOP_LEADER_ELECT", default_value_t = true, action = ArgAction::Set)]
    pub leader_elect: bool,

    /// Name of this replica in the lease; a random suffix is added.
    #[arg(long, env = "BRUPOP_IDENTITY", default_value = "controller")]
    pub identity: String,

    /// How long a lease is valid after its last renewal. At least 1s.
    #[arg(long, env = "BRUPOP_LEASE_DURATION", default_value = "15s", value_parser = span)]
    pub lease_duration: Duration,

    /// How often the leader renews the lease and the others look at it. At least 100ms.
    #[arg(long, env = "BRUPOP_LEASE_RENEW", default_value = "2s", value_parser = span)]
    pub lease_renew: Duration,

    /// How long a request may take. With the renewal it must be shorter than the lease. At least 100ms.
    #[arg(long, env = "BRUPOP_REQUEST_TIMEOUT", default_value = "5s", value_parser = span)]
    pub request_timeout: Duration,

    /// How long a watch runs until it is resumed on a new connection; a dead one is noticed 5s after. At least 1s.
    #[arg(long, env = "BRUPOP_WATCH_TIMEOUT", default_value = "1m", value_parser = span)]
    pub watch_timeout: Duration,

    /// How old what is known of nodes may be when a grant is written. 100ms to 5s.
    #[arg(long, env = "BRUPOP_NODE_FRESHNESS", default_value = "5s", value_parser = span)]
    pub node_freshness: Duration,

    /// How soon a write that failed is tried again; doubled with each further failure, up to 32 times. At least 100ms.
    #[arg(long, env = "BRUPOP_ERROR_BACKOFF", default_value = "500ms", value_parser = span)]
    pub error_backoff: Duration,

    /// How soon a pod that could not be evicted is tried again, unless another one goes before. At least 100ms.
    #[arg(long, env = "BRUPOP_EVICTION_RETRY", default_value = "5s", value_parser = span)]
    pub eviction_retry: Duration,

    /// How many pods are evicted at once, on all nodes together. At least 1.
    #[arg(long, env = "BRUPOP_EVICTIONS", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    pub evictions: u16,

    /// How many objects are written at once. At least 1.
    #[arg(long, env = "BRUPOP_WRITES", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    pub writes: u16,

    /// How often a plan's status may change while its phase and conditions stay, and how soon Events follow each other;
    /// those in between are told together.
    #[arg(long, env = "BRUPOP_STATUS_INTERVAL", default_value = "1s", value_parser = span)]
    pub status_interval: Duration,

    /// How often this clock is compared with the Kubernetes API's. At least 1s.
    #[arg(long, env = "BRUPOP_CLOCK_CHECK_INTERVAL", default_value = "1m", value_parser = span)]
    pub clock_check_interval: Duration,

    /// How log lines look.
    #[arg(long, env = "BRUPOP_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,

    /// What is logged: a level, or a filter by module such as `info,controller=debug`. The client's own lines are
    /// off by default: they tell again what is logged here.
    #[arg(long, env = "BRUPOP_LOG", default_value = "info,kube_client=off")]
    pub log: String,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Text for people.
    Text,
}

/// A setting that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSettings {
    /// A value is outside its bounds.
    #[error("--{flag} {value}: must be from {min} to {max}")]
    OutOfBounds {
        /// The flag.
        flag: &'static str,
        /// What was given.
        value: String,
        /// The least it may be.
        min: &'static str,
        /// The most it may be.
        max: &'static str,
    },
    /// The lease would end before a request sent after its renewal.
    #[error(
        "--lease-duration {lease}: must be longer than --lease-renew {renew} and --request-timeout {request} together, \
         or nothing could ever be written; give a longer lease or shorter ones of the others"
    )]
    LeaseTooShort {
        /// `--lease-duration`.
        lease: String,
        /// `--lease-renew`.
        renew: String,
        /// `--request-timeout`.
        request: String,
    },
}

impl Settings {
    /// Checks what a single flag's parser cannot.
    ///
    /// # Errors
    /// Names the first setting that cannot be used.
    pub fn check(&self) -> Result<(), InvalidSettings> {
        let hour = ("1h", Duration::from_secs(3600));
        let second = ("1s", Duration::from_secs(1));
        let tenth = ("100ms", Duration::from_millis(100));
        let bounds = [
            ("lease-duration", self.lease_duration, second, hour),
            ("lease-renew", self.lease_renew, tenth, hour),
            ("request-timeout", self.request_timeout, tenth, hour),
            ("watch-timeout", self.watch_timeout, second, hour),
            (
                "node-freshness",
                self.node_freshness,
                tenth,
                ("5s", Duration::from_secs(5)),
            ),
            ("retry-backoff", self.retry_backoff, tenth, hour),
            ("release-wait", self.release_wait, tenth, hour),
            ("error-backoff", self.error_backoff, tenth, hour),
            ("eviction-retry", self.eviction_retry, tenth, hour),
            (
                "status-interval",
                self.status_interval,
                ("0s", Duration::ZERO),
                hour,
            ),
            ("clock-check-interval", self.clock_check_interval, second, hour),
        ];
        for (flag, value, min, max) in bounds {
            if value < min.1 || value > max.1 {
                return Err(InvalidSettings::OutOfBounds {
                    flag,
                    value: spell(value),
                    min: min.0,
                    max: max.0,
                });
            }
        }
        if self.leader_elect && self.lease_renew + self.request_timeout >= self.lease_duration {
            return Err(InvalidSettings::LeaseTooShort {
                lease: spell(self.lease_duration),
                renew: spell(self.lease_renew),
                request: spell(self.request_timeout),
            });
        }
        Ok(())
    }

    /// The planner's settings.
    #[must_use]
    pub fn planner(&self) -> planner::world::Settings {
        let delta = |duration| TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX);
        planner::world::Settings {
            retry_backoff: delta(self.retry_backoff),
            release_wait: delta(self.release_wait),
            max_unavailable: self.max_unavailable,
            stage_ahead: usize::from(self.stage_ahead),
        }
    }
}

fn limit(text: &str) -> Result<IntOrPercent, InvalidIntOrPercent> {
    text.parse()
}

fn span(text: &str) -> Result<Duration, InvalidSpan> {
    // A span is never negative.
    text.parse::<Span>()
        .map(|span| span.delta().to_std().unwrap_or_default())
}

fn spell(duration: Duration) -> String {
    match u32::try_from(duration.as_secs()) {
        Ok(seconds) if duration.subsec_nanos() == 0 => Span::seconds(seconds).to_string(),
        _ => format!("{duration:?}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;

    fn parsed(flags: &[&str]) -> Settings {
        Settings::try_parse_from(["controller"].iter().chain(flags)).unwrap()
    }

    #[test]
    fn the_defaults_can_be_used() {
        assert_eq!(parsed(&[]).check(), Ok(()));
    }

    #[test]
    fn every_delay_can_be_one_second_or_less() {
        let settings = parsed(&[
            "--lease-duration=1s",
            "--lease-renew=250ms",
            "--request-timeout=500ms",
            "--retry-backoff=1s",
            "--release-wait=1s",
            "--error-backoff=100ms",
            "--eviction-retry=100ms",
            "--status-interval=0s",
            "--clock-check-interval=1s",
            "--node-freshness=1s",
            "--watch-timeout=1s",
        ]);
        assert_eq!(settings.check(), Ok(()));
    }

    #[test]
    fn a_lease_shorter_than_a_renewal_and_a_request_is_refused() {
        let error = parsed(&["--lease-duration=5s"]).check().unwrap_err().to_string();
        assert!(
            error.starts_with("--lease-duration 5s: must be longer than --lease-renew 2s"),
            "{error}"
        );
        assert_eq!(
            parsed(&["--lease-duration=5s", "--leader-elect=false"]).check(),
            Ok(())
        );
    }

    #[test]
    fn a_delay_outside_its_bounds_is_refused() {
        for (flag, error) in [
            (
                "--retry-backoff=0s",
                "--retry-backoff 0s: must be from 100ms to 1h",
            ),
            ("--release-wait=2h", "--release-wait 2h: must be from 100ms to 1h"),
        ] {
            assert_eq!(parsed(&[flag]).check().unwrap_err().to_string(), error);
        }
    }

    #[test]
    fn what_is_known_of_nodes_is_never_older_than_five_seconds_when_a_grant_is_written() {
        let error = parsed(&["--node-freshness=6s"]).check().unwrap_err().to_string();
        assert_eq!(error, "--node-freshness 6s: must be from 100ms to 5s");
    }
}
