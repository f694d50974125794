//! Processes start and end, their timers run, and what reaches them goes to their roles.

use std::mem;

use paxos::acceptor::Acceptor;
use paxos::ids::{Role, Slot};
use paxos::message::{Message, Reply};
use paxos::standing::Member;
use roles::proposer::{Event as Happened, Failure};

use super::calls::Heard;
use super::node::{Asker, Disk, Process};
use super::voter::Voter;
use super::{ELECTION, Event, HEARTBEAT, LEARNER_TICK, Packet, Sim, Timer};

/// Between two calls to the acceptors, until a quorum has answered and after that.
const ENLIST: u64 = 100;
const LATE_ENLIST: u64 = 2_000;
/// No write takes longer.
const SLOWEST_WRITE: u64 = 3_000;

impl Sim {
    pub(super) fn start(&mut self, at: usize) {
        if !matches!(self.nodes[at].process, Process::Down) || self.nodes[at].gone {
            return;
        }
        let members = self.list(at);
        if self.ends_at_start(at) {
            self.summary.refused_lists += 1;
            return;
        }
        if self.nodes[at].life & 0xff_ffff > 0 && self.rng.chance(self.config.lost_claims) {
            let node = &mut self.nodes[at];
            if let Disk::Claims(claims) = &node.disk {
                claims.borrow_mut().lose();
                node.belongs = None;
            }
        }
        let run = match self.nodes[at].name.role {
            Role::Acceptor => 0,
            _ => self.begin_roll_call(at),
        };
        if let Disk::Claims(claims) = &self.nodes[at].disk {
            let desk = self.new_desk(at, run, claims);
            self.nodes[at].process = Process::Proposer(Box::new(desk));
        }
        let node = &mut self.nodes[at];
        let id = node.name.id;
        let process = match &mut node.disk {
            Disk::Claims(_) => mem::replace(&mut node.process, Process::Down),
            Disk::Log(log) => {
                let flip = self.rng.chance(self.config.flips);
                let acceptor = Acceptor::with_answers(self.config.answers);
                let acceptor = acceptor.with_trimming(self.config.trimming);
                let acceptor = acceptor.with_held_bytes(self.config.held_bytes);
                let blank = |start| Member::new(id, members, start, acceptor);
                let started = log.start(blank, flip, &mut self.rng);
                // What an older copy holds was news before.
                if !node.lost {
                    self.check.durable(id, &started.news);
                }
                let votes = started.member.acceptor().votes_from(Slot(1));
                let votes = votes.into_reply(&**log);
                let votes = votes.expect("a vote is where it was written");
                self.check.restarted(id, started.member.acceptor(), &votes);
                self.summary.damaged += u64::from(started.damaged);
                self.summary.half_written += u64::from(!started.news.is_empty());
                self.check.listed(id, members);
                let bounds = self.config.bounds;
                let voter = Voter::new(started.member, bounds);
                Process::Acceptor(Box::new(voter))
            }
            Disk::Shelf(shelf) => {
                let flip = self.rng.chance(self.config.flips);
                let (opened, damaged) = shelf.open(flip, &mut self.rng);
                self.summary.damaged += u64::from(damaged);
                let replica = self.open_learner(at, opened, members);
                Process::Learner(Box::new(replica))
            }
        };
        self.nodes[at].process = process;
        match self.nodes[at].name.role {
            Role::Proposer => {
                self.start_timer(at, Timer::Tick);
                self.start_election_timer(at);
                self.timer(at, Timer::Enlist);
            }
            Role::Acceptor => self.run_voter(at),
            _ => {
                self.start_timer(at, Timer::Tick);
                self.timer(at, Timer::Enlist);
            }
        }
    }

    /// The process ends at once. A write under way may have reached the disk, in part.
    pub(super) fn crash(&mut self, at: usize, down: u64) {
        let node = &mut self.nodes[at];
        let process = mem::replace(&mut node.process, Process::Down);
        if matches!(process, Process::Down) {
            return;
        }
        self.calls.forget((at, node.life));
        node.life += 1;
        node.paused_until = 0;
        node.bad_write = None;
        if let Disk::Log(log) = &mut node.disk {
            if let Process::Acceptor(voter) = process {
                voter.end(|records| log.write_part(records, &mut self.rng));
            }
            log.end(&mut self.rng);
        } else if let Disk::Shelf(shelf) = &node.disk {
            shelf.end(&mut self.rng);
        }
        self.schedule(down, Event::Start(at));
    }

    pub(super) fn start_timer(&mut self, at: usize, timer: Timer) {
        let role = self.nodes[at].name.role;
        let time = match (timer, role) {
            (Timer::Election(_), _) => self.rng.between(ELECTION, 2 * ELECTION),
            (Timer::Written, _) => {
                let (least, most) = self.config.sync;
                self.rng.between(least, most) * self.nodes[at].slow
            }
            (Timer::Enlist, _) => match &self.nodes[at].process {
                Process::Proposer(_) | Process::Learner(_) if self.may_learn(at) => LATE_ENLIST,
                _ => ENLIST,
            },
            (Timer::Tick, Role::Learner) => LEARNER_TICK,
            (Timer::Tick, _) => HEARTBEAT,
            (Timer::Succession | Timer::Flush | Timer::Leave, _) => 0,
            (Timer::Wake(_), _) => unreachable!("the acceptor's loop says when"),
        };
        let node = &self.nodes[at];
        let of = (at, node.life);
        let time = match timer {
            Timer::Written => time.min(SLOWEST_WRITE),
            _ => node.clock.takes(time),
        };
        self.schedule(time, Event::Timer { of, timer });
    }

