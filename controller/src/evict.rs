//! Evicts one pod.

use k8s_openapi::{
    api::{core::v1::Pod, policy::v1::Eviction},
    apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta, Preconditions},
};
use kube::{Api, api::PostParams, core::Status};

use crate::{context::Context, request::RequestError};

/// The cause by which the API names the PodDisruptionBudget.
const BUDGET_CAUSE: &str = "DisruptionBudget";
/// What comes before the budget's name in that cause's message.
const BUDGET_PREFIX: &str = "The disruption budget ";

/// What came of an eviction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evicted {
    /// The pod is told to end.
    Accepted,
    /// The pod is gone.
    Gone,
    /// The pod cannot be evicted now.
    Refused {
        /// The PodDisruptionBudget that forbids it, where one does.
        budget: Option<String>,
        /// The API's own words.
        message: String,
        /// Whether the API has refused; otherwise it is not known what became of the request.
        by_api: bool,
    },
}

/// Asks for the eviction of the pod with this UID, and of no other one.
pub async fn evict(context: &Context, namespace: &str, name: &str, uid: &str) -> Evicted {
    // kube's own `evict` spells deleteOptions so that the API ignores them, and with them the UID.
    let eviction = Eviction {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        delete_options: Some(DeleteOptions {
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                ..Preconditions::default()
            }),
            ..DeleteOptions::default()
        }),
    };
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
    let params = PostParams::default();
    let request = pods.create_subresource::<_, Status>("eviction", name, &params, &eviction);
    let evicted = classify(context.fence.write(request).await.map(|_| ()));
    context.metrics.evicted(match &evicted {
        Evicted::Accepted => "accepted",
        Evicted::Gone => "gone",
        Evicted::Refused { by_api: true, .. } => "refused",
        Evicted::Refused { by_api: false, .. } => "error",
    });
    evicted
}

fn classify(answer: Result<(), RequestError>) -> Evicted {
    let error = match answer {
        Ok(()) => return Evicted::Accepted,
        Err(error) => error,
    };
    let Some(status) = error.status() else {
        return Evicted::Refused {
            budget: None,
            message: error.to_string(),
            by_api: false,
        };
    };
    if error.is_not_found() {
        return Evicted::Gone;
    }
    Evicted::Refused {
        budget: budget(status),
        message: words(status),
        by_api: true,
    }
}

fn causes(status: &Status) -> impl Iterator<Item = &str> {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes
        .filter(|cause| cause.reason == BUDGET_CAUSE)
        .map(|cause| cause.message.as_str())
}

fn budget(status: &Status) -> Option<String> {
    let name = causes(status)
        .find_map(|message| message.strip_prefix(BUDGET_PREFIX))?
        .split(' ')
        .next()?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// The cause says more than the message, where there is one.
fn words(status: &Status) -> String {
    causes(status).next().unwrap_or(&status.message).to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;

    fn answered(status: Value) -> Evicted {
        let status: Status = serde_json::from_value(status).unwrap();
        classify(Err(RequestError::Kube(kube::Error::Api(Box::new(status)))))
    }

    fn refused(budget: Option<&str>, message: &str) -> Evicted {
        Evicted::Refused {
            budget: budget.map(str::to_owned),
            message: message.to_owned(),
            by_api: true,
        }
    }

    #[test]
    fn a_budget_that_forbids_it_is_named() {
        let cause = "The disruption budget web-pdb needs 2 healthy pods and has 2 currently";
        let evicted = answered(json!({
            "status": "Failure", "code": 429, "reason": "TooManyRequests",
            "message": "Cannot evict pod as it would violate the pod's disruption budget.",
            "details": {"causes": [{"reason": "DisruptionBudget", "message": cause}]}
        }));
        assert_eq!(evicted, refused(Some("web-pdb"), cause));
    }

    #[test]
    fn an_api_that_is_busy_is_no_budget() {
        let evicted = answered(
            json!({"status": "Failure", "code": 429, "reason": "TooManyRequests",
            "message": "too many requests", "details": {"retryAfterSeconds": 1}}),
        );
        assert_eq!(evicted, refused(None, "too many requests"));
    }

    #[test]
    fn two_budgets_over_one_pod_are_said_in_the_apis_words() {
        let message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
        assert_eq!(
            answered(json!({"status": "Failure", "code": 500, "message": message})),
            refused(None, message)
        );
    }

    #[test]
    fn a_pod_that_is_gone_is_gone_and_another_one_of_its_name_stays() {
        assert_eq!(
            answered(json!({"code": 404, "reason": "NotFound", "message": "x"})),
            Evicted::Gone
        );
        assert_eq!(
            answered(json!({"code": 409, "reason": "Conflict", "message": "x"})),
            refused(None, "x")
        );
        assert_eq!(classify(Ok(())), Evicted::Accepted);
    }

    #[test]
    fn no_answer_is_no_success() {
        let silent = classify(Err(RequestError::TimedOut(Duration::from_secs(5))));
        let message = "no answer within 5s".to_owned();
        assert_eq!(
            silent,
            Evicted::Refused {
                budget: None,
                message,
                by_api: false
            }
        );
        assert!(matches!(
            classify(Err(RequestError::Fenced)),
            Evicted::Refused { by_api: false, .. }
        ));
    }
}
