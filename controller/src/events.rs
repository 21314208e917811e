//! Publishes Events: in the background, as far as it goes. Nothing waits for them.

use api::UpdatePlan;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client, Resource,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use planner::decisions;
use tokio::sync::mpsc;

use crate::{request::Fence, view::Snapshot};

/// Events that may wait to be published; more are dropped.
const WAITING: usize = 256;

/// The API takes this many bytes.
const NOTE_BYTES: usize = 1024;

const CONTROLLER: &str = "brupop-update-controller";

/// An Event to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    plan: ObjectReference,
    node: Option<ObjectReference>,
    reason: String,
    note: String,
    warning: bool,
}

impl Note {
    /// What the planner has to say. None where the plan is gone.
    #[must_use]
    pub fn planned(event: &decisions::Event, snapshot: &Snapshot) -> Option<Self> {
        let node = event.node.as_ref().and_then(|node| snapshot.nodes.get(node));
        Some(Self {
            plan: snapshot.plans.get(&event.plan)?.object_ref(&()),
            node: node.map(|node| node.object_ref(&())),
            reason: event.reason.to_owned(),
            note: event.note.clone(),
            warning: event.warning,
        })
    }

    /// That a plan is in another phase.
    #[must_use]
    pub fn phase(plan: &UpdatePlan) -> Self {
        let status = plan.status.clone().unwrap_or_default();
        let reason = status
            .phase
            .map_or_else(|| "Unknown".to_owned(), |phase| format!("{phase:?}"));
        let warning = matches!(
            status.phase,
            Some(api::plan::Phase::Invalid | api::plan::Phase::Halted)
        );
        let note = status.message.unwrap_or_default();
        Self {
            plan: plan.object_ref(&()),
            node: None,
            reason,
            note,
            warning,
        }
    }
}

/// Where Events go.
#[derive(Clone, Debug)]
pub struct Publisher {
    sender: mpsc::Sender<Note>,
}

impl Publisher {
    /// One, and where its Events come out.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Note>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self { sender }, receiver)
    }

    /// Publishes an Event, sooner or later or not at all.
    pub fn publish(&self, note: Note) {
        tracing::info!(
            plan = note.plan.name,
            node = note.node.as_ref().and_then(|node| node.name.as_deref()),
            reason = note.reason,
            "{}",
            note.note
        );
        if self.sender.try_send(note).is_err() {
            tracing::debug!("too many Events wait; one is dropped");
        }
    }
}

/// Sends what `notes` has until nobody can publish any more.
pub async fn send_all(client: Client, fence: Fence, mut notes: mpsc::Receiver<Note>) {
    while let Some(note) = notes.recv().await {
        // A recorder of its own for each: one that is kept would count a repeated reason up under its first note.
        let recorder = Recorder::new(client.clone(), Reporter::from(CONTROLLER));
        let Note {
            plan,
            node,
            reason,
            note,
            warning,
        } = note;
        let event = Event {
            type_: if warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: reason.clone(),
            note: Some(shortened(note)),
            action: "Rollout".to_owned(),
            secondary: node,
        };
        if let Err(error) = fence.write(recorder.publish(&event, &plan)).await {
            tracing::debug!(%error, reason, "an Event is not published");
        }
    }
}

fn shortened(mut note: String) -> String {
    note.truncate(note.floor_char_boundary(NOTE_BYTES));
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_cut_between_characters() {
        assert_eq!(shortened("short".to_owned()), "short");
        let long = shortened("é".repeat(1000));
        assert_eq!(long.len(), 1024);
        assert_eq!(shortened(format!("x{long}")).len(), 1023);
    }

    #[tokio::test]
    async fn publishing_never_waits() {
        let (publisher, _notes) = Publisher::new();
        let note = Note {
            plan: ObjectReference::default(),
            node: None,
            reason: "Paused".to_owned(),
            note: String::new(),
            warning: false,
        };
        for _ in 0..2 * WAITING {
            publisher.publish(note.clone());
        }
    }
}
