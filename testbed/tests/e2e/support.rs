//! What the tests share: fleets, plans, and words for what they look at.

use std::time::Duration;

use api::plan::{Phase, UpdatePlanStatus};
use api::shadow::NodeState;
use api::{BottlerocketShadow, UpdateLedger, UpdatePlan};
use chrono::{DateTime, SecondsFormat, Utc};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use testbed::bottlerocket::Version;
use testbed::fleet::{FleetSpec, WorkloadSpec};
use testbed::lab::Lab;
use testbed::operator::{NAMESPACE, Options};
use testbed::truth::{SimEvent, SimEventKind};

/// What every machine runs at first.
pub const OLD: &str = "1.20.3";
/// What most plans want.
pub const NEW: &str = "1.21.0";
/// What there is beyond that.
pub const NEWER: &str = "1.22.0";

/// For what happens at once, on a machine that may be busy.
pub const SOON: Duration = Duration::from_secs(30);
/// For a rollout of a few nodes.
pub const ROLLOUT: Duration = Duration::from_secs(90);

pub const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// So many machines `n1`, `n2`, ... without latencies.
pub fn machines(count: u32) -> FleetSpec {
    let version = |text: &str| text.parse::<Version>().unwrap();
    let mut spec = FleetSpec::simple(count, version(OLD), version(NEW));
    spec.offered.push(version(NEWER));
    spec
}

/// Machines in groups `<label>1`, `<label>2`, ..., each with label `pool=<label>`.
pub fn pools(pools: &[(&str, u32)]) -> FleetSpec {
    let mut spec = machines(0);
    let group = spec.groups.remove(0);
    spec.groups = pools
        .iter()
        .map(|(pool, count)| {
            let mut group = group.clone();
            group.prefix = (*pool).to_owned();
            group.count = *count;
            group.labels.insert("pool".to_owned(), (*pool).to_owned());
            group
        })
        .collect();
    spec
}

/// A pod on one node that its PodDisruptionBudget never lets go.
pub fn stubborn_pod(node: &str) -> WorkloadSpec {
    serde_json::from_value(json!({
        "name": format!("stubborn-{node}"), "replicas": 1, "minAvailable": 1,
        "nodeSelector": {"kubernetes.io/hostname": node},
    }))
    .unwrap()
}

/// The budget of a [`stubborn_pod`] allows its eviction from now on.
pub async fn relent(lab: &Lab, node: &str) {
    let patch = r#"{"spec": {"minAvailable": 0}}"#;
    let budget = format!("pdb/stubborn-{node}");
    lab.plane
        .kubectl_ok(&["patch", &budget, "--type=merge", "-p", patch])
        .await
        .unwrap();
}

/// What testbed and agents log, with `RUST_LOG=testbed=debug,agent=debug`.
fn show_log() {
    let nothing = tracing_subscriber::filter::LevelFilter::OFF.into();
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(nothing)
        .from_env_lossy();
    let _set_before = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_test_writer()
        .try_init();
}

/// A lab with agents as tasks.
pub async fn lab(fleet: FleetSpec) -> Lab {
    lab_with(fleet, &Options::default()).await
}

/// A lab whose programs run like this.
pub async fn lab_with(fleet: FleetSpec, options: &Options) -> Lab {
    show_log();
    Box::pin(Lab::start(fleet, options)).await.unwrap()
}

/// A plan as YAML (JSON is YAML): every node to [`NEW`], monitored for no time, and what `more` says besides.
pub fn plan(name: &str, more: &Value) -> String {
    let mut spec = json!({
        "targetVersion": NEW,
        "nodeSelector": {},
        "monitoring": {"minReady": "0s", "timeout": "30s"},
        "expectedNodeDuration": "1s",
    });
    for (field, value) in more.as_object().unwrap() {
        spec[field] = value.clone();
    }
    raw_plan(name, &spec).to_string()
}

/// A plan with just this spec.
pub fn raw_plan(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "brupop.bottlerocket.aws/v1alpha1",
        "kind": "UpdatePlan",
        "metadata": {"name": name},
        "spec": spec,
    })
}

/// A one-off window that opens and closes so many seconds from now.
pub fn window(name: &str, now: DateTime<Utc>, opens: i64, closes: i64) -> Value {
    let at = |seconds| rfc3339(now + chrono::TimeDelta::seconds(seconds));
    json!({"name": name, "start": at(opens), "end": at(closes)})
}

pub fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// A merge patch of a plan's spec, by kubectl.
pub async fn edit(lab: &Lab, plan: &str, spec: &Value) {
    let patch = json!({"spec": spec}).to_string();
    lab.plane
        .kubectl_ok(&["patch", "uplan", plan, "--type=merge", "-p", &patch])
        .await
        .unwrap();
}

/// Waits for the plan's status; fails with all there is to see where that does not come.
pub async fn status(
    lab: &Lab,
    plan: &str,
    what: &str,
    wanted: impl Fn(&UpdatePlanStatus) -> bool + Send,
) -> UpdatePlanStatus {
    within(lab, plan, ROLLOUT, what, wanted).await
}

