//! What one exploration is about, and its bounds.

use serde_json::{Value, json};

use crate::{
    state::{CONTROLLERS, Lag, NODES, PLANS},
    time::{TICK, at, far},
};

/// The version that every node runs first.
pub const OLD: &str = "1.20.3";
/// The first target.
pub const NEW: &str = "1.21.0";
/// What a plan is edited to.
pub const NEWER: &str = "1.22.0";

/// What goes wrong. Each kind has a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A controller ends, and starts again at some later time.
    ControllerCrash,
    /// A write of a controller, or its answer, is lost.
    WriteLost,
    /// An agent ends and starts again; what it has asked for goes on.
    AgentRestart,
    /// An apiserver ends in the middle of a permit, or its answer is lost.
    PermitLost,
    /// A machine loses its power.
    PowerLoss,
    /// A machine boots the version that it ran before.
    BootsOld,
    /// A machine does not come back from a reboot.
    NeverReturns,
    /// `prepare-update` fails.
    PrepareFails,
    /// A pod that was bound before the cordon arrives after the drain.
    LatePod,
    /// A kubelet does not answer for a while.
    NotReady,
}

/// All of them.
pub const FAULTS: [Fault; 10] = [
    Fault::ControllerCrash,
    Fault::WriteLost,
    Fault::AgentRestart,
    Fault::PermitLost,
    Fault::PowerLoss,
    Fault::BootsOld,
    Fault::NeverReturns,
    Fault::PrepareFails,
    Fault::LatePod,
    Fault::NotReady,
];

/// What people do, each at most once, at any moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// A plan is paused.
    Pause(usize),
    /// A paused plan is resumed.
    Resume(usize),
    /// A plan gets a newer target.
    Retarget(usize),
    /// A plan is deleted.
    Delete(usize),
    /// A node that is schedulable is cordoned.
    Cordon(usize),
    /// A cordoned node is uncordoned, whoever cordoned it.
    Uncordon(usize),
}

/// How finely the steps are taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// Every call is a step of its own, and every command takes its time.
    Fine,
    /// What nobody else can see is done at once.
    Coarse,
}

/// A plan of a configuration.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its nodes.
    pub nodes: Vec<usize>,
    /// Open from and until these ticks; None: for ever. No window: always open.
    pub windows: Vec<(u16, Option<u16>)>,
    /// `spec.onWindowEnd: Finish`.
    pub finish: bool,
    /// How many ticks a node is expected to take.
    pub expected: u16,
    /// `spec.maxUnavailable`.
    pub max_unavailable: usize,
    /// Whether its first node is a canary, and for how many ticks it is watched.
    pub canary: Option<u16>,
    /// `spec.failurePolicy.retries`.
    pub retries: u16,
    /// `spec.failurePolicy.threshold`.
    pub threshold: usize,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            nodes: vec![0],
            windows: Vec::new(),
            finish: false,
            expected: 0,
            max_unavailable: 1,
            canary: None,
            retries: 0,
            threshold: 1,
        }
    }
}

/// How many ticks each step may take. None: longer than anything in the model.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// `timeouts.stage`.
    pub stage: Option<u16>,
    /// `drain.timeout`.
    pub drain: Option<u16>,
    /// `timeouts.reboot`.
    pub reboot: Option<u16>,
    /// `monitoring.timeout`.
    pub monitoring: Option<u16>,
    /// `monitoring.minReady`; 0 where it is None.
    pub min_ready: u16,
    /// The first wait before a node is tried again.
    pub backoff: u16,
    /// How long a grant that ends waits for a node that does not answer.
    pub release_wait: u16,
}

