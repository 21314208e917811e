//! S2: what a grant has led to is not undone while the grant goes on. Who knows the ledger only as it was would take it
//! for something left behind.

use api::ledger::{Grant, GrantPhase};
use api::names::DISRUPTION_ANNOTATION;
use api::shadow::{Disruption, NodeState};

use super::nodes::{annotation, is_cordoned, is_ours, owner_uid};
use super::{Check, Moment, Promise, Report};
use crate::history::{Change, key};

pub(super) struct Undone;

impl Check for Undone {
    fn changed(&mut self, now: &Moment<'_>, change: &Change, report: &mut Report) {
        match change {
            Change::Node(pair) => {
                let (Some(before), Some(after)) = (&pair.before, &pair.after) else {
                    return;
                };
                // Where an admin has uncordoned it, only our annotation is left to go.
                if !is_cordoned(before) || is_ours(after) {
                    return;
                }
                let cordon = annotation(before, DISRUPTION_ANNOTATION)
                    .and_then(|text| serde_json::from_str::<Disruption>(text).ok());
                let uid = after.metadata.uid.as_deref().unwrap_or_default();
                if let (Some(cordon), Some(grant)) = (cordon, going_on(now, uid))
                    && (&cordon.run, cordon.attempt) == (&grant.run, grant.attempt)
                {
                    let message = format!(
                        "node {} was uncordoned while its grant went on, in phase {}",
                        key(after.as_ref()),
                        grant.phase
                    );
                    report.add(Promise::S2, now.at, message);
                }
            }
            Change::Shadow(pair) => {
                let (Some(before), Some(after)) = (&pair.before, &pair.after) else {
                    return;
                };
                let undoes = matches!(after.spec.state, NodeState::Idle | NodeState::ErrorReset);
                if before.spec.state == NodeState::Idle || !undoes {
                    return;
                }
                if let Some(grant) = owner_uid(after).and_then(|uid| going_on(now, uid))
                    && before.spec.run.as_ref() == Some(&grant.run)
                    && before.spec.attempt == Some(grant.attempt)
                {
                    let message = format!(
                        "shadow {} was asked to undo all while its grant went on, in phase {}",
                        key(after.as_ref()),
                        grant.phase
                    );
                    report.add(Promise::S2, now.at, message);
                }
            }
            _ => {}
        }
    }
}

/// The grant of a node that is on its way to the target, and not there yet.
fn going_on<'a>(now: &'a Moment<'_>, uid: &str) -> Option<&'a Grant> {
    let ledger = now.state.ledger(&now.case.expectations.namespace)?;
    ledger.spec.grants.get(uid).filter(|grant| {
        let on_its_way = matches!(
            grant.phase,
            GrantPhase::Granted | GrantPhase::Drained | GrantPhase::Rebooting
        );
        on_its_way && grant.ending.is_none()
    })
}
