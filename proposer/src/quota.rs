//! The memory that this process may use, by its control group.

use std::fs;
use std::path::Path;

/// What a cluster's resources may take where no limit is known.
const QUOTA_WITHOUT_LIMIT: u64 = 1 << 30;
/// Of a learner's memory, resources may take one part in so many. As much again goes to requests that
/// are remembered, the rest to messages, snapshots and the allocator.
pub const QUOTA_SHARE: u64 = 4;
/// The least of `STATE_QUOTA_BYTES`.
pub const MIN_STATE_QUOTA: u64 = 64 << 10;

/// The quota of a leader that was told none: by its own limit, as all roles have the same unless told
/// otherwise.
pub fn default_quota() -> u64 {
    let limit = limit_of(Path::new("/proc/self/cgroup"), Path::new("/sys/fs/cgroup"));
    limit.map_or(QUOTA_WITHOUT_LIMIT, quota_for)
}

/// The quota that fits a learner with so much memory.
pub fn quota_for(memory: u64) -> u64 {
    (memory / QUOTA_SHARE).max(MIN_STATE_QUOTA)
}

/// The least of the limits of a process's group and of those around it (cgroup v2).
fn limit_of(membership: &Path, root: &Path) -> Option<u64> {
    let membership = fs::read_to_string(membership).ok()?;
    let own = membership
        .lines()
        .find_map(|line| line.strip_prefix("0::"))?;
    let own = root.join(own.trim_start_matches('/'));
    let groups = own.ancestors().take_while(|group| group.starts_with(root));
    let limits = groups.filter_map(|group| {
        let limit = fs::read_to_string(group.join("memory.max")).ok()?;
        limit.trim().parse().ok()
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_limit_of_the_group_and_those_around_it_counts() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        let group = root.join("pods/one");
        fs::create_dir_all(&group).unwrap();
        let membership = folder.path().join("cgroup");
        fs::write(&membership, "1:name=x:/y\n0::/pods/one\n").unwrap();
        assert_eq!(limit_of(&membership, &root), None);
        fs::write(group.join("memory.max"), "max\n").unwrap();
        assert_eq!(limit_of(&membership, &root), None);
        fs::write(root.join("pods/memory.max"), "1000\n").unwrap();
        assert_eq!(limit_of(&membership, &root), Some(1000));
        fs::write(group.join("memory.max"), "2000\n").unwrap();
        assert_eq!(limit_of(&membership, &root), Some(1000));
        assert_eq!(limit_of(&folder.path().join("absent"), &root), None);
        assert_eq!(quota_for(512 << 20), 128 << 20);
    }
}
