//! What people have a say in: a wave that is approved, a run that is started or retried, nodes that are left out, the zones that
//! are disrupted at a time, and the whole install.

use api::ledger::GrantPhase;
use api::names::{
    APPROVE_ANNOTATION, OPT_OUT_ANNOTATION, REASON_ANNOTATION, RETRY_ANNOTATION, RUN_NOW_ANNOTATION,
};
use api::plan::{Phase, WavePhase, condition};
use chrono::{DateTime, Utc};
use serde_json::json;
use testbed::bottlerocket::{Call, CallFault};
use testbed::lab::Lab;
use testbed::operator::NAMESPACE;
use testbed::oracle::Expectations;
use testbed::truth::{SimEvent, SimEventKind};

use crate::crashes::any_grant;
use crate::support::{
    NEW, OLD, SOON, assert_says, assert_untouched, complete, get_ledger, get_node, lab, machines, no_grants,
    plan, pools, reboots, seconds, show, status, unschedulable, versions, window,
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
    let canary = &done.waves[0];
    assert!(canary.started_at.is_some() && canary.started_at <= canary.approved_at);
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

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_started_and_retried_by_people_and_ends_without_the_nodes_that_they_keep_from_it() {
    let lab = lab(machines(4)).await;
    let kubectl = async |args: &[&str]| lab.plane.kubectl_ok(args).await.unwrap();
    kubectl(&[
        "annotate",
        "node",
        "n1",
        &format!("{OPT_OUT_ANNOTATION}=benchmark until Friday"),
    ])
    .await;
    kubectl(&["cordon", "n3"]).await;
    let failing = lab.fleet.node("n2").unwrap();
    failing.faults(|faults| faults.every_call(Call::Prepare, CallFault::Fails));
    lab.apply(&plan(
        "p",
        &json!({
            "maintenanceWindows": [window("tomorrow", Utc::now(), 86_400, 90_000)], "maxUnavailable": 4,
            "skipAfter": "3s", "failurePolicy": {"retries": 0, "threshold": 1},
        }),
    ))
    .await
    .unwrap();
    let waiting = status(&lab, "p", "plan that waits for its window", |status| {
        status.phase == Some(Phase::WaitingForWindow)
    })
    .await;
    let run = waiting.run.unwrap().id;

    annotate(&lab, "p", &format!("{RUN_NOW_ANNOTATION}={run}")).await;
    let halted = status(&lab, "p", "plan that is halted and at rest", |status| {
        status.phase == Some(Phase::Halted) && status.nodes.updating == 0
    })
    .await;
    assert_eq!((halted.nodes.failed, halted.failed[0].node.as_str()), (1, "n2"));
    assert_says(&halted.message.unwrap(), &[&format!("{RETRY_ANNOTATION}={run}/")]);

    failing.faults(|faults| faults.clear());
    annotate(&lab, "p", &format!("{RETRY_ANNOTATION}={run}/disk-cleaned")).await;
    let done = complete(&lab, "p").await;
    assert_eq!(
        (done.nodes.updated, done.nodes.skipped, done.nodes.failed),
        (2, 2, 0)
    );
    assert_eq!(versions(&lab), [OLD, NEW, OLD, NEW]);
    let complete = done
        .conditions
        .iter()
        .find(|condition| condition.type_ == condition::COMPLETE);
    assert_eq!(complete.unwrap().reason, "WithSkipped");
    let skipped: Vec<(&str, &str)> = done
        .skipped
        .iter()
        .map(|group| (group.reason.as_str(), group.nodes[0].as_str()))
        .collect();
    assert!(skipped.contains(&("OptedOut", "n1")), "{skipped:?}");
    assert!(skipped.contains(&("CordonedByOther", "n3")), "{skipped:?}");
    assert!(
        unschedulable(&get_node(&lab, "n3").await),
        "it is the admin's cordon"
    );
    assert_untouched(&lab, "n1").await;
    lab.finish(&Expectations::complete("p")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_install_takes_everything_back_and_its_limit_holds_over_all_plans() {
    let lab = lab(pools(&[("a", 2), ("b", 2)])).await;
    for node in lab.fleet.nodes() {
        let mut latencies = node.latencies();
        latencies.prepare = seconds(5);
        node.set_latencies(latencies);
    }
    let ledger = async |spec: serde_json::Value| {
        let patch = json!({"spec": spec}).to_string();
        let args = [
            "-n",
            NAMESPACE,
            "patch",
            "updateledger",
            "cluster",
            "--type=merge",
            "-p",
            &patch,
        ];
        lab.plane.kubectl_ok(&args).await.unwrap();
    };
    Box::pin(lab.ledger(SOON, "ledger", |_| true)).await.unwrap();
    ledger(json!({"maxUnavailable": 1})).await;
    for pool in ["a", "b"] {
        let of_pool = json!({"matchLabels": {"pool": pool}});
        lab.apply(&plan(
            pool,
            &json!({"nodeSelector": of_pool, "maxUnavailable": 2}),
        ))
        .await
        .unwrap();
    }
    any_grant(&lab, GrantPhase::Granted).await;
    ledger(json!({"stop": true})).await;
    no_grants(&lab, SOON, &["a1", "a2", "b1", "b2"]).await;
    for pool in ["a", "b"] {
        let stopped = status(&lab, pool, "plan that is stopped", |status| {
            status.phase == Some(Phase::Paused) && status.nodes.updating == 0
        })
        .await;
        assert_says(&stopped.message.unwrap(), &["the install is stopped"]);
    }
    for node in lab.fleet.nodes() {
        assert_eq!(reboots(&lab, node.name()), 0);
        assert_untouched(&lab, node.name()).await;
    }

    ledger(json!({"stop": false})).await;
    for pool in ["a", "b"] {
        complete(&lab, pool).await;
    }
    assert_eq!(versions(&lab), [NEW; 4]);
    let expectations = Expectations {
        complete: ["a", "b"].map(str::to_owned).into(),
        ..Expectations::complete("a")
    };
    lab.finish(&expectations).await.unwrap();
}
