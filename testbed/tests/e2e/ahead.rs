//! Staging ahead of the slot: downloads outside windows and before a node's turn, and nothing else of an update.

use api::BottlerocketShadow;
use api::plan::Phase;
use api::shadow::NodeState;
use chrono::Utc;
use serde_json::json;
use testbed::bottlerocket::Call;
use testbed::fleet::LatencySpec;
use testbed::operator::Options;
use testbed::oracle::Expectations;
use testbed::truth::SimEventKind;

use crate::support::{
    NEW, OLD, SOON, assert_untouched, complete, edit, lab_with, machines, plan, rfc3339, status, versions,
};

fn slow_downloads(prepare: &str) -> LatencySpec {
    serde_json::from_value(json!({"prepare": prepare})).unwrap()
}

/// How often each machine has begun a download.
fn downloads(lab: &testbed::lab::Lab) -> Vec<usize> {
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
    let mut fleet = machines(4);
    fleet.latencies = slow_downloads("1500ms");
    let options = Options {
        controller_flags: vec!["--stage-ahead=2".to_owned()],
        ..Options::default()
    };
    let lab = lab_with(fleet, &options).await;
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
    let expectations = Expectations {
        stage_ahead: 2,
        ..Expectations::complete("p")
    };
    lab.finish(&expectations).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_turn_comes_while_it_downloads_goes_on_with_that() {
    let mut fleet = machines(2);
    fleet.latencies = slow_downloads("4s");
    let options = Options {
        controller_flags: vec!["--stage-ahead=1".to_owned()],
        ..Options::default()
    };
    let lab = lab_with(fleet, &options).await;
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
    let expectations = Expectations {
        stage_ahead: 1,
        ..Expectations::complete("p")
    };
    lab.finish(&expectations).await.unwrap();
}
