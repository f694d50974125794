//! The bytes of the cluster's own traffic and of its logs. Numbers are little-endian. A frame:
//!
//! ```text
//! 'P' · version u8 · checksum u32, from version 3 on
//!     · from (role u8, id u8) · cluster u64, 0 when not known · kind u8 · body
//! ```
//!
//! The checksum is the CRC32C of all that follows it. TCP's is too weak for what acceptors write down and
//! keep: one damaged segment in 65,536 passes it, and more of the kinds that occur (Stone and Partridge, "When
//! the CRC and TCP checksum disagree", SIGCOMM 2000).
//!
//! The receiver is named by the path that a frame is posted to, so a broadcast is encoded once.
//! Outcomes of kinds that the first release does not know go only to peers that say that they take them
//! (`node::link`); others get the nearest one that they know.
//!
//! Decoding never copies values: they are slices of the frame. It refuses what is cut short, too
//! long or unknown.

use std::ops::Range;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::ids::ClusterId;
pub use super::ids::NodeName;
use super::message::Message;
use super::record::Record;
use super::roster::Roster;
pub use entries::{Entry, decode_entries, encode_entries};
use fields::*;
use messages::{message, put_message};
pub use version::Version;

const MAGIC: u8 = b'P';
/// Where the checksum is, and what it covers begins.
const CHECKSUM: Range<usize> = 2..6;

/// A message on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The version of its bytes. An answer has that of its question.
    pub version: Version,
    /// Who sends it.
    pub from: NodeName,
    /// The cluster that it belongs to, once it knows.
    pub cluster: Option<ClusterId>,
    /// What it says.
    pub message: Message,
}

/// Why bytes are no frame or no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not ours at all.
    #[error("these bytes are no message of this service")]
    NotAFrame,
    /// Of a version that this build does not read.
    #[error(
        "the message has version {0}, and this node reads versions {oldest} to {newest}: upgrade one \
         version at a time",
        oldest = Version::OLDEST.number(),
        newest = Version::NEWEST.number()
    )]
    Version(u8),
    /// Its checksum is another one: it was damaged on its way.
    #[error("the message was damaged on its way: its checksum is wrong")]
    Damaged,
    /// Ours, but cut short, too long or with an impossible number.
    #[error("the message is malformed: {0}")]
    Malformed(&'static str),
}

mod entries;
mod fields;
mod messages;
mod outcomes;
mod version;

type Result<T> = std::result::Result<T, Error>;

impl Frame {
    /// The bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64 + self.message.size_hint());
        out.put_u8(MAGIC);
        out.put_u8(self.version.number());
        if self.version >= Version::V3 {
            out.put_u32_le(0);
        }
        put_node_name(&mut out, self.from);
        put_cluster(&mut out, self.cluster);
        put_message(&mut out, &self.message);
        if self.version >= Version::V3 {
            let checksum = crc32c::crc32c(&out[CHECKSUM.end..]);
            out[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
        }
        out.freeze()
    }

    /// The frame in these bytes.
    pub fn decode(mut bytes: Bytes) -> Result<Frame> {
        if bytes.len() < 5 || bytes[0] != MAGIC {
            return Err(Error::NotAFrame);
        }
        let version = Version::of(bytes[1]).ok_or(Error::Version(bytes[1]))?;
        bytes.advance(2);
        if version >= Version::V3 {
            let checksum = u32(&mut bytes)?;
            if checksum != crc32c::crc32c(&bytes) {
                return Err(Error::Damaged);
            }
        }
        let from = node_name(&mut bytes)?;
        let cluster = cluster(&mut bytes)?;
        let message = message(&mut bytes)?;
        if !bytes.is_empty() {
            return Err(Error::Malformed("bytes follow its end"));
        }
        Ok(Frame {
            version,
            from,
            cluster,
            message,
        })
    }

    /// The bytes of a frame in another version. Values are copied once.
    pub fn translate(bytes: &Bytes, version: Version) -> Result<Bytes> {
        let frame = Frame::decode(bytes.clone())?;
        Ok(Frame { version, ..frame }.encode())
    }
}

impl Record {
    /// The bytes, as an acceptor's log keeps them.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Record::Promised { ballot, run } => {
                out.put_u8(4);
                out.put_u64_le(ballot.number());
                out.put_u64_le(*run);
            }
            Record::Known(roster) => {
                out.put_u8(if roster.founders.is_some() { 7 } else { 6 });
                put_cluster(&mut out, roster.cluster);
                if let Some(founders) = roster.founders {
                    out.put_u8(founders.count());
                }
                out.put_u32_le(roster.starts.len() as u32);
                for (node, start) in &roster.starts {
                    put_node_name(&mut out, *node);
                    put_start(&mut out, *start);
                }
            }
            Record::Trimmed {
                promised,
                run,
                floor,
                committed,
            } => {
                out.put_u8(5);
                out.put_u64_le(promised.number());
                out.put_u64_le(*run);
                out.put_u64_le(floor.0);
                out.put_u64_le(committed.0);
            }
            Record::Accepted {
                ballot,
                first,
                values,
                committed,
            } => {
                out.reserve(32 + values_size(values));
                out.put_u8(2);
                out.put_u64_le(ballot.number());
                out.put_u64_le(first.0);
                out.put_u64_le(committed.0);
                put_values(&mut out, values);
            }
        }
        out.freeze()
    }

    /// The record in these bytes.
    pub fn decode(mut bytes: Bytes) -> Result<Record> {
        let record = match u8(&mut bytes)? {
            // Kinds 1 and 3 are those of logs from before an acceptor had a standing.
            4 => Record::Promised {
                ballot: ballot(&mut bytes)?,
                run: u64(&mut bytes)?,
            },
            2 => {
                let ballot = ballot(&mut bytes)?;
                let (first, committed) = (slot(&mut bytes)?, slot(&mut bytes)?);
                Record::Accepted {
                    ballot,
                    first,
                    committed,
                    values: values(&mut bytes, first)?,
                }
            }
            5 => Record::Trimmed {
                promised: promise(&mut bytes)?,
                run: u64(&mut bytes)?,
                floor: slot(&mut bytes)?,
                committed: slot(&mut bytes)?,
            },
            // Kind 6 is also that of logs from before the founders were counted.
            kind @ (6 | 7) => Record::Known(Roster {
                cluster: cluster(&mut bytes)?,
                founders: (kind == 7).then(|| members(&mut bytes)).transpose()?,
                starts: list(&mut bytes, 26, |bytes| {
                    Ok((node_name(bytes)?, start(bytes)?))
                })?
                .into_iter()
                .collect(),
            }),
            _ => return Err(Error::Malformed("unknown kind of record")),
        };
        if bytes.is_empty() {
            Ok(record)
        } else {
            Err(Error::Malformed("bytes follow its end"))
        }
    }
}

#[cfg(test)]
mod tests;
