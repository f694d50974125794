//! What a client's value says, and its bytes.
//!
//! ```text
//! format u8 = 1 · operation u8 · flags u8 (1: ifVersion, 2: requestId, 4: ifInstance, 8: sequence)
//! · timestamp u64 · [ifVersion u64] · [ifInstance u64] · [sequence u64]
//! · clientId · [requestId] · resource · data (the rest)
//! ```
//! Numbers are little-endian; the three texts carry a length of two bytes first. The leader may have
//! put a [`Stamp`] before it.

use bytes::{Buf, BufMut, BytesMut};

use super::digest::Digest;
use super::stamp::Stamp;
pub use super::stamp::Undecodable;
use super::value::Value;

const FORMAT: u8 = 1;
const HAS_IF_VERSION: u8 = 1;
const HAS_REQUEST_ID: u8 = 2;
const HAS_IF_INSTANCE: u8 = 4;
const HAS_SEQUENCE: u8 = 8;

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
    /// Do it only if this instance last wrote the resource; 0: only if there is none.
    pub if_instance: Option<u64>,
    /// Numbers the client's requests: it grows within a `clientId`. At most [`MAX_SEQUENCE`].
    pub sequence: Option<u64>,
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

/// The highest `sequence`: the highest whole number that every JSON parser keeps exactly.
pub const MAX_SEQUENCE: u64 = (1 << 53) - 1;

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
        if self.if_instance.is_some() {
            flags |= HAS_IF_INSTANCE;
        }
        if self.sequence.is_some() {
            flags |= HAS_SEQUENCE;
        }
        bytes.put_u8(flags);
        bytes.put_u64_le(self.timestamp);
        for number in [self.if_version, self.if_instance, self.sequence]
            .into_iter()
            .flatten()
        {
            bytes.put_u64_le(number);
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

    /// What a value says, whether stamped or not; `None` for the no-op.
    pub fn decode(value: &'a Value) -> Result<Option<Command<'a>>, Undecodable> {
        Command::decode_with_stamp(value).map(|(_, command)| command)
    }

    /// The same for a value that comes from a client: it has no stamp, which only a leader makes, and
    /// is no no-op.
    pub fn decode_from_client(value: &'a Value) -> Result<Command<'a>, Undecodable> {
        parse(&value.0).ok_or(Undecodable)
    }

    /// What a value in the log says, and the leader's stamp if it carries one.
    pub fn decode_with_stamp(
        value: &'a Value,
    ) -> Result<(Option<Stamp>, Option<Command<'a>>), Undecodable> {
        let (stamp, bytes) = Stamp::split(&value.0)?;
        let command = match bytes {
            [] => None,
            bytes => Some(parse(bytes).ok_or(Undecodable)?),
        };
        Ok((stamp, command))
    }

    /// Names the client.
    pub(crate) fn client_key(&self) -> u128 {
        let mut key = Digest::new(6);
        key.add(self.client_id.as_bytes());
        key.finish()
    }

    /// Names the request permanently: the client and its `sequence`, else its `requestId`, or without
    /// either the whole of what is asked. Two requests share a key by accident with a probability of 2^-128.
    pub fn key(&self) -> u128 {
        let mut key = Digest::new(1);
        key.add(self.client_id.as_bytes());
        match (self.sequence, self.request_id) {
            (Some(sequence), _) => {
                key.number(2);
                key.number(sequence);
            }
            (None, Some(id)) => {
                key.number(1);
                key.add(id.as_bytes());
            }
            (None, None) => {
                key.number(0);
                key.number(self.timestamp);
                key.number(self.fingerprint());
            }
        }
        key.finish()
    }

    /// Tells a request from another one that uses the same `requestId` or `sequence`.
    pub fn fingerprint(&self) -> u64 {
        let mut body = Digest::new(2);
        body.number(self.operation as u64);
        body.number(self.if_version.is_some().into());
        body.number(self.if_version.unwrap_or_default());
        body.add(self.resource.as_bytes());
        body.add(self.data);
        if let Some(instance) = self.if_instance {
            body.number(1);
            body.number(instance);
        }
        if let (Some(_), Some(id)) = (self.sequence, self.request_id) {
            body.number(2);
            body.add(id.as_bytes());
        }
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
    if flags & !(HAS_IF_VERSION | HAS_REQUEST_ID | HAS_IF_INSTANCE | HAS_SEQUENCE) != 0 {
        return None;
    }
    let timestamp = bytes.try_get_u64_le().ok()?;
    let mut number = |flag| match flags & flag {
        0 => Some(None),
        _ => bytes.try_get_u64_le().ok().map(Some),
    };
    let if_version = number(HAS_IF_VERSION)?;
    let if_instance = number(HAS_IF_INSTANCE)?;
    let sequence = number(HAS_SEQUENCE)?;
    if sequence.is_some_and(|sequence| sequence > MAX_SEQUENCE) {
        return None;
    }
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
        if_instance,
        sequence,
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
        if_instance: None,
        sequence: None,
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
                    for (if_instance, sequence) in
                        [(None, None), (Some(9), None), (Some(0), Some(MAX_SEQUENCE))]
                    {
                        let command = Command {
                            operation,
                            if_version,
                            if_instance,
                            sequence,
                            request_id,
                            ..COMMAND
                        };
                        assert_eq!(Command::decode(&command.encode()), Ok(Some(command)));
                    }
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
        let too_high = Command {
            sequence: Some(MAX_SEQUENCE + 1),
            ..COMMAND
        };
        assert_eq!(Command::decode(&too_high.encode()), Err(Undecodable));
        let mut newer = bytes.to_vec();
        newer[0] = 200;
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
                sequence: Some(1),
                ..COMMAND
            }
            .key(),
            Command {
                sequence: Some(2),
                ..COMMAND
            }
            .key(),
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
