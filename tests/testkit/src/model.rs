//! The real core in every order of events, for a small cluster: stateright tries them all.
//!
//! The network is the set of all that was ever said. Each message may arrive any number of times, in
//! any order, or never; so loss, delay, duplication and reordering need no events of their own. What
//! is chosen follows from the messages alone: a quorum's `Accepted` for one `Accept`.

mod rules;
mod shared;
mod state;
mod steps;

use stateright::{Model, Property};

pub use state::State;
pub use steps::{Event, Message};

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
    /// Whether all proposers are processes with one and the same identity.
    pub twins: bool,
    /// How often leaders learn that time has passed.
    pub ticks: u8,
    /// Whether leaders ask a quorum at first. Instead of time, it may be an acceptor's silence that
    /// they learn of.
    pub thrifty: bool,
    /// How often the learner is.
    pub learner_ticks: u8,
    /// Whether leaders' heartbeats reach the other proposers.
    pub heartbeats: bool,
    /// How many reads there are. Without any, leaders' proofs of leadership are left out, but for
    /// those that let acceptors forget.
    pub reads: u8,
    /// Votes in one answer.
    pub answer_votes: usize,
    /// Whether acceptors are probed by messages, or all at once when an election begins.
    pub probes: bool,
    /// Whether acceptors forget. There is a quorum of other learners then, which have on disk all
    /// that any leader knows to be chosen.
    pub trims: bool,
    /// Whether acceptors have their starts witnessed by messages, or at once.
    pub enlists: bool,
    /// How many acceptors' disks are lost.
    pub disks_lost: u8,
    /// Whether they are replaced by older copies of themselves, or by empty ones.
    pub disks_are_copies: bool,
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
        twins: false,
        ticks: 0,
        thrifty: false,
        learner_ticks: 0,
        heartbeats: false,
        reads: 0,
        answer_votes: 16,
        probes: false,
        trims: false,
        enlists: false,
        disks_lost: 0,
        disks_are_copies: false,
    };
}

/// A small cluster that is tried, completely if it can be.
#[derive(Clone, Copy, Debug)]
pub struct Configuration {
    /// Its name.
    pub name: &'static str,
    /// The cluster.
    pub small: Small,
    /// How many states it has. Another number means that the core, or the model, has changed. `None`
    /// for one that is too large to be tried completely each time.
    pub states: Option<usize>,
    /// Whether it takes seconds rather than minutes.
    pub quick: bool,
}

const RIVALS: Small = Small {
    proposers: 2,
    acceptors: 2,
    ..Small::LEAST
};

