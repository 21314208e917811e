//! Who may act on a run: the chart's admission policy wants a verb for each of the annotations by which people do, and leaves
//! all else about a plan to whoever may edit it.

use std::process::Output;
use std::time::Duration;

use api::names::{
    APPROVE_ANNOTATION, PLAN_FINALIZER, REASON_ANNOTATION, RETRY_ANNOTATION, RUN_NOW_ANNOTATION,
};
use k8s_openapi::api::admissionregistration::v1::{
    ExpressionWarning, ValidatingAdmissionPolicy, ValidatingAdmissionPolicySpec, Validation,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};
use testbed::lab::Bare;
use testbed::operator::NAMESPACE;
use testbed::wait;

use crate::support::{NEW, SOON, assert_says, raw_plan};

/// The annotations with their verbs.
const ACTIONS: [(&str, &str); 3] = [
    (APPROVE_ANNOTATION, "approve"),
    (RETRY_ANNOTATION, "retry"),
    (RUN_NOW_ANNOTATION, "run-now"),
];
/// Policy, binding and role of the chart.
const NAME: &str = "brupop-update-actions";
/// kube-controller-manager reads every 30 s which kinds there are.
const CHECKED_WITHIN: Duration = Duration::from_secs(60);

/// May edit plans.
const EVE: &str = "eve";
/// May edit plans, and has the chart's role.
const ANNA: &str = "anna";
/// May edit plans, and approve `web`.
const BERT: &str = "bert";

/// The chart's objects with these people and the plans `web` and `db`, once the policy is in force.
async fn people() -> Bare {
    let bare = Bare::start().await.unwrap();
    let objects = [
        editors(),
        binding("plan-editor", &[EVE, ANNA, BERT]),
        plan("web", &[]),
        plan("db", &[]),
    ];
    let objects: Vec<String> = objects.iter().map(Value::to_string).collect();
    bare.plane.apply(&[], &objects.join("\n---\n")).await.unwrap();
    // As the README has it.
    for command in [
        "create clusterrolebinding actions-anna --clusterrole=brupop-update-actions --user=anna",
        "create clusterrole approve-web --verb=get,patch,approve --resource=updateplans.brupop.bottlerocket.aws \
         --resource-name=web",
        "create clusterrolebinding approve-web-bert --clusterrole=approve-web --user=bert",
    ] {
        let args: Vec<&str> = command.split_whitespace().collect();
        bare.plane.kubectl_ok(&args).await.unwrap();
    }
    // kube-apiserver takes a new policy up within a second or two: until then this passes.
    let in_force = async {
        let dry = ["--dry-run=server"];
        loop {
            let asked = annotate(&bare, EVE, "web", "brupop.bottlerocket.aws/retry=0/0", &dry).await;
            // Whatever else fails it is not the policy yet.
            if String::from_utf8_lossy(&asked.stderr).contains("needs the verb retry") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(SOON, in_force)
        .await
        .expect("nothing is ever refused");
    bare
}

fn editors() -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "plan-editor"},
        "rules": [{
            "apiGroups": ["brupop.bottlerocket.aws"],
            "resources": ["updateplans"],
            "verbs": ["get", "list", "create", "update", "patch", "delete"],
        }],
    })
}

fn binding(role: &str, people: &[&str]) -> Value {
    let group = "rbac.authorization.k8s.io";
    let subjects: Vec<Value> = people
        .iter()
        .map(|person| json!({"apiGroup": group, "kind": "User", "name": person}))
        .collect();
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": format!("people-{role}")},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
        "subjects": subjects,
    })
}

fn plan(name: &str, annotations: &[(&str, &str)]) -> Value {
    let mut plan = raw_plan(name, &json!({"targetVersion": NEW, "nodeSelector": {}}));
    for (annotation, value) in annotations {
        plan["metadata"]["annotations"][annotation] = json!(value);
    }
    plan
}

async fn kubectl(bare: &Bare, person: &str, args: &[&str]) -> Output {
    let person = format!("--as={person}");
    bare.plane.kubectl(&[args, &[&person]].concat()).await.unwrap()
}

