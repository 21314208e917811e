//! The testbed itself, on a real control plane: nodes, pods, budgets, reboots, tokens.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, ServiceAccount};
use kube::api::{EvictParams, ListParams, PostParams};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use testbed::bottlerocket::{BootFault, Version};
use testbed::fleet::{Fleet, FleetSpec, LatencySpec, is_ready};
use testbed::kubelet::{AgentLauncher, AgentSpec, agent};
use testbed::truth::SimEventKind;
use testbed::{ControlPlane, Options, wait};

const SOON: Duration = Duration::from_secs(60);
const AUDIENCE: &str = "test-audience";

/// Shows what the testbed does with `RUST_LOG=testbed=debug`.
fn show_log() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_test_writer()
        .try_init();
}

fn small_fleet(count: u32) -> FleetSpec {
    let mut spec = FleetSpec::simple(count, Version::new(1, 20, 3), Version::new(1, 21, 0));
    spec.latencies = LatencySpec {
        boot: Duration::from_millis(200),
        ..LatencySpec::default()
    };
    spec
}

fn pod_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
}

fn boot_id(node: &Node) -> &str {
    &node.status.as_ref().unwrap().node_info.as_ref().unwrap().boot_id
}

/// Waits for a node's Ready condition together with a boot ID that satisfies `wanted`.
async fn node_with(client: &Client, name: &str, what: &str, wanted: impl Fn(&Node) -> bool) -> Node {
    let found = wait::for_object(Api::all(client.clone()), name, SOON, what, |node| {
        node.is_some_and(&wanted)
    })
    .await;
    found.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_runs_workloads_refuses_evictions_and_reboots() {
    let started = Instant::now();
    show_log();
    let plane = ControlPlane::start(Options::default()).await.unwrap();
    tracing::info!(after = ?started.elapsed(), "control plane is up");
    let client = plane.client().await.unwrap();

    let mut spec = small_fleet(5);
    // Long enough that a budget is still spent when the next eviction is tried.
    spec.latencies.pod_start = Duration::from_secs(1);
    spec.workloads =
        serde_json::from_value(json!([{ "name": "web", "replicas": 5, "maxUnavailable": 1 }])).unwrap();
    let fleet = Fleet::start(&plane, spec, None).await.unwrap();
    fleet.wait_ready(SOON).await.unwrap();
    tracing::info!(after = ?started.elapsed(), "fleet is ready");

    budget_refuses_the_second_eviction(&client).await;
    a_reboot_changes_boot_id_and_readiness(&client, &fleet).await;
    a_machine_that_never_returns_stays_down_until_it_is_switched_on(&client, &fleet).await;
    a_node_that_is_removed_is_gone(&client, &fleet).await;

    let listed = plane.kubectl_ok(&["get", "nodes", "-o", "name"]).await.unwrap();
    assert_eq!(listed.lines().count(), 4, "{listed}");
    let audit = std::fs::read_to_string(plane.audit_log()).unwrap();
    assert!(audit.contains("testbed:kubelet") && audit.contains(r#""verb":"patch""#));

    drop(fleet);
    let directory = plane.directory().to_owned();
    let pids = plane.process_ids().await;
    plane.shutdown().await.unwrap();
    assert!(!directory.exists());
    for (name, pid) in pids {
        assert!(
            !std::path::Path::new(&format!("/proc/{pid}")).exists(),
            "{name} still runs"
        );
    }
}

async fn budget_refuses_the_second_eviction(client: &Client) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let budgets: Api<k8s_openapi::api::policy::v1::PodDisruptionBudget> =
        Api::namespaced(client.clone(), "default");
    wait::for_object(budgets, "web", SOON, "budget that allows one", |budget| {
        let status = budget.and_then(|budget| budget.status.as_ref());
        status.is_some_and(|status| status.disruptions_allowed == 1)
    })
    .await
    .unwrap();

    let all = pods
        .list(&ListParams::default().labels("app=web"))
        .await
        .unwrap()
        .items;
    let [first, second] = [&all[0], &all[1]].map(|pod| pod.name_any());
    pods.evict(&first, &EvictParams::default()).await.unwrap();
    let refused = pods.evict(&second, &EvictParams::default()).await.unwrap_err();
    assert!(
        matches!(&refused, kube::Error::Api(status) if status.code == 429),
        "{refused:?}"
    );

    wait::for_object(pods.clone(), &first, SOON, "absence of the evicted pod", |pod| {
        pod.is_none()
    })
    .await
    .unwrap();
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "default");
    wait::for_object(deployments, "web", SOON, "replacement", |deployment| {
        let status = deployment.and_then(|deployment| deployment.status.as_ref());
        status.and_then(|status| status.available_replicas) == Some(5)
    })
    .await
    .unwrap();
}

async fn a_reboot_changes_boot_id_and_readiness(client: &Client, fleet: &Fleet) {
    let node = fleet.node("n1").unwrap();
    let before = node.boot_id();
    let registered = node_with(client, "n1", "ready node", is_ready).await;
    assert_eq!(boot_id(&registered), before);
    let info = registered.status.unwrap().node_info.unwrap();
    assert_eq!(info.os_image, "Bottlerocket OS 1.20.3 (aws-k8s-1.33)");

    let mut slow = node.latencies();
    slow.boot = Duration::from_secs(1);
    node.set_latencies(slow);
    let reboot = hyper::Request::post("http://localhost/actions/reboot")
        .body(String::new())
        .unwrap();
    assert_eq!(call(&node.api_socket(), reboot).await, 204);
    node_with(client, "n1", "node that is down", |node| !is_ready(node)).await;
    let after = node_with(client, "n1", "node that is up again", is_ready).await;
    assert_ne!(boot_id(&after), before);
    assert_eq!(boot_id(&after), node.boot_id());
    let on_node = watcher::Config::default()
        .fields("spec.nodeName=n1")
        .labels("app=web");
    wait::for_objects(
        Api::<Pod>::all(client.clone()),
        on_node,
        SOON,
        "restarted pods",
        |pods| {
            pods.iter().all(|pod| {
                let containers = pod
                    .status
                    .as_ref()
                    .and_then(|status| status.container_statuses.as_ref());
                pod_ready(pod) && containers.is_some_and(|all| all.iter().all(|one| one.restart_count == 1))
            })
        },
    )
    .await
    .unwrap();

    let kinds: Vec<_> = node.events().into_iter().map(|event| event.kind).collect();
    assert!(
        kinds
            .iter()
            .any(|kind| matches!(kind, SimEventKind::RebootBegun { boot_id, .. } if *boot_id == before))
    );
    assert!(
        kinds
            .iter()
            .any(|kind| matches!(kind, SimEventKind::RebootFinished { boot_id, .. } if *boot_id != before))
    );
}

async fn a_machine_that_never_returns_stays_down_until_it_is_switched_on(client: &Client, fleet: &Fleet) {
    let node = fleet.node("n2").unwrap();
    node.faults(|faults| faults.next_boots(BootFault::NeverReturns, 1));
    let before = node.boot_id();
    let reboot = hyper::Request::post("http://localhost/actions/reboot")
        .body(String::new())
        .unwrap();
    assert_eq!(call(&node.api_socket(), reboot).await, 204);
    node_with(client, "n2", "node that is down", |node| !is_ready(node)).await;
    assert_eq!(node.boot_id(), before);
    assert!(!node.is_up());
    node.power_on();
    let after = node_with(client, "n2", "node that is up again", is_ready).await;
    assert_ne!(boot_id(&after), before);
}

async fn a_node_that_is_removed_is_gone(client: &Client, fleet: &Fleet) {
    fleet.remove_node("n3").await.unwrap();
    assert!(fleet.node("n3").is_err());
    wait::for_object(Api::<Node>::all(client.clone()), "n3", SOON, "absence", |node| {
        node.is_none()
    })
    .await
    .unwrap();
}

/// One call over a Unix socket, and the status it answers.
async fn call(socket: &std::path::Path, request: hyper::Request<String>) -> u16 {
    let stream = tokio::net::UnixStream::connect(socket).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let (mut parts, body) = request.into_parts();
    parts.headers.insert("host", "localhost".parse().unwrap());
    sender
        .send_request(hyper::Request::from_parts(parts, body))
        .await
        .unwrap()
        .status()
        .as_u16()
}

/// An agent that runs until it is asked to end, or fails while it is told to.
fn stub_agent(specs: Arc<Mutex<Vec<AgentSpec>>>, failures: Arc<AtomicU32>) -> AgentLauncher {
    agent::in_process(move |spec| {
        let failures = failures.clone();
        specs.lock().unwrap().push(spec.clone());
        async move {
            let fail = failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            anyhow::ensure!(fail.is_err(), "told to fail");
            spec.shutdown.cancelled().await;
            Ok(())
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_get_a_token_that_says_which_node_they_are_on() {
    show_log();
    let plane = ControlPlane::start(Options::default()).await.unwrap();
    let client = plane.client().await.unwrap();
    let specs = Arc::new(Mutex::new(Vec::new()));
    let failures = Arc::new(AtomicU32::new(1));
    let launcher = stub_agent(specs.clone(), failures);
    let fleet = Fleet::start(&plane, small_fleet(1), Some(launcher))
        .await
        .unwrap();
    fleet.wait_ready(SOON).await.unwrap();
    install_agent(&client).await;

    let pods: Api<Pod> = Api::namespaced(client.clone(), agent::NAMESPACE);
    let config = watcher::Config::default().labels("app.kubernetes.io/component=agent");
    let ready = wait::for_objects(
        pods.clone(),
        config.clone(),
        SOON,
        "ready agent that failed once",
        |pods| {
            let restarted = |pod: &&Pod| {
                let containers = pod
                    .status
                    .as_ref()
                    .and_then(|status| status.container_statuses.as_ref());
                containers.is_some_and(|all| all.iter().all(|one| one.restart_count == 1))
            };
            pods.len() == 1 && pods.iter().all(|pod| pod_ready(pod)) && pods.iter().all(restarted)
        },
    )
    .await
    .unwrap();

    let spec = specs.lock().unwrap().last().cloned().unwrap();
    assert_eq!(spec.pod.uid(), ready[0].uid());
    let on_disk = std::fs::read_to_string(&spec.boot_id_file).unwrap();
    assert_eq!(on_disk.trim(), fleet.node("n1").unwrap().boot_id());

    let token = std::fs::read_to_string(&spec.token_file).unwrap();
    let review = TokenReview {
        spec: TokenReviewSpec {
            token: Some(token),
            audiences: Some(vec![AUDIENCE.into()]),
        },
        ..TokenReview::default()
    };
    let reviews: Api<TokenReview> = Api::all(client.clone());
    let status = reviews
        .create(&PostParams::default(), &review)
        .await
        .unwrap()
        .status
        .unwrap();
    assert_eq!(status.authenticated, Some(true), "{status:?}");
    let extra = status.user.unwrap().extra.unwrap();
    let node = Api::<Node>::all(client.clone()).get("n1").await.unwrap();
    assert_eq!(extra["authentication.kubernetes.io/node-name"], ["n1"]);
    assert_eq!(
        extra["authentication.kubernetes.io/node-uid"],
        [node.uid().unwrap()]
    );
    assert_eq!(
        extra["authentication.kubernetes.io/pod-uid"],
        [ready[0].uid().unwrap()]
    );

    // A power cut ends the agent without a word; after the boot it runs again.
    let launched = specs.lock().unwrap().len();
    fleet.node("n1").unwrap().power_cut();
    wait::for_objects(pods, config, SOON, "agent started in the next boot", |pods| {
        specs.lock().unwrap().len() == launched + 1 && pods.iter().all(|pod| pod_ready(pod))
    })
    .await
    .unwrap();
    assert!(!spec.shutdown.is_cancelled());
    drop(fleet);
    plane.shutdown().await.unwrap();
}

async fn install_agent(client: &Client) {
    let post = PostParams::default();
    let namespace = json!({ "metadata": { "name": agent::NAMESPACE } });
    Api::<Namespace>::all(client.clone())
        .create(&post, &serde_json::from_value(namespace).unwrap())
        .await
        .unwrap();
    let account: ServiceAccount = serde_json::from_value(json!({ "metadata": { "name": "agent" } })).unwrap();
    Api::namespaced(client.clone(), agent::NAMESPACE)
        .create(&post, &account)
        .await
        .unwrap();
    let labels = json!({ "app.kubernetes.io/component": "agent" });
    let daemon_set = json!({
        "metadata": { "name": "agent" },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "serviceAccountName": "agent",
                    "containers": [{ "name": "agent", "image": "registry.invalid/agent:1" }],
                    "volumes": [{ "name": "token", "projected": { "sources": [
                        { "serviceAccountToken": { "audience": AUDIENCE, "path": "token" } },
                    ]}}],
                },
            },
        },
    });
    let daemon_set = serde_json::from_value(daemon_set).unwrap();
    Api::<k8s_openapi::api::apps::v1::DaemonSet>::namespaced(client.clone(), agent::NAMESPACE)
        .create(&post, &daemon_set)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_apiserver_can_be_stopped_and_started_again() {
    show_log();
    let plane = ControlPlane::start(Options::default()).await.unwrap();
    let client = plane.client().await.unwrap();
    let namespaces: Api<Namespace> = Api::all(client);
    plane.stop_apiserver().await.unwrap();
    namespaces.get("default").await.unwrap_err();
    plane.start_apiserver().await.unwrap();
    namespaces.get("default").await.unwrap();

    let path = plane
        .kubeconfig_for_service_account("default", "default")
        .await
        .unwrap();
    let args = ["--kubeconfig", path.to_str().unwrap(), "auth", "whoami"];
    let who = plane.kubectl_ok(&args).await.unwrap();
    assert!(who.contains("system:serviceaccount:default:default"), "{who}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_fleet_comes_up_spread_over_its_zones() {
    show_log();
    let plane = ControlPlane::start(Options::default()).await.unwrap();
    let path = testbed::binaries::workspace_root().join("examples/fleets/three-zones.yaml");
    let fleet = Fleet::start(&plane, FleetSpec::from_file(&path).unwrap(), None)
        .await
        .unwrap();
    fleet.wait_ready(SOON).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(plane.client().await.unwrap(), "shop");
    let web = pods
        .list(&ListParams::default().labels("app=web"))
        .await
        .unwrap()
        .items;
    let zones: std::collections::BTreeSet<char> = web
        .iter()
        .filter_map(|pod| pod.spec.as_ref()?.node_name.as_ref()?.chars().next())
        .collect();
    assert_eq!(zones.into_iter().collect::<String>(), "abc");
    drop(fleet);
    plane.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_by_the_hundred_are_affordable() {
    show_log();
    let plane = ControlPlane::start(Options::default()).await.unwrap();
    let started = Instant::now();
    let fleet = Fleet::start(&plane, small_fleet(300), None).await.unwrap();
    fleet.wait_ready(SOON).await.unwrap();
    tracing::info!(after = ?started.elapsed(), "300 nodes are ready");

    let before: Vec<String> = fleet.nodes().iter().map(|node| node.boot_id()).collect();
    let rebooted = Instant::now();
    fleet.nodes().iter().for_each(|node| node.power_cut());
    let nodes: Api<Node> = Api::all(plane.client().await.unwrap());
    wait::for_objects(
        nodes,
        watcher::Config::default(),
        SOON,
        "300 new boot IDs",
        |nodes| {
            nodes
                .iter()
                .all(|node| is_ready(node) && !before.iter().any(|old| old == boot_id(node)))
        },
    )
    .await
    .unwrap();
    tracing::info!(after = ?rebooted.elapsed(), "300 nodes have rebooted");
    drop(fleet);
    plane.shutdown().await.unwrap();
}
