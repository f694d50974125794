//! What a state consists of, and what may be left out of it.

use std::collections::{BTreeMap, BTreeSet};

use paxos::acceptor::Record;
use paxos::ids::{Ballot, Members, Slot};
use paxos::learner::Learner;
use paxos::message::{Heartbeat, Learn, Reply, Request, Value};
use paxos::proposer::Proposer;
use paxos::standing::{Member, Roster, Start};

use super::Small;
use super::shared::Shared;

/// Everything that matters for what may happen next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub(super) proposers: Vec<Shared<ProposerNode>>,
    pub(super) acceptors: Vec<Shared<AcceptorNode>>,
    pub(super) learner: Option<Shared<LearnerNode>>,
    /// What a quorum of other learners has on disk, where acceptors forget.
    pub(super) kept: Shared<Vec<Value>>,
    /// In order.
    pub(super) said: Vec<Shared<Envelope>>,
    /// What quorums have voted for, by slot. Follows from what was said.
    pub(super) chosen: Shared<BTreeMap<Slot, BTreeSet<Value>>>,
    pub(super) crashes: u8,
    pub(super) disks_lost: u8,
    pub(super) ticks: u8,
    pub(super) reads: u8,
    /// Every slot up to here may have been acknowledged. Kept only where there are reads.
    pub(super) acknowledged: Slot,
    /// Reads that wait, each with what was acknowledged when it began.
    pub(super) waiting: BTreeMap<u64, Slot>,
    /// How many reads were allowed.
    pub(super) allowed: u8,
    /// One of them misses something.
    pub(super) stale: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ProposerNode {
    pub(super) core: Proposer,
    pub(super) claim: u64,
    pub(super) life: u8,
    pub(super) elections: u8,
    pub(super) values: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct AcceptorNode {
    pub(super) core: Member,
    pub(super) disk: Disk,
    pub(super) life: u8,
    /// A copy of its disk, made before its last start. Kept only where one may come back.
    pub(super) copy: Option<Disk>,
    /// Whether it may have voted with this disk, since that copy if there is one.
    pub(super) has_voted: bool,
    /// Whether it has lost a disk with which it voted.
    pub(super) is_lost: bool,
}

/// What an acceptor has on disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Disk {
    pub(super) start: Start,
    pub(super) is_witnessed: bool,
    pub(super) known: Roster,
    /// Kept only where acceptors crash.
    pub(super) records: Vec<Record>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct LearnerNode {
    pub(super) core: Learner,
    pub(super) delivered: Vec<Value>,
    /// The slot of the snapshot installed last.
    pub(super) installed: Slot,
    pub(super) ticks: u8,
}

/// One message and its way. Nodes are numbered within their roles, from 0.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Envelope {
    /// Of a proposer in that life.
    Ask {
        from: usize,
        life: u8,
        to: usize,
        request: Request,
    },
    /// To the life that asked.
    Answer {
        from: usize,
        to: usize,
        life: u8,
        reply: Reply,
    },
    /// An acceptor in that life asks another one.
    Enlist {
        from: usize,
        life: u8,
        to: usize,
        request: Request,
    },
    /// And is answered.
    Enlisted {
        from: usize,
        to: usize,
        life: u8,
        reply: Reply,
    },
    /// The learner asks.
    Fetch {
        to: usize,
        request: Request,
    },
    /// And is answered.
    Fetched {
        from: usize,
        reply: Reply,
    },
    /// Another learner's snapshot, for the learner.
    Snapshot {
        values: Vec<Value>,
    },
    Learn {
        from: usize,
        life: u8,
        learn: Learn,
    },
    Learned {
        to: usize,
        life: u8,
        applied: Slot,
    },
    Heartbeat {
        to: usize,
        heartbeat: Heartbeat,
    },
}

impl State {
    pub(super) fn say(&mut self, model: &Small, envelope: Envelope) {
        let is_vote = matches!(
            envelope,
            Envelope::Answer {
                reply: Reply::Accepted { .. },
                ..
            }
        );
        let envelope = Shared::new(envelope);
        let Err(place) = self.said.binary_search(&envelope) else {
            return;
        };
        self.said.insert(place, envelope);
        if is_vote {
            self.chosen = Shared::new(self.count_votes(model.members()));
        }
    }

