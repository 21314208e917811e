//! What the operator's programs have written, told as soon as it is done: kube-apiserver's audit log, read as it grows.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// Between two looks at the log: well below the time between two writes of a program.
const LOOK: Duration = Duration::from_millis(1);

/// A program whose writes are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Controller,
    Apiserver,
}

/// How many writes each program has made.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    controller: usize,
    apiserver: usize,
}

impl Counts {
    const fn of(&self, program: Program) -> usize {
        match program {
            Program::Controller => self.controller,
            Program::Apiserver => self.apiserver,
        }
    }
}

/// Counts the writes of the operator's programs from now on.
pub struct Writes {
    counts: watch::Receiver<Counts>,
    _reader: AbortOnDropHandle<()>,
}

impl Writes {
    pub fn follow(audit_log: &Path) -> Self {
        let mut log = File::open(audit_log).unwrap();
        log.seek(SeekFrom::End(0)).unwrap();
        let (counting, counts) = watch::channel(Counts::default());
        let reader = tokio::spawn(async move {
            let mut text = Vec::new();
            loop {
                log.read_to_end(&mut text).unwrap();
                let whole = text
                    .iter()
                    .rposition(|byte| *byte == b'\n')
                    .map_or(0, |end| end + 1);
                for line in text
                    .drain(..whole)
                    .collect::<Vec<_>>()
                    .split(|byte| *byte == b'\n')
                {
                    match writer(line) {
                        Some(Program::Controller) => counting.send_modify(|counts| counts.controller += 1),
                        Some(Program::Apiserver) => counting.send_modify(|counts| counts.apiserver += 1),
                        None => {}
                    }
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        Self {
            counts,
            _reader: AbortOnDropHandle::new(reader),
        }
    }

    /// So many writes there are.
    pub fn so_far(&self, program: Program) -> usize {
        self.counts.borrow().of(program)
    }

    /// Resolves once there are so many.
    pub async fn reach(&self, program: Program, count: usize) {
        let mut counts = self.counts.clone();
        counts
            .wait_for(|counts| counts.of(program) >= count)
            .await
            .unwrap();
    }
}

/// Whose write this line of the log is about. The lease, Events and token reviews carry nothing that could be lost.
fn writer(line: &[u8]) -> Option<Program> {
    const PREFIX: &str = "system:serviceaccount:brupop-bottlerocket-aws:brupop-update-";
    let event: Value = serde_json::from_slice(line).ok()?;
    let program = match event["user"]["username"].as_str()?.strip_prefix(PREFIX)? {
        "controller" => Program::Controller,
        "apiserver" => Program::Apiserver,
        _ => return None,
    };
    let writes = ["create", "update", "patch", "delete"].contains(&event["verb"].as_str()?);
    let counts = !["leases", "events", "tokenreviews"].contains(&event["objectRef"]["resource"].as_str()?);
    let done = event["responseStatus"]["code"].as_u64()? < 300;
    (writes && counts && done).then_some(program)
}
