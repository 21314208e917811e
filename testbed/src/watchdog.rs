//! A helper process that outlives ours by a moment: it ends the children we leave behind, however we die.
//!
//! It holds the other end of a pipe. We tell it process ids over that pipe; when the pipe closes, because we ended
//! or were killed, it kills the ones not taken off the list and removes the directories on it.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context as _, Result};

const SCRIPT: &str = r#"
trap '' INT TERM HUP
pids=' '
dirs='
'
while read -r verb what; do
    case $verb in
        pid) pids="$pids$what " ;;
        no-pid) case $pids in *" $what "*) pids="${pids%% "$what" *} ${pids#* "$what" }" ;; esac ;;
        dir) dirs="$dirs$what
" ;;
        no-dir) kept=; while read -r dir; do [ "$dir" = "$what" ] || kept="$kept$dir
"; done <<END
$dirs
END
            dirs=$kept ;;
    esac
done
for pid in $pids; do kill -KILL "$pid" 2>/dev/null; done
sleep 0.2
while read -r dir; do [ -n "$dir" ] && rm -rf -- "$dir"; done <<END
$dirs
END
"#;

static PIPE: OnceLock<Mutex<ChildStdin>> = OnceLock::new();

/// From now on this child dies with us.
pub(crate) fn guard_child(pid: u32) -> Result<()> {
    tell(&format!("pid {pid}"))
}

/// This child has ended, or may outlive us.
pub(crate) fn release_child(pid: u32) {
    // A watchdog that is gone guards nothing: there is nothing to take off its list.
    let _ = tell(&format!("no-pid {pid}"));
}

/// From now on this directory goes with us.
pub(crate) fn guard_directory(path: &Path) -> Result<()> {
    tell(&format!("dir {}", path.display()))
}

/// This directory is gone, or may outlive us.
pub(crate) fn release_directory(path: &Path) {
    let _ = tell(&format!("no-dir {}", path.display()));
}

fn tell(line: &str) -> Result<()> {
    let pipe = match PIPE.get() {
        Some(pipe) => pipe,
        None => {
            let started = start()?;
            // Whoever comes second drops its own watchdog, which has an empty list and ends at once.
            PIPE.get_or_init(|| Mutex::new(started))
        }
    };
    let mut pipe = pipe.lock().unwrap_or_else(PoisonError::into_inner);
    writeln!(pipe, "{line}").context("the watchdog process is gone")
}

fn start() -> Result<ChildStdin> {
    let child = Command::new("sh")
        .args(["-c", SCRIPT, "testbed-watchdog"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A group of its own: an interrupt from the terminal is for us, and reaches it through the pipe.
        .process_group(0)
        .spawn()
        .context("starting the watchdog (sh)")?;
    child.stdin.context("the watchdog has no pipe")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn run(lines: &str) -> std::process::ExitStatus {
        let mut child = Command::new("sh")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        child.wait().unwrap()
    }

    #[test]
    fn kills_what_is_on_its_list_and_nothing_else() {
        let mut sleepers: Vec<_> = (0..3)
            .map(|_| Command::new("sleep").arg("60").spawn().unwrap())
            .collect();
        let pids: Vec<u32> = sleepers.iter().map(std::process::Child::id).collect();
        run(&format!(
            "pid {}\npid {}\npid {}\nno-pid {}\n",
            pids[0], pids[1], pids[2], pids[1]
        ));

        let deadline = Instant::now() + Duration::from_secs(5);
        let dead = |sleeper: &mut std::process::Child| sleeper.try_wait().unwrap().is_some();
        while Instant::now() < deadline && !(dead(&mut sleepers[0]) && dead(&mut sleepers[2])) {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(
            dead(&mut sleepers[0]) && dead(&mut sleepers[2]),
            "listed children are killed"
        );
        assert!(!dead(&mut sleepers[1]), "a released child is left alone");
        sleepers[1].kill().unwrap();
        sleepers[1].wait().unwrap();
    }

    #[test]
    fn removes_the_directories_on_its_list_and_no_others() {
        let base = tempfile::tempdir().unwrap();
        let [gone, kept] = ["gone", "kept"].map(|name| base.path().join(name));
        std::fs::create_dir_all(&gone).unwrap();
        std::fs::create_dir_all(&kept).unwrap();
        run(&format!(
            "dir {0}\ndir {1}\nno-dir {1}\n",
            gone.display(),
            kept.display()
        ));
        assert!(!gone.exists());
        assert!(kept.exists());
    }
}
