//! A timeline, and a status, as text.

use std::{collections::BTreeMap, fmt::Write as _};

use api::{
    plan::{NodeCounts, NodeDuration, UpdatePlanStatus},
    verdict::{Verdict, instant},
};
use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::timeline::{Attempt, Moment, Step, What};

/// The steps of one attempt, each with its time.
type Steps<'a> = Vec<(DateTime<Utc>, &'a Step)>;

/// A timeline with the times of a zone, a line for each thing that happened. The steps of an attempt are in one line, where
/// it was granted; nodes to which the same happens at once are in one line, too.
#[must_use]
pub fn timeline_text(timeline: &[Moment], zone: Tz) -> String {
    let mut steps: BTreeMap<(&str, &Attempt), Steps<'_>> = BTreeMap::new();
    for moment in timeline {
        if let What::Step { node, attempt, step } = &moment.what {
            steps.entry((node, attempt)).or_default().push((moment.at, step));
        }
    }
    let mut lines: Vec<Line<'_>> = Vec::new();
    let mut shown = BTreeMap::new();
    for Moment { at, what } in timeline {
        let (node, text) = match what {
            What::Step { node, attempt, .. } => match steps.remove(&(node.as_str(), attempt)) {
                Some(steps) => (Some(node.as_str()), attempt_text(attempt, &steps, zone)),
                None => continue,
            },
            What::Waits { node, plan, verdict } => {
                let text = format!("({plan}) {}: {verdict}", verdict.reason());
                (Some(node.as_str()), text)
            }
            What::Done { node, done } => (Some(node.as_str()), (*done).to_owned()),
            What::Happened {
                node: Some(node),
                text,
            } => (Some(node.as_str()), text.clone()),
            other => (None, line(other, &mut shown)),
        };
        // The same may happen to other nodes at the same instant.
        let happened = matches!(what, What::Happened { .. });
        let same =
            |line: &&mut Line<'_>| line.happened == happened && !line.nodes.is_empty() && line.text == text;
        match (
            node,
            lines
                .iter_mut()
                .rev()
                .take_while(|line| line.at == *at)
                .find(same),
        ) {
            (Some(node), Some(line)) => line.nodes.push(node),
            (node, _) => lines.push(Line {
                at: *at,
                happened,
                nodes: node.into_iter().collect(),
                text,
            }),
        }
    }
    let mut text = String::new();
    let mut day = String::new();
    for line in &lines {
        let today = line.at.with_timezone(&zone).format("%a %Y-%m-%d").to_string();
        if today != day {
            let _ = writeln!(text, "-- {today}");
            day = today;
        }
        let time = clock(line.at, zone);
        let star = if line.happened { "* " } else { "" };
        let nodes = match line.nodes.as_slice() {
            [] => String::new(),
            nodes if line.happened => format!("{}: ", nodes.join(" ")),
            nodes => format!("{} ", nodes.join(" ")),
        };
        let _ = writeln!(text, "{time} {star}{nodes}{}", line.text);
    }
    text
}

struct Line<'a> {
    at: DateTime<Utc>,
    /// Whether it came from outside.
    happened: bool,
    /// The nodes it speaks of, where it does.
    nodes: Vec<&'a str>,
    text: String,
}

fn clock(at: DateTime<Utc>, zone: Tz) -> String {
    at.with_timezone(&zone).format("%H:%M:%S").to_string()
}

/// The same in a line that begins at `first`: with the day, where that is another one.
fn later(at: DateTime<Utc>, first: DateTime<Utc>, zone: Tz) -> String {
    let (there, first) = (at.with_timezone(&zone), first.with_timezone(&zone));
    let days = there.date_naive() - first.date_naive();
    let format = match days.num_days() {
        0 => "%H:%M:%S",
        1..7 => "%a %H:%M:%S",
        _ => "%F %H:%M:%S",
    };
    there.format(format).to_string()
}

/// `shown` has the status that was shown last of each plan.
fn line<'a>(what: &'a What, shown: &mut BTreeMap<&'a str, &'a UpdatePlanStatus>) -> String {
    match what {
        What::Happened { text, .. } => text.clone(),
        What::Phase { plan, phase, message } => format!("{plan} is {phase:?}: {message}"),
        What::Event { plan, note } => format!("{plan}: {note}"),
        What::Status {
            plan,
            status,
            verdicts,
        } => {
            let mut text = format!("= {plan} {}", brief(status));
            if let Some(news) = news(shown.insert(plan, status), status) {
                let _ = write!(text, "\n    {news}");
            }
            for (verdict, nodes) in by_verdict(verdicts) {
                let _ = write!(text, "\n    {}: {}: {verdict}", nodes.join(" "), verdict.reason());
            }
            text
        }
        What::Step { .. } | What::Waits { .. } | What::Done { .. } => String::new(),
    }
}

