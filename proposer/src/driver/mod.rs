//! What runs the pure core: one loop per role takes the next input, lets the core step, makes its
//! records durable and acts. The loops of proposer, acceptor and learner have a thread of their own, so
//! that heartbeats and votes never wait behind clients' requests; a store's is a task. At a learner
//! that is idle a request takes its turn.

pub mod acceptor;
pub mod barrier;
pub mod halt;
pub mod learner;
pub mod proposer;
pub(crate) mod roll_call;
pub mod store;
mod turn;
pub(crate) mod volume;

use std::io::Write;

use api::env::Config;
use paxos::ids::Members;
use tracing::error;

use crate::media::FileMedia;

/// Why a role's loop refuses to start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The folder.
    #[error("cannot use the data folder {path}: {source}")]
    Folder {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The disk is not this node's.
    #[error(transparent)]
    Identity(#[from] crate::identity::Error),
    /// The log.
    #[error(transparent)]
    Log(#[from] crate::wal::Error),
    /// The state file.
    #[error(transparent)]
    State(#[from] crate::state_file::Error),
    /// The snapshots.
    #[error(transparent)]
    Snapshots(#[from] crate::snapshots::Error),
    /// A store's database.
    #[error(transparent)]
    Database(#[from] crate::database::Error),
    /// A thread or a socket.
    #[error("cannot start: {0}")]
    Io(#[from] std::io::Error),
}

/// Opens a folder of the data folder for this process alone; made if absent.
pub(crate) fn folder(config: &Config, name: &str) -> Result<FileMedia, StartError> {
    let path = config.data_dir.join(name);
    FileMedia::open(&path).map_err(|source| StartError::Folder { path, source })
}

/// The acceptors of `ACCEPTORS`.
pub(crate) fn members(config: &Config) -> Result<Members, StartError> {
    let count = u8::try_from(config.acceptors.len()).ok();
    let members = count.and_then(Members::new);
    members.ok_or_else(|| std::io::Error::other("ACCEPTORS is empty").into())
}

/// The disk failed: what it holds is unknown from now on, so the process ends without another
/// answer, and the next start looks at what is really there. Never retried: a second fsync that
/// succeeds proves nothing (Rebello et al., "Can Applications Recover from fsync Failures?").
pub(crate) fn end_on_disk_error(error: &dyn std::error::Error) -> ! {
    error!(%error, "the disk failed, ending the process");
    // Standard error too, as the log's writer may not get the time. It may be on the very disk that
    // failed, where eprintln! would panic and leave a process that does nothing.
    let _ = writeln!(
        std::io::stderr(),
        "the disk failed, ending the process: {error}"
    );
    std::process::exit(1);
}

/// The disk is not the one that this node must have. Ends the process before it harms anything; with
/// the right disk the next start goes well.
pub(crate) fn end_on_wrong_disk(why: &str) -> ! {
    error!(why, "this is not the disk of this node, ending the process");
    let _ = writeln!(
        std::io::stderr(),
        "this is not the disk of this node: {why}"
    );
    std::process::exit(1);
}
