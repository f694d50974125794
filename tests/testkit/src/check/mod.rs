//! What must hold, checked on every step from what reaches the disks and the network. The checker
//! keeps its own books: it never asks the code under test what was chosen.
//!
//! | file | rule |
//! |---|---|
//! | `agreement` | a slot is chosen once; it holds a value that a client proposed and was not told to have no effect, or the no-op; later ballots carry what is chosen |
//! | `promises` | nothing is said or witnessed before it is on disk; a promise never goes down, across crashes; answers tell every vote |
//! | `ballots` | a ballot is claimed on disk before it is used, leads in one process only, and only after a quorum's promises |
//! | `delivery` | learners deliver what is chosen, in order, without a gap; all get the same outcomes, and clients get nothing else; no outcome is sent for a value that is not there; nothing is forgotten that a quorum of learners, or stores in their place, has not had on disk |
//! | `effects` | a request has its effect once within the retry window, with a sequence ever, on its conditions and within the quota; what was refused has none |
//! | `reads` | a read sees all that was acknowledged before it began |

mod agreement;
mod ballots;
mod delivery;
mod effects;
mod promises;
mod reads;

use paxos::acceptor::{Acceptor, Record};
use paxos::codec::Entry;
use paxos::command::Command;
use paxos::ids::{Members, NodeId, Slot};
use paxos::machine::Applied;
use paxos::message::{Heartbeat, Learn, Reply, Request, Value};
use paxos::stamp::Terms;

pub use agreement::Agreement;
pub use ballots::{Ballots, Life};
pub use delivery::Delivery;
pub use effects::Effects;
pub use promises::Promises;
pub use reads::Reads;

/// All rules. Every method panics with the rule that is broken.
#[derive(Debug)]
pub struct Checker {
    /// What is chosen.
    pub agreement: Agreement,
    promises: Promises,
    ballots: Ballots,
    delivery: Delivery,
    reads: Reads,
    members: Members,
    /// Acceptors that no longer have their own disk: bit k for acceptor k.
    lost: u32,
    /// All acceptors were set back in time, so most rules are broken. What learners answer is still
    /// looked at.
    is_set_back: bool,
    /// Outcomes that learners told.
    answers: u64,
    /// Acceptors whose lists have another length, likewise.
    odd: u32,
}

impl Checker {
    /// Before anything happened.
    pub fn new(members: Members, learners: u8, terms: Terms) -> Checker {
        Checker {
            agreement: Agreement::new(members),
            promises: Promises::new(members),
            ballots: Ballots::new(members),
            delivery: Delivery::new(learners, terms),
            reads: Reads::default(),
            members,
            lost: 0,
            is_set_back: false,
            answers: 0,
            odd: 0,
        }
    }

    /// All acceptors were set back in time.
    pub fn set_back(&mut self) {
        self.is_set_back = true;
        self.delivery.set_back();
    }

    /// How many outcomes learners told.
    pub fn answers(&self) -> u64 {
        self.answers
    }

    /// What a learner applied in a slot.
    pub fn applied_value(&self, learner: NodeId, slot: Slot) -> Option<&Value> {
        self.delivery.value(learner, slot)
    }

    /// A learner tells what came of a value that it received for a slot: it took effect in slot `at`.
    pub fn answered_for(&mut self, learner: NodeId, slot: Slot, value: &Value, at: Slot) {
        self.answers += 1;
        self.delivery.answered_for(learner, slot, value, at);
    }

    /// A client proposes a value.
    pub fn proposed(&mut self, value: &Value) {
        self.agreement.proposed(request(value));
    }

    /// These records are on an acceptor's disk for good.
    pub fn durable(&mut self, acceptor: NodeId, records: &[Record]) {
        if self.is_set_back {
            return;
        }
        for record in records {
            assert!(
                !self.is_lost(acceptor) || matches!(record, Record::Known(_)),
                "an acceptor without its disk never votes: {record:?}"
            );
            if let Record::Trimmed {
                floor, committed, ..
            } = record
            {
                self.committed(*committed);
                self.delivery.trimmed(*floor);
            }
            self.promises.durable(acceptor, record);
            self.ballots.durable(acceptor, record);
            self.agreement.durable(acceptor, record);
        }
    }

    /// An acceptor has started from its disk, and these are all of its votes.
    pub fn restarted(&self, acceptor: NodeId, state: &Acceptor, votes: &Reply) {
        if self.is_set_back {
            return;
        }
        if !self.is_lost(acceptor) {
            self.promises.restarted(acceptor, state, votes);
        }
    }

    /// An acceptor has started with a list of this length.
    pub fn listed(&mut self, acceptor: NodeId, list: Members) {
        let bit = 1 << acceptor.number();
        self.odd = match list == self.members {
            true => self.odd & !bit,
            false => self.odd | bit,
        };
    }

    /// A proposer or a learner, whose list has this length, asks acceptors for votes.
    pub fn asks_by(&self, list: Members) {
        assert_eq!(
            list, self.members,
            "who has a list of another length asks no acceptor for votes"
        );
    }

    /// An acceptor's disk is wiped, or an older copy or another's takes its place.
    pub fn lost(&mut self, acceptor: NodeId) {
        self.lost |= 1 << acceptor.number();
    }

