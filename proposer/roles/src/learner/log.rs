//! A learner's log: what it applies goes there in records of a bounded size, and older entries are read
//! from there. Logs of earlier versions have records of any size, which are served in parts as well.

use std::collections::BTreeMap;
use std::mem;
use std::time::Duration;

use paxos::codec::{self, Entry};
use paxos::command::Undecodable;
use paxos::ids::Slot;
use paxos::learner::records;
use paxos::message::Value;
use paxos::recent::up_to;

use super::{Action, LearnerRole, World};

/// Where the entries are, and the record read last while it is in use: a follower takes a record in many
/// parts.
#[derive(Clone, Debug)]
pub struct Log<P> {
    /// Where the record lies that starts with a slot.
    index: BTreeMap<Slot, P>,
    last: Option<(P, Vec<Entry>)>,
    /// Whether that was read since the last tick.
    used: bool,
}

impl<P: Copy + PartialEq> Log<P> {
    pub(super) fn new(index: BTreeMap<Slot, P>) -> Log<P> {
        Log {
            index,
            last: None,
            used: false,
        }
    }

    /// The first slot in the log.
    pub(super) fn first(&self) -> Option<Slot> {
        self.index.keys().next().copied()
    }

    pub(super) fn insert(&mut self, first: Slot, position: P) {
        self.index.insert(first, position);
    }

    /// Forgets the records before the one that holds this slot, whose position it returns.
    pub(super) fn forget_before(&mut self, slot: Slot) -> Option<P> {
        let (first, position) = self.index.range(..=slot).next_back()?;
        let (first, position) = (*first, *position);
        self.index = self.index.split_off(&first);
        Some(position)
    }

    pub(super) fn clear(&mut self) {
        self.index.clear();
    }

    /// Some time has passed.
    pub(super) fn tick(&mut self) {
        if !mem::take(&mut self.used) {
            self.last = None;
        }
    }

    /// Entries from a slot on, about `bytes` bytes of them; `None` if the log does not go back so far.
    /// `read` reads a record.
    pub(super) fn entries<E>(
        &mut self,
        read: impl Fn(P) -> Result<Vec<Entry>, E>,
        from: Slot,
        bytes: usize,
    ) -> Result<Option<Vec<Entry>>, E> {
        let Some((start, _)) = self.index.range(..=from).next_back() else {
            return Ok(None);
        };
        let mut entries: Vec<Entry> = Vec::new();
        let mut size = 0;
        for position in self.index.range(*start..).map(|(_, position)| *position) {
            self.used = true;
            if self
                .last
                .as_ref()
                .is_none_or(|(known, _)| *known != position)
            {
                // Two at once would be twice the memory.
                self.last = None;
                self.last = Some((position, read(position)?));
            }
            let record = self.last.as_ref().map_or(&[][..], |(_, entries)| entries);
            let after = record.partition_point(|entry| entry.slot < from);
            let part = up_to(bytes - size, record[after..].iter());
            size += part.iter().map(Entry::size).sum::<usize>();
            entries.extend(part);
            if size >= bytes && !entries.is_empty() {
                break;
            }
        }
        Ok(Some(entries))
    }
}

impl<W: World> LearnerRole<W> {
    /// Applies what is delivered, a record at a time. The first slot whose value cannot be read is left
    /// out, and what comes after it.
    pub(super) fn apply(
        &mut self,
        delivered: Vec<(Slot, Value)>,
        now: Duration,
    ) -> Result<Option<(Slot, Undecodable)>, W::Error> {
        for record in records(delivered, self.settings.record_bytes) {
            let unread = self.apply_record(record, now);
            if unread.is_some() {
                return Ok(unread);
            }
            if self.unsynced_bytes >= self.settings.most_unsynced_bytes {
                self.sync()?;
            }
        }
        Ok(None)
    }

    fn apply_record(
        &mut self,
        chosen: Vec<(Slot, Value)>,
        now: Duration,
    ) -> Option<(Slot, Undecodable)> {
        let mut unread = None;
        let mut entries = Vec::with_capacity(chosen.len());
        {
            let mut state = self.world.state_mut();
            for (slot, value) in chosen {
                match state.apply(slot, &value) {
                    Ok(entry) => entries.push(entry),
                    Err(undecodable) => {
                        unread = Some((slot, undecodable));
                        break;
                    }
                }
            }
        }
        let Some((first, last)) = entries.first().zip(entries.last()) else {
            return unread;
        };
        self.applied = last.slot;
        let bytes = codec::encode_entries(&entries);
        self.log.insert(first.slot, self.world.append(&bytes));
        self.unsynced.get_or_insert(now);
        self.unsynced_bytes += bytes.len();
        self.logged_bytes += bytes.len() as u64;
        self.world.applied(&entries);
        unread
    }

    /// Makes durable what is applied, and starts a snapshot when the log has grown enough.
    pub(super) fn sync(&mut self) -> Result<(), W::Error> {
        self.world.sync()?;
        // Not what the core has delivered: applying may have stopped before its end.
        self.durable = self.applied;
        self.unsynced = None;
        self.unsynced_bytes = 0;
        // A large state is written less often: the log may grow to a multiple of its size.
        let multiple = self.settings.snapshot_multiple * self.snapshot_bytes;
        if !self.writing_snapshot
            && self.logged_bytes >= self.settings.snapshot_every_bytes.max(multiple)
        {
            self.writing_snapshot = true;
            self.logged_bytes = 0;
            let copy = self.world.state().machine.freeze();
            self.actions.push(Action::WriteSnapshot(copy));
        }
        Ok(())
    }

