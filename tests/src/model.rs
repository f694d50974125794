//! The real core in every order of events, for a small cluster: stateright tries them all.
//!
//! The network is the set of all that was ever said. Each message may arrive any number of times, in
//! any order, or never; so loss, delay, duplication and reordering need no events of their own. What
//! is chosen follows from the messages alone: a quorum's `Accepted` for one `Accept`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proposer::paxos::acceptor::{Acceptor, AnswerLimits, Record};
use proposer::paxos::ids::{Ballot, Members, NodeId, Slot};
use proposer::paxos::learner::{self, Learner};
use proposer::paxos::message::{Heartbeat, Learn, Reply, Request, Value};
use proposer::paxos::proposer::{Effects, Input, Proposer, Settings, To};
use stateright::{Model, Property};

/// A small cluster and how often each thing may happen to it.
#[derive(Clone, Copy, Debug)]
pub struct Small {
    /// How many proposers.
    pub proposers: u8,
    /// How many acceptors.
    pub acceptors: u8,
    /// Whether there is a learner.
    pub learner: bool,
    /// How often each proposer tries to lead.
    pub elections: u8,
    /// How many values each proposer is given while it leads.
    pub values: u8,
    /// How many processes end and start again.
    pub crashes: u8,
    /// Whether a proposer that starts again has lost its claim.
    pub claims_are_lost: bool,
    /// How often each proposer and the learner are told that time has passed.
    pub ticks: u8,
    /// How many reads there are. Without any, leaders' proofs of leadership are left out.
    pub reads: u8,
    /// Votes in one answer.
    pub answer_votes: usize,
    /// Whether acceptors are probed by messages, or all at once when an election begins.
    pub probes: bool,
}

impl Small {
    /// One proposer that elects itself once, three acceptors, one value.
    pub const LEAST: Small = Small {
        proposers: 1,
        acceptors: 3,
        learner: false,
        elections: 1,
        values: 1,
        crashes: 0,
        claims_are_lost: false,
        ticks: 0,
        reads: 0,
        answer_votes: 16,
        probes: false,
    };
}

/// A small cluster that was tried completely.
#[derive(Clone, Copy, Debug)]
pub struct Configuration {
    /// Its name.
    pub name: &'static str,
    /// The cluster.
    pub small: Small,
    /// How many states it has. Another number means that the core, or the model, has changed.
    pub states: usize,
    /// Whether it takes seconds rather than minutes.
    pub quick: bool,
}

const RIVALS: Small = Small {
    proposers: 2,
    acceptors: 2,
    ..Small::LEAST
};

/// Every configuration that is tried.
pub const CONFIGURATIONS: [Configuration; 9] = [
    Configuration {
        name: "two-crashes",
        small: Small {
            elections: 2,
            crashes: 2,
            ..Small::LEAST
        },
        states: 53_346,
        quick: true,
    },
    Configuration {
        name: "lost-claim",
        small: Small {
            acceptors: 2,
            elections: 2,
            crashes: 1,
            claims_are_lost: true,
            probes: true,
            ..Small::LEAST
        },
        states: 7_360,
        quick: true,
    },
    Configuration {
        name: "rivals-crash",
        small: Small {
            crashes: 1,
            ..RIVALS
        },
        states: 97_512,
        quick: true,
    },
    Configuration {
        name: "rivals-learner",
        small: Small {
            learner: true,
            ..RIVALS
        },
        states: 117_446,
        quick: true,
    },
    Configuration {
        name: "fetch",
        small: Small {
            learner: true,
            ticks: 1,
            ..Small::LEAST
        },
        states: 448_297,
        quick: false,
    },
    Configuration {
        name: "rivals-pages",
        small: Small {
            values: 2,
            answer_votes: 1,
            ..RIVALS
        },
        states: 1_059_319,
        quick: false,
    },
    Configuration {
        name: "rivals-reads",
        small: Small { reads: 1, ..RIVALS },
        states: 4_884_407,
        quick: false,
    },
    Configuration {
        name: "lost-claim-of-three",
        small: Small {
            elections: 2,
            crashes: 1,
            claims_are_lost: true,
            probes: true,
            ..Small::LEAST
        },
        states: 0,
        quick: false,
    },
    Configuration {
        name: "rivals-of-three",
        small: Small {
            acceptors: 3,
            ..RIVALS
        },
        states: 0,
        quick: false,
    },
];

