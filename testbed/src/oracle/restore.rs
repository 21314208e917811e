//! S9: what an update changed on a node is put back when its grant is released, and nothing else is touched.

use std::collections::{BTreeMap, BTreeSet};

use api::names::{DO_NOT_DISRUPT_ANNOTATIONS, GROUP};
use api::shadow::NodeState;
use api::{BottlerocketShadow, names};
use k8s_openapi::api::core::v1::Node;

use super::ahead::stages_ahead;
use super::changes::LedgerChange;
use super::nodes::{annotation, is_cordoned, is_ours, owner_uid};
use super::{Check, LAG, Moment, Promise, Report, STALE};
use crate::bottlerocket::UpdateSettings;
use crate::history::{Change, Pair, State, key};

/// What a node was like before we changed it, by UID.
#[derive(Debug, Default)]
struct Found {
    /// Somebody else cordoned it.
    cordoned: bool,
    /// The annotations that keep autoscalers away, while ours is there.
    annotations: Option<Vec<Option<String>>>,
    /// Labels in our group that were there from the start.
    labels: BTreeSet<String>,
    /// The machine's settings when the last grant was made.
    settings: Option<(String, UpdateSettings)>,
}

#[derive(Default)]
pub(super) struct Restore {
    nodes: BTreeMap<String, Found>,
    /// UIDs of the nodes that are told to download ahead of their turn.
    ahead: BTreeSet<String>,
}

impl Restore {
    pub(super) fn new(initial: &State) -> Self {
        let nodes = initial
            .nodes
            .values()
            .map(|node| (uid(node), found(node)))
            .collect();
        Self {
            nodes,
            ahead: BTreeSet::new(),
        }
    }

    /// From the first time that it is told to download ahead, a node must end as it was found before.
    fn staged_ahead(&mut self, now: &Moment<'_>, shadow: &BottlerocketShadow) {
        let Some(uid) = owner_uid(shadow) else { return };
        if !stages_ahead(shadow) {
            self.ahead.remove(uid);
        } else if self.ahead.insert(uid.to_owned())
            && let Some(node) = now.state.node_of_uid(uid)
        {
            let name = key(node.as_ref());
            let found = self.nodes.entry(uid.to_owned()).or_default();
            found
                .settings
                .get_or_insert_with(|| (name.clone(), now.case.first_settings(&name)));
        }
    }

    fn check_node(&mut self, now: &Moment<'_>, before: &Node, after: &Node, report: &mut Report) {
        let name = key(after);
        let found = self.nodes.entry(uid(after)).or_default();
        let (ours_before, ours) = (is_ours(before), is_ours(after));
        let (cordoned_before, cordoned) = (is_cordoned(before), is_cordoned(after));
        if !ours_before && ours {
            found.annotations = Some(guards(before));
        }
        if !cordoned_before && cordoned && !ours {
            found.cordoned = true;
        }
        if cordoned_before && !cordoned && found.cordoned {
            if !now.case.expectations.uncordoned.contains(&name) {
                report.add(
                    Promise::S9,
                    now.at,
                    format!("node {name} was uncordoned, though somebody else cordoned it"),
                );
            }
            found.cordoned = false;
        }
        if ours_before && !ours {
            let kept = guards(after);
            if found.annotations.take().is_some_and(|before| before != kept) {
                let message =
                    format!("node {name} did not get back the annotations that keep autoscalers away");
                report.add(Promise::S9, now.at, message);
            }
            if cordoned && !found.cordoned {
                report.add(
                    Promise::S9,
                    now.at,
                    format!("node {name} stays cordoned, and nobody's name is on it"),
                );
            }
        }
    }

    fn check_release(&mut self, now: &Moment<'_>, uid: &str, name: &str, report: &mut Report) {
        let Some(node) = now.state.node_of_uid(uid) else {
            return;
        };
        if is_ours(node) {
            report.add(
                Promise::S9,
                now.at,
                format!("the grant of node {name} was released before it was uncordoned"),
            );
        }
        let shadow = now
            .state
            .shadows
            .values()
            .find(|shadow| owner_uid(shadow) == Some(uid));
        if shadow.is_some_and(|shadow| is_done(shadow)) {
            self.check_machine(now, uid, report);
        }
    }

