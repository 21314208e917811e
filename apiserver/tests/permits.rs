//! The reboot permit over HTTPS, with the faults that matter.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use api::names;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use support::{LEDGERS, NODES, Server, WORKLOADS, at, kubernetes::Fault};

const PERMIT: &str = "/v1/nodes/n1/permit";

fn request() -> Value {
    json!({"run": "r1", "attempt": 1, "boot_id": "boot-a"})
}

/// A server where node `n1` is cordoned and drained, in a window that closes at 100 s.
async fn drained() -> Server {
    let server = Server::start(&[]).await;
    server.kubernetes.edit(NODES, "n1", |node| {
        let disruption = json!({"planUid": "plan", "run": "r1", "wave": "rest", "attempt": 1,
            "cordonedAt": at(-10), "annotationsBefore": {}});
        node["spec"]["unschedulable"] = true.into();
        node["metadata"]["annotations"] = json!({names::DISRUPTION_ANNOTATION: disruption.to_string()});
    });
    server.kubernetes.put(
        LEDGERS,
        "cluster",
        json!({
            "apiVersion": "brupop.bottlerocket.aws/v1alpha1", "kind": "UpdateLedger", "metadata": {},
            "spec": {"plans": {}, "grants": {"u1": {
                "node": "n1", "plan": "plan", "generation": 1, "run": "r1", "wave": "rest", "attempt": 1,
                "from": "1.20.3", "to": "1.21.0", "phase": "Drained",
                "grantedAt": at(-60), "phaseSince": at(-5), "notAfter": at(100)}}},
        }),
    );
    server
}

fn grant(server: &Server) -> Value {
    server.kubernetes.get(LEDGERS, "cluster").unwrap()["spec"]["grants"]["u1"].clone()
}

