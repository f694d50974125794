//! What the HTTP routes hold of the proposer's loop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use api::env::Role;
use paxos::ids::{Ballot, Members, NodeId, NodeName, Slot};
use paxos::message::{Heartbeat, Value};
use paxos::proposer::Behind;
use roles::proposer::{Answer, Event as Happened, FoundRoom};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::Event;
use super::room::{Room, Rooms};
use crate::addresses::Addresses;
use crate::bounds;
use crate::identity::Identity;
use crate::metrics::Metrics;

/// How long a request that asks for no outcome may wait for a leader.
const ACCEPT_WITHIN: Duration = Duration::from_secs(2);
/// How often a proposer can be asked to take over.
const TAKE_OVER_EVERY: Duration = Duration::from_secs(1);

/// Answers, and the room that they take until they are dropped.
pub struct Answers {
    /// One for each value.
    pub list: Vec<Answer>,
    /// To be kept as long as what is in them is.
    pub room: FoundRoom,
}

/// Too much waits already.
#[derive(Debug)]
pub struct Busy;

/// The running proposer. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) jobs: mpsc::UnboundedSender<Submitted>,
    pub(super) events: mpsc::UnboundedSender<Event>,
    pub(super) shared: Arc<Shared>,
    pub(super) identity: Identity,
    pub(super) members: Members,
    pub(super) addresses: Addresses,
    pub(super) metrics: Arc<Metrics>,
}

pub(super) struct Shared {
    pub(super) rooms: Arc<Rooms>,
    pub(super) view: RwLock<View>,
    pub(super) leaving: AtomicBool,
    /// Why nothing new can be chosen here, if so: the acceptors' volumes are full.
    pub(super) no_room: RwLock<Option<Arc<str>>>,
    /// When it was last asked to take over.
    pub(super) asked_at: Mutex<Option<Instant>>,
}

impl Shared {
    pub(super) fn may_take_over(&self) -> bool {
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

/// Requests, and who waits for them.
pub(super) struct Submitted {
    pub(super) values: Vec<Value>,
    pub(super) wait: bool,
    pub(super) forwarded: bool,
    pub(super) deadline: Instant,
    pub(super) answer: oneshot::Sender<Answers>,
    /// Gives back the room that the job takes when it is dropped.
    pub(super) room: Room,
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
        let job = Submitted {
            values,
            wait,
            forwarded,
            deadline,
            answer,
            room,
        };
        self.jobs.send(job).map_err(|_| Busy)?;
        let unknown = |_| Answers {
            list: vec![Answer::Unknown; count],
            room: FoundRoom::default(),
        };
        Ok(answered.await.unwrap_or_else(unknown))
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
        self.events.send(Event::Read(answer)).ok()?;
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
        let _ = self
            .events
            .send(Event::Happened(Happened::Heartbeat(heartbeat)));
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

    /// Whether it is shutting down.
    pub fn is_leaving(&self) -> bool {
        self.shared.leaving.load(Ordering::Relaxed)
    }
}