/// Everything that matters for what may happen next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    proposers: Vec<Arc<ProposerNode>>,
    acceptors: Vec<Arc<AcceptorNode>>,
    learner: Option<Arc<LearnerNode>>,
    said: BTreeSet<Arc<Envelope>>,
    crashes: u8,
    reads: u8,
    /// Reads that wait, each with what was acknowledged when it began.
    waiting: BTreeMap<u64, Slot>,
    /// A read was allowed that misses something.
    stale: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ProposerNode {
    core: Proposer,
    claim: u64,
    life: u8,
    elections: u8,
    values: u8,
    ticks: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct AcceptorNode {
    core: Acceptor,
    /// Kept only where acceptors crash.
    disk: Vec<Record>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct LearnerNode {
    core: Learner,
    delivered: Vec<Value>,
    ticks: u8,
}

/// One message and its way. Nodes are numbered within their roles, from 0.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Envelope {
    /// Of a proposer in that life.
    Ask {
        from: usize,
        life: u8,
        to: usize,
        request: Request,
    },
    /// To the life that asked.
    Answer {
        from: usize,
        to: usize,
        life: u8,
        reply: Reply,
    },
    /// The learner asks.
    Fetch {
        to: usize,
        request: Request,
    },
    /// And is answered.
    Fetched {
        from: usize,
        reply: Reply,
    },
    Learn {
        from: usize,
        life: u8,
        learn: Learn,
    },
    Learned {
        to: usize,
        life: u8,
        applied: Slot,
    },
    Heartbeat {
        to: usize,
        heartbeat: Heartbeat,
    },
}

/// What may happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A message arrives.
    Arrives(Message),
    /// A proposer tries to lead.
    Elect(usize),
    /// A leader is given a value.
    Propose(usize),
    /// A leader is asked for a read.
    Read(usize),
    /// Time passes for a proposer.
    Tick(usize),
    /// Time passes for the learner.
    LearnerTick,
    /// A proposer ends and starts again.
    CrashProposer(usize),
    /// An acceptor ends and starts again.
    CrashAcceptor(usize),
}

/// A message, opaque to users of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message(Arc<Envelope>);

impl Small {
    fn members(&self) -> Members {
        Members::new(self.acceptors).expect("there is an acceptor")
    }

    fn answers(&self) -> AnswerLimits {
        AnswerLimits {
            votes: self.answer_votes,
            ..AnswerLimits::default()
        }
    }

    fn proposer(&self, index: usize, claim: u64) -> Proposer {
        let id = NodeId::at(index).expect("few proposers");
        let settings = Settings {
            batches_in_flight: 2,
            batch_values: 1,
            ..Settings::default()
        };
        Proposer::new(id, self.members(), settings, claim)
    }

    fn step(&self, state: &mut State, at: usize, input: Input) {
        let node = Arc::make_mut(&mut state.proposers[at]);
        let claim = &mut node.claim;
        let output = node.core.step(input);
        let written = output.persist(|claims| {
            claims.iter().for_each(|written| *claim = written.counter);
            Ok::<_, std::convert::Infallible>(())
        });
        let Ok(effects) = written;
        self.perform(state, at, effects);
    }

