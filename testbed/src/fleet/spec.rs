//! The description of a fleet, as in `examples/fleets/*.yaml`.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::{Deserialize, Deserializer};

use crate::bottlerocket::{Image, Latencies, UpdateSettings, Version};

/// A fleet: machines in groups, the releases offered to them, and the workloads that run on them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FleetSpec {
    /// Versions that the repository offers, for every variant and architecture of the groups.
    #[serde(default)]
    pub offered: Vec<Version>,
    /// How long the machines' work takes, where a group says nothing else.
    #[serde(default)]
    pub latencies: LatencySpec,
    /// Whether a machine that reboots in good order says that it is not ready, or is found out by its silence.
    #[serde(default = "yes")]
    pub announce_shutdown: bool,
    /// How often node leases are renewed.
    #[serde(default = "lease_renewal", deserialize_with = "duration")]
    pub lease_renewal: Duration,
    /// The machines.
    pub groups: Vec<GroupSpec>,
    /// The workloads.
    #[serde(default)]
    pub workloads: Vec<WorkloadSpec>,
}

/// Machines that are alike: `<prefix>1`, `<prefix>2`, ...
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GroupSpec {
    /// What their names begin with.
    pub prefix: String,
    /// How many there are.
    pub count: u32,
    /// Their zone.
    #[serde(default)]
    pub zone: Option<String>,
    /// Further labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The version they run at first.
    pub version: Version,
    /// Their variant.
    #[serde(default = "variant")]
    pub variant: String,
    /// Their architecture.
    #[serde(default = "arch")]
    pub arch: String,
    /// Whether they carry the label of nodes that take part.
    #[serde(default = "yes")]
    pub takes_part: bool,
    /// How long their work takes.
    #[serde(default)]
    pub latencies: Option<LatencySpec>,
}

/// How long a machine's work takes. What is left out takes no time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LatencySpec {
    /// A refresh.
    #[serde(deserialize_with = "duration")]
    pub refresh: Duration,
    /// A prepare.
    #[serde(deserialize_with = "duration")]
    pub prepare: Duration,
    /// An activate.
    #[serde(deserialize_with = "duration")]
    pub activate: Duration,
    /// A deactivate.
    #[serde(deserialize_with = "duration")]
    pub deactivate: Duration,
    /// From a commit to the config files written from it.
    #[serde(deserialize_with = "duration")]
    pub apply_settings: Duration,
    /// From the reboot call to the machine being down.
    #[serde(deserialize_with = "duration")]
    pub shut_down: Duration,
    /// From down to up.
    #[serde(deserialize_with = "duration")]
    pub boot: Duration,
    /// From a pod bound to its containers running.
    #[serde(deserialize_with = "duration")]
    pub pod_start: Duration,
    /// From a pod's deletion asked for to the pod gone.
    #[serde(deserialize_with = "duration")]
    pub pod_stop: Duration,
}

impl LatencySpec {
    /// Those of the machine's update commands.
    pub fn commands(&self) -> Latencies {
        let Self {
            refresh,
            prepare,
            activate,
            deactivate,
            apply_settings,
            ..
        } = *self;
        Latencies {
            refresh,
            prepare,
            activate,
            deactivate,
            apply_settings,
        }
    }
}

/// A Deployment, with a PodDisruptionBudget where one of the two limits is given.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadSpec {
    /// The name of both.
    pub name: String,
    /// Their namespace, made where it is missing.
    #[serde(default = "namespace")]
    pub namespace: String,
    /// How many pods.
    pub replicas: u32,
    /// The budget's `minAvailable`.
    #[serde(default)]
    pub min_available: Option<IntOrString>,
    /// The budget's `maxUnavailable`.
    #[serde(default)]
    pub max_unavailable: Option<IntOrString>,
    /// Only on nodes with these labels.
    #[serde(default)]
    pub node_selector: BTreeMap<String, String>,
}

/// One machine.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeSpec {
    /// The node's name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What it runs at first.
    pub image: Image,
    /// Its settings at first.
    pub settings: UpdateSettings,
    /// How long its work takes.
    pub latencies: LatencySpec,
}

impl FleetSpec {
    /// Reads a description; the error names the field and where it is.
    pub fn from_yaml(text: &str) -> Result<Self> {
        let spec: Self = serde_saphyr::from_str(text).context("reading the description of a fleet")?;
        spec.check()?;
        Ok(spec)
    }