    pub(super) fn start_election_timer(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.election_timer += 1;
        let timer = Timer::Election(node.election_timer);
        self.start_timer(at, timer);
    }

    pub(super) fn timer(&mut self, at: usize, timer: Timer) {
        let election_timer = self.nodes[at].election_timer;
        match (&mut self.nodes[at].process, timer) {
            (Process::Proposer(_), Timer::Tick) => self.tick_proposer(at),
            (Process::Proposer(_), Timer::Election(newest)) if newest == election_timer => {
                self.on_proposer(at, Happened::ElectionTimeout);
            }
            (Process::Proposer(_), Timer::Succession) => self.succession_due(at),
            (Process::Proposer(_), Timer::Flush) => self.flush_proposer(at),
            (Process::Proposer(_), Timer::Leave) => {
                let down = self.rng.between(1, self.config.down);
                self.crash(at, down);
            }
            (Process::Acceptor(_), Timer::Wake(wake)) => self.wake(at, wake),
            (Process::Proposer(..) | Process::Learner(..), Timer::Enlist) => self.call_roll(at),
            (Process::Acceptor(_), Timer::Written) => self.written(at),
            (Process::Learner(..), Timer::Tick) => self.tick_learner(at),
            (Process::Learner(..), Timer::Written) => self.snapshot_due(at),
            _ => {}
        }
        let life = self.nodes[at].life;
        if matches!(timer, Timer::Tick | Timer::Enlist) && self.lives((at, life)) {
            self.start_timer(at, timer);
        }
    }

    pub(super) fn receive(&mut self, from: Asker, at: usize, packet: Packet) {
        if let Process::Down = self.nodes[at].process {
            return self.refuse(from);
        }
        let packet = match packet {
            Packet::Message(said) => match said.heard(self.nodes[at].dialect) {
                Some(message) => return self.hear(from, at, message),
                None => {
                    self.answer(at, from, Packet::Refused);
                    return self.summary.refused += 1;
                }
            },
            packet => packet,
        };
        match packet {
            Packet::Heartbeat(heartbeat) => {
                self.answer(at, from, Packet::Done);
                self.on_proposer(at, Happened::Heartbeat(heartbeat));
            }
            Packet::Ask(number, ask) => self.tell(at, from, number, ask),
            Packet::Message(_) | Packet::Told(..) | Packet::Done | Packet::Refused => {}
        }
    }

    fn hear(&mut self, from: Asker, at: usize, message: Message) {
        match (&mut self.nodes[at].process, message) {
            (Process::Acceptor(_), Message::Request(request)) => self.ask(at, from, request),
            (Process::Learner(..), Message::Learn(learn)) => self.learn(at, from, learn),
            (Process::Learner(..), Message::Recall(slots)) => self.tell_outcomes(at, from, &slots),
            (Process::Proposer(_), message) => self.hear_as_proposer(from, at, message),
            _ => {}
        }
    }

    pub(super) fn answered(&mut self, by: usize, of: Asker, packet: Packet) {
        let (at, from) = (of.life.0, self.nodes[by].name.id);
        let message = match packet {
            Packet::Message(said) => match said.heard(self.nodes[at].dialect) {
                Some(message) => message,
                None => {
                    self.summary.refused += 1;
                    return self.call_ends(of, Heard::Failed(Failure::Refused));
                }
            },
            Packet::Told(number, told) => return self.told(at, number, told),
            Packet::Done => return self.call_ends(of, Heard::Answer(None)),
            Packet::Refused => return self.call_ends(of, Heard::Failed(Failure::Refused)),
            Packet::Heartbeat(_) | Packet::Ask(..) => return,
        };
        match (&mut self.nodes[at].process, message) {
            (
                Process::Proposer(_) | Process::Learner(_),
                Message::Reply(reply @ (Reply::Witnessed { .. } | Reply::Refused { .. })),
            ) if of.call == 0 => self.called(at, from, &reply),
            (Process::Acceptor(_), Message::Reply(reply)) => self.heard_by_voter(at, from, reply),
            (_, message) => self.call_ends(of, Heard::Answer(Some(message))),
        }
    }

    /// Clients send a proposal to a proposer that takes itself for the leader, or to any.
    pub(super) fn propose(&mut self) {
        let mut asked = self.leaders();
        if asked.is_empty() || self.rng.chance(200) {
            asked = self.of_role(Role::Proposer).collect();
        }
        let Some(at) = self.rng.pick(&asked).filter(|at| self.takes_more(*at)) else {
            return;
        };
        let values = self.clients.values(&self.config, self.now, &mut self.rng);
        let within = self.rng.between(50, 5_000);
        self.submit(at, values, within);
    }

    /// Clients read through any proposer.
    pub(super) fn read(&mut self) {
        let all: Vec<usize> = self.of_role(Role::Proposer).collect();
        let leaders = self.leaders();
        let among = if leaders.is_empty() || self.rng.chance(100) {
            all
        } else {
            leaders
        };
        let Some(at) = self.rng.pick(&among).filter(|at| !self.asleep(*at)) else {
            return;
        };
        let read = self.clients.read();
        self.check.read_began(read);
        self.on_proposer(at, Happened::Read(read));
    }
}
