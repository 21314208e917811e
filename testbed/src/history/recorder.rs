//! Records a history: raw watches from one revision on, resumed where they broke off. Nothing is ever listed as it is
//! now, for that would skip what it was in between.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use api::{BottlerocketShadow, UpdateLedger, UpdatePlan};
use chrono::Utc;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{ListParams, VersionMatch, WatchEvent, WatchParams};
use kube::{Api, Client, Error, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Action, Event, History, Object, State, mark};

/// How long one watch request lasts.
const WATCH_SECONDS: u32 = 240;

/// How long one lasts while the recorder is to end: two seconds before its end the API server says how far it is.
const LAST_WATCH_SECONDS: u32 = 3;

/// How long to wait after a request that failed.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a kind may take to be served.
const SERVED_WITHIN: Duration = Duration::from_secs(30);

/// How many revisions are read one by one after a watch that cannot be resumed.
const MAX_BRIDGE: u64 = 2000;

/// Records until it is told to finish.
pub struct Recorder {
    client: Client,
    initial: State,
    finish: watch::Sender<Option<u64>>,
    watches: JoinSet<Result<Vec<Event>>>,
}

impl Recorder {
    /// Takes everything as it is at one revision, and begins to watch from there.
    ///
    /// # Errors
    /// Where a kind cannot be listed: the resource definitions must be there.
    pub async fn start(client: Client) -> Result<Self> {
        let revision = current_revision(&Api::<Namespace>::all(client.clone())).await?;
        let mut recorder = Self {
            initial: State {
                revision,
                at: Utc::now(),
                ..State::default()
            },
            finish: watch::Sender::new(None),
            watches: JoinSet::new(),
            client: client.clone(),
        };
        let (nodes, pods, budgets, plans, shadows, ledgers) = tokio::try_join!(
            Following::begin(&client, revision, |node: Node| Object::Node(Arc::new(node))),
            Following::begin(&client, revision, |pod: Pod| Object::Pod(Arc::new(pod))),
            Following::begin(&client, revision, |budget: PodDisruptionBudget| {
                Object::Budget(Arc::new(budget))
            }),
            Following::begin(&client, revision, |plan: UpdatePlan| Object::Plan(Arc::new(plan))),
            Following::begin(&client, revision, |shadow: BottlerocketShadow| {
                Object::Shadow(Arc::new(shadow))
            }),
            Following::begin(&client, revision, |ledger: UpdateLedger| {
                Object::Ledger(Arc::new(ledger))
            }),
        )?;
        recorder.follow(nodes);
        recorder.follow(pods);
        recorder.follow(budgets);
        recorder.follow(plans);
        recorder.follow(shadows);
        recorder.follow(ledgers);
        Ok(recorder)
    }

    /// Waits until everything up to now is recorded, and ends.
    ///
    /// # Errors
    /// Where a watch has lost changes for good, an object could not be read, or the deadline has passed.
    pub async fn finish(mut self, within: Duration) -> Result<History> {
        let ending = async {
            let last = current_revision(&Api::<Namespace>::all(self.client.clone())).await?;
            let end = Utc::now();
            self.finish.send_replace(Some(last));
            mark::all(&self.client, last).await;
            let mut events = Vec::new();
            while let Some(ended) = self.watches.join_next().await {
                events.extend(ended??);
            }
            // Some watches are further than others; beyond `last` the history has gaps.
            events.retain(|event| event.revision <= last);
            Ok(History::new(std::mem::take(&mut self.initial), events, end))
        };
        let ended = tokio::time::timeout(within, ending).await;
        ended.with_context(|| format!("the recorder has not caught up within {within:?}"))?
    }

    fn follow<K: Recorded>(&mut self, (following, initial): (Following<K>, Vec<Object>)) {
        for object in initial {
            self.initial.insert(object);
        }
        let finish = self.finish.subscribe();
        self.watches.spawn(async move {
            let ended = following.run(finish).await;
            ended.with_context(failure::<K>)
        });
    }
}

/// A kind that is recorded.
trait Recorded: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static {}
impl<K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static> Recorded for K {}

fn failure<K: Recorded>() -> String {
    format!("recording {}", K::plural(&()))
}

/// One kind's changes since a revision.
struct Following<K> {
    api: Api<K>,
    wrap: fn(K) -> Object,
    revision: u64,
    events: Vec<Event>,
}

/// How a watch ended.
enum Ended {
    /// It can go on from the last change.
    Interrupted,
    /// The API server no longer has the next change in memory.
    Forgotten,
}

impl<K: Recorded> Following<K> {
    /// One that goes on from this revision, and everything as it then was.
    async fn begin(client: &Client, revision: u64, wrap: fn(K) -> Object) -> Result<(Self, Vec<Object>)> {
        let following = Self {
            api: Api::all(client.clone()),
            wrap,
            revision,
            events: Vec::new(),
        };
        let listed = following.list(revision).await.with_context(failure::<K>)?;
        let initial = listed.into_values().map(|object| wrap(slim(object))).collect();
        Ok((following, initial))
    }

