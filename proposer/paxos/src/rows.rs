//! The bytes of the state's rows, in snapshots and in a store's database. Numbers are little-endian.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::ids::Slot;
use super::outcome::Resource;
use super::sessions::{ClientRow, Done, RequestRow, SequencedRow, Session, TimeRow};
use super::stamp::Terms;

/// Why bytes are no snapshot, or no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot is malformed: {0}")]
pub struct Malformed(pub(super) &'static str);

const CUT_SHORT: Malformed = Malformed("it is cut short");

impl Resource {
    /// Its bytes without the name, the version and the slot first, at the end of `out`.
    pub fn write(&self, out: &mut BytesMut) {
        out.put_u64_le(self.version);
        out.put_u64_le(self.slot.0);
        out.put_u64_le(self.timestamp);
        put_bytes(out, self.client_id.as_bytes());
        put_bytes(out, &self.data);
    }

    /// The lengths of data and client's id together, by the length of the bytes.
    pub fn texts_in(bytes: usize) -> usize {
        bytes.saturating_sub(3 * 8 + 2 * 4)
    }

    /// Takes it from the front of `bytes`.
    pub fn read(bytes: &mut Bytes) -> Result<Resource, Malformed> {
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
    /// The bytes of a request of a log without a stamp, at the end of `out`.
    pub fn write(&self, out: &mut BytesMut) {
        let (committed, version) = match *self.done() {
            Done::Committed { version } => (true, version),
            Done::NotCommittedEarly { version } | Done::NotCommitted { version, .. } => {
                (false, version)
            }
            Done::Found(_) | Done::FoundMuch => (true, 0),
        };
        out.put_u128_le(self.key());
        out.put_u64_le(self.fingerprint);
        out.put_u64_le(self.slot.0);
        out.put_u8(committed.into());
        out.put_u64_le(version);
    }

    /// Takes it from the front of `bytes`.
    pub fn read(bytes: &mut Bytes) -> Result<Session, Malformed> {
        let (key, fingerprint, slot) = (u128(bytes)?, u64(bytes)?, Slot(u64(bytes)?));
        let (committed, version) = (u8(bytes)? != 0, u64(bytes)?);
        let done = match committed {
            true => Done::Committed { version },
            false => Done::NotCommittedEarly { version },
        };
        Ok(Session::new(key, fingerprint, slot, done))
    }
}

impl TimeRow {
    /// Its bytes at the end of `out`.
    pub fn write(&self, out: &mut BytesMut) {
        out.put_u64_le(self.now_ms);
        out.put_u32_le(self.terms.retry_window_ms);
        out.put_u64_le(self.terms.retry_memory);
        out.put_u64_le(self.terms.quota);
    }

    /// Takes it from the front of `bytes`.
    pub fn read(bytes: &mut Bytes) -> Result<TimeRow, Malformed> {
        Ok(TimeRow {
            now_ms: u64(bytes)?,
            terms: Terms {
                retry_window_ms: bytes.try_get_u32_le().map_err(|_| CUT_SHORT)?,
                retry_memory: u64(bytes)?,
                quota: u64(bytes)?,
            },
        })
    }
}

const GROWS: u8 = 1;
const ERRATIC: u8 = 2;
const IDLE: u8 = 4;
const HAS_FORGOTTEN: u8 = 8;
const HAS_HIGHEST: u8 = 16;
const HAS_WINDOW: u8 = 32;
const HAS_LAST: u8 = 64;

impl ClientRow {
    /// Its bytes at the end of `out`.
    pub fn write(&self, out: &mut BytesMut) {
        let flags = [
            (self.grows, GROWS),
            (self.erratic, ERRATIC),
            (self.is_idle, IDLE),
            (self.forgotten.is_some(), HAS_FORGOTTEN),
            (self.highest.is_some(), HAS_HIGHEST),
            (self.from.is_some(), HAS_WINDOW),
            (self.last != 0, HAS_LAST),
        ];
        let flags = flags.into_iter().filter(|(is, _)| *is);
        out.put_u128_le(self.key);
        out.put_u64_le(self.used.0);
        out.put_u64_le(self.used_at);
        out.put_u8(flags.map(|(_, flag)| flag).sum());
        let last = Some(self.last).filter(|last| *last != 0);
        for number in [self.forgotten, self.highest, self.from, last]
            .into_iter()
            .flatten()
        {
            out.put_u64_le(number);
        }
    }

    /// Takes it from the front of `bytes`.
    pub fn read(bytes: &mut Bytes) -> Result<ClientRow, Malformed> {
        let (key, used, used_at) = (u128(bytes)?, Slot(u64(bytes)?), u64(bytes)?);
        let flags = u8(bytes)?;
        let mut number = |flag| match flags & flag {
            0 => Ok(None),
            _ => u64(bytes).map(Some),
        };
        Ok(ClientRow {
            key,
            used,
            used_at,
            forgotten: number(HAS_FORGOTTEN)?,
            highest: number(HAS_HIGHEST)?,
            from: number(HAS_WINDOW)?,
            last: number(HAS_LAST)?.unwrap_or_default(),
            grows: flags & GROWS != 0,
            erratic: flags & ERRATIC != 0,
            is_idle: flags & IDLE != 0,
        })
    }
}

impl RequestRow {
    /// Its bytes at the end of `out`.
    pub fn write(&self, out: &mut BytesMut) {
        out.put_u128_le(self.key);
        out.put_u64_le(self.fingerprint);
        out.put_u64_le(self.slot.0);
        out.put_u64_le(self.timestamp);
        out.put_u64_le(self.at);
        out.put_u128_le(self.client);
        self.done.write(out);
    }

    /// Takes it from the front of `bytes`.
    pub fn read(bytes: &mut Bytes) -> Result<RequestRow, Malformed> {
        Ok(RequestRow {
            key: u128(bytes)?,
            fingerprint: u64(bytes)?,
            slot: Slot(u64(bytes)?),
            timestamp: u64(bytes)?,
            at: u64(bytes)?,
            client: u128(bytes)?,
            done: Done::read(bytes)?,
        })
    }
}

impl SequencedRow {
    /// Its bytes at the end of `out`.
    pub fn write(&self, out: &mut BytesMut) {
        out.put_u128_le(self.client);
        out.put_u64_le(self.sequence);
        out.put_u64_le(self.fingerprint);
        out.put_u64_le(self.slot.0);
        out.put_u64_le(self.at);
        self.done.write(out);
    }

    /// Takes it from the front of `bytes`.
    pub fn read(bytes: &mut Bytes) -> Result<SequencedRow, Malformed> {
        Ok(SequencedRow {
            client: u128(bytes)?,
            sequence: u64(bytes)?,
            fingerprint: u64(bytes)?,
            slot: Slot(u64(bytes)?),
            at: u64(bytes)?,
            done: Done::read(bytes)?,
        })
    }
}

impl Done {
    fn write(&self, out: &mut BytesMut) {
        match self {
            Done::Committed { version } => {
                out.put_u8(1);
                out.put_u64_le(*version);
            }
            Done::NotCommitted { version, instance } => {
                out.put_u8(2);
                out.put_u64_le(*version);
                out.put_u64_le(instance.0);
            }
            Done::NotCommittedEarly { version } => {
                out.put_u8(3);
                out.put_u64_le(*version);
            }
            Done::Found(None) => out.put_u8(4),
            Done::Found(Some(found)) => {
                out.put_u8(5);
                found.write(out);
            }
            Done::FoundMuch => out.put_u8(6),
        }
    }

    fn read(bytes: &mut Bytes) -> Result<Done, Malformed> {
        Ok(match u8(bytes)? {
            1 => Done::Committed {
                version: u64(bytes)?,
            },
            2 => Done::NotCommitted {
                version: u64(bytes)?,
                instance: Slot(u64(bytes)?),
            },
            3 => Done::NotCommittedEarly {
                version: u64(bytes)?,
            },
            4 => Done::Found(None),
            5 => Done::Found(Some(Arc::new(Resource::read(bytes)?))),
            6 => Done::FoundMuch,
            _ => return Err(Malformed("what became of a request is unknown")),
        })
    }
}

pub(super) fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32_le(bytes.len() as u32);
    out.put_slice(bytes);
}

pub(super) fn u8(bytes: &mut Bytes) -> Result<u8, Malformed> {
    bytes.try_get_u8().map_err(|_| CUT_SHORT)
}

pub(super) fn u64(bytes: &mut Bytes) -> Result<u64, Malformed> {
    bytes.try_get_u64_le().map_err(|_| CUT_SHORT)
}

fn u128(bytes: &mut Bytes) -> Result<u128, Malformed> {
    bytes.try_get_u128_le().map_err(|_| CUT_SHORT)
}

fn field(bytes: &mut Bytes) -> Result<Bytes, Malformed> {
    let length = bytes.try_get_u32_le().map_err(|_| CUT_SHORT)? as usize;
    if length > bytes.len() {
        return Err(CUT_SHORT);
    }
    Ok(bytes.split_to(length))
}

pub(super) fn text(bytes: &mut Bytes) -> Result<Box<str>, Malformed> {
    let field = field(bytes)?;
    let text = std::str::from_utf8(&field).map_err(|_| Malformed("a name is no text"))?;
    Ok(text.into())
}
