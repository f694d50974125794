//! What an acceptor writes to its log.

use super::ids::{Ballot, Slot};
use super::roster::Roster;
use super::value::Values;

/// All that an acceptor must never forget.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Record {
    /// No ballot below this one will be accepted.
    Promised {
        /// The promise.
        ballot: Ballot,
        /// Which process it was given to; 0 if that is not known.
        run: u64,
    },
    /// Votes in consecutive slots; implies the promise of their ballot.
    Accepted {
        /// The ballot voted at.
        ballot: Ballot,
        /// The slot of the first value.
        first: Slot,
        /// One value per slot.
        values: Values,
        /// What the leader said to be chosen. Kept so that after a restart of everything a new
        /// leader need not propose the whole log again.
        committed: Slot,
    },
    /// Votes up to `floor` are forgotten. Repeats what records before it may have said, so that
    /// they can be removed.
    Trimmed {
        /// The promise.
        promised: Ballot,
        /// Which process it was given to; 0 if that is not known.
        run: u64,
        /// The last slot forgotten.
        floor: Slot,
        /// What a leader said to be chosen; at least `floor`.
        committed: Slot,
    },
    /// What it knows of the cluster's nodes, instead of what it knew before.
    Known(Roster),
}
