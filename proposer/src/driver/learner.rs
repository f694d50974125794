//! The learner's loop: puts what is chosen in order, applies it, keeps it in its own log and
//! answers the leader with outcomes.
//!
//! Its log is synced a little later than it is written: what a crash takes from it, the acceptors
//! still have.

use std::collections::BTreeMap;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use api::env::{Config, Role};
use api::status::Halt;
use bytes::Bytes;
use paxos::acceptor::Room;
use paxos::codec::{self, Entry};
use paxos::command::Undecodable;
use paxos::digests::Digests;
use paxos::ids::{Members, NodeId, Slot};
use paxos::learner::{Input, Learner};
use paxos::message::{Learn, Learned, Message, Reply, Request};
use tokio::runtime;
use tokio::sync::{Semaphore, oneshot, watch};
use tracing::{debug, error, info};

use super::halt;
use super::turn::Turn;
use super::volume::Volume;
use super::{StartError, end_on_disk_error, folder, members};
use crate::addresses::Addresses;
use crate::identity::Identity;
use crate::link::Links;
use crate::media::FileMedia;
use crate::metrics::Metrics;
use crate::notify::Notifier;
use crate::peers::{Breakers, Lane};
use crate::snapshots::Snapshots;
use crate::wal::{self, Position, Wal};

/// Messages that may wait; further ones are refused, and the leader sends them again.
const QUEUE: usize = 1024;
/// Messages handled before the next look at the time.
const GROUP: usize = 256;
/// How long applied entries may wait for the log's next sync, and how many bytes of them.
const SYNC_AFTER: Duration = Duration::from_millis(100);
const SYNC_BYTES: usize = 1 << 20;
/// The core's tick: a gap that is still there after two of them is fetched.
const TICK: Duration = Duration::from_millis(50);
/// How long an answer to the leader waits for a gap before its values to close.
const HOLD: Duration = Duration::from_millis(200);
/// Bytes of entries read at once for a client's stream: what a slow one may hold in memory.
pub const STREAM_CHUNK_BYTES: usize = 64 << 10;
/// Reads of the log on disk that may wait for the loop at once. Further ones wait outside, so that
/// any number of followers leaves room for what the leader tells.
const OLDER_AT_ONCE: usize = 4;
/// How long an acceptor may take to begin its answer to a fetch, and to continue it.
const FETCH_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) mod audit;
mod handle;
mod log;
mod outcomes;
mod snapshot;
mod stores;
pub(crate) mod transfer;
mod truth;

use handle::{Ask, Shared};
pub use handle::{Busy, Handle, NoEntries, State};
use log::LogReader;
use snapshot::SNAPSHOT_EVERY_BYTES;
pub use stores::StoreSeen;
pub use transfer::Lost;
use transfer::Piece;
use truth::Truth;

