//! What a test wants to go wrong, and what has passed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use chrono::{DateTime, Utc};
use hyper::body::Bytes;
use hyper::{Method, StatusCode, Uri};
use tokio::sync::{mpsc, watch};

/// A request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// GET, PUT, ...
    pub method: Method,
    /// The path, without the query.
    pub path: String,
    /// The query, empty where there is none.
    pub query: String,
    /// The body, empty where there is none.
    pub body: Bytes,
}

impl Asked {
    pub(super) fn new(method: Method, uri: &Uri, body: Bytes) -> Self {
        Self {
            method,
            path: uri.path().to_owned(),
            query: uri.query().unwrap_or_default().to_owned(),
            body,
        }
    }

    /// Whether it is a request of this method for a path that ends so.
    pub fn is(&self, method: &Method, path: &str) -> bool {
        self.method == method && self.path.ends_with(path)
    }

    /// Whether it asks for a watch.
    pub fn is_watch(&self) -> bool {
        let wanted = |pair| matches!(pair, "watch=true" | "watch=1");
        self.method == Method::GET && self.query.split('&').any(wanted)
    }

    /// The body as JSON; null where it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// A request with what became of it.
#[derive(Clone, Debug)]
pub struct Passed {
    /// The request.
    pub asked: Asked,
    /// When it reached the proxy.
    pub at: DateTime<Utc>,
    /// What kube-apiserver answered; none where it did not, or has not yet.
    pub status: Option<StatusCode>,
}

/// At which point a request is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Before kube-apiserver sees it.
    Asked,
    /// When it is done and its answer is on the way back.
    Answered,
}

/// Which requests a fault is for.
type Matches = Arc<dyn Fn(&Asked) -> bool + Send + Sync>;

#[derive(Clone)]
enum Fault {
    Delay(Duration),
    Hold(When, mpsc::UnboundedSender<Held>),
    LoseAnswer,
}

/// The faults that are in force, and the journal.
pub(super) struct Faults {
    state: Mutex<State>,
    /// Counts up when every connection is to be cut.
    pub(super) cuts: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    next: u64,
    rules: Vec<(u64, Matches, Fault)>,
    journal: Vec<Passed>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            cuts: watch::Sender::new(0),
        }
    }
}

impl Faults {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(self: &Arc<Self>, matches: Matches, fault: Fault) -> Rule {
        let mut state = self.state();
        state.next += 1;
        let id = state.next;
        state.rules.push((id, matches, fault));
        Rule {
            faults: Arc::clone(self),
            id,
        }
    }

    pub(super) fn delay(self: &Arc<Self>, by: Duration, matches: Matches) -> Rule {
        self.add(matches, Fault::Delay(by))
    }

    pub(super) fn lose_answer(self: &Arc<Self>, matches: Matches) -> Rule {
        self.add(matches, Fault::LoseAnswer)
    }

    pub(super) fn hold(self: &Arc<Self>, when: When, matches: Matches) -> Hold {
        let (sender, held) = mpsc::unbounded_channel();
        Hold {
            _rule: self.add(matches, Fault::Hold(when, sender)),
            held,
        }
    }

    pub(super) fn journal(&self) -> Vec<Passed> {
        self.state().journal.clone()
    }

    /// Takes a request into the journal; its place there.
    pub(super) fn came(&self, asked: Asked) -> usize {
        let journal = &mut self.state().journal;
        journal.push(Passed {
            asked,
            at: Utc::now(),
            status: None,
        });
        journal.len() - 1
    }

    pub(super) fn answered(&self, place: usize, status: StatusCode) {
        if let Some(passed) = self.state().journal.get_mut(place) {
            passed.status = Some(status);
        }
    }

    /// By how much the events of this watch are late now.
    pub(super) fn delay_of(&self, asked: &Asked) -> Duration {
        self.find(asked, |fault| match fault {
            Fault::Delay(by) => Some(*by),
            _ => None,
        })
        .unwrap_or_default()
    }

    pub(super) fn loses_answer(&self, asked: &Asked) -> bool {
        self.find(asked, |fault| matches!(fault, Fault::LoseAnswer).then_some(()))
            .is_some()
    }

    /// Waits for as long as a test holds the request at this point.
    pub(super) async fn wait(&self, point: When, asked: &Asked, status: Option<StatusCode>) -> Release {
        let holder = self.find(asked, |fault| match fault {
            Fault::Hold(when, holder) if *when == point => Some(holder.clone()),
            _ => None,
        });
        let Some(holder) = holder else {
            return Release(None);
        };
        let (go, mut released) = watch::channel(false);
        let (done, outcome) = watch::channel(None);
        let held = Held {
            asked: asked.clone(),
            status,
            go,
            outcome,
        };
        if holder.send(held).is_ok() {
            // One that is dropped lets go as well.
            let _ = released.wait_for(|go| *go).await;
        }
        Release(Some(done))
    }

    fn find<T>(&self, asked: &Asked, which: impl Fn(&Fault) -> Option<T>) -> Option<T> {
        let state = self.state();
        let mut rules = state.rules.iter();
        rules.find_map(|(_, matches, fault)| which(fault).filter(|_| matches(asked)))
    }
}

/// Tells whoever let a request go what came of it.
pub(super) struct Release(Option<watch::Sender<Option<StatusCode>>>);

impl Release {
    pub(super) fn done(self, status: Option<StatusCode>) {
        if let Some(done) = self.0 {
            done.send_replace(status);
        }
    }
}

/// A fault that is in force until this is dropped.
#[must_use]
pub struct Rule {
    faults: Arc<Faults>,
    id: u64,
}

impl Drop for Rule {
    fn drop(&mut self) {
        self.faults.state().rules.retain(|(id, ..)| *id != self.id);
    }
}

/// Holds every request that matches until this is dropped; what was taken from it stays held until it is let go.
#[must_use]
pub struct Hold {
    _rule: Rule,
    held: mpsc::UnboundedReceiver<Held>,
}

impl Hold {
    /// The next request that is held.
    ///
    /// # Errors
    /// Where none comes in time.
    pub async fn next(&mut self, within: Duration) -> Result<Held> {
        let next = tokio::time::timeout(within, self.held.recv()).await;
        next.ok()
            .flatten()
            .with_context(|| format!("no request that was to be held came within {within:?}"))
    }
}

/// A request that waits to be let go. Where it is dropped, it is let go.
#[must_use]
pub struct Held {
    /// The request.
    pub asked: Asked,
    /// What kube-apiserver has answered, where it is held after that.
    pub status: Option<StatusCode>,
    go: watch::Sender<bool>,
    outcome: watch::Receiver<Option<StatusCode>>,
}

impl Held {
    /// Lets it go, and waits for kube-apiserver's answer to it; none where there was no answer.
    pub async fn release(mut self) -> Option<StatusCode> {
        self.go.send_replace(true);
        // It ends without an answer where the sender is dropped.
        let outcome = self.outcome.wait_for(Option::is_some).await;
        outcome.map_or(None, |status| *status)
    }
}
