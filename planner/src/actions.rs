//! What people ask of a run by annotations of its plan: to approve a wave, to retry, to run now.
//!
//! What is asked is done once, with the write of the ledger that records it; what cannot be done is told in the status
//! for as long as the annotation says it.

use std::collections::{BTreeMap, HashSet};

use api::{
    ledger::{Actions, PlanEntry},
    names::{APPROVE_ANNOTATION, REASON_ANNOTATION, RETRY_ANNOTATION, RUN_NOW_ANNOTATION},
    plan::{ActionStatus, Approval},
    text::one_line,
    verdict::instant,
};
use chrono::{DateTime, Utc};

use crate::{owners::Owned, plan::Planning, spec::ValidPlan, world::PlanFacts};

/// Entries of one annotation that are looked at.
const LOOKED_AT: usize = 50;
/// The longest entry, and the longest that is shown.
const LONGEST: usize = 128;
/// The longest token of a retry.
const LONGEST_TOKEN: usize = 63;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Approve,
    Retry,
    RunNow,
}

impl Verb {
    /// In the order in which they are looked at.
    const ALL: [Self; 3] = [Self::Approve, Self::Retry, Self::RunNow];

    const fn annotation(self) -> &'static str {
        match self {
            Self::Approve => APPROVE_ANNOTATION,
            Self::Retry => RETRY_ANNOTATION,
            Self::RunNow => RUN_NOW_ANNOTATION,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Retry => "retry",
            Self::RunNow => "run-now",
        }
    }

    /// What an entry must look like.
    const fn form(self) -> &'static str {
        match self {
            Self::Approve => "RUN/WAVE",
            Self::Retry => "RUN/TOKEN",
            Self::RunNow => "RUN",
        }
    }
}

/// One entry of an annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked<'a> {
    verb: Verb,
    /// `RUN/WAVE`, `RUN/TOKEN` or `RUN`.
    value: &'a str,
}

impl<'a> Asked<'a> {
    /// How the ledger remembers it.
    fn record(&self) -> String {
        format!("{} {}", self.verb.word(), self.value)
    }

    /// The run that it is for, and the wave or token; None where it has another form.
    fn parts(&self) -> Option<(&'a str, &'a str)> {
        match self.verb {
            Verb::RunNow => (!self.value.contains('/')).then_some((self.value, "")),
            Verb::Approve | Verb::Retry => self
                .value
                .split_once('/')
                .filter(|(run, argument)| !run.is_empty() && !argument.is_empty()),
        }
    }
}

/// Every entry of a plan's annotations.
fn asked(annotations: &BTreeMap<String, String>) -> impl Iterator<Item = Asked<'_>> {
    Verb::ALL.into_iter().flat_map(|verb| {
        let values = annotations.get(verb.annotation()).map_or("", String::as_str);
        values
            .split(',')
            .map(str::trim)
            .filter(|value| !value.is_empty())
            .take(LOOKED_AT)
            .map(move |value| Asked { verb, value })
    })
}

/// Does what is asked and was not done yet, and records it.
pub(crate) fn take(planning: &mut Planning<'_>, owned: &Owned<'_>) {
    let facts = owned.facts;
    let Some(mut entry) = planning.ledger.plans.get(&facts.uid).cloned() else {
        return;
    };
    let now = planning.now;
    for asked in asked(&facts.annotations) {
        if entry.actions.taken.contains(&asked.record()) || refusal(asked, owned, &entry).is_some() {
            continue;
        }
        let (_, argument) = asked.parts().unwrap_or_default();
        let (reason, note) = match asked.verb {
            Verb::Approve => {
                entry.actions.approved.entry(argument.to_owned()).or_insert(now);
                (
                    "WaveApproved",
                    format!("wave {argument} of run {} is approved", entry.run),
                )
            }
            Verb::Retry => {
                entry.actions.retried_at = Some(now);
                entry.halted = false;
                entry.failed.clear();
                entry.owes_proof = None;
                let note = format!(
                    "run {} is retried: what has failed so far no longer counts",
                    entry.run
                );
                ("RunRetried", note)
            }
            Verb::RunNow => {
                entry.actions.run_now.get_or_insert(now);
                let note = format!(
                    "run {} ignores its maintenance windows until it is complete",
                    entry.run
                );
                ("RunNow", note)
            }
        };
        let said = facts
            .annotations
            .get(REASON_ANNOTATION)
            .map_or("", |said| said.trim());
        let note = if said.is_empty() {
            note
        } else {
            let said = one_line(said, LONGEST);
            let note = format!("{note}: {said}");
            entry.actions.said.insert(asked.record(), said);
            note
        };
        planning.event(&facts.name, None, reason, note, false);
        entry.actions.taken.push(asked.record());
    }
    forget(&mut entry, &facts.annotations);
    planning.ledger.plans.insert(facts.uid.clone(), entry);
}

