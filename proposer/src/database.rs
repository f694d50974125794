//! A store's state on its disk: the resources, the session table and the last slot applied, in one
//! redb file. A batch of entries and the slot that they lead to are one durable transaction, so each
//! takes effect once, wherever a crash falls. Resources are read from the file, not from memory.
//!
//! redb 4.6 against fjall 3.1, both measured on 2 cores with 512,000 writes of 256 bytes in durable
//! batches of 256 and 1,024, each with its session row, over 1,000 to 100,000 resources; restarted
//! after an abort, sessions read and, in redb, every page verified:
//!
//! | | writes/s | disk, MB | resident, MB | restart, ms | get, µs |
//! |---|---|---|---|---|---|
//! | redb | 28,500–138,500 | 8–52 | 11–57 | 42–92 | 1–3 |
//! | fjall | 52,600–107,200 | 196–241 | 192–288 | 1,950–2,590 | 1–3 |
//!
//! Either is faster than the log it follows; redb holds less, restarts sooner and checks itself.

use std::fs;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use paxos::codec::Entry;
use paxos::ids::Slot;
use paxos::machine::{
    Current, Ledger, NotApplied, Page, PageLimits, Resource, Resources, page_start,
};
use paxos::outcome::resource_bytes;
use paxos::snapshot::write_parts;
use redb::{
    Builder, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable,
    ReadableTableMetadata, Table, TableDefinition, WriteTransaction,
};

use crate::media::{FileMedia, Media};
use crate::snapshots::{Snapshots, UnpackError};

/// By name: the checksum of the bytes, then those of [`Resource::write`].
const RESOURCES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("resources");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const APPLIED: &str = "applied";
/// A checksum of the value of that slot, if it is known: a snapshot holds none.
const LAST_VALUE: &str = "last-value";
const FORMAT: &str = "format";
/// Of a log without a stamp; see [`sessions`].
const FORMAT_EARLY: u64 = 1;
const FORMAT_NOW: u64 = 2;

const FILE: &str = "store.redb";
/// A file under its own name was complete once: an empty one is damage, not a beginning.
const UNFINISHED: &str = "unfinished.redb";
/// Pages kept in memory, beside what the kernel keeps.
const CACHE_BYTES: usize = 64 << 20;

mod sessions;

/// The open database. Cheap to clone; reads run beside the one writer.
#[derive(Clone)]
pub struct Database {
    db: Arc<redb::Database>,
    path: Arc<Path>,
    _lock: FileMedia,
}

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its folder.
    #[error("cannot use the store's folder {path}: {source}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What it holds is not what was written.
    #[error(
        "the store's database {path} is damaged: {reason} (to start over, move it away: the store \
         then gets everything from the learners)"
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// How.
        reason: String,
    },
    /// The disk or the engine refused.
    #[error("cannot use the store's database {path}: {source}")]
    Engine {
        /// Which.
        path: PathBuf,
        /// Why.
        source: redb::Error,
    },
}

/// Why entries were not applied. None of them is.
#[derive(Debug)]
pub enum ApplyError {
    /// This version cannot continue.
    Halt(String),
    /// The database failed.
    Database(Error),
}

