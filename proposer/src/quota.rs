//! What a leader settles for all learners: how long requests are remembered, and what resources may take.

use api::env::{Config, quota_for};
use paxos::stamp::Terms;

use crate::bounds::memory;

/// What a cluster's resources may take where no limit of memory is known.
const QUOTA_WITHOUT_LIMIT: u64 = 1 << 30;

/// What a leader of this configuration settles. A quota that nobody has set goes by this process's own
/// limit, as all roles have the same unless told otherwise.
pub(crate) fn terms(config: &Config) -> Terms {
    let by_limit = || memory::of_this_process().map_or(QUOTA_WITHOUT_LIMIT, quota_for);
    Terms {
        retry_window_ms: u32::try_from(config.retry_window.as_millis()).unwrap_or(u32::MAX),
        retry_memory: config.retry_memory,
        quota: config.state_quota.unwrap_or_else(by_limit),
    }
}
