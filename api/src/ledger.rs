//! `UpdateLedger`: the one place where disruption is admitted.
//!
//! A node may be disrupted only while the ledger holds a grant for it. Every change is a compare-and-swap of the
//! whole object by its resourceVersion; the methods here say which changes are legal, and both writers, controller
//! and apiserver, use them.

mod actions;

use std::{collections::BTreeMap, fmt};

use chrono::{DateTime, TimeDelta, Utc};
use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    offer::Target,
    quantity::IntOrPercent,
    shadow::{Failure, FailureReason},
};

pub use actions::Actions;

/// How long a reboot permit is valid after the agent has it.
pub const PERMIT_VALIDITY: TimeDelta = TimeDelta::seconds(30);

/// Grants in the ledger at once, so that the object stays far below etcd's limit for one value.
pub const MAX_GRANTS: usize = 1000;

/// What is admitted now.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "brupop.bottlerocket.aws",
    version = "v1alpha1",
    kind = "UpdateLedger",
    plural = "updateledgers",
    namespaced,
    derive = "PartialEq",
    derive = "Default",
    doc = "The grants that admit disruption, a singleton in the install's namespace. Written by the operator; people set stop and maxUnavailable.",
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    crates(kube_core = "::kube_core")
)]
#[serde(rename_all = "camelCase")]
pub struct UpdateLedgerSpec {
    /// plans: what was known of each plan when the ledger was last written, by plan UID.
    #[serde(default)]
    pub plans: BTreeMap<String, PlanEntry>,
    /// grants: the live grants, by node UID; at most 1,000.
    #[serde(default)]
    pub grants: BTreeMap<String, Grant>,
    /// stop: set by people: while it is true nothing is granted and no reboot is permitted, whatever the plans say; nodes that
    /// are not yet rebooting go back to Idle, the others finish. Default false.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stop: bool,
    /// maxUnavailable: how many of all nodes that take part may be unavailable, whatever their plans allow. An integer, or a
    /// percentage of them, rounded down, at least 1. Where the controller has `--max-unavailable`, it writes that here; else
    /// it is set by people. Default: no such limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<IntOrPercent>,
    /// writer: the controller that wrote the ledger last, a word that is another one for each of its terms. One that
    /// finds another's here reads everything afresh before it decides. A permit leaves it as it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub writer: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// What the ledger knows of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanEntry {
    /// name: the plan's name.
    pub name: String,
    /// generation: the plan's generation that this entry records. Nobody grants from an older one.
    pub generation: i64,
    /// run: the run that grants belong to; a new target starts a new run.
    pub run: String,
    /// target: the version of the run, or `latest`.
    pub target: String,
    /// targets: with `latest`: the version for each variant and architecture, once it is known; it does not change in the
    /// run. At most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Target>,
    /// startedAt: when the run started.
    pub started_at: DateTime<Utc>,
    /// paused: nothing is granted.
    #[serde(default)]
    pub paused: bool,
    /// halted: the failure threshold was reached; nothing is granted until a retry or a new run.
    #[serde(default)]
    pub halted: bool,
    /// waveSizes: how many nodes each wave with a size takes, fixed when the run starts, by wave name.
    #[serde(default)]
    pub wave_sizes: BTreeMap<String, u32>,
    /// openWave: index of the last wave that has been started in this run.
    #[serde(default)]
    pub open_wave: u32,
    /// openWaveName: its name, which tells whether an edit has moved it. Empty: the first wave.
    #[serde(default)]
    pub open_wave_name: String,
    /// releasing: the plan's resourceVersion over which its finalizer is being removed. Grants need a finalizer that is
    /// on a later version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub releasing: Option<String>,
    /// waitingSince: since when nodes of the plan have waited for an update or are being updated; only where a window of
    /// the plan is open until they are done. An instant of its schedule opens it where it is not before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_since: Option<DateTime<Utc>>,
    /// failed: UIDs of the nodes that failed in this run after their retries, as the threshold counts them: also of
    /// those that are gone by now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
    /// durations: how many seconds the plan's last nodes took from grant to the end of their monitoring, the oldest
    /// first; at most 50. Kept from run to run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub durations: Vec<u32>,
    /// heldSince: since when the waves that are open wait for nothing but nodes that cannot be updated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_since: Option<DateTime<Utc>>,
    /// actions: what people have asked of this run, and was done.
    #[serde(default, skip_serializing_if = "Actions::is_empty")]
    pub actions: Actions,
}

