//! What can go wrong with the API server, and whether to try again.

use std::path::PathBuf;
use std::time::Duration;

use agent_core::engine::escaped;

/// Longest part of the server's own message that we pass on, in bytes.
const SERVER_MESSAGE_MAX: usize = 500;

/// Why a write did not happen. `what` names the request: `patch node w01`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No way to a cluster.
    #[error("cannot load the cluster's configuration from {}; name another file with --kubeconfig, or run in a pod", place(.path.as_deref()))]
    Config {
        /// The kubeconfig asked for.
        path: Option<PathBuf>,
        /// Cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The API server did not answer.
    #[error("{what}: the API server cannot be reached; is it up, and is the address right?")]
    Unreachable {
        /// The request.
        what: String,
        /// Cause.
        source: Box<kube::Error>,
    },
    /// What answered does not speak as an API server does.
    #[error("{what}: the answer cannot be read; is there a proxy in between?")]
    Garbled {
        /// The request.
        what: String,
        /// Cause.
        source: Box<kube::Error>,
    },
    /// The API server answered too late.
    #[error("{what}: no answer from the API server within {after:?}; it is overloaded or gone")]
    Timeout {
        /// The request.
        what: String,
        /// How long we waited.
        after: Duration,
    },
    /// The API server is overloaded, starting or broken: 429 or 5xx.
    #[error("{what}: the API server answers {code} for now: {message}")]
    Busy {
        /// The request.
        what: String,
        /// HTTP status.
        code: u16,
        /// Its words.
        message: String,
        /// How long it asks us to wait.
        retry_after: Option<Duration>,
    },
    /// Somebody else kept changing the object: 409.
    #[error("{what}: the object changed under each of our tries: {message}")]
    Conflict {
        /// The request.
        what: String,
        /// Its words.
        message: String,
    },
    /// We may not: 401 or 403.
    #[error(
        "{what}: denied ({code}): {message}; apply deploy/annotator.yaml, which has the ClusterRole"
    )]
    Denied {
        /// The request.
        what: String,
        /// HTTP status.
        code: u16,
        /// Its words.
        message: String,
    },
    /// The object, or its kind, does not exist: 404.
    #[error("{what}: not found: {message}; for a NodeDeath apply deploy/crd.yaml")]
    NotFound {
        /// The request.
        what: String,
        /// Its words.
        message: String,
    },
    /// The API server will never take this.
    #[error("{what}: refused ({code}): {message}")]
    Refused {
        /// The request.
        what: String,
        /// HTTP status.
        code: u16,
        /// Its words.
        message: String,
    },
    /// Some pods could not be told yet.
    #[error("{left} of {of} pods of node {node} are not written yet")]
    PodsLeft {
        /// The node.
        node: String,
        /// Pods that wait for a retry.
        left: usize,
        /// Pods that had to be written in this call.
        of: usize,
        /// The first failure.
        source: Box<Error>,
    },
}

impl Error {
    /// Whether the same call may succeed later: all but what the API server
    /// refuses for what it says. Missing rights and a missing resource
    /// definition count as transient, because an administrator cures them
    /// without us.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Refused { .. } | Self::Config { .. } => false,
            Self::PodsLeft { source, .. } => source.is_transient(),
            _ => true,
        }
    }

    /// How long to wait before the next try, where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. } => *retry_after,
            Self::Denied { .. } | Self::NotFound { .. } => Some(Duration::from_secs(15)),
            Self::PodsLeft { source, .. } => source.retry_after(),
            _ => None,
        }
    }

    /// Whether the server did not answer at all, so that asking for something
    /// else now is useless too.
    pub(super) fn is_outage(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Timeout { .. })
    }

    /// Sorts what kube says about the request `what`.
    pub(super) fn from_kube(what: String, error: kube::Error) -> Self {
        let status = match error {
            kube::Error::Api(status) => status,
            error @ (kube::Error::SerdeError(_) | kube::Error::FromUtf8(_)) => {
                let source = Box::new(error);
                return Self::Garbled { what, source };
            }
            error => {
                let source = Box::new(error);
                return Self::Unreachable { what, source };
            }
        };
        let message = escaped(&status.message, SERVER_MESSAGE_MAX);
        let asked = status.details.as_ref().map_or(0, |d| d.retry_after_seconds);
        match status.code {
            code @ (401 | 403) => Self::Denied {
                what,
                code,
                message,
            },
            404 => Self::NotFound { what, message },
            409 => Self::Conflict { what, message },
            code @ (408 | 429 | 500..) => Self::Busy {
                what,
                code,
                message,
                retry_after: (asked > 0).then(|| Duration::from_secs(asked.into())),
            },
            code => Self::Refused {
                what,
                code,
                message,
            },
        }
    }
}

fn place(path: Option<&std::path::Path>) -> String {
    path.map_or_else(
        || "KUBECONFIG, ~/.kube/config or the pod's service account".to_owned(),
        |path| path.display().to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::response::{Status, StatusDetails};

    fn answer(code: u16, retry_after_seconds: u32) -> Error {
        let mut status = Status::failure("no\u{1b}", "Reason").with_code(code);
        status.details = Some(StatusDetails {
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: Vec::new(),
            retry_after_seconds,
        });
        Error::from_kube(
            "patch node w01".to_owned(),
            kube::Error::Api(status.boxed()),
        )
    }

    #[test]
    fn every_answer_says_whether_to_try_again() {
        for (code, transient) in [
            (400, false),
            (401, true),
            (403, true),
            (404, true),
            (409, true),
            (413, false),
            (422, false),
            (429, true),
            (500, true),
            (503, true),
            (504, true),
        ] {
            let error = answer(code, 0);
            assert_eq!(error.is_transient(), transient, "{code}");
            let text = error.to_string();
            assert!(text.starts_with("patch node w01: "), "{text}");
            assert!(!text.contains('\u{1b}'), "{text}");
        }
    }

    #[test]
    fn the_servers_wish_for_a_pause_is_passed_on_also_through_pods_left() {
        let error = Error::PodsLeft {
            node: "w01".to_owned(),
            left: 1,
            of: 2,
            source: Box::new(answer(429, 7)),
        };
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
        assert!(error.is_transient());
        assert_eq!(answer(429, 0).retry_after(), None);
    }
}
