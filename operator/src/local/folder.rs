//! The folder of a local cluster belongs to one run at a time. A run that was killed leaves its nodes
//! behind: they are found by their `pid` files, or by the locks of their own folders.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use node::media::LOCK;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::sleep;

use super::Error;
use super::process::{holder_of_file, is_node_of, keeper_of};

/// Holds the lock, and the pid of the run that has it.
const RUN_LOCK: &str = "local.lock";
/// In a node's folder: which process it is.
const PID: &str = "pid";
/// How long a process may take to be gone after SIGKILL.
const KILLED_WITHIN: Duration = Duration::from_secs(5);

/// The folder belongs to this run while this value lives.
#[derive(Debug)]
pub(super) struct Claim {
    folder: PathBuf,
    _lock: File,
}

/// A node of an earlier run that still runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// Its pod's name.
    pub pod: String,
    /// Its process; `None` when that cannot be seen from here.
    pub pid: Option<i32>,
}

impl std::fmt::Display for Leftover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "{} (pid {pid})", self.pod),
            None => write!(f, "{} (a process that cannot be seen from here)", self.pod),
        }
    }
}

impl Claim {
    /// Makes the folder if absent, and takes it for this run. Changes nothing when another has it.
    pub(super) fn take(folder: &Path) -> Result<Claim, Error> {
        let failed = |what: &str, error| Error::Io(format!("{what} {}", folder.display()), error);
        fs::create_dir_all(folder).map_err(|error| failed("make the folder", error))?;
        let folder = folder.canonicalize();
        let folder = folder.map_err(|error| failed("use the folder", error))?;
        let mut lock = own_file()
            .read(true)
            .open(folder.join(RUN_LOCK))
            .map_err(|error| failed("lock the folder", error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // Without it the message is still right.
                let _ = lock.read_to_string(&mut pid);
                let pid = pid.trim().parse().ok();
                return Err(Error::FolderTaken(folder, Holder(pid)));
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock the folder", error)),
        }
        let pid = format!("{}\n", std::process::id());
        lock.set_len(0)
            .and_then(|()| lock.write_all(pid.as_bytes()))
            .map_err(|error| failed("write to the folder", error))?;
        Ok(Claim {
            folder,
            _lock: lock,
        })
    }

    /// The nodes of earlier runs that still use folders of this one, also of pods that the file no
    /// longer asks for. Fails when a run still keeps one of them: its lock file was removed, or it is of
    /// a build that had none.
    pub(super) fn leftovers(&self) -> Result<Vec<Leftover>, Error> {
        let failed = |error| Error::Io(format!("read the folder {}", self.folder.display()), error);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if !entry.file_type().map_err(failed)?.is_dir() {
                continue;
            }
            if let Some(pid) = occupant(&entry.path()) {
                if let Some(keeper) = pid.and_then(keeper_of) {
                    let keeper = Holder(u32::try_from(keeper).ok());
                    return Err(Error::FolderTaken(self.folder.clone(), keeper));
                }
                found.push(Leftover {
                    pod: entry.file_name().to_string_lossy().into_owned(),
                    pid,
                });
            }
        }
        found.sort_by(|a, b| a.pod.cmp(&b.pod));
        Ok(found)
    }

    /// Ends these processes: all are asked to, and those that have not ended after `grace` are killed.
    pub(super) async fn end(&self, leftovers: &[Leftover], grace: Duration) -> Result<(), Error> {
        let processes = self.signal(leftovers, Signal::TERM)?;
        if self.wait_for_end(leftovers, &processes, grace).await {
            return Ok(());
        }
        self.signal(leftovers, Signal::KILL)?;
        if self
            .wait_for_end(leftovers, &processes, KILLED_WITHIN)
            .await
        {
            return Ok(());
        }
        let left = leftovers.iter().filter(|it| self.runs(it)).cloned();
        let left = Leftovers(left.collect());
        Err(Error::Leftovers(self.folder.clone(), left))
    }

    /// Returns the processes that it reached.
    fn signal(&self, leftovers: &[Leftover], signal: Signal) -> Result<Vec<OwnedFd>, Error> {
        let mut reached = Vec::new();
        for leftover in leftovers {
            let raw = leftover.pid.and_then(Pid::from_raw);
            let Some(pid) = raw else { continue };
            // With the handle first and the look second, the signal cannot reach a process that was
            // given the number meanwhile.
            let handle = match pidfd_open(pid, PidfdFlags::empty()) {
                Ok(handle) => handle,
                Err(rustix::io::Errno::SRCH) => continue,
                Err(error) => return Err(not_signalled(leftover, error)),
            };
            if !self.runs(leftover) {
                continue;
            }
            match pidfd_send_signal(&handle, signal) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => reached.push(handle),
                Err(error) => return Err(not_signalled(leftover, error)),
            }
        }
        Ok(reached)
    }

    async fn wait_for_end(
        &self,
        leftovers: &[Leftover],
        processes: &[OwnedFd],
        within: Duration,
    ) -> bool {
        let until = Instant::now() + within;
        while leftovers.iter().any(|leftover| self.runs(leftover))
            || !processes.iter().all(has_ended)
        {
            if Instant::now() >= until {
                return false;
            }
            sleep(Duration::from_millis(20)).await;
        }
        true
    }

    fn runs(&self, leftover: &Leftover) -> bool {
        let folder = self.folder.join(&leftover.pod);
        match leftover.pid {
            Some(pid) => is_node_of(pid, &folder, &folder.join(LOCK)),
            None => is_locked(&folder.join(LOCK)),
        }
    }
}

