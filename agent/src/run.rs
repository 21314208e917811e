//! The loop: an instruction or the end of a wait leads to a look at the node, the look to a step.

use std::{path::PathBuf, time::Duration};

use api::{
    shadow::{BottlerocketShadowSpec, BottlerocketShadowStatus, NodeState},
    wire::{Instruction, PermitRequest},
};
use chrono::{SubsecRound as _, Utc};
use hyper::StatusCode;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    bottlerocket::CallError,
    config::{Config, Timings},
    host::{Call, Host, HostError, HostFacts},
    memory::{Memory, Now},
    report,
    server::{BadUrl, Server, ServerError},
    step::{Step, step},
    stream::{self, Order, Unreadable, full_jitter},
};

/// Why the agent ends by itself.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Bottlerocket's socket refuses connections: it may be a stale one, which only a new mount cures.
    #[error("{socket} refuses connections for {seconds} s: {problem}")]
    SocketRefused {
        /// The socket.
        socket: PathBuf,
        /// For how long.
        seconds: u64,
        /// What the last try gave.
        problem: String,
    },
    /// The address of the apiserver is none.
    #[error(transparent)]
    Url(#[from] BadUrl),
}

/// Runs the agent until `shutdown`.
///
/// # Errors
/// Where it has to be started again, or its settings cannot be used.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), AgentError> {
    let server = Server::new(&config)?;
    tracing::info!(
        node = config.node_name,
        server = config.server_url,
        "the agent starts"
    );
    tokio::select! {
        biased;
        () = shutdown.cancelled() => Ok(()),
        result = Box::pin(work(&config, &server)) => result,
    }
}

async fn work(config: &Config, server: &Server) -> Result<(), AgentError> {
    let host = Host::new(
        config.api_socket.clone(),
        config.boot_id_file.clone(),
        config.timings.request_timeout,
    );
    let mut agent = Agent {
        config,
        timings: &config.timings,
        server,
        host,
        started: Instant::now(),
        refused_since: None,
        memory: Memory::default(),
        server_failures: 0,
        refused: None,
        next_refresh: Instant::now(),
    };
    agent.plan_refresh();
    // An agent that cannot reach its own node has nothing to ask the server for.
    while agent.look().await?.is_none() {
        if let Some(until) = agent.memory.hold_until {
            sleep_until(agent.started + until).await;
        }
    }
    let (orders, mut inbox) = watch::channel(None);
    tokio::select! {
        () = stream::follow(server, &orders, &config.timings) => Ok(()),
        result = agent.obey(&mut inbox) => result,
    }
}

struct Agent<'a> {
    config: &'a Config,
    timings: &'a Timings,
    server: &'a Server,
    host: Host,
    started: Instant,
    /// Since when Bottlerocket's socket refuses connections.
    refused_since: Option<Instant>,
    memory: Memory,
    server_failures: u32,
    /// The instruction that was last reported as not understood.
    refused: Option<Unreadable>,
    /// When an idle node asks its repository again what is on offer.
    next_refresh: Instant,
}

