//! `make bench`: what the operator itself takes: time, requests, memory.

use clap::Parser as _;
use testbed::bench::{Bench, run};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    Box::pin(run(&Bench::parse())).await
}
