//! What the processes' own loops do: input, step, persist, act.

use std::mem;

use paxos::acceptor::Acceptor;
use paxos::ids::{Role, Slot};
use paxos::learner::{self, Learner};
use paxos::machine::Outcome;
use paxos::message::{Learned, Message, Reply};
use paxos::recent::fit;
use paxos::standing::Member;
use roles::proposer::{Event as Happened, Failure};

use super::calls::Heard;
use super::node::{Asker, Disk, Process};
use super::replica::{Replica, Shelf};
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
        node.process = match &mut node.disk {
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
                let learner = Learner::new(members, Slot::ZERO);
                let core = learner.with_ahead_slots(self.config.ahead_slots);
                let core = core.with_ahead_bytes(self.config.ahead_bytes);
                let replica = Replica::new(opened, core);
                self.check.learner_restarted(id, replica.core.delivered());
                Process::Learner(Box::new(replica))
            }
        };
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
            (Timer::Succession | Timer::Leave, _) => 0,
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
            (Process::Proposer(_), Timer::Leave) => {
                let down = self.rng.between(1, self.config.down);
                self.crash(at, down);
            }
            (Process::Acceptor(_), Timer::Wake(wake)) => self.wake(at, wake),
            (Process::Proposer(..) | Process::Learner(..), Timer::Enlist) => self.call_roll(at),
            (Process::Acceptor(_), Timer::Written) => self.written(at),
            (Process::Learner(..), Timer::Tick) => self.tick_learner(at),
            (Process::Learner(..), Timer::Written) => {
                self.on_shelf(at, |replica, _| replica.write_snapshot());
            }
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
                    self.refuse(from);
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
        let may_learn = self.may_learn(at);
        match (&mut self.nodes[at].process, message) {
            (Process::Acceptor(_), Message::Request(request)) => self.ask(at, from, request),
            (Process::Learner(..), Message::Learn(_)) if !may_learn => {
                self.answer(at, from, Packet::Refused);
            }
            (Process::Learner(..), Message::Recall(slots)) => self.tell_outcomes(at, from, slots),
            (Process::Learner(..), Message::Learn(learn)) => {
                let is_taken = self.is_told_the_same(at, &learn);
                if is_taken {
                    self.step_learner(at, learner::Input::Learn(learn.clone()));
                }
                let node = &self.nodes[at];
                if let (Process::Learner(replica), Disk::Shelf(shelf)) = (&node.process, &node.disk)
                {
                    let slots = (learn.first.0..).map(Slot);
                    let outcomes = match replica.is_mute() {
                        true => vec![None; learn.values.len()],
                        false => replica.outcomes(slots.zip(learn.values.iter().map(Some))),
                    };
                    let told = (learn.first.0..)
                        .map(Slot)
                        .zip(&learn.values[..])
                        .zip(&outcomes);
                    for ((slot, value), outcome) in told {
                        // Untold is no outcome.
                        if let Some(applied) = outcome
                            && applied.outcome != Outcome::Untold
                        {
                            self.check
                                .answered_for(node.name.id, slot, value, applied.slot);
                        }
                    }
                    let learned = Learned {
                        applied: replica.core.delivered(),
                        durable: shelf.durable,
                        first: learn.first,
                        outcomes: fit(self.config.outcome_bytes.0, outcomes),
                    };
                    let message = Message::Learned(learned.clone());
                    let most = self.config.outcome_bytes.0;
                    assert!(
                        message.size_hint() <= most,
                        "an answer of at most {most} bytes"
                    );
                    let packet = self.said(at, Message::Learned(learned));
                    self.answer(at, from, packet);
                }
            }
            (Process::Proposer(_), message) => self.hear_as_proposer(from, at, message),
            _ => {}
        }
    }

    pub(super) fn answered(&mut self, by: usize, of: Asker, packet: Packet) {
        let (at, from) = (of.life.0, self.nodes[by].name.id);
        let message = match packet {
            Packet::Message(said) => match said.heard(self.nodes[at].dialect) {
                Some(message) => message,
                None => return self.summary.refused += 1,
            },
            Packet::Told(number, told) => return self.told(at, number, told),
            Packet::Done => return self.call_ends(of, by, Heard::Answer(None)),
            Packet::Refused => return self.call_ends(of, by, Heard::Failed(Failure::Refused)),
            Packet::Heartbeat(_) | Packet::Ask(..) => return,
        };
        match (&mut self.nodes[at].process, message) {
            (
                Process::Proposer(_) | Process::Learner(_),
                Message::Reply(reply @ (Reply::Witnessed { .. } | Reply::Refused { .. })),
            ) if of.call == 0 => self.called(at, from, &reply),
            (Process::Acceptor(_), Message::Reply(reply)) => self.heard_by_voter(at, from, reply),
            // A question that is put to all acceptors, by no call of its own.
            (Process::Learner(_), Message::Reply(reply)) if of.call == 0 => {
                self.heard_vote(at, from, &reply);
            }
            (_, message) => self.call_ends(of, by, Heard::Answer(Some(message))),
        }
    }

    /// To every other node of a role.
    pub(super) fn send_all(&mut self, from: usize, role: Role, packet: &Packet) {
        for to in self.of_role(role).filter(|to| *to != from) {
            self.send(from, to, packet);
        }
    }

    pub(super) fn step_learner(&mut self, at: usize, input: learner::Input) {
        let node = &mut self.nodes[at];
        let Process::Learner(replica) = &mut node.process else {
            return;
        };
        // That a fetch has failed is heard in doubt as well: it is asked for again afterwards.
        let takes = !replica.is_in_doubt() || matches!(input, learner::Input::Failed { .. });
        if replica.halted || !takes {
            return;
        }
        let mut effects = replica.core.step(input);
        let deliver = mem::take(&mut effects.deliver);
        let (entries, unread) = replica.apply(deliver);
        if let Some(slot) = unread {
            assert!(
                !effects.is_sure(slot),
                "no quorum of acceptors has what nobody proposed: {slot}"
            );
            replica.core.distrust(slot);
            self.summary.unread += 1;
        }
        self.check.committed(replica.core.committed());
        assert!(
            effects.missing.is_none() || self.is_set_back,
            "no acceptor forgets what is chosen"
        );
        assert!(
            effects
                .disputed
                .is_none_or(|slot| self.is_set_back || self.unreadable.contains(&slot)),
            "one value is told for a slot"
        );
        // The driver says both.
        let says = effects.missing.is_some() || effects.disputed.is_some();
        self.summary.noticed += u64::from(says);
        let (values, found) = replica.remembers();
        let bounds = self.config.recent;
        assert!(
            values <= bounds.bytes && found <= bounds.found_bytes,
            "memory is bounded"
        );
        let ahead = replica.core.ahead_bytes();
        assert!(
            ahead <= self.config.ahead_bytes,
            "{ahead} bytes ahead of a gap"
        );
        for entry in &entries {
            self.check.delivered(node.name.id, entry);
        }
        for (acceptor, fetch) in effects.fetch {
            self.check.asks_by(self.list(at));
            self.fetch(at, acceptor, fetch);
        }
        if let Some(floor) = effects.truncated {
            self.catch_up(at, floor);
        }
        if !entries.is_empty() && self.rng.chance(self.config.learner_saves) {
            self.save(at);
        }
    }

    pub(super) fn tick_learner(&mut self, at: usize) {
        self.lose_patience(at);
        if !self.healed && self.rng.chance(self.config.false_words) {
            self.say_something_else(at);
        }
        self.step_learner(at, learner::Input::Tick);
        self.sample(at);
        self.save(at);
        self.feed_a_store(at);
    }

    /// A learner makes its log durable and, at times, starts a snapshot.
    fn save(&mut self, at: usize) {
        if self.on_shelf(at, Replica::sync).is_none() {
            return;
        }
        let Process::Learner(replica) = &mut self.nodes[at].process else {
            return;
        };
        if replica.copy.is_none() && replica.since_snapshot() >= self.config.snapshot_every {
            replica.copy = Some(replica.machine.clone());
            self.start_timer(at, Timer::Written);
        }
    }

    /// A learner uses its disk. `None` if that has ended its process.
    pub(super) fn on_shelf<T>(
        &mut self,
        at: usize,
        run: impl FnOnce(&mut Replica, &mut Shelf) -> Result<T, String>,
    ) -> Option<T> {
        let node = &mut self.nodes[at];
        let (Process::Learner(replica), Disk::Shelf(shelf)) = (&mut node.process, &mut node.disk)
        else {
            return None;
        };
        let bad = node.bad_write.take();
        if let Some(bad) = bad {
            shelf.spoil(bad, &mut self.rng);
        }
        let done = run(replica, shelf);
        self.check.learner_durable(node.name.id, shelf.durable);
        match (done, bad) {
            (Ok(done), None) => Some(done),
            (Err(error), None) => panic!("a healthy disk takes every write: {error}"),
            (_, Some(_)) => {
                let down = self.rng.between(1, self.config.down);
                self.crash(at, down);
                None
            }
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
