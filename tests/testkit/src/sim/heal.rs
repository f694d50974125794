//! The second phase: nothing goes wrong any more, so the cluster must work.

use std::cmp::Reverse;

use paxos::acceptor::Room;
use paxos::ids::{Ballot, Role, Slot};
use paxos::proposer::Proposer;
use roles::proposer::{Answer, Event as Happened};

use super::node::Process;
use super::{Dialect, ELECTION, Event, Sim};

/// How long the cluster may take to settle, in milliseconds: a dozen elections.
pub(super) const SETTLE: u64 = 10_000;
/// How long a fresh write may take to reach every learner.
pub(super) const WRITE: u64 = 2_000;
/// So many times longer may both take with disks that take longer than an election timeout.
const SLOW_SETTLE: u64 = 6;
const SLOW_WRITE: u64 = 30;
/// What was on its way when all was healed arrives within this time.
const SOON: u64 = 500;
/// How many values are proposed after healing.
const FRESH: usize = 20;

impl Sim {
    /// Heals everything and requires one stable leader, no holes and fresh writes everywhere.
    pub(super) fn heal(&mut self) {
        self.mend();
        let (settle, write) = match self.has_slow_disks() {
            true => (SLOW_SETTLE * SETTLE, SLOW_WRITE * WRITE),
            false => (SETTLE, WRITE),
        };
        self.pass(settle);
        let (leader, ballot) = self.only_leader();
        let fresh = self.fresh();
        let job = self.submit(leader, fresh.clone(), 100 * write);
        let job = job.expect("a healthy proposer has few jobs");
        self.read_at(leader, write);
        self.pass(write);
        assert_eq!(
            self.only_leader(),
            (leader, ballot),
            "the leader of a healthy cluster stays"
        );
        // What waited when all was healed is chosen first: one batch at a time, each as slow as a disk.
        let mut chosen = self.check.agreement.chosen_up_to();
        let is_done = |sim: &Sim, chosen| {
            let is_chosen = |value| sim.check.is_chosen(value);
            chosen == sim.last_given_out(leader) && fresh.iter().all(is_chosen)
        };
        while !is_done(self, chosen) {
            self.pass(write);
            let now = self.check.agreement.chosen_up_to();
            assert!(
                now > chosen || is_done(self, now),
                "fresh writes are chosen and leave no hole: {chosen} of {}",
                self.last_given_out(leader)
            );
            chosen = now;
        }
        let answers = self.answered_jobs.get(&job);
        let answers = answers.expect("a healthy leader answers fresh writes");
        // Learners with little memory may not be able to tell what came of them.
        let is_refused = |answer: &Answer| {
            matches!(
                answer,
                Answer::NoLeader | Answer::NotProposed | Answer::NoRoom(_)
            )
        };
        assert!(
            answers.len() == FRESH && !answers.iter().any(is_refused),
            "a healthy leader takes fresh writes: {answers:?}"
        );
        // One that is far behind and gets a slot, or a piece of a snapshot, at a time is given time as
        // long as it moves.
        while self.slowest_learner().0 < chosen {
            let before = self.slowest_learner();
            self.pass(write);
            let now = self.slowest_learner();
            assert!(
                now > before,
                "learners catch up: {before:?}, then {now:?}, of {chosen}"
            );
        }
        self.everybody_has(chosen);
        self.summary.chosen = chosen.0;
        self.summary.reads = self.check.reads_answered();
        self.summary.crashes = self
            .nodes
            .iter()
            .map(|node| u64::from(node.life & 0xff_ffff))
            .sum();
    }

    /// Nothing goes wrong from now on.
    pub(super) fn mend(&mut self) {
        self.healed = true;
        self.network.heal();
        if !self.has_slow_disks() {
            self.config.sync = (0, 2);
        }
        self.config.lost_claims = 0;
        // Neighbouring versions need no mending.
        let mixes = self.config.other_dialect.mixes();
        if !mixes {
            self.config.mixed = 0;
        }
        for at in 0..self.nodes.len() {
            let node = &mut self.nodes[at];
            node.paused_until = 0;
            node.bad_write = None;
            node.clock.set_rate(10, self.now);
            node.slow = 1;
            node.room = Room::Enough;
            if !mixes {
                node.dialect = Dialect::Ours;
            }
            node.counts = true;
            if matches!(node.process, Process::Down) {
                self.schedule(0, Event::Start(at));
            }
        }
        self.unlisted.clear();
        self.right_lists();
        self.hurry_what_is_on_its_way();
        self.end_calls_in(2 * SOON);
        let twin = usize::from(self.config.proposers);
        if self.config.twin {
            self.crash(twin, SETTLE);
            self.nodes[twin].gone = true;
        }
    }

