//! The acceptor: promises and votes. It answers requests one by one and never speaks first.
//!
//! One promise covers every slot, so a leader runs phase 1 once (Lamport, "Paxos Made Simple",
//! section 3). A vote at a ballot is a promise not to accept less, as in the paper's P1a.

use super::ids::{Ballot, Slot};
pub use super::limits::{AnswerLimits, Room, TrimPolicy, Volume};
use super::message::{Reply, Request, Value, Values};
use super::output::{Output, Written};
pub use super::record::Record;
use super::votes::{self, About, Answer, Doubt, Place, Reading, Votes};

/// What values may cost in memory once they are durable; the log has the others.
const HELD_BYTES: usize = 32 << 20;
/// What the index of the log may take in memory. It grows by the log's length, so a log this long in
/// pieces this small is taken for a full disk.
const INDEX_BYTES: usize = 48 << 20;

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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Acceptor {
    promised: Ballot,
    /// Which process the promise was given to; 0 if a vote or a renewal brought the ballot here. A
    /// proposer sends those only when a quorum has promised, so no other process gets one.
    promised_to: u64,
    votes: Votes,
    committed: Slot,
    /// Votes up to here are forgotten; never above `committed`.
    floor: Slot,
    /// Of `promised` and `floor`, what is on disk.
    durable: (Ballot, Slot),
    /// What a quorum of learners has on disk, by the word of a leader that was answered at once.
    trim_to: Slot,
    leader_ticks: u8,
    room: (Room, Volume),
    answers: AnswerLimits,
    trimming: TrimPolicy,
}

impl Default for Acceptor {
    fn default() -> Acceptor {
        Acceptor {
            promised: Ballot::NONE,
            promised_to: 0,
            votes: Votes::new(HELD_BYTES),
            committed: Slot::ZERO,
            floor: Slot::ZERO,
            durable: (Ballot::NONE, Slot::ZERO),
            trim_to: Slot::ZERO,
            leader_ticks: 0,
            room: Default::default(),
            answers: AnswerLimits::default(),
            trimming: TrimPolicy::default(),
        }
    }
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

    /// The same, with values of at most `bytes` bytes in memory.
    pub fn with_held_bytes(mut self, bytes: usize) -> Acceptor {
        self.votes = self.votes.with_budget(bytes);
        self
    }

    /// Replays one record, in the order in which they were written, from its place.
    pub fn replay(&mut self, record: &Record, place: Place) {
        self.remember(record);
        match self.votes.is_pending() {
            true => self.is_written(&[place]),
            false => self.is_written(&[]),
        }
    }

    /// What was asked to be remembered is on disk; the records of votes among it at these places.
    pub fn written(&mut self, _proof: Written, places: &[Place]) {
        self.is_written(places);
    }

    fn is_written(&mut self, places: &[Place]) {
        self.votes.placed(places);
        self.durable = (self.promised, self.floor);
    }

    /// Whether the log may grow from now on.
    pub fn set_room(&mut self, room: Room, volume: Volume) {
        self.room = (room, volume);
    }

