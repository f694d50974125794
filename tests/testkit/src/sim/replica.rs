//! A learner's process and its disk: the real log and the real snapshots on simulated media, put
//! together as the driver does it.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use node::media::{Media, MediaFile, SimMedia};
use node::snapshots::Snapshots;
use node::wal::{Options, Position, Wal};
use paxos::codec::{self, Entry};
use paxos::digests::Digests;
use paxos::ids::Slot;
use paxos::learner::{Learner, records};
use paxos::machine::{Applied, Machine};
use paxos::message::{Learn, Value};
use paxos::recent::{Bounds, Recent, outcomes};

use super::config::Config;
use super::disk::{BadWrite, end, flip_bit, spoil};
use super::rng::Rng;
use super::transfer::CatchUp;
use super::truth::Doubt;

/// A learner's disk.
#[derive(Debug)]
pub(super) struct Shelf {
    log: SimMedia,
    snapshots: SimMedia,
    options: Options,
    recent: Bounds,
    record_bytes: usize,
    /// Every slot up to here is known to be on it.
    pub(super) durable: Slot,
}

/// A learner's process.
pub(super) struct Replica {
    /// The order of what is chosen.
    pub(super) core: Learner,
    /// What it has applied.
    pub(super) machine: Machine,
    /// What it remembers of it.
    recent: Recent,
    /// What it misses and another learner has.
    pub(super) catch_up: Option<CatchUp>,
    /// A copy of the state on its way into a snapshot.
    pub(super) copy: Option<Machine>,
    /// What it has applied in the newest slots.
    pub(super) digests: Digests,
    /// The question to the acceptors that is open.
    pub(super) doubt: Option<Doubt>,
    /// It has stopped for good: the acceptors have something else.
    pub(super) halted: bool,
    wal: Wal<SimMedia>,
    snapshots: Snapshots<SimMedia>,
    /// Where in the log the record lies that starts with a slot.
    index: BTreeMap<Slot, Position>,
    snapshot: Slot,
    record_bytes: usize,
}

/// What a start from the disk gives.
pub(super) struct Opened {
    machine: Machine,
    recent: Recent,
    digests: Digests,
    wal: Wal<SimMedia>,
    snapshots: Snapshots<SimMedia>,
    index: BTreeMap<Slot, Position>,
    snapshot: Slot,
    record_bytes: usize,
}

