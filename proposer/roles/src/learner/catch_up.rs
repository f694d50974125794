//! Catching up: what the acceptors have forgotten comes from another learner, entries of its log if that
//! goes back far enough, or else its snapshot first; or, if no learner has it, from a store's state. A
//! learner's log always reaches from its snapshot to what it has applied, so the two leave no gap. A piece
//! of a snapshot that is on disk is not asked for again.

use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::time::Duration;

use bytes::Bytes;
use paxos::codec::Entry;
use paxos::ids::{NodeName, Role, Slot};
use paxos::learner::Input;
use paxos::message::Learn;

use super::{Action, LearnerRole, Notice, World};

/// The pause where there was no room for what a node has.
const NO_ROOM_PAUSE: Duration = Duration::from_secs(10);
/// The pause after every node was asked in vain, or where what came could not be taken.
const PAUSE: Duration = Duration::from_secs(1);

/// A question to another learner or a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// What comes from this slot on?
    Entries {
        /// Which.
        from: Slot,
    },
    /// The bytes from `offset` on of a snapshot.
    Piece {
        /// Of this slot; of the newest if `None`.
        slot: Option<Slot>,
        /// Where to begin.
        offset: u64,
    },
}

/// The answer.
#[derive(Clone, Debug)]
pub enum Told {
    /// Chosen values from its log, in order.
    Entries {
        /// None if it has no more.
        entries: Vec<Entry>,
        /// The last slot that it knows to be chosen.
        committed: Slot,
        /// A checksum of the value before them, if it knows.
        previous: Option<u64>,
    },
    /// Its log does not go back so far.
    Gone,
    /// Bytes of a snapshot.
    Piece {
        /// Of which slot.
        slot: Slot,
        /// None behind its end.
        bytes: Bytes,
        /// Its whole length.
        length: u64,
    },
    /// It does not have what it was asked for.
    Lacks {
        /// In its words.
        why: String,
    },
}

/// What a learner needs, has been forgotten by the acceptors, and does not get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The first instance that it lacks.
    pub first: Slot,
    /// The last one that the acceptors have forgotten.
    pub last: Slot,
    /// Who answered and does not have it either.
    pub without: Vec<NodeName>,
    /// Who could not be asked, and may have it.
    pub silent: Vec<NodeName>,
}

impl Lost {
    /// Whether everybody who could have it was asked.
    pub fn is_certain(&self) -> bool {
        self.silent.is_empty()
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |nodes: &[NodeName]| {
            let names: Vec<String> = nodes.iter().map(NodeName::to_string).collect();
            names.join(", ")
        };
        let Lost { first, last, .. } = self;
        write!(
            f,
            "instances {first} to {last} are forgotten by the acceptors, and "
        )?;
        match (self.without.is_empty(), self.silent.is_empty()) {
            (_, false) => {
                let silent = list(&self.silent);
                write!(
                    f,
                    "who may still have them does not answer: {silent}. Bring it back"
                )
            }
            (true, true) => f.write_str(
                "there is no other learner and no store to get them from. Give this learner its \
                 old volume back",
            ),
            (false, true) => write!(
                f,
                "no node has them: not this learner, nor {}. Give one of them its old volume back",
                list(&self.without)
            ),
        }
    }
}

/// How far it has come.
#[derive(Debug)]
pub(super) struct CatchUp {
    /// The first slot that was missing, and the last one that the acceptors have forgotten.
    first: Slot,
    floor: Slot,
    /// Whom to ask. The first one is being asked.
    nodes: VecDeque<NodeName>,
    without: Vec<NodeName>,
    silent: Vec<NodeName>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// A question is open.
    Asked { number: u64, ask: Ask },
    /// A piece of a snapshot is on its way to the disk.
    Receiving { number: u64, slot: Slot },
    /// What has come is being applied.
    Taking,
    /// Nobody is asked for a while.
    Pausing { until: Duration },
}

/// Why nothing, or no more, was had from a node.
enum Failed {
    /// It does not have it.
    Lacks(String),
    /// It could not be asked, or what it sent was no use.
    Silent(String),
}

impl<W: World> LearnerRole<W> {
    /// The snapshot that it is receiving.
    pub fn receiving(&self) -> Option<Slot> {
        match self.catch_up.as_ref()?.stage {
            Stage::Asked {
                ask: Ask::Piece { slot, .. },
                ..
            } => slot,
            Stage::Receiving { slot, .. } => Some(slot),
            _ => None,
        }
    }

    /// The acceptors have forgotten what comes next here, up to `floor`.
    pub(super) fn begin_catch_up(&mut self, floor: Slot, now: Duration) {
        if self.catch_up.is_some() {
            return;
        }
        self.say(Notice::Behind(floor));
        // Another one each time: a snapshot that is damaged on one's disk is so at the next try, too.
        let mut nodes = self.world.learners();
        let first = self.catch_ups % nodes.len().max(1);
        nodes.rotate_left(first);
        self.catch_ups += 1;
        // What no learner has a store may have.
        nodes.extend(self.world.stores());
        self.catch_up = Some(CatchUp {
            first: self.applied.next(),
            floor,
            nodes: nodes.into(),
            without: Vec::new(),
            silent: Vec::new(),
            stage: Stage::Pausing { until: now },
        });
        self.ask_first(now);
    }

