//! The proposer's loop: elections, batches and votes through the core; clients' requests wait here
//! until their outcome is known, and move to the next leader when this one is no more.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use prometheus::IntGaugeVec;
use rand::Rng;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{debug, error, info, warn};

use super::{StartError, end_on_disk_error, members};
use crate::addresses::Addresses;
use crate::bounds;
use crate::config::{Config, Role};
use crate::identity::Identity;
use crate::link::{Error as LinkError, Link, Links};
use crate::metrics::Metrics;
use crate::newest::NewestOnly;
use crate::pace::Pace;
use crate::paxos::ids::{Ballot, Members, NodeId, NodeName, Slot};
use crate::paxos::machine::{Applied, Outcome};
use crate::paxos::message::{
    Forwarded, Heartbeat, Learned, Message, Recalled, Reply, Value, Values,
};
use crate::paxos::proposer::{Behind, Effects, Input, Proposer, Settings};
use crate::paxos::recall::Recalls;
use crate::paxos::stamp::{STAMP_EVERY_MS, Stamp, Terms};
use crate::paxos::telling::Telling;
use crate::peers::{Breakers, Lane};
use crate::reach::{Look, Reach};
use crate::state_file::{self, State, StateFile};
pub use found::{Answers, FoundRoom};
use full::Full;
use lag::History;
use queue::Queue;
use room::{Room, Rooms};
use send::{Question, Told, Took, Untold};
use slow::Slow;

pub(crate) mod behind;
mod found;
mod full;
mod lag;
mod outcomes;
mod queue;
mod reach;
mod room;
mod send;
mod slow;

/// Slots that may be open at once, given out and not applied by a learner, and bytes of their values.
const MAX_OPEN_SLOTS: u64 = 8192;
const MAX_OPEN_BYTES: usize = 64 << 20;
/// Events handled before the next look at the time.
const GROUP: usize = 1024;
/// Messages of requests to the leader under way at once, and what one carries at most.
const FORWARDS: usize = 4;
const FORWARD_VALUES: usize = 1024;
const FORWARD_BYTES: usize = 1 << 20;
/// How long a request that asks for no outcome may wait for a leader.
const ACCEPT_WITHIN: Duration = Duration::from_secs(2);
/// How long a leader that is about to end waits for what is under way, before it hands over.
const DRAIN: Duration = Duration::from_millis(500);
/// How often a proposer can be asked to take over.
const TAKE_OVER_EVERY: Duration = Duration::from_secs(1);
/// When the leader's process is gone: how long each proposer waits for the one before it.
const SUCCESSION_STEP: Duration = Duration::from_millis(40);
/// A learner lags when it is so many instances behind, or has not answered for so long.
const LAGGING_SLOTS: u64 = 16_384;
const SILENT_LEARNER: Duration = Duration::from_secs(3);
/// How often the state is copied to a checkpoint, if it changed.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(30);

/// What became of one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has a slot; asked for without `wait`.
    Assigned(Slot),
    /// It was chosen and applied.
    Done(Applied),
    /// READ was applied, and what it found is too much to keep for it.
    NotRead,
    /// It may or may not take effect.
    Unknown,
    /// No leader took it: it has no effect.
    NoLeader,
    /// The leader had no place for it in time, as what came before it is not chosen: it has no effect.
    NotProposed,
    /// The acceptors have no room for it, and why: it has no effect.
    NoRoom(Arc<str>),
}

/// Too much waits already.
#[derive(Debug)]
pub struct Busy;

/// The running proposer. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    jobs: mpsc::UnboundedSender<NewJob>,
    events: mpsc::UnboundedSender<Event>,
    shared: Arc<Shared>,
    identity: Identity,
    members: Members,
    addresses: Addresses,
    metrics: Arc<Metrics>,
}

struct Shared {
    rooms: Arc<Rooms>,
    /// What READs found and no client has yet.
    found_bytes: AtomicUsize,
    view: RwLock<View>,
    leaving: AtomicBool,
    /// Why nothing new can be chosen here, if so: the acceptors' volumes are full.
    no_room: RwLock<Option<Arc<str>>>,
    /// The number of the next read.
    reads: AtomicU64,
    /// When it was last asked to take over.
    asked_at: Mutex<Option<Instant>>,
}

impl Shared {
    fn may_take_over(&self) -> bool {
        let mut asked_at = self.asked_at.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let may = asked_at.is_none_or(|at| now - at >= TAKE_OVER_EVERY);
        if may {
            *asked_at = Some(now);
        }
        may
    }
}

/// What the proposer shows of itself.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// `following`, `probing`, `preparing` or `leading`.
    pub phase: &'static str,
    /// The leader's ballot.
    pub leader: Option<Ballot>,
    /// The last slot given out.
    pub last: Slot,
    /// Every slot up to here is chosen.
    pub committed: Slot,
    /// The last round claimed.
    pub counter: u64,
    /// Why it must not lead, if so: a node has more than the acceptors know.
    pub behind: Option<Behind>,
}

struct NewJob {
    values: Vec<Value>,
    wait: bool,
    forwarded: bool,
    deadline: Instant,
    answer: oneshot::Sender<Answers>,
    /// Gives back the room that the job takes when it is dropped.
    room: Room,
}

impl Handle {
    /// Has values proposed, here or at the leader. With `wait` the answers are outcomes. A
    /// `forwarded` job is answered [`Answer::NoLeader`] at once unless this proposer leads.
    pub async fn submit(
        &self,
        values: Vec<Value>,
        wait: bool,
        forwarded: bool,
        within: Duration,
    ) -> Result<Answers, Busy> {
        let room = self.room(&values, forwarded)?;
        let count = values.len();
        let within = if wait {
            within
        } else {
            within.min(ACCEPT_WITHIN)
        };
        let deadline = Instant::now() + within;
        let (answer, answered) = oneshot::channel();
        let job = NewJob {
            values,
            wait,
            forwarded,
            deadline,
            answer,
            room,
        };
        self.jobs.send(job).map_err(|_| Busy)?;
        Ok(answered
            .await
            .unwrap_or_else(|_| Answers::all(Answer::Unknown, count)))
    }

