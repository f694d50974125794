//! How much an acceptor keeps, tells at once, and may write.

/// How much one answer carries before it tells the asker to come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AnswerLimits {
    /// Bytes of values; one larger value goes alone.
    pub bytes: usize,
    /// The same in a promise: a candidate on a slow link must hear something within an election
    /// timeout.
    pub promise_bytes: usize,
    /// Votes: keeps answers full of small values bounded as well.
    pub votes: usize,
}

impl Default for AnswerLimits {
    fn default() -> AnswerLimits {
        AnswerLimits {
            bytes: 2 << 20,
            promise_bytes: 256 << 10,
            votes: 16_384,
        }
    }
}

/// When votes are forgotten that are no longer needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TrimPolicy {
    /// This many of the newest are kept all the same, for learners that are a little behind.
    pub tail: u64,
    /// At least this many at once: each trim costs a record.
    pub stride: u64,
    /// The same in bytes of the log: whichever is less is kept, and whichever is reached is enough.
    pub tail_bytes: u64,
    /// See `tail_bytes`.
    pub stride_bytes: u64,
}

impl Default for TrimPolicy {
    fn default() -> TrimPolicy {
        TrimPolicy {
            tail: 16_384,
            stride: 16_384,
            tail_bytes: 64 << 20,
            stride_bytes: 16 << 20,
        }
    }
}

/// Whether the log may grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Room {
    /// There is enough.
    #[default]
    Enough,
    /// Little: each vote says so to the leader, so that it gives out no more slots than fit.
    Tight,
    /// The log has its share of the volume: no votes in slots that it has not voted in. What a new
    /// leader needs to keep reading still fits.
    Share,
    /// The volume is almost full: no votes. Promises and trims still fit.
    Reserve,
}

/// What an acceptor that has no room says of its volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Volume {
    /// Bytes of the log.
    pub log: u64,
    /// Bytes left.
    pub free: u64,
}
