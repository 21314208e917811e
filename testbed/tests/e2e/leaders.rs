//! Two controllers at once: without leader election, each behind a fault layer, one of them with watches that lag.

use std::time::Duration;

use api::plan::{Phase, UpdatePlanStatus};
use hyper::{Method, StatusCode};
use serde_json::json;
use testbed::lab::Lab;
use testbed::operator::Options;
use testbed::oracle::Expectations;
use testbed::proxy::{Asked, Proxy, When};

use crate::crashes::{all_is_well, any_grant, unhurried};
use crate::permits::held;
use crate::support::{complete, edit, get_ledger, machines, plan, seconds, show, status};
use api::ledger::GrantPhase;

/// How much later than the first the second controller sees everything.
const LAG: Duration = seconds(3);

fn without_election() -> Options {
    Options {
        controller_flags: vec!["--leader-elect=false".to_owned()],
        ..Options::default()
    }
}

fn writes_ledger(asked: &Asked) -> bool {
    asked.method != Method::GET && asked.path.ends_with("/updateledgers/cluster")
}

/// Whether it is a ledger in which a grant is new.
fn grants(asked: &Asked) -> bool {
    let ledger = asked.json();
    let grants = ledger["spec"]["grants"].as_object();
    writes_ledger(asked)
        && grants
            .into_iter()
            .flatten()
            .any(|(_, grant)| grant["phase"] == "Granted")
}

/// What a controller's writes of the ledger came to: written, and refused because somebody else had written.
fn came_to(proxy: &Proxy, which: fn(&Asked) -> bool) -> (usize, usize) {
    let journal = proxy.journal();
    let answers = |code: u16| {
        let of_those = journal.iter().filter(|passed| which(&passed.asked));
        of_those
            .filter(|passed| passed.status.is_some_and(|status| status == code))
            .count()
    };
    (answers(200), answers(409))
}

/// Holds a write of the ledger by one controller until the other has written, again and again, each in its turn.
async fn tussle(lab: &Lab, controllers: [&Proxy; 2]) {
    for proxy in controllers.into_iter().cycle() {
        let mut hold = proxy.hold(When::Asked, writes_ledger);
        let Ok(held) = hold.next(seconds(1)).await else {
            continue;
        };
        drop(hold);
        let before = get_ledger(lab).await.metadata.resource_version;
        let overtaken = lab.ledger(seconds(1), "other version of the ledger", |ledger| {
            ledger.metadata.resource_version != before
        });
        let _or_not = Box::pin(overtaken).await;
        held.release().await;
    }
}

