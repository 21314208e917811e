//! The operator on a control plane: installed from the chart, with its real programs as processes.

mod crashes;
mod through;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::process::Command;

pub use crashes::Crashes;

use crate::binaries::{control_plane_binary, ensure_built, workspace_root};
use crate::control_plane::ControlPlane;
use crate::kubelet::{AgentLauncher, AgentSpec, in_process, real_process};
use crate::pki::{Authority, CertificateFiles, service_names};
use crate::process::{Process, Recipe};

/// Where the operator is installed.
pub const NAMESPACE: &str = api::names::DEFAULT_NAMESPACE;

/// How memory is allocated in controller and apiserver: as the chart says.
pub const ALLOCATOR: (&str, &str) = (
    "GLIBC_TUNABLES",
    "glibc.malloc.mmap_threshold=4096:glibc.malloc.trim_threshold=65536:glibc.malloc.top_pad=16384",
);

/// How long one of our programs may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long one of our programs may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// How the agents run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Agents {
    /// As tasks of this process: the same code, socket, TLS and token, for nodes by the hundred.
    #[default]
    Tasks,
    /// As processes of their own.
    Processes,
}

/// How the operator runs.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// How the agents run.
    pub agents: Agents,
    /// Further flags of the controller; they win over the testbed's.
    pub controller_flags: Vec<String>,
    /// Further flags of the apiserver; they win over the testbed's.
    pub apiserver_flags: Vec<String>,
    /// Further flags of the agents; they win over the testbed's.
    pub agent_flags: Vec<String>,
    /// Keep to the delays of a real install instead of the short ones of tests.
    pub production_delays: bool,
}

/// The operator's programs and what they need.
pub struct Operator {
    /// The controller.
    pub controller: Process,
    /// The apiserver.
    pub apiserver: Process,
    controller_health: PathBuf,
    apiserver_health: PathBuf,
    launcher: AgentLauncher,
    crashes: Crashes,
}

/// Delays that suit nodes without latencies.
const QUICK_AGENT: [(&str, &str); 9] = [
    ("poll-min", "5ms"),
    ("poll-max", "100ms"),
    ("retry-min", "50ms"),
    ("retry-max", "1s"),
    ("config-apply-timeout", "10s"),
    ("permit-retry", "200ms"),
    ("reconnect-spread", "100ms"),
    ("reconnect-base", "100ms"),
    ("shadow-wait", "50ms"),
];
const QUICK_CONTROLLER: [&str; 6] = [
    "--retry-backoff=500ms",
    "--release-wait=2s",
    "--eviction-retry=200ms",
    "--status-interval=0s",
    "--lease-renew=500ms",
    "--error-backoff=100ms",
];

/// Puts CRDs, namespace and everything of the chart but its Deployments on the control plane: those two programs run as
/// processes here.
pub async fn install(plane: &ControlPlane) -> Result<()> {
    // It begins with a separator.
    let rendered = format!("\n{}", render(&[]).await?);
    let kept = rendered
        .split("\n---\n")
        .filter(|object| !object.contains("\nkind: Deployment\n"));
    let namespace = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}");
    let objects: Vec<&str> = std::iter::once(namespace.as_str()).chain(kept).collect();
    // One process for everything: each costs a good part of a second.
    plane.apply(&["--server-side"], &objects.join("\n---\n")).await?;
    Ok(())
}

/// What the chart renders to, CRDs included.
pub async fn render(flags: &[&str]) -> Result<String> {
    let rendered = Command::new(control_plane_binary("helm")?)
        .args(["template", "operator"])
        .arg(workspace_root().join("charts/bottlerocket-update-operator"))
        .args([
            "--namespace",
            NAMESPACE,
            "--kube-version",
            "1.36.3",
            "--include-crds",
        ])
        .args(flags)
        .output()
        .await?;
    ensure!(
        rendered.status.success(),
        "helm template failed: {}",
        String::from_utf8_lossy(&rendered.stderr)
    );
    Ok(String::from_utf8(rendered.stdout)?)
}

/// Builds the programs that the options need, and gives the folder that they are in.
pub async fn programs(options: &Options) -> Result<PathBuf> {
    let mut packages = vec!["apiserver", "controller"];
    if options.agents == Agents::Processes {
        packages.push("agent");
    }
    tokio::task::spawn_blocking(move || ensure_built(&packages)).await?
}

