//! What agent and apiserver say to each other, over HTTPS with the agent's token as bearer.
//!
//! | call | body | answer |
//! | --- | --- | --- |
//! | `POST /v1/nodes/{node}/shadow` | [`StatusReport`] | 204; the node's shadow exists |
//! | `PUT /v1/nodes/{node}/status` | [`StatusReport`] | 204; the shadow's status is this |
//! | `GET /v1/nodes/{node}/instructions` | | a stream of [`Line`]s, one JSON object a line |
//! | `POST /v1/nodes/{node}/permit` | [`PermitRequest`] | 200 [`PermitResponse`], 409 [`Refusal`] |
//!
//! Every other answer is a [`Refusal`] with 400, 401, 403, 404, 405, 409, 413 or 503.
//!
//! Agent and apiserver need not be of the same version. Both ignore fields that they do not know, and take a failure's
//! reason that they do not know for [`crate::shadow::FailureReason::Other`]. An agent ignores lines of a type that it does
//! not know; an instruction that it does not understand it leaves undone, and reports it. `tests/recorded/` holds
//! messages of this version and of one to come, and says what is made of each.

use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};

use crate::{
    ledger::PermitRefusal,
    shadow::{BottlerocketShadowSpec, BottlerocketShadowStatus},
};

/// The protocol number that a stream starts with.
pub const PROTOCOL: u32 = 1;

/// Seconds between two heartbeats on a stream.
pub const HEARTBEAT_SECONDS: u64 = 20;

/// Seconds of silence after which the agent takes a stream for dead.
pub const SILENCE_SECONDS: u64 = 60;

/// What the agent reports: the whole status, every time.
pub type StatusReport = BottlerocketShadowStatus;

/// A line of the instruction stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Line {
    /// The first line.
    Hello {
        /// The protocol number, [`PROTOCOL`].
        protocol: u32,
    },
    /// What the node is asked for now, sent first and whenever it changes.
    Instruction(Box<Instruction>),
    /// Nothing new.
    Heartbeat,
    /// The server goes away; connect again, to another replica.
    Goodbye,
    /// A line that this version does not know.
    #[serde(other)]
    Unknown,
}

/// What the node is asked for now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Instruction {
    /// The shadow's spec.
    pub spec: BottlerocketShadowSpec,
    /// The status that is stored, so that an agent that was restarted knows what it has reported.
    #[serde(default)]
    pub status: Option<BottlerocketShadowStatus>,
}

/// The agent asks to reboot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PermitRequest {
    /// The run that the agent was instructed for.
    pub run: String,
    /// The attempt that the agent was instructed for.
    pub attempt: u32,
    /// The boot ID that the node runs with now.
    pub boot_id: String,
}

/// The agent may reboot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PermitResponse {
    /// Names the permit.
    pub permit_id: String,
    /// For how many milliseconds from its arrival the permit is valid, by the agent's monotonic clock.
    pub valid_for_ms: u64,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// One line for people.
    pub message: String,
    /// The reason, where a permit was refused. None too where it is one that this version does not know.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "known")]
    pub permit: Option<PermitRefusal>,
}

/// None for what this version does not know.
fn known<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).ok())
}
