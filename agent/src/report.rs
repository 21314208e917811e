//! The statuses that are reported. Pure.

use api::{
    offer::{MAX_OFFERS, Offer},
    shadow::{
        AgentError, BottlerocketShadowSpec, BottlerocketShadowStatus, FailureReason, MAX_LOCKS, NodeState,
        SavedSettings, acknowledges,
    },
};
use chrono::{DateTime, SubsecRound as _};

use crate::{
    bottlerocket::{Command, CommandStatus, Settings},
    host::{HostFacts, Update},
    memory::Now,
    stream::Unreadable,
};

/// What was known, if anything was, with what the node is like now: versions and boot.
#[must_use]
pub fn current(known: Option<&BottlerocketShadowStatus>, facts: &HostFacts) -> BottlerocketShadowStatus {
    let version = &facts.os.version_id;
    let same_boot = known.filter(|status| status.boot_id.as_ref() == Some(&facts.boot_id));
    let target = match &facts.update {
        Update::Status(status) => status
            .chosen_update
            .as_ref()
            .filter(|image| image.variant == facts.os.variant_id && image.arch == facts.os.arch)
            .map_or(version, |image| &image.version),
        Update::Busy => known.map_or(version, |status| &status.target_version),
        Update::Uninitialised => version,
    };
    let staged = match &facts.update {
        Update::Status(status) => status
            .staging_partition
            .as_ref()
            .map(|staging| staging.image.version.clone()),
        Update::Busy | Update::Uninitialised => same_boot.and_then(|status| status.staged_version.clone()),
    };
    BottlerocketShadowStatus {
        current_version: version.clone(),
        target_version: target.clone(),
        current_state: known.map_or(NodeState::Idle, |status| status.current_state),
        crash_count: known.map_or(0, |status| status.crash_count),
        state_transition_failure_timestamp: known
            .and_then(|status| status.state_transition_failure_timestamp),
        run: known.and_then(|status| status.run.clone()),
        attempt: known.and_then(|status| status.attempt),
        boot_id: Some(facts.boot_id.clone()),
        staged_version: staged,
        saved_settings: known.and_then(|status| status.saved_settings.clone()),
        variant: Some(facts.os.variant_id.clone()),
        arch: Some(facts.os.arch.clone()),
        offered: offered(known, facts),
        error: known.and_then(|status| status.error.clone()),
    }
}

/// What the last refresh that succeeded has found on offer. A version that was on offer before still is since then.
fn offered(known: Option<&BottlerocketShadowStatus>, facts: &HostFacts) -> Vec<Offer> {
    let before = known.map_or(&[][..], |known| known.offered.as_slice());
    let refreshed = facts.update.status().and_then(|status| {
        let last = status.most_recent_command.as_ref()?;
        let refreshed =
            last.cmd_type == Command::Refresh.cmd_type() && last.cmd_status == CommandStatus::Success;
        let at = DateTime::parse_from_rfc3339(&last.timestamp).ok()?;
        refreshed.then(|| (status, at.to_utc().trunc_subsecs(0)))
    });
    let Some((status, at)) = refreshed else {
        return before.to_vec();
    };
    let since = |version: &String| {
        let known = before.iter().find(|offer| offer.version == *version);
        known.map_or(at, |offer| offer.since)
    };
    let newest = status.available_updates.iter().take(MAX_OFFERS);
    newest
        .map(|version| Offer {
            version: version.clone(),
            since: since(version),
        })
        .collect()
}

/// Before the settings are changed: what they are. From here on the status acknowledges nothing, so that a
/// withdrawal under the number of an attempt that was withdrawn before waits for what is undone now.
#[must_use]
pub fn begun(
    known: Option<&BottlerocketShadowStatus>,
    facts: &HostFacts,
    found: &Settings,
    lock: &str,
) -> BottlerocketShadowStatus {
    BottlerocketShadowStatus {
        run: None,
        attempt: None,
        error: None,
        ..begun_ahead(known, facts, found, lock)
    }
}

