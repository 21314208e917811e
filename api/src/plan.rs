//! `UpdatePlan`: which nodes, which version, when, how many at once; and how far it is.

mod actions;
mod selector;
mod status;
mod topology;

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube_derive::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::{IntOrPercent, Span, at_most, within};

pub use actions::{ActionStatus, Approval};
pub use status::{
    ActiveNode, FailedNode, NodeCounts, NodeDuration, PastRun, Phase, Run, UpdatePlanStatus, WaitingNodes,
    WavePhase, WaveStatus, WindowStatus, condition,
};
pub use topology::Topology;

/// What is wanted. Every field is checked by the API server as far as CEL can say it, and by the controller
/// (condition `Valid`) where it cannot.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "brupop.bottlerocket.aws",
    version = "v1alpha1",
    kind = "UpdatePlan",
    plural = "updateplans",
    singular = "updateplan",
    shortname = "uplan",
    status = "UpdatePlanStatus",
    derive = "PartialEq",
    doc = "Which Bottlerocket nodes are updated, to which version, when, and how many at once.",
    printcolumn(name = "Target", type_ = "string", json_path = ".spec.targetVersion"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Wave", type_ = "string", json_path = ".status.wave"),
    printcolumn(name = "Updated", type_ = "string", json_path = ".status.progress"),
    printcolumn(
        name = "Unavailable",
        type_ = "integer",
        json_path = ".status.nodes.unavailable"
    ),
    printcolumn(name = "Failed", type_ = "integer", json_path = ".status.nodes.failed"),
    printcolumn(name = "Next Window", type_ = "string", json_path = ".status.window.next"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.message",
        priority = 1
    ),
    crates(kube_core = "::kube_core")
)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[x_kube(validation = Rule::new("!has(self.minReleaseAge) || self.targetVersion == 'latest'")
    .message("minReleaseAge is for targetVersion: latest; an exact version is taken as soon as it is on offer")
    .reason(Reason::FieldValueForbidden).field_path(".minReleaseAge"))]
#[x_kube(validation = Rule::new("!has(self.allowDowngrade) || !self.allowDowngrade || self.targetVersion != 'latest'")
    .message("allowDowngrade is for an exact targetVersion; latest never takes a node down")
    .reason(Reason::FieldValueForbidden).field_path(".allowDowngrade"))]
#[serde(rename_all = "camelCase")]
pub struct UpdatePlanSpec {
    /// targetVersion: the exact version that every matched node is to run, such as `1.21.0`, without a leading
    /// `v`; or `latest`: the newest version that is on offer to nodes of the same variant and architecture, fixed
    /// when the run first sees one. With `latest` a new run starts when the last is complete and a newer version that a
    /// node needs is on offer, or when each node that needs its version has found that it is not offered, and another is.
    /// Changing targetVersion starts a new run. A node that runs a newer version is left alone, unless allowDowngrade says
    /// otherwise.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new(r"self == 'latest' || self.matches('^(0|[1-9][0-9]{0,8})([.](0|[1-9][0-9]{0,8})){2}(-[0-9A-Za-z.-]+)?$')")
        .message(Message::Expression(
            r#"'targetVersion "' + self + '" is not a version: give it in full and without a leading v, such as 1.21.0, or latest'"#.into()))
        .reason(Reason::FieldValueInvalid))]
    pub target_version: String,

    /// minReleaseAge: with `latest` only: for how long the plan's nodes of the variant and architecture must have seen a
    /// version on offer until it is taken. It counts from when the first of those that are there now saw it, not from the
    /// release: after an install, or once all of them have been replaced, from zero. Default 0s; at most 8760h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = within("minReleaseAge", "0s", "8760h"))]
    pub min_release_age: Option<Span>,

    /// allowDowngrade: with an exact targetVersion only: whether a node that runs a newer version is taken down to it. Default
    /// false: it is left alone.
    #[serde(default)]
    pub allow_downgrade: bool,

    /// nodeSelector: the nodes that the plan is for, among those with the label
    /// `bottlerocket.aws/updater-interface-version=2.0.0`. `{}` is all of them. At most 100 expressions.
    #[schemars(transform = selector::readable)]
    pub node_selector: LabelSelector,

    /// priority: a node that several plans select belongs to the one with the highest priority, then to the oldest, then
    /// to the first by name. A node that is being updated stays with its plan until it is Idle. Default 0.
    #[serde(default)]
    pub priority: i32,

    /// paused: nothing is granted; nodes that are not yet rebooting go back to Idle, the others finish.
    #[serde(default)]
    pub paused: bool,

