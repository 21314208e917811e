//! What a node and its agent do: they follow the shadow's spec, each step after a latency, and fail where told.

use std::cmp::Reverse;

use api::{
    ledger::{PermitRefusal, UpdateLedgerSpec},
    offer::Offer,
    shadow::{
        AgentError, BottlerocketShadowSpec, BottlerocketShadowStatus, FailureReason, NodeState,
        SavedSettings, acknowledges,
    },
};
use chrono::{DateTime, TimeDelta, Utc};
use semver::Version;

use super::{
    faults::{Dice, Fault, Rates, Timing},
    fleet::{ARCH, VARIANT},
};
use crate::world::{AgentFacts, Blocked, DrainFacts, NodeFacts, ShadowFacts};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    Stage,
    /// Downloads ahead of its turn.
    StageAhead,
    PutBack,
    AskPermit,
    GoDown,
    ComeUp,
    /// Reports what it has booted into, or that it monitors.
    Report,
}

/// What an instruction is told apart by.
type Order = (NodeState, Option<String>, Option<u32>);

/// The truth about a node that the planner does not see.
#[derive(Clone, Debug)]
pub struct VirtualNode {
    /// How long its steps take.
    pub timing: Timing,
    /// What goes wrong by chance.
    pub rates: Rates,
    /// What goes wrong for certain, and how many times more.
    pub faults: Vec<(Fault, u32)>,
    /// The version it runs.
    pub runs: String,
    /// Its variant.
    pub variant: String,
    /// Its architecture.
    pub arch: String,
    /// The versions that are on offer to it. None: whatever it is asked for.
    pub repository: Option<Vec<String>>,
    /// What its agent reports that it runs, whatever does.
    pub claims: Option<String>,
    /// The version on the inactive partition.
    pub staged: Option<String>,
    /// Whether that is booted next.
    pub activated: bool,
    /// Whether an update has changed settings that are not put back yet.
    pub settings_changed: bool,
    /// Whether it has power and its kernel runs.
    pub up: bool,
    /// How many pods run on it that a drain evicts.
    pub pods: u32,
    /// Every reboot: when, and for which run and attempt.
    pub reboots: Vec<(DateTime<Utc>, Option<String>, Option<u32>)>,
    /// When it turns not Ready, where nobody mends it before.
    pub(super) unhealthy_at: Option<DateTime<Utc>>,
    /// The version that it downloads ahead of its turn.
    ahead: Option<String>,
    /// The version that it could not download ahead of its turn.
    gave_up: Option<String>,
    dice: Dice,
    boots: u32,
    job: Option<(DateTime<Utc>, Job, Order)>,
    drained_at: Option<DateTime<Utc>>,
    ready_at: Option<DateTime<Utc>>,
}

/// What a node did that others have to check.
pub(super) enum Did {
    Nothing,
    GotPermit,
}

pub(super) const PODS: u32 = 3;

impl VirtualNode {
    /// A node as the planner sees it, Ready, on `version`, its agent reporting; and what it does not see.
    pub(super) fn new(
        name: &str,
        uid: &str,
        version: &str,
        now: DateTime<Utc>,
        timing: Timing,
        seed: u64,
    ) -> (Self, NodeFacts) {
        let hidden = Self {
            timing,
            rates: Rates::new(),
            faults: Vec::new(),
            runs: version.to_owned(),
            variant: VARIANT.to_owned(),
            arch: ARCH.to_owned(),
            repository: None,
            claims: None,
            staged: None,
            activated: false,
            settings_changed: false,
            up: true,
            pods: PODS,
            reboots: Vec::new(),
            ahead: None,
            gave_up: None,
            dice: Dice::new(seed, uid),
            boots: 1,
            job: None,
            drained_at: None,
            ready_at: None,
            unhealthy_at: None,
        };
        let label = (
            api::names::NODE_LABEL.to_owned(),
            api::names::NODE_LABEL_VALUE.to_owned(),
        );
        let boot_id = format!("{uid}-boot-1");
        let facts = NodeFacts {
            name: name.to_owned(),
            uid: uid.to_owned(),
            labels: [label].into(),
            annotations: Default::default(),
            ready: true,
            ready_changed: Some(now - TimeDelta::hours(1)),
            unschedulable: false,
            disruption: None,
            opt_out: None,
            boot_id: boot_id.clone(),
            os_image: os_image(version, VARIANT),
            shadow: Some(ShadowFacts {
                spec: BottlerocketShadowSpec::default(),
                status: Some(BottlerocketShadowStatus {
                    current_version: version.to_owned(),
                    target_version: version.to_owned(),
                    current_state: NodeState::Idle,
                    crash_count: 0,
                    state_transition_failure_timestamp: None,
                    run: None,
                    attempt: None,
                    boot_id: Some(boot_id),
                    staged_version: None,
                    saved_settings: None,
                    variant: Some(VARIANT.to_owned()),
                    arch: Some(ARCH.to_owned()),
                    offered: Vec::new(),
                    error: None,
                }),
            }),
            agent: AgentFacts {
                ready: true,
                since: Some(now - TimeDelta::hours(1)),
            },
            hosts_operator: false,
            drain: None,
        };
        (hidden, facts)
    }