/// Whether all that a process had is free again. One that ends loses its memory first, and with it what
/// tells that it is a node, and its ports a moment later.
fn has_ended(process: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(process, PollFlags::IN)];
    !matches!(poll(&mut polled, Some(&Timespec::default())), Ok(0))
}

fn not_signalled(leftover: &Leftover, error: rustix::io::Errno) -> Error {
    Error::Io(format!("end {leftover}"), error.into())
}

/// The process that works in a node's folder: the one that its pid file names, or the one that holds
/// its lock. `Some(None)`: there is one, and it is unknown which.
fn occupant(folder: &Path) -> Option<Option<i32>> {
    let lock = folder.join(LOCK);
    let filed = fs::read_to_string(folder.join(PID)).ok();
    let filed = filed.and_then(|text| text.trim().parse().ok());
    if let Some(pid) = filed.filter(|pid| is_node_of(*pid, folder, &lock)) {
        return Some(Some(pid));
    }
    is_locked(&lock).then(|| holder_of_file(&lock))
}

fn is_locked(lock: &Path) -> bool {
    let file = OpenOptions::new().read(true).open(lock);
    file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// Which run has a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder(Option<u32>);

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "another `paxos-operator local`, pid {pid}"),
            None => write!(f, "another `paxos-operator local`"),
        }
    }
}

/// Nodes that an earlier run left behind, and how to end them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftovers(pub Vec<Leftover>);

impl std::fmt::Display for Leftovers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<String> = self.0.iter().map(Leftover::to_string).collect();
        let pids: Vec<String> = self
            .0
            .iter()
            .flat_map(|it| it.pid)
            .map(|pid| pid.to_string())
            .collect();
        write!(f, "{}", names.join(", "))?;
        if pids.is_empty() {
            return write!(f, ": end them where they were started");
        }
        write!(
            f,
            ": end them with `kill {}`, or run this again with --take-over, which ends them first",
            pids.join(" ")
        )
    }
}

/// Writes down which process a node is.
pub(super) fn write_pid(folder: &Path, pid: u32) -> io::Result<()> {
    let path = folder.join(PID);
    let mut file = own_file().truncate(true).open(&path)?;
    file.write_all(format!("{pid}\n").as_bytes())
}

/// The process has ended: its number may be another one's soon.
pub(super) fn forget_pid(folder: &Path) {
    // A file that stays names a process that is not this node, which the next run sees.
    let _ = fs::remove_file(folder.join(PID));
}

/// How files of a local cluster are opened: for this user, and never through a link that somebody has
/// put in their place.
pub(super) fn own_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o640)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_run_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a/b");
        let claim = Claim::take(&folder).unwrap();
        let refused = Claim::take(&folder).unwrap_err().to_string();
        let me = std::process::id().to_string();
        assert!(refused.contains(folder.to_str().unwrap()), "{refused}");
        assert!(refused.contains(&format!("pid {me}")), "{refused}");
        drop(claim);
        Claim::take(&folder).unwrap();
    }

    #[test]
    fn a_pid_that_is_another_process_is_no_leftover() {
        let root = tempfile::tempdir().unwrap();
        let claim = Claim::take(root.path()).unwrap();
        let pod = root.path().join("a-acceptor-1");
        fs::create_dir(&pod).unwrap();
        // The number of this test, which has nothing to do with the folder.
        write_pid(&pod, std::process::id()).unwrap();
        fs::write(pod.join(LOCK), "").unwrap();
        assert_eq!(claim.leftovers().unwrap(), []);
        for text in ["", "x", "-1", "99999999999999"] {
            fs::write(pod.join(PID), text).unwrap();
            assert_eq!(claim.leftovers().unwrap(), [], "{text:?}");
        }
    }

    #[test]
    fn a_node_without_a_pid_file_is_found_by_its_lock() {
        let root = tempfile::tempdir().unwrap();
        let claim = Claim::take(root.path()).unwrap();
        let pod = claim.folder.join("a-store-2");
        let media = node::media::FileMedia::open(&pod).unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        let found = claim.leftovers().unwrap();
        let expected = Leftover {
            pod: "a-store-2".to_owned(),
            pid: Some(me),
        };
        assert_eq!(found, [expected]);
        let said = Leftovers(found).to_string();
        assert!(said.contains(&format!("kill {me}")), "{said}");
        drop(media);
        assert_eq!(claim.leftovers().unwrap(), []);
    }

    #[test]
    fn a_link_in_the_place_of_a_file_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("target");
        fs::write(&target, "precious").unwrap();
        let folder = root.path().join("data");
        fs::create_dir(&folder).unwrap();
        std::os::unix::fs::symlink(&target, folder.join(PID)).unwrap();
        write_pid(&folder, 1).unwrap_err();
        std::os::unix::fs::symlink(&target, folder.join(RUN_LOCK)).unwrap();
        Claim::take(&folder).unwrap_err();
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
    }
}
