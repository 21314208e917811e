//! The one thing that comes next: a function of the instruction, what is remembered, what the node is like, and the
//! time. It looks at what is, not at what was done: after a crash or a lost reply it goes on from wherever the node
//! stands.

use std::time::Duration;

use api::{
    ledger::PermitRefusal,
    offer::is_older,
    shadow::{BottlerocketShadowSpec, BottlerocketShadowStatus, FailureReason, NodeState, acknowledges},
    wire::{Instruction, PermitRequest},
};

use crate::{
    bottlerocket::{Command, Settings, Status, UpdateState},
    config::Timings,
    host::{Call, HostFacts, Update},
    memory::{Memory, Now, unsupported},
    report,
};

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Call Bottlerocket's API.
    Call(Call),
    /// Report this to the apiserver.
    Report(Box<BottlerocketShadowStatus>),
    /// Ask the apiserver for the reboot permit.
    AskPermit(PermitRequest),
    /// Reboot, if the call can be sent before this time.
    Reboot {
        /// When the permit ends.
        until: Duration,
    },
    /// Look again at this time.
    Wait {
        /// When.
        until: Duration,
    },
    /// Nothing, until there is another instruction.
    Done,
}

/// The one thing that comes next.
#[must_use]
pub fn step(
    instruction: &Instruction,
    memory: &Memory,
    facts: &HostFacts,
    timings: &Timings,
    now: Now,
) -> Step {
    if let Some(until) = memory.going_down(&facts.boot_id, timings, now) {
        return Step::Wait { until };
    }
    let look = Look {
        spec: &instruction.spec,
        memory,
        facts,
        timings,
        now,
    };
    let next = match instruction.spec.state {
        NodeState::Idle => look.stage_ahead().unwrap_or_else(|| look.put_back()),
        NodeState::ErrorReset => look.put_back(),
        NodeState::StagedAndPerformedUpdate => look.stage(),
        NodeState::RebootedIntoUpdate => look.reboot(),
        NodeState::MonitoringUpdate => look.monitor(),
    };
    match (next, memory.hold_until) {
        // What was seen only now may say that the same call is not to be made again at once.
        (Step::Call(_) | Step::AskPermit(_) | Step::Reboot { .. }, Some(until)) if now.elapsed < until => {
            Step::Wait { until }
        }
        (next, _) => next,
    }
}

/// What the next step is decided on.
struct Look<'a> {
    spec: &'a BottlerocketShadowSpec,
    memory: &'a Memory,
    facts: &'a HostFacts,
    timings: &'a Timings,
    now: Now,
}

impl<'a> Look<'a> {
    fn stage(&self) -> Step {
        if self.has_failed() {
            return self.settled();
        }
        let (Some(version), Some(wanted)) = (&self.spec.version, self.memory.work.wanted_settings()) else {
            return self.fail(
                FailureReason::StageFailed,
                "the instruction names no version".to_owned(),
            );
        };
        let runs = &self.facts.os.version_id;
        if runs == version {
            return self.fail(
                FailureReason::StageFailed,
                format!("the node already runs {version}"),
            );
        }
        if is_older(version, runs) && self.spec.downgrade != Some(true) {
            let message =
                format!("{version} is older than {runs}, which the node runs, and no downgrade is asked for");
            return self.fail(FailureReason::StageFailed, message);
        }
        if self.is_acknowledged() && self.is_other_boot() {
            let message =
                format!("the node rebooted before it was asked to, and runs {runs} instead of {version}");
            return self.fail(FailureReason::BootedOtherVersion, message);
        }
        if self.facts.update == Update::Busy {
            return self.poll();
        }
        if let Some(trouble) = &self.memory.work.trouble {
            return self.fail(trouble.reason, trouble.words.clone());
        }
        let Some(settings) = &self.facts.settings else {
            return self.fail(
                FailureReason::Unsupported,
                unsupported("it has no settings.updates"),
            );
        };
        // Where the download had begun ahead of the node's turn, what was reported so far acknowledges that it is Idle.
        let idle = |status: &BottlerocketShadowStatus| {
            status.current_state == NodeState::Idle && status.run.is_some()
        };
        if !self.has_said(version) || self.known().is_some_and(idle) {
            let begun = report::begun(self.known(), self.facts, settings, version);
            return Step::Report(Box::new(begun));
        }
        if *settings != wanted {
            if self.memory.locked_to.as_ref() == Some(version) || self.is_strange_lock(&settings.version_lock)
            {
                return self.fail_changed(FailureReason::StageFailed, settings, version);
            }
            return Step::Call(Call::ChangeSettings(wanted));
        }
        match &self.facts.update {
            Update::Status(status) => self.stage_image(version, status),
            Update::Uninitialised | Update::Busy => command(Command::Refresh),
        }
    }

