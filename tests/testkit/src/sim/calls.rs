//! Calls: what a node asked of another, until the answer is here, or the call is refused, or its time
//! is up. The asker's core hears of each end, as it does from the drivers.

use std::collections::BTreeMap;
use std::time::Duration;

use paxos::ids::{NodeId, Role, Slot};
use paxos::learner;
use paxos::message::{Message, Reply, Request};
use paxos::proposer::{Input, Sent};
use paxos::telling::Tell;
use roles::pace::Pace;

use super::node::{Asker, Process};
use super::{ELECTION, Event, HEARTBEAT, Packet, Sim};

/// How long an answer to a fetch may take to begin, and to continue.
const FETCH: u64 = 2_000;
/// How long a learner may take to say how far it is.
const ANNOUNCE: u64 = 2_000;
/// Between two words that an answer is coming.
const PROGRESS_EVERY: u64 = 50;

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// An acceptor, by a proposer; for this many votes.
    Asked {
        sent: Sent,
        is_renewal: bool,
        votes: u64,
    },
    /// A leader's message to a learner.
    Told { first: Slot, count: usize },
    /// An acceptor, by a learner.
    Fetch { first: Slot, last: Slot },
}

/// What becomes due of a call, by its number.
#[derive(Clone, Copy, Debug)]
pub(super) enum Due {
    /// It is late.
    Late(u64),
    /// It is given up, unless some of its answer has come lately.
    GivenUp(u64),
    /// Nothing was there to take it.
    Refused(u64),
    /// Part of its answer comes.
    Progress(u64),
}

impl Due {
    fn call(self) -> u64 {
        let (Due::Late(call) | Due::GivenUp(call) | Due::Refused(call) | Due::Progress(call)) =
            self;
        call
    }
}

#[derive(Clone, Copy, Debug)]
struct Call {
    number: u64,
    what: What,
    bytes: usize,
    made_at: u64,
    heard_at: u64,
    patience: u64,
}

/// Every call that is open.
#[derive(Debug, Default)]
pub(super) struct Calls {
    open: BTreeMap<(Asker, usize), Vec<Call>>,
    made: u64,
    /// What is usual of votes and of renewals, for each proposer; and over each link.
    usual: BTreeMap<(usize, bool), Pace>,
    paces: BTreeMap<(usize, usize), Pace>,
}

impl Calls {
    pub(super) fn is_open(&self, of: Asker, to: usize, due: Due) -> bool {
        self.get(of, to, due.call()).is_some()
    }

    fn get(&self, of: Asker, to: usize, number: u64) -> Option<&Call> {
        let open = self.open.get(&(of, to))?;
        open.iter().find(|call| call.number == number)
    }

    fn end(&mut self, of: Asker, to: usize, is_it: impl Fn(&Call) -> bool) -> Option<Call> {
        let open = self.open.get_mut(&(of, to))?;
        let place = open.iter().position(is_it)?;
        let call = open.remove(place);
        if open.is_empty() {
            self.open.remove(&(of, to));
        }
        Some(call)
    }

    /// Nothing is left of what a process asked.
    pub(super) fn forget(&mut self, asker: Asker) {
        self.open.retain(|(of, _), _| *of != asker);
    }
}

impl Sim {
    /// Sends a message and waits for the answer.
    pub(super) fn call(&mut self, from: usize, to: usize, message: Message, hurries: bool) {
        let what = what_of(&message);
        let packet = self.said(from, message);
        let bytes = packet.bytes();
        let Some(what) = what else {
            return self.send(from, to, &packet);
        };
        let is_long = match what {
            What::Asked { sent, .. } => matches!(sent, Sent::Accept { .. }),
            What::Told { count, .. } => count > 0,
            What::Fetch { .. } => false,
        };
        let pace = self.calls.paces.entry((from, to)).or_default();
        let patience = match what {
            _ if is_long => millis(pace.give_up_after(bytes)),
            What::Asked {
                sent: Sent::Prepare { .. },
                ..
            } => 2 * ELECTION,
            What::Asked { .. } => ELECTION,
            What::Told { .. } => ANNOUNCE,
            What::Fetch { .. } => FETCH,
        };
        self.calls.made += 1;
        let (number, of) = (self.calls.made, (from, self.nodes[from].life));
        let call = Call {
            number,
            what,
            bytes,
            made_at: self.now,
            heard_at: self.now,
            patience,
        };
        self.calls.open.entry((of, to)).or_default().push(call);
        self.schedule(patience, call_event(of, to, Due::GivenUp(number)));
        if hurries {
            let is_renewal = !is_long;
            let usual = self.calls.usual.entry((from, is_renewal)).or_default();
            let late = usual.late_after(bytes, Duration::from_millis(HEARTBEAT));
            self.schedule(millis(late), call_event(of, to, Due::Late(number)));
        }
        self.send(from, to, &packet);
    }

    pub(super) fn tell_learners(&mut self, at: usize, tells: impl IntoIterator<Item = Tell>) {
        for Tell { to, learn } in tells {
            self.check.told(&learn);
            for id in to {
                let learner = self.learner(id);
                self.call(at, learner, Message::Learn(learn.clone()), false);
            }
        }
    }

