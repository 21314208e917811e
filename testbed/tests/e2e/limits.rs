//! How much of the apiserver anyone gets: bytes, time and connections, on the real program.

use std::time::Duration;

use hyper::StatusCode;
use serde_json::Value;
use testbed::lab::Lab;
use testbed::operator::Options;
use testbed::oracle::Expectations;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::caller::{Ask, Caller, bearer};
use crate::support::{SOON, assert_says, get_shadow, machines, seconds};
use crate::tokens::{agent_pod, of_pod};

const STATUS: &str = "/v1/nodes/n1/status";
const MAX_BODY: usize = 2048;
const MAX_CONNECTIONS: usize = 6;

async fn start() -> (Lab, String, String) {
    let flags = [
        "--max-body=2048",
        "--max-connections=6",
        "--tls-handshake-timeout=500ms",
        "--header-timeout=500ms",
        "--request-timeout=1s",
        "--idle-timeout=1s",
        "--shutdown-timeout=500ms",
    ];
    let options = Options {
        apiserver_flags: flags.map(str::to_owned).to_vec(),
        ..Options::default()
    };
    let lab = Box::pin(Lab::start(machines(1), &options)).await.unwrap();
    let token = of_pod(&lab, &agent_pod(&lab, "n1").await).await;
    // What changes nothing.
    let known = serde_json::to_string(&get_shadow(&lab, "n1").await.status).unwrap();
    (lab, token, known)
}

async fn finish(lab: Lab) {
    lab.finish(&Expectations {
        quiet: true,
        ..Expectations::default()
    })
    .await
    .unwrap();
}

/// Everything that comes until the connection is closed, and how long that took.
async fn until_closed(begun: Instant, mut stream: impl AsyncRead + Unpin) -> (String, Duration) {
    let mut read = Vec::new();
    // A connection that is cut is closed as well.
    let _ = timeout(SOON, stream.read_to_end(&mut read))
        .await
        .expect("it is never closed");
    (String::from_utf8_lossy(&read).into_owned(), begun.elapsed())
}