    /// The settings are right: refresh, deactivate another image, prepare, activate, each where it is needed.
    fn stage_image(&self, version: &str, status: &Status) -> Step {
        if self.facts.boots_next(version) {
            return self.report(report::done(self.known(), self.facts, self.spec));
        }
        let staging = status.staging_partition.as_ref().map(|staging| &staging.image);
        match status.update_state {
            UpdateState::Ready => return command(Command::Deactivate),
            UpdateState::Staged if self.facts.holds(version) => return command(Command::Activate),
            _ => {}
        }
        let work = &self.memory.work;
        if work.prepared {
            let found = staging.map_or_else(|| "nothing".to_owned(), |image| image.version.clone());
            let message = format!(
                "prepare-update succeeded, but {found} is on the inactive partition instead of {version}"
            );
            return self.fail(FailureReason::StageFailed, message);
        }
        if work.refreshed && self.facts.can_prepare(version) {
            return command(Command::Prepare);
        }
        match work.not_offered_since {
            Some(since) if self.now.elapsed >= since + self.timings.config_apply_timeout => {
                self.not_offered(version, status)
            }
            _ => command(Command::Refresh),
        }
    }

    /// Refreshes that ignore the repository's waves do not lead to the version.
    fn not_offered(&self, version: &str, status: &Status) -> Step {
        let (os, offered) = (&self.facts.os, status.available_updates.as_slice());
        let chosen = status.chosen_update.as_ref().map(|image| &image.version);
        if let Some(chosen) = chosen.filter(|chosen| *chosen != version) {
            // The updater does not go by the lock: what it says of the version is not known to be true.
            let message = format!("the node chooses {chosen}, though its version-lock is {version}");
            return self.fail(FailureReason::StageFailed, message);
        }
        if offered.iter().any(|offer| offer == version) {
            let message = format!("version {version} is on offer, but the node does not choose it");
            return self.fail(FailureReason::StageFailed, message);
        }
        let on_offer = match offered {
            [] => "nothing else either".to_owned(),
            some => format!(
                "on offer: {}",
                some.iter().take(5).cloned().collect::<Vec<_>>().join(", ")
            ),
        };
        let message = format!(
            "version {version} is not offered to this node (variant {}, arch {}; {on_offer})",
            os.variant_id, os.arch
        );
        self.fail(FailureReason::VersionNotOffered, message)
    }

    /// Ahead of the node's turn: refresh and prepare by the settings that this needs, which are put back then. None: nothing of that
    /// is to be done (any more). What goes wrong is left for the node's turn, where it is reported.
    fn stage_ahead(&self) -> Option<Step> {
        let work = &self.memory.work;
        let version = work.to_stage().filter(|_| !work.ahead_over)?;
        let runs = &self.facts.os.version_id;
        // First of all what an earlier attempt has changed is put back.
        if !self.is_acknowledged() || runs == version || is_older(version, runs) {
            return None;
        }
        let saved = self.known().and_then(|status| status.saved_settings.as_ref());
        // A place among those that download is not kept for ever: who begins late, as after a reboot, would be one too many.
        let until = self.spec.stage.as_ref().map(|stage| stage.until);
        if saved.is_none() && until.is_some_and(|until| self.now.wall >= until) {
            return None;
        }
        let status = match &self.facts.update {
            Update::Busy => return Some(self.poll()),
            // What others have activated is theirs.
            Update::Status(status) if status.update_state == UpdateState::Ready => return None,
            Update::Status(status) => Some(status),
            Update::Uninitialised => None,
        };
        let (settings, wanted) = (self.facts.settings.as_ref()?, work.wanted_settings()?);
        if !self.has_said(version) {
            let begun = report::begun_ahead(self.known(), self.facts, settings, version);
            return Some(Step::Report(Box::new(begun)));
        }
        if *settings != wanted {
            let others = self.memory.locked_to.as_ref() == Some(version)
                || self.is_strange_lock(&settings.version_lock);
            return (!others).then_some(Step::Call(Call::ChangeSettings(wanted)));
        }
        let prepares = status.is_some() && work.refreshed && self.facts.can_prepare(version);
        Some(command(if prepares {
            Command::Prepare
        } else {
            Command::Refresh
        }))
    }

