//! The learner's snapshots: its own, behind which its log is trimmed, and those that it takes over
//! from another learner when it is too far behind.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Instant;

use paxos::codec::{Entry, NodeName};
use paxos::digests::Digests;
use paxos::ids::Slot;
use paxos::learner::Input;
use paxos::message::Learn;
use tracing::{error, info, warn};

use super::handle::{Ask, State};
use super::transfer::Incoming;
use super::{Run, transfer};
use crate::driver::end_on_disk_error;
use crate::snapshots;

/// Bytes of log between two snapshots. The log is kept from the older of two snapshots on.
pub(super) const SNAPSHOT_EVERY_BYTES: u64 = 32 << 20;

impl Run {
    /// Copies the state, which shares its data, and writes the copy on another thread.
    pub(super) fn write_snapshot(&mut self) {
        self.writing_snapshot = true;
        self.logged_bytes = 0;
        let state = self.handle.state().machine.freeze();
        let (snapshots, handle) = (self.snapshots.clone(), self.handle.clone());
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
            self.writing_snapshot = false;
        }
    }

    pub(super) fn written(&mut self, written: Result<(Slot, u64), snapshots::Error>) {
        self.writing_snapshot = false;
        let (slot, bytes) = match written {
            Ok(written) => written,
            // What was written of it counts for nothing, and the log has it all.
            Err(error) if error.is_lack_of_room() => {
                error!(
                    %error,
                    "no room for a snapshot, the log stays as long as it is: enlarge the volume, or see \
                     what else fills it"
                );
                return;
            }
            Err(error) => end_on_disk_error(&error),
        };
        self.snapshot_bytes = bytes;
        self.volume.wrote(bytes);
        self.metrics.snapshot_size.set(bytes as i64);
        info!(instance = slot.0, bytes, "snapshot written");
        let slots = self.snapshots.slots();
        let slots = slots.unwrap_or_else(|error| end_on_disk_error(&error));
        // With one snapshot alone the whole log is still needed, should that one be damaged.
        if let [oldest, _, ..] = slots[..]
            && let Some((first, position)) = self.index.range(..=oldest.next()).next_back()
        {
            let (first, position) = (*first, *position);
            self.index = self.index.split_off(&first);
            if let Err(error) = self.wal.trim_before(position) {
                end_on_disk_error(&error);
            }
        }
    }

    /// The acceptors have forgotten what comes next here; another learner has it.
    pub(super) fn catch_up(&mut self, floor: Slot) {
        if std::mem::replace(&mut self.catching_up, true) {
            return;
        }
        let delivered = self.applied;
        warn!(
            floor = floor.0,
            applied = delivered.0,
            "too far behind for the acceptors, asking the other learners and the stores"
        );
        // Another one each time: a snapshot that is damaged on one's disk is so at the next try, too.
        let mut links = self.learners.to_vec();
        let first = self.catch_ups % links.len().max(1);
        links.rotate_left(first);
        self.catch_ups += 1;
        // What no learner has a store may have.
        links.extend(self.stores.iter().cloned());
        let incoming = Incoming {
            snapshots: self.snapshots.clone(),
            volume: self.volume.probe(),
            times: 1,
        };
        let handle = self.handle.clone();
        self.runtime.spawn(async move {
            transfer::catch_up(&links, &incoming, floor, &handle).await;
            handle.post(Ask::CaughtUp).await;
        });
    }

    /// What another learner has applied is chosen.
    pub(super) fn learn_entries(&mut self, entries: Vec<Entry>, from: NodeName) {
        let Some((first, last)) = entries.first().zip(entries.last()) else {
            return;
        };
        let (first, committed) = (first.slot, last.slot);
        let values = entries.into_iter().map(|entry| entry.value).collect();
        let learn = Learn {
            first,
            values,
            committed,
        };
        if self.is_told_the_same(&learn, from) {
            self.step(Input::Learn(learn));
        }
    }

    pub(super) fn install(&mut self, slot: Slot) {
        if self.is_halted() || self.truth.is_in_doubt() {
            return;
        }
        if slot <= self.core.delivered() {
            // Level meanwhile without it.
            if let Err(error) = self.snapshots.discard(slot) {
                end_on_disk_error(&error);
            }
            return;
        }
        let machine = match self.snapshots.install(slot) {
            Ok(machine) => machine,
            Err(snapshots::Error::Io { source, .. }) => end_on_disk_error(&source),
            Err(error) => {
                warn!(%error, "received snapshot rejected");
                return;
            }
        };
        info!(instance = slot.0, "snapshot installed");
        {
            let shared = &self.shared.state;
            let mut state = shared.write().unwrap_or_else(PoisonError::into_inner);
            *state = State {
                machine,
                digests: Digests::after(slot),
                ..State::default()
            };
        }
        self.core.skip_to(slot);
        self.applied = slot;
        self.handle.note_lost(None);
        // The log has a gap now, and starts again behind it.
        self.sync();
        self.index.clear();
        if let Err(error) = self.wal.trim_before(self.wal.position_end()) {
            end_on_disk_error(&error);
        }
        self.metrics.applied_slot.set(slot.0 as i64);
        self.metrics.snapshots_installed.inc();
        self.show_state();
        self.show_log();
        self.shared.durable.store(slot.0, Ordering::Relaxed);
        self.shared.applied.send_replace(slot);
    }
}
