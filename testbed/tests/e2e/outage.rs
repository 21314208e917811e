//! The Kubernetes API is gone for a minute in the middle of a rollout.

use std::time::Duration;

use api::ledger::{GrantPhase, PERMIT_VALIDITY};
use chrono::{TimeDelta, Utc};
use hyper::StatusCode;
use serde_json::json;
use testbed::fleet::FleetSpec;
use testbed::oracle::Expectations;
use testbed::proxy::{Proxy, When};
use testbed::truth::SimEventKind;

use crate::permits::{held, permits};
use crate::support::{
    NEW, assert_untouched, begins_reboot, complete, get_ledger, get_node, lab, plan, pools, reboots, relent,
    seconds, status, stubborn_pod, unschedulable, versions,
};

/// For how long the API is gone: longer than a permit is valid, than any watch or request of ours waits, and than a
/// node may be silent.
const GONE: Duration = seconds(60);

/// Between the agent's own clock saying that its permit is still good, and the machine's log.
const CALL_TIME: TimeDelta = TimeDelta::milliseconds(500);

/// How long each node prepares and boots: when the API goes, each is at another step.
const SLOW: [(&str, u64, u64); 4] = [
    ("staging1", 20_000, 0),
    ("rebooting1", 0, 20_000),
    ("permitted1", 1_500, 0),
    ("asking1", 2_500, 0),
];

fn fleet() -> FleetSpec {
    let pool = |name| (name, 1);
    let mut fleet = pools(&["staging", "draining", "rebooting", "permitted", "asking"].map(pool));
    for group in &mut fleet.groups {
        group.labels.insert("wave".to_owned(), "first".to_owned());
    }
    fleet.groups.extend(pools(&[("waiting", 2)]).groups);
    fleet.workloads = vec![stubborn_pod("draining1")];
    fleet
}

#[tokio::test(flavor = "multi_thread")]
async fn s5_while_kube_apiserver_is_gone_for_a_minute_no_disruption_begins_and_then_all_goes_on() {
    let mut lab = lab(fleet()).await;
    for (node, prepare, boot) in SLOW {
        let node = lab.fleet.node(node).unwrap();
        let mut latencies = node.latencies();
        (latencies.prepare, latencies.boot) = (Duration::from_millis(prepare), Duration::from_millis(boot));
        node.set_latencies(latencies);
    }
    let proxy = Proxy::start(&lab.plane, "of-apiserver").await.unwrap();
    lab.operator.lead_apiserver_through(&proxy).await.unwrap();
    let permitted = get_node(&lab, "permitted1").await.metadata.uid.unwrap();
    let is_permitted = {
        let uid = permitted.clone();
        move |ledger: &serde_json::Value| ledger["spec"]["grants"][&uid]["phase"] == "Rebooting"
    };
    let mut hold = proxy.hold(When::Answered, move |asked| {
        permits(asked) && is_permitted(&asked.json())
    });
    let first = json!({"name": "first", "nodeSelector": {"matchLabels": {"wave": "first"}}});
    lab.apply(&plan(
        "p",
        &json!({"maxUnavailable": 5, "waves": [first, {"name": "rest"}]}),
    ))
    .await
    .unwrap();

    // One is staged, one drained, one boots, one is permitted to reboot and does not know it yet, and one is about to ask.
    let permit = held(&lab, &mut hold).await;
    assert_eq!(permit.status, Some(StatusCode::OK));
    status(&lab, "p", "five nodes on their way", |status| {
        let does = |node: &str, doing: &str| {
            let mut active = status.active.iter();
            active.any(|active| active.node == node && active.doing.contains(doing))
        };
        does("staging1", "staging")
            && does("draining1", "forbids the eviction")
            && does("rebooting1", "rebooting")
            && does("permitted1", "rebooting")
            && does("asking1", "drained, about to reboot")
    })
    .await;
    let before = get_ledger(&lab).await;
    let seen = lab.fleet.truth().events().len();
    let gone = tokio::time::Instant::now();
    lab.plane.stop_apiserver().await.unwrap();
    drop(hold);
    drop(permit);

    // Nothing else of ours is spared meanwhile.
    tokio::time::sleep_until(gone + seconds(10)).await;
    lab.operator.controller.restart().await.unwrap();
    tokio::time::sleep_until(gone + seconds(25)).await;
    lab.operator.crash_agents();
    tokio::time::sleep_until(gone + seconds(35)).await;
    lab.operator.apiserver.restart().await.unwrap();
    tokio::time::sleep_until(gone + GONE).await;
    let meanwhile = lab.fleet.truth().since(seen);
    let back = Utc::now();
    assert!(lab.operator.controller.ended().is_none() && lab.operator.apiserver.ended().is_none());
    lab.plane.start_apiserver().await.unwrap();

    let begun: Vec<_> = meanwhile.iter().filter(|event| begins_reboot(event)).collect();
    let of_nodes: Vec<&str> = begun.iter().map(|event| event.node.as_str()).collect();
    assert_eq!(
        of_nodes,
        ["permitted1"],
        "only who had the permit rebooted: {begun:?}"
    );
    let grant = &before.spec.grants[&permitted];
    let permit = grant.permit.as_ref().unwrap();
    assert_eq!(grant.phase, GrantPhase::Rebooting);
    assert!(
        matches!(&begun[0].kind, SimEventKind::RebootBegun { boot_id, .. } if *boot_id == permit.boot_id),
        "{begun:?}"
    );
    assert!(begun[0].at - permit.at <= PERMIT_VALIDITY + CALL_TIME);
    assert!(back - permit.at > PERMIT_VALIDITY);

    // All goes on from where it was.
    assert!(unschedulable(&get_node(&lab, "draining1").await));
    relent(&lab, "draining1").await;
    complete(&lab, "p").await;
    assert_eq!(versions(&lab), [NEW; 7]);
    let nodes: Vec<String> = lab
        .fleet
        .nodes()
        .iter()
        .map(|node| node.name().to_owned())
        .collect();
    for node in &nodes {
        assert_eq!(reboots(&lab, node), 1, "{node}");
        assert_untouched(&lab, node).await;
    }
    lab.finish(&Expectations {
        asked_again: nodes.into_iter().collect(),
        ..Expectations::complete("p")
    })
    .await
    .unwrap();
}
