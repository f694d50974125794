//! What the processes' own loops do: input, step, persist, act.

use std::collections::VecDeque;
use std::mem;
use std::time::Duration;

use paxos::acceptor::{Acceptor, Record};
use paxos::ids::{NodeId, NodeName, Role, Slot};
use paxos::kept::kept;
use paxos::learner::{self, Learner};
use paxos::machine::Outcome;
use paxos::message::{Learned, Message, Reply, Request};
use paxos::proposer::{Effects, Input, Proposer, To};
use paxos::recent::fit;
use paxos::stamp::{STAMP_EVERY_MS, Stamp};
use paxos::standing::Member;
use roles::reach::Look;

use super::desk::Desk;
use super::node::{Asker, Disk, Process, Voter, Waiting, Write};
use super::replica::{Replica, Shelf};
use super::{ELECTION, Event, HEARTBEAT, LEARNER_TICK, Packet, Sim, Timer};

/// Between two tries of an acceptor to have its start witnessed, until it votes and after that.
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
            if let Disk::Claims(claims) = &mut node.disk {
                claims.lose(&mut self.rng);
                node.belongs = None;
            }
        }
        let run = match self.nodes[at].name.role {
            Role::Acceptor => 0,
            _ => self.begin_roll_call(at),
        };
        let node = &mut self.nodes[at];
        let id = node.name.id;
        node.process = match &mut node.disk {
            Disk::Claims(claims) => {
                let claimed = claims.last();
                let proposer = Proposer::new(id, members, self.config.settings, claimed);
                let proposer = proposer.with_run(run);
                Process::Proposer(proposer, Desk::new(self.config.learners))
            }
            Disk::Log(log) => {
                let flip = self.rng.chance(self.config.flips);
                let acceptor = Acceptor::with_answers(self.config.answers);
                let acceptor = acceptor.with_trimming(self.config.trimming);
                let acceptor = acceptor.with_held_bytes(self.config.held_bytes);
                let blank = |start| Member::new(id, members, start, acceptor);
                let mut started = log.start(blank, flip, &mut self.rng);
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
                let writing = Some(Write::Standing(started.member.begin()));
                self.check.listed(id, members);
                Process::Acceptor(Voter {
                    member: started.member,
                    inbox: VecDeque::new(),
                    writing,
                    room: node.room,
                })
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
        self.start_timer(at, Timer::Tick);
        match self.nodes[at].name.role {
            Role::Proposer => {
                self.start_election_timer(at);
                self.timer(at, Timer::Enlist);
            }
            Role::Acceptor => {
                self.start_timer(at, Timer::Written);
                self.timer(at, Timer::Enlist);
            }
            _ => self.timer(at, Timer::Enlist),
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
            if let Process::Acceptor(Voter {
                writing: Some(write),
                ..
            }) = process
            {
                let write_part = |records: &[Record]| log.write_part(records, &mut self.rng);
                let _ended = match write {
                    Write::Answers(_, output) => output.persist(write_part).map(drop),
                    Write::Standing(output) => output.persist(write_part),
                };
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
                Process::Acceptor(voter)
                    if voter.member.votes() || voter.member.refusal().is_some() =>
                {
                    LATE_ENLIST
                }
                Process::Proposer(..) | Process::Learner(..) if self.may_learn(at) => LATE_ENLIST,
                _ => ENLIST,
            },
            (Timer::Tick, Role::Acceptor) => ELECTION / 2,
            (Timer::Tick, Role::Learner) => LEARNER_TICK,
            (Timer::Tick, _) => HEARTBEAT,
        };
        let node = &self.nodes[at];
        let of = (at, node.life);
        let time = match timer {
            Timer::Written => time.min(SLOWEST_WRITE),
            _ => time * 10 / node.clock,
        };
        self.schedule(time, Event::Timer { of, timer });
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
            (Process::Proposer(..), Timer::Tick) => {
                if self.rng.chance(self.config.unanswered) {
                    let acceptors = u64::from(self.config.acceptors);
                    let acceptor = NodeId::at(self.rng.below(acceptors) as usize);
                    self.step_proposer(at, Input::Unanswered(acceptor.expect("few acceptors")));
                }
                self.watch_learners(at);
                self.tick_desk(at);
                self.step_proposer(at, Input::Tick);
                self.tell_again(at);
                self.watch_reach(at);
            }
            (Process::Proposer(..), Timer::Election(newest)) if newest == election_timer => {
                self.step_proposer(at, Input::ElectionTimeout);
            }
            (Process::Acceptor(_), Timer::Tick) => self.tidy(at),
            (Process::Acceptor(_), Timer::Enlist) => self.enlist(at),
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
            return self.refuse(from, at, &packet);
        }
        let packet = match packet {
            Packet::Message(said) => match said.heard(self.nodes[at].dialect) {
                Some(message) => return self.hear(from, at, message),
                None => {
                    self.refuse(from, at, &Packet::Message(said));
                    return self.summary.refused += 1;
                }
            },
            packet => packet,
        };
        match packet {
            Packet::Heartbeat(heartbeat) => {
                self.step_proposer(at, Input::Heartbeat(heartbeat));
            }
            Packet::Ask(number, ask) => self.tell(at, from, number, ask),
            Packet::Message(_) | Packet::Told(..) => {}
        }
    }

    fn hear(&mut self, from: Asker, at: usize, message: Message) {
        let may_learn = self.may_learn(at);
        match (&mut self.nodes[at].process, message) {
            (Process::Acceptor(_), Message::Request(request)) => self.ask(at, from, request),
            (Process::Learner(..), Message::Learn(_)) if !may_learn => {}
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
            (Process::Proposer(..), Message::TakeOver) => self.take_over(at),
            _ => {}
        }
    }

    fn take_over(&mut self, at: usize) {
        if self.reaches_a_learner(at) {
            self.step_proposer(at, Input::TakeOver);
        }
    }

    pub(super) fn answered(&mut self, by: usize, at: usize, packet: Packet) {
        let from = self.nodes[by].name.id;
        let message = match packet {
            Packet::Message(said) => match said.heard(self.nodes[at].dialect) {
                Some(message) => message,
                None => return self.summary.refused += 1,
            },
            Packet::Told(number, told) => return self.told(at, from, number, told),
            Packet::Heartbeat(_) | Packet::Ask(..) => return,
        };
        match (&mut self.nodes[at].process, message) {
            (
                Process::Proposer(..) | Process::Learner(..),
                Message::Reply(reply @ (Reply::Witnessed { .. } | Reply::Refused { .. })),
            ) => self.called(at, from, &reply),
            (Process::Proposer(..), Message::Reply(reply)) => self.replied(by, at, reply),
            (Process::Proposer(..), Message::Learned(learned)) => {
                let by_learner = NodeName {
                    role: Role::Learner,
                    id: from,
                };
                let upto = learned.applied;
                self.step_proposer(
                    at,
                    Input::Applied {
                        by: by_learner,
                        upto,
                    },
                );
                self.learned(by, at, learned);
            }
            (Process::Acceptor(voter), Message::Reply(reply)) => {
                voter.inbox.push_back(Waiting::Heard(from, reply));
                self.write_next(at);
            }
            (Process::Learner(..), Message::Reply(reply)) => {
                self.heard_vote(at, from, &reply);
                self.fetched(by, at, reply);
            }
            _ => {}
        }
    }

    /// A leader lets the acceptors forget what enough learners and stores have on disk.
    fn watch_learners(&mut self, at: usize) {
        let Process::Proposer(proposer, desk) = &mut self.nodes[at].process else {
            return;
        };
        if !proposer.is_leading() {
            return desk.clear();
        }
        let learners: Vec<Slot> = desk.durable.values().copied().collect();
        if let Some(slot) = kept(self.config.learners.into(), learners, self.stored()) {
            self.step_proposer(at, Input::Durable(slot));
        }
    }

    /// A leader that no learner answers asks another proposer to take over.
    fn watch_reach(&mut self, at: usize) {
        let now = Duration::from_millis(self.now);
        let Process::Proposer(proposer, desk) = &mut self.nodes[at].process else {
            return;
        };
        if !proposer.is_leading() {
            return desk.reach.heard(now);
        }
        if !desk.reach.begins_to_look(now) {
            return;
        }
        let others: Vec<usize> = self.of_role(Role::Proposer).filter(|p| *p != at).collect();
        let willing = |p: &usize| self.network.connects(at, *p) && self.reaches_a_learner(*p);
        let successor = others.into_iter().find(willing);
        let look = match successor {
            _ if self.reaches_a_learner(at) => Look::Reached,
            Some(_) => Look::HandedOver,
            None => Look::Nobody,
        };
        if let Process::Proposer(_, desk) = &mut self.nodes[at].process {
            desk.reach.looked(look, now);
        }
        if let (Look::HandedOver, Some(successor)) = (look, successor) {
            let packet = self.said(at, Message::TakeOver);
            self.send(at, successor, &packet);
        }
    }

    /// Whether a learner would answer this proposer.
    fn reaches_a_learner(&self, at: usize) -> bool {
        let mut learners = self.of_role(Role::Learner);
        learners.any(|learner| {
            let runs = !matches!(self.nodes[learner].process, Process::Down);
            runs && !self.asleep(learner) && self.network.connects(at, learner)
        })
    }

    /// One step of a proposer; what it asks for, already done, or `None` if its process ended.
    pub(super) fn step_proposer(&mut self, at: usize, input: Input) -> Option<Effects> {
        match input {
            Input::ElectionTimeout if !self.may_lead(at) => {
                self.start_election_timer(at);
                return None;
            }
            Input::TakeOver if !self.may_lead(at) => return None,
            _ => {}
        }
        let node = &mut self.nodes[at];
        let (Process::Proposer(proposer, _), Disk::Claims(claims)) =
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
        if effects.leader_changed
            && let Process::Proposer(proposer, desk) = &mut self.nodes[at].process
            && !proposer.is_leading()
        {
            desk.clear();
        }
        self.perform(at, &effects);
        Some(effects)
    }

    fn perform(&mut self, at: usize, effects: &Effects) {
        let life = (self.nodes[at].name.id, self.nodes[at].life);
        let Disk::Claims(claims) = &self.nodes[at].disk else {
            return;
        };
        let claim = claims.last();
        if let Some(behind) = &effects.behind {
            assert!(
                self.is_set_back || !behind.is_proved,
                "promises tell of all that any learner has: {behind:?}"
            );
            self.summary.noticed += u64::from(behind.is_proved);
        }
        if effects.leader_changed
            && let Process::Proposer(_, desk) = &mut self.nodes[at].process
        {
            desk.telling.clear();
        }
        for (to, request) in &effects.acceptors {
            self.check.requested(life, claim, request);
            self.check.asks_by(self.list(at));
            let hurries = matches!(to, To::Quorum(_) | To::One(_))
                && matches!(request, Request::Accept { .. } | Request::Renew { .. });
            for id in self.list(at).acceptors().filter(|id| to.includes(*id)) {
                if let Request::Renew { .. } = request
                    && let Process::Proposer(_, desk) = &mut self.nodes[at].process
                    && desk.renewals.offer(id, request.clone()).is_none()
                {
                    continue;
                }
                let message = Message::Request(request.clone());
                self.call(at, self.acceptor(id), message, hurries);
            }
        }
        for learn in &effects.learners {
            let Process::Proposer(_, desk) = &mut self.nodes[at].process else {
                return;
            };
            let tells = desk.telling.tell(learn.clone());
            self.tell_learners(at, tells);
        }
        if let Some(heartbeat) = effects.heartbeat {
            self.check.announced(&heartbeat);
            self.send_all(at, Role::Proposer, &Packet::Heartbeat(heartbeat));
        }
        if effects.restart_election_timer {
            self.start_election_timer(at);
        }
        for (read, slot) in &effects.readable {
            self.check.readable(*read, *slot);
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
            let acceptor = self.acceptor(acceptor);
            self.call(at, acceptor, Message::Request(fetch), false);
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
        let values = self.clients.values(&self.config, self.now, &mut self.rng);
        self.offer(at, values);
    }

    /// Values for a proposer.
    pub(super) fn offer(&mut self, at: usize, mut values: Vec<paxos::message::Value>) {
        if self.leaders().contains(&at) {
            self.stamp(at, &mut values);
            values.iter().for_each(|value| self.check.proposed(value));
        }
        let effects = self.step_proposer(at, Input::Propose(values.clone()));
        let assigned = effects.and_then(|effects| effects.assigned);
        if let (Some(first), Process::Proposer(_, desk)) = (assigned, &mut self.nodes[at].process) {
            desk.wait_for(first, values);
        }
    }

    /// A leader lets log time pass, by its own clock.
    fn stamp(&mut self, at: usize, values: &mut [paxos::message::Value]) {
        let leader = self.proposer(at).and_then(|proposer| proposer.leader());
        let (Some(ballot), Some(first)) = (leader, values.first_mut()) else {
            return;
        };
        let last = self.stamps.get(&ballot).copied();
        let elapsed = last.map_or(0, |last| (self.now - last) * self.nodes[at].clock / 10);
        if last.is_none() || elapsed >= STAMP_EVERY_MS {
            *first = Stamp::after(elapsed, self.config.terms).put_on(first);
            self.stamps.insert(ballot, self.now);
        }
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
