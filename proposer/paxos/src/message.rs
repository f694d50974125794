//! What the roles say to each other. One proposer, the leader, drives everything:
//!
//! | message | from | to | answer |
//! |---|---|---|---|
//! | [`Request::Probe`] | proposer | acceptor | [`Reply::Probed`] |
//! | [`Request::Prepare`] | proposer | acceptor | [`Reply::Promise`] or [`Reply::Nack`] |
//! | [`Request::Accept`] | leader | acceptor | [`Reply::Accepted`] or [`Reply::AcceptedTight`], [`Reply::Nack`], [`Reply::NoRoom`] |
//! | [`Request::Renew`] | leader | acceptor | [`Reply::Renewed`] or [`Reply::Nack`] |
//! | [`Request::Fetch`] | learner | acceptor | [`Reply::Fetched`] or [`Reply::Truncated`] |
//! | [`Request::Enlist`] | any node | acceptor | [`Reply::Witnessed`] or [`Reply::Refused`] |
//! | [`Learn`] | leader | learner | the slot it has applied, with outcomes |
//! | [`Message::Recall`] | leader | learner | outcomes that did not fit into an answer |
//! | [`Message::Forward`] | proposer | leader | the outcomes of the values |
//! | [`Message::ReadIndex`] | learner or store | leader | the slot up to which a read has to wait |
//! | [`Message::TakeOver`] | leader | proposer | whether it stands for election |
//! | [`Heartbeat`] | leader | proposer | none needed |

use super::ids::{Ballot, ClusterId, Members, NodeName, Slot};
use super::outcome::Applied;
use super::roster::{Refusal, Start};
pub use super::value::{Value, Values};

/// An acceptor's vote in one slot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vote {
    /// Where.
    pub slot: Slot,
    /// The highest ballot at which this acceptor accepted a value there.
    pub ballot: Ballot,
    /// That value.
    pub value: Value,
}

/// To an acceptor.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Request {
    /// Before an election: what have you promised, and is there a leader? Changes nothing, so a
    /// proposer that is cut off from the leader alone does not depose it.
    Probe,
    /// Phase 1 for every slot from `from` on, once per leadership.
    Prepare {
        /// The candidate's ballot.
        ballot: Ballot,
        /// The candidate's [`Start::run`]: two processes that use one identity, one of them with
        /// another disk, could claim the same ballot.
        run: u64,
        /// The first slot whose votes the candidate needs.
        from: Slot,
    },
    /// Phase 2 for the slots `first`, `first` + 1, ….
    Accept {
        /// The leader's ballot.
        ballot: Ballot,
        /// The slot of the first value.
        first: Slot,
        /// One value per slot.
        values: Values,
        /// Every slot up to here is chosen.
        committed: Slot,
    },
    /// Phase 2 for no slot: am I still the leader? The leader's own proof that it reaches a quorum.
    Renew {
        /// The leader's ballot.
        ballot: Ballot,
        /// Grows with each Renew; the answer repeats it.
        round: u64,
        /// Every slot up to here is chosen.
        committed: Slot,
        /// Every slot up to here is on the disks of a quorum of learners: votes may be forgotten.
        trim: Slot,
    },
    /// A learner's question for the votes in slots that it knows to be chosen.
    Fetch {
        /// The first slot.
        from: Slot,
        /// The last slot.
        to: Slot,
    },
    /// A node has started: is its disk the one that it always had? See [`super::standing`].
    Enlist {
        /// Which node.
        node: NodeName,
        /// Its start.
        start: Start,
        /// The cluster that its disk belongs to, if it does.
        cluster: Option<ClusterId>,
        /// How many acceptors its list names; `None` from a build that does not tell.
        acceptors: Option<Members>,
    },
}

/// An acceptor's answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reply {
    /// To [`Request::Probe`].
    Probed {
        /// The highest ballot promised.
        promised: Ballot,
        /// Every slot up to here is chosen, as far as this acceptor knows.
        committed: Slot,
        /// Whether it heard from a leader lately. A hint: only liveness depends on it.
        leader_alive: bool,
    },
    /// To [`Request::Prepare`]: no lower ballot will be accepted any more.
    Promise {
        /// The ballot promised.
        ballot: Ballot,
        /// The request's `from`.
        from: Slot,
        /// Votes in slots `from` and later, in order.
        votes: Vec<Vote>,
        /// Where to continue asking, when the votes did not fit one answer.
        rest: Option<Slot>,
        /// Every slot up to here is chosen, as far as this acceptor knows.
        committed: Slot,
    },
    /// To [`Request::Accept`]: the votes are on disk.
    Accepted {
        /// The request's ballot.
        ballot: Ballot,
        /// The request's first slot.
        first: Slot,
        /// How many slots.
        count: u64,
    },
    /// To [`Request::Renew`].
    Renewed {
        /// The request's ballot.
        ballot: Ballot,
        /// The request's round.
        round: u64,
    },
    /// To a ballot below the promise.
    Nack {
        /// The request's ballot.
        ballot: Ballot,
        /// The promise that stands against it.
        promised: Ballot,
    },
    /// As [`Reply::Accepted`], from an acceptor whose volume has little room left.
    AcceptedTight {
        /// The request's ballot.
        ballot: Ballot,
        /// The request's first slot.
        first: Slot,
        /// How many slots.
        count: u64,
        /// Bytes of the log.
        log: u64,
        /// Bytes left on its volume.
        free: u64,
    },
    /// To [`Request::Accept`]: the volume has no room for these votes. Nothing was voted.
    NoRoom {
        /// The request's ballot.
        ballot: Ballot,
        /// The request's first slot.
        first: Slot,
        /// Bytes of the log.
        log: u64,
        /// Bytes left on its volume.
        free: u64,
    },
    /// To [`Request::Fetch`] of slots whose votes this acceptor has forgotten, because a quorum of
    /// learners has what was chosen there.
    Truncated {
        /// The request's first slot.
        from: Slot,
        /// Votes up to here are forgotten.
        floor: Slot,
    },
    /// To [`Request::Fetch`].
    Fetched {
        /// The request's first slot.
        from: Slot,
        /// The last slot that this answer covers, at most the request's.
        to: Slot,
        /// The votes in slots `from` to `to`, in order.
        votes: Vec<Vote>,
    },
    /// To everything but [`Request::Enlist`], from an acceptor that must not take part, or not yet.
    NotVoting,
    /// To [`Request::Enlist`]: the start is written down.
    Witnessed {
        /// The request's start.
        start: Start,
        /// The witness's own.
        witness: Start,
        /// The cluster that the witness votes in.
        cluster: Option<ClusterId>,
        /// How many acceptors that cluster was founded with, or will be by the witness's list. `None`
        /// from a build that does not tell, and to one.
        acceptors: Option<Members>,
    },
    /// To [`Request::Enlist`]: this is not the disk that the node must have.
    Refused {
        /// The request's start.
        start: Start,
        /// What is wrong.
        refusal: Refusal,
    },
}

