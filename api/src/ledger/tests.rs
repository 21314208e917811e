#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
use super::*;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

fn sample(phase: GrantPhase) -> UpdateLedgerSpec {
    let entry = PlanEntry {
        name: "p".into(),
        generation: 3,
        run: "r1".into(),
        target: "1.21.0".into(),
        targets: Vec::new(),
        started_at: at(0),
        ..PlanEntry::default()
    };
    let mut ledger = UpdateLedgerSpec {
        plans: [("plan-uid".into(), entry)].into(),
        ..Default::default()
    };
    ledger.grant("n", new_grant()).unwrap();
    ledger.grants.get_mut("n").unwrap().phase = phase;
    ledger
}

fn new_grant() -> Grant {
    Grant {
        node: "node".into(),
        plan: "plan-uid".into(),
        generation: 3,
        run: "r1".into(),
        wave: "rest".into(),
        attempt: 1,
        from: "1.20.3".into(),
        to: "1.21.0".into(),
        phase: GrantPhase::Granted,
        granted_at: at(0),
        phase_since: at(0),
        not_after: Some(at(100)),
        hosts_operator: false,
        rebuilt: false,
        permit: None,
        ending: None,
    }
}

fn withdrawn(seconds: i64) -> Ending {
    Ending {
        message: "the window closes".into(),
        failure: None,
        at: at(seconds),
        outlasted: false,
    }
}

#[test]
fn s3_a_node_has_one_grant() {
    let mut ledger = sample(GrantPhase::Granted);
    assert!(matches!(
        ledger.grant("n", new_grant()),
        Err(Illegal::AlreadyGranted { .. })
    ));
}

#[test]
fn s12_nobody_grants_from_an_older_plan_a_paused_or_a_halted_one() {
    type Change = fn(&mut PlanEntry);
    let changes: [Change; 4] = [
        |e| e.generation = 4,
        |e| e.paused = true,
        |e| e.halted = true,
        |e| e.run = "r2".into(),
    ];
    for change in changes {
        let mut ledger = sample(GrantPhase::Granted);
        change(ledger.plans.get_mut("plan-uid").unwrap());
        assert!(matches!(
            ledger.grant("other", new_grant()),
            Err(Illegal::NotAdmitted { .. })
        ));
    }
}

#[test]
fn a_full_ledger_takes_no_more() {
    let mut ledger = sample(GrantPhase::Granted);
    for i in 1..MAX_GRANTS {
        ledger.grant(&format!("n{i}"), new_grant()).unwrap();
    }
    assert_eq!(ledger.grant("one-more", new_grant()), Err(Illegal::Full));
}

#[test]
fn s5_a_permit_is_given_once_and_only_when_drained() {
    for phase in [
        GrantPhase::Granted,
        GrantPhase::Monitoring,
        GrantPhase::Withdrawing,
        GrantPhase::Rebooting,
    ] {
        let refusal = sample(phase).permit("n", "r1", 1, "boot-a", at(1)).unwrap_err();
        assert_eq!(refusal, PermitRefusal::WrongPhase { phase });
    }
    let mut ledger = sample(GrantPhase::Drained);
    assert_eq!(
        ledger.permit("n", "r1", 2, "boot-a", at(1)),
        Err(PermitRefusal::OtherAttempt)
    );
    assert_eq!(
        ledger.permit("n", "r0", 1, "boot-a", at(1)),
        Err(PermitRefusal::OtherAttempt)
    );
    assert_eq!(
        ledger.permit("m", "r1", 1, "boot-a", at(1)),
        Err(PermitRefusal::NoGrant)
    );
    let permit = ledger.permit("n", "r1", 1, "boot-a", at(1)).unwrap();
    assert_eq!(
        ledger.permit("n", "r1", 1, "boot-a", at(2)).unwrap(),
        permit,
        "the same again"
    );
    assert_eq!(
        ledger.permit("n", "r1", 1, "boot-b", at(2)),
        Err(PermitRefusal::OtherBoot)
    );
}

