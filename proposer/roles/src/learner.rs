//! A learner's loop: puts what is chosen in order, applies it, keeps it in its own log, answers the leader
//! with outcomes, and asks others for what it lacks or doubts.
//!
//! Its log is synced a little later than it is written: what a crash takes from it, the acceptors still
//! have. What it does with its disk it does by itself, through its [`World`]; all else it asks for by an
//! [`Action`]. After an error of its disk the process must end.

mod catch_up;
mod events;
mod log;
mod outcomes;
mod state;
mod truth;

use std::collections::BTreeMap;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use paxos::codec::Entry;
use paxos::command::Undecodable;
use paxos::ids::{Members, NodeId, NodeName, Slot};
use paxos::learner::{Input, Learner};
use paxos::machine::Machine;
use paxos::message::{Learn, Reply, Request};
use paxos::recent::{ANSWER_BYTES, RECALLED_BYTES};

pub use catch_up::{Ask, Lost, Told};
pub use events::{Action, Event, Halt, Notice};
pub use log::Log;
pub use state::{Replay, State};
pub use truth::Sampling;

use catch_up::CatchUp;
use outcomes::Held;
use truth::Truth;

/// How long an acceptor may take to begin its answer to a fetch, and to continue it.
const FETCH_WITHIN: Duration = Duration::from_secs(2);

/// Limits of a learner's loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of values in a record of the log; a larger value has one to itself.
    pub record_bytes: usize,
    /// How long applied entries may wait for the log's next sync, and how many bytes of them.
    pub sync_after: Duration,
    /// See `sync_after`.
    pub sync_bytes: usize,
    /// Bytes of records that may wait while more is applied.
    pub most_unsynced_bytes: usize,
    /// How long an answer to the leader waits for a gap before its values to close.
    pub hold: Duration,
    /// Bytes of log between two snapshots, and at least so many times the size of a snapshot.
    pub snapshot_every_bytes: u64,
    /// See `snapshot_every_bytes`.
    pub snapshot_multiple: u64,
    /// Bytes of outcomes in an answer to the leader.
    pub answer_bytes: usize,
    /// Bytes of outcomes in an answer to a proposer that asks again.
    pub recalled_bytes: usize,
    /// When what was applied is compared with the acceptors' votes; `None` if never.
    pub sampling: Option<Sampling>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            record_bytes: 1 << 20,
            sync_after: Duration::from_millis(100),
            sync_bytes: 1 << 20,
            most_unsynced_bytes: 8 << 20,
            hold: Duration::from_millis(200),
            snapshot_every_bytes: 32 << 20,
            snapshot_multiple: 2,
            answer_bytes: ANSWER_BYTES,
            recalled_bytes: RECALLED_BYTES,
            sampling: Some(Sampling::default()),
        }
    }
}

/// What a learner's loop does by itself: its disk, and the state that readers share with it.
pub trait World {
    /// Where a record lies in the log.
    type Position: Copy + PartialEq;
    /// Who waits for an answer.
    type Asker;
    /// The disk has failed.
    type Error;

    /// The state, to read. Held for a moment only.
    fn state(&self) -> impl Deref<Target = State>;
    /// The state, to change. Held for a moment only.
    fn state_mut(&mut self) -> impl DerefMut<Target = State>;
    /// These entries were applied just now, and added to the log.
    fn applied(&mut self, entries: &[Entry]);
    /// Whether it is known of which cluster this node is, and that it asks the right acceptors.
    fn may_learn(&self) -> bool;
    /// Whether so many bytes may be added to the disk in the course of the next messages.
    fn has_room(&mut self, bytes: u64) -> bool;
    /// The same of the space that is free at this very moment.
    fn has_room_for(&self, bytes: u64) -> bool;

    /// Adds a record to the log. Durable after the next sync.
    fn append(&mut self, record: &[u8]) -> Self::Position;
    /// Makes the log durable.
    fn sync(&mut self) -> Result<(), Self::Error>;
    /// The entries of a record.
    fn read(&self, position: Self::Position) -> Result<Vec<Entry>, Self::Error>;
    /// The log's records before this one are not needed any more.
    fn trim_before(&mut self, position: Self::Position) -> Result<(), Self::Error>;
    /// None of the log's records is needed any more.
    fn trim_all(&mut self) -> Result<(), Self::Error>;

    /// The slots of the snapshots on disk, oldest first.
    fn snapshots(&self) -> Result<Vec<Slot>, Self::Error>;
    /// How many bytes of another node's snapshot are on disk.
    fn received(&self, slot: Slot) -> u64;
    /// Keeps a snapshot that has been received as one of its own; `None` if it is damaged.
    fn install(&mut self, slot: Slot) -> Result<Option<Machine>, Self::Error>;
    /// Removes what has been received of snapshots.
    fn discard_received(&mut self) -> Result<(), Self::Error>;

    /// The other learners of this cluster.
    fn learners(&self) -> Vec<NodeName>;
    /// Its stores.
    fn stores(&self) -> Vec<NodeName>;
}

