//! What the learner's loop does by itself on a real node: its log and snapshots on files, and the state
//! behind a lock for those who read it.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use paxos::acceptor::Room;
use paxos::codec::{self, Entry};
use paxos::ids::{NodeName, Slot};
use paxos::machine::Machine;
use roles::learner::{self, State};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::Learned;
use super::handle::Shared;
use crate::driver::volume::Volume;
use crate::identity::Identity;
use crate::link::{Link, Links};
use crate::media::FileMedia;
use crate::metrics::Metrics;
use crate::notify::Notifier;
use crate::snapshots::{self, Snapshots};
use crate::wal::{self, Position, Wal};

/// The disk and what stands beside it.
pub(super) struct World {
    pub(super) me: Identity,
    pub(super) shared: Arc<Shared>,
    pub(super) wal: Wal<FileMedia>,
    pub(super) snapshots: Snapshots,
    pub(super) volume: Volume,
    pub(super) metrics: Arc<Metrics>,
    pub(super) notifier: Option<Notifier>,
    pub(super) learners: Links,
    pub(super) stores: Links,
}

/// The disk has failed: the process must end.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiskFailed {
    /// The log.
    #[error(transparent)]
    Log(#[from] wal::Error),
    /// A record of it.
    #[error(transparent)]
    Record(#[from] codec::Error),
    /// A snapshot.
    #[error(transparent)]
    Snapshots(#[from] snapshots::Error),
}

impl World {
    pub(super) fn show_state(&self) {
        let state = learner::World::state(self);
        self.metrics
            .resources
            .set(state.machine.resource_count() as i64);
        self.metrics.show_ledger(state.machine.ledger());
    }

    /// The link to another learner or a store, while it is listed.
    pub(super) fn link(&self, node: NodeName) -> Option<&Link> {
        let mut links = self.learners.iter().chain(self.stores.iter());
        links.find(|link| link.node == node)
    }
}

fn names(links: &Links) -> Vec<NodeName> {
    links.iter().map(|link| link.node).collect()
}

impl learner::World for World {
    type Position = Position;
    type Asker = oneshot::Sender<Learned>;
    type Error = DiskFailed;

    fn state(&self) -> impl Deref<Target = State> {
        let state = self.shared.state.read();
        state.unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&mut self) -> impl DerefMut<Target = State> {
        let state = self.shared.state.write();
        state.unwrap_or_else(PoisonError::into_inner)
    }

    fn applied(&mut self, entries: &[Entry]) {
        let Some(last) = entries.last() else {
            return;
        };
        if let Some(notifier) = &self.notifier {
            notifier.applied(entries);
        }
        self.metrics.applied_slot.set(last.slot.0 as i64);
        self.show_state();
        self.shared.applied.send_replace(last.slot);
    }

    fn may_learn(&self) -> bool {
        self.me.may_learn()
    }

    fn has_room(&mut self, bytes: u64) -> bool {
        self.volume.room(0, bytes) <= Room::Tight
    }

    fn has_room_for(&self, bytes: u64) -> bool {
        self.volume.probe().has_room_for(bytes)
    }

    fn append(&mut self, record: &[u8]) -> Position {
        self.wal.append(record)
    }

    fn sync(&mut self) -> Result<(), DiskFailed> {
        let started = Instant::now();
        let written = self.wal.sync()?;
        self.volume.wrote(written.bytes);
        self.metrics.wal_synced(started.elapsed(), written.bytes);
        self.metrics.wal_size.set(self.wal.bytes() as i64);
        Ok(())
    }

    fn read(&self, position: Position) -> Result<Vec<Entry>, DiskFailed> {
        Ok(codec::decode_entries(self.wal.read(position)?)?)
    }

    fn trim_before(&mut self, position: Position) -> Result<(), DiskFailed> {
        Ok(self.wal.trim_before(position)?)
    }

    fn trim_all(&mut self) -> Result<(), DiskFailed> {
        let end = self.wal.position_end();
        Ok(self.wal.trim_before(end)?)
    }

    fn snapshots(&self) -> Result<Vec<Slot>, DiskFailed> {
        Ok(self.snapshots.slots()?)
    }

    fn received(&self, slot: Slot) -> u64 {
        self.snapshots.received(slot)
    }

    fn install(&mut self, slot: Slot) -> Result<Option<Machine>, DiskFailed> {
        match self.snapshots.install(slot) {
            Ok(machine) => {
                info!(instance = slot.0, "snapshot installed");
                Ok(Some(machine))
            }
            Err(error @ snapshots::Error::Io { .. }) => Err(error.into()),
            Err(error) => {
                warn!(%error, "received snapshot rejected");
                Ok(None)
            }
        }
    }

    fn discard_received(&mut self) -> Result<(), DiskFailed> {
        Ok(self.snapshots.discard_incoming()?)
    }

    fn learners(&self) -> Vec<NodeName> {
        names(&self.learners)
    }

    fn stores(&self) -> Vec<NodeName> {
        names(&self.stores)
    }
}
