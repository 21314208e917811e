//! A Kubernetes API in memory, as far as the apiserver calls it: objects with resourceVersions, lists, watches, token
//! reviews; and faults on demand.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Query, State},
    http::{Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tower::ServiceExt as _;

/// What goes wrong with a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Somebody else writes the object first.
    Conflict,
    /// It is carried out, and the answer is lost.
    LostReply,
    /// It is not carried out.
    Down,
}

#[derive(Default)]
pub struct Objects {
    version: u64,
    /// By path of the collection, then by name.
    collections: BTreeMap<String, BTreeMap<String, Value>>,
    events: Vec<(u64, String, Value)>,
    /// The status of the review of each token that is known.
    pub tokens: BTreeMap<String, Value>,
    /// For writes of paths that contain the text, in turn.
    pub faults: VecDeque<(&'static str, Fault)>,
    /// Every call but watches, as `METHOD path`.
    pub calls: Vec<String>,
    /// Watches say nothing for now.
    pub watches_lag: bool,
}

#[derive(Clone, Default)]
pub struct Kubernetes {
    objects: Arc<Mutex<Objects>>,
    changed: Arc<Notify>,
}

impl Kubernetes {
    pub fn client(&self) -> kube::Client {
        let router = Router::new().fallback(serve).with_state(self.clone());
        let service =
            router.map_request(|request: axum::http::Request<kube::client::Body>| request.map(Body::new));
        kube::Client::new(service, "default")
    }

    pub fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap()
    }

    pub fn get(&self, collection: &str, name: &str) -> Option<Value> {
        self.objects().collections.get(collection)?.get(name).cloned()
    }

    pub fn put(&self, collection: &str, name: &str, object: Value) -> Value {
        let stored = self.objects().store(collection, name, object);
        self.changed.notify_waiters();
        stored
    }

    pub fn edit(&self, collection: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let mut object = self.get(collection, name).unwrap();
        change(&mut object);
        self.put(collection, name, object);
    }

    pub fn delete(&self, collection: &str, name: &str) {
        self.objects().remove(collection, name);
        self.changed.notify_waiters();
    }

    /// How many calls begin with `text`.
    pub fn calls(&self, text: &str) -> usize {
        self.objects()
            .calls
            .iter()
            .filter(|call| call.starts_with(text))
            .count()
    }

    fn watch(self, collection: String, since: u64) -> Body {
        let lines = futures::stream::unfold((self, since), move |(kubernetes, mut since)| {
            let collection = collection.clone();
            async move {
                loop {
                    let changed = kubernetes.changed.clone();
                    let changed = changed.notified();
                    let next = {
                        let objects = kubernetes.objects();
                        let mut events = objects.events.iter().filter(|_| !objects.watches_lag);
                        events
                            .find(|(version, of, _)| *version > since && *of == collection)
                            .cloned()
                    };
                    if let Some((version, _, event)) = next {
                        since = version;
                        return Some((Ok::<_, Infallible>(format!("{event}\n")), (kubernetes, since)));
                    }
                    changed.await;
                }
            }
        });
        Body::from_stream(lines)
    }
}

impl Objects {
    fn store(&mut self, collection: &str, name: &str, mut object: Value) -> Value {
        self.version += 1;
        let version = self.version;
        let before = self
            .collections
            .get(collection)
            .and_then(|objects| objects.get(name))
            .cloned();
        let meta = object["metadata"].as_object_mut().unwrap();
        meta.insert("name".into(), name.into());
        meta.insert("resourceVersion".into(), version.to_string().into());
        meta.entry("uid")
            .or_insert_with(|| format!("uid-{version}").into());
        meta.entry("creationTimestamp")
            .or_insert_with(|| "2026-11-22T08:00:00Z".into());
        let generation = before
            .as_ref()
            .map_or(0, |before| before["metadata"]["generation"].as_i64().unwrap());
        let changed = before
            .as_ref()
            .is_none_or(|before| before["spec"] != object["spec"]);
        object["metadata"]["generation"] = (generation + i64::from(changed)).into();
        let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
        self.events.push((
            version,
            collection.to_owned(),
            json!({"type": kind, "object": object}),
        ));
        self.collections
            .entry(collection.to_owned())
            .or_default()
            .insert(name.to_owned(), object.clone());
        object
    }

    fn remove(&mut self, collection: &str, name: &str) {
        self.version += 1;
        let object = self
            .collections
            .get_mut(collection)
            .unwrap()
            .remove(name)
            .unwrap();
        self.events.push((
            self.version,
            collection.to_owned(),
            json!({"type": "DELETED", "object": object}),
        ));
    }

