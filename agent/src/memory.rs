//! What is remembered from one step to the next, and what each event makes of it. Pure: time is given.
//!
//! Nothing here has to survive a restart: what does is in the shadow's status and on the host.

use std::time::Duration;

use api::{
    ledger::PermitRefusal,
    shadow::{BottlerocketShadowSpec, BottlerocketShadowStatus, FailureReason, NodeState, acknowledges},
    wire::{Instruction, PermitResponse},
};
use chrono::{DateTime, Utc};

use crate::{
    bottlerocket::{CallError, Command, CommandResult, CommandStatus, Settings, one_line},
    config::Timings,
    host::{Call, HostFacts, Update},
};

/// How often a command that was accepted and left no result is called again before that is reported.
const MAX_LOST_COMMANDS: u32 = 3;

/// How often a call that the node's state allows may be answered 404 or 409 before that is reported.
const MAX_REFUSALS: u32 = 3;

/// How often a refresh may fail at once, on a node where none has ever succeeded, before that is taken for an image that
/// cannot be updated in place.
const MAX_FAILED_AT_ONCE: u32 = 5;

/// Looks at a running command within which it has ended at once.
const AT_ONCE: u32 = 2;

/// More calls than any update needs: from here on even those that succeed are made ever more slowly.
const MANY_CALLS: u32 = 12;

/// The time, by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Since the agent started, by a clock that nobody sets.
    pub elapsed: Duration,
    /// The time of day, for what is written into the status.
    pub wall: DateTime<Utc>,
}

/// What is remembered from one step to the next.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// The last report that the server took; before there is one, the status it had stored.
    pub known: Option<BottlerocketShadowStatus>,
    /// What the server has stored, as far as the last message says.
    pub stored: Option<BottlerocketShadowStatus>,
    /// Whether nothing is left to do for the present spec.
    pub settled: bool,
    /// Nothing is done before this time, unless the spec changes.
    pub hold_until: Option<Duration>,
    /// Whether this agent has tried a refresh.
    pub refresh_tried: bool,
    /// Whether the repository is to be asked what is on offer, as soon as there is nothing else to do.
    pub refresh_due: bool,
    /// The last reboot call that was not refused.
    pub reboot: Option<RebootCall>,
    /// The version that the settings were locked to for the update that is not yet over.
    pub locked_to: Option<String>,
    /// What belongs to the present spec only.
    pub work: Work,
}

/// A reboot call that was accepted, or may have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebootCall {
    /// The run it was made for.
    pub run: Option<String>,
    /// The attempt it was made for.
    pub attempt: Option<u32>,
    /// The boot it was made in.
    pub boot_id: String,
    /// When.
    pub at: Duration,
}

/// What is remembered while the spec stays the same.
#[derive(Clone, Debug, Default)]
pub struct Work {
    /// The spec.
    pub spec: BottlerocketShadowSpec,
    /// The command whose outcome is awaited.
    pub pending: Option<Pending>,
    /// Whether a refresh has succeeded.
    pub refreshed: bool,
    /// Since when refreshes succeed without offering what is asked.
    pub not_offered_since: Option<Duration>,
    /// Whether `prepare-update` has succeeded.
    pub prepared: bool,
    /// Why the spec cannot be carried out.
    pub trouble: Option<Trouble>,
    /// Whether what is to be downloaded ahead of the node's turn is there, or cannot be had.
    pub ahead_over: bool,
    /// The reboot permit.
    pub permit: Option<Permit>,
    /// The last refusal of a permit.
    pub refusal: Option<PermitRefusal>,
    /// When the node was first looked at for this spec.
    pub begun: Option<Duration>,
    /// Looks at a running command in a row.
    pub looks: u32,
    calls: u32,
    refreshes: u32,
    refresh_failing_since: Option<Duration>,
    refresh_failed_at_once: u32,
    failures: u32,
    refusals: u32,
    lost_commands: u32,
}

/// Why a spec cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The stable word for it.
    pub reason: FailureReason,
    /// In words.
    pub words: String,
}

/// A command whose outcome is awaited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The command.
    pub command: Command,
    /// Whether the call was answered; where its reply was lost it may not even have begun.
    accepted: bool,
    /// The most recent command before the call: what differs from it is the outcome.
    before: Option<(String, String)>,
}

/// The leave to reboot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    /// Names it.
    pub id: String,
    /// When it ends.
    pub valid_until: Duration,
    /// How the node itself refused to reboot, where it has.
    pub refused: Option<String>,
}

