//! The proposer: elects a leader through Paxos itself and, while leading, gets values chosen.
//!
//! An election has three steps. *Probe*: ask every acceptor what it has promised; continue only when a
//! quorum has heard from no leader lately. *Claim*: make a ballot above all of those durable, so
//! that it is never used twice. *Prepare*: phase 1 for every slot that is not known to be chosen.
//! With a quorum of complete promises the proposer leads: it takes over, slot by slot, the value of
//! the highest ballot among the promises, fills what is left between them with no-ops, and from
//! then on runs phase 2 alone (Lamport, "Paxos Made Simple", section 3; van Renesse and Altinbuken,
//! "Paxos Made Moderately Complex", section 2).
//!
//! Because a claim lies above the promises of a quorum, it is unique even if this proposer has lost
//! its disk: no value was ever proposed at a ballot that a quorum had not promised first.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::ids::{Ballot, Members, NodeId, NodeName, Slot};
use super::message::{Heartbeat, Learn, Reply, Request, Value, Values, Vote};
use super::output::Output;
use again::{Failure, Late};
use reads::confirmed_round;

pub use again::Sent;
pub use ahead::Behind;

mod again;
mod ahead;
mod election;
mod reads;
mod replication;

/// Limits and sizes; in time, only the count of ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// How many Accepts may be under way at once. While they are, values queue and form the next,
    /// larger batch: load sets the batch size, no timer does. A further one goes only when it is as
    /// large as all that is under way.
    pub batches_in_flight: usize,
    /// Values in one Accept.
    pub batch_values: usize,
    /// Bytes of values in one Accept; one larger value goes alone.
    pub batch_bytes: usize,
    /// How many ticks a leader continues without an answer from a quorum before it steps down.
    pub patience_ticks: u64,
    /// Whether a batch goes to a quorum of the acceptors alone at first (Lamport and Massa, "Cheap
    /// Paxos"; "thrifty" in Moraru et al., "There Is More Consensus in Egalitarian Parliaments").
    /// The others get it later, many batches in one message and one fdatasync, or at once when one
    /// of that quorum does not answer.
    pub thrifty: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            batches_in_flight: 4,
            batch_values: 1024,
            batch_bytes: 1 << 20,
            patience_ticks: 8,
            thrifty: true,
        }
    }
}

/// More elections in a row than one proposer can have lost: one a millisecond for a quarter of an
/// hour.
const ROUNDS_LOST: u64 = 1 << 20;

/// What reaches a proposer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// Clients' values. Ignored unless this proposer leads; see [`Effects::assigned`].
    Propose(Vec<Value>),
    /// Who asks for a linearizable read, by a number of the asker's own.
    Read(u64),
    /// An acceptor answers.
    Reply {
        /// Which.
        from: NodeId,
        /// What.
        reply: Reply,
    },
    /// An acceptor has not answered when answers are commonly there. Its answer may still come.
    Unanswered(NodeId),
    /// A request to an acceptor is over and has not had the answer that it asks for: nothing was
    /// there to take it, it broke off, its time is up, or the acceptor would not.
    Failed {
        /// Which.
        from: NodeId,
        /// The request.
        sent: Sent,
    },
    /// Part of an acceptor's answer to a [`Request::Prepare`] is here, and the rest is on its way.
    Progress(NodeId),
    /// A learner has applied every slot up to here.
    Learned(Slot),
    /// A learner or a store says that it has applied every slot up to here, by its own account alone.
    Applied {
        /// Which.
        by: NodeName,
        /// Up to where.
        upto: Slot,
    },
    /// A learner or a store has left the cluster.
    Gone(NodeName),
    /// A quorum of learners has every slot up to here on disk.
    Durable(Slot),
    /// Another proposer says that it leads.
    Heartbeat(Heartbeat),
    /// No heartbeat came for an election timeout.
    ElectionTimeout,
    /// A heartbeat interval has passed.
    Tick,
    /// The leader asks this proposer to succeed it: elect at once, although a leader is alive.
    TakeOver,
    /// Stop leading: the process is shutting down. What is under way stays under way.
    StepDown,
}

/// The only thing a proposer must not forget: which rounds it has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim {
    /// The highest round used.
    pub counter: u64,
}

/// To which acceptors a request goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum To {
    /// All of them.
    All,
    /// Those that are asked first; with their votes it is done.
    Quorum(BTreeSet<NodeId>),
    /// The others, later.
    Others(BTreeSet<NodeId>),
    /// One.
    One(NodeId),
}

impl To {
    /// Whether it goes to that acceptor.
    pub fn includes(&self, acceptor: NodeId) -> bool {
        match self {
            To::All => true,
            To::Quorum(some) | To::Others(some) => some.contains(&acceptor),
            To::One(one) => *one == acceptor,
        }
    }
}

