//! The testbed: a real Kubernetes control plane, with simulated Bottlerocket nodes that the operator cannot tell from
//! real ones.
//!
//! - [`control_plane`]: etcd, kube-apiserver, kube-controller-manager and kube-scheduler as child processes
//! - [`bottlerocket`]: one machine's Bottlerocket API, a pure state machine behind a real Unix socket
//! - [`kubelet`]: one stand-in for the kubelets of a whole fleet; it runs the real agent for the DaemonSet's pods
//! - [`fleet`]: a fleet described in YAML, its nodes and workloads, and handles to make its machines fail
//! - [`truth`]: what really happened on the machines, which the oracle judges by
//! - [`history`], [`oracle`]: every revision of every object, recorded; and whether a promise was broken in it
//! - [`operator`], [`lab`]: the operator's real programs on it, and a whole run for a test
//! - [`proxy`]: a fault layer between one of our programs and kube-apiserver
//! - [`demo`], [`bench`]: `make demo`, `make bench`
//! - [`process`], [`binaries`], [`pki`], [`wait`]: children with logs, where programs are, certificates, deadlines

pub mod bench;
pub mod binaries;
pub mod bottlerocket;
pub mod control_plane;
pub mod demo;
pub mod fleet;
pub mod history;
pub mod kubelet;
pub mod lab;
pub mod operator;
pub mod oracle;
pub mod pki;
pub mod process;
pub mod proxy;
pub mod truth;
pub mod wait;
mod watchdog;

pub use control_plane::{ControlPlane, Options};

/// A random UUID, made by the kernel.
pub(crate) fn fresh_uuid() -> anyhow::Result<String> {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(uuid.trim().to_owned())
}
