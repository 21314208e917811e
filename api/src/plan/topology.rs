//! `spec.topology`: of how many domains nodes are disrupted at a time.

use kube_derive::KubeSchema;
use serde::{Deserialize, Serialize};

/// Of how many domains nodes are disrupted at a time.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase")]
pub struct Topology {
    /// key: the node label whose values are the domains, such as `topology.kubernetes.io/zone`. A node without the
    /// label is a domain of its own.
    #[schemars(length(min = 1, max = 317))]
    #[x_kube(validation = Rule::new(LABEL_KEY)
        .message("topology.key must be the name of a label, such as topology.kubernetes.io/zone")
        .reason(Reason::FieldValueInvalid))]
    pub key: String,

    /// maxDomains: of how many domains matched nodes may be unavailable at once, for whatever reason. Default 1; at
    /// least 1.
    #[serde(default = "one_domain")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_domains: u32,
}

const fn one_domain() -> u32 {
    1
}

/// The rule that `self` is the name of a label, with or without a prefix.
pub(super) const LABEL_KEY: &str = "self.matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?\
                         [A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$')";
