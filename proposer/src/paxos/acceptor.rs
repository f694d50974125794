//! The acceptor: promises and votes. It answers requests one by one and never speaks first.
//!
//! One promise covers every slot, so a leader runs phase 1 once (Lamport, "Paxos Made Simple",
//! section 3). A vote at a ballot is a promise not to accept less, as in the paper's P1a.

use std::collections::BTreeMap;

use super::ids::{Ballot, Slot};
use super::message::{Reply, Request, Value, Values, Vote};
use super::output::Output;
use super::standing::Roster;

/// All that an acceptor must never forget.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Record {
    /// No ballot below this one will be accepted.
    Promised {
        /// The promise.
        ballot: Ballot,
        /// Which process it was given to; 0 if that is not known.
        run: u64,
    },
    /// Votes in consecutive slots; implies the promise of their ballot.
    Accepted {
        /// The ballot voted at.
        ballot: Ballot,
        /// The slot of the first value.
        first: Slot,
        /// One value per slot.
        values: Values,
        /// What the leader said to be chosen. Kept so that after a restart of everything a new
        /// leader need not propose the whole log again.
        committed: Slot,
    },
    /// Votes up to `floor` are forgotten. Repeats what records before it may have said, so that
    /// they can be removed.
    Trimmed {
        /// The promise.
        promised: Ballot,
        /// Which process it was given to; 0 if that is not known.
        run: u64,
        /// The last slot forgotten.
        floor: Slot,
        /// What a leader said to be chosen; at least `floor`.
        committed: Slot,
    },
    /// What it knows of the cluster's nodes, instead of what it knew before.
    Known(Roster),
}

/// How much one answer carries before it tells the asker to come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AnswerLimits {
    /// Bytes of values; one larger value goes alone.
    pub bytes: usize,
    /// The same in a promise: a candidate on a slow link must hear something within an election
    /// timeout.
    pub promise_bytes: usize,
    /// Votes: keeps answers full of small values bounded as well.
    pub votes: usize,
}

impl Default for AnswerLimits {
    fn default() -> AnswerLimits {
        AnswerLimits {
            bytes: 2 << 20,
            promise_bytes: 256 << 10,
            votes: 16_384,
        }
    }
}

/// When votes are forgotten that are no longer needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TrimPolicy {
    /// So many of the newest are kept all the same, for learners that are a little behind.
    pub tail: u64,
    /// So many at once at least: each trim costs a record.
    pub stride: u64,
}

impl Default for TrimPolicy {
    fn default() -> TrimPolicy {
        TrimPolicy {
            tail: 16_384,
            stride: 16_384,
        }
    }
}

/// How far beyond what is known of the log a vote may lie, and how far one message may move what is
/// said to be chosen. Leaders stay far below it; without it, one stray vote would make every later
/// leader fill an endless hole. An acceptor that was away for longer gets there with the leader's
/// renewals, one such step at a time.
const MAX_AHEAD: u64 = 1 << 20;

/// How many [`Acceptor::tick`]s a leader is taken to live after its last sign of life, and how many
/// bytes a candidate on a slow link may take one more for.
const LEADER_TICKS: u8 = 2;
const BYTES_A_TICK: usize = 128 << 10;
const LONGEST_GRACE: u8 = 16;

/// An acceptor's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Acceptor {
    promised: Ballot,
    /// Which process the promise was given to; 0 if a vote or a renewal brought the ballot here. A
    /// proposer sends those only when a quorum has promised, so no other process gets one.
    promised_to: u64,
    votes: BTreeMap<Slot, (Ballot, Value)>,
    committed: Slot,
    /// Votes up to here are forgotten; never above `committed`.
    floor: Slot,
    leader_ticks: u8,
    answers: AnswerLimits,
    trimming: TrimPolicy,
}

impl Acceptor {
    /// An acceptor that has taken part in nothing.
    pub fn new() -> Acceptor {
        Acceptor::default()
    }

    /// The same, with answers of another size.
    pub fn with_answers(answers: AnswerLimits) -> Acceptor {
        Acceptor {
            answers,
            ..Acceptor::default()
        }
    }

    /// The same, forgetting by another policy.
    pub fn with_trimming(self, trimming: TrimPolicy) -> Acceptor {
        Acceptor { trimming, ..self }
    }