impl Memory {
    /// Takes in an instruction. What belongs to another spec is forgotten.
    pub fn instructed(&mut self, instruction: &Instruction) {
        self.stored.clone_from(&instruction.status);
        if self.known.is_none() {
            self.known.clone_from(&instruction.status);
        }
        if self.work.spec != instruction.spec {
            self.work = Work {
                spec: instruction.spec.clone(),
                ..Work::default()
            };
            self.hold_until = None;
            self.settled = false;
        }
        self.settled &= self.known == self.stored;
    }

    /// Forgets the spec: what came instead is not understood.
    pub fn disregard(&mut self) {
        self.work = Work::default();
        self.hold_until = None;
        self.settled = false;
    }

    /// Takes in what the node is like.
    pub fn saw(&mut self, facts: &HostFacts, timings: &Timings, now: Now) {
        self.work.begun.get_or_insert(now.elapsed);
        if self.stages() && facts.settings.is_some() && facts.settings == self.work.wanted_settings() {
            self.locked_to = self.work.to_stage().cloned();
        }
        self.work.ahead_over |= self.is_staged_ahead(facts);
        if facts.update == Update::Busy {
            self.work.looks = self.work.looks.saturating_add(1);
        } else {
            let at_once = std::mem::take(&mut self.work.looks) <= AT_ONCE;
            if let Some(pending) = self.work.pending.take() {
                self.ended(&pending, at_once, facts, timings, now);
            }
        }
        // What was written is another image, or the version is not on offer.
        let offered_in = timings.config_apply_timeout;
        let not_offered = self.work.not_offered_since;
        let fruitless =
            self.work.prepared || not_offered.is_some_and(|since| now.elapsed >= since + offered_in);
        self.work.ahead_over |= self.is_ahead() && fruitless;
    }

    /// Whether the image that is to be downloaded ahead of the node's turn is on the inactive partition, and nothing says that it
    /// is another one: not the settings that it was prepared by.
    fn is_staged_ahead(&self, facts: &HostFacts) -> bool {
        let changed = self
            .known
            .as_ref()
            .is_some_and(|status| status.saved_settings.is_some());
        let as_prepared = !changed || facts.settings == self.work.wanted_settings();
        let version = self.work.to_stage().filter(|_| self.is_ahead() && as_prepared);
        version.is_some_and(|version| facts.holds(version))
    }

    fn ended(&mut self, pending: &Pending, at_once: bool, facts: &HostFacts, timings: &Timings, now: Now) {
        let last = facts
            .update
            .status()
            .and_then(|status| status.most_recent_command.as_ref());
        let outcome = last.filter(|result| {
            result.cmd_type == pending.command.cmd_type() && Some(identity(result)) != pending.before
        });
        match (pending.command, outcome) {
            (Command::Refresh, Some(result)) => self.refreshed(result, at_once, facts, timings, now),
            (
                _,
                Some(CommandResult {
                    cmd_status: CommandStatus::Success,
                    ..
                }),
            ) => {
                self.work.failures = 0;
                self.work.prepared |= pending.command == Command::Prepare;
            }
            (command, Some(result)) => {
                self.trouble(format!("{command} failed: {}", own_words(result)));
                self.hold(timings, now);
            }
            (command, None) => {
                if pending.accepted {
                    self.work.lost_commands += 1;
                    if self.work.lost_commands >= MAX_LOST_COMMANDS {
                        let times = self.work.lost_commands;
                        self.trouble(format!(
                            "{command} was accepted and left no result, {times} times"
                        ));
                    }
                }
                self.hold(timings, now);
            }
        }
    }

    fn refreshed(
        &mut self,
        result: &CommandResult,
        at_once: bool,
        facts: &HostFacts,
        timings: &Timings,
        now: Now,
    ) {
        let stages = self.stages();
        let never_worked =
            !self.work.refreshed && self.known.as_ref().is_none_or(|known| known.offered.is_empty());
        let work = &mut self.work;
        if result.cmd_status == CommandStatus::Success {
            work.failures = 0;
            work.refresh_failing_since = None;
            work.refreshed = true;
            let wanted = work.to_stage().filter(|_| stages);
            if wanted.is_none_or(|version| facts.can_prepare(version)) {
                work.not_offered_since = None;
                work.refreshes = 0;
                return;
            }
            work.not_offered_since.get_or_insert(now.elapsed);
        } else {
            let since = *work.refresh_failing_since.get_or_insert(now.elapsed);
            let failing = now.elapsed.saturating_sub(since);
            // A repository that cannot be reached takes its time, and has been reached before.
            work.refresh_failed_at_once = if at_once && stages && never_worked {
                work.refresh_failed_at_once + 1
            } else {
                0
            };
            if work.refresh_failed_at_once >= MAX_FAILED_AT_ONCE {
                let words = own_words(result);
                self.unsupported(&format!("refresh-updates has only ever failed, at once: {words}"));
            } else if failing >= timings.refresh_timeout {
                let words = format!(
                    "refresh-updates fails for {}s: {}",
                    failing.as_secs(),
                    own_words(result)
                );
                self.trouble(words);
            }
        }
        self.work.refreshes = self.work.refreshes.saturating_add(1);
        self.hold_until = Some(now.elapsed + timings.retry(self.work.refreshes));
    }

