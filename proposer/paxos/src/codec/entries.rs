//! The records of a learner's log: what was applied.

use bytes::{BufMut, Bytes, BytesMut};

use super::fields::*;
use super::outcomes::*;
use super::{Error, Result};
use crate::ids::Slot;
use crate::message::Value;
use crate::outcome::Applied;

/// A slot that a learner has applied, as its log keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where.
    pub slot: Slot,
    /// What was chosen.
    pub value: Value,
    /// What applying it gave; READ's answer is not kept.
    pub applied: Applied,
}

impl Entry {
    /// About how many bytes it takes in memory and on its way.
    pub fn size(&self) -> usize {
        64 + self.value.len()
    }
}

/// Consecutive entries as one record of a learner's log.
pub fn encode_entries(entries: &[Entry]) -> Bytes {
    let size: usize = entries.iter().map(|entry| 32 + entry.value.len()).sum();
    let mut out = BytesMut::with_capacity(16 + size);
    out.put_u8(1);
    out.put_u32_le(entries.len() as u32);
    for entry in entries {
        out.put_u64_le(entry.slot.0);
        put_value(&mut out, &entry.value);
        put_applied(&mut out, &entry.applied.bare());
    }
    out.freeze()
}

/// The entries in such a record.
pub fn decode_entries(mut bytes: Bytes) -> Result<Vec<Entry>> {
    if u8(&mut bytes)? != 1 {
        return Err(Error::Malformed("unknown kind of record"));
    }
    let entries = list(&mut bytes, 8, |bytes| {
        Ok(Entry {
            slot: slot(bytes)?,
            value: value(bytes)?,
            applied: applied(bytes)?,
        })
    })?;
    if bytes.is_empty() {
        Ok(entries)
    } else {
        Err(Error::Malformed("bytes follow its end"))
    }
}
