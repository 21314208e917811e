//! What is still to be had of every limit: the plan's, its waves', its topology's and the ledger's.

use std::collections::{BTreeMap, HashMap};

use api::{ledger::MAX_GRANTS, plan::Topology, verdict::Verdict};

use crate::{
    plan::Planning,
    rollout::{Rollout, being_updated},
    spec::ValidPlan,
    waves::Assignment,
    world::NodeFacts,
};

/// How many of the nodes, or domains, that spend a limit are named.
const NAMED: usize = 5;

/// The limits of a plan, and the nodes that spend them: those that are unavailable for whatever reason, and those that
/// are granted in this answer.
pub(crate) struct Budgets<'a> {
    valid: &'a ValidPlan,
    assignment: &'a Assignment,
    /// Of the plan.
    max: usize,
    down: Vec<String>,
    down_in_wave: HashMap<usize, Vec<String>>,
    /// The unavailable nodes of each domain that has any.
    busy: BTreeMap<Domain, Vec<String>>,
    /// Grants in the ledger, and those of plans before that wait for no more than a finalizer: their places are taken.
    live: usize,
    /// The install's limit, and the nodes without a grant that spend it.
    install: Option<&'a (usize, Vec<String>)>,
    /// The nodes with pods of the operator itself that are being updated, whatever their plan.
    pub hosts: Vec<String>,
    told: Told,
}

/// Whose limit is spent, as the nodes before were told: the same for every node until the next grant.
#[derive(Default)]
struct Told {
    plan: Option<Verdict>,
    operator: Option<Verdict>,
    install: Option<Verdict>,
    waves: HashMap<usize, Verdict>,
}

/// Where a node is, by the plan's topology.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Domain {
    /// With the others that have this value of the label.
    Shared(String),
    /// Nobody knows. Taken for a place of its own, no fewer domains are disrupted than are counted.
    Unknown(String),
}

impl Domain {
    /// The node's.
    pub fn of(topology: &Topology, node: &NodeFacts) -> Self {
        node.labels.get(&topology.key).map_or_else(
            || Self::Unknown(node.name.clone()),
            |value| Self::Shared(value.clone()),
        )
    }

    fn name(&self) -> &str {
        let (Self::Shared(name) | Self::Unknown(name)) = self;
        name
    }
}

impl<'a> Budgets<'a> {
    pub fn new(
        planning: &'a Planning<'_>,
        rollout: &Rollout<'_>,
        valid: &'a ValidPlan,
        assignment: &'a Assignment,
    ) -> Self {
        let mut budgets = Self {
            valid,
            assignment,
            max: rollout.max_unavailable,
            down: Vec::new(),
            down_in_wave: HashMap::new(),
            busy: BTreeMap::new(),
            live: planning.ledger.grants.len() + planning.starting,
            install: planning.install.as_ref(),
            hosts: planning.hosts.clone(),
            told: Told::default(),
        };
        for (i, words) in rollout.down.iter().zip(&rollout.unavailable) {
            let (node, wave) = (rollout.members[*i].node, assignment.wave_of[*i]);
            budgets.spend(node, wave, words.clone());
        }
        budgets
    }

    /// Whether nothing is left for any node.
    pub fn is_spent(&self) -> bool {
        self.down.len() >= self.max
    }

    /// Why the node, of this wave, cannot be granted beside those that spend the limits already.
    pub fn refusal(&mut self, node: &NodeFacts, wave: usize) -> Option<Verdict> {
        self.plan_refusal()
            .or_else(|| self.wave_refusal(wave))
            .or_else(|| self.domain_refusal(node))
            .or_else(|| self.install_refusal())
            .or_else(|| self.operator_refusal())
            .or_else(|| self.host_refusal(node))
    }

    /// The node is granted in this answer.
    pub fn take(&mut self, node: &NodeFacts, wave: usize) {
        self.live += 1;
        if node.hosts_operator {
            self.hosts.push(being_updated(node));
        }
        self.spend(node, wave, being_updated(node));
    }

    fn spend(&mut self, node: &NodeFacts, wave: usize, words: String) {
        self.told = Told::default();
        if let Some(domain) = self.domain(node) {
            self.busy.entry(domain).or_default().push(words.clone());
        }
        self.down_in_wave.entry(wave).or_default().push(words.clone());
        self.down.push(words);
    }

    fn plan_refusal(&mut self) -> Option<Verdict> {
        let verdict = || spent(&self.down, self.max, "plan".to_owned());
        (self.down.len() >= self.max).then(|| self.told.plan.get_or_insert_with(verdict).clone())
    }

    fn wave_refusal(&mut self, index: usize) -> Option<Verdict> {
        let wave = &self.valid.waves[index];
        let max = wave.max_unavailable?.at_most(self.assignment.waves[index].nodes);
        let down = self.down_in_wave.get(&index).map_or(&[][..], Vec::as_slice);
        let verdict = || spent(down, max, format!("wave {}", wave.name));
        (down.len() >= max).then(|| self.told.waves.entry(index).or_insert_with(verdict).clone())
    }

    /// The nodes of this plan that are being updated are named first: who else is, its own plan tells.
    fn install_refusal(&mut self) -> Option<Verdict> {
        let (max, down) = self.install?;
        let unavailable = self.live + down.len();
        let verdict = || {
            let own = self.down.iter().filter(|words| !down.contains(words));
            let by: Vec<String> = own.chain(down).take(NAMED).cloned().collect();
            Verdict::BudgetSpent {
                unavailable: u32::try_from(unavailable).unwrap_or(u32::MAX),
                max: u32::try_from(*max).unwrap_or(u32::MAX),
                limit: "install".to_owned(),
                by: by.into(),
            }
        };
        (unavailable >= *max).then(|| self.told.install.get_or_insert_with(verdict).clone())
    }

    fn operator_refusal(&mut self) -> Option<Verdict> {
        let verdict = || spent(&self.down, MAX_GRANTS, "operator".to_owned());
        (self.live >= MAX_GRANTS).then(|| self.told.operator.get_or_insert_with(verdict).clone())
    }

    /// One at a time of the nodes that the operator itself runs on: else the last replica could go with the first.
    fn host_refusal(&self, node: &NodeFacts) -> Option<Verdict> {
        let busy = node.hosts_operator && !self.hosts.is_empty();
        busy.then(|| spent(&self.hosts, 1, "operator's own nodes".to_owned()))
    }

    /// Where more domains have unavailable nodes than may, one that is among them does not make it better.
    fn domain_refusal(&self, node: &NodeFacts) -> Option<Verdict> {
        let topology = self.valid.topology.as_ref()?;
        let domain = self.domain(node)?;
        let others = self.busy.len() - usize::from(self.busy.contains_key(&domain));
        (others >= topology.max_domains as usize).then(|| Verdict::DomainBusy {
            domain: domain.name().to_owned(),
            key: topology.key.clone(),
            max: topology.max_domains,
            busy: self
                .busy
                .iter()
                .take(NAMED)
                .filter_map(|(busy, nodes)| Some(format!("{} is busy with {}", busy.name(), nodes.first()?)))
                .collect(),
        })
    }

    fn domain(&self, node: &NodeFacts) -> Option<Domain> {
        Some(Domain::of(self.valid.topology.as_ref()?, node))
    }
}

fn spent(down: &[String], max: usize, limit: String) -> Verdict {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Verdict::BudgetSpent {
        unavailable: number(down.len()),
        max: number(max),
        limit,
        by: down.iter().take(NAMED).cloned().collect(),
    }
}