    /// maintenanceWindows: when nodes may be disrupted: any time inside their union. None: always. At most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(validation = Rule::new("self.all(x, self.exists_one(y, y.name == x.name))")
        .message("maintenanceWindows must have different names").reason(Reason::FieldValueInvalid))]
    pub maintenance_windows: Vec<MaintenanceWindow>,

    /// exclusions: when nothing is granted or cordoned, whatever the windows say, in the same two forms. A window is closed
    /// while one is on; what becomes of the nodes that are on their way then is said by onWindowEnd. A recurring one
    /// always needs its `duration`, unless its schedule names seconds in a row. At most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(validation = Rule::new("self.all(x, self.exists_one(y, y.name == x.name))")
        .message("exclusions must have different names").reason(Reason::FieldValueInvalid))]
    pub exclusions: Vec<MaintenanceWindow>,

    /// onWindowEnd: what becomes of the nodes on their way when a window closes, or an exclusion begins. `Withdraw`:
    /// those that are not rebooting yet go back to Idle, the others finish. `Finish`: those that were cordoned while it
    /// was open finish too: they drain and reboot after the close, and during an exclusion. Either way nothing is granted
    /// or cordoned then. Default Withdraw.
    #[serde(default)]
    pub on_window_end: OnWindowEnd,

    /// expectedNodeDuration: how long a node takes from its grant to the end of its monitoring, until the plan has
    /// learned it from nodes of its own (`status.nodeDuration`). No node is granted that is not expected to finish
    /// before the window closes; a window must be 10 s longer than that. An edit of this field forgets what was learned.
    /// Default 20m; 1s to 24h.
    #[serde(default = "twenty_minutes")]
    #[x_kube(validation = within("expectedNodeDuration", "1s", "24h"))]
    pub expected_node_duration: Span,

    /// maxUnavailable: how many of the matched nodes may be unavailable at once, for whatever reason (being updated, also
    /// while they still download; not Ready; cordoned): a number from 1, or a percentage of the matched nodes, rounded down
    /// but at least 1. Default 1. To stop, set paused.
    #[serde(default = "one_node")]
    pub max_unavailable: IntOrPercent,

    /// topology: of how many domains, such as zones, nodes are disrupted at a time. None: of any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology: Option<Topology>,

    /// waves: the order in which the nodes are updated; a wave starts when the one before is done and soaked. The
    /// last wave takes every node that is left, so it has neither size nor nodeSelector. None: one wave of
    /// everything. At most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(validation = Rule::new("self.all(x, self.exists_one(y, y.name == x.name))")
        .message("waves must have different names").reason(Reason::FieldValueInvalid))]
    #[x_kube(validation = Rule::new("size(self) == 0 || (!has(self[size(self) - 1].size) && !has(self[size(self) - 1].nodeSelector))")
        .message("waves must end with one that takes the rest: remove size and nodeSelector from the last wave, or add {name: rest}")
        .reason(Reason::FieldValueInvalid))]
    #[x_kube(validation = Rule::new("self.filter(x, !has(x.size) && !has(x.nodeSelector)).size() <= 1")
        .message("waves before the last must have a size or a nodeSelector, or they would take every node")
        .reason(Reason::FieldValueInvalid))]
    pub waves: Vec<Wave>,

    /// skipAfter: where a wave waits for nothing but nodes that cannot be updated (not Ready, cordoned by somebody else,
    /// without an agent that reports, or one that cannot undo an earlier attempt; their version in dispute; with `latest`,
    /// nothing on offer), for so long of open window they are waited for; then
    /// they are skipped until they can be, or until something else of the plan is to be done. Default 1h; 0s to 720h.
    #[serde(default = "one_hour")]
    #[x_kube(validation = within("skipAfter", "0s", "720h"))]
    pub skip_after: Span,

    /// drain: how a node is emptied before it reboots.
    #[serde(default)]
    pub drain: Drain,

    /// monitoring: what healthy means after the reboot.
    #[serde(default)]
    pub monitoring: Monitoring,

    /// failurePolicy: what a failure does.
    #[serde(default)]
    pub failure_policy: FailurePolicy,

    /// timeouts: how long the node's own steps may take.
    #[serde(default)]
    pub timeouts: Timeouts,
}

/// The `targetVersion` that stands for the newest that is on offer.
pub const LATEST: &str = "latest";

/// What becomes of nodes on their way when a window closes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnWindowEnd {
    /// Those that are not rebooting yet go back to Idle.
    #[default]
    Withdraw,
    /// Those that were cordoned while the window was open finish.
    Finish,
}

/// A time in which nodes may be disrupted, or in exclusions may not: recurring (`schedule` and `duration`), or once (`start`
/// and `end`).
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[x_kube(validation = Rule::new("has(self.schedule) != has(self.start)")
    .message("a window has either schedule and duration, or start and end").reason(Reason::FieldValueInvalid))]