/// Opens the learner's log, replays it and starts the loop. Call within a Tokio runtime.
pub fn start(
    config: &Config,
    addresses: &Addresses,
    identity: &Identity,
    metrics: Arc<Metrics>,
) -> Result<Handle, StartError> {
    let media = folder(config, "log")?;
    let started = Instant::now();
    let snapshots = Snapshots::open(folder(config, "snapshots")?)?;
    let mut state = State::default();
    if let Some(machine) = snapshots.load_newest()? {
        state.machine = machine;
    }
    let snapshot = state.machine.applied();
    let snapshot_bytes = snapshots.size(snapshot)?;
    state.digests = Digests::after(snapshot);
    let mut index = BTreeMap::new();
    let mut next = None;
    let wal = Wal::open(media, wal::Options::default(), |position, bytes| {
        let bytes = Bytes::copy_from_slice(bytes);
        let entries = codec::decode_entries(bytes).map_err(|error| error.to_string())?;
        let Some((first, last)) = entries.first().zip(entries.last()) else {
            return Ok(());
        };
        // A gap is where another learner's snapshot was installed: what is before it serves nobody.
        if next.is_some_and(|next| next != first.slot) {
            index.clear();
        }
        next = Some(last.slot.next());
        index.insert(first.slot, position);
        let new = entries.into_iter().filter(|entry| entry.slot > snapshot);
        new.into_iter()
            .try_for_each(|entry| replay(&mut state, entry))
    })?;
    let applied = state.machine.applied();
    if next.is_some_and(|next| next <= applied) {
        index.clear();
    }
    info!(
        snapshot = snapshot.0,
        applied = applied.0,
        millis = started.elapsed().as_millis() as u64,
        "learner's snapshot and log read"
    );
    metrics.applied_slot.set(applied.0 as i64);
    let members = members(config)?;
    let shared = Arc::new(Shared {
        state: RwLock::new(state),
        applied: watch::Sender::new(applied),
        committed: AtomicU64::new(applied.0),
        durable: AtomicU64::new(applied.0),
        leader: AtomicU64::new(0),
        caught_up: AtomicBool::new(false),
        halted: RwLock::new(None),
        stores: RwLock::default(),
        lost: RwLock::default(),
    });
    let (queue, asks) = sync_channel(QUEUE);
    let handle = Handle {
        queue,
        shared: shared.clone(),
        snapshots: snapshots.clone(),
        older: Arc::new(Semaphore::new(OLDER_AT_ONCE)),
        metrics: metrics.clone(),
        turn: Arc::new(Turn::new()),
    };
    if config.use_cluster_store || config.members_dir.is_some() {
        stores::watch(addresses, identity, handle.clone(), metrics.clone());
    }
    audit::start(addresses, identity, handle.clone());
    let metrics_of_volume = metrics.clone();
    let run = Run {
        me: identity.clone(),
        members,
        core: Learner::new(members, applied),
        applied,
        truth: Truth::new(Instant::now()),
        wal,
        index,
        log_reader: LogReader::default(),
        snapshots,
        snapshot_bytes,
        logged_bytes: 0,
        writing_snapshot: false,
        catching_up: false,
        shared,
        notifier: Notifier::start(config, addresses, &metrics),
        metrics,
        acceptors: Links::new(addresses, identity, Role::Acceptor),
        learners: Links::new(addresses, identity, Role::Learner),
        stores: Links::new(addresses, identity, Role::Store),
        catch_ups: 0,
        runtime: runtime::Handle::current(),
        handle: handle.clone(),
        volume: Volume::of(config, metrics_of_volume),
        unsynced: None,
        unsynced_bytes: 0,
        held: Vec::new(),
    };
    run.show_state();
    run.show_log();
    let turn = handle.turn.clone();
    std::thread::Builder::new()
        .name("learner".into())
        .spawn(move || run_loop(run, &turn, &asks))?;
    Ok(handle)
}

/// Applies an entry again and checks that it gives what it gave before: the state machine is
/// deterministic, so anything else means damage or a changed meaning.
fn replay(state: &mut State, entry: Entry) -> Result<(), String> {
    if entry.slot != state.machine.applied().next() {
        let expected = state.machine.applied().next();
        return Err(format!(
            "instance {} where {expected} should be",
            entry.slot
        ));
    }
    let applied = state
        .machine
        .apply(entry.slot, &entry.value)
        .map_err(|e| e.to_string())?;
    if !applied.repeats(&entry.applied) {
        return Err(format!(
            "instance {} gave {:?} when it was applied and gives {applied:?} now",
            entry.slot, entry.applied
        ));
    }
    state.push(entry);
    Ok(())
}

struct Held {
    first: Slot,
    last: Slot,
    until: Instant,
    answer: oneshot::Sender<Learned>,
    learn: Learn,
}

struct Run {
    me: Identity,
    members: Members,
    core: Learner,
    /// The last slot that is applied and in the log. What the core has delivered may be more, when a
    /// value cannot be applied.
    applied: Slot,
    truth: Truth,
    wal: Wal<FileMedia>,
    /// Where in the log the record lies that starts with a slot.
    index: BTreeMap<Slot, Position>,
    log_reader: LogReader,
    snapshots: Snapshots,
    /// Size of our last snapshot, and bytes of log since it.
    snapshot_bytes: u64,
    logged_bytes: u64,
    writing_snapshot: bool,
    catching_up: bool,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    notifier: Option<Notifier>,
    acceptors: Links,
    learners: Links,
    stores: Links,
    /// How often other learners were asked for what the acceptors have forgotten.
    catch_ups: usize,
    runtime: runtime::Handle,
    handle: Handle,
    volume: Volume,
    /// When the oldest entry was written that is not synced.
    unsynced: Option<Instant>,
    unsynced_bytes: usize,
    /// Answers that wait for their values to be applied.
    held: Vec<Held>,
}