    fn fault(&mut self, path: &str) -> Option<Fault> {
        let index = self.faults.iter().position(|(text, _)| path.contains(text))?;
        self.faults.remove(index).map(|(_, fault)| fault)
    }

    fn write(&mut self, method: &Method, path: &str, body: Value) -> Response {
        let fault = self.fault(path);
        if fault == Some(Fault::Down) {
            return failure(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
        }
        let (path, is_status) = path
            .strip_suffix("/status")
            .map_or((path, false), |path| (path, true));
        let (collection, name) = if *method == Method::POST {
            (
                path,
                body["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            )
        } else {
            path.rsplit_once('/')
                .map(|(collection, name)| (collection, name.to_owned()))
                .unwrap()
        };
        let found = self
            .collections
            .get(collection)
            .and_then(|objects| objects.get(&name))
            .cloned();
        if let (Some(Fault::Conflict), Some(found)) = (fault, &found) {
            self.store(collection, &name, found.clone());
        }
        let found = found.and_then(|_| self.collections[collection].get(&name).cloned());
        let stored = match (method.as_str(), found) {
            ("POST", Some(_)) => return failure(StatusCode::CONFLICT, "AlreadyExists"),
            ("POST", None) => self.store(collection, &name, body),
            (_, None) => return failure(StatusCode::NOT_FOUND, "NotFound"),
            ("DELETE", Some(found)) => {
                if body["preconditions"]["uid"] != found["metadata"]["uid"] {
                    return failure(StatusCode::CONFLICT, "Conflict");
                }
                self.remove(collection, &name);
                found
            }
            (method, Some(mut found)) => {
                if body["metadata"]["resourceVersion"] != found["metadata"]["resourceVersion"] {
                    return failure(StatusCode::CONFLICT, "Conflict");
                }
                assert_eq!(
                    is_status,
                    method == "PATCH",
                    "the status is patched, everything else replaced"
                );
                let part = if is_status { "status" } else { "spec" };
                found[part] = body[part].clone();
                self.store(collection, &name, found)
            }
        };
        if fault == Some(Fault::LostReply) {
            return failure(StatusCode::BAD_GATEWAY, "LostReply");
        }
        Json(stored).into_response()
    }

    fn read(&self, path: &str, query: &BTreeMap<String, String>) -> Response {
        let (parent, name) = path.rsplit_once('/').unwrap();
        if let Some(object) = self.collections.get(parent).and_then(|objects| objects.get(name)) {
            return Json(object).into_response();
        }
        let last_is_plural = name.ends_with('s') && !self.collections.contains_key(parent);
        if !last_is_plural {
            return failure(StatusCode::NOT_FOUND, "NotFound");
        }
        let on_node = query
            .get("fieldSelector")
            .and_then(|selector| selector.strip_prefix("spec.nodeName="));
        // A list of all namespaces gathers the collections of each.
        let kind = format!("/{name}");
        let all = self.collections.iter().filter(|(collection, _)| {
            *collection == path || (path == "/api/v1/pods" && collection.ends_with(&kind))
        });
        let items: Vec<&Value> = all
            .flat_map(|(_, objects)| objects.values())
            .filter(|object| on_node.is_none_or(|node| object["spec"]["nodeName"] == node))
            .collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items,
            "metadata": {"resourceVersion": self.version.to_string()}});
        Json(list).into_response()
    }
}

async fn serve(
    State(kubernetes): State<Kubernetes>,
    Query(query): Query<BTreeMap<String, String>>,
    method: Method,
    uri: Uri,
    body: Bytes,
) -> Response {
    let path = uri.path();
    if query.get("watch").is_some_and(|watch| watch == "true") {
        let since = query["resourceVersion"].parse().unwrap();
        return kubernetes.watch(path.to_owned(), since).into_response();
    }
    let mut objects = kubernetes.objects();
    objects.calls.push(format!("{method} {path}"));
    let response = if path.ends_with("/tokenreviews") {
        if objects.fault(path).is_some() {
            return failure(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
        }
        let mut review: Value = serde_json::from_slice(&body).unwrap();
        let token = review["spec"]["token"].as_str().unwrap();
        review["status"] = objects
            .tokens
            .get(token)
            .cloned()
            .unwrap_or_else(|| json!({"authenticated": false}));
        Json(review).into_response()
    } else if method == Method::GET {
        objects.read(path, &query)
    } else {
        objects.write(&method, path, serde_json::from_slice(&body).unwrap_or_default())
    };
    drop(objects);
    kubernetes.changed.notify_waiters();
    response
}

fn failure(code: StatusCode, reason: &str) -> Response {
    let status = json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code.as_u16(),
        "reason": reason, "message": reason});
    (code, Json(status)).into_response()
}
