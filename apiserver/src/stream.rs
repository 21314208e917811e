//! A node's instructions, as they change.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use api::{
    BottlerocketShadow,
    wire::{Instruction, Line, PROTOCOL},
};
use tokio::{
    sync::watch,
    time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{identity::Identity, metrics::OpenStream, shadows::owner_uid};

/// The latest value of an object; None while it does not exist.
pub type Follow<T> = watch::Receiver<Option<Arc<T>>>;

/// One stream of one agent.
pub struct Session {
    identity: Identity,
    shadow: Follow<BottlerocketShadow>,
    pod: Follow<String>,
    pod_seen: bool,
    pod_due: Instant,
    expires: Instant,
    shutdown: CancellationToken,
    heartbeat: Interval,
    sent: Option<Sent>,
    queue: VecDeque<Line>,
    ended: bool,
    _open: OpenStream,
}

/// How long a stream goes on.
#[derive(Clone, Copy, Debug)]
pub struct Delays {
    /// Until the token expires.
    pub token: Duration,
    /// Until the watch must have shown the agent's pod.
    pub pod_grace: Duration,
    /// Between two heartbeats.
    pub heartbeat: Duration,
}

/// The instruction that was sent last.
struct Sent {
    uid: String,
    generation: i64,
    created: Option<i64>,
    /// Whether the watch has shown this shadow.
    followed: bool,
}

impl Session {
    /// A stream that begins with `stored`, the shadow as it was read after following it began.
    #[must_use]
    pub fn new(
        identity: Identity,
        stored: Option<&BottlerocketShadow>,
        (shadow, pod): (Follow<BottlerocketShadow>, Follow<String>),
        delays: Delays,
        shutdown: CancellationToken,
        open: OpenStream,
    ) -> Self {
        let now = Instant::now();
        let mut heartbeat = interval_at(now + delays.heartbeat, delays.heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut session = Self {
            identity,
            shadow,
            pod,
            pod_seen: false,
            pod_due: now + delays.pod_grace,
            expires: now + delays.token,
            shutdown,
            heartbeat,
            sent: None,
            queue: VecDeque::from([Line::Hello { protocol: PROTOCOL }]),
            ended: false,
            _open: open,
        };
        if let Some(stored) = stored {
            session.offer(stored);
        }
        session
    }

    /// The next line; None once the stream is over.
    pub async fn next(&mut self) -> Option<Line> {
        loop {
            if let Some(line) = self.queue.pop_front() {
                self.heartbeat.reset();
                return Some(line);
            }
            if self.ended {
                return None;
            }
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => self.end("the server stops"),
                () = sleep_until(self.expires) => self.end("the token expired"),
                () = sleep_until(self.pod_due), if !self.pod_seen => self.end(
                    "the watch of agent pods does not show its pod: is the pod labelled as an agent?"
                ),
                changed = self.pod.changed() => match changed {
                    Ok(()) => self.look_at_pod(),
                    Err(_) => self.end("the watch of agent pods stopped"),
                },
                changed = self.shadow.changed() => match changed {
                    Ok(()) => self.look_at_shadow(),
                    Err(_) => self.end("the watch of shadows stopped"),
                },
                _ = self.heartbeat.tick() => self.queue.push_back(Line::Heartbeat),
            }
        }
    }

    fn end(&mut self, reason: &str) {
        tracing::info!(
            node = self.identity.node,
            pod = self.identity.pod,
            reason,
            "a stream ends"
        );
        self.ended = true;
        self.queue.push_back(Line::Goodbye);
    }

    fn look_at_pod(&mut self) {
        let is_there = self.pod.borrow_and_update().as_deref() == Some(&self.identity.pod_uid);
        if is_there {
            self.pod_seen = true;
        } else if self.pod_seen {
            self.end("its pod is gone");
        }
    }

    fn look_at_shadow(&mut self) {
        let shadow = self.shadow.borrow_and_update().clone();
        if let Some(shadow) = &shadow {
            self.offer(shadow);
        }
        let shown = shadow.as_ref().and_then(|shadow| shadow.metadata.uid.as_deref());
        if let Some(sent) = &mut self.sent {
            if shown == Some(&sent.uid) {
                sent.followed = true;
            } else if sent.followed {
                // The agent creates it again when it connects again.
                self.end("its shadow is gone");
            }
        }
    }

    /// Sends the shadow's spec if it is this node's and newer than the last. The watch may lag behind what was read
    /// when the stream began.
    fn offer(&mut self, shadow: &BottlerocketShadow) {
        if owner_uid(shadow) != Some(&self.identity.node_uid) {
            return;
        }
        let meta = &shadow.metadata;
        let next = Sent {
            uid: meta.uid.clone().unwrap_or_default(),
            generation: meta.generation.unwrap_or_default(),
            created: meta.creation_timestamp.as_ref().map(|at| at.0.as_second()),
            followed: false,
        };
        let is_newer = self.sent.as_ref().is_none_or(|sent| {
            if sent.uid == next.uid {
                next.generation > sent.generation
            } else {
                next.created >= sent.created
            }
        });
        if is_newer {
            self.sent = Some(next);
            let instruction = Instruction {
                spec: shadow.spec.clone(),
                status: shadow.status.clone(),
            };
            self.queue.push_back(Line::Instruction(Box::new(instruction)));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;
    use crate::{feed::Feed, metrics::Metrics};
    use api::shadow::NodeState;
    use serde_json::json;

    struct World {
        shadows: Feed<BottlerocketShadow>,
        pods: Feed<String>,
        shutdown: CancellationToken,
    }

    impl World {
        fn new() -> Self {
            let world = Self {
                shadows: Feed::default(),
                pods: Feed::default(),
                shutdown: CancellationToken::new(),
            };
            world.pods.set("agent", "p1".into());
            world
        }

        fn open(&self, stored: Option<&BottlerocketShadow>) -> Session {
            let identity = Identity {
                node: "n1".into(),
                node_uid: "u1".into(),
                pod: "agent".into(),
                pod_uid: "p1".into(),
            };
            let follow = (self.shadows.subscribe("brs-n1"), self.pods.subscribe("agent"));
            let delays = Delays {
                token: Duration::from_secs(100),
                pod_grace: Duration::from_secs(10),
                heartbeat: Duration::from_secs(20),
            };
            let open = Metrics::default().stream();
            Session::new(identity, stored, follow, delays, self.shutdown.clone(), open)
        }
    }

    fn shadow(uid: &str, node_uid: &str, generation: i64, state: NodeState) -> BottlerocketShadow {
        serde_json::from_value(json!({
            "apiVersion": "brupop.bottlerocket.aws/v2", "kind": "BottlerocketShadow",
            "metadata": {"name": "brs-n1", "uid": uid, "generation": generation,
                "creationTimestamp": "2026-11-22T08:00:00Z",
                "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": node_uid}]},
            "spec": {"state": state},
        }))
        .unwrap()
    }

    fn state(line: Option<Line>) -> NodeState {
        match line {
            Some(Line::Instruction(instruction)) => instruction.spec.state,
            other => panic!("no instruction: {other:?}"),
        }
    }

    const HELLO: Option<Line> = Some(Line::Hello { protocol: PROTOCOL });

    #[tokio::test(start_paused = true)]
    async fn it_begins_with_what_is_stored_and_sends_each_newer_spec_once() {
        let world = World::new();
        let old = shadow("s", "u1", 1, NodeState::Idle);
        let stored = shadow("s", "u1", 2, NodeState::StagedAndPerformedUpdate);
        world.shadows.set("brs-n1", old);
        let mut session = world.open(Some(&stored));
        assert_eq!(session.next().await, HELLO);
        assert_eq!(state(session.next().await), NodeState::StagedAndPerformedUpdate);
        assert_eq!(
            session.next().await,
            Some(Line::Heartbeat),
            "the watch lags, and is not believed"
        );
        world.shadows.set("brs-n1", stored);
        assert_eq!(
            session.next().await,
            Some(Line::Heartbeat),
            "the same spec again is no news"
        );
        world
            .shadows
            .set("brs-n1", shadow("s", "u1", 3, NodeState::RebootedIntoUpdate));
        assert_eq!(state(session.next().await), NodeState::RebootedIntoUpdate);
    }

    #[tokio::test(start_paused = true)]
    async fn s3_the_shadow_of_an_earlier_node_says_nothing_to_a_new_one() {
        let world = World::new();
        let inherited = shadow("s", "u0", 5, NodeState::RebootedIntoUpdate);
        world.shadows.set("brs-n1", inherited.clone());
        let mut session = world.open(Some(&inherited));
        assert_eq!(session.next().await, HELLO);
        assert_eq!(session.next().await, Some(Line::Heartbeat));
        world.shadows.set("brs-n1", shadow("t", "u1", 1, NodeState::Idle));
        assert_eq!(state(session.next().await), NodeState::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_with_its_shadow() {
        let world = World::new();
        let mine = shadow("s", "u1", 1, NodeState::Idle);
        let mut session = world.open(Some(&mine));
        assert_eq!(session.next().await, HELLO);
        assert_eq!(state(session.next().await), NodeState::Idle);
        assert_eq!(
            session.next().await,
            Some(Line::Heartbeat),
            "the watch has not shown it yet"
        );
        world.shadows.set("brs-n1", mine);
        assert_eq!(session.next().await, Some(Line::Heartbeat));
        world.shadows.remove("brs-n1");
        assert_eq!(session.next().await, Some(Line::Goodbye));
        assert_eq!(session.next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_with_its_pod_its_token_and_its_server() {
        type Change = fn(&World);
        let causes: [(Change, u64); 5] = [
            (|world| world.pods.remove("agent"), 0),
            (|world| world.pods.set("agent", "p2".into()), 0),
            (|world| world.shutdown.cancel(), 0),
            (|world| drop(world.shadows.subscribe("x")), 100),
            (|_| {}, 100),
        ];
        for (cause, after) in causes {
            let world = World::new();
            let begun = Instant::now();
            let mut session = world.open(None);
            assert_eq!(session.next().await, HELLO);
            assert!(
                tokio::time::timeout(Duration::from_secs(1), session.next())
                    .await
                    .is_err()
            );
            cause(&world);
            while let Some(Line::Heartbeat) = session.next().await {}
            assert_eq!(session.next().await, None);
            assert_eq!(begun.elapsed().as_secs(), after.max(1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_the_watch_never_shows_ends_it() {
        let world = World::new();
        world.pods.remove("agent");
        let begun = Instant::now();
        let mut session = world.open(None);
        assert_eq!(session.next().await, HELLO);
        assert_eq!(session.next().await, Some(Line::Goodbye));
        assert_eq!(begun.elapsed(), Duration::from_secs(10));
    }
}