    /// A snapshot is on disk: the log is kept from the older of two on.
    pub(super) fn snapshot_written(&mut self, bytes: u64) -> Result<(), W::Error> {
        self.writing_snapshot = false;
        self.snapshot_bytes = bytes;
        // With one snapshot alone the whole log is still needed, should that one be damaged.
        if let [oldest, _, ..] = self.world.snapshots()?[..]
            && let Some(position) = self.log.forget_before(oldest.next())
        {
            self.world.trim_before(position)?;
        }
        Ok(())
    }

    /// Entries that are in the log on disk alone, at least one if it is applied, and about `bytes`
    /// bytes; the first slot that the log has when `from` is before it.
    pub fn older(
        &mut self,
        from: Slot,
        bytes: usize,
    ) -> Result<Result<Vec<Entry>, Slot>, W::Error> {
        if from > self.applied {
            return Ok(Ok(Vec::new()));
        }
        let world = &self.world;
        let found = self.log.entries(|at| world.read(at), from, bytes)?;
        Ok(found.ok_or_else(|| self.first_in_log()))
    }

    /// The first slot in the log, or the next one to come.
    pub fn first_in_log(&self) -> Slot {
        self.log.first().unwrap_or_else(|| self.applied.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use paxos::machine::{Applied, Outcome};
    use std::cell::Cell;
    use std::convert::Infallible;

    /// A log of records on a disk that counts its reads; where a record lies is its place in the list.
    struct Disk {
        records: Vec<Vec<Entry>>,
        log: Log<usize>,
        reads: Cell<usize>,
    }

    impl Disk {
        /// Of records, each with a number of entries and the bytes of each.
        fn of(records: &[(u64, usize)]) -> Disk {
            let mut next = 1;
            let records: Vec<Vec<Entry>> = records
                .iter()
                .map(|(count, bytes)| {
                    let first = next;
                    next += count;
                    let entry = |slot| Entry {
                        slot: Slot(slot),
                        value: Value(vec![b'v'; *bytes].into()),
                        applied: Applied {
                            slot: Slot(slot),
                            outcome: Outcome::Noop,
                        },
                    };
                    (first..next).map(entry).collect()
                })
                .collect();
            let index = records.iter().enumerate().map(|(at, it)| (it[0].slot, at));
            Disk {
                log: Log::new(index.collect()),
                records,
                reads: Cell::new(0),
            }
        }

        fn entries(&mut self, from: u64, bytes: usize) -> Option<Vec<Entry>> {
            let read = |at: usize| {
                self.reads.set(self.reads.get() + 1);
                Ok::<_, Infallible>(self.records[at].clone())
            };
            let Ok(entries) = self.log.entries(read, Slot(from), bytes);
            entries
        }
    }

    /// How many entries each part has, when `bytes` bytes are asked for at once, to the end.
    fn parts(records: &[(u64, usize)], bytes: usize) -> Vec<usize> {
        let mut disk = Disk::of(records);
        let last: u64 = records.iter().map(|(count, _)| count).sum();
        let mut parts = Vec::new();
        let mut next = 1;
        while next <= last {
            let part = disk.entries(next, bytes).unwrap();
            let slots: Vec<u64> = part.iter().map(|entry| entry.slot.0).collect();
            assert_eq!(slots, (next..next + part.len() as u64).collect::<Vec<_>>());
            let size: usize = part[..part.len() - 1].iter().map(Entry::size).sum();
            assert!(size < bytes, "a part ends when it is large enough");
            next += part.len() as u64;
            parts.push(part.len());
        }
        parts
    }

    #[test]
    fn a_record_of_an_earlier_version_is_served_in_parts() {
        // 20 MB in one record, and what a store asks for at once.
        let most = *parts(&[(3, 10), (100, 200_000), (3, 10)], 1 << 20)
            .iter()
            .max()
            .unwrap();
        assert!(most <= 6 + 3, "{most} entries of 200 kB in one answer");
        // What a client's stream takes at once.
        assert_eq!(parts(&[(40, 40_000)], 64 << 10), [2; 20]);
        assert_eq!(parts(&[(2, 1_000_000), (1, 3_000_000)], 1), [1, 1, 1]);
    }

    #[test]
    fn small_records_are_served_together() {
        assert_eq!(parts(&[(1, 10); 50], 1 << 20), [50]);
        assert_eq!(parts(&[(10, 0); 3], 1 << 20), [30]);
    }

    #[test]
    fn the_record_read_last_stays_while_it_is_used_and_no_longer() {
        let mut disk = Disk::of(&[(100, 1_000)]);
        disk.entries(1, 1);
        disk.log.tick();
        disk.entries(2, 1);
        assert_eq!(disk.reads.get(), 1, "it was in use");
        disk.log.tick();
        disk.log.tick();
        disk.entries(3, 1);
        assert_eq!(disk.reads.get(), 2);
    }

    #[test]
    fn what_was_forgotten_is_not_served_and_the_record_that_holds_a_slot_stays() {
        let mut disk = Disk::of(&[(10, 1), (10, 1), (10, 1)]);
        assert_eq!(disk.log.forget_before(Slot(15)), Some(1));
        assert_eq!(disk.log.first(), Some(Slot(11)));
        assert_eq!(disk.entries(10, 1), None);
        assert_eq!(disk.entries(15, 1).unwrap()[0].slot, Slot(15));
        disk.log.clear();
        assert_eq!(disk.entries(15, 1), None);
    }
}
