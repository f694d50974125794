//! What goes wrong, and where.

use paxos::acceptor::Room;
use paxos::ids::{NodeId, NodeName, Role, Slot};
use roles::proposer::Event as Happened;

use super::config::Fault;
use super::disk::BadWrite;
use super::disks::Loss;
use super::node::{Disk, Process};
use super::{ELECTION, Sim, Timer};

impl Sim {
    pub(super) fn fault(&mut self) {
        let total = self.config.faults.iter().map(|(_, weight)| weight).sum();
        let mut at = self.rng.below(total);
        let chosen = self.config.faults.iter().find(|(_, weight)| {
            let here = at < *weight;
            at = at.saturating_sub(*weight);
            here
        });
        if let Some((fault, _)) = chosen {
            self.strike(*fault);
        }
    }

    fn strike(&mut self, fault: Fault) {
        let count = self.nodes.len() as u64;
        let node = self.rng.below(count) as usize;
        let down = self.rng.between(1, self.config.down);
        if self.trace {
            eprintln!("{:>7} {fault:?} {}", self.now, self.nodes[node].name);
        }
        match fault {
            Fault::Crash => self.crash(node, down),
            Fault::Blackout => self.blackout(down),
            Fault::TornWrite => self.nodes[node].bad_write = Some(BadWrite::Torn),
            Fault::FailedSync => self.nodes[node].bad_write = Some(BadWrite::Failed),
            Fault::Pause => self.nodes[node].paused_until = self.now + down,
            Fault::Split | Fault::OneWay => {
                let left: Vec<bool> = (0..count).map(|_| self.rng.chance(500)).collect();
                self.network.split(&left, fault == Fault::Split);
            }
            Fault::Links => {
                for _ in 0..self.rng.between(1, count * count / 3) {
                    let (from, to) = (self.rng.below(count), self.rng.below(count));
                    self.network.cut(from as usize, to as usize);
                }
            }
            Fault::Mend => {
                self.network.mend();
                self.nodes.iter_mut().for_each(|node| node.slow = 1);
            }
            Fault::Slow => {
                let mut factor = || match self.rng.chance(500) {
                    true => self.rng.between(10, 100),
                    false => 1,
                };
                self.network.slow(node, factor(), factor());
                self.nodes[node].slow = factor();
            }
            Fault::Jump => self.jump(node),
            Fault::TakeOver => self.ask_to_take_over(node),
            Fault::HandOver => self.hand_over(),
            Fault::CutFromLearners => {
                let leaders = self.leaders();
                if let Some(leader) = self.rng.pick(&leaders) {
                    self.cut_from_learners(leader);
                }
            }
            Fault::Relist => self.relist(),
            Fault::Overtake => self.overtake(),
            Fault::HalfProposed => self.half_propose(down),
            Fault::Upgrade => {
                self.crash(node, down);
                self.nodes[node].dialect = self.some_dialect();
                self.nodes[node].counts |= self.rng.chance(700);
            }
            Fault::OtherList => self.other_list(node, down),
            Fault::WipeLearner => self.wipe_learner(),
            Fault::LoseLearners => self.lose_learners(),
            Fault::CopyDisk => self.copy_disk(),
            Fault::WipeDisk => self.lose_disk(Loss::Wiped),
            Fault::SetBackDisk => self.lose_disk(Loss::SetBack),
            Fault::ExchangeDisk => self.lose_disk(Loss::Exchanged),
            Fault::FillDisk => {
                let rooms = [Room::Tight, Room::Share, Room::Reserve];
                self.nodes[node].room = rooms[self.rng.below(3) as usize];
            }
            Fault::EnlargeDisks => {
                let nodes = self.nodes.iter_mut();
                nodes.for_each(|node| node.room = Room::Enough);
            }
        }
    }

    fn blackout(&mut self, down: u64) {
        let roles = [Role::Proposer, Role::Acceptor, Role::Learner];
        let all = self.rng.chance(300);
        let only = roles[self.rng.below(3) as usize];
        for at in 0..self.nodes.len() {
            if all || self.nodes[at].name.role == only {
                let more = self.rng.below(100);
                self.crash(at, down + more);
            }
        }
    }

