//! Messages of this version and of others, and what is made of them: see `recorded/README.md`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::path::Path;

use api::{
    shadow::{FailureReason, NodeState},
    wire::{Line, PROTOCOL, PermitRequest, PermitResponse, Refusal, StatusReport},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

fn recorded(folder: &str, file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/recorded")
        .join(folder)
        .join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(!lines.is_empty(), "{}", path.display());
    lines
}

fn read<T: DeserializeOwned>(folder: &str, file: &str) -> Vec<T> {
    let lines = recorded(folder, file).into_iter();
    lines
        .map(|line| serde_json::from_value(line.clone()).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// Everything recorded in this file of protocol 1 is read, and written again as it is.
fn same<T: Serialize + DeserializeOwned>(file: &str) {
    for (line, read) in recorded("protocol-1", file)
        .into_iter()
        .zip(read::<T>("protocol-1", file))
    {
        assert_eq!(serde_json::to_value(read).unwrap(), line);
    }
}

#[test]
fn this_version_says_what_is_recorded_of_it() {
    same::<Line>("stream.ndjson");
    same::<StatusReport>("reports.ndjson");
    same::<PermitRequest>("permits.ndjson");
    same::<PermitResponse>("permitted.ndjson");
    same::<Refusal>("refusals.ndjson");
    let lines = read::<Line>("protocol-1", "stream.ndjson");
    assert_eq!(lines[0], Line::Hello { protocol: PROTOCOL });
}

#[test]
fn a_newer_apiserver_is_understood_as_far_as_this_version_goes() {
    let mut lines = recorded("newer", "stream.ndjson").into_iter();
    let mut next = || serde_json::from_value::<Line>(lines.next().unwrap());
    assert_eq!(next().unwrap(), Line::Hello { protocol: 2 });
    assert_eq!(next().unwrap(), Line::Heartbeat);
    assert_eq!(next().unwrap(), Line::Unknown, "a type of line that is not known");
    let Line::Instruction(monitor) = next().unwrap() else {
        panic!()
    };
    assert_eq!(monitor.spec.state, NodeState::MonitoringUpdate);
    assert_eq!(monitor.spec.failure.unwrap().reason, FailureReason::Other);
    let error = monitor.status.unwrap().error.unwrap();
    assert_eq!(
        (error.reason, error.message.as_str()),
        (FailureReason::Other, "no space left")
    );
    // To be left undone and reported: the agent does that.
    assert!(next().unwrap_err().to_string().contains("Hibernate"));
    let Line::Instruction(idle) = next().unwrap() else {
        panic!()
    };
    assert_eq!((idle.spec.state, idle.status), (NodeState::Idle, None));
    assert_eq!(next().unwrap(), Line::Goodbye);

    let permitted = &read::<PermitResponse>("newer", "permitted.ndjson")[0];
    assert_eq!(permitted.valid_for_ms, 30_000);
    for refusal in read::<Refusal>("newer", "refusals.ndjson") {
        assert_eq!(refusal.permit, None, "a reason that is not known is none");
        assert!(!refusal.message.is_empty());
    }
}

#[test]
fn a_newer_agent_is_understood_as_far_as_this_version_goes() {
    let report = &read::<StatusReport>("newer", "reports.ndjson")[0];
    let error = report.error.as_ref().unwrap();
    assert_eq!(error.reason, FailureReason::Other);
    assert_eq!(error.message, "no space left on the inactive partition");
    assert_eq!(
        report.saved_settings.as_ref().unwrap().version_lock,
        "latest",
        "so that it can be put back"
    );
    let request = &read::<PermitRequest>("newer", "permits.ndjson")[0];
    assert_eq!((request.run.as_str(), request.attempt), ("r1", 2));
}

#[test]
fn an_agent_that_reports_no_more_than_must_be_there_is_understood() {
    let report = &read::<StatusReport>("older", "reports.ndjson")[0];
    assert_eq!(report.current_version, "1.20.3");
    assert_eq!(
        (&report.run, report.attempt, &report.boot_id, &report.error),
        (&None, None, &None, &None)
    );
}
