//! Asking Kubernetes whose a token is, and remembering the answer for a while.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use k8s_openapi::api::authentication::v1::TokenReviewStatus;
use lru::LruCache;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::{
    Clock,
    cluster::{CallError, Cluster},
    config::Config,
    feed::Feed,
    identity::{Denied, Identity, agent_user, check},
    metrics::Metrics,
};

/// Whether a remembered answer will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Review {
    /// It will.
    Remembered,
    /// Kubernetes is asked.
    Afresh,
}

/// An agent whose token was reviewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Who it is.
    pub identity: Identity,
    /// When its token expires.
    pub expires: DateTime<Utc>,
}

/// Why a caller is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unidentified {
    /// It may not speak for the node.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// Nobody can tell now.
    #[error(transparent)]
    Unavailable(#[from] CallError),
}

#[derive(Clone)]
struct Answer {
    review: Arc<TokenReviewStatus>,
    until: Instant,
}

/// Kubernetes' answers to tokens.
pub struct Reviews {
    cluster: Cluster,
    nodes: Feed<String>,
    metrics: Arc<Metrics>,
    clock: Clock,
    expected_user: String,
    time: Duration,
    answers: Mutex<LruCache<[u8; 32], Answer>>,
}

impl Reviews {
    /// An empty memory.
    #[must_use]
    pub fn new(
        cluster: Cluster,
        nodes: Feed<String>,
        metrics: Arc<Metrics>,
        clock: Clock,
        config: &Config,
    ) -> Self {
        let expected_user = agent_user(&config.namespace, &config.agent_service_account);
        let answers = Mutex::new(LruCache::new(config.token_cache_size));
        Self {
            cluster,
            nodes,
            metrics,
            clock,
            expected_user,
            time: config.token_cache_time,
            answers,
        }
    }

    /// The agent that bears `token`, if it speaks for the node in the path.
    ///
    /// # Errors
    /// Where it does not, or nobody can tell now.
    pub async fn identify(
        &self,
        token: &str,
        path_node: &str,
        wanted: Review,
    ) -> Result<Caller, Unidentified> {
        let review = self.review(token, wanted).await?;
        let known = self.nodes.get(path_node);
        let identity = match check(
            &review,
            &self.expected_user,
            path_node,
            known.as_deref().map(String::as_str),
        ) {
            // What the watch shows may be older than the agent.
            Err(Denied::NodeGone { .. } | Denied::NodeReplaced { .. }) => {
                let live = self.cluster.node_uid(path_node).await?;
                check(&review, &self.expected_user, path_node, live.as_deref())?
            }
            result => result?,
        };
        let expires = expiry(token).ok_or(Denied::NoExpiry)?;
        if expires <= (self.clock)() {
            return Err(Denied::NotAuthenticated {
                reason: format!("it expired at {expires}"),
            }
            .into());
        }
        Ok(Caller { identity, expires })
    }

    async fn review(&self, token: &str, wanted: Review) -> Result<Arc<TokenReviewStatus>, CallError> {
        let key: [u8; 32] = Sha256::digest(token).into();
        let asked = Instant::now();
        if wanted == Review::Remembered
            && let Some(answer) = self.answers().get(&key).filter(|answer| answer.until > asked)
        {
            return Ok(answer.review.clone());
        }
        let review = self
            .cluster
            .review(token)
            .await
            .inspect_err(|_| self.metrics.review("unavailable"))?;
        self.metrics.review(if review.authenticated == Some(true) {
            "accepted"
        } else {
            "refused"
        });
        let review = Arc::new(review);
        self.answers().put(
            key,
            Answer {
                review: review.clone(),
                until: asked + self.time,
            },
        );
        Ok(review)
    }

    fn answers(&self) -> std::sync::MutexGuard<'_, LruCache<[u8; 32], Answer>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When a token says it expires. Its signature is not looked at: Kubernetes has done that.
fn expiry(token: &str) -> Option<DateTime<Utc>> {
    #[derive(Deserialize)]
    struct Claims {
        exp: i64,
    }
    let payload = token.split('.').nth(1)?;
    let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    DateTime::from_timestamp(claims.exp, 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;

    #[test]
    fn expiry_is_read_and_nothing_panics() {
        let token = |payload: &str| format!("h.{}.s", URL_SAFE_NO_PAD.encode(payload));
        let at = expiry(&token(r#"{"exp": 1800000000, "sub": "x"}"#)).unwrap();
        assert_eq!(at.timestamp(), 1_800_000_000);
        for bad in [
            "",
            "a",
            "a.b.c",
            &token("{}"),
            &token("[]"),
            &token(r#"{"exp": 9223372036854775807}"#),
        ] {
            assert_eq!(expiry(bad), None, "{bad}");
        }
    }
}