#[x_kube(validation = Rule::new(r"!has(self.schedule) || has(self.duration) || self.schedule.matches('^\\s*\\S+(\\s+\\S+){5,6}\\s*$')")
    .message("a schedule of five fields, or such as @daily, needs a duration").reason(Reason::FieldValueInvalid))]
#[x_kube(validation = Rule::new("!has(self.duration) || has(self.schedule)")
    .message("duration is for schedule; start and end say how long the window is").reason(Reason::FieldValueForbidden))]
#[x_kube(validation = Rule::new("has(self.start) == has(self.end)")
    .message("start and end go together: give both, or neither").reason(Reason::FieldValueInvalid))]
#[x_kube(validation = Rule::new("!has(self.timeZone) || has(self.schedule)")
    .message("timeZone is for schedule; start and end carry their own offset").reason(Reason::FieldValueForbidden))]
#[x_kube(validation = Rule::new("!has(self.start) || !has(self.end) || self.start < self.end")
    .message("end must be after start").reason(Reason::FieldValueInvalid).field_path(".end"))]
#[serde(rename_all = "camelCase")]
pub struct MaintenanceWindow {
    /// name: names the window in status and messages.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,

    /// schedule: when the window opens, in the five fields of a Kubernetes CronJob (minute, hour, day of month,
    /// month, day of week), with names, `L`, `#`, and `@daily` and its like. Day of month and day of week are
    /// alternatives where both are given; Sunday is 0 or 7. A local start that a DST change skips opens at the first
    /// instant after the gap; one that happens twice opens once, at the first. Where every hour is named, the
    /// window opens in every hour that really happens.
    ///
    /// Six or seven fields are read as Brupop reads them: second, minute, hour, day of month, month, day of week,
    /// year. Day of month and day of week must both hold, Sunday is 1, and a DST change skips and doubles what the
    /// clocks skip and double. Where seconds in a row are named, the schedule is the window and takes no
    /// `duration`: `* * 22 * * SAT *` is 22:00 to 23:00 on Saturdays. Where single instants are named, each opens
    /// a window of `duration`. Without `duration` it opens one that has no end of its own, where nodes wait at that
    /// instant (so for a run that began before it): until none waits any more, as each is updated, skipped or
    /// failed. Who joins before that is updated with them. What comes to wait later waits for the next instant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = Rule::new(r"self.matches('^\\s*(@(yearly|annually|monthly|weekly|daily|midnight|hourly)|[^@\\s]\\S*(\\s+\\S+){4,6})\\s*$')")
        .message(Message::Expression(
            r#"'schedule "' + self + '" must have five fields (minute hour day-of-month month day-of-week), or six or seven as for Brupop (seconds first), or be @hourly, @daily, @weekly, @monthly or @yearly'"#.into()))
        .reason(Reason::FieldValueInvalid))]
    pub schedule: Option<String>,

    /// timeZone: the IANA zone that `schedule` is read in, such as `Europe/Berlin`. Default UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new(r"self.matches('^[A-Za-z][A-Za-z0-9_+/-]*$') && self != 'Local' && timestamp('2026-01-01T00:00:00Z').getHours(self) >= 0")
        .message("timeZone must be an IANA time zone name such as Europe/Berlin or UTC")
        .reason(Reason::FieldValueInvalid))]
    pub time_zone: Option<String>,

    /// duration: how long the window stays open, in elapsed time. 1s to 8760h. Default, for six or seven fields
    /// only: see `schedule`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = within("duration", "1s", "8760h"))]
    pub duration: Option<Span>,

    /// start: when a one-off window opens, with offset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = INSTANT))]
    pub start: Option<DateTime<Utc>>,

    /// end: when a one-off window closes, with offset; the instant itself is outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = INSTANT))]
    pub end: Option<DateTime<Utc>>,
}

