//! What messages and records are made of.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Error, Result};
use crate::ids::{Ballot, ClusterId, Members, NodeId, NodeName, Role, Slot};
use crate::message::{Value, Values, Vote};
use crate::roster::{Refusal, Start};

pub(super) fn put_node_name(out: &mut BytesMut, name: NodeName) {
    out.put_u8(match name.role {
        Role::Proposer => 1,
        Role::Acceptor => 2,
        Role::Learner => 3,
        Role::Store => 4,
    });
    out.put_u8(name.id.number());
}

pub(super) fn put_start(out: &mut BytesMut, start: Start) {
    out.put_u64_le(start.incarnation);
    out.put_u64_le(start.count);
    out.put_u64_le(start.run);
}

pub(super) fn start(bytes: &mut Bytes) -> Result<Start> {
    Ok(Start {
        incarnation: u64(bytes)?,
        count: u64(bytes)?,
        run: u64(bytes)?,
    })
}

pub(super) fn put_cluster(out: &mut BytesMut, cluster: Option<ClusterId>) {
    out.put_u64_le(cluster.map_or(0, ClusterId::number));
}

pub(super) fn cluster(bytes: &mut Bytes) -> Result<Option<ClusterId>> {
    u64(bytes).map(ClusterId::new)
}

/// A message without this number is of an older kind.
pub(super) fn put_members(out: &mut BytesMut, members: Option<Members>) {
    if let Some(members) = members {
        out.put_u8(members.count());
    }
}

pub(super) fn members(bytes: &mut Bytes) -> Result<Members> {
    Members::new(u8(bytes)?).ok_or(Error::Malformed("no acceptors"))
}

pub(super) fn put_refusal(out: &mut BytesMut, refusal: Refusal) {
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

pub(super) fn refusal(bytes: &mut Bytes) -> Result<Refusal> {
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

pub(super) fn put_value(out: &mut BytesMut, value: &Value) {
    out.put_u32_le(value.len() as u32);
    out.put_slice(&value.0);
}

pub(super) fn values_size(values: &[Value]) -> usize {
    values.iter().map(|value| 4 + value.len()).sum()
}

pub(super) fn put_values(out: &mut BytesMut, values: &[Value]) {
    out.put_u32_le(values.len() as u32);
    values.iter().for_each(|value| put_value(out, value));
}

pub(super) fn put_votes(out: &mut BytesMut, votes: &[Vote]) {
    out.put_u32_le(votes.len() as u32);
    for vote in votes {
        out.put_u64_le(vote.slot.0);
        out.put_u64_le(vote.ballot.number());
        put_value(out, &vote.value);
    }
}

pub(super) fn votes(bytes: &mut Bytes) -> Result<Vec<Vote>> {
    list(bytes, 20, |bytes| {
        Ok(Vote {
            slot: slot(bytes)?,
            ballot: ballot(bytes)?,
            value: value(bytes)?,
        })
    })
}

pub(super) const CUT_SHORT: Error = Error::Malformed("it is cut short");

pub(super) fn u8(bytes: &mut Bytes) -> Result<u8> {
    bytes.try_get_u8().map_err(|_| CUT_SHORT)
}

pub(super) fn u32(bytes: &mut Bytes) -> Result<u32> {
    bytes.try_get_u32_le().map_err(|_| CUT_SHORT)
}

pub(super) fn u64(bytes: &mut Bytes) -> Result<u64> {
    bytes.try_get_u64_le().map_err(|_| CUT_SHORT)
}

/// A slot; the last 2^32 numbers are refused, so that adding a count never overflows.
pub(super) fn slot(bytes: &mut Bytes) -> Result<Slot> {
    match u64(bytes)? {
        number if number <= u64::MAX - (1 << 32) => Ok(Slot(number)),
        _ => Err(Error::Malformed("a slot is past the end of the log")),
    }
}

pub(super) fn ballot(bytes: &mut Bytes) -> Result<Ballot> {
    Ballot::from_number(u64(bytes)?).ok_or(Error::Malformed("a ballot names no proposer"))
}

pub(super) fn promise(bytes: &mut Bytes) -> Result<Ballot> {
    match u64(bytes)? {
        0 => Ok(Ballot::NONE),
        number => Ballot::from_number(number).ok_or(Error::Malformed("a ballot names no proposer")),
    }
}

pub(super) fn value(bytes: &mut Bytes) -> Result<Value> {
    let length = u32(bytes)? as usize;
    if length > bytes.len() {
        return Err(CUT_SHORT);
    }
    Ok(Value(bytes.split_to(length)))
}

pub(super) fn values(bytes: &mut Bytes, first: Slot) -> Result<Values> {
    debug_assert!(first.0 <= u64::MAX - (1 << 32));
    list(bytes, 4, value).map(Values::from)
}

/// A list whose count is checked against what is left, each item taking `least` bytes or more: a
/// forged count reserves no memory.
pub(super) fn list<T>(
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

pub(super) fn node_name(bytes: &mut Bytes) -> Result<NodeName> {
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
