//! What each event does: the nodes' loops without their clocks, disks and connections.

use std::convert::Infallible;

use paxos::acceptor::{Acceptor, AnswerLimits, Record, TrimPolicy};
use paxos::ids::{Members, NodeId, Slot};
use paxos::learner::{self, Learner};
use paxos::message::{Learn, Reply, Request, Value};
use paxos::output::Output;
use paxos::proposer::{Effects, Input, Proposer, Settings};
use paxos::standing::{Member, Start};
use paxos::votes::Place;

use super::Small;
use super::shared::Shared;
use super::state::{AcceptorNode, Disk, Envelope, LearnerNode, ProposerNode, State};

/// Where records lie: their values stay in memory.
const NOWHERE: Place = Place { file: 0, offset: 0 };

/// What may happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A message arrives.
    Arrives(Message),
    /// A proposer tries to lead, again if it leads: it has lost patience with a quorum it cannot
    /// reach.
    Elect(usize),
    /// A leader is given a value.
    Propose(usize),
    /// A leader is asked for a read.
    Read(usize),
    /// Time passes for a proposer.
    Tick(usize),
    /// A leader learns that an acceptor is late.
    Unanswered(usize, NodeId),
    /// Time passes for the learner: if it misses something, long enough to ask for it.
    LearnerTick,
    /// A proposer ends and starts again.
    CrashProposer(usize),
    /// An acceptor ends and starts again.
    CrashAcceptor(usize),
    /// The same with an empty disk, or with an older copy of its own.
    LoseDisk(usize),
}

/// A message, opaque to users of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message(pub(super) Shared<Envelope>);

impl Small {
    pub(super) fn members(&self) -> Members {
        Members::new(self.acceptors).expect("there is an acceptor")
    }

    pub(super) fn start(&self) -> State {
        let proposer = |index| {
            Shared::new(ProposerNode {
                core: self.proposer(index, 0, 0),
                claim: 0,
                life: 0,
                elections: 0,
                values: 0,
            })
        };
        let learner = Shared::new(LearnerNode {
            core: Learner::new(self.members(), Slot::ZERO),
            delivered: Vec::new(),
            installed: Slot::ZERO,
            ticks: 0,
        });
        let mut state = State {
            proposers: (0..self.proposers.into()).map(proposer).collect(),
            acceptors: (0..self.acceptors.into())
                .map(|at| self.acceptor(at))
                .collect(),
            learner: self.learner.then_some(learner),
            kept: Shared::new(Vec::new()),
            said: Vec::new(),
            chosen: Shared::new(Default::default()),
            crashes: 0,
            disks_lost: 0,
            ticks: 0,
            reads: 0,
            acknowledged: Slot::ZERO,
            waiting: Default::default(),
            allowed: 0,
            stale: false,
        };
        (0..state.acceptors.len()).for_each(|at| self.enlist(&mut state, at));
        state
    }

    /// Whether two processes may claim the same ballot.
    pub(super) fn is_ballot_shared(&self) -> bool {
        self.claims_are_lost || self.twins
    }

    fn proposer(&self, index: usize, life: u8, claim: u64) -> Proposer {
        let id = NodeId::at(if self.twins { 0 } else { index }).expect("few proposers");
        let settings = Settings {
            batches_in_flight: 2,
            batch_values: 1,
            thrifty: self.thrifty,
            ..Settings::default()
        };
        let run = u64::from(life) << 8 | (index as u64 + 1);
        Proposer::new(id, self.members(), settings, claim).with_run(run)
    }

    fn acceptor(&self, at: usize) -> Shared<AcceptorNode> {
        let disk = self.empty_disk(at, 0);
        Shared::new(AcceptorNode {
            core: self.restore(at, &disk),
            copy: None,
            disk,
            life: 0,
            has_voted: false,
            is_lost: false,
        })
    }

