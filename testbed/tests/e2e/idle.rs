//! L7: where there is nothing to do, nothing is written but the lease, and nodes are left in peace.

use std::collections::BTreeMap;

use chrono::Utc;
use serde_json::{Value, json};
use testbed::lab::Lab;
use testbed::oracle::Expectations;

use crate::support::{complete, lab, machines, plan, seconds, window};

/// What the operator's programs have asked of the Kubernetes API so far: verb and resource, with their number.
fn requests(lab: &Lab) -> BTreeMap<String, usize> {
    let log = std::fs::read_to_string(lab.plane.audit_log()).unwrap();
    let mut requests = BTreeMap::new();
    // The last line may be half written.
    for event in log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
    {
        let user = event["user"]["username"].as_str().unwrap_or_default();
        if let Some(program) =
            user.strip_prefix("system:serviceaccount:brupop-bottlerocket-aws:brupop-update-")
        {
            let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (verb, resource) = (word(&event["verb"]), word(&event["objectRef"]["resource"]));
            *requests
                .entry(format!("{program} {verb} {resource}"))
                .or_default() += 1;
        }
    }
    requests
}

/// The agents' requests to the operator's apiserver so far, by its own count.
async fn agents_requests(lab: &Lab) -> Vec<String> {
    let metrics = lab.operator.apiserver_metrics().await.unwrap();
    let counters = metrics
        .lines()
        .filter(|line| line.starts_with("brupop_apiserver_requests_total"));
    let counters: Vec<String> = counters.map(str::to_owned).collect();
    assert!(!counters.is_empty(), "{metrics}");
    counters
}

#[tokio::test(flavor = "multi_thread")]
async fn l7_an_idle_cluster_causes_no_writes_but_the_lease() {
    let lab = lab(machines(3)).await;
    // While nothing may happen, a window closes and another opens, in which there is nothing left to do.
    let now = Utc::now();
    let windows = json!([window("first", now, 0, 10), window("second", now, 16, 600)]);
    lab.apply(&plan(
        "p",
        &json!({"maxUnavailable": 3, "maintenanceWindows": windows}),
    ))
    .await
    .unwrap();
    complete(&lab, "p").await;
    // What the last updates have caused is over.
    tokio::time::sleep(seconds(2)).await;

    let (before, asked, truth) = (
        requests(&lab),
        agents_requests(&lab).await,
        lab.fleet.truth().events().len(),
    );
    // This is no wait for something: it is how long nothing may happen.
    tokio::time::sleep(seconds(15)).await;
    let reads = ["get", "list", "watch"];
    let writes: BTreeMap<String, usize> = requests(&lab)
        .into_iter()
        .map(|(what, count)| {
            (
                what.clone(),
                count - before.get(&what).copied().unwrap_or_default(),
            )
        })
        .filter(|(what, count)| *count > 0 && !reads.contains(&what.split(' ').nth(1).unwrap()))
        .collect();
    let lease = writes
        .get("controller update leases")
        .copied()
        .unwrap_or_default();
    assert!(
        (10..=40).contains(&lease),
        "the lease is renewed twice a second in tests: {writes:?}"
    );
    assert_eq!(writes.len(), 1, "{writes:?}");
    assert_eq!(
        agents_requests(&lab).await,
        asked,
        "an idle agent asks its server for nothing"
    );
    assert_eq!(
        lab.fleet.truth().since(truth),
        [],
        "an idle agent leaves its node in peace"
    );
    lab.finish(&Expectations::complete("p")).await.unwrap();
}
