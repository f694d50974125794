//! What reaches a learner's loop, and what it asks for.

use std::time::Duration;

use bytes::Bytes;
use paxos::command::Undecodable;
use paxos::ids::{NodeId, NodeName, Slot};
use paxos::machine::Frozen;
use paxos::message::{Learn, Learned, Reply, Request};
use paxos::verify::Verdict;

use super::catch_up::{Ask, Lost, Told};

/// What reaches a learner's loop.
#[derive(Debug)]
pub enum Event<A> {
    /// A leader tells what is chosen.
    Told {
        /// What.
        learn: Learn,
        /// Who.
        from: NodeName,
        /// Who is answered.
        asker: A,
    },
    /// An acceptor answers a question.
    Answered {
        /// The question.
        number: u64,
        /// What.
        reply: Reply,
    },
    /// A question to an acceptor or another node is over without an answer.
    Failed {
        /// The question.
        number: u64,
        /// Why.
        why: String,
    },
    /// Another learner or a store answers a question.
    NodeTold {
        /// The question.
        number: u64,
        /// What.
        told: Told,
    },
    /// A piece of another node's snapshot is on disk.
    Received {
        /// The question that it answered.
        number: u64,
    },
    /// The copy that was to be written is a snapshot.
    SnapshotWritten {
        /// Its size.
        bytes: u64,
    },
    /// It is not: there was no room for it.
    SnapshotFailed,
    /// More of the other learners have applied something else than have applied the same.
    Outvoted,
    /// Some time has passed.
    Tick {
        /// Any number, another one each time.
        dice: u64,
    },
}

/// What a learner's loop asks for.
#[derive(Debug)]
pub enum Action<A> {
    /// Send this answer. The leader may have given up on it.
    Answer {
        /// To whom.
        asker: A,
        /// What.
        learned: Learned,
    },
    /// Ask an acceptor, and say how that ended.
    AskAcceptor {
        /// The question.
        number: u64,
        /// Whom.
        acceptor: NodeId,
        /// What.
        request: Request,
        /// How long its answer may take to begin, and to continue.
        within: Duration,
    },
    /// Ask another learner or a store, and say how that ended.
    AskNode {
        /// The question.
        number: u64,
        /// Whom.
        node: NodeName,
        /// What.
        ask: Ask,
    },
    /// Write a piece of another node's snapshot to disk, and say when it is there.
    Receive {
        /// The question that it answers.
        number: u64,
        /// Of which snapshot.
        slot: Slot,
        /// Where it begins.
        offset: u64,
        /// The piece.
        bytes: Bytes,
    },
    /// Write this state to disk as a snapshot, beside all else, and say how that ended.
    WriteSnapshot(Frozen),
    /// Another node's snapshot has taken the place of all that was here.
    Installed(Slot),
    /// What this learner needs and nobody has, or could be asked for, if anything. Tell people.
    Lost(Option<Lost>),
    /// It applies nothing any more. Tell people.
    Halted(Halt),
    /// Tell people.
    Say(Notice),
    /// The acceptors have said who is right.
    Judged {
        /// What they have.
        verdict: Verdict,
        /// Where.
        slot: Slot,
        /// Who said something else; `None` for a sample.
        told_by: Option<NodeName>,
    },
}

/// What people should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// An instance said to be chosen is known to no quorum of acceptors.
    Missing(Slot),
    /// Two values were told for one instance.
    Disputed(Slot),
    /// A value was told that cannot be read.
    Unread(Slot),
    /// Somebody says that another value was chosen than was applied here; the acceptors are asked.
    ToldAnother {
        /// Who.
        from: NodeName,
        /// Where.
        slot: Slot,
    },
    /// The acceptors have forgotten up to this slot what comes next here.
    Behind(Slot),
    /// It could not catch up from this node; the next one is asked.
    NotFrom {
        /// Which.
        node: NodeName,
        /// It answered, and does not have it.
        lacks: bool,
        /// Why.
        why: String,
    },
    /// This node's snapshot does not fit on the disk.
    NoRoomFor {
        /// Which.
        node: NodeName,
        /// How many bytes it needs.
        bytes: u64,
    },
}

/// Why a learner has stopped for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// A quorum of acceptors has a value that this version cannot read.
    Undecodable {
        /// Where.
        slot: Slot,
        /// What was wrong with it.
        why: Undecodable,
    },
    /// A quorum of acceptors does not have what was applied here.
    Contradicted {
        /// Where.
        slot: Slot,
        /// They have something else; or nothing.
        has_other: bool,
    },
    /// More of the other learners have applied something else than have applied the same.
    Outvoted,
}
