//! Every answer that is a refusal.

use api::{ledger::PermitRefusal, wire::Refusal};
use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::{cluster::CallError, identity::Denied, reviews::Unidentified};

/// A refusal and the status it is sent with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub refusal: Refusal,
}

impl Rejection {
    /// A refusal with a message for people.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            refusal: Refusal {
                message: message.into(),
                permit: None,
            },
        }
    }

    /// A permit that is not given.
    #[must_use]
    pub fn permit(refusal: PermitRefusal) -> Self {
        let body = Refusal {
            message: refusal.to_string(),
            permit: Some(refusal),
        };
        Self {
            status: StatusCode::CONFLICT,
            refusal: body,
        }
    }

    /// Something that may go better in a moment.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }
}

impl From<CallError> for Rejection {
    fn from(error: CallError) -> Self {
        match error {
            CallError::NotFound => Self::new(StatusCode::NOT_FOUND, error.to_string()),
            CallError::Invalid(message) => Self::new(StatusCode::BAD_REQUEST, message),
            CallError::Unavailable(message) => {
                tracing::warn!(message, "a call to the Kubernetes API failed");
                Self::unavailable("the Kubernetes API did not answer as it should; try again")
            }
            CallError::Conflict | CallError::Exists => Self::unavailable(format!("{error}; try again")),
        }
    }
}

impl From<Denied> for Rejection {
    fn from(denied: Denied) -> Self {
        let status = if denied.is_forbidden() {
            StatusCode::FORBIDDEN
        } else {
            StatusCode::UNAUTHORIZED
        };
        Self::new(status, denied.to_string())
    }
}

impl From<Unidentified> for Rejection {
    fn from(error: Unidentified) -> Self {
        match error {
            Unidentified::Denied(denied) => denied.into(),
            Unidentified::Unavailable(error) => error.into(),
        }
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.refusal)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
