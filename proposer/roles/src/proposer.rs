//! What a proposer does besides Paxos itself: clients' requests wait here until their outcome is known, and
//! move to the next leader when this one is no more; what is chosen is told to the learners; a leader that
//! leaves, or reaches no learner, hands over. Elections, batches and votes are [`paxos::proposer`]'s.
//!
//! [`ProposerRole::on`] takes what has happened and says what to do. Whoever runs it does that, in order, and
//! answers each call with one event: see [`Action`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use paxos::ids::{Members, NodeId, NodeName, Slot};
use paxos::message::Heartbeat;
use paxos::proposer::{Behind, Effects, Input, Proposer, Settings as Limits};
use paxos::recall::Recalls;
use paxos::stamp::Terms;
use paxos::telling::Telling;

use crate::newest::NewestOnly;
use crate::pace::Pace;
use crate::reach::Reach;
use calls::Open;
use full::Full;
use lag::History;
use progress::Progress;
use queue::Queue;
use requests::{Item, Job};
use slow::Slow;

pub use actions::{
    Action, Answer, Call, CallId, Claims, Event, Failure, NewJob, Note, Peers, Saved,
};
pub use forwarding::{answer_forwarded, forwarded_within};
pub use found::{Found, FoundRoom};

mod actions;
mod calls;
mod forwarding;
mod found;
mod full;
mod lag;
mod leadership;
mod outcomes;
mod progress;
mod queue;
mod requests;
mod slow;
mod succession;

/// How a proposer is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who it is.
    pub me: NodeName,
    /// The acceptors.
    pub members: Members,
    /// The protocol's limits.
    pub limits: Limits,
    /// Between two ticks.
    pub heartbeat_interval: Duration,
    /// How long a follower waits for a leader's heartbeat, at least; up to twice that.
    pub election_timeout: Duration,
    /// What it settles for all learners while it leads.
    pub terms: Terms,
    /// Slots that may be open at once, given out and not applied by a learner, and bytes of their values.
    pub open: (u64, usize),
}

impl Settings {
    /// [`Settings::open`] in production.
    pub const OPEN: (u64, usize) = (8192, 64 << 20);
}

/// A proposer. `D` is where it writes the ballots that it claims.
pub struct ProposerRole<D: Claims> {
    settings: Settings,
    core: Proposer,
    disk: D,
    /// Why the disk has failed: nothing that was asked for since may be done.
    failed: Option<D::Error>,
    peers: Peers,
    now: Duration,
    actions: Vec<Action>,
    /// Calls that have not ended, and the number of the next one.
    calls: BTreeMap<CallId, Open>,
    next_call: CallId,
    /// What is on disk, and when all of it was last written there.
    saved: Saved,
    checkpointed: (Saved, Duration),
    /// The last leader elsewhere: it is forwarded to until there is another one, even if it is no longer
    /// listed.
    followed: Option<NodeId>,
    /// When to elect although a leader may be alive: its process is gone.
    succession_at: Option<Duration>,
    heard_at: Duration,
    followed_at: BTreeMap<NodeId, Duration>,
    led_since: Duration,
    /// Since when it has been about to leave, and until when it waits for what is under way.
    leaving_at: Option<Duration>,
    /// Why it must not lead, if so.
    behind: Option<Behind>,
    jobs: BTreeMap<u64, Job>,
    /// Values that no leader has yet.
    queue: Queue,
    /// Values that this leader has proposed, until their outcomes are known.
    proposed: BTreeMap<Slot, Item>,
    /// Since when each open slot's request has been here, oldest first.
    choosing: VecDeque<(Slot, Duration)>,
    /// READs whose outcome is to be fetched.
    recalls: Recalls<Item>,
    found: Arc<Found>,
    /// Messages of requests to a leader that are under way.
    forwards: BTreeSet<CallId>,
    /// Not before: the leader has just refused something.
    forward_at: Duration,
    /// When log time was last let pass.
    stamped_at: Option<Duration>,
    /// What is chosen, on its way to the learners.
    telling: Telling,
    /// Which learners have applied a value and know no outcome of it.
    at_a_loss: BTreeMap<Slot, BTreeSet<NodeId>>,
    /// How far each learner and each store is.
    progress: BTreeMap<NodeId, Progress>,
    stored: BTreeMap<NodeId, Progress>,
    stores_asked: Option<Duration>,
    /// Learners that are said to lag, and by how much each does: instances, and since when.
    lagging: BTreeSet<NodeId>,
    lags: BTreeMap<NodeId, (u64, Duration)>,
    /// When this leader's slots were chosen.
    history: History,
    reach: Reach,
    /// How long acceptors take over votes and renewals these days, and each node over what is long.
    usual_vote: Pace,
    usual_renewal: Pace,
    paces: BTreeMap<NodeName, Pace>,
    /// Proofs of leadership and heartbeats: the newest alone is worth sending.
    renewals: NewestOnly<NodeId, calls::Question>,
    heartbeats: NewestOnly<NodeId, Heartbeat>,
    /// Why nothing new can be chosen, if so, and which acceptors had no room for votes.
    no_room: Option<Arc<str>>,
    full: Full,
    /// How long each acceptor takes over a batch.
    slow: Slow,
}

