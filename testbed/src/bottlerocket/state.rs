//! One machine as a pure state machine: commands, partition sets, settings and boots. Time is an argument.

mod effects;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::repository::choose;
use super::settings::Settings;
use super::wire::{OsInfo, Partition, UpdateStatus};
use super::{
    BootFault, CallFault, Command, Faults, Image, Repository, Unsupported, UpdateSettings, UpdateState,
    Version,
};
use crate::truth::{RebootCause, SimEventKind};

/// How long the machine's work takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    /// A refresh.
    pub refresh: Duration,
    /// A prepare.
    pub prepare: Duration,
    /// An activate.
    pub activate: Duration,
    /// A deactivate.
    pub deactivate: Duration,
    /// From a commit to the config files written from it.
    pub apply_settings: Duration,
}

impl Latencies {
    fn of(&self, command: Command) -> Duration {
        match command {
            Command::Refresh => self.refresh,
            Command::Prepare => self.prepare,
            Command::Activate => self.activate,
            Command::Deactivate => self.deactivate,
        }
    }
}

/// Why a call was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A command is running: 423.
    Busy,
    /// The command is not allowed in this state: 409.
    WrongState,
    /// No update is chosen: 404.
    NoUpdate,
    /// No status since boot until the first command: 404.
    Uninitialised,
    /// This image has no such call: 404.
    Missing,
}

impl Refusal {
    /// The HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Self::Busy => 423,
            Self::WrongState => 409,
            Self::NoUpdate | Self::Uninitialised | Self::Missing => 404,
        }
    }
}

/// A command at work.
#[derive(Clone, Debug)]
struct Running {
    command: Command,
    due: DateTime<Utc>,
    fault: Option<CallFault>,
    /// What the repository offered when it was asked, and the newest it has.
    offered: Vec<Version>,
    newest: Option<Version>,
    /// A prepare: what the updater chose for itself from its config file when it started.
    target: Option<Image>,
    ignored_waves: bool,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// What is set to go wrong.
    pub faults: Faults,
    /// How long its work takes.
    pub latencies: Latencies,
    settings: Settings,
    running_image: Image,
    /// What is on the inactive partition set, where that is bootable.
    inactive: Option<Image>,
    inactive_boots_next: bool,
    boot_id: String,
    /// Why it goes down, while it does.
    going_down: Option<RebootCause>,
    status: Option<UpdateStatus>,
    running: Option<Running>,
    events: Vec<(DateTime<Utc>, SimEventKind)>,
}

impl Machine {
    /// A machine that has just booted this image.
    pub fn new(now: DateTime<Utc>, image: Image, settings: UpdateSettings, boot_id: String) -> Self {
        let started = SimEventKind::Started {
            boot_id: boot_id.clone(),
            version: image.version.to_string(),
        };
        Self {
            faults: Faults::default(),
            latencies: Latencies::default(),
            settings: Settings::new(settings),
            running_image: image,
            inactive: None,
            inactive_boots_next: false,
            boot_id,
            going_down: None,
            status: None,
            running: None,
            events: vec![(now, started)],
        }
    }

    /// The image that really runs.
    pub fn image(&self) -> &Image {
        &self.running_image
    }

    /// The boot ID.
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// The image that would boot next, where it is not the one that runs.
    pub fn activated(&self) -> Option<&Image> {
        self.inactive.as_ref().filter(|_| self.inactive_boots_next)
    }

    /// What is on the inactive partition set, where that is bootable.
    pub fn inactive(&self) -> Option<&Image> {
        self.inactive.as_ref()
    }

    /// The committed settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What happened since this was last asked.
    pub fn take_events(&mut self) -> Vec<(DateTime<Utc>, SimEventKind)> {
        std::mem::take(&mut self.events)
    }

    /// Records something that the machine itself does not see.
    pub fn note(&mut self, at: DateTime<Utc>, kind: SimEventKind) {
        self.events.push((at, kind));
    }

    /// When something will happen by itself.
    pub fn next_deadline(&self) -> Option<DateTime<Utc>> {
        self.running
            .iter()
            .map(|running| running.due)
            .chain(self.settings.next_write())
            .min()
    }

    /// Does what is due by now, in its order.
    pub fn advance(&mut self, now: DateTime<Utc>) {
        while let Some(due) = self.next_deadline().filter(|due| *due <= now) {
            self.settings.write_due(due);
            if let Some(running) = self.running.take_if(|running| running.due <= due) {
                self.finish(running);
            }
        }
    }

    /// `GET /os`.
    pub fn os(&self) -> OsInfo {
        let Image { arch, variant, .. } = self.running_image.clone();
        let version_id = self.reported_image().version;
        OsInfo {
            pretty_name: format!("Bottlerocket OS {version_id} ({variant})"),
            build_id: "5fa1c2d3".to_owned(),
            variant_id: variant,
            version_id,
            arch,
        }
    }

    /// `GET /updates/status`.
    pub fn status(&self) -> Result<UpdateStatus, Refusal> {
        self.update_calls_exist()?;
        if self.running.is_some() {
            return Err(Refusal::Busy);
        }
        self.status.clone().ok_or(Refusal::Uninitialised)
    }