/// What one exploration is about.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its name.
    pub name: &'static str,
    /// What it shows, in a few words.
    pub about: &'static str,
    /// How many nodes there are.
    pub nodes: usize,
    /// The plans.
    pub plans: Vec<Plan>,
    /// How many controllers act at once.
    pub controllers: usize,
    /// How many of them see what others write only later, object by object.
    pub lagging: usize,
    /// How many objects each of those sees late at once, at most; the ledger is one.
    pub lag_objects: usize,
    /// How many writes of a controller are under way at once. 0: each is done as soon as it is decided.
    pub in_flight: usize,
    /// How finely the controllers' rounds are taken apart: coarse, all writes of one arrive at once, and a drain that evicts has
    /// read the pods.
    pub rounds: Grain,
    /// How finely machines are: coarse, nobody hears of one that is down until it is back, unless it never is.
    pub machines: Grain,
    /// How finely the agents' steps are taken apart.
    pub agents: Grain,
    /// How finely the apiserver's steps are taken apart.
    pub permits: Grain,
    /// The limits.
    pub limits: Limits,
    /// The install's own limit of unavailable nodes.
    pub install: Option<u32>,
    /// Whether the drain of a node never ends, by node.
    pub blocked: [bool; NODES],
    /// Whether the machines' time goes on; where nothing depends on it, it need not.
    pub ticks: bool,
    /// How often each fault may happen.
    pub faults: Vec<(Fault, u8)>,
    /// How often any of them.
    pub faults_in_all: u8,
    /// What people do.
    pub deeds: Vec<Deed>,
    /// How many of those.
    pub deeds_in_all: u8,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "",
            about: "",
            nodes: 1,
            plans: vec![Plan::default()],
            controllers: 1,
            lagging: 0,
            lag_objects: usize::MAX,
            in_flight: 0,
            rounds: Grain::Fine,
            machines: Grain::Fine,
            agents: Grain::Coarse,
            permits: Grain::Coarse,
            limits: Limits::default(),
            install: None,
            blocked: [false; NODES],
            ticks: true,
            faults: Vec::new(),
            faults_in_all: u8::MAX,
            deeds: Vec::new(),
            deeds_in_all: u8::MAX,
        }
    }
}

/// Up to which age, in ticks, a time matters.
#[derive(Clone, Copy, Debug)]
pub struct Ages {
    /// `grantedAt`.
    pub granted: u16,
    /// `grantedAt`, as far as the next nodes are expected to take as long: until the last close.
    pub learned: u16,
    /// `phaseSince` of a grant that is Drained or Rebooting.
    pub rebooting: u16,
    /// `phaseSince` of a grant that is Monitoring.
    pub monitoring: u16,
    /// When the node was cordoned.
    pub cordoned: u16,
    /// When a shadow was asked to undo, or updated.
    pub asked: u16,
    /// When an attempt failed or ended.
    pub ended: u16,
    /// When the node became Ready.
    pub ready: u16,
    /// When a permit was asked for.
    pub permit: u16,
}

impl Config {
    /// The tick from which on no window opens or closes.
    #[must_use]
    pub fn last_tick(&self) -> u16 {
        let edges = self.plans.iter().flat_map(|plan| &plan.windows);
        edges
            .map(|(from, until)| until.unwrap_or(*from))
            .max()
            .unwrap_or(0)
    }

    /// The tick from which on no window closes on a node that another update, one that was learned from, came before.
    fn last_close_that_is_learned_for(&self) -> u16 {
        let again =
            |(p, plan): &(usize, &Plan)| plan.nodes.len() > 1 || self.deeds.contains(&Deed::Retarget(*p));
        let plans = self.plans.iter().enumerate().filter(again);
        let closes = plans.flat_map(|(_, plan)| plan.windows.iter().filter_map(|(_, until)| *until));
        closes.max().unwrap_or(0)
    }

