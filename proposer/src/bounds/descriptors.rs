//! File descriptors: as many as the system allows, some of them kept for files, and a lack of them
//! never taken for a broken disk.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

/// Taken for the limit where there is none.
const UNLIMITED: u64 = 1 << 20;
/// Kept for files: logs, segments and snapshots, and those that are open only for a moment.
const FILES: usize = 64;
/// Kept for each node of the cluster: the connections to it, and one that is being opened.
const PER_PEER: usize = 6;

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// Set while a file waits for a descriptor: holders give up those that they can do without.
static WANTED: AtomicBool = AtomicBool::new(false);

/// Raises the soft limit to the hard one, and returns how many descriptors the process may have.
pub fn raise_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let (soft, hard) = (limit.current, limit.maximum);
    let raised = Rlimit {
        current: hard,
        maximum: hard,
    };
    if soft != hard && setrlimit(Resource::Nofile, raised).is_ok() {
        info!(?soft, ?hard, "the limit of open files is raised");
        return hard.unwrap_or(UNLIMITED);
    }
    soft.unwrap_or(UNLIMITED)
}

/// How many connections may be open so that files, and the connections to `peers` other nodes,
/// always find a descriptor. A quarter of a limit that is too low for all of it.
pub fn for_connections(limit: u64, peers: usize) -> usize {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let kept = FILES + PER_PEER * peers;
    limit.saturating_sub(kept).max(limit / 4).max(4)
}

/// Whether an error says that no descriptor was free, which passes.
pub fn are_short(error: &io::Error) -> bool {
    let code = error
        .raw_os_error()
        .map(rustix::io::Errno::from_raw_os_error);
    matches!(
        code,
        Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE)
    )
}

/// Whether a file waits for one now.
pub fn are_wanted() -> bool {
    WANTED.load(Ordering::Relaxed)
}

/// Opens a file or a folder, and waits while no descriptor is free. On a thread that may wait.
pub fn patiently<T>(what: &str, mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut pause = FIRST_PAUSE;
    let mut said: Option<Instant> = None;
    loop {
        match open() {
            Err(error) if are_short(&error) => {
                WANTED.store(true, Ordering::Relaxed);
                if said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
                    said = Some(Instant::now());
                    warn!(
                        file = what,
                        %error,
                        "no file descriptor is free, waiting for one: raise the limit of open files"
                    );
                }
                thread::sleep(pause);
                pause = (2 * pause).min(LONGEST_PAUSE);
            }
            opened => {
                if said.is_some() {
                    WANTED.store(false, Ordering::Relaxed);
                }
                return opened;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(code: rustix::io::Errno) -> io::Error {
        io::Error::from_raw_os_error(code.raw_os_error())
    }

    #[test]
    fn a_lack_of_descriptors_is_waited_out_and_everything_else_is_told() {
        for code in [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE] {
            let mut tries = 0;
            let opened = patiently("x", || {
                tries += 1;
                match tries {
                    1..=3 => Err(short(code)),
                    _ => Ok(tries),
                }
            });
            assert_eq!(opened.unwrap(), 4);
        }
        assert!(!are_wanted());
        for code in [
            rustix::io::Errno::IO,
            rustix::io::Errno::NOSPC,
            rustix::io::Errno::NOENT,
        ] {
            let mut tries = 0;
            let error = patiently("x", || {
                tries += 1;
                Err::<(), _>(short(code))
            });
            assert_eq!(
                (error.unwrap_err().raw_os_error(), tries),
                (Some(code.raw_os_error()), 1)
            );
        }
    }

    #[test]
    fn connections_get_what_files_and_peers_leave() {
        assert_eq!(for_connections(20_000, 12), 20_000 - 64 - 72);
        assert_eq!(for_connections(1024, 12), 1024 - 64 - 72);
        assert_eq!(for_connections(64, 12), 16);
        assert_eq!(for_connections(8, 0), 4);
        assert!(for_connections(u64::MAX, 765) > 1 << 40);
    }
}
