//! A world without faults but those that a test asks for: large values over links with a bandwidth.

use paxos::acceptor::{AnswerLimits, TrimPolicy};
use paxos::ids::{Ballot, Role, Slot};
use paxos::proposer::{Proposer, Settings};
use roles::acceptor::Bounds;
use roles::proposer::Event as Happened;

use super::lists::Belongs;
use super::node::{Disk, Process};
use super::replica::Shelf;
use super::{Config, Sim};

/// Without an end: how far off what must not happen is.
const NEVER: u64 = 1 << 40;

/// A learner's disk, and what it says about itself.
pub struct Taken {
    disk: Disk,
    belongs: Option<Belongs>,
}

impl Config {
    /// Production's limits, three acceptors and two learners, messages that take `latency`
    /// milliseconds over links of `bandwidth` bytes a millisecond.
    pub fn quiet(proposers: u8, latency: u64, bandwidth: u64) -> Config {
        Config {
            proposers,
            twin: false,
            acceptors: 3,
            learners: 2,
            settings: Settings::default(),
            unanswered: 0,
            answers: AnswerLimits::default(),
            trimming: TrimPolicy::default(),
            bounds: Bounds::default(),
            ahead_slots: 32_768,
            open_slots: roles::proposer::Settings::OPEN.0,
            first_round: 0,
            mixed: 0,
            latency: (latency, latency),
            bandwidth,
            laggards: 0,
            loss: 0,
            duplicates: 0,
            sync: (0, 2),
            segment_bytes: 64 << 20,
            flips: 0,
            propose_every: NEVER,
            read_every: NEVER,
            snapshot_every_bytes: NEVER,
            fault_every: NEVER,
            lost_claims: 0,
            earlier: false,
            samples: false,
            stores: 0,
            faults: Vec::new(),
            ..Config::of(latency ^ bandwidth)
        }
    }
}

impl Sim {
    /// A world in which only what the test asks for happens.
    pub fn quiet(config: &Config) -> Sim {
        let mut sim = Sim::new(config);
        sim.healed = true;
        sim
    }

    /// Milliseconds since the start.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Lets time pass until something holds; how long that took, or `None` after `most`.
    pub fn until(&mut self, most: u64, holds: impl Fn(&Sim) -> bool) -> Option<u64> {
        let began = self.now;
        while self.now < began + most {
            if holds(self) {
                return Some(self.now - began);
            }
            self.wait(5);
        }
        None
    }

    /// Lets time pass.
    pub fn wait(&mut self, time: u64) {
        let until = self.now + time;
        while self.queue.peek().is_some_and(|next| next.0.at <= until) {
            self.step();
        }
        self.now = until;
    }

    /// The leader with the highest ballot.
    pub fn leader(&self) -> Option<(usize, Ballot)> {
        let ballot = |at: &usize| self.proposer(*at).and_then(Proposer::leader);
        let leaders = self.leaders().into_iter();
        leaders
            .filter_map(|at| Some((at, ballot(&at)?)))
            .max_by_key(|(_, ballot)| *ballot)
    }

    /// Values of `bytes` bytes for the leader.
    pub fn offer_large(&mut self, count: usize, bytes: usize) {
        let (leader, _) = self.leader().expect("somebody leads");
        let values = (0..count).map(|_| self.clients.fresh(bytes)).collect();
        let job = self.submit(leader, values, NEVER);
        job.expect("it runs");
    }

    /// Whatever the clients have to say now, new and again.
    pub fn offer_some(&mut self) {
        self.propose();
    }

    /// How many requests of clients that rest were sent again.
    pub fn resent(&self) -> u64 {
        self.clients.resent
    }

    /// How many slots are given out and not applied by any learner.
    pub fn open_slots(&self) -> u64 {
        let leader = self.leader().and_then(|(at, _)| self.proposer(at));
        leader.map_or(0, Proposer::open_slots)
    }

    /// Every slot up to here is chosen.
    pub fn chosen(&self) -> Slot {
        self.check.agreement.chosen_up_to()
    }