impl Shelf {
    /// An empty disk.
    pub(super) fn new(config: &Config) -> Shelf {
        Shelf {
            log: SimMedia::new(),
            snapshots: SimMedia::new(),
            options: super::log::options(config.segment_bytes),
            recent: config.recent,
            record_bytes: config.record_bytes,
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

    /// One of the next operations goes wrong.
    pub(super) fn spoil(&self, bad: BadWrite, rng: &mut Rng) {
        for media in [&self.log, &self.snapshots] {
            spoil(media, bad, rng);
        }
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
            opened.machine.applied() >= self.durable,
            "what a learner has on disk outlives a crash"
        );
        // An older snapshot and the log since it do as well as a damaged one, unless the newer one
        // is another learner's: then the log since the older one is not here, and it is behind.
        if let Some(Ok(damaged)) = damaged {
            assert!(
                damaged.machine == opened.machine || damaged.machine.applied() < opened.snapshot,
                "a flipped bit is noticed: {flipped:?}"
            );
        }
        (opened, flipped.is_some())
    }

    fn try_open(&self) -> Result<Opened, String> {
        let snapshots = Snapshots::open(self.snapshots.clone()).map_err(|e| e.to_string())?;
        let newest = snapshots.load_newest().map_err(|e| e.to_string())?;
        let mut machine = newest.unwrap_or_default();
        let mut recent = Recent::new(self.recent);
        let snapshot = machine.applied();
        let mut digests = Digests::after(snapshot);
        let mut index = BTreeMap::new();
        let mut next = None;
        let wal = Wal::open(self.log.clone(), self.options, |position, bytes| {
            let entries = codec::decode_entries(bytes.clone()).map_err(|e| e.to_string())?;
            let Some((first, last)) = entries.first().zip(entries.last()) else {
                return Ok(());
            };
            if next.is_some_and(|next| next != first.slot) {
                index.clear();
            }
            next = Some(last.slot.next());
            index.insert(first.slot, position);
            let mut new = entries.into_iter().filter(|entry| entry.slot > snapshot);
            new.try_for_each(|entry| {
                digests.note(entry.slot, &entry.value);
                replay(&mut machine, &mut recent, entry)
            })
        });
        let wal = wal.map_err(|e| e.to_string())?;
        if next.is_some_and(|next| next <= machine.applied()) {
            index.clear();
        }
        Ok(Opened {
            record_bytes: self.record_bytes,
            machine,
            recent,
            digests,
            wal,
            snapshots,
            index,
            snapshot,
        })
    }
}

fn replay(machine: &mut Machine, recent: &mut Recent, entry: Entry) -> Result<(), String> {
    let expected = machine.applied().next();
    if entry.slot != expected {
        return Err(format!("{} where {expected} should be", entry.slot));
    }
    let applied = machine.apply(entry.slot, &entry.value);
    let applied = applied.map_err(|e| e.to_string())?;
    if !applied.repeats(&entry.applied) {
        return Err(format!("{} gives another outcome now", entry.slot));
    }
    recent.push(Entry { applied, ..entry });
    Ok(())
}

impl Replica {
    /// A process on what its disk gave; `core` has nothing yet.
    pub(super) fn new(opened: Opened, mut core: Learner) -> Replica {
        core.skip_to(opened.machine.applied());
        Replica {
            core,
            machine: opened.machine,
            recent: opened.recent,
            record_bytes: opened.record_bytes,
            catch_up: None,
            copy: None,
            digests: opened.digests,
            doubt: None,
            halted: false,
            wal: opened.wal,
            snapshots: opened.snapshots,
            index: opened.index,
            snapshot: opened.snapshot,
        }
    }

    /// Applies what is delivered, up to the first slot whose value cannot be read, which is the second
    /// value; on disk at the next sync.
    pub(super) fn apply(&mut self, deliver: Vec<(Slot, Value)>) -> (Vec<Entry>, Option<Slot>) {
        let mut all = Vec::new();
        for record in records(deliver, self.record_bytes) {
            let (mut entries, mut unread) = (Vec::new(), None);
            for (slot, value) in record {
                let Ok(applied) = self.machine.apply(slot, &value) else {
                    unread = Some(slot);
                    break;
                };
                self.digests.note(slot, &value);
                let entry = Entry {
                    slot,
                    applied,
                    value,
                };
                self.recent.push(entry.clone());
                entries.push(entry);
            }
            let ledger = self.machine.ledger();
            let memory = ledger.terms().map_or(u64::MAX, |terms| terms.retry_memory);
            assert!(
                ledger.session_bytes() <= memory,
                "remembering requests takes no more than it may"
            );
            if let Some(first) = entries.first() {
                let position = self.wal.append(&codec::encode_entries(&entries));
                self.index.insert(first.slot, position);
            }
            all.extend(entries);
            if unread.is_some() {
                return (all, unread);
            }
        }
        (all, None)
    }

    /// What became of these slots, whose values are known if they were sent again.
    pub(super) fn outcomes<'a>(
        &self,
        slots: impl Iterator<Item = (Slot, Option<&'a Value>)>,
    ) -> Vec<Option<Applied>> {
        let logged = |slot| self.entries(slot)?.into_iter().next();
        outcomes(&self.recent, &self.machine, slots, logged)
    }

    /// How many bytes it holds in memory: of values, and of what READs found.
    pub(super) fn remembers(&self) -> (usize, usize) {
        self.recent.bytes()
    }

    /// Makes the log durable.
    pub(super) fn sync(&mut self, shelf: &mut Shelf) -> Result<(), String> {
        self.wal.sync().map_err(|e| e.to_string())?;
        shelf.durable = self.core.delivered();
        Ok(())
    }

    /// How many slots were applied since the newest snapshot.
    pub(super) fn since_snapshot(&self) -> u64 {
        self.machine.applied().0 - self.snapshot.0
    }

