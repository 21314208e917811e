//! Versions that nodes cannot have, and the newest that they can.

use api::plan::{Phase, UpdatePlanStatus};
use api::shadow::NodeState;
use kube::ResourceExt as _;
use serde_json::json;
use testbed::bottlerocket::{Image, Release, Unsupported, Version};
use testbed::lab::Lab;
use testbed::operator::Options;
use testbed::oracle::Expectations;

use crate::support::{
    NEW, NEWER, OLD, SOON, all_idle, assert_says, assert_untouched, complete, get_ledger, get_shadow,
    lab_with, machines, plan, reboots, seconds, status, versions,
};

/// Agents that find out soon what is on offer.
fn curious() -> Options {
    let flags = ["--config-apply-timeout=500ms", "--refresh-interval=1s"];
    Options {
        agent_flags: flags.map(str::to_owned).to_vec(),
        ..Options::default()
    }
}

fn image(lab: &Lab, node: &str, version: &str) -> Image {
    let version: Version = version.parse().unwrap();
    Image {
        version,
        ..lab.fleet.node(node).unwrap().image()
    }
}

fn publish(lab: &Lab, image: Image) {
    let waves = std::collections::BTreeMap::new();
    lab.fleet
        .repository()
        .change(|repository| repository.publish(Release { image, waves }));
}

fn reasons(status: &UpdatePlanStatus) -> Vec<(&str, Vec<&str>)> {
    status
        .skipped
        .iter()
        .map(|group| {
            (
                group.reason.as_str(),
                group.nodes.iter().map(String::as_str).collect(),
            )
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_cannot_have_the_version_are_left_alone_and_are_no_failures() {
    let mut fleet = machines(3);
    let mut other = fleet.groups[0].clone();
    (other.prefix, other.count, other.variant) = ("x".to_owned(), 1, "aws-k8s-1.30".to_owned());
    fleet.groups.push(other);
    let lab = lab_with(fleet, &curious()).await;
    let missing = image(&lab, "x1", NEW);
    lab.fleet
        .repository()
        .change(|repository| repository.withdraw(&missing));
    let broken = lab.fleet.node("n3").unwrap();
    broken.faults(|faults| faults.unsupported = Some(Unsupported::CallsMissing));
    let more = json!({"maxUnavailable": 2, "failurePolicy": {"retries": 0, "threshold": 1}});
    lab.apply(&plan("p", &more)).await.unwrap();
    let done = complete(&lab, "p").await;
    assert_eq!(
        (done.nodes.updated, done.nodes.skipped, done.nodes.failed),
        (2, 2, 0)
    );
    assert_eq!(
        reasons(&done),
        [("Unsupported", vec!["n3"]), ("VersionNotOffered", vec!["x1"])]
    );
    let why = &done.skipped[1].message;
    assert_says(
        why,
        &["version 1.21.0 is not offered to this node (variant aws-k8s-1.30"],
    );
    let complete_reason = done.conditions.iter().find(|c| c.type_ == "Complete").unwrap();
    assert_eq!(complete_reason.reason, "WithSkipped");
    all_idle(&lab).await;
    assert_untouched(&lab, "x1").await;
    for node in ["x1", "n3"] {
        let shadow = get_shadow(&lab, node).await;
        assert_eq!(
            (shadow.spec.attempt, shadow.spec.state),
            (Some(1), NodeState::Idle)
        );
        assert_eq!(shadow.status.unwrap().crash_count, 0);
    }

    publish(&lab, missing);
    let done = status(&lab, "p", "plan with x1 updated", |status| {
        status.nodes.updated == 3
    })
    .await;
    assert_eq!((done.phase, done.nodes.skipped), (Some(Phase::Complete), 1));
    assert_eq!(lab.fleet.node("x1").unwrap().version(), NEW);
    assert_eq!((reboots(&lab, "n3"), broken.version().as_str()), (0, OLD));
    assert!(
        get_ledger(&lab)
            .await
            .spec
            .plans
            .values()
            .all(|entry| entry.failed.is_empty())
    );
    all_idle(&lab).await;
    lab.finish(&Expectations::complete("p")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s8_latest_is_the_newest_of_each_variant_and_does_not_move_in_its_run() {
    let mut fleet = machines(2);
    let mut other = fleet.groups[0].clone();
    (other.prefix, other.count, other.variant) = ("x".to_owned(), 1, "aws-k8s-1.30".to_owned());
    fleet.groups.push(other);
    fleet.latencies.prepare = seconds(2);
    let lab = lab_with(fleet, &curious()).await;
    // So that a run has an end, and what comes after it shows.
    for (node, version) in [("n1", NEWER), ("x1", NEWER), ("x1", NEW)] {
        let image = image(&lab, node, version);
        lab.fleet
            .repository()
            .change(|repository| repository.withdraw(&image));
    }
    publish(&lab, image(&lab, "x1", "1.20.5"));
    offered(&lab, "x1", &["1.20.5", OLD]).await;
    offered(&lab, "n1", &[NEW, OLD]).await;
    offered(&lab, "n2", &[NEW, OLD]).await;
    lab.apply(&plan("p", &json!({"targetVersion": "latest"})))
        .await
        .unwrap();
    let first = status(&lab, "p", "run with its targets", |status| {
        status.nodes.updating > 0 && status.run.as_ref().is_some_and(|run| run.targets.len() == 2)
    })
    .await;
    publish(&lab, image(&lab, "n1", NEWER));
    offered(&lab, "n1", &[NEWER, NEW, OLD]).await;
    let run = first.run.unwrap();
    let targets: Vec<&str> = run.targets.iter().map(|target| target.version.as_str()).collect();
    assert_eq!(targets, ["1.20.5", NEW], "by variant");
    let done = status(&lab, "p", "first run that is complete", |status| {
        let ended = status.history.iter().any(|past| past.id == run.id);
        ended || status.phase == Some(Phase::Complete)
    })
    .await;
    let kept = done
        .history
        .iter()
        .find(|past| past.id == run.id)
        .map(|past| &past.targets);
    assert_eq!(*kept.unwrap_or(&done.run.as_ref().unwrap().targets), run.targets);

    // The next begins by itself.
    let second = status(&lab, "p", "second run that is complete", |status| {
        let other = status
            .run
            .as_ref()
            .is_some_and(|other| other.id != run.id && other.completed_at.is_some());
        other && status.phase == Some(Phase::Complete)
    })
    .await;
    assert_eq!(versions(&lab), [NEWER, NEWER, "1.20.5"]);
    assert_eq!((reboots(&lab, "n1"), reboots(&lab, "x1")), (2, 1));
    assert_eq!(
        (second.nodes.updated, second.history[0].outcome.as_str()),
        (3, "AllUpdated")
    );
    all_idle(&lab).await;
    lab.finish(&Expectations::complete("p")).await.unwrap();
}

/// Waits until the node's agent reports just these versions.
async fn offered(lab: &Lab, node: &str, versions: &[&str]) {
    let name = api::names::shadow_name(node);
    let reported = lab.shadows(SOON, "shadow with what is on offer", |shadows| {
        let mut of_node = shadows.iter().filter(|shadow| shadow.name_any() == name);
        of_node.any(|shadow| {
            let offered = shadow.status.iter().flat_map(|status| &status.offered);
            offered
                .map(|offer| offer.version.as_str())
                .eq(versions.iter().copied())
        })
    });
    Box::pin(reported).await.unwrap();
}