    fn empty_disk(&self, at: usize, life: u8) -> Disk {
        let number = u64::from(life) << 8 | (at as u64 + 1);
        let start = Start {
            incarnation: number,
            count: 1,
            run: number,
        };
        Disk {
            start,
            is_witnessed: false,
            known: Default::default(),
            records: Vec::new(),
        }
    }

    fn restore(&self, at: usize, disk: &Disk) -> Member {
        let answers = AnswerLimits {
            votes: self.answer_votes,
            ..AnswerLimits::default()
        };
        let trimming = TrimPolicy {
            tail: 0,
            stride: 1,
            ..TrimPolicy::default()
        };
        let acceptor = Acceptor::with_answers(answers).with_trimming(trimming);
        let me = NodeId::at(at).expect("few acceptors");
        let mut core = Member::new(me, self.members(), disk.start, acceptor);
        core.replay(&Record::Known(disk.known.clone()), NOWHERE);
        let records = disk.records.iter();
        records.for_each(|record| core.replay(record, NOWHERE));
        core
    }

    /// An acceptor ends and starts again with this disk.
    fn restart(&self, state: &mut State, at: usize, disk: Option<Disk>) {
        state.acceptors[at].change(|node| {
            node.life += u8::from(self.enlists);
            if let Some(disk) = disk {
                node.is_lost |= node.has_voted;
                node.disk = disk;
            }
            let disk = &mut node.disk;
            if disk.is_witnessed {
                if self.disks_are_copies {
                    node.copy = Some(disk.clone());
                    node.has_voted = false;
                }
                let run = u64::from(node.life) << 8 | (at as u64 + 1);
                disk.start = disk.start.next(run);
                disk.is_witnessed = false;
            }
            node.core = self.restore(at, &node.disk);
        });
        let begun = state.acceptors[at].change(|node| node.core.begin());
        self.persist(state, at, begun);
        self.enlist(state, at);
    }

    pub(super) fn happens(&self, state: &mut State, event: Event) {
        match event {
            Event::Arrives(Message(envelope)) => self.arrives(state, &envelope),
            Event::Elect(at) => {
                state.proposers[at].change(|node| node.elections += 1);
                self.step(state, at, Input::StepDown);
                self.step(state, at, Input::TakeOver);
                if !self.probes {
                    self.probe_at_once(state, at);
                }
            }
            Event::Propose(at) => {
                let values = state.proposers[at].change(|node| {
                    node.values += 1;
                    node.values
                });
                let value = Value(vec![at as u8 + 1, values].into());
                self.step(state, at, Input::Propose(vec![value]));
            }
            Event::Read(at) => {
                state.reads += 1;
                let read = state.reads.into();
                state.waiting.insert(read, state.acknowledged);
                self.step(state, at, Input::Read(read));
            }
            Event::Tick(at) => {
                state.ticks += 1;
                self.step(state, at, Input::Tick);
            }
            Event::Unanswered(at, acceptor) => {
                state.ticks += 1;
                self.step(state, at, Input::Unanswered(acceptor));
            }
            Event::LearnerTick => {
                if let Some(node) = &mut state.learner {
                    node.change(|node| node.ticks += 1);
                }
                // The first marks a gap, the second fetches it. In between nothing that matters can
                // happen: a gap that moves is marked again.
                self.step_learner(state, learner::Input::Tick);
                self.step_learner(state, learner::Input::Tick);
            }
            Event::CrashProposer(at) => {
                state.crashes += 1;
                state.proposers[at].change(|node| {
                    if self.claims_are_lost {
                        node.claim = 0;
                    }
                    node.life += 1;
                    node.core = self.proposer(at, node.life, node.claim);
                });
            }
            Event::CrashAcceptor(at) => {
                state.crashes += 1;
                self.restart(state, at, None);
            }
            Event::LoseDisk(at) => {
                state.disks_lost += 1;
                let node = &state.acceptors[at];
                let empty = || self.empty_disk(at, node.life + 1);
                let disk = node.copy.clone().unwrap_or_else(empty);
                self.restart(state, at, Some(disk));
            }
        }
    }

