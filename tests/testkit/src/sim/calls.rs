//! Calls: what a node asked of another, until the answer is here, or the call is refused, or its time
//! is up. The asker hears of each end and of what comes before it, as it does from a connection.

use std::collections::BTreeMap;
use std::time::Duration;

use paxos::message::Message;
use roles::proposer::Failure;

use super::node::{Asker, Life, Process};
use super::{Event, Packet, Sim};

/// Between two words that an answer is coming.
const PROGRESS_EVERY: u64 = 50;

/// How long an asker waits, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Until it gives the call up: from the question on, and from each part of the answer on.
    pub(super) within: u64,
    /// Until it hears that the answer is late, if it wants to.
    pub(super) late_after: Option<u64>,
    /// Whether it hears of each part of the answer.
    pub(super) hears_progress: bool,
}

/// What an asker hears of a call.
#[derive(Clone, Debug)]
pub(super) enum Heard {
    /// The answer, which ends it; `None` where it says nothing but that it is one.
    Answer(Option<Message>),
    /// There will be none.
    Failed(Failure),
    /// It is late.
    Late,
    /// Part of the answer is here.
    Progress,
}

/// What becomes due of a call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Due {
    /// It is late.
    Late,
    /// It is given up, unless some of its answer has come lately.
    GivenUp,
    /// Nothing was there to take it.
    Refused,
    /// Part of its answer comes.
    Progress,
}

#[derive(Clone, Copy, Debug)]
struct Call {
    heard_at: u64,
    patience: Patience,
}

/// Every call that is open.
#[derive(Debug, Default)]
pub(super) struct Calls {
    open: BTreeMap<(Life, u64), Call>,
}

impl Calls {
    pub(super) fn is_open(&self, of: Asker) -> bool {
        self.open.contains_key(&(of.life, of.call))
    }

    /// Nothing is left of what a process asked.
    pub(super) fn forget(&mut self, asker: Life) {
        self.open.retain(|(of, _), _| *of != asker);
    }

    /// What a process has asked and has no answer to.
    pub(super) fn open_of(&self, asker: Life) -> Vec<u64> {
        let all = self.open.range((asker, 0)..=(asker, u64::MAX));
        all.map(|((_, call), _)| *call).collect()
    }

    /// The asker does not wait for the answer any more.
    pub(super) fn abort(&mut self, asker: Life, call: u64) {
        self.open.remove(&(asker, call));
    }
}

impl Sim {
    /// Sends a message and waits for the answer. The number is the asker's own, of a call that is not open.
    pub(super) fn call(
        &mut self,
        from: usize,
        to: usize,
        number: u64,
        message: Message,
        patience: Patience,
    ) {
        let packet = self.said(from, message);
        self.call_with(from, to, number, packet, patience);
    }

    /// The same with something that is no message of the protocol's.
    pub(super) fn call_with(
        &mut self,
        from: usize,
        to: usize,
        number: u64,
        packet: Packet,
        patience: Patience,
    ) {
        let of = Asker {
            life: (from, self.nodes[from].life),
            call: number,
        };
        let call = Call {
            heard_at: self.now,
            patience,
        };
        let before = self.calls.open.insert((of.life, number), call);
        assert!(before.is_none(), "a number is one call's");
        self.schedule(patience.within, call_event(of, Due::GivenUp));
        if let Some(late_after) = patience.late_after {
            self.schedule(late_after, call_event(of, Due::Late));
        }
        self.send_as(of, to, &packet);
    }

    /// Of every call that is open now the asker hears within that time: its answer, or that there will be
    /// none, as from a connection over a network that works again.
    pub(super) fn end_calls_in(&mut self, time: u64) {
        let open: Vec<(Life, u64)> = self.calls.open.keys().copied().collect();
        for (life, call) in open {
            self.schedule(time, call_event(Asker { life, call }, Due::Refused));
        }
    }

    /// Nothing takes the message where it arrives.
    pub(super) fn refuse(&mut self, from: Asker) {
        if self.calls.is_open(from) {
            let delay = self.rng.between(1, 3);
            self.schedule(delay, call_event(from, Due::Refused));
        }
    }

    /// Says while an answer is on its way that it is.
    pub(super) fn announce_parts(&mut self, to: Asker, delay: u64, takes: u64) {
        if takes < PROGRESS_EVERY || !self.calls.is_open(to) {
            return;
        }
        let mut at = delay - takes;
        while at < delay {
            self.schedule(at, call_event(to, Due::Progress));
            at += PROGRESS_EVERY;
        }
    }

    pub(super) fn call_due(&mut self, of: Asker, due: Due) {
        let now = self.now;
        let Some(call) = self.calls.open.get_mut(&(of.life, of.call)) else {
            return;
        };
        let patience = call.patience;
        let heard = match due {
            Due::Late => Heard::Late,
            Due::Progress => {
                call.heard_at = now;
                if !patience.hears_progress {
                    return;
                }
                Heard::Progress
            }
            Due::GivenUp if now < call.heard_at + patience.within => {
                let delay = call.heard_at + patience.within - now;
                return self.schedule(delay, call_event(of, Due::GivenUp));
            }
            Due::GivenUp | Due::Refused => {
                self.calls.abort(of.life, of.call);
                Heard::Failed(match due {
                    Due::GivenUp => Failure::TimedOut,
                    _ => Failure::Unreachable,
                })
            }
        };
        self.heard(of.life.0, of.call, heard);
    }

    /// A call ends. What comes for one that is over reaches nobody: its connection is closed.
    pub(super) fn call_ends(&mut self, of: Asker, heard: Heard) {
        if self.calls.open.remove(&(of.life, of.call)).is_some() {
            self.heard(of.life.0, of.call, heard);
        }
    }

    fn heard(&mut self, at: usize, call: u64, heard: Heard) {
        match &self.nodes[at].process {
            Process::Proposer(_) => self.proposer_heard(at, call, heard),
            Process::Learner(_) => self.learner_heard(at, call, heard),
            Process::Acceptor(_) | Process::Down => {}
        }
    }
}

fn call_event(of: Asker, due: Due) -> Event {
    Event::Call { of, due }
}

/// A time in milliseconds, rounded up: never sooner than asked for.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}
