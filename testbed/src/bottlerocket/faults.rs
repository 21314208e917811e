//! What a test may make go wrong on one machine, while it runs.

use std::collections::BTreeMap;

use super::{Call, Version};

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallFault {
    /// Not accepted: 500. For a reboot: an inhibitor refuses.
    ServerError,
    /// Accepted, but the connection is closed without an answer.
    ReplyLost,
    /// The command is accepted and ends as failed.
    Fails,
    /// Prepare is accepted and ends as a success, but nothing was written.
    WritesNothing,
    /// The command is accepted, and the API server crashes under it: no newer command is ever reported.
    Crashes,
    /// The reboot is accepted, and the machine stays up.
    StaysUp,
}

impl CallFault {
    /// Whether it takes effect before the machine has looked at the call.
    fn refuses(self) -> bool {
        self == Self::ServerError
    }
}

/// What goes wrong with a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootFault {
    /// The new image does not boot; after its tries the bootloader falls back to the old one.
    OldVersion,
    /// The machine never comes back.
    NeverReturns,
    /// The machine boots, but its kubelet never starts.
    KubeletBroken,
}

/// How an image cannot be updated in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsupported {
    /// The update calls do not exist: 404.
    CallsMissing,
    /// Update commands are accepted and fail at once.
    FailsAtOnce,
}

/// Everything that is set to go wrong on one machine.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    calls: BTreeMap<Call, Vec<Planned<CallFault>>>,
    boots: Vec<Planned<BootFault>>,
    /// The image cannot be updated in place.
    pub unsupported: Option<Unsupported>,
    /// `GET /os` and the status say this version, whatever runs.
    pub reported_version: Option<Version>,
}

#[derive(Clone, Copy, Debug)]
struct Planned<F> {
    fault: F,
    /// None: for ever.
    times: Option<u32>,
}

impl Faults {
    /// The next so many calls go wrong like this, after what was planned earlier.
    pub fn next_calls(&mut self, call: Call, fault: CallFault, times: u32) {
        self.calls.entry(call).or_default().push(Planned {
            fault,
            times: Some(times),
        });
    }

    /// Every call goes wrong like this, after what was planned earlier.
    pub fn every_call(&mut self, call: Call, fault: CallFault) {
        self.calls
            .entry(call)
            .or_default()
            .push(Planned { fault, times: None });
    }

    /// The next so many boots go wrong like this.
    pub fn next_boots(&mut self, fault: BootFault, times: u32) {
        self.boots.push(Planned {
            fault,
            times: Some(times),
        });
    }

    /// Every boot goes wrong like this.
    pub fn every_boot(&mut self, fault: BootFault) {
        self.boots.push(Planned { fault, times: None });
    }

    /// Nothing goes wrong any more.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Uses up a fault that refuses the call, if one is next.
    pub(super) fn take_refusal(&mut self, call: Call) -> Option<CallFault> {
        take(self.calls.get_mut(&call)?, CallFault::refuses)
    }

    /// Uses up a fault of a call that was accepted, if one is next.
    pub(super) fn take_accepted(&mut self, call: Call) -> Option<CallFault> {
        take(self.calls.get_mut(&call)?, |fault| !fault.refuses())
    }

    /// Uses up the fault of the next boot.
    pub(super) fn take_boot(&mut self) -> Option<BootFault> {
        take(&mut self.boots, |_| true)
    }
}

fn take<F: Copy>(planned: &mut Vec<Planned<F>>, suits: impl Fn(F) -> bool) -> Option<F> {
    let next = planned.first_mut().filter(|next| suits(next.fault))?;
    let fault = next.fault;
    if let Some(times) = &mut next.times {
        *times = times.saturating_sub(1);
        if *times == 0 {
            planned.remove(0);
        }
    }
    Some(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_used_up_in_the_order_they_were_planned() {
        let mut faults = Faults::default();
        faults.next_calls(Call::Prepare, CallFault::ServerError, 2);
        faults.next_calls(Call::Prepare, CallFault::Fails, 1);
        assert_eq!(faults.take_accepted(Call::Prepare), None, "a refusal comes first");
        assert_eq!(faults.take_refusal(Call::Refresh), None, "of another call");
        assert_eq!(faults.take_refusal(Call::Prepare), Some(CallFault::ServerError));
        assert_eq!(faults.take_refusal(Call::Prepare), Some(CallFault::ServerError));
        assert_eq!(faults.take_refusal(Call::Prepare), None);
        assert_eq!(faults.take_accepted(Call::Prepare), Some(CallFault::Fails));
        assert_eq!(faults.take_accepted(Call::Prepare), None);
    }

    #[test]
    fn a_fault_for_ever_stays_until_cleared() {
        let mut faults = Faults::default();
        faults.every_boot(BootFault::OldVersion);
        for _ in 0..5 {
            assert_eq!(faults.take_boot(), Some(BootFault::OldVersion));
        }
        faults.clear();
        assert_eq!(faults.take_boot(), None);
    }
}
