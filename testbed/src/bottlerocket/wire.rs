//! The JSON of the Bottlerocket API, and the names of its calls.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Version;

/// The calls that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Call {
    /// `GET /os`
    Os,
    /// `GET /updates/status`
    Status,
    /// `POST /actions/refresh-updates`
    Refresh,
    /// `POST /actions/prepare-update`
    Prepare,
    /// `POST /actions/activate-update`
    Activate,
    /// `POST /actions/deactivate-update`
    Deactivate,
    /// `POST /actions/reboot`
    Reboot,
    /// `GET /settings`
    GetSettings,
    /// `PATCH /settings`
    PatchSettings,
    /// `DELETE /tx`
    DeleteTransaction,
    /// `POST /tx/commit_and_apply`
    CommitAndApply,
    /// Anything else.
    Unknown,
}

/// The update commands, whose work goes on after the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Ask the repository what there is.
    Refresh,
    /// Download an image to the inactive partition set.
    Prepare,
    /// Flag the inactive partition set to boot next.
    Activate,
    /// Flag the running one again.
    Deactivate,
}

impl Command {
    /// The call that starts it.
    pub fn call(self) -> Call {
        match self {
            Self::Refresh => Call::Refresh,
            Self::Prepare => Call::Prepare,
            Self::Activate => Call::Activate,
            Self::Deactivate => Call::Deactivate,
        }
    }
}

/// Where the update state machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpdateState {
    /// Nothing chosen.
    Idle,
    /// An update is chosen.
    Available,
    /// An image is on the inactive partition set.
    Staged,
    /// That image boots next.
    Ready,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommandStatus {
    /// Exit status 0.
    Success,
    /// Any other.
    Failed,
}

/// An image of the operating system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Architecture, `x86_64` or `aarch64`.
    pub arch: String,
    /// Version.
    pub version: Version,
    /// Variant, like `aws-k8s-1.33`.
    pub variant: String,
}

/// A partition set with an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// What is on it.
    pub image: Image,
    /// Whether it boots next.
    pub next_to_boot: bool,
}

/// The last command that came to an end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CommandResult {
    /// Which one.
    pub cmd_type: Command,
    /// How it ended.
    pub cmd_status: CommandStatus,
    /// When it ended.
    pub timestamp: DateTime<Utc>,
    /// Its exit status.
    pub exit_status: Option<i32>,
    /// What it printed.
    pub stderr: Option<String>,
}

/// The body of `GET /updates/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UpdateStatus {
    /// Where the update state machine is.
    pub update_state: UpdateState,
    /// What the repository offers this node, newest first.
    pub available_updates: Vec<Version>,
    /// What the settings choose of it.
    pub chosen_update: Option<Image>,
    /// The running partition set.
    pub active_partition: Option<Partition>,
    /// The inactive one, as far as this boot knows.
    pub staging_partition: Option<Partition>,
    /// The last command that came to an end in this boot.
    pub most_recent_command: Option<CommandResult>,
}

/// The body of `GET /os`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OsInfo {
    /// For people.
    pub pretty_name: String,
    /// Variant.
    pub variant_id: String,
    /// Version.
    pub version_id: Version,
    /// Build.
    pub build_id: String,
    /// Architecture.
    pub arch: String,
}