    /// Of every call that is open now the asker hears within that time: its answer, or that there will be
    /// none, as from a connection over a network that works again.
    pub(super) fn end_calls_in(&mut self, time: u64) {
        let open = self.calls.open.iter();
        let open: Vec<_> = open
            .flat_map(|((of, to), calls)| calls.iter().map(|call| (*of, *to, call.number)))
            .collect();
        for (of, to, number) in open {
            self.schedule(time, call_event(of, to, Due::Refused(number)));
        }
    }

    /// Nothing runs where the message arrives.
    pub(super) fn refuse(&mut self, from: Asker, at: usize, packet: &Packet) {
        let Packet::Message(said) = packet else {
            return;
        };
        let what = what_of(&said.meant());
        let Some(open) = self.calls.open.get(&(from, at)) else {
            return;
        };
        if let Some(call) = open.iter().find(|call| Some(call.what) == what) {
            let due = Due::Refused(call.number);
            let delay = self.rng.between(1, 3);
            self.schedule(delay, call_event(from, at, due));
        }
    }

    /// Says while an answer is on its way that it is.
    pub(super) fn announce_parts(&mut self, from: usize, to: Asker, delay: u64, takes: u64) {
        if takes < PROGRESS_EVERY {
            return;
        }
        // Which question it answers does not matter here: one that is not given up is asked once.
        let open = self.calls.open.get(&(to, from));
        let numbers: Vec<u64> = open.into_iter().flatten().map(|call| call.number).collect();
        for number in numbers {
            let mut at = delay - takes;
            while at < delay {
                self.schedule(at, call_event(to, from, Due::Progress(number)));
                at += PROGRESS_EVERY;
            }
        }
    }

    pub(super) fn call_due(&mut self, of: Asker, to: usize, due: Due) {
        let (at, now) = (of.0, self.now);
        let id = self.nodes[to].name.id;
        let Some(call) = self.calls.get(of, to, due.call()).copied() else {
            return;
        };
        match due {
            Due::Late(_) => {
                self.step_proposer(at, Input::Unanswered(id));
            }
            Due::Progress(_) => {
                let open = self.calls.open.get_mut(&(of, to));
                let mut open = open.into_iter().flatten();
                if let Some(call) = open.find(|open| open.number == call.number) {
                    call.heard_at = now;
                }
                if let What::Asked {
                    sent: Sent::Prepare { .. },
                    ..
                } = call.what
                {
                    self.step_proposer(at, Input::Progress(id));
                }
            }
            Due::GivenUp(number) if now < call.heard_at + call.patience => {
                let delay = call.heard_at + call.patience - now;
                self.schedule(delay, call_event(of, to, Due::GivenUp(number)));
            }
            Due::GivenUp(number) | Due::Refused(number) => {
                self.calls.end(of, to, |call| call.number == number);
                if let Due::GivenUp(_) = due {
                    let pace = self.calls.paces.entry((at, to)).or_default();
                    pace.gave_up(call.bytes);
                }
                self.call_failed(at, id, call.what);
            }
        }
    }

    fn call_failed(&mut self, at: usize, from: NodeId, what: What) {
        match what {
            What::Asked {
                sent, is_renewal, ..
            } => {
                self.step_proposer(at, Input::Failed { from, sent });
                if is_renewal {
                    self.renewal_ended(at, from);
                }
            }
            What::Told { first, count } => {
                if let Process::Proposer(_, desk) = &mut self.nodes[at].process {
                    desk.telling.failed(from, first, count);
                }
            }
            What::Fetch { first, .. } => {
                self.step_learner(at, learner::Input::Failed { from, first });
            }
        }
    }

    /// An acceptor's reply to a proposer.
    pub(super) fn replied(&mut self, from: usize, at: usize, reply: Reply) {
        let of = (at, self.nodes[at].life);
        let call = self.calls.end(of, from, |call| match call.what {
            What::Asked {
                sent,
                is_renewal,
                votes,
            } => is_answer(sent, is_renewal, votes, &reply),
            _ => false,
        });
        let id = self.nodes[from].name.id;
        let answers = call.is_some_and(|call| match call.what {
            What::Asked { sent, .. } => sent.is_answered_by(&reply),
            _ => false,
        });
        self.step_proposer(at, Input::Reply { from: id, reply });
        let Some(call) = call else {
            return;
        };
        let time = Duration::from_millis(self.now - call.made_at);
        if let What::Asked {
            sent, is_renewal, ..
        } = call.what
        {
            let usual = self.calls.usual.entry((at, is_renewal)).or_default();
            usual.took(call.bytes, time);
            if let Sent::Accept { .. } = sent {
                let pace = self.calls.paces.entry((at, from)).or_default();
                pace.took(call.bytes, time);
            }
            if !answers {
                self.step_proposer(at, Input::Failed { from: id, sent });
            }
            if is_renewal {
                self.renewal_ended(at, id);
            }
        }
    }

