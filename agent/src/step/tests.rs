#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod ahead;
mod reboot;
mod stage;
mod undo;
mod versions;

/// What is done to stage an update on a node that knows nothing yet.
const STAGE: [&str; 6] = [
    "report saved settings",
    "set 1.21.0 true",
    "refresh",
    "prepare",
    "activate",
    "report StagedAndPerformedUpdate",
];
