//! A learner that is behind what the acceptors remember catches up from another one: from its log,
//! or from its snapshot first.

use bytes::Bytes;
use paxos::codec::{self, Entry};
use paxos::ids::{Role, Slot};
use paxos::learner;
use paxos::machine::Applied;
use paxos::message::{Learn, Message, Recalled};
use paxos::recent::first;

use super::node::{Asker, Process};
use super::{Packet, Sim};

/// Ticks without an answer before the next learner is asked.
const PATIENCE: u32 = 4;

/// A question to a learner, with a number of the asker's own.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    /// What comes from this slot on?
    Entries(Slot),
    /// The bytes from `offset` on of this snapshot, or of the newest.
    Piece { slot: Option<Slot>, offset: u64 },
}

/// The answer.
#[derive(Clone, Debug)]
pub(super) enum Told {
    /// A record of the log.
    Entries(Bytes),
    /// The log does not go back so far.
    Gone,
    /// Of a snapshot of that length.
    Piece {
        slot: Slot,
        bytes: Bytes,
        length: u64,
    },
    /// There is no such snapshot.
    Nothing,
}

impl Told {
    /// About how long it is.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Told::Entries(bytes) | Told::Piece { bytes, .. } => bytes.len(),
            Told::Gone | Told::Nothing => 0,
        }
    }
}

/// How far catching up has come.
#[derive(Clone, Debug)]
pub(super) struct CatchUp {
    floor: Slot,
    next: Slot,
    /// Whom to ask; the first one is being asked.
    learners: Vec<usize>,
    asked: (u64, Ask),
    silent: u32,
}

impl CatchUp {
    /// The snapshot of which a piece is asked for.
    pub(super) fn piece_of(&self) -> Option<Slot> {
        match &self.asked.1 {
            Ask::Piece { slot, .. } => *slot,
            _ => None,
        }
    }
}

impl Sim {
    /// The acceptors have forgotten slots up to `floor`.
    pub(super) fn catch_up(&mut self, at: usize, floor: Slot) {
        let mut learners: Vec<usize> = self
            .of_role(Role::Learner)
            .filter(|other| *other != at)
            .collect();
        let first = self.rng.below(learners.len() as u64) as usize;
        learners.rotate_left(first);
        let Process::Learner(replica) = &mut self.nodes[at].process else {
            return;
        };
        if replica.catch_up.is_some() {
            return;
        }
        if learners.is_empty() {
            return self.take_over_a_store(at);
        }
        let next = replica.core.delivered().next();
        replica.catch_up = Some(CatchUp {
            floor,
            next,
            learners,
            asked: (0, Ask::Entries(next)),
            silent: 0,
        });
        self.ask_learner(at, Ask::Entries(next));
    }

    /// Some time has passed for a learner.
    pub(super) fn lose_patience(&mut self, at: usize) {
        if let Process::Learner(replica) = &mut self.nodes[at].process
            && let Some(catch_up) = &mut replica.catch_up
        {
            catch_up.silent += 1;
            if catch_up.silent > PATIENCE {
                self.ask_next(at);
            }
        }
    }

    /// A learner answers a proposer: what became of the first of these slots.
    pub(super) fn tell_outcomes(&mut self, at: usize, from: Asker, slots: Vec<Slot>) {
        let Process::Learner(replica) = &self.nodes[at].process else {
            return;
        };
        let slots = slots.into_iter().map(|slot| (slot, None));
        let (_, most) = self.config.outcome_bytes;
        let outcomes = first(most, replica.outcomes(slots));
        let size = |outcome: &Option<Applied>| outcome.as_ref().map_or(1, Applied::size);
        let bytes: usize = outcomes.iter().map(size).sum();
        assert!(
            bytes <= most || outcomes.len() == 1,
            "an answer of {bytes} bytes"
        );
        let recalled = Recalled {
            applied: replica.machine.applied(),
            outcomes,
        };
        let packet = self.said(at, Message::Recalled(recalled));
        self.answer(at, from, packet);
    }

    /// A learner answers another one.
    pub(super) fn tell(&mut self, at: usize, from: Asker, number: u64, ask: Ask) {
        let Process::Learner(replica) = &self.nodes[at].process else {
            return;
        };
        let told = match ask {
            Ask::Entries(first) => match replica.entries(first) {
                Some(entries) => Told::Entries(codec::encode_entries(&entries)),
                None => Told::Gone,
            },
            Ask::Piece { slot, offset } => {
                match replica.piece(slot, offset, self.config.piece_bytes) {
                    Some((slot, bytes, length)) => Told::Piece {
                        slot,
                        bytes,
                        length,
                    },
                    None => Told::Nothing,
                }
            }
        };
        self.answer(at, from, Packet::Told(number, told));
    }

