//! What the protocol gets chosen, and never looks into.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::digest::checksum;

/// What a slot holds: bytes the protocol never looks into. Empty bytes are the no-op with which a
/// new leader fills a slot in which nothing can have been chosen.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(pub Bytes);

impl Value {
    /// Fills a hole; changes nothing when applied.
    pub const NOOP: Value = Value(Bytes::new());

    /// Whether this is the no-op.
    pub fn is_noop(&self) -> bool {
        self.0.is_empty()
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Tells it from others, but for accidents.
    pub fn checksum(&self) -> u64 {
        checksum(&self.0)
    }

    /// Whether this is the no-op, which is the empty value.
    pub fn is_empty(&self) -> bool {
        self.is_noop()
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_noop() {
            f.write_str("noop")
        } else {
            write!(f, "{:?}", self.0)
        }
    }
}

/// Values of consecutive slots, shared between the messages to several nodes.
pub type Values = Arc<[Value]>;
