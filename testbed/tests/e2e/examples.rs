//! Every example is taken by the Kubernetes API as it stands, and can be carried out.

use std::path::PathBuf;

use api::plan::UpdatePlanSpec;
use kube::core::DynamicObject;
use planner::spec::ValidPlan;
use testbed::binaries::workspace_root;
use testbed::lab::Bare;

fn files(folder: &str) -> Vec<PathBuf> {
    let listed = std::fs::read_dir(workspace_root().join(folder)).unwrap();
    let mut files: Vec<PathBuf> = listed
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{folder} is empty");
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_is_a_plan_that_can_be_carried_out() {
    let bare = Bare::start().await.unwrap();
    for file in files("examples") {
        let path = file.display().to_string();
        // With the defaults that the API fills in, as the controller will see it.
        let flags = [
            "create",
            "--dry-run=server",
            "--validate=strict",
            "-o",
            "json",
            "-f",
            &path,
        ];
        let stored = bare
            .plane
            .kubectl_ok(&flags)
            .await
            .unwrap_or_else(|error| panic!("{path}: {error:#}"));
        let object: DynamicObject = serde_json::from_str(&stored).unwrap();
        assert_eq!(object.types.unwrap().kind, "UpdatePlan", "{path}");
        let spec: UpdatePlanSpec = serde_json::from_value(object.data["spec"].clone()).unwrap();
        let valid = ValidPlan::parse(&spec);
        assert!(valid.is_ok(), "{path}: {}", valid.unwrap_err());
        // Kubernetes and the types that plans are read with fill in the same.
        let written: serde_json::Value =
            serde_saphyr::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let by_types: UpdatePlanSpec = serde_json::from_value(written["spec"].clone()).unwrap();
        assert_eq!(by_types, spec, "{path}");
    }
}
