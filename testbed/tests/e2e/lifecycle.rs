//! A plan's life: applied again, raised, paused, deleted.

use api::plan::Phase;
use api::{UpdatePlan, plan::condition};
use kube::{Api, ResourceExt as _};
use serde_json::json;
use testbed::bottlerocket::Call;
use testbed::lab::Lab;
use testbed::oracle::Expectations;
use testbed::truth::SimEventKind;

use crate::support::{
    NEW, NEWER, SOON, assert_says, assert_untouched, complete, edit, get_ledger, get_node, get_plan, lab,
    machines, no_grants, plan, reboots, relent, seconds, status, stubborn_pod, unschedulable, versions,
};

/// The calls of Bottlerocket's API that change something.
fn changes(lab: &Lab) -> usize {
    let events = lab.fleet.truth().events();
    let changes = |kind: &SimEventKind| match kind {
        SimEventKind::Called { call, .. } => {
            !matches!(call, Call::Os | Call::Status | Call::GetSettings | Call::Refresh)
        }
        SimEventKind::RebootBegun { .. } => true,
        _ => false,
    };
    events.iter().filter(|event| changes(&event.kind)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_plan_again_finds_nothing_to_do_and_another_target_is_a_new_run() {
    let lab = lab(machines(3)).await;
    let yaml = plan("p", &json!({"maxUnavailable": "100%"}));
    lab.apply(&yaml).await.unwrap();
    let first = complete(&lab, "p").await;
    let after_first = changes(&lab);
    let stored = get_plan(&lab, "p").await;

    // Applied again without a change.
    let said = lab.plane.apply(&[], &yaml).await.unwrap();
    assert_says(&said, &["updateplan.brupop.bottlerocket.aws/p unchanged"]);
    let again = get_plan(&lab, "p").await;
    assert_eq!(again.resource_version(), stored.resource_version());

    // Another plan of that name.
    lab.plane
        .kubectl_ok(&["delete", "uplan", "p", "--timeout=20s"])
        .await
        .unwrap();
    lab.apply(&yaml).await.unwrap();
    lab.plane
        .kubectl_ok(&["wait", "--for=condition=Complete", "uplan/p", "--timeout=20s"])
        .await
        .unwrap();
    let second = complete(&lab, "p").await;
    assert_eq!((second.nodes.updated, second.nodes.matched), (3, 3));
    assert_ne!(second.run.as_ref().unwrap().id, first.run.unwrap().id);
    assert_eq!(
        changes(&lab),
        after_first,
        "a node was touched although there was nothing to do"
    );
    assert_eq!(get_plan(&lab, "p").await.finalizers(), <[String; 0]>::default());

    // A new target.
    edit(&lab, "p", &json!({"targetVersion": NEWER})).await;
    lab.plane
        .kubectl_ok(&["wait", "--for=condition=Complete", "uplan/p", "--timeout=60s"])
        .await
        .unwrap();
    let third = complete(&lab, "p").await;
    let run = third.run.unwrap();
    assert_eq!(run.target, NEWER);
    assert_ne!(run.id, second.run.unwrap().id);
    assert_eq!(versions(&lab), [NEWER; 3]);
    for node in ["n1", "n2", "n3"] {
        assert_eq!(reboots(&lab, node), 2);
        assert_untouched(&lab, node).await;
    }
    lab.finish(&Expectations::complete("p")).await.unwrap();
}

/// A node that stages for long, one that cannot be drained, one that boots for long.
async fn three_on_their_way(name: &str) -> Lab {
    let mut fleet = machines(4);
    fleet.workloads = vec![stubborn_pod("n2")];
    let lab = lab(fleet).await;
    for (node, prepare, boot) in [("n1", 12, 0), ("n3", 0, 12)] {
        let node = lab.fleet.node(node).unwrap();
        let mut latencies = node.latencies();
        (latencies.prepare, latencies.boot) = (seconds(prepare), seconds(boot));
        node.set_latencies(latencies);
    }
    let wave = json!({"name": "slow", "nodeSelector": {"matchExpressions": [
        {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["n4"]}]}});
    lab.apply(&plan(
        name,
        &json!({"maxUnavailable": 3, "waves": [wave, {"name": "rest"}]}),
    ))
    .await
    .unwrap();
    status(&lab, name, "three nodes on their way", |status| {
        let does = |node: &str, doing: &str| {
            status
                .active
                .iter()
                .any(|active| active.node == node && active.doing.contains(doing))
        };
        does("n1", "staging") && does("n2", "forbids the eviction") && does("n3", "rebooting")
    })
    .await;
    assert!(unschedulable(&get_node(&lab, "n2").await));
    lab
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_plan_goes_back_to_safe_points_and_a_resumed_one_goes_on() {
    let lab = three_on_their_way("p").await;
    edit(&lab, "p", &json!({"paused": true})).await;
    let paused = status(&lab, "p", "paused plan whose nodes are all at rest", |status| {
        status.phase == Some(Phase::Paused) && status.nodes.updating == 0
    })
    .await;
    assert_eq!(
        (paused.nodes.updated, paused.nodes.waiting),
        (1, 3),
        "only the one that was rebooting is updated"
    );
    assert_says(&paused.message.unwrap(), &["1 of 4 nodes run 1.21.0; paused"]);
    no_grants(&lab, SOON, &["n1", "n2", "n3", "n4"]).await;
    for node in ["n1", "n2", "n3", "n4"] {
        assert_untouched(&lab, node).await;
        assert_eq!(reboots(&lab, node), usize::from(node == "n3"));
    }

    relent(&lab, "n2").await;
    edit(&lab, "p", &json!({"paused": false})).await;
    complete(&lab, "p").await;
    assert_eq!(versions(&lab), [NEW; 4]);
    lab.finish(&Expectations::complete("p")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_plan_is_gone_only_when_nothing_of_it_is_left() {
    let lab = three_on_their_way("p").await;
    let node = lab.fleet.node("n3").unwrap();
    lab.plane
        .kubectl_ok(&["delete", "uplan", "p", "--wait=false"])
        .await
        .unwrap();
    // Its status still says what it does.
    let going = status(&lab, "p", "plan that says it is being deleted", |status| {
        status
            .message
            .as_deref()
            .is_some_and(|message| message.contains("being deleted"))
    })
    .await;
    assert_says(
        &going.message.unwrap(),
        &["the plan is being deleted; ", "n3 is rebooting"],
    );
    lab.plane
        .kubectl_ok(&["wait", "--for=delete", "uplan/p", "--timeout=30s"])
        .await
        .unwrap();

    let plans: Api<UpdatePlan> = Api::all(lab.client.clone());
    assert!(plans.get_opt("p").await.unwrap().is_none());
    assert!(
        get_ledger(&lab).await.spec.grants.is_empty(),
        "the finalizer went before the grants"
    );
    for name in ["n1", "n2", "n3", "n4"] {
        assert_untouched(&lab, name).await;
        assert_eq!(reboots(&lab, name), usize::from(name == "n3"));
    }
    assert_eq!(node.version(), NEW, "what had its permit finishes");
    // And the ledger forgets the plan.
    let forgotten = lab.ledger(SOON, "ledger without plans", |ledger| {
        ledger.spec.plans.is_empty()
    });
    Box::pin(forgotten).await.unwrap();
    lab.finish(&Expectations {
        quiet: true,
        ..Expectations::default()
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_joins_later_with_an_old_image_is_updated_too() {
    let lab = lab(machines(1)).await;
    lab.apply(&plan("p", &json!({}))).await.unwrap();
    complete(&lab, "p").await;
    let mut late = lab.fleet.spec().nodes().remove(0);
    late.name = "late".to_owned();
    let late = lab.fleet.add_node(late).unwrap();
    let updated = status(&lab, "p", "newcomer that is updated", |status| {
        status.nodes.updated == 2
    })
    .await;
    let complete = updated
        .conditions
        .iter()
        .find(|c| c.type_ == condition::COMPLETE)
        .unwrap();
    assert_eq!(complete.status, "True", "it stays complete for its run");
    assert_eq!(late.version(), NEW);
    lab.finish(&Expectations::complete("p")).await.unwrap();
}
