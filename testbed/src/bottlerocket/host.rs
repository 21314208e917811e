//! A machine with a clock, a repository and a log of what happened.

use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use tokio::sync::{Notify, watch};

use super::{Command, Machine, Refusal, SharedRepository};
use crate::truth::{RebootCause, SimEventKind, TruthLog};

/// One machine, shared by its API server, its fleet and the tests.
#[derive(Debug)]
pub struct Host {
    name: String,
    machine: Mutex<Machine>,
    repository: SharedRepository,
    truth: TruthLog,
    /// Something may be due earlier than before.
    rescheduled: Notify,
    /// The machine was told to go down.
    down: Notify,
    socket: watch::Sender<bool>,
}

impl Host {
    /// Puts a machine to work.
    pub fn new(name: &str, machine: Machine, repository: SharedRepository, truth: TruthLog) -> Arc<Self> {
        let host = Self {
            name: name.to_owned(),
            machine: Mutex::new(machine),
            repository,
            truth,
            rescheduled: Notify::new(),
            down: Notify::new(),
            socket: watch::Sender::new(true),
        };
        host.with(|_, _| ());
        Arc::new(host)
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Looks at or changes the machine as it is now. What happens to it goes to the log before anyone else looks.
    pub fn with<R>(&self, act: impl FnOnce(&mut Machine, DateTime<Utc>) -> R) -> R {
        let mut machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Utc::now();
        machine.advance(now);
        let result = act(&mut machine, now);
        machine.advance(now);
        for (at, kind) in machine.take_events() {
            self.truth.record(at, &self.name, kind);
        }
        self.rescheduled.notify_one();
        result
    }

    /// Records something about this machine that the machine itself does not see.
    pub fn record(&self, kind: SimEventKind) {
        self.with(|machine, now| machine.note(now, kind));
    }

    /// An update command that has arrived; uses up the fault planned for it if it is accepted.
    pub(super) fn command(&self, command: Command) -> (Result<(), Refusal>, Option<super::CallFault>) {
        self.repository.read(|repository| {
            self.with(|machine, now| {
                if let Err(refusal) = machine.acceptable(command) {
                    return (Err(refusal), None);
                }
                let fault = machine.faults.take_accepted(command.call());
                (machine.command(now, command, repository, fault), fault)
            })
        })
    }

    /// Begins to take the machine down.
    pub fn begin_reboot(&self, cause: RebootCause) {
        self.with(|machine, now| machine.begin_reboot(now, cause));
        self.down.notify_one();
    }

    /// Resolves when the machine was told to go down, with the reason.
    pub async fn told_to_go_down(&self) -> RebootCause {
        loop {
            let told = self.down.notified();
            if let Some(cause) = self.with(|machine, _| machine.going_down()) {
                return cause;
            }
            told.await;
        }
    }

    /// Takes the API's socket away, or gives it back.
    pub fn set_socket(&self, up: bool) {
        self.socket.send_replace(up);
    }

    pub(super) fn socket(&self) -> watch::Receiver<bool> {
        self.socket.subscribe()
    }

    /// Makes things happen when they are due. Runs until dropped.
    pub async fn run_clock(&self) {
        loop {
            let rescheduled = self.rescheduled.notified();
            let machine = || self.machine.lock().unwrap_or_else(PoisonError::into_inner);
            let next = machine().next_deadline();
            match next.map(|due| (due - Utc::now()).to_std().unwrap_or_default()) {
                Some(wait) if wait.is_zero() => self.with(|_, _| ()),
                Some(wait) => {
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = rescheduled => {}
                    }
                }
                None => rescheduled.await,
            }
        }
    }
}
