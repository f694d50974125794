//! A whole cluster in one thread, from one seed: the real core, a simulated network and disks, a
//! clock that jumps from event to event, and faults. The same seed is the same run, event by event.
//!
//! A run has two phases. In the first everything goes wrong and only safety is asked for, by the
//! [`Checker`] on every step. Then all is healed, and the cluster must make progress.

mod calls;
mod client;
mod clock;
mod config;
mod disk;
mod disks;
mod fault;
mod heal;
mod learners;
mod lists;
mod log;
mod network;
mod node;
mod proposer;
mod replica;
mod rng;
mod runner;
mod scenario;
mod steps;
mod stores;
mod transfer;
mod truth;
mod voter;
mod wire;
pub mod worlds;

use std::cell::RefCell;
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::rc::Rc;
use std::time::Duration;

use paxos::acceptor::Room;
use paxos::codec::NodeName;
use paxos::ids::{Ballot, Members, NodeId, Role, Slot};
use paxos::machine::Machine;
use paxos::message::{Heartbeat, Message};
use paxos::proposer::Proposer;
use roles::proposer::{Answer, Event as Happened};

use crate::check::Checker;

pub use config::{Config, Fault, VERSION};
pub use rng::Rng;
pub use runner::{Failure, Summary, run, try_seed};
pub use wire::Dialect;

use calls::{Calls, Due};
use client::Clients;
use clock::Clock;
use disk::Claims;
use log::Log;
use network::Network;
use node::{Asker, Disk, Life, Node, Process};
use replica::Shelf;
use roles::learner::{Ask, Told};
use wire::Said;

/// Milliseconds between two heartbeats, as in production.
const HEARTBEAT: u64 = 50;
/// The election timeout, as in production: from this to its double.
const ELECTION: u64 = 400;
/// More events in one millisecond than any world has: something wakes itself up.
const MOST_AT_ONCE: u64 = 200_000;
/// Between two ticks of a learner.
const LEARNER_TICK: u64 = 250;

/// A cluster and its world.
#[derive(Debug)]
pub struct Sim {
    config: Config,
    rng: Rng,
    now: u64,
    queue: BinaryHeap<Reverse<Scheduled>>,
    scheduled: u64,
    nodes: Vec<Node>,
    network: Network,
    calls: Calls,
    clients: Clients,
    /// The number of the last job or of the last question to take over.
    numbers: u64,
    /// Who has left the lists of addresses.
    unlisted: BTreeSet<NodeName>,
    /// Events since the clock moved.
    at_once: u64,
    /// What became of clients' jobs since all was healed.
    answered_jobs: BTreeMap<u64, Vec<Answer>>,
    check: Checker,
    healed: bool,
    /// Slots for which somebody told a value that cannot be read.
    unreadable: BTreeSet<Slot>,
    /// The stores' states, all of which is on disk.
    stores: Vec<Machine>,
    /// All acceptors were set back in time.
    is_set_back: bool,
    /// All learners' disks were taken away.
    are_disks_away: bool,
    trace: bool,
    summary: Summary,
}

#[derive(Debug)]
struct Scheduled {
    at: u64,
    order: u64,
    event: Event,
}

#[derive(Debug)]
enum Event {
    /// Something reaches a node, whichever life it is in.
    Packet {
        from: Asker,
        to: usize,
        packet: Packet,
    },
    /// An answer reaches the life that asked.
    Answer {
        from: usize,
        to: Asker,
        packet: Packet,
    },
    /// Of a node in that life.
    Timer { of: Life, timer: Timer },
    /// A call that a node made, if it is still open.
    Call { of: Asker, due: Due },
    /// A proposer has found out whether any learner answers it.
    Looked { of: Asker, reaches: bool },
    /// A store tells a proposer how far it is.
    StoreAnswers { of: Life, store: NodeId },
    /// A proposer has found out that nothing listens where the leader was.
    LeaderGone { of: Life, ballot: Ballot },
    /// A node starts.
    Start(usize),
    /// Clients propose.
    Propose,
    /// Clients read.
    Read,
    /// Something goes wrong.
    Fault,
}

#[derive(Clone, Debug)]
enum Packet {
    Message(Said),
    Heartbeat(Heartbeat),
    /// Yes, where there is nothing to say but that.
    Done,
    /// The node does not do it.
    Refused,
    /// One learner asks another; the answer repeats the number.
    Ask(u64, Ask),
    Told(u64, Told),
}

