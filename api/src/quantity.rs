//! Durations and int-or-percent numbers as users write them, with their schemas.

use std::{borrow::Cow, fmt, str::FromStr};

use chrono::TimeDelta;
use kube_core::{Message, Reason, Rule};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A duration in Go's notation, `1h30m`. Never negative, at most 10,000 hours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(TimeDelta);

impl Span {
    /// The longest span: far above anything useful, far below anything that overflows.
    const MAX: TimeDelta = TimeDelta::hours(10_000);

    /// A span of whole seconds.
    #[must_use]
    pub const fn seconds(seconds: u32) -> Self {
        Self(TimeDelta::seconds(seconds as i64))
    }

    /// A span of whole minutes.
    #[must_use]
    pub const fn minutes(minutes: u32) -> Self {
        Self(TimeDelta::minutes(minutes as i64))
    }

    /// The span as chrono counts it.
    #[must_use]
    pub const fn delta(self) -> TimeDelta {
        self.0
    }
}

/// Why a text is no [`Span`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{value:?} is not a duration: use hours, minutes and seconds such as 1h30m, 15m or 90s, at most 10000h"
)]
pub struct InvalidSpan {
    value: String,
}

impl FromStr for Span {
    type Err = InvalidSpan;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidSpan {
            value: text.to_owned(),
        };
        // kube's reader panics on numbers beyond its range, which a short text of plain digits cannot reach.
        let plain = text.len() <= 16 && text.chars().all(|c| c.is_ascii_digit() || "hmsun.".contains(c));
        if !plain || text.is_empty() {
            return Err(invalid());
        }
        let duration: kube_core::Duration = text.parse().map_err(|_| invalid())?;
        let delta = TimeDelta::from_std(duration.into()).map_err(|_| invalid())?;
        if delta > Self::MAX {
            Err(invalid())
        } else {
            Ok(Self(delta))
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.num_milliseconds();
        let (hours, minutes, millis) = (millis / 3_600_000, millis / 60_000 % 60, millis % 60_000);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        if millis % 1000 > 0 {
            write!(f, "{}.{:03}s", millis / 1000, millis % 1000)?;
        } else if millis > 0 || (hours == 0 && minutes == 0) {
            write!(f, "{}s", millis / 1000)?;
        }
        Ok(())
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 16,
            "x-kubernetes-validations": [{
                "rule": format!("{IS_SPAN} && duration(self) <= duration('10000h')"),
                "message": "must be a duration of hours, minutes and seconds such as 1h30m, 15m or 90s, at most 10000h",
                "reason": "FieldValueInvalid",
            }],
        })
    }
}

/// That `self` is a span, in CEL: short enough that `duration(self)` cannot overflow, which would be the error told.
const IS_SPAN: &str = "self.matches('^([0-9]{1,5}([.][0-9]+)?h|[0-9]{1,8}([.][0-9]+)?(m|s|ms))+$')";

/// The rule that a span is within bounds. What is no span is refused by [`Span`]'s own rule, and not here once more.
pub(crate) fn within(field: &str, least: &str, most: &str) -> Rule {
    let rule = format!(
        "!{IS_SPAN} || (duration(self) >= duration('{least}') && duration(self) <= duration('{most}'))"
    );
    Rule::new(rule)
        .message(format!("{field} must be from {least} to {most}").as_str())
        .reason(Reason::FieldValueInvalid)
}

/// The rule that one span of an object is at most another one.
pub(crate) fn at_most(field: &str, other: &str) -> Rule {
    let is_span = |field: &str| IS_SPAN.replacen("self", &format!("self.{field}"), 1);
    let rule = format!(
        "!{} || !{} || duration(self.{field}) <= duration(self.{other})",
        is_span(field),
        is_span(other)
    );
    let message = format!("'{field} ' + self.{field} + ' must be at most {other}, which is ' + self.{other}");
    Rule::new(rule)
        .message(Message::Expression(message))
        .reason(Reason::FieldValueInvalid)
        .field_path(format!(".{field}"))
}

/// A number of nodes: absolute (`3`) or a share of a total (`10%`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntOrPercent {
    /// So many nodes, at least 1.
    Int(u32),
    /// So many per cent, 1 to 100.
    Percent(u32),
}

impl IntOrPercent {
    /// The number of nodes out of `total`, rounded down but never below 1: a limit that would stop everything
    /// is what pausing is for.
    #[must_use]
    pub fn at_most(self, total: usize) -> usize {
        match self {
            Self::Int(n) => n as usize,
            Self::Percent(p) => (total * p as usize / 100).max(1),
        }
    }

