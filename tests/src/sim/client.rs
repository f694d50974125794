//! The clients: what they propose, and what they send again because they have no answer.

use std::collections::VecDeque;

use proposer::paxos::command::{Command, Operation};
use proposer::paxos::message::Value;

use super::config::Config;
use super::rng::Rng;

/// How many values are remembered to be sent again.
const REMEMBERED: usize = 64;

/// All clients together.
#[derive(Debug, Default)]
pub(super) struct Clients {
    values: u64,
    reads: u64,
    reads_in_log: u64,
    sent: VecDeque<Value>,
}

impl Clients {
    /// The values of one proposal: new ones, each unlike any other, and some sent before.
    pub(super) fn values(&mut self, config: &Config, rng: &mut Rng) -> Vec<Value> {
        let count = rng.between(1, config.burst);
        (0..count).map(|_| self.value(config, rng)).collect()
    }

    fn value(&mut self, config: &Config, rng: &mut Rng) -> Value {
        if rng.chance(config.retries)
            && let Some(again) = self.sent.get(rng.below(REMEMBERED as u64) as usize)
        {
            return again.clone();
        }
        self.reads_in_log = config.reads_in_log;
        let value = self.fresh(rng.between(0, config.value_bytes) as usize);
        self.sent.push_back(value.clone());
        if self.sent.len() > REMEMBERED {
            self.sent.pop_front();
        }
        value
    }

    /// A command unlike any other: a write with so many bytes of data, a removal, at times on a
    /// condition, or a READ.
    pub(super) fn fresh(&mut self, bytes: usize) -> Value {
        self.values += 1;
        let is_read = self.reads_in_log > 0 && self.values.is_multiple_of(self.reads_in_log);
        let (operation, data) = match self.values % 11 {
            10 => (Operation::Delete, Vec::new()),
            _ if is_read => (Operation::Read, Vec::new()),
            _ => (Operation::Write, vec![b'1'; bytes]),
        };
        let command = Command {
            operation,
            timestamp: self.values,
            if_version: (self.values % 7 == 6 && operation != Operation::Read)
                .then_some(self.values % 5),
            client_id: "c",
            request_id: None,
            resource: ["red", "green", "blue"][self.values as usize % 3],
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