    fn arrives(&self, state: &mut State, envelope: &Envelope) {
        match envelope.clone() {
            Envelope::Ask {
                from,
                life,
                to,
                request,
            } => {
                let reply = self.handle(state, to, request);
                let answer = Envelope::Answer {
                    from: to,
                    to: from,
                    life,
                    reply,
                };
                state.say(self, answer);
            }
            Envelope::Enlist {
                from,
                life,
                to,
                request,
            } => {
                let reply = self.handle(state, to, request);
                let answer = Envelope::Enlisted {
                    from: to,
                    to: from,
                    life,
                    reply,
                };
                state.say(self, answer);
            }
            Envelope::Enlisted {
                from, to, reply, ..
            } => {
                self.heard(state, to, from, &reply);
                self.enlist(state, to);
            }
            Envelope::Fetch { to, request } => {
                let reply = self.handle(state, to, request);
                state.say(self, Envelope::Fetched { from: to, reply });
            }
            Envelope::Answer {
                from, to, reply, ..
            } => {
                let from = NodeId::at(from).expect("few acceptors");
                self.step(state, to, Input::Reply { from, reply });
            }
            Envelope::Fetched { from, reply } => {
                let from = NodeId::at(from).expect("few acceptors");
                self.step_learner(state, learner::Input::Reply { from, reply });
            }
            Envelope::Snapshot { values } => install(state, values),
            Envelope::Learn { from, life, learn } => {
                self.step_learner(state, learner::Input::Learn(learn));
                if let Some(learner) = &state.learner {
                    let applied = learner.core.delivered();
                    let learned = Envelope::Learned {
                        to: from,
                        life,
                        applied,
                    };
                    state.say(self, learned);
                }
            }
            Envelope::Learned { to, applied, .. } => self.step(state, to, Input::Learned(applied)),
            Envelope::Heartbeat { to, heartbeat } => {
                self.step(state, to, Input::Heartbeat(heartbeat));
            }
        }
    }

    fn step(&self, state: &mut State, at: usize, input: Input) {
        let written = state.proposers[at].change(|node| {
            let claim = &mut node.claim;
            node.core.step(input).persist(|claims| {
                claims.iter().for_each(|written| *claim = written.counter);
                Ok::<_, Infallible>(())
            })
        });
        let Ok(effects) = written;
        if self.reads > 0 {
            let committed = state.proposers[at].core.committed();
            state.acknowledged = state.acknowledged.max(committed);
        }
        self.perform(state, at, effects);
    }

    fn perform(&self, state: &mut State, at: usize, effects: Effects) {
        let life = state.proposers[at].life;
        for (to, request) in effects.acceptors {
            let left_out = match request {
                Request::Renew { trim, .. } => self.reads == 0 && trim == Slot::ZERO,
                Request::Probe => !self.probes,
                _ => false,
            };
            if left_out {
                continue;
            }
            let asked = self.members().acceptors().filter(|id| to.includes(*id));
            for to in asked.map(NodeId::index) {
                let request = request.clone();
                let ask = Envelope::Ask {
                    from: at,
                    life,
                    to,
                    request,
                };
                state.say(self, ask);
            }
        }
        for learn in effects.learners {
            if self.trims {
                keep(state, &learn);
                let durable = Slot(state.kept.len() as u64);
                self.step(state, at, Input::Durable(durable));
            }
            if self.learner {
                let learn = Envelope::Learn {
                    from: at,
                    life,
                    learn,
                };
                state.say(self, learn);
            }
        }
        if let Some(heartbeat) = effects.heartbeat.filter(|_| self.heartbeats) {
            for to in (0..self.proposers.into()).filter(|to| *to != at) {
                state.say(self, Envelope::Heartbeat { to, heartbeat });
            }
        }
        for (read, slot) in effects.readable {
            let acknowledged = state.waiting.remove(&read);
            state.allowed += 1;
            state.stale |= acknowledged.is_none_or(|acknowledged| slot < acknowledged);
        }
        for read in effects.unreadable {
            state.waiting.remove(&read);
        }
    }

