//! Programs of other versions: clients that say what is recorded of older and newer agents, to the real apiserver. What newer
//! apiservers say to the real agent is in `agent/tests/skew.rs`.

use std::time::Duration;

use api::BottlerocketShadow;
use hyper::StatusCode;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use testbed::lab::Lab;
use testbed::operator::NAMESPACE;
use testbed::oracle::Expectations;
use testbed::wait;

use crate::caller::{Answer, Caller};
use crate::support::{SOON, get_shadow, lab, machines, show};
use crate::tokens::{agent_pod, of_pod};

fn lines(folder: &str, file: &str) -> Vec<String> {
    let root = testbed::binaries::workspace_root().join("api/tests/recorded");
    let text = std::fs::read_to_string(root.join(folder).join(file)).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn recorded(folder: &str, file: &str) -> Vec<Value> {
    let lines = lines(folder, file).into_iter();
    lines.map(|line| serde_json::from_str(&line).unwrap()).collect()
}

/// A lab whose one agent says nothing, being cut off from its node: a test speaks for it.
struct Spoken {
    lab: Lab,
    caller: Caller,
    token: String,
}

impl Spoken {
    async fn start() -> Self {
        let lab = lab(machines(2)).await;
        lab.fleet.node("n1").unwrap().set_socket(false);
        let token = of_pod(&lab, &agent_pod(&lab, "n1").await).await;
        Self {
            caller: Caller::new(&lab),
            token,
            lab,
        }
    }

    async fn say(&self, method: &'static str, what: &str, body: &Value) -> Answer {
        let path = format!("/v1/nodes/n1/{what}");
        self.caller.call(method, &path, &self.token, body).await
    }

    async fn stored(&self) -> Value {
        serde_json::to_value(get_shadow(&self.lab, "n1").await.status).unwrap()
    }

    /// Gives the node back to its agent.
    async fn finish(self) {
        self.lab.fleet.node("n1").unwrap().set_socket(true);
        self.lab.operator.crash_agents();
        let told = self.lab.shadows(SOON, "agent that reports again", |shadows| {
            shadows.iter().all(|shadow| {
                let status = shadow.status.as_ref();
                status.is_some_and(|status| status.error.is_none()) && shadow.is_acknowledged()
            })
        });
        Box::pin(told).await.unwrap();
        self.lab
            .finish(&Expectations {
                quiet: true,
                ..Expectations::default()
            })
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_of_this_an_older_and_a_newer_version_are_served() {
    let spoken = Spoken::start().await;
    // This protocol: what is recorded is what is stored, and what the stream says.
    let reports = recorded("protocol-1", "reports.ndjson");
    for report in &reports {
        for (method, what) in [("PUT", "status"), ("POST", "shadow")] {
            let answer = spoken.say(method, what, report).await;
            assert_eq!(answer.status, StatusCode::NO_CONTENT, "{report} {answer:?}");
            assert_eq!(spoken.stored().await, *report);
        }
    }
    let mut lines = spoken.caller.stream("n1", &spoken.token).await;
    let hello = lines.next().await.unwrap();
    assert_eq!(hello, self::lines("protocol-1", "stream.ndjson")[0]);
    let instruction = lines.instruction().await;
    show("an instruction", &instruction.to_string());
    assert_eq!(instruction["status"], *reports.last().unwrap());
    for request in recorded("protocol-1", "permits.ndjson") {
        let answer = spoken.say("POST", "permit", &request).await;
        assert_eq!(answer.status, StatusCode::CONFLICT);
        assert_eq!(answer.body, recorded("protocol-1", "refusals.ndjson")[0]);
    }

    // An older agent: what it does not say is null, and nothing is known to be on offer.
    for report in recorded("older", "reports.ndjson") {
        assert_eq!(
            spoken.say("PUT", "status", &report).await.status,
            StatusCode::NO_CONTENT
        );
        let stored = spoken.stored().await;
        let said = report.as_object().unwrap();
        for (field, value) in stored.as_object().unwrap() {
            let unsaid = if field == "offered" {
                json!([])
            } else {
                Value::Null
            };
            assert_eq!(value, said.get(field).unwrap_or(&unsaid), "{field}");
        }
    }

    // A newer one: what is not known is left out, and a reason that is not known is told in its own words.
    for report in recorded("newer", "reports.ndjson") {
        let answer = spoken.say("PUT", "status", &report).await;
        assert_eq!(answer.status, StatusCode::NO_CONTENT, "{answer:?}");
        let stored = spoken.stored().await;
        assert_eq!(stored["current_version"], report["current_version"]);
        assert_eq!(
            stored["error"],
            json!({"reason": "Other", "message": report["error"]["message"]})
        );
        assert_eq!(
            stored["saved_settings"],
            json!({"version_lock": "latest", "ignore_waves": false})
        );
        assert_eq!(stored.get("mood"), None);
    }
    for request in recorded("newer", "permits.ndjson") {
        let answer = spoken.say("POST", "permit", &request).await;
        assert_eq!(
            (answer.status, answer.body["permit"]["reason"].as_str()),
            (StatusCode::CONFLICT, Some("NoGrant"))
        );
    }
    // The node is as its agent finds it.
    let as_it_is = &reports[0];
    assert_eq!(
        spoken.say("PUT", "status", as_it_is).await.status,
        StatusCode::NO_CONTENT
    );
    spoken.finish().await;
}

/// Changes the spec of a node's shadow, as a controller of whatever version would. The Kubernetes API takes a new schema into
/// use a moment after it has it.
async fn instruct(lab: &Lab, node: &str, spec: &Value) {
    let resource = ApiResource::erase::<BottlerocketShadow>(&());
    let shadows: Api<DynamicObject> = Api::namespaced_with(lab.client.clone(), NAMESPACE, &resource);
    let (name, patch) = (api::names::shadow_name(node), Patch::Merge(json!({"spec": spec})));
    let change = async {
        while shadows
            .patch(&name, &PatchParams::default(), &patch)
            .await
            .is_err()
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(SOON, change)
        .await
        .expect("the schema allows it");
}

/// Not under the oracle: the history has what only a newer version knows.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_only_a_newer_controller_knows_holds_up_no_other_node() {
    let mut spoken = Spoken::start().await;
    // The newer one would have taken over.
    spoken.lab.operator.kill_controller().await.unwrap();
    let lab = &spoken.lab;
    // Its resource definitions are the first thing that an upgrade brings.
    let crd = "bottlerocketshadows.brupop.bottlerocket.aws";
    let found = lab
        .plane
        .kubectl_ok(&["get", "crd", crd, "-o", "json"])
        .await
        .unwrap();
    let mut versions: Value = serde_json::from_str::<Value>(&found).unwrap()["spec"]["versions"].take();
    let properties = &mut versions[0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    let states = properties["state"]["enum"].as_array_mut().unwrap();
    states.push(json!("Hibernate"));
    let patch = json!({"spec": {"versions": versions}}).to_string();
    let args = ["patch", "crd", crd, "--type=merge", "-p", &patch];
    lab.plane.kubectl_ok(&args).await.unwrap();

    let other = of_pod(lab, &agent_pod(lab, "n2").await).await;
    let mut newer = spoken.caller.stream("n2", &other).await;
    newer.instruction().await;
    let hibernate = json!({"state": "Hibernate", "run": "r9", "attempt": 1});
    instruct(lab, "n2", &hibernate).await;
    // What this apiserver cannot read it does not pass on.
    let said = newer.until_its_end(SOON).await;
    assert!(!said.iter().any(|line| line.contains("Hibernate")), "{said:?}");
    // One that starts now is ready all the same, and other nodes get what they are told.
    spoken.lab.operator.kill_apiserver().await.unwrap();
    spoken.lab.operator.start_apiserver().await.unwrap();
    let (lab, caller) = (&spoken.lab, Caller::new(&spoken.lab));
    let mut lines = caller.stream("n1", &spoken.token).await;
    lines.instruction().await;
    instruct(lab, "n1", &json!({"state": "Idle", "run": "r9", "attempt": 1})).await;
    assert_eq!(lines.instruction().await["spec"]["run"], "r9");
    let path = "/v1/nodes/n2/instructions";
    let refused = caller.call("GET", path, &other, &Value::Null).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{refused:?}");
    // Told something that it knows, that node goes on as well.
    instruct(lab, "n2", &json!({"state": "Idle", "run": "r9", "attempt": 2})).await;
    let shadows: Api<BottlerocketShadow> = Api::namespaced(lab.client.clone(), NAMESPACE);
    let name = api::names::shadow_name("n2");
    wait::for_object(shadows, &name, SOON, "answer of n2", |shadow| {
        shadow.is_some_and(BottlerocketShadow::is_acknowledged)
    })
    .await
    .unwrap();
}
