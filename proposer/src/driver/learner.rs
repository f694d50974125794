//! The learner's thread, sockets, disk and metrics around its loop, which is `roles::learner`: it puts what
//! is chosen in order, applies it, keeps it in its own log and answers the leader with outcomes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use api::env::{Config, Role};
use paxos::ids::{NodeId, NodeName, Slot};
use paxos::learner::Learner;
use paxos::message::{Learned, Message, Request};
use paxos::recent::Bounds;
use rand::Rng;
use roles::learner::{self as role, Action, Event, LearnerRole, Replay, Settings};
use tokio::runtime;
use tokio::sync::{Semaphore, oneshot, watch};
use tracing::{debug, info};

use super::turn::Turn;
use super::volume::Volume;
use super::{StartError, end_on_disk_error, folder, members};
use crate::addresses::Addresses;
use crate::identity::Identity;
use crate::link::Links;
use crate::metrics::Metrics;
use crate::notify::Notifier;
use crate::peers::{Breakers, Lane};
use crate::snapshots::Snapshots;
use crate::wal::{self, Wal};

/// Messages that may wait; further ones are refused, and the leader sends them again.
const QUEUE: usize = 1024;
/// Messages handled before the next look at the time.
const GROUP: usize = 256;
/// The loop's tick: a gap that is still there after two of them is fetched.
const TICK: Duration = Duration::from_millis(50);
/// Bytes of entries read at once for a client's stream: what a slow one may hold in memory.
pub const STREAM_CHUNK_BYTES: usize = 64 << 10;
/// Reads of the log on disk that may wait for the loop at once. Further ones wait outside, so that
/// any number of followers leaves room for what the leader tells.
const OLDER_AT_ONCE: usize = 4;

pub(crate) mod audit;
mod handle;
mod say;
mod snapshot;
mod stores;
pub(crate) mod transfer;
mod world;

use handle::{Ask, Shared};
pub use handle::{Busy, Handle, NoEntries};
pub use roles::learner::{Lost, State};
pub use stores::StoreSeen;
use world::World;

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
    let machine = snapshots.load_newest()?.unwrap_or_default();
    let snapshot = machine.applied();
    let snapshot_bytes = snapshots.size(snapshot)?;
    let mut replay = Replay::on(machine, Bounds::default());
    let wal = Wal::open(media, wal::Options::default(), |position, record| {
        replay.record(position, record)
    })?;
    let (state, log) = replay.end();
    let applied = state.machine.applied();
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
    let world = World {
        me: identity.clone(),
        shared,
        wal,
        snapshots,
        volume: Volume::of(config, metrics.clone()),
        notifier: Notifier::start(config, addresses, &metrics),
        metrics: metrics.clone(),
        learners: Links::new(addresses, identity, Role::Learner),
        stores: Links::new(addresses, identity, Role::Store),
    };
    let core = Learner::new(members, Slot::ZERO);
    let settings = Settings::default();
    let started = Instant::now();
    let now = Duration::ZERO;
    let run = Run {
        role: LearnerRole::new(world, settings, members, core, log, snapshot_bytes, now),
        started,
        me: identity.clone(),
        metrics,
        acceptors: Links::new(addresses, identity, Role::Acceptor),
        runtime: runtime::Handle::current(),
        handle: handle.clone(),
    };
    run.role.world().show_state();
    run.show_log();
    let turn = handle.turn.clone();
    std::thread::Builder::new()
        .name("learner".into())
        .spawn(move || run_loop(run, &turn, &asks))?;
    Ok(handle)
}

struct Run {
    role: LearnerRole<World>,
    /// Where the loop's time begins.
    started: Instant,
    me: Identity,
    metrics: Arc<Metrics>,
    acceptors: Links,
    runtime: runtime::Handle,
    handle: Handle,
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
            run.tick();
        }
        run.settle();
    }
}

impl Run {
    /// Serves a request at once. What it leaves to be synced or held waits for the thread's tick.
    fn serve(&mut self, ask: Ask) {
        self.take(ask);
        let answers = self.role.answer(self.now());
        self.perform(answers);
    }

    fn take(&mut self, ask: Ask) {
        match ask {
            Ask::Event(event) => {
                if let Event::Told { from, .. } = &event
                    && from.role == Role::Proposer
                    && self.me.may_learn()
                {
                    let leader = from.id.number().into();
                    self.handle.shared.leader.store(leader, Ordering::Relaxed);
                }
                self.feed(event);
            }
            Ask::Recall { slots, answer } => {
                let recalled = self.role.recall(&slots);
                // The asker may be gone.
                let _ = answer.send(recalled.unwrap_or_else(|error| end_on_disk_error(&error)));
            }
            Ask::Older {
                from,
                bytes,
                answer,
            } => {
                let older = self.role.older(from, bytes);
                let _ = answer.send(older.unwrap_or_else(|error| end_on_disk_error(&error)));
            }
            Ask::Written(written) => self.written(written),
            Ask::Halt(halt) => {
                self.feed(Event::Outvoted);
                self.show_halt(halt);
            }
        }
    }

