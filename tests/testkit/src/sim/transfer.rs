//! What passes between learners, and from stores to learners: a loop says what it asks and what it takes,
//! and this carries it.

use paxos::codec;
use paxos::ids::{NodeName, Role, Slot};
use paxos::machine::Applied;
use paxos::message::Message;
use roles::learner::{Ask, Event, Told};

use super::node::{Asker, Process};
use super::{Packet, Sim};

/// Ticks after which an answer does not come any more: the connection is broken.
const PATIENCE: u32 = 4;

/// About how long an answer is.
pub(super) fn size_of(told: &Told) -> usize {
    match told {
        Told::Entries { entries, .. } => codec::encode_entries(entries).len(),
        Told::Piece { bytes, .. } => bytes.len(),
        Told::Gone | Told::Lacks { .. } => 0,
    }
}

impl Sim {
    /// A learner asks another one, or a store.
    pub(super) fn ask_node(&mut self, at: usize, number: u64, node: NodeName, ask: Ask) {
        let Process::Learner(replica) = &mut self.nodes[at].process else {
            return;
        };
        replica.asked = Some((number, node, 0));
        if node.role == Role::Store {
            let told = self.store_tells(at, node.id, ask);
            return self.feed(at, Event::NodeTold { number, told });
        }
        let to = self.learner(node.id);
        self.send(at, to, &Packet::Ask(number, ask));
    }

    /// Some time has passed for a learner.
    pub(super) fn lose_patience(&mut self, at: usize) {
        let Process::Learner(replica) = &mut self.nodes[at].process else {
            return;
        };
        let Some((number, _, ticks)) = &mut replica.asked else {
            return;
        };
        *ticks += 1;
        if *ticks > PATIENCE {
            let number = *number;
            replica.asked = None;
            let why = "the connection is broken".to_owned();
            self.feed(at, Event::Failed { number, why });
        }
    }

    /// A learner answers a proposer: what became of these slots.
    pub(super) fn tell_outcomes(&mut self, at: usize, from: Asker, slots: &[Slot]) {
        let (_, most) = self.config.outcome_bytes;
        let Process::Learner(replica) = &mut self.nodes[at].process else {
            return;
        };
        let recalled = replica.role.recall(slots).expect("a log can be read");
        let outcomes = &recalled.outcomes;
        let size = |outcome: &Option<Applied>| outcome.as_ref().map_or(1, Applied::size);
        let bytes: usize = outcomes.iter().map(size).sum();
        assert!(
            bytes <= most || outcomes.len() == 1,
            "an answer of {bytes} bytes"
        );
        let packet = self.said(at, Message::Recalled(recalled));
        self.answer(at, from, packet);
    }

    /// A learner answers another one.
    pub(super) fn tell(&mut self, at: usize, from: Asker, number: u64, ask: Ask) {
        let piece_bytes = self.config.piece_bytes;
        let Process::Learner(replica) = &mut self.nodes[at].process else {
            return;
        };
        let told = match ask {
            Ask::Entries { from } => {
                let committed = replica.role.core().committed();
                let previous = replica.state().checksum(from.previous());
                match replica.entries(from, piece_bytes as usize) {
                    Some(entries) => {
                        let first = entries.first().map_or(from, |entry| entry.slot);
                        assert_eq!(first, from, "entries are those asked for");
                        let sent = codec::decode_entries(codec::encode_entries(&entries));
                        Told::Entries {
                            entries: sent.expect("what is written can be read"),
                            committed,
                            previous,
                        }
                    }
                    None => Told::Gone,
                }
            }
            Ask::Piece { slot, offset } => match replica.piece(slot, offset, piece_bytes) {
                Some((slot, bytes, length)) => Told::Piece {
                    slot,
                    bytes,
                    length,
                },
                None => lacks(),
            },
        };
        self.answer(at, from, Packet::Told(number, told));
    }

    /// The answer has come.
    pub(super) fn told(&mut self, at: usize, number: u64, told: Told) {
        if let Process::Learner(replica) = &mut self.nodes[at].process
            && replica.asked.is_some_and(|(asked, ..)| asked == number)
        {
            replica.asked = None;
            self.feed(at, Event::NodeTold { number, told });
        }
    }
}

/// There is no such snapshot.
pub(super) fn lacks() -> Told {
    Told::Lacks {
        why: "there is no such snapshot".to_owned(),
    }
}