    /// Takes in the answer to a call that was made when the node was like `before`.
    pub fn called(
        &mut self,
        call: &Call,
        answer: &Result<(), CallError>,
        before: &HostFacts,
        timings: &Timings,
        now: Now,
    ) {
        self.work.calls = self.work.calls.saturating_add(1);
        if self.work.calls > MANY_CALLS {
            self.hold_until = Some(now.elapsed + timings.retry(self.work.calls - MANY_CALLS));
        }
        let refresh = *call == Call::Command(Command::Refresh);
        self.refresh_tried |= refresh;
        self.refresh_due &= !refresh;
        if let Call::Command(command) = *call
            && matches!(
                answer,
                Ok(()) | Err(CallError::Lost(_) | CallError::Failed { .. })
            )
        {
            let last = before
                .update
                .status()
                .and_then(|status| status.most_recent_command.as_ref());
            self.work.pending = Some(Pending {
                command,
                accepted: answer.is_ok(),
                before: last.map(identity),
            });
        }
        let name = match call {
            Call::Command(command) => command.to_string(),
            Call::ChangeSettings(_) => "changing settings.updates".to_owned(),
        };
        let locks = match call {
            Call::Command(_) => None,
            Call::ChangeSettings(to) => Some(Some(to) == self.work.wanted_settings().as_ref()),
        };
        if locks == Some(false) {
            // They are put back: that they are not locked any more is nobody else's doing.
            self.locked_to = None;
        }
        match answer {
            Ok(()) => {
                if let Some(locks) = locks {
                    self.work.failures = 0;
                    if locks && self.stages() {
                        self.locked_to = self.work.to_stage().cloned();
                    }
                }
                return;
            }
            Err(CallError::Busy(_)) => {
                self.hold_until = Some(now.elapsed + timings.poll(self.work.looks));
                self.work.looks = self.work.looks.saturating_add(1);
                return;
            }
            Err(error @ CallError::NotFound(_)) => {
                self.work.refusals += 1;
                if refresh {
                    self.unsupported(&format!("{name} answers {error}"));
                } else if self.work.refusals >= MAX_REFUSALS {
                    self.trouble(format!("{name} answers {error}"));
                }
            }
            Err(error @ CallError::Conflict(_)) => {
                self.work.refusals += 1;
                if self.work.refusals >= MAX_REFUSALS {
                    self.trouble(format!("{name} answers {error}"));
                }
            }
            Err(error @ (CallError::Rejected { .. } | CallError::Unreadable(_))) => {
                self.trouble(format!("{name} answers {error}"));
            }
            // Whether it was carried out shows in what the node is like next.
            Err(CallError::NotSent(_) | CallError::Lost(_) | CallError::Failed { .. }) => {}
        }
        // While staging, trouble is reported at once; what must be undone is tried again.
        if self.work.trouble.is_none() || !self.stages() {
            self.hold(timings, now);
        }
    }

    /// Takes in a report that the server took.
    pub fn reported(&mut self, status: BottlerocketShadowStatus) {
        if status.saved_settings.is_none() {
            self.locked_to = None;
            // Once its settings are put back, that is over, however it has ended.
            let before = self
                .known
                .as_ref()
                .filter(|before| before.saved_settings.is_some());
            self.work.ahead_over |=
                self.is_ahead() && before.is_some_and(|before| acknowledges(before, &self.work.spec));
        }
        self.known = Some(status.clone());
        self.stored = Some(status);
    }

    /// Takes in a permit that was asked for at `asked`: its validity counts from before the question was sent, so
    /// that no delay on the way adds to it.
    pub fn permitted(&mut self, permit: PermitResponse, asked: Duration) {
        let valid_until = asked + Duration::from_millis(permit.valid_for_ms);
        self.work.permit = Some(Permit {
            id: permit.permit_id,
            valid_until,
            refused: None,
        });
        self.work.refusal = None;
        self.work.failures = 0;
    }

    /// Takes in the refusal of a permit.
    pub fn permit_refused(&mut self, refusal: Option<PermitRefusal>, timings: &Timings, now: Now) {
        let closed = matches!(refusal, Some(PermitRefusal::WindowClosed { .. }));
        let pause = if closed {
            timings.permit_retry_closed
        } else {
            timings.permit_retry
        };
        self.work.refusal = refusal;
        self.hold_until = Some(now.elapsed + pause);
    }

