//! An `UpdatePlan` as parsed once: from here on nothing is unchecked.

use std::collections::BTreeMap;

use api::{
    plan::{Approval, LATEST, OnWindowEnd, Topology, UpdatePlanSpec, Wave},
    quantity::IntOrPercent,
    shadow::Disruption,
};
use chrono::TimeDelta;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube_core::{Selector, SelectorExt};
use semver::Version;

use crate::windows::{WindowState, Windows};

/// Why a plan cannot be carried out: the field, its value, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("spec.{field}: {value:?}: {remedy}")]
pub struct Invalid {
    /// Path of the field below `spec`.
    pub field: String,
    /// The value that was found.
    pub value: String,
    /// What would be right.
    pub remedy: String,
}

/// A plan that can be carried out.
#[derive(Clone, Debug)]
pub struct ValidPlan {
    /// The version as the user wrote it, where nodes are asked for exactly this; or `latest`.
    pub target: String,
    /// With `latest`, how long a version must have been on offer.
    pub min_release_age: TimeDelta,
    /// Whether a node that runs a newer version is taken down to it.
    pub allow_downgrade: bool,
    /// Which nodes.
    pub selector: Selector,
    /// Whether nothing is to be granted.
    pub paused: bool,
    /// When nodes may be disrupted.
    pub windows: Windows,
    /// What becomes of nodes on their way when a window closes.
    pub on_window_end: OnWindowEnd,
    /// How long a node is expected to take.
    pub node_duration: TimeDelta,
    /// How many of the matched nodes may be unavailable.
    pub max_unavailable: IntOrPercent,
    /// Of how many domains nodes may be unavailable.
    pub topology: Option<Topology>,
    /// The waves, at least one; the last takes every node that is left.
    pub waves: Vec<ValidWave>,
    /// How long of open window nodes that cannot be updated hold a wave.
    pub skip_after: TimeDelta,
    /// How often a node is tried again.
    pub retries: u32,
    /// How many failed nodes halt the plan.
    pub threshold: IntOrPercent,
    /// How long a node's steps may take.
    pub limits: Limits,
}

/// How many waves a plan may have, as the CRD says too.
const MAX_WAVES: usize = 20;

/// A wave of a valid plan.
#[derive(Clone, Debug)]
pub struct ValidWave {
    /// Its name.
    pub name: String,
    /// How many nodes it takes, where that is limited.
    pub size: Option<IntOrPercent>,
    /// Which nodes it takes, where that is limited.
    pub selector: Option<Selector>,
    /// How many of its nodes may be unavailable, where that is limited.
    pub max_unavailable: Option<IntOrPercent>,
    /// How long it is watched before the next starts.
    pub soak: TimeDelta,
    /// Whether a person has to approve it before the next starts.
    pub approval: Approval,
}

/// How long a node's steps may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From the grant to the activated image.
    pub stage: TimeDelta,
    /// From the cordon to the empty node.
    pub drain: TimeDelta,
    /// From the permit to Ready on the target.
    pub reboot: TimeDelta,
    /// How long it must stay Ready.
    pub min_ready: TimeDelta,
    /// How long that may take.
    pub monitoring: TimeDelta,
}

impl Default for Limits {
    /// The defaults of the CRD, for grants whose plan is gone.
    fn default() -> Self {
        Self::from_parts(&Default::default(), &Default::default(), &Default::default())
    }
}

impl Limits {
    /// Those of the plan, which no other field makes invalid.
    pub fn of(spec: &UpdatePlanSpec) -> Self {
        Self::from_parts(&spec.drain, &spec.monitoring, &spec.timeouts)
    }

    fn from_parts(
        drain: &api::plan::Drain,
        monitoring: &api::plan::Monitoring,
        timeouts: &api::plan::Timeouts,
    ) -> Self {
        Self {
            stage: timeouts.stage.delta(),
            drain: drain.timeout.delta(),
            reboot: timeouts.reboot.delta(),
            // Nobody waits for longer than the time-out, which an invalid plan may say.
            min_ready: monitoring.min_ready.delta().min(monitoring.timeout.delta()),
            monitoring: monitoring.timeout.delta(),
        }
    }
}