    fn is_lost(&self, acceptor: NodeId) -> bool {
        self.lost & 1 << acceptor.number() != 0
    }

    /// A proposer, whose durable claim this is, sends a request.
    pub fn requested(&mut self, by: Life, claim: u64, request: &Request) {
        if self.is_set_back {
            return;
        }
        self.ballots.requested(by, claim, request);
        if let Request::Accept {
            ballot,
            first,
            values,
            committed,
        } = request
        {
            self.agreement.accept_sent(*ballot, *first, values);
            self.committed(*committed);
        }
        if let Request::Renew { committed, .. } = request {
            self.committed(*committed);
        }
    }

    /// An acceptor answers.
    pub fn answered(&mut self, acceptor: NodeId, reply: &Reply) {
        if self.is_set_back {
            return;
        }
        let takes_no_part = matches!(
            reply,
            Reply::NotVoting | Reply::Witnessed { .. } | Reply::Refused { .. }
        );
        assert!(
            takes_no_part || !self.is_lost(acceptor),
            "an acceptor without its disk never votes: {reply:?}"
        );
        let odd = self.odd & 1 << acceptor.number() != 0;
        assert!(
            takes_no_part || !odd,
            "an acceptor with a list of another length never votes: {reply:?}"
        );
        if self.is_lost(acceptor) {
            return;
        }
        self.promises.answered(acceptor, reply);
        if let Reply::Promise { committed, .. } | Reply::Probed { committed, .. } = reply {
            self.committed(*committed);
        }
    }

    /// A leader tells the learners.
    pub fn told(&self, learn: &Learn) {
        if self.is_set_back {
            return;
        }
        self.committed(learn.committed);
        for (i, value) in learn.values.iter().enumerate() {
            let slot = learn.first.plus(i as u64);
            assert_eq!(
                self.agreement.chosen(slot),
                Some(value),
                "learners are told what is chosen"
            );
        }
    }

    /// A leader announces itself.
    pub fn announced(&self, heartbeat: &Heartbeat) {
        if self.is_set_back {
            return;
        }
        self.committed(heartbeat.committed);
    }

    /// A node takes every slot up to here to be chosen.
    pub fn committed(&self, slot: Slot) {
        if self.is_set_back {
            return;
        }
        let chosen = self.agreement.chosen_up_to();
        assert!(
            slot <= chosen,
            "{slot} is said to be committed, chosen is all up to {chosen}"
        );
    }

    /// A learner delivers and applies.
    pub fn delivered(&mut self, learner: NodeId, entry: &Entry) {
        if !self.is_set_back {
            assert_eq!(
                self.agreement.chosen(entry.slot),
                Some(&entry.value),
                "learners deliver what is chosen"
            );
        }
        self.delivery.delivered(learner, entry);
    }

    /// A client is told what became of a value.
    pub fn client_told(&self, value: &Value, told: &Applied) {
        self.delivery.client_told(&request(value), told);
    }

    /// Whether a client's value is chosen, in any slot.
    pub fn is_chosen(&self, value: &Value) -> bool {
        self.agreement.is_taken(&request(value))
    }

    /// A client is told that a value has no effect, and proposes it no more unless it says so.
    pub fn without_effect(&mut self, value: &Value) {
        if !self.is_set_back {
            self.agreement.without_effect(&request(value));
        }
    }

    /// A learner has taken over another's state.
    pub fn learner_installed(&mut self, learner: NodeId, slot: Slot) {
        assert!(
            slot <= self.delivery.acknowledged(),
            "a snapshot holds what some learner has applied"
        );
        self.delivery.restarted(learner, slot);
    }

    /// A learner has every slot up to here on disk.
    pub fn learner_durable(&mut self, learner: NodeId, slot: Slot) {
        self.delivery.durable(learner, slot);
    }

    /// A store has every slot up to here on disk.
    pub fn store_durable(&mut self, store: usize, slot: Slot) {
        self.delivery.store_durable(store, slot);
    }

    /// The last slot that any learner ever had on disk.
    pub fn learners_durable(&self) -> Slot {
        self.delivery.most_durable()
    }

    /// A learner starts from what it had made durable.
    pub fn learner_restarted(&mut self, learner: NodeId, applied: Slot) {
        self.delivery.restarted(learner, applied);
    }

    /// The last slot that any learner has ever applied: whose client may have its answer.
    pub fn acknowledged(&self) -> Slot {
        self.delivery.acknowledged()
    }

    /// A client starts to read.
    pub fn read_began(&mut self, read: u64) {
        self.reads.began(read, self.delivery.acknowledged());
    }

    /// Any node that has applied this slot may answer a read.
    pub fn readable(&mut self, read: u64, slot: Slot) {
        self.committed(slot);
        self.reads.readable(read, slot);
    }

    /// How many reads were allowed.
    pub fn reads_answered(&self) -> u64 {
        self.reads.answered()
    }
}

/// What a client has proposed: a leader may have put a stamp on it.
fn request(value: &Value) -> Value {
    let decoded = Command::decode_with_stamp(value).ok();
    let command = decoded.and_then(|(_, command)| command);
    command.map_or_else(|| value.clone(), |command| command.encode())
}
