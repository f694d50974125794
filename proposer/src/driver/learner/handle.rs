//! What the rest of the node sees of a learner: it hands values to the loop, and reads what the loop
//! has applied.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use api::status::Halt;
use bytes::Bytes;
use paxos::audit::Checkpoint;
use paxos::codec::{Entry, NodeName};
use paxos::ids::{NodeId, Slot};
use paxos::message::{Learn, Learned, Recalled, Value};
use roles::learner::{Event, Lost, State};
use tokio::sync::{Semaphore, oneshot, watch};
use tracing::debug;

use super::Run;
use super::audit;
use super::stores::StoreSeen;
use crate::driver::turn::Turn;
use crate::metrics::Metrics;
use crate::snapshots::{self, Snapshots};

/// How much of a snapshot one message carries.
const SNAPSHOT_CHUNK_BYTES: u64 = 1 << 20;

/// What the loop is asked for.
pub(super) enum Ask {
    /// Something happened.
    Event(Event<oneshot::Sender<Learned>>),
    /// What became of these slots?
    Recall {
        slots: Vec<Slot>,
        answer: oneshot::Sender<Recalled>,
    },
    /// Entries of the log's older part, from a slot on.
    Older {
        from: Slot,
        bytes: usize,
        answer: oneshot::Sender<Result<Vec<Entry>, Slot>>,
    },
    /// A snapshot of our own is on disk, or is not.
    Written(Result<(Slot, u64), snapshots::Error>),
    /// Another learner has applied something else.
    Halt(Halt),
}

/// The running learner. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) queue: SyncSender<Ask>,
    pub(super) shared: Arc<Shared>,
    pub(super) snapshots: Snapshots,
    pub(super) older: Arc<Semaphore>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) turn: Arc<Turn<Run>>,
}

/// What readers and the loop share.
pub(super) struct Shared {
    pub(super) state: RwLock<State>,
    pub(super) applied: watch::Sender<Slot>,
    pub(super) committed: AtomicU64,
    pub(super) durable: AtomicU64,
    /// The proposer that told last; 0 before the first.
    pub(super) leader: AtomicU64,
    /// Set once it has been level with the leader.
    pub(super) caught_up: AtomicBool,
    pub(super) halted: RwLock<Option<Halt>>,
    /// Empty unless this cluster has stores.
    pub(super) stores: RwLock<Vec<StoreSeen>>,
    /// What it needs and nobody has, or can be asked for.
    pub(super) lost: RwLock<Option<Lost>>,
}

/// The learner cannot take more now, or has stopped.
#[derive(Debug)]
pub struct Busy;

/// Why entries are not available.
#[derive(Debug)]
pub enum NoEntries {
    /// The learner has too much to do.
    Busy,
    /// The log goes back to this slot only.
    Trimmed {
        /// The first slot that it has.
        floor: Slot,
    },
}

impl Handle {
    /// The leader tells what is chosen. Answers when the values are applied, or soon after.
    pub async fn learn(&self, from: NodeName, learn: Learn) -> Result<Learned, Busy> {
        let (answer, answered) = oneshot::channel();
        let bytes = learn.values.iter().map(Value::len).sum();
        let ask = Ask::Event(Event::Told {
            learn,
            from,
            asker: answer,
        });
        match self.turn.try_take().filter(|run| run.role.is_quick(bytes)) {
            Some(mut run) => run.serve(ask),
            None => self.send(ask)?,
        }
        answered.await.map_err(|_| Busy)
    }

    /// What became of the first of these slots, as many as fit one answer.
    pub async fn recall(&self, slots: Vec<Slot>) -> Result<Recalled, Busy> {
        let (answer, answered) = oneshot::channel();
        self.send(Ask::Recall { slots, answer })?;
        answered.await.map_err(|_| Busy)
    }

    /// Entries from a slot on, at least one if it is applied, and about `bytes` of them.
    pub async fn entries(&self, from: Slot, bytes: usize) -> Result<Vec<Entry>, NoEntries> {
        let recent = self.state().entries(from, bytes);
        if let Some(entries) = recent {
            return Ok(entries);
        }
        let _place = self.older.acquire().await.map_err(|_| NoEntries::Busy)?;
        let (answer, answered) = oneshot::channel();
        let ask = Ask::Older {
            from,
            bytes,
            answer,
        };
        self.send(ask).map_err(|Busy| NoEntries::Busy)?;
        let entries = answered.await.map_err(|_| NoEntries::Busy)?;
        entries.map_err(|floor| NoEntries::Trimmed { floor })
    }

