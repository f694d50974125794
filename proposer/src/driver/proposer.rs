//! The proposer's thread: takes what comes in, lets the role decide, and does what it asks for. What it
//! decides by is [`roles::proposer`].

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use api::env::{Config, Role};
use paxos::ids::{Ballot, NodeId, Slot};
use paxos::message::Heartbeat;
use paxos::proposer::{Proposer, Settings as Limits};
use paxos::quorum::majority;
use rand::Rng;
use roles::proposer::{CallId, Event as Happened, Found, Peers, ProposerRole, Settings};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{info, warn};

use super::{StartError, end_on_disk_error, members};
use crate::addresses::Addresses;
use crate::identity::Identity;
use crate::link::{Link, Links};
use crate::metrics::Metrics;
use crate::quota;
use crate::state_file::StateFile;
use claims::{Disk, Keeper};
use handle::Shared;
use handle::Submitted;
use jobs::Waiting;
use room::Rooms;

pub use handle::{Answers, Busy, Handle, View};
pub use roles::proposer::{Answer, FoundRoom};

mod calls;
mod claims;
mod handle;
mod jobs;
mod notes;
mod perform;
mod room;

pub(crate) use notes::explain;

/// Events handled before the next look at the time.
const GROUP: usize = 1024;

/// What reaches the thread from tasks and from the HTTP routes.
enum Event {
    /// Something that the role takes as it is.
    Happened(Happened),
    /// Somebody asks for a linearizable read.
    Read(oneshot::Sender<Option<Slot>>),
    /// The leader asks this proposer to take over.
    TakeOver(oneshot::Sender<bool>),
    /// The process is about to end.
    Leave(oneshot::Sender<()>),
}

/// Opens the proposer's state and starts the thread. Requests of up to `max_bytes` may wait.
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
    let limits = Limits {
        patience_ticks: patience.max(4) as u64,
        ..Limits::default()
    };
    let settings = Settings {
        me: identity.name(),
        members,
        limits,
        heartbeat_interval: config.heartbeat_interval,
        election_timeout: config.election_timeout,
        terms: quota::terms(config),
        open: Settings::OPEN,
    };
    let core = Proposer::new(config.node_id, members, limits, state.proposal_counter)
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
            view: RwLock::default(),
            leaving: AtomicBool::new(false),
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
    let identity = identity.clone();
    let shown = handle.clone();
    let run = move || {
        let run = Run::new(settings, &identity, core, file, shown, metrics);
        runtime.block_on(run.run(new_events, new_jobs));
    };
    std::thread::Builder::new()
        .name("proposer".into())
        .spawn(run)?;
    Ok(handle)
}

struct Run {
    role: ProposerRole<Disk>,
    /// What the role has asked for last.
    actions: Vec<roles::proposer::Action>,
    me: Identity,
    heartbeat_interval: Duration,
    election_timeout: Duration,
    quorum: usize,
    started: Instant,
    election_at: Instant,
    file: Arc<Mutex<Keeper>>,
    events: mpsc::UnboundedSender<Event>,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    addresses: Addresses,
    acceptors: Links,
    learners: Links,
    proposers: Links,
    stores: Links,
    /// The last leader elsewhere, even if it is no longer listed.
    followed: Option<Link>,
    /// Who waits for the outcome of requests, by number.
    jobs: BTreeMap<u64, Waiting>,
    /// Who waits for reads, and for an answer to having asked this proposer to take over.
    reads: BTreeMap<u64, oneshot::Sender<Option<Slot>>>,
    take_overs: BTreeMap<u64, oneshot::Sender<bool>>,
    /// The number of the next of these.
    next: u64,
    /// Who waits until this process may leave.
    leaving: Vec<oneshot::Sender<()>>,
    /// Calls that may be aborted.
    forwards: BTreeMap<CallId, AbortHandle>,
    /// Learners of which a lag is shown.
    shown_lags: BTreeSet<NodeId>,
}

impl Run {
    fn new(
        settings: Settings,
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
        let (acceptors, learners) = (links(Role::Acceptor), links(Role::Learner));
        let (proposers, stores) = (links(Role::Proposer), links(Role::Store));
        let file = Arc::new(Mutex::new(Keeper {
            file,
            claimed: core.counter(),
        }));
        let (heartbeat_interval, election_timeout) =
            (settings.heartbeat_interval, settings.election_timeout);
        let disk = Disk(file.clone());
        let found = Arc::new(Found::default());
        let mut run = Run {
            role: ProposerRole::new(
                settings,
                core,
                disk,
                found,
                Peers::default(),
                Duration::ZERO,
            ),
            actions: Vec::new(),
            me: me.clone(),
            heartbeat_interval,
            election_timeout,
            quorum: majority(acceptors.len()),
            started: now,
            election_at: now,
            file,
            events,
            shared,
            metrics,
            addresses,
            acceptors,
            learners,
            proposers,
            stores,
            followed: None,
            jobs: BTreeMap::new(),
            reads: BTreeMap::new(),
            take_overs: BTreeMap::new(),
            next: 0,
            leaving: Vec::new(),
            forwards: BTreeMap::new(),
            shown_lags: BTreeSet::new(),
        };
        run.role.set_peers(run.peers());
        run.restart_election_timer();
        run
    }

