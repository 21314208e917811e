//! The description of a fleet: machines in groups, how long their steps take, and how often they fail.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::faults::{Rates, Timing};

/// Label of a node's zone.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// The variant of a machine where nothing else is said.
pub(super) const VARIANT: &str = "aws-k8s-1.33";
/// The architecture of a machine where nothing else is said.
pub(super) const ARCH: &str = "x86_64";

/// Machines that are alike: `<prefix>1`, `<prefix>2`, ...
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Group {
    /// What their names begin with.
    pub prefix: String,
    /// How many there are. Default 1.
    #[serde(default = "one")]
    pub count: u32,
    /// The version they run at first.
    pub version: String,
    /// Their variant. Default `aws-k8s-1.33`; empty: their agents are older, and report neither variant nor architecture.
    #[serde(default = "variant")]
    pub variant: String,
    /// Their architecture. Default `x86_64`.
    #[serde(default = "arch")]
    pub arch: String,
    /// The versions that are on offer to them. Default: whatever they are asked for, and none of it is listed.
    #[serde(default)]
    pub offered: Option<Vec<String>>,
    /// Their zone.
    #[serde(default)]
    pub zone: Option<String>,
    /// Further labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether they carry the label of nodes that take part. Default true.
    #[serde(default = "yes")]
    pub takes_part: bool,
    /// Whether pods of the operator itself run on them. Default false.
    #[serde(default)]
    pub hosts_operator: bool,
    /// How long their steps take.
    #[serde(default)]
    pub timing: Timing,
    /// How often they fail.
    #[serde(default)]
    pub rates: Rates,
}

/// One machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// The node's name.
    pub name: String,
    /// The version it runs at first.
    pub version: String,
    /// Its variant.
    pub variant: String,
    /// Its architecture.
    pub arch: String,
    /// The versions that are on offer to it, where they are listed.
    pub offered: Option<Vec<String>>,
    /// Its labels, besides the one of nodes that take part.
    pub labels: BTreeMap<String, String>,
    /// Whether it carries that.
    pub takes_part: bool,
    /// Whether pods of the operator itself run on it.
    pub hosts_operator: bool,
    /// How long its steps take.
    pub timing: Timing,
    /// How often it fails.
    pub rates: Rates,
}

impl Group {
    /// The machines of the group.
    pub fn machines(&self) -> impl Iterator<Item = Machine> {
        let mut labels = self.labels.clone();
        labels.extend(self.zone.iter().map(|zone| (ZONE_LABEL.to_owned(), zone.clone())));
        (1..=self.count).map(move |number| Machine {
            name: format!("{}{number}", self.prefix),
            version: self.version.clone(),
            variant: self.variant.clone(),
            arch: self.arch.clone(),
            offered: self.offered.clone(),
            labels: labels.clone(),
            takes_part: self.takes_part,
            hosts_operator: self.hosts_operator,
            timing: self.timing,
            rates: self.rates.clone(),
        })
    }
}

fn variant() -> String {
    VARIANT.to_owned()
}

fn arch() -> String {
    ARCH.to_owned()
}

const fn one() -> u32 {
    1
}

const fn yes() -> bool {
    true
}
