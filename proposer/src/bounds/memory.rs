//! How much memory the process may have: the least limit of its cgroup and those above it, version 1
//! or 2, and never more than the machine has.

use std::fs;
use std::path::Path;

/// Taken where no limit is set: what a node has in Kubernetes by default.
pub const DEFAULT_LIMIT: u64 = 512 << 20;
/// Version 1 says so when there is no limit.
const UNLIMITED: u64 = 1 << 60;

/// The limit in bytes that the cgroups set; `None`: they set none.
pub(crate) fn of_this_process() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    of_cgroups(Path::new("/sys/fs/cgroup"), &groups)
}

/// The limit in bytes.
pub fn limit() -> u64 {
    let limit = of_this_process().unwrap_or(DEFAULT_LIMIT);
    let machine = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    limit.min(total(&machine).unwrap_or(u64::MAX))
}

/// The least limit of the groups that `/proc/self/cgroup` names.
fn of_cgroups(root: &Path, groups: &str) -> Option<u64> {
    let limits = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (hierarchy, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let memory = controllers.split(',').any(|name| name == "memory");
        match (hierarchy, memory) {
            // Version 2, mounted alone or beside version 1.
            ("0", _) => {
                let unified = least(&root.join("unified"), path, "memory.max");
                least(root, path, "memory.max")
                    .into_iter()
                    .chain(unified)
                    .min()
            }
            (_, true) => least(&root.join("memory"), path, "memory.limit_in_bytes"),
            _ => None,
        }
    });
    limits.min()
}

/// The least limit from a group up to the root. In a container the group's path may be the host's,
/// and the group itself be mounted as the root: what is not there says nothing.
fn least(root: &Path, path: &str, file: &str) -> Option<u64> {
    let inside = path
        .split('/')
        .filter(|part| !matches!(*part, "" | "." | ".."));
    let mut folder = root.to_owned();
    let mut limits = vec![read(&folder.join(file))];
    for part in inside {
        folder.push(part);
        limits.push(read(&folder.join(file)));
    }
    limits.into_iter().flatten().min()
}

fn read(file: &Path) -> Option<u64> {
    let limit = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    (0 < limit && limit < UNLIMITED).then_some(limit)
}

/// `MemTotal` of `/proc/meminfo`.
fn total(machine: &str) -> Option<u64> {
    let line = machine
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn version_2_counts_every_group_above() {
        let root = tree(&[
            ("pods/pod1/memory.max", "536870912\n"),
            ("pods/pod1/node/memory.max", "max\n"),
            ("pods/memory.max", "8589934592\n"),
        ]);
        assert_eq!(
            of_cgroups(root.path(), "0::/pods/pod1/node\n"),
            Some(512 << 20)
        );
        assert_eq!(of_cgroups(root.path(), "0::/pods\n"), Some(8 << 30));
        assert_eq!(of_cgroups(root.path(), "0::/\n"), None);
    }

    #[test]
    fn in_a_container_the_group_is_the_root() {
        let v2 = tree(&[("memory.max", "268435456")]);
        assert_eq!(of_cgroups(v2.path(), "0::/\n"), Some(256 << 20));
        assert_eq!(
            of_cgroups(v2.path(), "0::/../../kubepods/x\n"),
            Some(256 << 20)
        );
        let v1 = tree(&[("memory/memory.limit_in_bytes", "134217728\n")]);
        let groups = "12:cpu,cpuacct:/kubepods/x\n5:memory:/kubepods/x\n0::/kubepods/x\n";
        assert_eq!(of_cgroups(v1.path(), groups), Some(128 << 20));
    }

    #[test]
    fn version_1_without_a_limit_says_nothing() {
        let root = tree(&[
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/a/memory.limit_in_bytes", "9223372036854771712\n"),
        ]);
        assert_eq!(
            of_cgroups(root.path(), "3:memory:/a\n1:name=systemd:/a\n"),
            None
        );
        let set = tree(&[
            ("memory/a/memory.limit_in_bytes", "1048576"),
            ("unified/a/x", ""),
        ]);
        assert_eq!(
            of_cgroups(set.path(), "3:memory:/a\n0::/a\n"),
            Some(1 << 20)
        );
    }

    #[test]
    fn rubbish_is_no_limit_and_the_machine_is_one() {
        let root = tree(&[("memory.max", "lots")]);
        for groups in ["", "::", "0:", "x\n\n0::/", "0::/\0"] {
            assert_eq!(of_cgroups(root.path(), groups), None, "{groups:?}");
        }
        assert_eq!(
            total("MemTotal:       16308056 kB\nMemFree: 1 kB\n"),
            Some(16_308_056 << 10)
        );
        assert_eq!(total("MemFree: 1 kB\n"), None);
        assert!(limit() > 0);
    }
}