    /// What a learner has applied.
    pub fn applied(&self, learner: usize) -> Slot {
        let at = self.of_role(Role::Learner).nth(learner);
        match at.map(|at| &self.nodes[at].process) {
            Some(Process::Learner(replica)) => replica.applied(),
            _ => Slot::ZERO,
        }
    }

    /// The process of a node of that role ends, and starts again so much later.
    pub fn crash_one(&mut self, role: Role, which: usize, down: u64) {
        if let Some(at) = self.of_role(role).nth(which) {
            self.crash(at, down);
        }
    }

    /// All learners get empty disks, and start again so much later; what they had.
    pub fn take_learners_disks(&mut self, down: u64) -> Vec<Taken> {
        self.are_disks_away = true;
        let learners: Vec<usize> = self.of_role(Role::Learner).collect();
        let take = |at: usize| {
            self.crash(at, down);
            let node = &mut self.nodes[at];
            let empty = Disk::Shelf(Shelf::new(&self.config));
            Taken {
                disk: std::mem::replace(&mut node.disk, empty),
                belongs: node.belongs.take(),
            }
        };
        learners.into_iter().map(take).collect()
    }

    /// A learner gets back what it had.
    pub fn give_back(&mut self, learner: usize, taken: Taken) {
        let at = self.of_role(Role::Learner).nth(learner);
        let at = at.expect("there is one of that number");
        self.crash(at, 1_000);
        let node = &mut self.nodes[at];
        (node.disk, node.belongs) = (taken.disk, taken.belongs);
    }

    /// Up to where every acceptor has forgotten its votes.
    pub fn forgotten(&self) -> Slot {
        let floor = |at: usize| match &self.nodes[at].process {
            Process::Acceptor(voter) => voter.role.member().acceptor().floor(),
            _ => Slot::ZERO,
        };
        let floors = self.of_role(Role::Acceptor).map(floor);
        floors.min().unwrap_or(Slot::ZERO)
    }

    /// Cuts the links between one proposer and all learners, both ways.
    pub fn cut_from_learners(&mut self, proposer: usize) {
        for learner in self.of_role(Role::Learner) {
            self.network.cut(proposer, learner);
            self.network.cut(learner, proposer);
        }
    }

    /// Cuts the links between some nodes and all others, both ways.
    pub fn cut_off(&mut self, some: &[(Role, usize)]) {
        let at = |(role, which): &(Role, usize)| self.of_role(*role).nth(*which);
        let some: Vec<usize> = some.iter().filter_map(at).collect();
        let left: Vec<bool> = (0..self.nodes.len()).map(|at| some.contains(&at)).collect();
        self.network.split(&left, true);
    }

    /// A client reads through that proposer.
    pub fn read_through(&mut self, proposer: usize) {
        let read = self.clients.read();
        self.check.read_began(read);
        self.on_proposer(proposer, Happened::Read(read));
    }

    /// Every link works again, with its bandwidth.
    pub fn mend_links(&mut self) {
        self.network.mend();
    }

    /// From now on each link carries this many bytes a millisecond.
    pub fn set_bandwidth(&mut self, bandwidth: u64) {
        self.network.set_bandwidth(bandwidth);
    }

    /// From now on a message takes so long.
    pub fn set_latency(&mut self, latency: u64) {
        self.network.set_latency(latency);
    }

    /// Whether a quorum has voted for this many values.
    pub fn has_votes(&self, slots: usize) -> bool {
        let acceptors = self.of_role(Role::Acceptor);
        let quorum = self.config.acceptors as usize / 2 + 1;
        let has = |at: usize| match &self.nodes[at].process {
            Process::Acceptor(voter) => {
                voter.role.member().acceptor().last_voted() >= Slot(slots as u64)
            }
            _ => false,
        };
        acceptors.filter(|at| has(*at)).count() >= quorum
    }

    /// Bytes that all nodes of one role have sent to all of another.
    pub fn carried(&self, from: Role, to: Role) -> u64 {
        let pairs = self
            .of_role(from)
            .flat_map(|from| self.of_role(to).map(move |to| (from, to)));
        pairs.map(|(from, to)| self.network.carried(from, to)).sum()
    }

    /// How many proposers there are.
    pub fn count_of(&self, role: Role) -> usize {
        self.of_role(role).count()
    }
}
