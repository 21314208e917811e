//! The pods that a node is still to lose, and what is known of each. Pure.
//!
//! The operator's own come last, when no other pod is left; and one goes only while another replica is Ready elsewhere,
//! which is looked at for each eviction. Else it stays.

use std::collections::{BTreeMap, BTreeSet};

use api::{
    drain::{MayStay, may_stay},
    operator,
};
use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use planner::world::{Blocked, DrainFacts};

use crate::evict::Evicted;

/// The pods that are still to go.
#[derive(Debug)]
pub(crate) struct Left {
    cordoned_at: DateTime<Utc>,
    node: String,
    /// The install's.
    namespace: String,
    /// By `namespace/name`.
    pods: BTreeMap<String, Going>,
    /// UIDs of the operator's own pods that the first read has found. Those that come later have come back, whatever the second
    /// says that they were created in.
    own_at_first: Option<BTreeSet<String>>,
    /// Whether a read has found none but the operator's own, and no event any since.
    confirmed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Going {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    /// Of the operator's own pods: which part of it this is.
    component: Option<&'static str>,
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
    /// One of the operator's own, and no other replica was Ready elsewhere: it may stay.
    Stays,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Refusal {
    budget: Option<String>,
    message: String,
}

impl Left {
    pub(crate) const fn new(cordoned_at: DateTime<Utc>, node: String, namespace: String) -> Self {
        Self {
            cordoned_at,
            node,
            namespace,
            pods: BTreeMap::new(),
            own_at_first: None,
            confirmed: false,
        }
    }

    pub(crate) fn listed(&mut self, pods: &[Pod]) {
        let mut before = std::mem::take(&mut self.pods);
        if self.own_at_first.is_none() {
            let own = pods
                .iter()
                .filter(|pod| operator::is_operator_pod(pod, &self.namespace));
            self.own_at_first = Some(own.filter_map(ResourceExt::uid).collect());
        }
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
        self.confirmed = self.only_own();
    }

    pub(crate) fn seen(&mut self, pod: &Pod) {
        if may_stay(pod, self.cordoned_at, &self.namespace).is_some_and(|why| why != MayStay::Operator) {
            return self.gone(pod);
        }
        let (namespace, name, uid) = (
            pod.namespace().unwrap_or_default(),
            pod.name_any(),
            pod.uid().unwrap_or_default(),
        );
        let terminating = pod.metadata.deletion_timestamp.is_some();
        let component = operator::component(pod).filter(|_| namespace == self.namespace);
        let known = self.own_at_first.as_ref().is_none_or(|own| own.contains(&uid));
        if component.is_some() && !known && !terminating {
            return self.gone(pod);
        }
        self.confirmed &= component.is_some();
        let going = self.pods.entry(key(&namespace, &name)).or_insert_with(|| Going {
            namespace,
            name,
            uid: uid.clone(),
            component,
            state: Progress::Ask { refused: None },
        });
        if going.uid != uid {
            going.uid = uid;
            going.state = Progress::Ask { refused: None };
        }
        if terminating {
            going.state = Progress::Terminating;
        }
    }

    pub(crate) fn gone(&mut self, pod: &Pod) {
        let key = key(&pod.namespace().unwrap_or_default(), &pod.name_any());
        if self
            .pods
            .get(&key)
            .is_some_and(|going| Some(&going.uid) == pod.metadata.uid.as_ref())
        {
            self.pods.remove(&key);
            self.confirmed = false;
            self.ask_again();
        }
    }

    /// Those that were refused may be let go now, and those that stay may have a replica elsewhere.
    pub(crate) fn ask_again(&mut self) {
        for going in self.pods.values_mut() {
            let refused = match &going.state {
                Progress::Refused(refusal) => Some(refusal.clone()),
                Progress::Stays => None,
                _ => continue,
            };
            going.state = Progress::Ask { refused };
        }
    }

    /// What is to be evicted now, besides the operator's own pods.
    pub(crate) fn to_ask(&self) -> Vec<Going> {
        self.pods
            .values()
            .filter(|going| going.component.is_none() && going.is_to_ask())
            .cloned()
            .collect()
    }

    fn only_own(&self) -> bool {
        self.pods.values().all(|going| going.component.is_some())
    }

    /// Whether it is the turn of the operator's own pods, and one of them is to be evicted, or to stay.
    pub(crate) fn has_own_to_ask(&self) -> bool {
        self.only_own() && self.pods.values().any(Going::is_to_ask)
    }

    /// The next of the operator's own pods to be evicted, where these pods of the operator run now; those that no
    /// other replica could stand in for stay.
    pub(crate) fn next_own(&mut self, running: &[Pod]) -> Option<Going> {
        if !self.only_own() {
            return None;
        }
        for going in self.pods.values_mut().filter(|going| going.is_to_ask()) {
            let component = going.component?;
            if operator::is_ready_elsewhere(component, &self.node, running) {
                return Some(going.clone());
            }
            going.state = Progress::Stays;
        }
        None
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
                self.confirmed = false;
            }
            Evicted::Refused { budget, message, .. } => {
                going.state = Progress::Refused(Refusal { budget, message })
            }
        }
    }

