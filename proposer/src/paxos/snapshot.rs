//! The bytes of a whole [`Machine`], in parts of bounded size, so that nothing needs it in memory
//! twice. The first part names the slot and the counts, and the last one says that nothing is
//! missing.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::ids::Slot;
use super::machine::{Ledger, Machine, Resource, Resources};
use super::sessions::Session;

/// A part is closed when it has grown to this many bytes.
const PART_BYTES: usize = 256 << 10;
const HEAD: u8 = 1;
const RESOURCES: u8 = 2;
const SESSIONS: u8 = 3;
const END: u8 = 4;

/// Why parts are no snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot is malformed: {0}")]
pub struct Malformed(&'static str);

impl Machine {
    /// Hands the parts of this state to `part`, in order.
    pub fn write_snapshot<E>(&self, part: impl FnMut(Bytes) -> Result<(), E>) -> Result<(), E> {
        let resources = self.resources().map(Ok);
        write_parts(self.ledger(), self.resource_count() as u64, resources, part)
    }
}

/// Hands the parts of a state to `part`, in order: so many resources, wherever they are kept, and the
/// rest.
pub(crate) fn write_parts<E, N: AsRef<str>>(
    ledger: &Ledger,
    count: u64,
    resources: impl Iterator<Item = Result<(N, Resource), E>>,
    mut part: impl FnMut(Bytes) -> Result<(), E>,
) -> Result<(), E> {
    let mut out = BytesMut::new();
    out.put_u8(HEAD);
    out.put_u64_le(ledger.applied().0);
    out.put_u64_le(count);
    out.put_u64_le(ledger.session_count() as u64);
    part(out.split().freeze())?;
    for resource in resources {
        let (name, resource) = resource?;
        if out.is_empty() {
            out.put_u8(RESOURCES);
        }
        put_bytes(&mut out, name.as_ref().as_bytes());
        resource.write(&mut out);
        if out.len() >= PART_BYTES {
            part(out.split().freeze())?;
        }
    }
    if !out.is_empty() {
        part(out.split().freeze())?;
    }
    for (key, session) in ledger.sessions().iter() {
        if out.is_empty() {
            out.put_u8(SESSIONS);
        }
        session.write(key, &mut out);
        if out.len() >= PART_BYTES {
            part(out.split().freeze())?;
        }
    }
    if !out.is_empty() {
        part(out.split().freeze())?;
    }
    out.put_u8(END);
    part(out.freeze())
}

impl Resource {
    /// Its bytes without the name, the version first, at the end of `out`.
    pub(crate) fn write(&self, out: &mut BytesMut) {
        out.put_u64_le(self.version);
        out.put_u64_le(self.slot.0);
        out.put_u64_le(self.timestamp);
        put_bytes(out, self.client_id.as_bytes());
        put_bytes(out, &self.data);
    }

    /// Takes it from the front of `bytes`.
    pub(crate) fn read(bytes: &mut Bytes) -> Result<Resource, Malformed> {
        Ok(Resource {
            version: u64(bytes)?,
            slot: Slot(u64(bytes)?),
            timestamp: u64(bytes)?,
            client_id: text(bytes)?.into(),
            // A copy: a slice would keep the whole part in memory.
            data: Bytes::copy_from_slice(&field(bytes)?),
        })
    }
}

impl Session {
    /// Its bytes and those of its key, at the end of `out`.
    pub(crate) fn write(&self, key: u128, out: &mut BytesMut) {
        out.put_u128_le(key);
        out.put_u64_le(self.fingerprint);
        out.put_u64_le(self.slot.0);
        out.put_u8(self.committed.into());
        out.put_u64_le(self.version);
    }

    /// Takes both from the front of `bytes`.
    pub(crate) fn read(bytes: &mut Bytes) -> Result<(u128, Session), Malformed> {
        let key = bytes.try_get_u128_le().map_err(|_| CUT_SHORT)?;
        let session = Session {
            fingerprint: u64(bytes)?,
            slot: Slot(u64(bytes)?),
            committed: u8(bytes)? != 0,
            version: u64(bytes)?,
        };
        Ok((key, session))
    }
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

/// Takes parts in order and gives the state back: resources as they come, the rest at the end.
#[derive(Debug, Default)]
pub struct Reader {
    ledger: Ledger,
    resources: u64,
    /// The counts that the first part announced.
    announced: Option<(u64, u64)>,
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
        match (u8(&mut bytes)?, self.announced) {
            (HEAD, None) => {
                self.ledger = Ledger::at(Slot(u64(&mut bytes)?));
                self.announced = Some((u64(&mut bytes)?, u64(&mut bytes)?));
            }
            (RESOURCES, Some(_)) => {
                while !bytes.is_empty() {
                    let name = text(&mut bytes)?;
                    let resource = Resource::read(&mut bytes)?;
                    let put = resources.put(&name, resource);
                    put.map_err(NotTaken::Resources)?;
                    self.resources += 1;
                }
            }
            (SESSIONS, Some(_)) => {
                while !bytes.is_empty() {
                    let (key, session) = Session::read(&mut bytes)?;
                    if !self.ledger.remember(key, session) {
                        return Err(Malformed("a request is there twice").into());
                    }
                }
            }
            (END, Some(_)) => self.ended = true,
            _ => return Err(Malformed("a part of an unknown kind or out of order").into()),
        }
        if bytes.is_empty() {
            Ok(())
        } else {
            Err(Malformed("bytes follow a part's end").into())
        }
    }

    /// All but the resources, if everything came.
    pub fn finish(self) -> Result<Ledger, Malformed> {
        let counts = (self.resources, self.ledger.session_count() as u64);
        match self.ended && self.announced == Some(counts) {
            true => Ok(self.ledger),
            false => Err(Malformed("it is not complete")),
        }
    }
}

const CUT_SHORT: Malformed = Malformed("it is cut short");

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32_le(bytes.len() as u32);
    out.put_slice(bytes);
}

fn u8(bytes: &mut Bytes) -> Result<u8, Malformed> {
    bytes.try_get_u8().map_err(|_| CUT_SHORT)
}

fn u64(bytes: &mut Bytes) -> Result<u64, Malformed> {
    bytes.try_get_u64_le().map_err(|_| CUT_SHORT)
}

fn field(bytes: &mut Bytes) -> Result<Bytes, Malformed> {
    let length = bytes.try_get_u32_le().map_err(|_| CUT_SHORT)? as usize;
    if length > bytes.len() {
        return Err(CUT_SHORT);
    }
    Ok(bytes.split_to(length))
}

fn text(bytes: &mut Bytes) -> Result<Box<str>, Malformed> {
    let field = field(bytes)?;
    let text = std::str::from_utf8(&field).map_err(|_| Malformed("a name is no text"))?;
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paxos::command::{Command, Operation};
    use crate::paxos::in_memory::InMemory;

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
