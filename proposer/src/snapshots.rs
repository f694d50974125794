//! Snapshot files of a learner: `snapshot-<slot>`, written aside, synced, and only then given their
//! name; the newest two are kept. A file:
//!
//! ```text
//! "PXSN" · format u32 = 1 · parts, each: length u32 · CRC32C u32 · bytes
//! ```

use std::fmt::Display;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use paxos::ids::Slot;
use paxos::in_memory::InMemory;
use paxos::machine::{Frozen, Ledger, Machine, Resources};
use paxos::snapshot::{NotTaken, Reader};
use tracing::warn;

use crate::media::{FileMedia, Media, MediaFile, lacks_room};

const MAGIC: &[u8; 8] = b"PXSN\x01\0\0\0";
const PREFIX: &str = "snapshot-";
const INCOMING: &str = "incoming-";
const WRITING: &str = "writing";
/// How many snapshots stay. The log is kept from the older one on, so that one damaged snapshot
/// loses nothing.
const KEPT: usize = 2;
/// Written bytes between two syncs: one long sync would hold up the syncs of the log.
const SYNC_BYTES: u64 = 4 << 20;
/// The largest part taken.
const MAX_PART_BYTES: usize = 4 << 20;
const ANOTHERS: &str = "it holds another instance's state";

/// How long a snapshot stays after somebody has read from it: a transfer continues, though newer ones
/// come.
const HELD: Duration = Duration::from_secs(60);

/// A folder of snapshots. Cloning it is cheap.
#[derive(Clone)]
pub struct Snapshots<M: Media = FileMedia> {
    media: M,
    /// Who changes which snapshots there are. With it, the one that somebody reads now.
    held: Arc<Mutex<Option<(Slot, Instant)>>>,
}

/// Why a snapshot cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk refused.
    #[error("cannot use the snapshot {file}: {source}")]
    Io {
        /// Which.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// The file is damaged.
    #[error("the snapshot {file} is damaged: {reason}")]
    Damaged {
        /// Which.
        file: String,
        /// How.
        reason: String,
    },
}

impl Error {
    /// Whether the disk had no room left, and nothing else is wrong with it.
    pub fn is_lack_of_room(&self) -> bool {
        matches!(self, Error::Io { source, .. } if lacks_room(source))
    }
}

/// Why a snapshot was not unpacked.
#[derive(Debug)]
pub enum UnpackError<E> {
    /// The snapshot is no use.
    Snapshot(Error),
    /// The resources cannot be kept.
    Resources(E),
}

impl<E> From<Error> for UnpackError<E> {
    fn from(error: Error) -> UnpackError<E> {
        UnpackError::Snapshot(error)
    }
}

impl<M: Media> Snapshots<M> {
    /// The snapshots in a folder. Unfinished ones are removed.
    pub fn open(media: M) -> Result<Snapshots<M>, Error> {
        let held = Arc::default();
        let snapshots = Snapshots { media, held };
        for name in snapshots.names()? {
            if name == WRITING || name.starts_with(INCOMING) {
                let removed = snapshots.media.remove(&name);
                removed.map_err(|source| snapshots.io(&name, source))?;
            }
        }
        Ok(snapshots)
    }

    /// The slots of the snapshots, oldest first.
    pub fn slots(&self) -> Result<Vec<Slot>, Error> {
        let names = self.names()?;
        let numbers = names
            .iter()
            .filter_map(|name| name.strip_prefix(PREFIX)?.parse().ok());
        let mut slots: Vec<Slot> = numbers.map(Slot).collect();
        slots.sort_unstable();
        Ok(slots)
    }

    /// The length of a snapshot in bytes; 0 if there is no such snapshot.
    pub fn size(&self, slot: Slot) -> Result<u64, Error> {
        let read = self.read(slot, 0, 0)?;
        Ok(read.map_or(0, |(_, length)| length))
    }

