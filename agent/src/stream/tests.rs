#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use api::shadow::NodeState;
use hyper::body::Frame;
use tokio::{sync::mpsc, time::Instant};

use super::*;

/// Lines of a newer server, and what is no message of any.
const NEWER: &str = include_str!("../../../api/tests/recorded/newer/stream.ndjson");
const NONE: &str = r#"{"type":"instruction"}
not json
{"no":"type"}"#;

#[test]
fn what_is_unknown_is_ignored_and_what_is_not_understood_is_told() {
    let mut said = NEWER
        .lines()
        .chain(NONE.lines())
        .map(|line| read_line(line.as_bytes()));
    let mut next = || said.next().unwrap();
    assert_eq!(next(), Said::Hello(2));
    assert_eq!(next(), Said::Nothing);
    assert_eq!(next(), Said::Nothing, "a type of line that is not known");
    let Said::Order(Order::Instruction(monitor)) = next() else {
        panic!()
    };
    assert_eq!(monitor.spec.version.as_deref(), Some("1.21.0"));
    assert_eq!(monitor.status.as_ref().unwrap().current_version, "1.20.3");
    let Said::Order(Order::Unreadable(unreadable)) = next() else {
        panic!()
    };
    assert_eq!(
        (unreadable.run.as_deref(), unreadable.attempt),
        (Some("r1"), Some(3))
    );
    assert!(unreadable.problem.contains("Hibernate"), "{}", unreadable.problem);
    let Said::Order(Order::Instruction(idle)) = next() else {
        panic!()
    };
    assert_eq!((idle.spec.state, idle.status.as_ref()), (NodeState::Idle, None));
    assert_eq!(next(), Said::Goodbye);
    assert!(matches!(
        next(),
        Said::Order(Order::Unreadable(Unreadable { run: None, .. }))
    ));
    assert!(matches!(next(), Said::Garbage(_)));
    assert!(matches!(next(), Said::Garbage(_)));
}

/// A body whose frames come from a channel.
struct Channel(mpsc::UnboundedReceiver<Bytes>);

impl Body for Channel {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(context)
            .map(|data| data.map(|data| Ok(Frame::data(data))))
    }
}

struct Listening {
    server: mpsc::UnboundedSender<Bytes>,
    orders: watch::Receiver<Option<Order>>,
    ended: tokio::task::JoinHandle<(Ended, bool)>,
}

fn listening() -> Listening {
    let (server, frames) = mpsc::unbounded_channel();
    let (sender, orders) = watch::channel(None);
    let ended = tokio::spawn(async move { listen(Channel(frames), &sender, &Timings::default()).await });
    Listening {
        server,
        orders,
        ended,
    }
}

#[tokio::test(start_paused = true)]
async fn lines_are_put_together_however_they_are_cut() {
    let Listening {
        server,
        mut orders,
        ended,
    } = listening();
    for part in [
        "{\"type\":\"instr",
        "uction\",\"spec\":{\"state\":\"Idle\"}}\n\n{\"type\":",
        "\"goodbye\"}\n",
    ] {
        server.send(Bytes::from(part)).unwrap();
    }
    orders.changed().await.unwrap();
    assert!(matches!(&*orders.borrow(), Some(Order::Instruction(_))));
    assert_eq!(ended.await.unwrap(), (Ended::Goodbye, true));
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_is_taken_for_dead_and_heartbeats_keep_it_alive() {
    let begun = Instant::now();
    let Listening { server, ended, .. } = listening();
    for _ in 0..5 {
        sleep(Duration::from_secs(59)).await;
        server.send(Bytes::from("{\"type\":\"heartbeat\"}\n")).unwrap();
    }
    assert_eq!(ended.await.unwrap(), (Ended::Silent, false));
    assert_eq!(begun.elapsed(), Duration::from_secs(5 * 59 + 60));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_or_never_ends_its_line_is_closed() {
    let Listening { server, ended, .. } = listening();
    drop(server);
    assert_eq!(ended.await.unwrap().0, Ended::Closed("by the server".into()));

    let Listening { server, ended, .. } = listening();
    server.send(Bytes::from(vec![b'x'; MAX_LINE + 1])).unwrap();
    assert_eq!(
        ended.await.unwrap().0,
        Ended::Closed("a line of the stream is too long".into())
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_begins_without_an_instruction_is_of_a_node_without_a_shadow() {
    let Listening {
        server, mut orders, ..
    } = listening();
    server
        .send(Bytes::from("{\"type\":\"hello\",\"protocol\":1}\n"))
        .unwrap();
    let begun = Instant::now();
    orders.changed().await.unwrap();
    assert_eq!(*orders.borrow_and_update(), Some(Order::NoShadow));
    assert_eq!(begun.elapsed(), Timings::default().shadow_wait);
    server
        .send(Bytes::from(
            "{\"type\":\"instruction\",\"spec\":{\"state\":\"Idle\"}}\n",
        ))
        .unwrap();
    orders.changed().await.unwrap();
    assert!(matches!(
        &*orders.borrow_and_update(),
        Some(Order::Instruction(_))
    ));
    sleep(Duration::from_secs(30)).await;
    assert!(!orders.has_changed().unwrap(), "it is said once");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_slow_to_begin_is_of_a_server_that_is_busy() {
    let Listening {
        server, mut orders, ..
    } = listening();
    sleep(Timings::default().shadow_wait * 5).await;
    let hello = "{\"type\":\"hello\",\"protocol\":1}\n";
    let instruction = "{\"type\":\"instruction\",\"spec\":{\"state\":\"Idle\"}}\n";
    server.send(Bytes::from(hello)).unwrap();
    server.send(Bytes::from(instruction)).unwrap();
    orders.changed().await.unwrap();
    let order = orders.borrow_and_update().clone();
    assert!(matches!(order, Some(Order::Instruction(_))), "{order:?}");
}

#[test]
fn jitter_is_full() {
    let most = Duration::from_secs(1);
    let waits: Vec<Duration> = (0..200).map(|_| full_jitter(most)).collect();
    assert!(waits.iter().all(|wait| *wait <= most));
    assert!(waits.iter().any(|wait| *wait < most / 4) && waits.iter().any(|wait| *wait > most / 4 * 3));
}