/// Before the settings are changed ahead of the node's turn: what they are, and the lock that is about to be set. The node is still
/// Idle. Where they are saved already, they stay as they were found first.
#[must_use]
pub fn begun_ahead(
    known: Option<&BottlerocketShadowStatus>,
    facts: &HostFacts,
    found: &Settings,
    lock: &str,
) -> BottlerocketShadowStatus {
    let mut status = current(known, facts);
    let saved = status.saved_settings.get_or_insert_with(|| SavedSettings {
        version_lock: found.version_lock.clone(),
        ignore_waves: found.ignore_waves,
        locks: Vec::new(),
    });
    if !saved.locks.iter().any(|known| known == lock) {
        saved.locks.push(lock.to_owned());
        let forgotten = saved.locks.len().saturating_sub(MAX_LOCKS);
        saved.locks.drain(..forgotten);
    }
    status
}

/// The node has done what the spec asks for.
#[must_use]
pub fn done(
    known: Option<&BottlerocketShadowStatus>,
    facts: &HostFacts,
    spec: &BottlerocketShadowSpec,
) -> BottlerocketShadowStatus {
    let mut status = BottlerocketShadowStatus {
        current_state: spec.state,
        run: spec.run.clone(),
        attempt: spec.attempt,
        error: None,
        ..current(known, facts)
    };
    let runs_target = spec.version.as_ref() == Some(&facts.os.version_id);
    let came_from_it = known.is_some_and(|status| {
        matches!(
            status.current_state,
            NodeState::RebootedIntoUpdate | NodeState::MonitoringUpdate
        ) && status.run == spec.run
            && status.attempt == spec.attempt
    });
    let updated = match spec.state {
        NodeState::MonitoringUpdate => runs_target,
        NodeState::Idle => runs_target && came_from_it,
        NodeState::StagedAndPerformedUpdate | NodeState::RebootedIntoUpdate | NodeState::ErrorReset => false,
    };
    if updated {
        status.crash_count = 0;
        status.state_transition_failure_timestamp = None;
    }
    status
}

/// The node has undone what an update changed. A failed attempt is counted with the report that acknowledges its
/// `ErrorReset`: however often that is computed or sent, it is one.
#[must_use]
pub fn undone(
    known: Option<&BottlerocketShadowStatus>,
    facts: &HostFacts,
    spec: &BottlerocketShadowSpec,
    now: Now,
) -> BottlerocketShadowStatus {
    let mut status = BottlerocketShadowStatus {
        saved_settings: None,
        ..done(known, facts, spec)
    };
    let counted = known.is_some_and(|status| acknowledges(status, spec));
    if spec.state == NodeState::ErrorReset && !counted {
        status.crash_count = status.crash_count.saturating_add(1);
        status.state_transition_failure_timestamp = Some(now.wall);
    }
    status
}

/// The node cannot do what the spec asks for.
#[must_use]
pub fn failed(
    known: Option<&BottlerocketShadowStatus>,
    facts: &HostFacts,
    spec: &BottlerocketShadowSpec,
    reason: FailureReason,
    message: String,
) -> BottlerocketShadowStatus {
    let status = current(known, facts);
    // Whatever the state was, together with this run and attempt it must not read as an acknowledgement.
    let current_state = match (status.current_state == spec.state, spec.state) {
        (false, _) => status.current_state,
        (true, NodeState::Idle) => NodeState::ErrorReset,
        (true, _) => NodeState::Idle,
    };
    BottlerocketShadowStatus {
        current_state,
        run: spec.run.clone(),
        attempt: spec.attempt,
        error: Some(AgentError { reason, message }),
        ..status
    }
}

/// The node is asked for something that the agent does not understand.
#[must_use]
pub fn not_understood(
    known: Option<&BottlerocketShadowStatus>,
    facts: &HostFacts,
    order: &Unreadable,
) -> BottlerocketShadowStatus {
    let message = format!(
        "this agent does not understand the instruction, is it outdated? {}",
        order.problem
    );
    BottlerocketShadowStatus {
        run: order.run.clone(),
        attempt: order.attempt,
        error: Some(AgentError {
            reason: FailureReason::StageFailed,
            message,
        }),
        ..current(known, facts)
    }
}

/// Whether the status says that this attempt cannot be done. That stays so until the spec moves on.
#[must_use]
pub fn has_failed(status: &BottlerocketShadowStatus, spec: &BottlerocketShadowSpec) -> bool {
    status.error.is_some() && status.run == spec.run && status.attempt == spec.attempt
}
