//! The pods that a node is still to lose, and what is known of each. Pure.

use std::collections::BTreeMap;

use api::drain::may_stay;
use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use planner::world::{Blocked, DrainFacts};

use crate::evict::Evicted;

/// The pods that are still to go.
#[derive(Debug)]
pub(crate) struct Left {
    cordoned_at: DateTime<Utc>,
    /// By `namespace/name`.
    pods: BTreeMap<String, Going>,
    /// Whether a read has found none, and no event any since.
    confirmed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Going {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    state: Progress,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Progress {
    /// To be evicted, after what was refused before.
    Ask {
        refused: Option<Refusal>,
    },
    Refused(Refusal),
    /// The API has accepted.
    Asked,
    /// It ends.
    Terminating,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Refusal {
    budget: Option<String>,
    message: String,
}

impl Left {
    pub(crate) const fn new(cordoned_at: DateTime<Utc>) -> Self {
        Self {
            cordoned_at,
            pods: BTreeMap::new(),
            confirmed: false,
        }
    }

    pub(crate) fn listed(&mut self, pods: &[Pod]) {
        let mut before = std::mem::take(&mut self.pods);
        for pod in pods {
            self.seen(pod);
        }
        for (key, going) in &mut self.pods {
            if let Some(earlier) = before.remove(key).filter(|earlier| earlier.uid == going.uid)
                && let (Progress::Ask { refused }, Progress::Refused(refusal)) =
                    (&mut going.state, earlier.state)
            {
                *refused = Some(refusal);
            }
        }
        self.confirmed = self.pods.is_empty();
    }

    pub(crate) fn seen(&mut self, pod: &Pod) {
        if may_stay(pod, self.cordoned_at).is_some() {
            return self.gone(pod);
        }
        let (namespace, name, uid) = (
            pod.namespace().unwrap_or_default(),
            pod.name_any(),
            pod.uid().unwrap_or_default(),
        );
        let terminating = pod.metadata.deletion_timestamp.is_some();
        let going = self.pods.entry(key(&namespace, &name)).or_insert_with(|| Going {
            namespace,
            name,
            uid: uid.clone(),
            state: Progress::Ask { refused: None },
        });
        if going.uid != uid {
            going.uid = uid;
            going.state = Progress::Ask { refused: None };
        }
        if terminating {
            going.state = Progress::Terminating;
        }
        self.confirmed = false;
    }

    pub(crate) fn gone(&mut self, pod: &Pod) {
        let key = key(&pod.namespace().unwrap_or_default(), &pod.name_any());
        if self
            .pods
            .get(&key)
            .is_some_and(|going| Some(&going.uid) == pod.metadata.uid.as_ref())
        {
            self.pods.remove(&key);
            self.ask_again();
        }
    }

    /// Those that were refused may be let go now.
    pub(crate) fn ask_again(&mut self) {
        for going in self.pods.values_mut() {
            if let Progress::Refused(refusal) = &going.state {
                going.state = Progress::Ask {
                    refused: Some(refusal.clone()),
                };
            }
        }
    }

    pub(crate) fn to_ask(&self) -> Vec<Going> {
        self.pods
            .values()
            .filter(|going| matches!(going.state, Progress::Ask { .. }))
            .cloned()
            .collect()
    }

    pub(crate) fn answered(&mut self, pod: &Going, evicted: Evicted) {
        let key = key(&pod.namespace, &pod.name);
        let Some(going) = self.pods.get_mut(&key).filter(|going| going.uid == pod.uid) else {
            return;
        };
        match evicted {
            Evicted::Accepted => going.state = Progress::Asked,
            Evicted::Gone => {
                self.pods.remove(&key);
            }
            Evicted::Refused { budget, message, .. } => {
                going.state = Progress::Refused(Refusal { budget, message })
            }
        }
    }

    /// Whether there seem to be none, which only a read can confirm.
    pub(crate) fn is_unconfirmed(&self) -> bool {
        self.pods.is_empty() && !self.confirmed
    }

    pub(crate) fn refused(&self) -> bool {
        self.pods
            .values()
            .any(|going| matches!(going.state, Progress::Refused(_)))
    }

    pub(crate) fn facts(&self) -> DrainFacts {
        let blocked = self.pods.iter().find_map(|(pod, going)| match &going.state {
            Progress::Refused(refusal)
            | Progress::Ask {
                refused: Some(refusal),
            } => Some(Blocked {
                pod: pod.clone(),
                budget: refusal.budget.clone(),
                message: refusal.message.clone(),
            }),
            _ => None,
        });
        DrainFacts {
            left: u32::try_from(self.pods.len()).unwrap_or(u32::MAX),
            blocked,
        }
    }
}

fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use serde_json::json;

    use super::*;

    fn pod(name: &str, uid: &str, terminating: bool, phase: &str) -> Pod {
        let deleted = terminating.then_some("2026-11-22T08:01:00Z");
        serde_json::from_value(json!({
            "metadata": {"namespace": "web", "name": name, "uid": uid, "deletionTimestamp": deleted},
            "status": {"phase": phase}
        }))
        .unwrap()
    }

    fn left(pods: &[Pod]) -> Left {
        let mut left = Left::new("2026-11-22T08:00:00Z".parse().unwrap());
        left.listed(pods);
        left
    }

    fn asked(left: &Left) -> Vec<String> {
        left.to_ask().into_iter().map(|going| going.name).collect()
    }

    fn answer(left: &mut Left, name: &str, evicted: Evicted) {
        let going = left.pods[&key("web", name)].clone();
        left.answered(&going, evicted);
    }

    fn refused(budget: &str) -> Evicted {
        Evicted::Refused {
            budget: Some(budget.to_owned()),
            message: "no".to_owned(),
            by_api: true,
        }
    }

    #[test]
    fn what_must_go_and_does_not_yet_is_evicted_once() {
        let pods = [
            pod("a", "1", false, "Running"),
            pod("b", "2", true, "Running"),
            pod("c", "3", false, "Succeeded"),
        ];
        let mut left = left(&pods);
        assert_eq!(asked(&left), ["a"]);
        assert_eq!(
            left.facts(),
            DrainFacts {
                left: 2,
                blocked: None
            }
        );
        answer(&mut left, "a", Evicted::Accepted);
        assert!(asked(&left).is_empty());
        left.seen(&pod("a", "1", true, "Running"));
        assert!(asked(&left).is_empty());
    }

    #[test]
    fn l3_the_first_refusal_is_told_and_tried_again_when_another_pod_goes() {
        let mut left = left(&[
            pod("a", "1", false, "Running"),
            pod("b", "2", false, "Running"),
            pod("c", "3", false, "Running"),
        ]);
        answer(&mut left, "a", Evicted::Accepted);
        answer(&mut left, "c", refused("pdb-c"));
        answer(&mut left, "b", refused("pdb-b"));
        let blocked = |left: &Left| left.facts().blocked.map(|b| (b.pod, b.budget.unwrap()));
        let told = Some(("web/b".to_owned(), "pdb-b".to_owned()));
        assert_eq!(blocked(&left), told);
        assert!(asked(&left).is_empty() && left.refused());
        left.gone(&pod("a", "1", true, "Running"));
        assert_eq!(asked(&left), ["b", "c"]);
        assert_eq!(blocked(&left), told, "still, until it is answered");
        answer(&mut left, "b", Evicted::Accepted);
        answer(&mut left, "c", Evicted::Gone);
        assert_eq!(
            left.facts(),
            DrainFacts {
                left: 1,
                blocked: None
            }
        );
    }

    #[test]
    fn s5_a_node_is_empty_only_when_a_read_has_found_it_so() {
        let mut left = left(&[pod("a", "1", false, "Running")]);
        left.gone(&pod("a", "1", true, "Running"));
        assert!(left.is_unconfirmed());
        left.listed(&[]);
        assert!(!left.is_unconfirmed());
        left.seen(&pod("late", "9", false, "Running"));
        assert_eq!((left.facts().left, asked(&left)), (1, vec!["late".to_owned()]));
        left.seen(&pod("late", "9", false, "Failed"));
        assert!(left.is_unconfirmed());
    }

    #[test]
    fn another_pod_of_the_same_name_is_another_pod() {
        let mut left = left(&[pod("a", "1", false, "Running")]);
        answer(&mut left, "a", Evicted::Accepted);
        left.seen(&pod("a", "2", false, "Running"));
        assert_eq!(asked(&left), ["a"]);
        left.gone(&pod("a", "1", true, "Running"));
        assert_eq!(left.facts().left, 1);
    }

    #[test]
    fn a_refusal_outlives_a_read() {
        let mut left = left(&[pod("a", "1", false, "Running")]);
        answer(&mut left, "a", refused("pdb"));
        left.listed(&[pod("a", "1", false, "Running")]);
        assert_eq!(asked(&left), ["a"]);
        assert_eq!(left.facts().blocked.unwrap().budget.as_deref(), Some("pdb"));
    }
}