/// How far a grant is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum GrantPhase {
    /// The node is being staged, cordoned and drained.
    Granted,
    /// No evictable pod is left; the agent may ask for the reboot permit.
    Drained,
    /// The permit was given.
    Rebooting,
    /// The node is back on the target and watched.
    Monitoring,
    /// The grant is being taken back; no permit any more.
    Withdrawing,
}

impl fmt::Display for GrantPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The leave to disrupt one node. A grant in any phase counts against every limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// node: the node's name, for people; the key is its UID.
    pub node: String,
    /// plan: UID of the plan.
    pub plan: String,
    /// generation: the plan's generation that the grant was last checked against.
    pub generation: i64,
    /// run: the plan's run.
    pub run: String,
    /// wave: the wave the node belongs to in this run.
    pub wave: String,
    /// attempt: of this node in this run, from 1.
    pub attempt: u32,
    /// from: the version the node ran.
    pub from: String,
    /// to: the version the node is to run.
    pub to: String,
    /// phase: how far it is.
    pub phase: GrantPhase,
    /// grantedAt: when it was made.
    pub granted_at: DateTime<Utc>,
    /// phaseSince: when the phase began.
    pub phase_since: DateTime<Utc>,
    /// notAfter: when the window closes; no permit from then on. None: it does not, or the node was cordoned while it was
    /// open and its plan lets it finish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<DateTime<Utc>>,
    /// permit: the reboot permit, once given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permit: Option<Permit>,
    /// ending: why the grant ends without an update, once that is decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
}

/// The leave to reboot, once, from one boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Permit {
    /// id: names the permit.
    pub id: String,
    /// bootId: the boot that it was given to.
    pub boot_id: String,
    /// at: when it was given.
    pub at: DateTime<Utc>,
}

/// Why a grant ends without an update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ending {
    /// message: one line for people.
    pub message: String,
    /// failure: the reason where the attempt failed, or could not have succeeded; None where it was withdrawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureReason>,
    /// at: when it was decided.
    pub at: DateTime<Utc>,
}

impl Ending {
    /// Whether the attempt has failed, and that counts.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        self.failure.is_some_and(FailureReason::counts)
    }

    /// What the shadow records of it, after `before` failures in the same run; None where there is nothing to remember.
    #[must_use]
    pub fn as_failure(&self, before: u32) -> Option<Failure> {
        let (message, at) = (self.message.clone(), self.at);
        self.failure
            .filter(|reason| reason.counts() || reason.leaves_alone())
            .map(|reason| Failure {
                reason,
                message,
                at,
                count: before + u32::from(reason.counts()),
            })
    }
}

/// A change that the ledger does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Illegal {
    /// The node has a grant already.
    #[error("node {node} already has a grant, in phase {phase}")]
    AlreadyGranted {
        /// The node's name.
        node: String,
        /// The phase of its grant.
        phase: GrantPhase,
    },
    /// The ledger holds as many grants as it may.
    #[error("the ledger holds {MAX_GRANTS} grants, the most it may")]
    Full,
    /// The install is stopped.
    #[error("the install is stopped: spec.stop of the ledger is true")]
    Stopped,
    /// The plan's entry does not admit the grant.
    #[error("plan {plan} has no entry in the ledger that admits a grant of generation {generation}")]
    NotAdmitted {
        /// The plan's UID.
        plan: String,
        /// The generation of the grant.
        generation: i64,
    },
    /// The node has no grant.
    #[error("there is no grant for node UID {node_uid}")]
    NoGrant {
        /// The node's UID.
        node_uid: String,
    },
    /// The phase does not allow the change.
    #[error("a grant in phase {phase} cannot become {wanted}")]
    WrongPhase {
        /// The phase it is in.
        phase: GrantPhase,
        /// The phase that was wanted.
        wanted: GrantPhase,
    },
}

