//! S5 to S8: draining, rebooting, and what counts as updated.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::sync::Arc;

use api::ledger::{Grant, GrantPhase, Permit};
use api::plan::{Phase, Run, UpdatePlanStatus};
use api::shadow::FailureReason;
use serde_json::{Value, json};

use super::story::{NEW, OLD, Story, pod, read, start};
use crate::bottlerocket::Call;
use crate::history::Object;
use crate::oracle::Promise;
use crate::truth::{RebootCause, SimEventKind};

fn unfinished(nodes: &[&str], spec: Value) -> Story {
    let mut story = Story::new(nodes, spec);
    story.expect.quiet = false;
    story.expect.complete.clear();
    story
}

/// Until the permit may be given.
fn emptied() -> Story {
    let mut story = unfinished(&["a", "b"], json!({}));
    story.grant("a");
    story.empty("a");
    story
}

#[test]
fn s5_a_reboot_without_a_permit_is_seen() {
    let mut story = emptied();
    story.reboot("a", NEW);
    story.breaks(Promise::S5, "without a permit");
}

#[test]
fn s5_a_reboot_before_its_permit_is_seen() {
    let mut story = emptied();
    story.happen(
        "a",
        SimEventKind::Called {
            call: Call::Reboot,
            status: Some(500),
        },
    );
    story.wait(3);
    story.permit("a");
    story.breaks(Promise::S5, "without a permit");
}

#[test]
fn s5_a_second_reboot_is_seen() {
    let mut story = emptied();
    story.permit("a");
    story.reboot("a", OLD);
    story.reboot("a", NEW);
    story.breaks(Promise::S5, "from boot boot-3 without a permit");
}

#[test]
fn s5_a_second_permit_for_an_attempt_is_seen() {
    let mut story = emptied();
    story.permit("a");
    story.reboot("a", OLD);
    let (uid, boot_id, at) = (story.uid_of("a"), story.boot_of("a"), story.now);
    // Told by a rebuilt ledger that has forgotten the first.
    story.rebuild_ledger(|ledger| {
        let grant = ledger.grants.get_mut(&uid).unwrap();
        (grant.phase, grant.permit) = (GrantPhase::Drained, None);
    });
    story.edit_grant("a", |grant: &mut Grant| {
        grant.phase = GrantPhase::Rebooting;
        grant.permit = Some(Permit {
            id: "second".into(),
            boot_id,
            at,
        });
    });
    story.breaks(Promise::S5, "second permit");
}

#[test]
fn s5_a_reboot_with_an_old_permit_is_seen() {
    let mut story = emptied();
    story.permit("a");
    story.wait(31);
    story.reboot("a", NEW);
    story.breaks(Promise::S5, "31 s old");
    story.expect.asked_again.insert("a".into());
    story.is_clean();
}

#[test]
fn s5_a_permit_for_a_node_with_pods_is_seen() {
    let mut story = emptied();
    story.put(Object::Pod(Arc::new(pod("late", "a"))));
    story.permit("a");
    story.breaks(
        Promise::S5,
        "permitted to reboot, but pods are left: default/late",
    );
}

#[test]
fn s5_a_drain_that_failed_and_passes_is_seen() {
    let mut story = unfinished(&["a", "b"], json!({}));
    story.grant("a");
    story.stage("a");
    story.cordon("a");
    story.drained("a");
    story.breaks(Promise::S5, "taken for drained, but pods are left: default/web-a");
}

#[test]
fn s5_a_pod_that_is_bound_as_its_node_is_emptied_is_forgiven_until_the_permit() {
    for (seconds, forgiven) in [(1, true), (7, false)] {
        let mut story = unfinished(&["a", "b"], json!({}));
        story.grant("a");
        story.stage("a");
        story.cordon("a");
        story.drain("a");
        story.put(Object::Pod(Arc::new(pod("late", "a"))));
        story.wait(seconds);
        story.drained("a");
        if forgiven {
            story.is_clean();
            story.permit("a");
            story.breaks(
                Promise::S5,
                "permitted to reboot, but pods are left: default/late",
            );
        } else {
            story.breaks(Promise::S5, "taken for drained, but pods are left: default/late");
        }
    }
}

/// A node that is deleted, and then taken for drained after so many seconds.
fn drained_after_its_deletion(seconds: i64) -> (Story, String) {
    let mut story = unfinished(&["a", "b"], json!({}));
    story.grant("a");
    story.stage("a");
    story.cordon("a");
    story.drain("a");
    let uid = story.uid_of("a");
    story.delete_node("a");
    story.wait(seconds);
    story.edit_ledger(|ledger| ledger.grants.get_mut(&uid).unwrap().phase = GrantPhase::Drained);
    (story, uid)
}