    /// Whether the fault is there.
    #[must_use]
    pub fn has(&self, fault: Fault) -> bool {
        self.faults
            .iter()
            .any(|(known, left)| *known == fault && *left > 0)
    }

    /// Whether the fault strikes now, for certain or by chance; it is used up after its times.
    fn strikes(&mut self, fault: Fault) -> bool {
        let Some((_, left)) = self
            .faults
            .iter_mut()
            .find(|(known, left)| *known == fault && *left > 0)
        else {
            return self.chance(fault);
        };
        *left -= 1;
        true
    }

    fn chance(&mut self, fault: Fault) -> bool {
        self.rates
            .get(&fault)
            .copied()
            .is_some_and(|rate| self.dice.strikes(rate))
    }

    /// When it does something next.
    #[must_use]
    pub fn next(&self) -> Option<DateTime<Utc>> {
        let job = self.job.as_ref().map(|(due, ..)| *due);
        [job, self.drained_at, self.ready_at, self.unhealthy_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// Looks at its instruction and begins what is to be done.
    pub(super) fn react(&mut self, now: DateTime<Utc>, facts: &mut NodeFacts) {
        let going_down = matches!(self.job, Some((_, Job::GoDown | Job::ComeUp, _)));
        if going_down || !self.up {
            return;
        }
        let Some(shadow) = facts.shadow.as_ref().filter(|_| !self.has(Fault::AgentSilent)) else {
            self.job = None;
            return;
        };
        let spec = &shadow.spec;
        let order: Order = (spec.state, spec.run.clone(), spec.attempt);
        let ahead = spec.stage.as_ref().map(|stage| &stage.version);
        let ahead =
            ahead.filter(|version| ![&self.staged, &self.gave_up].contains(&&Some((*version).clone())));
        let download = self.job.take_if(|(_, job, of)| {
            *job == Job::StageAhead && (ahead.is_none() || self.ahead.as_ref() != ahead || *of != order)
        });
        if self.job.as_ref().is_some_and(|(_, _, of)| *of == order) {
            return;
        }
        self.job = None;
        let Some(status) = &shadow.status else { return };
        let failed = status.error.is_some() && status.run == spec.run && status.attempt == spec.attempt;
        let undoing = matches!(spec.state, NodeState::Idle | NodeState::ErrorReset);
        let known =
            status.boot_id.as_deref() == Some(&facts.boot_id) && status.current_version == *self.says();
        if (acknowledges(status, spec) || failed && !undoing) && known {
            self.job = ahead.map(|_| (now + self.timing.stage, Job::StageAhead, order));
            self.ahead = ahead.cloned();
            return;
        }
        let (job, after) = match spec.state {
            _ if !known => (Job::Report, self.timing.agent),
            NodeState::StagedAndPerformedUpdate if self.staged.is_some() && self.staged == spec.version => {
                (Job::Stage, self.timing.agent)
            }
            NodeState::StagedAndPerformedUpdate => (Job::Stage, self.timing.stage),
            NodeState::RebootedIntoUpdate => (Job::AskPermit, self.timing.agent),
            NodeState::MonitoringUpdate => (Job::Report, self.timing.agent),
            NodeState::Idle | NodeState::ErrorReset => (Job::PutBack, self.timing.agent),
        };
        // What is being downloaded ahead when its turn comes is not begun again.
        let goes_on = download.filter(|_| job == Job::Stage && self.ahead == spec.version);
        let due = goes_on.map_or(now + after, |(due, ..)| due.max(now + self.timing.agent));
        let version = spec.version.clone().filter(|_| job == Job::Stage);
        self.job = Some((due, job, order));
        if let Some(version) = version {
            says_that_it_begins(facts, version);
        }
    }

    /// The step that is under way takes its whole time from now on.
    pub(super) fn begin_again(&mut self, now: DateTime<Utc>) {
        self.drained_at = self.drained_at.map(|_| now + self.timing.drain);
        match &mut self.job {
            Some((due, Job::ComeUp, _)) => *due = now + self.timing.reboot,
            Some((_, Job::GoDown, _)) => {}
            _ => self.job = None,
        }
    }

    /// Begins, goes on with, or stops a drain.
    pub(super) fn drain(&mut self, now: DateTime<Utc>, ordered: bool, facts: &mut NodeFacts) {
        if !ordered {
            self.drained_at = None;
            facts.drain = None;
        } else if facts.drain.is_none() {
            facts.drain = Some(DrainFacts {
                left: self.pods,
                own: 0,
                blocked: None,
            });
            self.drained_at = Some(now + self.timing.drain);
        }
    }

    /// Does what is due.
    pub(super) fn fire(
        &mut self,
        now: DateTime<Utc>,
        facts: &mut NodeFacts,
        ledger: &mut Option<UpdateLedgerSpec>,
    ) -> Did {
        if self.drained_at.is_some_and(|due| due <= now) {
            self.drained_at = None;
            let blocked = self.has(Fault::DrainBlocked) || self.chance(Fault::DrainBlocked);
            self.pods = u32::from(blocked);
            // It is tried again: the budget may allow it by then.
            self.drained_at = blocked.then(|| now + TimeDelta::seconds(30));
            facts.drain = Some(DrainFacts {
                left: self.pods,
                own: 0,
                blocked: blocked.then(|| Blocked {
                    pod: "shop/cart-0".to_owned(),
                    budget: Some("cart".to_owned()),
                    message: "Cannot evict pod as it would violate the pod's disruption budget.".to_owned(),
                }),
            });
        }
        if self.ready_at.is_some_and(|due| due <= now) {
            self.ready_at = None;
            set_ready(facts, true, now);
        }
        if self.unhealthy_at.is_some_and(|due| due <= now) {
            self.unhealthy_at = None;
            set_ready(facts, false, now);
        }
        match self.job.take() {
            Some((due, job, order)) if due <= now => self.work(now, job, order, facts, ledger),
            later => {
                self.job = later;
                Did::Nothing
            }
        }
    }

    fn work(
        &mut self,
        now: DateTime<Utc>,
        job: Job,
        order: Order,
        facts: &mut NodeFacts,
        ledger: &mut Option<UpdateLedgerSpec>,
    ) -> Did {
        match job {
            Job::Stage => {
                self.settings_changed = true;
                let wanted = facts
                    .shadow
                    .as_ref()
                    .and_then(|shadow| shadow.spec.version.clone());
                match self.download(wanted) {
                    Ok(()) => {
                        self.activated = true;
                        self.report(facts, Ok(true));
                    }
                    Err((reason, words)) => self.report(facts, Err((reason, &words))),
                }
            }
            Job::StageAhead => {
                let stage = facts
                    .shadow
                    .as_ref()
                    .and_then(|shadow| shadow.spec.stage.as_ref());
                let wanted = stage.map(|stage| stage.version.clone());
                match self.download(wanted.clone()) {
                    Ok(()) => self.report(facts, Ok(false)),
                    Err(_) => self.gave_up = wanted,
                }
            }
            Job::PutBack => {
                self.settings_changed = false;
                self.activated = false;
                if let Some(status) = facts.shadow.as_mut().and_then(|shadow| shadow.status.as_mut()) {
                    status.saved_settings = None;
                }
                self.report(facts, Ok(true));
            }
            Job::Report => {
                let spec = facts
                    .shadow
                    .as_ref()
                    .map(|shadow| shadow.spec.clone())
                    .unwrap_or_default();
                let runs_it = spec.version.as_ref() == Some(self.says());
                match spec.state {
                    NodeState::RebootedIntoUpdate if !runs_it => {
                        let words = "the node rebooted, and runs another version";
                        self.report(facts, Err((FailureReason::BootedOtherVersion, words)));
                    }
                    NodeState::RebootedIntoUpdate | NodeState::MonitoringUpdate => {
                        self.report(facts, Ok(true))
                    }
                    NodeState::StagedAndPerformedUpdate if facts.shadow.as_ref().is_some_and(is_done) => {
                        let words = "the node rebooted before it was asked to";
                        self.report(facts, Err((FailureReason::BootedOtherVersion, words)));
                    }
                    _ => self.report(facts, Ok(false)),
                }
            }
            Job::AskPermit => return self.ask_permit(now, order, facts, ledger),
            Job::GoDown => {
                self.reboots.push((now, order.1.clone(), order.2));
                self.go_down(now, facts);
            }
            Job::ComeUp => self.come_up(now, facts),
        }
        Did::Nothing
    }

    fn download(&mut self, wanted: Option<String>) -> Result<(), (FailureReason, String)> {
        if self.staged.is_some() && self.staged == wanted {
            return Ok(());
        }
        let offered = self.repository.as_ref().zip(wanted.as_ref());
        if self.has(Fault::Unsupported) {
            let words = "this image cannot be updated in place: refresh-updates answers 404";
            return Err((FailureReason::Unsupported, words.to_owned()));
        }
        if let Some((_, wanted)) = offered.filter(|(offered, wanted)| !offered.contains(wanted)) {
            let words = format!("version {wanted} is not offered to this node");
            return Err((FailureReason::VersionNotOffered, words));
        }
        if self.strikes(Fault::PrepareFails) {
            let words = "prepare-update failed: no space left on device";
            return Err((FailureReason::StageFailed, words.to_owned()));
        }
        self.staged = wanted;
        Ok(())
    }

    fn ask_permit(
        &mut self,
        now: DateTime<Utc>,
        order: Order,
        facts: &mut NodeFacts,
        ledger: &mut Option<UpdateLedgerSpec>,
    ) -> Did {
        let (run, attempt) = (order.1.clone().unwrap_or_default(), order.2.unwrap_or_default());
        let ready = facts.unschedulable && self.pods == 0;
        let permit = ledger
            .as_mut()
            .filter(|_| ready)
            .map(|ledger| ledger.permit(&facts.uid, &run, attempt, &facts.boot_id, now));
        match permit {
            Some(Ok(_)) => {
                self.job = Some((now + TimeDelta::seconds(1), Job::GoDown, order));
                Did::GotPermit
            }
            Some(Err(PermitRefusal::PermitExpired { .. })) => {
                let words = "the window closed before the permit was used";
                self.report(facts, Err((FailureReason::PermitExpired, words)));
                Did::Nothing
            }
            _ => {
                self.job = Some((now + TimeDelta::seconds(10), Job::AskPermit, order));
                Did::Nothing
            }
        }
    }

    pub(super) fn go_down(&mut self, now: DateTime<Utc>, facts: &mut NodeFacts) {
        self.up = false;
        set_ready(facts, false, now);
        facts.agent = AgentFacts {
            ready: false,
            since: Some(now),
        };
        self.ready_at = None;
        self.unhealthy_at = None;
        let stays_down = self.has(Fault::NeverReturns) || self.chance(Fault::NeverReturns);
        self.job = (!stays_down).then(|| {
            (
                now + self.timing.reboot,
                Job::ComeUp,
                (NodeState::Idle, None, None),
            )
        });
    }

    pub(super) fn come_up(&mut self, now: DateTime<Utc>, facts: &mut NodeFacts) {
        self.up = true;
        self.boots += 1;
        self.job = None;
        facts.boot_id = format!("{}-boot-{}", facts.uid, self.boots);
        let staged = self.staged.take();
        if self.activated {
            self.activated = false;
            let given_up = self.strikes(Fault::BootsOldVersion);
            if let Some(version) = staged.filter(|_| !given_up) {
                self.runs = version;
            }
        }
        facts.os_image = os_image(&self.runs, &self.variant);
        let ready = now + self.timing.ready;
        if ready > now {
            self.ready_at = Some(ready);
        } else {
            set_ready(facts, true, now);
        }
        if self.chance(Fault::AgentSilent) {
            self.faults.push((Fault::AgentSilent, u32::MAX));
        }
        facts.agent = AgentFacts {
            ready: !self.has(Fault::AgentSilent),
            since: Some(now),
        };
        self.unhealthy_at = self
            .strikes(Fault::UnhealthyAfterBoot)
            .then(|| ready + TimeDelta::seconds(10));
    }

    /// The version that its agent reports.
    fn says(&self) -> &String {
        self.claims.as_ref().unwrap_or(&self.runs)
    }

    /// Reports what the node is like; acknowledges the instruction, or says why it cannot be done.
    fn report(&self, facts: &mut NodeFacts, outcome: Result<bool, (FailureReason, &str)>) {
        let boot_id = facts.boot_id.clone();
        let Some(shadow) = &mut facts.shadow else { return };
        let Some(status) = &mut shadow.status else { return };
        status.current_version.clone_from(self.says());
        status.boot_id = Some(boot_id);
        status.staged_version.clone_from(&self.staged);
        match outcome {
            Ok(acknowledge) => {
                if acknowledge {
                    status.error = None;
                    status.current_state = shadow.spec.state;
                    status.run.clone_from(&shadow.spec.run);
                    status.attempt = shadow.spec.attempt;
                }
            }
            Err((reason, message)) => {
                status.run.clone_from(&shadow.spec.run);
                status.attempt = shadow.spec.attempt;
                if status.current_state == shadow.spec.state {
                    status.current_state = NodeState::Idle;
                }
                status.error = Some(AgentError {
                    reason,
                    message: message.to_owned(),
                });
            }
        }
    }
}

impl VirtualNode {
    /// It is a machine of this kind, and its agent has asked what is on offer.
    pub(super) fn become_image(
        &mut self,
        now: DateTime<Utc>,
        facts: &mut NodeFacts,
        variant: &str,
        arch: &str,
        offered: Option<Vec<String>>,
    ) {
        (self.variant, self.arch) = (variant.to_owned(), arch.to_owned());
        self.repository = offered;
        facts.os_image = os_image(&self.runs, variant);
        if let Some(status) = facts.shadow.as_mut().and_then(|shadow| shadow.status.as_mut()) {
            // An older agent reports neither.
            let said = |word: &str| (!variant.is_empty()).then(|| word.to_owned());
            (status.variant, status.arch) = (said(variant), said(arch));
        }
        self.refresh(now, facts);
    }

    /// Its repository offers this version, and its agent finds out.
    pub(super) fn offer(&mut self, now: DateTime<Utc>, facts: &mut NodeFacts, version: &str) {
        self.repository.get_or_insert_default().push(version.to_owned());
        self.refresh(now, facts);
    }

    /// Its repository offers this version no more, and its agent finds out.
    pub(super) fn recall(&mut self, now: DateTime<Utc>, facts: &mut NodeFacts, version: &str) {
        self.repository
            .get_or_insert_default()
            .retain(|offered| offered != version);
        self.refresh(now, facts);
    }

    fn refresh(&self, now: DateTime<Utc>, facts: &mut NodeFacts) {
        let Some(status) = facts.shadow.as_mut().and_then(|shadow| shadow.status.as_mut()) else {
            return;
        };
        let mut versions: Vec<&String> = self.repository.iter().flatten().collect();
        versions.sort_by_key(|version| Reverse(Version::parse(version).ok()));
        versions.dedup();
        let offers = versions.into_iter().map(|version| {
            let known = status.offered.iter().find(|offer| offer.version == *version);
            Offer {
                version: version.clone(),
                since: known.map_or(now, |offer| offer.since),
            }
        });
        status.offered = offers.collect();
    }
}

/// Before it changes settings to stage, an agent reports what they are; from then on it acknowledges nothing.
fn says_that_it_begins(facts: &mut NodeFacts, version: String) {
    if let Some(status) = facts.shadow.as_mut().and_then(|shadow| shadow.status.as_mut()) {
        status.saved_settings = Some(SavedSettings {
            version_lock: "latest".to_owned(),
            ignore_waves: false,
            locks: vec![version],
        });
        (status.run, status.attempt, status.error) = (None, None, None);
    }
}

/// What a kubelet calls the image of this version.
fn os_image(version: &str, variant: &str) -> String {
    format!("Bottlerocket OS {version} ({variant})")
}

fn is_done(shadow: &ShadowFacts) -> bool {
    shadow
        .status
        .as_ref()
        .is_some_and(|status| acknowledges(status, &shadow.spec))
}

pub(super) fn set_ready(facts: &mut NodeFacts, ready: bool, now: DateTime<Utc>) {
    if facts.ready != ready {
        facts.ready = ready;
        facts.ready_changed = Some(now);
    }
}