    /// Whether what was found is stored, and that this lock is set.
    fn has_said(&self, version: &str) -> bool {
        let saved = self.known().and_then(|status| status.saved_settings.as_ref());
        saved.is_some_and(|saved| saved.locks.iter().any(|lock| lock == version))
    }

    fn reboot(&self) -> Step {
        if self.has_failed() {
            return self.settled();
        }
        let (Some(version), Some(run), Some(attempt)) =
            (&self.spec.version, &self.spec.run, self.spec.attempt)
        else {
            let message = "the instruction names no version, run or attempt".to_owned();
            return self.fail(FailureReason::RebootFailed, message);
        };
        let runs = &self.facts.os.version_id;
        if self.is_acknowledged() || self.is_other_boot() {
            if runs == version {
                return self.report(report::done(self.known(), self.facts, self.spec));
            }
            // The bootloader has given the new image up, or something else was activated: not to be rebooted again.
            let message = format!("the node rebooted, and runs {runs} instead of {version}");
            return self.fail(FailureReason::BootedOtherVersion, message);
        }
        let called = self.memory.reboot.as_ref();
        if called.is_some_and(|call| call.run.as_ref() == Some(run) && call.attempt == Some(attempt)) {
            let message = format!(
                "the node is still up {:?} after its reboot call",
                self.timings.reboot_timeout
            );
            return self.fail(FailureReason::RebootFailed, message);
        }
        if self.facts.update == Update::Busy {
            return self.poll();
        }
        let Some(settings) = &self.facts.settings else {
            let message = "settings.updates cannot be read any more: not rebooted".to_owned();
            return self.fail(FailureReason::RebootFailed, message);
        };
        if Some(settings) != self.memory.work.wanted_settings().as_ref() {
            return self.fail_changed(FailureReason::RebootFailed, settings, version);
        }
        if !self.facts.boots_next(version) {
            let message = format!("{version} is not activated any more: not rebooted");
            return self.fail(FailureReason::RebootFailed, message);
        }
        if self.memory.work.refusal == Some(PermitRefusal::OtherBoot) {
            let message = format!("the reboot permit was used by an earlier boot, and the node runs {runs}");
            return self.fail(FailureReason::BootedOtherVersion, message);
        }
        if let Some(refusal @ PermitRefusal::PermitExpired { .. }) = &self.memory.work.refusal {
            return self.fail(FailureReason::PermitExpired, refusal.to_string());
        }
        match &self.memory.work.permit {
            Some(permit) if self.now.elapsed < permit.valid_until => Step::Reboot {
                until: permit.valid_until,
            },
            Some(permit) if permit.refused.is_some() => {
                let words = permit.refused.as_deref().unwrap_or_default();
                self.fail(
                    FailureReason::RebootFailed,
                    format!("the node refused to reboot: {words}"),
                )
            }
            _ => Step::AskPermit(PermitRequest {
                run: run.clone(),
                attempt,
                boot_id: self.facts.boot_id.clone(),
            }),
        }
    }

    fn monitor(&self) -> Step {
        if self.has_failed() {
            return self.settled();
        }
        let due = self.memory.work.begun.unwrap_or(self.now.elapsed) + self.timings.monitoring_report;
        match self.report(report::done(self.known(), self.facts, self.spec)) {
            Step::Report(_) if self.now.elapsed < due => Step::Wait { until: due },
            step => step,
        }
    }

    /// Undoes what an update has changed on the host. That it did shows in the saved settings: they are reported
    /// before anything is changed, and cleared when all is put back.
    fn put_back(&self) -> Step {
        let saved = self.known().and_then(|status| status.saved_settings.as_ref());
        if let Some(saved) = saved {
            if let Some(trouble) = &self.memory.work.trouble
                && !self.has_failed()
            {
                return self.fail(
                    FailureReason::StageFailed,
                    format!("cannot be undone yet: {}", trouble.words),
                );
            }
            match &self.facts.update {
                Update::Busy => return self.poll(),
                Update::Status(status) if status.update_state == UpdateState::Ready => {
                    return command(Command::Deactivate);
                }
                Update::Status(_) | Update::Uninitialised => {}
            }
            let Some(found) = &self.facts.settings else {
                if self.has_failed() {
                    return self.poll();
                }
                let message = "cannot be undone yet: the settings cannot be read".to_owned();
                return self.fail(FailureReason::StageFailed, message);
            };
            let version_lock = if self.is_our_lock(&found.version_lock) {
                &saved.version_lock
            } else {
                &found.version_lock
            };
            let back = Settings {
                version_lock: version_lock.clone(),
                // We only ever set it to true.
                ignore_waves: found.ignore_waves && saved.ignore_waves,
            };
            if *found != back {
                return Step::Call(Call::ChangeSettings(back));
            }
        }
        match self.report(report::undone(self.known(), self.facts, self.spec, self.now)) {
            Step::Done if self.spec.state == NodeState::Idle => self.learn_target(),
            report => report,
        }
    }

