//! Which version a node runs, by two witnesses: its agent, which asks Bottlerocket's API, and its kubelet, which reads the
//! name of the image that was booted. Where one contradicts the other, nobody knows: nothing is taken for done, and
//! nothing is begun.

use semver::Version;

use crate::world::NodeFacts;

/// Which version a node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Running<'a> {
    /// No agent has reported a version.
    Unknown,
    /// The agent says so, and the kubelet does not say otherwise.
    Version(&'a str),
    /// The agent says one version, the kubelet another.
    Disputed {
        /// The version that the agent reports.
        reported: &'a str,
        /// The image that the kubelet names.
        os_image: &'a str,
    },
}

impl<'a> Running<'a> {
    /// The version, where it is known.
    pub const fn version(self) -> Option<&'a str> {
        match self {
            Self::Version(version) => Some(version),
            Self::Unknown | Self::Disputed { .. } => None,
        }
    }
}

/// Versions as they were read once: a fleet runs a few of them, and says so thousands of times.
#[derive(Default)]
pub(crate) struct Versions(Vec<(String, Option<Version>)>);

impl Versions {
    /// How many different words are remembered.
    const KNOWN: usize = 8;

    /// The word as a version, where it is one.
    pub fn read(&mut self, word: &str) -> Option<Version> {
        if let Some((_, version)) = self.0.iter().find(|(known, _)| known == word) {
            return version.clone();
        }
        let version = Version::parse(word).ok();
        if self.0.len() < Self::KNOWN {
            self.0.push((word.to_owned(), version.clone()));
        }
        version
    }
}

/// Which version a node runs.
pub(crate) fn running(node: &NodeFacts) -> Running<'_> {
    running_as_read(node, |word| Version::parse(word).is_ok())
}

/// Which version a node runs, where it is known which words are versions.
pub(crate) fn running_as_read(node: &NodeFacts, mut is_version: impl FnMut(&str) -> bool) -> Running<'_> {
    let status = node.shadow.as_ref().and_then(|shadow| shadow.status.as_ref());
    let Some(reported) = status.map(|status| status.current_version.as_str()) else {
        return Running::Unknown;
    };
    if !is_version(reported) {
        Running::Unknown
    } else if contradicts(&node.os_image, reported) {
        let os_image = &node.os_image;
        Running::Disputed { reported, os_image }
    } else {
        Running::Version(reported)
    }
}

/// Whether the image that a kubelet names is of another version than this. An image that names no version contradicts
/// nothing.
pub(crate) fn contradicts(os_image: &str, version: &str) -> bool {
    // Only what begins with a digit can be a version, and the same word is the same version.
    let mut words = os_image
        .split_ascii_whitespace()
        .filter(|word| word.as_bytes()[0].is_ascii_digit());
    if words.clone().next() == Some(version) {
        return false;
    }
    let named = words.find_map(|word| Version::parse(word).ok());
    match (named, Version::parse(version)) {
        (Some(named), Ok(version)) => named != version,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_image_of_another_version_contradicts() {
        let cases = [
            ("Bottlerocket OS 1.20.3 (aws-k8s-1.33)", "1.20.3", false),
            ("Bottlerocket OS 1.20.3 (aws-k8s-1.33)", "1.21.0", true),
            // As images before 1.1 named themselves.
            ("Bottlerocket OS 1.0.7", "1.0.7", false),
            ("Bottlerocket OS 1.0.7", "1.1.0", true),
            ("Somebody's OS 1.21.0-rc.1 (vmware-k8s-1.33)", "1.21.0", true),
            // A kubelet that has not reported, and an image that names no version.
            ("", "1.21.0", false),
            ("Bottlerocket OS (aws-k8s-1.33)", "1.21.0", false),
        ];
        for (os_image, version, other) in cases {
            assert_eq!(contradicts(os_image, version), other, "{os_image} {version}");
        }
    }
}
