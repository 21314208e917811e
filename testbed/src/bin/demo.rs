//! `make demo`: an example plan, rolled out to the end on a real control plane and a simulated fleet, live.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

use std::process::ExitCode;

use clap::Parser;
use testbed::demo::{self, Demo};

#[tokio::main]
async fn main() -> ExitCode {
    let demo = Demo::parse();
    match Box::pin(demo::run(&demo)).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
