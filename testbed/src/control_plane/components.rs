//! The command lines of the control plane's processes and the files they read.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::Options;
use crate::binaries::control_plane_binary;
use crate::pki::{Authority, signing_key_pair, write_private};
use crate::process::{Recipe, free_port};

/// What is logged of every request: who, what, when and the answer's code, once, when it is complete.
const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
";

/// The users that kube-apiserver knows by a fixed token; all may do everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// A person, a test.
    Admin,
    /// The simulated nodes' kubelet.
    Kubelet,
    /// The oracle, which only watches.
    Oracle,
    /// kube-controller-manager.
    ControllerManager,
    /// kube-scheduler.
    Scheduler,
}

impl User {
    const ALL: [Self; 5] = [
        Self::Admin,
        Self::Kubelet,
        Self::Oracle,
        Self::ControllerManager,
        Self::Scheduler,
    ];

    /// The name in the audit log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Kubelet => "testbed:kubelet",
            Self::Oracle => "testbed:oracle",
            Self::ControllerManager => "system:kube-controller-manager",
            Self::Scheduler => "system:kube-scheduler",
        }
    }
}

/// Paths, ports and tokens of one control plane.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub directory: PathBuf,
    pub ca_pem: String,
    pub port: u16,
    etcd_port: u16,
    etcd_peer_port: u16,
    tokens: Vec<String>,
}

impl Layout {
    /// Writes every file that the processes read into the directory.
    pub fn prepare(directory: &Path) -> Result<Self> {
        let authority = Authority::new("testbed")?;
        let layout = Self {
            directory: directory.to_owned(),
            ca_pem: authority.pem(),
            port: free_port()?,
            etcd_port: free_port()?,
            etcd_peer_port: free_port()?,
            tokens: User::ALL
                .iter()
                .map(|_| crate::fresh_uuid())
                .collect::<Result<_>>()?,
        };
        let write = |name: &str, content: &str| write_private(&directory.join(name), content);
        write("ca.crt", &layout.ca_pem)?;
        authority
            .server(&[
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
                "10.0.0.1",
            ])?
            .write(directory, "kube-apiserver")?;
        let (private, public) = signing_key_pair()?;
        write("service-account.key", &private)?;
        write("service-account.pub", &public)?;
        let users: String = User::ALL
            .iter()
            .map(|user| {
                format!(
                    "{},{name},{name},system:masters\n",
                    layout.token(*user),
                    name = user.name()
                )
            })
            .collect();
        write("tokens.csv", &users)?;
        write("audit-policy.yaml", AUDIT_POLICY)?;
        for user in User::ALL {
            write_private(
                &layout.kubeconfig(user),
                &layout.kubeconfig_text(user.name(), layout.token(user)),
            )?;
        }
        write(
            "scheduler.yaml",
            &scheduler_configuration(&layout.kubeconfig(User::Scheduler)),
        )?;
        Ok(layout)
    }

    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    pub fn token(&self, user: User) -> &str {
        let index = User::ALL
            .iter()
            .position(|known| *known == user)
            .unwrap_or_default();
        &self.tokens[index]
    }

    pub fn kubeconfig(&self, user: User) -> PathBuf {
        self.file(&format!("{}.kubeconfig", user.name().replace(':', "-")))
    }

    pub fn audit_log(&self) -> PathBuf {
        self.file("audit.log")
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A kubeconfig that trusts our authority and carries this token.
    pub fn kubeconfig_text(&self, user: &str, token: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: testbed\n\
             clusters:\n- name: testbed\n  cluster:\n    server: {url}\n    certificate-authority: {ca}\n\
             users:\n- name: {user:?}\n  user:\n    token: {token}\n\
             contexts:\n- name: testbed\n  context:\n    cluster: testbed\n    user: {user:?}\n",
            url = self.url(),
            ca = self.file("ca.crt").display(),
        )
    }

    pub fn etcd(&self) -> Result<Recipe> {
        let client = format!("http://127.0.0.1:{}", self.etcd_port);
        let peer = format!("http://127.0.0.1:{}", self.etcd_peer_port);
        Ok(self.recipe("etcd")?.args([
            "--name=testbed".to_owned(),
            format!("--data-dir={}", self.file("etcd").display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=testbed={peer}"),
            "--unsafe-no-fsync=true".to_owned(),
            // The oracle reads every revision: history is kept.
            "--quota-backend-bytes=8589934592".to_owned(),
            "--log-level=warn".to_owned(),
        ]))
    }

    pub fn etcd_health(&self) -> u16 {
        self.etcd_port
    }

    pub fn apiserver(&self) -> Result<Recipe> {
        let file = |name: &str| self.file(name).display().to_string();
        Ok(self.recipe("kube-apiserver")?.args([
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            "--etcd-compaction-interval=0".to_owned(),
            format!("--secure-port={}", self.port),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            // There is no Endpoints object to keep: loopback addresses are refused there.
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--cert-dir={}", file("certs")),
            format!("--tls-cert-file={}", file("kube-apiserver.crt")),
            format!("--tls-private-key-file={}", file("kube-apiserver.key")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", file("service-account.pub")),
            format!(
                "--service-account-signing-key-file={}",
                file("service-account.key")
            ),
            format!("--token-auth-file={}", file("tokens.csv")),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
            "--allow-privileged=true".to_owned(),
            format!("--audit-policy-file={}", file("audit-policy.yaml")),
            format!("--audit-log-path={}", self.audit_log().display()),
        ]))
    }

    pub fn controller_manager(&self, options: &Options) -> Result<Recipe> {
        let kubeconfig = self.kubeconfig(User::ControllerManager).display().to_string();
        Ok(self.recipe("kube-controller-manager")?.args([
            format!("--kubeconfig={kubeconfig}"),
            "--controllers=*".to_owned(),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
            format!("--root-ca-file={}", self.file("ca.crt").display()),
            format!(
                "--service-account-private-key-file={}",
                self.file("service-account.key").display()
            ),
            "--allocate-node-cidrs=false".to_owned(),
            format!(
                "--node-monitor-period={}ms",
                options.node_monitor_period.as_millis()
            ),
            format!(
                "--node-monitor-grace-period={}ms",
                options.node_monitor_grace.as_millis()
            ),
            "--kube-api-qps=300".to_owned(),
            "--kube-api-burst=600".to_owned(),
        ]))
    }

    pub fn scheduler(&self) -> Result<Recipe> {
        Ok(self.recipe("kube-scheduler")?.args([
            format!("--config={}", self.file("scheduler.yaml").display()),
            "--secure-port=0".to_owned(),
        ]))
    }

    fn recipe(&self, name: &str) -> Result<Recipe> {
        let program = control_plane_binary(name).with_context(|| format!("finding {name}"))?;
        Ok(Recipe::new(name, program, &self.directory))
    }
}

fn scheduler_configuration(kubeconfig: &Path) -> String {
    format!(
        "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n\
         leaderElection:\n  leaderElect: false\n\
         clientConnection:\n  kubeconfig: {}\n  qps: 300\n  burst: 600\n",
        kubeconfig.display()
    )
}
