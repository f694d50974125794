//! A store follows the learners: it asks one of them for what comes next, which that one holds back
//! until there is something, applies it in one durable transaction, and asks for more. When a learner
//! does not answer, or is behind, it continues with the next one.
//!
//! Why the store asks, and learners do not push: a write is chosen and acknowledged before any store
//! hears of it, so one that is slow or dead holds nobody up, and nobody must remember what it has
//! missed; its own applied slot says where to continue. Every store follows the same log, so all of them
//! write all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use api::env::{Config, Role};
use api::status::Halt;
use bytes::Bytes;
use paxos::acceptor::Room;
use paxos::ids::Slot;
use paxos::machine::Ledger;
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use super::halt;
use super::learner::transfer::{self, Incoming, Next, Piece};
use super::volume::Volume;
use super::{StartError, end_on_disk_error, folder};
use crate::addresses::Addresses;
use crate::database::{ApplyError, Database};
use crate::identity::Identity;
use crate::link::{Link, Links};
use crate::metrics::Metrics;
use crate::snapshots::{self, Snapshots, UnpackError};

/// How long a learner may hold an answer until it has something new.
const WAIT: Duration = Duration::from_secs(1);
/// A snapshot is unpacked into the database, which takes more than the snapshot, before it is removed.
const TIMES: u64 = 3;
/// After this many waits in which a learner has nothing new, the next one is asked: it may have.
const QUIET_WAITS: u32 = 3;
/// How much of a snapshot one message carries.
const CHUNK_BYTES: u64 = 1 << 20;
/// A snapshot younger than this is as good as a new one: writing it takes as many bytes as the state.
const FRESH: Duration = Duration::from_secs(60);
/// The pause before the next learner is asked.
const RETRY: Duration = Duration::from_millis(200);
/// What a piece may take on the volume.
const ROOM_BYTES: u64 = 8 << 20;

/// The running store. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

struct Shared {
    database: Database,
    applied: watch::Sender<Slot>,
    committed: AtomicU64,
    sessions: AtomicU64,
    /// The learner that it follows; 0 before the first answer.
    follows: AtomicU64,
    /// Set once a learner had all that the store has.
    followed: AtomicBool,
    /// Set once it has had all that was acknowledged.
    caught_up: AtomicBool,
    halted: RwLock<Option<Halt>>,
    /// What keeps it from continuing for now, or shows that something is wrong.
    trouble: RwLock<Option<String>>,
    /// For learners that find what they need nowhere else.
    snapshots: Snapshots,
    /// The snapshot made last, and when; held while one is made.
    made: Mutex<Option<(Slot, Instant)>>,
    metrics: Arc<Metrics>,
}

impl Handle {
    /// The resources.
    pub fn database(&self) -> &Database {
        &self.shared.database
    }

    /// The last slot applied, which is on the disk; to read or to wait for.
    pub fn applied(&self) -> watch::Receiver<Slot> {
        self.shared.applied.subscribe()
    }

    /// The last slot that the learner it follows knows to be chosen.
    pub fn committed(&self) -> Slot {
        Slot(self.shared.committed.load(Ordering::Relaxed))
    }

    /// How many requests the session table holds.
    pub fn session_count(&self) -> u64 {
        self.shared.sessions.load(Ordering::Relaxed)
    }

    /// The learner that it follows.
    pub fn follows(&self) -> Option<u64> {
        Some(self.shared.follows.load(Ordering::Relaxed)).filter(|id| *id > 0)
    }