/// The rollout, with edits; what it is that the second controller sees late changes on the way.
async fn rollout_with_edits(lab: &Lab, lagging: &Proxy) {
    let of_ledger = |asked: &Asked| asked.path.ends_with("/updateledgers");
    let updated = |at_least: u32| move |status: &UpdatePlanStatus| status.nodes.updated >= at_least;
    let everything = lagging.delay_watches(LAG, |_| true);
    status(lab, "p", "three updated nodes", updated(3)).await;
    edit(lab, "p", &json!({"paused": true})).await;
    status(lab, "p", "paused plan whose nodes are all at rest", |status| {
        status.phase == Some(Phase::Paused) && status.nodes.updating == 0
    })
    .await;
    drop(everything);
    let the_ledger = lagging.delay_watches(LAG, of_ledger);
    edit(lab, "p", &json!({"paused": false})).await;
    status(lab, "p", "six updated nodes", updated(6)).await;
    edit(lab, "p", &json!({"maxUnavailable": 1})).await;
    drop(the_ledger);
    let _all_else = lagging.delay_watches(LAG, move |asked| !of_ledger(asked));
    status(lab, "p", "ten updated nodes", updated(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s2_two_controllers_at_once_one_of_which_lags_break_no_promise_and_finish_the_rollout() {
    let mut lab = Box::pin(Lab::start(unhurried(10), &without_election()))
        .await
        .unwrap();
    let prompt = Proxy::start(&lab.plane, "prompt").await.unwrap();
    let lagging = Proxy::start(&lab.plane, "lagging").await.unwrap();
    lab.operator.lead_controller_through(&prompt).await.unwrap();
    let mut second = lab
        .operator
        .another_controller("second", Some(&lagging))
        .await
        .unwrap();

    // Both grant from the same ledger. The second one's write arrives when the first one's nodes are far on their way.
    let (mut first_grant, mut second_grant) = (
        prompt.hold(When::Asked, grants),
        lagging.hold(When::Asked, grants),
    );
    lab.apply(&plan(
        "p",
        &json!({
            "maxUnavailable": 2,
            "monitoring": {"minReady": "1s"},
            "waves": [{"name": "canary", "size": 3}, {"name": "rest"}],
        }),
    ))
    .await
    .unwrap();
    let first = held(&lab, &mut first_grant).await;
    let late = held(&lab, &mut second_grant).await;
    drop((first_grant, second_grant));
    let unseen = lagging.delay_watches(seconds(6), |_| true);
    first.release().await;
    any_grant(&lab, GrantPhase::Monitoring).await;
    late.release().await;
    drop(unseen);

    tokio::select! {
        () = rollout_with_edits(&lab, &lagging) => {}
        () = tussle(&lab, [&prompt, &lagging]) => {}
    }
    for (who, proxy) in [("the first", &prompt), ("the second", &lagging)] {
        let (all, of_grants) = (came_to(proxy, writes_ledger), came_to(proxy, grants));
        let changes = came_to(proxy, |asked| asked.method != Method::GET);
        show(
            who,
            &format!("written and refused: {changes:?}; the ledger: {all:?}; with new grants: {of_grants:?}"),
        );
        assert!(all.0 > 0 && all.1 > 0, "{who} wrote {}, lost {}", all.0, all.1);
        assert!(of_grants.0 + of_grants.1 > 0, "{who} granted nothing");
    }
    let outcome = second.stop(seconds(10)).await.unwrap();
    assert!(outcome.success(), "{}", second.log_tail());
    all_is_well(lab, &Expectations::complete("p")).await;
}

/// Whether it takes the finalizer from the plan.
fn removes_finalizer(asked: &Asked) -> bool {
    asked.is(&Method::PATCH, "/updateplans/p") && asked.json()["metadata"]["finalizers"] == json!([])
}

#[tokio::test(flavor = "multi_thread")]
async fn s12_a_finalizer_whose_removal_is_still_on_its_way_is_not_counted_on() {
    let mut lab = Box::pin(Lab::start(machines(1), &without_election()))
        .await
        .unwrap();
    let first = Proxy::start(&lab.plane, "first").await.unwrap();
    let second = Proxy::start(&lab.plane, "second").await.unwrap();
    lab.operator.lead_controller_through(&first).await.unwrap();
    let mut removals = first.hold(When::Asked, removes_finalizer);
    lab.apply(&plan("p", &json!({}))).await.unwrap();
    let removal = held(&lab, &mut removals).await;
    lab.operator.kill_controller().await.unwrap();

    // For the next controller there is something to do at once, and nothing else changes the plan meanwhile.
    let mut late = lab.fleet.spec().nodes().remove(0);
    late.name = "late".to_owned();
    lab.fleet.add_node(late).unwrap();
    lab.wait_reports().await.unwrap();
    let statuses = second.hold(When::Asked, |asked| asked.path.ends_with("/updateplans/p/status"));
    lab.operator.lead_controller_through(&second).await.unwrap();
    any_grant(&lab, GrantPhase::Granted).await;
    assert_eq!(removal.release().await, Some(StatusCode::CONFLICT));
    drop(statuses);
    complete(&lab, "p").await;
    lab.finish(&Expectations::complete("p")).await.unwrap();
}
