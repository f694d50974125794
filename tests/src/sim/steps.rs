//! What the processes' own loops do: input, step, persist, act.

use std::mem;

use proposer::paxos::ids::{Members, Role};
use proposer::paxos::learner::{self, Learner};
use proposer::paxos::message::{Learned, Message};
use proposer::paxos::output::Output;
use proposer::paxos::proposer::{Effects, Input, Proposer, To};

use super::disk::BadWrite;
use super::node::{Asker, Disk, Process, Voter};
use super::{ELECTION, Event, HEARTBEAT, LEARNER_TICK, Packet, Sim, Timer};

impl Sim {
    pub(super) fn start(&mut self, at: usize) {
        let members = Members::new(self.config.acceptors).expect("there is an acceptor");
        let node = &mut self.nodes[at];
        if !matches!(node.process, Process::Down) {
            return;
        }
        let id = node.name.id;
        node.process = match &mut node.disk {
            Disk::Claims(claims) => {
                if node.life > 0 && self.rng.chance(self.config.lost_claims) {
                    claims.lose(&mut self.rng);
                }
                Process::Proposer(Proposer::new(
                    id,
                    members,
                    self.config.settings,
                    claims.last(),
                ))
            }
            Disk::Log(log) => {
                let flip = self.rng.chance(self.config.flips);
                let started = log.start(self.config.answers, flip, &mut self.rng);
                self.check.durable(id, &started.news);
                self.check.restarted(id, &started.acceptor);
                self.summary.damaged += u64::from(started.damaged);
                self.summary.half_written += u64::from(!started.news.is_empty());
                let acceptor = started.acceptor;
                Process::Acceptor(Voter {
                    acceptor,
                    inbox: Vec::new(),
                    writing: None,
                })
            }
            Disk::Machine(machine) => {
                let applied = machine.applied();
                self.check.learner_restarted(id, applied);
                let learner =
                    Learner::new(members, applied).with_ahead_slots(self.config.ahead_slots);
                Process::Learner(learner, machine.clone())
            }
        };
        self.start_timer(at, Timer::Tick);
        if self.proposer(at).is_some() {
            self.start_election_timer(at);
        }
    }

    /// The process ends at once. A write under way may have reached the disk, in part.
    pub(super) fn crash(&mut self, at: usize, down: u64) {
        let node = &mut self.nodes[at];
        let process = mem::replace(&mut node.process, Process::Down);
        if matches!(process, Process::Down) {
            return;
        }
        node.life += 1;
        node.paused_until = 0;
        node.bad_write = None;
        if let Disk::Log(log) = &mut node.disk {
            if let Process::Acceptor(Voter {
                writing: Some((_, output)),
                ..
            }) = process
            {
                let torn = Some(BadWrite::Torn);
                let _ended = output.persist(|records| log.write(records, torn, &mut self.rng));
            }
            log.end(&mut self.rng);
        }
        self.schedule(down, Event::Start(at));
    }

    fn start_timer(&mut self, at: usize, timer: Timer) {
        let role = self.nodes[at].name.role;
        let time = match (timer, role) {
            (Timer::Election(_), _) => self.rng.between(ELECTION, 2 * ELECTION),
            (Timer::Written, _) => self.rng.between(self.config.sync.0, self.config.sync.1),
            (Timer::Tick, Role::Acceptor) => ELECTION / 2,
            (Timer::Tick, Role::Learner) => LEARNER_TICK,
            (Timer::Tick, _) => HEARTBEAT,
        };
        let node = &self.nodes[at];
        let of = (at, node.life);
        self.schedule(time * 10 / node.clock, Event::Timer { of, timer });
    }

    fn start_election_timer(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.election_timer += 1;
        let timer = Timer::Election(node.election_timer);
        self.start_timer(at, timer);
    }

