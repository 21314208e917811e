//! A fleet of simulated machines on a control plane: described in YAML, started as one, changed machine by machine.

mod node;
mod spec;
mod workloads;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Node;
use kube::api::DeleteParams;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt as _};
use tempfile::TempDir;

pub use node::SimNode;
pub use spec::{FleetSpec, GroupSpec, LatencySpec, NodeSpec, WorkloadSpec};

use crate::bottlerocket::{Image, Release, SharedRepository};
use crate::control_plane::{ControlPlane, User};
use crate::kubelet::{self, AgentLauncher, Kubelet};
use crate::truth::{SimEventKind, TruthLog};
use crate::{wait, watchdog};
use node::Surroundings;

/// How long the first boots may take.
const NODES_WITHIN: Duration = Duration::from_secs(60);

/// A running fleet. Its machines stop when it is dropped; their objects stay.
pub struct Fleet {
    client: Client,
    spec: FleetSpec,
    surroundings: Surroundings,
    nodes: Mutex<BTreeMap<String, Arc<SimNode>>>,
    started: AtomicU32,
    directory: TempDir,
}

impl Fleet {
    /// Starts the machines and makes the workloads. The launcher runs the agent for its pods.
    pub async fn start(
        plane: &ControlPlane,
        spec: FleetSpec,
        launcher: Option<AgentLauncher>,
    ) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("fleet-")
            .tempdir()
            .context("making a directory")?;
        watchdog::guard_directory(directory.path())?;
        let options = kubelet::Options {
            lease_renewal: spec.lease_renewal,
            lease_duration: spec.lease_renewal * 4,
            ..kubelet::Options::default()
        };
        let kubelet = Kubelet::start(plane.client_as(User::Kubelet).await?, options, launcher);
        let surroundings = Surroundings {
            kubelet: Arc::new(kubelet),
            repository: SharedRepository::default(),
            truth: TruthLog::default(),
            directory: directory.path().to_owned(),
            announce_shutdown: spec.announce_shutdown,
        };
        let fleet = Self {
            client: plane.client().await?,
            surroundings,
            nodes: Mutex::default(),
            started: AtomicU32::new(0),
            directory,
            spec,
        };
        fleet.publish_offered();
        for node in fleet.spec.nodes() {
            fleet.add_node(node)?;
        }
        if !fleet.spec.workloads.is_empty() {
            // Pods made earlier would all go to the first nodes.
            fleet.wait_nodes(NODES_WITHIN).await?;
        }
        for workload in &fleet.spec.workloads {
            workloads::apply(&fleet.client, workload).await?;
        }
        Ok(fleet)
    }

    /// Waits until every machine's node is Ready and every workload has all its pods available.
    pub async fn wait_ready(&self, within: Duration) -> Result<()> {
        self.wait_nodes(within).await?;
        for workload in &self.spec.workloads {
            let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), &workload.namespace);
            wait::for_object(
                deployments,
                &workload.name,
                within,
                "available Deployment",
                |deployment| {
                    let status = deployment.and_then(|deployment| deployment.status.as_ref());
                    let available = status
                        .and_then(|status| status.available_replicas)
                        .unwrap_or_default();
                    u32::try_from(available).is_ok_and(|available| available >= workload.replicas)
                },
            )
            .await?;
        }
        Ok(())
    }

    /// Waits until pods can be scheduled to every machine's node.
    async fn wait_nodes(&self, within: Duration) -> Result<()> {
        let names: Vec<String> = self.nodes().iter().map(|node| node.name().to_owned()).collect();
        let nodes: Api<Node> = Api::all(self.client.clone());
        wait::for_objects(
            nodes,
            watcher::Config::default(),
            within,
            "fleet of Ready nodes",
            |nodes| {
                let usable = |node: &&Node| is_ready(node) && !has_not_ready_taint(node);
                names
                    .iter()
                    .all(|name| nodes.iter().any(|node| node.name_any() == *name && usable(node)))
            },
        )
        .await?;
        Ok(())
    }

    /// The description it was started from.
    pub fn spec(&self) -> &FleetSpec {
        &self.spec
    }

    /// What really happened.
    pub fn truth(&self) -> &TruthLog {
        &self.surroundings.truth
    }

    /// The update repository.
    pub fn repository(&self) -> &SharedRepository {
        &self.surroundings.repository
    }

    /// One machine.
    pub fn node(&self, name: &str) -> Result<Arc<SimNode>> {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes
            .get(name)
            .cloned()
            .with_context(|| format!("the fleet has no machine {name:?}"))
    }

    /// All machines, by name.
    pub fn nodes(&self) -> Vec<Arc<SimNode>> {
        self.nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// Adds a machine.
    pub fn add_node(&self, spec: NodeSpec) -> Result<Arc<SimNode>> {
        let number = self.started.fetch_add(1, Ordering::Relaxed) + 1;
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(
            !nodes.contains_key(&spec.name),
            "the fleet has a machine {:?} already",
            spec.name
        );
        let node = Arc::new(SimNode::start(&self.surroundings, spec, number)?);
        nodes.insert(node.name().to_owned(), node.clone());
        Ok(node)
    }

    /// Takes a machine away and deletes its Node, as a cloud provider does.
    pub async fn remove_node(&self, name: &str) -> Result<()> {
        let removed = self
            .nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
        let node = removed.with_context(|| format!("the fleet has no machine {name:?}"))?;
        node.vanish().await;
        self.truth()
            .record(chrono::Utc::now(), name, SimEventKind::Removed);
        let nodes: Api<Node> = Api::all(self.client.clone());
        match nodes.delete(name, &DeleteParams::default()).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error).with_context(|| format!("deleting the Node {name}")),
        }
    }

    fn publish_offered(&self) {
        for group in &self.spec.groups {
            for version in &self.spec.offered {
                let image = Image {
                    arch: group.arch.clone(),
                    version: *version,
                    variant: group.variant.clone(),
                };
                let release = Release {
                    image,
                    waves: BTreeMap::new(),
                };
                self.repository().change(|repository| repository.publish(release));
            }
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        watchdog::release_directory(self.directory.path());
    }
}

/// Whether the node's Ready condition is True.
pub fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|conditions| {
        conditions
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
    })
}

/// Whether the node lifecycle controller has yet to see that the node is ready.
fn has_not_ready_taint(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    taints.is_some_and(|taints| {
        taints
            .iter()
            .any(|taint| taint.key == "node.kubernetes.io/not-ready")
    })
}