    /// Whether there seem to be none, which only a read can confirm.
    pub(crate) fn is_unconfirmed(&self) -> bool {
        self.leaving().next().is_none() && !self.confirmed
    }

    fn leaving(&self) -> impl Iterator<Item = &Going> {
        self.pods.values().filter(|going| going.state != Progress::Stays)
    }

    /// Whether time alone may change what is to be asked for.
    pub(crate) fn is_to_be_asked_again(&self) -> bool {
        self.pods
            .values()
            .any(|going| matches!(going.state, Progress::Refused(_) | Progress::Stays))
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
        let own = self.leaving().filter(|going| going.component.is_some());
        let count = |pods: usize| u32::try_from(pods).unwrap_or(u32::MAX);
        DrainFacts {
            left: count(self.leaving().count()),
            own: count(own.count()),
            blocked,
        }
    }
}

impl Going {
    const fn is_to_ask(&self) -> bool {
        matches!(self.state, Progress::Ask { .. })
    }
}

fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use api::names::{COMPONENT_LABEL, DEFAULT_NAMESPACE, NAME_LABEL, OPERATOR_NAME};
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
        let mut left = Left::new(
            "2026-11-22T08:00:00Z".parse().unwrap(),
            "n1".to_owned(),
            DEFAULT_NAMESPACE.to_owned(),
        );
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
                own: 0,
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
        assert!(asked(&left).is_empty() && left.is_to_be_asked_again());
        left.gone(&pod("a", "1", true, "Running"));
        assert_eq!(asked(&left), ["b", "c"]);
        assert_eq!(blocked(&left), told, "still, until it is answered");
        answer(&mut left, "b", Evicted::Accepted);
        answer(&mut left, "c", Evicted::Gone);
        assert_eq!(
            left.facts(),
            DrainFacts {
                left: 1,
                own: 0,
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

    fn own(component: &str, node: &str, uid: &str, terminating: bool) -> Pod {
        let deleted = terminating.then_some("2026-11-22T08:01:00Z");
        serde_json::from_value(json!({
            "metadata": {"namespace": DEFAULT_NAMESPACE, "name": format!("{component}-{uid}"), "uid": uid,
                "deletionTimestamp": deleted, "labels": {NAME_LABEL: OPERATOR_NAME, COMPONENT_LABEL: component}},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        }))
        .unwrap()
    }

    fn next(left: &mut Left, running: &[Pod]) -> Option<String> {
        left.next_own(running).map(|going| going.name)
    }

    fn answer_own(left: &mut Left, name: &str, evicted: Evicted) {
        let going = left.pods[&key(DEFAULT_NAMESPACE, name)].clone();
        left.answered(&going, evicted);
    }

    fn counts(left: &Left) -> (u32, u32) {
        let facts = left.facts();
        (facts.left, facts.own)
    }

    #[test]
    fn the_operators_own_pods_are_evicted_when_no_other_pod_is_left() {
        let (cart, mine) = (
            pod("cart", "1", false, "Running"),
            own("apiserver", "n1", "2", false),
        );
        let running = [mine.clone(), own("apiserver", "n2", "3", false)];
        let mut left = left(&[cart.clone(), mine.clone()]);
        assert_eq!(
            (asked(&left), left.has_own_to_ask()),
            (vec!["cart".to_owned()], false)
        );
        answer(&mut left, "cart", Evicted::Accepted);
        left.seen(&pod("cart", "1", true, "Running"));
        assert!(!left.has_own_to_ask(), "it still runs");
        assert_eq!(next(&mut left, &running), None);
        left.gone(&cart);
        assert!(left.has_own_to_ask() && asked(&left).is_empty());
        assert_eq!(next(&mut left, &running).unwrap(), "apiserver-2");
        answer_own(&mut left, "apiserver-2", Evicted::Accepted);
        assert_eq!(
            (left.has_own_to_ask(), counts(&left)),
            (false, (1, 1)),
            "it is on its way"
        );
        left.gone(&mine);
        assert!(left.is_unconfirmed());
        left.listed(&[]);
        assert!(!left.is_unconfirmed());
    }

    #[test]
    fn an_own_pod_that_nothing_could_stand_in_for_stays_and_the_node_is_empty() {
        let mine = [
            own("apiserver", "n1", "1", false),
            own("controller", "n1", "2", false),
        ];
        let mut left = left(&mine);
        assert_eq!(counts(&left), (2, 2), "not known yet");
        let running = [
            mine[0].clone(),
            mine[1].clone(),
            own("controller", "n2", "3", false),
        ];
        assert_eq!(
            next(&mut left, &running).unwrap(),
            "controller-2",
            "the apiserver stays"
        );
        assert_eq!(counts(&left), (1, 1));
        answer_own(&mut left, "controller-2", Evicted::Gone);
        assert!(left.is_unconfirmed());
        left.listed(&mine[..1]);
        assert_eq!(next(&mut left, &running), None);
        assert_eq!((left.is_unconfirmed(), counts(&left)), (false, (0, 0)));

        assert!(left.is_to_be_asked_again());
        left.ask_again();
        let running = [mine[0].clone(), own("apiserver", "n2", "4", false)];
        assert_eq!(
            next(&mut left, &running).unwrap(),
            "apiserver-1",
            "now there is another"
        );
    }

    #[test]
    fn a_read_that_finds_own_pods_alone_confirms_that_the_node_is_empty_of_others() {
        let mine = own("apiserver", "n1", "1", false);
        let mut left = left(std::slice::from_ref(&mine));
        assert_eq!(next(&mut left, std::slice::from_ref(&mine)), None);
        left.seen(&mine);
        assert_eq!((left.is_unconfirmed(), counts(&left)), (false, (0, 0)));
        left.seen(&pod("late", "9", false, "Running"));
        assert_eq!((counts(&left), asked(&left)), ((1, 0), vec!["late".to_owned()]));
        left.gone(&pod("late", "9", false, "Running"));
        assert!(left.has_own_to_ask(), "it is looked at anew");
        assert_eq!(next(&mut left, &[]), None);
        assert!(left.is_unconfirmed());
        left.seen(&own("apiserver", "n1", "1", true));
        assert_eq!(counts(&left), (1, 1), "one that ends is waited for");
    }

    #[test]
    fn an_own_pod_that_comes_back_is_not_evicted_again_whenever_it_says_that_it_was_made() {
        let mine = own("apiserver", "n1", "1", false);
        let running = [mine.clone(), own("apiserver", "n2", "2", false)];
        let mut left = left(std::slice::from_ref(&mine));
        assert_eq!(next(&mut left, &running).unwrap(), "apiserver-1");
        answer_own(&mut left, "apiserver-1", Evicted::Accepted);
        left.gone(&mine);
        // In the second of the cordon, or by another clock before it.
        let back = own("apiserver", "n1", "3", false);
        left.seen(&back);
        assert_eq!((left.has_own_to_ask(), counts(&left)), (false, (0, 0)));
        left.listed(std::slice::from_ref(&back));
        assert_eq!((left.is_unconfirmed(), counts(&left)), (false, (0, 0)));
        left.seen(&own("apiserver", "n1", "3", true));
        assert_eq!(counts(&left), (1, 1), "but one that ends is waited for");
    }

    #[test]
    fn an_own_pod_that_its_budget_holds_is_told_and_counts_as_own() {
        let mine = own("apiserver", "n1", "1", false);
        let running = [mine.clone(), own("apiserver", "n2", "2", false)];
        let mut left = left(&[mine]);
        assert_eq!(next(&mut left, &running).unwrap(), "apiserver-1");
        answer_own(&mut left, "apiserver-1", refused("own"));
        assert_eq!((counts(&left), left.has_own_to_ask()), ((1, 1), false));
        assert_eq!(left.facts().blocked.unwrap().budget.as_deref(), Some("own"));
        left.ask_again();
        assert_eq!(next(&mut left, &running).unwrap(), "apiserver-1");
    }
}
