//! Versions of the operating system.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

/// `MAJOR.MINOR.PATCH`; written without `v`, read with or without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Version([u64; 3]);

impl Version {
    /// The version of these three numbers.
    pub fn new(major: u64, minor: u64, patch: u64) -> Self {
        Self([major, minor, patch])
    }
}

impl FromStr for Version {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let digits = text.strip_prefix('v').unwrap_or(text);
        let parts: Vec<&str> = digits.split('.').collect();
        ensure!(parts.len() == 3, "version {text:?} is not MAJOR.MINOR.PATCH");
        let mut numbers = [0; 3];
        for (number, part) in numbers.iter_mut().zip(parts) {
            let plain = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            ensure!(
                plain && (part == "0" || !part.starts_with('0')),
                "version {text:?} has the part {part:?}"
            );
            *number = part.parse().with_context(|| format!("version {text:?}"))?;
        }
        Ok(Self(numbers))
    }
}

impl TryFrom<String> for Version {
    type Error = anyhow::Error;

    fn try_from(text: String) -> anyhow::Result<Self> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn reads_and_orders_versions() {
        let version = |text: &str| text.parse::<Version>().unwrap();
        assert!(version("1.9.10") < version("1.10.0"));
        assert_eq!(version("v1.21.0"), Version::new(1, 21, 0));
        assert_eq!(version("v1.21.0").to_string(), "1.21.0");
        for bad in [
            "", "1", "1.2", "1.2.3.4", "1.02.3", "latest", "1.2.x", "vv1.2.3", "1.2.+3",
        ] {
            assert!(bad.parse::<Version>().is_err(), "{bad:?}");
        }
    }
}