    /// The copy becomes a snapshot, and the log forgets what is before the older of two.
    pub(super) fn write_snapshot(&mut self) -> Result<(), String> {
        let Some(copy) = self.copy.take() else {
            return Ok(());
        };
        self.snapshots
            .write(&copy.freeze())
            .map_err(|e| e.to_string())?;
        self.snapshot = self.snapshot.max(copy.applied());
        let slots = self.snapshots.slots().map_err(|e| e.to_string())?;
        if let [oldest, _, ..] = slots[..]
            && let Some((first, position)) = self.index.range(..=oldest.next()).next_back()
        {
            let (first, position) = (*first, *position);
            self.index = self.index.split_off(&first);
            self.wal.trim_before(position).map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// Takes over a snapshot that has come whole; `false` if it is of no use.
    pub(super) fn install(&mut self, slot: Slot, shelf: &mut Shelf) -> Result<bool, String> {
        if slot <= self.core.delivered() {
            return Ok(false);
        }
        self.machine = self.snapshots.install(slot).map_err(|e| e.to_string())?;
        self.recent = Recent::new(shelf.recent);
        self.snapshot = slot;
        self.digests = Digests::after(slot);
        self.core.skip_to(slot);
        self.sync(shelf)?;
        self.index.clear();
        let end = self.wal.position_end();
        self.wal.trim_before(end).map_err(|e| e.to_string())?;
        Ok(true)
    }

    /// Whether it tells nobody what came of anything.
    pub(super) fn is_mute(&self) -> bool {
        self.halted || self.is_in_doubt()
    }

    /// Whether somebody has told something else than was applied, and the acceptors have not answered.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.doubt.as_ref().is_some_and(|doubt| doubt.told)
    }

    /// The first slot of a range in the log for which another value was sent, and a checksum of what
    /// the log has.
    pub(super) fn older_differs(
        &self,
        learn: &Learn,
        (first, last): (Slot, Slot),
    ) -> Option<(Slot, u64)> {
        let mut next = first;
        while next <= last {
            let entries = self.entries(next)?;
            for entry in entries.iter().filter(|entry| entry.slot <= last) {
                let told = &learn.values[(entry.slot.0 - learn.first.0) as usize];
                if *told != entry.value {
                    return Some((entry.slot, entry.value.checksum()));
                }
            }
            next = entries.last()?.slot.next();
        }
        None
    }

    /// Adds to a snapshot that comes from another learner.
    pub(super) fn receive(&self, slot: Slot, offset: u64, bytes: &[u8]) -> Result<(), String> {
        let received = self.snapshots.receive(slot, offset, bytes);
        received.map_err(|e| e.to_string())
    }

    /// How many bytes of that snapshot have come.
    pub(super) fn received(&self, slot: Slot) -> u64 {
        self.snapshots.received(slot)
    }

    /// Which snapshot it is receiving from another learner, and how many bytes of it have come.
    pub(super) fn receiving(&self) -> Option<(Slot, u64)> {
        let slot = self.catch_up.as_ref()?.piece_of()?;
        Some((slot, self.received(slot)))
    }

    /// One record of entries from `from` on; `None` if the log does not go back so far.
    pub(super) fn entries(&self, from: Slot) -> Option<Vec<Entry>> {
        if from > self.machine.applied() {
            return Some(Vec::new());
        }
        let (_, position) = self.index.range(..=from).next_back()?;
        let record = self.wal.read(*position).expect("a log can be read");
        let entries = codec::decode_entries(record).expect("a log holds entries");
        Some(
            entries
                .into_iter()
                .filter(|entry| entry.slot >= from)
                .collect(),
        )
    }

    /// Some bytes of a snapshot, the newest if no slot is named, and its whole length.
    pub(super) fn piece(
        &self,
        slot: Option<Slot>,
        offset: u64,
        most: u64,
    ) -> Option<(Slot, Bytes, u64)> {
        let newest = || self.snapshots.slots().expect("names can be read").pop();
        let slot = slot.or_else(newest)?;
        let read = self.snapshots.read(slot, offset, most);
        let (bytes, length) = read.expect("a snapshot can be read")?;
        Some((slot, bytes, length))
    }
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.core.fmt(f)
    }
}
