//! Whether what is found on a node and its shadow is what a grant leads to.

use api::{ledger::Grant, shadow::NodeState};

use super::acknowledged;
use crate::{
    decisions::Action,
    world::{NodeFacts, ShadowFacts},
};

/// Whether what the action overwrites is what this grant has led to, or what it found. Where it is not, the grant may
/// have gone further than is known here, or another one have taken its place.
pub(crate) fn explains(grant: &Grant, node: &NodeFacts, action: &Action) -> bool {
    match action {
        Action::SetShadow { spec, .. } => node
            .shadow
            .as_ref()
            .is_none_or(|shadow| leads_on(grant, shadow, spec.state)),
        Action::Uncordon { disruption, .. } => {
            disruption.run == grant.run && disruption.attempt == grant.attempt
        }
        Action::Cordon { .. } | Action::AddFinalizer { .. } | Action::RemoveFinalizer { .. } => true,
    }
}

fn leads_on(grant: &Grant, shadow: &ShadowFacts, next: NodeState) -> bool {
    let found = &shadow.spec;
    let ours = found.run.as_ref() == Some(&grant.run) && found.attempt == Some(grant.attempt);
    if !ours {
        // A node is granted when nothing is left to be undone on it, and its first instruction is to stage. Whatever else is
        // found may be of a later grant than this one.
        return found.state == NodeState::Idle
            && next == NodeState::StagedAndPerformedUpdate
            && acknowledged(shadow);
    }
    match (found.state, next) {
        // The attempt is over.
        (NodeState::Idle, _) => false,
        (_, NodeState::Idle | NodeState::ErrorReset) => true,
        (found, next) => way(found) < way(next),
    }
}

/// How far a state is on the way of an update.
fn way(state: NodeState) -> u8 {
    match state {
        NodeState::Idle | NodeState::StagedAndPerformedUpdate => 0,
        NodeState::RebootedIntoUpdate => 1,
        NodeState::MonitoringUpdate => 2,
        NodeState::ErrorReset => 3,
    }
}