/// A token counts once in a run, also where the annotation was taken away and put back. Everything else is remembered as
/// long as the annotation says it, so that it is not taken for a mistake when the run is over.
fn forget(entry: &mut PlanEntry, annotations: &BTreeMap<String, String>) {
    let said: HashSet<String> = asked(annotations).map(|asked| asked.record()).collect();
    let token = format!("{} {}/", Verb::Retry.word(), entry.run);
    let taken = &mut entry.actions.taken;
    taken.retain(|record| said.contains(record) || record.starts_with(&token));
    let most = Verb::ALL.len() * LOOKED_AT;
    let surplus = taken.len().saturating_sub(most);
    taken.drain(..surplus);
    let Actions { taken, said, .. } = &mut entry.actions;
    said.retain(|record, _| taken.contains(record));
}

/// Why what is asked is not done; None where it is to be.
fn refusal(asked: Asked<'_>, owned: &Owned<'_>, entry: &PlanEntry) -> Option<String> {
    let Some((run, argument)) = asked.parts().filter(|_| asked.value.len() <= LONGEST) else {
        return Some(format!(
            "it must be {}, such as {}",
            asked.verb.form(),
            example(asked.verb, owned, entry)
        ));
    };
    if run != entry.run {
        return Some(format!("it is for run {run}, and this is run {}", entry.run));
    }
    let valid = match &owned.valid {
        Ok(valid) if !owned.facts.deleting => valid,
        Ok(_) => return Some("the plan is being deleted".to_owned()),
        Err(_) => return Some("the plan is invalid".to_owned()),
    };
    match asked.verb {
        Verb::Approve => no_approval(valid, argument),
        Verb::Retry => (argument.len() > LONGEST_TOKEN)
            .then(|| format!("the token must have at most {LONGEST_TOKEN} characters")),
        Verb::RunNow if is_complete(owned.facts, entry) => Some("the run is complete".to_owned()),
        Verb::RunNow if !valid.windows.are_any() => {
            Some("the plan has no maintenance windows to ignore".to_owned())
        }
        Verb::RunNow => None,
    }
}

fn no_approval(valid: &ValidPlan, name: &str) -> Option<String> {
    match valid.waves.iter().find(|wave| wave.name == name) {
        Some(wave) if wave.approval == Approval::Manual => None,
        Some(_) => Some(format!("wave {name} needs no approval")),
        None => {
            let waves: Vec<&str> = valid.waves.iter().map(|wave| wave.name.as_str()).collect();
            Some(format!("there is no wave {name}, only {}", waves.join(", ")))
        }
    }
}

fn example(verb: Verb, owned: &Owned<'_>, entry: &PlanEntry) -> String {
    let waves = owned
        .valid
        .as_ref()
        .map_or(&[][..], |valid| valid.waves.as_slice());
    match verb {
        Verb::Approve => format!(
            "{}/{}",
            entry.run,
            waves.first().map_or("canary", |wave| &wave.name)
        ),
        Verb::Retry => format!("{}/again", entry.run),
        Verb::RunNow => entry.run.clone(),
    }
}

/// Whether the run was complete before: that is in the status, and stays there.
pub(crate) fn is_complete(facts: &PlanFacts, entry: &PlanEntry) -> bool {
    let run = facts.status.run.as_ref().filter(|run| run.id == entry.run);
    run.is_some_and(|run| run.completed_at.is_some())
}

/// What a person can do about a run in which too many nodes have failed.
pub(crate) fn how_to_go_on(run: &str) -> String {
    format!("retry it (annotate {RETRY_ANNOTATION}={run}/TOKEN) or set a new targetVersion to go on")
}

/// What became of everything that the annotations say, for the status.
pub(crate) fn statuses(owned: &Owned<'_>, entry: Option<&PlanEntry>) -> Vec<ActionStatus> {
    let status = |asked: Asked<'_>| {
        let taken = entry.is_some_and(|entry| entry.actions.taken.contains(&asked.record()));
        let message = if taken {
            let complete = entry.is_some_and(|entry| is_complete(owned.facts, entry));
            effect(asked, entry, complete)
        } else {
            let none = || Some("there is no run yet".to_owned());
            let why = entry.map_or_else(none, |entry| refusal(asked, owned, entry));
            format!("ignored: {}", why.unwrap_or_default())
        };
        ActionStatus {
            action: asked.verb.word().to_owned(),
            value: one_line(asked.value, LONGEST),
            taken,
            said: entry.and_then(|entry| entry.actions.said.get(&asked.record()).cloned()),
            message: one_line(&message, 2 * LONGEST),
        }
    };
    asked(&owned.facts.annotations).map(status).collect()
}

/// What an action that was taken does now.
fn effect(asked: Asked<'_>, entry: Option<&PlanEntry>, complete: bool) -> String {
    let (run, argument) = asked.parts().unwrap_or_default();
    let Some(entry) = entry.filter(|entry| entry.run == run) else {
        return format!("taken in run {run}");
    };
    let Actions {
        approved, run_now, ..
    } = &entry.actions;
    let when = |word: &str, at: Option<&DateTime<Utc>>| {
        at.map_or_else(String::new, |at| format!(" {word} {}", instant(*at)))
    };
    match asked.verb {
        Verb::Approve => format!("approved{}", when("at", approved.get(argument))),
        Verb::Retry => "retried".to_owned(),
        Verb::RunNow if complete => "ignored the maintenance windows until the run was complete".to_owned(),
        Verb::RunNow => format!(
            "ignores the maintenance windows{}",
            when("since", run_now.as_ref())
        ),
    }
}
