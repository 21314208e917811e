//! A verdict in words, for people.

use std::fmt;

use chrono::{DateTime, Utc};

use super::{Verdict, instant};
use crate::{names::APPROVE_ANNOTATION, quantity::Span};

/// What has halted a plan. Nodes that failed then may be well by now; the halt stays.
#[must_use]
pub fn halted_by<N: Copy + fmt::Display + PartialOrd>(failed: N, threshold: N) -> String {
    if failed < threshold {
        format!("its threshold had been reached; by now {failed} failed, threshold {threshold}")
    } else {
        format!("{failed} failed, threshold {threshold}")
    }
}

fn span(seconds: i64) -> Span {
    Span::seconds(u32::try_from(seconds).unwrap_or(u32::MAX))
}

/// How long a node takes, and where that is known from.
fn needs(seconds: i64, samples: u32) -> String {
    let learned = match samples {
        0 => String::new(),
        1 => " (as 1 node before did)".to_owned(),
        nodes => format!(" (p90 of the last {nodes} nodes)"),
    };
    format!("expected to take {}{learned}", span(seconds))
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = |since: &Option<DateTime<Utc>>| {
            since.map_or_else(String::new, |at| format!(" since {}", instant(at)))
        };
        match self {
            Self::OtherPlan { name } => write!(f, "belongs to plan {name}"),
            Self::Failed { failure, message } => write!(f, "failed ({failure}): {message}"),
            Self::UpToDate => f.write_str("runs the target version"),
            Self::NewerThanTarget { running } => write!(f, "runs {running}, newer than the target"),
            Self::OptedOut { why } => write!(f, "has opted out: {why}"),
            Self::VersionNotOffered { message } | Self::Unsupported { message } => f.write_str(message),
            Self::InvalidPlan { problem } => write!(f, "the plan is invalid: {problem}"),
            Self::Deleting => f.write_str("the plan is being deleted"),
            Self::Paused => f.write_str("the plan is paused"),
            Self::Stopped => f.write_str("the install is stopped: spec.stop of its UpdateLedger is true"),
            Self::Halted { failed, threshold } => write!(
                f,
                "the plan is halted: {}; retry it or set a new targetVersion to go on",
                halted_by(*failed, *threshold)
            ),
            Self::NotReady { since: at } => write!(f, "not Ready{}", since(at)),
            Self::AgentSilent { since: at } => {
                write!(
                    f,
                    "its agent does not report{}: look at the agent's pod on the node",
                    since(at)
                )
            }
            Self::VersionDisputed { reported, os_image } => write!(
                f,
                "its agent reports version {reported}, but its kubelet {os_image}: look at the node, then restart its \
                 agent's pod"
            ),
            Self::AgentOutdated => {
                f.write_str("its agent does not report variant and architecture: update the operator's agent")
            }
            Self::NothingOffered { variant, arch } => {
                write!(f, "no version is known to be on offer for {variant}, {arch}")
            }
            Self::ReleaseTooYoung { version, until } => {
                write!(f, "{version} is on offer, but not for minReleaseAge until {}", instant(*until))
            }
            Self::Resetting => f.write_str("an earlier attempt is being undone"),
            Self::CordonedByOther => f.write_str("cordoned, but not by this operator: uncordon it to go on"),
            Self::Backoff { until } => write!(f, "failed before, is tried again at {}", instant(*until)),
            Self::ClockSkewed {
                seconds: Some(seconds),
            } => write!(
                f,
                "the controller's clock and the Kubernetes API's are {} s apart: it starts nothing while they are \
                 30 s apart or more",
                seconds.unsigned_abs()
            ),
            Self::ClockSkewed { seconds: None } => {
                f.write_str("the controller's clock is not yet compared with the Kubernetes API's")
            }
            Self::WaveNotReached { wave, behind } => write!(f, "wave {wave} waits for wave {behind}"),
            Self::Soaking { wave, until } => write!(f, "wave {wave} soaks until {}", instant(*until)),
            Self::AwaitingApproval { wave, run } => {
                write!(
                    f,
                    "wave {wave} awaits approval: annotate {APPROVE_ANNOTATION}={run}/{wave}"
                )
            }
            Self::OutsideWindow { opens: Some(opens) } => {
                write!(
                    f,
                    "outside the maintenance windows, the next opens {}",
                    instant(*opens)
                )
            }
            Self::OutsideWindow { opens: None } => {
                f.write_str("outside the maintenance windows, and none opens again: add one to go on")
            }
            Self::Excluded { exclusion, opens } => {
                write!(f, "exclusion {exclusion} is on")?;
                match opens {
                    Some(opens) => write!(f, ", the next window opens {}", instant(*opens)),
                    None => f.write_str(", and no window opens after it: add one to go on"),
                }
            }
            Self::NoWindowFound => f.write_str(
                "outside the maintenance windows, and exclusions leave none open: change windows or exclusions to go on",
            ),
            Self::WontFitInWindow {
                needs_seconds,
                samples,
                from,
                closes,
                exclusion,
                opens,
            } => {
                let needs = needs(*needs_seconds, *samples);
                let end = match (exclusion, from) {
                    (Some(name), _) => format!("exclusion {name} begins"),
                    (None, Some(from)) => format!("the window that opens {} closes", instant(*from)),
                    (None, None) => "the window closes".to_owned(),
                };
                write!(f, "{needs}, but {end} {}", instant(*closes))?;
                match opens {
                    Some(opens) => write!(f, "; the next that is long enough opens {}", instant(*opens)),
                    None => f.write_str(", and none opens again: add one to go on"),
                }
            }
            Self::WindowTooShort {
                needs_seconds,
                samples,
                window_seconds,
                opens,
                exclusion,
            } => {
                let until = exclusion
                    .as_ref()
                    .map_or_else(String::new, |name| format!(", until exclusion {name} begins"));
                let (needs, open) = (needs(*needs_seconds, *samples), span(*window_seconds));
                let way_out = if *samples == 0 {
                    "lower expectedNodeDuration"
                } else {
                    "edit expectedNodeDuration, which then counts again"
                };
                write!(
                    f,
                    "{needs}, but the longest window to come, which opens {}, is open for {open}{until}: lengthen it, or {way_out}",
                    instant(*opens)
                )
            }
            Self::Staging { version } => {
                write!(f, "downloads {version} ahead of its turn, and waits for others")
            }
            Self::BudgetSpent {
                unavailable,
                max,
                limit,
                by,
            } => {
                let more = (*unavailable as usize).saturating_sub(by.len());
                let more = if more > 0 {
                    format!(" and {more} more")
                } else {
                    String::new()
                };
                let by = match by.join(", ") {
                    none if none.is_empty() => "other plans".to_owned(),
                    by => by + &more,
                };
                write!(f, "maxUnavailable of the {limit} is {max}, spent by {by}")
            }
            Self::DomainBusy { key, max, busy, .. } => {
                write!(f, "at most {max} {key} at a time: {}", busy.join(", "))
            }
            Self::DrainBlocked {
                pod,
                budget: Some(budget),
                ..
            } => write!(f, "PodDisruptionBudget {budget} forbids the eviction of pod {pod}"),
            Self::DrainBlocked {
                pod,
                budget: None,
                message,
            } => write!(f, "pod {pod} cannot be evicted: {message}"),
        }
    }
}