    /// Timers fire now, one or many at once, and the clock runs faster or slower from now on.
    fn jump(&mut self, at: usize) {
        let rate = self.rng.between(1, 100);
        self.nodes[at].clock.set_rate(rate, self.now);
        let ahead = self.rng.below(3_000);
        self.nodes[at].clock.jump(ahead);
        for _ in 0..self.rng.between(1, 12) {
            if self.asleep(at) {
                return;
            }
            let election = self.nodes[at].election_timer;
            match &mut self.nodes[at].process {
                Process::Proposer(_) if self.rng.chance(300) => {
                    self.timer(at, Timer::Election(election));
                }
                Process::Proposer(_) => self.tick_proposer(at),
                Process::Acceptor(_) => self.jump_ahead(at, ELECTION / 2),
                Process::Learner(..) => self.tick_learner(at),
                Process::Down => return,
            }
        }
    }

    /// A learner loses its disk, if another one has all that any of them ever had.
    fn wipe_learner(&mut self) {
        let all: Vec<usize> = self.of_role(Role::Learner).collect();
        let Some(at) = self.rng.pick(&all) else {
            return;
        };
        let durable = |at: usize| match &self.nodes[at].disk {
            Disk::Shelf(shelf) => shelf.durable,
            _ => Slot::ZERO,
        };
        let most = self.check.learners_durable();
        if all
            .iter()
            .any(|other| *other != at && durable(*other) >= most)
        {
            self.crash(at, self.config.down);
            if let Disk::Shelf(shelf) = &mut self.nodes[at].disk {
                shelf.wipe();
            }
            self.nodes[at].belongs = None;
        }
    }

    /// A proposer's process is asked to leave, mostly the leader's.
    fn hand_over(&mut self) {
        let mut among = self.leaders();
        if among.is_empty() || self.rng.chance(200) {
            among = self.of_role(Role::Proposer).collect();
        }
        if let Some(at) = self.rng.pick(&among) {
            self.leave(at);
        }
    }

    /// One proposer is always listed. Learners stay: what acceptors may forget rests on all that are listed.
    fn relist(&mut self) {
        if self.rng.chance(400) {
            return self.unlisted.clear();
        }
        let role = [Role::Proposer, Role::Store][self.rng.below(2) as usize];
        let (least, count) = match role {
            Role::Proposer => (1, self.config.proposers),
            _ => (0, self.config.stores),
        };
        let all: Vec<NodeId> = NodeId::first(count).collect();
        let listed = |id: &NodeId| !self.unlisted.contains(&NodeName { role, id: *id });
        if let Some(id) = self.rng.pick(&all)
            && all.iter().filter(|id| listed(id)).count() > least
        {
            self.unlisted.insert(NodeName { role, id });
        }
    }

    fn overtake(&mut self) {
        let leaders = self.leaders();
        let all: Vec<usize> = self.of_role(Role::Proposer).collect();
        if let (Some(leader), Some(other)) = (self.rng.pick(&leaders), self.rng.pick(&all)) {
            let factor = self.rng.between(10, 200);
            self.network.slow(leader, 1, factor);
            self.ask_to_take_over(other);
        }
    }

    /// Values of two ballots come to stand in one slot when this strikes one leader after another.
    fn half_propose(&mut self, down: u64) {
        let leaders = self.leaders();
        let Some(leader) = self.rng.pick(&leaders).filter(|at| !self.asleep(*at)) else {
            return;
        };
        let links = self.network.links_from(leader).to_vec();
        for acceptor in self.of_role(Role::Acceptor) {
            if self.rng.chance(500) {
                self.network.cut(leader, acceptor);
            }
        }
        let values = self.clients.values(&self.config, self.now, &mut self.rng);
        self.submit(leader, values, 5_000);
        self.network.set_links_from(leader, links);
        self.crash(leader, down);
    }

    /// Somebody asks a proposer to take over and does not wait for the answer.
    fn ask_to_take_over(&mut self, at: usize) {
        if !self.asleep(at) {
            self.numbers += 1;
            self.on_proposer(at, Happened::TakeOver(self.numbers));
        }
    }
}