impl<D: Claims> ProposerRole<D> {
    /// A proposer that has just started: `core` knows its last claim.
    pub fn new(
        settings: Settings,
        core: Proposer,
        disk: D,
        found: Arc<Found>,
        peers: Peers,
        now: Duration,
    ) -> ProposerRole<D> {
        let saved = Saved {
            counter: core.counter(),
            ..Saved::default()
        };
        let mut role = ProposerRole {
            reach: Reach::new(settings.election_timeout),
            settings,
            core,
            disk,
            failed: None,
            peers: Peers::default(),
            now,
            actions: Vec::new(),
            calls: BTreeMap::new(),
            next_call: 1,
            saved,
            checkpointed: (saved, now),
            followed: None,
            succession_at: None,
            heard_at: now,
            followed_at: BTreeMap::new(),
            led_since: now,
            leaving_at: None,
            behind: None,
            jobs: BTreeMap::new(),
            queue: Queue::default(),
            proposed: BTreeMap::new(),
            choosing: VecDeque::new(),
            recalls: Recalls::default(),
            found,
            forwards: BTreeSet::new(),
            forward_at: now,
            stamped_at: None,
            telling: Telling::default(),
            at_a_loss: BTreeMap::new(),
            progress: BTreeMap::new(),
            stored: BTreeMap::new(),
            stores_asked: None,
            lagging: BTreeSet::new(),
            lags: BTreeMap::new(),
            history: History::default(),
            usual_vote: Pace::default(),
            usual_renewal: Pace::default(),
            paces: BTreeMap::new(),
            renewals: NewestOnly::default(),
            heartbeats: NewestOnly::default(),
            no_room: None,
            full: Full::default(),
            slow: Slow::default(),
        };
        role.set_peers(peers);
        role
    }

    /// The nodes that are listed now, and whether this one may lead them. Before each tick.
    pub fn set_peers(&mut self, peers: Peers) {
        self.telling.set_learners(peers.learners.iter().copied());
        self.peers = peers;
    }

    /// Something has happened; what to do is added to `actions`. After an error nothing may be done, and the
    /// process must end: what is on the disk is unknown.
    pub fn on(
        &mut self,
        event: Event,
        now: Duration,
        actions: &mut Vec<Action>,
    ) -> Result<(), D::Error> {
        self.now = now;
        match event {
            Event::Tick => self.tick(),
            Event::ElectionTimeout => self.elect(),
            Event::Submit(job) => self.submit(job),
            Event::Read(id) => drop(self.step(Input::Read(id))),
            Event::Heartbeat(heartbeat) => self.heartbeat(heartbeat),
            Event::LeaderGone(ballot) => self.leader_gone(ballot),
            Event::TakeOver(id) => self.asked_to_take_over(id),
            Event::Leave => self.begin_to_leave(),
            Event::Stored { store, durable } => self.stored(store, durable),
            Event::Answered(call, answer) => self.answered(call, answer),
            Event::Failed(call, why) => self.failed(call, why),
            Event::Late(call) => self.late(call),
            Event::Progress(call) => self.hears_more(call),
        }
        self.finish_turn(actions)
    }

