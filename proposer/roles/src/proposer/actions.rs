//! What a proposer hears and what it asks for.

use std::sync::Arc;
use std::time::Duration;

use paxos::ids::{Ballot, NodeId, Slot};
use paxos::machine::Applied;
use paxos::message::{Heartbeat, Learn, Message, Request, Value, Values};
use paxos::proposer::Behind;

use super::found::FoundRoom;

/// A call's number. It is never used again in the life of the process.
pub type CallId = u64;

/// A call to one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number.
    pub id: CallId,
    /// Whom.
    pub to: NodeId,
    /// After this time without an answer, or without more of one, it is given up.
    pub within: Duration,
    /// After this time without an answer [`Event::Late`] says so; the call goes on.
    pub late_after: Option<Duration>,
}

/// What has happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A heartbeat interval has passed.
    Tick,
    /// The election timer ran out, or [`succeeds_at`] is here.
    ///
    /// [`succeeds_at`]: super::ProposerRole::succeeds_at
    ElectionTimeout,
    /// A client or another proposer has requests.
    Submit(NewJob),
    /// Somebody asks for a linearizable read, by a number of its own; see [`Action::Readable`].
    Read(u64),
    /// Another proposer says that it leads.
    Heartbeat(Heartbeat),
    /// Nothing listens any more where the leader of this ballot was.
    LeaderGone(Ballot),
    /// The leader asks this proposer to take over, by a number of the asker's own; see
    /// [`Action::TakesOver`].
    TakeOver(u64),
    /// The process is about to end; see [`Action::MayLeave`].
    Leave,
    /// A store has everything up to here on disk.
    Stored {
        /// Which.
        store: NodeId,
        /// Up to where.
        durable: Slot,
    },
    /// A call has its answer; `None` where the answer says nothing but that it is one.
    Answered(CallId, Option<Message>),
    /// A call has ended without an answer.
    Failed(CallId, Failure),
    /// A call's answer is late.
    Late(CallId),
    /// Part of a call's answer is here.
    Progress(CallId),
}

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nothing there took it, or it broke off.
    #[error("it cannot be reached")]
    Unreachable,
    /// Not in time.
    #[error("it gave no answer in time")]
    TimedOut,
    /// The node answers, but not this.
    #[error("it refused")]
    Refused,
    /// Its answer is larger than any that is taken.
    #[error("its answer is too large")]
    TooLarge,
}

/// What to do, in this order. Of each call, one [`Event::Answered`] or [`Event::Failed`] must follow, unless
/// it is aborted.
#[derive(Debug)]
pub enum Action {
    /// Ask acceptors.
    Ask {
        /// Which.
        calls: Vec<Call>,
        /// What.
        request: Request,
        /// Whether one that fails all the time may be spared, as long as a quorum is asked.
        is_guarded: bool,
        /// Whether parts of the answer are worth an [`Event::Progress`].
        hears_progress: bool,
    },
    /// Tell learners what is chosen.
    Tell {
        /// Which.
        calls: Vec<Call>,
        /// What.
        learn: Learn,
    },
    /// Tell another proposer that this one leads.
    Heartbeat(Call, Heartbeat),
    /// Have the leader propose values, and wait for so long for their outcomes, or not at all.
    Forward {
        /// Whom.
        call: Call,
        /// Milliseconds.
        wait_ms: u32,
        /// What.
        values: Values,
    },
    /// Nobody waits for that call's answer any more.
    Abort(CallId),
    /// Ask a learner what READs in these slots found.
    Recall(Call, Vec<Slot>),
    /// Ask another proposer to take over.
    TakeOver(Call),
    /// Find out whether any learner answers: answered if one does, failed if none does in time. The call
    /// goes to all of them, whatever it names.
    LookForLearner(Call),
    /// Ask a store how far it is; see [`Event::Stored`]. There need be no answer.
    AskStore(NodeId),
    /// Find out whether anything listens where the leader of this ballot was; see [`Event::LeaderGone`].
    SeeWhetherGone(NodeId, Ballot),
    /// Start the election timer anew, with a random time between the election timeout and twice that.
    RestartElectionTimer,
    /// Answer a job.
    Answer {
        /// Its number.
        job: u64,
        /// One for each value.
        answers: Vec<Answer>,
        /// To be kept as long as what READs found is.
        room: FoundRoom,
    },
    /// Answer a read: any node that has applied this slot may serve it. `None`: ask the leader.
    Readable {
        /// The asker's number.
        id: u64,
        /// Up to where.
        slot: Option<Slot>,
    },
    /// Answer the leader that asked to be succeeded.
    TakesOver {
        /// The asker's number.
        id: u64,
        /// Whether this proposer stands for election.
        willing: bool,
    },
    /// Write this down when there is time, for people.
    Save {
        /// What.
        saved: Saved,
        /// All of it, safely.
        is_checkpoint: bool,
    },
    /// No request waits here any more, and somebody else leads: the process may end.
    MayLeave,
    /// Say or count this.
    Note(Note),
}