    /// Notes that a reboot is about to be called for. Whatever becomes of the call, it counts as made until the
    /// answer says otherwise.
    pub fn rebooting(&mut self, boot_id: &str, now: Now) {
        let BottlerocketShadowSpec { run, attempt, .. } = &self.work.spec;
        let (run, attempt) = (run.clone(), *attempt);
        self.reboot = Some(RebootCall {
            run,
            attempt,
            boot_id: boot_id.to_owned(),
            at: now.elapsed,
        });
    }

    /// Takes in the answer to the reboot call.
    pub fn reboot_answered(&mut self, answer: &Result<(), CallError>, timings: &Timings, now: Now) {
        match answer {
            Ok(()) | Err(CallError::Lost(_)) => return,
            Err(CallError::NotSent(_)) => {}
            Err(error) => {
                if let Some(permit) = &mut self.work.permit {
                    permit.refused = Some(error.to_string());
                }
            }
        }
        self.reboot = None;
        self.hold_until = Some(now.elapsed + timings.poll(self.work.failures));
        self.work.failures = self.work.failures.saturating_add(1);
    }

    /// Whether the machine is about to go down, and until when that is believed.
    #[must_use]
    pub fn going_down(&self, boot_id: &str, timings: &Timings, now: Now) -> Option<Duration> {
        let until = self.reboot.as_ref().filter(|call| call.boot_id == boot_id)?.at + timings.reboot_timeout;
        (now.elapsed < until).then_some(until)
    }

    /// Waits longer after each failure in a row.
    pub fn hold(&mut self, timings: &Timings, now: Now) {
        self.work.failures = self.work.failures.saturating_add(1);
        self.hold_until = Some(now.elapsed + timings.retry(self.work.failures));
    }

    /// Forgets what decides only how soon something is done, and not what: for the model check, in which everything may
    /// happen at any time.
    pub fn forget_pace(&mut self) {
        self.hold_until = None;
        self.work.looks = 0;
        self.work.calls = 0;
        self.work.refreshes = 0;
        self.work.failures = 0;
    }

    /// Whether an image is to be on the inactive partition that is not known to be there.
    fn stages(&self) -> bool {
        self.work.to_stage().is_some() && !self.work.ahead_over
    }

    fn is_ahead(&self) -> bool {
        self.work.spec.state == NodeState::Idle && self.stages()
    }

    /// Has an idle node ask its repository what is on offer.
    pub fn refresh_is_due(&mut self) {
        self.refresh_due = true;
        self.settled = false;
    }

    fn trouble(&mut self, words: String) {
        self.found(FailureReason::StageFailed, words);
    }

    fn unsupported(&mut self, how: &str) {
        self.found(FailureReason::Unsupported, unsupported(how));
    }

    fn found(&mut self, reason: FailureReason, words: String) {
        if self.is_ahead() {
            // Nothing is lost: in the node's turn it is tried again, and what is wrong is reported then.
            self.work.ahead_over = true;
        } else {
            self.work.trouble.get_or_insert(Trouble { reason, words });
        }
    }
}

impl Work {
    /// The version that is to be on the inactive partition, in the node's turn or ahead of it.
    #[must_use]
    pub fn to_stage(&self) -> Option<&String> {
        match self.spec.state {
            NodeState::StagedAndPerformedUpdate => self.spec.version.as_ref(),
            NodeState::Idle => self.spec.stage.as_ref().map(|stage| &stage.version),
            NodeState::RebootedIntoUpdate | NodeState::MonitoringUpdate | NodeState::ErrorReset => None,
        }
    }

    /// The settings that the asked version needs.
    #[must_use]
    pub fn wanted_settings(&self) -> Option<Settings> {
        let version_lock = self.to_stage().or(self.spec.version.as_ref())?.clone();
        Some(Settings {
            version_lock,
            ignore_waves: true,
        })
    }
}

/// That an image cannot be updated in place, and how that shows.
#[must_use]
pub fn unsupported(how: &str) -> String {
    format!("this image cannot be updated in place: {how}")
}

fn identity(result: &CommandResult) -> (String, String) {
    (result.cmd_type.clone(), result.timestamp.clone())
}

fn own_words(result: &CommandResult) -> String {
    let words = one_line(result.stderr.as_deref().unwrap_or_default());
    let status = result.exit_status.map(|status| format!("exit status {status}"));
    match (words.is_empty(), status) {
        (false, _) => words,
        (true, Some(status)) => status,
        (true, None) => "it does not say why".to_owned(),
    }
}