    /// The number of nodes out of `total`, rounded up, so that any share of something is something.
    #[must_use]
    pub fn at_least(self, total: usize) -> usize {
        match self {
            Self::Int(n) => n as usize,
            Self::Percent(p) => (total * p as usize).div_ceil(100),
        }
    }
}

/// Why a value is no [`IntOrPercent`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value} is not a number of nodes: use a whole number from 1, or a percentage from 1% to 100%")]
pub struct InvalidIntOrPercent {
    value: String,
}

impl FromStr for IntOrPercent {
    type Err = InvalidIntOrPercent;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |digits: &str| digits.parse::<u32>().ok().filter(|n| *n >= 1);
        match text.strip_suffix('%') {
            Some(digits) => number(digits).filter(|p| *p <= 100).map(Self::Percent),
            None => number(text).map(Self::Int),
        }
        .ok_or_else(|| InvalidIntOrPercent {
            value: text.to_owned(),
        })
    }
}

impl fmt::Display for IntOrPercent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(n) => write!(f, "{n}"),
            Self::Percent(p) => write!(f, "{p}%"),
        }
    }
}

impl Serialize for IntOrPercent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Int(n) => serializer.serialize_u32(*n),
            Self::Percent(_) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for IntOrPercent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = IntOrPercent;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number from 1, or a percentage from 1% to 100%")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<IntOrPercent, E> {
                // A string without a per cent sign is refused, as Kubernetes refuses it.
                if text.ends_with('%') {
                    text.parse().map_err(E::custom)
                } else {
                    Err(E::invalid_value(de::Unexpected::Str(text), &self))
                }
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<IntOrPercent, E> {
                u32::try_from(value)
                    .ok()
                    .filter(|n| *n >= 1)
                    .map(IntOrPercent::Int)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(value), &self))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<IntOrPercent, E> {
                u64::try_from(value)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))
                    .and_then(|v| self.visit_u64(v))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for IntOrPercent {
    fn schema_name() -> Cow<'static, str> {
        "IntOrPercent".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // The rule only compares: a function of a string that may be of any length would cost more than is allowed.
        let percentages = (1..=100)
            .map(|percent| format!("'{percent}%'"))
            .collect::<Vec<_>>()
            .join(",");
        json_schema!({
            "x-kubernetes-int-or-string": true,
            // Else a null would be stored as it is, instead of being replaced by the default.
            "nullable": false,
            "x-kubernetes-validations": [{
                "rule": format!("type(self) == int ? self >= 1 && self <= 1000000 : self in [{percentages}]"),
                "message": "must be a number of nodes from 1, or a percentage from 1% to 100%",
                "reason": "FieldValueInvalid",
            }],
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;

    #[test]
    fn spans_read_and_print_as_go_does() {
        for (text, seconds) in [
            ("90s", 90),
            ("1m30s", 90),
            ("2h", 7200),
            ("0s", 0),
            ("1.5h", 5400),
        ] {
            assert_eq!(
                text.parse::<Span>().unwrap().delta(),
                TimeDelta::seconds(seconds),
                "{text}"
            );
        }
        assert_eq!("90s".parse::<Span>().unwrap().to_string(), "1m30s");
        assert_eq!("250ms".parse::<Span>().unwrap().to_string(), "0.250s");
        assert_eq!("3h".parse::<Span>().unwrap().to_string(), "3h");
        assert_eq!("0s".parse::<Span>().unwrap().to_string(), "0s");
    }

    #[test]
    fn what_is_no_span_is_refused_and_nothing_panics() {
        for text in [
            "",
            "5",
            "1d",
            "-5m",
            "1e300h",
            "h",
            "99999999999999h",
            "10001h",
            ".",
        ] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn percentages_round_as_documented() {
        let percent = |p| IntOrPercent::Percent(p);
        assert_eq!(percent(10).at_most(9), 1, "down, but at least 1");
        assert_eq!(percent(10).at_most(29), 2);
        assert_eq!(percent(100).at_most(7), 7);
        assert_eq!(percent(10).at_least(11), 2, "up");
        assert_eq!(percent(10).at_least(0), 0);
    }

    #[test]
    fn numbers_of_nodes_are_checked() {
        let read = |json: &str| serde_json::from_str::<IntOrPercent>(json);
        assert_eq!(read("3").unwrap(), IntOrPercent::Int(3));
        assert_eq!(read("\"25%\"").unwrap(), IntOrPercent::Percent(25));
        for bad in ["0", "-1", "\"0%\"", "\"101%\"", "\"3\"", "\"x%\"", "1.5"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