    fn tick(&mut self) {
        self.acceptors.refresh();
        let world = self.role.world_mut();
        world.learners.refresh();
        world.stores.refresh();
        let dice = rand::rng().random();
        self.feed(Event::Tick { dice });
    }

    /// What is due after a group of events.
    fn settle(&mut self) {
        let durable = self.role.durable();
        let due = self.role.settle(self.now());
        self.perform(due);
        if self.role.durable() != durable {
            self.show_log();
        }
    }

    fn feed(&mut self, event: Event<oneshot::Sender<Learned>>) {
        let actions = self.role.on(event, self.now());
        self.perform(actions);
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn perform(
        &mut self,
        actions: Result<Vec<Action<oneshot::Sender<Learned>>>, world::DiskFailed>,
    ) {
        let actions = actions.unwrap_or_else(|error| end_on_disk_error(&error));
        self.publish();
        for action in actions {
            match action {
                Action::Answer { asker, learned } => {
                    // The leader may have given up on this answer.
                    let _ = asker.send(learned);
                }
                Action::AskAcceptor {
                    number,
                    acceptor,
                    request,
                    within,
                } => self.ask_acceptor(number, acceptor, request, within),
                Action::AskNode { number, node, ask } => self.ask_node(number, node, ask),
                Action::Receive {
                    number,
                    slot,
                    offset,
                    bytes,
                } => {
                    let (snapshots, handle) = (self.handle.snapshots.clone(), self.handle.clone());
                    let receive = move || snapshots.receive(slot, offset, &bytes);
                    self.runtime.spawn(async move {
                        match tokio::task::spawn_blocking(receive).await {
                            Ok(Ok(())) => handle.post(Event::Received { number }).await,
                            Ok(Err(error)) => end_on_disk_error(&error),
                            // The process is ending.
                            Err(error) => debug!(%error, "a piece of a snapshot was not written"),
                        }
                    });
                }
                Action::WriteSnapshot(state) => self.write_snapshot(state),
                Action::Installed(slot) => self.show_installed(slot),
                Action::Lost(lost) => self.say_lost(lost),
                Action::Halted(halt) => self.say_halted(halt),
                Action::Say(notice) => self.say(notice),
                Action::Judged {
                    verdict,
                    slot,
                    told_by,
                } => self.say_verdict(verdict, slot, told_by),
            }
        }
    }

    /// Lets readers see how far it is.
    fn publish(&self) {
        let (committed, shared) = (self.role.core().committed(), &self.handle.shared);
        shared.committed.store(committed.0, Ordering::Relaxed);
        self.metrics.committed_slot.set(committed.0 as i64);
        let durable = self.role.durable();
        shared.durable.store(durable.0, Ordering::Relaxed);
    }

    fn show_log(&self) {
        let first = self.role.first_in_log();
        self.metrics.first_slot.set(first.0 as i64);
    }

    fn show_installed(&self, slot: Slot) {
        self.metrics.applied_slot.set(slot.0 as i64);
        self.metrics.snapshots_installed.inc();
        self.role.world().show_state();
        self.show_log();
        self.handle.shared.applied.send_replace(slot);
    }

    fn ask_acceptor(&self, number: u64, acceptor: NodeId, request: Request, within: Duration) {
        debug!(%acceptor, ?request, "asking an acceptor for its votes");
        let link = self.acceptors.to(acceptor);
        let (link, handle) = (link.cloned(), self.handle.clone());
        let frame = self.me.frame(Message::Request(request));
        self.runtime.spawn(async move {
            let answer = match &link {
                // Any quorum will do, so breakers would only make a rare call rarer.
                Some(link) => {
                    let answer = link.ask(Lane::Bulk, frame, within, Breakers::Ignore);
                    answer.await.map_err(|error| error.to_string())
                }
                None => Err("it is not listed".to_owned()),
            };
            let event = match answer {
                Ok(Message::Reply(reply)) => Event::Answered { number, reply },
                answer => {
                    debug!(%acceptor, ?answer, "no answer to a question");
                    let why = answer.err().unwrap_or_default();
                    Event::Failed { number, why }
                }
            };
            // The core asks nothing more of that acceptor before it hears of the end.
            handle.post(event).await;
        });
    }

    fn ask_node(&self, number: u64, node: NodeName, ask: role::Ask) {
        let link = self.role.world().link(node).cloned();
        let handle = self.handle.clone();
        self.runtime.spawn(async move {
            let told = match &link {
                Some(link) => transfer::ask(link, ask, Duration::ZERO).await,
                None => Err("it is not listed any more".to_owned()),
            };
            let event = match told {
                Ok(told) => Event::NodeTold { number, told },
                Err(why) => Event::Failed { number, why },
            };
            handle.post(event).await;
        });
    }
}
