//! A learner's process and its disk: the loop that ships, on the real log and the real snapshots, on
//! simulated media.

use std::fmt;
use std::mem;
use std::ops::{Deref, DerefMut};

use bytes::Bytes;
use node::media::{Media, MediaFile, SimMedia};
use node::snapshots::{self, Snapshots};
use node::wal::{Options, Position, Wal};
use paxos::acceptor::Room;
use paxos::codec::{self, Entry};
use paxos::ids::{NodeName, Role, Slot};
use paxos::machine::{Frozen, Machine};
use paxos::message::Learn;
use paxos::recent::Bounds;
use roles::learner::{self, LearnerRole, Log, Replay, State};

use super::config::Config;
use super::disk::{BadWrite, end, flip_bit, spoil};
use super::node::Asker;
use super::rng::Rng;

/// Who waits for a learner's answer, and to what.
pub(super) type Teller = (Asker, Learn);

/// A learner's disk.
#[derive(Debug)]
pub(super) struct Shelf {
    log: SimMedia,
    snapshots: SimMedia,
    options: Options,
    recent: Bounds,
    /// Every slot up to here is known to be on it.
    pub(super) durable: Slot,
}

/// A learner's process.
pub(super) struct Replica {
    /// The loop.
    pub(super) role: LearnerRole<World>,
    /// A copy of the state on its way into a snapshot.
    pub(super) copy: Option<Frozen>,
    /// The question to another node that is open, whom it was put to, and ticks since.
    pub(super) asked: Option<(u64, NodeName, u32)>,
    /// The snapshot that a store has made for it.
    pub(super) made: Option<(Slot, Bytes)>,
}

/// What the loop does by itself, on simulated media.
pub(super) struct World {
    state: State,
    wal: Wal<SimMedia>,
    snapshots: Snapshots<SimMedia>,
    media: [SimMedia; 2],
    /// The next write goes wrong.
    pub(super) bad_write: Option<BadWrite>,
    /// One has: the process must end.
    pub(super) is_struck: bool,
    rng: Rng,
    /// How full the disk is.
    pub(super) room: Room,
    /// Whether the acceptors have confirmed its cluster.
    pub(super) may_learn: bool,
    /// What was applied since somebody looked.
    pub(super) applied: Vec<Entry>,
    learners: Vec<NodeName>,
    stores: Vec<NodeName>,
}

/// What a start from the disk gives.
pub(super) struct Opened {
    state: State,
    log: Log<Position>,
    wal: Wal<SimMedia>,
    snapshots: Snapshots<SimMedia>,
    snapshot: Slot,
    media: [SimMedia; 2],
}

impl Shelf {
    /// An empty disk.
    pub(super) fn new(config: &Config) -> Shelf {
        Shelf {
            log: SimMedia::new(),
            snapshots: SimMedia::new(),
            options: super::log::options(config.segment_bytes),
            recent: config.recent,
            durable: Slot::ZERO,
        }
    }

    /// The disk is replaced by an empty one.
    pub(super) fn wipe(&mut self) {
        (self.log, self.snapshots) = (SimMedia::new(), SimMedia::new());
        self.durable = Slot::ZERO;
    }

    /// The process ends, and perhaps the machine with it.
    pub(super) fn end(&self, rng: &mut Rng) {
        end(&[&self.log, &self.snapshots], rng);
    }

