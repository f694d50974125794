//! Processes of this machine: which one is a node, which one listens on a port. From `/proc`, so of
//! other users' processes only what that shows.

use std::ffi::OsStr;
use std::path::Path;

use procfs::net::{TcpState, tcp, tcp6};
use procfs::process::{FDTarget, Process, all_processes};

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) pid: i32,
    /// Its program's name.
    pub(super) name: String,
}

impl std::fmt::Display for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} ({})", self.pid, self.name)
    }
}

/// Whether a process is the node that works in a folder: it has the folder's lock open, or was started
/// to. A number that the system has since given to another process does not count.
pub(super) fn is_node_of(pid: i32, folder: &Path, lock: &Path) -> bool {
    let Ok(process) = Process::new(pid) else {
        return false;
    };
    has_open(&process, lock)
        || process.environ().is_ok_and(|variables| {
            let is = |name: &str, value: &OsStr| {
                variables.get(OsStr::new(name)).map(AsRef::as_ref) == Some(value)
            };
            is("DATA_DIR", folder.as_os_str())
                && variables.contains_key(OsStr::new("ROLE"))
                && variables.contains_key(OsStr::new("NODE_ID"))
        })
}

/// The run of `local` that keeps a node: its parent, as long as that lives.
pub(super) fn keeper_of(pid: i32) -> Option<i32> {
    let name_of = |pid: i32| Some(Process::new(pid).ok()?.stat().ok()?.comm);
    let parent = Process::new(pid).ok()?.stat().ok()?.ppid;
    // The kernel keeps 15 bytes of a name.
    (name_of(parent)? == "paxos-operator").then_some(parent)
}

/// The process that has a file open.
pub(super) fn holder_of_file(path: &Path) -> Option<i32> {
    let mut processes = all_processes().ok()?.flatten();
    let holder = processes.find(|process| has_open(process, path));
    holder.map(|process| process.pid())
}

fn has_open(process: &Process, path: &Path) -> bool {
    let files = process.fd().into_iter().flatten().flatten();
    files
        .map(|file| file.target)
        .any(|target| matches!(target, FDTarget::Path(open) if open == path))
}

/// The process that listens on a port, where it is known.
pub(super) fn listener_on(port: u16) -> Option<Known> {
    let sockets = [tcp(), tcp6()].into_iter().flatten().flatten();
    let listening: Vec<u64> = sockets
        .filter(|socket| socket.state == TcpState::Listen && socket.local_address.port() == port)
        .map(|socket| socket.inode)
        .collect();
    let has_one = |process: &Process| {
        let files = process.fd().into_iter().flatten().flatten();
        files
            .map(|file| file.target)
            .any(|target| matches!(target, FDTarget::Socket(inode) if listening.contains(&inode)))
    };
    let process = all_processes().ok()?.flatten().find(has_one)?;
    Some(Known {
        pid: process.pid(),
        name: process.stat().ok()?.comm,
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_listener_on_a_port_is_found() {
        for address in ["127.0.0.1:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                continue;
            };
            let port = listener.local_addr().unwrap().port();
            let found = listener_on(port).unwrap();
            assert_eq!(found.pid, i32::try_from(std::process::id()).unwrap());
            drop(listener);
            assert_eq!(listener_on(port), None);
        }
    }

    #[test]
    fn a_process_is_known_by_the_files_that_it_has_open() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        let lock = folder.join("LOCK");
        let file = std::fs::File::create(&lock).unwrap();
        assert!(is_node_of(me, &folder, &lock));
        assert_eq!(holder_of_file(&lock), Some(me));
        drop(file);
        assert!(!is_node_of(me, &folder, &lock));
        assert_eq!(holder_of_file(&lock), None);
        assert!(!is_node_of(i32::MAX, &folder, &lock));
    }
}
