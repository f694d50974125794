//! Writing a learner's own snapshots, beside its loop.

use std::time::Instant;

use paxos::ids::Slot;
use paxos::machine::Frozen;
use roles::learner::Event;
use tracing::{error, info, warn};

use super::Run;
use super::handle::Ask;
use crate::driver::end_on_disk_error;
use crate::snapshots;

impl Run {
    /// Writes a copy of the state on another thread.
    pub(super) fn write_snapshot(&mut self, state: Frozen) {
        let (snapshots, handle) = (self.handle.snapshots.clone(), self.handle.clone());
        let write = move || {
            let started = Instant::now();
            let written = snapshots.write(&state);
            let took = started.elapsed().as_secs_f64();
            handle.metrics.snapshot_write_duration.observe(took);
            let slot = state.applied();
            drop(state);
            handle.metrics.queue.inc();
            // The queue may be full for a moment; the loop ends with the process.
            let _ = handle
                .queue
                .send(Ask::Written(written.map(|bytes| (slot, bytes))));
        };
        let spawned = std::thread::Builder::new()
            .name("snapshot".into())
            .spawn(write);
        if let Err(error) = spawned {
            warn!(%error, "cannot start writing a snapshot");
            self.feed(Event::SnapshotFailed);
        }
    }

    pub(super) fn written(&mut self, written: Result<(Slot, u64), snapshots::Error>) {
        match written {
            Ok((slot, bytes)) => {
                self.role.world_mut().volume.wrote(bytes);
                self.metrics.snapshot_size.set(bytes as i64);
                info!(instance = slot.0, bytes, "snapshot written");
                self.feed(Event::SnapshotWritten { bytes });
            }
            // What was written of it counts for nothing, and the log has it all.
            Err(error) if error.is_lack_of_room() => {
                error!(
                    %error,
                    "no room for a snapshot, the log stays as long as it is: enlarge the volume, or see \
                     what else fills it"
                );
                self.feed(Event::SnapshotFailed);
            }
            Err(error) => end_on_disk_error(&error),
        }
    }
}
