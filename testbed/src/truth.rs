//! What really happened on the simulated machines, in order: the oracle's truth.
//!
//! Nothing here comes from the operator's own reports. The log only grows; readers wait for more of it.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::sync::watch;

use crate::bottlerocket::{Call, Command, CommandStatus, UpdateSettings};

/// One thing that happened on one machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SimEvent {
    /// When it happened.
    pub at: DateTime<Utc>,
    /// The node's name.
    pub node: String,
    /// What happened.
    pub kind: SimEventKind,
}

/// What can happen on a simulated machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum SimEventKind {
    /// The machine is up for the first time.
    Started {
        /// Boot ID of this first boot.
        boot_id: String,
        /// Version that runs.
        version: String,
    },
    /// A call reached the Bottlerocket API.
    Called {
        /// Which call.
        call: Call,
        /// The status answered; none where the connection was closed instead.
        status: Option<u16>,
    },
    /// An update command that had been accepted came to its end.
    CommandEnded {
        /// Which command.
        command: Command,
        /// How; none where the API server crashed under it.
        outcome: Option<CommandStatus>,
    },
    /// A refresh has found these versions on offer.
    Refreshed {
        /// The versions, the newest first.
        offered: Vec<String>,
        /// Whether it ignored the repository's own waves.
        ignored_waves: bool,
        /// The machine's variant.
        variant: String,
        /// Its architecture.
        arch: String,
    },
    /// The inactive partition set holds this image now.
    Written {
        /// Version written.
        version: String,
    },
    /// The inactive partition set was flagged to boot next.
    Activated {
        /// Version flagged.
        version: String,
    },
    /// The running partition set was flagged to boot next again.
    Deactivated,
    /// Committed settings differ from what they were.
    SettingsChanged {
        /// All of them, as they are now.
        settings: UpdateSettings,
    },
    /// The machine goes down.
    RebootBegun {
        /// Boot ID before.
        boot_id: String,
        /// Version that ran.
        version: String,
        /// Who wanted it.
        cause: RebootCause,
    },
    /// The machine is up again.
    RebootFinished {
        /// Boot ID now.
        boot_id: String,
        /// Version that runs now.
        version: String,
    },
    /// The machine was taken away for good.
    Removed,
}

/// Why a machine went down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum RebootCause {
    /// `POST /actions/reboot`.
    Api,
    /// A crash or power cut that a test asked for.
    PowerCut,
}

/// The append-only log that a fleet shares. Clones are the same log.
#[derive(Clone, Debug)]
pub struct TruthLog {
    events: Arc<Mutex<Vec<SimEvent>>>,
    length: watch::Sender<usize>,
}

impl Default for TruthLog {
    fn default() -> Self {
        Self {
            events: Arc::default(),
            length: watch::Sender::new(0),
        }
    }
}

impl TruthLog {
    /// Appends one event.
    pub fn record(&self, at: DateTime<Utc>, node: &str, kind: SimEventKind) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.push(SimEvent {
            at,
            node: node.to_owned(),
            kind,
        });
        self.length.send_replace(events.len());
    }

    /// Everything recorded so far.
    pub fn events(&self) -> Vec<SimEvent> {
        self.since(0)
    }

    /// Everything recorded after the first `seen` events.
    pub fn since(&self, seen: usize) -> Vec<SimEvent> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.get(seen..).map(<[SimEvent]>::to_vec).unwrap_or_default()
    }

    /// Everything recorded so far about one node.
    pub fn of(&self, node: &str) -> Vec<SimEvent> {
        self.events()
            .into_iter()
            .filter(|event| event.node == node)
            .collect()
    }

    /// Resolves once there are more than `seen` events.
    pub fn longer_than(&self, seen: usize) -> impl Future<Output = ()> + Send + use<> {
        let mut length = self.length.subscribe();
        async move {
            // The sender lives as long as the log itself; without one nothing will ever come.
            if length.wait_for(|length| *length > seen).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until an event satisfies `wanted`, and gives the first one that does.
    pub async fn wait_for(
        &self,
        what: &str,
        within: Duration,
        mut wanted: impl FnMut(&SimEvent) -> bool,
    ) -> Result<SimEvent> {
        let search = async {
            let mut seen = 0;
            loop {
                let fresh = self.since(seen);
                seen += fresh.len();
                if let Some(found) = fresh.into_iter().find(|event| wanted(event)) {
                    return found;
                }
                self.longer_than(seen).await;
            }
        };
        tokio::time::timeout(within, search)
            .await
            .with_context(|| format!("the machines' log shows no {what} within {within:?}"))
    }
}
