//! What a resource is, and what becomes of a request.

use std::sync::Arc;

use bytes::Bytes;

use super::ids::Slot;

/// What a resource takes in memory beside its texts, about.
const RESOURCE_BYTES: u64 = 128;

/// A resource as it stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource {
    /// JSON text.
    pub data: Bytes,
    /// 1 after the write that made it, one more with every committed write since.
    pub version: u64,
    /// The slot of the last write.
    pub slot: Slot,
    /// The client's `timestamp` of that write.
    pub timestamp: u64,
    /// The client of that write.
    pub client_id: Arc<str>,
}

/// What the machine must know of a resource before it changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Current {
    /// As in [`Resource`].
    pub version: u64,
    /// The slot of the last write.
    pub slot: Slot,
    /// What it counts in the quota.
    pub bytes: u64,
}

/// What a resource counts in the quota, by the lengths of its name, its data and its client's id.
pub fn resource_bytes(name: usize, data: usize, client_id: usize) -> u64 {
    RESOURCE_BYTES + (name + data + client_id) as u64
}

/// What became of a slot's value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// A no-op: nothing.
    Noop,
    /// It took effect; the resource has this version now.
    Committed {
        /// For DELETE the version that the removal would have had; 0 when there was nothing.
        version: u64,
    },
    /// `ifVersion` or `ifInstance` did not hold; the resource stays as it is.
    NotCommitted {
        /// Its version; 0 when there is no such resource.
        version: u64,
        /// The slot that last wrote it, 0 when there is none. `None` in logs without a stamp.
        instance: Option<Slot>,
    },
    /// The `requestId` or `sequence` was used before with another body; nothing was done.
    Reused,
    /// What READ found.
    Read(Option<Resource>),
    /// A learner's answer, and in no log: it is applied, and what became of it is no longer known
    /// there.
    Untold,
    /// An answer, and in no log: READ is applied, and what it found did not fit the message. Learners
    /// are to be asked for it.
    Withheld,
    /// Its `sequence` lies below those that are remembered of its client: it may have been executed,
    /// and is not executed now.
    OldSequence {
        /// A new request has one from here on.
        from: u64,
    },
    /// It is not remembered, and requests of its client with this `timestamp` or a lower one have been
    /// forgotten: it may have been executed, and is not executed now.
    OldTimestamp {
        /// A new request has a higher one.
        above: u64,
    },
    /// There was no room to remember it, and so it was not executed.
    Full,
    /// It would have made the state larger than the quota, and was not executed.
    Quota {
        /// The bytes that the state takes.
        used: u64,
        /// The bytes that it may take.
        limit: u64,
    },
}

/// What applying a slot gave.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Applied {
    /// The slot at which the request took effect: an earlier one for a retry.
    pub slot: Slot,
    /// What became of it there.
    pub outcome: Outcome,
}

impl Applied {
    /// Whether applying a value again gave what it gave before. What READ found is not kept.
    pub fn repeats(&self, before: &Applied) -> bool {
        let is_read = |applied: &Applied| matches!(applied.outcome, Outcome::Read(_));
        self == before || is_read(self) && is_read(before)
    }

    /// Without what READ found, as logs and memory keep it.
    pub fn bare(&self) -> Applied {
        let outcome = match &self.outcome {
            Outcome::Read(_) => Outcome::Read(None),
            other => other.clone(),
        };
        Applied { outcome, ..*self }
    }

    /// Bytes of it in a message, at most.
    pub fn size(&self) -> usize {
        const NUMBERS: usize = 41;
        match &self.outcome {
            Outcome::Read(Some(found)) => NUMBERS + found.client_id.len() + found.data.len(),
            _ => NUMBERS,
        }
    }

    /// The same for a peer that knows the outcomes of the first release alone; `None` where none of
    /// them comes near: that peer then does not know what became of the request.
    pub fn for_older_peer(self) -> Option<Applied> {
        let Applied { slot, outcome } = self;
        let outcome = match outcome {
            Outcome::NotCommitted { version, .. } => Outcome::NotCommitted {
                version,
                instance: None,
            },
            Outcome::OldSequence { .. } | Outcome::OldTimestamp { .. } => Outcome::Reused,
            Outcome::Full | Outcome::Quota { .. } | Outcome::Untold | Outcome::Withheld => {
                return None;
            }
            known => known,
        };
        Some(Applied { slot, outcome })
    }
}