#[test]
fn s5_a_drain_that_ends_as_its_node_is_deleted_is_forgiven() {
    let (mut story, uid) = drained_after_its_deletion(0);
    story.edit_ledger(|ledger| drop(ledger.grants.remove(&uid)));
    story.is_clean();
}

#[test]
fn s5_a_drain_that_ends_long_after_its_nodes_deletion_is_seen() {
    let (story, _) = drained_after_its_deletion(7);
    story.breaks(Promise::S5, "taken for drained, but there is no node of UID");
}

#[test]
fn s5_a_permit_for_a_node_that_is_deleted_is_seen() {
    let (mut story, uid) = drained_after_its_deletion(0);
    let (boot_id, at) = ("boot-1".into(), story.now);
    story.edit_ledger(|ledger| {
        let grant = ledger.grants.get_mut(&uid).unwrap();
        grant.phase = GrantPhase::Rebooting;
        grant.permit = Some(Permit {
            id: "p".into(),
            boot_id,
            at,
        });
    });
    story.breaks(Promise::S5, "permitted to reboot, but there is no node of UID");
}

#[test]
fn s5_a_permit_for_a_node_that_is_not_cordoned_is_seen() {
    let mut story = emptied();
    story.edit_node("a", |node| node.spec = None);
    story.permit("a");
    story.breaks(Promise::S5, "is not cordoned for it");
}

#[test]
fn s5_a_permit_for_a_node_that_somebody_else_cordoned_is_seen() {
    let mut story = emptied();
    story.edit_node("a", |node| {
        let annotations = node.metadata.annotations.as_mut().unwrap();
        let ours = annotations.get_mut(api::names::DISRUPTION_ANNOTATION).unwrap();
        *ours = ours.replace("r1", "r0");
    });
    story.permit("a");
    story.breaks(Promise::S5, "is not cordoned for it");
}

#[test]
fn s6_a_pod_that_is_deleted_is_seen() {
    let mut story = unfinished(&["a", "b"], json!({}));
    story.grant("a");
    story.stage("a");
    story.cordon("a");
    story.begin_deletion("default/web-a");
    story.breaks(Promise::S6, "default/web-a on node a was deleted, not evicted");
    story.expect.deleted_pods.push("default/web-".into());
    story.is_clean();
}

#[test]
fn s6_a_pod_that_is_gone_at_once_is_seen() {
    let mut story = unfinished(&["a", "b"], json!({}));
    story.grant("a");
    story.stage("a");
    story.cordon("a");
    story.delete_pod("default/web-a");
    story.breaks(Promise::S6, "was deleted, not evicted");
}

