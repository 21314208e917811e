//! Values as far as they matter: two states that differ only in what nobody looks at any more are one.
//!
//! What is dropped here, and why nobody can tell:
//!
//! * times beyond the longest limit that they are compared with (see [`crate::time`]);
//! * `grantedAt` once the node is drained and `durations`, where no window closes any more for a node that is still to be
//!   granted; `phaseSince` where the phase has no deadline: [`planner::plan`] reads neither;
//! * the leave to reboot that has ended: a reboot with it is one without it;
//! * the version of a plan, where nobody knows an older one (see `crate::forget`);
//! * since when a plan is held: `skipAfter` is longer than any run here, so that nobody is skipped;
//! * `startedAt`, that of a shadow's last failure, and the time of a permit where no window closes: they are only for people;
//! * messages of endings and failures: likewise;
//! * which faults and deeds there were, once there are no more of them: how many is enough (see `crate::forget`);
//! * an agent's pace (holds, counters of looks and tries, when it began): here it may do anything at any time anyway.
//!
//! `tests/normal.rs` holds this against the model without it, on random walks.

use std::time::Duration;

use agent::memory::Memory;
use api::{
    BottlerocketShadow,
    ledger::{Ending, Grant, GrantPhase, Permit, PermitRefusal, PlanEntry},
    names::DISRUPTION_ANNOTATION,
    shadow::{BottlerocketShadowStatus, FailureReason, NodeState},
};
use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::core::v1::Node;

use crate::{
    actors::{Agent, Found, Ghost, Op, Request},
    config::Ages,
    objects,
    time::{Frame, at, far, past},
};

/// The end of an attempt, so many nanoseconds earlier: whether a failure is the one that an ending speaks of is seen by their times
/// being equal, which those of two attempts must not become by being settled. It is done with or without normalisation.
fn marked(at: DateTime<Utc>, attempt: u32) -> DateTime<Utc> {
    unmarked(at).0 - TimeDelta::nanoseconds(attempt.into())
}

fn unmarked(at: DateTime<Utc>) -> (DateTime<Utc>, TimeDelta) {
    let nanos = at.timestamp_subsec_nanos();
    let earlier = TimeDelta::nanoseconds(if nanos == 0 {
        0
    } else {
        1_000_000_000 - i64::from(nanos)
    });
    (at + earlier, earlier)
}

/// A refusal whose time is only for people.
fn expired() -> PermitRefusal {
    PermitRefusal::PermitExpired { not_after: past() }
}

fn settle_marked(frame: Frame, at: DateTime<Utc>, age: u16) -> DateTime<Utc> {
    let (at, earlier) = unmarked(at);
    frame.settle(at, age) - earlier
}

/// How values are told.
#[derive(Clone, Copy, Debug)]
pub struct Normal {
    /// Up to which age each time matters.
    pub ages: Ages,
    /// Where the clock stops.
    pub last: u16,
    /// Whether nodes may finish after their window.
    pub finishes: bool,
    /// Whether anybody acts on what he has not just seen.
    pub late: bool,
    /// Whether anything is dropped at all.
    pub on: bool,
}

impl Normal {
    fn frame(&self, now: u16) -> Frame {
        Frame { now, last: self.last }
    }

    /// Now.
    #[must_use]
    pub fn now(&self, now: u16) -> u16 {
        if self.on {
            self.frame(now).settled_now()
        } else {
            now
        }
    }

    /// Whether it still matters at `now` how long a node has taken: while a window may yet close on another one.
    fn learns(&self, now: u16) -> bool {
        self.ages.learned > self.now(now)
    }

    /// What the ledger records of a plan.
    #[must_use]
    pub fn entry(&self, mut entry: PlanEntry, now: u16) -> PlanEntry {
        if self.on {
            entry.started_at = past();
            entry.wave_started_at.values_mut().for_each(|at| *at = past());
            entry.held_since = entry.held_since.map(|_| past());
            // No older than the nodes' own: else it would be written anew whenever they are looked at.
            let age = self.ages.asked.min(self.ages.ended);
            entry.soaks_from = entry.soaks_from.map(|at| settle_marked(self.frame(now), at, age));
            if !self.learns(now) {
                entry.durations.clear();
            }
        }
        entry
    }

    /// A grant.
    #[must_use]
    pub fn grant(&self, mut grant: Grant, now: u16) -> Grant {
        if let Some(ending) = &mut grant.ending {
            ending.at = marked(ending.at, grant.attempt);
        }
        if !self.on {
            return grant;
        }
        let (frame, ages) = (self.frame(now), self.ages);
        grant.granted_at = match (grant.phase, &grant.ending) {
            (GrantPhase::Granted, _) => frame.settle(grant.granted_at, ages.granted.max(ages.learned)),
            (_, None) if self.learns(now) => frame.settle(grant.granted_at, ages.learned),
            _ => past(),
        };
        grant.phase_since = match (grant.phase, &grant.ending) {
            (GrantPhase::Drained | GrantPhase::Rebooting, None) => {
                frame.settle(grant.phase_since, ages.rebooting)
            }
            (GrantPhase::Monitoring, None) => frame.settle(grant.phase_since, ages.monitoring),
            _ => past(),
        };
        grant.not_after = grant.not_after.map(|at| frame.settle(at, 0));
        // It is asked whether a permit may still be valid where a window has closed meanwhile.
        let closes = grant.not_after.is_some_and(|not_after| not_after < far());
        if let Some(Permit { at, .. }) = &mut grant.permit {
            *at = if closes {
                frame.settle(*at, ages.permit)
            } else {
                past()
            };
        }
        if let Some(Ending { message, at, .. }) = &mut grant.ending {
            message.clear();
            *at = settle_marked(frame, *at, ages.ended);
        }
        grant
    }

