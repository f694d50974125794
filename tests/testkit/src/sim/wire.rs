//! Messages as bytes, between nodes of one version or of two. There is no compatibility between
//! versions of the encoding: a node takes what it cannot read for lost, whole.

use std::fmt;

use bytes::Bytes;
use paxos::codec::{Frame, NodeName};
use paxos::message::Message;

/// Which version of the encoding a node speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// This one.
    Ours,
    /// Of another version number.
    Version(u8),
    /// Of the same number, but with more at the end of each message.
    Longer,
}

/// A message on its way.
#[derive(Clone)]
pub(super) struct Said {
    dialect: Dialect,
    bytes: Bytes,
}

impl Said {
    /// By that node.
    pub(super) fn by(from: NodeName, dialect: Dialect, message: Message) -> Said {
        let ours = Frame {
            from,
            cluster: None,
            message,
        };
        let ours = ours.encode();
        let bytes = match dialect {
            Dialect::Ours => ours,
            Dialect::Version(version) => {
                let mut bytes = ours.to_vec();
                bytes[1] = version;
                bytes.into()
            }
            Dialect::Longer => {
                let mut bytes = ours.to_vec();
                bytes.push(0);
                bytes.into()
            }
        };
        Said { dialect, bytes }
    }

    /// How long it is.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// What a node of that dialect takes from it.
    pub(super) fn heard(&self, dialect: Dialect) -> Option<Message> {
        let decoded = Frame::decode(self.bytes.clone());
        match (self.dialect, dialect) {
            (Dialect::Ours, Dialect::Ours) => {
                Some(decoded.expect("what is encoded can be decoded").message)
            }
            (_, Dialect::Ours) => {
                assert!(decoded.is_err(), "another version is refused: {decoded:?}");
                None
            }
            (said, heard) if said == heard => Some(self.translated()),
            _ => None,
        }
    }

    /// What its sender meant.
    pub(super) fn meant(&self) -> Message {
        self.translated()
    }

    fn translated(&self) -> Message {
        let mut bytes = self.bytes.to_vec();
        match self.dialect {
            Dialect::Ours => {}
            Dialect::Version(_) => bytes[1] = paxos::codec::VERSION,
            Dialect::Longer => drop(bytes.pop()),
        }
        let decoded = Frame::decode(bytes.into());
        decoded.expect("what is encoded can be decoded").message
    }
}

impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.translated().fmt(f)
    }
}