    /// After a boot the updater knows nothing: one refresh, so that the status can name a target. And one from time to time,
    /// so that it says what is on offer.
    fn learn_target(&self) -> Step {
        match self.facts.update {
            Update::Busy if self.memory.work.pending.is_some() => self.poll(),
            Update::Busy => Step::Done,
            Update::Uninitialised if !self.memory.refresh_tried => command(Command::Refresh),
            _ if self.memory.refresh_due => command(Command::Refresh),
            _ => Step::Done,
        }
    }

    /// Whether the lock is what the update has set, and not what someone else has set since.
    fn is_our_lock(&self, lock: &str) -> bool {
        let said = self.known().and_then(|status| status.saved_settings.as_ref());
        let said = said.map_or(&[][..], |saved| saved.locks.as_slice());
        let set = self.memory.locked_to.as_deref() == Some(lock);
        // An agent of an older version has not said which it sets.
        match self.spec.version.as_ref().or(self.memory.locked_to.as_ref()) {
            _ if !said.is_empty() => set || said.iter().any(|ours| ours == lock),
            Some(version) => version == lock,
            None => lock != "latest",
        }
    }

    /// Whether the lock is neither what was found before the update nor what the update sets: also an agent that was started
    /// again in between knows that someone else has set it.
    fn is_strange_lock(&self, lock: &str) -> bool {
        let saved = self.known().and_then(|status| status.saved_settings.as_ref());
        let wanted = self.memory.work.wanted_settings();
        let ours = wanted.is_some_and(|wanted| wanted.version_lock == lock)
            || self.memory.locked_to.as_deref() == Some(lock);
        saved.is_some_and(|saved| {
            saved.version_lock != lock && !ours && !saved.locks.iter().any(|said| said == lock)
        })
    }

    fn known(&self) -> Option<&'a BottlerocketShadowStatus> {
        self.memory.known.as_ref()
    }

    fn has_failed(&self) -> bool {
        self.known()
            .is_some_and(|status| report::has_failed(status, self.spec))
    }

    fn is_acknowledged(&self) -> bool {
        self.known().is_some_and(|status| acknowledges(status, self.spec))
    }

    /// Whether the node has booted since its last report.
    fn is_other_boot(&self) -> bool {
        let reported = self.known().and_then(|status| status.boot_id.as_ref());
        reported.is_some_and(|boot| *boot != self.facts.boot_id)
    }

    fn poll(&self) -> Step {
        let looks = self.memory.work.looks.saturating_sub(1);
        Step::Wait {
            until: self.now.elapsed + self.timings.poll(looks),
        }
    }

    fn fail(&self, reason: FailureReason, message: String) -> Step {
        Step::Report(Box::new(report::failed(
            self.known(),
            self.facts,
            self.spec,
            reason,
            message,
        )))
    }

    /// Someone else has changed the settings meanwhile: what they have set is what is to stay.
    fn fail_changed(&self, reason: FailureReason, found: &Settings, version: &str) -> Step {
        let other_lock = Some(&found.version_lock).filter(|lock| *lock != version);
        let message = match other_lock {
            Some(lock) => format!("version-lock was changed to {lock} by someone else"),
            None => format!(
                "ignore-waves was changed to {} by someone else",
                found.ignore_waves
            ),
        };
        let mut status = report::failed(self.known(), self.facts, self.spec, reason, message);
        if let Some(saved) = &mut status.saved_settings {
            saved.version_lock = other_lock.unwrap_or(&saved.version_lock).clone();
            saved.ignore_waves &= found.ignore_waves;
        }
        Step::Report(Box::new(status))
    }

    /// Nothing more is done; what the node is like is still reported.
    fn settled(&self) -> Step {
        self.report(report::current(self.known(), self.facts))
    }

    fn report(&self, status: BottlerocketShadowStatus) -> Step {
        if self.memory.known.as_ref() == Some(&status) && self.memory.stored.as_ref() == Some(&status) {
            Step::Done
        } else {
            Step::Report(Box::new(status))
        }
    }
}

fn command(command: Command) -> Step {
    Step::Call(Call::Command(command))
}

#[cfg(test)]
mod bench;
#[cfg(test)]
mod tests;
