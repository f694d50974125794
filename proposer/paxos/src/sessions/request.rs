//! What is remembered of one request.

use std::sync::Arc;

use crate::digest::Digest;
use crate::ids::Slot;
use crate::outcome::{Applied, Outcome, Resource};

/// What is charged for a request in the queue, and beside its data for what a READ found: a little more
/// than they take.
pub(super) const REQUEST_BYTES: u64 = 88;
const FOUND_BYTES: u64 = 192;
/// A request of a log without a stamp has no client.
pub(super) const NO_CLIENT: u32 = u32::MAX;

/// What is remembered of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub(super) key: [u64; 2],
    /// What tells another body under the same name.
    pub fingerprint: u64,
    /// Where it was executed.
    pub slot: Slot,
    pub(super) timestamp: u64,
    pub(super) done: Done,
    pub(super) client: u32,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// It took effect.
    Committed {
        /// The resource's version after it.
        version: u64,
    },
    /// Its condition did not hold.
    NotCommitted {
        /// The resource's version.
        version: u64,
        /// The resource's last write.
        instance: Slot,
    },
    /// The same in a log without a stamp.
    NotCommittedEarly {
        /// The resource's version.
        version: u64,
    },
    /// What READ found.
    Found(Option<Arc<Resource>>),
    /// READ found more than is kept.
    FoundMuch,
}

impl Done {
    /// Kind, version, instance.
    pub(super) fn numbers(&self) -> (u64, u64, u64) {
        match self {
            Done::NotCommittedEarly { version } => (0, *version, 0),
            Done::Committed { version } => (1, *version, 0),
            Done::NotCommitted { version, instance } => (2, *version, instance.0),
            Done::Found(None) => (3, 0, 0),
            Done::Found(Some(found)) => (4, found.version, found.slot.0),
            Done::FoundMuch => (5, 0, 0),
        }
    }

    pub(super) fn is_read(&self) -> bool {
        matches!(self, Done::Found(_) | Done::FoundMuch)
    }

    /// What is charged for it beside the request.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Done::Found(Some(found)) => {
                FOUND_BYTES + (found.data.len() + found.client_id.len()) as u64
            }
            _ => 0,
        }
    }

    /// `None` for a READ that is to be read again.
    pub(super) fn applied(&self, slot: Slot) -> Option<Applied> {
        let outcome = match *self {
            Done::Committed { version } => Outcome::Committed { version },
            Done::NotCommitted { version, instance } => Outcome::NotCommitted {
                version,
                instance: Some(instance),
            },
            Done::NotCommittedEarly { version } => Outcome::NotCommitted {
                version,
                instance: None,
            },
            Done::Found(ref found) => Outcome::Read(found.as_deref().cloned()),
            Done::FoundMuch => return None,
        };
        Some(Applied { slot, outcome })
    }
}

impl Session {
    /// One of a log without a stamp.
    pub fn new(key: u128, fingerprint: u64, slot: Slot, done: Done) -> Session {
        Session {
            key: [key as u64, (key >> 64) as u64],
            fingerprint,
            slot,
            timestamp: 0,
            done,
            client: NO_CLIENT,
        }
    }

    /// A hash of what names it.
    pub fn key(&self) -> u128 {
        u128::from(self.key[1]) << 64 | u128::from(self.key[0])
    }

    /// What became of it.
    pub fn done(&self) -> &Done {
        &self.done
    }

    pub(super) fn bytes(&self) -> u64 {
        REQUEST_BYTES + self.done.bytes()
    }

    /// `client` is its client's key, `at` its log time; neither counts in a log without a stamp, whose
    /// digests are those of the first release.
    pub(super) fn digest(&self, client: u128, at: u64) -> u128 {
        let (kind, version, instance) = self.done.numbers();
        let mut digest = Digest::new(5);
        digest.number(self.key[0]);
        digest.number(self.key[1]);
        digest.number(self.fingerprint);
        digest.number(self.slot.0);
        digest.number(kind);
        digest.number(version);
        if self.client != NO_CLIENT {
            digest.number(instance);
            digest.number(self.timestamp);
            digest.number(at);
            digest.number(client as u64);
        }
        digest.finish()
    }
}
