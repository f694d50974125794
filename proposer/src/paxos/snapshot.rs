//! The bytes of a whole [`Machine`], in parts of bounded size, so that nothing needs it in memory
//! twice. The first part names the slot and the counts, and the last one says that nothing is
//! missing.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::ids::Slot;
use super::machine::{Machine, Resource, Session};

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
    pub fn write_snapshot<E>(&self, mut part: impl FnMut(Bytes) -> Result<(), E>) -> Result<(), E> {
        let mut out = BytesMut::new();
        out.put_u8(HEAD);
        out.put_u64_le(self.applied().0);
        out.put_u64_le(self.resource_count() as u64);
        out.put_u64_le(self.session_count() as u64);
        part(out.split().freeze())?;
        for (name, resource) in self.resources("", None) {
            if out.is_empty() {
                out.put_u8(RESOURCES);
            }
            put_bytes(&mut out, name.as_bytes());
            out.put_u64_le(resource.version);
            out.put_u64_le(resource.slot.0);
            out.put_u64_le(resource.timestamp);
            put_bytes(&mut out, resource.client_id.as_bytes());
            put_bytes(&mut out, &resource.data);
            if out.len() >= PART_BYTES {
                part(out.split().freeze())?;
            }
        }
        if !out.is_empty() {
            part(out.split().freeze())?;
        }
        for (key, session) in self.sessions() {
            if out.is_empty() {
                out.put_u8(SESSIONS);
            }
            out.put_u128_le(key);
            out.put_u64_le(session.fingerprint);
            out.put_u64_le(session.slot.0);
            out.put_u8(session.committed.into());
            out.put_u64_le(session.version);
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
}

/// Takes parts in order and gives the state back.
#[derive(Debug, Default)]
pub struct Reader {
    machine: Machine,
    /// The counts that the first part announced.
    announced: Option<(u64, u64)>,
    ended: bool,
}

impl Reader {
    /// Takes the next part.
    pub fn part(&mut self, mut bytes: Bytes) -> Result<(), Malformed> {
        if self.ended {
            return Err(Malformed("something follows its end"));
        }
        match (u8(&mut bytes)?, self.announced) {
            (HEAD, None) => {
                self.machine = Machine::at(Slot(u64(&mut bytes)?));
                self.announced = Some((u64(&mut bytes)?, u64(&mut bytes)?));
            }
            (RESOURCES, Some(_)) => {
                while !bytes.is_empty() {
                    let name = text(&mut bytes)?;
                    let resource = Resource {
                        version: u64(&mut bytes)?,
                        slot: Slot(u64(&mut bytes)?),
                        timestamp: u64(&mut bytes)?,
                        client_id: text(&mut bytes)?,
                        // A copy: a slice would keep the whole part in memory.
                        data: Bytes::copy_from_slice(&field(&mut bytes)?),
                    };
                    self.machine.restore_resource(name, resource);
                }
            }
            (SESSIONS, Some(_)) => {
                while !bytes.is_empty() {
                    let key = bytes.try_get_u128_le().map_err(|_| CUT_SHORT)?;
                    let session = Session {
                        fingerprint: u64(&mut bytes)?,
                        slot: Slot(u64(&mut bytes)?),
                        committed: u8(&mut bytes)? != 0,
                        version: u64(&mut bytes)?,
                    };
                    self.machine.remember(key, session);
                }
            }
            (END, Some(_)) => self.ended = true,
            _ => return Err(Malformed("a part of an unknown kind or out of order")),
        }
        if bytes.is_empty() {
            Ok(())
        } else {
            Err(Malformed("bytes follow a part's end"))
        }
    }

    /// The state, if all of it came.
    pub fn finish(self) -> Result<Machine, Malformed> {
        let counts = (
            self.machine.resource_count() as u64,
            self.machine.session_count() as u64,
        );
        match self.ended && self.announced == Some(counts) {
            true => Ok(self.machine),
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
        parts
            .iter()
            .try_for_each(|part| reader.part(part.clone()))?;
        reader.finish()
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
