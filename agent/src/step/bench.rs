//! A node in memory on which the step function can be tried: what it calls is done at once, unless told otherwise.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::{collections::VecDeque, io, time::Duration};

use api::{
    ledger::PermitRefusal,
    offer::Offer,
    shadow::{BottlerocketShadowSpec, BottlerocketShadowStatus, NodeState},
    wire::{Instruction, PermitResponse},
};
use chrono::DateTime;

use super::{Step, step};
use crate::{
    bottlerocket::{
        CallError, Command, CommandResult, CommandStatus, Image, Os, Partition, Settings, Status, UpdateState,
    },
    config::Timings,
    host::{Call, HostFacts, Update},
    memory::{Memory, Now},
    report,
};

pub const OLD: &str = "1.20.3";
pub const NEW: &str = "1.21.0";

/// What goes wrong with a call.
pub enum Fault {
    /// This is the answer, and nothing is done.
    Answer(CallError),
    /// It is done, but the reply is lost.
    ReplyLost,
    /// It is accepted, and fails with these words.
    Fails(&'static str),
    /// It is accepted, and the API server crashes.
    Crashes,
    /// It is accepted, and seen running so many times.
    Takes(u32),
    /// It succeeds, but nothing was written.
    WritesNothing,
    /// It is done, and someone else changes the lock meanwhile.
    LockedBy(&'static str),
}

pub struct Bench {
    pub memory: Memory,
    pub facts: HostFacts,
    pub spec: BottlerocketShadowSpec,
    pub timings: Timings,
    pub elapsed: Duration,
    pub offered: Vec<&'static str>,
    pub faults: VecDeque<(Command, Fault)>,
    pub permits: VecDeque<Result<u64, PermitRefusal>>,
    pub reboots: VecDeque<Result<(), CallError>>,
    /// The settings that the updater goes by, so many refreshes behind those that are set.
    pub applied_after: u32,
    /// Seconds from one command's result to the next.
    pub refreshes_take: u32,
    /// The updater chooses without regard to the lock.
    pub disobeys: bool,
    busy: Option<(u32, Box<Status>)>,
    commands: u32,
    clock: u32,
}

impl Bench {
    /// A node that has just booted the old version, and has reported that.
    pub fn idle() -> Self {
        let os = Os {
            variant_id: "aws-k8s-1.33".into(),
            version_id: OLD.into(),
            arch: "x86_64".into(),
        };
        let settings = Settings {
            version_lock: "latest".into(),
            ignore_waves: false,
        };
        let facts = HostFacts {
            os,
            update: Update::Uninitialised,
            settings: Some(settings),
            boot_id: "boot-a".into(),
        };
        let memory = Memory::default();
        let mut bench = Self {
            memory,
            spec: BottlerocketShadowSpec::default(),
            timings: Timings::default(),
            elapsed: Duration::ZERO,
            offered: vec![NEW],
            faults: VecDeque::new(),
            permits: VecDeque::new(),
            reboots: VecDeque::new(),
            applied_after: 0,
            refreshes_take: 0,
            disobeys: false,
            busy: None,
            commands: 0,
            clock: 0,
            facts,
        };
        let status = report::current(None, &bench.facts);
        bench.instruct_with(BottlerocketShadowSpec::default(), Some(status));
        bench
    }

    /// A node that has staged and activated the new version.
    pub fn staged() -> Self {
        let mut bench = Self::idle();
        bench.ask(NodeState::StagedAndPerformedUpdate);
        bench.run();
        assert_eq!(bench.known().current_state, NodeState::StagedAndPerformedUpdate);
        bench
    }

    pub fn ask(&mut self, state: NodeState) {
        let leaves = matches!(state, NodeState::ErrorReset | NodeState::Idle);
        let spec = BottlerocketShadowSpec {
            state,
            version: (!leaves).then(|| NEW.to_owned()),
            run: Some("r1".into()),
            attempt: Some(1),
            ..BottlerocketShadowSpec::default()
        };
        self.instruct(spec);
    }

    pub fn instruct(&mut self, spec: BottlerocketShadowSpec) {
        let status = self.memory.stored.clone();
        self.instruct_with(spec, status);
    }

    fn instruct_with(&mut self, spec: BottlerocketShadowSpec, status: Option<BottlerocketShadowStatus>) {
        self.spec = spec.clone();
        self.memory.instructed(&Instruction { spec, status });
    }

    /// The agent is started again: it knows what the server has stored.
    pub fn restart_agent(&mut self) {
        let status = self.memory.stored.clone();
        self.memory = Memory::default();
        self.instruct_with(self.spec.clone(), status);
    }

    /// The node boots, and with it the agent.
    pub fn boot(&mut self, version: &str, boot_id: &str) {
        self.facts.os.version_id = version.to_owned();
        self.facts.boot_id = boot_id.to_owned();
        self.facts.update = Update::Uninitialised;
        self.busy = None;
        self.restart_agent();
    }

    pub fn known(&self) -> &BottlerocketShadowStatus {
        self.memory.known.as_ref().unwrap()
    }

    pub fn error(&self) -> &str {
        self.known().error.as_ref().map_or("", |error| &error.message)
    }

    pub fn settings(&self) -> (&str, bool) {
        let settings = self.facts.settings.as_ref().unwrap();
        (&settings.version_lock, settings.ignore_waves)
    }

    pub fn status(&mut self) -> &mut Status {
        match &mut self.facts.update {
            Update::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    pub fn now(&self) -> Now {
        let wall = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        Now {
            elapsed: self.elapsed,
            wall: wall + self.elapsed,
        }
    }

    /// Looks at the node and says what comes next.
    pub fn look(&mut self) -> Step {
        if self.memory.hold_until.is_some_and(|until| until <= self.elapsed) {
            self.memory.hold_until = None;
        }
        if let Some((left, status)) = &mut self.busy {
            self.facts.update = Update::Busy;
            if *left == 0 {
                self.facts.update = Update::Status(status.clone());
                self.busy = None;
            } else {
                *left -= 1;
            }
        }
        let now = self.now();
        self.memory.saw(&self.facts, &self.timings, now);
        let instruction = Instruction {
            spec: self.spec.clone(),
            status: self.memory.stored.clone(),
        };
        step(&instruction, &self.memory, &self.facts, &self.timings, now)
    }

    /// Goes on until nothing is left to do, or the machine goes down. What was done, a word each.
    pub fn run(&mut self) -> Vec<String> {
        let mut trace = Vec::new();
        for _ in 0..300 {
            if let Some(until) = self.memory.hold_until {
                self.elapsed = self.elapsed.max(until);
            }
            match self.look() {
                Step::Done => return trace,
                Step::Wait { until } => {
                    assert!(until > self.elapsed, "a wait for what is past");
                    if self
                        .memory
                        .going_down(&self.facts.boot_id, &self.timings, self.now())
                        .is_some()
                    {
                        return trace;
                    }
                    self.memory.hold_until = Some(until);
                }
                Step::Report(status) => {
                    trace.push(format!("report {}", words(&status)));
                    self.memory.reported(*status);
                }
                Step::AskPermit(request) => {
                    trace.push(format!(
                        "permit {}/{} {}",
                        request.run, request.attempt, request.boot_id
                    ));
                    self.permit();
                }
                Step::Reboot { until } => {
                    assert!(self.elapsed < until, "the permit has run out");
                    trace.push("reboot".to_owned());
                    let now = self.now();
                    self.memory.rebooting(&self.facts.boot_id.clone(), now);
                    let answer = self.reboots.pop_front().unwrap_or(Ok(()));
                    self.memory.reboot_answered(&answer, &self.timings, now);
                }
                Step::Call(call) => {
                    trace.push(match &call {
                        Call::Command(command) => command.cmd_type().to_owned(),
                        Call::ChangeSettings(to) => format!("set {} {}", to.version_lock, to.ignore_waves),
                    });
                    self.perform(&call);
                }
            }
        }
        panic!("it never ends: {trace:?}");
    }

    /// Does one thing after the other until it is so.
    pub fn go_on_until(&mut self, is_so: impl Fn(&mut Self) -> bool) {
        for _ in 0..300 {
            if is_so(self) {
                return;
            }
            self.go_on();
        }
        panic!("it never comes to that");
    }

    /// Does the one thing that comes next, as soon as that may be done.
    pub fn go_on(&mut self) {
        if let Some(until) = self.memory.hold_until {
            self.elapsed = self.elapsed.max(until);
        }
        match self.look() {
            Step::Wait { until } => self.memory.hold_until = Some(until),
            Step::Report(status) => self.memory.reported(*status),
            Step::Call(call) => self.perform(&call),
            Step::Done => {}
            other => panic!("{other:?}"),
        }
    }

    /// Does the one thing that comes next.
    pub fn one_step(&mut self) {
        match self.look() {
            Step::Report(status) => self.memory.reported(*status),
            Step::Call(call) => self.perform(&call),
            other => panic!("{other:?}"),
        }
    }

    /// Makes one call, as it was told.
    fn perform(&mut self, call: &Call) {
        let before = self.facts.clone();
        let answer = self.call(call);
        let now = self.now();
        self.memory.called(call, &answer, &before, &self.timings, now);
    }

    pub fn fault(&mut self, command: Command, fault: Fault) {
        self.faults.push_back((command, fault));
    }

    /// It has seen its repository before.
    pub fn has_refreshed(&mut self) -> &mut Self {
        let offer = Offer {
            version: OLD.to_owned(),
            since: DateTime::UNIX_EPOCH,
        };
        for status in [&mut self.memory.known, &mut self.memory.stored] {
            status.as_mut().unwrap().offered = vec![offer.clone()];
        }
        self
    }

    pub fn fail_refreshes(&mut self) {
        (0..100).for_each(|_| self.fault(Command::Refresh, Fault::Fails("no route")));
    }

    pub fn flag_ready(&mut self) {
        self.flag(true, UpdateState::Ready);
    }

    pub fn grant_permit(&mut self) {
        self.permit();
    }

    fn permit(&mut self) {
        let now = self.now();
        match self.permits.pop_front().unwrap_or(Ok(30_000)) {
            Ok(valid_for_ms) => {
                let permit = PermitResponse {
                    permit_id: "p".into(),
                    valid_for_ms,
                };
                self.memory.permitted(permit, now.elapsed);
            }
            Err(refusal) => self.memory.permit_refused(Some(refusal), &self.timings, now),
        }
    }

    fn call(&mut self, call: &Call) -> Result<(), CallError> {
        let command = match call {
            Call::ChangeSettings(settings) => {
                self.facts.settings = Some(settings.clone());
                return Ok(());
            }
            Call::Command(command) => *command,
        };
        let fault = self.faults.front().is_some_and(|(of, _)| *of == command);
        match fault.then(|| self.faults.pop_front().unwrap().1) {
            None => self.complete(command, CommandStatus::Success, ""),
            Some(Fault::Answer(error)) => return Err(error),
            Some(Fault::ReplyLost) => {
                self.complete(command, CommandStatus::Success, "");
                return Err(CallError::Lost("reset".into()));
            }
            Some(Fault::Fails(words)) => self.complete(command, CommandStatus::Failed, words),
            Some(Fault::Crashes) => {}
            Some(Fault::Takes(looks)) => {
                self.complete(command, CommandStatus::Success, "");
                let status = Box::new(self.status().clone());
                self.busy = Some((looks, status));
            }
            Some(Fault::WritesNothing) => {
                self.complete(Command::Refresh, CommandStatus::Success, "");
                self.status().update_state = UpdateState::Staged;
                self.finished(command, CommandStatus::Success, "");
            }
            Some(Fault::LockedBy(version)) => {
                self.complete(command, CommandStatus::Success, "");
                self.facts.settings.as_mut().unwrap().version_lock = version.to_owned();
            }
        }
        Ok(())
    }

    fn complete(&mut self, command: Command, outcome: CommandStatus, words: &str) {
        if self.facts.update == Update::Uninitialised {
            self.facts.update = Update::Status(Box::new(Status {
                update_state: UpdateState::Idle,
                available_updates: vec![],
                chosen_update: None,
                staging_partition: None,
                most_recent_command: None,
            }));
        }
        if outcome == CommandStatus::Success {
            match command {
                Command::Refresh => self.choose(),
                Command::Prepare => {
                    let image = self.status().chosen_update.clone().unwrap();
                    self.status().staging_partition = Some(Partition {
                        image,
                        next_to_boot: false,
                    });
                    self.status().update_state = UpdateState::Staged;
                }
                Command::Activate => self.flag(true, UpdateState::Ready),
                Command::Deactivate => self.flag(false, UpdateState::Staged),
            }
        }
        self.finished(command, outcome, words);
    }

    fn choose(&mut self) {
        let latest = Settings {
            version_lock: "latest".into(),
            ignore_waves: false,
        };
        let settings = self.facts.settings.clone().unwrap_or(latest);
        let late = self.applied_after > 0;
        self.applied_after = self.applied_after.saturating_sub(1);
        let lock = if late { "latest" } else { &settings.version_lock };
        let version = self
            .offered
            .iter()
            .find(|version| self.disobeys || lock == "latest" || lock == **version);
        let version = version.filter(|_| !late).map(|version| (*version).to_owned());
        let Os {
            variant_id: variant,
            arch,
            ..
        } = self.facts.os.clone();
        let offered = self.offered.iter().map(|version| (*version).to_owned()).collect();
        let status = self.status();
        status.available_updates = offered;
        status.chosen_update = version.map(|version| Image {
            arch,
            version,
            variant,
        });
        if matches!(status.update_state, UpdateState::Idle | UpdateState::Available) {
            let chosen = status.chosen_update.is_some();
            status.update_state = if chosen {
                UpdateState::Available
            } else {
                UpdateState::Idle
            };
        }
    }

    fn flag(&mut self, next_to_boot: bool, state: UpdateState) {
        self.status().staging_partition.as_mut().unwrap().next_to_boot = next_to_boot;
        self.status().update_state = state;
    }

    fn finished(&mut self, command: Command, cmd_status: CommandStatus, words: &str) {
        self.commands += 1;
        self.clock += self.refreshes_take;
        let timestamp = format!("2026-11-22T05:40:{:02}.{:03}Z", self.clock, self.commands);
        let exit_status = Some(i32::from(cmd_status != CommandStatus::Success));
        self.status().most_recent_command = Some(CommandResult {
            cmd_type: command.cmd_type().to_owned(),
            cmd_status,
            timestamp,
            exit_status,
            stderr: Some(words.to_owned()),
        });
    }
}

fn words(status: &BottlerocketShadowStatus) -> String {
    match (&status.error, &status.run) {
        (Some(error), _) => format!("{:?}", error.reason),
        (None, None) if status.saved_settings.is_some() => "saved settings".to_owned(),
        (None, _) => status.current_state.to_string(),
    }
}

pub fn not_sent() -> CallError {
    CallError::NotSent(io::ErrorKind::ConnectionRefused.into())
}

pub fn server_error() -> CallError {
    CallError::Failed {
        status: 500,
        words: "no".into(),
    }
}