    /// The answer has come.
    pub(super) fn told(&mut self, at: usize, number: u64, told: Told) {
        let Process::Learner(replica) = &mut self.nodes[at].process else {
            return;
        };
        let Some(catch_up) = replica.catch_up.as_mut().filter(|c| c.asked.0 == number) else {
            return;
        };
        catch_up.silent = 0;
        match (catch_up.asked.1.clone(), told) {
            (Ask::Entries(first), Told::Entries(bytes)) => {
                let entries = codec::decode_entries(bytes).expect("a learner sends entries");
                let Some(last) = entries.last().map(|entry| entry.slot) else {
                    return self.ask_next(at);
                };
                assert_eq!(entries[0].slot, first, "entries are those asked for");
                catch_up.next = last.next();
                self.learn_entries(at, entries);
                self.go_on(at);
            }
            (_, Told::Gone) => {
                let (slot, offset) = (None, 0);
                self.ask_learner(at, Ask::Piece { slot, offset });
            }
            (Ask::Piece { slot: None, .. }, Told::Piece { slot, .. }) => {
                let offset = replica.received(slot);
                let slot = Some(slot);
                self.ask_learner(at, Ask::Piece { slot, offset });
            }
            (
                Ask::Piece { offset, .. },
                Told::Piece {
                    slot,
                    bytes,
                    length,
                },
            ) => {
                if !bytes.is_empty() {
                    self.receive_piece(at, slot, offset, &bytes);
                } else if offset == length && slot >= catch_up.next {
                    catch_up.next = slot.next();
                    self.install(at, slot);
                    self.go_on(at);
                } else {
                    self.ask_next(at);
                }
            }
            _ => self.ask_next(at),
        }
    }

    fn learn_entries(&mut self, at: usize, entries: Vec<Entry>) {
        let (first, committed) = (entries[0].slot, entries[entries.len() - 1].slot);
        let values = entries.into_iter().map(|entry| entry.value).collect();
        let learn = Learn {
            first,
            values,
            committed,
        };
        if self.is_told_the_same(at, &learn) {
            self.step_learner(at, learner::Input::Learn(learn));
        }
    }

    fn receive_piece(&mut self, at: usize, slot: Slot, offset: u64, bytes: &[u8]) {
        let received = self.on_shelf(at, |replica, _| replica.receive(slot, offset, bytes));
        if received.is_some() {
            let offset = offset + bytes.len() as u64;
            let slot = Some(slot);
            self.ask_learner(at, Ask::Piece { slot, offset });
        }
    }

    pub(super) fn install(&mut self, at: usize, slot: Slot) {
        let id = self.nodes[at].name.id;
        if self.on_shelf(at, |replica, shelf| replica.install(slot, shelf)) == Some(true) {
            self.check.learner_installed(id, slot);
            self.summary.installed += 1;
        }
    }

    /// Continues with the same learner until the floor is passed.
    fn go_on(&mut self, at: usize) {
        let Process::Learner(replica) = &mut self.nodes[at].process else {
            return;
        };
        let Some(CatchUp { floor, next, .. }) = replica.catch_up else {
            return;
        };
        if next > floor {
            replica.catch_up = None;
        } else {
            self.ask_learner(at, Ask::Entries(next));
        }
    }

    fn ask_next(&mut self, at: usize) {
        let Process::Learner(replica) = &mut self.nodes[at].process else {
            return;
        };
        let Some(catch_up) = &mut replica.catch_up else {
            return;
        };
        catch_up.learners.remove(0);
        catch_up.next = replica.core.delivered().next();
        let next = catch_up.next;
        if catch_up.learners.is_empty() {
            replica.catch_up = None;
            self.take_over_a_store(at);
        } else {
            self.ask_learner(at, Ask::Entries(next));
        }
    }

    fn ask_learner(&mut self, at: usize, ask: Ask) {
        self.scheduled += 1;
        let number = self.scheduled;
        let Process::Learner(replica) = &mut self.nodes[at].process else {
            return;
        };
        if let Some(catch_up) = &mut replica.catch_up {
            (catch_up.asked, catch_up.silent) = ((number, ask.clone()), 0);
            let to = catch_up.learners[0];
            self.send(at, to, &Packet::Ask(number, ask));
        }
    }
}
