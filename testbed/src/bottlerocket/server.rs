//! The Bottlerocket API on a Unix socket.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use super::{Call, CallFault, Command, Host};
use crate::truth::{RebootCause, SimEventKind};

/// The transaction used where none is named.
const DEFAULT_TRANSACTION: &str = "default";

/// Serves the API at this path until dropped; open connections end with it. While the host's socket is taken away,
/// the file stays and connections to it are refused.
pub async fn serve(host: Arc<Host>, path: &Path) -> Result<Infallible> {
    let mut wanted = host.socket();
    loop {
        wanted.wait_for(|up| *up).await.context("the host is gone")?;
        let listener = listen(path)?;
        tokio::select! {
            _ = wanted.wait_for(|up| !*up) => {}
            failed = accept(&host, &listener) => return failed,
        }
    }
}

fn listen(path: &Path) -> Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt as _;

    if path.exists() {
        std::fs::remove_file(path).with_context(|| format!("removing the old {}", path.display()))?;
    }
    let listener = UnixListener::bind(path).with_context(|| format!("binding {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

async fn accept(host: &Arc<Host>, listener: &UnixListener) -> Result<Infallible> {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.context("accepting on the API socket")?;
        connections.spawn(converse(host.clone(), stream));
        while connections.try_join_next().is_some() {}
    }
}

async fn converse(host: Arc<Host>, stream: UnixStream) {
    let service = service_fn(|request| answer(host.clone(), request));
    // An error here is a client that left, or a reply that we lose on purpose.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// The error on which the connection is closed without an answer.
#[derive(Debug)]
struct ReplyLost;

impl std::fmt::Display for ReplyLost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the reply is lost on purpose")
    }
}

impl std::error::Error for ReplyLost {}

async fn answer(host: Arc<Host>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, ReplyLost> {
    let call = call_of(request.method(), request.uri().path());
    let query = request.uri().query().unwrap_or_default().to_owned();
    let Ok(body) = request.into_body().collect().await else {
        return Err(ReplyLost);
    };
    let Reply {
        status,
        body,
        lost,
        ignored,
    } = reply(&host, call, &query, &body.to_bytes());
    host.record(SimEventKind::Called {
        call,
        status: (!lost).then_some(status),
    });
    if call == Call::Reboot && status == 204 && !ignored {
        host.begin_reboot(RebootCause::Api);
    }
    if lost {
        return Err(ReplyLost);
    }
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
    Ok(response)
}

#[derive(Default)]
struct Reply {
    status: u16,
    body: String,
    lost: bool,
    /// Nothing is done, whatever is answered.
    ignored: bool,
}

impl Reply {
    fn empty() -> Self {
        Self {
            status: 204,
            ..Self::default()
        }
    }

    fn json(value: &impl Serialize) -> Self {
        match serde_json::to_string(value) {
            Ok(body) => Self {
                status: 200,
                body,
                ..Self::default()
            },
            Err(error) => Self::error(500, error.to_string()),
        }
    }

    fn error(status: u16, message: impl Into<String>) -> Self {
        Self {
            status,
            body: message.into(),
            ..Self::default()
        }
    }
}

fn call_of(method: &Method, path: &str) -> Call {
    match (method.as_str(), path) {
        ("GET", "/os") => Call::Os,
        ("GET", "/updates/status") => Call::Status,
        ("POST", "/actions/refresh-updates") => Call::Refresh,
        ("POST", "/actions/prepare-update") => Call::Prepare,
        ("POST", "/actions/activate-update") => Call::Activate,
        ("POST", "/actions/deactivate-update") => Call::Deactivate,
        ("POST", "/actions/reboot") => Call::Reboot,
        ("GET", "/settings") => Call::GetSettings,
        ("PATCH", "/settings") => Call::PatchSettings,
        ("DELETE", "/tx") => Call::DeleteTransaction,
        ("POST", "/tx/commit_and_apply") => Call::CommitAndApply,
        _ => Call::Unknown,
    }
}

fn command_of(call: Call) -> Option<Command> {
    match call {
        Call::Refresh => Some(Command::Refresh),
        Call::Prepare => Some(Command::Prepare),
        Call::Activate => Some(Command::Activate),
        Call::Deactivate => Some(Command::Deactivate),
        _ => None,
    }
}

fn reply(host: &Host, call: Call, query: &str, body: &[u8]) -> Reply {
    if host
        .with(|machine, _| machine.faults.take_refusal(call))
        .is_some()
    {
        return Reply::error(500, "injected: the call failed");
    }
    if let Some(command) = command_of(call) {
        return match host.command(command) {
            (Ok(()), fault) => Reply {
                lost: fault == Some(CallFault::ReplyLost),
                ..Reply::empty()
            },
            (Err(refusal), _) => Reply::error(refusal.status(), format!("{refusal:?}")),
        };
    }
    let reply = plain_reply(host, call, query, body);
    if reply.status >= 400 {
        return reply;
    }
    let fault = host.with(|machine, _| machine.faults.take_accepted(call));
    Reply {
        lost: fault == Some(CallFault::ReplyLost),
        ignored: fault == Some(CallFault::StaysUp),
        ..reply
    }
}

fn plain_reply(host: &Host, call: Call, query: &str, body: &[u8]) -> Reply {
    let transaction = parameter(query, "tx").unwrap_or_else(|| DEFAULT_TRANSACTION.to_owned());
    host.with(|machine, now| match call {
        Call::Os => Reply::json(&machine.os()),
        Call::Status => match machine.status() {
            Ok(status) => Reply::json(&status),
            Err(refusal) => Reply::error(refusal.status(), format!("{refusal:?}")),
        },
        Call::GetSettings => {
            let keys = parameter(query, "keys");
            let keys: Option<Vec<String>> = keys.map(|keys| keys.split(',').map(str::to_owned).collect());
            Reply::json(&machine.settings().get(keys.as_deref()))
        }
        Call::PatchSettings => match machine.patch_settings(&transaction, body) {
            Ok(()) => Reply::empty(),
            Err(message) => Reply::error(400, message),
        },
        Call::DeleteTransaction => Reply::json(&machine.delete_transaction(&transaction)),
        Call::CommitAndApply => {
            let keys = machine.commit_and_apply(now, &transaction);
            if keys.is_empty() {
                Reply::error(422, "nothing is pending")
            } else {
                Reply::json(&keys)
            }
        }
        Call::Reboot => Reply::empty(),
        _ => Reply::error(404, ""),
    })
}

/// One parameter of a query, percent-decoded.
fn parameter(query: &str, name: &str) -> Option<String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .filter(|(key, _)| *key == name)
        .map(|(_, value)| percent_decoded(value))
        .next()
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = (*first == b'%').then(|| tail.get(..2)).flatten();
        let code = escaped
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
