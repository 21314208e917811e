//! Dependencies point one way: api ← planner ← controller; api ← apiserver, agent. The agent pulls in neither a
//! Kubernetes client nor a web server; the planner nothing that can reach the network or a clock.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use serde_json::Value;

const OURS: [&str; 7] = [
    "agent",
    "api",
    "apiserver",
    "controller",
    "model",
    "planner",
    "testbed",
];
const CLIENTS: [&str; 4] = ["kube", "kube-client", "kube-runtime", "reqwest"];
const SERVERS: [&str; 4] = ["axum", "tower-http", "tonic", "actix-web"];
const RUNTIMES: [&str; 5] = ["tokio", "mio", "socket2", "hyper", "async-std"];

/// Every crate that a crate of ours is built from, its own included, by `cargo metadata`.
fn closures() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version=1",
            "--locked",
            "--filter-platform=x86_64-unknown-linux-gnu",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let names: BTreeMap<String, String> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| (text(&p["id"]), text(&p["name"])))
        .collect();
    let normal = |dep: &&Value| {
        dep["dep_kinds"]
            .as_array()
            .unwrap()
            .iter()
            .any(|kind| kind["kind"].is_null())
    };
    let edges: BTreeMap<String, Vec<String>> = metadata["resolve"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| {
            let deps = node["deps"]
                .as_array()
                .unwrap()
                .iter()
                .filter(normal)
                .map(|dep| text(&dep["pkg"]))
                .collect();
            (text(&node["id"]), deps)
        })
        .collect();
    let closure = |root: &String| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![root.clone()]);
        while let Some(id) = open.pop() {
            if seen.insert(id.clone()) {
                open.extend(edges[&id].iter().cloned());
            }
        }
        seen.iter().map(|id| names[id].clone()).collect()
    };
    let members = metadata["workspace_members"].as_array().unwrap();
    members
        .iter()
        .map(text)
        .map(|id| (names[&id].clone(), closure(&id)))
        .collect()
}

#[test]
fn dependencies_point_one_way() {
    let closures = closures();
    let ours = |name: &str| -> Vec<&str> {
        OURS.into_iter()
            .filter(|other| *other != name && closures[name].contains(*other))
            .collect()
    };
    assert_eq!(
        closures.keys().collect::<Vec<_>>(),
        OURS,
        "a new crate needs a rule here"
    );
    assert_eq!(ours("api"), [""; 0]);
    assert_eq!(ours("planner"), ["api"]);
    assert_eq!(ours("agent"), ["api"]);
    assert_eq!(ours("apiserver"), ["api"]);
    assert_eq!(ours("controller"), ["api", "planner"]);
    assert_eq!(
        ours("model"),
        ["agent", "api", "apiserver", "controller", "planner"],
        "the model runs what is shipped"
    );
}

#[test]
fn agent_and_planner_pull_in_nothing_that_they_must_not() {
    let closures = closures();
    let found = |name: &str, banned: &[&[&str]]| -> Vec<String> {
        let banned = banned.concat();
        closures[name]
            .iter()
            .filter(|dep| banned.contains(&dep.as_str()))
            .cloned()
            .collect()
    };
    assert_eq!(found("agent", &[&CLIENTS, &SERVERS]), [""; 0]);
    assert_eq!(found("planner", &[&CLIENTS, &SERVERS, &RUNTIMES]), [""; 0]);
    assert_eq!(found("api", &[&CLIENTS, &SERVERS, &RUNTIMES]), [""; 0]);
    // The check itself sees what it looks for.
    assert!(!found("controller", &[&CLIENTS, &RUNTIMES]).is_empty());
}
