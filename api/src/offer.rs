//! Versions on offer to a node, as its agent reports them, and what `latest` is made of them.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use semver::Version;
use serde::{Deserialize, Serialize};

/// How many versions a node reports, the newest first: so many that what a plan may want is among them, and so few that
/// shadows stay small.
pub const MAX_OFFERS: usize = 20;

/// Whether one version is older than the other; not where either is none.
#[must_use]
pub fn is_older(one: &str, other: &str) -> bool {
    matches!((Version::parse(one), Version::parse(other)), (Ok(one), Ok(other)) if one < other)
}

/// A version that the node's repository offers to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Offer {
    /// version: the version, without a leading `v`.
    pub version: String,
    /// since: when the node's agent has seen it on offer first, by the node's clock.
    pub since: DateTime<Utc>,
}

/// Targets of one run at once; so that no node that names ever another variant makes the ledger grow.
pub const MAX_TARGETS: usize = 100;

/// What `latest` is in a run, for one kind of node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Target {
    /// variant: the variant, such as `aws-k8s-1.33`.
    pub variant: String,
    /// arch: the architecture, such as `x86_64`.
    pub arch: String,
    /// version: the version that these nodes are to run.
    pub version: String,
}