/// A question to an acceptor that is not over.
#[derive(Clone, Copy, Debug)]
enum Question {
    /// What was chosen?
    Fetch {
        acceptor: NodeId,
        first: Slot,
        last: Slot,
    },
    /// What do you have where somebody says something else, or in a sample?
    Verify { acceptor: NodeId },
}

/// A learner's loop.
#[derive(Debug)]
pub struct LearnerRole<W: World> {
    world: W,
    settings: Settings,
    members: Members,
    core: Learner,
    /// The last slot that is applied and in the log. What the core has delivered may be more, when a
    /// value cannot be applied.
    applied: Slot,
    /// The last slot on disk.
    durable: Slot,
    halted: Option<Halt>,
    truth: Truth,
    log: Log<W::Position>,
    /// Size of our last snapshot, and bytes of log since it.
    snapshot_bytes: u64,
    logged_bytes: u64,
    writing_snapshot: bool,
    /// When the oldest entry was written that is not synced.
    unsynced: Option<Duration>,
    unsynced_bytes: usize,
    /// Answers that wait for their values to be applied.
    held: Vec<Held<W::Asker>>,
    catch_up: Option<CatchUp>,
    /// How often other nodes were asked for what the acceptors have forgotten.
    catch_ups: usize,
    questions: BTreeMap<u64, Question>,
    /// The last number of a question.
    asked: u64,
    actions: Vec<Action<W::Asker>>,
}

impl<W: World> LearnerRole<W> {
    /// Of a start: the world has the state that [`Replay`] gave with this log, all of it on disk, and a
    /// snapshot of so many bytes. `core` has delivered nothing yet.
    pub fn new(
        world: W,
        settings: Settings,
        members: Members,
        mut core: Learner,
        log: Log<W::Position>,
        snapshot_bytes: u64,
        now: Duration,
    ) -> LearnerRole<W> {
        let applied = world.state().machine.applied();
        core.skip_to(applied);
        LearnerRole {
            truth: Truth::new(settings.sampling, now),
            world,
            settings,
            members,
            core,
            applied,
            durable: applied,
            halted: None,
            log,
            snapshot_bytes,
            logged_bytes: 0,
            writing_snapshot: false,
            unsynced: None,
            unsynced_bytes: 0,
            held: Vec::new(),
            catch_up: None,
            catch_ups: 0,
            questions: BTreeMap::new(),
            asked: 0,
            actions: Vec::new(),
        }
    }

    /// Takes an event. Answers and the disk wait for [`answer`](Self::answer) and
    /// [`settle`](Self::settle).
    pub fn on(
        &mut self,
        event: Event<W::Asker>,
        now: Duration,
    ) -> Result<Vec<Action<W::Asker>>, W::Error> {
        match event {
            // Of which cluster it is, and that it asks the right number of acceptors, is not known yet:
            // the asker hears that there is no answer, and tells it again.
            Event::Told { .. } if !self.world.may_learn() => {}
            Event::Told { learn, from, asker } => self.told(learn, from, asker, now)?,
            Event::Answered { number, reply } => self.answered(number, reply, now)?,
            Event::Failed { number, why } => match self.questions.remove(&number) {
                Some(Question::Fetch {
                    acceptor, first, ..
                }) => {
                    let from = acceptor;
                    self.step(Input::Failed { from, first }, now)?;
                }
                // It is asked again in its time.
                Some(Question::Verify { .. }) => {}
                None => self.node_failed(number, why, now),
            },
            Event::NodeTold { number, told } => self.node_told(number, told, now)?,
            Event::Received { number } => self.received(number),
            Event::SnapshotWritten { bytes } => self.snapshot_written(bytes)?,
            Event::SnapshotFailed => self.writing_snapshot = false,
            Event::Outvoted => self.halt(Halt::Outvoted),
            Event::Tick { dice } => {
                if !self.truth.is_in_doubt() {
                    self.step(Input::Tick, now)?;
                }
                self.tick_truth(now, dice);
                self.tick_catch_up(now);
                self.log.tick();
            }
        }
        Ok(mem::take(&mut self.actions))
    }

    /// The answers that are due after an event.
    pub fn answer(&mut self, now: Duration) -> Result<Vec<Action<W::Asker>>, W::Error> {
        self.answer_held(now)?;
        Ok(mem::take(&mut self.actions))
    }

    /// What is due after some events: answers, and the disk.
    pub fn settle(&mut self, now: Duration) -> Result<Vec<Action<W::Asker>>, W::Error> {
        self.answer_held(now)?;
        let waits = |since: Duration| now.saturating_sub(since) >= self.settings.sync_after;
        if self.unsynced.is_some_and(waits) || self.unsynced_bytes >= self.settings.sync_bytes {
            self.sync()?;
        }
        Ok(mem::take(&mut self.actions))
    }

    /// Whether `bytes` more bytes are applied without waiting for the disk, and soon: a thread that
    /// serves them where they came in holds up what else came in there.
    pub fn is_quick(&self, bytes: usize) -> bool {
        self.unsynced_bytes + self.core.ahead_bytes() + bytes < self.settings.sync_bytes
    }

