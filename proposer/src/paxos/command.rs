//! What a client's value says, and its bytes.
//!
//! ```text
//! format u8 = 1 · operation u8 · flags u8 (1: ifVersion, 2: requestId) · timestamp u64
//! · [ifVersion u64] · clientId · [requestId] · resource · data (the rest)
//! ```
//! Numbers are little-endian; the three texts carry a length of two bytes first.

use bytes::{Buf, BufMut, BytesMut};

use super::digest::Digest;
use super::message::Value;

const FORMAT: u8 = 1;
const HAS_IF_VERSION: u8 = 1;
const HAS_REQUEST_ID: u8 = 2;

/// What to do with a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Sets its data.
    Write,
    /// Removes it.
    Delete,
    /// Reads it at the request's place in the log.
    Read,
}

impl Operation {
    /// As in a request's `operation`.
    pub const fn name(self) -> &'static str {
        match self {
            Operation::Write => "WRITE",
            Operation::Delete => "DELETE",
            Operation::Read => "READ",
        }
    }

    /// The operation of that name.
    pub fn parse(name: &str) -> Option<Operation> {
        [Operation::Write, Operation::Delete, Operation::Read]
            .into_iter()
            .find(|o| o.name() == name)
    }
}

/// A client's request, borrowing from a value's bytes or from a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// What to do.
    pub operation: Operation,
    /// The client's clock, in milliseconds; never compared with any other.
    pub timestamp: u64,
    /// Do it only if the resource has this version; 0: only if there is none.
    pub if_version: Option<u64>,
    /// Who asks.
    pub client_id: &'a str,
    /// Names the request among the client's own.
    pub request_id: Option<&'a str>,
    /// On what.
    pub resource: &'a str,
    /// JSON text; empty for DELETE and READ.
    pub data: &'a [u8],
}

/// The longest `clientId` and `requestId`, in characters.
pub const MAX_ID_CHARS: usize = 256;
/// The longest `resource`, in characters.
pub const MAX_RESOURCE_CHARS: usize = 1024;

/// A value that is no command of a format this version knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value is no command of format {FORMAT}: it was written by a newer version")]
pub struct Undecodable;

impl<'a> Command<'a> {
    /// The value that says this. The texts must be within their limits.
    pub fn encode(&self) -> Value {
        let texts =
            self.client_id.len() + self.request_id.map_or(0, str::len) + self.resource.len();
        let mut bytes = BytesMut::with_capacity(32 + texts + self.data.len());
        bytes.put_u8(FORMAT);
        bytes.put_u8(match self.operation {
            Operation::Write => 1,
            Operation::Delete => 2,
            Operation::Read => 3,
        });
        let mut flags = 0;
        if self.if_version.is_some() {
            flags |= HAS_IF_VERSION;
        }
        if self.request_id.is_some() {
            flags |= HAS_REQUEST_ID;
        }
        bytes.put_u8(flags);
        bytes.put_u64_le(self.timestamp);
        if let Some(version) = self.if_version {
            bytes.put_u64_le(version);
        }
        for text in [Some(self.client_id), self.request_id, Some(self.resource)]
            .into_iter()
            .flatten()
        {
            bytes.put_u16_le(text.len() as u16);
            bytes.put_slice(text.as_bytes());
        }
        bytes.put_slice(self.data);
        Value(bytes.freeze())
    }

