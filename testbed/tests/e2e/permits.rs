//! Reboot permit against withdraw: one changes the ledger and the other loses the swap. A fault layer decides who is
//! late. Whether a node has rebooted is the machine's word.

use api::ledger::GrantPhase;
use api::plan::{Phase, UpdatePlanStatus};
use chrono::{DateTime, TimeDelta, Utc};
use hyper::{Method, StatusCode};
use serde_json::json;
use testbed::lab::Lab;
use testbed::oracle::Expectations;
use testbed::proxy::{Asked, Held, Hold, Proxy, When};

use crate::crashes::any_grant;
use crate::support::{
    NEW, OLD, SOON, assert_untouched, begins_reboot, complete, edit, get_ledger, lab, machines, no_grants,
    plan, reboots, rfc3339, status, window,
};

/// How long the windows of these plans are open.
const OPEN: i64 = 12;

/// Whether it is a ledger that says this of a grant.
fn writes(asked: &Asked, phase: GrantPhase) -> bool {
    let ledger = asked.json();
    let grants = ledger["spec"]["grants"].as_object();
    asked.is(&Method::PUT, "/updateledgers/cluster")
        && grants
            .into_iter()
            .flatten()
            .any(|(_, grant)| grant["phase"] == phase.to_string())
}

pub fn permits(asked: &Asked) -> bool {
    writes(asked, GrantPhase::Rebooting)
}

fn withdraws(asked: &Asked) -> bool {
    writes(asked, GrantPhase::Withdrawing)
}

/// So many machines, with a fault layer in front of kube-apiserver for the apiserver and one for the controller.
async fn setup(nodes: u32) -> (Lab, Proxy, Proxy) {
    let mut lab = lab(machines(nodes)).await;
    let of_apiserver = Proxy::start(&lab.plane, "of-apiserver").await.unwrap();
    let of_controller = Proxy::start(&lab.plane, "of-controller").await.unwrap();
    lab.operator.lead_apiserver_through(&of_apiserver).await.unwrap();
    lab.operator
        .lead_controller_through(&of_controller)
        .await
        .unwrap();
    (lab, of_apiserver, of_controller)
}

/// The next request that is held; fails with all there is to see where none comes.
pub async fn held(lab: &Lab, hold: &mut Hold) -> Held {
    match hold.next(SOON).await {
        Ok(held) => held,
        Err(error) => panic!("{error:#}\n{}", lab.describe().await),
    }
}

fn at_rest(phase: Phase) -> impl Fn(&UpdatePlanStatus) -> bool {
    move |status| status.phase == Some(phase) && status.nodes.updating == 0
}

/// A window that is open from now on, and when it closes. Another one comes tomorrow.
fn closing() -> (serde_json::Value, DateTime<Utc>) {
    let now = Utc::now();
    let closes = rfc3339(now + TimeDelta::seconds(OPEN)).parse().unwrap();
    let windows = json!([
        window("now", now, 0, OPEN),
        window("tomorrow", now, 86_400, 90_000)
    ]);
    (windows, closes)
}

