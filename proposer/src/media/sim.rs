//! A disk in memory for tests and the simulator: what a process sees, what has reached the platter,
//! and every way in which the two may differ after a crash. Nothing here is random but by a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Media, MediaFile, SECTOR_BYTES};

/// A simulated folder. Clones are the same folder.
#[derive(Clone, Debug, Default)]
pub struct SimMedia(Arc<Mutex<Disk>>);

/// A file of a [`SimMedia`]. A crash of the machine makes it useless, as it does a real one.
#[derive(Debug)]
pub struct SimFile {
    disk: Arc<Mutex<Disk>>,
    inode: u64,
    boot: u64,
}

/// What was durable on a [`SimMedia`] at some moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<String, u64>,
}

#[derive(Debug, Default)]
struct Disk {
    inodes: BTreeMap<u64, Inode>,
    /// As the process sees them.
    names: BTreeMap<String, u64>,
    /// As they are on the platter.
    synced_names: BTreeMap<String, u64>,
    /// Changes of names since the last `sync_dir`, in order.
    changes: Vec<Change>,
    next_inode: u64,
    /// Counts crashes and kills: a file opened before one is dead after it.
    boot: u64,
    operations: u64,
    halt_before: Option<u64>,
    fail_next_sync: bool,
    fail_next_write: Option<usize>,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    /// What reads return.
    cached: Vec<u8>,
    /// What has reached the platter.
    synced: Vec<u8>,
    /// Sectors written since the last sync.
    dirty: BTreeSet<usize>,
}

#[derive(Clone, Debug)]
enum Change {
    Link(String, u64),
    Unlink(String),
    Rename(String, String, u64),
}

impl SimMedia {
    /// An empty folder.
    pub fn new() -> SimMedia {
        SimMedia::default()
    }

    /// The machine loses power: every unsynced sector and every unsynced change of a name is kept
    /// or lost on its own. Seeds 0 and 1 modulo 8 lose all and keep all.
    pub fn crash(&self, seed: u64) {
        let mut random = SplitMix(seed);
        match seed % 8 {
            0 => self.crash_keeping(|_| false),
            1 => self.crash_keeping(|_| true),
            _ => self.crash_keeping(|_| random.next().is_multiple_of(2)),
        }
    }

    /// As [`SimMedia::crash`], but `keep` decides. It is asked for each unsynced change with its
    /// number: files in the order of their creation, per file its unsynced sectors from the first
    /// to the last and then its new length, and at the end the changes of names, oldest first.
    pub fn crash_keeping(&self, mut keep: impl FnMut(usize) -> bool) {
        let mut disk = self.lock();
        let mut number = 0;
        let mut keep = || {
            number += 1;
            keep(number - 1)
        };
        for inode in disk.inodes.values_mut() {
            for sector in std::mem::take(&mut inode.dirty) {
                if keep() {
                    inode.flush(sector);
                }
            }
            // The length may have become durable without the bytes: they read as zeros.
            if inode.synced.len() < inode.cached.len() && keep() {
                inode.synced.resize(inode.cached.len(), 0);
            }
            inode.cached = inode.synced.clone();
        }
        for change in std::mem::take(&mut disk.changes) {
            if keep() {
                change.apply(&mut disk.synced_names);
            }
        }
        disk.names = disk.synced_names.clone();
        let named: BTreeSet<u64> = disk.names.values().copied().collect();
        disk.inodes.retain(|inode, _| named.contains(inode));
        disk.boot();
    }

    /// The process ends and the machine lives on: what is unsynced stays in the cache, and nothing
    /// is to fail any more.
    pub fn kill(&self) {
        self.lock().boot();
    }

    /// How many operations that change the disk have begun: create, write, sync, truncate, rename,
    /// remove and `sync_dir`.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Operation number `operation` (from 0) and all later ones fail without effect, until the
    /// machine crashes.
    pub fn halt_before(&self, operation: u64) {
        self.lock().halt_before = Some(operation);
    }