/// Why a reboot permit is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "reason")]
pub enum PermitRefusal {
    /// There is no grant for the node.
    #[error("the node has no grant")]
    NoGrant,
    /// The grant belongs to another attempt than the agent's.
    #[error("the grant is for another run or attempt")]
    OtherAttempt,
    /// The grant is in a phase without permits.
    #[error("the grant is in phase {phase}; a permit is given in phase Drained only")]
    WrongPhase {
        /// The phase.
        phase: GrantPhase,
    },
    /// The install is stopped.
    #[error("the install is stopped")]
    Stopped,
    /// The permit was given to another boot: the node has rebooted already.
    #[error("the permit of this attempt was used by an earlier boot")]
    OtherBoot,
    /// The window has closed.
    #[error("the window closed at {not_after}")]
    WindowClosed {
        /// When it closed.
        not_after: DateTime<Utc>,
    },
    /// The window closed before the permit, which is recorded for this boot, could be used: no other will be given.
    #[error("the window closed at {not_after}, before the permit was used")]
    PermitExpired {
        /// When it closed.
        not_after: DateTime<Utc>,
    },
    /// The node is not cordoned.
    #[error("the node is not cordoned")]
    NotCordoned,
    /// Pods are left that may not stay.
    #[error("pods are left on the node: {}", pods.join(", "))]
    PodsLeft {
        /// Their names, with namespace; at most ten.
        pods: Vec<String>,
    },
}

impl UpdateLedgerSpec {
    /// Adds a grant. The plan's entry must be of the grant's generation and run, neither paused nor halted.
    ///
    /// # Errors
    /// Where the node has a grant, the ledger is full or stopped, or the plan's entry does not admit it.
    pub fn grant(&mut self, node_uid: &str, grant: Grant) -> Result<(), Illegal> {
        if let Some(live) = self.grants.get(node_uid) {
            return Err(Illegal::AlreadyGranted {
                node: live.node.clone(),
                phase: live.phase,
            });
        }
        if self.grants.len() >= MAX_GRANTS {
            return Err(Illegal::Full);
        }
        if self.stop {
            return Err(Illegal::Stopped);
        }
        let admitted = self.plans.get(&grant.plan).is_some_and(|entry| {
            entry.generation == grant.generation && entry.run == grant.run && !entry.paused && !entry.halted
        });
        if !admitted {
            return Err(Illegal::NotAdmitted {
                plan: grant.plan,
                generation: grant.generation,
            });
        }
        self.grants.insert(node_uid.to_owned(), grant);
        Ok(())
    }

    /// `Granted → Drained`.
    ///
    /// # Errors
    /// Where there is no grant, or it is in another phase.
    pub fn drained(&mut self, node_uid: &str, now: DateTime<Utc>) -> Result<(), Illegal> {
        self.advance(node_uid, GrantPhase::Granted, GrantPhase::Drained, now)
    }

    /// `Rebooting → Monitoring`.
    ///
    /// # Errors
    /// Where there is no grant, or it is in another phase.
    pub fn monitoring(&mut self, node_uid: &str, now: DateTime<Utc>) -> Result<(), Illegal> {
        self.advance(node_uid, GrantPhase::Rebooting, GrantPhase::Monitoring, now)
    }

    fn advance(
        &mut self,
        node_uid: &str,
        from: GrantPhase,
        to: GrantPhase,
        now: DateTime<Utc>,
    ) -> Result<(), Illegal> {
        let grant = self.live(node_uid)?;
        if grant.phase != from || grant.ending.is_some() {
            return Err(Illegal::WrongPhase {
                phase: grant.phase,
                wanted: to,
            });
        }
        grant.phase = to;
        grant.phase_since = now;
        Ok(())
    }

