//! A window that closes while nodes are on their way.

use std::sync::Arc;
use std::time::Duration;

use api::plan::Phase;
use chrono::{DateTime, Utc};
use serde_json::json;
use testbed::fleet::{FleetSpec, SimNode};
use testbed::lab::Lab;
use testbed::oracle::Expectations;
use testbed::truth::{SimEvent, SimEventKind};

use crate::support::{
    NEW, assert_says, assert_untouched, begins_reboot, complete, edit, get_node, lab, no_grants, plan, pools,
    reboots, relent, rfc3339, seconds, status, stubborn_pod, unschedulable, versions, window,
};

/// Three nodes of the first wave, each slow in its own way, and one that waits for them.
fn fleet() -> FleetSpec {
    let mut spec = pools(&[("staging", 1), ("draining", 1), ("rebooting", 1), ("last", 1)]);
    for group in &mut spec.groups[..3] {
        group.labels.insert("wave".to_owned(), "first".to_owned());
    }
    spec.workloads = vec![stubborn_pod("draining1")];
    spec
}

fn make_slow(lab: &Lab, node: &str, prepare: Duration, boot: Duration) -> Arc<SimNode> {
    let node = lab.fleet.node(node).unwrap();
    let mut latencies = node.latencies();
    (latencies.prepare, latencies.boot) = (prepare, boot);
    node.set_latencies(latencies);
    node
}

fn is_disruption(event: &&SimEvent) -> bool {
    begins_reboot(event) || matches!(event.kind, SimEventKind::Activated { .. })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closing_window_takes_back_what_does_not_reboot_yet_and_nothing_begins_before_the_next() {
    let lab = lab(fleet()).await;
    let staging = make_slow(&lab, "staging1", seconds(18), seconds(0));
    let rebooting = make_slow(&lab, "rebooting1", seconds(0), seconds(17));
    let now = Utc::now();
    let closes: DateTime<Utc> = rfc3339(now + chrono::TimeDelta::seconds(14)).parse().unwrap();
    let first = window("first", now, 0, 14);
    lab.apply(&plan(
        "p",
        &json!({
            "maintenanceWindows": [first, window("tomorrow", now, 86_400, 90_000)],
            "maxUnavailable": 3,
            "waves": [{"name": "first", "nodeSelector": {"matchLabels": {"wave": "first"}}}, {"name": "rest"}],
        }),
    ))
    .await
    .unwrap();

    // Each is where it is meant to be when the window closes.
    status(&lab, "p", "three nodes on their way", |status| {
        let does = |node: &str, doing: &str| {
            status
                .active
                .iter()
                .any(|active| active.node == node && active.doing.contains(doing))
        };
        does("staging1", "staging")
            && does("draining1", "forbids the eviction")
            && does("rebooting1", "rebooting")
    })
    .await;
    assert!(Utc::now() < closes, "this machine was too slow for this test");
    assert!(unschedulable(&get_node(&lab, "draining1").await));

    no_grants(&lab, seconds(60), &["staging1", "draining1"]).await;
    assert!(Utc::now() >= closes);
    for node in ["staging1", "draining1"] {
        assert_untouched(&lab, node).await;
        assert_eq!(reboots(&lab, node), 0);
    }
    assert_eq!(staging.version(), "1.20.3");

    let waiting = status(&lab, "p", "third node to finish", |status| {
        status.phase == Some(Phase::WaitingForWindow) && status.nodes.updated == 1
    })
    .await;
    let message = waiting.message.unwrap();
    let tomorrow = rfc3339(now + chrono::TimeDelta::days(1));
    assert_says(
        &message,
        &[
            "1 of 4 nodes run 1.21.0",
            "outside the maintenance windows",
            "the next opens",
            &tomorrow,
        ],
    );
    assert_untouched(&lab, "rebooting1").await;
    assert_eq!(rebooting.version(), NEW);
    let back = rebooting
        .events()
        .into_iter()
        .find(|event| matches!(event.kind, SimEventKind::RebootFinished { .. }));
    assert!(back.unwrap().at > closes, "it was to come back after the close");
    let begun = lab.fleet.truth().events().iter().rfind(is_disruption).unwrap().at;
    assert!(begun < closes);

    // The next window: everybody goes on from there.
    relent(&lab, "draining1").await;
    make_slow(&lab, "staging1", seconds(0), seconds(0));
    let seen = lab.fleet.truth().events().len();
    let now = Utc::now();
    let opens: DateTime<Utc> = rfc3339(now + chrono::TimeDelta::seconds(3)).parse().unwrap();
    edit(
        &lab,
        "p",
        &json!({"maintenanceWindows": [window("second", now, 3, 600)]}),
    )
    .await;
    complete(&lab, "p").await;
    assert_eq!(versions(&lab), [NEW; 4]);
    let first = lab.fleet.truth().since(seen);
    assert!(
        first.iter().find(is_disruption).unwrap().at >= opens,
        "something began before the window"
    );
    assert_eq!(reboots(&lab, "rebooting1"), 1);
    lab.finish(&Expectations::complete("p")).await.unwrap();
}
