//! The controller's process: settings, logs, signals.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use clap::{CommandFactory, Parser, error::ErrorKind};
use controller::{
    context, health, run,
    settings::{LogFormat, Settings},
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{filter::Targets, fmt, prelude::*};

// One thread: all it does is wait for answers, and each thread more would keep memory of its own.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let settings = Settings::parse();
    if let Err(error) = settings.check() {
        Settings::command()
            .error(ErrorKind::ValueValidation, error)
            .exit();
    }
    log(&settings)?;
    let config = kube::Config::infer()
        .await
        .context("no kubeconfig and not in a cluster")?;
    let client = context::client(config, &settings).context("the Kubernetes API cannot be used")?;
    let listener = health::bind(settings.health_listen, settings.health_address_file.as_deref())
        .await
        .with_context(|| format!("cannot listen on --health-listen {}", settings.health_listen))?;
    let stop = CancellationToken::new();
    tokio::spawn(stop_on_signal(stop.clone())?);
    run::run(settings, client, listener, stop).await;
    Ok(())
}

fn log(settings: &Settings) -> anyhow::Result<()> {
    let filter: Targets = settings
        .log
        .parse()
        .with_context(|| format!("--log {}", settings.log))?;
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let logs = tracing_subscriber::registry().with(filter);
    match settings.log_format {
        LogFormat::Json => logs.with(lines.json()).init(),
        LogFormat::Text => logs.with(lines).init(),
    }
    Ok(())
}

fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        stop.cancel();
    })
}