    /// Takes over what a record says.
    fn remember(&mut self, record: &Record) {
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
                self.votes.insert(*ballot, *first, values);
                self.votes.forget(self.floor);
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
                self.votes.forget(self.floor);
            }
            // The standing's own.
            Record::Known(_) => {}
        }
    }

    /// Answers at once what needs no write and tells nothing that is not on disk; `None` for what has to
    /// wait its turn. So a leader is confirmed however long the disk takes over a vote.
    pub fn answer(&mut self, request: &Request) -> Option<Answer> {
        let (promised, floor) = self.durable;
        Some(match request {
            Request::Probe => Answer::Reply(Reply::Probed {
                promised,
                committed: self.committed(),
                leader_alive: self.leader_ticks > 0,
            }),
            Request::Renew { ballot, .. } if self.refuses(*ballot) => Answer::Reply(Reply::Nack {
                ballot: *ballot,
                promised: self.promised,
            }),
            Request::Renew {
                ballot,
                round,
                committed,
                trim,
            } if *ballot == promised && *ballot == self.promised => {
                self.leader_ticks = LEADER_TICKS;
                self.committed = self.told(*committed);
                self.trim_to = self.trim_to.max(*trim).min(self.committed());
                Answer::Reply(Reply::Renewed {
                    ballot: *ballot,
                    round: *round,
                })
            }
            Request::Fetch { from, .. } if *from <= floor => {
                Answer::Reply(Reply::Truncated { from: *from, floor })
            }
            // What a trim under way forgets is not told any more, and not said to be forgotten yet.
            Request::Fetch { from, .. } if *from <= self.floor => return None,
            Request::Fetch { from, to } => self.fetch(*from, *to, true)?,
            _ => return None,
        })
    }

    /// What the log has to be asked before [`Acceptor::handle`] can answer: whether a leader sends a
    /// value again for which it has voted, when that value is no longer in memory.
    pub fn doubt(&self, request: &Request) -> Option<Doubt> {
        let Request::Accept {
            ballot,
            first,
            values,
            ..
        } = request
        else {
            return None;
        };
        if self.refuses(*ballot) || first.0.checked_add(values.len() as u64).is_none() {
            return None;
        }
        let compared = self.votes.compare(*ballot, *first, values);
        let doubt = Doubt {
            first: *first,
            values: values.clone(),
            pieces: compared.pieces,
        };
        (compared.doubted > 0 && !compared.differs).then_some(doubt)
    }

    /// Answers a request. Total: a request that makes no sense is refused, never trusted.
    pub fn handle(&mut self, request: Request) -> Output<Record, Answer> {
        self.handle_settled(request, None)
    }

    /// The same, with what came of its [`Acceptor::doubt`].
    pub fn handle_settled(
        &mut self,
        request: Request,
        is_same: Option<bool>,
    ) -> Output<Record, Answer> {
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
            } => self.accept(ballot, first, values, committed, is_same),
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
                Output::new(records, Answer::Reply(Reply::Renewed { ballot, round }))
            }
            Request::Enlist { .. } => answer(Reply::NotVoting),
            // Never "no votes": what is forgotten was chosen.
            Request::Fetch { from, .. } if from <= self.floor => answer(Reply::Truncated {
                from,
                floor: self.floor,
            }),
            Request::Fetch { from, to } => {
                let votes = self.fetch(from, to, false);
                Output::new(Vec::new(), votes.unwrap_or(Answer::Reply(Reply::NotVoting)))
            }
        }
    }

    /// An answer whose votes were forgotten before they were read from the log, once more.
    pub fn answer_again(&mut self, reading: &Reading) -> Answer {
        match reading.about() {
            About::Fetched { from, to } => {
                let answer = self.answer(&Request::Fetch { from, to });
                answer.unwrap_or(Answer::Reply(Reply::NotVoting))
            }
            About::Promise { ballot, .. } if ballot < self.promised => Answer::Reply(Reply::Nack {
                ballot,
                promised: self.promised,
            }),
            About::Promise { ballot, from, .. } => {
                let votes = self.promised_votes(ballot, from, true);
                votes.unwrap_or(Answer::Reply(Reply::NotVoting))
            }
        }
    }

    /// Forgets what may be, if that is worth a record. What was answered at once leaves this to later.
    pub fn tidy(&mut self) -> Output<Record, ()> {
        let trimmed = self.trim(self.trim_to);
        Output::new(trimmed.into_iter().collect(), ())
    }

    /// Half an election timeout has passed. Only [`Request::Probe`]'s hint depends on it.
    pub fn tick(&mut self) {
        // A promise on its way to the disk counts as a sign of life: it may take longer than that.
        if self.promised == self.durable.0 {
            self.leader_ticks = self.leader_ticks.saturating_sub(1);
        }
    }

    /// The highest ballot promised.
    pub fn promised(&self) -> Ballot {
        self.promised
    }

    /// Every slot up to here is chosen, as far as this acceptor knows and has voted itself: a
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
        self.votes.last().unwrap_or(self.floor)
    }

    /// Votes up to here are forgotten.
    pub fn floor(&self) -> Slot {
        self.floor
    }

    /// Its vote in a slot: the ballot, and the value if that is in memory.
    pub fn vote(&self, slot: Slot) -> Option<(Ballot, Option<&Value>)> {
        self.votes.get(slot)
    }

    /// All votes from a slot on, of which the log may hold some.
    pub fn votes_from(&self, from: Slot) -> Answer {
        let limits = AnswerLimits {
            bytes: usize::MAX,
            promise_bytes: usize::MAX,
            votes: usize::MAX,
        };
        let to = Slot(u64::MAX);
        let votes = self.votes.read(from, to, limits, false);
        votes::answer(
            About::Fetched { from, to },
            votes.unwrap_or_default(),
            limits,
        )
    }

    /// What it keeps in memory, in bytes: values, and the index of those in the log.
    pub fn memory(&self) -> (usize, usize) {
        self.votes.cost()
    }

    /// About how many bytes of votes it has not forgotten.
    pub fn voted_bytes(&self) -> u64 {
        self.votes.bytes()
    }

    /// The first place in the log that it needs, if it needs any.
    pub fn oldest_place(&self) -> Option<Place> {
        self.votes.oldest()
    }

    /// Whether it takes votes, and what it last heard of its volume.
    pub fn room(&self) -> (Room, Volume) {
        let (room, volume) = self.room;
        let least = match self.votes.cost().1 {
            index if index > INDEX_BYTES => Room::Share,
            index if index > INDEX_BYTES - INDEX_BYTES / 8 => Room::Tight,
            _ => Room::Enough,
        };
        (room.max(least), volume)
    }

    fn prepare(&mut self, ballot: Ballot, run: u64, from: Slot) -> Output<Record, Answer> {
        let promised_another = self.promised_to != 0 && self.promised_to != run;
        if self.refuses(ballot) || (ballot == self.promised && promised_another) {
            return self.nack(ballot);
        }
        let records = self.promise(ballot, run);
        let votes = self.promised_votes(ballot, from, false);
        let votes = votes.unwrap_or(Answer::Reply(Reply::NotVoting));
        // A candidate gets the grace that a leader gets, and more while it hears much: those whose
        // timers fire while it gathers promises wait, instead of outbidding it.
        let more = u8::try_from(votes.size_hint() / BYTES_A_TICK).unwrap_or(u8::MAX);
        self.leader_ticks = LEADER_TICKS.saturating_add(more.min(LONGEST_GRACE));
        Output::new(records, votes)
    }

    /// See [`Acceptor::fetch`].
    fn promised_votes(&self, ballot: Ballot, from: Slot, durable: bool) -> Option<Answer> {
        let committed = self.committed();
        let limits = AnswerLimits {
            bytes: self.answers.promise_bytes,
            ..self.answers
        };
        let about = About::Promise {
            ballot,
            from,
            committed,
        };
        let votes = self.votes.read(from, Slot(u64::MAX), limits, durable)?;
        Some(votes::answer(about, votes, limits))
    }

    /// With `durable`, `None` when the first vote is not on disk yet.
    fn fetch(&self, from: Slot, to: Slot, durable: bool) -> Option<Answer> {
        let votes = self.votes.read(from, to, self.answers, durable)?;
        Some(votes::answer(
            About::Fetched { from, to },
            votes,
            self.answers,
        ))
    }

    fn accept(
        &mut self,
        ballot: Ballot,
        first: Slot,
        values: Values,
        committed: Slot,
        is_same: Option<bool>,
    ) -> Output<Record, Answer> {
        let count = values.len() as u64;
        let end = first.0.checked_add(count);
        let known = self.committed.max(self.last_voted());
        let is_far = first.0 > known.0.saturating_add(MAX_AHEAD);
        let refuses = self.refuses(ballot) || first == Slot::ZERO || is_far;
        let Some(end) = end.filter(|_| !refuses) else {
            return self.nack(ballot);
        };
        let compared = self.votes.compare(ballot, first, &values);
        // Two values at one ballot: two processes use one identity. Neither may win.
        if compared.differs || (compared.doubted > 0 && is_same == Some(false)) {
            return self.nack(ballot);
        }
        if compared.doubted > 0 && is_same.is_none() {
            return answer(Reply::NotVoting);
        }
        let committed = self.told(committed);
        // Chosen long ago, so no ballot can bring another value; there is nothing to keep.
        let forgotten = end.min(self.floor.next().0).saturating_sub(first.0);
        self.leader_ticks = LEADER_TICKS;
        let (room, volume) = self.room();
        let Volume { log, free } = volume;
        let reply = match room {
            Room::Enough => Reply::Accepted {
                ballot,
                first,
                count,
            },
            _ => Reply::AcceptedTight {
                ballot,
                first,
                count,
                log,
                free,
            },
        };
        if forgotten + compared.known + compared.doubted == count {
            self.committed = committed;
            return Output::new(self.promise(ballot, 0), Answer::Reply(reply));
        }
        if self.has_no_room(room, Slot(end - 1), &values) {
            return answer(Reply::NoRoom {
                ballot,
                first,
                log,
                free,
            });
        }
        let record = Record::Accepted {
            ballot,
            first,
            values,
            committed,
        };
        self.remember(&record);
        Output::new(vec![record], Answer::Reply(reply))
    }

    /// Whether votes up to that slot must not be written.
    fn has_no_room(&self, room: Room, last: Slot, values: &[Value]) -> bool {
        match room {
            Room::Enough | Room::Tight => false,
            // No-ops close the holes that a leader finds.
            Room::Share => last > self.last_voted() && !values.iter().all(Value::is_noop),
            Room::Reserve => true,
        }
    }

    /// Forgets what a quorum of learners has on disk, but for a tail.
    fn trim(&mut self, durable: Slot) -> Option<Record> {
        let policy = self.trimming;
        let durable = durable.min(self.committed);
        let mut floor = Slot(durable.0.saturating_sub(policy.tail));
        let mut is_due = floor.0 >= self.floor.0.saturating_add(policy.stride);
        if self.votes.bytes() >= policy.tail_bytes.saturating_add(policy.stride_bytes) {
            let behind = self.votes.behind(policy.tail_bytes, durable);
            is_due |= behind > self.floor;
            floor = floor.max(behind);
        }
        if !is_due || floor <= self.floor {
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

    fn nack(&self, ballot: Ballot) -> Output<Record, Answer> {
        answer(Reply::Nack {
            ballot,
            promised: self.promised,
        })
    }
}

/// An answer for which nothing needs to be remembered.
fn answer(reply: Reply) -> Output<Record, Answer> {
    Output::new(Vec::new(), Answer::Reply(reply))
}

#[cfg(test)]
mod tests;