    /// The next sync fails, and as on Linux what it should have written counts as clean from then
    /// on: every second sector has not reached the platter and no later sync will write it.
    pub fn fail_next_sync(&self) {
        self.lock().fail_next_sync = true;
    }

    /// The next write stops after about `bytes` bytes because the disk is full: within the file at
    /// the end of a sector, as a page of the cache is written whole or not at all.
    pub fn fail_next_write(&self, bytes: usize) {
        self.lock().fail_next_write = Some(bytes);
    }

    /// Flips one bit (0 to 7) of the byte at `offset`. Panics when there is no such byte.
    pub fn flip_bit(&self, name: &str, offset: usize, bit: u8) {
        let mut disk = self.lock();
        let inode = disk.names[name];
        let inode = disk.inodes.get_mut(&inode).expect("a name has an inode");
        inode.cached[offset] ^= 1 << bit;
        if let Some(byte) = inode.synced.get_mut(offset) {
            *byte ^= 1 << bit;
        }
    }

    /// A copy of what is durable now.
    pub fn snapshot(&self) -> Snapshot {
        let disk = self.lock();
        let mut inodes = disk.inodes.clone();
        for inode in inodes.values_mut() {
            inode.dirty.clear();
            inode.cached = inode.synced.clone();
        }
        let names = disk.synced_names.clone();
        Snapshot { inodes, names }
    }

    /// The machine stops and comes back with the content of an earlier moment, or of another disk.
    pub fn restore(&self, snapshot: &Snapshot) {
        let mut disk = self.lock();
        let last = snapshot.inodes.last_key_value();
        disk.next_inode = disk.next_inode.max(last.map_or(0, |(inode, _)| inode + 1));
        disk.inodes = snapshot.inodes.clone();
        disk.names = snapshot.names.clone();
        disk.synced_names = snapshot.names.clone();
        disk.changes.clear();
        disk.boot();
    }

    /// The machine stops and comes back with an empty disk.
    pub fn wipe(&self) {
        self.restore(&Snapshot {
            inodes: BTreeMap::new(),
            names: BTreeMap::new(),
        });
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, inode: u64, boot: u64) -> SimFile {
        SimFile {
            disk: Arc::clone(&self.0),
            inode,
            boot,
        }
    }
}

impl Media for SimMedia {
    type File = SimFile;

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.lock().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<SimFile> {
        let mut disk = self.lock();
        disk.begin()?;
        if disk.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = disk.next_inode;
        disk.next_inode += 1;
        disk.inodes.insert(inode, Inode::default());
        disk.change(Change::Link(name.to_owned(), inode));
        Ok(self.file(inode, disk.boot))
    }

    fn open(&self, name: &str) -> io::Result<SimFile> {
        let disk = self.lock();
        let inode = disk.find(name)?;
        Ok(self.file(inode, disk.boot))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.lock();
        disk.begin()?;
        let inode = disk.find(from)?;
        disk.change(Change::Rename(from.to_owned(), to.to_owned(), inode));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.lock();
        disk.begin()?;
        disk.find(name)?;
        disk.change(Change::Unlink(name.to_owned()));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut disk = self.lock();
        disk.begin()?;
        if std::mem::take(&mut disk.fail_next_sync) {
            return Err(io::Error::other("injected: fsync of the folder failed"));
        }
        disk.changes.clear();
        disk.synced_names = disk.names.clone();
        Ok(())
    }

    fn describe(&self, name: &str) -> String {
        name.to_owned()
    }
}

impl SimFile {
    /// Runs on the file's inode, unless the machine has crashed since the file was opened.
    fn with<T>(&self, run: impl FnOnce(&mut Disk, u64) -> io::Result<T>) -> io::Result<T> {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        if disk.boot != self.boot {
            return Err(io::Error::other("injected: the machine has crashed"));
        }
        run(&mut disk, self.inode)
    }
}

