//! Learners: what happens goes to the loop that ships, what it asks for happens here, and the checker sees
//! both.

use std::time::Duration;

use paxos::acceptor::Room;
use paxos::ids::{Members, NodeId, NodeName, Role, Slot};
use paxos::learner::Learner;
use paxos::machine::Outcome;
use paxos::message::{Learn, Learned, Message, Request};
use paxos::verify::Verdict;
use roles::learner::{Action, Event, Halt, LearnerRole, Notice, Sampling, Settings};

use super::calls::{Heard, Patience, millis};
use super::node::{Asker, Disk, Process};
use super::replica::{Opened, Replica, Teller};
use super::{Config, LEARNER_TICK, Packet, Rng, Sim, Timer};

/// What the loop asks for, or why its disk failed.
type Done = Result<Vec<Action<Teller>>, String>;

impl Config {
    /// The limits of learners' loops.
    fn learner_settings(&self) -> Settings {
        let (answer_bytes, recalled_bytes) = self.outcome_bytes;
        let tick = Duration::from_millis(LEARNER_TICK);
        Settings {
            record_bytes: self.record_bytes,
            sync_bytes: self.sync_bytes,
            most_unsynced_bytes: self.sync_bytes.saturating_mul(8),
            snapshot_every_bytes: self.snapshot_every_bytes,
            snapshot_multiple: self.snapshot_multiple,
            answer_bytes,
            recalled_bytes,
            sampling: self.samples.then_some(Sampling {
                every: tick,
                idle_every: tick,
            }),
            ..Settings::default()
        }
    }
}

impl Sim {
    /// A learner's process on what its disk gave.
    pub(super) fn open_learner(&mut self, at: usize, opened: Opened, members: Members) -> Replica {
        // Somebody has seen to its disk.
        self.nodes[at].room = Room::Enough;
        let (config, me) = (&self.config, self.nodes[at].name);
        let of = |role, count| NodeId::first(count).map(move |id| NodeName { role, id });
        let others = of(Role::Learner, config.learners).chain(of(Role::Store, config.stores));
        let others = others.filter(|node| *node != me).collect();
        let core = Learner::new(members, Slot::ZERO);
        let core = core.with_ahead_slots(config.ahead_slots);
        let core = core.with_ahead_bytes(config.ahead_bytes);
        let settings = config.learner_settings();
        let rng = Rng::new(self.rng.bits());
        let (world, log, snapshot_bytes) = opened.world(others, rng);
        let now = self.clock(at);
        let role = LearnerRole::new(world, settings, members, core, log, snapshot_bytes, now);
        self.check.learner_restarted(me.id, role.applied());
        Replica::new(role)
    }

    /// A leader, or somebody else, tells a learner what is chosen.
    pub(super) fn learn(&mut self, at: usize, from: Asker, learn: Learn) {
        let id = self.nodes[at].name.id;
        let Process::Learner(replica) = &self.nodes[at].process else {
            return;
        };
        let known = replica.state().digests.known();
        let is_known = |slot| known.is_some_and(|(first, last)| first <= slot && slot <= last);
        let slots = (learn.first.0..).map(Slot);
        let mut differs = slots
            .zip(learn.values.iter())
            .filter(|(slot, _)| is_known(*slot))
            .filter(|(slot, value)| self.check.applied_value(id, *slot) != Some(*value));
        let another = differs.next().map(|(slot, _)| slot);
        let event = Event::Told {
            from: self.nodes[from.life.0].name,
            asker: (from, learn.clone()),
            learn,
        };
        let may_learn = self.may_learn(at);
        self.feed(at, event);
        if !may_learn {
            // It took no notice.
            self.answer(at, from, Packet::Refused);
        }
        if let (Some(slot), Process::Learner(replica)) = (another, &self.nodes[at].process) {
            let role = &replica.role;
            assert!(
                role.is_in_doubt() || role.halted().is_some() || !may_learn,
                "a learner notices that it is told another value for {slot}"
            );
        }
    }