pub async fn within(
    lab: &Lab,
    plan: &str,
    within: Duration,
    what: &str,
    wanted: impl Fn(&UpdatePlanStatus) -> bool + Send,
) -> UpdatePlanStatus {
    let found = Box::pin(lab.plan(plan, within, what, wanted)).await;
    found.unwrap_or_else(|error| panic!("{error:#}")).status.unwrap()
}

/// Waits until the plan as it is now is Complete.
pub async fn complete(lab: &Lab, name: &str) -> UpdatePlanStatus {
    let generation = get_plan(lab, name).await.metadata.generation;
    status(lab, name, "plan that is Complete", move |status| {
        status.phase == Some(Phase::Complete) && status.observed_generation >= generation
    })
    .await
}

pub async fn get_plan(lab: &Lab, name: &str) -> UpdatePlan {
    Api::<UpdatePlan>::all(lab.client.clone())
        .get(name)
        .await
        .unwrap()
}

pub async fn get_node(lab: &Lab, name: &str) -> Node {
    Api::<Node>::all(lab.client.clone()).get(name).await.unwrap()
}

pub async fn get_shadow(lab: &Lab, node: &str) -> BottlerocketShadow {
    let shadows: Api<BottlerocketShadow> = Api::namespaced(lab.client.clone(), NAMESPACE);
    shadows.get(&api::names::shadow_name(node)).await.unwrap()
}

pub async fn get_ledger(lab: &Lab) -> UpdateLedger {
    let ledgers: Api<UpdateLedger> = Api::namespaced(lab.client.clone(), NAMESPACE);
    ledgers.get(api::names::LEDGER_NAME).await.unwrap()
}

/// Waits until no node of these has a grant.
pub async fn no_grants(lab: &Lab, within: Duration, nodes: &[&str]) {
    let waited = lab.ledger(within, "ledger without their grants", |ledger| {
        !ledger
            .spec
            .grants
            .values()
            .any(|grant| nodes.contains(&grant.node.as_str()))
    });
    Box::pin(waited).await.unwrap_or_else(|error| panic!("{error:#}"));
}

pub fn unschedulable(node: &Node) -> bool {
    node.spec
        .as_ref()
        .and_then(|spec| spec.unschedulable)
        .unwrap_or_default()
}

/// Waits until every node is asked for nothing, and its agent has done that.
pub async fn all_idle(lab: &Lab) {
    let undone = lab.shadows(SOON, "shadows that are Idle and acknowledged", |shadows| {
        shadows
            .iter()
            .all(|shadow| shadow.spec.state == NodeState::Idle && shadow.is_acknowledged())
    });
    Box::pin(undone).await.unwrap_or_else(|error| panic!("{error:#}"));
}

/// Everything that an update changes on a node is as it was: the cordon, our annotations, the shadow, the boot flag and
/// the updater's settings.
pub async fn assert_untouched(lab: &Lab, name: &str) {
    let node = get_node(lab, name).await;
    assert!(!unschedulable(&node), "{name} is cordoned");
    let ours = |key: &&String| {
        *key == api::names::DISRUPTION_ANNOTATION
            || api::names::DO_NOT_DISRUPT_ANNOTATIONS
                .iter()
                .any(|(ours, _)| key == ours)
    };
    assert_eq!(
        node.annotations().keys().find(ours),
        None,
        "annotations of {name}"
    );
    // The last thing of an attempt that failed: its grant is gone before the agent has answered.
    let of_this_node = api::names::shadow_name(name);
    let undone = lab.shadows(SOON, "shadow that is Idle, and acknowledged", |shadows| {
        let mut of_this_node = shadows.iter().filter(|shadow| shadow.name_any() == of_this_node);
        of_this_node.any(|shadow| shadow.spec.state == NodeState::Idle && shadow.is_acknowledged())
    });
    Box::pin(undone).await.unwrap();
    let machine = lab.fleet.node(name).unwrap();
    assert_eq!(machine.activated(), None, "boot flag of {name}");
    let settings = machine.settings();
    assert_eq!(
        (settings.version_lock.as_str(), settings.ignore_waves),
        ("latest", false),
        "settings of {name}"
    );
}

/// The reboots of a machine so far, whoever wanted them.
pub fn reboots(lab: &Lab, node: &str) -> usize {
    lab.fleet
        .node(node)
        .unwrap()
        .events()
        .iter()
        .filter(|event| begins_reboot(event))
        .count()
}

pub fn begins_reboot(event: &SimEvent) -> bool {
    matches!(event.kind, SimEventKind::RebootBegun { .. })
}

/// The version that every machine runs.
pub fn versions(lab: &Lab) -> Vec<String> {
    lab.fleet.nodes().iter().map(|node| node.version()).collect()
}

/// Whether every one of these words is in the text.
pub fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in:\n{text}");
    }
}

/// Prints what a person would see, where that is wanted.
pub fn show(title: &str, text: &str) {
    if std::env::var_os("SHOW").is_some() {
        println!("\n=== {title}\n{}", text.trim_end());
    }
}