fn assert_after(took: Duration, least: Duration, what: &str) {
    let most = least + seconds(5);
    assert!(took >= least && took < most, "{what}: {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_and_headers_are_limited_in_size() {
    let (lab, token, known) = start().await;
    let caller = Caller::new(&lab);
    let padded = |length: usize| format!("{known}{}", " ".repeat(length - known.len()));
    for (method, what) in [("PUT", "status"), ("POST", "shadow"), ("POST", "permit")] {
        let mut ask = Ask {
            method,
            path: format!("/v1/nodes/n1/{what}"),
            authorization: Some(bearer(&token)),
            body: padded(MAX_BODY + 1),
        };
        let answer = caller.ask(&ask).await;
        assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE, "{what}: {answer:?}");
        assert_says(answer.message(), &["limit"]);
        ask.body = padded(MAX_BODY);
        let answer = caller.ask(&ask).await;
        assert_ne!(answer.status, StatusCode::PAYLOAD_TOO_LARGE, "{what}: {answer:?}");
    }
    let mut ask = Ask {
        method: "PUT",
        path: STATUS.to_owned(),
        authorization: Some(bearer(&token)),
        body: known.clone(),
    };
    for (wrong, told) in [
        ("{", "EOF"),
        ("{}", "missing field `current_version`"),
        (&known.replace("\"Idle\"", "\"Sleeping\""), "current_state"),
        (
            &known.replace("\"crash_count\":0", "\"crash_count\":-1"),
            "crash_count",
        ),
    ] {
        ask.body = wrong.to_owned();
        let answer = caller.ask(&ask).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{wrong}: {answer:?}");
        assert_says(answer.message(), &[told]);
    }
    ask.body.clone_from(&known);
    ask.authorization = Some(bearer(&"x".repeat(20 * 1024)));
    let refused = caller.ask(&ask).await.status;
    assert_eq!(refused, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);

    // The same over HTTP/1, with a body that does not say how long it is.
    let mut plain = Caller::new(&lab).tls(&["http/1.1"]).await.unwrap();
    let head = format!(
        "PUT {STATUS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    plain.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("{:x}\r\n{}\r\n", 1024, " ".repeat(1024));
    for _ in 0..3 {
        // It may have been closed in the middle.
        let _ = plain.write_all(chunk.as_bytes()).await;
    }
    assert_says(&until_closed(Instant::now(), plain).await.0, &["HTTP/1.1 413 "]);
    finish(lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_slow_or_silent_is_not_waited_for() {
    let (lab, token, _) = start().await;
    let caller = Caller::new(&lab);
    let half_a_second = Duration::from_millis(500);

    let begun = Instant::now();
    let silent = TcpStream::connect(caller.address()).await.unwrap();
    assert_after(until_closed(begun, silent).await.1, half_a_second, "no TLS");
    let begun = Instant::now();
    let one_byte = async {
        let mut stream = TcpStream::connect(caller.address()).await.unwrap();
        stream.write_all(&[0x16]).await.unwrap();
        stream
    };
    assert_after(
        until_closed(begun, one_byte.await).await.1,
        half_a_second,
        "the first byte of TLS",
    );

    for protocol in ["h2", "http/1.1"] {
        let begun = Instant::now();
        let silent = caller.tls(&[protocol]).await.unwrap();
        let (said, took) = until_closed(begun, silent).await;
        assert_after(
            took,
            half_a_second,
            &format!("{protocol} without a request: {said:?}"),
        );
    }
    let begun = Instant::now();
    let mut slow = caller.tls(&["http/1.1"]).await.unwrap();
    slow.write_all(format!("PUT {STATUS} HTTP/1.1\r\nHost: ").as_bytes())
        .await
        .unwrap();
    assert_after(until_closed(begun, slow).await.1, half_a_second, "half a header");

    let mut slow = caller.tls(&["http/1.1"]).await.unwrap();
    let head = format!(
        "PUT {STATUS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 100\r\n\r\n{{"
    );
    let begun = Instant::now();
    slow.write_all(head.as_bytes()).await.unwrap();
    let (said, took) = until_closed(begun, slow).await;
    assert_after(took, seconds(1), "half a body");
    assert_says(&said, &["HTTP/1.1 503 ", "took longer than 1s"]);

    // A stream is none of that, however long nothing is sent by the client.
    let mut lines = caller.stream("n1", &token).await;
    lines.instruction().await;
    assert!(timeout(seconds(3), lines.next()).await.is_err(), "it ends");
    finish(lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_wait_until_another_ends() {
    let (lab, token, _) = start().await;
    // The node's own agent has one.
    let mut held = Vec::new();
    for _ in 1..MAX_CONNECTIONS {
        let caller = Caller::new(&lab);
        let mut lines = caller.stream("n1", &token).await;
        lines.instruction().await;
        held.push((caller, lines));
    }
    let streams = lab.operator.apiserver_metrics().await.unwrap();
    assert_says(
        &streams,
        &[&format!("brupop_apiserver_streams {MAX_CONNECTIONS}\n")],
    );

    let another = Caller::new(&lab);
    let mut handshake = Box::pin(another.tls(&["h2"]));
    let waited = timeout(seconds(2), &mut handshake).await;
    assert!(waited.is_err(), "it is served");
    held.pop();
    timeout(SOON, handshake).await.expect("it is not served").unwrap();
    let known = serde_json::to_value(get_shadow(&lab, "n1").await.status).unwrap();
    drop(held);
    let answer = Caller::new(&lab).call("PUT", STATUS, &token, &known).await;
    assert_eq!(
        (answer.status, answer.body),
        (StatusCode::NO_CONTENT, Value::Null)
    );
    finish(lab).await;
}