impl Database {
    /// Opens the database in a folder, made if absent, and verifies every page of it. Returns it
    /// with all of the state but the resources.
    pub fn open(folder: &Path) -> Result<(Database, Ledger), Error> {
        let in_folder = |source| Error::Folder {
            path: folder.to_owned(),
            source,
        };
        let media = FileMedia::open(folder).map_err(in_folder)?;
        let path: Arc<Path> = folder.join(FILE).into();
        match fs::metadata(&path) {
            Ok(found) if found.len() == 0 => return Err(damaged(&path, "it is empty")),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                create(&folder.join(UNFINISHED)).map_err(|error| at(&path, error))?;
                let named = media.rename(UNFINISHED, FILE);
                named.and_then(|()| media.sync_dir()).map_err(in_folder)?;
            }
            Err(source) => return Err(in_folder(source)),
        }
        let mut builder = Builder::new();
        let builder = builder.set_cache_size(CACHE_BYTES);
        let opened = builder.set_check_integrity_on_open(true).open(&path);
        let database = Database {
            db: Arc::new(opened.map_err(|error| at(&path, error))?),
            path,
            _lock: media,
        };
        let ledger = database.ledger()?;
        Ok((database, ledger))
    }

    /// Hands over the parts of a snapshot of what was committed last, and returns its slot.
    pub fn write_snapshot(
        &self,
        part: &mut dyn FnMut(Bytes) -> io::Result<()>,
    ) -> io::Result<Slot> {
        let wrap = |error: redb::Error| io::Error::other(at(&self.path, error));
        let read = self.db.begin_read().map_err(|e| wrap(e.into()))?;
        let ledger = self.ledger_in(&read).map_err(io::Error::other)?;
        let table = read.open_table(RESOURCES).map_err(|e| wrap(e.into()))?;
        let count = table.len().map_err(|e| wrap(e.into()))?;
        let rows = table.range::<&str>(..).map_err(|e| wrap(e.into()))?;
        let resources = rows.map(|row| {
            let (name, bytes) = row.map_err(|e| wrap(e.into()))?;
            let name: Box<str> = name.value().into();
            let resource = decode(bytes.value(), &name, &self.path).map_err(io::Error::other)?;
            Ok((name, resource))
        });
        let sessions = ledger.sessions().copy();
        write_parts(ledger.applied(), &sessions, count, resources, part)?;
        Ok(ledger.applied())
    }

    fn ledger(&self) -> Result<Ledger, Error> {
        let read = self.db.begin_read();
        self.ledger_in(&read.map_err(|error| at(&self.path, error))?)
    }

    fn ledger_in(&self, read: &ReadTransaction) -> Result<Ledger, Error> {
        let wrap = |error: redb::Error| at(&self.path, error);
        let damaged = |reason: &str| damaged(&self.path, reason);
        let meta = read.open_table(META).map_err(|e| wrap(e.into()))?;
        let number = |name| match meta.get(name) {
            Ok(Some(number)) => Ok(number.value()),
            Ok(None) => Err(damaged("it names no instance")),
            Err(error) => Err(wrap(error.into())),
        };
        match number(FORMAT)? {
            FORMAT_EARLY | FORMAT_NOW => {}
            other => {
                let reason = format!("it has format {other}, this version knows {FORMAT_NOW}");
                return Err(damaged(&reason));
            }
        }
        let mut ledger = Ledger::at(Slot(number(APPLIED)?));
        let rows = read.open_table(RESOURCES).map_err(|e| wrap(e.into()))?;
        for row in rows.iter().map_err(|e| wrap(e.into()))? {
            let (name, bytes) = row.map_err(|e| wrap(e.into()))?;
            let (name, bytes) = (name.value(), bytes.value());
            let current = current(name, bytes).ok_or_else(|| rotten(name, &self.path))?;
            ledger.restored(current.bytes);
        }
        sessions::load(read, ledger.sessions_mut(), &self.path)?;
        ledger.sessions_mut().keep_journal();
        Ok(ledger)
    }

    /// Applies the entries that follow `ledger`, and makes them durable together. Checks that each
    /// gives what it gave at the learner: the state machine is deterministic, so anything else means
    /// damage or a changed meaning. After an error `ledger` must not be used any more.
    pub fn apply(&self, ledger: &mut Ledger, entries: &[Entry]) -> Result<(), ApplyError> {
        let before = ledger.applied();
        let write = self.begin().map_err(ApplyError::Database)?;
        let mut resources = self.resources(&write).map_err(ApplyError::Database)?;
        for entry in entries {
            let applied = ledger
                .apply(&mut resources, entry.slot, &entry.value)
                .map_err(|error| match error {
                    NotApplied::Undecodable(why) => {
                        ApplyError::Halt(format!("instance {}: {why}", entry.slot))
                    }
                    NotApplied::Resources(error) => ApplyError::Database(error),
                })?;
            if !applied.repeats(&entry.applied) {
                return Err(ApplyError::Halt(format!(
                    "instance {} gave {:?} at a learner and gives {applied:?} here",
                    entry.slot, entry.applied
                )));
            }
        }
        drop(resources);
        let last = entries.last().map(|entry| entry.value.checksum());
        let kept = self.keep(write, ledger, before, last);
        kept.map_err(ApplyError::Database)
    }

    /// Puts an incoming snapshot in place of everything, all at once, and returns its ledger.
    pub fn install<M: Media>(
        &self,
        snapshots: &Snapshots<M>,
        slot: Slot,
    ) -> Result<Ledger, UnpackError<Error>> {
        let write = self.begin().map_err(UnpackError::Resources)?;
        let emptied = write.delete_table(RESOURCES);
        emptied.map_err(|error| UnpackError::Resources(at(&self.path, error)))?;
        sessions::empty(&write, &self.path).map_err(UnpackError::Resources)?;
        let mut resources = self.resources(&write).map_err(UnpackError::Resources)?;
        let mut ledger = snapshots.unpack(slot, &mut resources)?;
        drop(resources);
        ledger.sessions_mut().keep_journal();
        let written = sessions::write_all(&write, ledger.sessions(), &self.path);
        written.map_err(UnpackError::Resources)?;
        let kept = self.commit(write, &ledger, None);
        kept.map_err(UnpackError::Resources)?;
        Ok(ledger)
    }

    /// A checksum of the last value applied, if it is known.
    pub fn last_value(&self) -> Result<Option<u64>, Error> {
        let wrap = |error: redb::Error| at(&self.path, error);
        let read = self.db.begin_read().map_err(|e| wrap(e.into()))?;
        let meta = read.open_table(META).map_err(|e| wrap(e.into()))?;
        let found = meta.get(LAST_VALUE).map_err(|e| wrap(e.into()))?;
        Ok(found.map(|checksum| checksum.value()))
    }

    /// A resource by name, as of the last commit.
    pub fn resource(&self, name: &str) -> Result<Option<Resource>, Error> {
        get(&self.committed()?, name, &self.path)
    }

    /// A page of resources in the order of their names, all as of one commit.
    pub fn page(
        &self,
        prefix: &str,
        after: Option<&str>,
        limits: PageLimits,
    ) -> Result<Page, Error> {
        let wrap = |error: redb::Error| at(&self.path, error);
        let read = self.db.begin_read().map_err(|e| wrap(e.into()))?;
        let meta = read.open_table(META).map_err(|e| wrap(e.into()))?;
        let applied = meta.get(APPLIED).map_err(|e| wrap(e.into()))?;
        let applied = Slot(applied.map_or(0, |slot| slot.value()));
        let table = read.open_table(RESOURCES).map_err(|e| wrap(e.into()))?;
        let rows = table.range::<&str>((page_start(prefix, after), Bound::Unbounded));
        let rows = rows.map_err(|e| wrap(e.into()))?.map(|row| {
            let (name, bytes) = row.map_err(|e| wrap(e.into()))?;
            let (name, resource) = (
                name.value(),
                decode(bytes.value(), name.value(), &self.path)?,
            );
            Ok((name.into(), resource))
        });
        Page::fill(applied, prefix, limits, rows)
    }

    /// How many resources there are.
    pub fn resource_count(&self) -> Result<u64, Error> {
        let resources = self.committed()?;
        resources.len().map_err(|error| at(&self.path, error))
    }

    /// The resources as of the last commit.
    fn committed(&self) -> Result<ReadOnlyTable<&'static str, &'static [u8]>, Error> {
        let wrap = |error: redb::Error| at(&self.path, error);
        let read = self.db.begin_read().map_err(|e| wrap(e.into()))?;
        read.open_table(RESOURCES).map_err(|e| wrap(e.into()))
    }

    fn begin(&self) -> Result<WriteTransaction, Error> {
        // Durable at its commit is redb's default.
        self.db.begin_write().map_err(|error| at(&self.path, error))
    }

    fn resources<'a>(&'a self, write: &'a WriteTransaction) -> Result<OnDisk<'a>, Error> {
        let table = write.open_table(RESOURCES);
        Ok(OnDisk {
            table: table.map_err(|error| at(&self.path, error))?,
            path: &self.path,
        })
    }

    /// Notes what has changed in the ledger since a slot, and commits.
    fn keep(
        &self,
        write: WriteTransaction,
        ledger: &mut Ledger,
        since: Slot,
        last_value: Option<u64>,
    ) -> Result<(), Error> {
        sessions::write_changes(&write, ledger.sessions_mut(), since, &self.path)?;
        self.commit(write, ledger, last_value)
    }

    fn commit(
        &self,
        write: WriteTransaction,
        ledger: &Ledger,
        last_value: Option<u64>,
    ) -> Result<(), Error> {
        let wrap = |error: redb::Error| at(&self.path, error);
        {
            let mut meta = write.open_table(META).map_err(|e| wrap(e.into()))?;
            let applied = meta.insert(APPLIED, ledger.applied().0);
            applied.map_err(|e| wrap(e.into()))?;
            let last_value = match last_value {
                Some(checksum) => meta.insert(LAST_VALUE, checksum),
                None => meta.remove(LAST_VALUE),
            };
            last_value.map_err(|e| wrap(e.into()))?;
            // An earlier build must not continue with a log time that it does not know.
            let format = match ledger.terms() {
                Some(_) => FORMAT_NOW,
                None => FORMAT_EARLY,
            };
            let format = meta.insert(FORMAT, format);
            format.map_err(|e| wrap(e.into()))?;
        }
        write.commit().map_err(|error| at(&self.path, error))
    }
}

