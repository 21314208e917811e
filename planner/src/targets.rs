//! Which version a node is to run, and whether it can have it.
//!
//! An exact target is the plan's own. With `latest` every variant and architecture has a target of its own: the newest version
//! that is on offer to the plan's nodes of that kind, and has been for `minReleaseAge`, when the run first sees one. The ledger
//! keeps it for the run. Once the run is complete, a newer one that a node needs begins the next, and so does an older one where
//! that of the run has been taken back.

use std::{borrow::Cow, cmp::Reverse, collections::BTreeMap};

use api::{
    ledger::PlanEntry,
    offer::{MAX_TARGETS, Target},
    plan::LATEST,
    shadow::{BottlerocketShadowStatus, FailureReason},
    verdict::Verdict,
};
use chrono::{DateTime, TimeDelta, Utc};
use semver::Version;

use crate::{
    failures, machine,
    owners::Owned,
    plan::Planning,
    running::{Running, running},
    spec::ValidPlan,
    waves::Place,
    world::NodeFacts,
};

/// Variant and architecture.
type Kind<'a> = (&'a str, &'a str);

/// The version that the node is to run, where that is known.
pub(crate) fn of<'a>(valid: &'a ValidPlan, targets: &[Target], node: &NodeFacts) -> Option<Cow<'a, str>> {
    if valid.target != LATEST {
        return Some(Cow::Borrowed(&valid.target));
    }
    frozen(targets, kind(node)?).map(|target| Cow::Owned(target.version.clone()))
}

/// Where a node without a grant is that runs this version.
pub(crate) fn place(
    node: &NodeFacts,
    running: Option<&Version>,
    wanted: Option<&Version>,
    valid: &ValidPlan,
    left_alone: bool,
) -> Place {
    match (running, wanted) {
        (Some(running), Some(wanted)) if running == wanted => Place::Updated,
        (Some(running), Some(wanted)) if running > wanted && !valid.allow_downgrade => Place::Skipped,
        (_, Some(_)) if left_alone => Place::Skipped,
        // What is newer is not on offer; so there is nothing to wait for.
        (Some(running), None) if newest_to(node).is_some_and(|newest| newest <= *running) => Place::Updated,
        _ => Place::Waiting,
    }
}

/// Why a node is left alone though it does not run the target: its last attempt in this run has shown that it cannot have it.
/// A version that was not offered may be later: that is over once a refresh of the node's own finds it. An image that cannot be
/// updated in place stays so until somebody asks for a retry.
pub(crate) fn left_alone(
    node: &NodeFacts,
    run: &str,
    retried_at: Option<DateTime<Utc>>,
    target: Option<&str>,
) -> Option<Verdict> {
    let shadow = node.shadow.as_ref()?;
    let failure = machine::failure_in_run(&shadow.spec, run, retried_at)?;
    let message = failure.message.clone();
    if failure.reason == FailureReason::Unsupported {
        return Some(Verdict::Unsupported { message });
    }
    let offered = status(node).map_or(&[][..], |status| status.offered.as_slice());
    if offered.iter().any(|offer| Some(offer.version.as_str()) == target) {
        return None;
    }
    match failure.reason {
        FailureReason::VersionNotOffered => Some(Verdict::VersionNotOffered { message }),
        _ => None,
    }
}

/// Why it is not known yet which version a node is to run.
pub(crate) fn unknown(now: DateTime<Utc>, node: &NodeFacts, valid: &ValidPlan) -> Verdict {
    let Some((variant, arch)) = kind(node) else {
        return Verdict::AgentOutdated;
    };
    let young = status(node).and_then(|status| {
        // The run does not wait for the newest: it takes the first that is old enough.
        let young = status.offered.iter().filter_map(|offer| {
            let version = Version::parse(&offer.version).ok()?;
            Some((offer.since + valid.min_release_age, Reverse(version)))
        });
        young.filter(|(until, _)| *until > now).min()
    });
    match young {
        Some((until, Reverse(version))) => Verdict::ReleaseTooYoung {
            version: version.to_string(),
            until,
        },
        None => Verdict::NothingOffered {
            variant: variant.to_owned(),
            arch: arch.to_owned(),
        },
    }
}

