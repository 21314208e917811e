//! The simulated Bottlerocket API over its real socket, without a control plane.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use testbed::bottlerocket::{
    Call, CallFault, Host, Image, Latencies, Machine, Release, SharedRepository, UpdateSettings, Version,
    server,
};
use testbed::truth::{SimEventKind, TruthLog};
use tokio_util::task::AbortOnDropHandle;

const SOON: Duration = Duration::from_secs(10);

struct Bench {
    host: Arc<Host>,
    truth: TruthLog,
    socket: PathBuf,
    _tasks: [AbortOnDropHandle<()>; 2],
    _directory: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let image = |minor| Image {
            arch: "x86_64".into(),
            version: Version::new(1, minor, 0),
            variant: "aws-k8s-1.33".into(),
        };
        let repository = SharedRepository::default();
        repository.change(|all| {
            all.publish(Release {
                image: image(21),
                waves: BTreeMap::new(),
            })
        });
        let truth = TruthLog::default();
        let settings = UpdateSettings {
            seed: 7,
            ..UpdateSettings::default()
        };
        let machine = Machine::new(chrono::Utc::now(), image(20), settings, "boot-0".into());
        let host = Host::new("n1", machine, repository, truth.clone());
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("api.sock");
        let api = {
            let (host, socket) = (host.clone(), socket.clone());
            tokio::spawn(async move { server::serve(host, &socket).await.map(|_| ()).unwrap() })
        };
        let clock = {
            let host = host.clone();
            tokio::spawn(async move { host.run_clock().await })
        };
        let tasks = [api, clock].map(AbortOnDropHandle::new);
        let bench = Self {
            host,
            truth,
            socket,
            _tasks: tasks,
            _directory: directory,
        };
        bench
            .until(async || bench.ask("GET", "/os", "").await.is_some())
            .await;
        bench
    }

    /// One call on a connection of its own: status and body, or none where no answer came.
    async fn ask(&self, method: &str, path: &str, body: &str) -> Option<(u16, Value)> {
        let stream = tokio::net::UnixStream::connect(&self.socket).await.ok()?;
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.ok()?;
        let connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost");
        let answer = sender
            .send_request(request.body(body.to_owned()).unwrap())
            .await
            .ok()?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.ok()?.to_bytes();
        drop(connection);
        Some((status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    async fn status_of(&self, method: &str, path: &str) -> Option<u16> {
        self.ask(method, path, "").await.map(|(status, _)| status)
    }

    async fn until(&self, reached: impl AsyncFn() -> bool) {
        let polling = async {
            while !reached().await {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(SOON, polling)
            .await
            .expect("reached in time");
    }
}

#[tokio::test]
async fn an_update_over_the_socket() {
    let bench = Bench::new().await;
    let patch = r#"{"updates": {"version-lock": "1.21.0", "ignore-waves": true}}"#;
    assert_eq!(bench.status_of("DELETE", "/tx?tx=mine").await, Some(200));
    assert_eq!(
        bench.ask("PATCH", "/settings?tx=mine", patch).await,
        Some((204, Value::Null))
    );
    let (status, keys) = bench
        .ask("POST", "/tx/commit_and_apply?tx=mine", "")
        .await
        .unwrap();
    assert_eq!((status, keys.as_array().map(Vec::len)), (200, Some(2)));
    assert_eq!(
        bench.status_of("POST", "/tx/commit_and_apply?tx=mine").await,
        Some(422)
    );

    assert_eq!(bench.status_of("GET", "/updates/status").await, Some(404));
    for action in ["refresh", "prepare", "activate"] {
        let call = if action == "refresh" {
            "refresh-updates".to_owned()
        } else {
            format!("{action}-update")
        };
        assert_eq!(
            bench.status_of("POST", &format!("/actions/{call}")).await,
            Some(204),
            "{action}"
        );
        let (_, status) = bench.ask("GET", "/updates/status", "").await.unwrap();
        assert_eq!(status["most_recent_command"]["cmd_type"], action);
    }
    assert_eq!(
        bench.status_of("POST", "/actions/prepare-update").await,
        Some(409)
    );
    assert_eq!(bench.status_of("POST", "/actions/reboot").await, Some(204));
    let kinds: Vec<_> = bench.truth.events().into_iter().map(|event| event.kind).collect();
    assert!(kinds.contains(&SimEventKind::Activated {
        version: "1.21.0".into()
    }));
    assert!(matches!(kinds.last(), Some(SimEventKind::RebootBegun { .. })));
}

#[tokio::test]
async fn settings_are_read_by_key_with_or_without_escapes() {
    let bench = Bench::new().await;
    let expected = json!({ "updates": { "version-lock": "latest", "seed": 7 } });
    for separator in [",", "%2C"] {
        let path = format!("/settings?keys=settings.updates.version-lock{separator}settings.updates.seed");
        assert_eq!(bench.ask("GET", &path, "").await, Some((200, expected.clone())));
    }
    assert_eq!(
        bench
            .ask("PATCH", "/settings?tx=t", r#"{"updates": {"seed": "x"}}"#)
            .await
            .unwrap()
            .0,
        400
    );
}

#[tokio::test]
async fn a_command_at_work_answers_423_and_ends_by_the_clock() {
    let bench = Bench::new().await;
    let refresh = Duration::from_millis(100);
    bench.host.with(|machine, _| {
        machine.latencies = Latencies {
            refresh,
            ..Latencies::default()
        }
    });
    assert_eq!(
        bench.status_of("POST", "/actions/refresh-updates").await,
        Some(204)
    );
    assert_eq!(bench.status_of("GET", "/updates/status").await, Some(423));
    assert_eq!(
        bench.status_of("POST", "/actions/refresh-updates").await,
        Some(423)
    );
    let ended = |event: &testbed::truth::SimEvent| matches!(event.kind, SimEventKind::CommandEnded { .. });
    bench
        .truth
        .wait_for("end of the refresh", SOON, ended)
        .await
        .unwrap();
    assert_eq!(bench.status_of("GET", "/updates/status").await, Some(200));
}

#[tokio::test]
async fn faults_of_calls() {
    let bench = Bench::new().await;
    bench.host.with(|machine, _| {
        machine
            .faults
            .next_calls(Call::Refresh, CallFault::ServerError, 2);
        machine.faults.next_calls(Call::Refresh, CallFault::ReplyLost, 1);
        machine.faults.every_call(Call::Reboot, CallFault::ServerError);
        machine
            .faults
            .next_calls(Call::CommitAndApply, CallFault::ReplyLost, 1);
    });
    let refresh = || bench.status_of("POST", "/actions/refresh-updates");
    assert_eq!((refresh().await, refresh().await), (Some(500), Some(500)));
    assert_eq!(
        bench.status_of("GET", "/updates/status").await,
        Some(404),
        "not accepted"
    );
    assert_eq!(refresh().await, None);
    assert_eq!(
        bench.status_of("GET", "/updates/status").await,
        Some(200),
        "accepted"
    );
    assert_eq!(
        bench.status_of("POST", "/actions/reboot").await,
        Some(500),
        "an inhibitor refuses"
    );
    assert!(bench.host.with(|machine, _| machine.going_down()).is_none());

    bench
        .ask("PATCH", "/settings", r#"{"updates": {"ignore-waves": true}}"#)
        .await
        .unwrap();
    assert_eq!(bench.status_of("POST", "/tx/commit_and_apply").await, None);
    assert!(
        bench
            .host
            .with(|machine, _| machine.settings().committed().ignore_waves),
        "committed all the same"
    );
    let lost = |event: &testbed::truth::SimEvent| {
        event.kind
            == SimEventKind::Called {
                call: Call::CommitAndApply,
                status: None,
            }
    };
    bench.truth.wait_for("lost reply", SOON, lost).await.unwrap();
}

#[tokio::test]
async fn the_socket_can_go_away_and_come_back() {
    let bench = Bench::new().await;
    bench.host.set_socket(false);
    bench
        .until(async || bench.status_of("GET", "/os").await.is_none())
        .await;
    let error = tokio::net::UnixStream::connect(&bench.socket).await.unwrap_err();
    assert_eq!(
        error.kind(),
        std::io::ErrorKind::ConnectionRefused,
        "the file is stale"
    );
    bench.host.set_socket(true);
    bench
        .until(async || bench.status_of("GET", "/os").await == Some(200))
        .await;
}