    /// Decides that the grant ends without an update. Before the permit it becomes `Withdrawing`, so that no permit
    /// can be given any more; after it only a failure can end it, and the phase stays.
    ///
    /// # Errors
    /// Where there is no grant, it is ending already, or a reboot is under way and `ending` is no failure.
    pub fn end(&mut self, node_uid: &str, ending: Ending) -> Result<(), Illegal> {
        let grant = self.live(node_uid)?;
        let before_permit = matches!(grant.phase, GrantPhase::Granted | GrantPhase::Drained);
        if grant.ending.is_some() || !(before_permit || ending.failure.is_some()) {
            return Err(Illegal::WrongPhase {
                phase: grant.phase,
                wanted: GrantPhase::Withdrawing,
            });
        }
        if before_permit {
            grant.phase = GrantPhase::Withdrawing;
            grant.phase_since = ending.at;
        }
        grant.ending = Some(ending);
        Ok(())
    }

    /// Removes the grant. True where there was one.
    pub fn release(&mut self, node_uid: &str) -> bool {
        self.grants.remove(node_uid).is_some()
    }

    /// `Drained → Rebooting`, with a permit for this boot. The same boot that asks again gets the same permit
    /// again, as long as the grant is not ending and the window is open.
    ///
    /// # Errors
    /// The refusal that the agent is told.
    pub fn permit(
        &mut self,
        node_uid: &str,
        run: &str,
        attempt: u32,
        boot_id: &str,
        now: DateTime<Utc>,
    ) -> Result<Permit, PermitRefusal> {
        let stop = self.stop;
        let grant = self.grants.get_mut(node_uid).ok_or(PermitRefusal::NoGrant)?;
        if grant.run != run || grant.attempt != attempt {
            return Err(PermitRefusal::OtherAttempt);
        }
        if let Some(permit) = &grant.permit
            && permit.boot_id != boot_id
        {
            return Err(PermitRefusal::OtherBoot);
        }
        let permitted_before = grant.permit.is_some() && grant.phase == GrantPhase::Rebooting;
        if grant.ending.is_some() || !(permitted_before || grant.phase == GrantPhase::Drained) {
            return Err(PermitRefusal::WrongPhase { phase: grant.phase });
        }
        if let Some(not_after) = grant.not_after
            && now >= not_after
        {
            // As long as it might be valid, an earlier process of the agent may have it, and be about to use it.
            let used_up = grant
                .permit
                .as_ref()
                .is_some_and(|permit| now >= permit.at + PERMIT_VALIDITY);
            return Err(if used_up {
                PermitRefusal::PermitExpired { not_after }
            } else {
                PermitRefusal::WindowClosed { not_after }
            });
        }
        if let Some(permit) = &grant.permit {
            return Ok(permit.clone());
        }
        if stop {
            return Err(PermitRefusal::Stopped);
        }
        let permit = Permit {
            id: format!("{run}-{attempt}-{boot_id}"),
            boot_id: boot_id.to_owned(),
            at: now,
        };
        grant.permit = Some(permit.clone());
        grant.phase = GrantPhase::Rebooting;
        grant.phase_since = now;
        Ok(permit)
    }

    fn live(&mut self, node_uid: &str) -> Result<&mut Grant, Illegal> {
        self.grants.get_mut(node_uid).ok_or_else(|| Illegal::NoGrant {
            node_uid: node_uid.to_owned(),
        })
    }
}

