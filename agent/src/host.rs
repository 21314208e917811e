//! What the node is like right now.

use std::{io, path::PathBuf, time::Duration};

use crate::bottlerocket::{Bottlerocket, CallError, Command, Image, Os, Settings, Status, UpdateState};

/// What the node is like right now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// What runs.
    pub os: Os,
    /// How far the node's own updater is.
    pub update: Update,
    /// The updater's settings. None where the image has none.
    pub settings: Option<Settings>,
    /// Identifies the boot.
    pub boot_id: String,
}

/// How far the node's own updater is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// Nothing is known until the first refresh of a boot; or the image cannot be updated in place.
    Uninitialised,
    /// A command is running.
    Busy,
    /// This far.
    Status(Box<Status>),
}

impl Update {
    /// The status, where there is one.
    #[must_use]
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Status(status) => Some(status),
            Self::Uninitialised | Self::Busy => None,
        }
    }
}

impl HostFacts {
    /// Whether `image` is this version for this node's variant and architecture.
    #[must_use]
    pub fn is_image(&self, image: &Image, version: &str) -> bool {
        image.version == version && image.variant == self.os.variant_id && image.arch == self.os.arch
    }

    /// Whether the updater has chosen this version and can prepare it.
    #[must_use]
    pub fn can_prepare(&self, version: &str) -> bool {
        self.update.status().is_some_and(|status| {
            matches!(status.update_state, UpdateState::Available | UpdateState::Staged)
                && status
                    .chosen_update
                    .as_ref()
                    .is_some_and(|image| self.is_image(image, version))
        })
    }

    /// Whether this version is on the inactive partition, as far as the updater knows.
    #[must_use]
    pub fn holds(&self, version: &str) -> bool {
        let staging = self
            .update
            .status()
            .and_then(|status| status.staging_partition.as_ref());
        staging.is_some_and(|staging| self.is_image(&staging.image, version))
    }

    /// Whether the next boot is into this version.
    #[must_use]
    pub fn boots_next(&self, version: &str) -> bool {
        self.update.status().is_some_and(|status| {
            status.update_state == UpdateState::Ready
                && status
                    .staging_partition
                    .as_ref()
                    .is_some_and(|staging| staging.next_to_boot && self.is_image(&staging.image, version))
        })
    }
}

/// The node: its API and its boot ID.
#[derive(Clone, Debug)]
pub struct Host {
    api: Bottlerocket,
    boot_id_file: PathBuf,
}

/// Why the node's state cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The API does not tell it.
    #[error("GET {what}: {error}")]
    Call {
        /// What was asked for.
        what: &'static str,
        /// Why it was not told.
        error: CallError,
    },
    /// The boot ID cannot be read.
    #[error("the boot ID in {path}: {error}")]
    BootId {
        /// Where it should be.
        path: PathBuf,
        /// Why it cannot be read.
        error: io::Error,
    },
}

impl Host {
    /// The node behind this socket.
    #[must_use]
    pub fn new(socket: PathBuf, boot_id_file: PathBuf, request_timeout: Duration) -> Self {
        Self {
            api: Bottlerocket::new(socket, request_timeout),
            boot_id_file,
        }
    }

    /// The node's API.
    #[must_use]
    pub fn api(&self) -> &Bottlerocket {
        &self.api
    }

    /// Reads what the node is like.
    ///
    /// # Errors
    /// Where any of it cannot be read.
    pub async fn facts(&self) -> Result<HostFacts, HostError> {
        let failed = |what| move |error| HostError::Call { what, error };
        let os = self.api.os().await.map_err(failed("/os"))?;
        // The settings come first: what they are while a command runs decides what it installs.
        let settings = match self.api.settings().await {
            Ok(settings) => Some(settings),
            Err(CallError::NotFound(_) | CallError::Rejected { .. } | CallError::Unreadable(_)) => None,
            Err(error) => return Err(failed("/settings")(error)),
        };
        let update = match self.api.status().await {
            Ok(status) => Update::Status(Box::new(status)),
            Err(CallError::NotFound(_)) => Update::Uninitialised,
            Err(CallError::Busy(_)) => Update::Busy,
            Err(error) => return Err(failed("/updates/status")(error)),
        };
        // A line that the kernel has in memory: there is nothing to wait for.
        let boot_id = std::fs::read_to_string(&self.boot_id_file).map_err(|error| HostError::BootId {
            path: self.boot_id_file.clone(),
            error,
        })?;
        Ok(HostFacts {
            os,
            update,
            settings,
            boot_id: boot_id.trim().to_owned(),
        })
    }

    /// Makes one call.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call(&self, call: &Call) -> Result<(), CallError> {
        match call {
            Call::Command(command) => self.api.command(*command).await,
            Call::ChangeSettings(settings) => self.api.change_settings(settings).await,
        }
    }
}

/// A call that changes something on the node, short of a reboot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// An update command.
    Command(Command),
    /// The updater's settings, in one transaction.
    ChangeSettings(Settings),
}