impl ValidPlan {
    /// Parses a plan's spec. Exhaustive: a new field does not compile until it is handled here.
    ///
    /// # Errors
    /// The first field that cannot be carried out.
    pub fn parse(spec: &UpdatePlanSpec) -> Result<Self, Invalid> {
        let UpdatePlanSpec {
            target_version,
            min_release_age,
            allow_downgrade,
            node_selector,
            // An invalid plan keeps its nodes, so its priority is read from the spec.
            priority: _,
            paused,
            maintenance_windows,
            exclusions,
            on_window_end,
            expected_node_duration,
            max_unavailable,
            topology,
            waves,
            skip_after,
            drain,
            monitoring,
            failure_policy,
            timeouts,
        } = spec;
        if monitoring.min_ready > monitoring.timeout {
            return Err(Invalid {
                field: "monitoring.minReady".to_owned(),
                value: monitoring.min_ready.to_string(),
                remedy: format!(
                    "must be at most monitoring.timeout, which is {}",
                    monitoring.timeout
                ),
            });
        }
        Ok(Self {
            target: target(target_version)?,
            min_release_age: min_release_age.map_or_else(TimeDelta::zero, |age| age.delta()),
            allow_downgrade: *allow_downgrade,
            selector: selector("nodeSelector", node_selector)?,
            paused: *paused,
            windows: Windows::parse(maintenance_windows, exclusions)?,
            on_window_end: *on_window_end,
            node_duration: expected_node_duration.delta(),
            max_unavailable: *max_unavailable,
            topology: topology.clone(),
            waves: parse_waves(waves)?,
            skip_after: skip_after.delta(),
            retries: failure_policy.retries,
            threshold: failure_policy.threshold,
            limits: Limits::from_parts(drain, monitoring, timeouts),
        })
    }

    /// Whether a node with this cordon of ours may finish whatever its window does meanwhile.
    #[must_use]
    pub fn may_finish(&self, cordon: Option<&Disruption>) -> bool {
        let inside = |cordon: &Disruption| {
            let then = self.windows.at(cordon.cordoned_at);
            !matches!(then, WindowState::Closed { .. })
        };
        self.on_window_end == OnWindowEnd::Finish && cordon.is_some_and(inside)
    }

    /// Whether the plan's selector takes a node with these labels.
    #[must_use]
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.selector.matches(labels)
    }
}

fn target(written: &str) -> Result<String, Invalid> {
    if written != LATEST {
        Version::parse(written).map_err(|error| Invalid {
            field: "targetVersion".to_owned(),
            value: written.to_owned(),
            remedy: format!("give a full version without a leading v, such as 1.21.0, or latest ({error})"),
        })?;
    }
    Ok(written.to_owned())
}

/// The wave of a plan that names none.
const ONLY_WAVE: &str = "all";

fn parse_waves(waves: &[Wave]) -> Result<Vec<ValidWave>, Invalid> {
    let Some((last, _)) = waves.split_last() else {
        let all = ValidWave {
            name: ONLY_WAVE.to_owned(),
            size: None,
            selector: None,
            max_unavailable: None,
            soak: TimeDelta::zero(),
            approval: Approval::Automatic,
        };
        return Ok(vec![all]);
    };
    if waves.len() > MAX_WAVES {
        return Err(Invalid {
            field: "waves".to_owned(),
            value: format!("{} waves", waves.len()),
            remedy: format!("at most {MAX_WAVES}"),
        });
    }
    if last.size.is_some() || last.node_selector.is_some() {
        return Err(Invalid {
            field: format!("waves[{}]", waves.len() - 1),
            value: last.name.clone(),
            remedy: "the last wave takes the rest: remove its size and nodeSelector, or add {name: rest}"
                .to_owned(),
        });
    }
    let parse = |(i, wave): (usize, &Wave)| {
        let Wave {
            name,
            size,
            node_selector,
            max_unavailable,
            soak,
            approval,
        } = wave;
        Ok(ValidWave {
            name: name.clone(),
            size: *size,
            selector: node_selector
                .as_ref()
                .map(|s| selector(&format!("waves[{i}].nodeSelector"), s))
                .transpose()?,
            max_unavailable: *max_unavailable,
            soak: soak.delta(),
            approval: *approval,
        })
    };
    waves.iter().enumerate().map(parse).collect()
}

/// Reads a selector, whatever the plan around it is like: also an invalid plan keeps its nodes.
///
/// # Errors
/// Where an expression has an unknown operator or lacks values.
pub fn selector(field: &str, selector: &LabelSelector) -> Result<Selector, Invalid> {
    let invalid = |remedy: String| Invalid {
        field: field.to_owned(),
        value: format!("{selector:?}"),
        remedy,
    };
    for (i, expression) in selector.match_expressions.iter().flatten().enumerate() {
        let values = expression
            .values
            .as_ref()
            .is_some_and(|values| !values.is_empty());
        let wanted = match expression.operator.as_str() {
            "In" | "NotIn" => true,
            "Exists" | "DoesNotExist" => false,
            operator => {
                return Err(Invalid {
                    field: format!("{field}.matchExpressions[{i}].operator"),
                    value: operator.to_owned(),
                    remedy: "use In, NotIn, Exists or DoesNotExist".to_owned(),
                });
            }
        };
        if values != wanted {
            return Err(Invalid {
                field: format!("{field}.matchExpressions[{i}].values"),
                value: format!("{:?}", expression.values.as_deref().unwrap_or_default()),
                remedy: "In and NotIn need at least one value, Exists and DoesNotExist take none".to_owned(),
            });
        }
    }
    Selector::try_from(selector.clone()).map_err(|error| invalid(error.to_string()))
}