/// An empty database under a name that does not count yet.
fn create(path: &Path) -> Result<(), redb::Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let db = Builder::new().create(path)?;
    let write = db.begin_write()?;
    write.open_table(RESOURCES)?;
    write.open_table(sessions::EARLY)?;
    {
        let mut meta = write.open_table(META)?;
        meta.insert(APPLIED, 0)?;
        meta.insert(FORMAT, FORMAT_EARLY)?;
    }
    write.commit()?;
    db.close()?;
    Ok(())
}

/// The resources within a write transaction.
struct OnDisk<'a> {
    table: Table<'a, &'static str, &'static [u8]>,
    path: &'a Path,
}

impl Resources for OnDisk<'_> {
    type Error = Error;

    fn current(&self, name: &str) -> Result<Option<Current>, Error> {
        let found = self.table.get(name).map_err(|error| at(self.path, error))?;
        let current = |bytes: redb::AccessGuard<'_, &[u8]>| {
            current(name, bytes.value()).ok_or_else(|| rotten(name, self.path))
        };
        found.map(current).transpose()
    }

    fn get(&self, name: &str) -> Result<Option<Resource>, Error> {
        get(&self.table, name, self.path)
    }

    fn put(&mut self, name: &str, resource: Resource) -> Result<(), Error> {
        let mut bytes = BytesMut::with_capacity(64 + resource.data.len());
        bytes.put_u32_le(0);
        resource.write(&mut bytes);
        let checksum = crc32c::crc32c(&bytes[4..]);
        bytes[..4].copy_from_slice(&checksum.to_le_bytes());
        let put = self.table.insert(name, &bytes[..]);
        put.map(drop).map_err(|error| at(self.path, error))
    }

    fn remove(&mut self, name: &str) -> Result<(), Error> {
        let removed = self.table.remove(name);
        removed.map(drop).map_err(|error| at(self.path, error))
    }
}

