//! What one revision did to the grants.

use std::collections::BTreeMap;

use api::ledger::{Grant, GrantPhase, UpdateLedgerSpec};
use api::names;

use crate::history::{Change, State, key};

/// What one revision did to the grants. Each with its node's UID.
#[derive(Debug)]
pub struct LedgerChange {
    /// The ledger before; none where there was none.
    pub before: Option<UpdateLedgerSpec>,
    /// The ledger after; none where it was deleted.
    pub after: Option<UpdateLedgerSpec>,
    /// Grants that were made.
    pub made: Vec<(String, Grant)>,
    /// Grants that were there and are there, before and after.
    pub kept: Vec<(String, Grant, Grant)>,
    /// Grants that were released. One that was replaced in one stroke is released and made.
    pub released: Vec<(String, Grant)>,
}

impl LedgerChange {
    /// What a change did; none where it is no change of the ledger in this namespace. `lost` are the grants of a ledger
    /// that was deleted: where they come back, they are not new.
    #[must_use]
    pub fn of(change: &Change, namespace: &str, lost: &BTreeMap<String, Grant>) -> Option<Self> {
        let Change::Ledger(pair) = change else {
            return None;
        };
        let any = pair.after.as_ref().or(pair.before.as_ref())?;
        if key(any.as_ref()) != format!("{namespace}/{}", names::LEDGER_NAME) {
            return None;
        }
        let (before, after) = (
            pair.before.as_ref().map(|l| &l.spec),
            pair.after.as_ref().map(|l| &l.spec),
        );
        let mut found = Self {
            before: before.cloned(),
            after: after.cloned(),
            made: Vec::new(),
            kept: Vec::new(),
            released: Vec::new(),
        };
        // A ledger that is deleted releases nothing.
        let Some(after) = after else {
            return Some(found);
        };
        for (uid, grant) in &after.grants {
            let earlier = before.and_then(|before| before.grants.get(uid));
            match earlier {
                Some(earlier) if same(earlier, grant) => {
                    found.kept.push((uid.clone(), earlier.clone(), grant.clone()));
                }
                // A ledger that is rebuilt does not know when the grant was made.
                None if lost.get(uid).is_some_and(|lost| attempt(lost) == attempt(grant)) => {}
                _ => found.made.push((uid.clone(), grant.clone())),
            }
        }
        for (uid, grant) in before.iter().flat_map(|before| &before.grants) {
            if after.grants.get(uid).is_none_or(|kept| !same(grant, kept)) {
                found.released.push((uid.clone(), grant.clone()));
            }
        }
        Some(found)
    }

    /// Whether the grant ended in success: monitored, and nothing against it. A deleted node's grant is only freed.
    #[must_use]
    pub fn succeeded(uid: &str, grant: &Grant, state: &State) -> bool {
        grant.phase == GrantPhase::Monitoring && grant.ending.is_none() && state.node_of_uid(uid).is_some()
    }
}

/// Whether it is one grant at two times.
fn same(one: &Grant, other: &Grant) -> bool {
    (attempt(one), one.granted_at) == (attempt(other), other.granted_at)
}

/// What the grant is for.
fn attempt(grant: &Grant) -> (&str, &str, u32) {
    (&grant.plan, &grant.run, grant.attempt)
}
