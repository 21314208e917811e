//! A fault layer between one of our programs and kube-apiserver.
//!
//! It passes every request on as it is, bearer token included, and streams the answers; a test says which requests
//! are held, which answers are lost, which watches lag, and when every connection is cut. Like a network, it carries
//! on with what it has taken: a request whose sender has given up still arrives.
//!
//! - [`Proxy`]: starts it, makes a kubeconfig for it, says what goes wrong
//! - `faults`: the faults in force, and the journal; `forward`: connections, requests and answers

mod faults;
mod forward;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::control_plane::ControlPlane;
use crate::pki::{Authority, write_private};

use faults::Faults;
pub use faults::{Asked, Held, Hold, Passed, Rule, When};

/// A fault layer that runs until it is dropped.
pub struct Proxy {
    name: String,
    url: String,
    directory: PathBuf,
    ca_file: PathBuf,
    faults: Arc<Faults>,
    serving: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
        self.cut();
    }
}

impl Proxy {
    /// Starts one on a free port, in front of a control plane's kube-apiserver. Its files are named so, in the control
    /// plane's directory.
    ///
    /// # Errors
    /// Where it cannot listen, or certificates are not usable.
    pub async fn start(plane: &ControlPlane, name: &str) -> Result<Self> {
        Self::in_front_of(&plane.url(), plane.ca_pem(), plane.directory(), name).await
    }

    async fn in_front_of(upstream: &str, upstream_ca: &str, directory: &Path, name: &str) -> Result<Self> {
        let authority = Authority::new("fault layer")?;
        let ca_file = directory.join(format!("{name}-ca.crt"));
        write_private(&ca_file, &authority.pem())?;
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .context("listening on a free port")?;
        let url = format!("https://{}", listener.local_addr()?);
        let faults = Arc::new(Faults::default());
        let server = forward::Server::new(&authority.server(&[])?, upstream, upstream_ca, faults.clone())?;
        Ok(Self {
            name: name.to_owned(),
            url,
            directory: directory.to_owned(),
            ca_file,
            faults,
            serving: tokio::spawn(server.serve(listener)),
        })
    }

    /// A copy of a kubeconfig that leads through here, with the same credentials.
    ///
    /// # Errors
    /// Where the files cannot be read or written.
    pub fn kubeconfig(&self, direct: &Path) -> Result<PathBuf> {
        let text =
            std::fs::read_to_string(direct).with_context(|| format!("reading {}", direct.display()))?;
        let line = |line: &str| {
            let key = line.trim_start().split(':').next().unwrap_or_default();
            let indent = &line[..line.len() - line.trim_start().len()];
            match key {
                "server" => format!("{indent}server: {}", self.url),
                "certificate-authority" => {
                    format!("{indent}certificate-authority: {}", self.ca_file.display())
                }
                _ => line.to_owned(),
            }
        };
        let lines: Vec<String> = text.lines().map(line).collect();
        let path = self.directory.join(format!("{}.kubeconfig", self.name));
        write_private(&path, &lines.join("\n"))?;
        Ok(path)
    }

    /// From now on the events of the watches that match arrive late by this much, in order; also of those that are
    /// under way.
    pub fn delay_watches(
        &self,
        by: Duration,
        matches: impl Fn(&Asked) -> bool + Send + Sync + 'static,
    ) -> Rule {
        let matches = move |asked: &Asked| asked.is_watch() && matches(asked);
        self.faults.delay(by, Arc::new(matches))
    }

    /// Holds the requests that match.
    pub fn hold(&self, when: When, matches: impl Fn(&Asked) -> bool + Send + Sync + 'static) -> Hold {
        self.faults.hold(when, Arc::new(matches))
    }

    /// Requests that match are carried out, and instead of an answer the connection is closed.
    pub fn lose_answers(&self, matches: impl Fn(&Asked) -> bool + Send + Sync + 'static) -> Rule {
        self.faults.lose_answer(Arc::new(matches))
    }

    /// Closes every connection now. What was taken is carried out, and nobody hears of it.
    pub fn cut(&self) {
        self.faults.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Every request so far.
    pub fn journal(&self) -> Vec<Passed> {
        self.faults.journal()
    }
}
