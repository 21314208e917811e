//! S10: a wave starts only when those before are done, have updated something, and have soaked.

use std::collections::BTreeMap;

use api::UpdatePlan;
use api::ledger::{PlanEntry, UpdateLedgerSpec};
use api::plan::{Approval, Wave};

use super::changes::LedgerChange;
use super::offers::{Wanted, is_left_alone};
use super::runs::{Run, RunKey};
use super::skips::may_be_skipped;
use super::{Check, LAG, Moment, Promise, Report, selectors};

#[derive(Default)]
pub(super) struct Order {
    /// The last wave that each run has started, by its place.
    started: BTreeMap<RunKey, usize>,
}

impl Check for Order {
    fn ledger(&mut self, now: &Moment<'_>, change: &LedgerChange, report: &mut Report) {
        let Some(ledger) = &change.after else {
            return;
        };
        for (uid, entry) in &ledger.plans {
            if let Some(plan) = now.case.plan(uid, entry.generation) {
                self.start(now, ledger, plan, entry, entry.open_wave as usize, report);
            }
        }
        for (uid, grant) in &change.made {
            let run = now.tracks.run(&grant.plan, &grant.run);
            if let Some(before) = run.wave_of(uid)
                && before != grant.wave
            {
                let message = format!(
                    "node {} went from wave {before} to wave {}",
                    grant.node, grant.wave
                );
                report.add(Promise::S10, now.at, message);
            }
            if let Some(plan) = now.case.plan_of(grant)
                && let Some(place) = plan.spec.waves.iter().position(|wave| wave.name == grant.wave)
                && let Some(entry) = ledger
                    .plans
                    .get(&grant.plan)
                    .filter(|entry| entry.run == grant.run)
            {
                self.start(now, ledger, plan, entry, place, report);
            }
        }
    }
}

impl Order {
    /// A wave starts with the ledger's word for it, or with its first grant.
    fn start(
        &mut self,
        now: &Moment<'_>,
        ledger: &UpdateLedgerSpec,
        plan: &UpdatePlan,
        entry: &PlanEntry,
        place: usize,
        report: &mut Report,
    ) {
        let uid = plan.metadata.uid.clone().unwrap_or_default();
        let started = self.started.entry((uid.clone(), entry.run.clone())).or_default();
        if place <= *started {
            return;
        }
        let run = now.tracks.run(&uid, &entry.run);
        for earlier in plan.spec.waves.iter().take(place).skip(*started) {
            if let Some(message) = unfinished(now, ledger, plan, entry, earlier, run) {
                let begun = plan.spec.waves.get(place).map_or("", |wave| wave.name.as_str());
                report.add(Promise::S10, now.at, format!("wave {begun} began, but {message}"));
            }
        }
        *started = place;
    }
}

/// Why the wave is not done; none where it is.
fn unfinished(
    now: &Moment<'_>,
    ledger: &UpdateLedgerSpec,
    plan: &UpdatePlan,
    entry: &PlanEntry,
    wave: &Wave,
    run: &Run,
) -> Option<String> {
    let name = &wave.name;
    let members = run.members.get(name).cloned().unwrap_or_default();
    let behind = |node: &str| Wanted::of(entry).is_missing(plan, now.case.machines.of(node), now.at);
    let given_up = |node: &str, uid: &str| {
        run.given_up(uid, plan.spec.failure_policy.retries, now.lies(node))
            || is_left_alone(now, run, uid, node, Wanted::of(entry))
    };
    let live = |(uid, node): &(&String, &String)| now.state.is_live(node, uid);

    for (uid, node) in members.iter().filter(live) {
        if ledger.grants.contains_key(uid) {
            return Some(format!("node {node} of wave {name} is being updated"));
        }
        let left_alone =
            now.tracks.may_have_opted_out(node, now.at) || may_be_skipped(now, plan, &entry.run, node);
        if behind(node) && !given_up(node, uid) && !left_alone {
            return Some(format!("node {node} of wave {name} is not done"));
        }
    }
    let places = match entry.wave_sizes.get(name) {
        Some(size) => (*size as usize).saturating_sub(members.len()),
        None if wave.size.is_none() => usize::MAX,
        None => 0,
    };
    if places > 0
        && let Some(node) = passed_over(now, plan, wave, (&entry.run, run), &behind)
    {
        return Some(format!("node {node} of wave {name} was passed over"));
    }
    if wave.approval == Approval::Manual
        && let Some(uid) = plan.metadata.uid.as_deref()
        && !now.tracks.asked().approves(uid, &entry.run, name)
    {
        return Some(format!("nobody has approved wave {name} of run {}", entry.run));
    }
    // What nodes that are gone were to prove, only others of the wave, or a retry, make up for.
    let proven = run.updated.contains_key(name) || run.retried_at.is_some();
    if !members.is_empty() && !members.iter().any(|member| live(&member)) && !proven {
        let mut others = now.tracks.matched(now.case, plan, now.state);
        others.retain(|uid, node| live(&(uid, node)));
        if !others.values().any(|node| is_of(now, wave, node)) && others.values().any(|node| behind(node)) {
            return Some(format!("the nodes that wave {name} began with are gone unproven"));
        }
    }
    // One that has opted out after all does not need the update.
    let needs = |(_, node): &(&String, &String)| !now.tracks.may_have_opted_out(node, now.at);
    let mut left = members.iter().filter(live).filter(needs).peekable();
    left.peek()?;
    if !run.updated.contains_key(name) && left.all(|(_, node)| behind(node)) {
        return Some(format!("no node of wave {name} got the update"));
    }
    let last = *run.finished.get(name)?;
    let soaked = now.at - last;
    (soaked < wave.soak.delta() - LAG).then(|| {
        format!(
            "wave {name} has soaked for {} s of its {}",
            soaked.num_seconds(),
            wave.soak
        )
    })
}

/// A node that needs the update and would have been taken by a wave with places left. Which ones a wave will take is not
/// known before they are granted; and who came after its last node came too late.
fn passed_over(
    now: &Moment<'_>,
    plan: &UpdatePlan,
    wave: &Wave,
    (id, run): (&str, &Run),
    behind: &dyn Fn(&str) -> bool,
) -> Option<String> {
    let last = run.finished.get(&wave.name).copied().unwrap_or(now.at);
    let matched = now.tracks.matched(now.case, plan, now.state).into_iter();
    let mut waiting = matched.filter(|(uid, node)| {
        let is_live = now.state.is_live(node, uid);
        let known = now.tracks.known_labels(node, now.at) && now.tracks.was_there(node, last);
        let out = now.tracks.may_have_opted_out(node, now.at) || may_be_skipped(now, plan, id, node);
        let free = run.wave_of(uid).is_none() && !run.failed.contains_key(uid) && !out;
        is_live && is_of(now, wave, node) && known && free && behind(node)
    });
    waiting.next().map(|(_, node)| node)
}

/// Whether the wave's selector takes the node.
fn is_of(now: &Moment<'_>, wave: &Wave, node: &str) -> bool {
    let object = now.state.nodes.get(node);
    let labels = object.and_then(|object| object.metadata.labels.clone());
    let selector = wave.node_selector.as_ref();
    selector.is_none_or(|selector| selectors::selects(selector, &labels.unwrap_or_default()))
}
