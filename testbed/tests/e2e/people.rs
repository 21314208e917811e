//! What people have a say in: a wave that is approved, and the zones that are disrupted at a time.

use api::names::{APPROVE_ANNOTATION, REASON_ANNOTATION};
use api::plan::{Phase, WavePhase};
use chrono::{DateTime, Utc};
use serde_json::json;
use testbed::lab::Lab;
use testbed::oracle::Expectations;
use testbed::truth::{SimEvent, SimEventKind};

use crate::support::{
    NEW, OLD, assert_says, complete, get_ledger, lab, machines, plan, show, status, versions,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_waits_for_approval_and_the_rest_follows_when_a_person_gives_it() {
    let lab = lab(machines(3)).await;
    let waves = json!([{"name": "canary", "size": 1, "approval": "Manual"}, {"name": "rest"}]);
    lab.apply(&plan("p", &json!({"maxUnavailable": 2, "waves": waves})))
        .await
        .unwrap();
    let awaiting = status(&lab, "p", "plan that awaits approval", |status| {
        status.phase == Some(Phase::AwaitingApproval)
    })
    .await;
    let run = awaiting.run.unwrap().id;
    let message = awaiting.message.unwrap();
    assert_says(
        &message,
        &[
            "wave canary awaits approval",
            &format!("{APPROVE_ANNOTATION}={run}/canary"),
        ],
    );
    assert_eq!(awaiting.waves[0].phase, WavePhase::AwaitingApproval);
    show(
        "awaiting approval",
        &lab.plane.kubectl_ok(&["get", "uplan"]).await.unwrap(),
    );

    // For another run: it is ignored, and says so.
    annotate(&lab, "p", &format!("{APPROVE_ANNOTATION}=00000000/canary")).await;
    let ignored = status(&lab, "p", "approval that is ignored", |status| {
        status.actions.iter().any(|action| !action.taken)
    })
    .await;
    assert_eq!(ignored.phase, Some(Phase::AwaitingApproval));
    assert_says(&ignored.message.unwrap(), &[&format!("this is run {run}")]);
    assert_eq!(versions(&lab).iter().filter(|version| *version == OLD).count(), 2);

    annotate(&lab, "p", &format!("{REASON_ANNOTATION}=anna: looks fine")).await;
    annotate(&lab, "p", &format!("{APPROVE_ANNOTATION}={run}/canary")).await;
    let done = complete(&lab, "p").await;
    assert_eq!(versions(&lab), [NEW; 3]);
    assert!(done.waves[0].approved_at.is_some());
    assert!(
        done.actions.iter().all(|action| action.taken),
        "{:?}",
        done.actions
    );
    assert_eq!(done.actions[0].said.as_deref(), Some("anna: looks fine"));
    let ledger = get_ledger(&lab).await;
    let recorded = ledger.spec.plans.values().next().unwrap();
    assert_eq!(recorded.actions.taken, [format!("approve {run}/canary")]);
    lab.finish(&Expectations::complete("p")).await.unwrap();
}

async fn annotate(lab: &Lab, plan: &str, annotation: &str) {
    lab.plane
        .kubectl_ok(&["annotate", "--overwrite", "uplan", plan, annotation])
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_zone_is_disrupted_at_a_time_whatever_the_budget_allows() {
    let mut fleet = machines(0);
    let group = fleet.groups.remove(0);
    fleet.groups = ["a", "b", "c"]
        .map(|zone| {
            let mut group = group.clone();
            (group.prefix, group.zone, group.count) = (zone.to_owned(), Some(zone.to_owned()), 2);
            group
        })
        .into();
    let lab = lab(fleet).await;
    let topology = json!({"key": "topology.kubernetes.io/zone"});
    lab.apply(&plan(
        "p",
        &json!({"maxUnavailable": "100%", "topology": topology}),
    ))
    .await
    .unwrap();
    let waits = status(&lab, "p", "nodes that wait for a zone", |status| {
        status.waiting.iter().any(|group| group.reason == "DomainBusy")
    })
    .await;
    show("one zone at a time", &waits.message.unwrap());
    complete(&lab, "p").await;
    assert_eq!(versions(&lab), [NEW; 6]);
    // By the machines themselves: no two zones are down at the same time.
    let mut down: Vec<(DateTime<Utc>, DateTime<Utc>, String)> = Vec::new();
    for node in lab.fleet.nodes() {
        let events = node.events();
        let begun = |event: &&SimEvent| matches!(event.kind, SimEventKind::RebootBegun { .. });
        let from = events.iter().find(begun).unwrap().at;
        let booted =
            |event: &&SimEvent| event.at >= from && matches!(event.kind, SimEventKind::RebootFinished { .. });
        let to = events.iter().find(booted).unwrap().at;
        down.push((from, to, node.name()[..1].to_owned()));
    }
    for (i, (from, to, zone)) in down.iter().enumerate() {
        for (other_from, other_to, other) in &down[i + 1..] {
            assert!(
                zone == other || to <= other_from || other_to <= from,
                "zones {zone} and {other} are down at once: {down:?}"
            );
        }
    }
    lab.finish(&Expectations::complete("p")).await.unwrap();
}
