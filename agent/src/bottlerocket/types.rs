//! What Bottlerocket's API says, in its own words.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What runs: `GET /os`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Os {
    /// Such as `aws-k8s-1.33`.
    pub variant_id: String,
    /// Such as `1.20.3`.
    pub version_id: String,
    /// Such as `x86_64`.
    pub arch: String,
}

/// How far the node's own updater is: `GET /updates/status`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Status {
    /// Where the updater's state machine is.
    pub update_state: UpdateState,
    /// The versions that the repository offers.
    #[serde(default)]
    pub available_updates: Vec<String>,
    /// The image that the settings choose among them.
    #[serde(default)]
    pub chosen_update: Option<Image>,
    /// What is on the inactive partition, as far as this boot knows.
    #[serde(default)]
    pub staging_partition: Option<Partition>,
    /// The last command that ended.
    #[serde(default)]
    pub most_recent_command: Option<CommandResult>,
}

/// Where the updater's state machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum UpdateState {
    /// Nothing is chosen.
    Idle,
    /// An update is chosen.
    Available,
    /// An image is on the inactive partition.
    Staged,
    /// That image boots next.
    Ready,
    /// A state that this agent does not know.
    #[serde(other)]
    Unknown,
}

/// An image of the operating system.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Image {
    /// Its architecture.
    pub arch: String,
    /// Its version.
    pub version: String,
    /// Its variant.
    pub variant: String,
}

/// What is on a partition set.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Partition {
    /// The image.
    pub image: Image,
    /// Whether it boots next.
    pub next_to_boot: bool,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct CommandResult {
    /// Which command: see [`Command::cmd_type`].
    pub cmd_type: String,
    /// Whether it succeeded.
    pub cmd_status: CommandStatus,
    /// When. Only compared, never read: clocks are set back.
    pub timestamp: String,
    /// Exit status of its process.
    #[serde(default)]
    pub exit_status: Option<i32>,
    /// Its own words.
    #[serde(default)]
    pub stderr: Option<String>,
}

/// Whether a command succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum CommandStatus {
    /// It did.
    Success,
    /// It did not, or ended in a way that this agent does not know.
    #[serde(other)]
    Failed,
}

/// The updater's settings that matter here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Settings {
    /// `latest` or a version.
    #[serde(default = "latest")]
    pub version_lock: String,
    /// Whether the repository's own waves are ignored.
    #[serde(default)]
    pub ignore_waves: bool,
}

fn latest() -> String {
    "latest".to_owned()
}

#[derive(Serialize, Deserialize)]
pub(super) struct SettingsTree<T> {
    pub(super) updates: T,
}

/// The update commands. They are only accepted by the call; their work goes on after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Command {
    /// Ask the repository what it offers.
    Refresh,
    /// Write the chosen image to the inactive partition.
    Prepare,
    /// Boot that image next.
    Activate,
    /// Boot the running image next after all.
    Deactivate,
}

impl Command {
    /// Its name in [`CommandResult::cmd_type`].
    #[must_use]
    pub fn cmd_type(self) -> &'static str {
        match self {
            Self::Refresh => "refresh",
            Self::Prepare => "prepare",
            Self::Activate => "activate",
            Self::Deactivate => "deactivate",
        }
    }

    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Refresh => "/actions/refresh-updates",
            Self::Prepare => "/actions/prepare-update",
            Self::Activate => "/actions/activate-update",
            Self::Deactivate => "/actions/deactivate-update",
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.path().trim_start_matches("/actions/"))
    }
}
