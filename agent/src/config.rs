//! The settings, with every delay among them.

use std::{path::PathBuf, time::Duration};

use api::quantity::Span;
use clap::{Args, Parser};

/// The settings of an agent.
#[derive(Clone, Debug, Parser)]
#[command(
    version,
    about = "Does to its own Bottlerocket node what the node's shadow asks for, and reports."
)]
pub struct Config {
    /// Name of the Kubernetes node that the agent runs on.
    #[arg(long, env = "BRUPOP_NODE_NAME")]
    pub node_name: String,
    /// Socket of Bottlerocket's API.
    #[arg(long, env = "BRUPOP_API_SOCKET", default_value = "/run/api.sock")]
    pub api_socket: PathBuf,
    /// File with the boot ID of the running kernel.
    #[arg(
        long,
        env = "BRUPOP_BOOT_ID_FILE",
        default_value = "/proc/sys/kernel/random/boot_id"
    )]
    pub boot_id_file: PathBuf,
    /// Address of the apiserver, such as https://brupop-update-apiserver:443.
    #[arg(long, env = "BRUPOP_SERVER_URL")]
    pub server_url: String,
    /// File with the certificates (PEM) that the apiserver's certificate is checked against; read at each connect.
    #[arg(long, env = "BRUPOP_SERVER_CA_FILE")]
    pub server_ca_file: PathBuf,
    /// File with the token that names this pod to the apiserver; read for each request.
    #[arg(long, env = "BRUPOP_TOKEN_FILE")]
    pub token_file: PathBuf,
    /// The delays.
    #[command(flatten)]
    pub timings: Timings,
}

/// Every delay of the agent. Each is at least a millisecond.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(next_help_heading = "Delays")]
pub struct Timings {
    /// First wait for a running update command.
    #[arg(long, env = "BRUPOP_POLL_MIN", value_parser = delay, default_value = "50ms")]
    pub poll_min: Duration,
    /// Longest wait between two looks at a running update command.
    #[arg(long, env = "BRUPOP_POLL_MAX", value_parser = delay, default_value = "2s")]
    pub poll_max: Duration,
    /// First wait after a call to Bottlerocket's API failed.
    #[arg(long, env = "BRUPOP_RETRY_MIN", value_parser = delay, default_value = "500ms")]
    pub retry_min: Duration,
    /// Longest wait between two tries of such a call.
    #[arg(long, env = "BRUPOP_RETRY_MAX", value_parser = delay, default_value = "15s")]
    pub retry_max: Duration,
    /// How long refreshes may succeed without offering the asked version, until that is reported.
    #[arg(long, env = "BRUPOP_CONFIG_APPLY_TIMEOUT", value_parser = delay, default_value = "60s")]
    pub config_apply_timeout: Duration,
    /// How long refreshes may fail until that is reported.
    #[arg(long, env = "BRUPOP_REFRESH_TIMEOUT", value_parser = delay, default_value = "5m")]
    pub refresh_timeout: Duration,
    /// How often an idle node asks its repository what is on offer, on average: each time is drawn from half of this to
    /// one and a half times this.
    #[arg(long, env = "BRUPOP_REFRESH_INTERVAL", value_parser = delay, default_value = "1h")]
    pub refresh_interval: Duration,
    /// How long any request may take, to Bottlerocket's API or to the apiserver.
    #[arg(long, env = "BRUPOP_REQUEST_TIMEOUT", value_parser = delay, default_value = "20s")]
    pub request_timeout: Duration,
    /// How long Bottlerocket's socket may refuse connections until the agent ends, to be started again.
    #[arg(long, env = "BRUPOP_SOCKET_REFUSED_EXIT", value_parser = delay, default_value = "60s")]
    pub socket_refused_exit: Duration,
    /// How long the node may stay up after a reboot call until that counts as a failure. Long, since what comes of it is
    /// undone, and a machine that shuts down slowly must not be.
    #[arg(long, env = "BRUPOP_REBOOT_TIMEOUT", value_parser = delay, default_value = "15m")]
    pub reboot_timeout: Duration,
    /// How long the report waits that the node is being monitored. Nobody acts on it, and where the monitoring is over by
    /// then it is not made at all.
    #[arg(long, env = "BRUPOP_MONITORING_REPORT", value_parser = delay, default_value = "1s")]
    pub monitoring_report: Duration,
    /// When a refused reboot permit is asked for again.
    #[arg(long, env = "BRUPOP_PERMIT_RETRY", value_parser = delay, default_value = "5s")]
    pub permit_retry: Duration,
    /// When a reboot permit that was refused because the window is closed is asked for again.
    #[arg(long, env = "BRUPOP_PERMIT_RETRY_CLOSED", value_parser = delay, default_value = "60s")]
    pub permit_retry_closed: Duration,
    /// Bound of the random wait after a stream that has worked has ended, in good order or not: where a server goes away,
    /// its agents come to the others, or back to it, spread over so long.
    #[arg(long, env = "BRUPOP_RECONNECT_SPREAD", value_parser = delay, default_value = "5s")]
    pub reconnect_spread: Duration,
    /// First bound of the random wait before an apiserver that could not be reached is tried again; it doubles.
    #[arg(long, env = "BRUPOP_RECONNECT_BASE", value_parser = delay, default_value = "1s")]
    pub reconnect_base: Duration,
    /// Last bound of that wait.
    #[arg(long, env = "BRUPOP_RECONNECT_CAP", value_parser = delay, default_value = "30s")]
    pub reconnect_cap: Duration,
    /// How long a stream may be silent until it is taken for dead.
    #[arg(long, env = "BRUPOP_SILENCE", value_parser = delay, default_value = "60s")]
    pub silence: Duration,
    /// How long after its first line a stream may be without an instruction until the node's shadow is created.
    #[arg(long, env = "BRUPOP_SHADOW_WAIT", value_parser = delay, default_value = "1s")]
    pub shadow_wait: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        let (millis, seconds) = (Duration::from_millis, Duration::from_secs);
        Self {
            poll_min: millis(50),
            poll_max: seconds(2),
            retry_min: millis(500),
            retry_max: seconds(15),
            config_apply_timeout: seconds(60),
            refresh_timeout: seconds(300),
            refresh_interval: seconds(3600),
            request_timeout: seconds(20),
            socket_refused_exit: seconds(60),
            reboot_timeout: seconds(900),
            monitoring_report: seconds(1),
            permit_retry: seconds(5),
            permit_retry_closed: seconds(60),
            reconnect_spread: seconds(5),
            reconnect_base: seconds(1),
            reconnect_cap: seconds(30),
            silence: seconds(api::wire::SILENCE_SECONDS),
            shadow_wait: seconds(1),
        }
    }
}

