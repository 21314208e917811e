//! What is on offer, and who sets the lock.

use api::shadow::{BottlerocketShadowSpec, FailureReason, NodeState};

use super::super::{
    Step,
    bench::{Bench, NEW, OLD},
};
use crate::host::Call;

fn offers(bench: &Bench) -> Vec<(&str, u32)> {
    let second = |since: chrono::DateTime<chrono::Utc>| chrono::Timelike::second(&since);
    let offered = &bench.known().offered;
    offered
        .iter()
        .map(|offer| (offer.version.as_str(), second(offer.since)))
        .collect()
}

#[test]
fn an_idle_node_asks_when_that_is_due_and_reports_only_what_has_changed() {
    let mut bench = Bench::idle();
    bench.offered = vec![NEW, OLD];
    assert_eq!(bench.run(), ["refresh", "report Idle"], "after its boot");
    assert_eq!(offers(&bench), [(NEW, 0), (OLD, 0)]);
    assert_eq!(bench.known().variant.as_deref(), Some("aws-k8s-1.33"));
    assert_eq!(bench.known().arch.as_deref(), Some("x86_64"));
    assert_eq!(bench.run(), [""; 0], "and no more until it is due");

    bench.refreshes_take = 10;
    bench.memory.refresh_is_due();
    assert_eq!(bench.run(), ["refresh"], "what is the same is not reported");
    assert_eq!(bench.run(), [""; 0]);

    bench.offered = vec!["1.22.0", NEW];
    bench.memory.refresh_is_due();
    assert_eq!(bench.run(), ["refresh", "report Idle"]);
    assert_eq!(
        offers(&bench),
        [("1.22.0", 20), (NEW, 0)],
        "what was on offer still is since then"
    );
    bench.restart_agent();
    assert_eq!(
        bench.run(),
        [""; 0],
        "an agent that is started again has nothing to add"
    );
}

#[test]
fn a_refresh_that_fails_leaves_what_is_known_to_be_on_offer() {
    let mut bench = Bench::idle();
    bench.run();
    bench.fail_refreshes();
    bench.memory.refresh_is_due();
    assert_eq!(bench.run(), ["refresh"], "once, until it is due again");
    assert_eq!(offers(&bench), [(NEW, 0)]);
}

#[test]
fn more_offers_than_a_shadow_holds_are_left_out() {
    let mut bench = Bench::idle();
    bench.offered = vec![NEW; 50];
    bench.run();
    assert_eq!(bench.known().offered.len(), api::offer::MAX_OFFERS);
}

#[test]
fn a_lock_that_someone_else_has_set_is_seen_before_the_activation_also_by_an_agent_that_was_started_again() {
    let mut bench = Bench::idle();
    bench.ask(NodeState::StagedAndPerformedUpdate);
    let activate = Step::Call(Call::Command(crate::bottlerocket::Command::Activate));
    bench.go_on_until(|bench| bench.look() == activate);
    bench.facts.settings.as_mut().unwrap().version_lock = "1.19.5".to_owned();
    bench.restart_agent();
    assert_eq!(bench.run(), ["report StageFailed"]);
    assert_eq!(
        bench.error(),
        "version-lock was changed to 1.19.5 by someone else"
    );
    bench.ask(NodeState::ErrorReset);
    bench.run();
    assert_eq!(bench.settings(), ("1.19.5", false), "what they have set stays");
}

#[test]
fn settings_that_cannot_be_read_get_no_permit() {
    let mut bench = Bench::staged();
    bench.ask(NodeState::RebootedIntoUpdate);
    bench.facts.settings = None;
    assert_eq!(bench.run(), ["report RebootFailed"]);
    assert_eq!(
        bench.error(),
        "settings.updates cannot be read any more: not rebooted"
    );
    let reason = bench.known().error.as_ref().map(|error| error.reason);
    assert_eq!(reason, Some(FailureReason::RebootFailed));
}

#[test]
fn s8_an_older_version_is_staged_only_where_a_downgrade_is_asked_for() {
    let mut bench = Bench::idle();
    bench.facts.os.version_id = "1.22.0".to_owned();
    bench.ask(NodeState::StagedAndPerformedUpdate);
    assert_eq!(bench.run(), ["report StageFailed"]);
    assert_eq!(
        bench.error(),
        "1.21.0 is older than 1.22.0, which the node runs, and no downgrade is asked for"
    );
    assert_eq!(bench.settings(), ("latest", false), "nothing was changed");
    bench.instruct(BottlerocketShadowSpec {
        attempt: Some(2),
        downgrade: Some(true),
        ..bench.spec.clone()
    });
    assert_eq!(bench.run(), super::STAGE);
}