    pub(super) fn timer(&mut self, at: usize, timer: Timer) {
        let election_timer = self.nodes[at].election_timer;
        match (&mut self.nodes[at].process, timer) {
            (Process::Proposer(_), Timer::Tick) => drop(self.step_proposer(at, Input::Tick)),
            (Process::Proposer(_), Timer::Election(newest)) if newest == election_timer => {
                self.step_proposer(at, Input::ElectionTimeout);
            }
            (Process::Acceptor(voter), Timer::Tick) => voter.acceptor.tick(),
            (Process::Acceptor(_), Timer::Written) => self.written(at),
            (Process::Learner(..), Timer::Tick) => self.step_learner(at, learner::Input::Tick),
            _ => {}
        }
        let life = self.nodes[at].life;
        if matches!(timer, Timer::Tick) && self.lives((at, life)) {
            self.start_timer(at, timer);
        }
    }

    pub(super) fn receive(&mut self, from: Asker, at: usize, packet: Packet) {
        match (&mut self.nodes[at].process, packet) {
            (Process::Acceptor(voter), Packet::Message(Message::Request(request))) => {
                voter.inbox.push((from, request));
                self.write_next(at);
            }
            (Process::Learner(..), Packet::Message(Message::Learn(learn))) => {
                let first = learn.first;
                self.step_learner(at, learner::Input::Learn(learn));
                let node = &self.nodes[at];
                if let (Process::Learner(_, now), Disk::Machine(saved)) =
                    (&node.process, &node.disk)
                {
                    let learned = Learned {
                        applied: now.applied(),
                        durable: saved.applied(),
                        first,
                        outcomes: Vec::new(),
                    };
                    self.answer(at, from, &Message::Learned(learned));
                }
            }
            (Process::Proposer(_), Packet::Message(Message::TakeOver)) => {
                self.step_proposer(at, Input::TakeOver);
            }
            (Process::Proposer(_), Packet::Heartbeat(heartbeat)) => {
                self.step_proposer(at, Input::Heartbeat(heartbeat));
            }
            _ => {}
        }
    }

    pub(super) fn answered(&mut self, from: usize, at: usize, message: Message) {
        let from = self.nodes[from].name.id;
        match (&self.nodes[at].process, message) {
            (Process::Proposer(_), Message::Reply(reply)) => {
                self.step_proposer(at, Input::Reply { from, reply });
            }
            (Process::Proposer(_), Message::Learned(learned)) => {
                self.step_proposer(at, Input::Learned(learned.applied));
            }
            (Process::Learner(..), Message::Reply(reply)) => {
                self.step_learner(at, learner::Input::Reply { from, reply });
            }
            _ => {}
        }
    }

    /// One step of a proposer; what it asks for, already done, or `None` if its process ended.
    pub(super) fn step_proposer(&mut self, at: usize, input: Input) -> Option<Effects> {
        let node = &mut self.nodes[at];
        let (Process::Proposer(proposer), Disk::Claims(claims)) =
            (&mut node.process, &mut node.disk)
        else {
            return None;
        };
        let output = proposer.step(input);
        self.check.committed(proposer.committed());
        let bad = &mut node.bad_write;
        let written = output.persist(|claimed| {
            let bad = bad.take();
            claimed
                .iter()
                .try_for_each(|claim| claims.write(claim.counter, bad, &mut self.rng))
        });
        let Ok(effects) = written else {
            let down = self.rng.between(1, self.config.down);
            self.crash(at, down);
            return None;
        };
        self.perform(at, &effects);
        Some(effects)
    }

    fn perform(&mut self, at: usize, effects: &Effects) {
        let life = (self.nodes[at].name.id, self.nodes[at].life);
        let Disk::Claims(claims) = &self.nodes[at].disk else {
            return;
        };
        let claim = claims.last();
        for (to, request) in &effects.acceptors {
            self.check.requested(life, claim, request);
            let packet = Packet::Message(Message::Request(request.clone()));
            match to {
                To::One(id) => self.send(at, self.acceptor(*id), packet),
                To::All => self
                    .of_role(Role::Acceptor)
                    .for_each(|to| self.send(at, to, packet.clone())),
            }
        }
        for learn in &effects.learners {
            self.check.told(learn);
            let packet = Packet::Message(Message::Learn(learn.clone()));
            self.of_role(Role::Learner)
                .for_each(|to| self.send(at, to, packet.clone()));
        }
        if let Some(heartbeat) = effects.heartbeat {
            self.check.announced(&heartbeat);
            for to in self.of_role(Role::Proposer).filter(|to| *to != at) {
                self.send(at, to, Packet::Heartbeat(heartbeat));
            }
        }
        if effects.restart_election_timer {
            self.start_election_timer(at);
        }
        for (read, slot) in &effects.readable {
            self.check.readable(*read, *slot);
        }
    }