    /// An update command: whether it is accepted. Its work ends later, see [`Self::advance`].
    pub fn command(
        &mut self,
        now: DateTime<Utc>,
        command: Command,
        repository: &Repository,
        fault: Option<CallFault>,
    ) -> Result<(), Refusal> {
        self.acceptable(command)?;
        let fault = match self.faults.unsupported {
            Some(Unsupported::FailsAtOnce) => Some(CallFault::Fails),
            _ => fault,
        };
        let offered = repository.offered(&self.running_image, self.settings.applied(), now);
        let newest = repository.newest(&self.running_image);
        let target = self.choose(&offered, newest);
        let latency = TimeDelta::from_std(self.latencies.of(command)).unwrap_or(TimeDelta::MAX);
        let due = if self.faults.unsupported.is_some() {
            now
        } else {
            now + latency
        };
        self.running = Some(Running {
            command,
            due,
            fault,
            offered,
            newest,
            target,
            ignored_waves: self.settings.applied().ignore_waves,
        });
        if command == Command::Prepare && !self.nothing_to_write() {
            // The updater clears the slot before it writes it, so that half an image never boots.
            self.inactive = None;
        }
        Ok(())
    }

    /// Whether this command would be accepted now. Asking makes the status, as the first command after a boot does.
    pub fn acceptable(&mut self, command: Command) -> Result<(), Refusal> {
        use UpdateState::{Available, Ready, Staged};

        self.update_calls_exist()?;
        if self.running.is_some() {
            return Err(Refusal::Busy);
        }
        let image = self.reported_image();
        let status = self.status.get_or_insert_with(|| UpdateStatus {
            update_state: UpdateState::Idle,
            available_updates: Vec::new(),
            chosen_update: None,
            active_partition: Some(Partition {
                image,
                next_to_boot: !self.inactive_boots_next,
            }),
            staging_partition: None,
            most_recent_command: None,
        });
        match (command, status.update_state) {
            (Command::Refresh, _) | (Command::Activate, Staged) | (Command::Deactivate, Ready) => Ok(()),
            (Command::Prepare, Available | Staged) if status.chosen_update.is_none() => {
                Err(Refusal::NoUpdate)
            }
            (Command::Prepare, Available | Staged) => Ok(()),
            _ => Err(Refusal::WrongState),
        }
    }

    /// `PATCH /settings`.
    pub fn patch_settings(&mut self, transaction: &str, body: &[u8]) -> Result<(), String> {
        self.settings.patch(transaction, body)
    }

    /// `DELETE /tx`.
    pub fn delete_transaction(&mut self, transaction: &str) -> Vec<&'static str> {
        self.settings.delete(transaction)
    }

    /// `POST /tx/commit_and_apply`: the keys committed, none where nothing was pending.
    pub fn commit_and_apply(&mut self, now: DateTime<Utc>, transaction: &str) -> Vec<&'static str> {
        let before = self.settings.committed().clone();
        let latency = TimeDelta::from_std(self.latencies.apply_settings).unwrap_or(TimeDelta::MAX);
        let keys = self.settings.commit(transaction, now + latency);
        let settings = self.settings.committed();
        if *settings != before {
            self.events.push((
                now,
                SimEventKind::SettingsChanged {
                    settings: settings.clone(),
                },
            ));
        }
        keys
    }

    /// The machine begins to go down; more of it while it does changes nothing.
    pub fn begin_reboot(&mut self, now: DateTime<Utc>, cause: RebootCause) {
        if self.going_down.is_some() {
            return;
        }
        self.going_down = Some(cause);
        let (boot_id, version) = (self.boot_id.clone(), self.running_image.version.to_string());
        self.events.push((
            now,
            SimEventKind::RebootBegun {
                boot_id,
                version,
                cause,
            },
        ));
    }

    /// Why it goes down, if it has begun to and has not booted since.
    pub fn going_down(&self) -> Option<RebootCause> {
        self.going_down
    }

    /// Uses up the fault of the next boot.
    pub fn take_boot_fault(&mut self) -> Option<BootFault> {
        self.faults.take_boot()
    }

    /// The machine boots.
    pub fn boot(&mut self, now: DateTime<Utc>, boot_id: String, fault: Option<BootFault>) {
        self.running = None;
        self.status = None;
        self.going_down = None;
        self.settings.boot();
        if std::mem::take(&mut self.inactive_boots_next)
            && let Some(image) = self.inactive.take()
            && fault != Some(BootFault::OldVersion)
        {
            self.inactive = Some(std::mem::replace(&mut self.running_image, image));
        }
        self.boot_id = boot_id.clone();
        let version = self.running_image.version.to_string();
        self.events
            .push((now, SimEventKind::RebootFinished { boot_id, version }));
    }

    fn update_calls_exist(&self) -> Result<(), Refusal> {
        match self.faults.unsupported {
            Some(Unsupported::CallsMissing) => Err(Refusal::Missing),
            Some(Unsupported::FailsAtOnce) | None => Ok(()),
        }
    }

    fn reported_image(&self) -> Image {
        let version = self.faults.reported_version.unwrap_or(self.running_image.version);
        Image {
            version,
            ..self.running_image.clone()
        }
    }

    fn choose(&self, offered: &[Version], newest: Option<Version>) -> Option<Image> {
        let lock = &self.settings.applied().version_lock;
        let version = choose(self.running_image.version, offered, newest, lock)?;
        Some(Image {
            version,
            ..self.running_image.clone()
        })
    }

    /// Whether the running prepare will find nothing to do.
    fn nothing_to_write(&self) -> bool {
        self.running.as_ref().is_some_and(|running| {
            running.fault == Some(CallFault::WritesNothing)
                || self.faults.unsupported.is_some()
                || (running.target.is_none() && running.fault.is_none())
        })
    }
}
