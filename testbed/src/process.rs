//! Child processes with a log file: they end when their value is dropped, and when we die.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::watchdog;

/// How a child is started; the same recipe serves to start it again.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The name in messages and of the log file.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables added to our environment.
    pub env: Vec<(String, OsString)>,
    /// Where its output goes, appended.
    pub log: PathBuf,
}

impl Recipe {
    /// A program without arguments that logs to `<directory>/<name>.log`.
    pub fn new(name: &str, program: impl Into<PathBuf>, directory: &Path) -> Self {
        Self {
            name: name.to_owned(),
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            log: directory.join(format!("{name}.log")),
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Adds a variable to the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Starts the child. Needs a tokio runtime.
    pub fn spawn(&self) -> Result<Process> {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("opening the log {}", self.log.display()))?;
        let child = Command::new(&self.program)
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // An interrupt from the terminal is for us; we then end our children in our own order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {} ({})", self.name, self.program.display()))?;
        let pid = child
            .id()
            .with_context(|| format!("{} ended at once", self.name))?;
        let process = Process {
            recipe: self.clone(),
            child,
            pid,
        };
        watchdog::guard_child(pid)?;
        Ok(process)
    }
}

/// A running child.
#[derive(Debug)]
pub struct Process {
    recipe: Recipe,
    child: Child,
    pid: u32,
}

impl Process {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its log file.
    pub fn log(&self) -> &Path {
        &self.recipe.log
    }

    /// How it was started.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// How it is started again.
    pub(crate) fn recipe_mut(&mut self) -> &mut Recipe {
        &mut self.recipe
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().ok().flatten();
        if status.is_some() {
            watchdog::release_child(self.pid);
        }
        status
    }

    /// Resolves when it has ended by itself.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        let status = self
            .child
            .wait()
            .await
            .with_context(|| format!("waiting for {}", self.recipe.name))?;
        watchdog::release_child(self.pid);
        Ok(status)
    }

    /// Sends SIGTERM and gives the child this long before SIGKILL.
    pub async fn stop(&mut self, patience: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM);
        match tokio::time::timeout(patience, self.wait()).await {
            Ok(ended) => ended,
            Err(_) => self.kill().await,
        }
    }

    /// Sends SIGKILL and waits for the end.
    pub async fn kill(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGKILL);
        self.wait().await
    }

    /// Kills the child and starts it again, with the same log file.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill().await?;
        let fresh = self.recipe.spawn()?;
        *self = fresh;
        Ok(())
    }

    /// Sends a signal, unless the child has ended.
    pub fn signal(&mut self, signal: Signal) {
        // The id is still the child's as long as it has not been waited for.
        if let (Some(pid), None) = (self.child.id(), self.ended())
            && let Ok(pid) = i32::try_from(pid)
        {
            // The only error is that it has just ended.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Polls until `ready` says yes; fails when the child ends or the time is over, with the end of its log.
    pub async fn wait_ready<F>(&mut self, within: Duration, mut ready: impl FnMut() -> F) -> Result<()>
    where
        F: Future<Output = bool>,
    {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.ended() {
                bail!(
                    "{} ended with {status} before it was ready\n{}",
                    self.recipe.name,
                    self.log_tail()
                );
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if tokio::time::timeout(left, ready()).await.unwrap_or(false) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!(
                    "{} was not ready within {within:?}\n{}",
                    self.recipe.name,
                    self.log_tail()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The end of its log, for messages.
    pub fn log_tail(&self) -> String {
        log_tail(&self.recipe.name, self.log())
    }

    /// Lets the child outlive this value and us.
    pub(crate) fn leave_running(self) {
        watchdog::release_child(self.pid);
        // Dropping would kill it; what leaks is one small allocation in a process that is about to end.
        std::mem::forget(self);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_some() {
            return;
        }
        self.signal(Signal::SIGKILL);
        let deadline = Instant::now() + Duration::from_secs(2);
        // The files it has open are about to be removed, so it must be gone first.
        while self.ended().is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The last lines of a log, under a heading.
pub(crate) fn log_tail(name: &str, log: &Path) -> String {
    const LINES: usize = 25;
    let text = std::fs::read_to_string(log).unwrap_or_else(|error| format!("(unreadable: {error})"));
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(LINES)..];
    format!(
        "--- end of {name}'s log, {} ---\n{}",
        log.display(),
        last.join("\n")
    )
}

/// Whether something accepts connections on this port of 127.0.0.1.
pub async fn port_open(port: u16) -> bool {
    tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
}

/// A port of 127.0.0.1 that the system says is free now.
pub fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).context("asking for a free port")?;
    Ok(listener.local_addr()?.port())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn shell(directory: &Path, script: &str) -> Process {
        Recipe::new("child", "sh", directory)
            .args(["-c", script])
            .spawn()
            .unwrap()
    }

    fn log_contains(log: &Path, text: &str) -> bool {
        std::fs::read_to_string(log).is_ok_and(|log| log.contains(text))
    }

    fn alive(pid: u32) -> bool {
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), None).is_ok()
    }

    #[tokio::test]
    async fn stops_on_sigterm_and_kills_what_ignores_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut polite = shell(
            directory.path(),
            "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done",
        );
        let log = polite.log().to_owned();
        polite
            .wait_ready(Duration::from_secs(5), || async { log_contains(&log, "ready") })
            .await
            .unwrap();
        assert_eq!(polite.stop(Duration::from_secs(5)).await.unwrap().code(), Some(7));

        let mut deaf = shell(
            directory.path(),
            "trap '' TERM; echo deaf; while :; do sleep 0.01; done",
        );
        deaf.wait_ready(Duration::from_secs(5), || async { log_contains(&log, "deaf") })
            .await
            .unwrap();
        assert_eq!(
            deaf.stop(Duration::from_millis(50)).await.unwrap().code(),
            None,
            "killed by a signal"
        );
    }

    #[tokio::test]
    async fn dies_with_its_value() {
        let directory = tempfile::tempdir().unwrap();
        let child = shell(directory.path(), "exec sleep 60");
        let pid = child.pid();
        assert!(alive(pid));
        drop(child);
        assert!(!alive(pid));
    }

    #[tokio::test]
    async fn restart_keeps_the_recipe() {
        let directory = tempfile::tempdir().unwrap();
        let mut child = shell(directory.path(), "exec sleep 60");
        let first = child.pid();
        child.restart().await.unwrap();
        assert_ne!(child.pid(), first);
        assert!(!alive(first) && alive(child.pid()));
    }

    #[tokio::test]
    async fn a_child_that_fails_to_start_shows_its_log() {
        let directory = tempfile::tempdir().unwrap();
        let mut child = shell(directory.path(), "echo no such flag; exit 3");
        let error = child
            .wait_ready(Duration::from_secs(5), || async { false })
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("no such flag") && error.contains("exit status: 3"),
            "{error}"
        );
    }
}