/// Every configuration that is tried.
pub const CONFIGURATIONS: [Configuration; 19] = [
    Configuration {
        name: "two-crashes",
        small: Small {
            elections: 2,
            crashes: 2,
            ..Small::LEAST
        },
        states: Some(192_530),
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
        states: Some(16_852),
        quick: true,
    },
    Configuration {
        name: "rivals-crash",
        small: Small {
            crashes: 1,
            ..RIVALS
        },
        states: Some(97_512),
        quick: true,
    },
    Configuration {
        name: "rivals-learner",
        small: Small {
            learner: true,
            ..RIVALS
        },
        states: Some(153_914),
        quick: true,
    },
    Configuration {
        name: "fetch",
        small: Small {
            learner: true,
            learner_ticks: 1,
            values: 2,
            ..Small::LEAST
        },
        states: Some(35_010),
        quick: true,
    },
    Configuration {
        name: "thrifty",
        small: Small {
            thrifty: true,
            ticks: 1,
            values: 2,
            ..Small::LEAST
        },
        states: Some(21_945),
        quick: true,
    },
    Configuration {
        name: "thrifty-elected-again",
        small: Small {
            thrifty: true,
            elections: 2,
            values: 2,
            ticks: 2,
            ..Small::LEAST
        },
        states: Some(4_715_512),
        quick: false,
    },
    Configuration {
        name: "elected-again",
        small: Small {
            elections: 2,
            values: 2,
            ..Small::LEAST
        },
        states: Some(232_505),
        quick: false,
    },
    Configuration {
        name: "rivals-trim-snapshot",
        small: Small {
            ticks: 1,
            trims: true,
            learner: true,
            learner_ticks: 1,
            ..RIVALS
        },
        states: None,
        quick: false,
    },
    Configuration {
        name: "rivals-trim",
        small: Small {
            ticks: 1,
            trims: true,
            ..RIVALS
        },
        states: Some(85_053),
        quick: true,
    },
    Configuration {
        name: "twins",
        small: Small {
            twins: true,
            ..RIVALS
        },
        states: Some(8_936),
        quick: true,
    },
    Configuration {
        name: "lost-disk",
        small: Small {
            enlists: true,
            proposers: 0,
            disks_lost: 1,
            ..Small::LEAST
        },
        states: Some(401_196),
        quick: false,
    },
    Configuration {
        name: "lost-disk-crash",
        small: Small {
            acceptors: 2,
            enlists: true,
            crashes: 1,
            disks_lost: 1,
            ..Small::LEAST
        },
        states: Some(758_756),
        quick: false,
    },
    Configuration {
        name: "older-copy",
        small: Small {
            acceptors: 2,
            enlists: true,
            proposers: 0,
            crashes: 1,
            disks_lost: 1,
            disks_are_copies: true,
            ..Small::LEAST
        },
        states: Some(3_272),
        quick: true,
    },
    Configuration {
        name: "snapshot",
        small: Small {
            ticks: 1,
            trims: true,
            learner: true,
            learner_ticks: 1,
            values: 2,
            acceptors: 2,
            ..Small::LEAST
        },
        states: Some(37_465),
        quick: true,
    },
    Configuration {
        name: "rivals-pages",
        small: Small {
            values: 2,
            answer_votes: 1,
            ..RIVALS
        },
        states: Some(1_059_319),
        quick: false,
    },
    Configuration {
        name: "rivals-reads",
        small: Small { reads: 1, ..RIVALS },
        states: None,
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
        states: None,
        quick: false,
    },
    Configuration {
        name: "rivals-of-three",
        small: Small {
            acceptors: 3,
            ..RIVALS
        },
        states: None,
        quick: false,
    },
];

impl Model for Small {
    type State = State;
    type Action = Event;

    fn init_states(&self) -> Vec<State> {
        vec![self.start()]
    }

    fn actions(&self, state: &State, events: &mut Vec<Event>) {
        let deliverable = state.said.iter().filter(|envelope| state.lives(envelope));
        events.extend(deliverable.map(|envelope| Event::Arrives(Message(envelope.clone()))));
        let may_crash = state.crashes < self.crashes;
        for (at, node) in state.proposers.iter().enumerate() {
            if node.elections < self.elections {
                events.push(Event::Elect(at));
            }
            if node.core.is_leading() {
                if node.values < self.values {
                    events.push(Event::Propose(at));
                }
                if state.reads < self.reads {
                    events.push(Event::Read(at));
                }
                if state.ticks < self.ticks {
                    events.push(Event::Tick(at));
                    if self.thrifty {
                        let acceptors = self.members().acceptors();
                        events.extend(acceptors.map(|acceptor| Event::Unanswered(at, acceptor)));
                    }
                }
            }
            if may_crash && node.elections > 0 {
                events.push(Event::CrashProposer(at));
            }
        }
        if may_crash {
            events.extend((0..state.acceptors.len()).map(Event::CrashAcceptor));
        }
        if state.disks_lost < self.disks_lost {
            for (at, node) in state.acceptors.iter().enumerate() {
                if node.copy.is_some() || !self.disks_are_copies {
                    events.push(Event::LoseDisk(at));
                }
            }
        }
        if state
            .learner
            .as_ref()
            .is_some_and(|node| node.ticks < self.learner_ticks)
        {
            events.push(Event::LearnerTick);
        }
    }

    fn next_state(&self, before: &State, event: Event) -> Option<State> {
        let mut state = before.clone();
        self.happens(&mut state, event);
        state.forget_dead(self);
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Small>> {
        rules::properties(self)
    }
}
