//! The update repository: which releases there are, to whom they are offered, which one is chosen.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use chrono::{DateTime, Utc};

use super::{Image, UpdateSettings, Version};

/// A release for one variant and architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// What is released.
    pub image: Image,
    /// The vendor's own waves: seeds above the key are offered the release from the time on, up to the next key.
    /// Seeds up to the first key are offered it at once.
    pub waves: BTreeMap<u32, DateTime<Utc>>,
}

impl Release {
    fn offered_to(&self, seed: u32, now: DateTime<Utc>) -> bool {
        self.waves
            .range(..seed)
            .next_back()
            .is_none_or(|(_, start)| *start <= now)
    }
}

/// All releases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repository {
    releases: Vec<Release>,
}

impl Repository {
    /// Adds a release, in place of an earlier one of the same image.
    pub fn publish(&mut self, release: Release) {
        self.withdraw(&release.image);
        self.releases.push(release);
    }

    /// Takes a release back.
    pub fn withdraw(&mut self, image: &Image) {
        self.releases.retain(|release| release.image != *image);
    }

    /// The versions offered to a node that runs this image, newest first.
    pub fn offered(&self, running: &Image, settings: &UpdateSettings, now: DateTime<Utc>) -> Vec<Version> {
        let mut versions: Vec<Version> = self
            .matching(running)
            .filter(|release| settings.ignore_waves || release.offered_to(settings.seed, now))
            .map(|release| release.image.version)
            .collect();
        versions.sort_unstable_by(|a, b| b.cmp(a));
        versions
    }

    /// The newest version published for the variant and architecture of this image, held back or not.
    pub fn newest(&self, running: &Image) -> Option<Version> {
        self.matching(running).map(|release| release.image.version).max()
    }

    fn matching<'a>(&'a self, running: &'a Image) -> impl Iterator<Item = &'a Release> {
        self.releases
            .iter()
            .filter(|release| release.image.variant == running.variant && release.image.arch == running.arch)
    }
}

/// Which of the offered versions the lock chooses for a node that runs this version.
pub(super) fn choose(
    running: Version,
    offered: &[Version],
    newest: Option<Version>,
    lock: &str,
) -> Option<Version> {
    if let Ok(locked) = lock.parse::<Version>() {
        return offered
            .iter()
            .copied()
            .find(|version| *version == locked && locked != running);
    }
    // A node that is ahead of everything published is taken back to it.
    let ahead = newest.is_some_and(|newest| running > newest);
    offered.iter().copied().find(|offer| ahead || running < *offer)
}

/// A repository that all machines of a fleet share, and a test may change while they run.
#[derive(Clone, Debug, Default)]
pub struct SharedRepository(Arc<RwLock<Repository>>);

impl SharedRepository {
    /// Looks at it.
    pub fn read<R>(&self, look: impl FnOnce(&Repository) -> R) -> R {
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes it.
    pub fn change<R>(&self, change: impl FnOnce(&mut Repository) -> R) -> R {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    fn image(version: &str, variant: &str, arch: &str) -> Image {
        Image {
            version: version.parse().unwrap(),
            variant: variant.to_owned(),
            arch: arch.to_owned(),
        }
    }

    fn running(version: &str) -> Image {
        image(version, "aws-k8s-1.33", "x86_64")
    }

    fn repository(versions: &[&str]) -> Repository {
        let mut repository = Repository::default();
        for version in versions {
            repository.publish(Release {
                image: running(version),
                waves: BTreeMap::new(),
            });
        }
        repository
    }

    fn chosen(repository: &Repository, runs: &str, lock: &str) -> Option<String> {
        let running = running(runs);
        let offered = repository.offered(&running, &UpdateSettings::default(), DateTime::UNIX_EPOCH);
        let chosen = choose(running.version, &offered, repository.newest(&running), lock);
        chosen.map(|version| version.to_string())
    }

    #[test]
    fn latest_chooses_the_newest_above_the_running_version() {
        let repository = repository(&["1.19.5", "1.21.0", "1.20.3"]);
        assert_eq!(chosen(&repository, "1.19.5", "latest").as_deref(), Some("1.21.0"));
        assert_eq!(chosen(&repository, "1.21.0", "latest"), None);
    }

    #[test]
    fn latest_goes_back_where_the_running_version_is_newer_than_any_published() {
        let repository = repository(&["1.19.5", "1.20.3"]);
        assert_eq!(chosen(&repository, "1.21.0", "latest").as_deref(), Some("1.20.3"));
    }

    #[test]
    fn a_concrete_lock_chooses_exactly_that_version_lower_ones_included() {
        let repository = repository(&["1.19.5", "1.21.0", "1.20.3"]);
        assert_eq!(chosen(&repository, "1.20.3", "1.21.0").as_deref(), Some("1.21.0"));
        assert_eq!(
            chosen(&repository, "1.20.3", "v1.19.5").as_deref(),
            Some("1.19.5")
        );
        assert_eq!(chosen(&repository, "1.20.3", "1.20.3"), None, "already there");
        assert_eq!(chosen(&repository, "1.20.3", "1.22.0"), None, "not published");
    }

    #[test]
    fn other_variants_and_architectures_are_not_offered() {
        let mut repository = repository(&["1.20.3"]);
        repository.publish(Release {
            image: image("1.21.0", "aws-k8s-1.32", "x86_64"),
            waves: BTreeMap::new(),
        });
        repository.publish(Release {
            image: image("1.21.0", "aws-k8s-1.33", "aarch64"),
            waves: BTreeMap::new(),
        });
        assert_eq!(chosen(&repository, "1.20.3", "1.21.0"), None);
        assert_eq!(chosen(&repository, "1.20.3", "latest"), None);
    }

    #[test]
    fn vendor_waves_hold_a_release_back_by_seed_unless_ignored() {
        let start = DateTime::UNIX_EPOCH + TimeDelta::days(1);
        let waves = BTreeMap::from([(512, start), (1024, start + TimeDelta::days(1))]);
        let mut repository = Repository::default();
        repository.publish(Release {
            image: running("1.21.0"),
            waves,
        });
        let offered = |seed, ignore_waves, now| {
            let settings = UpdateSettings {
                seed,
                ignore_waves,
                ..UpdateSettings::default()
            };
            !repository.offered(&running("1.20.3"), &settings, now).is_empty()
        };
        assert!(
            offered(512, false, DateTime::UNIX_EPOCH),
            "the first wave has no start"
        );
        assert!(!offered(513, false, DateTime::UNIX_EPOCH));
        assert!(offered(513, false, start));
        assert!(!offered(1025, false, start));
        assert!(offered(1025, true, DateTime::UNIX_EPOCH));
    }

    #[test]
    fn a_release_that_is_withdrawn_is_no_longer_offered() {
        let mut repository = repository(&["1.21.0"]);
        repository.withdraw(&running("1.21.0"));
        assert_eq!(chosen(&repository, "1.20.3", "latest"), None);
    }
}
