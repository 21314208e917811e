//! Which node an agent speaks for: a pure decision over Kubernetes' review of its token.

use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};

use api::names;

const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const NODE_UID: &str = "authentication.kubernetes.io/node-uid";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// An agent, and the node it speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The node's name.
    pub node: String,
    /// The node's UID.
    pub node_uid: String,
    /// The agent pod's name.
    pub pod: String,
    /// The agent pod's UID.
    pub pod_uid: String,
}

/// Why a token does not let its bearer speak for the node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// There is no token.
    #[error("no token was sent: send the agent's token as \"Authorization: Bearer …\"")]
    NoToken,
    /// Kubernetes does not accept the token.
    #[error("the token is not valid for audience {}: {reason}", names::TOKEN_AUDIENCE)]
    NotAuthenticated {
        /// Kubernetes' own words.
        reason: String,
    },
    /// The token is for someone else.
    #[error("the token is not for audience {}", names::TOKEN_AUDIENCE)]
    OtherAudience,
    /// The token belongs to another user.
    #[error("the token belongs to {user:?}, and only agents are served: use the token of {expected:?}")]
    OtherUser {
        /// Whose token it is.
        user: String,
        /// Whose token is served.
        expected: String,
    },
    /// The token does not name a pod on a node.
    #[error(
        "the token is not bound to a pod on a node: Kubernetes names no {claim}; use a projected token of a running pod"
    )]
    NotBound {
        /// The first claim that is missing.
        claim: &'static str,
    },
    /// The token does not say until when it is valid.
    #[error("the token has no time of expiry: use a projected token")]
    NoExpiry,
    /// The token's pod does not exist any more.
    #[error("pod {pod:?} of the token is gone: use the token of a running pod")]
    PodGone {
        /// The pod.
        pod: String,
    },
    /// The token is for another node than the path.
    #[error("the token is for node {node:?}, not for node {path:?}")]
    OtherNode {
        /// The token's node.
        node: String,
        /// The path's node.
        path: String,
    },
    /// The node does not exist.
    #[error("node {node:?} does not exist")]
    NodeGone {
        /// The node.
        node: String,
    },
    /// A node of the same name has taken the place of the token's.
    #[error("the token is for an earlier node {node:?}, with UID {uid}, that was replaced")]
    NodeReplaced {
        /// The node's name.
        node: String,
        /// The UID that the token names.
        uid: String,
    },
}

impl Denied {
    /// Whether the bearer is known, but may not speak for this node.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        matches!(
            self,
            Self::OtherNode { .. } | Self::NodeGone { .. } | Self::NodeReplaced { .. }
        )
    }
}

/// The user that agents are to Kubernetes.
#[must_use]
pub fn agent_user(namespace: &str, service_account: &str) -> String {
    format!("system:serviceaccount:{namespace}:{service_account}")
}

/// Decides whether the bearer of a reviewed token speaks for the node in the path, whose live UID is given.
///
/// # Errors
/// Where it does not.
pub fn check(
    review: &TokenReviewStatus,
    expected_user: &str,
    path_node: &str,
    live_node_uid: Option<&str>,
) -> Result<Identity, Denied> {
    if review.authenticated != Some(true) {
        let reason = review.error.clone().filter(|error| !error.is_empty());
        let reason = reason.unwrap_or_else(|| "Kubernetes does not accept it".to_owned());
        return Err(Denied::NotAuthenticated { reason });
    }
    if !review
        .audiences
        .iter()
        .flatten()
        .any(|audience| audience == names::TOKEN_AUDIENCE)
    {
        return Err(Denied::OtherAudience);
    }
    let nobody = UserInfo::default();
    let user = review.user.as_ref().unwrap_or(&nobody);
    let name = user.username.as_deref().unwrap_or_default();
    if name != expected_user {
        return Err(Denied::OtherUser {
            user: name.to_owned(),
            expected: expected_user.to_owned(),
        });
    }
    let identity = Identity {
        node: claim(user, NODE_NAME)?,
        node_uid: claim(user, NODE_UID)?,
        pod: claim(user, POD_NAME)?,
        pod_uid: claim(user, POD_UID)?,
    };
    if identity.node != path_node {
        return Err(Denied::OtherNode {
            node: identity.node,
            path: path_node.to_owned(),
        });
    }
    match live_node_uid {
        None => Err(Denied::NodeGone { node: identity.node }),
        Some(uid) if uid != identity.node_uid => Err(Denied::NodeReplaced {
            node: identity.node,
            uid: identity.node_uid,
        }),
        Some(_) => Ok(identity),
    }
}