/// The parts of a status that do not repeat each other.
fn brief(status: &UpdatePlanStatus) -> String {
    let NodeCounts {
        matched,
        updated,
        updating,
        waiting,
        skipped,
        failed,
        unavailable,
    } = status.nodes;
    let max = status
        .max_unavailable
        .map_or_else(String::new, |max| format!(" of at most {max}"));
    let phase = status
        .phase
        .map_or_else(String::new, |phase| format!("{phase:?}: "));
    let mut lines = vec![
        format!("{phase}{}", status.message.as_deref().unwrap_or_default()),
        format!(
            "of {matched} nodes {updated} updated, {updating} updating, {waiting} waiting, {skipped} skipped, {failed} failed; \
             {unavailable}{max} unavailable"
        ),
    ];
    let waves = status.waves.iter().map(|wave| {
        let since = wave
            .started_at
            .map(|at| format!(" since {}", instant(at)))
            .unwrap_or_default();
        let soak = wave
            .soak_until
            .map(|at| format!(" until {}", instant(at)))
            .unwrap_or_default();
        let approved = wave
            .approved_at
            .map(|at| format!(" approved {}", instant(at)))
            .unwrap_or_default();
        format!(
            "{} {:?}{soak}{approved} {}/{}{since}",
            wave.name, wave.phase, wave.updated, wave.nodes
        )
    });
    let waves: Vec<String> = waves.collect();
    if waves.len() > 1 {
        lines.push(format!("waves: {}", waves.join(", ")));
    }
    if let Some(window) = &status.window {
        let name = window.name.as_deref().unwrap_or("-");
        let exclusion = window.exclusion.as_ref();
        let exclusion = exclusion.map_or_else(String::new, |name| format!(" (exclusion {name})"));
        lines.push(format!("window {name}: {}{exclusion}", window.next));
    }
    lines.extend(actions(status));
    let conditions = status
        .conditions
        .iter()
        .map(|condition| format!("{}={} {}", condition.type_, condition.status, condition.reason));
    lines.push(conditions.collect::<Vec<_>>().join(", "));
    lines.join("\n    ")
}

/// What a status says of the run's end, of the pace and of the runs before, where the one that was shown before did not.
fn news(before: Option<&UpdatePlanStatus>, status: &UpdatePlanStatus) -> Option<String> {
    let nothing = UpdatePlanStatus::default();
    let before = before.unwrap_or(&nothing);
    let end = (status.estimated_completion != before.estimated_completion).then(|| {
        status.estimated_completion.map_or_else(
            || "no end is estimated".to_owned(),
            |at| format!("the end is estimated {}", instant(at)),
        )
    });
    let pace = (status.node_duration != before.node_duration).then(|| {
        status.node_duration.map_or_else(
            || "how long nodes take is forgotten".to_owned(),
            |NodeDuration { p50, p90, samples }| format!("nodes take {p50}, p90 {p90}, of {samples}"),
        )
    });
    let past = status.history.iter();
    let past = past.take_while(|run| !before.history.contains(run)).map(|run| {
        format!(
            "run {} to {} was {} until {} with {} of {} nodes updated",
            run.id,
            run.target,
            run.outcome,
            instant(run.ended_at),
            run.nodes.updated,
            run.nodes.matched
        )
    });
    let news: Vec<String> = end.into_iter().chain(pace).chain(past).collect();
    (!news.is_empty()).then(|| news.join("; "))
}

fn actions(status: &UpdatePlanStatus) -> impl Iterator<Item = String> {
    let actions = status.actions.iter();
    actions.map(|action| {
        let said = action.said.as_ref().map(|said| format!(" ({said})"));
        format!(
            "{} {}: {}{}",
            action.action,
            action.value,
            action.message,
            said.unwrap_or_default()
        )
    })
}