    /// What a value says; `None` for the no-op.
    pub fn decode(value: &'a Value) -> Result<Option<Command<'a>>, Undecodable> {
        if value.is_noop() {
            Ok(None)
        } else {
            parse(&value.0).ok_or(Undecodable).map(Some)
        }
    }

    /// Names the request for ever: the client and its `requestId`, or without one the whole of what
    /// is asked. Two requests share a key by accident with a probability of 2^-128.
    pub fn key(&self) -> u128 {
        let mut key = Digest::new(1);
        key.add(self.client_id.as_bytes());
        match self.request_id {
            Some(id) => {
                key.number(1);
                key.add(id.as_bytes());
            }
            None => {
                key.number(0);
                key.number(self.timestamp);
                key.number(self.fingerprint());
            }
        }
        key.finish()
    }

    /// Tells a request from another one that uses the same `requestId`.
    pub fn fingerprint(&self) -> u64 {
        let mut body = Digest::new(2);
        body.number(self.operation as u64);
        body.number(self.if_version.is_some().into());
        body.number(self.if_version.unwrap_or_default());
        body.add(self.resource.as_bytes());
        body.add(self.data);
        body.finish_short()
    }
}

fn parse(mut bytes: &[u8]) -> Option<Command<'_>> {
    if bytes.try_get_u8().ok()? != FORMAT {
        return None;
    }
    let operation = match bytes.try_get_u8().ok()? {
        1 => Operation::Write,
        2 => Operation::Delete,
        3 => Operation::Read,
        _ => return None,
    };
    let flags = bytes.try_get_u8().ok()?;
    if flags & !(HAS_IF_VERSION | HAS_REQUEST_ID) != 0 {
        return None;
    }
    let timestamp = bytes.try_get_u64_le().ok()?;
    let if_version = match flags & HAS_IF_VERSION {
        0 => None,
        _ => Some(bytes.try_get_u64_le().ok()?),
    };
    let client_id = text(&mut bytes)?;
    let request_id = match flags & HAS_REQUEST_ID {
        0 => None,
        _ => Some(text(&mut bytes)?),
    };
    let resource = text(&mut bytes)?;
    Some(Command {
        operation,
        timestamp,
        if_version,
        client_id,
        request_id,
        resource,
        data: bytes,
    })
}

fn text<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let length = bytes.try_get_u16_le().ok()? as usize;
    let (text, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    std::str::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMAND: Command<'static> = Command {
        operation: Operation::Write,
        timestamp: 17,
        if_version: Some(3),
        client_id: "alice",
        request_id: Some("r-1"),
        resource: "colour",
        data: br#""red""#,
    };

    #[test]
    fn commands_survive_their_bytes() {
        for operation in [Operation::Write, Operation::Delete, Operation::Read] {
            for if_version in [None, Some(0), Some(u64::MAX)] {
                for request_id in [None, Some(""), Some("é")] {
                    let command = Command {
                        operation,
                        if_version,
                        request_id,
                        ..COMMAND
                    };
                    assert_eq!(Command::decode(&command.encode()), Ok(Some(command)));
                }
            }
        }
        assert_eq!(Command::decode(&Value::NOOP), Ok(None));
    }

    #[test]
    fn what_is_cut_short_or_newer_is_undecodable() {
        let bytes = COMMAND.encode().0;
        for length in 1..bytes.len() - COMMAND.data.len() {
            assert_eq!(
                Command::decode(&Value(bytes.slice(..length))),
                Err(Undecodable)
            );
        }
        let mut newer = bytes.to_vec();
        newer[0] = 2;
        assert_eq!(Command::decode(&Value(newer.into())), Err(Undecodable));
    }

    #[test]
    fn a_request_id_names_the_request_and_its_body_is_told_apart() {
        let other_body = Command {
            data: b"1",
            ..COMMAND
        };
        assert_eq!(COMMAND.key(), other_body.key());
        assert_ne!(COMMAND.fingerprint(), other_body.fingerprint());
        let without = Command {
            request_id: None,
            ..COMMAND
        };
        let keys = [
            COMMAND.key(),
            Command {
                client_id: "bob",
                ..COMMAND
            }
            .key(),
            without.key(),
            Command {
                timestamp: 18,
                ..without
            }
            .key(),
            Command {
                data: b"1",
                ..without
            }
            .key(),
        ];
        for (i, key) in keys.iter().enumerate() {
            assert!(!keys[..i].contains(key));
        }
    }

    /// Keys are kept on disk and compared across versions: they must never change.
    #[test]
    fn keys_are_pinned() {
        assert_eq!(
            format!("{:032x}", COMMAND.key()),
            "047953c2c5be83bea5262accd2ed0fdd"
        );
        assert_eq!(
            format!("{:016x}", COMMAND.fingerprint()),
            "ae9908349b103c79"
        );
    }
}
