//! How long nodes take, and what goes wrong on them.

use std::{collections::BTreeMap, fmt};

use api::quantity::Span;
use chrono::TimeDelta;
use serde::{Deserialize, Deserializer, de};

/// How long a node's steps take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Timing {
    /// From an instruction to its answer, where nothing else takes time. Default 1s.
    #[serde(deserialize_with = "span")]
    pub agent: TimeDelta,
    /// From the instruction to the activated image. Default 1m.
    #[serde(deserialize_with = "span")]
    pub stage: TimeDelta,
    /// From the cordon to the empty node. Default 20s.
    #[serde(deserialize_with = "span")]
    pub drain: TimeDelta,
    /// From going down to being up again. Default 1m.
    #[serde(deserialize_with = "span")]
    pub reboot: TimeDelta,
    /// From being up to Ready. Default 0s.
    #[serde(deserialize_with = "span")]
    pub ready: TimeDelta,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            agent: TimeDelta::seconds(1),
            stage: TimeDelta::seconds(60),
            drain: TimeDelta::seconds(20),
            reboot: TimeDelta::seconds(60),
            ready: TimeDelta::zero(),
        }
    }
}

fn span<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TimeDelta, D::Error> {
    Span::deserialize(deserializer).map(Span::delta)
}

/// What goes wrong on a node, until it is mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Fault {
    /// The image cannot be prepared.
    PrepareFails,
    /// Its image cannot be updated in place.
    Unsupported,
    /// It boots, and the firmware falls back to the version it ran before.
    BootsOldVersion,
    /// It goes down and stays down.
    NeverReturns,
    /// It comes back on the target and is not Ready from 10 s after that.
    UnhealthyAfterBoot,
    /// Its agent answers nothing.
    AgentSilent,
    /// A PodDisruptionBudget never allows the eviction of one pod.
    DrainBlocked,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PrepareFails => "prepare fails",
            Self::Unsupported => "cannot be updated in place",
            Self::BootsOldVersion => "boots the old version",
            Self::NeverReturns => "never returns from a reboot",
            Self::UnhealthyAfterBoot => "is unhealthy after its boot",
            Self::AgentSilent => "its agent is silent",
            Self::DrainBlocked => "its drain is blocked",
        })
    }
}

/// How often something goes wrong by chance, in per cent of the times when it could.
pub type Rates = BTreeMap<Fault, Percent>;

/// 0 to 100 per cent, as `5%`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Percent(u8);

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let number = text.strip_suffix('%').and_then(|digits| digits.parse().ok());
        number
            .filter(|percent| *percent <= 100)
            .map(Self)
            .ok_or_else(|| de::Error::custom(format!("{text:?} is not a rate: use 0% to 100%")))
    }
}

/// A small generator (SplitMix64): the same seed gives the same numbers, everywhere.
#[derive(Clone, Debug, Default)]
pub struct Dice(u64);

impl Dice {
    /// Numbers of their own for each node of a simulation.
    pub(super) fn new(seed: u64, node_uid: &str) -> Self {
        Self(crate::waves::rank(&seed.to_string(), node_uid))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// True in so many of a hundred cases.
    pub(super) fn strikes(&mut self, rate: Percent) -> bool {
        rate.0 > 0 && self.next() % 100 < u64::from(rate.0)
    }
}
