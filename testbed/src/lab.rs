//! A whole run for a test: control plane, operator, fleet, and at the end the oracle.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use api::plan::{Phase, UpdatePlanStatus};
use api::{BottlerocketShadow, UpdateLedger, UpdatePlan};
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::control_plane::{self, ControlPlane};
use crate::fleet::{Fleet, FleetSpec};
use crate::history::{History, Recorder};
use crate::operator::{self, NAMESPACE, Operator};
use crate::oracle::{self, Expectations};
use crate::truth::SimEvent;
use crate::wait;

/// How long a fleet may take to be Ready.
const FLEET_WITHIN: Duration = Duration::from_secs(60);
/// How long a kind may take to be served.
const SERVED_WITHIN: Duration = Duration::from_secs(30);
/// How long the recorder may take to catch up.
const HISTORY_WITHIN: Duration = Duration::from_secs(30);

/// Two control planes at a time: they wait more than they work, but two cores are not enough for more.
static TURNS: Semaphore = Semaphore::const_new(2);

/// A control plane with the operator's objects, and nothing that runs: for what only asks the Kubernetes API.
pub struct Bare {
    /// The control plane.
    pub plane: ControlPlane,
    _turn: SemaphorePermit<'static>,
}

impl Bare {
    /// Starts it and puts CRDs, namespace and the chart's objects on it.
    pub async fn start() -> Result<Self> {
        let turn = TURNS.acquire().await?;
        let plane = ControlPlane::start_api(control_plane::Options::default()).await?;
        tokio::try_join!(plane.wait_controllers(), operator::install(&plane))?;
        let client = plane.client().await?;
        tokio::try_join!(
            served(Api::<UpdatePlan>::all(client.clone())),
            served(Api::<BottlerocketShadow>::namespaced(client.clone(), NAMESPACE)),
            served(Api::<UpdateLedger>::namespaced(client, NAMESPACE)),
        )?;
        Ok(Self { plane, _turn: turn })
    }
}

/// Until then requests are answered with 404, though the definition of the kind is stored.
async fn served<K: wait::Watchable>(api: Api<K>) -> Result<()> {
    wait::for_objects(
        api,
        watcher::Config::default(),
        SERVED_WITHIN,
        "its kind to be served",
        |_| true,
    )
    .await?;
    Ok(())
}

/// A control plane with operator and fleet, under the recorder's eyes.
pub struct Lab {
    /// The control plane.
    pub plane: ControlPlane,
    /// The operator's programs.
    pub operator: Operator,
    /// The machines.
    pub fleet: Fleet,
    /// An admin's client.
    pub client: Client,
    recorder: Recorder,
    _turn: SemaphorePermit<'static>,
}

impl Lab {
    /// Starts everything and waits until it is ready: nodes, workloads, and a shadow with a report for every node.
    pub async fn start(fleet: FleetSpec, options: &operator::Options) -> Result<Self> {
        let turn = TURNS.acquire().await?;
        let began = std::time::Instant::now();
        let done = |what: &str| tracing::debug!(after = ?began.elapsed(), what, "the lab starts");
        // Building them may take long, and would starve a control plane.
        let programs = operator::programs(options).await?;
        done("programs");
        let plane = ControlPlane::start_api(control_plane::Options::default()).await?;
        done("kube-apiserver");
        let client = plane.client().await?;
        // None of it needs the controllers.
        let operator = async {
            operator::install(&plane).await?;
            done("installed");
            let recorder = Recorder::start(client.clone()).await?;
            done("recorder");
            let operator = Operator::start(&plane, &programs, options).await?;
            done("operator");
            Ok((recorder, operator))
        };
        let ((), (recorder, operator)) = tokio::try_join!(plane.wait_controllers(), operator)?;
        done("control plane");
        let fleet = Fleet::start(&plane, fleet, Some(operator.launcher())).await?;
        done("fleet");
        let lab = Self {
            plane,
            operator,
            fleet,
            client,
            recorder,
            _turn: turn,
        };
        lab.fleet.wait_ready(FLEET_WITHIN).await?;
        done("fleet ready");
        lab.wait_reports().await?;
        done("reports");
        Ok(lab)
    }

    /// Waits until the agent of every machine has reported.
    pub async fn wait_reports(&self) -> Result<()> {
        let machines = self.fleet.nodes().len();
        self.shadows(FLEET_WITHIN, "reports of all agents", |shadows| {
            shadows.iter().filter(|shadow| shadow.status.is_some()).count() >= machines
        })
        .await
    }

