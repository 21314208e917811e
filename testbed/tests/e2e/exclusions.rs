//! An exclusion that begins while nodes are on their way, in a plan that lets them finish.

use api::plan::Phase;
use chrono::{DateTime, Utc};
use serde_json::json;
use testbed::oracle::Expectations;
use testbed::truth::{SimEvent, SimEventKind};

use crate::support::{
    NEW, assert_says, assert_untouched, complete, get_ledger, get_node, lab, plan, pools, reboots, relent,
    rfc3339, seconds, status, stubborn_pod, unschedulable, versions, window, within,
};

fn activates(node: &str) -> impl Fn(&&SimEvent) -> bool {
    move |event| event.node == node && matches!(event.kind, SimEventKind::Activated { .. })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exclusion_lets_finish_what_is_cordoned_and_nothing_begins_before_its_end() {
    let mut fleet = pools(&[("draining", 1), ("staging", 1), ("last", 1)]);
    fleet.workloads = vec![stubborn_pod("draining1")];
    let lab = lab(fleet).await;
    let staging = lab.fleet.node("staging1").unwrap();
    let mut latencies = staging.latencies();
    latencies.prepare = seconds(13);
    staging.set_latencies(latencies);
    let now = Utc::now();
    let instant = |seconds| -> DateTime<Utc> {
        rfc3339(now + chrono::TimeDelta::seconds(seconds))
            .parse()
            .unwrap()
    };
    let (begins, ends) = (instant(12), instant(40));
    let wave = |pool: &str| json!({"name": pool, "nodeSelector": {"matchLabels": {"pool": pool}}});
    lab.apply(&plan(
        "p",
        &json!({
            "maintenanceWindows": [window("all-day", now, 0, 7200)],
            "exclusions": [window("quiet", now, 12, 40)],
            "onWindowEnd": "Finish",
            "maxUnavailable": 2,
            "waves": [{"name": "first", "nodeSelector": {"matchExpressions": [
                {"key": "pool", "operator": "In", "values": ["draining", "staging"]}]}}, wave("last"), {"name": "rest"}],
        }),
    ))
    .await
    .unwrap();

    // One is cordoned and drains, one is not there yet when the exclusion begins.
    status(&lab, "p", "two nodes on their way", |status| {
        let does = |node: &str, doing: &str| {
            let mut active = status.active.iter();
            active.any(|active| active.node == node && active.doing.contains(doing))
        };
        let window = status.window.as_ref();
        does("staging1", "staging")
            && does("draining1", "forbids the eviction")
            && window.is_some_and(|window| window.open && window.exclusion.as_deref() == Some("quiet"))
    })
    .await;
    assert!(Utc::now() < begins, "this machine was too slow for this test");

    let excluded = status(&lab, "p", "exclusion that is on", |status| {
        let window = status.window.as_ref();
        window.is_some_and(|window| !window.open)
            && !status.active.iter().any(|active| active.node == "staging1")
    })
    .await;
    let window = excluded.window.unwrap();
    assert_eq!(
        (window.exclusion.as_deref(), window.next_opens_at),
        (Some("quiet"), Some(ends))
    );
    let waits = excluded
        .waiting
        .iter()
        .find(|group| group.reason == "Excluded")
        .unwrap();
    assert_says(
        &waits.message,
        &["exclusion quiet is on, the next window opens", &rfc3339(ends)],
    );
    assert_untouched(&lab, "staging1").await;

    // The one that is cordoned is let go by its pod, and finishes while the exclusion is on.
    assert!(unschedulable(&get_node(&lab, "draining1").await));
    let ledger = get_ledger(&lab).await;
    let grant = ledger
        .spec
        .grants
        .values()
        .find(|grant| grant.node == "draining1")
        .unwrap();
    assert_eq!(grant.not_after, None);
    relent(&lab, "draining1").await;
    within(&lab, "p", seconds(30), "node that finished", |status| {
        status.nodes.updated == 1 && status.phase == Some(Phase::WaitingForWindow)
    })
    .await;
    assert!(Utc::now() < ends, "this machine was too slow for this test");
    assert_eq!((reboots(&lab, "draining1"), reboots(&lab, "staging1")), (1, 0));

    complete(&lab, "p").await;
    assert_eq!(versions(&lab), [NEW; 3]);
    let events = lab.fleet.truth().events();
    let last = events.iter().find(activates("last1")).unwrap().at;
    assert!(last >= ends, "nothing begins before the end of the exclusion");
    lab.finish(&Expectations::complete("p")).await.unwrap();
}
