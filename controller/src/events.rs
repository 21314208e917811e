//! Publishes Events: in the background, as far as it goes. Nothing waits for them.
//!
//! The first is published at once. What comes soon after is told together, one Event for each plan and reason: where a
//! hundred nodes are granted in one stroke, a hundred Events say no more than one. Warnings are told one by one.

use std::{collections::BTreeMap, time::Duration};

use api::{
    UpdatePlan,
    plan::{Phase, UpdatePlanStatus},
    verdict::{Told, Verdict},
};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client, Resource,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use planner::decisions;
use tokio::{sync::mpsc, time::sleep};

use crate::{request::Fence, view::Snapshot};

/// Events that may wait to be published; more are dropped.
const WAITING: usize = 256;

/// The API takes this many bytes.
const NOTE_BYTES: usize = 1024;

/// So many of them are filled with notes told together; how many more there are has its place too.
const MERGED_BYTES: usize = 960;

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

    /// What a plan's new status says that the one before did not: that it is in another phase, and why nodes wait or are left
    /// alone, one for each reason that was not there. What stands is not told again.
    #[must_use]
    pub fn of_status(before: Option<&UpdatePlanStatus>, plan: &UpdatePlan) -> Vec<Self> {
        let (Some(after), nothing) = (&plan.status, UpdatePlanStatus::default()) else {
            return Vec::new();
        };
        let before = before.unwrap_or(&nothing);
        let another_phase = after.phase != before.phase;
        let mut notes: Vec<Self> = another_phase.then(|| Self::phase(plan)).into_iter().collect();
        if is_unsure(before) || is_unsure(after) {
            return notes;
        }
        let mut new = BTreeMap::<&str, Vec<String>>::new();
        for (reason, words) in reasons(after) {
            let told = Told::of(reason) == Some(Told::Otherwise)
                || another_phase && after.phase.is_some_and(|phase| tells(phase, reason))
                || reasons(before).any(|(known, _)| known == reason);
            if !told {
                new.entry(reason).or_default().push(words);
            }
        }
        notes.extend(new.into_iter().map(|(reason, words)| Self {
            plan: plan.object_ref(&()),
            node: None,
            reason: reason.to_owned(),
            note: words.join("; "),
            warning: Told::of(reason) == Some(Told::Warning),
        }));
        notes
    }

    /// That a plan is in another phase.
    fn phase(plan: &UpdatePlan) -> Self {
        let status = plan.status.clone().unwrap_or_default();
        let reason = status
            .phase
            .map_or_else(|| "Unknown".to_owned(), |phase| format!("{phase:?}"));
        let warning = matches!(status.phase, Some(Phase::Invalid | Phase::Halted));
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

/// Why nodes do not move, each with its words.
fn reasons(status: &UpdatePlanStatus) -> impl Iterator<Item = (&str, String)> {
    let stuck = status.active.iter().filter_map(|active| {
        let words = active.message.as_deref().unwrap_or_default();
        Some((active.reason.as_deref()?, format!("{}: {words}", active.node)))
    });
    let groups = status.waiting.iter().chain(&status.skipped);
    let groups = groups.map(|group| (group.reason.as_str(), group.words()));
    groups.chain(stuck)
}

/// Reasons that a plan's phase says as well.
const SAID_BY_PHASE: [(Phase, &str); 5] = [
    (Phase::WaitingForWindow, "OutsideWindow"),
    (Phase::WaitingForWindow, "Excluded"),
    (Phase::WaitingForWindow, "NoWindowFound"),
    (Phase::WaitingForWindow, "WindowTooShort"),
    (Phase::AwaitingApproval, "AwaitingApproval"),
];

/// Whether a plan's phase is all that a reason says.
fn tells(phase: Phase, reason: &str) -> bool {
    SAID_BY_PHASE.contains(&(phase, reason))
}

/// Whether the controller that made the status did not know its clock yet: what else nodes wait for is not in it.
fn is_unsure(status: &UpdatePlanStatus) -> bool {
    let unknown = Verdict::ClockSkewed { seconds: None }.to_string();
    status.waiting.iter().any(|group| group.message == unknown)
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

/// Sends what `notes` has until nobody can publish any more, and between two times lets `interval` pass.
pub async fn send_all(client: Client, fence: Fence, mut notes: mpsc::Receiver<Note>, interval: Duration) {
    while let Some(first) = notes.recv().await {
        let mut waiting = vec![first];
        while let Ok(note) = notes.try_recv() {
            waiting.push(note);
        }
        for note in together(waiting) {
            send(&client, &fence, note).await;
        }
        sleep(interval).await;
    }
}

async fn send(client: &Client, fence: &Fence, note: Note) {
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

/// One note for each plan and reason, in the order of the first of them.
fn together(notes: Vec<Note>) -> Vec<Note> {
    let mut told: Vec<(Note, usize)> = Vec::new();
    for note in notes {
        let same = |(earlier, _): &&mut (Note, usize)| {
            !note.warning && (&earlier.plan, &earlier.reason) == (&note.plan, &note.reason)
        };
        match told.iter_mut().find(same) {
            None => told.push((note, 0)),
            // As many as there is room for: the plan's status has them all.
            Some((earlier, more)) if *more > 0 || earlier.note.len() + note.note.len() > MERGED_BYTES => {
                *more += 1
            }
            Some((earlier, _)) => {
                earlier.note = format!("{}; {}", earlier.note, note.note);
                earlier.node = None;
            }
        }
    }
    told.into_iter()
        .map(|(mut note, more)| {
            if more > 0 {
                note.note += &format!("; and {more} more");
            }
            note
        })
        .collect()
}

fn shortened(mut note: String) -> String {
    note.truncate(note.floor_char_boundary(NOTE_BYTES));
    note
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used, reason = "tests")]
    use api::plan::{ActiveNode, WaitingNodes};

    use super::*;

    #[test]
    fn a_note_is_cut_between_characters() {
        assert_eq!(shortened("short".to_owned()), "short");
        let long = shortened("é".repeat(1000));
        assert_eq!(long.len(), 1024);
        assert_eq!(shortened(format!("x{long}")).len(), 1023);
    }

    fn note(plan: &str, reason: &str, note: &str, warning: bool) -> Note {
        Note {
            plan: ObjectReference {
                name: Some(plan.to_owned()),
                ..ObjectReference::default()
            },
            node: Some(ObjectReference::default()),
            reason: reason.to_owned(),
            note: note.to_owned(),
            warning,
        }
    }

    #[test]
    fn notes_of_one_plan_and_reason_are_told_together_and_warnings_one_by_one() {
        let notes = vec![
            note("p", "NodeGranted", "a", false),
            note("p", "NodeFailed", "b", true),
            note("q", "NodeGranted", "c", false),
            note("p", "NodeGranted", "d", false),
            note("p", "NodeFailed", "e", true),
        ];
        let told = together(notes);
        let texts: Vec<&str> = told.iter().map(|note| note.note.as_str()).collect();
        assert_eq!(texts, ["a; d", "b", "c", "e"]);
        let about_a_node: Vec<bool> = told.iter().map(|note| note.node.is_some()).collect();
        assert_eq!(about_a_node, [false, true, true, true]);
    }

    #[test]
    fn what_there_is_no_room_for_is_counted() {
        let many = |n| {
            let notes = (0..n).map(|i| note("p", "NodeUpdated", &format!("{i:0>96}"), false));
            together(notes.collect())
        };
        let told = many(9);
        assert!(told.len() == 1 && told[0].note.ends_with('8'), "{told:?}");
        let told = many(50);
        assert!(told[0].note.ends_with("8; and 41 more"), "{told:?}");
        assert_eq!(shortened(told[0].note.clone()), told[0].note);
    }

    fn waiting(reason: &str, node: &str, message: &str) -> WaitingNodes {
        WaitingNodes {
            reason: reason.to_owned(),
            count: 1,
            message: message.to_owned(),
            nodes: vec![node.to_owned()],
        }
    }

    fn status(phase: Phase, waiting: Vec<WaitingNodes>) -> UpdatePlanStatus {
        UpdatePlanStatus {
            phase: Some(phase),
            waiting,
            ..UpdatePlanStatus::default()
        }
    }

    /// The reasons of what is published where one status follows the other, and which of them warn.
    fn told(before: Option<&UpdatePlanStatus>, after: UpdatePlanStatus) -> Vec<(String, bool)> {
        let spec = serde_json::json!({"targetVersion": "1.21.0", "nodeSelector": {}});
        let mut plan = UpdatePlan::new("p", serde_json::from_value(spec).expect("a spec"));
        plan.status = Some(after);
        let notes = Note::of_status(before, &plan).into_iter();
        notes.map(|note| (note.reason, note.warning)).collect()
    }

    #[test]
    fn what_a_phase_says_as_well_is_a_reason_that_has_an_event() {
        for (phase, reason) in SAID_BY_PHASE {
            let told = Told::of(reason);
            assert!(
                matches!(told, Some(Told::Event | Told::Warning)),
                "{phase:?} {reason}: {told:?}"
            );
        }
    }

    #[test]
    fn a_reason_is_told_when_it_is_new_in_the_status_and_not_again() {
        let spent = || waiting("BudgetSpent", "b", "spent by a (not Ready)");
        let down = |node: &str| waiting("NotReady", node, "not Ready");
        let before = status(Phase::Progressing, vec![spent()]);
        let first = told(None, before.clone());
        assert_eq!(
            first,
            [("Progressing".to_owned(), false)],
            "what others do is no Event"
        );
        let with = status(Phase::Progressing, vec![down("a"), spent()]);
        assert_eq!(told(Some(&before), with.clone()), [("NotReady".to_owned(), true)]);
        assert_eq!(told(Some(&with), with.clone()), []);
        let more = status(Phase::Progressing, vec![down("b"), down("c")]);
        assert_eq!(
            told(Some(&with), more),
            [],
            "the same reason stands, for other nodes"
        );
        let mut left_alone = with.clone();
        left_alone.skipped = vec![waiting("OptedOut", "d", "has opted out: x")];
        assert_eq!(told(Some(&with), left_alone), [("OptedOut".to_owned(), false)]);
        let mut stuck = with.clone();
        stuck.active = vec![ActiveNode {
            node: "e".to_owned(),
            wave: "all".to_owned(),
            doing: "draining".to_owned(),
            since: chrono::DateTime::UNIX_EPOCH,
            reason: Some("DrainBlocked".to_owned()),
            message: Some("pod x cannot be evicted".to_owned()),
        }];
        assert_eq!(
            told(Some(&with), stuck.clone()),
            [("DrainBlocked".to_owned(), true)]
        );
        assert_eq!(told(Some(&stuck), stuck.clone()), []);
    }

    #[test]
    fn what_the_phase_says_is_told_by_its_event_alone() {
        let before = status(Phase::Progressing, vec![]);
        let closed = status(
            Phase::WaitingForWindow,
            vec![waiting("OutsideWindow", "a", "outside")],
        );
        assert_eq!(
            told(Some(&before), closed.clone()),
            [("WaitingForWindow".to_owned(), false)]
        );
        let excluded = status(
            Phase::WaitingForWindow,
            vec![waiting("Excluded", "a", "exclusion x is on")],
        );
        assert_eq!(told(Some(&closed), excluded), [("Excluded".to_owned(), false)]);
    }

    #[test]
    fn while_the_clock_is_not_known_no_reason_comes_or_goes() {
        let unknown = Verdict::ClockSkewed { seconds: None }.to_string();
        let (down, unsure) = (
            waiting("NotReady", "a", "not Ready"),
            waiting("ClockSkewed", "a", &unknown),
        );
        let (known, unsure) = (
            status(Phase::Progressing, vec![down]),
            status(Phase::Progressing, vec![unsure]),
        );
        assert_eq!(told(Some(&known), unsure.clone()), []);
        assert_eq!(told(Some(&unsure), known), []);
    }

    #[tokio::test]
    async fn publishing_never_waits() {
        let (publisher, _notes) = Publisher::new();
        let note = note("p", "Paused", "", false);
        for _ in 0..2 * WAITING {
            publisher.publish(note.clone());
        }
    }
}