    /// `kubectl apply` of a text.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        self.plane.apply(&[], yaml).await?;
        Ok(())
    }

    /// Waits until a plan's status is as wanted.
    pub async fn plan(
        &self,
        name: &str,
        within: Duration,
        what: &str,
        wanted: impl Fn(&UpdatePlanStatus) -> bool + Send,
    ) -> Result<UpdatePlan> {
        let plans: Api<UpdatePlan> = Api::all(self.client.clone());
        let waited = wait::for_object(plans.clone(), name, within, what, |plan: Option<&UpdatePlan>| {
            plan.and_then(|plan| plan.status.as_ref()).is_some_and(&wanted)
        })
        .await;
        if let Err(error) = waited {
            bail!("{error:#}\n{}", self.describe().await);
        }
        plans.get(name).await.context("reading the plan")
    }

    /// Waits until a plan is Complete.
    pub async fn complete(&self, name: &str, within: Duration) -> Result<UpdatePlan> {
        self.plan(name, within, "plan that is Complete", |status| {
            status.phase == Some(Phase::Complete)
        })
        .await
    }

    /// Waits until all shadows together are as wanted.
    pub async fn shadows(
        &self,
        within: Duration,
        what: &str,
        wanted: impl Fn(&[BottlerocketShadow]) -> bool + Send,
    ) -> Result<()> {
        let shadows: Api<BottlerocketShadow> = Api::namespaced(self.client.clone(), NAMESPACE);
        wait::for_objects(shadows, watcher::Config::default(), within, what, |shadows| {
            let shadows: Vec<BottlerocketShadow> = shadows.iter().map(|shadow| (*shadow).clone()).collect();
            wanted(&shadows)
        })
        .await?;
        Ok(())
    }

    /// Waits until the ledger is as wanted.
    pub async fn ledger(
        &self,
        within: Duration,
        what: &str,
        wanted: impl Fn(&UpdateLedger) -> bool + Send,
    ) -> Result<()> {
        let ledgers: Api<UpdateLedger> = Api::namespaced(self.client.clone(), NAMESPACE);
        let found = wait::for_object(
            ledgers,
            api::names::LEDGER_NAME,
            within,
            what,
            |ledger: Option<&UpdateLedger>| ledger.is_some_and(&wanted),
        )
        .await;
        if let Err(error) = found {
            bail!("{error:#}\n{}", self.describe().await);
        }
        Ok(())
    }

    /// What a person would look at when something does not go on.
    pub async fn describe(&self) -> String {
        let mut text = String::new();
        for args in [
            &["get", "uplan", "-o", "yaml"][..],
            &["get", "brs", "-n", NAMESPACE, "-o", "wide"],
            &["get", "updateledgers", "-n", NAMESPACE, "-o", "yaml"],
            &["get", "nodes"],
            &["get", "pods", "-A", "-o", "wide"],
        ] {
            text += &format!("\n$ kubectl {}\n", args.join(" "));
            text += &self
                .plane
                .kubectl_ok(args)
                .await
                .unwrap_or_else(|error| format!("{error:#}"));
        }
        for process in [&self.operator.controller, &self.operator.apiserver] {
            text += &format!("\n== {}\n{}", process.recipe().name, process.log_tail());
        }
        text
    }

    /// Ends the run and gives what it is to be judged by.
    pub async fn stop(mut self) -> Result<Evidence> {
        let began = std::time::Instant::now();
        let done = |what: &str| tracing::debug!(after = ?began.elapsed(), what, "the lab stops");
        self.operator.stop().await?;
        done("operator");
        let history = self.recorder.finish(HISTORY_WITHIN).await?;
        done("recorder");
        let truth = self.fleet.truth().events();
        drop(self.fleet);
        done("fleet");
        // Nothing in it is worth an end in good order, which takes seconds.
        drop(self.plane);
        done("control plane");
        Ok(Evidence { history, truth })
    }

    /// Ends the run and has the oracle judge it; fails where a promise was broken.
    pub async fn finish(self, expectations: &Expectations) -> Result<()> {
        let Evidence { history, truth } = self.stop().await?;
        let violations = oracle::check(&history, &truth, expectations);
        if !violations.is_empty() {
            let lines: Vec<String> = violations.iter().map(ToString::to_string).collect();
            bail!(
                "the oracle saw {} broken promises:\n{}",
                lines.len(),
                lines.join("\n")
            );
        }
        Ok(())
    }
}

/// What a run is judged by: every revision of every object, and what the machines say.
pub struct Evidence {
    /// Every revision of every object.
    pub history: History,
    /// What happened on the machines.
    pub truth: Vec<SimEvent>,
}