    /// Keeps a snapshot for a while beside the newest ones, as somebody reads it.
    pub fn hold(&self, slot: Slot) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        *held = Some((slot, Instant::now() + HELD));
    }

    /// Writes a state durably and removes all but the newest snapshots. Returns its size in bytes.
    pub fn write(&self, state: &Frozen) -> Result<u64, Error> {
        self.write_parts(|put| state.write_snapshot(put).map(|()| state.applied()))
            .map(|(_, bytes)| bytes)
    }

    /// The same with a state that `parts` hands over. Its slot, and its size in bytes.
    pub fn write_parts(
        &self,
        parts: impl FnOnce(&mut dyn FnMut(Bytes) -> io::Result<()>) -> io::Result<Slot>,
    ) -> Result<(Slot, u64), Error> {
        let (mut end, mut synced) = (0, 0);
        let wrap = |source| self.io(WRITING, source);
        let _ = self.media.remove(WRITING);
        let file = self.media.create(WRITING).map_err(wrap)?;
        let mut put = |bytes: &[u8]| {
            file.write_at(bytes, end)?;
            end += bytes.len() as u64;
            if end - synced >= SYNC_BYTES {
                synced = end;
                file.sync_data()?;
            }
            Ok(())
        };
        let written = put(MAGIC).and_then(|()| {
            parts(&mut |part| {
                let mut head = [0; 8];
                head[..4].copy_from_slice(&(part.len() as u32).to_le_bytes());
                head[4..].copy_from_slice(&crc32c::crc32c(&part).to_le_bytes());
                put(&head)?;
                put(&part)
            })
        });
        let synced = written.and_then(|slot| file.sync_data().map(|()| slot));
        let slot = synced.map_err(|source| {
            // It may be the room that the log needs.
            let _ = self.media.remove(WRITING);
            wrap(source)
        })?;
        self.publish(WRITING, slot)?;
        Ok((slot, end))
    }

    /// The newest state that can be read. Damaged ones are passed over with a warning, and an error
    /// is returned when there are snapshots and none can be read.
    pub fn load_newest(&self) -> Result<Option<Machine>, Error> {
        let mut failed = None;
        for slot in self.slots()?.into_iter().rev() {
            let mut resources = InMemory::new();
            match self.load(&name(slot), &mut resources) {
                Ok(ledger) if ledger.applied() == slot => {
                    return Ok(Some(Machine::from_parts(ledger, resources)));
                }
                Ok(_) => failed = Some(self.damaged(&name(slot), &ANOTHERS)),
                Err(UnpackError::Snapshot(error)) => {
                    warn!(%error, "a snapshot cannot be read");
                    failed = Some(error);
                }
                Err(UnpackError::Resources(never)) => match never {},
            }
        }
        failed.map_or(Ok(None), Err)
    }

    /// Some of a snapshot's bytes and its whole length; `None` when there is no such snapshot.
    pub fn read(&self, slot: Slot, from: u64, most: u64) -> Result<Option<(Bytes, u64)>, Error> {
        let name = name(slot);
        let file = match self.media.open(&name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.io(&name, source)),
        };
        let read = || {
            let length = file.size()?;
            let count = length.saturating_sub(from).min(most);
            let mut bytes = vec![0; count as usize];
            file.read_at(&mut bytes, from.min(length))?;
            Ok((Bytes::from(bytes), length))
        };
        read().map(Some).map_err(|source| self.io(&name, source))
    }

    /// How many bytes of an incoming snapshot are here already.
    pub fn received(&self, slot: Slot) -> u64 {
        let file = self.media.open(&incoming(slot));
        file.and_then(|file| file.size()).unwrap_or(0)
    }

    /// Adds bytes to an incoming snapshot.
    pub fn receive(&self, slot: Slot, from: u64, bytes: &[u8]) -> Result<(), Error> {
        let name = incoming(slot);
        let file = match self.media.open(&name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // One at a time: what is left of another one will not be continued.
                self.discard_incoming()?;
                self.media.create(&name)
            }
            file => file,
        };
        let written = file.and_then(|file| {
            file.write_at(bytes, from)?;
            file.sync_data()
        });
        written.map_err(|source| {
            // What a failed sync leaves is unknown, and a later one would not tell: start again.
            let _ = self.media.remove(&name);
            self.io(&name, source)
        })
    }

    /// Checks an incoming snapshot, keeps it as one of ours and returns its state. A damaged one is
    /// removed.
    pub fn install(&self, slot: Slot) -> Result<Machine, Error> {
        let mut resources = InMemory::new();
        let ledger = self.unpack(slot, &mut resources);
        let ledger = ledger.map_err(|error| match error {
            UnpackError::Snapshot(error) => error,
            UnpackError::Resources(never) => match never {},
        })?;
        self.publish(&incoming(slot), slot)?;
        self.discard_incoming()?;
        Ok(Machine::from_parts(ledger, resources))
    }

    /// Removes what is here of incoming snapshots.
    pub fn discard_incoming(&self) -> Result<(), Error> {
        let names = self.names()?;
        let mut incoming = names.iter().filter(|name| name.starts_with(INCOMING));
        incoming.try_for_each(|name| self.remove(name))
    }

    /// Removes every snapshot: they can be made again.
    pub fn clear(&self) -> Result<(), Error> {
        let names = self.names()?;
        let mut all = names.iter().filter(|name| name.starts_with(PREFIX));
        all.try_for_each(|name| self.remove(name))
    }

    /// Removes a file that may be gone already.
    fn remove(&self, name: &str) -> Result<(), Error> {
        match self.media.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.io(name, error)),
            _ => Ok(()),
        }
    }

    /// Checks an incoming snapshot and hands its resources on, a part at a time. What was handed on
    /// counts only if this succeeds. A damaged one is removed.
    pub fn unpack<R: Resources>(
        &self,
        slot: Slot,
        resources: &mut R,
    ) -> Result<Ledger, UnpackError<R::Error>> {
        let name = incoming(slot);
        let ledger = match self.load(&name, resources) {
            Ok(ledger) if ledger.applied() != slot => {
                Err(UnpackError::Snapshot(self.damaged(&name, &ANOTHERS)))
            }
            ledger => ledger,
        };
        if matches!(&ledger, Err(UnpackError::Snapshot(_))) {
            let _ = self.media.remove(&name);
        }
        ledger
    }

    /// Removes an incoming snapshot.
    pub fn discard(&self, slot: Slot) -> Result<(), Error> {
        self.remove(&incoming(slot))
    }

    fn publish(&self, from: &str, slot: Slot) -> Result<(), Error> {
        let to = name(slot);
        // One at a time: a snapshot may be received while another one is written.
        let changing = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let held = changing.filter(|(_, until)| Instant::now() < *until);
        let held = held.map(|(slot, _)| slot);
        let named = self
            .media
            .rename(from, &to)
            .and_then(|()| self.media.sync_dir());
        named.map_err(|source| self.io(&to, source))?;
        let slots = self.slots()?;
        let old = slots.iter().rev().skip(KEPT);
        for old in old.filter(|old| Some(**old) != held) {
            self.remove(&name(*old))?;
        }
        Ok(())
    }

    fn load<R: Resources>(
        &self,
        name: &str,
        resources: &mut R,
    ) -> Result<Ledger, UnpackError<R::Error>> {
        let damaged = |reason: &dyn Display| self.damaged(name, reason);
        let file = self.media.open(name);
        let file = file.map_err(|source| self.io(name, source))?;
        let length = file.size().map_err(|source| self.io(name, source))?;
        let mut at = 0;
        let mut take = |count: usize| -> Result<Vec<u8>, Error> {
            if at + count as u64 > length {
                return Err(damaged(&"it is cut short"));
            }
            let mut bytes = vec![0; count];
            file.read_at(&mut bytes, at)
                .map_err(|source| self.io(name, source))?;
            at += count as u64;
            Ok(bytes)
        };
        if take(MAGIC.len())? != MAGIC {
            return Err(damaged(&"it is not in this format").into());
        }
        let mut reader = Reader::default();
        let mut left = length - MAGIC.len() as u64;
        while left > 0 {
            let head = take(8)?;
            let number =
                |i: usize| u32::from_le_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]);
            let (size, crc) = (number(0) as usize, number(4));
            if size > MAX_PART_BYTES {
                return Err(damaged(&"a part is too long").into());
            }
            let part = take(size)?;
            if crc32c::crc32c(&part) != crc {
                return Err(damaged(&"a part does not match its checksum").into());
            }
            left -= 8 + size as u64;
            let taken = reader.part(part.into(), resources);
            taken.map_err(|error| match error {
                NotTaken::Malformed(malformed) => damaged(&malformed).into(),
                NotTaken::Resources(error) => UnpackError::Resources(error),
            })?;
        }
        let ledger = reader.finish().map_err(|error| damaged(&error))?;
        Ok(ledger)
    }

    fn damaged(&self, name: &str, reason: &dyn Display) -> Error {
        Error::Damaged {
            file: self.media.describe(name),
            reason: reason.to_string(),
        }
    }

    fn names(&self) -> Result<Vec<String>, Error> {
        self.media.list().map_err(|source| self.io("", source))
    }

    fn io(&self, name: &str, source: io::Error) -> Error {
        Error::Io {
            file: self.media.describe(name),
            source,
        }
    }
}

