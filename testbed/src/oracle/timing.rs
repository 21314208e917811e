//! S4: grants, cordons, permits and reboots only while a window is open, and grants only where the node will be done
//! before it closes.

use api::ledger::{Grant, GrantPhase};
use chrono::{DateTime, TimeDelta, Utc};

use super::changes::LedgerChange;
use super::nodes::{annotation, is_cordoned, is_ours};
use super::{Check, LAG, Moment, Promise, Report, windows};
use crate::history::{Change, key};

pub(super) struct Timing;

impl Check for Timing {
    fn changed(&mut self, now: &Moment<'_>, change: &Change, report: &mut Report) {
        let Change::Node(pair) = change else {
            return;
        };
        let (Some(before), Some(after)) = (&pair.before, &pair.after) else {
            return;
        };
        if is_cordoned(before) || !is_cordoned(after) || !is_ours(after) {
            return;
        }
        let uid = after.metadata.uid.as_deref().unwrap_or_default();
        let ledger = now.state.ledger(&now.case.expectations.namespace);
        let granted = ledger.and_then(|ledger| ledger.spec.grants.get(uid));
        let plan = granted.and_then(|grant| now.case.plan_of(grant)).or_else(|| {
            let text = annotation(after, api::names::DISRUPTION_ANNOTATION)?;
            let disruption: api::shadow::Disruption = serde_json::from_str(text).ok()?;
            now.state.plan_of_uid(&disruption.plan_uid)
        });
        if plan
            .is_some_and(|plan| !windows::fitted_between(&plan.spec, now.at - LAG, now.at, TimeDelta::zero()))
        {
            report.add(
                Promise::S4,
                now.at,
                format!("node {} was cordoned outside a window", key(after.as_ref())),
            );
        }
    }

    fn ledger(&mut self, now: &Moment<'_>, change: &LedgerChange, report: &mut Report) {
        for (_, grant) in &change.made {
            let Some(plan) = now.case.plan_of(grant) else {
                continue;
            };
            let fitted = |needed| windows::fitted_between(&plan.spec, now.at - LAG, now.at, needed);
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
        for (_, before, after) in &change.kept {
            if before.phase == GrantPhase::Drained
                && after.phase == GrantPhase::Rebooting
                && !open_between(now, after, now.at - LAG, now.at)
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
                    if call.boot_id == permit.boot_id && !open_between(now, after, call.at, call.at) {
                        let message = format!("node {} was told to reboot outside a window", after.node);
                        report.add(Promise::S4, call.at, message);
                    }
                }
            }
        }
    }
}

fn open_between(now: &Moment<'_>, grant: &Grant, from: DateTime<Utc>, to: DateTime<Utc>) -> bool {
    let plan = now.case.plan_of(grant);
    plan.is_none_or(|plan| windows::fitted_between(&plan.spec, from, to, TimeDelta::zero()))
}