fn claim(user: &UserInfo, name: &'static str) -> Result<String, Denied> {
    let values = user.extra.as_ref().and_then(|extra| extra.get(name));
    match values.map(Vec::as_slice) {
        Some([value]) if !value.is_empty() => Ok(value.clone()),
        _ => Err(Denied::NotBound { claim: name }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;

    const USER: &str = "system:serviceaccount:ns:brupop-update-agent";

    fn good() -> TokenReviewStatus {
        let extra = [
            (NODE_NAME, "n1"),
            (NODE_UID, "u1"),
            (POD_NAME, "agent-1"),
            (POD_UID, "p1"),
        ];
        TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(vec![names::TOKEN_AUDIENCE.to_owned()]),
            error: None,
            user: Some(UserInfo {
                username: Some(USER.to_owned()),
                extra: Some(
                    extra
                        .iter()
                        .map(|(k, v)| ((*k).to_owned(), vec![(*v).to_owned()]))
                        .collect(),
                ),
                ..UserInfo::default()
            }),
        }
    }

    fn without(claim: &str) -> TokenReviewStatus {
        let mut review = good();
        review
            .user
            .as_mut()
            .unwrap()
            .extra
            .as_mut()
            .unwrap()
            .remove(claim);
        review
    }

    fn with(claim: &str, values: &[&str]) -> TokenReviewStatus {
        let mut review = good();
        let values = values.iter().map(|v| (*v).to_owned()).collect();
        review
            .user
            .as_mut()
            .unwrap()
            .extra
            .as_mut()
            .unwrap()
            .insert(claim.to_owned(), values);
        review
    }

    #[test]
    fn an_agent_speaks_for_its_own_live_node() {
        let identity = check(
            &good(),
            &agent_user("ns", names::AGENT_SERVICE_ACCOUNT),
            "n1",
            Some("u1"),
        )
        .unwrap();
        assert_eq!((&*identity.node, &*identity.node_uid), ("n1", "u1"));
        assert_eq!((&*identity.pod, &*identity.pod_uid), ("agent-1", "p1"));
    }

    #[test]
    fn every_other_token_is_refused_and_says_why() {
        let edit = |change: fn(&mut TokenReviewStatus)| {
            let mut review = good();
            change(&mut review);
            review
        };
        let cases = [
            (TokenReviewStatus::default(), "not valid for audience"),
            (edit(|r| r.authenticated = Some(false)), "not valid"),
            (edit(|r| r.authenticated = None), "not valid"),
            (
                edit(|r| (r.authenticated, r.error) = (Some(false), Some("expired".into()))),
                "expired",
            ),
            (edit(|r| r.audiences = None), "not for audience"),
            (
                edit(|r| r.audiences = Some(vec!["https://kubernetes.default.svc".into()])),
                "not for audience",
            ),
            (edit(|r| r.user = None), "only agents are served"),
            (
                edit(|r| r.user.as_mut().unwrap().username = Some("system:node:n1".into())),
                "system:node:n1",
            ),
            (
                edit(|r| {
                    r.user.as_mut().unwrap().username =
                        Some("system:serviceaccount:x:brupop-update-agent".into())
                }),
                "only agents are served",
            ),
            (
                edit(|r| r.user.as_mut().unwrap().extra = None),
                "not bound to a pod on a node",
            ),
            (without(NODE_NAME), NODE_NAME),
            (without(NODE_UID), NODE_UID),
            (without(POD_NAME), POD_NAME),
            (without(POD_UID), POD_UID),
            (with(NODE_UID, &[""]), NODE_UID),
            (with(NODE_NAME, &["n1", "n2"]), NODE_NAME),
        ];
        for (review, reason) in cases {
            let denied = check(&review, USER, "n1", Some("u1")).unwrap_err();
            assert!(denied.to_string().contains(reason), "{denied}");
            assert!(!denied.is_forbidden(), "401: {denied}");
        }
    }

    #[test]
    fn s3_another_node_and_a_replaced_one_are_forbidden() {
        for (path, live) in [("n2", Some("u1")), ("n1", None), ("n1", Some("u2"))] {
            let denied = check(&good(), USER, path, live).unwrap_err();
            assert!(denied.is_forbidden(), "403: {denied}");
        }
    }
}
