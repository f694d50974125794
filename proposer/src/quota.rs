//! What a cluster's resources may take where nobody has said it.

use crate::bounds::memory;

/// What a cluster's resources may take where no limit of memory is known.
const QUOTA_WITHOUT_LIMIT: u64 = 1 << 30;
/// Of a learner's memory, resources may take one part in so many. As much again goes to requests that
/// are remembered, the rest to messages, snapshots and the allocator.
pub const QUOTA_SHARE: u64 = 4;
/// The least of `STATE_QUOTA_BYTES`.
pub const MIN_STATE_QUOTA: u64 = 64 << 10;

/// The quota of a leader that was told none: by its own limit, as all roles have the same unless told
/// otherwise.
pub fn default_quota() -> u64 {
    memory::of_this_process().map_or(QUOTA_WITHOUT_LIMIT, quota_for)
}

/// The quota that fits a learner with so much memory.
pub fn quota_for(memory: u64) -> u64 {
    (memory / QUOTA_SHARE).max(MIN_STATE_QUOTA)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_memory_and_never_less_than_can_be_set() {
        assert_eq!(quota_for(512 << 20), 128 << 20);
        assert_eq!(quota_for(1), MIN_STATE_QUOTA);
    }
}
