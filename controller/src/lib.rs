//! Observes, asks the planner, applies, reports. No decision about a rollout is made here.
//!
//! * [`settings`]: flags and environment
//! * [`store`]: the objects of one kind as last seen, by a watch or by our own writes
//! * [`view`]: all stores together, and a snapshot of them; `kinds` says what is kept of each kind
//! * [`observe`]: a snapshot as the planner's world; pure
//! * [`watch`]: keeps the view up to date
//! * [`clock`]: by how much this clock and the Kubernetes API's disagree
//! * [`context`]: what everything that sends requests shares
//! * [`request`]: every request's time-out, and the fence that the lease puts around writes
//! * [`leader`]: the lease
//! * [`run`]: the loop, and what begins and ends with the lease
//! * [`ledger`]: writes the ledger, by compare-and-swap; [`afresh`] reads what that is decided on
//! * [`finalizers`]: the order in which a plan loses its finalizer; pure
//! * [`apply`]: carries out the planner's actions; [`patch`] says what each writes
//! * [`drain`]: empties nodes; [`pods`] follows a node's pods, `left` knows those that are left, [`evict`] evicts one
//! * [`report`]: writes statuses; [`events`] publishes Events
//! * [`metrics`] and [`health`]: what is served over HTTP

pub mod afresh;
pub mod apply;
pub mod clock;
pub mod context;
pub mod drain;
pub mod events;
pub mod evict;
pub mod finalizers;
pub mod health;
mod kinds;
pub mod leader;
pub mod ledger;
mod left;
pub mod metrics;
pub mod observe;
pub mod patch;
pub mod pods;
pub mod report;
pub mod request;
pub mod run;
pub mod settings;
pub mod store;
pub mod view;
pub mod watch;