    /// Whether there is no room at all for another request: it need not even be read.
    pub fn is_full(&self) -> bool {
        let full = self.shared.rooms.are_full();
        if full {
            self.metrics.rejected.inc();
        }
        full
    }

    /// Why nothing new can be chosen, if this proposer leads and knows that the acceptors have no room.
    pub fn no_room(&self) -> Option<Arc<str>> {
        let no_room = self.shared.no_room.read();
        no_room.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn room(&self, values: &[Value], forwarded: bool) -> Result<Room, Busy> {
        let (requests, bytes) = (values.len(), values.iter().map(Value::len).sum());
        let source = (!forwarded).then(bounds::waits).flatten();
        let room = self.shared.rooms.take(source, requests, bytes);
        room.ok_or_else(|| {
            self.metrics.rejected.inc_by(requests as u64);
            Busy
        })
    }

    /// The slot that must be applied before a read that starts now may be answered; `None` unless
    /// this proposer leads.
    pub async fn read_index(&self) -> Option<Slot> {
        let (answer, answered) = oneshot::channel();
        let id = self.shared.reads.fetch_add(1, Ordering::Relaxed);
        self.events.send(Event::Read(id, answer)).ok()?;
        answered.await.ok().flatten()
    }

    /// Whether the cluster has a proposer of that number. One that leads is there until another one
    /// does, even if it is no longer listed.
    pub fn knows(&self, proposer: NodeId) -> bool {
        let node = NodeName {
            role: Role::Proposer,
            id: proposer,
        };
        let leads = || self.view().leader.and_then(Ballot::node) == Some(proposer);
        self.addresses.now().name(node) || leads()
    }

    /// The acceptors of its list.
    pub fn acceptors(&self) -> Members {
        self.members
    }

    /// Whether it is one of the cluster's proposers still, and already.
    pub fn is_listed(&self) -> bool {
        self.addresses.now().name(self.identity.name())
    }

    /// Another proposer, one that this one [`knows`](Self::knows), says that it leads.
    pub fn heartbeat(&self, heartbeat: Heartbeat) {
        // The loop lives as long as the process.
        let _ = self.events.send(Event::Heartbeat(heartbeat));
    }

    /// The leader asks this proposer to succeed it; why it will not, if so. Once in a
    /// while only: each time costs an election.
    pub async fn take_over(&self) -> Result<(), &'static str> {
        const LEAVES: &str = "this proposer is about to leave: ask another one to take over";
        const AGAIN: &str = "this proposer was asked a moment ago: ask another one to take over";
        const REACHES_NONE: &str = "this proposer reaches no learner: ask another one to take over";
        const COUNTS: &str = "this proposer does not know yet how many acceptors founded the \
                              cluster: ask another one to take over";
        if self.is_leaving() || !self.is_listed() {
            return Err(LEAVES);
        }
        if !self.identity.may_lead() {
            return Err(COUNTS);
        }
        if !self.shared.may_take_over() {
            return Err(AGAIN);
        }
        let (answer, answered) = oneshot::channel();
        let asked = self.events.send(Event::TakeOver(answer));
        asked.map_err(|_| LEAVES)?;
        match answered.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(REACHES_NONE),
            Err(_) => Err(LEAVES),
        }
    }

    /// Hands leadership over, if it has it, and returns when no request waits here any more.
    pub async fn leave(&self) {
        let (answer, answered) = oneshot::channel();
        self.shared.leaving.store(true, Ordering::Relaxed);
        if self.events.send(Event::Leave(answer)).is_ok() {
            let _ = answered.await;
        }
    }

    /// How it stands.
    pub fn view(&self) -> View {
        self.shared
            .view
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether it is about to end.
    pub fn is_leaving(&self) -> bool {
        self.shared.leaving.load(Ordering::Relaxed)
    }
}

enum Event {
    /// An acceptor's.
    Reply(NodeId, Reply, Took),
    /// An acceptor has not answered what it was asked, in time or at all.
    Failed(NodeName, Took, bool),
    /// Part of an acceptor's answer is here.
    Progress(NodeId),
    Learned(NodeId, Learned, Told),
    Untold(NodeName, Told, Untold),
    Recalled(NodeId, Option<Recalled>),
    /// A store has everything up to here on disk.
    Stored(NodeId, Slot),
    /// An acceptor is late.
    Unanswered(NodeId),
    Heartbeat(Heartbeat),
    /// Another proposer has answered our heartbeat and follows us, or has not.
    HeartbeatEnded(NodeId, bool),
    /// The leader asks us to take over.
    TakeOver(oneshot::Sender<bool>),
    /// We reach a learner, so we do.
    Succeed,
    /// A leader that no learner has answered has looked for one, and for a successor.
    Looked(Look),
    Forwarded(u64, Result<Message, LinkError>),
    Read(u64, oneshot::Sender<Option<Slot>>),
    /// Nothing listens any more where the leader of this ballot was.
    LeaderGone(Ballot),
    Leave(oneshot::Sender<()>),
}

/// One value of a job.
struct Item {
    job: u64,
    index: usize,
    value: Value,
    /// The same as this leader has proposed it, where it put a stamp on it.
    stamped: Option<Value>,
    wait: bool,
    /// How many leaders may have proposed it.
    tried: u32,
}

impl Item {
    /// The value that is chosen in its slot if this leader's is: learners halt at any other.
    fn as_proposed(&self) -> &Value {
        self.stamped.as_ref().unwrap_or(&self.value)
    }
}

/// How far a learner was when it last answered.
#[derive(Clone, Copy)]
struct Progress {
    applied: Slot,
    durable: Slot,
    at: Instant,
}

/// Values sent on to a leader, until it answers.
struct Forward {
    to: Ballot,
    items: Vec<Item>,
    call: AbortHandle,
}