    fn perform(&self, state: &mut State, at: usize, effects: Effects) {
        let life = state.proposers[at].life;
        for (to, request) in effects.acceptors {
            let left_out = match request {
                Request::Renew { .. } => self.reads == 0 && self.ticks == 0,
                Request::Probe => !self.probes,
                _ => false,
            };
            if left_out {
                continue;
            }
            let ask = |to: usize| Envelope::Ask {
                from: at,
                life,
                to,
                request: request.clone(),
            };
            match to {
                To::One(id) => state.say(ask(id.index())),
                To::All => (0..self.acceptors.into()).for_each(|to| state.say(ask(to))),
            }
        }
        if self.learner {
            for learn in effects.learners {
                state.say(Envelope::Learn {
                    from: at,
                    life,
                    learn,
                });
            }
        }
        if let Some(heartbeat) = effects.heartbeat.filter(|_| self.ticks > 0) {
            for to in (0..self.proposers.into()).filter(|to| *to != at) {
                state.say(Envelope::Heartbeat { to, heartbeat });
            }
        }
        for (read, slot) in effects.readable {
            let acknowledged = state.waiting.remove(&read);
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
        let node = Arc::make_mut(&mut state.acceptors[at]);
        let (disk, crashes) = (&mut node.disk, self.crashes > 0);
        let written = node.core.handle(request).persist(|records| {
            if crashes {
                disk.extend_from_slice(records);
            }
            Ok::<_, std::convert::Infallible>(())
        });
        let Ok(reply) = written;
        reply
    }

    fn step_learner(&self, state: &mut State, input: learner::Input) {
        let Some(node) = &mut state.learner else {
            return;
        };
        let node = Arc::make_mut(node);
        let effects = node.core.step(input);
        assert_eq!(effects.missing, None, "no acceptor forgets what is chosen");
        node.delivered
            .extend(effects.deliver.into_iter().map(|(_, value)| value));
        if let Some(request) = effects.fetch {
            for to in 0..self.acceptors.into() {
                state.say(Envelope::Fetch {
                    to,
                    request: request.clone(),
                });
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
                state.say(Envelope::Answer {
                    from: to,
                    to: from,
                    life,
                    reply,
                });
            }
            Envelope::Fetch { to, request } => {
                let reply = self.handle(state, to, request);
                state.say(Envelope::Fetched { from: to, reply });
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
            Envelope::Learn { from, life, learn } => {
                self.step_learner(state, learner::Input::Learn(learn));
                if let Some(learner) = &state.learner {
                    let applied = learner.core.delivered();
                    state.say(Envelope::Learned {
                        to: from,
                        life,
                        applied,
                    });
                }
            }
            Envelope::Learned { to, applied, .. } => self.step(state, to, Input::Learned(applied)),
            Envelope::Heartbeat { to, heartbeat } => {
                self.step(state, to, Input::Heartbeat(heartbeat))
            }
        }
    }
}

impl State {
    fn say(&mut self, envelope: Envelope) {
        self.said.insert(Arc::new(envelope));
    }

    /// Takes out messages that can change nothing any more, so that states that differ only in them
    /// become one. `Accepted` stays: what is chosen follows from it.
    fn forget_dead(&mut self, model: &Small) {
        let (proposers, acceptors) = (&self.proposers, &self.acceptors);
        let last_election =
            |at: usize| proposers[at].elections == model.elections && model.crashes == 0;
        self.said.retain(|envelope| match &**envelope {
            Envelope::Ask {
                from,
                request: Request::Probe,
                ..
            } => !last_election(*from) || proposers[*from].core.phase() == "probing",
            Envelope::Ask {
                from,
                life,
                to,
                request: Request::Prepare { ballot, .. },
            } => {
                let core = &proposers[*from].core;
                let in_use = proposers[*from].life == *life
                    && core.counter() == ballot.counter()
                    && matches!(core.phase(), "preparing" | "leading");
                in_use || acceptors[*to].core.promised() < *ballot
            }
            Envelope::Answer {
                reply: Reply::Accepted { .. },
                ..
            } => true,
            Envelope::Answer {
                to, life, reply, ..
            } => {
                let core = &proposers[*to].core;
                let alive = proposers[*to].life == *life;
                alive
                    && match reply {
                        Reply::Probed { .. } => !last_election(*to) || core.phase() == "probing",
                        Reply::Promise { ballot, .. } => {
                            core.phase() == "preparing" && core.counter() == ballot.counter()
                        }
                        Reply::Nack { ballot, .. } => {
                            matches!(core.phase(), "preparing" | "leading")
                                && core.counter() == ballot.counter()
                        }
                        Reply::Renewed { ballot, .. } => {
                            core.leader() == Some(*ballot) && core.is_leading()
                        }
                        _ => true,
                    }
            }
            _ => true,
        });
    }

    fn lives(&self, envelope: &Envelope) -> bool {
        match envelope {
            Envelope::Answer { to, life, .. } | Envelope::Learned { to, life, .. } => {
                self.proposers[*to].life == *life
            }
            _ => true,
        }
    }

    /// Every slot up to here may have been acknowledged.
    fn acknowledged(&self) -> Slot {
        self.proposers
            .iter()
            .map(|node| node.core.committed())
            .max()
            .unwrap_or_default()
    }

    /// What quorums have voted for, by slot.
    fn chosen(&self, members: Members) -> BTreeMap<Slot, BTreeSet<&Value>> {
        let mut voters: BTreeMap<(Ballot, Slot, u64), BTreeSet<usize>> = BTreeMap::new();
        for envelope in &self.said {
            if let Envelope::Answer {
                from,
                reply:
                    Reply::Accepted {
                        ballot,
                        first,
                        count,
                    },
                ..
            } = &**envelope
            {
                voters
                    .entry((*ballot, *first, *count))
                    .or_default()
                    .insert(*from);
            }
        }
        voters.retain(|_, voters| voters.len() >= members.quorum());
        let mut chosen: BTreeMap<Slot, BTreeSet<&Value>> = BTreeMap::new();
        for (ballot, first, values) in self.accepts() {
            if voters.contains_key(&(ballot, first, values.len() as u64)) {
                for (i, value) in values.iter().enumerate() {
                    chosen
                        .entry(first.plus(i as u64))
                        .or_default()
                        .insert(value);
                }
            }
        }
        chosen
    }

    fn accepts(&self) -> impl Iterator<Item = (Ballot, Slot, &[Value])> {
        self.said.iter().filter_map(|envelope| match &**envelope {
            Envelope::Ask {
                request:
                    Request::Accept {
                        ballot,
                        first,
                        values,
                        ..
                    },
                ..
            } => Some((*ballot, *first, &values[..])),
            _ => None,
        })
    }
}

fn chosen_once(model: &Small, state: &State) -> bool {
    state
        .chosen(model.members())
        .values()
        .all(|values| values.len() == 1)
}

fn one_value_per_ballot(_: &Small, state: &State) -> bool {
    let mut proposed: BTreeMap<(Ballot, Slot), &Value> = BTreeMap::new();
    state.accepts().all(|(ballot, first, values)| {
        values.iter().enumerate().all(|(i, value)| {
            *proposed
                .entry((ballot, first.plus(i as u64)))
                .or_insert(value)
                == value
        })
    })
}

fn committed_is_chosen(model: &Small, state: &State) -> bool {
    let chosen = state.chosen(model.members());
    let proposers = state.proposers.iter().map(|node| node.core.committed());
    let acceptors = state.acceptors.iter().map(|node| node.core.committed());
    let learner = state.learner.iter().map(|node| node.core.committed());
    proposers
        .chain(acceptors)
        .chain(learner)
        .all(|committed| (1..=committed.0).all(|slot| chosen.contains_key(&Slot(slot))))
}

fn delivered_is_chosen(model: &Small, state: &State) -> bool {
    let chosen = state.chosen(model.members());
    let delivered = state.learner.iter().flat_map(|node| &node.delivered);
    (1..).zip(delivered).all(|(slot, value)| {
        chosen
            .get(&Slot(slot))
            .is_some_and(|values| values.contains(value))
    })
}

fn no_read_is_stale(_: &Small, state: &State) -> bool {
    !state.stale
}

/// So that a model in which nothing happens does not pass.
fn all_values_are_chosen(model: &Small, state: &State) -> bool {
    let chosen = state.chosen(model.members());
    let values = chosen
        .values()
        .flatten()
        .filter(|value| !value.is_noop())
        .count();
    values == usize::from(model.proposers) * usize::from(model.values)
}

fn all_is_delivered(model: &Small, state: &State) -> bool {
    let delivered = state
        .learner
        .iter()
        .flat_map(|node| &node.delivered)
        .filter(|value| !value.is_noop())
        .count();
    delivered == usize::from(model.proposers) * usize::from(model.values)
}

fn all_reads_are_allowed(model: &Small, state: &State) -> bool {
    state.reads == model.reads && state.waiting.is_empty() && state.acknowledged() > Slot::ZERO
}

impl Model for Small {
    type State = State;
    type Action = Event;

    fn init_states(&self) -> Vec<State> {
        let proposer = |index| {
            Arc::new(ProposerNode {
                core: self.proposer(index, 0),
                claim: 0,
                life: 0,
                elections: 0,
                values: 0,
                ticks: 0,
            })
        };
        let acceptor = Arc::new(AcceptorNode {
            core: Acceptor::with_answers(self.answers()),
            disk: Vec::new(),
        });
        let learner = LearnerNode {
            core: Learner::new(self.members(), Slot::ZERO),
            delivered: Vec::new(),
            ticks: 0,
        };
        vec![State {
            proposers: (0..self.proposers.into()).map(proposer).collect(),
            acceptors: vec![acceptor; self.acceptors.into()],
            learner: self.learner.then(|| Arc::new(learner)),
            said: BTreeSet::new(),
            crashes: 0,
            reads: 0,
            waiting: BTreeMap::new(),
            stale: false,
        }]
    }

    fn actions(&self, state: &State, events: &mut Vec<Event>) {
        let deliverable = state.said.iter().filter(|envelope| state.lives(envelope));
        events.extend(deliverable.map(|envelope| Event::Arrives(Message(envelope.clone()))));
        let may_crash = state.crashes < self.crashes;
        for (at, node) in state.proposers.iter().enumerate() {
            if node.elections < self.elections && !node.core.is_leading() {
                events.push(Event::Elect(at));
            }
            if node.core.is_leading() {
                if node.values < self.values {
                    events.push(Event::Propose(at));
                }
                if state.reads < self.reads {
                    events.push(Event::Read(at));
                }
                if node.ticks < self.ticks {
                    events.push(Event::Tick(at));
                }
            }
            if may_crash && node.elections > 0 {
                events.push(Event::CrashProposer(at));
            }
        }
        if may_crash {
            events.extend((0..state.acceptors.len()).map(Event::CrashAcceptor));
        }
        if state
            .learner
            .as_ref()
            .is_some_and(|node| node.ticks < self.ticks)
        {
            events.push(Event::LearnerTick);
        }
    }

    fn next_state(&self, before: &State, event: Event) -> Option<State> {
        let mut state = before.clone();
        match event {
            Event::Arrives(Message(envelope)) => self.arrives(&mut state, &envelope),
            Event::Elect(at) => {
                Arc::make_mut(&mut state.proposers[at]).elections += 1;
                self.step(&mut state, at, Input::TakeOver);
                if !self.probes {
                    self.probe_at_once(&mut state, at);
                }
            }
            Event::Propose(at) => {
                let node = Arc::make_mut(&mut state.proposers[at]);
                node.values += 1;
                let value = Value(vec![at as u8 + 1, node.values].into());
                self.step(&mut state, at, Input::Propose(vec![value]));
            }
            Event::Read(at) => {
                state.reads += 1;
                let (read, acknowledged) = (state.reads.into(), state.acknowledged());
                state.waiting.insert(read, acknowledged);
                self.step(&mut state, at, Input::Read(read));
            }
            Event::Tick(at) => {
                Arc::make_mut(&mut state.proposers[at]).ticks += 1;
                self.step(&mut state, at, Input::Tick);
            }
            Event::LearnerTick => {
                if let Some(node) = &mut state.learner {
                    Arc::make_mut(node).ticks += 1;
                }
                self.step_learner(&mut state, learner::Input::Tick);
            }
            Event::CrashProposer(at) => {
                state.crashes += 1;
                let node = Arc::make_mut(&mut state.proposers[at]);
                if self.claims_are_lost {
                    node.claim = 0;
                }
                node.life += 1;
                node.core = self.proposer(at, node.claim);
            }
            Event::CrashAcceptor(at) => {
                state.crashes += 1;
                let node = Arc::make_mut(&mut state.acceptors[at]);
                node.core = Acceptor::with_answers(self.answers());
                node.disk
                    .iter()
                    .for_each(|record| node.core.remember(record));
            }
        }
        state.forget_dead(self);
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Small>> {
        let mut properties = vec![
            Property::always("a slot is chosen once", chosen_once),
            Property::always("a ballot carries one value per slot", one_value_per_ballot),
            Property::always(
                "what is said to be committed is chosen",
                committed_is_chosen,
            ),
            Property::always("what is delivered is chosen", delivered_is_chosen),
            Property::always("no read is stale", no_read_is_stale),
            Property::sometimes("all values are chosen", all_values_are_chosen),
        ];
        if self.learner {
            properties.push(Property::sometimes(
                "all values are delivered",
                all_is_delivered,
            ));
        }
        if self.reads > 0 {
            properties.push(Property::sometimes(
                "all reads are allowed",
                all_reads_are_allowed,
            ));
        }
        properties
    }
}
