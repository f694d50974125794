//! A field that makes no sense: which, and what it may hold.

/// A field that no retry can make right.
///
/// One that contradicts volumes is the exception: it may become right when they are deleted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    /// Its path, such as `spec.acceptor.replicas`.
    pub field: String,
    /// What it held and what it may hold.
    pub problem: String,
    /// It is about what volumes hold.
    pub volumes: bool,
}

impl Invalid {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>) -> Invalid {
        Invalid {
            field: field.into(),
            problem: problem.into(),
            volumes: false,
        }
    }

    /// The refusal of an acceptor count other than the one that volumes were made for.
    pub(crate) fn volumes(founded: u8, wanted: u8, claims: &str) -> Invalid {
        let problem = format!(
            "is {wanted}, but the cluster was founded with {founded} acceptors, whose volumes are \
             there: their number cannot change, since the quorums of two sizes need not meet. Set it \
             to {founded}; or, to start over without what was stored, delete the \
             PersistentVolumeClaims of every role, those of the acceptors are {claims}"
        );
        Invalid {
            volumes: true,
            ..Invalid::new("spec.acceptor.replicas", problem)
        }
    }

    /// The refusal of an acceptor count other than the one the cluster began with.
    pub(crate) fn acceptors(pinned: impl std::fmt::Display, wanted: u8) -> Invalid {
        Invalid::new(
            "spec.acceptor.replicas",
            format!(
                "is {wanted}, but the cluster was created with {pinned} acceptors and their number \
                 cannot change, since the quorums of two sizes need not meet: set it to {pinned}"
            ),
        )
    }
}
