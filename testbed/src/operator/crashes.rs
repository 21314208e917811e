//! Agents that crash when a test asks for it.

use std::future::Future;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// Makes agents end in the middle of what they do; the kubelets start them again.
#[derive(Clone, Debug)]
pub struct Crashes(broadcast::Sender<Option<String>>);

impl Default for Crashes {
    fn default() -> Self {
        Self(broadcast::Sender::new(1024))
    }
}

impl Crashes {
    /// Every agent.
    pub fn all(&self) {
        // Where none runs, none crashes.
        let _ = self.0.send(None);
    }

    /// The agent of this node.
    pub fn one(&self, node: &str) {
        let _ = self.0.send(Some(node.to_owned()));
    }

    /// Resolves when the agent of this node is to crash.
    pub(super) fn of(&self, node: String) -> impl Future<Output = ()> + Send + use<> {
        let mut told = self.0.subscribe();
        async move {
            loop {
                match told.recv().await {
                    Ok(None) => return,
                    Ok(Some(whose)) if whose == node => return,
                    Ok(Some(_)) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        }
    }
}
