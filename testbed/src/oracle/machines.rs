//! The machines' log, by machine.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::bottlerocket::{Call, Command, UpdateSettings, Version};
use crate::truth::{SimEvent, SimEventKind};

/// What happened on every machine.
#[derive(Debug, Default)]
pub struct Machines<'a> {
    by_node: BTreeMap<&'a str, Machine<'a>>,
    silent: Machine<'a>,
}

/// What happened on one machine, in order.
#[derive(Debug, Default)]
pub struct Machine<'a> {
    events: Vec<&'a SimEvent>,
}

/// A boot of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot<'a> {
    /// When it was up.
    pub at: DateTime<Utc>,
    /// Its boot ID.
    pub boot_id: &'a str,
    /// The version that runs.
    pub version: &'a str,
    /// Whether the machine is new: nothing before counts.
    pub first: bool,
}

/// A refresh that has succeeded.
#[derive(Clone, Copy, Debug)]
pub struct Refresh<'a> {
    /// When it had ended.
    pub at: DateTime<Utc>,
    /// The versions that it found.
    pub offered: &'a [String],
    /// Whether it ignored the repository's own waves.
    pub ignored_waves: bool,
    /// Variant and architecture of the machine.
    pub kind: (&'a str, &'a str),
}

impl Refresh<'_> {
    /// Whether it has found this version.
    #[must_use]
    pub fn found(&self, version: &str) -> bool {
        let same = |offer: &String| compare(offer, version) == Some(std::cmp::Ordering::Equal);
        self.offered.iter().any(same)
    }
}

/// A call that asked the machine to reboot.
#[derive(Clone, Copy, Debug)]
pub struct RebootCall<'a> {
    /// When it came.
    pub at: DateTime<Utc>,
    /// The boot that it came to.
    pub boot_id: &'a str,
}

impl<'a> Machines<'a> {
    /// The log, sorted by machine.
    #[must_use]
    pub fn new(truth: &'a [SimEvent]) -> Self {
        let mut machines = Self::default();
        for event in truth {
            machines
                .by_node
                .entry(&event.node)
                .or_default()
                .events
                .push(event);
        }
        machines
    }

    /// The machine of a node; one without a log where there is none.
    #[must_use]
    pub fn of(&self, node: &str) -> &Machine<'a> {
        self.by_node.get(node).unwrap_or(&self.silent)
    }

    /// Every machine.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &Machine<'a>)> {
        self.by_node.iter().map(|(node, machine)| (*node, machine))
    }
}

impl<'a> Machine<'a> {
    /// Its boots.
    pub fn boots(&self) -> impl DoubleEndedIterator<Item = Boot<'a>> + '_ {
        self.events.iter().filter_map(|event| {
            let (boot_id, version, first) = match &event.kind {
                SimEventKind::Started { boot_id, version } => (boot_id, version, true),
                SimEventKind::RebootFinished { boot_id, version } => (boot_id, version, false),
                _ => return None,
            };
            Some(Boot {
                at: event.at,
                boot_id,
                version,
                first,
            })
        })
    }