/// No machine was told to reboot, and the node is as it was before.
async fn assert_back(lab: &Lab, node: &str) {
    assert_untouched(lab, node).await;
    assert_eq!(
        (
            reboots(lab, node),
            lab.fleet.node(node).unwrap().version().as_str()
        ),
        (0, OLD)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn s5_a_permit_that_comes_after_the_withdraw_is_refused_and_the_node_goes_back() {
    let (lab, of_apiserver, _of_controller) = setup(1).await;

    // The plan is paused while the permit is on its way.
    let mut hold = of_apiserver.hold(When::Asked, permits);
    lab.apply(&plan("p", &json!({}))).await.unwrap();
    let permit = held(&lab, &mut hold).await;
    edit(&lab, "p", &json!({"paused": true})).await;
    any_grant(&lab, GrantPhase::Withdrawing).await;
    drop(hold);
    assert_eq!(permit.release().await, Some(StatusCode::CONFLICT));
    status(&lab, "p", "paused plan at rest", at_rest(Phase::Paused)).await;
    no_grants(&lab, SOON, &["n1"]).await;
    assert_back(&lab, "n1").await;

    // Its window closes while the permit is on its way.
    let mut hold = of_apiserver.hold(When::Asked, permits);
    let (windows, closes) = closing();
    edit(
        &lab,
        "p",
        &json!({"paused": false, "maintenanceWindows": windows}),
    )
    .await;
    let permit = held(&lab, &mut hold).await;
    assert!(Utc::now() < closes, "this machine was too slow for this test");
    any_grant(&lab, GrantPhase::Withdrawing).await;
    assert!(Utc::now() >= closes);
    drop(hold);
    assert_eq!(permit.release().await, Some(StatusCode::CONFLICT));
    status(
        &lab,
        "p",
        "plan that waits for its window",
        at_rest(Phase::WaitingForWindow),
    )
    .await;
    no_grants(&lab, SOON, &["n1"]).await;
    assert_back(&lab, "n1").await;

    edit(&lab, "p", &json!({"maintenanceWindows": null})).await;
    complete(&lab, "p").await;
    assert_eq!(reboots(&lab, "n1"), 1);
    lab.finish(&Expectations::complete("p")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s5_a_withdraw_that_comes_after_the_permit_lets_the_node_finish() {
    let (lab, of_apiserver, of_controller) = setup(2).await;
    let mut permits = of_apiserver.hold(When::Asked, permits);
    let mut withdraws = of_controller.hold(When::Asked, withdraws);
    lab.apply(&plan("p", &json!({}))).await.unwrap();
    // Both are on their way, over the same version of the ledger.
    let permit = held(&lab, &mut permits).await;
    edit(&lab, "p", &json!({"paused": true})).await;
    let withdraw = held(&lab, &mut withdraws).await;
    drop((permits, withdraws));
    assert_eq!(permit.release().await, Some(StatusCode::OK));
    let rebooted = lab
        .fleet
        .truth()
        .wait_for("reboot", SOON, begins_reboot)
        .await
        .unwrap();
    assert_eq!(withdraw.release().await, Some(StatusCode::CONFLICT));

    let paused = status(&lab, "p", "paused plan at rest", at_rest(Phase::Paused)).await;
    assert_eq!((paused.nodes.updated, paused.nodes.waiting), (1, 1));
    for node in ["n1", "n2"] {
        assert_untouched(&lab, node).await;
        let was_permitted = node == rebooted.node;
        assert_eq!(reboots(&lab, node), usize::from(was_permitted));
        let version = if was_permitted { NEW } else { OLD };
        assert_eq!(lab.fleet.node(node).unwrap().version(), version);
    }
    edit(&lab, "p", &json!({"paused": false})).await;
    complete(&lab, "p").await;
    assert_eq!(reboots(&lab, &rebooted.node), 1);
    lab.finish(&Expectations::complete("p")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s5_a_permit_whose_answer_is_lost_is_given_again_to_the_same_boot_and_reboots_once() {
    let (lab, of_apiserver, _of_controller) = setup(1).await;
    let lost = of_apiserver.lose_answers(permits);
    lab.apply(&plan("p", &json!({}))).await.unwrap();
    any_grant(&lab, GrantPhase::Rebooting).await;
    let ledger = get_ledger(&lab).await;
    let given = ledger
        .spec
        .grants
        .values()
        .next()
        .and_then(|grant| grant.permit.clone());
    complete(&lab, "p").await;
    drop(lost);
    assert_eq!(reboots(&lab, "n1"), 1);
    let written = of_apiserver
        .journal()
        .iter()
        .filter(|passed| permits(&passed.asked) && passed.status == Some(StatusCode::OK))
        .count();
    assert_eq!(written, 1, "one permit, {given:?}");
    let asked_again = ["n1".to_owned()].into();
    lab.finish(&Expectations {
        asked_again,
        ..Expectations::complete("p")
    })
    .await
    .unwrap();
}
