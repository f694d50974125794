//! Why a reconciliation fails, and which of the failures somebody must do something about.

use crate::apply;

use super::TIME_LIMIT;

/// Why a reconciliation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster's objects could not be read.
    #[error("observe: {}", apply::in_short(.0))]
    Observe(#[source] kube::Error),
    /// They could not be written.
    #[error(transparent)]
    Apply(apply::Error),
    /// A pod could not be evicted.
    #[error("evict pod {pod}: {}", apply::in_short(.source))]
    Evict {
        /// Which.
        pod: String,
        /// What the API server said.
        source: kube::Error,
    },
    /// The status could not be written.
    #[error("status: {}", apply::in_short(.0))]
    Status(#[source] kube::Error),
    /// It took too long.
    #[error("gave up after {} s", TIME_LIMIT.as_secs())]
    TooSlow,
}

impl Error {
    /// For metrics: one of a fixed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Error::Observe(_) => "observe",
            Error::Apply(apply::Error::NotOurs { .. }) => "not_ours",
            Error::Apply(apply::Error::NotGrown { .. }) => "not_grown",
            Error::Apply(apply::Error::NotDefined { .. }) => "not_defined",
            Error::Apply(apply::Error::Rival { .. }) => "rival",
            Error::Apply(apply::Error::Api { .. }) => "apply",
            Error::Evict { .. } => "evict",
            Error::Status(_) => "status",
            Error::TooSlow => "too_slow",
        }
    }

    /// The call to the API server that failed, if that is it.
    pub(super) fn call(&self) -> Option<&kube::Error> {
        match self {
            Error::Observe(source)
            | Error::Apply(
                apply::Error::Api { source, .. } | apply::Error::NotGrown { source, .. },
            )
            | Error::Evict { source, .. }
            | Error::Status(source) => Some(source),
            Error::Apply(
                apply::Error::NotOurs { .. }
                | apply::Error::NotDefined { .. }
                | apply::Error::Rival { .. },
            )
            | Error::TooSlow => None,
        }
    }

    /// Whether the namespace is being deleted, and everything in it with it.
    pub(super) fn is_the_end(&self) -> bool {
        let causes = match self.call() {
            Some(kube::Error::Api(status)) => {
                status.details.as_ref().map(|details| &details.causes)
            }
            _ => None,
        };
        let mut causes = causes.into_iter().flatten();
        causes.any(|cause| cause.reason == "NamespaceTerminating")
    }

    /// Whether somebody must do something about it, so that it belongs in the status. Everything else
    /// passes by itself.
    pub(super) fn needs_help(&self) -> bool {
        if self.is_the_end() {
            return false;
        }
        match self {
            Error::Apply(
                apply::Error::NotOurs { .. }
                | apply::Error::NotDefined { .. }
                | apply::Error::NotGrown { .. },
            ) => true,
            Error::Apply(apply::Error::Api { source, .. }) | Error::Observe(source) => {
                matches!(source, kube::Error::Api(status) if status.is_forbidden() || status.is_invalid())
            }
            Error::Apply(apply::Error::Rival { .. })
            | Error::Evict { .. }
            | Error::Status(_)
            | Error::TooSlow => false,
        }
    }
}
