//! How a command ends. Scripts rely on these codes.

use std::fmt;
use std::process::ExitCode;

/// An answer that is no failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Done, found.
    Yes,
    /// Not committed, as the version differs; absent at a node that would have it.
    No,
}

impl Verdict {
    pub(super) fn code(self) -> ExitCode {
        ExitCode::from(match self {
            Verdict::Yes => 0,
            Verdict::No => 1,
        })
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The log no longer goes back that far.
    Gone(String),
    /// The command or the request is wrong: trying again does not help.
    Refused(String),
    /// No server could do it in time, and it had no effect.
    Unavailable(String),
    /// It may have taken effect, or may do so later.
    Unknown(String),
    /// Nobody reads our output any more, as after `| head`.
    NobodyReads,
}

impl Failure {
    pub(super) fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::NobodyReads => 0,
            Failure::Gone(_) => 1,
            Failure::Refused(_) => 2,
            Failure::Unavailable(_) => 3,
            Failure::Unknown(_) => 4,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Gone(why) => write!(f, "gone: {why}"),
            Failure::Refused(why) => write!(f, "refused: {why}"),
            Failure::Unavailable(why) => write!(f, "unavailable: {why}"),
            Failure::Unknown(why) => write!(f, "unknown: {why}"),
            Failure::NobodyReads => write!(f, "nobody reads the output"),
        }
    }
}