    /// Some bytes of a snapshot, the newest if no slot is named: the slot, the bytes from `offset`
    /// on, the whole length. `None` if there is no such snapshot. Reads the disk.
    pub fn snapshot(
        &self,
        slot: Option<Slot>,
        offset: u64,
    ) -> Result<Option<(Slot, Bytes, u64)>, snapshots::Error> {
        let newest = || Ok(self.snapshots.slots()?.pop());
        let Some(slot) = slot.map_or_else(newest, |slot| Ok(Some(slot)))? else {
            return Ok(None);
        };
        self.snapshots.hold(slot);
        let read = self.snapshots.read(slot, offset, SNAPSHOT_CHUNK_BYTES)?;
        Ok(read.map(|(bytes, length)| (slot, bytes, length)))
    }

    /// The state for reading. Held for a moment only: applying waits for it.
    pub fn state(&self) -> RwLockReadGuard<'_, State> {
        self.shared
            .state
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The last slot applied, to read or to wait for.
    pub fn applied(&self) -> watch::Receiver<Slot> {
        self.shared.applied.subscribe()
    }

    /// Every slot up to here is known to be chosen.
    pub fn committed(&self) -> Slot {
        Slot(self.shared.committed.load(Ordering::Relaxed))
    }

    /// Every slot up to here is on this learner's disk.
    pub fn durable(&self) -> Slot {
        Slot(self.shared.durable.load(Ordering::Relaxed))
    }

    /// The proposer that told last what is chosen.
    pub fn leader(&self) -> Option<NodeId> {
        NodeId::new(self.shared.leader.load(Ordering::Relaxed) as u8)
    }

    /// Whether it has been level with the leader since its start.
    pub fn is_caught_up(&self) -> bool {
        self.shared.caught_up.load(Ordering::Relaxed)
    }

    /// How far the stores are, if this cluster has any.
    pub fn stores(&self) -> Vec<StoreSeen> {
        let stores = self.shared.stores.read();
        stores.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why it no longer applies, if so.
    pub fn halt(&self) -> Option<Halt> {
        let halted = self.shared.halted.read();
        halted.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same in words.
    pub fn halted(&self) -> Option<String> {
        self.halt().map(|halt| halt.why)
    }

    /// What it needs and does not get, if so.
    pub fn lost(&self) -> Option<Lost> {
        let lost = self.shared.lost.read();
        lost.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes why it has stopped. The first reason stays.
    pub(super) fn note_halt(&self, halt: Halt) {
        let halted = self.shared.halted.write();
        let mut halted = halted.unwrap_or_else(PoisonError::into_inner);
        halted.get_or_insert(halt);
    }

    /// Notes what it needs and does not get.
    pub(super) fn note_lost(&self, lost: Option<Lost>) {
        let data_lost = lost.as_ref().is_some_and(Lost::is_certain);
        self.metrics.data_lost.set(data_lost.into());
        let before = self.shared.lost.write();
        *before.unwrap_or_else(PoisonError::into_inner) = lost;
    }

    /// It has been level with what a leader had chosen.
    pub(crate) fn caught_up(&self) {
        self.shared.caught_up.store(true, Ordering::Relaxed);
    }

    /// Some of the checkpoints from a slot on, oldest first.
    pub fn checkpoints(&self, from: Slot) -> Vec<Checkpoint> {
        let state = self.state();
        let checkpoints = state.trail.from(from).take(audit::AT_ONCE);
        checkpoints.copied().collect()
    }

    /// Waits for room in the queue, on a thread that may wait.
    pub(super) async fn post(&self, event: Event<oneshot::Sender<Learned>>) {
        self.post_ask(Ask::Event(event)).await;
    }

    /// The same for anything that the loop is asked for.
    pub(super) async fn post_ask(&self, ask: Ask) {
        let queue = self.queue.clone();
        self.metrics.queue.inc();
        let sent = tokio::task::spawn_blocking(move || queue.send(ask).is_ok()).await;
        debug!(sent = sent.unwrap_or(false), "passed on to the loop");
    }

    pub(super) fn send(&self, ask: Ask) -> Result<(), Busy> {
        self.metrics.queue.inc();
        match self.queue.try_send(ask) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.metrics.queue.dec();
                self.metrics.rejected.inc();
                Err(Busy)
            }
        }
    }
}
