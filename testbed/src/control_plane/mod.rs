//! A real Kubernetes control plane as child processes: etcd, kube-apiserver, kube-controller-manager, kube-scheduler.
//!
//! Everything listens on 127.0.0.1 on ports the system hands out, keeps its data in a directory of its own and ends
//! with the value, or with the process.

mod components;
mod readiness;

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::client::{Body, ConfigExt as _};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::sync::Mutex;
use tower::{BoxError, ServiceBuilder};

use components::Layout;
pub use components::User;

use crate::binaries::control_plane_binary;
use crate::pki::write_private;
use crate::process::{Process, Recipe};
use crate::watchdog;

/// How long each process may take to become ready.
const START: Duration = Duration::from_secs(60);
/// How long each may take to end: kube-apiserver waits for the watches of whoever is still there, etcd at times for ever.
const STOP: Duration = Duration::from_secs(3);

/// A port may be taken between asking for it and using it.
const ATTEMPTS: u32 = 3;

/// Service account tokens of our own processes outlive every test.
const TOKEN_SECONDS: i64 = 7 * 24 * 60 * 60;

/// How the control plane is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often the node lifecycle controller looks at the nodes.
    pub node_monitor_period: Duration,
    /// How long a node may be silent before it is marked as not ready. Must be well above the kubelets' lease renewal.
    pub node_monitor_grace: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            node_monitor_period: Duration::from_secs(1),
            node_monitor_grace: Duration::from_secs(30),
        }
    }
}

/// A running control plane.
pub struct ControlPlane {
    layout: Layout,
    apiserver_recipe: Recipe,
    processes: Mutex<Processes>,
    // Dropped last: the processes have files in it.
    directory: Directory,
}

#[derive(Default)]
struct Processes {
    scheduler: Option<Process>,
    controller_manager: Option<Process>,
    apiserver: Option<Process>,
    etcd: Option<Process>,
}

struct Directory(Option<TempDir>);

impl Directory {
    fn new() -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("testbed-")
            .tempdir()
            .context("making a directory")?;
        watchdog::guard_directory(directory.path())?;
        Ok(Self(Some(directory)))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Some(directory) = self.0.take() {
            watchdog::release_directory(directory.path());
        }
    }
}

impl ControlPlane {
    /// Starts everything and waits until it works; builds the programs first where they are missing.
    pub async fn start(options: Options) -> Result<Self> {
        let plane = Self::start_api(options).await?;
        plane.wait_controllers().await?;
        Ok(plane)
    }

    /// Starts everything and waits until kube-apiserver answers. What needs no controllers can be done until they work.
    pub async fn start_api(options: Options) -> Result<Self> {
        let mut attempt = 1;
        loop {
            match Self::try_start(&options).await {
                Err(error)
                    if attempt < ATTEMPTS && format!("{error:#}").contains("address already in use") =>
                {
                    tracing::warn!(attempt, "a port was taken meanwhile; starting over");
                    attempt += 1;
                }
                done => return done,
            }
        }
    }

    async fn try_start(options: &Options) -> Result<Self> {
        let directory = Directory::new()?;
        let path = directory
            .0
            .as_ref()
            .map(|directory| directory.path().to_owned())
            .unwrap_or_default();
        // Blocking: may build the programs.
        let (layout, etcd, apiserver) = tokio::task::spawn_blocking(move || {
            let layout = Layout::prepare(&path)?;
            let (etcd, apiserver) = (layout.etcd()?, layout.apiserver()?);
            anyhow::Ok((layout, etcd, apiserver))
        })
        .await??;
        let plane = Self {
            apiserver_recipe: apiserver,
            processes: Mutex::default(),
            directory,
            layout,
        };
        {
            let mut processes = plane.processes.lock().await;
            let etcd = processes.etcd.insert(etcd.spawn()?);
            let port = plane.layout.etcd_health();
            etcd.wait_ready(START, || crate::process::port_open(port)).await?;
            processes.apiserver = Some(plane.spawn_apiserver().await?);
            processes.controller_manager = Some(plane.layout.controller_manager(options)?.spawn()?);
            processes.scheduler = Some(plane.layout.scheduler()?.spawn()?);
        }
        Ok(plane)
    }

