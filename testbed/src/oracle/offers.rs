//! L1, for nodes that cannot have the version: they are left alone only where that is true of their machines. S8, for what
//! `latest` becomes.

use std::cmp::Ordering;

use api::UpdatePlan;
use api::ledger::PlanEntry;
use api::offer::Target;
use api::plan::LATEST;
use api::shadow::FailureReason;
use chrono::{DateTime, TimeDelta, Utc};

use super::changes::LedgerChange;
use super::machines::{Machine, Refresh, compare};
use super::runs::Run;
use super::{Check, LAG, Moment, Promise, Report, STALE};

/// Whether a node that ends with this reason could not have done better.
#[must_use]
pub fn is_no_failure(reason: FailureReason) -> bool {
    matches!(
        reason,
        FailureReason::VersionNotOffered | FailureReason::Unsupported
    )
}

/// What a run wants.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// A version, or `latest`.
    pub target: &'a str,
    /// With `latest`: the version for each variant and architecture.
    pub targets: &'a [Target],
}

impl<'a> Wanted<'a> {
    /// What the ledger says that a run wants.
    #[must_use]
    pub fn of(entry: &'a PlanEntry) -> Self {
        Self {
            target: &entry.target,
            targets: &entry.targets,
        }
    }

    /// The version that this machine is to run.
    #[must_use]
    pub fn on(&self, machine: &Machine<'_>, at: DateTime<Utc>) -> Option<&'a str> {
        if self.target != LATEST {
            return Some(self.target);
        }
        let kind = machine.refreshed_at(at, false)?.kind;
        let mut of_kind = self.targets.iter().filter(|target| is_of(kind, target));
        of_kind.next().map(|target| target.version.as_str())
    }

    /// Whether this machine runs it; or, where it is not known, nothing newer is on offer.
    #[must_use]
    pub fn is_reached(&self, machine: &Machine<'_>, at: DateTime<Utc>) -> bool {
        match self.on(machine, at) {
            Some(target) => machine.compare_at(at, target) == Some(Ordering::Equal),
            None => {
                let newer = |version: &String| machine.compare_at(at, version) == Some(Ordering::Less);
                let refresh = machine.refreshed_at(at, false);
                refresh.is_some_and(|refresh| !refresh.offered.iter().any(newer))
            }
        }
    }

    /// Whether this machine runs a version that the plan is to change: an older one, or a newer one where the plan may take it
    /// down.
    #[must_use]
    pub fn is_missing(&self, plan: &UpdatePlan, machine: &Machine<'_>, at: DateTime<Utc>) -> bool {
        match self.on(machine, at).map(|target| machine.compare_at(at, target)) {
            Some(Some(Ordering::Less)) => true,
            Some(Some(Ordering::Greater)) => plan.spec.allow_downgrade,
            Some(Some(Ordering::Equal) | None) => false,
            None => !self.is_reached(machine, at),
        }
    }
}

/// Whether the node is left alone, and that is right: its machine's last refresh did not find the version, or it cannot refresh,
/// which was judged when it was left alone.
pub(super) fn is_left_alone(now: &Moment<'_>, run: &Run, uid: &str, node: &str, wanted: Wanted<'_>) -> bool {
    let machine = now.case.machines.of(node);
    let found = |target: &str| {
        machine
            .refreshed_at(now.at, false)
            .is_some_and(|refresh| refresh.found(target))
    };
    match run.left_alone.get(uid) {
        // What it had found before it could not refresh any more says nothing.
        Some(FailureReason::Unsupported) => true,
        Some(_) => wanted.on(machine, now.at).is_some_and(|target| !found(target)),
        None => false,
    }
}

fn is_of(kind: (&str, &str), target: &Target) -> bool {
    kind == (target.variant.as_str(), target.arch.as_str())
}

pub(super) struct Offers;

impl Check for Offers {
    fn ledger(&mut self, now: &Moment<'_>, change: &LedgerChange, report: &mut Report) {
        for (uid, entry) in change.after.iter().flat_map(|after| &after.plans) {
            let before = change.before.as_ref().and_then(|before| before.plans.get(uid));
            check_targets(now, uid, before, entry, report);
        }
        for (uid, grant) in &change.released {
            let Some(reason) = grant.ending.as_ref().and_then(|ending| ending.failure) else {
                continue;
            };
            let machine = now.case.machines.of(&grant.node);
            let wrong = match reason {
                FailureReason::VersionNotOffered => match machine.refreshed_at(now.at, true) {
                    None => Some("no refresh has ignored the repository's waves"),
                    Some(refresh) if refresh.found(&grant.to) => Some("it is"),
                    Some(_) => None,
                },
                FailureReason::Unsupported => {
                    let refresh = machine.refreshed_at(now.at, false);
                    refresh
                        .filter(|refresh| refresh.at >= grant.granted_at)
                        .map(|_| "its refreshes succeed")
                }
                _ => None,
            };
            if let Some(wrong) = wrong.filter(|_| now.state.node_of_uid(uid).is_some()) {
                let message = format!(
                    "node {} is left alone ({reason}: {}), but {wrong}",
                    grant.node, grant.to
                );
                report.add(Promise::L1, now.at, message);
            }
            if grant.permit.is_some() && is_no_failure(reason) {
                let message = format!(
                    "node {} was permitted to reboot, and ends as {reason}",
                    grant.node
                );
                report.add(Promise::S5, now.at, message);
            }
        }
    }
}

/// What `latest` is must be on offer, the newest of what has been for long enough, and stay so for the run.
fn check_targets(
    now: &Moment<'_>,
    uid: &str,
    before: Option<&PlanEntry>,
    entry: &PlanEntry,
    report: &mut Report,
) {
    let before = before.filter(|before| before.run == entry.run);
    let known = before.map_or(&[][..], |before| before.targets.as_slice());
    let name = &entry.name;
    for target in known.iter().filter(|target| !entry.targets.contains(target)) {
        let message = format!(
            "plan {name} has changed its target {} for {}",
            target.version, target.variant
        );
        report.add(Promise::S8, now.at, message);
    }
    let Some(plan) = now.case.plan(uid, entry.generation) else {
        return;
    };
    let age = plan
        .spec
        .min_release_age
        .map_or_else(TimeDelta::zero, |age| age.delta());
    for target in entry.targets.iter().filter(|target| !known.contains(target)) {
        let version = &target.version;
        let machines: Vec<&Machine<'_>> = now.case.machines.iter().map(|(_, machine)| machine).collect();
        let of_kind = |refresh: &Refresh<'_>| refresh.at <= now.at && is_of(refresh.kind, target);
        let first = |version: &str| {
            let refreshes = machines
                .iter()
                .flat_map(|machine| machine.refreshes())
                .filter(&of_kind);
            refreshes
                .filter(|refresh| refresh.found(version))
                .map(|refresh| refresh.at)
                .min()
        };
        // Times on offer are told in whole seconds.
        let wrong = match first(version) {
            None => Some("nobody has found on offer".to_owned()),
            Some(since) if now.at - since < age - LAG - TimeDelta::seconds(1) => Some(format!(
                "has been on offer for {} s only",
                (now.at - since).num_seconds()
            )),
            Some(_) => None,
        };
        let newer = machines.iter().find_map(|machine| {
            let refresh = machine
                .refreshed_at(now.at, false)
                .filter(|refresh| of_kind(refresh))?;
            let ripe = |offer: &&String| first(offer).is_some_and(|since| now.at - since > age + STALE);
            let newer = |offer: &&String| compare(offer, version) == Some(Ordering::Greater);
            refresh.offered.iter().find(|offer| newer(offer) && ripe(offer))
        });
        let wrong = wrong.or_else(|| newer.map(|newer| format!("is older than {newer}, which is on offer")));
        if let Some(wrong) = wrong {
            let message = format!(
                "plan {name} takes {version} for the newest for {}, which {wrong}",
                target.variant
            );
            report.add(Promise::S8, now.at, message);
        }
    }
}
