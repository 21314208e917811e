//! The nodes on which the operator itself runs.

use api::{ledger::GrantPhase, plan::Phase, shadow::FailureReason};
use planner::world::{Blocked, DrainFacts};

use crate::support::{Sim, hours, minutes, seconds};

/// The nodes of a rollout, in the order of their grants, where pods of the operator run on these.
fn order(hosts: &[String]) -> Vec<String> {
    let waves = "waves: [{name: canary, size: 2}, {name: rest}]";
    let mut sim = Sim::new().nodes(6).plan("web", waves);
    for host in hosts {
        sim.facts_mut(host).hosts_operator = true;
    }
    sim.run_until_phase("web", Phase::Complete);
    sim.ends_well();
    let granted = sim.checker.granted.iter();
    granted.map(|(_, node, _)| node.clone()).collect()
}

#[test]
fn the_operators_own_nodes_come_last_in_their_wave() {
    let ranked = order(&[]);
    let [a, b, c, d, e, f] = <[String; 6]>::try_from(ranked).unwrap();
    // A canary stays one.
    let hosts = [a.clone(), c.clone(), e.clone()];
    assert_eq!(order(&hosts), [b, a, d, f, c, e]);
}

#[test]
fn the_operators_own_nodes_are_updated_one_at_a_time_whatever_the_budgets_of_their_plans_allow() {
    let mut sim = Sim::new();
    for pool in ["a", "b"] {
        for i in 1..=3 {
            sim = sim.node_with(&format!("{pool}0{i}"), "1.20.3", &[("pool", pool)]);
        }
        let spec = format!("nodeSelector: {{matchLabels: {{pool: {pool}}}}}\nmaxUnavailable: 3");
        sim = sim.plan(pool, &spec);
    }
    let hosts = ["a01", "a02", "b01"];
    for host in hosts {
        sim.facts_mut(host).hosts_operator = true;
    }
    let mut most = 0;
    for _ in 0..400 {
        sim.run_to(sim.now + seconds(10));
        let grants = sim.ledger().grants.values().map(|grant| grant.node.clone());
        let granted: Vec<String> = grants.filter(|node| hosts.contains(&node.as_str())).collect();
        most = most.max(granted.len());
        // What is evicted may come back elsewhere: its node is on its way all the same.
        for node in granted {
            sim.facts_mut(&node).hosts_operator = false;
        }
    }
    assert_eq!(most, 1);
    sim.run_until_phase("a", Phase::Complete);
    sim.run_until_phase("b", Phase::Complete);
    sim.ends_well();
}

/// A node at the end of its drain's time, with so many pods left, and so many of these the operator's own.
fn at_the_time_out(left: u32, own: u32) -> (Sim, String) {
    let mut sim = Sim::new().nodes(1).plan("web", "drain: {timeout: 5m}");
    let node = "n01".to_owned();
    sim.retime(&node, |timing| timing.drain = hours(1));
    sim.run_until("the cordon", |sim| sim.facts(&node).drain.is_some());
    let blocked = Some(Blocked {
        pod: "brupop-bottlerocket-aws/brupop-update-apiserver-0".to_owned(),
        budget: Some("apiserver".to_owned()),
        message: String::new(),
    });
    sim.facts_mut(&node).drain = Some(DrainFacts { left, own, blocked });
    // What the apiserver sees.
    sim.hidden_mut(&node).pods = left - own;
    let cordoned = sim.facts(&node).disruption.clone().unwrap().cordoned_at;
    sim.run_to(cordoned + minutes(5) - minutes(1));
    assert_eq!(phase(&sim, &node), Some(GrantPhase::Granted), "it is waited for");
    sim.run_to(cordoned + minutes(5));
    (sim, node)
}

fn phase(sim: &Sim, node: &str) -> Option<GrantPhase> {
    let uid = &sim.facts(node).uid;
    sim.ledger().grants.get(uid).map(|grant| grant.phase)
}

#[test]
fn an_own_pod_that_its_budget_holds_to_the_end_does_not_fail_its_node() {
    let (mut sim, node) = at_the_time_out(2, 2);
    assert_eq!(phase(&sim, &node), Some(GrantPhase::Drained));
    sim.run_until_phase("web", Phase::Complete);
    assert_eq!(sim.hidden(&node).runs, "1.21.0");
    sim.ends_well();
}

#[test]
fn an_own_pod_is_no_excuse_for_another_that_is_left() {
    let (sim, node) = at_the_time_out(2, 1);
    let grant = &sim.ledger().grants[&sim.facts(&node).uid];
    let failure = grant.ending.as_ref().and_then(|ending| ending.failure);
    assert_eq!(failure, Some(FailureReason::DrainTimeout));
}
