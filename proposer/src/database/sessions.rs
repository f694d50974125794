//! The session table in the store's database: by rows, of which each commit writes those that changed.

use std::path::Path;

use bytes::{Bytes, BytesMut};
use paxos::ids::Slot;
use paxos::sessions::{ClientRow, RequestRow, SequencedRow, Session, Sessions, TimeRow};
use redb::{ReadTransaction, ReadableTable, TableDefinition, TableError, WriteTransaction};

use super::{Error, at, damaged};

type BySlot = TableDefinition<'static, u64, &'static [u8]>;

/// Requests of a log without a stamp, by slot. The only table that the first release knows.
pub(super) const EARLY: BySlot = TableDefinition::new("sessions");
/// Requests with a client, by slot.
const REQUESTS: BySlot = TableDefinition::new("requests");
/// Outcomes in clients' windows, by slot.
const SEQUENCED: BySlot = TableDefinition::new("sequenced");
/// Clients, by key.
const CLIENTS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("clients");
/// Log time, under number 0.
const TIME: BySlot = TableDefinition::new("time");

/// Reads the whole table.
pub(super) fn load(
    read: &ReadTransaction,
    sessions: &mut Sessions,
    path: &Path,
) -> Result<(), Error> {
    let misplaced = |reason: &'static str| damaged(path, reason);
    each(read, TIME, path, |bytes| {
        sessions.restore_time(parsed(TimeRow::read(bytes), path)?);
        Ok(())
    })?;
    each(read, EARLY, path, |bytes| {
        let session = parsed(Session::read(bytes), path)?;
        sessions.restore_early(session).map_err(misplaced)
    })?;
    let mut clients = Vec::new();
    if let Some(table) = there(read.open_table(CLIENTS), path)? {
        for row in table.iter().map_err(|error| at(path, error))? {
            let (_, bytes) = row.map_err(|error| at(path, error))?;
            let mut bytes = Bytes::copy_from_slice(bytes.value());
            clients.push(parsed(ClientRow::read(&mut bytes), path)?);
        }
    }
    clients.sort_unstable_by_key(|client| client.used);
    for client in clients {
        sessions.restore_client(client).map_err(misplaced)?;
    }
    each(read, REQUESTS, path, |bytes| {
        let row = parsed(RequestRow::read(bytes), path)?;
        sessions.restore_request(row).map_err(misplaced)
    })?;
    each(read, SEQUENCED, path, |bytes| {
        let row = parsed(SequencedRow::read(bytes), path)?;
        sessions.restore_sequenced(row).map_err(misplaced)
    })
}

fn each(
    read: &ReadTransaction,
    table: BySlot,
    path: &Path,
    mut take: impl FnMut(&mut Bytes) -> Result<(), Error>,
) -> Result<(), Error> {
    let Some(table) = there(read.open_table(table), path)? else {
        return Ok(());
    };
    for row in table.iter().map_err(|error| at(path, error))? {
        let (_, bytes) = row.map_err(|error| at(path, error))?;
        take(&mut Bytes::copy_from_slice(bytes.value()))?;
    }
    Ok(())
}

/// A table that there may not be yet.
fn there<T>(opened: Result<T, TableError>, path: &Path) -> Result<Option<T>, Error> {
    match opened {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(at(path, error)),
    }
}

fn parsed<T, E: std::fmt::Display>(row: Result<T, E>, path: &Path) -> Result<T, Error> {
    row.map_err(|error| damaged(path, &error.to_string()))
}

/// Takes all rows away.
pub(super) fn empty(write: &WriteTransaction, path: &Path) -> Result<(), Error> {
    for table in [EARLY, REQUESTS, SEQUENCED, TIME] {
        write.delete_table(table).map_err(|error| at(path, error))?;
    }
    write
        .delete_table(CLIENTS)
        .map_err(|error| at(path, error))?;
    Ok(())
}

/// Writes the whole table.
pub(super) fn write_all(
    write: &WriteTransaction,
    sessions: &Sessions,
    path: &Path,
) -> Result<(), Error> {
    let copy = sessions.copy();
    put(write, EARLY, copy.early().map(early_row), path)?;
    let Some(time) = sessions.time() else {
        return Ok(());
    };
    put(write, TIME, [time_row(time)].into_iter(), path)?;
    put_clients(write, copy.clients().map(|row| (row.key, Some(row))), path)?;
    put(write, REQUESTS, copy.requests().map(request_row), path)?;
    put(write, SEQUENCED, copy.sequenced().map(sequenced_row), path)
}

/// Writes what has changed since a slot, up to which everything is written.
pub(super) fn write_changes(
    write: &WriteTransaction,
    sessions: &mut Sessions,
    since: Slot,
    path: &Path,
) -> Result<(), Error> {
    let journal = sessions.take_journal();
    let (early, requests) = sessions.since(since);
    put(write, EARLY, early.iter().map(early_row), path)?;
    remove(write, EARLY, &journal.forgotten, path)?;
    let Some(time) = sessions.time() else {
        return Ok(());
    };
    put(write, TIME, [time_row(time)].into_iter(), path)?;
    put(write, REQUESTS, requests.into_iter().map(request_row), path)?;
    remove(write, REQUESTS, &journal.forgotten, path)?;
    let keys = || journal.clients.iter().copied();
    let sequenced = keys().flat_map(|key| sessions.sequenced_since(key, since));
    put(write, SEQUENCED, sequenced.map(sequenced_row), path)?;
    remove(write, SEQUENCED, &journal.forgotten, path)?;
    put_clients(write, keys().map(|key| (key, sessions.client(key))), path)
}

fn time_row(time: TimeRow) -> (u64, BytesMut) {
    (0, bytes(|out| time.write(out)))
}

fn early_row(session: &Session) -> (u64, BytesMut) {
    (session.slot.0, bytes(|out| session.write(out)))
}

fn request_row(row: RequestRow) -> (u64, BytesMut) {
    (row.slot.0, bytes(|out| row.write(out)))
}

fn sequenced_row(row: SequencedRow) -> (u64, BytesMut) {
    (row.slot.0, bytes(|out| row.write(out)))
}

fn bytes(write: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut out = BytesMut::new();
    write(&mut out);
    out
}

fn put(
    write: &WriteTransaction,
    table: BySlot,
    rows: impl Iterator<Item = (u64, BytesMut)>,
    path: &Path,
) -> Result<(), Error> {
    let mut table = write.open_table(table).map_err(|error| at(path, error))?;
    for (slot, bytes) in rows {
        let put = table.insert(slot, &bytes[..]);
        put.map_err(|error| at(path, error))?;
    }
    Ok(())
}

fn remove(
    write: &WriteTransaction,
    table: BySlot,
    slots: &[Slot],
    path: &Path,
) -> Result<(), Error> {
    let mut table = write.open_table(table).map_err(|error| at(path, error))?;
    for slot in slots {
        table.remove(slot.0).map_err(|error| at(path, error))?;
    }
    Ok(())
}

fn put_clients(
    write: &WriteTransaction,
    rows: impl Iterator<Item = (u128, Option<ClientRow>)>,
    path: &Path,
) -> Result<(), Error> {
    let mut table = write.open_table(CLIENTS).map_err(|error| at(path, error))?;
    for (key, row) in rows {
        let done = match row {
            Some(row) => table
                .insert(key, &bytes(|out| row.write(out))[..])
                .map(drop),
            None => table.remove(key).map(drop),
        };
        done.map_err(|error| at(path, error))?;
    }
    Ok(())
}