impl Operator {
    /// Starts apiserver and controller of an installed operator from the folder of their programs, and waits until
    /// they are ready.
    pub async fn start(plane: &ControlPlane, binaries: &Path, options: &Options) -> Result<Self> {
        let directory = plane.directory().to_owned();
        let authority = Authority::new("brupop")?;
        let ca_file = directory.join("operator-ca.crt");
        std::fs::write(&ca_file, authority.pem())?;
        let names = service_names(NAMESPACE, "brupop-update-apiserver");
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let tls = authority
            .server(&names)?
            .write(&directory, "operator-apiserver")?;

        let mut apiserver = apiserver_recipe(plane, binaries, &tls, options).await?.spawn()?;
        let apiserver_health = address_file(&directory, "apiserver-health");
        let mut controller = controller_recipe(plane, binaries, options).await?.spawn()?;
        let controller_health = address_file(&directory, "controller-health");
        ready(&mut apiserver, &apiserver_health).await?;
        ready(&mut controller, &controller_health).await?;
        let address = std::fs::read_to_string(address_file(&directory, "apiserver"))?;
        let launcher = launcher(options, binaries, format!("https://{}", address.trim()), ca_file);
        Ok(Self {
            controller,
            apiserver,
            controller_health,
            apiserver_health,
            launcher,
            crashes: Crashes::default(),
        })
    }

    /// Starts an agent for a pod of the DaemonSet.
    pub fn launcher(&self) -> AgentLauncher {
        let (launcher, crashes) = (Arc::clone(&self.launcher), self.crashes.clone());
        Arc::new(move |spec| {
            let crash = crashes.of(spec.node_name.clone());
            let agent = launcher(spec);
            Box::pin(async move {
                tokio::select! {
                    ended = agent => ended,
                    () = crash => bail!("crashed, as a test has asked for"),
                }
            })
        })
    }

    /// What makes agents crash.
    pub fn crashes(&self) -> Crashes {
        self.crashes.clone()
    }

    /// Every agent ends in the middle of what it does; the kubelets start them again.
    pub fn crash_agents(&self) {
        self.crashes.all();
    }

    /// Kills the controller, as a crash would.
    pub async fn kill_controller(&mut self) -> Result<()> {
        self.controller.kill().await?;
        Ok(())
    }

    /// Starts a controller that was killed, and waits until it is ready.
    pub async fn start_controller(&mut self) -> Result<()> {
        start_again(&mut self.controller, &self.controller_health).await
    }

    /// Starts another controller beside the first, and waits until it is ready; it acts once the other's lease is over.
    pub async fn standby(&self) -> Result<Process> {
        self.another_controller("standby", None).await
    }

    /// Kills the apiserver, as a crash would.
    pub async fn kill_apiserver(&mut self) -> Result<()> {
        self.apiserver.kill().await?;
        Ok(())
    }

    /// Starts an apiserver that was killed, on the same port, and waits until it is ready.
    pub async fn start_apiserver(&mut self) -> Result<()> {
        start_again(&mut self.apiserver, &self.apiserver_health).await
    }

    /// The apiserver's metrics, as text.
    pub async fn apiserver_metrics(&self) -> Result<String> {
        metrics(&self.apiserver_health).await
    }

    /// The controller's metrics, as text.
    pub async fn controller_metrics(&self) -> Result<String> {
        metrics(&self.controller_health).await
    }

    /// Ends both programs in good order; fails where one does not end well.
    pub async fn stop(&mut self) -> Result<()> {
        for process in [&mut self.controller, &mut self.apiserver] {
            let status = process.stop(PATIENCE).await?;
            if !status.success() {
                bail!(
                    "{} ended with {status}\n{}",
                    process.recipe().name,
                    process.log_tail()
                );
            }
        }
        Ok(())
    }
}

fn address_file(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.address"))
}

async fn apiserver_recipe(
    plane: &ControlPlane,
    binaries: &Path,
    tls: &CertificateFiles,
    options: &Options,
) -> Result<Recipe> {
    let directory = plane.directory();
    let kubeconfig = plane
        .kubeconfig_for_service_account(NAMESPACE, "brupop-update-apiserver")
        .await?;
    // A free port that stays the same when the process is started again, as a Service's address would.
    let port = crate::process::free_port()?;
    let flags = [
        format!("--namespace={NAMESPACE}"),
        format!("--listen=127.0.0.1:{port}"),
        format!(
            "--listen-address-file={}",
            address_file(directory, "apiserver").display()
        ),
        "--health-listen=127.0.0.1:0".to_owned(),
        format!(
            "--health-address-file={}",
            address_file(directory, "apiserver-health").display()
        ),
        format!("--tls-cert-file={}", tls.certificate.display()),
        format!("--tls-key-file={}", tls.key.display()),
    ];
    let recipe = Recipe::new("operator-apiserver", binaries.join("apiserver"), directory);
    Ok(recipe
        .env("KUBECONFIG", kubeconfig)
        .env(ALLOCATOR.0, ALLOCATOR.1)
        .args(flags)
        .args(&options.apiserver_flags))
}