#[tokio::test]
async fn s5_a_permit_is_given_once_and_again_only_after_the_same_checks() {
    let server = drained().await;
    let (status, given) = server.call(Method::POST, PERMIT, &request()).await;
    assert_eq!(
        (status, &given["valid_for_ms"]),
        (StatusCode::OK, &json!(30_000)),
        "{given}"
    );
    assert_eq!(grant(&server)["phase"], "Rebooting");
    assert_eq!(grant(&server)["permit"]["id"], given["permit_id"]);
    let swaps = server.kubernetes.calls("PUT");

    let (status, again) = server.call(Method::POST, PERMIT, &request()).await;
    assert_eq!((status, &again), (StatusCode::OK, &given));
    assert_eq!(server.kubernetes.calls("PUT"), swaps, "nothing to swap");
    assert_eq!(
        server.kubernetes.calls("POST /apis/authentication"),
        2,
        "every permit is reviewed afresh"
    );

    let other_boot = json!({"run": "r1", "attempt": 1, "boot_id": "boot-b"});
    let (status, refusal) = server.call(Method::POST, PERMIT, &other_boot).await;
    assert_eq!(
        (status, &refusal["permit"]["reason"]),
        (StatusCode::CONFLICT, &json!("OtherBoot"))
    );

    server.kubernetes.put(
        WORKLOADS,
        "late",
        json!({
        "metadata": {"namespace": "web"}, "spec": {"nodeName": "n1", "containers": []}}),
    );
    let (status, refusal) = server.call(Method::POST, PERMIT, &request()).await;
    let left = json!({"reason": "PodsLeft", "pods": ["web/late"]});
    assert_eq!((status, &refusal["permit"]), (StatusCode::CONFLICT, &left));
    server.kubernetes.delete(WORKLOADS, "late");
    server
        .kubernetes
        .edit(NODES, "n1", |node| node["spec"]["unschedulable"] = false.into());
    let (_, refusal) = server.call(Method::POST, PERMIT, &request()).await;
    assert_eq!(refusal["permit"]["reason"], "NotCordoned");
    let (_, metrics) = server.get_health("/metrics").await;
    for line in [
        "permits_total{result=\"given\"} 2",
        "permits_total{result=\"PodsLeft\"} 1",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_ledger_that_changed_is_read_again_and_a_lost_answer_leads_to_the_same_permit() {
    let server = drained().await;
    server.kubernetes.objects().faults.extend([
        ("updateledgers", Fault::Conflict),
        ("updateledgers", Fault::Conflict),
        ("updateledgers", Fault::LostReply),
    ]);
    let (status, refusal) = server.call(Method::POST, PERMIT, &request()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{refusal}");
    assert_eq!(refusal.get("permit"), None);
    let recorded = grant(&server)["permit"]["id"].clone();
    let (status, given) = server.call(Method::POST, PERMIT, &request()).await;
    assert_eq!((status, &given["permit_id"]), (StatusCode::OK, &recorded));
    server.stop().await;
}

/// Lets the watch show the ledger: a permit is then given without a read of it.
async fn watch_has_caught_up(server: &Server) {
    let reads = format!("GET {LEDGERS}/cluster");
    for _ in 0..200 {
        let before = server.kubernetes.calls(&reads);
        let (_, answer) = server.call(Method::POST, PERMIT, &request()).await;
        if answer.get("permit_id").is_some() && server.kubernetes.calls(&reads) == before {
            return;
        }
        server.kubernetes.edit(LEDGERS, "cluster", |ledger| {
            ledger["spec"]["grants"]["u1"]["phase"] = "Drained".into();
            ledger["spec"]["grants"]["u1"]
                .as_object_mut()
                .unwrap()
                .remove("permit");
        });
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the watch does not catch up");
}

#[tokio::test]
async fn s5_the_ledger_that_the_watch_shows_is_believed_only_where_the_swap_proves_it() {
    let server = drained().await;
    watch_has_caught_up(&server).await;
    assert_eq!(grant(&server)["phase"], "Rebooting");
    server.kubernetes.objects().watches_lag = true;

    // A failure has ended the attempt: what was permitted before is not any more.
    let ending = json!({"message": "gone", "failure": "RebootTimeout", "at": at(1)});
    server.kubernetes.edit(LEDGERS, "cluster", |ledger| {
        ledger["spec"]["grants"]["u1"]["ending"] = ending;
    });
    let (status, refusal) = server.call(Method::POST, PERMIT, &request()).await;
    assert_eq!(
        (status, &refusal["permit"]["reason"]),
        (StatusCode::CONFLICT, &json!("WrongPhase")),
        "{refusal}"
    );

    // A new attempt, which the watch does not show either: it is read.
    server.kubernetes.edit(LEDGERS, "cluster", |ledger| {
        let grant = ledger["spec"]["grants"]["u1"].as_object_mut().unwrap();
        grant.remove("ending");
        grant.remove("permit");
        grant.insert("phase".into(), "Drained".into());
        grant.insert("attempt".into(), 2.into());
    });
    server.kubernetes.edit(NODES, "n1", |node| {
        let disruption = json!({"planUid": "plan", "run": "r1", "wave": "rest", "attempt": 2,
            "cordonedAt": at(-10), "annotationsBefore": {}});
        node["metadata"]["annotations"] = json!({names::DISRUPTION_ANNOTATION: disruption.to_string()});
    });
    let second = json!({"run": "r1", "attempt": 2, "boot_id": "boot-a"});
    let (status, given) = server.call(Method::POST, PERMIT, &second).await;
    assert_eq!(status, StatusCode::OK, "{given}");
    assert_eq!(grant(&server)["permit"]["id"], given["permit_id"]);
    server.stop().await;
}

#[tokio::test]
async fn s5_a_withdrawal_that_the_watch_does_not_show_yet_wins() {
    let server = drained().await;
    // The watch shows a grant that is Drained, in a ledger that nobody has swapped since.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    server.kubernetes.objects().watches_lag = true;
    server.kubernetes.edit(LEDGERS, "cluster", |ledger| {
        ledger["spec"]["grants"]["u1"]["phase"] = "Withdrawing".into();
    });
    let (status, refusal) = server.call(Method::POST, PERMIT, &request()).await;
    assert_eq!(
        (status, &refusal["permit"]["reason"]),
        (StatusCode::CONFLICT, &json!("WrongPhase")),
        "{refusal}"
    );
    assert_eq!(grant(&server)["phase"], "Withdrawing");
    server.stop().await;
}

#[tokio::test]
async fn s4_no_permit_outside_the_window_and_none_that_outlasts_it() {
    let server = drained().await;
    server.set_clock(98);
    let (_, given) = server.call(Method::POST, PERMIT, &request()).await;
    assert_eq!(given["valid_for_ms"], 2_000);
    server.set_clock(100);
    let (status, refusal) = server.call(Method::POST, PERMIT, &request()).await;
    assert_eq!(
        (status, &refusal["permit"]["reason"]),
        (StatusCode::CONFLICT, &json!("WindowClosed"))
    );
    server.stop().await;
}

#[tokio::test]
async fn without_a_ledger_or_a_grant_there_is_no_permit() {
    let server = drained().await;
    server.kubernetes.edit(LEDGERS, "cluster", |ledger| {
        ledger["spec"]["grants"]["u1"]["phase"] = "Withdrawing".into()
    });
    let (_, refusal) = server.call(Method::POST, PERMIT, &request()).await;
    assert_eq!(
        refusal["permit"],
        json!({"reason": "WrongPhase", "phase": "Withdrawing"})
    );
    server.kubernetes.delete(LEDGERS, "cluster");
    let (status, refusal) = server.call(Method::POST, PERMIT, &request()).await;
    assert_eq!(
        (status, &refusal["permit"]["reason"]),
        (StatusCode::CONFLICT, &json!("NoGrant"))
    );
    let (status, refusal) = server
        .call(
            Method::POST,
            PERMIT,
            &json!({"run": "", "attempt": 1, "boot_id": "b"}),
        )
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{refusal}");
    server.stop().await;
}
