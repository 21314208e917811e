//! Which changes of the ledger are legal: both writers make them by these.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::{Ending, Grant, GrantPhase, MAX_GRANTS, PERMIT_VALIDITY, Permit, UpdateLedgerSpec};

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