    /// The boot that it runs, or last ran, at this time.
    #[must_use]
    pub fn running_at(&self, at: DateTime<Utc>) -> Option<Boot<'a>> {
        self.boots().rev().find(|boot| boot.at <= at)
    }

    /// How its version at this time compares with this one; none where either is unknown.
    #[must_use]
    pub fn compare_at(&self, at: DateTime<Utc>, version: &str) -> Option<std::cmp::Ordering> {
        compare(self.running_at(at)?.version, version)
    }

    /// Whether it is up at this time.
    #[must_use]
    pub fn up_at(&self, at: DateTime<Utc>) -> bool {
        let last = self
            .events
            .iter()
            .rev()
            .filter(|event| event.at <= at)
            .find_map(|event| match event.kind {
                SimEventKind::Started { .. } | SimEventKind::RebootFinished { .. } => Some(true),
                SimEventKind::RebootBegun { .. } | SimEventKind::Removed => Some(false),
                _ => None,
            });
        last.unwrap_or(false)
    }

    /// The calls that asked it to reboot, whatever was answered.
    #[must_use]
    pub fn reboot_calls(&self) -> Vec<RebootCall<'a>> {
        let mut running = "";
        let mut calls = Vec::new();
        for event in &self.events {
            match &event.kind {
                SimEventKind::Started { boot_id, .. } | SimEventKind::RebootFinished { boot_id, .. } => {
                    running = boot_id;
                }
                SimEventKind::Called {
                    call: Call::Reboot, ..
                } => {
                    calls.push(RebootCall {
                        at: event.at,
                        boot_id: running,
                    });
                }
                _ => {}
            }
        }
        calls
    }

    /// Every download to its inactive partition that it took on: when it began, and when that was over, if it was.
    #[must_use]
    pub fn prepares(&self) -> Vec<(DateTime<Utc>, Option<DateTime<Utc>>)> {
        let mut prepares: Vec<(DateTime<Utc>, Option<DateTime<Utc>>)> = Vec::new();
        for event in &self.events {
            match &event.kind {
                SimEventKind::Called {
                    call: Call::Prepare,
                    status: Some(204) | None,
                } => prepares.push((event.at, None)),
                SimEventKind::CommandEnded {
                    command: Command::Prepare,
                    ..
                }
                | SimEventKind::RebootBegun { .. }
                | SimEventKind::Removed => {
                    if let Some((_, over)) = prepares.last_mut() {
                        over.get_or_insert(event.at);
                    }
                }
                _ => {}
            }
        }
        prepares
    }

    /// Every time it was flagged to boot another version: when, which, and what ran.
    #[must_use]
    pub fn activations(&self) -> Vec<(DateTime<Utc>, &'a str, &'a str)> {
        let mut running = "";
        let mut activations = Vec::new();
        for event in &self.events {
            match &event.kind {
                SimEventKind::Started { version, .. } | SimEventKind::RebootFinished { version, .. } => {
                    running = version;
                }
                SimEventKind::Activated { version } => {
                    activations.push((event.at, version.as_str(), running))
                }
                _ => {}
            }
        }
        activations
    }

    /// Whether, at some moment in this time, nothing but the running version is flagged to boot next.
    #[must_use]
    pub fn unflagged_between(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> bool {
        let mut before = true;
        let mut during = false;
        for event in self.events.iter().filter(|event| event.at <= to) {
            let flagged = match event.kind {
                SimEventKind::Activated { .. } => true,
                SimEventKind::Deactivated
                | SimEventKind::Started { .. }
                | SimEventKind::RebootFinished { .. } => false,
                _ => continue,
            };
            if event.at <= from {
                before = !flagged;
            } else {
                during |= !flagged;
            }
        }
        before || during
    }

    /// Its refreshes that have succeeded.
    pub fn refreshes(&self) -> impl DoubleEndedIterator<Item = Refresh<'a>> + '_ {
        self.events.iter().filter_map(|event| match &event.kind {
            SimEventKind::Refreshed {
                offered,
                ignored_waves,
                variant,
                arch,
            } => Some(Refresh {
                at: event.at,
                offered: offered.as_slice(),
                ignored_waves: *ignored_waves,
                kind: (variant.as_str(), arch.as_str()),
            }),
            _ => None,
        })
    }

    /// Its last refresh until this time; where `all` is wanted, one that ignored the repository's waves.
    #[must_use]
    pub fn refreshed_at(&self, at: DateTime<Utc>, all: bool) -> Option<Refresh<'a>> {
        let mut refreshes = self.refreshes().rev().filter(|refresh| refresh.at <= at);
        refreshes.find(|refresh| refresh.ignored_waves || !all)
    }

    /// Its settings at this time, where they have ever changed by then.
    #[must_use]
    pub fn settings_at(&self, at: DateTime<Utc>) -> Option<&'a UpdateSettings> {
        self.settings().rev().find(|(changed, _)| *changed <= at)?.1
    }

    /// Every change of its settings in this time, the first instant excluded.
    pub fn settings_between(
        &self,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
    ) -> impl Iterator<Item = &'a UpdateSettings> + '_ {
        self.settings()
            .filter(move |(at, _)| from < *at && *at <= to)
            .filter_map(|(_, settings)| settings)
    }

    /// Changes of its settings; None where a machine begins, which may have the name of one that is gone.
    fn settings(&self) -> impl DoubleEndedIterator<Item = (DateTime<Utc>, Option<&'a UpdateSettings>)> + '_ {
        self.events.iter().filter_map(|event| match &event.kind {
            SimEventKind::SettingsChanged { settings } => Some((event.at, Some(settings))),
            SimEventKind::Started { .. } => Some((event.at, None)),
            _ => None,
        })
    }
}

/// How two versions compare; none where either cannot be read.
#[must_use]
pub fn compare(one: &str, other: &str) -> Option<std::cmp::Ordering> {
    let read = |version: &str| version.parse::<Version>().ok();
    Some(read(one)?.cmp(&read(other)?))
}