impl Packet {
    /// About how long it is.
    fn bytes(&self) -> usize {
        match self {
            Packet::Message(said) => said.bytes(),
            Packet::Told(_, told) => transfer::size_of(told),
            Packet::Heartbeat(_) | Packet::Done | Packet::Refused | Packet::Ask(..) => 100,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Timer {
    /// The newest of these timers only.
    Election(u64),
    /// A proposer stands for election before its timer says so.
    Succession,
    /// What came to a proposer together has come.
    Flush,
    /// A process that was asked to leave ends.
    Leave,
    Tick,
    /// A proposer or a learner asks all acceptors.
    Enlist,
    /// The acceptor's loop has rested. The newest of these timers only.
    Wake(u64),
    /// The acceptor's write, or the learner's snapshot, is on disk.
    Written,
}

impl Sim {
    /// Everything is up, nothing has been said.
    pub fn new(config: &Config) -> Sim {
        let members = Members::new(config.acceptors).expect("there is an acceptor");
        let names = |role, count| NodeId::first(count).map(move |id| NodeName { role, id });
        let twin = NodeId::first(1).take(config.twin.into());
        let twin = twin.map(|id| NodeName {
            role: Role::Proposer,
            id,
        });
        let names = names(Role::Proposer, config.proposers)
            .chain(twin)
            .chain(names(Role::Acceptor, config.acceptors))
            .chain(names(Role::Learner, config.learners));
        let nodes: Vec<Node> = names
            .enumerate()
            .map(|(at, name)| Node {
                name,
                // Distinguishes the lives of one identity.
                life: (at as u32) << 24,
                paused_until: 0,
                bad_write: None,
                clock: Clock::new(),
                slow: 1,
                room: Room::Enough,
                dialect: Dialect::Ours,
                list: config.acceptors,
                call: None,
                belongs: None,
                counts: !config.earlier,
                lost: false,
                set_back: false,
                gone: false,
                copy: None,
                early: None,
                election_timer: 0,
                process: Process::Down,
                disk: match name.role {
                    Role::Acceptor => Disk::Log(Box::new(Log::new(config.segment_bytes))),
                    Role::Learner => Disk::Shelf(Shelf::new(config)),
                    _ => {
                        let rng = Rng::new(config.seed ^ at as u64);
                        let claims = Claims::new(config.first_round, rng);
                        Disk::Claims(Rc::new(RefCell::new(claims)))
                    }
                },
            })
            .collect();
        let mut sim = Sim {
            rng: Rng::new(config.seed),
            now: 0,
            queue: BinaryHeap::new(),
            scheduled: 0,
            network: Network::new(nodes.len(), config),
            calls: Calls::default(),
            clients: Clients::default(),
            numbers: 0,
            unlisted: BTreeSet::new(),
            at_once: 0,
            answered_jobs: BTreeMap::new(),
            check: Checker::new(members, config.learners, config.terms),
            healed: false,
            unreadable: BTreeSet::new(),
            stores: vec![Machine::default(); config.stores.into()],
            is_set_back: false,
            are_disks_away: false,
            trace: false,
            summary: Summary::default(),
            config: config.clone(),
            nodes,
        };
        let away = sim.nodes.len() - 1;
        for node in 0..sim.nodes.len() {
            sim.nodes[node].dialect = sim.some_dialect();
            let delay = sim.rng.below(100);
            // The last learner, until all is healed.
            if node != away || !sim.config.learner_away {
                sim.schedule(delay, Event::Start(node));
            }
        }
        sim.schedule(ELECTION, Event::Propose);
        sim.schedule(ELECTION, Event::Read);
        sim.schedule(ELECTION, Event::Fault);
        sim
    }

    /// One event. `false` when nothing is left to happen.
    pub fn step(&mut self) -> bool {
        let (at, event) = loop {
            let Some(Reverse(Scheduled { at, event, .. })) = self.queue.pop() else {
                return false;
            };
            // Most calls are answered in time.
            let moot = match event {
                Event::Call { of, .. } => !self.calls.is_open(of),
                _ => false,
            };
            if !moot {
                break (at, event);
            }
        };
        self.at_once = if at == self.now { self.at_once + 1 } else { 0 };
        assert!(
            self.at_once < MOST_AT_ONCE,
            "time goes on: {event:?} at {at}"
        );
        self.now = at;
        self.summary.events += 1;
        if self.trace {
            eprintln!("{at:>7} {event:?}");
        }
        self.happen(event);
        true
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Packet { to, .. } if self.asleep(to) => self.postpone(to, event),
            Event::Packet { from, to, packet } => self.receive(from, to, packet),
            Event::Answer { to, .. } if self.asleep(to.life.0) => self.postpone(to.life.0, event),
            Event::Answer { from, to, packet } if self.lives(to.life) => {
                self.answered(from, to, packet)
            }
            Event::Timer { of, .. } if self.asleep(of.0) => self.postpone(of.0, event),
            Event::Timer { of, timer } if self.lives(of) => self.timer(of.0, timer),
            Event::Call { of, .. } | Event::Looked { of, .. } if self.asleep(of.life.0) => {
                self.postpone(of.life.0, event);
            }
            Event::StoreAnswers { of, .. } | Event::LeaderGone { of, .. } if self.asleep(of.0) => {
                self.postpone(of.0, event);
            }
            Event::Call { of, due } if self.lives(of.life) => self.call_due(of, due),
            Event::Looked { of, reaches } if self.lives(of.life) => self.looked(of, reaches),
            Event::StoreAnswers { of, store } if self.lives(of) => self.store_answers(of.0, store),
            Event::LeaderGone { of, ballot } if self.lives(of) => {
                self.on_proposer(of.0, Happened::LeaderGone(ballot));
            }
            Event::Answer { .. }
            | Event::Timer { .. }
            | Event::Call { .. }
            | Event::Looked { .. }
            | Event::StoreAnswers { .. }
            | Event::LeaderGone { .. } => {}
            Event::Start(node) => self.start(node),
            Event::Propose if !self.healed => {
                self.propose();
                let delay = self.rng.between(1, 2 * self.config.propose_every);
                self.schedule(delay, Event::Propose);
            }
            Event::Read if !self.healed => {
                self.read();
                let delay = self.rng.between(1, 2 * self.config.read_every);
                self.schedule(delay, Event::Read);
            }
            Event::Fault if !self.healed => {
                self.fault();
                let delay = self.rng.between(1, 2 * self.config.fault_every);
                self.schedule(delay, Event::Fault);
            }
            Event::Propose | Event::Read | Event::Fault => {}
        }
    }

    fn asleep(&self, node: usize) -> bool {
        self.nodes[node].paused_until > self.now
    }

    fn postpone(&mut self, node: usize, event: Event) {
        let delay = self.nodes[node].paused_until - self.now;
        self.schedule(delay, event);
    }

    fn lives(&self, (node, life): Life) -> bool {
        let node = &self.nodes[node];
        node.life == life && !matches!(node.process, Process::Down)
    }

    fn schedule(&mut self, delay: u64, event: Event) {
        self.scheduled += 1;
        let (at, order) = (self.now + delay, self.scheduled);
        self.queue.push(Reverse(Scheduled { at, order, event }));
    }

    /// What a node's clock shows.
    fn clock(&self, at: usize) -> Duration {
        self.nodes[at].clock.shows(self.now)
    }

    /// Something to which no answer is awaited, or one that names its question itself.
    fn send(&mut self, from: usize, to: usize, packet: &Packet) {
        let life = (from, self.nodes[from].life);
        self.send_as(Asker { life, call: 0 }, to, packet);
    }

    fn send_as(&mut self, from: Asker, to: usize, packet: &Packet) {
        let (way, bytes) = ((from.life.0, to), packet.bytes());
        let copies = match packet {
            Packet::Message(said) if said.comes_once => 1,
            _ => usize::MAX,
        };
        let delays = self.network.delays(way, bytes, self.now, &mut self.rng);
        for (delay, _) in delays.take(copies) {
            let packet = packet.clone();
            self.schedule(delay, Event::Packet { from, to, packet });
        }
    }

    fn answer(&mut self, from: usize, to: Asker, packet: Packet) {
        let (way, bytes) = ((from, to.life.0), packet.bytes());
        let delays = self.network.delays(way, bytes, self.now, &mut self.rng);
        for (delay, takes) in delays {
            self.announce_parts(to, delay, takes);
            let packet = packet.clone();
            self.schedule(delay, Event::Answer { from, to, packet });
        }
    }

    /// Both ends of every connection have ended, and with them what was on its way.
    fn end_connections(&mut self) {
        let is_on_its_way =
            |event: &Event| matches!(event, Event::Packet { .. } | Event::Answer { .. });
        self.queue
            .retain(|Reverse(scheduled)| !is_on_its_way(&scheduled.event));
    }

    /// A message as its bytes, in the sender's dialect.
    fn said(&self, by: usize, message: Message) -> Packet {
        let node = &self.nodes[by];
        Packet::Message(Said::by(node.name, node.dialect, message))
    }

    /// What a program of some version speaks.
    fn some_dialect(&mut self) -> Dialect {
        match self.rng.chance(self.config.mixed) {
            true => self.config.other_dialect,
            false => Dialect::Ours,
        }
    }

    /// The nodes of a role, by number.
    fn of_role(&self, role: Role) -> impl Iterator<Item = usize> + use<> {
        let (a, l) = (self.config.acceptors, self.config.learners);
        let (p, a, l) = (self.proposers(), usize::from(a), usize::from(l));
        match role {
            Role::Proposer => 0..p,
            Role::Acceptor => p..p + a,
            Role::Learner => p + a..p + a + l,
            Role::Store => 0..0,
        }
    }

    /// Processes of proposers: one may have a twin.
    fn proposers(&self) -> usize {
        usize::from(self.config.proposers) + usize::from(self.config.twin)
    }

    fn acceptor(&self, id: NodeId) -> usize {
        self.proposers() + id.index()
    }

    fn proposer(&self, node: usize) -> Option<&Proposer> {
        match &self.nodes[node].process {
            Process::Proposer(desk) => Some(desk.role.core()),
            _ => None,
        }
    }

    /// Proposers that take themselves for the leader.
    fn leaders(&self) -> Vec<usize> {
        self.of_role(Role::Proposer)
            .filter(|p| self.proposer(*p).is_some_and(Proposer::is_leading))
            .collect()
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Scheduled) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scheduled {}