fn by_verdict(verdicts: &[(String, Verdict)]) -> Vec<(&Verdict, Vec<&str>)> {
    let mut groups: Vec<(&Verdict, Vec<&str>)> = Vec::new();
    for (node, verdict) in verdicts {
        match groups.iter_mut().find(|(known, _)| *known == verdict) {
            Some((_, nodes)) => nodes.push(node),
            None => groups.push((verdict, vec![node])),
        }
    }
    groups
}

fn attempt_text(attempt: &Attempt, steps: &[(DateTime<Utc>, &Step)], zone: Tz) -> String {
    let mut text = format!("({}/{} #{})", attempt.plan, attempt.wave, attempt.number);
    let Some(first) = steps.first().map(|(at, _)| *at) else {
        return text;
    };
    let mut last = first;
    for (i, (at, step)) in steps.iter().enumerate() {
        text += if i == 0 { " " } else { ", " };
        if last != *at {
            last = *at;
            text += &format!("{} ", later(*at, first, zone));
        }
        text += &match step {
            Step::Granted { not_after: None } => "granted".to_owned(),
            Step::Granted {
                not_after: Some(close),
            } => format!("granted until {}", later(*close, first, zone)),
            Step::Cordoned => "cordoned".to_owned(),
            Step::Drained => "drained".to_owned(),
            Step::Reboots => "reboots".to_owned(),
            Step::Back => "back".to_owned(),
            Step::Uncordoned => "uncordoned".to_owned(),
            Step::Failed { reason, message } if reason.leaves_alone() => {
                format!("LEFT ALONE {reason} ({message})")
            }
            Step::Failed { reason, message } => format!("FAILED {reason} ({message})"),
            Step::Withdrawn { message } => format!("WITHDRAWN ({message})"),
            Step::Updated => "updated".to_owned(),
            Step::Released => "released".to_owned(),
            Step::Gone => "gone".to_owned(),
            Step::Rebuilt { phase } => format!("rebuilt as {phase}"),
        };
    }
    text
}

/// A plan's status as a person reads it.
#[must_use]
pub fn status_text(status: &UpdatePlanStatus) -> String {
    let phase = status
        .phase
        .map_or_else(|| "None".to_owned(), |phase| format!("{phase:?}"));
    let mut lines = vec![
        format!("{phase}: {}", status.message.as_deref().unwrap_or_default()),
        format!(
            "wave {}, progress {}, max unavailable {:?}",
            status.wave.as_deref().unwrap_or("-"),
            status.progress.as_deref().unwrap_or("-"),
            status.max_unavailable.unwrap_or_default()
        ),
        format!("{:?}", status.nodes),
    ];
    if let Some(window) = &status.window {
        let name = window.name.as_deref().unwrap_or("-");
        lines.push(format!("window {name}: open {}, {}", window.open, window.next));
    }
    for wave in &status.waves {
        let since = wave
            .started_at
            .map(|at| format!(", since {}", instant(at)))
            .unwrap_or_default();
        let soak = wave
            .soak_until
            .map(|at| format!(", soaks until {}", instant(at)))
            .unwrap_or_default();
        let approved = wave
            .approved_at
            .map(|at| format!(", approved {}", instant(at)))
            .unwrap_or_default();
        lines.push(format!(
            "  wave {} {:?}: {} nodes, {} updated, {} updating, {} skipped, {} failed{since}{soak}{approved}",
            wave.name, wave.phase, wave.nodes, wave.updated, wave.updating, wave.skipped, wave.failed
        ));
    }
    for node in &status.active {
        lines.push(format!(
            "  active {} ({}): {}, since {}{}",
            node.node,
            node.wave,
            node.doing,
            instant(node.since),
            node.reason
                .as_ref()
                .map_or_else(String::new, |reason| format!(": {reason}"))
        ));
    }
    for group in &status.waiting {
        lines.push(format!(
            "  waiting {} x{} ({}): {}",
            group.reason,
            group.count,
            group.nodes.join(", "),
            group.message
        ));
    }
    for group in &status.skipped {
        lines.push(format!(
            "  skipped {} x{} ({}): {}",
            group.reason,
            group.count,
            group.nodes.join(", "),
            group.message
        ));
    }
    lines.extend(actions(status).map(|action| format!("  {action}")));
    for node in &status.failed {
        lines.push(format!(
            "  failed {} after {} ({}): {}",
            node.node, node.attempts, node.reason, node.message
        ));
    }
    for condition in &status.conditions {
        lines.push(format!(
            "  {}={} {}: {}",
            condition.type_, condition.status, condition.reason, condition.message
        ));
    }
    lines.join("\n")
}