    /// Whether disks take longer than an election timeout, and stay so: that costs time and nothing else.
    fn has_slow_disks(&self) -> bool {
        self.config.slow_for_good && self.config.sync.0 > ELECTION && !self.is_set_back
    }

    /// What a slow link would have carried for minutes arrives now that it is fast, in its order.
    fn hurry_what_is_on_its_way(&mut self) {
        let soon = self.now + SOON;
        let events = std::mem::take(&mut self.queue).into_iter();
        self.queue = events
            .map(|Reverse(mut scheduled)| {
                if let Event::Packet { .. } | Event::Answer { .. } = scheduled.event {
                    scheduled.at = scheduled.at.min(soon);
                }
                Reverse(scheduled)
            })
            .collect();
    }

    pub(super) fn fresh(&mut self) -> Vec<paxos::message::Value> {
        (0..FRESH).map(|_| self.clients.fresh(16)).collect()
    }

    fn read_at(&mut self, leader: usize, within: u64) {
        let (read, answered) = (self.clients.read(), self.check.reads_answered());
        self.check.read_began(read);
        self.on_proposer(leader, Happened::Read(read));
        self.pass(within);
        assert!(
            self.check.reads_answered() > answered,
            "a healthy leader allows reads"
        );
    }

    pub(super) fn pass(&mut self, time: u64) {
        let until = self.now + time;
        while self.queue.peek().is_some_and(|next| next.0.at <= until) {
            self.step();
        }
    }

    fn only_leader(&self) -> (usize, Ballot) {
        let leaders = self.leaders();
        assert_eq!(
            leaders.len(),
            1,
            "a healthy cluster has one leader: {leaders:?}"
        );
        let leader = leaders[0];
        let ballot = self
            .proposer(leader)
            .and_then(Proposer::leader)
            .unwrap_or_default();
        for other in self
            .of_role(Role::Proposer)
            .filter(|p| !self.nodes[*p].gone)
        {
            let known = self.proposer(other).and_then(Proposer::leader);
            assert_eq!(known, Some(ballot), "every proposer knows the leader");
        }
        (leader, ballot)
    }

    fn last_given_out(&self, leader: usize) -> Slot {
        self.proposer(leader).map_or(Slot::ZERO, Proposer::last)
    }

    /// How far the learner is that is the furthest behind: what it has delivered, and how many bytes
    /// of which snapshot it has received.
    fn slowest_learner(&self) -> (Slot, Option<(Slot, u64)>) {
        let reached = self.nodes.iter().filter_map(|node| match &node.process {
            Process::Learner(replica) => Some((replica.applied(), replica.receiving())),
            _ => None,
        });
        reached.min().unwrap_or_default()
    }

    fn everybody_has(&self, chosen: Slot) {
        for node in self.nodes.iter().filter(|node| !node.lost && !node.gone) {
            let has = match &node.process {
                Process::Proposer(desk) if desk.role.core().is_leading() => {
                    let proposer = desk.role.core();
                    assert!(
                        desk.role.is_idle(),
                        "everybody is told what became of his value"
                    );
                    assert_eq!(
                        proposer.open_slots(),
                        0,
                        "the leader has nothing left to do"
                    );
                    proposer.committed()
                }
                Process::Proposer(desk) => desk.role.core().committed_seen(),
                Process::Acceptor(voter) => voter.role.member().acceptor().committed(),
                Process::Learner(replica) => replica.applied(),
                Process::Down => panic!("{} is up in a healthy cluster", node.name),
            };
            assert_eq!(has, chosen, "{} knows all that is chosen", node.name);
        }
        let mut states = self.nodes.iter().filter_map(|node| match &node.process {
            Process::Learner(replica) => Some(&replica.state().machine),
            _ => None,
        });
        let first = states.next();
        assert!(
            states.all(|state| Some(state) == first),
            "learners have the same state"
        );
    }
}
