//! What people ask of a run, and what became of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether a person has to approve the end of a wave.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum Approval {
    /// The next wave starts by itself.
    #[default]
    Automatic,
    /// The next wave starts when a person has approved this one.
    Manual,
}

/// What a person has asked by an annotation, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActionStatus {
    /// action: `approve`, `retry` or `run-now`.
    pub action: String,
    /// value: what the annotation says.
    pub value: String,
    /// taken: whether it was done. It is done once, and stays done where the annotation is removed.
    pub taken: bool,
    /// said: who asked and why, as the annotation `reason` said when it was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<String>,
    /// message: what it did, or why it is ignored.
    pub message: String,
}
