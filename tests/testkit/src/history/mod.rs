//! What clients did and saw, and whether one resource, taken for itself, could have behaved like
//! that if each operation happened at one moment between its call and its return.

mod wgl;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

pub use wgl::{Verdict, check};

/// A resource as a client can see it: its version and its data; `None` when there is none.
pub type State = Option<(u64, u64)>;

/// What a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Write these data, if the resource has this version.
    Write {
        /// Unlike any other write's.
        data: u64,
        /// 0 stands for no resource.
        if_version: Option<u64>,
    },
    /// Remove it, if it has this version.
    Delete {
        /// 0 stands for no resource.
        if_version: Option<u64>,
    },
    /// What is there?
    Read,
}

/// What the client received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Return {
    /// It took effect, and this is the version.
    Committed(u64),
    /// The version was another one, this.
    NotCommitted(u64),
    /// What was read.
    Found(State),
}

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who asked.
    pub client: u32,
    /// When, in nanoseconds of one clock for all.
    pub called: u64,
    /// What for.
    pub call: Call,
    /// When the answer came, and which; `None` if none came: then it may take effect at any time
    /// after the call, or never.
    pub returned: Option<(u64, Return)>,
}

impl Call {
    /// The state after it, if the answer could be this one. No answer goes with every state.
    pub fn apply(self, state: State, answer: Option<Return>) -> Option<State> {
        let version = state.map_or(0, |(version, _)| version);
        let (next, said) = match self {
            Call::Read => (state, Return::Found(state)),
            Call::Write {
                if_version: Some(expected),
                ..
            }
            | Call::Delete {
                if_version: Some(expected),
            } if expected != version => (state, Return::NotCommitted(version)),
            Call::Write { data, .. } => (Some((version + 1, data)), Return::Committed(version + 1)),
            Call::Delete { .. } => (
                None,
                Return::Committed(state.map_or(0, |(version, _)| version + 1)),
            ),
        };
        answer.is_none_or(|answer| answer == said).then_some(next)
    }
}

/// The operations on every resource.
#[derive(Clone, Debug, Default)]
pub struct History(pub BTreeMap<String, Vec<Operation>>);

impl History {
    /// Adds an operation on a resource.
    pub fn push(&mut self, key: &str, operation: Operation) {
        match self.0.get_mut(key) {
            Some(operations) => operations.push(operation),
            None => drop(self.0.insert(key.to_owned(), vec![operation])),
        }
    }

    /// Checks each resource within `budget`.
    pub fn check(&self, budget: Duration) -> Report {
        let mut report = Report::default();
        for (key, operations) in &self.0 {
            report.operations += operations.len();
            match check(operations, budget) {
                Verdict::Linearizable => report.linearizable += 1,
                Verdict::Undecided => report.undecided.push(key.clone()),
                Verdict::Illegal(example) => report.illegal.push(format!("{key}: {example}")),
            }
        }
        report
    }
}

/// What the check of a history came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Operations looked at.
    pub operations: usize,
    /// Resources that behaved.
    pub linearizable: usize,
    /// Resources for which the time was not enough.
    pub undecided: Vec<String>,
    /// Resources that did not, each with what shows it.
    pub illegal: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} operations: {} resources linearizable, {} not, {} undecided",
            self.operations,
            self.linearizable,
            self.illegal.len(),
            self.undecided.len()
        )
    }
}