    /// Asks the first of those left for what comes next.
    fn ask_first(&mut self, now: Duration) {
        let next = self.applied.next();
        let Some(catch_up) = &self.catch_up else {
            return;
        };
        if next > catch_up.floor {
            self.catch_up = None;
            return self.actions.push(Action::Lost(None));
        }
        match catch_up.nodes.front().map(|node| node.role) {
            None => self.nobody_left(now),
            // It keeps no log, and any state beyond what is here will do.
            Some(Role::Store) => self.ask_node(Ask::Piece {
                slot: None,
                offset: 0,
            }),
            Some(_) => self.ask_node(Ask::Entries { from: next }),
        }
    }

    fn ask_node(&mut self, ask: Ask) {
        let Some(catch_up) = &mut self.catch_up else {
            return;
        };
        let Some(node) = catch_up.nodes.front().copied() else {
            return;
        };
        self.asked += 1;
        let number = self.asked;
        catch_up.stage = Stage::Asked { number, ask };
        self.actions.push(Action::AskNode { number, node, ask });
    }

    /// Everybody was asked.
    fn nobody_left(&mut self, now: Duration) {
        let next = self.applied.next();
        let Some(catch_up) = &mut self.catch_up else {
            return;
        };
        let mut lost = Lost {
            first: next,
            last: catch_up.floor,
            without: mem::take(&mut catch_up.without),
            silent: mem::take(&mut catch_up.silent),
        };
        // They are asked in another order each time, and the same is to be said once.
        lost.without.sort();
        lost.silent.sort();
        catch_up.stage = Stage::Pausing { until: now + PAUSE };
        // While anything comes, more may.
        let lost = (lost.first == catch_up.first && lost.first <= lost.last).then_some(lost);
        self.actions.push(Action::Lost(lost));
    }

    fn next_node(&mut self, failed: Failed, now: Duration) {
        let Some(catch_up) = &mut self.catch_up else {
            return;
        };
        let Some(node) = catch_up.nodes.pop_front() else {
            return;
        };
        let (lacks, why) = match failed {
            Failed::Lacks(why) => (true, why),
            Failed::Silent(why) => (false, why),
        };
        match lacks {
            true => catch_up.without.push(node),
            false => catch_up.silent.push(node),
        }
        self.say(Notice::NotFrom { node, lacks, why });
        self.ask_first(now);
    }

    /// A question to another node is over.
    pub(super) fn node_failed(&mut self, number: u64, why: String, now: Duration) {
        let stage = self.catch_up.as_ref().map(|catch_up| &catch_up.stage);
        if matches!(stage, Some(Stage::Asked { number: open, .. }) if *open == number) {
            self.next_node(Failed::Silent(why), now);
        }
    }

    /// Another node answers.
    pub(super) fn node_told(
        &mut self,
        number: u64,
        told: Told,
        now: Duration,
    ) -> Result<(), W::Error> {
        let Some(catch_up) = &self.catch_up else {
            return Ok(());
        };
        let Stage::Asked { number: open, ask } = catch_up.stage else {
            return Ok(());
        };
        let Some(node) = catch_up.nodes.front().copied().filter(|_| open == number) else {
            return Ok(());
        };
        let failed = match (ask, told) {
            // It had that snapshot, and may have a newer one by now.
            (Ask::Piece { slot: Some(_), .. }, Told::Lacks { why }) => Failed::Silent(why),
            (_, Told::Lacks { why }) => Failed::Lacks(why),
            (
                Ask::Entries { from },
                Told::Entries {
                    entries, previous, ..
                },
            ) => match self.usable(from, &entries, previous) {
                Err(failed) => failed,
                Ok(last) => {
                    self.set_stage(Stage::Taking);
                    self.learn_entries(entries, node, now)?;
                    self.taken_up_to(last, now);
                    return Ok(());
                }
            },
            (Ask::Entries { .. }, Told::Gone) => {
                self.ask_node(Ask::Piece {
                    slot: None,
                    offset: 0,
                });
                return Ok(());
            }
            (Ask::Piece { slot: None, .. }, Told::Piece { slot, .. }) => {
                if slot > self.applied {
                    self.ask_piece(slot);
                    return Ok(());
                }
                Failed::Lacks(format!("its snapshot is of instance {slot} only"))
            }
            (
                Ask::Piece {
                    slot: Some(slot),
                    offset,
                },
                Told::Piece { bytes, length, .. },
            ) => {
                if !bytes.is_empty() {
                    return self.receive(number, node, (slot, offset), bytes, length, now);
                }
                if offset != length {
                    Failed::Silent("it sent nothing of what is left".to_owned())
                } else if self.install(slot)? {
                    self.taken_up_to(slot, now);
                    return Ok(());
                } else {
                    Failed::Silent("its snapshot is damaged".to_owned())
                }
            }
            _ => Failed::Silent("it answered another question".to_owned()),
        };
        self.next_node(failed, now);
        Ok(())
    }