fn get(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &str,
    path: &Path,
) -> Result<Option<Resource>, Error> {
    let found = table.get(name).map_err(|error| at(path, error))?;
    found
        .map(|bytes| decode(bytes.value(), name, path))
        .transpose()
}

fn decode(bytes: &[u8], name: &str, path: &Path) -> Result<Resource, Error> {
    let bytes = checked(bytes).map(Bytes::copy_from_slice);
    let resource = bytes.and_then(|mut bytes| Resource::read(&mut bytes).ok());
    resource.ok_or_else(|| rotten(name, path))
}

/// How a resource stands by its row; `None` if that is not as it was written.
fn current(name: &str, bytes: &[u8]) -> Option<Current> {
    let mut bytes = checked(bytes)?;
    let texts = Resource::texts_in(bytes.len());
    Some(Current {
        version: bytes.try_get_u64_le().ok()?,
        slot: Slot(bytes.try_get_u64_le().ok()?),
        bytes: resource_bytes(name.len(), texts, 0),
    })
}

/// What follows the checksum, if it is as it was written. The engine verifies pages when it opens;
/// this finds what rots later.
fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let (checksum, bytes) = bytes.split_first_chunk()?;
    (crc32c::crc32c(bytes) == u32::from_le_bytes(*checksum)).then_some(bytes)
}

fn rotten(name: &str, path: &Path) -> Error {
    damaged(
        path,
        &format!("the resource {name:?} is not as it was written"),
    )
}

fn damaged(path: &Path, reason: &str) -> Error {
    Error::Damaged {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}

fn at(path: &Path, error: impl Into<redb::Error>) -> Error {
    match error.into() {
        redb::Error::Corrupted(reason) => damaged(path, &reason),
        source => Error::Engine {
            path: path.to_owned(),
            source,
        },
    }
}

#[cfg(test)]
mod tests;
