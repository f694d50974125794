//! Log time: what a leader says of the time that passes, in front of a client's value.
//!
//! ```text
//! kind u8 = 2 · elapsed u16 · retry window u32 · retry memory u64 · quota u64 · the value
//! ```
//! About once a second, while there is traffic, the leader stamps the value that it proposes next with
//! the milliseconds since its last stamp, by its monotonic clock. Learners add them up. Gaps between
//! leaders count as nothing and pauses as [`MAX_ELAPSED_MS`] at most, so log time runs no faster than
//! real time, is the same at every learner, and asks nothing of anybody's clock.
//!
//! A stamp takes no separate slot: clients' instances stay without gaps. It carries the leader's
//! settings too, so that all learners use the same ones from the same slot on.

use bytes::{Buf, BufMut, BytesMut};

use super::value::Value;

const KIND: u8 = 2;
const BYTES: usize = 23;

/// The most that one stamp adds to log time, whatever the leader's clock says.
pub const MAX_ELAPSED_MS: u16 = 5000;
/// A leader stamps again when this has passed. A request is up to this much younger than the log time
/// at which it stands.
pub const STAMP_EVERY_MS: u64 = 1000;
/// The bounds of the retry window.
pub const RETRY_WINDOW_MS: std::ops::RangeInclusive<u64> = 1000..=3_600_000;
/// The bounds of the memory for requests that may be sent again.
pub const RETRY_MEMORY: std::ops::RangeInclusive<u64> = 16 << 10..=1 << 40;

/// A value of which this version can make nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value is no command that this version knows: it was written by a newer version")]
pub struct Undecodable;

/// What a leader settles for all learners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Terms {
    /// For how long, in log time, a request is remembered.
    pub retry_window_ms: u32,
    /// The bytes that may be spent on remembering requests.
    pub retry_memory: u64,
    /// The bytes that names and data of all resources may take.
    pub quota: u64,
}

impl Default for Terms {
    fn default() -> Terms {
        Terms {
            retry_window_ms: 60_000,
            retry_memory: 128 << 20,
            quota: 1 << 30,
        }
    }
}

/// A leader's stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// Since this leader's last stamp; 0 in its first.
    pub elapsed_ms: u16,
    /// The leader's settings.
    pub terms: Terms,
}

impl Stamp {
    /// A stamp after `elapsed_ms` milliseconds.
    pub fn after(elapsed_ms: u64, terms: Terms) -> Stamp {
        let most = u64::from(MAX_ELAPSED_MS);
        Stamp {
            elapsed_ms: elapsed_ms.min(most) as u16,
            terms,
        }
    }

    /// The value with this stamp before it.
    pub fn put_on(&self, value: &Value) -> Value {
        let mut bytes = BytesMut::with_capacity(BYTES + value.len());
        bytes.put_u8(KIND);
        bytes.put_u16_le(self.elapsed_ms);
        bytes.put_u32_le(self.terms.retry_window_ms);
        bytes.put_u64_le(self.terms.retry_memory);
        bytes.put_u64_le(self.terms.quota);
        bytes.put_slice(&value.0);
        Value(bytes.freeze())
    }

    /// The stamp, if there is one, and what follows it. Numbers beyond their bounds count as the
    /// bounds: no leader may stop the learners.
    pub(crate) fn split(bytes: &[u8]) -> Result<(Option<Stamp>, &[u8]), Undecodable> {
        if bytes.first() != Some(&KIND) {
            return Ok((None, bytes));
        }
        let (mut head, rest) = bytes.split_at_checked(BYTES).ok_or(Undecodable)?;
        head.advance(1);
        let elapsed_ms = head.get_u16_le().min(MAX_ELAPSED_MS);
        let window = u64::from(head.get_u32_le());
        let window = window.clamp(*RETRY_WINDOW_MS.start(), *RETRY_WINDOW_MS.end());
        let memory = head.get_u64_le();
        let terms = Terms {
            retry_window_ms: window as u32,
            retry_memory: memory.clamp(*RETRY_MEMORY.start(), *RETRY_MEMORY.end()),
            quota: head.get_u64_le(),
        };
        Ok((Some(Stamp { elapsed_ms, terms }), rest))
    }

    /// Whether a value carries a stamp.
    pub fn is_on(value: &Value) -> bool {
        value.0.first() == Some(&KIND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, Operation};

    const COMMAND: Command<'static> = Command {
        operation: Operation::Write,
        timestamp: 17,
        if_version: None,
        if_instance: None,
        sequence: Some(4),
        client_id: "alice",
        request_id: None,
        resource: "colour",
        data: b"1",
    };

    #[test]
    fn a_stamped_value_says_what_it_said_before() {
        let value = COMMAND.encode();
        let stamp = Stamp::after(1234, Terms::default());
        let stamped = stamp.put_on(&value);
        assert_eq!(
            Command::decode_with_stamp(&stamped),
            Ok((Some(stamp), Some(COMMAND)))
        );
        assert_eq!(Command::decode(&stamped), Ok(Some(COMMAND)));
        assert!(Stamp::is_on(&stamped) && !Stamp::is_on(&value));
        let of_noop = stamp.put_on(&Value::NOOP);
        assert_eq!(
            Command::decode_with_stamp(&of_noop),
            Ok((Some(stamp), None))
        );
    }

    #[test]
    fn clients_cannot_stamp_and_a_stamp_is_not_stamped_again() {
        let stamp = Stamp::after(0, Terms::default());
        let stamped = stamp.put_on(&COMMAND.encode());
        assert_eq!(Command::decode_from_client(&stamped), Err(Undecodable));
        assert_eq!(Command::decode_from_client(&Value::NOOP), Err(Undecodable));
        assert_eq!(Command::decode(&stamp.put_on(&stamped)), Err(Undecodable));
    }

    #[test]
    fn a_stamp_is_cut_to_its_bounds_and_one_that_is_cut_short_is_none() {
        let terms = Terms {
            retry_window_ms: 1,
            retry_memory: 1,
            quota: 0,
        };
        let mut bytes = Stamp::after(u64::MAX, terms)
            .put_on(&COMMAND.encode())
            .0
            .to_vec();
        bytes[1] = 0xff;
        bytes[2] = 0xff;
        let value = Value(bytes.clone().into());
        let (stamp, _) = Command::decode_with_stamp(&value).unwrap();
        let stamp = stamp.unwrap();
        assert_eq!(stamp.elapsed_ms, MAX_ELAPSED_MS);
        assert_eq!(
            u64::from(stamp.terms.retry_window_ms),
            *RETRY_WINDOW_MS.start()
        );
        assert_eq!(stamp.terms.retry_memory, *RETRY_MEMORY.start());
        for length in 1..BYTES {
            let short = Value(bytes[..length].to_vec().into());
            assert_eq!(Command::decode(&short), Err(Undecodable));
        }
    }
}