    /// A learner's answer to a leader.
    pub(super) fn told_answered(
        &mut self,
        from: usize,
        at: usize,
        first: Slot,
        outcomes: usize,
        applied: Slot,
    ) {
        let of = (at, self.nodes[at].life);
        let told = |call: &Call| match call.what {
            What::Told { first: f, count } if f == first && count >= outcomes => Some(count),
            _ => None,
        };
        // An answer may leave some outcomes out, and one to an announcement has none.
        let fits = |call: &Call| told(call).is_some_and(|count| count > 0 || outcomes == 0);
        let call = self.calls.end(of, from, fits);
        let count = call.as_ref().and_then(told).unwrap_or(outcomes);
        if let Some(call) = call.filter(|_| count > 0) {
            let time = Duration::from_millis(self.now - call.made_at);
            let pace = self.calls.paces.entry((at, from)).or_default();
            pace.took(call.bytes, time);
        }
        let (id, now) = (self.nodes[from].name.id, Duration::from_millis(self.now));
        let Process::Proposer(_, desk) = &mut self.nodes[at].process else {
            return;
        };
        desk.reach.heard(now);
        let tells = desk.telling.answered(id, first, count, applied);
        self.tell_learners(at, tells);
    }

    /// An acceptor's answer to a learner.
    pub(super) fn fetched(&mut self, from: usize, at: usize, reply: Reply) {
        let of = (at, self.nodes[at].life);
        let call = self.calls.end(of, from, |call| match (call.what, &reply) {
            // A late one to an earlier question is not it.
            (What::Fetch { first, last }, Reply::Fetched { from, to, .. }) => {
                first == *from && *to <= last
            }
            (What::Fetch { first, .. }, Reply::Truncated { from, .. }) => first == *from,
            (What::Fetch { .. }, _) => true,
            _ => false,
        });
        let id = self.nodes[from].name.id;
        let is_in_doubt = match &self.nodes[at].process {
            Process::Learner(replica) => replica.is_in_doubt(),
            _ => false,
        };
        let is_answer = matches!(reply, Reply::Fetched { .. } | Reply::Truncated { .. });
        let is_answer = is_answer && !is_in_doubt;
        self.step_learner(at, learner::Input::Reply { from: id, reply });
        if let Some(call) = call.filter(|_| !is_answer) {
            self.call_failed(at, id, call.what);
        }
    }

    fn renewal_ended(&mut self, at: usize, acceptor: NodeId) {
        let Process::Proposer(_, desk) = &mut self.nodes[at].process else {
            return;
        };
        if let Some(request) = desk.renewals.ended(acceptor) {
            let to = self.acceptor(acceptor);
            self.call(at, to, Message::Request(request), true);
        }
    }

    pub(super) fn learner(&self, id: NodeId) -> usize {
        let first = self.of_role(Role::Learner).next().unwrap_or_default();
        first + id.index()
    }
}

fn what_of(message: &Message) -> Option<What> {
    match message {
        Message::Request(Request::Fetch { from, to }) => Some(What::Fetch {
            first: *from,
            last: *to,
        }),
        Message::Request(Request::Enlist { .. }) => None,
        Message::Request(request) => Some(What::Asked {
            sent: Sent::of(request),
            is_renewal: matches!(request, Request::Renew { .. }),
            votes: match request {
                Request::Accept { values, .. } => values.len() as u64,
                _ => 0,
            },
        }),
        Message::Learn(learn) => Some(What::Told {
            first: learn.first,
            count: learn.values.len(),
        }),
        _ => None,
    }
}

/// Whether a reply can be the one to a call.
fn is_answer(sent: Sent, is_renewal: bool, votes: u64, reply: &Reply) -> bool {
    match (sent, reply) {
        (
            Sent::Accept { ballot, first },
            Reply::Accepted {
                ballot: b,
                first: f,
                count,
            }
            | Reply::AcceptedTight {
                ballot: b,
                first: f,
                count,
                ..
            },
        ) => (ballot, first, votes) == (*b, *f, *count),
        (
            Sent::Accept { ballot, first },
            Reply::NoRoom {
                ballot: b,
                first: f,
                ..
            },
        ) => (ballot, first) == (*b, *f),
        (
            Sent::Prepare { ballot, from },
            Reply::Promise {
                ballot: b, from: f, ..
            },
        ) => (ballot, from) == (*b, *f),
        (Sent::Other, Reply::Renewed { .. }) => is_renewal,
        (Sent::Other, Reply::Probed { .. }) => !is_renewal,
        // The first one that was asked at that ballot.
        (
            Sent::Accept { ballot, .. } | Sent::Prepare { ballot, .. },
            Reply::Nack { ballot: b, .. },
        ) => ballot == *b,
        (Sent::Other, Reply::Nack { .. }) => is_renewal,
        (_, Reply::NotVoting) => true,
        _ => false,
    }
}

fn call_event(of: Asker, to: usize, due: Due) -> Event {
    Event::Call { of, to, due }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