    fn probe_at_once(&self, state: &mut State, at: usize) {
        for acceptor in 0..state.acceptors.len() {
            let reply = self.handle(state, acceptor, Request::Probe);
            let from = NodeId::at(acceptor).expect("few acceptors");
            self.step(state, at, Input::Reply { from, reply });
        }
    }

    /// The reply of an acceptor, whose records are on its disk.
    fn handle(&self, state: &mut State, at: usize, request: Request) -> Reply {
        let output = state.acceptors[at].change(|node| node.core.handle(request));
        let answer = self.persist(state, at, output);
        answer.into_reply(&()).expect("all values are in memory")
    }

    fn heard(&self, state: &mut State, at: usize, from: usize, reply: &Reply) {
        let from = NodeId::at(from).expect("few acceptors");
        let output = state.acceptors[at].change(|node| node.core.heard(from, reply));
        self.persist(state, at, output);
    }

    fn persist<E>(&self, state: &mut State, at: usize, output: Output<Record, E>) -> E {
        state.acceptors[at].change(|node| {
            let (disk, mut places) = (&mut node.disk, Vec::new());
            let written = output.persist_proven(|records| {
                for record in records {
                    if let Record::Accepted { .. } = record {
                        places.push(NOWHERE);
                    }
                    match record {
                        Record::Known(roster) => disk.known = roster.clone(),
                        record if self.crashes > 0 => disk.records.push(record.clone()),
                        _ => {}
                    }
                }
                Ok::<_, Infallible>(())
            });
            let Ok((effects, proof)) = written;
            node.core.written(proof, &places);
            if self.enlists && node.core.votes() {
                disk.is_witnessed = true;
                node.has_voted = true;
            }
            effects
        })
    }

    /// Has a start witnessed: by messages, or by all others at once.
    fn enlist(&self, state: &mut State, at: usize) {
        let Some((open, request)) = state.acceptors[at].core.enlist() else {
            return;
        };
        let life = state.acceptors[at].life;
        for to in open.iter().map(|id| id.index()) {
            let request = request.clone();
            if self.enlists {
                let enlist = Envelope::Enlist {
                    from: at,
                    life,
                    to,
                    request,
                };
                state.say(self, enlist);
            } else {
                let reply = self.handle(state, to, request);
                self.heard(state, at, to, &reply);
            }
        }
    }

    fn step_learner(&self, state: &mut State, input: learner::Input) {
        let Some(node) = &mut state.learner else {
            return;
        };
        let effects = node.change(|node| {
            let mut effects = node.core.step(input);
            let values = effects.deliver.drain(..).map(|(_, value)| value);
            node.delivered.extend(values);
            effects
        });
        assert_eq!(effects.missing, None, "no acceptor loses what is chosen");
        if let Some(floor) = effects.truncated {
            let values = state.kept.to_vec();
            assert!(
                floor.0 <= values.len() as u64,
                "the other learners have what acceptors forget"
            );
            state.say(self, Envelope::Snapshot { values });
        }
        for (to, request) in effects.fetch {
            let to = to.index();
            state.say(self, Envelope::Fetch { to, request });
        }
    }
}

/// The other learners apply at once what a leader says to be chosen, and have it on disk.
fn keep(state: &mut State, learn: &Learn) {
    let next = state.kept.len() as u64 + 1;
    assert!(learn.first.0 <= next, "they miss nothing");
    let new = (learn.first.0..).zip(&*learn.values);
    let new: Vec<_> = new
        .filter(|(slot, _)| *slot >= next)
        .map(|(_, value)| value.clone())
        .collect();
    if !new.is_empty() {
        state.kept.change(|kept| kept.extend(new));
    }
}

fn install(state: &mut State, values: Vec<Value>) {
    let slot = Slot(values.len() as u64);
    let Some(node) = &mut state.learner else {
        return;
    };
    if slot > node.core.delivered() {
        node.change(|node| {
            node.core.skip_to(slot);
            node.delivered = values;
            node.installed = slot;
        });
    }
}