    async fn run(mut self, mut finish: watch::Receiver<Option<u64>>) -> Result<Vec<Event>> {
        loop {
            let last = *finish.borrow_and_update();
            if last.is_some_and(|last| self.revision >= last) {
                return Ok(self.events);
            }
            // A read that must be current makes the API server find out how far this kind is.
            if last.is_some() && current_revision(&self.api).await.is_err() {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            match self.watch(&mut finish, last).await? {
                Ended::Interrupted => {}
                Ended::Forgotten => self.bridge().await?,
            }
        }
    }

    async fn watch(&mut self, finish: &mut watch::Receiver<Option<u64>>, last: Option<u64>) -> Result<Ended> {
        let seconds = if last.is_some() {
            LAST_WATCH_SECONDS
        } else {
            WATCH_SECONDS
        };
        let params = WatchParams::default().timeout(seconds);
        let mut stream = match self.api.watch(&params, &self.revision.to_string()).await {
            Ok(stream) => stream.boxed(),
            Err(error) => {
                tokio::time::sleep(PAUSE).await;
                return self.interrupted(&error);
            }
        };
        while last.is_none_or(|last| self.revision < last) {
            let item = tokio::select! {
                item = stream.next() => item,
                changed = finish.changed() => {
                    changed.context("the recorder was dropped")?;
                    break;
                }
            };
            let (action, object) = match item {
                None => break,
                Some(Ok(WatchEvent::Added(object))) => (Action::Added, object),
                Some(Ok(WatchEvent::Modified(object))) => (Action::Modified, object),
                Some(Ok(WatchEvent::Deleted(object))) => (Action::Deleted, object),
                Some(Ok(WatchEvent::Bookmark(bookmark))) => {
                    self.revision = self
                        .revision
                        .max(parse(Some(&bookmark.metadata.resource_version))?);
                    continue;
                }
                Some(Ok(WatchEvent::Error(status))) => return self.interrupted(&Error::Api(status)),
                Some(Err(error)) => return self.interrupted(&error),
            };
            let revision = parse(object.meta().resource_version.as_deref())?;
            self.note(revision, action, object);
        }
        Ok(Ended::Interrupted)
    }

    fn note(&mut self, revision: u64, action: Action, object: K) {
        self.revision = revision;
        self.events.push(Event {
            at: Utc::now(),
            revision,
            action,
            object: (self.wrap)(slim(object)),
        });
    }

    fn interrupted(&self, error: &Error) -> Result<Ended> {
        let revision = self.revision;
        tracing::debug!(%error, revision, "watch interrupted");
        match error {
            Error::Api(status) if status.code == 410 => Ok(Ended::Forgotten),
            Error::SerdeError(error) => bail!("a change after revision {revision} cannot be read: {error}"),
            _ => Ok(Ended::Interrupted),
        }
    }

    /// An API server that was restarted serves no watch from before. But the store still has every revision, and each
    /// holds one change: they are read one by one, so that none is skipped.
    async fn bridge(&mut self) -> Result<()> {
        let Ok(newest) = current_revision(&self.api).await else {
            tokio::time::sleep(PAUSE).await;
            return Ok(());
        };
        let missed = newest.saturating_sub(self.revision);
        ensure!(
            missed <= MAX_BRIDGE,
            "the watch broke off {missed} revisions ago, too many to read one by one"
        );
        let mut before = self.list(self.revision).await?;
        for revision in self.revision + 1..=newest {
            let after = self.list(revision).await?;
            for (key, object) in &before {
                if !after.contains_key(key) {
                    self.note(revision, Action::Deleted, object.clone());
                }
            }
            for (key, object) in &after {
                match before.get(key) {
                    None => self.note(revision, Action::Added, object.clone()),
                    Some(earlier) if earlier.meta().resource_version != object.meta().resource_version => {
                        self.note(revision, Action::Modified, object.clone());
                    }
                    Some(_) => {}
                }
            }
            self.revision = revision;
            before = after;
        }
        Ok(())
    }

    /// Everything of the kind as it was at this revision.
    async fn list(&self, revision: u64) -> Result<BTreeMap<String, K>> {
        let exactly = ListParams::default()
            .at(&revision.to_string())
            .matching(VersionMatch::Exact);
        let listing = async {
            loop {
                // A kind that has just been defined, and an API server that has just started, do not serve at once.
                match self.api.list(&exactly).await {
                    Err(Error::Api(status)) if !matches!(status.code, 429 | 500..) => {
                        return Err(Error::Api(status));
                    }
                    Err(error @ Error::SerdeError(_)) => return Err(error),
                    Err(_) => tokio::time::sleep(PAUSE).await,
                    Ok(listed) => return Ok(listed),
                }
            }
        };
        let listed = tokio::time::timeout(SERVED_WITHIN, listing).await;
        let listed = listed.map_err(anyhow::Error::from).and_then(|listed| Ok(listed?));
        let listed = listed.with_context(|| format!("listing everything as of revision {revision}"))?;
        Ok(listed
            .into_iter()
            .map(|object| (super::key(&object), object))
            .collect())
    }
}

/// The revision that a read of this kind is made at, which is the newest.
async fn current_revision<K: Clone + DeserializeOwned + Debug>(api: &Api<K>) -> Result<u64> {
    let list = api.list_metadata(&ListParams::default().limit(1)).await?;
    parse(list.metadata.resource_version.as_deref())
}

fn parse(revision: Option<&str>) -> Result<u64> {
    let revision = revision.context("an answer has no resourceVersion")?;
    revision
        .parse()
        .with_context(|| format!("resourceVersion {revision:?} is no number"))
}

/// Who wrote which field is not judged, and is half of an object's size.
fn slim<K: Resource>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}