    async fn run(
        mut self,
        mut events: mpsc::UnboundedReceiver<Event>,
        mut jobs: mpsc::UnboundedReceiver<Submitted>,
    ) {
        let mut ticks = interval(self.heartbeat_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let succession = self.role.succeeds_at().map(|at| self.started + at);
            let stands_at = succession.map_or(self.election_at, |at| at.min(self.election_at));
            tokio::select! {
                biased;
                _ = ticks.tick() => self.tick(),
                () = sleep_until(stands_at), if !self.role.core().is_leading() => {
                    self.on(Happened::ElectionTimeout);
                }
                Some(event) = events.recv() => {
                    self.event(event);
                    for _ in 1..GROUP {
                        let Ok(event) = events.try_recv() else { break };
                        self.event(event);
                    }
                }
                Some(job) = jobs.recv() => {
                    self.submit(job);
                    self.take_jobs(&mut jobs);
                }
            }
            if self.role.has_queue() {
                // Tasks that have more to bring and wait for this core go first: one batch takes
                // it all. Returns at once if there are none.
                std::thread::yield_now();
                self.take_jobs(&mut jobs);
            }
            let flushed = self.role.flush(self.started.elapsed(), &mut self.actions);
            flushed.unwrap_or_else(|error| end_on_disk_error(&error));
            self.perform();
            self.show();
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Happened(happened) => {
                if let Happened::Heartbeat(heartbeat) = &happened {
                    self.hears_of(heartbeat);
                }
                self.on(happened);
            }
            Event::Read(answer) => {
                let id = self.number();
                self.reads.insert(id, answer);
                self.on(Happened::Read(id));
            }
            Event::TakeOver(answer) => {
                let id = self.number();
                self.take_overs.insert(id, answer);
                self.on(Happened::TakeOver(id));
            }
            Event::Leave(answer) => {
                self.leaving.push(answer);
                self.on(Happened::Leave);
            }
        }
    }

    fn on(&mut self, happened: Happened) {
        let done = self
            .role
            .on(happened, self.started.elapsed(), &mut self.actions);
        done.unwrap_or_else(|error| end_on_disk_error(&error));
        self.perform();
    }

    fn perform(&mut self) {
        let mut actions = mem::take(&mut self.actions);
        for action in actions.drain(..) {
            self.act(action);
        }
        // Its memory serves the next ones.
        self.actions = actions;
    }

    /// A leader that sends heartbeats is there: calls to it need not wait until one has succeeded.
    fn hears_of(&self, heartbeat: &Heartbeat) {
        let owner = heartbeat.ballot.node();
        if self.role.core().believes(heartbeat)
            && let Some(link) = owner.and_then(|id| self.link_to(id))
        {
            link.peer.heard();
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn tick(&mut self) {
        self.acceptors.refresh();
        self.learners.refresh();
        self.proposers.refresh();
        self.stores.refresh();
        self.role.set_peers(self.peers());
        self.on(Happened::Tick);
        self.show_lags();
        let core = self.role.core();
        let leader = core.leader();
        self.metrics.is_leader.set(core.is_leading().into());
        self.metrics.has_leader.set(leader.is_some().into());
        self.metrics
            .term
            .set(leader.map_or(0, Ballot::counter) as i64);
        self.metrics.last_slot.set(core.last().0 as i64);
        self.metrics
            .committed_slot
            .set(core.committed_seen().0 as i64);
        self.metrics.acceptors.set(self.acceptors.len() as i64);
        self.metrics
            .pending
            .set(self.shared.rooms.requests() as i64);
        let no_room = self.role.no_room().cloned();
        let shown = self.shared.no_room.write();
        *shown.unwrap_or_else(PoisonError::into_inner) = no_room;
    }

    /// The nodes that are listed now.
    fn peers(&self) -> Peers {
        let ids = |links: &[Link]| links.iter().map(|link| link.node.id).collect();
        Peers {
            acceptors: ids(&self.acceptors),
            learners: ids(&self.learners),
            proposers: ids(&self.proposers),
            stores: ids(&self.stores),
            is_listed: self.addresses.now().name(self.me.name()),
            may_lead: self.me.may_lead(),
        }
    }

    fn restart_election_timer(&mut self) {
        let random = rand::rng().random_range(0.0..1.0);
        self.election_at = Instant::now() + self.election_timeout.mul_f64(1.0 + random);
    }

    fn show(&self) {
        let core = self.role.core();
        let mut view = self
            .shared
            .view
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *view = View {
            phase: core.phase(),
            leader: core.leader(),
            last: core.last(),
            committed: core.committed_seen(),
            counter: core.counter(),
            behind: self.role.behind(),
        };
    }
}