    /// Up to which age each time matters: the longest limit that it is compared with.
    #[must_use]
    pub fn ages(&self) -> Ages {
        let Limits {
            stage,
            drain,
            reboot,
            monitoring,
            min_ready,
            backoff,
            release_wait,
        } = self.limits;
        let soak = self
            .plans
            .iter()
            .filter_map(|plan| plan.canary)
            .max()
            .unwrap_or(0);
        let retries = self.plans.iter().map(|plan| plan.retries).max().unwrap_or(0);
        let longest_backoff = (0..retries).map(|n| backoff << n).max().unwrap_or(0);
        let permit = api::ledger::PERMIT_VALIDITY.num_seconds() / TICK.num_seconds();
        let permit = u16::try_from(permit).unwrap_or(u16::MAX);
        Ages {
            granted: stage.unwrap_or(0),
            learned: self.last_close_that_is_learned_for(),
            rebooting: reboot.unwrap_or(0),
            monitoring: monitoring.unwrap_or(0).max(min_ready),
            cordoned: drain.map_or(0, |drain| drain + release_wait),
            asked: stage.unwrap_or(0).max(release_wait).max(soak),
            ended: longest_backoff.max(soak).max(permit),
            ready: min_ready,
            permit,
        }
    }

    /// Whether anybody acts on what he has not just seen.
    #[must_use]
    pub fn sees_late(&self) -> bool {
        self.lagging > 0 || self.in_flight > 0
    }

    /// Who sees late what others write.
    #[must_use]
    pub fn lag(&self) -> Lag {
        Lag {
            controllers: self.lagging,
            objects: self.lag_objects,
        }
    }

    /// How often a fault may happen.
    #[must_use]
    pub fn bound(&self, fault: Fault) -> u8 {
        self.faults
            .iter()
            .filter(|(kind, _)| *kind == fault)
            .map(|(_, n)| *n)
            .sum()
    }

    /// The spec of a plan, as a person would have written it.
    #[must_use]
    pub fn plan_spec(&self, index: usize) -> Value {
        let plan = &self.plans[index];
        let span = |ticks: u16| format!("{}s", TICK.num_seconds() * i64::from(ticks));
        let limit = |ticks: Option<u16>| ticks.map_or_else(|| "24h".to_owned(), span);
        let windows = plan.windows.iter().enumerate().map(|(i, (from, until))| {
            json!({"name": format!("w{i}"), "start": at(*from), "end": until.map_or_else(far, at)})
        });
        let waves = match plan.canary {
            Some(soak) => json!([{"name": "canary", "size": 1, "soak": span(soak)}, {"name": "rest"}]),
            None => json!([]),
        };
        let Limits {
            stage,
            drain,
            reboot,
            monitoring,
            min_ready,
            ..
        } = self.limits;
        json!({
            "targetVersion": NEW,
            "nodeSelector": {"matchExpressions": [{"key": "node", "operator": "In",
                "values": plan.nodes.iter().map(usize::to_string).collect::<Vec<_>>()}]},
            "maintenanceWindows": windows.collect::<Vec<_>>(),
            "onWindowEnd": if plan.finish { "Finish" } else { "Withdraw" },
            "expectedNodeDuration": if plan.expected == 0 { "1s".to_owned() } else { span(plan.expected) },
            "maxUnavailable": plan.max_unavailable,
            "skipAfter": "720h",
            "waves": waves,
            "drain": {"timeout": limit(drain)},
            "monitoring": {"minReady": span(min_ready), "timeout": limit(monitoring)},
            "failurePolicy": {"retries": plan.retries, "threshold": plan.threshold},
            "timeouts": {"stage": limit(stage), "reboot": limit(reboot)},
        })
    }

    /// Whether the configuration fits the model.
    ///
    /// # Errors
    /// What does not.
    pub fn check(&self) -> Result<(), String> {
        if self.nodes > NODES || self.plans.len() > PLANS || self.controllers > CONTROLLERS {
            return Err(format!(
                "{}: at most {NODES} nodes, {PLANS} plans, {CONTROLLERS} controllers",
                self.name
            ));
        }
        if self.rounds == Grain::Coarse && self.in_flight > 0 {
            return Err(format!("{}: a write under way is a step of its own", self.name));
        }
        if self.limits.drain.is_some() && self.plans.iter().any(|plan| plan.finish) {
            return Err(format!(
                "{}: a cordon's time is told for one purpose only",
                self.name
            ));
        }
        Ok(())
    }
}