impl Grant {
    /// How long a permit given at `now` is valid: 30 s, and never beyond the window's close.
    #[must_use]
    pub fn permit_validity(&self, now: DateTime<Utc>) -> TimeDelta {
        self.not_after
            .map_or(PERMIT_VALIDITY, |end| PERMIT_VALIDITY.min(end - now))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn sample(phase: GrantPhase) -> UpdateLedgerSpec {
        let entry = PlanEntry {
            name: "p".into(),
            generation: 3,
            run: "r1".into(),
            target: "1.21.0".into(),
            targets: Vec::new(),
            started_at: at(0),
            ..PlanEntry::default()
        };
        let mut ledger = UpdateLedgerSpec {
            plans: [("plan-uid".into(), entry)].into(),
            ..Default::default()
        };
        ledger.grant("n", new_grant()).unwrap();
        ledger.grants.get_mut("n").unwrap().phase = phase;
        ledger
    }

    fn new_grant() -> Grant {
        Grant {
            node: "node".into(),
            plan: "plan-uid".into(),
            generation: 3,
            run: "r1".into(),
            wave: "rest".into(),
            attempt: 1,
            from: "1.20.3".into(),
            to: "1.21.0".into(),
            phase: GrantPhase::Granted,
            granted_at: at(0),
            phase_since: at(0),
            not_after: Some(at(100)),
            permit: None,
            ending: None,
        }
    }

    fn withdrawn(seconds: i64) -> Ending {
        Ending {
            message: "the window closes".into(),
            failure: None,
            at: at(seconds),
        }
    }

    #[test]
    fn s3_a_node_has_one_grant() {
        let mut ledger = sample(GrantPhase::Granted);
        assert!(matches!(
            ledger.grant("n", new_grant()),
            Err(Illegal::AlreadyGranted { .. })
        ));
    }

    #[test]
    fn s12_nobody_grants_from_an_older_plan_a_paused_or_a_halted_one() {
        type Change = fn(&mut PlanEntry);
        let changes: [Change; 4] = [
            |e| e.generation = 4,
            |e| e.paused = true,
            |e| e.halted = true,
            |e| e.run = "r2".into(),
        ];
        for change in changes {
            let mut ledger = sample(GrantPhase::Granted);
            change(ledger.plans.get_mut("plan-uid").unwrap());
            assert!(matches!(
                ledger.grant("other", new_grant()),
                Err(Illegal::NotAdmitted { .. })
            ));
        }
    }

    #[test]
    fn a_full_ledger_takes_no_more() {
        let mut ledger = sample(GrantPhase::Granted);
        for i in 1..MAX_GRANTS {
            ledger.grant(&format!("n{i}"), new_grant()).unwrap();
        }
        assert_eq!(ledger.grant("one-more", new_grant()), Err(Illegal::Full));
    }

    #[test]
    fn s5_a_permit_is_given_once_and_only_when_drained() {
        for phase in [
            GrantPhase::Granted,
            GrantPhase::Monitoring,
            GrantPhase::Withdrawing,
            GrantPhase::Rebooting,
        ] {
            let refusal = sample(phase).permit("n", "r1", 1, "boot-a", at(1)).unwrap_err();
            assert_eq!(refusal, PermitRefusal::WrongPhase { phase });
        }
        let mut ledger = sample(GrantPhase::Drained);
        assert_eq!(
            ledger.permit("n", "r1", 2, "boot-a", at(1)),
            Err(PermitRefusal::OtherAttempt)
        );
        assert_eq!(
            ledger.permit("n", "r0", 1, "boot-a", at(1)),
            Err(PermitRefusal::OtherAttempt)
        );
        assert_eq!(
            ledger.permit("m", "r1", 1, "boot-a", at(1)),
            Err(PermitRefusal::NoGrant)
        );
        let permit = ledger.permit("n", "r1", 1, "boot-a", at(1)).unwrap();
        assert_eq!(
            ledger.permit("n", "r1", 1, "boot-a", at(2)).unwrap(),
            permit,
            "the same again"
        );
        assert_eq!(
            ledger.permit("n", "r1", 1, "boot-b", at(2)),
            Err(PermitRefusal::OtherBoot)
        );
    }

    #[test]
    fn s4_no_permit_and_no_validity_from_the_close_on() {
        let mut ledger = sample(GrantPhase::Drained);
        let closed = Err(PermitRefusal::WindowClosed { not_after: at(100) });
        assert_eq!(ledger.clone().permit("n", "r1", 1, "a", at(100)), closed);
        assert!(ledger.permit("n", "r1", 1, "a", at(99)).is_ok());
        assert_eq!(
            ledger.permit("n", "r1", 1, "a", at(100)),
            closed,
            "nor the same permit again"
        );
        assert_eq!(
            ledger.permit("n", "r1", 1, "a", at(128)),
            closed,
            "it may be valid yet"
        );
        assert_eq!(
            ledger.permit("n", "r1", 1, "a", at(129)),
            Err(PermitRefusal::PermitExpired { not_after: at(100) }),
            "30 s after it was given nobody has it any more"
        );
        let grant = new_grant();
        assert_eq!(grant.permit_validity(at(10)), PERMIT_VALIDITY);
        assert_eq!(grant.permit_validity(at(95)), TimeDelta::seconds(5));
    }

    #[test]
    fn a_stopped_install_grants_and_permits_nothing_more() {
        let mut ledger = sample(GrantPhase::Drained);
        let mut permitted = ledger.clone();
        let permit = permitted.permit("n", "r1", 1, "a", at(1)).unwrap();
        (ledger.stop, permitted.stop) = (true, true);
        assert_eq!(ledger.grant("other", new_grant()), Err(Illegal::Stopped));
        assert_eq!(
            ledger.permit("n", "r1", 1, "a", at(1)),
            Err(PermitRefusal::Stopped)
        );
        assert_eq!(
            permitted.permit("n", "r1", 1, "a", at(2)),
            Ok(permit),
            "who has it already finishes"
        );
    }

    #[test]
    fn permit_and_withdraw_exclude_each_other() {
        let mut ledger = sample(GrantPhase::Drained);
        ledger.end("n", withdrawn(5)).unwrap();
        let refusal = ledger.permit("n", "r1", 1, "a", at(6)).unwrap_err();
        assert_eq!(
            refusal,
            PermitRefusal::WrongPhase {
                phase: GrantPhase::Withdrawing
            }
        );

        let mut ledger = sample(GrantPhase::Drained);
        ledger.permit("n", "r1", 1, "a", at(5)).unwrap();
        assert!(matches!(
            ledger.end("n", withdrawn(6)),
            Err(Illegal::WrongPhase { .. })
        ));
    }

    #[test]
    fn a_failure_ends_a_grant_in_any_phase_and_its_permit() {
        let failed = |at| Ending {
            message: "gone".into(),
            failure: Some(FailureReason::RebootTimeout),
            at,
        };
        let mut ledger = sample(GrantPhase::Drained);
        ledger.permit("n", "r1", 1, "a", at(5)).unwrap();
        ledger.end("n", failed(at(6))).unwrap();
        assert_eq!(ledger.grants["n"].phase, GrantPhase::Rebooting);
        assert!(matches!(
            ledger.permit("n", "r1", 1, "a", at(7)),
            Err(PermitRefusal::WrongPhase { .. })
        ));
        assert!(matches!(
            ledger.monitoring("n", at(8)),
            Err(Illegal::WrongPhase { .. })
        ));
        assert!(matches!(
            ledger.end("n", failed(at(9))),
            Err(Illegal::WrongPhase { .. })
        ));
    }

    #[test]
    fn phases_go_one_way() {
        let mut ledger = sample(GrantPhase::Granted);
        ledger.drained("n", at(1)).unwrap();
        assert!(ledger.drained("n", at(2)).is_err());
        assert!(ledger.monitoring("n", at(2)).is_err());
        ledger.permit("n", "r1", 1, "a", at(3)).unwrap();
        ledger.monitoring("n", at(4)).unwrap();
        assert!(ledger.release("n"));
        assert!(!ledger.release("n"));
    }
}
