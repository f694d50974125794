//! The proposer's loop: elections, batches and votes through the core; clients' requests wait here
//! until their outcome is known, and move to the next leader when this one is no more.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use api::env::{Config, Role};
use bytes::Bytes;
use paxos::ids::{Ballot, NodeId, NodeName, Slot};
use paxos::message::{Heartbeat, Learned, Message, Recalled, Reply};
use paxos::proposer::{Behind, Effects, Input, Proposer, Settings};
use paxos::quorum::majority;
use paxos::recall::Recalls;
use paxos::stamp::Terms;
use paxos::telling::Telling;
use roles::newest::NewestOnly;
use roles::pace::Pace;
use roles::reach::{Look, Reach};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{error, info, warn};

use super::{StartError, end_on_disk_error, members};
use crate::addresses::Addresses;
use crate::identity::Identity;
use crate::link::{Error as LinkError, Link, Links};
use crate::metrics::Metrics;
use crate::state_file::{State, StateFile};
use claims::Keeper;
use forwarding::Forward;
pub use found::{Answers, FoundRoom};
use full::Full;
pub use handle::{Answer, Busy, Handle, View};
use handle::{NewJob, Shared};
use lag::History;
use learners::Progress;
use queue::Queue;
use requests::{Item, Job};
use room::Rooms;
use send::{Question, Told, Took, Untold};
use slow::Slow;
use succession::{DRAIN, Leaving, SUCCESSION_STEP};

pub(crate) mod behind;
mod claims;
mod forwarding;
mod found;
mod full;
mod handle;
mod lag;
mod leadership;
mod learners;
mod outcomes;
mod queue;
mod reach;
mod requests;
mod room;
mod send;
mod slow;
mod succession;

/// Events handled before the next look at the time.
const GROUP: usize = 1024;

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
    // Unbounded: a job has its room, by count and by bytes, before it is sent; events are answers to calls
    // of this loop, each peer's lanes bound them, and questions of requests that the door has let in.
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
            quorum: majority(acceptors.len()),
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
            terms: crate::quota::terms(config),
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
                // Tasks that have more to bring and wait for this core go first: one batch takes
                // it all. Returns at once if there are none.
                std::thread::yield_now();
                self.take_jobs(&mut jobs);
            }
            self.pump();
            self.recall();
            self.note_chosen();
            self.show();
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

    fn answer_read(&mut self, read: u64, slot: Option<Slot>) {
        if let Some(answer) = self.reads.remove(&read) {
            let _ = answer.send(slot);
        }
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