/// Fixes the target of each kind of node that has none yet.
pub(crate) fn freeze(
    planning: &mut Planning<'_>,
    owned: &Owned<'_>,
    valid: &ValidPlan,
    entry: &mut PlanEntry,
) {
    if valid.target != LATEST {
        return;
    }
    for (kind, offers) in on_offer(&owned.nodes) {
        if frozen(&entry.targets, kind).is_some() || entry.targets.len() >= MAX_TARGETS {
            continue;
        }
        let (newest, matures) = newest(&offers, valid.min_release_age, planning.now);
        if let Some(at) = matures {
            planning.wake(at);
        }
        let Some(version) = newest else { continue };
        let (variant, arch) = kind;
        let note = format!("the newest version for {variant}, {arch} is {version}");
        planning.event(&owned.facts.name, None, "TargetChosen", note, false);
        entry.targets.push(Target {
            variant: variant.to_owned(),
            arch: arch.to_owned(),
            version: version.to_string(),
        });
    }
    entry.targets.sort();
}

/// Whether the run of this entry is complete, and a version is on offer by now that one of the plan's nodes needs: a newer
/// one, or another one where the run's own is on offer to nobody any more. So it is where a run has no end, as each node that needs its
/// version has found that it is not offered. A paused or halted plan waits for people instead.
pub(crate) fn is_superseded(planning: &mut Planning<'_>, owned: &Owned<'_>, entry: &PlanEntry) -> bool {
    let Some(valid) = owned.valid.as_ref().ok().filter(|valid| valid.target == LATEST) else {
        return false;
    };
    let facts = owned.facts;
    let complete = facts
        .status
        .run
        .as_ref()
        .is_some_and(|run| run.id == entry.run && run.completed_at.is_some());
    let granted = planning
        .ledger
        .grants
        .values()
        .any(|grant| grant.plan == facts.uid);
    if granted || facts.deleting || valid.paused || entry.halted || planning.ledger.stop {
        return false;
    }
    let mut superseded = false;
    for (kind, offers) in on_offer(&owned.nodes) {
        let (newest, matures) = newest(&offers, valid.min_release_age, planning.now);
        if let Some(at) = matures {
            planning.wake(at);
        }
        let Some(newest) = newest else { continue };
        let known = frozen(&entry.targets, kind).and_then(|target| Version::parse(&target.version).ok());
        let runs_less = |node: &NodeFacts, version: &Version| matches!(running(node), Running::Version(runs) if Version::parse(runs).is_ok_and(|runs| runs < *version));
        let needs = |node: &&NodeFacts, version: &Version| {
            self::kind(node) == Some(kind) && node.opt_out.is_none() && runs_less(node, version)
        };
        let gone = |known: &Version| !offers.contains_key(known);
        let over = match &known {
            _ if complete => known.as_ref().is_none_or(|known| *known < newest || gone(known)),
            // That a node does not see it is no proof, as the repository has waves of its own: each has tried.
            Some(known) => {
                gone(known)
                    && nobody_can_have(owned, entry, kind, |node| needs(node, known))
                    && has_no_end(owned, entry, valid)
            }
            None => false,
        };
        superseded |= over && owned.nodes.iter().any(|node| needs(node, &newest));
    }
    superseded
}

/// Whether nodes of this kind need their target, and each that could be told to get it has found out that it cannot.
fn nobody_can_have(
    owned: &Owned<'_>,
    entry: &PlanEntry,
    of: Kind<'_>,
    needs: impl Fn(&&NodeFacts) -> bool,
) -> bool {
    let (retried_at, target) = (entry.actions.retried_at, frozen(&entry.targets, of));
    let cannot = |node: &&NodeFacts| {
        left_alone(
            node,
            &entry.run,
            retried_at,
            target.map(|target| target.version.as_str()),
        )
        .is_some()
    };
    let mut needy = owned
        .nodes
        .iter()
        .copied()
        .filter(|node| node.agent.ready && needs(node))
        .peekable();
    needy.peek().is_some() && needy.all(|node| cannot(&node))
}

