//! Where programs are found: the control plane's in `.tools/bin`, our own in cargo's target directory.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};

/// The control plane's programs and the clients of it.
pub(crate) const CONTROL_PLANE: [&str; 5] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubectl",
];

/// Names a folder with our own binaries; then [`ensure_built`] builds nothing.
pub const OWN_BINARIES: &str = "TESTBED_BIN_DIR";

/// The root of the workspace.
pub fn workspace_root() -> PathBuf {
    let testbed = Path::new(env!("CARGO_MANIFEST_DIR"));
    testbed.parent().unwrap_or(testbed).to_owned()
}

/// The path of one of the control plane's programs, built first where it is missing.
pub fn control_plane_binary(name: &str) -> Result<PathBuf> {
    if let Some(found) = find(name) {
        return Ok(found);
    }
    build_tools(&CONTROL_PLANE)?;
    find(name).with_context(|| format!("testbed/tools/build.sh made no {name}"))
}

/// The path of another program that `testbed/tools/build.sh` makes, built first where it is missing or out of date.
pub fn tool(name: &str) -> Result<PathBuf> {
    build_tools(&[name])?;
    Ok(workspace_root().join(".tools/bin").join(name))
}

fn find(name: &str) -> Option<PathBuf> {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let ours = workspace_root().join(".tools/bin");
    let candidates = assets
        .into_iter()
        .chain([ours])
        .map(|directory| directory.join(name));
    candidates.into_iter().find(|path| path.is_file())
}

/// Runs the build of these programs; its progress goes to our stderr.
fn build_tools(names: &[&str]) -> Result<()> {
    let script = workspace_root().join("testbed/tools/build.sh");
    let status = Command::new(&script)
        .args(names)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("running {}", script.display()))?;
    ensure!(
        status.success(),
        "{} failed ({status}); its messages are above",
        script.display()
    );
    Ok(())
}

/// Cargo's target directory of the running profile, found from where we run.
pub fn target_directory() -> Result<PathBuf> {
    let own = std::env::current_exe().context("finding our own executable")?;
    let profile = own
        .ancestors()
        .skip(1)
        .find(|directory| {
            !matches!(
                directory.file_name().and_then(|name| name.to_str()),
                Some("deps" | "examples")
            )
        })
        .with_context(|| format!("{} is in no target directory", own.display()))?;
    Ok(profile.to_owned())
}

/// Builds the binaries of these packages of the workspace, once in this process, and gives the folder they are in.
///
/// With `TESTBED_BIN_DIR` set they are taken from there, as they are.
pub fn ensure_built(packages: &[&str]) -> Result<PathBuf> {
    static BUILT: Mutex<Vec<String>> = Mutex::new(Vec::new());

    if let Some(directory) = std::env::var_os(OWN_BINARIES) {
        return Ok(directory.into());
    }
    let directory = target_directory()?;
    // Held during the build, so that tests in parallel wait for one build.
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let missing: Vec<&str> = packages
        .iter()
        .copied()
        .filter(|name| !built.iter().any(|done| done == name))
        .collect();
    if missing.is_empty() {
        return Ok(directory);
    }
    match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") => build(&missing, "dev", &directory)?,
        // As they are shipped, each by itself: in one build each program gets what any of them needs of a dependency.
        Some(profile) => {
            for package in &missing {
                build(&[package], profile, &directory)?;
            }
        }
        None => bail!("{} is not a cargo profile directory", directory.display()),
    }
    built.extend(missing.into_iter().map(str::to_owned));
    Ok(directory)
}

fn build(packages: &[&str], profile: &str, directory: &Path) -> Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--quiet", "--bins", "--profile", profile])
        .current_dir(workspace_root())
        .stdin(Stdio::null());
    cargo
        .arg("--target-dir")
        .arg(directory.parent().unwrap_or(directory));
    for package in packages {
        cargo.args(["--package", package]);
    }
    let status = cargo.status().context("running cargo build")?;
    ensure!(
        status.success(),
        "cargo build of {} failed ({status}); its messages are above",
        packages.join(", ")
    );
    Ok(())
}
