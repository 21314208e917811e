//! One test per rule of the reference.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod boots;
mod commands;
mod settings;

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::wire::UpdateStatus;
use super::*;
use crate::truth::RebootCause;

struct Bench {
    machine: Machine,
    repository: Repository,
    now: DateTime<Utc>,
    boots: u32,
}

const SECOND: Duration = Duration::from_secs(1);

fn image(version: &str) -> Image {
    Image {
        version: version.parse().unwrap(),
        variant: "aws-k8s-1.33".into(),
        arch: "x86_64".into(),
    }
}

impl Bench {
    fn running(version: &str) -> Self {
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
        let mut repository = Repository::default();
        for version in ["1.19.5", "1.20.3", "1.21.0", "1.22.0"] {
            repository.publish(Release {
                image: image(version),
                waves: BTreeMap::new(),
            });
        }
        let mut machine = Machine::new(now, image(version), UpdateSettings::default(), "boot-0".into());
        machine.latencies = Latencies {
            refresh: SECOND,
            prepare: 60 * SECOND,
            activate: SECOND,
            deactivate: SECOND,
            apply_settings: 2 * SECOND,
        };
        Self {
            machine,
            repository,
            now,
            boots: 0,
        }
    }

    /// A machine with 1.21.0 activated.
    fn ready() -> Self {
        let mut bench = Self::running("1.20.3");
        bench.lock("1.21.0");
        bench.run(Command::Refresh);
        bench.run(Command::Prepare);
        bench.run(Command::Activate);
        bench
    }

    fn begin(&mut self, command: Command) -> Result<(), Refusal> {
        self.begin_with(command, None)
    }

    fn begin_with(&mut self, command: Command, fault: Option<CallFault>) -> Result<(), Refusal> {
        self.machine.command(self.now, command, &self.repository, fault)
    }

    fn pass(&mut self, time: Duration) {
        self.now += TimeDelta::from_std(time).unwrap();
        self.machine.advance(self.now);
    }

    /// Accepts the command and lets it end.
    fn run(&mut self, command: Command) -> UpdateStatus {
        self.run_with(command, None)
    }

    fn run_with(&mut self, command: Command, fault: Option<CallFault>) -> UpdateStatus {
        self.begin_with(command, fault).expect("accepted");
        self.pass(60 * SECOND);
        self.machine.status().expect("a status")
    }

    /// Commits a version lock and lets the config files be written.
    fn lock(&mut self, version: &str) {
        self.commit(version);
        self.pass(2 * SECOND);
    }

    fn commit(&mut self, version: &str) {
        let body = format!(r#"{{"updates": {{"version-lock": "{version}", "ignore-waves": true}}}}"#);
        self.machine.patch_settings("tx", body.as_bytes()).unwrap();
        assert!(!self.machine.commit_and_apply(self.now, "tx").is_empty());
    }

    fn reboot(&mut self, fault: Option<BootFault>) {
        self.machine.begin_reboot(self.now, RebootCause::Api);
        self.pass(SECOND);
        self.boots += 1;
        self.machine.boot(self.now, format!("boot-{}", self.boots), fault);
    }

    fn runs(&self) -> String {
        self.machine.image().version.to_string()
    }
}

fn state(status: &UpdateStatus) -> UpdateState {
    status.update_state
}

fn chosen(status: &UpdateStatus) -> Option<String> {
    status
        .chosen_update
        .as_ref()
        .map(|image| image.version.to_string())
}

fn last(status: &UpdateStatus) -> (Command, CommandStatus) {
    let last = status.most_recent_command.as_ref().expect("a command");
    (last.cmd_type, last.cmd_status)
}
