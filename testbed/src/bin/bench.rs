//! `make bench`: the operator's own time per node, and the requests that an update costs.

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    Box::pin(testbed::bench::run()).await
}