    /// Whether it has been level with its cluster since its start, and is not ahead of it.
    pub fn is_caught_up(&self) -> bool {
        let is_set = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        is_set(&self.shared.followed) && is_set(&self.shared.caught_up) && self.trouble().is_none()
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

    /// What keeps it from continuing for now, if anything.
    pub fn trouble(&self) -> Option<String> {
        let trouble = self.shared.trouble.read();
        trouble.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It has been level with what a leader had chosen.
    pub(crate) fn caught_up(&self) {
        self.shared.caught_up.store(true, Ordering::Relaxed);
    }

    /// Some bytes of a snapshot, of a fresh one if no slot is named: the slot, the bytes from `offset`
    /// on, the whole length. `None` if there is no such snapshot. Reads the disk, and may write one.
    pub fn snapshot(
        &self,
        slot: Option<Slot>,
        offset: u64,
    ) -> Result<Option<(Slot, Bytes, u64)>, snapshots::Error> {
        let shared = &self.shared;
        let slot = match slot {
            Some(slot) => slot,
            None => self.make_snapshot()?,
        };
        shared.snapshots.hold(slot);
        let read = shared.snapshots.read(slot, offset, CHUNK_BYTES)?;
        Ok(read.map(|(bytes, length)| (slot, bytes, length)))
    }

    fn make_snapshot(&self) -> Result<Slot, snapshots::Error> {
        let shared = &self.shared;
        let mut made = shared.made.lock().unwrap_or_else(PoisonError::into_inner);
        let applied = *shared.applied.borrow();
        if let Some((slot, at)) = *made
            && (slot == applied || at.elapsed() < FRESH)
        {
            return Ok(slot);
        }
        let database = &shared.database;
        let written = shared
            .snapshots
            .write_parts(|part| database.write_snapshot(part));
        let (slot, bytes) = written?;
        info!(instance = slot.0, bytes, "snapshot written for a learner");
        *made = Some((slot, Instant::now()));
        Ok(slot)
    }
}

/// Opens the database and starts to follow. Call within a Tokio runtime.
pub fn start(
    config: &Config,
    addresses: &Addresses,
    identity: &Identity,
    metrics: Arc<Metrics>,
) -> Result<Handle, StartError> {
    let started = Instant::now();
    let (database, ledger) = Database::open(&config.data_dir.join("store"))?;
    let snapshots = Snapshots::open(folder(config, "snapshots")?)?;
    snapshots.clear()?;
    let applied = ledger.applied();
    info!(
        applied = applied.0,
        millis = started.elapsed().as_millis() as u64,
        "the store's database read and verified"
    );
    metrics.applied_slot.set(applied.0 as i64);
    metrics.show_ledger(&ledger);
    let handle = Handle {
        shared: Arc::new(Shared {
            database,
            applied: watch::Sender::new(applied),
            committed: AtomicU64::new(applied.0),
            sessions: AtomicU64::new(ledger.session_count() as u64),
            follows: AtomicU64::new(0),
            followed: AtomicBool::new(false),
            caught_up: AtomicBool::new(false),
            halted: RwLock::new(None),
            trouble: RwLock::new(None),
            snapshots: snapshots.clone(),
            made: Mutex::new(None),
            metrics,
        }),
    };
    let links = Links::new(addresses, identity, Role::Learner);
    // Each store begins with another learner.
    let first = config.node_id.index();
    let store = handle.clone();
    let volume = Volume::of(config, handle.shared.metrics.clone());
    tokio::spawn(async move { store.follow(links, first, &snapshots, ledger, volume).await });
    Ok(handle)
}

impl Handle {
    async fn follow(
        &self,
        mut links: Links,
        first: usize,
        snapshots: &Snapshots,
        mut ledger: Ledger,
        mut volume: Volume,
    ) {
        let incoming = Incoming {
            snapshots: snapshots.clone(),
            volume: volume.probe(),
            times: TIMES,
        };
        let mut left_quiet = false;
        let mut failing = BTreeMap::new();
        // Learners that have another value in the last slot applied here.
        let mut differ = BTreeSet::new();
        // Learners that have less than this store.
        let mut less = BTreeSet::new();
        for turn in first.. {
            let count = links.len().max(1);
            let Some(link) = links.get(turn % count).cloned() else {
                return warn!("LEARNERS is empty: there is nobody to follow");
            };
            let was_quiet = std::mem::take(&mut left_quiet);
            let mut quiet = 0;
            // One that is no longer listed may still answer, and learns nothing new.
            while links.iter().any(|listed| listed.node == link.node) {
                // The learners keep what it does not take now.
                while volume.room(0, ROOM_BYTES) > Room::Tight {
                    tokio::time::sleep(RETRY).await;
                }
                let applied = ledger.applied();
                let told = transfer::next_piece(&link, &incoming, applied.next(), WAIT).await;
                let told = match told {
                    Ok(told) => told,
                    Err(why) => {
                        // Said once, and again when the reason changes.
                        let said = failing.insert(link.node, why.clone());
                        match said.is_some_and(|said| said == why) {
                            true => debug!(learner = %link.node, why, "cannot follow it"),
                            false => warn!(
                                learner = %link.node,
                                why,
                                "cannot follow it, asking the next learner"
                            ),
                        }
                        break;
                    }
                };
                failing.remove(&link.node);
                links.refresh();
                if self.differs(&link, &told, applied) {
                    differ.insert(link.node);
                    if links.iter().all(|listed| differ.contains(&listed.node)) {
                        self.shared.metrics.contradicted.set(1);
                        return self.stop(halt::contradicted(&format!(
                            "no learner has the value in instance {applied} that was applied here. \
                             If the learners are right, give this store an empty volume; if they \
                             were set back in time, give them back what they had"
                        )));
                    }
                    break;
                }
                differ.remove(&link.node);
                if told.committed < applied {
                    less.insert(link.node);
                    if links.iter().all(|listed| less.contains(&listed.node)) {
                        self.note_trouble(Some(format!(
                            "this store has applied instance {applied}, and no learner knows of one \
                             after {}: either they are still catching up, or the learners and the \
                             acceptors were set back in time behind this store",
                            told.committed
                        )));
                    }
                } else {
                    less.clear();
                    self.note_trouble(None);
                    self.shared.followed.store(true, Ordering::Relaxed);
                }
                let Next {
                    piece, committed, ..
                } = told;
                self.answered(&link, committed, was_quiet);
                if let Some(piece) = piece {
                    volume.wrote(ROOM_BYTES);
                    let (store, snapshots) = (self.clone(), snapshots.clone());
                    let take = move || store.take(piece, &snapshots, ledger);
                    ledger = match tokio::task::spawn_blocking(take).await {
                        Ok(Some(ledger)) => ledger,
                        Ok(None) => return,
                        // A panic: what the database holds is unknown here.
                        Err(error) => end_on_disk_error(&error),
                    };
                    if ledger.applied() == applied {
                        break;
                    }
                    quiet = 0;
                } else {
                    quiet += 1;
                    // With less than the store it is catching up itself, or the store is ahead of its
                    // cluster. With more it does not get on: it has halted, or has no room. And one that
                    // hears nothing does not know what others do.
                    if committed != applied || (quiet == QUIET_WAITS && links.len() > 1) {
                        left_quiet = committed == applied;
                        break;
                    }
                }
            }
            tokio::time::sleep(RETRY).await;
            links.refresh();
        }
    }

    /// Whether a learner has another value in the last slot applied here.
    fn differs(&self, link: &Link, told: &Next, applied: Slot) -> bool {
        let mine = self.shared.database.last_value();
        let mine = mine.unwrap_or_else(|error| end_on_disk_error(&error));
        let differs = told.differs_from(mine);
        if differs {
            let why = format!(
                "{} has another value in instance {applied} than was applied here",
                link.node
            );
            if self.trouble().as_ref() != Some(&why) {
                error!(learner = %link.node, instance = applied.0, "{why}");
            }
            self.note_trouble(Some(why));
        }
        differs
    }

    fn note_trouble(&self, trouble: Option<String>) {
        let noted = self.shared.trouble.write();
        let mut noted = noted.unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = trouble.as_ref().filter(|_| noted.is_none()) {
            warn!("{why}");
        }
        *noted = trouble;
    }

    fn answered(&self, link: &Link, committed: Slot, was_quiet: bool) {
        let learner = u64::from(link.node.id.number());
        if self.shared.follows.swap(learner, Ordering::Relaxed) != learner {
            // While nothing happens it asks them in turn.
            match was_quiet {
                true => debug!(learner = %link.node, "following this learner"),
                false => info!(learner = %link.node, "following this learner"),
            }
        }
        let before = self
            .shared
            .committed
            .fetch_max(committed.0, Ordering::Relaxed);
        let committed = committed.0.max(before);
        self.shared.metrics.committed_slot.set(committed as i64);
    }

    /// Applies a piece, and returns the state behind it; `None` when this version cannot continue.
    fn take(&self, piece: Piece, snapshots: &Snapshots, mut ledger: Ledger) -> Option<Ledger> {
        let started = Instant::now();
        match piece {
            Piece::Entries(entries) => {
                match self.shared.database.apply(&mut ledger, &entries) {
                    Ok(()) => {}
                    Err(ApplyError::Halt(why)) => {
                        self.stop(halt::undecodable(why));
                        return None;
                    }
                    Err(ApplyError::Database(error)) => end_on_disk_error(&error),
                }
                self.shared.metrics.store_committed(started.elapsed());
            }
            Piece::Snapshot(slot) => match self.shared.database.install(snapshots, slot) {
                Ok(installed) => {
                    ledger = installed;
                    self.shared.metrics.snapshots_installed.inc();
                    info!(
                        instance = slot.0,
                        millis = started.elapsed().as_millis() as u64,
                        "snapshot installed"
                    );
                    if let Err(error) = snapshots.discard(slot) {
                        end_on_disk_error(&error);
                    }
                }
                // It is gone, and will be fetched again.
                Err(UnpackError::Snapshot(error)) => {
                    warn!(%error, "the snapshot received is no use");
                }
                Err(UnpackError::Resources(error)) => end_on_disk_error(&error),
            },
        }
        let shared = &self.shared;
        let sessions = ledger.session_count() as u64;
        shared.sessions.store(sessions, Ordering::Relaxed);
        shared.metrics.show_ledger(&ledger);
        shared.metrics.applied_slot.set(ledger.applied().0 as i64);
        shared.applied.send_replace(ledger.applied());
        Some(ledger)
    }

    fn stop(&self, halt: Halt) {
        let (why, kind) = (&halt.why, halt.reason.name());
        error!(why, kind, "the store stops applying");
        self.shared.metrics.halted.set(1);
        let halted = self.shared.halted.write();
        *halted.unwrap_or_else(PoisonError::into_inner) = Some(halt);
    }
}