    /// Reads a description from a file.
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        Self::from_yaml(&text).with_context(|| path.display().to_string())
    }

    /// So many machines `n1`, `n2`, ... that run one version and are offered another, without workloads or latencies.
    pub fn simple(count: u32, runs: Version, offered: Version) -> Self {
        let group = GroupSpec {
            prefix: "n".to_owned(),
            count,
            zone: None,
            labels: BTreeMap::new(),
            version: runs,
            variant: variant(),
            arch: arch(),
            takes_part: true,
            latencies: None,
        };
        Self {
            offered: vec![runs, offered],
            announce_shutdown: true,
            lease_renewal: lease_renewal(),
            groups: vec![group],
            ..Self::default()
        }
    }

    /// Every machine.
    pub fn nodes(&self) -> Vec<NodeSpec> {
        let nodes = self.groups.iter().flat_map(|group| {
            (1..=group.count).map(|number| {
                let mut labels = group.labels.clone();
                if let Some(zone) = &group.zone {
                    labels.insert("topology.kubernetes.io/zone".to_owned(), zone.clone());
                }
                if group.takes_part {
                    labels.insert(
                        "bottlerocket.aws/updater-interface-version".to_owned(),
                        "2.0.0".to_owned(),
                    );
                }
                let image = Image {
                    arch: group.arch.clone(),
                    version: group.version,
                    variant: group.variant.clone(),
                };
                NodeSpec {
                    name: format!("{}{number}", group.prefix),
                    labels,
                    image,
                    settings: UpdateSettings::default(),
                    latencies: group.latencies.unwrap_or(self.latencies),
                }
            })
        });
        let mut nodes: Vec<NodeSpec> = nodes.collect();
        for (node, seed) in nodes.iter_mut().zip(1..) {
            // Spread over the repository's 2048 seeds, and always the same for the same fleet.
            node.settings.seed = (seed * 797) % 2048;
        }
        nodes
    }

    fn check(&self) -> Result<()> {
        let mut names: Vec<String> = self.nodes().into_iter().map(|node| node.name).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            anyhow::bail!(
                "groups: two machines are named {:?}: give the groups other prefixes",
                twice[0]
            );
        }
        for workload in &self.workloads {
            ensure!(
                workload.min_available.is_none() || workload.max_unavailable.is_none(),
                "workloads: {:?} has both minAvailable and maxUnavailable: give one",
                workload.name
            );
        }
        Ok(())
    }
}

fn yes() -> bool {
    true
}

fn variant() -> String {
    "aws-k8s-1.33".to_owned()
}

fn arch() -> String {
    "x86_64".to_owned()
}

fn namespace() -> String {
    "default".to_owned()
}

fn lease_renewal() -> Duration {
    Duration::from_secs(10)
}

/// A duration like `1m 30s`, `2s` or `150ms`.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let read = jiff::SignedDuration::from_str(&text)
        .ok()
        .and_then(|read| Duration::try_from(read).ok());
    read.ok_or_else(|| {
        serde::de::Error::custom(format!("{text:?} is not a duration like \"2s\" or \"150ms\""))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn every_example_can_be_read() {
        let folder = crate::binaries::workspace_root().join("examples/fleets");
        let mut read = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let spec = FleetSpec::from_file(&entry.unwrap().path()).unwrap();
            assert!(!spec.nodes().is_empty());
            read += 1;
        }
        assert!(read > 0);
    }

    #[test]
    fn groups_become_machines_with_their_own_or_the_common_latencies() {
        let spec = FleetSpec::from_yaml(
            r#"
            offered: ["1.21.0"]
            latencies: {boot: 2s, prepare: 1m 30s}
            groups:
            - {prefix: a, count: 2, zone: z1, version: "1.20.3", labels: {pool: web}}
            - {prefix: b, count: 1, version: v1.19.5, arch: aarch64, takesPart: false, latencies: {boot: 150ms}}
            "#,
        )
        .unwrap();
        let nodes = spec.nodes();
        let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["a1", "a2", "b1"]);
        assert_eq!(nodes[0].labels["topology.kubernetes.io/zone"], "z1");
        assert_eq!(
            nodes[0].labels["bottlerocket.aws/updater-interface-version"],
            "2.0.0"
        );
        assert_eq!(nodes[0].latencies.boot, Duration::from_secs(2));
        assert_eq!(nodes[0].latencies.prepare, Duration::from_secs(90));
        assert_eq!(nodes[2].latencies.boot, Duration::from_millis(150));
        assert!(nodes[2].labels.is_empty());
        assert_eq!(nodes[2].image.version.to_string(), "1.19.5");
    }

    #[test]
    fn mistakes_are_named() {
        let mistake = |text: &str| format!("{:#}", FleetSpec::from_yaml(text).unwrap_err());
        let twice = "groups: [{prefix: a, count: 1, version: 1.2.3}, {prefix: a, count: 1, version: 1.2.3}]";
        assert!(mistake(twice).contains("two machines are named \"a1\""));
        assert!(mistake("groups: [{prefix: a, count: 1, version: soon}]").contains("soon"));
        assert!(mistake("groups: []\nleaseRenewal: often").contains("\"often\" is not a duration"));
        assert!(mistake("groups: []\nnodes: 3").contains("nodes"));
        let budgets = "groups: []\nworkloads: [{name: w, replicas: 1, minAvailable: 1, maxUnavailable: 1}]";
        assert!(mistake(budgets).contains("both minAvailable and maxUnavailable"));
    }
}