impl Agent<'_> {
    /// Does what it is told, for ever.
    async fn obey(&mut self, inbox: &mut watch::Receiver<Option<Order>>) -> Result<(), AgentError> {
        let mut order = None;
        loop {
            self.take_newest(inbox, &mut order);
            if self.is_done(order.as_ref()) {
                tokio::select! {
                    // The sender lives as long as this loop.
                    _ = inbox.changed() => inbox.mark_changed(),
                    () = sleep_until(self.next_refresh), if is_idle(order.as_ref()) => {
                        self.plan_refresh();
                        self.memory.refresh_is_due();
                    }
                }
                continue;
            }
            let held = self.memory.hold_until.map(|until| self.started + until);
            if let Some(until) = held.filter(|until| Instant::now() < *until) {
                tokio::select! {
                    () = sleep_until(until) => {}
                    _ = inbox.changed() => inbox.mark_changed(),
                }
                continue;
            }
            self.memory.hold_until = None;
            let Some(facts) = self.look().await? else { continue };
            // The newest order, not the one that led to the look.
            self.take_newest(inbox, &mut order);
            match &order {
                Some(Order::Instruction(instruction)) => self.act(instruction, &facts).await?,
                Some(Order::Unreadable(unreadable)) => self.refuse(unreadable, &facts).await,
                Some(Order::NoShadow) => {
                    let status = report::current(self.memory.known.as_ref(), &facts);
                    match self.server.ensure_shadow(&status).await {
                        // What is stored in it comes with the instruction.
                        Ok(()) => order = None,
                        Err(error) => self.server_failed("having the shadow created", &error),
                    }
                }
                None => {}
            }
        }
    }

    /// Agents that were started together do not ask together.
    fn plan_refresh(&mut self) {
        let interval = self.timings.refresh_interval;
        self.next_refresh = Instant::now() + interval / 2 + full_jitter(interval);
    }

    fn is_done(&self, order: Option<&Order>) -> bool {
        match order {
            None => true,
            Some(Order::Instruction(_)) => self.memory.settled,
            Some(Order::Unreadable(unreadable)) => self.refused.as_ref() == Some(unreadable),
            Some(Order::NoShadow) => false,
        }
    }

    fn take_newest(&mut self, inbox: &mut watch::Receiver<Option<Order>>, order: &mut Option<Order>) {
        if !inbox.has_changed().unwrap_or_default() {
            return;
        }
        let newest = inbox.borrow_and_update().clone();
        match &newest {
            Some(Order::Instruction(instruction)) => {
                if instruction.spec != self.memory.work.spec {
                    let BottlerocketShadowSpec {
                        state,
                        version,
                        run,
                        attempt,
                        ..
                    } = &instruction.spec;
                    tracing::info!(%state, version, run, attempt, "a new instruction");
                }
                self.memory.instructed(instruction);
                self.refused = None;
            }
            Some(Order::Unreadable(_)) if newest != *order => self.memory.disregard(),
            Some(Order::Unreadable(_) | Order::NoShadow) | None => {}
        }
        *order = newest;
    }

    /// What the node is like. None where it cannot be told now.
    async fn look(&mut self) -> Result<Option<HostFacts>, AgentError> {
        match self.host.facts().await {
            Ok(facts) => {
                self.refused_since = None;
                self.memory.saw(&facts, self.timings, self.now());
                Ok(Some(facts))
            }
            Err(error) => {
                tracing::warn!(%error, "the node cannot be looked at, trying again");
                let call = match &error {
                    HostError::Call { error, .. } => Some(error),
                    HostError::BootId { .. } => None,
                };
                self.note_refusal(call)?;
                self.memory.hold(self.timings, self.now());
                Ok(None)
            }
        }
    }

    async fn refuse(&mut self, unreadable: &Unreadable, facts: &HostFacts) {
        let problem = &unreadable.problem;
        tracing::error!(problem, "an instruction is not understood and left undone");
        let status = report::not_understood(self.memory.known.as_ref(), facts, unreadable);
        if self.report(status).await {
            self.refused = Some(unreadable.clone());
        }
    }

    async fn act(&mut self, instruction: &Instruction, facts: &HostFacts) -> Result<(), AgentError> {
        match step(instruction, &self.memory, facts, self.timings, self.now()) {
            Step::Call(call) => self.call(&call, facts).await?,
            Step::Report(status) => drop(self.report(*status).await),
            Step::AskPermit(request) => self.ask_permit(&request).await,
            Step::Reboot { until } => self.reboot(until, facts).await?,
            Step::Wait { until } => self.memory.hold_until = Some(until),
            Step::Done => self.memory.settled = true,
        }
        Ok(())
    }

    async fn call(&mut self, call: &Call, facts: &HostFacts) -> Result<(), AgentError> {
        let answer = self.host.call(call).await;
        match &answer {
            Ok(()) => tracing::info!(?call, "called"),
            Err(error) => tracing::warn!(?call, %error, "a call failed"),
        }
        self.memory.called(call, &answer, facts, self.timings, self.now());
        self.note_refusal(answer.as_ref().err())
    }

    /// True where the server took the report.
    async fn report(&mut self, status: BottlerocketShadowStatus) -> bool {
        match self.server.report(&status).await {
            Ok(()) => {
                let BottlerocketShadowStatus {
                    current_state,
                    current_version,
                    error,
                    ..
                } = &status;
                let error = error.as_ref().map(|error| error.message.as_str());
                tracing::info!(state = %current_state, version = current_version, error, "reported");
                self.server_failures = 0;
                self.memory.reported(status);
                return true;
            }
            Err(error) => {
                if error.is_not_found()
                    && let Err(error) = self.server.ensure_shadow(&status).await
                {
                    tracing::warn!(%error, "the shadow cannot be created");
                }
                self.server_failed("reporting", &error);
            }
        }
        false
    }

    async fn ask_permit(&mut self, request: &PermitRequest) {
        let asked = self.now().elapsed;
        match self.server.permit(request).await {
            Ok(permit) => {
                tracing::info!(permit.permit_id, permit.valid_for_ms, "the reboot is permitted");
                self.server_failures = 0;
                self.memory.permitted(permit, asked);
            }
            Err(ServerError::Refused {
                status: StatusCode::CONFLICT,
                refusal,
            }) => {
                tracing::info!(refusal.message, "the reboot is not permitted");
                self.server_failures = 0;
                self.memory
                    .permit_refused(refusal.permit, self.timings, self.now());
            }
            Err(error) => self.server_failed("asking for the reboot permit", &error),
        }
    }

    async fn reboot(&mut self, until: Duration, facts: &HostFacts) -> Result<(), AgentError> {
        self.memory.rebooting(&facts.boot_id, self.now());
        let answer = self.host.api().reboot(self.started + until).await;
        match &answer {
            Ok(()) => tracing::info!("the node reboots"),
            Err(error) => tracing::warn!(%error, "the reboot call gave no good answer"),
        }
        self.memory.reboot_answered(&answer, self.timings, self.now());
        self.note_refusal(answer.as_ref().err())
    }

    fn server_failed(&mut self, what: &str, error: &ServerError) {
        tracing::warn!(%error, "{what} failed, trying again");
        self.server_failures = self.server_failures.saturating_add(1);
        let pause = full_jitter(self.timings.reconnect(self.server_failures));
        self.memory.hold_until = Some(self.now().elapsed + pause);
    }

    /// Ends the agent where the socket has refused connections for too long.
    fn note_refusal(&mut self, error: Option<&CallError>) -> Result<(), AgentError> {
        let Some(CallError::NotSent(problem)) = error else {
            self.refused_since = None;
            return Ok(());
        };
        let refused = self.refused_since.get_or_insert_with(Instant::now).elapsed();
        if refused < self.timings.socket_refused_exit {
            return Ok(());
        }
        let socket = self.config.api_socket.clone();
        Err(AgentError::SocketRefused {
            socket,
            seconds: refused.as_secs(),
            problem: problem.to_string(),
        })
    }

    fn now(&self) -> Now {
        Now {
            elapsed: self.started.elapsed(),
            wall: Utc::now().trunc_subsecs(3),
        }
    }
}

fn is_idle(order: Option<&Order>) -> bool {
    matches!(order, Some(Order::Instruction(instruction)) if instruction.spec.state == NodeState::Idle)
}
