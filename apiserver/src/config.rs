//! Every setting, as a flag and as an environment variable.

use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

use api::{names, quantity::Span, wire};
use clap::{Parser, ValueEnum};

/// Serves the update agents of Bottlerocket nodes.
#[derive(Clone, Debug, Parser)]
#[command(name = "apiserver", version)]
pub struct Config {
    /// Namespace of the install: of the agents, the shadows and the ledger
    #[arg(long, env = "BRUPOP_NAMESPACE", default_value = names::DEFAULT_NAMESPACE)]
    pub namespace: String,
    /// Service account of the agents, in that namespace
    #[arg(long, env = "BRUPOP_AGENT_SERVICE_ACCOUNT", default_value = names::AGENT_SERVICE_ACCOUNT)]
    pub agent_service_account: String,

    /// Address that agents connect to over HTTPS; port 0 takes a free one
    #[arg(long, env = "BRUPOP_LISTEN", default_value = "0.0.0.0:8443")]
    pub listen: SocketAddr,
    /// File that the address of `listen` is written to once it is bound
    #[arg(long, env = "BRUPOP_LISTEN_ADDRESS_FILE")]
    pub listen_address_file: Option<PathBuf>,
    /// Address of /healthz, /readyz and /metrics over plain HTTP; port 0 takes a free one
    #[arg(long, env = "BRUPOP_HEALTH_LISTEN", default_value = "0.0.0.0:8080")]
    pub health_listen: SocketAddr,
    /// File that the address of `health-listen` is written to once it is bound
    #[arg(long, env = "BRUPOP_HEALTH_ADDRESS_FILE")]
    pub health_address_file: Option<PathBuf>,

    /// Certificate chain, PEM; read again when it changes
    #[arg(long, env = "BRUPOP_TLS_CERT_FILE")]
    pub tls_cert_file: PathBuf,
    /// Private key, PEM; read again when it changes
    #[arg(long, env = "BRUPOP_TLS_KEY_FILE")]
    pub tls_key_file: PathBuf,
    /// How often, at most, the certificate and key are looked at
    #[arg(long, env = "BRUPOP_TLS_CHECK_INTERVAL", default_value = "5s", value_parser = delay)]
    pub tls_check_interval: Duration,

    /// How long a call to the Kubernetes API may take
    #[arg(long, env = "BRUPOP_CLIENT_REQUEST_TIMEOUT", default_value = "10s", value_parser = delay)]
    pub client_request_timeout: Duration,
    /// How long one watch of the Kubernetes API lasts before it is renewed; a dead one is noticed 5s after that
    #[arg(long, env = "BRUPOP_WATCH_TIMEOUT", default_value = "1m", value_parser = delay)]
    pub watch_timeout: Duration,
    /// Longest pause before a failed watch is tried again
    #[arg(long, env = "BRUPOP_WATCH_BACKOFF", default_value = "10s", value_parser = delay)]
    pub watch_backoff: Duration,

    /// How long the answer to a token is remembered; at most 30s
    #[arg(long, env = "BRUPOP_TOKEN_CACHE_TIME", default_value = "30s", value_parser = at_most_30s)]
    pub token_cache_time: Duration,
    /// How many answers to tokens are remembered
    #[arg(long, env = "BRUPOP_TOKEN_CACHE_SIZE", default_value = "10000")]
    pub token_cache_size: NonZeroUsize,

    /// Pause between two heartbeats on a stream
    #[arg(long, env = "BRUPOP_HEARTBEAT", default_value = "20s", value_parser = heartbeat)]
    pub heartbeat: Duration,
    /// How long a stream goes on while the watch does not show the agent's pod yet
    #[arg(long, env = "BRUPOP_POD_GRACE", default_value = "10s", value_parser = delay)]
    pub pod_grace: Duration,

    /// Connections served at once; more wait to be accepted
    #[arg(long, env = "BRUPOP_MAX_CONNECTIONS", default_value = "10000")]
    pub max_connections: NonZeroUsize,
    /// Longest request body, in bytes
    #[arg(long, env = "BRUPOP_MAX_BODY", default_value_t = 16 * 1024)]
    pub max_body: usize,
    /// How long a TLS handshake may take
    #[arg(long, env = "BRUPOP_TLS_HANDSHAKE_TIMEOUT", default_value = "10s", value_parser = delay)]
    pub tls_handshake_timeout: Duration,
    /// How long a client may take for a request's headers
    #[arg(long, env = "BRUPOP_HEADER_TIMEOUT", default_value = "10s", value_parser = delay)]
    pub header_timeout: Duration,
    /// How long a request may take, from its headers to the head of the answer
    #[arg(long, env = "BRUPOP_REQUEST_TIMEOUT", default_value = "30s", value_parser = delay)]
    pub request_timeout: Duration,
    /// How long a connection without a request or stream is kept
    #[arg(long, env = "BRUPOP_IDLE_TIMEOUT", default_value = "1m", value_parser = delay)]
    pub idle_timeout: Duration,
    /// Pause between two pings on an HTTP/2 connection, and how long the answer may take
    #[arg(long, env = "BRUPOP_PING_INTERVAL", default_value = "20s", value_parser = delay)]
    pub ping_interval: Duration,
    /// How long connections may take to end once they are told to
    #[arg(long, env = "BRUPOP_SHUTDOWN_TIMEOUT", default_value = "10s", value_parser = delay)]
    pub shutdown_timeout: Duration,

    /// Form of the logs
    #[arg(long, env = "BRUPOP_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,
    /// What is logged, as tracing's directives
    #[arg(
        long,
        env = "BRUPOP_LOG",
        default_value = "info,kube_client::client::builder=off"
    )]
    pub log: String,
}

/// Form of the logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

fn delay(text: &str) -> Result<Duration, String> {
    let span: Span = text.parse().map_err(|error| format!("{error}"))?;
    span.delta()
        .to_std()
        .ok()
        .filter(|delay| !delay.is_zero())
        .ok_or_else(|| "must be more than 0s, such as 500ms or 10s".to_owned())
}

fn within(text: &str, most: Duration) -> Result<Duration, String> {
    let delay = delay(text)?;
    if delay > most {
        Err(format!("must be at most {}s", most.as_secs()))
    } else {
        Ok(delay)
    }
}

fn at_most_30s(text: &str) -> Result<Duration, String> {
    within(text, Duration::from_secs(30))
}

/// Two heartbeats must fit into the silence after which an agent gives the stream up.
fn heartbeat(text: &str) -> Result<Duration, String> {
    within(text, Duration::from_secs(wire::SILENCE_SECONDS / 2))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;

    fn parse(extra: &[&str]) -> Result<Config, clap::Error> {
        let files = ["apiserver", "--tls-cert-file=c", "--tls-key-file=k"];
        Config::try_parse_from(files.iter().chain(extra))
    }

    #[test]
    fn defaults_are_those_of_the_protocol() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.heartbeat, Duration::from_secs(wire::HEARTBEAT_SECONDS));
        assert_eq!(config.namespace, names::DEFAULT_NAMESPACE);
        assert_eq!(config.token_cache_time, Duration::from_secs(30));
    }

    #[test]
    fn delays_are_bounded() {
        assert_eq!(
            parse(&["--heartbeat=250ms"]).unwrap().heartbeat,
            Duration::from_millis(250)
        );
        for bad in [
            "--heartbeat=31s",
            "--token-cache-time=31s",
            "--idle-timeout=0s",
            "--request-timeout=5",
        ] {
            assert!(parse(&[bad]).is_err(), "{bad}");
        }
    }
}