    /// Opens it, perhaps after a bit has flipped; the second value says that one has.
    pub(super) fn open(&mut self, flip: bool, rng: &mut Rng) -> (Opened, bool) {
        let media = [&self.log, &self.snapshots][rng.below(2) as usize];
        let flipped = if flip { flip_bit(media, rng) } else { None };
        let damaged = flipped.as_ref().map(|(name, offset, bit)| {
            let opened = self.try_open();
            // Opening removes what was never finished.
            let size = media.open(name).and_then(|file| file.size());
            if size.is_ok_and(|size| (*offset as u64) < size) {
                media.flip_bit(name, *offset, *bit);
            }
            opened
        });
        let opened = self.try_open();
        let opened = opened.unwrap_or_else(|error| panic!("a crash leaves no damage: {error}"));
        assert!(
            opened.state.machine.applied() >= self.durable,
            "what a learner has on disk outlives a crash"
        );
        // An older snapshot and the log since it do as well as a damaged one, unless the newer one
        // is another learner's: then the log since the older one is not here, and it is behind.
        if let Some(Ok(damaged)) = damaged {
            assert!(
                damaged.state.machine == opened.state.machine
                    || damaged.state.machine.applied() < opened.snapshot,
                "a flipped bit is noticed: {flipped:?}"
            );
        }
        (opened, flipped.is_some())
    }

    fn try_open(&self) -> Result<Opened, String> {
        let snapshots = Snapshots::open(self.snapshots.clone()).map_err(|e| e.to_string())?;
        let newest = snapshots.load_newest().map_err(|e| e.to_string())?;
        let mut replay = Replay::on(newest.unwrap_or_default(), self.recent);
        let wal = Wal::open(self.log.clone(), self.options, |position, record| {
            replay.record(position, record)
        });
        let wal = wal.map_err(|e| e.to_string())?;
        let snapshot = replay.snapshot();
        let (state, log) = replay.end();
        Ok(Opened {
            state,
            log,
            wal,
            snapshots,
            snapshot,
            media: [self.log.clone(), self.snapshots.clone()],
        })
    }
}

impl Opened {
    /// The world of a process that knows these other nodes, and how large its snapshot is.
    pub(super) fn world(self, others: Vec<NodeName>, rng: Rng) -> (World, Log<Position>, u64) {
        let size = self.snapshots.size(self.snapshot);
        let of = |role| {
            let others = others.iter().copied();
            others.filter(|node| node.role == role).collect()
        };
        let world = World {
            state: self.state,
            wal: self.wal,
            snapshots: self.snapshots,
            media: self.media,
            bad_write: None,
            is_struck: false,
            rng,
            room: Room::Enough,
            may_learn: false,
            applied: Vec::new(),
            learners: of(Role::Learner),
            stores: of(Role::Store),
        };
        (world, self.log, size.expect("a snapshot has a size"))
    }
}

impl World {
    /// Before each write: it may go wrong.
    fn strike(&mut self) {
        if let Some(bad) = self.bad_write.take() {
            self.is_struck = true;
            for media in &self.media {
                spoil(media, bad, &mut self.rng);
            }
        }
    }

    /// Adds to a snapshot that comes from another node.
    pub(super) fn receive(&mut self, slot: Slot, offset: u64, bytes: &[u8]) -> Result<(), String> {
        self.strike();
        let received = self.snapshots.receive(slot, offset, bytes);
        received.map_err(|e| e.to_string())
    }

    /// Writes a snapshot. Its size.
    pub(super) fn write_snapshot(&mut self, state: &Frozen) -> Result<u64, String> {
        self.strike();
        self.snapshots.write(state).map_err(|e| e.to_string())
    }

    /// What was applied since the last look.
    pub(super) fn take_applied(&mut self) -> Vec<Entry> {
        mem::take(&mut self.applied)
    }
}

impl learner::World for World {
    type Position = Position;
    type Asker = Teller;
    type Error = String;

    fn state(&self) -> impl Deref<Target = State> {
        &self.state
    }

    fn state_mut(&mut self) -> impl DerefMut<Target = State> {
        &mut self.state
    }

    fn applied(&mut self, entries: &[Entry]) {
        let ledger = self.state.machine.ledger();
        let memory = ledger.terms().map_or(u64::MAX, |terms| terms.retry_memory);
        assert!(
            ledger.session_bytes() <= memory,
            "remembering requests takes no more than it may"
        );
        self.applied.extend_from_slice(entries);
    }

