//! End to end: the real control plane, controller, apiserver and agents, on simulated machines. Every run is judged by
//! the oracle.
//!
//! - `rollout`: windows and waves from `kubectl apply` to `kubectl wait`, and what a person reads meanwhile
//! - `window`, `exclusions`: what a closing window, or an exclusion, does to nodes on their way
//! - `ahead`: downloads ahead of a node's turn
//! - `lifecycle`: the same plan again, another target, paused, deleted
//! - `people`: a wave that a person approves; one zone at a time; `actions`: who may
//! - `validation`, `invalid`, `examples`, `chart`: what the Kubernetes API and the controller say to plans and manifests
//! - `failures`, `bad_nodes`, `liars`: nodes that fail, that are bad in other ways, and that lie; `crashes`: programs that
//!   fail
//! - `versions`: nodes that cannot have the version
//! - `identity`, `strangers`, `limits`: who is served by the apiserver, and how much of it; `skew`: programs of other versions
//! - `leaders`: two controllers at once; `permits`: reboot permit against withdraw; `outage`: the Kubernetes API is gone
//! - `own`: the nodes on which the operator itself runs
//! - `kills`: programs killed at moments drawn from a seed; `streams`: a hundred agents whose server goes away
//! - `budgets`: PodDisruptionBudgets without the evictions that a kill has cut off
//! - `caller`, `tokens`: a client of the apiserver with whatever token a test gives it
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

mod actions;
mod ahead;
mod bad_nodes;
mod budgets;
mod caller;
mod chart;
mod crashes;
mod examples;
mod exclusions;
mod failures;
mod identity;
mod idle;
mod invalid;
mod kills;
mod leaders;
mod liars;
mod lifecycle;
mod limits;
mod outage;
mod own;
mod people;
mod permits;
mod rollout;
mod scale;
mod skew;
mod strangers;
mod streams;
mod support;
mod tokens;
mod validation;
mod versions;
mod window;
