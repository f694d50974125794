//! The bytes of a whole [`Machine`], in parts of bounded size, so that nothing needs it in memory
//! twice. The first part names the slot and the counts, and the last one says that nothing is
//! missing.

use bytes::{BufMut, Bytes, BytesMut};

use super::ids::Slot;
use super::machine::{Frozen, Ledger, Machine, Resources};
use super::outcome::{Resource, resource_bytes};
pub use super::rows::Malformed;
use super::rows::{put_bytes, text, u8, u64};
use super::sessions::{ClientRow, Copy as Sessions, RequestRow, SequencedRow, Session, TimeRow};

/// A part is closed when it has grown to this many bytes.
const PART_BYTES: usize = 256 << 10;
const HEAD: u8 = 1;
const RESOURCES: u8 = 2;
/// Requests of a log without a stamp.
const SESSIONS: u8 = 3;
const END: u8 = 4;
/// Log time and counts; this and the rest are there once a stamp was applied.
const TIME: u8 = 5;
const CLIENTS: u8 = 6;
const REQUESTS: u8 = 7;
const SEQUENCED: u8 = 8;

impl Machine {
    /// Hands the parts of this state to `part`, in order.
    pub fn write_snapshot<E>(&self, part: impl FnMut(Bytes) -> Result<(), E>) -> Result<(), E> {
        self.freeze().write_snapshot(part)
    }
}

/// Closes a part when it is full.
struct Parts<P> {
    out: BytesMut,
    part: P,
}

impl<E, P: FnMut(Bytes) -> Result<(), E>> Parts<P> {
    /// All rows, in parts of this kind.
    fn rows<T>(
        &mut self,
        kind: u8,
        rows: impl Iterator<Item = Result<T, E>>,
        write: impl Fn(T, &mut BytesMut),
    ) -> Result<(), E> {
        for row in rows {
            let row = row?;
            if self.out.is_empty() {
                self.out.put_u8(kind);
            }
            write(row, &mut self.out);
            if self.out.len() >= PART_BYTES {
                self.close()?;
            }
        }
        self.close()
    }

    fn close(&mut self) -> Result<(), E> {
        match self.out.is_empty() {
            true => Ok(()),
            false => (self.part)(self.out.split().freeze()),
        }
    }
}

impl Frozen {
    /// Hands the parts of this state to `part`, in order.
    pub fn write_snapshot<E>(&self, part: impl FnMut(Bytes) -> Result<(), E>) -> Result<(), E> {
        let count = self.resources.len() as u64;
        let resources = self.resources.iter().map(Ok);
        write_parts(self.applied, &self.sessions, count, resources, part)
    }
}

/// Hands the parts of a state to `part`, in order: `count` resources, wherever they are kept, and the
/// rest.
pub fn write_parts<E, N: AsRef<str>>(
    applied: Slot,
    sessions: &Sessions,
    count: u64,
    resources: impl Iterator<Item = Result<(N, Resource), E>>,
    part: impl FnMut(Bytes) -> Result<(), E>,
) -> Result<(), E> {
    let mut parts = Parts {
        out: BytesMut::new(),
        part,
    };
    parts.out.put_u8(HEAD);
    parts.out.put_u64_le(applied.0);
    parts.out.put_u64_le(count);
    parts.out.put_u64_le(sessions.early_count() as u64);
    parts.close()?;
    parts.rows(RESOURCES, resources, |(name, resource), out| {
        put_bytes(out, name.as_ref().as_bytes());
        resource.write(out);
    })?;
    parts.rows(SESSIONS, sessions.early().map(Ok), Session::write)?;
    if let Some(time) = sessions.time() {
        parts.out.put_u8(TIME);
        time.write(&mut parts.out);
        for count in sessions.counts() {
            parts.out.put_u64_le(count);
        }
        parts.close()?;
        parts.rows(CLIENTS, sessions.clients().map(Ok), |row, out| {
            row.write(out)
        })?;
        parts.rows(REQUESTS, sessions.requests().map(Ok), |row, out| {
            row.write(out)
        })?;
        parts.rows(SEQUENCED, sessions.sequenced().map(Ok), |row, out| {
            row.write(out)
        })?;
    }
    parts.out.put_u8(END);
    parts.close()
}

/// Why a part was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken<E> {
    /// It is no part, or not the next one.
    Malformed(Malformed),
    /// The resources cannot be kept.
    Resources(E),
}

impl<E> From<Malformed> for NotTaken<E> {
    fn from(malformed: Malformed) -> NotTaken<E> {
        NotTaken::Malformed(malformed)
    }
}

/// How many rows there are of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    resources: u64,
    early: u64,
    /// Clients, requests, outcomes in windows.
    timed: [u64; 3],
}

/// Takes parts in order and gives the state back: resources as they come, the rest at the end.
#[derive(Debug, Default)]
pub struct Reader {
    ledger: Ledger,
    read: Counts,
    /// As the first part and that of the time announced.
    announced: Option<Counts>,
    has_time: bool,
    ended: bool,
}

