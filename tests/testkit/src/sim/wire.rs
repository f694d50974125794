//! Messages as bytes, between nodes of one version of the encoding or of two. Neighbours understand each
//! other; what a node cannot read is lost, whole.

use std::fmt;

use bytes::Bytes;
use paxos::codec::{Error, Frame, NodeName, Version};
use paxos::message::Message;

/// Which versions of the encoding a node reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Those of this build.
    Ours,
    /// The older of them and the one before that.
    Older,
    /// The newer of them and the one after that.
    Newer,
    /// None of them: each of its messages has more at the end.
    Longer,
}

impl Dialect {
    /// Whether a cluster of such nodes and of ours works.
    pub fn mixes(self) -> bool {
        self != Dialect::Longer
    }

    /// What two nodes write to each other; `None`: they do not understand each other.
    fn common(self, other: Dialect) -> Option<Version> {
        match (self, other) {
            (Dialect::Longer, Dialect::Longer) => Some(Version::NEWEST),
            (Dialect::Longer, _) | (_, Dialect::Longer) => None,
            (Dialect::Older, Dialect::Newer) | (Dialect::Newer, Dialect::Older) => None,
            (Dialect::Older, _) | (_, Dialect::Older) => Some(Version::OLDEST),
            (Dialect::Ours | Dialect::Newer, _) => Some(Version::NEWEST),
        }
    }
}

/// A message on its way.
#[derive(Clone)]
pub(super) struct Said {
    dialect: Dialect,
    /// A connection delivers it once. Of what changes nothing when it comes again, late copies arrive too:
    /// the protocol bears more than connections do.
    pub(super) comes_once: bool,
    /// In the newest version of this build.
    bytes: Bytes,
}

impl Said {
    /// By that node.
    pub(super) fn by(from: NodeName, dialect: Dialect, message: Message) -> Said {
        let comes_once = matches!(message, Message::Forward { .. });
        let frame = Frame {
            version: Version::NEWEST,
            from,
            cluster: None,
            message,
        };
        let bytes = frame.encode();
        Said {
            dialect,
            comes_once,
            bytes,
        }
    }

    /// How long it is.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// What a node of that dialect takes from it.
    pub(super) fn heard(&self, dialect: Dialect) -> Option<Message> {
        let Some(version) = self.dialect.common(dialect) else {
            self.assert_unread();
            return None;
        };
        let bytes = match version {
            Version::NEWEST => Ok(self.bytes.clone()),
            older => Frame::translate(&self.bytes, older),
        };
        let frame = bytes.and_then(Frame::decode);
        let frame = frame.expect("what is encoded can be decoded");
        assert_eq!(frame.version, version);
        Some(frame.message)
    }

    /// This build refuses what it cannot read, by name.
    fn assert_unread(&self) {
        // Without a checksum, which would tell it first.
        let oldest = Frame::translate(&self.bytes, Version::OLDEST);
        let oldest = oldest.expect("what is encoded can be decoded");
        let (bytes, expected) = match self.dialect {
            Dialect::Longer => {
                let longer = [&oldest[..], &[0]].concat();
                (longer, Error::Malformed("bytes follow its end"))
            }
            _ => {
                let next = Version::NEWEST.number() + 1;
                let mut bytes = oldest.to_vec();
                bytes[1] = next;
                (bytes, Error::Version(next))
            }
        };
        assert_eq!(Frame::decode(bytes.into()), Err(expected), "it is refused");
    }

    /// What its sender meant.
    pub(super) fn meant(&self) -> Message {
        let frame = Frame::decode(self.bytes.clone());
        frame.expect("what is encoded can be decoded").message
    }
}

impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.meant().fmt(f)
    }
}