    /// What it does by itself.
    pub fn world(&self) -> &W {
        &self.world
    }

    /// The same, for its owner.
    pub fn world_mut(&mut self) -> &mut W {
        &mut self.world
    }

    /// The order of what is chosen.
    pub fn core(&self) -> &Learner {
        &self.core
    }

    /// The last slot applied.
    pub fn applied(&self) -> Slot {
        self.applied
    }

    /// The last slot on disk.
    pub fn durable(&self) -> Slot {
        self.durable
    }

    /// Why it has stopped, if it has.
    pub fn halted(&self) -> Option<Halt> {
        self.halted
    }

    /// Whether somebody has said something else, and the acceptors are being asked who is right.
    pub fn is_in_doubt(&self) -> bool {
        self.truth.is_in_doubt()
    }

    fn told(
        &mut self,
        learn: Learn,
        from: NodeName,
        asker: W::Asker,
        now: Duration,
    ) -> Result<(), W::Error> {
        let until = if self.is_told_the_same(&learn, from, now)? {
            self.step(Input::Learn(learn.clone()), now)?;
            now + self.settings.hold
        } else {
            now
        };
        self.held.push(Held {
            until,
            asker,
            learn,
        });
        Ok(())
    }

    fn answered(&mut self, number: u64, reply: Reply, now: Duration) -> Result<(), W::Error> {
        match self.questions.remove(&number) {
            Some(Question::Fetch {
                acceptor: from,
                first,
                last,
            }) => {
                // Asked for again once that is settled.
                let is_taken = answers(&reply, first, last) && !self.truth.is_in_doubt();
                let input = match is_taken {
                    true => Input::Reply { from, reply },
                    false => Input::Failed { from, first },
                };
                self.step(input, now)
            }
            Some(Question::Verify { acceptor }) => {
                self.verified(acceptor, &reply);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn step(&mut self, input: Input, now: Duration) -> Result<(), W::Error> {
        if self.halted.is_some() {
            return Ok(());
        }
        let Some(input) = self.fitting(input) else {
            return Ok(());
        };
        let mut effects = self.core.step(input);
        let deliver = mem::take(&mut effects.deliver);
        if let Some(slot) = effects.missing {
            self.say(Notice::Missing(slot));
        }
        if let Some(slot) = effects.disputed {
            self.say(Notice::Disputed(slot));
        }
        if let Some((slot, why)) = self.apply(deliver, now)? {
            self.cannot_read(slot, why, effects.is_sure(slot));
        }
        for (acceptor, request) in effects.fetch {
            let Request::Fetch { from, to } = request else {
                continue;
            };
            let question = Question::Fetch {
                acceptor,
                first: from,
                last: to,
            };
            self.ask(acceptor, question, request, FETCH_WITHIN);
        }
        if let Some(floor) = effects.truncated {
            self.begin_catch_up(floor, now);
        }
        Ok(())
    }

    /// A value cannot be read. A quorum of acceptors that has it has it from a newer version; who else
    /// tells it may be anybody.
    fn cannot_read(&mut self, slot: Slot, why: Undecodable, is_sure: bool) {
        if is_sure {
            return self.halt(Halt::Undecodable { slot, why });
        }
        self.say(Notice::Unread(slot));
        self.core.distrust(slot);
    }

    /// What may be taken of an input: no values while the volume is almost full. The leader tells them
    /// again, and the acceptors keep them.
    fn fitting(&mut self, input: Input) -> Option<Input> {
        // The next snapshot must fit as well: the log gets shorter by it alone.
        let state = self.world.state().machine.ledger().state_bytes();
        let more = self.snapshot_bytes.max(state) + self.unsynced_bytes as u64;
        if self.world.has_room(more) {
            return Some(input);
        }
        match input {
            Input::Learn(learn) => Some(Input::Learn(Learn {
                values: [].into(),
                ..learn
            })),
            // The core must hear how each of its questions ended, or it never asks again.
            Input::Reply {
                from,
                reply: Reply::Fetched { from: first, .. } | Reply::Truncated { from: first, .. },
            } => Some(Input::Failed { from, first }),
            Input::Failed { .. } => Some(input),
            Input::Reply { .. } | Input::Tick => None,
        }
    }

    fn ask(&mut self, acceptor: NodeId, question: Question, request: Request, within: Duration) {
        self.asked += 1;
        let number = self.asked;
        self.questions.insert(number, question);
        self.actions.push(Action::AskAcceptor {
            number,
            acceptor,
            request,
            within,
        });
    }

    fn say(&mut self, notice: Notice) {
        self.actions.push(Action::Say(notice));
    }

    /// Stops for good. The first reason stays.
    fn halt(&mut self, halt: Halt) {
        self.halted.get_or_insert(halt);
        self.catch_up = None;
        self.actions.push(Action::Halted(halt));
    }
}

/// Whether a reply is one to a fetch of these slots.
fn answers(reply: &Reply, first: Slot, last: Slot) -> bool {
    match reply {
        Reply::Fetched { from, to, .. } => *from == first && *to <= last,
        Reply::Truncated { from, .. } => *from == first,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
