//! The chart: valid by helm's own word, and taken by the Kubernetes API in every part.

use std::process::Command;

use testbed::binaries::{control_plane_binary, workspace_root};
use testbed::lab::Bare;
use testbed::operator::{ALLOCATOR, NAMESPACE, render};

use crate::support::assert_says;

const CHART: &str = "charts/bottlerocket-update-operator";

#[test]
fn helm_finds_nothing_to_complain_of() {
    let helm = Command::new(control_plane_binary("helm").unwrap())
        .args(["lint", "--strict", "--quiet"])
        .arg(workspace_root().join(CHART))
        .output()
        .unwrap();
    assert!(
        helm.status.success(),
        "{}{}",
        String::from_utf8_lossy(&helm.stdout),
        String::from_utf8_lossy(&helm.stderr)
    );
}

#[test]
fn the_chart_has_the_same_resource_definitions_as_the_folder_for_kubectl() {
    let read = |folder: &str| {
        let mut files: Vec<(String, String)> = std::fs::read_dir(workspace_root().join(folder))
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                (
                    entry.file_name().into_string().unwrap(),
                    std::fs::read_to_string(entry.path()).unwrap(),
                )
            })
            .collect();
        files.sort();
        files
    };
    let (ours, charts) = (read("crds"), read(&format!("{CHART}/crds")));
    assert_eq!(ours.len(), 3);
    assert_eq!(ours, charts, "run make crds");
}

#[tokio::test]
async fn controller_and_apiserver_allocate_memory_as_they_do_in_tests() {
    let rendered = render(&[]).await.unwrap();
    let deployments: Vec<&str> = rendered
        .split("\n---\n")
        .filter(|object| object.contains("\nkind: Deployment\n"))
        .collect();
    assert_eq!(deployments.len(), 2);
    let (name, value) = ALLOCATOR;
    let allocator = format!("- name: {name}\n          value: {value}\n");
    for deployment in deployments {
        assert_says(deployment, &[allocator.as_str()]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_in_it_is_taken_by_the_kubernetes_api() {
    let bare = Bare::start().await.unwrap();
    let rendered = render(&[]).await.unwrap();
    // Unknown fields are errors, and warnings are as well: a field that is deprecated or never read is one.
    let answer = bare
        .plane
        .try_apply(&["--validate=strict"], &rendered)
        .await
        .unwrap();
    let (said, warned) = (
        String::from_utf8_lossy(&answer.stdout),
        String::from_utf8_lossy(&answer.stderr),
    );
    assert!(answer.status.success(), "{warned}");
    // Those that the testbed has applied already, on the server's side, were not made by this kubectl.
    let warnings: Vec<&str> = warned
        .lines()
        .filter(|line| !line.contains("last-applied-configuration"))
        .collect();
    assert_eq!(warnings, <[&str; 0]>::default());
    assert_says(
        &said,
        &[
            "deployment.apps/brupop-update-controller created",
            "deployment.apps/brupop-update-apiserver created",
            "daemonset.apps/brupop-update-agent",
            "clusterrole.rbac.authorization.k8s.io/brupop-update-controller",
            "customresourcedefinition.apiextensions.k8s.io/updateplans.brupop.bottlerocket.aws",
        ],
    );
    // The controllers make pods of them: nothing that is left out is missed only then.
    for what in [
        "deployment/brupop-update-controller",
        "deployment/brupop-update-apiserver",
    ] {
        let jsonpath = "--for=jsonpath={.status.replicas}=2";
        let waited = bare
            .plane
            .kubectl_ok(&["wait", what, "-n", NAMESPACE, jsonpath, "--timeout=20s"])
            .await;
        waited.unwrap_or_else(|error| panic!("{error:#}"));
    }
    let settings = [
        "--set",
        "image.repository=registry.invalid/x",
        "--set",
        "image.tag=1",
        "--set",
        "agent.seLinuxType=control_t",
    ];
    let other = render(&settings).await.unwrap();
    assert_says(&other, &["registry.invalid/x:1", "type: control_t"]);
    bare.plane
        .apply(&["--dry-run=server", "--validate=strict"], &other)
        .await
        .unwrap();
}