impl MediaFile for SimFile {
    fn size(&self) -> io::Result<u64> {
        self.with(|disk, inode| Ok(disk.inode(inode).cached.len() as u64))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.with(|disk, inode| {
            let start = offset as usize;
            let bytes = disk
                .inode(inode)
                .cached
                .get(start..start + buffer.len())
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(bytes);
            Ok(())
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.with(|disk, inode| {
            disk.begin()?;
            let full = disk.fail_next_write.take();
            let (inode, offset) = (disk.inode(inode), offset as usize);
            let mut count = full.unwrap_or(bytes.len()).min(bytes.len());
            if count < bytes.len() && offset + count < inode.cached.len() {
                let end = (offset + count) / SECTOR_BYTES * SECTOR_BYTES;
                count = end.saturating_sub(offset);
            }
            inode.write(&bytes[..count], offset);
            match full {
                Some(_) => Err(io::ErrorKind::StorageFull.into()),
                None => Ok(()),
            }
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|disk, inode| {
            disk.begin()?;
            let fails = std::mem::take(&mut disk.fail_next_sync);
            let inode = disk.inode(inode);
            for (index, sector) in std::mem::take(&mut inode.dirty).into_iter().enumerate() {
                if !fails || index % 2 == 1 {
                    inode.flush(sector);
                }
            }
            if fails {
                return Err(io::Error::other("injected: fsync failed"));
            }
            // After a failed sync `cached` may hold clean sectors the platter lacks; only the
            // length is settled here.
            inode.synced.resize(inode.cached.len(), 0);
            Ok(())
        })
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.with(|disk, inode| {
            disk.begin()?;
            let inode = disk.inode(inode);
            let length = length as usize;
            inode.cached.resize(length, 0);
            inode.synced.resize(length, 0);
            inode.dirty.retain(|sector| sector * SECTOR_BYTES < length);
            Ok(())
        })
    }
}

impl Disk {
    /// The machine starts: old files are dead, injected faults are over.
    fn boot(&mut self) {
        self.boot += 1;
        self.halt_before = None;
        self.fail_next_sync = false;
        self.fail_next_write = None;
    }

    /// Counts an operation and refuses it when the process is to halt before it.
    fn begin(&mut self) -> io::Result<()> {
        if self.halt_before.is_some_and(|halt| self.operations >= halt) {
            return Err(io::Error::other("injected: the process has halted"));
        }
        self.operations += 1;
        Ok(())
    }

    fn find(&self, name: &str) -> io::Result<u64> {
        let inode = self.names.get(name).copied();
        inode.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// A file keeps its inode as long as the machine runs, named or not.
    fn inode(&mut self, inode: u64) -> &mut Inode {
        self.inodes.entry(inode).or_default()
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.changes.push(change);
    }
}

impl Inode {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len();
        if self.cached.len() < end {
            self.cached.resize(end, 0);
        }
        self.cached[offset..end].copy_from_slice(bytes);
        self.dirty
            .extend(offset / SECTOR_BYTES..=(end - 1) / SECTOR_BYTES);
    }

    fn flush(&mut self, sector: usize) {
        let start = sector * SECTOR_BYTES;
        let end = self.cached.len().min(start + SECTOR_BYTES);
        if self.synced.len() < end {
            self.synced.resize(end, 0);
        }
        self.synced[start..end].copy_from_slice(&self.cached[start..end]);
    }
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Change::Link(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            Change::Unlink(name) => {
                names.remove(name);
            }
            Change::Rename(from, to, inode) => {
                if names.get(from) == Some(inode) {
                    names.remove(from);
                }
                names.insert(to.clone(), *inode);
            }
        }
    }
}

/// Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_on_a_restored_disk_is_none_of_the_restored_ones() {
        let from = SimMedia::new();
        let file = from.create("old").unwrap();
        file.write_at(b"old", 0).unwrap();
        file.sync_data().unwrap();
        from.sync_dir().unwrap();
        let to = SimMedia::new();
        to.restore(&from.snapshot());
        to.create("new").unwrap().write_at(b"new", 0).unwrap();
        assert_eq!(to.open("old").unwrap().read_all().unwrap(), b"old"[..]);
    }
}