    /// A node.
    #[must_use]
    pub fn node(&self, mut node: Node, now: u16) -> Node {
        if !self.on {
            return node;
        }
        let (frame, ages) = (self.frame(now), self.ages);
        let conditions = node
            .status
            .iter_mut()
            .flat_map(|status| status.conditions.iter_mut().flatten());
        for condition in conditions {
            if let Some(time) = &mut condition.last_transition_time {
                *time = api::time::to_kubernetes(frame.settle(api::time::to_chrono(time), ages.ready));
            }
        }
        if let Some(mut disruption) = objects::disruption(&node) {
            // Where a node may finish it is asked which window was open then, and not how long ago that was.
            disruption.cordoned_at = if self.finishes {
                disruption.cordoned_at.min(at(frame.settled_now()))
            } else {
                frame.settle(disruption.cordoned_at, ages.cordoned)
            };
            let json = serde_json::to_string(&disruption).unwrap_or_default();
            let annotations = node.metadata.annotations.get_or_insert_default();
            annotations.insert(DISRUPTION_ANNOTATION.to_owned(), json);
        }
        node
    }

    /// A shadow.
    #[must_use]
    pub fn shadow(&self, mut shadow: BottlerocketShadow, now: u16) -> BottlerocketShadow {
        if !self.on {
            return shadow;
        }
        let (frame, ages) = (self.frame(now), self.ages);
        let undoes = matches!(shadow.spec.state, NodeState::Idle | NodeState::ErrorReset);
        shadow.spec.state_transition_timestamp = shadow.spec.state_transition_timestamp.map(|at| {
            if undoes {
                frame.settle(at, ages.asked)
            } else {
                past()
            }
        });
        if let Some(failure) = &mut shadow.spec.failure {
            failure.message.clear();
            failure.at = settle_marked(frame, failure.at, ages.ended);
        }
        shadow.status = shadow.status.map(|status| self.status(status));
        shadow
    }

    fn status(&self, mut status: BottlerocketShadowStatus) -> BottlerocketShadowStatus {
        if self.on {
            status.state_transition_failure_timestamp =
                status.state_transition_failure_timestamp.map(|_| past());
            if let Some(error) = &mut status.error
                && error.reason == FailureReason::PermitExpired
            {
                error.message = expired().to_string();
            }
        }
        status
    }

    /// An agent.
    #[must_use]
    pub fn agent(&self, mut agent: Agent, now: u16) -> Agent {
        agent.memory.forget_pace();
        if !self.on {
            return agent;
        }
        let settle = |at: Duration, age| self.frame(now).settle_elapsed(at, age);
        let Memory {
            known,
            stored,
            reboot,
            work,
            ..
        } = &mut agent.memory;
        for status in [known, stored].into_iter().flatten() {
            *status = self.status(status.clone());
        }
        if let Some(call) = reboot {
            call.at = settle(call.at, 0);
        }
        work.begun = None;
        work.not_offered_since = work.not_offered_since.map(|at| settle(at, 0));
        if let Some(permit) = &mut work.permit {
            permit.valid_until = settle(permit.valid_until, 0);
        }
        // Others are not acted on.
        work.refusal = work.refusal.take().and_then(|refusal| match refusal {
            PermitRefusal::OtherBoot => Some(refusal),
            PermitRefusal::PermitExpired { .. } => Some(expired()),
            _ => None,
        });
        // The order itself is compared with the shadow's spec, so both are told alike.
        if let Some(order) = &mut agent.order {
            let mut shadow = BottlerocketShadow::new("", order.spec.clone());
            shadow.status = order.status.clone();
            let shadow = self.shadow(shadow, now);
            work.spec = shadow.spec.clone();
            order.spec = shadow.spec;
            order.status = shadow.status;
        }
        match &mut agent.op {
            Op::Idle => {}
            Op::Report(status) => **status = self.status((**status).clone()),
            Op::Ask { asked } => *asked = settle(*asked, self.ages.permit),
            Op::Reboot { until } => *until = settle(*until, 0),
        }
        agent
    }

    /// A request for a permit.
    #[must_use]
    pub fn request(&self, mut request: Request, now: u16) -> Request {
        if let Some(Found { grant, permit, .. }) = &mut request.found {
            *grant = self.grant(grant.clone(), now);
            if self.on {
                permit.at = past();
            }
        }
        request
    }

    /// What the checks remember.
    #[must_use]
    pub fn ghost(&self, mut ghost: Ghost, now: u16) -> Ghost {
        // Who sees everything as it is has no excuse.
        ghost.recent &= self.late;
        if self.on {
            ghost.leave = ghost.leave.filter(|leave| leave.until > at(now));
            if let Some(leave) = &mut ghost.leave {
                leave.until = self.frame(now).settle(leave.until, 0);
            }
        }
        ghost
    }
}