    /// Waits until the controllers work: then pods can be created.
    pub async fn wait_controllers(&self) -> Result<()> {
        let mut processes = self.processes.lock().await;
        readiness::controllers(&self.client_as(User::Admin).await?, &mut processes).await
    }

    /// Ends everything in good order and removes its files.
    pub async fn shutdown(self) -> Result<()> {
        let mut processes = std::mem::take(&mut *self.processes.lock().await);
        let clients = [&mut processes.scheduler, &mut processes.controller_manager];
        let stopping = clients.into_iter().flatten().map(|process| process.stop(STOP));
        futures::future::try_join_all(stopping).await?;
        if let Some(apiserver) = &mut processes.apiserver {
            apiserver.stop(STOP).await?;
        }
        if let Some(etcd) = &mut processes.etcd {
            etcd.stop(STOP).await?;
        }
        Ok(())
    }

    /// Lets everything run on after we end, and gives the directory with its files and logs.
    pub async fn leave_running(mut self) -> PathBuf {
        let Processes {
            scheduler,
            controller_manager,
            apiserver,
            etcd,
        } = std::mem::take(&mut *self.processes.lock().await);
        [scheduler, controller_manager, apiserver, etcd]
            .into_iter()
            .flatten()
            .for_each(Process::leave_running);
        if let Some(directory) = self.directory.0.take() {
            watchdog::release_directory(directory.path());
            let _ = directory.keep();
        }
        self.layout.directory.clone()
    }

    /// The process ids of what runs, by name.
    pub async fn process_ids(&self) -> Vec<(String, u32)> {
        let processes = self.processes.lock().await;
        let Processes {
            scheduler,
            controller_manager,
            apiserver,
            etcd,
        } = &*processes;
        [scheduler, controller_manager, apiserver, etcd]
            .into_iter()
            .flatten()
            .map(|process| (process.recipe().name.clone(), process.pid()))
            .collect()
    }

    /// Kills kube-apiserver alone, as a crash would.
    pub async fn stop_apiserver(&self) -> Result<()> {
        let running = self.processes.lock().await.apiserver.take();
        if let Some(mut apiserver) = running {
            apiserver.kill().await?;
        }
        Ok(())
    }

    /// Starts kube-apiserver again on the same port and waits until it is ready.
    pub async fn start_apiserver(&self) -> Result<()> {
        let mut processes = self.processes.lock().await;
        ensure!(processes.apiserver.is_none(), "kube-apiserver runs already");
        processes.apiserver = Some(self.spawn_apiserver().await?);
        Ok(())
    }

    async fn spawn_apiserver(&self) -> Result<Process> {
        let mut apiserver = self.apiserver_recipe.spawn()?;
        let client = self.client_as(User::Admin).await?;
        apiserver
            .wait_ready(START, || readiness::apiserver(&client))
            .await?;
        Ok(apiserver)
    }

    /// Where kube-apiserver answers.
    pub fn url(&self) -> String {
        self.layout.url()
    }

    /// The authority that signed kube-apiserver's certificate, as PEM.
    pub fn ca_pem(&self) -> &str {
        &self.layout.ca_pem
    }

    /// The directory of data, logs and kubeconfigs.
    pub fn directory(&self) -> &Path {
        &self.layout.directory
    }

    /// One JSON object a line for every request that kube-apiserver answered.
    pub fn audit_log(&self) -> PathBuf {
        self.layout.audit_log()
    }

    /// The admin's kubeconfig file, for kubectl.
    pub fn kubeconfig_file(&self) -> PathBuf {
        self.layout.kubeconfig(User::Admin)
    }

