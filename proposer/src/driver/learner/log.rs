//! The learner's log on disk: what it applies goes there in records of a bounded size, and older
//! entries are read from there. Logs of earlier versions have records of any size, which are served
//! in parts as well.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Instant;

use bytes::Bytes;
use paxos::codec::{self, Entry};
use paxos::command::Undecodable;
use paxos::ids::Slot;
use paxos::learner::records;
use paxos::message::Value;
use paxos::recent::up_to;

use super::Run;
use crate::driver::end_on_disk_error;
use crate::media::Media;
use crate::wal::{Position, Wal};

/// Bytes of values in a record of the log; a larger value has one to itself.
const RECORD_BYTES: usize = 1 << 20;
/// Bytes of records that may wait for one sync.
const UNSYNCED_BYTES: usize = 8 << 20;

impl Run {
    /// Applies what is delivered, a record at a time.
    /// The first slot whose value cannot be read is left out, and what comes after it.
    pub(super) fn apply(
        &mut self,
        delivered: Vec<(Slot, Value)>,
    ) -> Result<(), (Slot, Undecodable)> {
        for record in records(delivered, RECORD_BYTES) {
            self.apply_record(record)?;
            if self.unsynced_bytes >= UNSYNCED_BYTES {
                self.sync();
            }
        }
        Ok(())
    }

    fn apply_record(&mut self, chosen: Vec<(Slot, Value)>) -> Result<(), (Slot, Undecodable)> {
        let mut unread = Ok(());
        let mut entries = Vec::with_capacity(chosen.len());
        {
            let mut state = self
                .shared
                .state
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            for (slot, value) in chosen {
                match state.machine.apply(slot, &value) {
                    Ok(applied) => {
                        // A copy: a slice would keep the whole message in memory.
                        let value = Value(Bytes::copy_from_slice(&value.0));
                        entries.push(Entry {
                            slot,
                            value: value.clone(),
                            applied: applied.bare(),
                        });
                        state.push(Entry {
                            slot,
                            value,
                            applied,
                        });
                    }
                    Err(undecodable) => {
                        unread = Err((slot, undecodable));
                        break;
                    }
                }
            }
        }
        let Some((first, last)) = entries.first().zip(entries.last()) else {
            return unread;
        };
        self.applied = last.slot;
        if let Some(notifier) = &self.notifier {
            notifier.applied(&entries);
        }
        let bytes = codec::encode_entries(&entries);
        self.index.insert(first.slot, self.wal.append(&bytes));
        self.unsynced.get_or_insert_with(Instant::now);
        self.unsynced_bytes += bytes.len();
        self.logged_bytes += bytes.len() as u64;
        self.metrics.applied_slot.set(last.slot.0 as i64);
        self.show_state();
        self.shared.applied.send_replace(last.slot);
        unread
    }

    /// Entries that are in the log on disk alone, at least one if it is applied, and about `bytes`
    /// bytes; the first slot that the log has when `from` is before it.
    pub(super) fn older(&mut self, from: Slot, bytes: usize) -> Result<Vec<Entry>, Slot> {
        if from > self.applied {
            return Ok(Vec::new());
        }
        let found = self.log_reader.entries(&self.wal, &self.index, from, bytes);
        found.ok_or_else(|| self.first_in_log())
    }

    /// The first slot in the log, or the next one to come.
    pub(super) fn first_in_log(&self) -> Slot {
        let next = || self.applied.next();
        self.index.keys().next().copied().unwrap_or_else(next)
    }
}

/// Reads entries from the log. It keeps the record read last while it is in use: a follower takes a
/// record in many parts.
#[derive(Default)]
pub(super) struct LogReader {
    last: Option<(Position, Vec<Entry>)>,
    /// Whether that was read since the last tick.
    used: bool,
}

impl LogReader {
    /// Some time has passed.
    pub(super) fn tick(&mut self) {
        if !std::mem::take(&mut self.used) {
            self.last = None;
        }
    }

    /// Entries from a slot on; `None` if the log does not go back so far.
    pub(super) fn entries<M: Media>(
        &mut self,
        wal: &Wal<M>,
        index: &BTreeMap<Slot, Position>,
        from: Slot,
        bytes: usize,
    ) -> Option<Vec<Entry>> {
        let (start, _) = index.range(..=from).next_back()?;
        let mut entries: Vec<Entry> = Vec::new();
        let mut size = 0;
        for position in index.range(*start..).map(|(_, position)| *position) {
            let record = self.record(wal, position);
            let after = record.partition_point(|entry| entry.slot < from);
            let part = up_to(bytes - size, record[after..].iter());
            size += part.iter().map(Entry::size).sum::<usize>();
            entries.extend(part);
            if size >= bytes && !entries.is_empty() {
                break;
            }
        }
        Some(entries)
    }

    fn record<M: Media>(&mut self, wal: &Wal<M>, position: Position) -> &[Entry] {
        self.used = true;
        if self
            .last
            .as_ref()
            .is_none_or(|(known, _)| *known != position)
        {
            // Two at once would be twice the memory.
            self.last = None;
            let record = wal.read(position);
            let record = record.unwrap_or_else(|error| end_on_disk_error(&error));
            let entries = codec::decode_entries(record);
            let entries = entries.unwrap_or_else(|error| end_on_disk_error(&error));
            self.last = Some((position, entries));
        }
        self.last.as_ref().map_or(&[], |(_, entries)| entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::SimMedia;
    use crate::wal::Options;
    use paxos::machine::{Applied, Outcome};

    /// A log of records, each with a number of entries and the bytes of each.
    fn log(records: &[(u64, usize)]) -> (Wal<SimMedia>, BTreeMap<Slot, Position>) {
        let mut wal = Wal::open(SimMedia::new(), Options::default(), |_, _| Ok(())).unwrap();
        let mut index = BTreeMap::new();
        let mut next = 1;
        for (count, bytes) in records {
            let entry = |slot| Entry {
                slot: Slot(slot),
                value: Value(vec![b'v'; *bytes].into()),
                applied: Applied {
                    slot: Slot(slot),
                    outcome: Outcome::Noop,
                },
            };
            let entries: Vec<Entry> = (next..next + count).map(entry).collect();
            let position = wal.append(&codec::encode_entries(&entries));
            wal.sync().unwrap();
            index.insert(Slot(next), position);
            next += count;
        }
        (wal, index)
    }

    /// How many entries each part has, when `bytes` bytes are asked for at once, to the end.
    fn parts(records: &[(u64, usize)], bytes: usize) -> Vec<usize> {
        let (wal, index) = log(records);
        let last: u64 = records.iter().map(|(count, _)| count).sum();
        let mut reader = LogReader::default();
        let mut parts = Vec::new();
        let mut next = 1;
        while next <= last {
            let part = reader.entries(&wal, &index, Slot(next), bytes).unwrap();
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
        let (wal, index) = log(&[(100, 1_000)]);
        let mut reader = LogReader::default();
        reader.entries(&wal, &index, Slot(1), 1).unwrap();
        reader.tick();
        assert!(reader.last.is_some());
        reader.tick();
        assert!(reader.last.is_none());
        assert!(reader.entries(&wal, &BTreeMap::new(), Slot(1), 1).is_none());
    }
}
