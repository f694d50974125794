//! What clients saw, and how much of it.

use std::collections::BTreeMap;
use std::fmt;

use crate::cluster::client::Outcome;
use crate::history::{History, Return};

/// A kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A write whatever is there.
    Write,
    /// A write on the condition that there is a certain version, or nothing.
    CompareAndSet,
    /// A delete, with or without such a condition.
    Delete,
    /// `READ` through a proposer.
    ReadInLog,
    /// `GET /resource/{id}` of a learner.
    ReadAtLearner,
    /// `GET /resource/{id}` of a store.
    ReadAtStore,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Kind::Write => "write",
            Kind::CompareAndSet => "compare and set",
            Kind::Delete => "delete",
            Kind::ReadInLog => "read in the log",
            Kind::ReadAtLearner => "read at a learner",
            Kind::ReadAtStore => "read at a store",
        })
    }
}

/// How the operations of one kind ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// It was committed, or something was found.
    pub done: u64,
    /// The version was another one, or there was nothing.
    pub nothing: u64,
    /// Nobody knows.
    pub unknown: u64,
}

impl Count {
    /// One more.
    pub fn add(&mut self, answer: Option<Return>) {
        match answer {
            Some(Return::Committed(_) | Return::Found(Some(_))) => self.done += 1,
            Some(Return::NotCommitted(_) | Return::Found(None)) => self.nothing += 1,
            None => self.unknown += 1,
        }
    }

    /// Others as well.
    pub fn merge(&mut self, other: Count) {
        self.done += other.done;
        self.nothing += other.nothing;
        self.unknown += other.unknown;
    }
}

/// The operations of each kind, as a line of text.
pub struct Counts<'a>(pub &'a BTreeMap<Kind, Count>);

impl fmt::Display for Counts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (kind, count)) in self.0.iter().enumerate() {
            let Count {
                done,
                nothing,
                unknown,
            } = count;
            let nothing_is = match kind {
                Kind::Write | Kind::CompareAndSet | Kind::Delete => "not committed",
                Kind::ReadInLog | Kind::ReadAtLearner | Kind::ReadAtStore => "absent",
            };
            let separator = if i == 0 { "" } else { "; " };
            write!(
                f,
                "{separator}{kind} {done}, {nothing} {nothing_is}, {unknown} unknown"
            )?;
        }
        Ok(())
    }
}

/// An answer that a client got to what it proposed.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    /// The client.
    pub client: String,
    /// The request.
    pub request: String,
    /// The resource.
    pub key: String,
    /// What it received.
    pub outcome: Outcome,
}

/// What all clients saw together.
#[derive(Default)]
pub struct Seen {
    /// Operations on each resource.
    pub history: History,
    /// How many of each kind.
    pub counts: BTreeMap<Kind, Count>,
    /// The answers to writes and deletes.
    pub acknowledged: Vec<Acknowledged>,
    /// When one of them was committed, in nanoseconds since the start.
    pub commits: Vec<u64>,
    /// Proposers' answers by status; 0: none.
    pub answers: BTreeMap<u16, u64>,
    /// Tries at a proposer where nothing listened.
    pub refused: u64,
    /// Learners' and stores' answers by status; 0: none.
    pub reads: BTreeMap<u16, u64>,
    /// What should not have happened.
    pub unexpected: Vec<String>,
}

impl Seen {
    /// Writes and deletes whose outcome stayed unknown.
    pub fn unknown(&self) -> u64 {
        let unknown = |outcome| outcome == Outcome::Unknown;
        let of = self.acknowledged.iter();
        of.filter(|told| unknown(told.outcome)).count() as u64
    }

    /// What another client saw as well.
    pub fn merge(&mut self, other: Seen) {
        for (key, operations) in other.history.0 {
            self.history.0.entry(key).or_default().extend(operations);
        }
        for (kind, count) in other.counts {
            self.counts.entry(kind).or_default().merge(count);
        }
        self.acknowledged.extend(other.acknowledged);
        self.commits.extend(other.commits);
        for (status, count) in other.answers {
            *self.answers.entry(status).or_default() += count;
        }
        self.refused += other.refused;
        for (status, count) in other.reads {
            *self.reads.entry(status).or_default() += count;
        }
        self.unexpected.extend(other.unexpected);
    }
}
