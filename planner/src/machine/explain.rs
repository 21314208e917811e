//! Whether what is found on a node and its shadow is what a grant leads to.

use api::{
    ledger::Grant,
    shadow::{BottlerocketShadowSpec, NodeState},
};

use crate::{decisions::Action, world::NodeFacts};

/// Whether what the action overwrites is what this grant has led to, or what it found. Where it is not, the grant may
/// have gone further than is known here, or another one have taken its place.
pub(crate) fn explains(grant: &Grant, node: &NodeFacts, action: &Action) -> bool {
    match action {
        Action::SetShadow { spec, .. } => node
            .shadow
            .as_ref()
            .is_none_or(|shadow| leads_on(grant, &shadow.spec, spec.state)),
        Action::Uncordon { disruption, .. } => {
            disruption.run == grant.run && disruption.attempt == grant.attempt
        }
        Action::Cordon { .. } | Action::AddFinalizer { .. } | Action::RemoveFinalizer { .. } => true,
    }
}

fn leads_on(grant: &Grant, found: &BottlerocketShadowSpec, next: NodeState) -> bool {
    let ours = found.run.as_ref() == Some(&grant.run) && found.attempt == Some(grant.attempt);
    if !ours {
        return found.state == NodeState::Idle;
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
