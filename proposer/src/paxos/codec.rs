//! The bytes of the cluster's own traffic and of its logs. Numbers are little-endian. A frame:
//!
//! ```text
//! 'P' · version u8 · from (role u8, id u8) · cluster u64, 0 when not known · kind u8 · body
//! ```
//!
//! The receiver is named by the path that a frame is posted to, so a broadcast is encoded once.
//! Outcomes of kinds that the first release does not know go only to peers that say that they take them
//! (`crate::link`); others get the nearest one that they know.
//!
//! Decoding never copies values: they are slices of the frame. It refuses what is cut short, too
//! long or unknown.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::acceptor::Record;
pub use super::ids::NodeName;
use super::ids::{Ballot, ClusterId, Members, NodeId, Role, Slot};
use super::machine::{Applied, Outcome, Resource};
use super::message::{
    Forwarded, Learn, Learned, Message, Recalled, Reply, Request, Value, Values, Vote,
};
use super::standing::{Refusal, Roster, Start};

/// The version of this encoding. A node refuses frames of another one by name.
pub const VERSION: u8 = 2;
const MAGIC: u8 = b'P';

/// A message on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
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
    /// Of another version.
    #[error("the message has version {0}, and this node speaks version {VERSION}")]
    Version(u8),
    /// Ours, but cut short, too long or with an impossible number.
    #[error("the message is malformed: {0}")]
    Malformed(&'static str),
}

type Result<T> = std::result::Result<T, Error>;

