//! The clients: what they propose, and what they send again because they have no answer.

use std::collections::VecDeque;

use paxos::command::{Command, Operation};
use paxos::message::Value;

use super::config::Config;
use super::rng::Rng;

/// How many values are remembered to be sent again.
const REMEMBERED: usize = 64;

/// How a client names its requests.
#[derive(Clone, Copy, Debug)]
enum Naming {
    /// By all their fields, of which the timestamp grows.
    Fields,
    /// By an id; the timestamp is always the same.
    Id,
    /// By a sequence.
    Sequence,
    /// By a sequence that comes out of order now and then.
    Disorder,
}

const CLIENTS: [(&str, Naming); 4] = [
    ("c", Naming::Fields),
    ("id", Naming::Id),
    ("seq", Naming::Sequence),
    ("mess", Naming::Disorder),
];

/// All clients together.
#[derive(Debug, Default)]
pub(super) struct Clients {
    values: u64,
    reads: u64,
    reads_in_log: u64,
    sent: VecDeque<(usize, Value)>,
    /// Who says nothing new for a while, and what it sent last: old requests of it still arrive.
    resting: Option<(usize, Vec<Value>)>,
    /// How many requests of those that rest were sent again.
    pub(super) resent: u64,
}

impl Clients {
    /// The values of one proposal: new ones, each unlike any other, and some sent before. At times all
    /// of them are others' and never sent again.
    pub(super) fn values(&mut self, config: &Config, now: u64, rng: &mut Rng) -> Vec<Value> {
        self.take_turns(config.rests, now);
        let count = rng.between(1, config.burst);
        if rng.chance(config.floods) {
            let client = format!("flood-{}", rng.below(config.flooders));
            return (0..4 * count).map(|_| self.flood(&client, rng)).collect();
        }
        (0..count).map(|_| self.value(config, rng)).collect()
    }

    fn value(&mut self, config: &Config, rng: &mut Rng) -> Value {
        if rng.chance(config.retries)
            && let Some(again) = self.again(rng)
        {
            return again;
        }
        self.reads_in_log = config.reads_in_log;
        let bytes = rng.between(0, config.value_bytes) as usize;
        let mut client = rng.below(CLIENTS.len() as u64) as usize;
        if self.resting.as_ref().is_some_and(|(at, _)| *at == client) {
            client = (client + 1) % CLIENTS.len();
        }
        let value = self.of(CLIENTS[client], bytes);
        self.sent.push_back((client, value.clone()));
        if self.sent.len() > REMEMBERED {
            self.sent.pop_front();
        }
        value
    }

    /// One that was sent before.
    fn again(&mut self, rng: &mut Rng) -> Option<Value> {
        let place = rng.below(REMEMBERED as u64) as usize;
        if let Some((_, values)) = &self.resting
            && place.is_multiple_of(4)
        {
            let value = values.get(place / 4).cloned();
            self.resent += u64::from(value.is_some());
            return value;
        }
        self.sent.get(place).map(|(_, value)| value.clone())
    }

    /// Has the clients rest for so long, one after the other, and all work in between; 0: none ever does.
    fn take_turns(&mut self, rests: u64, now: u64) {
        let Some(turn) = now.checked_div(rests) else {
            return;
        };
        let turn = turn as usize % (2 * CLIENTS.len());
        let who = (turn % 2 == 1).then_some(turn / 2);
        if who != self.resting.as_ref().map(|(who, _)| *who) {
            let of = |who| {
                let sent = self.sent.iter().filter(|(client, _)| *client == who);
                (who, sent.map(|(_, value)| value.clone()).collect())
            };
            self.resting = who.map(of);
        }
    }

    /// A command unlike any other: a write with `bytes` bytes of data, a removal, at times on a
    /// condition, or a READ.
    pub(super) fn fresh(&mut self, bytes: usize) -> Value {
        self.of(CLIENTS[0], bytes)
    }

    fn flood(&mut self, client_id: &str, rng: &mut Rng) -> Value {
        self.values += 1;
        let id = self.values.to_string();
        let command = Command {
            operation: Operation::Write,
            timestamp: self.values,
            if_version: None,
            if_instance: None,
            sequence: rng.chance(200).then_some(self.values),
            client_id,
            request_id: Some(&id),
            resource: "flooded",
            data: b"1",
        };
        command.encode()
    }

    fn of(&mut self, (client_id, naming): (&str, Naming), bytes: usize) -> Value {
        self.values += 1;
        let number = self.values;
        let id = number.to_string();
        let is_read = self.reads_in_log > 0 && number.is_multiple_of(self.reads_in_log);
        let (operation, data) = match number % 11 {
            10 => (Operation::Delete, Vec::new()),
            _ if is_read => (Operation::Read, Vec::new()),
            _ => (Operation::Write, vec![b'1'; bytes]),
        };
        let is_read = operation == Operation::Read;
        let command = Command {
            operation,
            timestamp: match naming {
                Naming::Id => 1,
                _ => number,
            },
            if_version: (number % 7 == 6 && !is_read).then_some(number % 5),
            if_instance: (number % 13 == 6 && !is_read).then_some(number % 3 * number / 2),
            sequence: match naming {
                Naming::Sequence => Some(number),
                // Neighbours change places.
                Naming::Disorder => Some(number ^ 7),
                Naming::Fields | Naming::Id => None,
            },
            client_id,
            request_id: matches!(naming, Naming::Id).then_some(&id),
            resource: ["red", "green", "blue"][number as usize % 3],
            data: &data,
        };
        command.encode()
    }

    /// The number of a new read.
    pub(super) fn read(&mut self) -> u64 {
        self.reads += 1;
        self.reads
    }
}