struct Job {
    answers: Vec<Option<Answer>>,
    left: usize,
    wait: bool,
    forwarded: bool,
    /// Whether a leader may have proposed any of it.
    submitted: bool,
    deadline: Instant,
    started: Instant,
    /// Taken by what READs of it found.
    found: FoundRoom,
    answer: oneshot::Sender<Answers>,
    _room: Room,
}

/// Opens the proposer's state and starts the loop. Requests of up to `max_bytes` may wait.
pub fn start(
    config: &Config,
    addresses: &Addresses,
    identity: &Identity,
    metrics: Arc<Metrics>,
    max_bytes: usize,
) -> Result<Handle, StartError> {
    let (file, state, opened) =
        StateFile::open(identity.media(), &config.data_dir, config.node_id)?;
    info!(
        counter = state.proposal_counter,
        ?opened,
        "proposer's state read"
    );
    let members = members(config)?;
    let patience = config.election_timeout.as_millis() / config.heartbeat_interval.as_millis();
    let settings = Settings {
        patience_ticks: patience.max(4) as u64,
        ..Settings::default()
    };
    let core = Proposer::new(config.node_id, members, settings, state.proposal_counter)
        .with_run(identity.start().run);
    let core = match opened.knows_every_claim() {
        true => core,
        false => {
            warn!(?opened, "the state on disk is damaged");
            core.with_claims_lost()
        }
    };
    let (jobs, new_jobs) = mpsc::unbounded_channel();
    let (events, new_events) = mpsc::unbounded_channel();
    let handle = Handle {
        jobs,
        events,
        shared: Arc::new(Shared {
            no_room: RwLock::default(),
            rooms: Arc::new(Rooms::new(max_bytes)),
            found_bytes: AtomicUsize::new(0),
            view: RwLock::default(),
            leaving: AtomicBool::new(false),
            reads: AtomicU64::new(0),
            asked_at: Mutex::default(),
        }),
        identity: identity.clone(),
        members,
        addresses: addresses.clone(),
        metrics: metrics.clone(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (config, identity) = (config.clone(), identity.clone());
    let shown = handle.clone();
    let run = move || {
        let run = Run::new(&config, &identity, core, file, shown, metrics);
        runtime.block_on(run.run(new_events, new_jobs));
    };
    std::thread::Builder::new()
        .name("proposer".into())
        .spawn(run)?;
    Ok(handle)
}

struct Run {
    me: Identity,
    heartbeat_interval: Duration,
    election_timeout: Duration,
    core: Proposer,
    quorum: usize,
    file: Arc<Mutex<Keeper>>,
    saved: State,
    checkpointed: (State, Instant),
    events: mpsc::UnboundedSender<Event>,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    addresses: Addresses,
    acceptors: Links,
    learners: Links,
    proposers: Links,
    /// The last leader elsewhere: it is forwarded to until there is another one, even if it is no
    /// longer listed.
    followed: Option<Link>,
    election_at: Instant,
    /// When to elect although a leader may be alive: its process is gone.
    succession_at: Option<Instant>,
    heard_at: Instant,
    followed_at: BTreeMap<NodeId, Instant>,
    /// How far each learner is.
    progress: BTreeMap<NodeId, Progress>,
    next_job: u64,
    jobs: BTreeMap<u64, Job>,
    /// Values that no leader has yet.
    queue: Queue,
    /// Values that this leader has proposed, until their outcomes are known.
    proposed: BTreeMap<Slot, Item>,
    /// READs whose outcome is to be fetched.
    recalls: Recalls<Item>,
    /// Messages under way to a leader, by number.
    forwards: BTreeMap<u64, Forward>,
    next_forward: u64,
    /// Not before: the leader has just refused something.
    forward_at: Instant,
    reads: BTreeMap<u64, oneshot::Sender<Option<Slot>>>,
    leaving: Option<Leaving>,
    led_since: Instant,
    /// Why it must not lead, if so.
    behind: Option<Behind>,
    /// Stores, which keep what learners may need, and how far each is.
    stores: Links,
    stored: BTreeMap<NodeId, Progress>,
    stores_asked: Option<Instant>,
    /// Learners that are said to lag.
    lagging: BTreeSet<NodeId>,
    /// When this leader's slots were chosen.
    history: History,
    /// How long acceptors take over votes and renewals these days, and each node over what is long.
    usual_vote: Pace,
    usual_renewal: Pace,
    paces: BTreeMap<NodeName, Pace>,
    /// Proofs of leadership and heartbeats: the newest alone is worth sending.
    renewals: NewestOnly<NodeId, Question>,
    heartbeats: NewestOnly<NodeId, Bytes>,
    /// What is chosen, on its way to the learners.
    telling: Telling,
    /// Which learners have applied a value and know no outcome of it.
    at_a_loss: BTreeMap<Slot, BTreeSet<NodeId>>,
    reach: Reach,
    started: Instant,
    /// What it settles for all learners while it leads, and when it last did.
    terms: Terms,
    stamped_at: Option<Instant>,
    /// Since when each open slot's request has been here, oldest first.
    choosing: VecDeque<(Slot, Instant)>,
    /// Acceptors that had no room for votes.
    full: Full,
    /// How long each acceptor takes over a batch.
    slow: Slow,
}

/// The state file. A save that waited while a ballot was claimed does not take the claim back.
struct Keeper {
    file: StateFile,
    claimed: u64,
}

impl Keeper {
    fn claim(&mut self, state: State) -> Result<(), state_file::Error> {
        self.claimed = self.claimed.max(state.proposal_counter);
        self.file.claim(&State {
            proposal_counter: self.claimed,
            ..state
        })
    }

    fn save(&mut self, state: State) -> Result<(), state_file::Error> {
        let proposal_counter = self.claimed.max(state.proposal_counter);
        self.file.save(&State {
            proposal_counter,
            ..state
        })
    }
}

struct Leaving {
    drain_until: Instant,
    answers: Vec<oneshot::Sender<()>>,
}

impl Run {
    fn new(
        config: &Config,
        me: &Identity,
        core: Proposer,
        file: StateFile,
        handle: Handle,
        metrics: Arc<Metrics>,
    ) -> Run {
        let Handle {
            events,
            shared,
            addresses,
            ..
        } = handle;
        let now = Instant::now();
        let links = |role| Links::new(&addresses, me, role);
        let acceptors = links(Role::Acceptor);
        let saved = State {
            proposal_counter: core.counter(),
            ..State::default()
        };
        let mut run = Run {
            me: me.clone(),
            heartbeat_interval: config.heartbeat_interval,
            election_timeout: config.election_timeout,
            core,
            quorum: acceptors.len() / 2 + 1,
            file: Arc::new(Mutex::new(Keeper {
                file,
                claimed: saved.proposal_counter,
            })),
            saved,
            checkpointed: (saved, now),
            events,
            shared,
            metrics,
            acceptors,
            learners: links(Role::Learner),
            proposers: links(Role::Proposer),
            followed: None,
            election_at: now,
            succession_at: None,
            heard_at: now,
            followed_at: BTreeMap::new(),
            progress: BTreeMap::new(),
            next_job: 0,
            jobs: BTreeMap::new(),
            queue: Queue::default(),
            proposed: BTreeMap::new(),
            recalls: Recalls::default(),
            forwards: BTreeMap::new(),
            next_forward: 0,
            forward_at: now,
            reads: BTreeMap::new(),
            leaving: None,
            led_since: now,
            behind: None,
            stores: links(Role::Store),
            stored: BTreeMap::new(),
            stores_asked: None,
            lagging: BTreeSet::new(),
            history: History::default(),
            usual_vote: Pace::default(),
            usual_renewal: Pace::default(),
            paces: BTreeMap::new(),
            renewals: NewestOnly::default(),
            heartbeats: NewestOnly::default(),
            telling: Telling::default(),
            at_a_loss: BTreeMap::new(),
            reach: Reach::new(config.election_timeout),
            started: now,
            terms: config.terms(),
            stamped_at: None,
            choosing: VecDeque::new(),
            addresses,
            full: Full::default(),
            slow: Slow::default(),
        };
        run.set_learners();
        run.restart_election_timer();
        run
    }

    async fn run(
        mut self,
        mut events: mpsc::UnboundedReceiver<Event>,
        mut jobs: mpsc::UnboundedReceiver<NewJob>,
    ) {
        let mut ticks = interval(self.heartbeat_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let succession = self.succession_at.unwrap_or(self.election_at);
            tokio::select! {
                biased;
                _ = ticks.tick() => self.tick(),
                () = sleep_until(succession.min(self.election_at)), if !self.core.is_leading() => {
                    self.elect();
                }
                Some(event) = events.recv() => {
                    self.event(event);
                    for _ in 1..GROUP {
                        let Ok(event) = events.try_recv() else { break };
                        self.event(event);
                    }
                }
                Some(job) = jobs.recv() => {
                    self.job(job);
                    self.take_jobs(&mut jobs);
                }
            }
            if !self.queue.is_empty() {
                // Whoever is ready to bring more, and waits for this core, goes first: one batch
                // takes it all. Returns at once if nobody does.
                std::thread::yield_now();
                self.take_jobs(&mut jobs);
            }
            self.pump();
            self.recall();
            self.note_chosen();
            self.show();
        }
    }

    fn elect(&mut self) {
        if self.leaving.is_some() || !self.is_listed() || !self.me.may_lead() {
            self.restart_election_timer();
        } else if self
            .succession_at
            .take()
            .is_some_and(|at| at <= Instant::now())
        {
            self.step(Input::TakeOver);
        } else {
            self.step(Input::ElectionTimeout);
        }
    }

    fn tick(&mut self) {
        self.acceptors.refresh();
        self.learners.refresh();
        self.proposers.refresh();
        self.recalls.tick();
        self.set_learners();
        self.step(Input::Tick);
        self.tell_again();
        let now = Instant::now();
        self.watch_reach(now);
        self.watch_leader(now);
        self.watch_stores(now);
        self.watch_learners(now);
        self.watch_room();
        self.expire(now);
        self.save(now);
        self.leave(now);
        self.retire(now);
        let leader = self.core.leader();
        self.metrics.is_leader.set(self.core.is_leading().into());
        self.metrics.has_leader.set(leader.is_some().into());
        self.metrics
            .term
            .set(leader.map_or(0, Ballot::counter) as i64);
        self.metrics.last_slot.set(self.core.last().0 as i64);
        self.metrics
            .committed_slot
            .set(self.core.committed_seen().0 as i64);
        self.metrics.acceptors.set(self.acceptors.len() as i64);
        self.metrics
            .pending
            .set(self.shared.rooms.requests() as i64);
    }

    fn set_learners(&mut self) {
        let learners = self.learners.iter().map(|link| link.node.id);
        self.telling.set_learners(learners);
    }

    /// A leader whose process is gone shows at once, without waiting for the timeout: nothing
    /// listens at its address. Then the proposers stand for election one after the other.
    fn watch_leader(&mut self, now: Instant) {
        let Some(ballot) = self.core.leader().filter(|_| !self.core.is_leading()) else {
            return;
        };
        if now - self.heard_at < 2 * self.heartbeat_interval || self.succession_at.is_some() {
            return;
        }
        let Some(peer) = self.link_to(ballot).map(|link| link.peer.clone()) else {
            return;
        };
        let events = self.events.clone();
        tokio::spawn(async move {
            if peer.refused().await {
                let _ = events.send(Event::LeaderGone(ballot));
            }
        });
    }

    /// Lets the acceptors forget what enough nodes have on disk, and says which learner lags.
    fn watch_learners(&mut self, now: Instant) {
        if !self.core.is_leading() {
            self.progress.clear();
            self.lagging.clear();
            self.history.clear();
            for link in self.learners.iter() {
                self.show_lag(link.node.id, 0, Duration::ZERO);
            }
            return;
        }
        // A learner that left counts no longer: what it alone has is not safe.
        let learners = &self.learners;
        let listed = |id: &NodeId| learners.iter().any(|link| link.node.id == *id);
        for (gone, _) in self.progress.extract_if(.., |id, _| !listed(id)) {
            let gone = gone.to_string();
            // It may never have had a value.
            let _ = self.metrics.learner_lag.remove_label_values(&[&gone]);
            let _ = self
                .metrics
                .learner_lag_seconds
                .remove_label_values(&[&gone]);
        }
        self.lagging.retain(listed);
        if let Some(slot) = self.kept() {
            self.step(Input::Durable(slot));
        }
        let committed = self.core.committed();
        self.history.note(now, committed);
        for link in self.learners.iter() {
            let id = link.node.id;
            let progress = self.progress.get(&id);
            let behind = committed.0 - progress.map_or(0, |p| p.applied.0).min(committed.0);
            let silent = progress.is_none_or(|p| now - p.at > SILENT_LEARNER);
            let lags = silent || behind > LAGGING_SLOTS;
            let applied = progress.map_or(Slot::ZERO, |p| p.applied);
            self.show_lag(id, behind, self.history.age_of(applied.next(), now));
            if lags && self.lagging.insert(id) && now - self.led_since > SILENT_LEARNER {
                warn!(learner = %link.node, behind, silent, "a learner lags");
            } else if !lags && self.lagging.remove(&id) {
                info!(learner = %link.node, "a learner is level again");
            }
        }
    }

    /// Says why nothing new can be chosen, while the acceptors have no room.
    fn watch_room(&mut self) {
        let why = match self.core.has_room() {
            true => None,
            false => Some(self.full.why(self.core.silent(), &self.lagging)),
        };
        let said = self.shared.no_room.write();
        let mut said = said.unwrap_or_else(PoisonError::into_inner);
        match (&why, &*said) {
            (Some(why), None) => error!("no room for writes: {why}"),
            (None, Some(_)) => {
                info!("the acceptors have room for writes again")
            }
            _ => {}
        }
        *said = why;
    }

    fn show_lag(&self, learner: NodeId, behind: u64, since: Duration) {
        let learner = learner.to_string();
        let set = |lag: &IntGaugeVec, value: u64| {
            lag.with_label_values(&[&learner]).set(value as i64);
        };
        set(&self.metrics.learner_lag, behind);
        set(&self.metrics.learner_lag_seconds, since.as_secs());
    }

    /// Measures how long what is chosen now took.
    fn note_chosen(&mut self) {
        if !self.core.is_leading() {
            self.choosing.clear();
        }
        let committed = self.core.committed();
        while let Some((_, since)) = self.choosing.pop_front_if(|(slot, _)| *slot <= committed) {
            let took = since.elapsed().as_secs_f64();
            self.metrics.choose_duration.observe(took);
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Reply(from, reply, took) => self.replied(from, reply, took),
            Event::Failed(node, took, late) => self.failed(node, took, late),
            Event::Progress(acceptor) => drop(self.step(Input::Progress(acceptor))),
            Event::Learned(from, learned, told) => {
                self.learner_heard();
                self.has_applied(Role::Learner, from, learned.applied);
                self.learned(from, learned, told);
            }
            Event::Untold(learner, told, why) => self.untold(learner, told, &why),
            Event::Recalled(from, recalled) => self.recalled(from, recalled),
            Event::Stored(from, applied) => self.stored(from, applied),
            Event::Unanswered(acceptor) => drop(self.step(Input::Unanswered(acceptor))),
            Event::Heartbeat(heartbeat) => self.heartbeat(heartbeat),
            Event::HeartbeatEnded(node, follows) => self.heartbeat_ended(node, follows),
            Event::TakeOver(answer) => {
                let (learners, events) = (self.learners.to_vec(), self.events.clone());
                tokio::spawn(async move {
                    let reaches = reach::any_answers(learners).await;
                    if reaches {
                        let _ = events.send(Event::Succeed);
                    }
                    let _ = answer.send(reaches);
                });
            }
            Event::Succeed
                if self.leaving.is_some() || !self.is_listed() || !self.me.may_lead() => {}
            Event::Succeed => {
                info!("the leader asks this proposer to succeed it");
                self.step(Input::TakeOver);
            }
            Event::Looked(look) => self.looked(look),
            Event::Forwarded(id, answer) => self.forwarded(id, answer),
            Event::Read(id, answer) => {
                self.reads.insert(id, answer);
                self.step(Input::Read(id));
            }
            Event::LeaderGone(ballot) => {
                let silent = Instant::now() - self.heard_at >= 2 * self.heartbeat_interval;
                if silent && self.core.leader() == Some(ballot) && self.succession_at.is_none() {
                    let before = |link: &&Link| {
                        link.node.id < self.me.name().id && ballot.node() != Some(link.node.id)
                    };
                    let rank = self.proposers.iter().filter(before).count() as u32;
                    self.succession_at = Some(Instant::now() + rank * SUCCESSION_STEP);
                }
            }
            Event::Leave(answer) => {
                let drain_until = Instant::now() + DRAIN;
                let leaving = Leaving {
                    drain_until,
                    answers: Vec::new(),
                };
                self.leaving.get_or_insert(leaving).answers.push(answer);
                self.leave(Instant::now());
            }
        }
    }

    fn heartbeat(&mut self, heartbeat: Heartbeat) {
        if !self.core.believes(&heartbeat) {
            let (leader, term) = (heartbeat.ballot.node(), heartbeat.ballot.counter());
            let leader = leader.map(NodeId::number);
            return warn!(
                leader,
                term, "a heartbeat is ignored: no leader of this cluster can have such a term"
            );
        }
        if let Some(link) = self.link_to(heartbeat.ballot) {
            link.peer.heard();
        }
        self.step(Input::Heartbeat(heartbeat));
        if self.core.leader() == Some(heartbeat.ballot) {
            self.heard_at = Instant::now();
            self.succession_at = None;
        }
    }

    /// Lets the core take an input, makes its claim durable and acts.
    fn step(&mut self, input: Input) -> Option<Slot> {
        let output = self.core.step(input);
        let state = self.state();
        let effects = output
            .persist(|_| {
                self.saved = state;
                self.checkpointed = (state, Instant::now());
                self.file
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .claim(state)
            })
            .unwrap_or_else(|error| end_on_disk_error(&error));
        self.act(effects)
    }

    fn act(&mut self, effects: Effects) -> Option<Slot> {
        let Effects {
            acceptors,
            learners,
            heartbeat,
            restart_election_timer,
            assigned,
            readable,
            unreadable,
            leader_changed,
            behind,
        } = effects;
        if let Some(behind) = behind {
            self.note_behind(behind);
        }
        if leader_changed {
            self.telling.clear();
        }
        for (to, request) in acceptors {
            self.ask_acceptors(&to, request);
        }
        for learn in learners {
            self.tell_learners(learn);
        }
        if let Some(heartbeat) = heartbeat {
            self.send_heartbeat(heartbeat);
        }
        if restart_election_timer {
            self.restart_election_timer();
        }
        for (read, slot) in readable {
            self.answer_read(read, Some(slot));
        }
        for read in unreadable {
            self.answer_read(read, None);
        }
        if leader_changed {
            self.leader_changed();
        }
        assigned
    }

    fn leader_changed(&mut self) {
        let leader = self.core.leader();
        if let Some(ballot) = leader {
            self.behind = None;
            self.stores_asked = None;
            self.metrics.contradicted.set(0);
            self.metrics.leader_changes.inc();
            self.heard_at = Instant::now();
            self.followed = self.link_to(ballot).cloned();
            info!(
                leader = ballot.node().map(NodeId::number),
                term = ballot.counter(),
                leading = self.core.is_leading(),
                "leader elected"
            );
        } else {
            info!(phase = self.core.phase(), "leader lost");
        }
        self.led_since = Instant::now();
        // Time between two leaders counts as none.
        self.stamped_at = None;
        self.succession_at = None;
        self.forward_at = Instant::now();
        if !self.core.is_leading() {
            // The next leader is asked again. The session table sees to it that what this one got
            // chosen after all has its effect once.
            let proposed = std::mem::take(&mut self.proposed);
            for item in proposed.into_values().rev() {
                match self.jobs.get(&item.job).is_some_and(|job| job.forwarded) {
                    true => self.settle(item.job, item.index, Answer::Unknown),
                    false => self.queue.push_front(Item {
                        stamped: None,
                        ..item
                    }),
                }
            }
        }
        // The same goes for a leader elsewhere, which may be cut off or stopped and never answer.
        if leader.is_some() {
            let forwards = self.forwards.extract_if(.., |_, f| Some(f.to) != leader);
            for forward in forwards.collect::<Vec<_>>().into_iter().rev() {
                forward.1.call.abort();
                for item in forward.1.items.into_iter().rev() {
                    self.queue.push_front(item);
                }
            }
        }
    }

    fn answer_read(&mut self, read: u64, slot: Option<Slot>) {
        if let Some(answer) = self.reads.remove(&read) {
            let _ = answer.send(slot);
        }
    }

    fn restart_election_timer(&mut self) {
        let random = rand::rng().random_range(0.0..1.0);
        self.election_at = Instant::now() + self.election_timeout.mul_f64(1.0 + random);
    }

    // --- clients' requests ---

    fn take_jobs(&mut self, jobs: &mut mpsc::UnboundedReceiver<NewJob>) {
        for _ in 1..GROUP {
            let Ok(job) = jobs.try_recv() else { break };
            self.job(job);
        }
    }

    fn job(&mut self, new: NewJob) {
        let NewJob {
            values,
            wait,
            forwarded,
            deadline,
            answer,
            room,
        } = new;
        let count = values.len();
        if count == 0 || (forwarded && !self.core.is_leading()) {
            let _ = answer.send(Answers::all(Answer::NoLeader, count));
            return;
        }
        let id = self.next_job;
        self.next_job += 1;
        let items = values.into_iter().enumerate();
        let items = items.map(|(index, value)| Item {
            job: id,
            index,
            value,
            stamped: None,
            wait,
            tried: 0,
        });
        self.queue.push_job(id, items);
        let job = Job {
            answers: vec![None; count],
            left: count,
            wait,
            forwarded,
            submitted: false,
            deadline,
            started: Instant::now(),
            found: FoundRoom::default(),
            answer,
            _room: room,
        };
        self.jobs.insert(id, job);
    }

    /// Passes what waits on to the leader: to the core when that is here.
    fn pump(&mut self) {
        if self.queue.is_empty() {
            return;
        }
        if self.core.is_leading() {
            match self.no_room() {
                Some(why) => self.refuse_queued(&why),
                None if self.leaving.is_none() => self.propose(),
                None => {}
            }
        } else if let Some(leader) = self.core.leader()
            && Instant::now() >= self.forward_at
        {
            while !self.queue.is_empty() && self.forwards.len() < FORWARDS {
                if !self.forward(leader) {
                    break;
                }
            }
        }
    }

    /// Why nothing may be given a slot now.
    fn no_room(&self) -> Option<Arc<str>> {
        let no_room = self.shared.no_room.read();
        no_room.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What waits is answered, instead of waiting for room that may come tomorrow.
    fn refuse_queued(&mut self, why: &Arc<str>) {
        while let Some(item) = self.queue.pop_front() {
            self.settle_no_room(&item, 0, why);
        }
    }

    /// Answers that there is no room. What more leaders than so many may have proposed is not known to
    /// have no effect.
    fn settle_no_room(&mut self, item: &Item, tried: u32, why: &Arc<str>) {
        let answer = match item.tried <= tried {
            true => Answer::NoRoom(why.clone()),
            false => Answer::Unknown,
        };
        self.settle(item.job, item.index, answer);
    }

    fn propose(&mut self) {
        let room = MAX_OPEN_SLOTS.saturating_sub(self.core.open_slots());
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let mut bytes = self.core.open_bytes();
        let mut items = Vec::new();
        while items.len() < room
            && bytes < MAX_OPEN_BYTES
            && let Some(item) = self.queue.pop_front()
        {
            bytes += item.value.len();
            if self.mark_submitted(&item) {
                items.push(item);
            }
        }
        if items.is_empty() {
            return;
        }
        let mut values: Vec<Value> = items.iter().map(|item| item.value.clone()).collect();
        let stamped = self.stamp(&mut values);
        if let Some(item) = items.first_mut() {
            item.stamped = stamped;
        }
        let Some(first) = self.step(Input::Propose(values)) else {
            return;
        };
        for (i, mut item) in items.into_iter().enumerate() {
            item.tried += 1;
            let slot = first.plus(i as u64);
            if let Some(job) = self.jobs.get(&item.job) {
                self.choosing.push_back((slot, job.started));
            }
            if item.wait {
                self.proposed.insert(slot, item);
            } else {
                self.settle(item.job, item.index, Answer::Assigned(slot));
            }
        }
    }

    /// Lets log time pass: see [`Stamp`]. The first value with a stamp, if it got one. What is proposed
    /// anew by another leader has no stamp of this one, as items keep their values as they came.
    fn stamp(&mut self, values: &mut [Value]) -> Option<Value> {
        let first = values.first_mut()?;
        let now = Instant::now();
        let elapsed = self
            .stamped_at
            .map_or(0, |at| (now - at).as_millis() as u64);
        if self.stamped_at.is_none() || elapsed >= STAMP_EVERY_MS {
            *first = Stamp::after(elapsed, self.terms).put_on(first);
            self.stamped_at = Some(now);
            return Some(first.clone());
        }
        None
    }

    /// Sends the head of the queue on; `false` if there is nobody of that name to send it to.
    fn forward(&mut self, to: Ballot) -> bool {
        let Some(link) = self.link_to(to).cloned() else {
            return false;
        };
        let mut items = Vec::new();
        let mut bytes = 0;
        while let Some(item) = self.queue.front() {
            let differs = items
                .first()
                .is_some_and(|first: &Item| first.wait != item.wait);
            let full = items.len() == FORWARD_VALUES || bytes + item.value.len() > FORWARD_BYTES;
            if differs || (full && !items.is_empty()) {
                break;
            }
            bytes += item.value.len();
            let Some(mut item) = self.queue.pop_front() else {
                break;
            };
            item.tried += 1;
            if self.mark_submitted(&item) {
                items.push(item);
            }
        }
        if items.is_empty() {
            return true;
        }
        let now = Instant::now();
        let deadlines = items.iter().filter_map(|item| self.jobs.get(&item.job));
        let latest = deadlines.map(|job| job.deadline).max().unwrap_or(now);
        let left = latest
            .saturating_duration_since(now)
            .max(Duration::from_millis(1));
        let wait_ms = if items[0].wait {
            left.as_millis().clamp(1, 60_000) as u32
        } else {
            0
        };
        let values: Values = items.iter().map(|item| item.value.clone()).collect();
        let frame = self.me.frame(Message::Forward { wait_ms, values });
        let id = self.next_forward;
        self.next_forward += 1;
        let events = self.events.clone();
        let call = tokio::spawn(async move {
            let answer = link.ask(Lane::Bulk, frame, left, Breakers::Ignore).await;
            let _ = events.send(Event::Forwarded(id, answer));
        });
        let call = call.abort_handle();
        self.forwards.insert(id, Forward { to, items, call });
        true
    }

    fn forwarded(&mut self, id: u64, answer: Result<Message, LinkError>) {
        // Not there: taken back, since another proposer leads.
        let Some(Forward { items, .. }) = self.forwards.remove(&id) else {
            return;
        };
        match answer {
            Ok(Message::Forwarded(Forwarded::Assigned { first })) => {
                for (i, item) in items.into_iter().enumerate() {
                    let slot = first.plus(i as u64);
                    self.settle(item.job, item.index, Answer::Assigned(slot));
                }
            }
            Ok(Message::Forwarded(Forwarded::Outcomes { outcomes }))
                if outcomes.len() == items.len() =>
            {
                let mut open = Vec::new();
                for (item, outcome) in items.into_iter().zip(outcomes) {
                    match outcome {
                        Some(applied) => self.outcome(applied.slot, item, applied),
                        None => open.push(item),
                    }
                }
                self.requeue(open);
            }
            Ok(Message::Forwarded(Forwarded::NoRoom { why })) => {
                let why: Arc<str> = why.into();
                for item in items {
                    self.settle_no_room(&item, 1, &why);
                }
            }
            Ok(_) => self.requeue(items),
            Err(error) => {
                debug!(%error, "the leader gave no answer");
                self.requeue(items);
            }
        }
    }

    /// Back to the head of the queue, in order. While the leader is the same, the next try comes
    /// after a pause.
    fn requeue(&mut self, items: Vec<Item>) {
        if !items.is_empty() {
            self.forward_at = Instant::now() + self.heartbeat_interval / 2;
        }
        for item in items.into_iter().rev() {
            if self.jobs.contains_key(&item.job) {
                self.queue.push_front(item);
            }
        }
    }

    /// Notes that a leader may propose the item; `false` when nobody waits for it any more.
    fn mark_submitted(&mut self, item: &Item) -> bool {
        let Some(job) = self.jobs.get_mut(&item.job) else {
            return false;
        };
        job.submitted = true;
        true
    }

    fn settle(&mut self, id: u64, index: usize, answer: Answer) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let Some(place @ None) = job.answers.get_mut(index) else {
            return;
        };
        *place = Some(answer);
        job.left -= 1;
        if job.left == 0 {
            self.finish(id);
        }
    }

    fn expire(&mut self, now: Instant) {
        let late = self.jobs.iter().filter(|(_, job)| job.deadline <= now);
        let late: Vec<u64> = late.map(|(id, _)| *id).collect();
        if late.is_empty() {
            return;
        }
        for id in late {
            self.finish(id);
        }
        // Their values go with them: the bounds count what somebody waits for. Nor must an outcome
        // that nobody waits for hold up what learners may be spared.
        self.queue.retain_jobs(|job| self.jobs.contains_key(&job));
        self.proposed
            .retain(|_, item| self.jobs.contains_key(&item.job));
        let jobs = &self.jobs;
        self.recalls.forget(|item| !jobs.contains_key(&item.job));
    }

    fn finish(&mut self, id: u64) {
        let Some(job) = self.jobs.remove(&id) else {
            return;
        };
        let open = if job.submitted {
            Answer::Unknown
        } else if self.core.leader().is_some() {
            Answer::NotProposed
        } else {
            Answer::NoLeader
        };
        let answers = job
            .answers
            .into_iter()
            .map(|a| a.unwrap_or_else(|| open.clone()));
        let answers: Vec<Answer> = answers.collect();
        // Those that a follower sends on are counted there.
        if !job.forwarded {
            for answer in &answers {
                self.metrics
                    .proposals
                    .with_label_values(&[outcome_label(answer)])
                    .inc();
            }
            if job.wait {
                self.metrics
                    .commit_duration
                    .observe(job.started.elapsed().as_secs_f64());
            }
        }
        let answers = Answers {
            list: answers,
            room: job.found,
        };
        // The client may be gone.
        let _ = job.answer.send(answers);
    }

    // --- the state on disk, and the end ---

    fn state(&self) -> State {
        let leader = self.core.leader();
        State {
            proposal_counter: self.core.counter(),
            last_instance_id: self.core.last().0,
            current_leader: leader.and_then(Ballot::node),
            current_term: leader.map_or(0, Ballot::counter),
        }
    }

    /// Saves a new leader soon and everything now and then, off the loop: only claims must wait for
    /// the disk.
    fn save(&mut self, now: Instant) {
        let state = self.state();
        let new_leader = state.current_leader != self.saved.current_leader
            || state.current_term != self.saved.current_term;
        let checkpoint =
            state != self.checkpointed.0 && now - self.checkpointed.1 >= CHECKPOINT_INTERVAL;
        if !(new_leader || checkpoint) {
            return;
        }
        self.saved = state;
        if checkpoint {
            self.checkpointed = (state, now);
        }
        let file = self.file.clone();
        tokio::task::spawn_blocking(move || {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            let saved = if checkpoint {
                file.claim(state)
            } else {
                file.save(state)
            };
            if let Err(error) = saved {
                end_on_disk_error(&error);
            }
        });
    }

    fn leave(&mut self, now: Instant) {
        let Some(drain_until) = self.leaving.as_ref().map(|l| l.drain_until) else {
            return;
        };
        let drained = self.proposed.is_empty() && self.core.open_slots() == 0;
        if self.core.is_leading() && (drained || now >= drain_until) {
            self.hand_over(now);
        }
        let alone = self.proposers.is_empty() && now >= drain_until;
        if !self.core.is_leading() && (self.jobs.is_empty() || alone) {
            for answer in self
                .leaving
                .iter_mut()
                .flat_map(|leaving| leaving.answers.drain(..))
            {
                let _ = answer.send(());
            }
        }
    }

    /// Steps down and asks one of those that may succeed to do so: the first that is willing.
    fn hand_over(&mut self, now: Instant) {
        let successors = self.successors(now);
        self.step(Input::StepDown);
        let frame = self.me.frame(Message::TakeOver);
        let timeout = reach::SUCCESSOR_WITHIN;
        tokio::spawn(async move {
            for link in successors {
                info!(successor = %link.node, "handing leadership over");
                let answer = link.ask(Lane::Control, frame.clone(), timeout, Breakers::Ignore);
                match answer.await {
                    Ok(_) => return,
                    Err(error) => {
                        warn!(successor = %link.node, %error, "successor declined to take over")
                    }
                }
            }
        });
    }

    /// A leader that is no longer listed hands over as soon as there is somebody to take over.
    fn retire(&mut self, now: Instant) {
        if self.core.is_leading() && !self.is_listed() && !self.successors(now).is_empty() {
            self.hand_over(now);
        }
    }

    fn is_listed(&self) -> bool {
        self.addresses.now().name(self.me.name())
    }

    /// The link to the owner of a ballot.
    fn link_to(&self, ballot: Ballot) -> Option<&Link> {
        let owner = ballot.node()?;
        let mut known = self.proposers.iter().chain(&self.followed);
        known.find(|link| link.node.id == owner)
    }

    /// The proposers that follow us and answered a heartbeat just now, in order: those that leave
    /// when the cluster shrinks come last.
    fn successors(&self, now: Instant) -> Vec<Link> {
        let fresh = |node: &NodeId| {
            let lately = self.election_timeout.max(3 * self.heartbeat_interval);
            self.followed_at
                .get(node)
                .is_some_and(|at| now - *at < lately)
        };
        let fresh = self.proposers.iter().filter(|link| fresh(&link.node.id));
        fresh.cloned().collect()
    }

    fn show(&self) {
        let mut view = self
            .shared
            .view
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *view = View {
            phase: self.core.phase(),
            leader: self.core.leader(),
            last: self.core.last(),
            committed: self.core.committed_seen(),
            counter: self.core.counter(),
            behind: self.behind,
        };
    }
}

fn outcome_label(answer: &Answer) -> &'static str {
    match answer {
        Answer::Assigned(_) => "accepted",
        Answer::Done(applied) => match applied.outcome {
            Outcome::NotCommitted { .. } => "not_committed",
            Outcome::Reused => "reused",
            Outcome::OldSequence { .. } | Outcome::OldTimestamp { .. } => "too_old",
            Outcome::Full => "full",
            Outcome::Quota { .. } => "quota",
            _ => "committed",
        },
        Answer::NotRead => "not_read",
        Answer::Unknown => "unknown",
        Answer::NoLeader => "no_leader",
        Answer::NotProposed => "not_proposed",
        Answer::NoRoom(_) => "no_room",
    }
}