/// What requests that cannot be served where they came in, and the clock, ask for.
fn run_loop(run: Run, turn: &Turn<Run>, asks: &Receiver<Ask>) {
    let run = turn.begin(run);
    let mut next_tick = Instant::now() + TICK;
    loop {
        let wait = next_tick.saturating_duration_since(Instant::now());
        let first = match asks.recv_timeout(wait) {
            Ok(ask) => Some(ask),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let mut run = turn.take(run);
        for ask in first.into_iter().chain(asks.try_iter().take(GROUP)) {
            run.metrics.queue.dec();
            run.take(ask);
        }
        let now = Instant::now();
        if now >= next_tick {
            next_tick = now + TICK;
            run.acceptors.refresh();
            run.learners.refresh();
            run.stores.refresh();
            if !run.truth.is_in_doubt() {
                run.step(Input::Tick);
            }
            run.tick_truth(now);
            run.log_reader.tick();
        }
        run.answer_held(now);
        if run.unsynced.is_some_and(|since| now - since >= SYNC_AFTER)
            || run.unsynced_bytes >= SYNC_BYTES
        {
            run.sync();
        }
    }
}

impl Run {
    /// Whether `bytes` more bytes are applied without waiting for the disk, and soon: a thread that
    /// serves them where they came in holds up what else came in there.
    fn is_quick(&self, bytes: usize) -> bool {
        self.unsynced_bytes + self.core.ahead_bytes() + bytes < SYNC_BYTES
    }

    /// Serves a request at once. What it leaves to be synced or held waits for the thread's tick.
    fn serve(&mut self, ask: Ask) {
        self.take(ask);
        self.answer_held(Instant::now());
    }

    fn take(&mut self, ask: Ask) {
        match ask {
            // Of which cluster it is, and that it asks the right number of acceptors, is not known yet:
            // the asker hears that there is no answer, and tells it again.
            Ask::Learn { .. } if !self.me.may_learn() => {}
            Ask::Learn {
                learn,
                from,
                answer,
            } => {
                if from.role == Role::Proposer {
                    self.shared
                        .leader
                        .store(from.id.number().into(), Ordering::Relaxed);
                }
                let first = learn.first;
                let last = first.plus(learn.values.len() as u64).previous();
                let mut until = Instant::now() + HOLD;
                if self.is_told_the_same(&learn, from) {
                    self.step(Input::Learn(learn.clone()));
                } else {
                    until = Instant::now();
                }
                self.held.push(Held {
                    first,
                    last,
                    until,
                    answer,
                    learn,
                });
            }
            Ask::Fetched { from, reply } => {
                self.heard(from, &reply);
                match reply {
                    // Asked for again once that is settled.
                    Reply::Fetched { from: first, .. } | Reply::Truncated { from: first, .. }
                        if self.truth.is_in_doubt() =>
                    {
                        self.step(Input::Failed { from, first });
                    }
                    reply => self.step(Input::Reply { from, reply }),
                }
            }
            Ask::NotFetched { from, first } => self.step(Input::Failed { from, first }),
            Ask::Older {
                from,
                bytes,
                answer,
            } => {
                // The asker may be gone.
                let _ = answer.send(self.older(from, bytes));
            }
            Ask::Recall { slots, answer } => {
                let _ = answer.send(self.recall(&slots));
            }
            Ask::Written(written) => self.written(written),
            Ask::Received(from, Piece::Entries(entries)) => self.learn_entries(entries, from),
            Ask::Received(_, Piece::Snapshot(slot)) => self.install(slot),
            Ask::CaughtUp => self.catching_up = false,
            Ask::Halt(halt) => self.halt(halt),
        }
    }

    fn step(&mut self, input: Input) {
        if self.is_halted() {
            return;
        }
        let Some(input) = self.fitting(input) else {
            return;
        };
        let mut effects = self.core.step(input);
        let deliver = mem::take(&mut effects.deliver);
        if let Some(floor) = effects.truncated {
            self.catch_up(floor);
        }
        if let Some(slot) = effects.missing {
            error!(
                instance = slot.0,
                "an instance said to be chosen is known to no quorum of acceptors: some of them \
                 have lost their disks, or the sender is no leader"
            );
        }
        if let Some(slot) = effects.disputed {
            error!(
                instance = slot.0,
                "two values were received for one instance: the acceptors' counts"
            );
        }
        if !deliver.is_empty()
            && let Err((slot, undecodable)) = self.apply(deliver)
        {
            self.cannot_read(slot, undecodable, effects.is_sure(slot));
        }
        for (acceptor, request) in effects.fetch {
            self.fetch(acceptor, request);
        }
        let committed = self.core.committed();
        self.shared.committed.store(committed.0, Ordering::Relaxed);
        self.metrics.committed_slot.set(committed.0 as i64);
    }

    /// A value cannot be read. A quorum of acceptors that has it has it from a newer version; who else
    /// tells it may be anybody.
    fn cannot_read(&mut self, slot: Slot, undecodable: Undecodable, is_sure: bool) {
        if is_sure {
            return self.halt(halt::undecodable(format!("instance {slot}: {undecodable}")));
        }
        error!(
            instance = slot.0,
            "a value was received that cannot be read: the acceptors' counts"
        );
        self.core.distrust(slot);
    }

    /// What may be taken of an input: no values while the volume is almost full. The leader tells them
    /// again, and the acceptors keep them.
    fn fitting(&mut self, input: Input) -> Option<Input> {
        // The next snapshot must fit as well: the log gets shorter by it alone.
        let state = self.handle.state().machine.ledger().state_bytes();
        let more = self.snapshot_bytes.max(state) + self.unsynced_bytes as u64;
        if self.volume.room(0, more) <= Room::Tight {
            return Some(input);
        }
        match input {
            Input::Learn(learn) => Some(Input::Learn(Learn {
                values: [].into(),
                ..learn
            })),
            // The core must hear how each of its questions ended, or it never asks again.
            Input::Reply {
                from,
                reply: Reply::Fetched { from: first, .. } | Reply::Truncated { from: first, .. },
            } => Some(Input::Failed { from, first }),
            Input::Failed { .. } => Some(input),
            Input::Reply { .. } | Input::Tick => None,
        }
    }

    fn sync(&mut self) {
        let started = Instant::now();
        match self.wal.sync() {
            Ok(written) => {
                self.volume.wrote(written.bytes);
                self.metrics.wal_synced(started.elapsed(), written.bytes);
            }
            Err(error) => end_on_disk_error(&error),
        }
        self.metrics.wal_size.set(self.wal.bytes() as i64);
        self.show_log();
        // Not what the core has delivered: applying may have stopped before its end.
        self.shared.durable.store(self.applied.0, Ordering::Relaxed);
        self.unsynced = None;
        self.unsynced_bytes = 0;
        // A large state is written less often: the log may grow to twice its size.
        if !self.writing_snapshot
            && self.logged_bytes >= SNAPSHOT_EVERY_BYTES.max(2 * self.snapshot_bytes)
        {
            self.write_snapshot();
        }
    }

    fn show_state(&self) {
        let state = self.handle.state();
        self.metrics
            .resources
            .set(state.machine.resource_count() as i64);
        self.metrics.show_ledger(state.machine.ledger());
    }

    fn show_log(&self) {
        self.metrics.first_slot.set(self.first_in_log().0 as i64);
    }

    fn fetch(&self, acceptor: NodeId, request: Request) {
        debug!(%acceptor, ?request, "fetching chosen values from an acceptor");
        let Request::Fetch { from: first, to } = request else {
            return;
        };
        let link = self.acceptors.iter().find(|link| link.node.id == acceptor);
        let (link, handle) = (link.cloned(), self.handle.clone());
        let frame = self.me.frame(Message::Request(request));
        self.runtime.spawn(async move {
            let answer = match &link {
                // Any quorum will do, so breakers would only make a rare call rarer.
                Some(link) => Some(
                    link.ask(Lane::Bulk, frame, FETCH_TIMEOUT, Breakers::Ignore)
                        .await,
                ),
                None => None,
            };
            let from = acceptor;
            let ask = match answer {
                Some(Ok(Message::Reply(reply))) if answers(&reply, first, to) => {
                    Ask::Fetched { from, reply }
                }
                answer => {
                    debug!(%acceptor, ?answer, "fetch failed");
                    Ask::NotFetched { from, first }
                }
            };
            // The core asks nothing more of that acceptor before it hears of the end.
            handle.post(ask).await;
        });
    }

    fn is_halted(&self) -> bool {
        self.shared
            .halted
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }

    /// Stops for good. The first reason stays.
    fn halt(&self, halt: Halt) {
        let (why, kind) = (&halt.why, halt.reason.name());
        error!(why, kind, "the learner stops applying");
        self.metrics.halted.set(1);
        let mut halted = self
            .shared
            .halted
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        halted.get_or_insert(halt);
    }
}

/// Whether a reply is one to a fetch of these slots.
fn answers(reply: &Reply, first: Slot, last: Slot) -> bool {
    match reply {
        Reply::Fetched { from, to, .. } => *from == first && *to <= last,
        Reply::Truncated { from, .. } => *from == first,
        _ => false,
    }
}
