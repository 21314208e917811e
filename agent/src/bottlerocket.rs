//! Typed client of Bottlerocket's API on its Unix socket. Each call has a connection of its own.

use std::{future::Future, io, path::PathBuf, pin::pin, time::Duration};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{
    net::UnixStream,
    time::{Instant, timeout, timeout_at},
};

mod types;

use types::SettingsTree;
pub use types::{Command, CommandResult, CommandStatus, Image, Os, Partition, Settings, Status, UpdateState};

/// The transaction that the agent changes settings in.
pub const TRANSACTION: &str = "brupop-update";

const MAX_BODY: usize = 1 << 20;

/// Why a call did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens: the call certainly was not made.
    #[error("cannot connect: {0}")]
    NotSent(#[source] io::Error),
    /// The call was made, and whether it was carried out is not known.
    #[error("no answer: {0}")]
    Lost(String),
    /// 404
    #[error("404 not found: {0}")]
    NotFound(String),
    /// 409
    #[error("409 not possible in this state: {0}")]
    Conflict(String),
    /// 423
    #[error("423 an update command is running: {0}")]
    Busy(String),
    /// 5xx
    #[error("{status}: {words}")]
    Failed {
        /// The answer's status.
        status: u16,
        /// The answer's own words.
        words: String,
    },
    /// Any other status.
    #[error("{status}: {words}")]
    Rejected {
        /// The answer's status.
        status: u16,
        /// The answer's own words.
        words: String,
    },
    /// An answer that is not what it should be.
    #[error("unreadable answer: {0}")]
    Unreadable(String),
}

/// Client of Bottlerocket's API.
#[derive(Clone, Debug)]
pub struct Bottlerocket {
    socket: PathBuf,
    request_timeout: Duration,
}

impl Bottlerocket {
    /// A client of the API at this socket.
    #[must_use]
    pub fn new(socket: PathBuf, request_timeout: Duration) -> Self {
        Self {
            socket,
            request_timeout,
        }
    }

    /// What runs.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn os(&self) -> Result<Os, CallError> {
        self.get("/os").await
    }

    /// How far the node's own updater is. `NotFound` until the first refresh of a boot, `Busy` while a command runs.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn status(&self) -> Result<Status, CallError> {
        self.get("/updates/status").await
    }

    /// The updater's settings.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn settings(&self) -> Result<Settings, CallError> {
        let keys = "settings.updates.version-lock,settings.updates.ignore-waves";
        let tree: SettingsTree<Settings> = self.get(&format!("/settings?keys={keys}")).await?;
        Ok(tree.updates)
    }

    /// Changes the updater's settings, in a transaction of the agent's own.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn change_settings(&self, settings: &Settings) -> Result<(), CallError> {
        // What an earlier try left half-made must not be committed with this one.
        match self
            .call(Method::DELETE, &format!("/tx?tx={TRANSACTION}"), Bytes::new())
            .await
        {
            Ok(_) | Err(CallError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        let body = serde_json::to_vec(&SettingsTree { updates: settings })
            .map_err(|error| CallError::Unreadable(error.to_string()))?;
        self.call(Method::PATCH, &format!("/settings?tx={TRANSACTION}"), body.into())
            .await?;
        match self
            .call(
                Method::POST,
                &format!("/tx/commit_and_apply?tx={TRANSACTION}"),
                Bytes::new(),
            )
            .await
        {
            // Nothing was pending: the settings are what they should be.
            Ok(_) | Err(CallError::Rejected { status: 422, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Has an update command begun. Its outcome is in a later status.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn command(&self, command: Command) -> Result<(), CallError> {
        self.call(Method::POST, command.path(), Bytes::new())
            .await
            .map(drop)
    }

    /// Reboots the node, unless the call cannot be sent before `deadline`.
    ///
    /// # Errors
    /// `NotSent` where the node certainly does not reboot by this call, `Lost` where it may.
    pub async fn reboot(&self, deadline: Instant) -> Result<(), CallError> {
        let late = || {
            CallError::NotSent(io::Error::new(
                io::ErrorKind::TimedOut,
                "the reboot permit ran out",
            ))
        };
        let stream = timeout_at(deadline, UnixStream::connect(&self.socket))
            .await
            .map_err(|_| late())?;
        let stream = stream.map_err(CallError::NotSent)?;
        if Instant::now() >= deadline {
            return Err(late());
        }
        let exchange = exchange(stream, Method::POST, "/actions/reboot", Bytes::new());
        self.within(self.request_timeout, exchange).await.map(drop)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        let body = self.call(Method::GET, path, Bytes::new()).await?;
        serde_json::from_slice(&body).map_err(|error| CallError::Unreadable(format!("GET {path}: {error}")))
    }

    async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, CallError> {
        let stream = timeout(self.request_timeout, UnixStream::connect(&self.socket))
            .await
            .map_err(|_| CallError::NotSent(io::ErrorKind::TimedOut.into()))?
            .map_err(CallError::NotSent)?;
        self.within(self.request_timeout, exchange(stream, method, path, body))
            .await
    }

    async fn within(
        &self,
        limit: Duration,
        exchange: impl Future<Output = Result<(StatusCode, Bytes), CallError>>,
    ) -> Result<Bytes, CallError> {
        let answer = timeout(limit, exchange).await;
        let (status, body) = answer.map_err(|_| CallError::Lost(format!("not within {limit:?}")))??;
        if status.is_success() {
            return Ok(body);
        }
        let words = one_line(&String::from_utf8_lossy(&body));
        Err(match status {
            StatusCode::NOT_FOUND => CallError::NotFound(words),
            StatusCode::CONFLICT => CallError::Conflict(words),
            StatusCode::LOCKED => CallError::Busy(words),
            _ if status.is_server_error() => CallError::Failed {
                status: status.as_u16(),
                words,
            },
            _ => CallError::Rejected {
                status: status.as_u16(),
                words,
            },
        })
    }
}

async fn exchange(
    stream: UnixStream,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<(StatusCode, Bytes), CallError> {
    let lost = |error: hyper::Error| CallError::Lost(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Full::new(body))
        .map_err(|error| CallError::Unreadable(error.to_string()))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(lost)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        Ok((
            status,
            body.map_err(|error| CallError::Lost(error.to_string()))?
                .to_bytes(),
        ))
    };
    let mut answer = pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // The connection has ended: the answer is there by now, or never comes.
        _ = connection => answer.await,
    }
}

/// Words of others, made fit for a one-line message.
#[must_use]
pub fn one_line(text: &str) -> String {
    const MOST: usize = 300;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= MOST {
        return line;
    }
    // Where a program says why it ended is at the end.
    let skipped = line.chars().count() - MOST;
    format!("…{}", line.chars().skip(skipped).collect::<String>())
}

#[cfg(test)]
mod tests;