/// To a learner: these values are chosen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Learn {
    /// The slot of the first value.
    pub first: Slot,
    /// One chosen value per slot; may be empty.
    pub values: Values,
    /// Every slot up to here is chosen.
    pub committed: Slot,
}

/// To the other proposers: I lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Heartbeat {
    /// The leader's ballot, which names leader and term.
    pub ballot: Ballot,
    /// The last slot the leader has given out. This and `committed` are for display alone: nothing
    /// decides by them, because this message has an open, readable form.
    pub last: Slot,
    /// Every slot up to here is chosen.
    pub committed: Slot,
}

/// A learner's answer to [`Learn`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Learned {
    /// Every slot up to here is applied.
    pub applied: Slot,
    /// Every slot up to here is on this learner's disk.
    pub durable: Slot,
    /// The request's first slot.
    pub first: Slot,
    /// What became of the request's values, as far as this learner has applied them.
    pub outcomes: Vec<Option<Applied>>,
}

/// A learner's answer to [`Message::Recall`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Recalled {
    /// Every slot up to here is applied.
    pub applied: Slot,
    /// One for each of the first slots asked for, as many as fit; `None` for a slot not applied yet.
    pub outcomes: Vec<Option<Applied>>,
}

/// The leader's answer to [`Message::Forward`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Forwarded {
    /// Ask another proposer; nothing was done.
    NotLeader,
    /// Too much is waiting already; nothing was done.
    Busy,
    /// The acceptors have no room for them; nothing was done.
    NoRoom {
        /// Why, and what to do.
        why: String,
    },
    /// The values have consecutive slots from this one on.
    Assigned {
        /// The first value's slot.
        first: Slot,
    },
    /// What became of the values; `None` where that was not known in time.
    Outcomes {
        /// One for each value.
        outcomes: Vec<Option<Applied>>,
    },
}

/// Everything that one node says to another in the compact encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// To an acceptor.
    Request(Request),
    /// From an acceptor.
    Reply(Reply),
    /// Leader to learner.
    Learn(Learn),
    /// Learner to leader.
    Learned(Learned),
    /// Proposer to learner: what became of the values in these slots?
    Recall(Vec<Slot>),
    /// Learner to proposer.
    Recalled(Recalled),
    /// Follower to leader: clients' values.
    Forward {
        /// How long to wait for the outcomes; 0: answer as soon as slots are given out.
        wait_ms: u32,
        /// The values.
        values: Values,
    },
    /// Leader to follower.
    Forwarded(Forwarded),
    /// Leader to its successor: elect yourself now.
    TakeOver,
    /// Learner or store to leader: up to where must I have applied to answer a read?
    ReadIndex,
    /// The answer; `None` when the asked one does not lead.
    Readable(Option<Slot>),
    /// Done, nothing to say.
    Done,
}

impl Message {
    /// About how many bytes its values take.
    pub fn size_hint(&self) -> usize {
        let values = |values: &[Value]| values.iter().map(|value| 4 + value.len()).sum();
        match self {
            Message::Request(Request::Accept { values: v, .. })
            | Message::Learn(Learn { values: v, .. })
            | Message::Forward { values: v, .. } => values(v),
            Message::Reply(Reply::Promise { votes, .. } | Reply::Fetched { votes, .. }) => {
                votes.iter().map(|vote| 20 + vote.value.len()).sum()
            }
            Message::Learned(Learned { outcomes, .. })
            | Message::Recalled(Recalled { outcomes, .. })
            | Message::Forwarded(Forwarded::Outcomes { outcomes, .. }) => {
                let size = |outcome: &Option<Applied>| outcome.as_ref().map_or(1, Applied::size);
                outcomes.iter().map(size).sum()
            }
            Message::Recall(slots) => 8 * slots.len(),
            _ => 0,
        }
    }
}
