//! The client on a real socket, against a server that answers by script.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixListener,
};

use super::*;

/// How a connection is answered.
#[derive(Clone, Copy)]
enum Answer {
    /// With this status and body.
    With(u16, &'static str),
    /// Closed once the request was read.
    Closed,
    /// Closed in the middle of the body.
    Cut,
    /// Never.
    Never,
}

struct Scripted {
    client: Bottlerocket,
    requests: Arc<Mutex<Vec<String>>>,
    _folder: TempDir,
}

fn scripted(answers: &[Answer]) -> Scripted {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let (answers, heard) = (answers.to_vec(), requests.clone());
    tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            let text = String::from_utf8_lossy(&request[..length]).into_owned();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            let line = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1");
            heard
                .lock()
                .unwrap()
                .push(format!("{line} {body}").trim().to_owned());
            let reply = match answer {
                Answer::With(status, body) => {
                    format!(
                        "HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n{body}",
                        body.len()
                    )
                }
                Answer::Cut => "HTTP/1.1 200 x\r\ncontent-length: 100\r\n\r\n{".to_owned(),
                Answer::Closed => continue,
                Answer::Never => std::future::pending().await,
            };
            // A client that has left is not this server's trouble.
            let _ = stream.write_all(reply.as_bytes()).await;
        }
    });
    Scripted {
        client: Bottlerocket::new(path, Duration::from_millis(200)),
        requests,
        _folder: folder,
    }
}

impl Scripted {
    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn each_status_has_its_error() {
    type Is = fn(&CallError) -> bool;
    let cases: [(Answer, Is); 8] = [
        (
            Answer::With(404, "none"),
            |e| matches!(e, CallError::NotFound(words) if words == "none"),
        ),
        (Answer::With(409, ""), |e| matches!(e, CallError::Conflict(_))),
        (Answer::With(423, ""), |e| matches!(e, CallError::Busy(_))),
        (
            Answer::With(500, "inhibited\n"),
            |e| matches!(e, CallError::Failed { status: 500, words } if words == "inhibited"),
        ),
        (Answer::With(400, ""), |e| {
            matches!(e, CallError::Rejected { status: 400, .. })
        }),
        (Answer::Closed, |e| matches!(e, CallError::Lost(_))),
        (Answer::Cut, |e| matches!(e, CallError::Lost(_))),
        (Answer::Never, |e| matches!(e, CallError::Lost(_))),
    ];
    for (i, (answer, is)) in cases.into_iter().enumerate() {
        let error = scripted(&[answer])
            .client
            .command(Command::Prepare)
            .await
            .unwrap_err();
        assert!(is(&error), "{i}: {error:?}");
    }
}

#[tokio::test]
async fn commands_have_their_paths() {
    let server = scripted(&[Answer::With(204, ""); 4]);
    for command in [
        Command::Refresh,
        Command::Prepare,
        Command::Activate,
        Command::Deactivate,
    ] {
        server.client.command(command).await.unwrap();
    }
    let expected = [
        "refresh-updates",
        "prepare-update",
        "activate-update",
        "deactivate-update",
    ];
    assert_eq!(
        server.requests(),
        expected.map(|name| format!("POST /actions/{name}"))
    );
}

#[tokio::test]
async fn what_nobody_listens_to_was_not_sent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let client = Bottlerocket::new(path.clone(), Duration::from_secs(1));
    assert!(
        matches!(client.os().await, Err(CallError::NotSent(_))),
        "no socket"
    );
    drop(UnixListener::bind(&path).unwrap());
    assert!(
        matches!(client.os().await, Err(CallError::NotSent(_))),
        "a stale socket"
    );
    let deadline = Instant::now() + Duration::from_secs(1);
    assert!(matches!(
        client.reboot(deadline).await,
        Err(CallError::NotSent(_))
    ));
}

