//! The example with windows that suit a demo: one that closes in the middle of the run, and one that opens after it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};

/// How long the first window is open, and how long nothing is.
const OPEN: TimeDelta = TimeDelta::seconds(20);
const CLOSED: TimeDelta = TimeDelta::seconds(12);
const REOPENED: TimeDelta = TimeDelta::minutes(10);

/// The copy that is applied.
pub(super) struct Copy {
    pub name: String,
    pub file: PathBuf,
    pub yaml: String,
    /// The windows, from and to.
    pub windows: [(DateTime<Utc>, DateTime<Utc>); 2],
}

/// Writes a copy of the example that a demo can roll out within a minute or two.
pub(super) fn for_demo(example: &Path, directory: &Path, now: DateTime<Utc>) -> Result<Copy> {
    let text = std::fs::read_to_string(example).with_context(|| format!("reading {}", example.display()))?;
    let mut plan: Value =
        serde_saphyr::from_str(&text).with_context(|| format!("reading {}", example.display()))?;
    let name = plan["metadata"]["name"]
        .as_str()
        .context("the example has no metadata.name")?
        .to_owned();
    let windows = [
        (now, now + OPEN),
        (now + OPEN + CLOSED, now + OPEN + CLOSED + REOPENED),
    ];
    let at = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
    let named = [("first", windows[0]), ("second", windows[1])];
    plan["spec"]["maintenanceWindows"] = named
        .iter()
        .map(|(name, (start, end))| json!({"name": name, "start": at(*start), "end": at(*end)}))
        .collect();
    plan["spec"]["expectedNodeDuration"] = json!("8s");
    plan["spec"]["monitoring"] = json!({"minReady": "1s", "timeout": "30s"});
    for wave in plan["spec"]["waves"]
        .as_array_mut()
        .into_iter()
        .flatten()
        .filter(|wave| wave.get("soak").is_some())
    {
        wave["soak"] = json!("3s");
    }
    let yaml = serde_saphyr::to_string(&plan)?;
    let file = directory.join(format!("{name}.yaml"));
    std::fs::write(&file, &yaml)?;
    Ok(Copy {
        name,
        file,
        yaml,
        windows,
    })
}
