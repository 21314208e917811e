//! The machine: two partition sets, a boot flag, settings, and an updater that answers before it has done anything.
//!
//! As in the reference: 204 says only that a command was accepted, its outcome is the most recent command that differs
//! from the one before; after a boot nothing is known of what is staged.

use agent::{
    bottlerocket::{
        CallError, Command, CommandResult, CommandStatus, Image, Os, Partition, Settings, Status, UpdateState,
    },
    host::{Call, HostFacts, Update},
};

use crate::{
    config::{NEW, NEWER, OLD},
    table::Distinct,
};

const VARIANT: &str = "aws-k8s-1.33";
const ARCH: &str = "x86_64";

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Whether it runs.
    pub up: bool,
    /// Whether it never will again.
    pub dead: bool,
    /// What it runs, or boots next where nothing else is flagged.
    pub version: String,
    /// How often it has booted.
    pub boots: u8,
    /// What is on the other partition set.
    pub inactive: Option<String>,
    /// Whether that boots next.
    pub flagged: bool,
    /// The settings.
    pub lock: String,
    /// Whether the repository's waves are ignored.
    pub ignore_waves: bool,
    /// What the updater knows since the boot.
    pub updater: Option<Updater>,
    /// The command that runs.
    pub running: Option<Command>,
}

/// What the updater knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Updater {
    state: UpdateState,
    chosen: Option<String>,
    staged: Option<(String, bool)>,
    last: Option<(Command, bool, u8)>,
}

impl Distinct for Host {
    fn key(&self) -> Vec<u8> {
        format!("{self:?}").into_bytes()
    }
}

impl Default for Host {
    fn default() -> Self {
        Self {
            up: true,
            dead: false,
            version: OLD.to_owned(),
            boots: 0,
            inactive: None,
            flagged: false,
            lock: "latest".to_owned(),
            ignore_waves: false,
            updater: None,
            running: None,
        }
    }
}

fn image(version: &str) -> Image {
    Image {
        arch: ARCH.to_owned(),
        version: version.to_owned(),
        variant: VARIANT.to_owned(),
    }
}

impl Host {
    /// Identifies the boot.
    #[must_use]
    pub fn boot_id(&self) -> String {
        format!("boot-{}", self.boots)
    }

    /// Whether its settings are those that it came with, and it boots what it runs.
    #[must_use]
    pub fn is_as_found(&self) -> bool {
        self.lock == "latest" && !self.ignore_waves && !self.flagged
    }

    /// What the agent sees of it.
    #[must_use]
    pub fn facts(&self) -> HostFacts {
        let update = match (&self.running, &self.updater) {
            (Some(_), _) => Update::Busy,
            (None, None) => Update::Uninitialised,
            (None, Some(updater)) => Update::Status(Box::new(updater.status())),
        };
        HostFacts {
            os: Os {
                variant_id: VARIANT.to_owned(),
                version_id: self.version.clone(),
                arch: ARCH.to_owned(),
            },
            update,
            settings: Some(Settings {
                version_lock: self.lock.clone(),
                ignore_waves: self.ignore_waves,
            }),
            boot_id: self.boot_id(),
        }
    }

    /// Makes a call; a command only begins.
    ///
    /// # Errors
    /// As Bottlerocket answers.
    pub fn call(&mut self, call: &Call) -> Result<(), CallError> {
        let command = match call {
            Call::ChangeSettings(settings) => {
                self.lock.clone_from(&settings.version_lock);
                self.ignore_waves = settings.ignore_waves;
                return Ok(());
            }
            Call::Command(command) => *command,
        };
        if self.running.is_some() {
            return Err(CallError::Busy(String::new()));
        }
        let updater = self.updater.get_or_insert(Updater {
            state: UpdateState::Idle,
            chosen: None,
            staged: None,
            last: None,
        });
        let allowed = match command {
            Command::Refresh => true,
            Command::Prepare => matches!(updater.state, UpdateState::Available | UpdateState::Staged),
            Command::Activate => updater.state == UpdateState::Staged,
            Command::Deactivate => updater.state == UpdateState::Ready,
        };
        if !allowed {
            return Err(CallError::Conflict(String::new()));
        }
        if command == Command::Prepare && updater.chosen.is_none() {
            return Err(CallError::NotFound(String::new()));
        }
        self.running = Some(command);
        Ok(())
    }

    /// The command that runs ends.
    pub fn finish(&mut self, success: bool) {
        let Some(command) = self.running.take() else {
            return;
        };
        let chosen = self.choose();
        let Some(updater) = &mut self.updater else { return };
        let stamp = updater.last.map_or(0, |(.., stamp)| (stamp + 1) % 3);
        updater.last = Some((command, success, stamp));
        match command {
            Command::Refresh => {
                updater.chosen = chosen.filter(|_| success);
                if matches!(updater.state, UpdateState::Idle | UpdateState::Available) {
                    updater.state = if updater.chosen.is_some() {
                        UpdateState::Available
                    } else {
                        UpdateState::Idle
                    };
                }
            }
            _ if !success => {}
            Command::Prepare => {
                updater.staged = updater.chosen.clone().map(|version| (version, false));
                updater.state = UpdateState::Staged;
                self.inactive = chosen.or_else(|| self.inactive.take());
            }
            Command::Activate | Command::Deactivate => {
                self.flagged = command == Command::Activate && self.inactive.is_some();
                updater.state = if command == Command::Activate {
                    UpdateState::Ready
                } else {
                    UpdateState::Staged
                };
                if let Some((_, next)) = &mut updater.staged {
                    *next = command == Command::Activate;
                }
            }
        }
    }

    /// What the settings choose of what the repository offers.
    fn choose(&self) -> Option<String> {
        let offered = [NEWER, NEW, OLD];
        let wanted = if self.lock == "latest" { NEWER } else { &self.lock };
        let chosen = offered.into_iter().find(|version| *version == wanted)?;
        (chosen != self.version).then(|| chosen.to_owned())
    }

    /// It goes down.
    pub fn go_down(&mut self) {
        self.up = false;
        self.running = None;
        self.updater = None;
    }

    /// It comes up again; with `fallback` the bootloader gives the flagged image up.
    pub fn boot(&mut self, fallback: bool) {
        self.up = true;
        self.boots += 1;
        if std::mem::take(&mut self.flagged)
            && !fallback
            && let Some(next) = self.inactive.replace(self.version.clone())
        {
            self.version = next;
        }
    }
}

impl Updater {
    fn status(&self) -> Status {
        Status {
            update_state: self.state,
            available_updates: [NEWER, NEW, OLD].map(str::to_owned).to_vec(),
            chosen_update: self.chosen.as_deref().map(image),
            staging_partition: self.staged.as_ref().map(|(version, next)| Partition {
                image: image(version),
                next_to_boot: *next,
            }),
            most_recent_command: self.last.map(|(command, success, stamp)| CommandResult {
                cmd_type: command.cmd_type().to_owned(),
                cmd_status: if success {
                    CommandStatus::Success
                } else {
                    CommandStatus::Failed
                },
                timestamp: stamp.to_string(),
                exit_status: None,
                stderr: None,
            }),
        }
    }
}