    /// What a learner hears of a question to an acceptor.
    pub(super) fn learner_heard(&mut self, at: usize, number: u64, heard: Heard) {
        match heard {
            Heard::Answer(Some(Message::Reply(reply))) => {
                self.feed(at, Event::Answered { number, reply });
            }
            Heard::Answer(_) => {
                let why = "no answer to this".to_owned();
                self.feed(at, Event::Failed { number, why });
            }
            Heard::Failed(why) => {
                let why = why.to_string();
                self.feed(at, Event::Failed { number, why });
            }
            Heard::Late | Heard::Progress => {}
        }
    }

    pub(super) fn tick_learner(&mut self, at: usize) {
        self.lose_patience(at);
        if !self.healed && self.rng.chance(self.config.false_words) {
            self.say_something_else(at);
        }
        let dice = self.rng.bits();
        self.feed(at, Event::Tick { dice });
        self.feed_a_store(at);
    }

    /// The copy of a learner's state becomes a snapshot.
    pub(super) fn snapshot_due(&mut self, at: usize) {
        self.run_learner(at, |replica, now| {
            let Some(copy) = replica.copy.take() else {
                return Ok(Vec::new());
            };
            let bytes = replica.role.world_mut().write_snapshot(&copy)?;
            replica.role.on(Event::SnapshotWritten { bytes }, now)
        });
    }

    /// Something happens to a learner.
    pub(super) fn feed(&mut self, at: usize, event: Event<Teller>) {
        // What is served where it came in leaves the disk to the next tick.
        let is_inline = !matches!(event, Event::Tick { .. }) && self.rng.chance(300);
        self.run_learner(at, |replica, now| replica.role.on(event, now));
        self.run_learner(at, |replica, now| match is_inline {
            true => replica.role.answer(now),
            false => replica.role.settle(now),
        });
    }

    fn run_learner(&mut self, at: usize, run: impl FnOnce(&mut Replica, Duration) -> Done) {
        let now = self.clock(at);
        let may_learn = self.may_learn(at);
        let node = &mut self.nodes[at];
        let (Process::Learner(replica), Disk::Shelf(shelf)) = (&mut node.process, &mut node.disk)
        else {
            return;
        };
        let world = replica.role.world_mut();
        (world.may_learn, world.room) = (may_learn, node.room);
        world.bad_write = node.bad_write;
        let done = run(replica, now);
        let world = replica.role.world_mut();
        node.bad_write = world.bad_write;
        let (is_struck, entries) = (world.is_struck, world.take_applied());
        shelf.durable = shelf.durable.max(replica.role.durable());
        for entry in &entries {
            self.check.delivered(node.name.id, entry);
        }
        self.check.learner_durable(node.name.id, shelf.durable);
        match (done, is_struck) {
            (Ok(actions), false) => {
                let process = (at, node.life);
                self.look_at_learner(at);
                for action in actions {
                    // One of them may end it.
                    if self.lives(process) {
                        self.act(at, action);
                    }
                }
            }
            (Err(error), false) => panic!("a healthy disk takes every write: {error}"),
            (_, true) => {
                let down = self.rng.between(1, self.config.down);
                self.crash(at, down);
            }
        }
    }

    /// What holds of a learner at any time.
    fn look_at_learner(&mut self, at: usize) {
        let Process::Learner(replica) = &self.nodes[at].process else {
            return;
        };
        self.check.committed(replica.role.core().committed());
        let (values, found) = replica.state().recent.bytes();
        let bounds = self.config.recent;
        assert!(
            values <= bounds.bytes && found <= bounds.found_bytes,
            "memory is bounded"
        );
        let ahead = replica.role.core().ahead_bytes();
        assert!(
            ahead <= self.config.ahead_bytes,
            "{ahead} bytes ahead of a gap"
        );
    }