async fn annotate(bare: &Bare, person: &str, plan: &str, annotation: &str, flags: &[&str]) -> Output {
    let args = ["annotate", "--overwrite", "uplan", plan, annotation];
    kubectl(bare, person, &[&args, flags].concat()).await
}

fn accepted(output: &Output) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
}

/// It is refused by the policy, with the annotation, the verb, who asked and the role to bind.
fn refused(output: &Output, plan: &str, (annotation, verb): (&str, &str), person: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{person} may {verb}");
    assert_says(
        &error,
        &[
            "Forbidden",
            &format!("ValidatingAdmissionPolicy '{NAME}'"),
            &format!(
                "to set annotation {annotation} of plan {plan} needs the verb {verb} on \
                 updateplans.brupop.bottlerocket.aws, which {person} does not have: bind ClusterRole {NAME}"
            ),
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_needs_its_verb_and_all_else_about_a_plan_does_not() {
    let bare = people().await;
    for action in ACTIONS {
        let (annotation, verb) = action;
        let (value, other) = (
            format!("{annotation}=0a1b2c3d/x"),
            format!("{annotation}=0a1b2c3d/y"),
        );
        refused(
            &annotate(&bare, EVE, "web", &value, &[]).await,
            "web",
            action,
            EVE,
        );
        let created = plan("new", &[(annotation, "0a1b2c3d/x")]).to_string();
        let created = async |person: &str| {
            let flags = [&format!("--as={person}"), "--dry-run=server"];
            bare.plane.try_apply(&flags, &created).await.unwrap()
        };
        refused(&created(EVE).await, "new", action, EVE);
        accepted(&created(ANNA).await);

        accepted(&annotate(&bare, ANNA, "web", &value, &[]).await);
        refused(
            &annotate(&bare, EVE, "web", &other, &[]).await,
            "web",
            action,
            EVE,
        );
        // Nor does the operator ask itself, though it may patch plans.
        let operator = format!("system:serviceaccount:{NAMESPACE}:brupop-update-controller");
        let asked = annotate(&bare, &operator, "web", &other, &[]).await;
        refused(&asked, "web", action, &operator);

        // The plan carries it now: that is nobody else's concern.
        accepted(&annotate(&bare, EVE, "web", &value, &[]).await);
        let said = format!("{REASON_ANNOTATION}=eve: {verb}");
        accepted(&annotate(&bare, EVE, "web", &said, &[]).await);
        for paused in [true, false] {
            let spec = json!({"spec": {"paused": paused}}).to_string();
            let edit = ["patch", "uplan", "web", "--type=merge", "-p", &spec];
            accepted(&kubectl(&bare, EVE, &edit).await);
        }
        let text = plan("web", &[]).to_string();
        accepted(&bare.plane.try_apply(&["--as=eve"], &text).await.unwrap());
        for finalizers in [json!([PLAN_FINALIZER]), json!(null)] {
            let patch = json!({"metadata": {"finalizers": finalizers}}).to_string();
            let patch = ["patch", "uplan", "web", "--type=merge", "-p", &patch];
            accepted(&kubectl(&bare, &operator, &patch).await);
        }

        let removed = format!("{annotation}-");
        accepted(&annotate(&bare, EVE, "web", &removed, &[]).await);
        refused(
            &annotate(&bare, EVE, "web", &value, &[]).await,
            "web",
            action,
            EVE,
        );
    }
    // And new plans, without any, are made and removed by whoever may do that.
    let text = plan("new", &[(REASON_ANNOTATION, "eve: a new one")]).to_string();
    accepted(&bare.plane.try_apply(&["--as=eve"], &text).await.unwrap());
    accepted(&kubectl(&bare, EVE, &["delete", "uplan", "new"]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verb_may_be_given_alone_and_for_one_plan() {
    let bare = people().await;
    let value = |annotation: &str| format!("{annotation}=0a1b2c3d/x");
    let [approve, retry, run_now] = ACTIONS;
    for (plan, answer) in [("web", "yes"), ("db", "no")] {
        let plan = format!("updateplans.brupop.bottlerocket.aws/{plan}");
        let answered = kubectl(&bare, BERT, &["auth", "can-i", "approve", &plan]).await;
        assert_says(&String::from_utf8_lossy(&answered.stdout), &[answer]);
    }
    accepted(&annotate(&bare, BERT, "web", &value(approve.0), &[]).await);
    for action in [retry, run_now] {
        refused(
            &annotate(&bare, BERT, "web", &value(action.0), &[]).await,
            "web",
            action,
            BERT,
        );
    }
    refused(
        &annotate(&bare, BERT, "db", &value(approve.0), &[]).await,
        "db",
        approve,
        BERT,
    );
    // Several at once: each of them needs its verb.
    let both = value(retry.0);
    let asked = annotate(&bare, BERT, "web", &format!("{}=0a1b2c3d/y", approve.0), &[&both]).await;
    refused(&asked, "web", retry, BERT);
    let all = [&value(retry.0)[..], &value(run_now.0)];
    accepted(&annotate(&bare, ANNA, "web", &format!("{}=0a1b2c3d/y", approve.0), &all).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_says_who_asked_for_what_and_why() {
    let bare = people().await;
    let said = format!("{REASON_ANNOTATION}=looked fine, OPS-1240");
    let value = format!("{APPROVE_ANNOTATION}=0a1b2c3d/canary");
    accepted(&annotate(&bare, ANNA, "web", &value, &[&said]).await);
    let removed = format!("{APPROVE_ANNOTATION}-");
    accepted(&annotate(&bare, EVE, "web", &removed, &[]).await);
    let log = std::fs::read_to_string(bare.plane.audit_log()).unwrap();
    // The last line may be on its way.
    let (log, _) = log.rsplit_once('\n').unwrap();
    let recorded: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|event| event["responseStatus"]["code"] == 200)
        .map(|event| event["annotations"][format!("{NAME}/approve")].clone())
        .filter(|annotation| !annotation.is_null())
        .collect();
    assert_eq!(
        recorded,
        ["anna asks for 0a1b2c3d/canary of plan web, saying looked fine, OPS-1240"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_expressions_are_right_by_the_types_of_a_plan() {
    let bare = Bare::start().await.unwrap();
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(bare.plane.client().await.unwrap());
    // Types are looked at once for each policy, and passed over where they are not known yet. One more validation that is
    // wrong shows that they were looked at.
    let mut copy = policies.get(NAME).await.unwrap().spec.unwrap();
    let wrong = Validation {
        expression: "object.spec.paused == 'no'".to_owned(),
        ..Validation::default()
    };
    let planted = copy.validations.as_ref().unwrap().len();
    copy.validations.as_mut().unwrap().push(wrong);
    let checks = async {
        for attempt in 0.. {
            let name = format!("copy-{attempt}");
            let warnings = warnings(&policies, &name, &copy).await;
            if !warnings.is_empty() {
                return warnings;
            }
        }
        unreachable!()
    };
    let warnings = tokio::time::timeout(CHECKED_WITHIN, checks)
        .await
        .expect("types are never looked at");
    let fields: Vec<&str> = warnings
        .iter()
        .map(|warning| warning.field_ref.as_str())
        .collect();
    assert_eq!(
        fields,
        [format!("spec.validations[{planted}].expression")],
        "{warnings:?}"
    );
}

/// What the control plane finds wrong by their types in the expressions of a policy that it has not seen before.
async fn warnings(
    policies: &Api<ValidatingAdmissionPolicy>,
    name: &str,
    spec: &ValidatingAdmissionPolicySpec,
) -> Vec<ExpressionWarning> {
    let policy = ValidatingAdmissionPolicy {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(spec.clone()),
        status: None,
    };
    policies.create(&PostParams::default(), &policy).await.unwrap();
    let checked = wait::for_object(
        policies.clone(),
        name,
        SOON,
        "types that were checked",
        |policy| {
            policy
                .and_then(|policy| policy.status.as_ref())
                .is_some_and(|status| status.type_checking.is_some())
        },
    )
    .await
    .unwrap()
    .unwrap();
    let checked = checked.status.unwrap().type_checking.unwrap();
    checked.expression_warnings.unwrap_or_default()
}
