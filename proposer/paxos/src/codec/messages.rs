//! The kinds of messages, and what follows each.

use bytes::{BufMut, Bytes, BytesMut};

use super::fields::*;
use super::outcomes::*;
use super::{Error, Result};
use crate::ids::Slot;
use crate::message::{Forwarded, Learn, Learned, Message, Recalled, Reply, Request};

pub(super) fn put_message(out: &mut BytesMut, message: &Message) {
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

pub(super) fn message(bytes: &mut Bytes) -> Result<Message> {
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

pub(super) fn put_request(out: &mut BytesMut, request: &Request) {
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

pub(super) fn request(kind: u8, bytes: &mut Bytes) -> Result<Request> {
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

pub(super) fn put_reply(out: &mut BytesMut, reply: &Reply) {
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

pub(super) fn reply(kind: u8, bytes: &mut Bytes) -> Result<Reply> {
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
