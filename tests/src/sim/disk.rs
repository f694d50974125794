//! What a process keeps when it ends.

use proposer::paxos::acceptor::{Acceptor, AnswerLimits, Record};

use super::rng::Rng;

/// How a write goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadWrite {
    /// The process ends in the middle; any part of the write may be on disk.
    Torn,
    /// The disk reports an error; any part of the write may be on disk.
    Failed,
}

/// A proposer's disk: every claim it ever made.
#[derive(Clone, Debug)]
pub(super) struct Claims(Vec<u64>);

impl Claims {
    /// With one claim from an earlier life.
    pub(super) fn new(claim: u64) -> Claims {
        Claims(vec![claim])
    }

    /// The claim that stands.
    pub(super) fn last(&self) -> u64 {
        self.0.last().copied().unwrap_or_default()
    }

    /// A claim, durable unless the write goes wrong; then it may be.
    pub(super) fn write(
        &mut self,
        claim: u64,
        bad: Option<BadWrite>,
        rng: &mut Rng,
    ) -> Result<(), BadWrite> {
        if bad.is_none() || rng.chance(500) {
            self.0.push(claim);
        }
        bad.map_or(Ok(()), Err)
    }

    /// An older state of the disk, or none at all.
    pub(super) fn lose(&mut self, rng: &mut Rng) {
        self.0.truncate(rng.below(self.0.len() as u64 + 1) as usize);
    }
}

/// An acceptor's disk: its records.
#[derive(Clone, Debug, Default)]
pub(super) struct Log(Vec<Record>);

impl Log {
    /// These records, durable unless the write goes wrong; then any first part of them is.
    pub(super) fn write(
        &mut self,
        records: &[Record],
        bad: Option<BadWrite>,
        rng: &mut Rng,
    ) -> Result<(), BadWrite> {
        let kept = match bad {
            None => records.len(),
            Some(_) => rng.below(records.len() as u64 + 1) as usize,
        };
        self.0.extend_from_slice(&records[..kept]);
        bad.map_or(Ok(()), Err)
    }

    /// How many records are on disk.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The records from the one at `first` on.
    pub(super) fn since(&self, first: usize) -> &[Record] {
        &self.0[first..]
    }

    /// The acceptor that this disk makes.
    pub(super) fn start(&self, answers: AnswerLimits) -> Acceptor {
        let mut acceptor = Acceptor::with_answers(answers);
        self.0.iter().for_each(|record| acceptor.remember(record));
        acceptor
    }
}