    /// Replays one record, in the order in which they were written.
    pub fn remember(&mut self, record: &Record) {
        match record {
            Record::Promised { ballot, run } => {
                assert!(
                    *ballot >= self.promised,
                    "an acceptor never goes back on a promise"
                );
                (self.promised, self.promised_to) = (*ballot, *run);
            }
            Record::Accepted {
                ballot,
                first,
                values,
                committed,
            } => {
                assert!(
                    *ballot >= self.promised,
                    "an acceptor never votes below its promise"
                );
                if *ballot > self.promised {
                    (self.promised, self.promised_to) = (*ballot, 0);
                }
                self.committed = self.committed.max(*committed);
                for (slot, value) in slots(*first, values).filter(|(slot, _)| *slot > self.floor) {
                    self.votes.insert(slot, (*ballot, value.clone()));
                }
            }
            Record::Trimmed {
                promised,
                run,
                floor,
                committed,
            } => {
                assert!(
                    *promised >= self.promised,
                    "an acceptor never goes back on a promise"
                );
                assert!(floor <= committed, "only what is chosen is forgotten");
                (self.promised, self.promised_to) = (*promised, *run);
                self.committed = self.committed.max(*committed);
                self.floor = self.floor.max(*floor);
                self.votes = self.votes.split_off(&self.floor.next());
            }
            // The standing's own.
            Record::Known(_) => {}
        }
    }

    /// Answers a request. Total: a request that makes no sense is refused, never trusted.
    pub fn handle(&mut self, request: Request) -> Output<Record, Reply> {
        match request {
            Request::Probe => answer(Reply::Probed {
                promised: self.promised,
                committed: self.committed(),
                leader_alive: self.leader_ticks > 0,
            }),
            Request::Prepare { ballot, run, from } => self.prepare(ballot, run, from),
            Request::Accept {
                ballot,
                first,
                values,
                committed,
            } => self.accept(ballot, first, values, committed),
            Request::Renew {
                ballot,
                round,
                committed,
                trim,
            } => {
                if self.refuses(ballot) {
                    return self.nack(ballot);
                }
                self.leader_ticks = LEADER_TICKS;
                self.committed = self.told(committed);
                let mut records = self.promise(ballot, 0);
                records.extend(self.trim(trim.min(self.committed())));
                Output::new(records, Reply::Renewed { ballot, round })
            }
            Request::Enlist { .. } => answer(Reply::NotVoting),
            // Never "no votes": what is forgotten was chosen.
            Request::Fetch { from, .. } if from <= self.floor => answer(Reply::Truncated {
                from,
                floor: self.floor,
            }),
            Request::Fetch { from, to } => {
                let (votes, rest) = self.votes_from(from, to, self.answers.bytes);
                let to = rest.map_or(to, Slot::previous);
                answer(Reply::Fetched { from, to, votes })
            }
        }
    }

    /// Half an election timeout has passed. Only [`Request::Probe`]'s hint depends on it.
    pub fn tick(&mut self) {
        self.leader_ticks = self.leader_ticks.saturating_sub(1);
    }

    /// The highest ballot promised.
    pub fn promised(&self) -> Ballot {
        self.promised
    }

    /// Every slot up to here is chosen, as far as this acceptor was told and has voted itself: a
    /// leader's word alone moves no later leader past slots in which nothing was ever chosen.
    pub fn committed(&self) -> Slot {
        self.committed.min(self.last_voted())
    }

    /// What is chosen when a message says that so much is.
    fn told(&self, committed: Slot) -> Slot {
        let known = self.committed.max(self.last_voted());
        let most = Slot(known.0.saturating_add(MAX_AHEAD));
        self.committed.max(committed.min(most))
    }

    /// The last slot in which it has voted.
    pub fn last_voted(&self) -> Slot {
        self.votes
            .last_key_value()
            .map_or(self.floor, |(slot, _)| *slot)
    }

    /// Votes up to here are forgotten.
    pub fn floor(&self) -> Slot {
        self.floor
    }

    /// Its vote in a slot.
    pub fn vote(&self, slot: Slot) -> Option<(Ballot, &Value)> {
        self.votes
            .get(&slot)
            .map(|(ballot, value)| (*ballot, value))
    }

