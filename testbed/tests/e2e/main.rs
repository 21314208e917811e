//! End to end: the real control plane, controller, apiserver and agents, on simulated machines. Every run is judged by
//! the oracle.
//!
//! - `rollout`: windows and waves from `kubectl apply` to `kubectl wait`, and what a person reads meanwhile
//! - `window`, `exclusions`: what a closing window, or an exclusion, does to nodes on their way
//! - `lifecycle`: the same plan again, another target, paused, deleted
//! - `validation`, `examples`, `chart`: what the Kubernetes API and the controller say to plans and manifests
//! - `failures`: nodes that fail; `crashes`: programs that do
//! - `idle`, `scale`: no work makes no requests, and many nodes at once
//!
//! `SHOW=1 cargo test -p testbed --test e2e rollout -- --nocapture` prints what a person would see.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::large_futures,
    reason = "tests"
)]

mod chart;
mod crashes;
mod examples;
mod exclusions;
mod failures;
mod idle;
mod lifecycle;
mod rollout;
mod scale;
mod support;
mod validation;
mod window;