    fn may_learn(&self) -> bool {
        self.may_learn
    }

    fn has_room(&mut self, _bytes: u64) -> bool {
        self.room <= Room::Tight
    }

    fn has_room_for(&self, _bytes: u64) -> bool {
        self.room <= Room::Tight
    }

    fn append(&mut self, record: &[u8]) -> Position {
        self.wal.append(record)
    }

    fn sync(&mut self) -> Result<(), String> {
        self.strike();
        self.wal.sync().map(drop).map_err(|e| e.to_string())
    }

    fn read(&self, position: Position) -> Result<Vec<Entry>, String> {
        let record = self.wal.read(position).map_err(|e| e.to_string())?;
        codec::decode_entries(record).map_err(|e| e.to_string())
    }

    fn trim_before(&mut self, position: Position) -> Result<(), String> {
        self.strike();
        self.wal.trim_before(position).map_err(|e| e.to_string())
    }

    fn trim_all(&mut self) -> Result<(), String> {
        self.strike();
        let end = self.wal.position_end();
        self.wal.trim_before(end).map_err(|e| e.to_string())
    }

    fn snapshots(&self) -> Result<Vec<Slot>, String> {
        self.snapshots.slots().map_err(|e| e.to_string())
    }

    fn received(&self, slot: Slot) -> u64 {
        self.snapshots.received(slot)
    }

    fn install(&mut self, slot: Slot) -> Result<Option<Machine>, String> {
        self.strike();
        match self.snapshots.install(slot) {
            Err(error @ snapshots::Error::Damaged { .. }) if self.is_struck => {
                Err(error.to_string())
            }
            Err(error @ snapshots::Error::Damaged { .. }) => {
                panic!("a snapshot arrives as it was sent: {error}")
            }
            installed => installed.map(Some).map_err(|e| e.to_string()),
        }
    }

    fn discard_received(&mut self) -> Result<(), String> {
        self.strike();
        self.snapshots.discard_incoming().map_err(|e| e.to_string())
    }

    fn learners(&self) -> Vec<NodeName> {
        self.learners.clone()
    }

    fn stores(&self) -> Vec<NodeName> {
        self.stores.clone()
    }
}

impl Replica {
    /// A process.
    pub(super) fn new(role: LearnerRole<World>) -> Replica {
        Replica {
            role,
            copy: None,
            asked: None,
            made: None,
        }
    }

    /// The last slot applied.
    pub(super) fn applied(&self) -> Slot {
        self.role.applied()
    }

    /// What it has applied.
    pub(super) fn state(&self) -> &State {
        &self.role.world().state
    }

    /// Which snapshot it is receiving from another node, and how many bytes of it have come.
    pub(super) fn receiving(&self) -> Option<(Slot, u64)> {
        let slot = self.role.receiving()?;
        Some((slot, learner::World::received(self.role.world(), slot)))
    }

    /// Entries from `from` on; `None` if the log does not go back so far.
    pub(super) fn entries(&mut self, from: Slot, bytes: usize) -> Option<Vec<Entry>> {
        if let Some(recent) = self.state().entries(from, bytes) {
            return Some(recent);
        }
        let older = self.role.older(from, bytes);
        older.expect("a log can be read").ok()
    }

    /// Some bytes of a snapshot, the newest if no slot is named, and its whole length.
    pub(super) fn piece(
        &self,
        slot: Option<Slot>,
        offset: u64,
        most: u64,
    ) -> Option<(Slot, Bytes, u64)> {
        let snapshots = &self.role.world().snapshots;
        let newest = || snapshots.slots().expect("names can be read").pop();
        let slot = slot.or_else(newest)?;
        let read = snapshots.read(slot, offset, most);
        let (bytes, length) = read.expect("a snapshot can be read")?;
        Some((slot, bytes, length))
    }
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.role.core().fmt(f)
    }
}
