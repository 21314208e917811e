//! Status and history as text, for snapshots and for failures.

use api::verdict::instant;

use planner::decisions::Action;

use super::Sim;

/// How much of the history is kept.
const KEPT: usize = 60;

pub fn action(action: &Action) -> String {
    match action {
        Action::AddFinalizer { plan } => format!("finalizer added to {plan}"),
        Action::RemoveFinalizer { plan } => format!("finalizer removed from {plan}"),
        Action::Cordon { node, .. } => format!("{node} cordoned"),
        Action::Uncordon { node, .. } => format!("{node} uncordoned"),
        Action::SetShadow { node, spec } => {
            format!("{node} told {} {:?} {:?}", spec.state, spec.attempt, spec.failure)
        }
    }
}

impl Sim {
    pub fn note(&mut self, text: String) {
        if self.history.len() == KEPT {
            self.history.pop_front();
        }
        let mut text = text;
        text.truncate(400);
        self.history.push_back(format!("{} {text}", instant(self.now)));
    }

    pub(super) fn note_ledger(&mut self, new: &api::ledger::UpdateLedgerSpec) {
        let before = self.world.ledger.clone().unwrap_or_default();
        for (uid, grant) in &new.grants {
            if before.grants.get(uid) != Some(grant) {
                let ending = grant
                    .ending
                    .as_ref()
                    .map(|ending| ending.message.clone())
                    .unwrap_or_default();
                self.note(format!(
                    "ledger: {} {} attempt {} {ending}",
                    grant.node, grant.phase, grant.attempt
                ));
            }
        }
        for (uid, grant) in &before.grants {
            if !new.grants.contains_key(uid) {
                self.note(format!("ledger: {} released", grant.node));
            }
        }
        if before.plans != new.plans {
            self.note(format!("ledger: {:?}", new.plans));
        }
    }

    /// What has happened lately, and how things stand.
    pub fn story(&self) -> String {
        let history: Vec<&str> = self.history.iter().map(String::as_str).collect();
        let plans: Vec<String> = self
            .world
            .plans
            .iter()
            .map(|plan| self.describe(&plan.name))
            .collect();
        format!(
            "now {}\n{}\n{}",
            instant(self.now),
            history.join("\n"),
            plans.join("\n")
        )
    }

    /// A plan's status as a person reads it.
    pub fn describe(&self, plan: &str) -> String {
        let status = self.status(plan);
        let mut lines = vec![
            format!(
                "{:?}: {}",
                status.phase,
                status.message.as_deref().unwrap_or_default()
            )
            .replace("Some(", "")
            .replacen("):", ":", 1),
            format!(
                "wave {}, progress {}, max unavailable {:?}",
                status.wave.as_deref().unwrap_or("-"),
                status.progress.as_deref().unwrap_or("-"),
                status.max_unavailable.unwrap_or_default()
            ),
            format!("{:?}", status.nodes),
        ];
        if let Some(window) = &status.window {
            let name = window.name.as_deref().unwrap_or("-");
            lines.push(format!("window {name}: open {}, {}", window.open, window.next));
        }
        for wave in &status.waves {
            let soak = wave
                .soak_until
                .map(|at| format!(", soaks until {}", instant(at)))
                .unwrap_or_default();
            lines.push(format!(
                "  wave {} {:?}: {} nodes, {} updated, {} updating, {} skipped, {} failed{soak}",
                wave.name, wave.phase, wave.nodes, wave.updated, wave.updating, wave.skipped, wave.failed
            ));
        }
        for node in &status.active {
            lines.push(format!(
                "  active {} ({}): {}, since {}",
                node.node,
                node.wave,
                node.doing,
                instant(node.since)
            ));
        }
        for group in &status.waiting {
            lines.push(format!(
                "  waiting {} x{} ({}): {}",
                group.reason,
                group.count,
                group.nodes.join(", "),
                group.message
            ));
        }
        for node in &status.failed {
            lines.push(format!(
                "  failed {} after {} ({}): {}",
                node.node, node.attempts, node.reason, node.message
            ));
        }
        for condition in &status.conditions {
            lines.push(format!(
                "  {}={} {}: {}",
                condition.type_, condition.status, condition.reason, condition.message
            ));
        }
        lines.join("\n")
    }
}
