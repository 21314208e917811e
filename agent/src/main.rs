//! The agent as a process: settings from flags and environment, JSON logs, SIGTERM ends it.

use std::process::ExitCode;

use agent::Config;
use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{filter::Targets, fmt, prelude::*};

fn main() -> ExitCode {
    let config = Config::parse();
    tracing_subscriber::registry()
        .with(fmt::layer().json().flatten_event(true))
        .with(filter())
        .init();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the runtime does not start");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(serve(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the agent ends, to be started again");
            ExitCode::FAILURE
        }
    }
}

/// What `RUST_LOG` asks for, by module and level. What else it could ask for takes a regular expression engine.
fn filter() -> Targets {
    let asked = std::env::var("RUST_LOG").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO))
}

async fn serve(config: Config) -> Result<(), Box<dyn std::error::Error>> {
    let shutdown = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let work = Box::pin(agent::run(config, shutdown.clone()));
    let signals = async {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("asked to end");
        shutdown.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        result = work => Ok(result?),
        () = signals => Ok(()),
    }
}
