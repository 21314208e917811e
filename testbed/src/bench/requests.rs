//! What the operator's programs ask of the Kubernetes API, from the audit log.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use chrono::{DateTime, Utc};
use serde_json::Value;

/// The user names of the operator's programs begin with it.
const OURS: &str = "system:serviceaccount:brupop-bottlerocket-aws:brupop-update-";

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// Which of the programs.
    pub component: String,
    /// `get`, `list`, `update`, ...
    pub verb: String,
    /// The resource, with its subresource.
    pub resource: String,
    /// The answer's status.
    pub code: u64,
    /// When it came.
    pub received: DateTime<Utc>,
    /// When it was answered.
    pub answered: DateTime<Utc>,
}

impl Request {
    /// It comes with time, not with updates.
    pub fn is_background(&self) -> bool {
        self.is_lease() || self.resource.is_empty()
    }

    /// A renewal of the controller's lease.
    pub fn is_lease(&self) -> bool {
        self.resource == "leases"
    }

    fn of(event: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let time = |value: &Value| value.as_str()?.parse::<DateTime<Utc>>().ok();
        let component = event["user"]["username"].as_str()?.strip_prefix(OURS)?;
        let object = &event["objectRef"];
        let mut resource = text(&object["resource"]);
        if let Some(subresource) = object["subresource"].as_str() {
            resource = format!("{resource}/{subresource}");
        }
        Some(Self {
            component: component.to_owned(),
            verb: text(&event["verb"]),
            resource,
            code: event["responseStatus"]["code"].as_u64().unwrap_or_default(),
            received: time(&event["requestReceivedTimestamp"])?,
            answered: time(&event["stageTimestamp"])?,
        })
    }
}

/// The answered requests of the operator's programs from one moment to another, watches apart.
pub(super) fn between(log: &Path, from: DateTime<Utc>, to: DateTime<Utc>) -> Result<Vec<Request>> {
    let log = std::fs::read_to_string(log).context("reading the audit log")?;
    // The last line may be half written.
    let events = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let complete = events.filter(|event| event["stage"] == "ResponseComplete");
    let requests = complete.filter_map(|event| Request::of(&event));
    Ok(requests
        .filter(|request| request.verb != "watch" && (from..to).contains(&request.received))
        .collect())
}

/// Counts by program, verb and resource.
pub(super) fn counted<'a>(requests: impl Iterator<Item = &'a Request>) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for Request {
        component,
        verb,
        resource,
        ..
    } in requests
    {
        *counts
            .entry(format!("{component} {verb} {resource}"))
            .or_default() += 1;
    }
    counts
}