async fn controller_recipe(plane: &ControlPlane, binaries: &Path, options: &Options) -> Result<Recipe> {
    let directory = plane.directory();
    let kubeconfig = plane
        .kubeconfig_for_service_account(NAMESPACE, "brupop-update-controller")
        .await?;
    let flags = [
        format!("--namespace={NAMESPACE}"),
        "--health-listen=127.0.0.1:0".to_owned(),
        format!(
            "--health-address-file={}",
            address_file(directory, "controller-health").display()
        ),
    ];
    let quick: &[&str] = if options.production_delays {
        &[]
    } else {
        &QUICK_CONTROLLER
    };
    // A flag given twice would be refused: the caller's wins.
    let name = |flag: &str| flag.split('=').next().unwrap_or_default().to_owned();
    let given: Vec<String> = options.controller_flags.iter().map(|flag| name(flag)).collect();
    let quick = quick.iter().filter(|flag| !given.contains(&name(flag)));
    let recipe = Recipe::new("operator-controller", binaries.join("controller"), directory);
    Ok(recipe
        .env("KUBECONFIG", kubeconfig)
        .env(ALLOCATOR.0, ALLOCATOR.1)
        .args(flags)
        .args(quick)
        .args(&options.controller_flags))
}

async fn start_again(process: &mut Process, address_file: &Path) -> Result<()> {
    ensure!(process.ended().is_some(), "{} still runs", process.recipe().name);
    // It tells of the one before.
    std::fs::remove_file(address_file)?;
    *process = process.recipe().spawn()?;
    ready(process, address_file).await
}

async fn metrics(address_file: &Path) -> Result<String> {
    let address = std::fs::read_to_string(address_file)?;
    let (status, text) = get(address.trim(), "/metrics").await?;
    ensure!(status == 200, "/metrics answers {status}");
    Ok(text)
}

/// Waits until `/readyz` answers 200 at the address that the process has written.
async fn ready(process: &mut Process, address_file: &Path) -> Result<()> {
    let file = address_file.to_owned();
    process
        .wait_ready(READY_WITHIN, move || {
            let file = file.clone();
            async move {
                let Ok(address) = std::fs::read_to_string(&file) else {
                    return false;
                };
                get(address.trim(), "/readyz")
                    .await
                    .is_ok_and(|(status, _)| status == 200)
            }
        })
        .await
}

/// A plain HTTP GET; status and body.
pub async fn get(address: &str, path: &str) -> Result<(u16, String)> {
    use http_body_util::BodyExt as _;
    let stream = tokio::net::TcpStream::connect(address).await?;
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    let connection = tokio::spawn(connection);
    let request = hyper::Request::get(path)
        .header("host", address)
        .body(http_body_util::Empty::<hyper::body::Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    connection.abort();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

fn launcher(options: &Options, binaries: &Path, server_url: String, ca_file: PathBuf) -> AgentLauncher {
    let flags = agent_flags(options);
    match options.agents {
        Agents::Processes => real_process(binaries.join("agent"), move |spec| {
            let args = agent_args(spec, &server_url, &ca_file, &flags);
            (args.into_iter().map(Into::into).collect(), Vec::new())
        }),
        Agents::Tasks => in_process(move |spec| {
            let mut args = vec!["agent".to_owned()];
            args.extend(agent_args(&spec, &server_url, &ca_file, &flags));
            async move {
                // The same flags as for a process: there is no shortcut in here.
                let config = <agent::Config as clap::Parser>::try_parse_from(args)?;
                agent::run(config, spec.shutdown).await.context("the agent ended")
            }
        }),
    }
}

/// The delays of tests, where they are wanted, and what the options say besides.
fn agent_flags(options: &Options) -> Vec<String> {
    let quick = QUICK_AGENT.iter().filter(|_| !options.production_delays);
    let quick = quick.map(|(flag, value)| (format!("--{flag}="), value));
    let quick = quick.filter(|(flag, _)| !options.agent_flags.iter().any(|given| given.starts_with(flag)));
    let quick = quick.map(|(flag, value)| format!("{flag}{value}"));
    quick.chain(options.agent_flags.iter().cloned()).collect()
}

fn agent_args(spec: &AgentSpec, server_url: &str, ca_file: &Path, flags: &[String]) -> Vec<String> {
    let mut args = vec![
        format!("--node-name={}", spec.node_name),
        format!("--api-socket={}", spec.api_socket.display()),
        format!("--boot-id-file={}", spec.boot_id_file.display()),
        format!("--server-url={server_url}"),
        format!("--server-ca-file={}", ca_file.display()),
        format!("--token-file={}", spec.token_file.display()),
    ];
    args.extend(flags.iter().cloned());
    args
}