/// What people are told, and what is measured.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    /// There is a leader.
    LeaderElected {
        /// Its ballot.
        ballot: Ballot,
        /// Whether this proposer is it.
        leading: bool,
    },
    /// There is none any more, as far as this proposer knows.
    LeaderLost,
    /// A heartbeat is ignored: no leader of this cluster can have such a ballot.
    StrangeHeartbeat(Ballot),
    /// A node has applied more than this leader has given out: it steps down.
    SteppingDown(Behind),
    /// Acceptors have lost votes: no proposer leads.
    Contradicted(Behind),
    /// The leader asks this proposer to succeed it, and it does.
    AskedToSucceed,
    /// Leadership is offered to that proposer, as this one leaves.
    HandsOver(NodeId),
    /// A proposer declined to take over.
    Declined(NodeId, Failure),
    /// No learner answers this leader, and that proposer, which reaches one, takes over.
    ReplacedBy(NodeId),
    /// No learner answers this leader, nor any proposer that could succeed it.
    ReachesNobody,
    /// A learner lags.
    LearnerLags {
        /// Which.
        learner: NodeId,
        /// Instances.
        behind: u64,
        /// Whether it does not answer.
        silent: bool,
    },
    /// A learner is level again.
    LearnerLevel(NodeId),
    /// An acceptor takes so long over a batch.
    SlowAcceptor(NodeId, Duration),
    /// Nothing new can be chosen, and why.
    NoRoom(Arc<str>),
    /// It can again.
    RoomAgain,
    /// A batch of so many values went out.
    Batch(usize),
    /// A request was chosen that had been here for so long.
    Chosen(Duration),
}

/// What a client or another proposer wants proposed.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// A number of the asker's own.
    pub id: u64,
    /// What.
    pub values: Vec<Value>,
    /// Whether outcomes are awaited; else only a slot.
    pub wait: bool,
    /// Whether another proposer sends it on, which takes this one for the leader.
    pub forwarded: bool,
    /// Until when.
    pub deadline: Duration,
}

/// What became of one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has a slot; asked for without `wait`.
    Assigned(Slot),
    /// It was chosen and applied.
    Done(Applied),
    /// READ was applied, and what it found is too much to keep for it.
    NotRead,
    /// It may or may not take effect.
    Unknown,
    /// No leader took it: it has no effect.
    NoLeader,
    /// The leader had no place for it in time, as what came before it is not chosen or not applied: it has no
    /// effect.
    NotProposed,
    /// The acceptors have no room for it, and why: it has no effect.
    NoRoom(Arc<str>),
}

/// The nodes that are listed, in order.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    /// All acceptors.
    pub acceptors: Vec<NodeId>,
    /// All learners.
    pub learners: Vec<NodeId>,
    /// The other proposers; those that leave when the cluster shrinks come last.
    pub proposers: Vec<NodeId>,
    /// All stores.
    pub stores: Vec<NodeId>,
    /// Whether this proposer is listed itself.
    pub is_listed: bool,
    /// Whether it knows how many acceptors founded its cluster.
    pub may_lead: bool,
}

/// What a proposer writes down of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// The last round that it has claimed: this one must not be forgotten.
    pub counter: u64,
    /// The last slot that it knows to be given out.
    pub last: Slot,
    /// Who leads.
    pub leader: Option<Ballot>,
}

/// A proposer's disk.
pub trait Claims {
    /// Why it has failed.
    type Error;

    /// Makes a claim durable before it returns. Called before anything is sent that depends on it.
    fn claim(&mut self, saved: Saved) -> Result<(), Self::Error>;
}