#[tokio::test]
async fn s5_no_reboot_is_sent_after_its_permit() {
    let server = scripted(&[Answer::With(204, ""), Answer::With(204, "")]);
    let late = server.client.reboot(Instant::now()).await;
    assert!(matches!(late, Err(CallError::NotSent(_))), "{late:?}");
    server
        .client
        .reboot(Instant::now() + Duration::from_secs(5))
        .await
        .unwrap_or_default();
    assert!(
        server
            .requests()
            .iter()
            .all(|line| line == "POST /actions/reboot")
    );
    assert!(server.requests().len() <= 1);
}

#[tokio::test]
async fn the_answers_of_the_reference_are_read() {
    let server = scripted(&[
        Answer::With(
            200,
            r#"{"pretty_name": "Bottlerocket OS 1.20.3", "variant_id": "aws-k8s-1.33", "version_id": "1.20.3",
                "build_id": "abc", "arch": "x86_64"}"#,
        ),
        Answer::With(
            200,
            r#"{ "update_state": "Available", "available_updates": ["1.21.0", "1.20.3", "1.19.5"],
                "chosen_update": {"arch": "x86_64", "version": "1.21.0", "variant": "aws-k8s-1.33"},
                "active_partition": {"image": {"arch": "x86_64", "version": "1.20.3", "variant": "aws-k8s-1.33"},
                                     "next_to_boot": true},
                "staging_partition": null,
                "most_recent_command": {"cmd_type": "refresh", "cmd_status": "Success",
                    "timestamp": "2026-11-22T05:40:00.123Z", "exit_status": 0, "stderr": ""} }"#,
        ),
        Answer::With(
            200,
            r#"{"updates": {"version-lock": "latest", "ignore-waves": false, "seed": 1234}}"#,
        ),
        Answer::With(200, r#"{"update_state": "Pondering", "new": 1}"#),
        Answer::With(200, "{}"),
    ]);
    assert_eq!(server.client.os().await.unwrap().version_id, "1.20.3");
    let status = server.client.status().await.unwrap();
    assert_eq!(status.update_state, UpdateState::Available);
    assert_eq!(status.chosen_update.unwrap().version, "1.21.0");
    assert_eq!(
        status.most_recent_command.unwrap().cmd_status,
        CommandStatus::Success
    );
    let settings = server.client.settings().await.unwrap();
    assert_eq!(
        (settings.version_lock.as_str(), settings.ignore_waves),
        ("latest", false)
    );
    let status = server.client.status().await.unwrap();
    assert_eq!(
        (status.update_state, status.most_recent_command),
        (UpdateState::Unknown, None)
    );
    assert!(matches!(
        server.client.settings().await,
        Err(CallError::Unreadable(_))
    ));
}

#[tokio::test]
async fn settings_are_changed_in_a_transaction_that_begins_empty() {
    let settings = Settings {
        version_lock: "1.21.0".into(),
        ignore_waves: true,
    };
    let ok = Answer::With(200, "[]");
    for last in [ok, Answer::With(422, "nothing pending")] {
        let server = scripted(&[ok, Answer::With(204, ""), last]);
        server.client.change_settings(&settings).await.unwrap();
        let expected = [
            "DELETE /tx?tx=brupop-update",
            r#"PATCH /settings?tx=brupop-update {"updates":{"version-lock":"1.21.0","ignore-waves":true}}"#,
            "POST /tx/commit_and_apply?tx=brupop-update",
        ];
        assert_eq!(server.requests(), expected);
    }
    let server = scripted(&[ok, Answer::With(400, "no such version")]);
    let error = server.client.change_settings(&settings).await.unwrap_err();
    assert_eq!(error.to_string(), "400: no such version");
}

#[test]
fn words_of_others_become_one_short_line() {
    assert_eq!(one_line("a\n b\t\tc \n"), "a b c");
    let long = one_line(&"x".repeat(1000));
    assert_eq!(long.chars().count(), 301);
    assert!(long.starts_with('…'));
}