/// A group of nodes that is updated before the next.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase")]
pub struct Wave {
    /// name: names the wave in status, shadows and messages; a DNS label.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')")
        .message("a wave's name must be lower case letters, digits and hyphens, such as canary")
        .reason(Reason::FieldValueInvalid))]
    pub name: String,

    /// size: how many nodes the wave takes, fixed as the run grants its first: a number, or a percentage of the matched
    /// nodes, rounded up. Which, are the lowest by hash of run and node among those that need the update, those with a live
    /// agent first. Default: all that nodeSelector selects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<IntOrPercent>,

    /// nodeSelector: only nodes with these labels. Default: any that the plan matches. At most 100 expressions.
    #[schemars(transform = selector::readable)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,

    /// maxUnavailable: how many of the wave's nodes may be unavailable at once, besides the plan's own limit: a
    /// number, or a percentage of the wave, rounded down but at least 1. Default: the plan's limit alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<IntOrPercent>,

    /// soak: how long the wave is watched after its last node, in wall time, before the next starts. A node of the
    /// wave that is not Ready at any moment of it has failed at once, without retries. After the last wave the run is complete
    /// only when it has soaked. Default 0s; at most 720h.
    #[serde(default = "no_time")]
    #[x_kube(validation = within("soak", "0s", "720h"))]
    pub soak: Span,

    /// approval: whether a person has to approve the wave once it is done and soaked: `Manual` or `Automatic`. Until then
    /// the next wave does not start, and after the last the run is not complete; a node of the wave that is not Ready
    /// meanwhile has failed, as in a soak. It is given by the plan's annotation
    /// `brupop.bottlerocket.aws/approve: RUN/WAVE`. Default Automatic.
    #[serde(default)]
    pub approval: Approval,
}

/// How a node is emptied.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    /// timeout: how long evictions are tried, from the cordon on. Over: the attempt has failed, the node is
    /// uncordoned; but the operator's own pods, where no others are left, stay. Default 15m; 1s to 24h.
    #[serde(default = "fifteen_minutes")]
    #[x_kube(validation = within("drain.timeout", "1s", "24h"))]
    pub timeout: Span,
}

/// What healthy means after the reboot.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[x_kube(validation = at_most("minReady", "timeout"))]
#[serde(rename_all = "camelCase")]
pub struct Monitoring {
    /// minReady: how long the node must stay Ready on the target, without interruption. Default 1m; at most 24h.
    #[serde(default = "one_minute")]
    #[x_kube(validation = within("monitoring.minReady", "0s", "24h"))]
    pub min_ready: Span,

    /// timeout: how long it may take to be so, from when the node is first Ready on the target. Default 15m; 1s to 24h, and
    /// at least minReady.
    #[serde(default = "fifteen_minutes")]
    #[x_kube(validation = within("monitoring.timeout", "1s", "24h"))]
    pub timeout: Span,
}

/// What a failure does.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase")]
pub struct FailurePolicy {
    /// retries: how often a node is tried again after a failure: after 1m (`--retry-backoff` of the controller), twice as
    /// long each time, at most 10m. Not tried again is a node that was unhealthy on the target, that has not come back, or
    /// whose agent and kubelet name different versions. Default 1; 0 to 10.
    #[serde(default = "one_retry")]
    #[schemars(range(min = 0, max = 10))]
    pub retries: u32,

    /// threshold: how many nodes of a run may have failed, after their retries, until the plan halts: a number, or
    /// a percentage of the matched nodes, rounded up. A plan that halts takes back the nodes that are not yet rebooting, the
    /// others finish; raising the threshold lifts no halt. Default 1: the first failed node halts.
    #[serde(default = "one_node")]
    pub threshold: IntOrPercent,
}

/// How long the node's own steps may take.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// stage: from the grant until the image is downloaded and activated. Default 30m; 1s to 24h.
    #[serde(default = "thirty_minutes")]
    #[x_kube(validation = within("timeouts.stage", "1s", "24h"))]
    pub stage: Span,

    /// reboot: from drained until the reboot permit, and again from the permit until the node is Ready on the target. Default 15m; 1s to 24h.
    #[serde(default = "fifteen_minutes")]
    #[x_kube(validation = within("timeouts.reboot", "1s", "24h"))]
    pub reboot: Span,
}

/// Narrower than Kubernetes' own `date-time`, which takes offsets that chrono does not.
const INSTANT: &str = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$";

const fn no_time() -> Span {
    Span::seconds(0)
}
const fn one_minute() -> Span {
    Span::minutes(1)
}
const fn one_hour() -> Span {
    Span::minutes(60)
}
const fn fifteen_minutes() -> Span {
    Span::minutes(15)
}
const fn twenty_minutes() -> Span {
    Span::minutes(20)
}
const fn thirty_minutes() -> Span {
    Span::minutes(30)
}
const fn one_node() -> IntOrPercent {
    IntOrPercent::Int(1)
}
const fn one_retry() -> u32 {
    1
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            timeout: fifteen_minutes(),
        }
    }
}

impl Default for Monitoring {
    fn default() -> Self {
        Self {
            min_ready: one_minute(),
            timeout: fifteen_minutes(),
        }
    }
}

impl Default for FailurePolicy {
    fn default() -> Self {
        Self {
            retries: one_retry(),
            threshold: one_node(),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            stage: thirty_minutes(),
            reboot: fifteen_minutes(),
        }
    }
}