    /// All that has happened is told: passes on what waits. So what came together goes together.
    pub fn flush(&mut self, now: Duration, actions: &mut Vec<Action>) -> Result<(), D::Error> {
        self.now = now;
        self.pump();
        self.recall();
        self.note_chosen();
        self.finish_turn(actions)
    }

    fn finish_turn(&mut self, actions: &mut Vec<Action>) -> Result<(), D::Error> {
        match self.failed.take() {
            Some(error) => {
                self.actions.clear();
                Err(error)
            }
            None => {
                actions.append(&mut self.actions);
                Ok(())
            }
        }
    }

    fn tick(&mut self) {
        self.recalls.tick();
        self.step(Input::Tick);
        self.tell_again();
        self.watch_reach();
        self.watch_leader();
        self.watch_stores();
        self.watch_learners();
        self.watch_room();
        self.expire();
        self.save();
        self.leave();
        self.retire();
    }

    /// Lets the core take an input, makes its claim durable and acts. The slot given to the first of the
    /// values of [`Input::Propose`].
    fn step(&mut self, input: Input) -> Option<Slot> {
        if self.failed.is_some() {
            return None;
        }
        let output = self.core.step(input);
        let (saved, disk) = (self.to_save(), &mut self.disk);
        let mut claimed = false;
        let persisted = output.persist(|_| {
            claimed = true;
            disk.claim(saved)
        });
        match persisted {
            Ok(effects) => {
                if claimed {
                    self.saved = saved;
                    self.checkpointed = (saved, self.now);
                }
                self.act(effects)
            }
            Err(error) => {
                self.failed = Some(error);
                None
            }
        }
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
            self.actions.push(Action::RestartElectionTimer);
        }
        for (id, slot) in readable {
            let slot = Some(slot);
            self.actions.push(Action::Readable { id, slot });
        }
        for id in unreadable {
            self.actions.push(Action::Readable { id, slot: None });
        }
        if leader_changed {
            self.leader_changed();
        }
        assigned
    }

    fn note(&mut self, note: Note) {
        self.actions.push(Action::Note(note));
    }

    fn to_save(&self) -> Saved {
        Saved {
            counter: self.core.counter(),
            last: self.core.last(),
            leader: self.core.leader(),
        }
    }

    /// Saves a new leader soon and everything now and then: only claims must wait for the disk.
    fn save(&mut self) {
        /// How often the state is copied to a checkpoint, if it changed.
        const CHECKPOINT_EVERY: Duration = Duration::from_secs(30);
        let saved = self.to_save();
        let new_leader = saved.leader != self.saved.leader;
        let (checkpoint, at) = self.checkpointed;
        let is_checkpoint = saved != checkpoint && self.now - at >= CHECKPOINT_EVERY;
        if !(new_leader || is_checkpoint) {
            return;
        }
        self.saved = saved;
        if is_checkpoint {
            self.checkpointed = (saved, self.now);
        }
        let action = Action::Save {
            saved,
            is_checkpoint,
        };
        self.actions.push(action);
    }
}

/// How it stands.
impl<D: Claims> ProposerRole<D> {
    /// The protocol's part.
    pub fn core(&self) -> &Proposer {
        &self.core
    }

    /// Where it writes its claims.
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// The next time it wants to stand for election before its timer says so, by
    /// [`Event::ElectionTimeout`].
    pub fn succeeds_at(&self) -> Option<Duration> {
        self.succession_at
    }

    /// Why it must not lead, if so.
    pub fn behind(&self) -> Option<Behind> {
        self.behind
    }

    /// Why nothing new can be chosen, if this proposer leads and knows that the acceptors have no room.
    pub fn no_room(&self) -> Option<&Arc<str>> {
        self.no_room.as_ref()
    }

    /// By learner, how many instances it is behind and for how long it has been.
    pub fn lags(&self) -> &BTreeMap<NodeId, (u64, Duration)> {
        &self.lags
    }

    /// Whether something waits that the next [`flush`](Self::flush) may pass on.
    pub fn has_queue(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether nobody waits for anything here.
    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty() && self.proposed.is_empty() && self.recalls.is_empty()
    }
}

#[cfg(test)]
mod tests;