    /// Takes everything that waits into one write, unless one is under way.
    fn write_next(&mut self, at: usize) {
        let Process::Acceptor(voter) = &mut self.nodes[at].process else {
            return;
        };
        if voter.writing.is_some() || voter.inbox.is_empty() {
            return;
        }
        let (askers, requests): (Vec<_>, Vec<_>) = voter.inbox.drain(..).unzip();
        let outputs: Vec<_> = requests
            .into_iter()
            .map(|request| voter.acceptor.handle(request))
            .collect();
        voter.writing = Some((askers, Output::group(outputs)));
        self.start_timer(at, Timer::Written);
    }

    /// The write under way is done, or fails.
    fn written(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let (Process::Acceptor(voter), Disk::Log(log)) = (&mut node.process, &mut node.disk) else {
            return;
        };
        let Some((askers, output)) = voter.writing.take() else {
            return;
        };
        let (id, bad) = (node.name.id, &mut node.bad_write);
        let written = output.persist(|records| {
            log.write(records, bad.take(), &mut self.rng)?;
            self.check.durable(id, records);
            Ok(())
        });
        let Ok::<_, BadWrite>(replies) = written else {
            let down = self.rng.between(1, self.config.down);
            return self.crash(at, down);
        };
        self.check.committed(voter.acceptor.committed());
        for (asker, reply) in askers.into_iter().zip(replies) {
            self.check.answered(id, &reply);
            self.answer(at, asker, &Message::Reply(reply));
        }
        self.write_next(at);
    }

    pub(super) fn step_learner(&mut self, at: usize, input: learner::Input) {
        let node = &mut self.nodes[at];
        let (Process::Learner(learner, machine), Disk::Machine(saved)) =
            (&mut node.process, &mut node.disk)
        else {
            return;
        };
        let effects = learner.step(input);
        self.check.committed(learner.committed());
        assert_eq!(effects.missing, None, "no acceptor forgets what is chosen");
        for (slot, value) in &effects.deliver {
            let applied = machine.apply(*slot, value).expect("clients send commands");
            self.check.delivered(node.name.id, *slot, value, &applied);
        }
        if !effects.deliver.is_empty() && self.rng.chance(self.config.learner_saves) {
            saved.clone_from(machine);
        }
        if let Some(fetch) = effects.fetch {
            let packet = Packet::Message(Message::Request(fetch));
            self.of_role(Role::Acceptor)
                .for_each(|to| self.send(at, to, packet.clone()));
        }
    }

    /// Clients send a proposal to a proposer that takes itself for the leader, or to any.
    pub(super) fn propose(&mut self) {
        let mut asked = self.leaders();
        if asked.is_empty() || self.rng.chance(50) {
            asked = self.of_role(Role::Proposer).collect();
        }
        let Some(at) = self.rng.pick(&asked) else {
            return;
        };
        let Some(proposer) = self.proposer(at).filter(|_| !self.asleep(at)) else {
            return;
        };
        if proposer.open_slots() >= self.config.open_slots {
            return;
        }
        let values = self.clients.values(&self.config, &mut self.rng);
        self.offer(at, values);
    }

    /// Values for a proposer.
    pub(super) fn offer(&mut self, at: usize, values: Vec<proposer::paxos::message::Value>) {
        if self.leaders().contains(&at) {
            values.iter().for_each(|value| self.check.proposed(value));
        }
        self.step_proposer(at, Input::Propose(values));
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
        self.step_proposer(at, Input::Read(read));
    }
}
