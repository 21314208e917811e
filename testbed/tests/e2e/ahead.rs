//! Staging ahead of the slot: downloads outside windows and before a node's turn, and nothing else of an update.

use api::BottlerocketShadow;
use api::plan::Phase;
use api::shadow::NodeState;
use chrono::Utc;
use serde_json::json;
use testbed::bottlerocket::Call;
use testbed::lab::Lab;
use testbed::operator::Options;
use testbed::oracle::Expectations;
use testbed::truth::SimEventKind;

use crate::support::{
    NEW, OLD, SOON, assert_untouched, complete, edit, lab_with, machines, plan, rfc3339, status, versions,
};

/// So many machines that download for so long, of which so many may at a time do that ahead of their turn.
async fn start(nodes: u32, prepare: &str, stage_ahead: usize) -> Lab {
    let mut fleet = machines(nodes);
    fleet.latencies = serde_json::from_value(json!({"prepare": prepare})).unwrap();
    let options = Options {
        controller_flags: vec![format!("--stage-ahead={stage_ahead}")],
        ..Options::default()
    };
    lab_with(fleet, &options).await
}

fn expectations(stage_ahead: usize) -> Expectations {
    Expectations {
        stage_ahead,
        ..Expectations::complete("p")
    }
}

/// How often each machine has begun a download.
fn downloads(lab: &Lab) -> Vec<usize> {
    let taken = |kind: &SimEventKind| {
        matches!(
            kind,
            SimEventKind::Called {
                call: Call::Prepare,
                status: Some(204)
            }
        )
    };
    let nodes = ["n1", "n2", "n3", "n4"];
    nodes
        .map(|node| {
            lab.fleet
                .truth()
                .of(node)
                .iter()
                .filter(|event| taken(&event.kind))
                .count()
        })
        .to_vec()
}

/// Whether the node has downloaded, and waits as it was found.
fn has_downloaded(shadow: &BottlerocketShadow) -> bool {
    let status = shadow.status.as_ref();
    shadow.spec.state == NodeState::Idle
        && shadow.is_acknowledged()
        && status.is_some_and(|status| {
            status.staged_version.as_deref() == Some(NEW) && status.saved_settings.is_none()
        })
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_download_before_their_window_and_their_turn_two_at_a_time_and_only_once() {
    let lab = start(4, "1500ms", 2).await;
    let in_minutes = |minutes| rfc3339(Utc::now() + chrono::TimeDelta::minutes(minutes));
    let later = json!({"name": "later", "start": in_minutes(20), "end": in_minutes(90)});
    lab.apply(&plan(
        "p",
        &json!({"maintenanceWindows": [later], "timeouts": {"stage": "30m"}}),
    ))
    .await
    .unwrap();
    lab.shadows(SOON, "nodes that have all downloaded", |shadows| {
        shadows.len() == 4 && shadows.iter().all(has_downloaded)
    })
    .await
    .unwrap();
    let waiting = status(&lab, "p", "plan that waits for its window", |status| {
        status.phase == Some(Phase::WaitingForWindow)
    })
    .await;
    assert_eq!((waiting.nodes.waiting, waiting.nodes.unavailable), (4, 0));
    assert_eq!(downloads(&lab), [1; 4]);
    assert_eq!(versions(&lab), [OLD; 4]);
    for node in ["n1", "n2", "n3", "n4"] {
        assert_untouched(&lab, node).await;
    }

    // Who is not to be updated for now is not told to download any more, and nothing has to be undone.
    edit(&lab, "p", &json!({"paused": true})).await;
    lab.shadows(SOON, "shadows that ask for nothing", |shadows| {
        shadows.iter().all(|shadow| shadow.spec.stage.is_none())
    })
    .await
    .unwrap();

    edit(&lab, "p", &json!({"paused": false, "maintenanceWindows": []})).await;
    let done = complete(&lab, "p").await;
    assert_eq!((done.nodes.updated, done.nodes.failed), (4, 0));
    assert_eq!(downloads(&lab), [1; 4], "what was there was not downloaded again");
    lab.finish(&expectations(2)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_turn_comes_while_it_downloads_goes_on_with_that() {
    let lab = start(2, "4s", 1).await;
    lab.apply(&plan("p", &json!({"maxUnavailable": 1})))
        .await
        .unwrap();
    let both = status(&lab, "p", "node that downloads ahead of its turn", |status| {
        let waiting = status.waiting.iter().any(|group| group.reason == "Staging");
        waiting && status.nodes.updating == 1
    })
    .await;
    assert_eq!(both.phase, Some(Phase::Progressing));
    // One more has a place now: it is granted in the middle of its download.
    edit(&lab, "p", &json!({"maxUnavailable": 2})).await;
    let done = complete(&lab, "p").await;
    assert_eq!((done.nodes.updated, done.nodes.failed), (2, 0));
    assert_eq!(downloads(&lab)[..2], [1; 2]);
    lab.finish(&expectations(1)).await.unwrap();
}