    fn act(&mut self, at: usize, action: Action<Teller>) {
        let id = self.nodes[at].name.id;
        match action {
            Action::Answer {
                asker: (to, learn),
                learned,
            } => self.answer_leader(at, to, &learn, learned),
            Action::AskAcceptor {
                number,
                acceptor,
                request,
                within,
            } => self.ask_acceptor(at, acceptor, number, request, within),
            Action::AskNode { number, node, ask } => self.ask_node(at, number, node, ask),
            Action::Receive {
                number,
                slot,
                offset,
                bytes,
            } => self.run_learner(at, |replica, now| {
                replica.role.world_mut().receive(slot, offset, &bytes)?;
                replica.role.on(Event::Received { number }, now)
            }),
            Action::WriteSnapshot(copy) => {
                if let Process::Learner(replica) = &mut self.nodes[at].process {
                    replica.copy = Some(copy);
                    self.start_timer(at, Timer::Written);
                }
            }
            Action::Installed(slot) => {
                self.check.learner_installed(id, slot);
                self.summary.installed += 1;
                if let Process::Learner(replica) = &self.nodes[at].process
                    && let Some((_, node, _)) = replica.asked
                {
                    self.summary.from_stores += u64::from(node.role == Role::Store);
                }
            }
            Action::Lost(lost) => assert!(
                lost.is_none_or(|lost| !lost.is_certain())
                    || self.is_set_back
                    || self.are_disks_away,
                "somebody has what the acceptors have forgotten"
            ),
            Action::Halted(halt) => match halt {
                Halt::Contradicted { slot, .. } => {
                    assert!(
                        self.is_set_back,
                        "acceptors have what a learner has applied: {slot}"
                    );
                    self.summary.noticed += 1;
                }
                Halt::Undecodable { slot, .. } => {
                    panic!("no quorum of acceptors has what nobody proposed: {slot}")
                }
                Halt::Outvoted => panic!("nobody compares learners here"),
            },
            Action::Say(notice) => self.hear_notice(notice),
            Action::Judged {
                verdict, told_by, ..
            } => {
                let is_refused = verdict == Verdict::Same && told_by.is_some();
                self.summary.words_refused += u64::from(is_refused);
            }
        }
    }

    fn hear_notice(&mut self, notice: Notice) {
        match notice {
            Notice::Missing(_) => {
                assert!(self.is_set_back, "no acceptor forgets what is chosen");
                self.summary.noticed += 1;
            }
            Notice::Disputed(slot) => {
                assert!(
                    self.is_set_back || self.unreadable.contains(&slot),
                    "one value is told for a slot"
                );
                self.summary.noticed += 1;
            }
            Notice::Unread(_) => self.summary.unread += 1,
            Notice::ToldAnother { .. }
            | Notice::Behind(_)
            | Notice::NotFrom { .. }
            | Notice::NoRoomFor { .. } => {}
        }
    }

    fn answer_leader(&mut self, at: usize, to: Asker, learn: &Learn, learned: Learned) {
        let id = self.nodes[at].name.id;
        let told = (learn.first.0..).map(Slot).zip(&learn.values[..]);
        for ((slot, value), outcome) in told.zip(&learned.outcomes) {
            // Untold is no outcome.
            if let Some(applied) = outcome
                && applied.outcome != Outcome::Untold
            {
                self.check.answered_for(id, slot, value, applied.slot);
            }
        }
        let message = Message::Learned(learned);
        let (most, _) = self.config.outcome_bytes;
        assert!(
            message.size_hint() <= most,
            "an answer of at most {most} bytes"
        );
        let packet = self.said(at, message);
        self.answer(at, to, packet);
    }

    fn ask_acceptor(
        &mut self,
        at: usize,
        acceptor: NodeId,
        number: u64,
        request: Request,
        within: Duration,
    ) {
        self.check.asks_by(self.list(at));
        let acceptor = self.acceptor(acceptor);
        let patience = Patience {
            within: millis(within),
            late_after: None,
            hears_progress: false,
        };
        self.call(at, acceptor, number, Message::Request(request), patience);
    }
}