    /// The admin's client configuration.
    pub async fn kubeconfig(&self) -> Result<Config> {
        self.config_as(User::Admin).await
    }

    /// A client for the admin.
    pub async fn client(&self) -> Result<Client> {
        self.client_as(User::Admin).await
    }

    /// A client for one of the fixed users; the audit log shows who asked.
    pub async fn client_as(&self, user: User) -> Result<Client> {
        let config = self.config_as(user).await?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        // With kube's own client, which waits to send small pieces together, the simulated machines are slow for nothing.
        tcp.set_nodelay(true);
        let connector = config.rustls_https_connector_with_connector(tcp)?;
        let http =
            hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(connector);
        // A test wants to see a refusal as it is given, and its own deadlines to hold: nothing is tried again.
        let service = ServiceBuilder::new()
            .layer(config.base_uri_layer())
            .option_layer(config.auth_layer()?)
            .map_err(BoxError::from)
            .service(http);
        Ok(Client::new(service, config.default_namespace))
    }

    async fn config_as(&self, user: User) -> Result<Config> {
        let kubeconfig = Kubeconfig::read_from(self.layout.kubeconfig(user))?;
        Ok(Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)
    }

    /// A kubeconfig for a service account that exists, with a token that outlives every test.
    pub async fn kubeconfig_for_service_account(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await?, namespace);
        let wanted = TokenRequest {
            spec: TokenRequestSpec {
                expiration_seconds: Some(TOKEN_SECONDS),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let token = accounts
            .create_token_request(name, &kube::api::PostParams::default(), &wanted)
            .await
            .with_context(|| format!("asking for a token of service account {namespace}/{name}"))?
            .status
            .context("the TokenRequest came back without a token")?
            .token;
        let path = self.layout.file(&format!("{namespace}-{name}.kubeconfig"));
        write_private(
            &path,
            &self
                .layout
                .kubeconfig_text(&format!("{namespace}/{name}"), &token),
        )?;
        Ok(path)
    }

    /// Runs kubectl as the admin.
    pub async fn kubectl(&self, args: &[&str]) -> Result<Output> {
        let mut command = self.kubectl_command(args)?;
        command.output().await.context("running kubectl")
    }

    fn kubectl_command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(control_plane_binary("kubectl")?);
        command
            // A --kubeconfig among the arguments wins over this.
            .env("KUBECONFIG", self.kubeconfig_file())
            .args(args)
            // Discovery caches go with everything else.
            .env("KUBECACHEDIR", self.layout.file("kubectl-cache"))
            .kill_on_drop(true);
        Ok(command)
    }

    /// `kubectl apply` of a text as the admin; the answer as it is.
    pub async fn try_apply(&self, flags: &[&str], yaml: &str) -> Result<Output> {
        let mut child = self
            .kubectl_command(&[&["apply", "-f", "-"], flags].concat())?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("running kubectl")?;
        let mut stdin = child.stdin.take().context("kubectl has no standard input")?;
        let written = stdin.write_all(yaml.as_bytes()).await;
        drop(stdin);
        let output = child.wait_with_output().await?;
        // One that ends early says why.
        if output.status.success() {
            written.context("writing to kubectl")?;
        }
        Ok(output)
    }

    /// `kubectl apply` of a text as the admin, and what it printed; fails as it fails.
    pub async fn apply(&self, flags: &[&str], yaml: &str) -> Result<String> {
        printed("apply", &self.try_apply(flags, yaml).await?)
    }

    /// Runs kubectl as the admin, and gives what it printed; fails as it fails.
    pub async fn kubectl_ok(&self, args: &[&str]) -> Result<String> {
        printed(&args.join(" "), &self.kubectl(args).await?)
    }
}

fn printed(what: &str, output: &Output) -> Result<String> {
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "kubectl {what} failed: {}", error.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
