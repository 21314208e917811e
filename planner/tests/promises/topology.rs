//! S1 for domains.

use std::collections::BTreeSet;

use api::{plan::Phase, verdict::Verdict};
use insta::assert_snapshot;

use crate::support::{Sim, hours, seconds};

const ZONE: &str = "topology.kubernetes.io/zone";

/// Two nodes in each zone, `a1` and so on.
fn zones(zones: &[&str]) -> Sim {
    zones.iter().fold(Sim::new(), |sim, zone| {
        (1..=2).fold(sim, |sim, i| {
            sim.node_with(&format!("{zone}{i}"), "1.20.3", &[(ZONE, zone)])
        })
    })
}

fn spec(max_domains: u32) -> String {
    format!("maxUnavailable: 100%\ntopology: {{key: {ZONE}, maxDomains: {max_domains}}}")
}

/// The zones of the nodes that are granted.
fn granted_in(sim: &Sim) -> BTreeSet<String> {
    sim.granted().iter().map(|node| node[..1].to_owned()).collect()
}

#[test]
fn s1_nodes_of_at_most_so_many_domains_are_disrupted_at_a_time() {
    for max in 1..=3 {
        let mut sim = zones(&["a", "b", "c"]).plan("web", &spec(max));
        sim.settle();
        assert_eq!(granted_in(&sim).len(), max as usize);
        assert_eq!(
            sim.granted().len(),
            2 * max as usize,
            "all nodes of a domain at once"
        );
        sim.run_until_phase("web", Phase::Complete);
        sim.ends_well();
    }
}

#[test]
fn s1_a_node_that_waits_for_its_domain_says_who_is_in_the_way() {
    let mut sim = zones(&["a", "b"]).plan("web", &spec(1));
    sim.settle();
    let waiting = if granted_in(&sim).contains("a") {
        "b1"
    } else {
        "a1"
    };
    let Verdict::DomainBusy { domain, max, .. } = sim.verdict(waiting) else {
        panic!("{:?}", sim.verdict(waiting))
    };
    assert_eq!((domain.as_str(), max), (&waiting[..1], 1));
    assert_snapshot!("domain_busy", sim.describe("web"));
}

#[test]
fn s1_a_domain_is_busy_with_nodes_that_are_down_for_other_reasons() {
    let mut sim = zones(&["a", "b"]).plan("web", &spec(1));
    sim.not_ready("a1");
    sim.run_for(hours(1));
    let of_a: Vec<_> = sim
        .checker
        .granted
        .iter()
        .map(|(_, node, _)| node.as_str())
        .collect();
    assert_eq!(of_a, ["a2"], "only beside the node that is down");
    assert_snapshot!("domain_busy_with_a_dead_node", sim.describe("web"));
    sim.ready("a1");
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn s1_where_more_domains_are_down_than_may_be_nothing_is_granted_in_any() {
    let mut sim = zones(&["a", "b", "c"]).plan("web", &spec(1));
    sim.cordon("a1");
    sim.not_ready("b1");
    sim.run_for(hours(1));
    assert!(sim.checker.granted.is_empty());
    assert_eq!(sim.verdict("a2").reason(), "DomainBusy");
    sim.uncordon("a1");
    sim.run_for(seconds(1));
    assert_eq!(sim.granted(), ["b2"]);
    sim.ready("b1");
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn s1_a_node_without_the_label_is_a_domain_of_its_own() {
    let mut sim = Sim::new().nodes(3).plan("web", &spec(2));
    sim.settle();
    assert_eq!(sim.granted().len(), 2);
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}

#[test]
fn s1_a_lowered_number_of_domains_stops_new_grants_only() {
    let mut sim = zones(&["a", "b", "c"]).plan("web", &spec(2));
    sim.settle();
    let granted = sim.granted();
    sim.edit("web", |spec| spec.topology.as_mut().unwrap().max_domains = 1);
    sim.settle();
    assert_eq!(sim.granted(), granted);
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
}