    /// Takes out messages that can change nothing any more, so that states that differ only in them
    /// become one. `Accepted` stays: what is chosen follows from it.
    pub(super) fn forget_dead(&mut self, model: &Small) {
        let (proposers, acceptors) = (&self.proposers, &self.acceptors);
        let last_election =
            |at: usize| proposers[at].elections == model.elections && model.crashes == 0;
        self.said.retain(|envelope| match &**envelope {
            Envelope::Ask {
                from,
                request: Request::Probe,
                ..
            } => !last_election(*from) || proposers[*from].core.phase() == "probing",
            Envelope::Ask {
                from,
                life,
                to,
                request: Request::Prepare { ballot, .. },
            } => {
                let core = &proposers[*from].core;
                let in_use = proposers[*from].life == *life
                    && core.counter() == ballot.counter()
                    && matches!(core.phase(), "preparing" | "leading");
                let promised = acceptors[*to].core.acceptor().promised();
                let counts = match model.is_ballot_shared() {
                    true => promised <= *ballot,
                    false => promised < *ballot,
                };
                in_use || counts
            }
            Envelope::Answer {
                reply: Reply::Accepted { .. },
                ..
            } => true,
            Envelope::Answer {
                to, life, reply, ..
            } => {
                let core = &proposers[*to].core;
                let alive = proposers[*to].life == *life;
                alive
                    && match reply {
                        Reply::Probed { .. } => !last_election(*to) || core.phase() == "probing",
                        Reply::Promise { ballot, .. } => {
                            core.phase() == "preparing" && core.counter() == ballot.counter()
                        }
                        Reply::Nack { ballot, .. } => {
                            matches!(core.phase(), "preparing" | "leading")
                                && core.counter() == ballot.counter()
                        }
                        Reply::Renewed { ballot, .. } => {
                            core.leader() == Some(*ballot) && core.is_leading()
                        }
                        _ => true,
                    }
            }
            _ => true,
        });
    }

    /// Whether the process that it is for is still the same.
    pub(super) fn lives(&self, envelope: &Envelope) -> bool {
        match envelope {
            Envelope::Answer { to, life, .. } | Envelope::Learned { to, life, .. } => {
                self.proposers[*to].life == *life
            }
            Envelope::Enlisted { to, life, .. } => self.acceptors[*to].life == *life,
            _ => true,
        }
    }

    fn count_votes(&self, members: Members) -> BTreeMap<Slot, BTreeSet<Value>> {
        let mut voters: BTreeMap<(Ballot, Slot, u64), BTreeSet<usize>> = BTreeMap::new();
        for envelope in &self.said {
            if let Envelope::Answer {
                from,
                reply:
                    Reply::Accepted {
                        ballot,
                        first,
                        count,
                    },
                ..
            } = &**envelope
            {
                voters
                    .entry((*ballot, *first, *count))
                    .or_default()
                    .insert(*from);
            }
        }
        voters.retain(|_, voters| voters.len() >= members.quorum());
        let mut chosen: BTreeMap<Slot, BTreeSet<Value>> = BTreeMap::new();
        for (ballot, first, values) in self.accepts() {
            if voters.contains_key(&(ballot, first, values.len() as u64)) {
                for (slot, value) in (first.0..).map(Slot).zip(values) {
                    chosen.entry(slot).or_default().insert(value.clone());
                }
            }
        }
        chosen
    }

    /// Everything that was ever proposed.
    pub(super) fn accepts(&self) -> impl Iterator<Item = (Ballot, Slot, &[Value])> {
        self.said.iter().filter_map(|envelope| match &**envelope {
            Envelope::Ask {
                request:
                    Request::Accept {
                        ballot,
                        first,
                        values,
                        ..
                    },
                ..
            } => Some((*ballot, *first, &values[..])),
            _ => None,
        })
    }
}
