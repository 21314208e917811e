//! What processes hold, as the kernel counts it, and what the agent takes on disk.

use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::binaries::target_directory;

/// What a process holds, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    /// Resident now, shared pages of its program included.
    pub resident: f64,
    /// What of it is the process's own: allocated, or changed from what a file says.
    pub own: f64,
    /// The most that was resident at once.
    pub peak: f64,
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [resident, own, files, peak] =
            [self.resident, self.own, self.resident - self.own, self.peak].map(|bytes| bytes / 1e6);
        write!(
            f,
            "{resident:.1} MB, of them {own:.1} MB its own and {files:.1} MB of files; {peak:.1} MB at most"
        )
    }
}

/// What this process holds.
pub(super) fn of(pid: u32) -> Result<Memory> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("reading the memory of process {pid}"))?;
    let bytes = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kilobytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
        kilobytes.map(|kilobytes| kilobytes * 1024.0)
    };
    Ok(Memory {
        resident: bytes("VmRSS:").context("VmRSS is missing")?,
        own: bytes("RssAnon:").context("RssAnon is missing")?,
        peak: bytes("VmHWM:").context("VmHWM is missing")?,
    })
}

/// What the agents hold that run as processes of ours.
pub(super) fn of_agents() -> Result<Vec<Memory>> {
    let ours = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let Some(pid) = path
            .file_name()
            .and_then(|name| name.to_str()?.parse::<u32>().ok())
        else {
            continue;
        };
        // A process may end while it is looked at.
        if is_agent(&path, &ours)
            && let Ok(memory) = of(pid)
        {
            found.push(memory);
        }
    }
    Ok(found)
}

fn is_agent(process: &Path, parent: &str) -> bool {
    let stat = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
    // pid (comm) state ppid ...
    let Some((_, rest)) = stat.split_once("(agent) ") else {
        return false;
    };
    rest.split(' ').nth(1) == Some(parent)
}

/// The one in the middle.
pub(super) fn median(all: &[Memory]) -> Memory {
    let mut all = all.to_vec();
    all.sort_by(|a, b| a.resident.total_cmp(&b.resident));
    all.get(all.len() / 2).copied().unwrap_or_default()
}

/// What the agent takes on disk, in bytes.
pub(super) fn agent_size() -> Result<f64> {
    let file = target_directory()?.join("agent");
    let size = file
        .metadata()
        .with_context(|| format!("looking at {}", file.display()))?
        .len();
    Ok(size as f64)
}