/// Whether the run cannot go on: its wave has begun and proven nothing, or it is the last, has proven nothing, and nobody waits.
fn has_no_end(owned: &Owned<'_>, entry: &PlanEntry, valid: &ValidPlan) -> bool {
    if entry.owes_proof.is_some() {
        return true;
    }
    let last = valid.waves.len() - 1;
    if entry.open_wave as usize != last {
        return false;
    }
    let mut left_in_last = false;
    for node in &owned.nodes {
        let target = of(valid, &entry.targets, node);
        let target = target.as_deref();
        let spec = node.shadow.as_ref().map(|shadow| &shadow.spec);
        let in_run = spec.filter(|spec| spec.run.as_deref() == Some(&entry.run));
        let in_last = in_run.is_some_and(|spec| spec.wave.as_deref() == Some(&valid.waves[last].name));
        let at_least = |runs: &str, wanted: &str| Version::parse(runs).ok() >= Version::parse(wanted).ok();
        let done = matches!(running(node), Running::Version(runs) if target.is_some_and(|wanted| at_least(runs, wanted)));
        let given_up = in_run.is_some_and(|spec| {
            machine::failure_in_run(spec, &entry.run, entry.actions.retried_at)
                .is_some_and(|failure| failures::exhausted(failure, spec, Some(valid), target, node))
        });
        let left = left_alone(node, &entry.run, entry.actions.retried_at, target).is_some();
        if node.opt_out.is_none() && !given_up && (done && in_last || !done && !left) {
            return false;
        }
        left_in_last |= left && in_last;
    }
    left_in_last
}

/// The target, or the targets, in words.
pub(crate) fn words(target: &str, targets: &[Target]) -> String {
    if target != LATEST {
        return target.to_owned();
    }
    match targets {
        [] => "the newest version".to_owned(),
        [first, rest @ ..] if rest.iter().all(|other| other.version == first.version) => {
            first.version.clone()
        }
        _ => "their newest version".to_owned(),
    }
}

fn status(node: &NodeFacts) -> Option<&BottlerocketShadowStatus> {
    node.shadow.as_ref().and_then(|shadow| shadow.status.as_ref())
}

fn kind(node: &NodeFacts) -> Option<Kind<'_>> {
    let status = status(node)?;
    Some((status.variant.as_deref()?, status.arch.as_deref()?))
}

fn frozen<'a>(targets: &'a [Target], (variant, arch): Kind<'_>) -> Option<&'a Target> {
    targets
        .iter()
        .find(|target| target.variant == variant && target.arch == arch)
}

fn newest_to(node: &NodeFacts) -> Option<Version> {
    let offered = status(node)?.offered.iter();
    offered
        .filter_map(|offer| Version::parse(&offer.version).ok())
        .max()
}

/// What is on offer to each kind of node, and since when.
fn on_offer<'a>(nodes: &[&'a NodeFacts]) -> BTreeMap<Kind<'a>, BTreeMap<Version, DateTime<Utc>>> {
    let mut kinds: BTreeMap<Kind<'a>, BTreeMap<Version, DateTime<Utc>>> = BTreeMap::new();
    // What a node that is down has seen last may have been taken back since.
    let heard = nodes
        .iter()
        .filter(|node| node.agent.ready && node.opt_out.is_none());
    for node in heard {
        let Some(kind) = kind(node) else { continue };
        for offer in status(node).into_iter().flat_map(|status| &status.offered) {
            let Ok(version) = Version::parse(&offer.version) else {
                continue;
            };
            let since = kinds
                .entry(kind)
                .or_default()
                .entry(version)
                .or_insert(offer.since);
            *since = offer.since.min(*since);
        }
    }
    kinds
}

/// The newest version that has been on offer for so long; and when that is another one by time alone.
fn newest(
    offers: &BTreeMap<Version, DateTime<Utc>>,
    min_age: TimeDelta,
    now: DateTime<Utc>,
) -> (Option<Version>, Option<DateTime<Utc>>) {
    let newest = offers.iter().rev().find(|(_, since)| **since + min_age <= now);
    let newer = offers
        .iter()
        .rev()
        .take_while(|(version, _)| newest.is_none_or(|(newest, _)| newest < *version));
    let matures = newer.map(|(_, since)| *since + min_age).min();
    (newest.map(|(version, _)| version.clone()), matures)
}