    /// The settings are as before, and nothing is flagged to boot.
    fn check_machine(&self, now: &Moment<'_>, uid: &str, report: &mut Report) {
        let Some((node, before)) = self.nodes.get(uid).and_then(|found| found.settings.as_ref()) else {
            return;
        };
        let machine = now.case.machines.of(node);
        let first = now.case.first_settings(node);
        let at_first = machine.settings_at(now.at - LAG).unwrap_or(&first);
        let mut lately = std::iter::once(at_first).chain(machine.settings_between(now.at - LAG, now.at));
        if !lately
            .any(|now| (&now.version_lock, now.ignore_waves) == (&before.version_lock, before.ignore_waves))
        {
            let message = format!(
                "node {node} did not get back its settings, version-lock {}",
                before.version_lock
            );
            report.add(Promise::S9, now.at, message);
        }
        if !machine.unflagged_between(now.at - LAG, now.at) {
            report.add(
                Promise::S9,
                now.at,
                format!("node {node} was left to boot the update some day"),
            );
        }
    }
}

impl Check for Restore {
    fn changed(&mut self, now: &Moment<'_>, change: &Change, report: &mut Report) {
        if let Change::Shadow(Pair {
            after: Some(shadow), ..
        }) = change
        {
            return self.staged_ahead(now, shadow);
        }
        let Change::Node(Pair {
            before,
            after: Some(after),
        }) = change
        else {
            return;
        };
        match before {
            Some(before) if before.metadata.uid == after.metadata.uid => {
                self.check_node(now, before, after, report)
            }
            _ => {
                self.nodes.insert(uid(after), found(after));
            }
        }
    }

    fn ledger(&mut self, now: &Moment<'_>, change: &LedgerChange, report: &mut Report) {
        for (uid, grant) in &change.released {
            self.check_release(now, uid, &grant.node, report);
        }
        for (uid, grant) in &change.made {
            // Who downloads ahead of its turn has changed them already.
            if self.ahead.contains(uid) {
                continue;
            }
            // The grant may be seen after the agent has begun.
            let made = grant.granted_at.clamp(now.at - STALE, now.at);
            let settings = now.case.machines.of(&grant.node).settings_at(made).cloned();
            let settings = settings.unwrap_or_else(|| now.case.first_settings(&grant.node));
            self.nodes.entry(uid.clone()).or_default().settings = Some((grant.node.clone(), settings));
        }
    }

    fn ended(&mut self, now: &Moment<'_>, report: &mut Report) {
        let ledger = now.state.ledger(&now.case.expectations.namespace);
        let granted = |uid: &String| ledger.is_some_and(|ledger| ledger.spec.grants.contains_key(uid));
        for node in now.state.nodes.values() {
            let (uid, name) = (uid(node), key(node.as_ref()));
            if granted(&uid) {
                continue;
            }
            let before = self.nodes.get(&uid);
            let ours = labels_of_ours(node);
            if let Some(label) = ours
                .iter()
                .find(|label| before.is_none_or(|found| !found.labels.contains(*label)))
            {
                report.add(
                    Promise::S9,
                    now.at,
                    format!("node {name} is left with label {label}"),
                );
            }
            let shadow = now
                .state
                .shadows
                .values()
                .find(|shadow| owner_uid(shadow) == Some(&uid));
            if shadow.is_some_and(|shadow| is_done(shadow)) {
                self.check_machine(now, &uid, report);
            }
        }
    }
}

fn uid(node: &Node) -> String {
    node.metadata.uid.clone().unwrap_or_default()
}

fn found(node: &Node) -> Found {
    let cordoned = is_cordoned(node) && !is_ours(node);
    Found {
        cordoned,
        labels: labels_of_ours(node),
        ..Found::default()
    }
}

fn guards(node: &Node) -> Vec<Option<String>> {
    let value = |name: &str| annotation(node, name).map(str::to_owned);
    DO_NOT_DISRUPT_ANNOTATIONS
        .iter()
        .map(|(name, _)| value(name))
        .collect()
}

fn labels_of_ours(node: &Node) -> BTreeSet<String> {
    let labels = node.metadata.labels.iter().flatten().map(|(name, _)| name);
    labels
        .filter(|name| name.starts_with(&format!("{GROUP}/")) && *name != names::NODE_LABEL)
        .cloned()
        .collect()
}

/// Whether the node says that it has put everything back.
fn is_done(shadow: &BottlerocketShadow) -> bool {
    shadow.spec.state == NodeState::Idle && shadow.is_acknowledged()
}