impl Timings {
    /// How long to wait for a running command at the n-th look, from 0.
    #[must_use]
    pub fn poll(&self, looks: u32) -> Duration {
        doubled(self.poll_min, self.poll_max, looks)
    }

    /// How long to wait after the n-th failure in a row, from 1.
    #[must_use]
    pub fn retry(&self, failures: u32) -> Duration {
        doubled(self.retry_min, self.retry_max, failures.saturating_sub(1))
    }

    /// Bound of the random wait after the n-th failure of the apiserver in a row, from 1.
    #[must_use]
    pub fn reconnect(&self, failures: u32) -> Duration {
        doubled(
            self.reconnect_base,
            self.reconnect_cap,
            failures.saturating_sub(1),
        )
    }
}

fn doubled(first: Duration, last: Duration, times: u32) -> Duration {
    first.saturating_mul(1 << times.min(20)).min(last)
}

fn delay(text: &str) -> Result<Duration, String> {
    let span: Span = text
        .parse()
        .map_err(|error: api::quantity::InvalidSpan| error.to_string())?;
    let delay = span.delta().to_std().unwrap_or_default();
    if delay < Duration::from_millis(1) {
        return Err(format!("{text:?} is too short: use 1ms or more"));
    }
    Ok(delay)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;

    fn parse(more: &[&str]) -> Result<Config, clap::Error> {
        let needed = [
            "agent",
            "--node-name=n",
            "--server-url=https://s",
            "--server-ca-file=/ca",
            "--token-file=/t",
        ];
        Config::try_parse_from(needed.iter().chain(more))
    }

    #[test]
    fn flags_and_library_have_the_same_defaults() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.timings, Timings::default());
        assert_eq!(config.api_socket, PathBuf::from("/run/api.sock"));
        assert_eq!(
            config.boot_id_file,
            PathBuf::from("/proc/sys/kernel/random/boot_id")
        );
    }

    #[test]
    fn delays_have_a_lower_bound_and_say_so() {
        assert_eq!(
            parse(&["--silence=1ms"]).unwrap().timings.silence,
            Duration::from_millis(1)
        );
        for bad in ["--silence=0s", "--silence=5", "--poll-min=-1s"] {
            assert!(parse(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn waits_double_up_to_their_bound() {
        let timings = Timings::default();
        assert_eq!(timings.poll(0), Duration::from_millis(50));
        assert_eq!(timings.poll(1), Duration::from_millis(100));
        assert_eq!(timings.poll(1000), Duration::from_secs(2));
        assert_eq!(timings.retry(1), Duration::from_millis(500));
        assert_eq!(timings.reconnect(2), Duration::from_secs(2));
        assert_eq!(timings.reconnect(99), Duration::from_secs(30));
    }
}
