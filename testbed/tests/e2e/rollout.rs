//! The main job, from `kubectl apply` to `kubectl wait`, with every real part, and what a person reads meanwhile.

use std::collections::BTreeMap;

use api::plan::Phase;
use chrono::Utc;
use serde_json::json;
use testbed::fleet::FleetSpec;
use testbed::lab::Lab;
use testbed::operator::{Agents, Options};
use testbed::oracle::Expectations;

use crate::support::{NEW, assert_says, edit, pools, raw_plan, show, status, versions, window};

/// Nine nodes of production and three for development.
fn fleet() -> FleetSpec {
    let mut spec = pools(&[("web", 9), ("dev", 3)]);
    spec.groups[1].labels.insert("tier".to_owned(), "dev".to_owned());
    let shop = json!([{"name": "shop", "replicas": 6, "maxUnavailable": 2}]);
    spec.workloads = serde_json::from_value(shop).unwrap();
    spec
}

struct Seen {
    get: String,
    describe: String,
}

async fn look(lab: &Lab, title: &str) -> Seen {
    let (get, describe) = tokio::join!(
        lab.plane.kubectl_ok(&["get", "uplan"]),
        lab.plane.kubectl_ok(&["describe", "uplan", "web"])
    );
    let seen = Seen {
        get: get.unwrap(),
        describe: describe.unwrap(),
    };
    show(&format!("{title}: kubectl get uplan"), &seen.get);
    show(&format!("{title}: kubectl describe uplan web"), &seen.describe);
    seen
}

/// The one plan in the answer of `kubectl get`, by column.
fn row(get: &str) -> BTreeMap<&str, &str> {
    let (header, line) = get.trim_end().split_once('\n').unwrap();
    let starts_column = |i: usize| !header[i..].starts_with(' ') && (i == 0 || header[..i].ends_with("   "));
    let starts: Vec<usize> = (0..header.len()).filter(|i| starts_column(*i)).collect();
    let ends = starts[1..].iter().copied().chain([usize::MAX]);
    let cell = |text: &'_ str, start: usize, end: usize| (start.min(text.len()), end.min(text.len()));
    let cells = starts.iter().zip(ends).map(|(start, end)| {
        let (name, value) = (cell(header, *start, end), cell(line, *start, end));
        (header[name.0..name.1].trim(), line[value.0..value.1].trim())
    });
    cells.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn twelve_nodes_in_windows_and_waves_and_what_kubectl_shows() {
    let options = Options {
        agents: Agents::Processes,
        ..Options::default()
    };
    let lab = Box::pin(Lab::start(fleet(), &options)).await.unwrap();
    let now = Utc::now();
    // The canary fits into the first window if it is granted within 10 s, and is monitored for long enough to be looked at; what
    // follows its soak does not fit.
    let windows = json!([
        window("tonight", now, 0, 20),
        window("tomorrow", now, 86_400, 90_000)
    ]);
    let spec = json!({
        "targetVersion": "1.21.0",
        "nodeSelector": {},
        "maintenanceWindows": windows,
        "expectedNodeDuration": "10s",
        "maxUnavailable": "50%",
        "waves": [
            {"name": "canary", "size": 1, "soak": "12s"},
            {"name": "dev", "nodeSelector": {"matchLabels": {"tier": "dev"}}, "maxUnavailable": 2, "soak": "1s"},
            {"name": "rest"},
        ],
        "monitoring": {"minReady": "8s", "timeout": "30s"},
    });
    lab.apply(&raw_plan("web", &spec).to_string()).await.unwrap();

    status(&lab, "web", "canary that is monitored", |status| {
        status.active.iter().any(|node| node.doing == "being monitored")
    })
    .await;
    canary_under_way(&look(&lab, "canary under way").await, &lab);

    status(&lab, "web", "plan that waits for its window", |status| {
        status.phase == Some(Phase::WaitingForWindow)
    })
    .await;
    waiting_for_the_window(&look(&lab, "waiting for the window").await);

    // Somebody cannot wait until tomorrow.
    edit(
        &lab,
        "web",
        &json!({"maintenanceWindows": [window("now", Utc::now(), -1, 600)], "monitoring": {"minReady": "1s"}}),
    )
    .await;
    let waited = lab
        .plane
        .kubectl_ok(&["wait", "--for=condition=Complete", "uplan/web", "--timeout=120s"])
        .await;
    if let Err(error) = waited {
        panic!("{error:#}\n{}", lab.describe().await);
    }
    complete(&look(&lab, "complete").await);
    assert_eq!(versions(&lab), vec![NEW; 12]);
    lab.finish(&Expectations::complete("web")).await.unwrap();
}

fn canary_under_way(seen: &Seen, lab: &Lab) {
    let row = row(&seen.get);
    assert_eq!(row["NAME"], "web");
    assert_eq!(row["TARGET"], "1.21.0");
    assert_eq!(row["PHASE"], "Progressing");
    assert_eq!(row["WAVE"], "canary (1/3)");
    assert_eq!(row["UPDATED"], "0/12");
    assert_eq!(row["UNAVAILABLE"], "1");
    assert_eq!(row["FAILED"], "0");
    assert!(row["NEXT WINDOW"].starts_with("open until 20"), "{}", seen.get);
    // The message names the node and what it does.
    let canary = lab
        .fleet
        .nodes()
        .into_iter()
        .find(|node| node.version() == "1.21.0")
        .unwrap();
    let message = format!(
        "0 of 12 nodes run 1.21.0; wave canary: {} is being monitored",
        canary.name()
    );
    assert_says(
        &seen.describe,
        &[
            &message,
            "Type:                  Progressing",
            "Type:                  Valid",
            "the spec can be carried out",
            "waits for wave canary",
            "Events:",
            "RunStarted",
            "NodeGranted",
            &format!("node {} may be updated from 1.20.3 to 1.21.0", canary.name()),
            "NodeRebooted",
        ],
    );
}

fn waiting_for_the_window(seen: &Seen) {
    let row = row(&seen.get);
    assert_eq!(row["PHASE"], "WaitingForWindow");
    assert_eq!(row["WAVE"], "dev (2/3)");
    assert_eq!(row["UPDATED"], "1/12");
    assert_eq!(row["UNAVAILABLE"], "0");
    assert_says(
        &seen.describe,
        &[
            "1 of 12 nodes run 1.21.0;",
            "WaveDone",
            "wave canary is done, 1 of 1 updated; wave dev starts",
            "NodeUpdated",
            "WaitingForWindow",
        ],
    );
    // Open, but too short, or closed: what matters is when it goes on.
    let tomorrow = (Utc::now() + chrono::TimeDelta::days(1))
        .format("%Y-%m-%dT")
        .to_string();
    assert_says(&seen.describe, &["the next opens ", &tomorrow]);
}

fn complete(seen: &Seen) {
    let row = row(&seen.get);
    assert_eq!(row["PHASE"], "Complete");
    assert_eq!(row["WAVE"], "rest (3/3)");
    assert_eq!(row["UPDATED"], "12/12");
    assert_eq!(row["UNAVAILABLE"], "0");
    assert_eq!(row["FAILED"], "0");
    assert_says(
        &seen.describe,
        &[
            "12 of 12 nodes run 1.21.0",
            "AllUpdated",
            "no node has failed",
            "Completed At:",
        ],
    );
}