#[test]
fn s4_no_permit_and_no_validity_from_the_close_on() {
    let mut ledger = sample(GrantPhase::Drained);
    let closed = Err(PermitRefusal::WindowClosed { not_after: at(100) });
    assert_eq!(ledger.clone().permit("n", "r1", 1, "a", at(100)), closed);
    assert!(ledger.permit("n", "r1", 1, "a", at(99)).is_ok());
    assert_eq!(
        ledger.permit("n", "r1", 1, "a", at(100)),
        closed,
        "nor the same permit again"
    );
    assert_eq!(
        ledger.permit("n", "r1", 1, "a", at(128)),
        closed,
        "it may be valid yet"
    );
    assert_eq!(
        ledger.permit("n", "r1", 1, "a", at(129)),
        Err(PermitRefusal::PermitExpired { not_after: at(100) }),
        "30 s after it was given nobody has it any more"
    );
    let grant = new_grant();
    assert_eq!(grant.permit_validity(at(10)), PERMIT_VALIDITY);
    assert_eq!(grant.permit_validity(at(95)), TimeDelta::seconds(5));
}

#[test]
fn a_stopped_install_grants_and_permits_nothing_more() {
    let mut ledger = sample(GrantPhase::Drained);
    let mut permitted = ledger.clone();
    let permit = permitted.permit("n", "r1", 1, "a", at(1)).unwrap();
    (ledger.stop, permitted.stop) = (true, true);
    assert_eq!(ledger.grant("other", new_grant()), Err(Illegal::Stopped));
    assert_eq!(
        ledger.permit("n", "r1", 1, "a", at(1)),
        Err(PermitRefusal::Stopped)
    );
    assert_eq!(
        permitted.permit("n", "r1", 1, "a", at(2)),
        Ok(permit),
        "who has it already finishes"
    );
}

#[test]
fn permit_and_withdraw_exclude_each_other() {
    let mut ledger = sample(GrantPhase::Drained);
    ledger.end("n", withdrawn(5)).unwrap();
    let refusal = ledger.permit("n", "r1", 1, "a", at(6)).unwrap_err();
    assert_eq!(
        refusal,
        PermitRefusal::WrongPhase {
            phase: GrantPhase::Withdrawing
        }
    );

    let mut ledger = sample(GrantPhase::Drained);
    ledger.permit("n", "r1", 1, "a", at(5)).unwrap();
    assert!(matches!(
        ledger.end("n", withdrawn(6)),
        Err(Illegal::WrongPhase { .. })
    ));
}

#[test]
fn a_failure_ends_a_grant_in_any_phase_and_its_permit() {
    let failed = |at| Ending {
        message: "gone".into(),
        failure: Some(FailureReason::RebootTimeout),
        at,
        outlasted: false,
    };
    let mut ledger = sample(GrantPhase::Drained);
    ledger.permit("n", "r1", 1, "a", at(5)).unwrap();
    ledger.end("n", failed(at(6))).unwrap();
    assert_eq!(ledger.grants["n"].phase, GrantPhase::Rebooting);
    assert!(matches!(
        ledger.permit("n", "r1", 1, "a", at(7)),
        Err(PermitRefusal::WrongPhase { .. })
    ));
    assert!(matches!(
        ledger.monitoring("n", at(8)),
        Err(Illegal::WrongPhase { .. })
    ));
    assert!(matches!(
        ledger.end("n", failed(at(9))),
        Err(Illegal::WrongPhase { .. })
    ));
}

#[test]
fn phases_go_one_way() {
    let mut ledger = sample(GrantPhase::Granted);
    ledger.drained("n", at(1)).unwrap();
    assert!(ledger.drained("n", at(2)).is_err());
    assert!(ledger.monitoring("n", at(2)).is_err());
    ledger.permit("n", "r1", 1, "a", at(3)).unwrap();
    ledger.monitoring("n", at(4)).unwrap();
    assert!(ledger.release("n"));
    assert!(!ledger.release("n"));
}
