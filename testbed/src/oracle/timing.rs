//! S4: grants, cordons, permits and reboots only while a window is open, and grants only where the node will be done
//! before it closes. Where the plan lets nodes finish, one that was seen to be cordoned inside a window may reboot after it.

use std::collections::BTreeSet;

use api::UpdatePlan;
use api::ledger::{Grant, GrantPhase};
use api::plan::OnWindowEnd;
use chrono::{DateTime, TimeDelta, Utc};

use super::changes::LedgerChange;
use super::nodes::{annotation, is_cordoned, is_ours};
use super::windows::Windows;
use super::{Check, LAG, Moment, Promise, Report};
use crate::history::{Change, key};

#[derive(Default)]
pub(super) struct Timing {
    /// Nodes that were cordoned by us inside a window, by UID, as long as they are.
    cordoned_inside: BTreeSet<String>,
}

impl Check for Timing {
    fn changed(&mut self, now: &Moment<'_>, change: &Change, report: &mut Report) {
        let Change::Node(pair) = change else {
            return;
        };
        let (Some(before), Some(after)) = (&pair.before, &pair.after) else {
            return;
        };
        let uid = after.metadata.uid.as_deref().unwrap_or_default();
        if !is_cordoned(after) || !is_ours(after) {
            self.cordoned_inside.remove(uid);
            return;
        }
        if is_cordoned(before) {
            return;
        }
        let ledger = now.state.ledger(&now.case.expectations.namespace);
        let granted = ledger.and_then(|ledger| ledger.spec.grants.get(uid));
        let plan = granted.and_then(|grant| now.case.plan_of(grant)).or_else(|| {
            let text = annotation(after, api::names::DISRUPTION_ANNOTATION)?;
            let disruption: api::shadow::Disruption = serde_json::from_str(text).ok()?;
            now.state.plan_of_uid(&disruption.plan_uid)
        });
        let run = granted.map_or("", |grant| grant.run.as_str());
        if plan.is_some_and(|plan| !open_between(now, plan, run, now.at - LAG, now.at)) {
            report.add(
                Promise::S4,
                now.at,
                format!("node {} was cordoned outside a window", key(after.as_ref())),
            );
        } else {
            self.cordoned_inside.insert(uid.to_owned());
        }
    }

    fn ledger(&mut self, now: &Moment<'_>, change: &LedgerChange, report: &mut Report) {
        for (_, grant) in &change.made {
            let Some(plan) = now.case.plan_of(grant) else {
                continue;
            };
            let windows = windows_of(now, plan, &grant.run);
            let fitted = |needed| windows.fitted_between(now.at - LAG, now.at, needed);
            if !fitted(TimeDelta::zero()) {
                report.add(
                    Promise::S4,
                    now.at,
                    format!("node {} was granted outside a window", grant.node),
                );
            } else {
                let needed = now.tracks.needs(plan, &grant.plan, change, now.state);
                if !fitted(needed) {
                    let message = format!(
                        "node {} was granted less than {} s before the window closes",
                        grant.node,
                        needed.num_seconds()
                    );
                    report.add(Promise::S4, now.at, message);
                }
            }
        }
        for (uid, before, after) in &change.kept {
            let may_reboot = |from, to| self.may_reboot(now, uid, after, from, to);
            if before.phase == GrantPhase::Drained
                && after.phase == GrantPhase::Rebooting
                && !may_reboot(now.at - LAG, now.at)
            {
                report.add(
                    Promise::S4,
                    now.at,
                    format!("node {} was permitted to reboot outside a window", after.node),
                );
            }
            // The machines' own times are exact.
            if let (None, Some(permit)) = (&before.permit, &after.permit) {
                for call in now.case.machines.of(&after.node).reboot_calls() {
                    if call.boot_id == permit.boot_id && !may_reboot(call.at, call.at) {
                        let message = format!("node {} was told to reboot outside a window", after.node);
                        report.add(Promise::S4, call.at, message);
                    }
                }
            }
        }
    }
}

impl Timing {
    /// Whether, at some moment in this time, the granted node could be permitted to reboot, or told to.
    fn may_reboot(
        &self,
        now: &Moment<'_>,
        uid: &str,
        grant: &Grant,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
    ) -> bool {
        now.case.plan_of(grant).is_none_or(|plan| {
            let finishes =
                plan.spec.on_window_end == OnWindowEnd::Finish && self.cordoned_inside.contains(uid);
            finishes || open_between(now, plan, &grant.run, from, to)
        })
    }
}

/// The plan's windows and exclusions; a run that somebody wants to run now has the exclusions alone.
pub(super) fn windows_of(now: &Moment<'_>, plan: &UpdatePlan, run: &str) -> Windows {
    windows_if(now, plan, runs_now(now, plan, run))
}

/// The same for what has led to the run's end: that it is complete takes nothing back.
pub(super) fn windows_until_complete(now: &Moment<'_>, plan: &UpdatePlan, run: &str) -> Windows {
    let uid = plan.metadata.uid.as_deref().unwrap_or_default();
    windows_if(now, plan, now.tracks.asked().runs_now(uid, run))
}

fn windows_if(now: &Moment<'_>, plan: &UpdatePlan, at_once: bool) -> Windows {
    let mut spec = plan.spec.clone();
    if at_once {
        spec.maintenance_windows.clear();
    }
    Windows::of(&spec, now.tracks.behind_since(plan))
}

fn open_between(
    now: &Moment<'_>,
    plan: &UpdatePlan,
    run: &str,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
) -> bool {
    windows_of(now, plan, run).fitted_between(from, to, TimeDelta::zero())
}

/// Whether somebody wants the run to go on whatever its windows say, which counts until it is complete. That is the
/// operator's word; the sooner it says so the less it may.
fn runs_now(now: &Moment<'_>, plan: &UpdatePlan, run: &str) -> bool {
    let uid = plan.metadata.uid.as_deref().unwrap_or_default();
    let status = now.state.plan_of_uid(uid).and_then(|plan| plan.status.as_ref());
    let known = status
        .and_then(|status| status.run.as_ref())
        .filter(|known| known.id == run);
    let complete = known.is_some_and(|known| known.completed_at.is_some());
    now.tracks.asked().runs_now(uid, run) && !complete
}