/// What a step asks for once its claim is durable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Effects {
    /// Requests to acceptors, in order.
    pub acceptors: Vec<(To, Request)>,
    /// To every learner, in order; without values to say how far the log has come. See
    /// [`Telling`](super::telling::Telling).
    pub learners: Vec<Learn>,
    /// To every other proposer.
    pub heartbeat: Option<Heartbeat>,
    /// Restart the election timer, with a fresh random time.
    pub restart_election_timer: bool,
    /// The slot given to the first of the values of [`Input::Propose`]; the others follow it.
    /// `None` when this proposer does not lead: nothing was done with them.
    pub assigned: Option<Slot>,
    /// Reads that any node that has applied this slot may answer.
    pub readable: Vec<(u64, Slot)>,
    /// Reads that must be asked again, as this proposer does not lead.
    pub unreadable: Vec<u64>,
    /// Leadership changed hands, as far as this proposer knows.
    pub leader_changed: bool,
    /// Some node has applied more than this proposer knows of, so it does not lead.
    pub behind: Option<Behind>,
}

/// A proposer's state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proposer {
    me: NodeId,
    /// Which process this is: goes with each Prepare.
    run: u64,
    members: Members,
    settings: Settings,
    /// The highest round ever claimed here.
    counter: u64,
    /// Rounds to leave out at the next claim.
    skip: u64,
    /// Every slot up to here is chosen, from the word of acceptors or by our own count of votes.
    committed: Slot,
    /// Every slot up to here is on the disks of a quorum of learners.
    trim: Slot,
    /// Who has applied more than this proposer knew of, and up to where.
    ahead: BTreeMap<NodeName, Slot>,
    phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Following(Option<Heartbeat>),
    Probing {
        even_if_led: bool,
        probed: BTreeMap<NodeId, Probed>,
    },
    Preparing {
        ballot: Ballot,
        from: Slot,
        promises: BTreeMap<NodeId, Promise>,
        /// Those whose next part was asked for in vain.
        failed: BTreeSet<NodeId>,
        /// How many election timeouts it has waited.
        timeouts: u32,
    },
    Leading(Box<Leading>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Probed {
    promised: Ballot,
    leader_alive: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Promise {
    votes: Vec<Vote>,
    committed: Slot,
    /// Where the next part starts; `None` when the promise is complete.
    rest: Option<Slot>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Leading {
    ballot: Ballot,
    /// The slot after the last one in which an earlier leader may have had a value chosen. Reads
    /// wait until every slot before it is chosen.
    recovered: Slot,
    /// The first slot not given out.
    next: Slot,
    /// Values not yet sent: the last of them has slot `next` - 1.
    unsent: VecDeque<Value>,
    /// The acceptors, those first that a batch goes to first.
    order: Vec<NodeId>,
    /// Batches sent, by first slot, until a quorum has voted for them.
    in_flight: BTreeMap<Slot, Batch>,
    /// What was chosen and not yet sent to everybody, oldest first.
    late: Vec<Late>,
    /// Values that came to it since it was last looked at, and their bytes.
    late_size: (usize, usize),
    /// Who has been sent of it and has not answered: whom, and the first slot.
    late_open: BTreeSet<(NodeId, Slot)>,
    /// Batches chosen, by first slot, while an earlier one is not.
    chosen: BTreeMap<Slot, Values>,
    /// Every slot up to here is applied by a learner.
    applied: Slot,
    /// Bytes of all values in later slots, and of each chosen batch of them, by its last slot.
    open_bytes: usize,
    chosen_bytes: BTreeMap<Slot, usize>,
    /// Which acceptors had no room for more votes, and the tick at which they said so or were asked.
    no_room: BTreeMap<NodeId, u64>,
    /// The newest round of [`Request::Renew`].
    round: u64,
    /// Whether all acceptors were asked in that round.
    round_to_all: bool,
    /// How many ticks it has led.
    ticks: u64,
    /// The newest round that a quorum answered, and the tick at which that was seen.
    confirmed: (u64, u64),
    /// The newest round each acceptor answered.
    renewed: BTreeMap<NodeId, u64>,
    /// Reads, each with the round that must be confirmed by a quorum first.
    reads: VecDeque<(u64, u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Batch {
    values: Values,
    /// An acceptor is not asked again while a request to it is under way: unless it has voted or is
    /// among the failed, one is.
    asked: BTreeSet<NodeId>,
    votes: BTreeSet<NodeId>,
    failed: BTreeMap<NodeId, Failure>,
    /// Those in whose place another one was asked.
    replaced: BTreeSet<NodeId>,
}

impl Proposer {
    /// A proposer after a start or restart. `claimed` is its last durable claim; 0 for none.
    pub fn new(me: NodeId, members: Members, settings: Settings, claimed: u64) -> Proposer {
        Proposer {
            me,
            run: 0,
            members,
            settings,
            counter: claimed,
            skip: 0,
            committed: Slot::ZERO,
            trim: Slot::ZERO,
            ahead: BTreeMap::new(),
            phase: Phase::Following(None),
        }
    }

    /// The same, named among the processes that have had this identity: a random number of its start.
    pub fn with_run(self, run: u64) -> Proposer {
        Proposer { run, ..self }
    }

    /// The same for a proposer whose claims are not all known, as its disk was damaged: the next one
    /// leaves out more rounds than it can have claimed without a quorum's promise.
    pub fn with_claims_lost(self) -> Proposer {
        Proposer {
            skip: ROUNDS_LOST,
            ..self
        }
    }

    /// Takes one input. Total: what makes no sense in this phase changes nothing.
    pub fn step(&mut self, input: Input) -> Output<Claim, Effects> {
        let mut effects = Effects::default();
        let mut claims = Vec::new();
        match input {
            Input::Propose(values) => self.propose(values, &mut effects),
            Input::Read(read) => self.read(read, &mut effects),
            Input::Reply { from, reply } if self.members.contains(from) => {
                self.reply(from, reply, &mut claims, &mut effects);
            }
            Input::Reply { .. } => {}
            Input::Unanswered(acceptor) => self.unanswered(acceptor, &mut effects),
            Input::Failed { from, sent } => self.failed(from, sent, &mut effects),
            Input::Progress(_) => {
                let preparing = matches!(self.phase, Phase::Preparing { .. });
                effects.restart_election_timer = preparing;
            }
            Input::Learned(applied) => self.learned(applied),
            Input::Applied { by, upto } => self.has_applied(by, upto, &mut effects),
            Input::Gone(node) => drop(self.ahead.remove(&node)),
            Input::Durable(slot) => self.trim = self.trim.max(slot),
            Input::Heartbeat(heartbeat) => self.heartbeat(heartbeat, &mut effects),
            Input::ElectionTimeout if self.is_leading() => {}
            Input::ElectionTimeout => {
                if !self.prepare_longer(&mut effects) {
                    self.probe(false, &mut effects);
                }
            }
            Input::TakeOver if self.is_leading() => {}
            Input::TakeOver => self.probe(true, &mut effects),
            Input::Tick => self.tick(&mut effects),
            Input::StepDown => {
                if self.is_leading() {
                    self.send_late(true, &mut effects);
                    self.follow(None, &mut effects);
                }
            }
        }
        Output::new(claims, effects)
    }

    /// Whether this proposer leads.
    pub fn is_leading(&self) -> bool {
        matches!(self.phase, Phase::Leading(_))
    }

    /// The ballot of the leader it knows, which may be itself.
    pub fn leader(&self) -> Option<Ballot> {
        match &self.phase {
            Phase::Following(leader) => leader.map(|leader| leader.ballot),
            Phase::Leading(leading) => Some(leading.ballot),
            Phase::Probing { .. } | Phase::Preparing { .. } => None,
        }
    }

    /// Every slot up to here is known to be chosen.
    pub fn committed(&self) -> Slot {
        self.committed
    }

    /// The last slot given out, by this leader or by the one it follows. For display.
    pub fn last(&self) -> Slot {
        match &self.phase {
            Phase::Following(Some(leader)) => leader.last.max(self.committed),
            Phase::Leading(leading) => leading.next.previous(),
            _ => self.committed,
        }
    }

    /// Every slot up to here is chosen, by the leader's word if this proposer follows one. For
    /// display.
    pub fn committed_seen(&self) -> Slot {
        match &self.phase {
            Phase::Following(Some(leader)) => leader.committed.max(self.committed),
            _ => self.committed,
        }
    }

    /// The highest round it has claimed.
    pub fn counter(&self) -> u64 {
        self.counter
    }

    /// How many slots are given out and not yet applied by a learner: the caller bounds it.
    pub fn open_slots(&self) -> u64 {
        match &self.phase {
            Phase::Leading(leading) => {
                let applied = leading.applied.min(self.committed);
                leading.next.previous().0.saturating_sub(applied.0)
            }
            _ => 0,
        }
    }

    /// How many bytes the values in those slots have: the caller bounds it, too.
    pub fn open_bytes(&self) -> usize {
        match &self.phase {
            Phase::Leading(leading) => leading.open_bytes,
            _ => 0,
        }
    }

    /// The phase, in a word: `following`, `probing`, `preparing` or `leading`.
    pub fn phase(&self) -> &'static str {
        match self.phase {
            Phase::Following { .. } => "following",
            Phase::Probing { .. } => "probing",
            Phase::Preparing { .. } => "preparing",
            Phase::Leading(_) => "leading",
        }
    }

    fn reply(
        &mut self,
        from: NodeId,
        reply: Reply,
        claims: &mut Vec<Claim>,
        effects: &mut Effects,
    ) {
        match reply {
            Reply::Probed {
                promised,
                committed,
                leader_alive,
            } => {
                self.committed = match &self.phase {
                    // A leader counts votes itself; a higher mark means that another leads now.
                    Phase::Leading(_) => self.committed,
                    _ => self.committed.max(committed),
                };
                self.probed(
                    from,
                    Probed {
                        promised,
                        leader_alive,
                    },
                    claims,
                    effects,
                );
            }
            Reply::Promise {
                ballot,
                from: start,
                votes,
                rest,
                committed,
            } => {
                self.promised(
                    from,
                    ballot,
                    start,
                    Promise {
                        votes,
                        rest,
                        committed,
                    },
                    effects,
                );
            }
            Reply::Accepted {
                ballot,
                first,
                count,
            } => {
                self.accepted(from, ballot, first, count, effects);
            }
            Reply::Renewed { ballot, round } => self.renewed(from, ballot, round, effects),
            Reply::Nack { ballot, promised } => {
                let mine = match &self.phase {
                    Phase::Preparing { ballot, .. } => Some(*ballot),
                    Phase::Leading(leading) => Some(leading.ballot),
                    _ => None,
                };
                // An acceptor that refuses for another reason than a higher promise, or whose promise
                // no proposer of ours can have asked for, is one lost acceptor, not a rival.
                let rival = promised >= ballot && !promised.is_poison_after(ballot);
                if mine == Some(ballot) && rival {
                    self.counter = self.counter.max(promised.counter());
                    // Following nobody until a heartbeat comes, for at least an election timeout:
                    // answering a higher ballot with a still higher one would be a duel.
                    self.follow(None, effects);
                } else if mine == Some(ballot) {
                    self.unanswered(from, effects);
                }
            }
            // It has lost its disk, or waits for others to see it.
            Reply::NotVoting => self.unanswered(from, effects),
            Reply::AcceptedTight {
                ballot,
                first,
                count,
                ..
            } => {
                self.accepted(from, ballot, first, count, effects);
                self.has_no_room(from, ballot);
            }
            // Like a missing answer, it is asked for again, after a pause.
            Reply::NoRoom { ballot, .. } => self.has_no_room(from, ballot),
            Reply::Fetched { .. }
            | Reply::Truncated { .. }
            | Reply::Witnessed { .. }
            | Reply::Refused { .. } => {}
        }
    }

    fn tick(&mut self, effects: &mut Effects) {
        self.prepare_again(effects);
        let patience = self.settings.patience_ticks;
        let Phase::Leading(leading) = &mut self.phase else {
            return;
        };
        leading.ticks += 1;
        let confirmed = confirmed_round(&leading.renewed, self.members);
        if confirmed > leading.confirmed.0 {
            leading.confirmed = (confirmed, leading.ticks);
        }
        if leading.ticks - leading.confirmed.1 > patience {
            self.follow(None, effects);
            return;
        }
        self.ask_full_again(effects);
        self.ask_failed_again(effects);
        self.send_late(false, effects);
        self.announce(effects);
    }

    /// Tells everybody who leads and how far the log has come.
    fn announce(&mut self, effects: &mut Effects) {
        self.renew(To::All, effects);
        let Phase::Leading(leading) = &self.phase else {
            return;
        };
        let (ballot, last) = (leading.ballot, leading.next.previous());
        effects.heartbeat = Some(Heartbeat {
            ballot,
            last,
            committed: self.committed,
        });
        let (first, values) = (self.committed.next(), Values::from([]));
        effects.learners.push(Learn {
            first,
            values,
            committed: self.committed,
        });
    }

    fn heartbeat(&mut self, heartbeat: Heartbeat, effects: &mut Effects) {
        let ballot = heartbeat.ballot;
        if ballot.node().is_none_or(|node| node == self.me) || !self.believes(&heartbeat) {
            return;
        }
        let stale = match &self.phase {
            Phase::Following(leader) => leader.is_some_and(|leader| ballot < leader.ballot),
            Phase::Probing { even_if_led, .. } => *even_if_led,
            Phase::Preparing { ballot: mine, .. } => ballot < *mine,
            Phase::Leading(leading) => ballot < leading.ballot,
        };
        if !stale {
            self.follow(Some(heartbeat), effects);
        }
    }

    fn follow(&mut self, leader: Option<Heartbeat>, effects: &mut Effects) {
        if let Phase::Leading(leading) = &self.phase {
            effects
                .unreadable
                .extend(leading.reads.iter().map(|(read, _)| *read));
        }
        effects.leader_changed = self.leader() != leader.map(|leader| leader.ballot);
        effects.restart_election_timer = true;
        self.phase = Phase::Following(leader);
    }
}

#[cfg(test)]
mod tests;
