//! Outcomes, in answers and in a learner's log.

use bytes::{BufMut, Bytes, BytesMut};

use super::fields::*;
use super::{Error, Result};
use crate::message::Value;
use crate::outcome::{Applied, Outcome, Resource};

pub(super) fn put_applied(out: &mut BytesMut, applied: &Applied) {
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

pub(super) fn applied(bytes: &mut Bytes) -> Result<Applied> {
    match u8(bytes)? {
        0 | 21 | 22 => Err(Error::Malformed("no outcome where one must be")),
        kind => applied_of(kind, bytes),
    }
}

pub(super) fn applied_of(kind: u8, bytes: &mut Bytes) -> Result<Applied> {
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

pub(super) fn put_outcomes(out: &mut BytesMut, outcomes: &[Option<Applied>]) {
    out.put_u32_le(outcomes.len() as u32);
    outcomes
        .iter()
        .for_each(|outcome| put_optional_applied(out, outcome));
}

pub(super) fn put_optional_applied(out: &mut BytesMut, applied: &Option<Applied>) {
    match applied {
        Some(applied) => put_applied(out, applied),
        None => out.put_u8(0),
    }
}

pub(super) fn optional_applied(bytes: &mut Bytes) -> Result<Option<Applied>> {
    match u8(bytes)? {
        0 => Ok(None),
        kind => applied_of(kind, bytes).map(Some),
    }
}