    /// The last slot of entries that another learner sent, if they follow what is here.
    fn usable(&self, from: Slot, entries: &[Entry], previous: Option<u64>) -> Result<Slot, Failed> {
        let mine = self.world.state().checksum(from.previous());
        if previous
            .zip(mine)
            .is_some_and(|(theirs, mine)| theirs != mine)
        {
            let why = "it has another value in the last instance applied here";
            return Err(Failed::Silent(why.to_owned()));
        }
        let mut expected = entries.iter().zip(from.0..);
        if !expected.all(|(entry, slot)| entry.slot.0 == slot) {
            let why = "its entries are not those asked for";
            return Err(Failed::Silent(why.to_owned()));
        }
        let nothing = || Failed::Lacks("it has no more".to_owned());
        entries.last().map(|last| last.slot).ok_or_else(nothing)
    }

    fn ask_piece(&mut self, slot: Slot) {
        let offset = self.world.received(slot);
        let slot = Some(slot);
        self.ask_node(Ask::Piece { slot, offset });
    }

    /// A piece of a snapshot has come.
    fn receive(
        &mut self,
        number: u64,
        node: NodeName,
        (slot, offset): (Slot, u64),
        bytes: Bytes,
        length: u64,
        now: Duration,
    ) -> Result<(), W::Error> {
        // All of it, before its first piece is written: half of one serves nobody, and this node's log
        // needs the room.
        let needed = length - offset.min(length);
        let has_room = self.world.has_room_for(needed);
        if !has_room {
            self.world.discard_received()?;
            let bytes = needed;
            self.say(Notice::NoRoomFor { node, bytes });
            // Nor is there for what another one has.
            self.actions.push(Action::Lost(None));
        }
        if !has_room {
            let until = now + NO_ROOM_PAUSE;
            self.set_stage(Stage::Pausing { until });
            return Ok(());
        }
        self.set_stage(Stage::Receiving { number, slot });
        self.actions.push(Action::Receive {
            number,
            slot,
            offset,
            bytes,
        });
        Ok(())
    }

    /// A piece of a snapshot is on disk.
    pub(super) fn received(&mut self, number: u64) {
        let stage = self.catch_up.as_ref().map(|catch_up| &catch_up.stage);
        match stage {
            Some(Stage::Receiving { number: of, slot }) if *of == number => {
                let slot = *slot;
                self.ask_piece(slot);
            }
            _ => {}
        }
    }

    fn set_stage(&mut self, stage: Stage) {
        if let Some(catch_up) = &mut self.catch_up {
            catch_up.stage = stage;
        }
    }

    /// Continues if what came is applied, all of it. It may not be: while a doubt is open, without room,
    /// or where a value cannot be read. Then it is no fault of the node's, and asking starts again soon.
    fn taken_up_to(&mut self, last: Slot, now: Duration) {
        match self.applied >= last {
            true => self.ask_first(now),
            false => self.set_stage(Stage::Pausing { until: now + PAUSE }),
        }
    }

    /// Some time has passed.
    pub(super) fn tick_catch_up(&mut self, now: Duration) {
        let over = |catch_up: &mut CatchUp| match catch_up.stage {
            Stage::Pausing { until } => now >= until,
            _ => false,
        };
        self.catch_up.take_if(over);
    }

    /// What another learner has applied is chosen.
    fn learn_entries(
        &mut self,
        entries: Vec<Entry>,
        from: NodeName,
        now: Duration,
    ) -> Result<(), W::Error> {
        let Some((first, last)) = entries.first().zip(entries.last()) else {
            return Ok(());
        };
        let (first, committed) = (first.slot, last.slot);
        let values = entries.into_iter().map(|entry| entry.value).collect();
        let learn = Learn {
            first,
            values,
            committed,
        };
        match self.is_told_the_same(&learn, from, now)? {
            true => self.step(Input::Learn(learn), now),
            false => Ok(()),
        }
    }

    /// Takes over a snapshot that has come whole, unless it must not now; `false` if it is damaged.
    fn install(&mut self, slot: Slot) -> Result<bool, W::Error> {
        if self.halted.is_some() || self.truth.is_in_doubt() {
            return Ok(true);
        }
        if slot <= self.core.delivered() {
            // Level meanwhile without it.
            self.world.discard_received()?;
            return Ok(true);
        }
        let Some(machine) = self.world.install(slot)? else {
            return Ok(false);
        };
        {
            let mut state = self.world.state_mut();
            let bounds = state.recent.bounds();
            *state = super::State::of(machine, bounds);
        }
        self.core.skip_to(slot);
        self.applied = slot;
        self.actions.push(Action::Lost(None));
        // The log has a gap now, and starts again behind it.
        self.sync()?;
        self.log.clear();
        self.world.trim_all()?;
        self.actions.push(Action::Installed(slot));
        Ok(true)
    }
}