impl Frame {
    /// The bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64 + self.message.size_hint());
        out.put_u8(MAGIC);
        out.put_u8(VERSION);
        put_node_name(&mut out, self.from);
        put_cluster(&mut out, self.cluster);
        put_message(&mut out, &self.message);
        out.freeze()
    }

    /// The frame in these bytes.
    pub fn decode(mut bytes: Bytes) -> Result<Frame> {
        if bytes.len() < 5 || bytes[0] != MAGIC {
            return Err(Error::NotAFrame);
        }
        if bytes[1] != VERSION {
            return Err(Error::Version(bytes[1]));
        }
        bytes.advance(2);
        let from = node_name(&mut bytes)?;
        let cluster = cluster(&mut bytes)?;
        let message = message(&mut bytes)?;
        if !bytes.is_empty() {
            return Err(Error::Malformed("bytes follow its end"));
        }
        Ok(Frame {
            from,
            cluster,
            message,
        })
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

fn put_node_name(out: &mut BytesMut, name: NodeName) {
    out.put_u8(match name.role {
        Role::Proposer => 1,
        Role::Acceptor => 2,
        Role::Learner => 3,
        Role::Store => 4,
    });
    out.put_u8(name.id.number());
}

fn put_message(out: &mut BytesMut, message: &Message) {
    match message {
        Message::Request(request) => put_request(out, request),
        Message::Reply(reply) => put_reply(out, reply),
        Message::Learn(Learn {
            first,
            values,
            committed,
        }) => {
            out.put_u8(31);
            out.put_u64_le(first.0);
            out.put_u64_le(committed.0);
            put_values(out, values);
        }
        Message::Learned(Learned {
            applied,
            durable,
            first,
            outcomes,
        }) => {
            out.put_u8(32);
            out.put_u64_le(applied.0);
            out.put_u64_le(durable.0);
            out.put_u64_le(first.0);
            put_outcomes(out, outcomes);
        }
        Message::Recall(slots) => {
            out.put_u8(33);
            out.put_u32_le(slots.len() as u32);
            slots.iter().for_each(|slot| out.put_u64_le(slot.0));
        }
        Message::Recalled(Recalled { applied, outcomes }) => {
            out.put_u8(34);
            out.put_u64_le(applied.0);
            put_outcomes(out, outcomes);
        }
        Message::Forward { wait_ms, values } => {
            out.put_u8(41);
            out.put_u32_le(*wait_ms);
            put_values(out, values);
        }
        Message::Forwarded(forwarded) => {
            out.put_u8(42);
            match forwarded {
                Forwarded::NotLeader => out.put_u8(1),
                Forwarded::Busy => out.put_u8(2),
                Forwarded::NoRoom { why } => {
                    out.put_u8(6);
                    out.put_u32_le(why.len() as u32);
                    out.put_slice(why.as_bytes());
                }
                Forwarded::Assigned { first } => {
                    out.put_u8(3);
                    out.put_u64_le(first.0);
                }
                Forwarded::Outcomes { outcomes } => {
                    out.put_u8(4);
                    put_outcomes(out, outcomes);
                }
            }
        }
        Message::TakeOver => out.put_u8(43),
        Message::ReadIndex => out.put_u8(44),
        Message::Readable(slot) => {
            out.put_u8(45);
            out.put_u8(slot.is_some().into());
            out.put_u64_le(slot.unwrap_or_default().0);
        }
        Message::Done => out.put_u8(46),
    }
}

fn message(bytes: &mut Bytes) -> Result<Message> {
    Ok(match u8(bytes)? {
        kind @ 1..=20 => Message::Request(request(kind, bytes)?),
        kind @ (21..=30 | 51..=53) => Message::Reply(reply(kind, bytes)?),
        31 => {
            let (first, committed) = (slot(bytes)?, slot(bytes)?);
            Message::Learn(Learn {
                first,
                committed,
                values: values(bytes, first)?,
            })
        }
        32 => Message::Learned(Learned {
            applied: slot(bytes)?,
            durable: slot(bytes)?,
            first: slot(bytes)?,
            outcomes: list(bytes, 1, optional_applied)?,
        }),
        33 => Message::Recall(list(bytes, 8, slot)?),
        34 => Message::Recalled(Recalled {
            applied: slot(bytes)?,
            outcomes: list(bytes, 1, optional_applied)?,
        }),
        41 => Message::Forward {
            wait_ms: u32(bytes)?,
            values: values(bytes, Slot::ZERO)?,
        },
        42 => Message::Forwarded(match u8(bytes)? {
            1 => Forwarded::NotLeader,
            2 => Forwarded::Busy,
            6 => Forwarded::NoRoom {
                why: String::from_utf8_lossy(&value(bytes)?.0).into_owned(),
            },
            3 => Forwarded::Assigned {
                first: slot(bytes)?,
            },
            4 => Forwarded::Outcomes {
                outcomes: list(bytes, 1, optional_applied)?,
            },
            _ => return Err(Error::Malformed("unknown answer to Forward")),
        }),
        43 => Message::TakeOver,
        44 => Message::ReadIndex,
        45 => {
            let known = u8(bytes)? != 0;
            let slot = slot(bytes)?;
            Message::Readable(known.then_some(slot))
        }
        46 => Message::Done,
        _ => return Err(Error::Malformed("unknown kind of message")),
    })
}

fn put_request(out: &mut BytesMut, request: &Request) {
    match request {
        Request::Probe => out.put_u8(1),
        Request::Prepare { ballot, run, from } => {
            out.put_u8(2);
            out.put_u64_le(ballot.number());
            out.put_u64_le(*run);
            out.put_u64_le(from.0);
        }
        Request::Accept {
            ballot,
            first,
            values,
            committed,
        } => {
            out.put_u8(3);
            out.put_u64_le(ballot.number());
            out.put_u64_le(first.0);
            out.put_u64_le(committed.0);
            put_values(out, values);
        }
        Request::Renew {
            ballot,
            round,
            committed,
            trim,
        } => {
            out.put_u8(4);
            out.put_u64_le(ballot.number());
            out.put_u64_le(*round);
            out.put_u64_le(committed.0);
            out.put_u64_le(trim.0);
        }
        Request::Fetch { from, to } => {
            out.put_u8(5);
            out.put_u64_le(from.0);
            out.put_u64_le(to.0);
        }
        Request::Enlist {
            node,
            start,
            cluster,
            acceptors,
        } => {
            out.put_u8(if acceptors.is_some() { 7 } else { 6 });
            put_node_name(out, *node);
            put_start(out, *start);
            put_cluster(out, *cluster);
            put_members(out, *acceptors);
        }
    }
}

fn request(kind: u8, bytes: &mut Bytes) -> Result<Request> {
    Ok(match kind {
        1 => Request::Probe,
        2 => Request::Prepare {
            ballot: ballot(bytes)?,
            run: u64(bytes)?,
            from: slot(bytes)?,
        },
        3 => {
            let (ballot, first, committed) = (ballot(bytes)?, slot(bytes)?, slot(bytes)?);
            Request::Accept {
                ballot,
                first,
                committed,
                values: values(bytes, first)?,
            }
        }
        4 => Request::Renew {
            ballot: ballot(bytes)?,
            round: u64(bytes)?,
            committed: slot(bytes)?,
            trim: slot(bytes)?,
        },
        5 => Request::Fetch {
            from: slot(bytes)?,
            to: slot(bytes)?,
        },
        6 | 7 => Request::Enlist {
            node: node_name(bytes)?,
            start: start(bytes)?,
            cluster: cluster(bytes)?,
            acceptors: (kind == 7).then(|| members(bytes)).transpose()?,
        },
        _ => return Err(Error::Malformed("unknown kind of request")),
    })
}

fn put_reply(out: &mut BytesMut, reply: &Reply) {
    match reply {
        Reply::Probed {
            promised,
            committed,
            leader_alive,
        } => {
            out.put_u8(21);
            out.put_u64_le(promised.number());
            out.put_u64_le(committed.0);
            out.put_u8((*leader_alive).into());
        }
        Reply::Promise {
            ballot,
            from,
            votes,
            rest,
            committed,
        } => {
            out.put_u8(22);
            out.put_u64_le(ballot.number());
            out.put_u64_le(from.0);
            out.put_u64_le(rest.unwrap_or_default().0);
            out.put_u64_le(committed.0);
            put_votes(out, votes);
        }
        Reply::Accepted {
            ballot,
            first,
            count,
        } => {
            out.put_u8(23);
            out.put_u64_le(ballot.number());
            out.put_u64_le(first.0);
            out.put_u64_le(*count);
        }
        Reply::Renewed { ballot, round } => {
            out.put_u8(24);
            out.put_u64_le(ballot.number());
            out.put_u64_le(*round);
        }
        Reply::Nack { ballot, promised } => {
            out.put_u8(25);
            out.put_u64_le(ballot.number());
            out.put_u64_le(promised.number());
        }
        Reply::Truncated { from, floor } => {
            out.put_u8(27);
            out.put_u64_le(from.0);
            out.put_u64_le(floor.0);
        }
        Reply::Fetched { from, to, votes } => {
            out.put_u8(26);
            out.put_u64_le(from.0);
            out.put_u64_le(to.0);
            put_votes(out, votes);
        }
        Reply::AcceptedTight {
            ballot,
            first,
            count,
            log,
            free,
        } => {
            out.put_u8(52);
            out.put_u64_le(ballot.number());
            out.put_u64_le(first.0);
            out.put_u64_le(*count);
            out.put_u64_le(*log);
            out.put_u64_le(*free);
        }
        Reply::NoRoom {
            ballot,
            first,
            log,
            free,
        } => {
            out.put_u8(51);
            out.put_u64_le(ballot.number());
            out.put_u64_le(first.0);
            out.put_u64_le(*log);
            out.put_u64_le(*free);
        }
        Reply::NotVoting => out.put_u8(28),
        Reply::Witnessed {
            start,
            witness,
            cluster,
            acceptors,
        } => {
            out.put_u8(if acceptors.is_some() { 53 } else { 29 });
            put_start(out, *start);
            put_start(out, *witness);
            put_cluster(out, *cluster);
            put_members(out, *acceptors);
        }
        Reply::Refused { start, refusal } => {
            out.put_u8(30);
            put_start(out, *start);
            put_refusal(out, *refusal);
        }
    }
}

fn reply(kind: u8, bytes: &mut Bytes) -> Result<Reply> {
    Ok(match kind {
        21 => Reply::Probed {
            promised: promise(bytes)?,
            committed: slot(bytes)?,
            leader_alive: u8(bytes)? != 0,
        },
        22 => {
            let (ballot, from) = (ballot(bytes)?, slot(bytes)?);
            // Slot 0 holds no vote, so as the place to go on it says that nothing is left.
            let rest = Some(slot(bytes)?).filter(|rest| *rest != Slot::ZERO);
            Reply::Promise {
                ballot,
                from,
                rest,
                committed: slot(bytes)?,
                votes: votes(bytes)?,
            }
        }
        23 => Reply::Accepted {
            ballot: ballot(bytes)?,
            first: slot(bytes)?,
            count: u64(bytes)?,
        },
        24 => Reply::Renewed {
            ballot: ballot(bytes)?,
            round: u64(bytes)?,
        },
        25 => Reply::Nack {
            ballot: ballot(bytes)?,
            promised: promise(bytes)?,
        },
        26 => Reply::Fetched {
            from: slot(bytes)?,
            to: slot(bytes)?,
            votes: votes(bytes)?,
        },
        27 => Reply::Truncated {
            from: slot(bytes)?,
            floor: slot(bytes)?,
        },
        52 => Reply::AcceptedTight {
            ballot: ballot(bytes)?,
            first: slot(bytes)?,
            count: u64(bytes)?,
            log: u64(bytes)?,
            free: u64(bytes)?,
        },
        51 => Reply::NoRoom {
            ballot: ballot(bytes)?,
            first: slot(bytes)?,
            log: u64(bytes)?,
            free: u64(bytes)?,
        },
        28 => Reply::NotVoting,
        29 | 53 => Reply::Witnessed {
            start: start(bytes)?,
            witness: start(bytes)?,
            cluster: cluster(bytes)?,
            acceptors: (kind == 53).then(|| members(bytes)).transpose()?,
        },
        30 => Reply::Refused {
            start: start(bytes)?,
            refusal: refusal(bytes)?,
        },
        _ => return Err(Error::Malformed("unknown kind of reply")),
    })
}

fn put_start(out: &mut BytesMut, start: Start) {
    out.put_u64_le(start.incarnation);
    out.put_u64_le(start.count);
    out.put_u64_le(start.run);
}

fn start(bytes: &mut Bytes) -> Result<Start> {
    Ok(Start {
        incarnation: u64(bytes)?,
        count: u64(bytes)?,
        run: u64(bytes)?,
    })
}

fn put_cluster(out: &mut BytesMut, cluster: Option<ClusterId>) {
    out.put_u64_le(cluster.map_or(0, ClusterId::number));
}

fn cluster(bytes: &mut Bytes) -> Result<Option<ClusterId>> {
    u64(bytes).map(ClusterId::new)
}

/// A message without this number is of an older kind.
fn put_members(out: &mut BytesMut, members: Option<Members>) {
    if let Some(members) = members {
        out.put_u8(members.count());
    }
}

fn members(bytes: &mut Bytes) -> Result<Members> {
    Members::new(u8(bytes)?).ok_or(Error::Malformed("no acceptors"))
}

fn put_refusal(out: &mut BytesMut, refusal: Refusal) {
    match refusal {
        Refusal::OtherDisk { known } => {
            out.put_u8(1);
            put_start(out, known);
        }
        Refusal::OlderCopy { known } => {
            out.put_u8(2);
            put_start(out, known);
        }
        Refusal::OtherCluster { cluster } => {
            out.put_u8(3);
            put_cluster(out, Some(cluster));
        }
        Refusal::NotAMember => out.put_u8(4),
        Refusal::OtherCount { founded, listed } => {
            out.put_u8(5);
            out.put_u8(founded.count());
            out.put_u8(listed.count());
        }
        Refusal::OtherList { witness, listed } => {
            out.put_u8(6);
            out.put_u8(witness.count());
            out.put_u8(listed.count());
        }
    }
}

fn refusal(bytes: &mut Bytes) -> Result<Refusal> {
    Ok(match u8(bytes)? {
        1 => Refusal::OtherDisk {
            known: start(bytes)?,
        },
        2 => Refusal::OlderCopy {
            known: start(bytes)?,
        },
        3 => Refusal::OtherCluster {
            cluster: cluster(bytes)?.ok_or(Error::Malformed("cluster 0"))?,
        },
        4 => Refusal::NotAMember,
        5 => Refusal::OtherCount {
            founded: members(bytes)?,
            listed: members(bytes)?,
        },
        6 => Refusal::OtherList {
            witness: members(bytes)?,
            listed: members(bytes)?,
        },
        _ => return Err(Error::Malformed("unknown refusal")),
    })
}

fn put_value(out: &mut BytesMut, value: &Value) {
    out.put_u32_le(value.len() as u32);
    out.put_slice(&value.0);
}

fn values_size(values: &[Value]) -> usize {
    values.iter().map(|value| 4 + value.len()).sum()
}

fn put_values(out: &mut BytesMut, values: &[Value]) {
    out.put_u32_le(values.len() as u32);
    values.iter().for_each(|value| put_value(out, value));
}

fn put_votes(out: &mut BytesMut, votes: &[Vote]) {
    out.put_u32_le(votes.len() as u32);
    for vote in votes {
        out.put_u64_le(vote.slot.0);
        out.put_u64_le(vote.ballot.number());
        put_value(out, &vote.value);
    }
}

fn votes(bytes: &mut Bytes) -> Result<Vec<Vote>> {
    list(bytes, 20, |bytes| {
        Ok(Vote {
            slot: slot(bytes)?,
            ballot: ballot(bytes)?,
            value: value(bytes)?,
        })
    })
}

fn put_applied(out: &mut BytesMut, applied: &Applied) {
    let (kind, version) = match &applied.outcome {
        Outcome::Noop => (1, 0),
        Outcome::Committed { version } => (2, *version),
        Outcome::NotCommitted {
            version,
            instance: None,
        } => (3, *version),
        Outcome::Reused => (4, 0),
        Outcome::Read(None) => (5, 0),
        Outcome::Read(Some(resource)) => (6, resource.version),
        Outcome::Untold => (21, 0),
        Outcome::Withheld => (22, 0),
        Outcome::NotCommitted { version, .. } => (7, *version),
        Outcome::OldSequence { from } => (8, *from),
        Outcome::OldTimestamp { above } => (9, *above),
        Outcome::Full => (10, 0),
        Outcome::Quota { used, .. } => (11, *used),
    };
    out.put_u8(kind);
    out.put_u64_le(applied.slot.0);
    out.put_u64_le(version);
    match &applied.outcome {
        Outcome::Read(Some(resource)) => {
            out.put_u64_le(resource.slot.0);
            out.put_u64_le(resource.timestamp);
            put_value(
                out,
                &Value(Bytes::copy_from_slice(resource.client_id.as_bytes())),
            );
            put_value(out, &Value(resource.data.clone()));
        }
        Outcome::NotCommitted {
            instance: Some(instance),
            ..
        } => out.put_u64_le(instance.0),
        Outcome::Quota { limit, .. } => out.put_u64_le(*limit),
        _ => {}
    }
}

fn applied(bytes: &mut Bytes) -> Result<Applied> {
    match u8(bytes)? {
        0 | 21 | 22 => Err(Error::Malformed("no outcome where one must be")),
        kind => applied_of(kind, bytes),
    }
}

fn applied_of(kind: u8, bytes: &mut Bytes) -> Result<Applied> {
    let (at, version) = (slot(bytes)?, u64(bytes)?);
    let outcome = match kind {
        1 => Outcome::Noop,
        2 => Outcome::Committed { version },
        3 => Outcome::NotCommitted {
            version,
            instance: None,
        },
        4 => Outcome::Reused,
        5 => Outcome::Read(None),
        6 => {
            let (slot, timestamp) = (slot(bytes)?, u64(bytes)?);
            let client_id = value(bytes)?;
            let client_id = std::str::from_utf8(&client_id.0)
                .map_err(|_| Error::Malformed("a client's id is no text"))?;
            let client_id = client_id.into();
            let data = value(bytes)?.0;
            Outcome::Read(Some(Resource {
                data,
                version,
                slot,
                timestamp,
                client_id,
            }))
        }
        21 => Outcome::Untold,
        22 => Outcome::Withheld,
        7 => Outcome::NotCommitted {
            version,
            instance: Some(slot(bytes)?),
        },
        8 => Outcome::OldSequence { from: version },
        9 => Outcome::OldTimestamp { above: version },
        10 => Outcome::Full,
        11 => Outcome::Quota {
            used: version,
            limit: u64(bytes)?,
        },
        _ => return Err(Error::Malformed("unknown kind of outcome")),
    };
    Ok(Applied { slot: at, outcome })
}

fn put_outcomes(out: &mut BytesMut, outcomes: &[Option<Applied>]) {
    out.put_u32_le(outcomes.len() as u32);
    outcomes
        .iter()
        .for_each(|outcome| put_optional_applied(out, outcome));
}

fn put_optional_applied(out: &mut BytesMut, applied: &Option<Applied>) {
    match applied {
        Some(applied) => put_applied(out, applied),
        None => out.put_u8(0),
    }
}

fn optional_applied(bytes: &mut Bytes) -> Result<Option<Applied>> {
    match u8(bytes)? {
        0 => Ok(None),
        kind => applied_of(kind, bytes).map(Some),
    }
}

const CUT_SHORT: Error = Error::Malformed("it is cut short");

fn u8(bytes: &mut Bytes) -> Result<u8> {
    bytes.try_get_u8().map_err(|_| CUT_SHORT)
}

fn u32(bytes: &mut Bytes) -> Result<u32> {
    bytes.try_get_u32_le().map_err(|_| CUT_SHORT)
}

fn u64(bytes: &mut Bytes) -> Result<u64> {
    bytes.try_get_u64_le().map_err(|_| CUT_SHORT)
}

/// A slot; the last 2^32 numbers are refused, so that adding a count never overflows.
fn slot(bytes: &mut Bytes) -> Result<Slot> {
    match u64(bytes)? {
        number if number <= u64::MAX - (1 << 32) => Ok(Slot(number)),
        _ => Err(Error::Malformed("a slot is past the end of the log")),
    }
}

fn ballot(bytes: &mut Bytes) -> Result<Ballot> {
    Ballot::from_number(u64(bytes)?).ok_or(Error::Malformed("a ballot names no proposer"))
}

fn promise(bytes: &mut Bytes) -> Result<Ballot> {
    match u64(bytes)? {
        0 => Ok(Ballot::NONE),
        number => Ballot::from_number(number).ok_or(Error::Malformed("a ballot names no proposer")),
    }
}

fn value(bytes: &mut Bytes) -> Result<Value> {
    let length = u32(bytes)? as usize;
    if length > bytes.len() {
        return Err(CUT_SHORT);
    }
    Ok(Value(bytes.split_to(length)))
}

fn values(bytes: &mut Bytes, first: Slot) -> Result<Values> {
    debug_assert!(first.0 <= u64::MAX - (1 << 32));
    list(bytes, 4, value).map(Values::from)
}

/// A list whose count is checked against what is left, each item taking `least` bytes or more: a
/// forged count reserves no memory.
fn list<T>(
    bytes: &mut Bytes,
    least: usize,
    mut item: impl FnMut(&mut Bytes) -> Result<T>,
) -> Result<Vec<T>> {
    let count = u32(bytes)? as usize;
    if count > bytes.len() / least {
        return Err(CUT_SHORT);
    }
    let mut items = Vec::with_capacity(count);
    for _ in 0..count {
        items.push(item(bytes)?);
    }
    Ok(items)
}

fn node_name(bytes: &mut Bytes) -> Result<NodeName> {
    let role = match u8(bytes)? {
        1 => Role::Proposer,
        2 => Role::Acceptor,
        3 => Role::Learner,
        4 => Role::Store,
        _ => return Err(Error::Malformed("unknown role")),
    };
    let id = NodeId::new(u8(bytes)?).ok_or(Error::Malformed("node 0"))?;
    Ok(NodeName { role, id })
}

#[cfg(test)]
mod tests;
