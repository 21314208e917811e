//! Registers a node, renews its lease, says whether it is ready.

use std::collections::BTreeMap;

use chrono::{SecondsFormat, Utc};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use super::writer::Writer;
use super::{Options, status};
use crate::bottlerocket::Image;

/// Where node leases are.
const LEASES: &str = "kube-node-lease";

/// How many renewals after a silence look whether the node was given up: that may come late.
const LOOKS_AFTER_SILENCE: u32 = 3;

/// What a node is, whatever it boots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Its labels, besides those that every node has.
    pub labels: BTreeMap<String, String>,
    /// Its address.
    pub address: String,
    /// Its machine ID.
    pub machine_id: String,
}

/// What a node has booted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootFacts {
    /// The boot ID.
    pub boot_id: String,
    /// The image.
    pub image: Image,
}

impl Writer {
    /// Makes the Node where there is none, and says that it is up.
    pub(super) async fn register(&self, facts: &NodeFacts, boot: &BootFacts) {
        let api: Api<Node> = Api::all(self.client());
        let node: Result<Node, _> = serde_json::from_value(status::node(facts, boot));
        let node = match node {
            Ok(node) => node,
            Err(error) => {
                tracing::error!(node = facts.name, %error, "the node cannot be written");
                return;
            }
        };
        let status = json!({ "status": status::node_status(facts, boot, Utc::now()) });
        loop {
            let exists = self
                .persist("node", || async {
                    match api.create(&PostParams::default(), &node).await {
                        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
                        other => other.map(|_| ()),
                    }
                })
                .await;
            let told = self
                .persist("node status", || async {
                    let patch = Patch::Strategic(&status);
                    api.patch_status(&facts.name, &PatchParams::default(), &patch)
                        .await
                        .map(|_| ())
                })
                .await;
            // Deleted in between: it is made again, as a kubelet does that has just started.
            if exists.is_none() || told.is_some() {
                return;
            }
        }
    }

    pub(super) async fn set_ready(&self, node: &str, ready: bool, reason: &str, message: &str) {
        let api: Api<Node> = Api::all(self.client());
        let condition = status::ready_condition(ready, reason, message, Utc::now());
        let patch = json!({ "status": { "conditions": [condition] } });
        self.persist("node readiness", || async {
            api.patch_status(node, &PatchParams::default(), &Patch::Strategic(&patch))
                .await
                .map(|_| ())
        })
        .await;
    }

    /// Keeps the node's lease fresh. Runs until dropped.
    pub(super) async fn renew_lease(&self, node: &str, options: &Options) {
        let api: Api<Lease> = Api::namespaced(self.client(), LEASES);
        let mut ticks = tokio::time::interval(options.lease_renewal);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut looks = 0_u32;
        loop {
            ticks.tick().await;
            let begun = tokio::time::Instant::now();
            self.persist("node lease", || async {
                let lease = json!({
                    "apiVersion": "coordination.k8s.io/v1",
                    "kind": "Lease",
                    "metadata": { "name": node },
                    "spec": {
                        "holderIdentity": node,
                        "leaseDurationSeconds": options.lease_duration.as_secs().max(1),
                        "renewTime": Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true),
                    },
                });
                // Applied: made where it is missing, in one request either way.
                api.patch(
                    node,
                    &PatchParams::apply("testbed-kubelet").force(),
                    &Patch::Apply(&lease),
                )
                .await
            })
            .await;
            // The API was gone, and may say of the node that nobody has heard of it.
            if begun.elapsed() > options.lease_renewal {
                looks = LOOKS_AFTER_SILENCE;
            }
            if looks > 0 {
                looks -= 1;
                self.deny_silence(node).await;
            }
        }
    }

    /// Says that the node is Ready, where the control plane has given it up as silent.
    async fn deny_silence(&self, node: &str) {
        let api: Api<Node> = Api::all(self.client());
        let known = self.persist("node", || api.get(node)).await;
        let conditions = known
            .and_then(|node| node.status)
            .and_then(|status| status.conditions);
        let given_up = conditions
            .iter()
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "Unknown");
        if given_up {
            self.set_ready(node, true, "KubeletReady", "kubelet is posting ready status")
                .await;
        }
    }
}
