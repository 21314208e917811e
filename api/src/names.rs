//! Every label, annotation, finalizer and well-known name, each with one spelling.

/// API group of all custom resources.
pub const GROUP: &str = "brupop.bottlerocket.aws";
/// Namespace of an install, unless it is configured otherwise. Brupop's own default.
pub const DEFAULT_NAMESPACE: &str = "brupop-bottlerocket-aws";

/// Node label that makes a node take part in updates. It is Brupop's, so migrating needs no relabelling.
pub const NODE_LABEL: &str = "bottlerocket.aws/updater-interface-version";
/// The value of [`NODE_LABEL`] that this operator serves.
pub const NODE_LABEL_VALUE: &str = "2.0.0";

/// Node annotation that records, as JSON ([`crate::shadow::Disruption`]), who cordoned the node and what was
/// there before.
pub const DISRUPTION_ANNOTATION: &str = "brupop.bottlerocket.aws/disruption";

/// Node annotation by which a person takes a node out of all updates, by being there; its value is the reason that is shown,
/// and may be empty.
pub const OPT_OUT_ANNOTATION: &str = "brupop.bottlerocket.aws/opt-out";

/// Plan annotation that approves waves of a run: `RUN/WAVE`, several of them with commas between.
pub const APPROVE_ANNOTATION: &str = "brupop.bottlerocket.aws/approve";
/// Plan annotation that retries a run: `RUN/TOKEN`. What has failed so far does not count any more; each new token is a new
/// retry.
pub const RETRY_ANNOTATION: &str = "brupop.bottlerocket.aws/retry";
/// Plan annotation with which people say who asks and why: free text, recorded with what is done at their request.
pub const REASON_ANNOTATION: &str = "brupop.bottlerocket.aws/reason";
/// Plan annotation that has a run ignore its maintenance windows until it is complete: `RUN`.
pub const RUN_NOW_ANNOTATION: &str = "brupop.bottlerocket.aws/run-now";

/// Annotations put on a node while it is disrupted, so that autoscalers leave it alone; put back after.
pub const DO_NOT_DISRUPT_ANNOTATIONS: [(&str, &str); 2] = [
    ("karpenter.sh/do-not-disrupt", "true"),
    ("cluster-autoscaler.kubernetes.io/scale-down-disabled", "true"),
];

/// Finalizer of a plan, there only while the plan has grants.
pub const PLAN_FINALIZER: &str = "brupop.bottlerocket.aws/grants";

/// Name of the singleton `UpdateLedger` in the install's namespace.
pub const LEDGER_NAME: &str = "cluster";
/// Name of the controller's leader-election Lease in the install's namespace.
pub const LEASE_NAME: &str = "brupop-update-controller";

/// Label of the operator's pods that says that they are the operator's.
pub const NAME_LABEL: &str = "app.kubernetes.io/name";
/// Value of [`NAME_LABEL`].
pub const OPERATOR_NAME: &str = "bottlerocket-update-operator";
/// Label of the operator's pods that says which part they are.
pub const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
/// Value of [`COMPONENT_LABEL`] on agent pods.
pub const COMPONENT_AGENT: &str = "agent";
/// Value of [`COMPONENT_LABEL`] on controller pods.
pub const COMPONENT_CONTROLLER: &str = "controller";
/// Value of [`COMPONENT_LABEL`] on apiserver pods.
pub const COMPONENT_APISERVER: &str = "apiserver";
/// Service account of the agent pods.
pub const AGENT_SERVICE_ACCOUNT: &str = "brupop-update-agent";
/// Audience of the agents' tokens.
pub const TOKEN_AUDIENCE: &str = "brupop-update-apiserver";

/// Taint that Kubernetes puts on a cordoned node; pods that tolerate it may come back after a drain.
pub const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";
/// Annotation of static pods; they live and die with the kubelet, not with the API.
pub const MIRROR_POD_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// Name of the shadow of a node, as Brupop names it.
#[must_use]
pub fn shadow_name(node: &str) -> String {
    format!("brs-{node}")
}