fn name(slot: Slot) -> String {
    format!("{PREFIX}{:020}", slot.0)
}

fn incoming(slot: Slot) -> String {
    format!("{INCOMING}{:020}", slot.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::SimMedia;
    use paxos::message::Value;

    fn machine(slots: u64) -> Machine {
        let mut machine = Machine::new();
        for slot in 1..=slots {
            machine.apply(Slot(slot), &Value::NOOP).unwrap();
        }
        machine
    }

    #[test]
    fn the_newest_two_are_kept_and_the_newest_is_loaded() {
        let snapshots = Snapshots::open(SimMedia::new()).unwrap();
        assert_eq!(snapshots.load_newest().unwrap(), None);
        for slots in [3, 5, 9] {
            snapshots.write(&machine(slots).freeze()).unwrap();
        }
        assert_eq!(snapshots.slots().unwrap(), [Slot(5), Slot(9)]);
        assert_eq!(snapshots.load_newest().unwrap(), Some(machine(9)));
    }

    #[test]
    fn a_damaged_snapshot_gives_way_to_the_one_before_and_never_to_nothing() {
        let media = SimMedia::new();
        let snapshots = Snapshots::open(media.clone()).unwrap();
        snapshots.write(&machine(5).freeze()).unwrap();
        snapshots.write(&machine(9).freeze()).unwrap();
        media.flip_bit(&name(Slot(9)), 30, 0);
        assert_eq!(snapshots.load_newest().unwrap(), Some(machine(5)));
        media.flip_bit(&name(Slot(5)), 30, 0);
        assert!(matches!(
            snapshots.load_newest(),
            Err(Error::Damaged { .. })
        ));
    }

    #[test]
    fn a_snapshot_travels_in_pieces_and_goes_on_where_it_stopped() {
        let from = Snapshots::open(SimMedia::new()).unwrap();
        let to = Snapshots::open(SimMedia::new()).unwrap();
        from.write(&machine(7).freeze()).unwrap();
        let slot = Slot(7);
        loop {
            let at = to.received(slot);
            let (bytes, length) = from.read(slot, at, 10).unwrap().unwrap();
            if at == length {
                break;
            }
            to.receive(slot, at, &bytes).unwrap();
        }
        assert_eq!(to.install(slot).unwrap(), machine(7));
        assert_eq!(to.load_newest().unwrap(), Some(machine(7)));
        assert_eq!(from.read(Slot(8), 0, 10).unwrap(), None);
    }

    #[test]
    fn after_a_failed_sync_an_incoming_snapshot_starts_anew() {
        let media = SimMedia::new();
        let snapshots = Snapshots::open(media.clone()).unwrap();
        snapshots.receive(Slot(3), 0, &[7; 2000]).unwrap();
        media.fail_next_sync();
        assert!(snapshots.receive(Slot(3), 2000, &[7; 2000]).is_err());
        assert_eq!(snapshots.received(Slot(3)), 0);
    }

    #[test]
    fn a_damaged_incoming_snapshot_is_thrown_away() {
        let snapshots = Snapshots::open(SimMedia::new()).unwrap();
        snapshots
            .receive(Slot(3), 0, b"PXSN\x01\0\0\0rubbish")
            .unwrap();
        assert!(snapshots.install(Slot(3)).is_err());
        assert_eq!(snapshots.received(Slot(3)), 0);
    }

    fn send(from: &Snapshots<SimMedia>, to: &Snapshots<impl Media>, slot: Slot) {
        loop {
            let at = to.received(slot);
            let (bytes, length) = from.read(slot, at, 1 << 20).unwrap().unwrap();
            if at == length {
                return;
            }
            to.receive(slot, at, &bytes).unwrap();
        }
    }

    #[test]
    fn what_is_left_of_another_incoming_snapshot_goes_when_a_new_one_begins() {
        let media = SimMedia::new();
        let to = Snapshots::open(media.clone()).unwrap();
        to.receive(Slot(7), 0, &[7; 100_000]).unwrap();
        to.receive(Slot(9), 0, &[9; 10]).unwrap();
        assert_eq!((to.received(Slot(7)), to.received(Slot(9))), (0, 10));
        to.discard(Slot(9)).unwrap();
        to.discard(Slot(9)).unwrap();
        assert_eq!(media.list().unwrap(), [""; 0]);
    }

    #[test]
    fn nothing_is_left_of_incoming_snapshots_when_one_is_installed() {
        let from = Snapshots::open(SimMedia::new()).unwrap();
        from.write(&machine(9).freeze()).unwrap();
        let media = SimMedia::new();
        let to = Snapshots::open(media.clone()).unwrap();
        send(&from, &to, Slot(9));
        to.install(Slot(9)).unwrap();
        assert_eq!(media.list().unwrap(), [name(Slot(9))]);
    }

    #[test]
    fn a_snapshot_that_somebody_reads_stays_while_newer_ones_come() {
        let snapshots = Snapshots::open(SimMedia::new()).unwrap();
        snapshots.write(&machine(3).freeze()).unwrap();
        snapshots.hold(Slot(3));
        for slots in [5, 9, 12] {
            snapshots.write(&machine(slots).freeze()).unwrap();
        }
        assert_eq!(snapshots.slots().unwrap(), [3, 9, 12].map(Slot));
        // One at a time, and not forever.
        snapshots.hold(Slot(9));
        for slots in [15, 20] {
            snapshots.write(&machine(slots).freeze()).unwrap();
        }
        assert_eq!(snapshots.slots().unwrap(), [9, 15, 20].map(Slot));
        snapshots.clear().unwrap();
        assert_eq!(snapshots.slots().unwrap(), []);
    }

    #[test]
    fn a_snapshot_may_be_written_while_another_one_is_installed() {
        let folder = tempfile::tempdir().unwrap();
        let from = Snapshots::open(SimMedia::new()).unwrap();
        let to = Snapshots::open(FileMedia::open(folder.path()).unwrap()).unwrap();
        for round in 1..300 {
            let (own, others) = (10 * round, 10 * round + 5);
            from.write(&machine(others).freeze()).unwrap();
            send(&from, &to, Slot(others));
            let (writer, state) = (to.clone(), machine(own));
            let thread = std::thread::spawn(move || writer.write(&state.freeze()).map(drop));
            let installed = to.install(Slot(others)).map(drop);
            let written = thread.join().unwrap();
            assert!(written.is_ok() && installed.is_ok(), "round {round}");
        }
    }
}