#[test]
fn s6_what_others_do_to_pods_is_forgiven() {
    let mut story = unfinished(&["a", "b"], json!({}));
    story.delete_pod("default/web-b");
    story.grant("a");
    story.stage("a");
    story.cordon("a");
    let mark = json!({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC"});
    story.edit_pod("default/web-a", |pod| {
        pod.status
            .as_mut()
            .unwrap()
            .conditions
            .as_mut()
            .unwrap()
            .push(read(mark));
    });
    story.delete_pod("default/web-a");
    story.is_clean();
}

#[test]
fn s6_an_eviction_that_the_budget_knows_nothing_of_is_seen() {
    let mut story = unfinished(&["a", "b"], json!({}));
    story.grant("a");
    story.stage("a");
    story.cordon("a");
    story.evict("default/web-a");
    story.breaks(Promise::S6, "knows nothing of it");
}

#[test]
fn s6_an_eviction_that_leaves_too_few_is_seen() {
    let mut story = unfinished(&["a", "b"], json!({}));
    story.grant("a");
    story.stage("a");
    story.cordon("a");
    story.edit_budget(|budget| budget.status.as_mut().unwrap().desired_healthy = 2);
    story.allow("default/web-a");
    story.evict("default/web-a");
    story.breaks(Promise::S6, "left 1 healthy, but budget default/web wants 2");
}

#[test]
fn s6_a_budget_that_is_overdrawn_is_seen() {
    let mut story = emptied();
    story.edit_budget(|budget| budget.status.as_mut().unwrap().disruptions_allowed = -1);
    story.breaks(Promise::S6, "less than no disruption");
}

#[test]
fn s7_a_node_on_the_old_version_is_seen() {
    let mut story = emptied();
    story.permit("a");
    story.reboot("a", OLD);
    story.monitor("a");
    story.wait(6);
    story.idle("a");
    story.release("a");
    story.breaks(Promise::S7, "it runs 1.20.3");
}

#[test]
fn s7_a_node_that_has_not_rebooted_is_seen() {
    let mut story = Story::new(&["a", "b"], json!({}));
    story.expect.complete.clear();
    // It ran the target already.
    let boot_id = story.boot_of("a");
    story.happen(
        "a",
        SimEventKind::RebootFinished {
            boot_id,
            version: NEW.into(),
        },
    );
    story.grant("a");
    story.empty("a");
    story.permit("a");
    story.monitor("a");
    story.wait(6);
    story.happen("a", SimEventKind::Deactivated);
    story.idle("a");
    story.release("a");
    story.breaks(Promise::S7, "it has not rebooted");
}

#[test]
fn s7_a_node_that_was_not_ready_for_long_enough_is_seen() {
    let mut story = emptied();
    story.permit("a");
    story.reboot("a", NEW);
    story.monitor("a");
    story.wait(2);
    story.ready("a", false);
    story.ready("a", true);
    story.wait(2);
    story.idle("a");
    story.release("a");
    story.breaks(Promise::S7, "had been Ready for");
}

#[test]
fn s7_a_node_that_is_not_ready_is_seen() {
    let mut story = emptied();
    story.permit("a");
    story.reboot("a", NEW);
    story.monitor("a");
    story.wait(6);
    story.ready("a", false);
    story.idle("a");
    story.release("a");
    story.breaks(Promise::S7, "it is not Ready");
}

fn claim(story: &mut Story, edit: impl FnOnce(&mut UpdatePlanStatus)) {
    story.edit_plan(|plan| {
        let run = Run {
            id: "r1".into(),
            target: NEW.into(),
            targets: Vec::new(),
            started_at: start(),
            completed_at: None,
            retried_at: None,
            run_now_at: None,
        };
        let status = plan.status.get_or_insert_default();
        status.run = Some(run);
        edit(status);
    });
}

#[test]
fn s7_a_status_that_counts_too_many_is_seen() {
    let mut story = unfinished(&["a", "b"], json!({}));
    story.roll("a");
    claim(&mut story, |status| status.nodes.updated = 1);
    story.is_clean();
    claim(&mut story, |status| status.nodes.updated = 2);
    story.breaks(Promise::S7, "says that 2 nodes are updated, but 1 are");
}

#[test]
fn s7_a_status_that_is_complete_too_early_is_seen() {
    let mut story = unfinished(&["a", "b"], json!({}));
    story.roll("a");
    claim(&mut story, |status| status.phase = Some(Phase::Complete));
    story.breaks(Promise::S7, "says it is complete, but node b is behind");
}

#[test]
fn s8_a_machine_that_goes_down_a_version_is_seen() {
    let mut story = Story::new(&["a"], json!({}));
    story.roll("a");
    story.expect.complete.clear();
    let cause = RebootCause::PowerCut;
    story.happen(
        "a",
        SimEventKind::RebootBegun {
            boot_id: story.boot_of("a"),
            version: NEW.into(),
            cause,
        },
    );
    story.happen(
        "a",
        SimEventKind::RebootFinished {
            boot_id: "down".into(),
            version: OLD.into(),
        },
    );
    story.breaks(Promise::S8, "went down to version 1.20.3");
    story.expect.downgraded.insert("a".into());
    story.is_clean();
}

#[test]
fn s8_a_machine_that_is_to_boot_an_older_version_is_seen() {
    let mut story = unfinished(&["a"], json!({}));
    story.grant("a");
    story.stage("a");
    story.happen(
        "a",
        SimEventKind::Activated {
            version: "1.19.0".into(),
        },
    );
    story.breaks(Promise::S8, "made to boot 1.19.0");
}

#[test]
fn s8_a_grant_that_goes_down_is_seen() {
    let mut story = unfinished(&["a"], json!({}));
    story.grant_as("a", |grant| grant.from = "1.22.0".into());
    story.breaks(Promise::S8, "from 1.22.0 down to 1.21.0");
}

#[test]
fn s8_a_grant_for_a_version_that_nobody_asked_for_is_seen() {
    let mut story = unfinished(&["a"], json!({}));
    story.grant_as("a", |grant| grant.to = "1.22.0".into());
    story.breaks(Promise::S8, "which the plan does not ask");
}

#[test]
fn s8_another_variant_is_seen() {
    let mut story = unfinished(&["a"], json!({}));
    story.edit_node("a", |node| {
        let info = node.status.as_mut().unwrap().node_info.as_mut().unwrap();
        info.os_image = format!("Bottlerocket OS {OLD} (aws-k8s-1.34)");
    });
    story.breaks(Promise::S8, "another variant");
}

#[test]
fn s8_another_architecture_is_seen() {
    let mut story = unfinished(&["a"], json!({}));
    story.edit_node("a", |node| {
        node.status
            .as_mut()
            .unwrap()
            .node_info
            .as_mut()
            .unwrap()
            .architecture = "arm64".into();
    });
    story.breaks(Promise::S8, "another variant or architecture");
}

#[test]
fn s7_a_failure_proves_nothing_and_needs_no_proof() {
    let mut story = emptied();
    story.permit("a");
    story.reboot("a", OLD);
    story.end("a", Some(FailureReason::BootedOtherVersion));
    story.is_clean();
}