impl Reader {
    /// Takes the next part. `resources` must be empty before the first.
    pub fn part<R: Resources>(
        &mut self,
        mut bytes: Bytes,
        resources: &mut R,
    ) -> Result<(), NotTaken<R::Error>> {
        if self.ended {
            return Err(Malformed("something follows its end").into());
        }
        let kind = u8(&mut bytes)?;
        if kind == RESOURCES && self.announced.is_some() {
            while !bytes.is_empty() {
                let name = text(&mut bytes)?;
                let resource = Resource::read(&mut bytes)?;
                let lengths = (name.len(), resource.data.len());
                let size = resource_bytes(lengths.0, lengths.1, resource.client_id.len());
                let put = resources.put(&name, resource);
                put.map_err(NotTaken::Resources)?;
                self.ledger.restored(size);
                self.read.resources += 1;
            }
        } else {
            self.rest(kind, &mut bytes)?;
        }
        if bytes.is_empty() {
            Ok(())
        } else {
            Err(Malformed("bytes follow a part's end").into())
        }
    }

    /// All kinds but resources.
    fn rest(&mut self, kind: u8, bytes: &mut Bytes) -> Result<(), Malformed> {
        let sessions = self.ledger.sessions_mut();
        match (kind, &mut self.announced) {
            (HEAD, None) => {
                self.ledger = Ledger::at(Slot(u64(bytes)?));
                self.announced = Some(Counts {
                    resources: u64(bytes)?,
                    early: u64(bytes)?,
                    ..Counts::default()
                });
            }
            (SESSIONS, Some(_)) if !self.has_time => {
                while !bytes.is_empty() {
                    sessions
                        .restore_early(Session::read(bytes)?)
                        .map_err(Malformed)?;
                    self.read.early += 1;
                }
            }
            (TIME, Some(announced)) if !self.has_time => {
                sessions.restore_time(TimeRow::read(bytes)?);
                for count in &mut announced.timed {
                    *count = u64(bytes)?;
                }
                self.has_time = true;
            }
            (CLIENTS, Some(_)) if self.has_time => {
                while !bytes.is_empty() {
                    sessions
                        .restore_client(ClientRow::read(bytes)?)
                        .map_err(Malformed)?;
                    self.read.timed[0] += 1;
                }
            }
            (REQUESTS, Some(_)) if self.has_time => {
                while !bytes.is_empty() {
                    sessions
                        .restore_request(RequestRow::read(bytes)?)
                        .map_err(Malformed)?;
                    self.read.timed[1] += 1;
                }
            }
            (SEQUENCED, Some(_)) if self.has_time => {
                while !bytes.is_empty() {
                    let row = SequencedRow::read(bytes)?;
                    sessions.restore_sequenced(row).map_err(Malformed)?;
                    self.read.timed[2] += 1;
                }
            }
            (END, Some(_)) => self.ended = true,
            _ => return Err(Malformed("a part of an unknown kind or out of order")),
        }
        Ok(())
    }

    /// All but the resources, if everything came.
    pub fn finish(self) -> Result<Ledger, Malformed> {
        match self.ended && self.announced == Some(self.read) {
            true => Ok(self.ledger),
            false => Err(Malformed("it is not complete")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, Operation};
    use crate::in_memory::InMemory;

    fn machine(commands: u64) -> Machine {
        let mut machine = Machine::new();
        for i in 0..commands {
            let resource = format!("key-{}", i % 700);
            let command = Command {
                operation: if i % 7 == 6 {
                    Operation::Delete
                } else {
                    Operation::Write
                },
                timestamp: i,
                if_version: (i % 5 == 4).then_some(1),
                if_instance: None,
                sequence: None,
                client_id: "alice",
                request_id: None,
                resource: &resource,
                data: &[b'1'; 300],
            };
            let slot = machine.applied().next();
            machine.apply(slot, &command.encode()).unwrap();
        }
        machine
    }

    fn parts(machine: &Machine) -> Vec<Bytes> {
        let mut parts = Vec::new();
        let written: Result<(), ()> = machine.write_snapshot(|part| {
            parts.push(part);
            Ok(())
        });
        written.unwrap();
        parts
    }

    fn read(parts: &[Bytes]) -> Result<Machine, Malformed> {
        let mut reader = Reader::default();
        let mut resources = InMemory::new();
        for part in parts {
            reader
                .part(part.clone(), &mut resources)
                .map_err(|error| match error {
                    NotTaken::Malformed(malformed) => malformed,
                    NotTaken::Resources(never) => match never {},
                })?;
        }
        Ok(Machine::from_parts(reader.finish()?, resources))
    }

    #[test]
    fn a_state_survives_its_snapshot() {
        for commands in [0, 1, 20_000] {
            let machine = machine(commands);
            assert_eq!(read(&parts(&machine)), Ok(machine));
        }
    }

    #[test]
    fn a_missing_or_doubled_part_is_noticed() {
        let parts = parts(&machine(5000));
        assert!(parts.len() > 3);
        for i in 0..parts.len() {
            let mut fewer = parts.clone();
            fewer.remove(i);
            assert!(read(&fewer).is_err(), "part {i} missing");
        }
        let cut = parts[1].slice(..parts[1].len() - 1);
        assert!(read(&[parts[0].clone(), cut]).is_err());
    }
}