    fn prepare(&mut self, ballot: Ballot, run: u64, from: Slot) -> Output<Record, Reply> {
        let promised_another = self.promised_to != 0 && self.promised_to != run;
        if self.refuses(ballot) || (ballot == self.promised && promised_another) {
            return self.nack(ballot);
        }
        let records = self.promise(ballot, run);
        let (votes, rest) = self.votes_from(from, Slot(u64::MAX), self.answers.promise_bytes);
        // A candidate gets the grace that a leader gets, and more while it hears much: those whose
        // timers fire while it gathers promises wait, instead of outbidding it.
        let bytes: usize = votes.iter().map(|vote| vote.value.len()).sum();
        let more = u8::try_from(bytes / BYTES_A_TICK).unwrap_or(u8::MAX);
        self.leader_ticks = LEADER_TICKS.saturating_add(more.min(LONGEST_GRACE));
        let committed = self.committed();
        Output::new(
            records,
            Reply::Promise {
                ballot,
                from,
                votes,
                rest,
                committed,
            },
        )
    }

    fn accept(
        &mut self,
        ballot: Ballot,
        first: Slot,
        values: Values,
        committed: Slot,
    ) -> Output<Record, Reply> {
        let count = values.len() as u64;
        let last = first.0.checked_add(count);
        let known = self.committed.max(self.last_voted());
        let is_far = first.0 > known.0.saturating_add(MAX_AHEAD);
        if self.refuses(ballot) || first == Slot::ZERO || last.is_none() || is_far {
            return self.nack(ballot);
        }
        let committed = self.told(committed);
        let mut known = 0;
        for (slot, value) in slots(first, &values) {
            match self.votes.get(&slot) {
                // Chosen long ago, so no ballot can bring another value; there is nothing to keep.
                None if slot <= self.floor => known += 1,
                Some((voted, held)) if *voted == ballot && held == value => known += 1,
                // Two values at one ballot: two processes use one identity. Neither may win.
                Some((voted, _)) if *voted == ballot => return self.nack(ballot),
                _ => {}
            }
        }
        self.leader_ticks = LEADER_TICKS;
        let reply = Reply::Accepted {
            ballot,
            first,
            count,
        };
        if known == values.len() {
            self.committed = committed;
            return Output::new(self.promise(ballot, 0), reply);
        }
        let record = Record::Accepted {
            ballot,
            first,
            values,
            committed,
        };
        self.remember(&record);
        Output::new(vec![record], reply)
    }

    /// Forgets what a quorum of learners has on disk, but for a tail.
    fn trim(&mut self, durable: Slot) -> Option<Record> {
        let TrimPolicy { tail, stride } = self.trimming;
        let floor = Slot(durable.min(self.committed).0.saturating_sub(tail));
        if floor.0 < self.floor.0.saturating_add(stride) {
            return None;
        }
        let record = Record::Trimmed {
            promised: self.promised,
            run: self.promised_to,
            floor,
            committed: self.committed,
        };
        self.remember(&record);
        Some(record)
    }

    fn refuses(&self, ballot: Ballot) -> bool {
        ballot < self.promised || ballot.node().is_none() || ballot.is_poison_after(self.promised)
    }

    fn promise(&mut self, ballot: Ballot, run: u64) -> Vec<Record> {
        let known = run == 0 || run == self.promised_to;
        if ballot == self.promised && known {
            return Vec::new();
        }
        let record = Record::Promised { ballot, run };
        self.remember(&record);
        vec![record]
    }

    fn nack(&self, ballot: Ballot) -> Output<Record, Reply> {
        answer(Reply::Nack {
            ballot,
            promised: self.promised,
        })
    }

    /// Votes in `from..=to` and, when they do not fit so many bytes, the first slot left out.
    fn votes_from(&self, from: Slot, to: Slot, most: usize) -> (Vec<Vote>, Option<Slot>) {
        let mut votes = Vec::new();
        let mut bytes = 0;
        if from > to {
            return (votes, None);
        }
        for (slot, (ballot, value)) in self.votes.range(from..=to) {
            let full = votes.len() >= self.answers.votes || bytes + value.len() > most;
            if full && !votes.is_empty() {
                return (votes, Some(*slot));
            }
            bytes += value.len();
            votes.push(Vote {
                slot: *slot,
                ballot: *ballot,
                value: value.clone(),
            });
        }
        (votes, None)
    }
}

fn slots(first: Slot, values: &[Value]) -> impl Iterator<Item = (Slot, &Value)> {
    let numbered = values.iter().enumerate();
    numbered.map(move |(i, value)| (first.plus(i as u64), value))
}

/// An answer for which nothing needs to be remembered.
fn answer(reply: Reply) -> Output<Record, Reply> {
    Output::new(Vec::new(), reply)
}

#[cfg(test)]
mod tests;
