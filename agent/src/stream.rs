//! The instruction stream, and when to connect again.

use std::{fmt::Display, time::Duration};

use api::wire::{Instruction, Line, PROTOCOL};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Bytes};
use serde::Deserialize;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{config::Timings, server::Server};

/// The longest line that is taken.
const MAX_LINE: usize = 256 << 10;

/// What the node was last asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// This.
    Instruction(Box<Instruction>),
    /// Something that this agent does not understand.
    Unreadable(Unreadable),
    /// Nothing: the server has no shadow of this node.
    NoShadow,
}

/// An instruction that this agent does not understand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The run, where that much is understood.
    pub run: Option<String>,
    /// The attempt, where that much is understood.
    pub attempt: Option<u32>,
    /// What is wrong with it.
    pub problem: String,
}

/// What a line of the stream says.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// The node is asked for something.
    Order(Order),
    /// The server goes away.
    Goodbye,
    /// The server speaks this protocol.
    Hello(u32),
    /// Nothing that matters.
    Nothing,
    /// Something that is no message at all.
    Garbage(String),
}

/// Reads a line. Unknown fields and unknown types of line are ignored.
#[must_use]
pub fn read_line(line: &[u8]) -> Said {
    match serde_json::from_slice::<Line>(line) {
        Ok(Line::Hello { protocol }) => Said::Hello(protocol),
        Ok(Line::Instruction(instruction)) => Said::Order(Order::Instruction(instruction)),
        Ok(Line::Goodbye) => Said::Goodbye,
        Ok(Line::Heartbeat | Line::Unknown) => Said::Nothing,
        Err(error) => match serde_json::from_slice::<Outline>(line) {
            Ok(Outline { kind, spec }) if kind == "instruction" => {
                let Spec { run, attempt } = spec;
                Said::Order(Order::Unreadable(Unreadable {
                    run,
                    attempt,
                    problem: error.to_string(),
                }))
            }
            _ => Said::Garbage(error.to_string()),
        },
    }
}

/// So much of an instruction that it can be refused by name.
#[derive(Deserialize)]
struct Outline {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    spec: Spec,
}

#[derive(Default, Deserialize)]
struct Spec {
    #[serde(default)]
    run: Option<String>,
    #[serde(default)]
    attempt: Option<u32>,
}

/// Why a stream has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ended {
    Goodbye,
    Silent,
    Closed(String),
}

/// Follows the instructions for ever: each goes to `orders`, whichever connection it comes by.
pub async fn follow(server: &Server, orders: &watch::Sender<Option<Order>>, timings: &Timings) {
    let mut failures = 0;
    loop {
        let most = match server.instructions().await {
            Ok(body) => {
                let (ended, asked) = listen(body, orders, timings).await;
                tracing::info!(?ended, "the instruction stream has ended, connecting again");
                failures = if asked { 0 } else { failures + 1 };
                pause(failures, timings)
            }
            Err(error) => {
                tracing::warn!(%error, "the instruction stream cannot be opened, trying again");
                if error.is_not_found() {
                    orders.send_replace(Some(Order::NoShadow));
                }
                failures += 1;
                pause(failures, timings)
            }
        };
        sleep(full_jitter(most)).await;
    }
}

/// Bound of the wait after so many streams in a row that could not be opened, or asked for nothing.
fn pause(failures: u32, timings: &Timings) -> Duration {
    if failures == 0 {
        timings.reconnect_spread
    } else {
        timings.reconnect(failures)
    }
}

/// Listens until the stream ends. Tells why it has, and whether anything was asked by it.
async fn listen<B>(mut body: B, orders: &watch::Sender<Option<Order>>, timings: &Timings) -> (Ended, bool)
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Display,
{
    let mut lines = Lines::default();
    let mut asked = false;
    // What the node is asked for comes with the first line; only where there is no shadow it does not. The first line
    // itself may be long in coming: a server that has just been started has all its agents to greet.
    let mut begun = false;
    let mut unasked = None;
    let ended = loop {
        let frame = tokio::select! {
            biased;
            frame = timeout(timings.silence, body.frame()) => frame,
            () = sleep_until(unasked.unwrap_or_else(Instant::now)), if unasked.is_some() => {
                unasked = None;
                orders.send_replace(Some(Order::NoShadow));
                continue;
            }
        };
        match frame {
            Err(_) => break Ended::Silent,
            Ok(None) => break Ended::Closed("by the server".to_owned()),
            Ok(Some(Err(error))) => break Ended::Closed(error.to_string()),
            Ok(Some(Ok(frame))) => lines.0.extend_from_slice(&frame.into_data().unwrap_or_default()),
        }
        while let Some(line) = lines.next() {
            if !begun {
                (begun, unasked) = (true, Some(Instant::now() + timings.shadow_wait));
            }
            match read_line(&line) {
                Said::Order(order) => {
                    (asked, unasked) = (true, None);
                    orders.send_replace(Some(order));
                }
                Said::Goodbye => return (Ended::Goodbye, asked),
                Said::Hello(PROTOCOL) | Said::Nothing => {}
                Said::Hello(protocol) => {
                    tracing::warn!(protocol, ours = PROTOCOL, "the apiserver speaks another protocol");
                }
                Said::Garbage(problem) => {
                    tracing::warn!(problem, "a line of the stream is no message, ignored");
                }
            }
        }
        if lines.0.len() > MAX_LINE {
            break Ended::Closed("a line of the stream is too long".to_owned());
        }
    };
    (ended, asked)
}

/// Bytes as they come, lines as they end.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let end = self.0.iter().position(|byte| *byte == b'\n')?;
            let mut line: Vec<u8> = self.0.drain(..=end).collect();
            line.pop();
            if !line.trim_ascii().is_empty() {
                return Some(line);
            }
        }
    }
}

/// Somewhere between now and then, so that a thousand agents do not come at once.
#[must_use]
pub fn full_jitter(most: Duration) -> Duration {
    most.mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests;
