//! What became of clients' values, on its way to the clients. What READs found takes memory until
//! the client has it, so it has its own bound: what does not fit a batch's answer is refused,
//! and a single READ waits until there is room, and then gets its answer from a learner.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use paxos::command::{Command, Operation};
use paxos::ids::{NodeId, Slot};
use paxos::machine::{Applied, Outcome};
use paxos::message::{Recalled, Value};
use paxos::recent::{ANSWER_BYTES, RECALLED_BYTES};

use super::calls::Open;
use super::requests::Item;
use super::{Action, Answer, Claims, ProposerRole};

/// What READs found may take in this process, bytes.
const MAX_FOUND_BYTES: usize = 48 << 20;
/// What READs of one batch may find together, bytes.
const MAX_BATCH_FOUND_BYTES: usize = 16 << 20;
/// How long a learner may take to tell what READs found.
const RECALL_WITHIN: Duration = Duration::from_secs(4);

/// The room for what READs found and no client has yet.
#[derive(Debug, Default)]
pub struct Found(AtomicUsize);

/// A share of it, given back when it is dropped.
#[derive(Debug, Default)]
pub struct FoundRoom {
    of: Option<Arc<Found>>,
    bytes: usize,
}

impl FoundRoom {
    /// Bytes that are held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn grow(&mut self, found: &Arc<Found>, bytes: usize) -> bool {
        let before = found.0.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > MAX_FOUND_BYTES {
            found.0.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.of.get_or_insert_with(|| found.clone());
        self.bytes += bytes;
        true
    }
}

impl Drop for FoundRoom {
    fn drop(&mut self) {
        if let Some(found) = &self.of {
            found.0.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

impl<D: Claims> ProposerRole<D> {
    /// What became of an item's value, which was applied in that slot.
    pub(super) fn outcome(&mut self, slot: Slot, item: Item, mut applied: Applied) {
        let Some(job) = self.jobs.get_mut(&item.job) else {
            return;
        };
        let forwarded = job.forwarded;
        let found_bytes = match &mut applied.outcome {
            Outcome::Untold => {
                let answer = match is_read(&item.value) && !forwarded {
                    true => Answer::NotRead,
                    false => Answer::Unknown,
                };
                return self.settle(item.job, item.index, answer);
            }
            Outcome::Withheld if forwarded => {
                return self.settle(item.job, item.index, Answer::Done(applied));
            }
            Outcome::Withheld => return self.recalls.want(slot, item),
            Outcome::Read(Some(_)) => applied.size(),
            _ => return self.settle(item.job, item.index, Answer::Done(applied)),
        };
        let most = match forwarded {
            true => ANSWER_BYTES,
            false => MAX_BATCH_FOUND_BYTES,
        };
        let single = job.answers.len() == 1;
        let held = job.found.bytes();
        if (single || held + found_bytes <= most) && job.found.grow(&self.found, found_bytes) {
            if let Outcome::Read(Some(found)) = &mut applied.outcome {
                // A slice would keep the whole message in memory.
                found.data = bytes::Bytes::copy_from_slice(&found.data);
            }
            self.settle(item.job, item.index, Answer::Done(applied));
        } else if forwarded {
            // The follower asks a learner itself.
            applied.outcome = Outcome::Withheld;
            self.settle(item.job, item.index, Answer::Done(applied));
        } else if single {
            self.recalls.want(slot, item);
        } else {
            let batch = item.job;
            self.settle(batch, item.index, Answer::NotRead);
            // The rest of it would be fetched in vain.
            for item in self.recalls.forget(|item| item.job == batch) {
                self.settle(batch, item.index, Answer::NotRead);
            }
        }
    }

    /// Asks learners for what READs found, as long as there is room for the answers.
    pub(super) fn recall(&mut self) {
        if self.recalls.is_empty() {
            return;
        }
        for learner in self.peers.learners.clone() {
            let held = self.found.0.load(Ordering::Relaxed);
            if held + (self.recalls.open() + 1) * RECALLED_BYTES > MAX_FOUND_BYTES {
                return;
            }
            if let Some(slots) = self.recalls.question(learner) {
                let call = self.call(learner, RECALL_WITHIN, Open::Recall(learner));
                self.actions.push(Action::Recall(call, slots));
            }
        }
    }

    pub(super) fn recalled(&mut self, learner: NodeId, recalled: Option<Recalled>) {
        for (slot, item, applied) in self.recalls.answered(learner, recalled) {
            self.outcome(slot, item, applied);
        }
    }
}

fn is_read(value: &Value) -> bool {
    let command = Command::decode(value).ok().flatten();
    command.is_some_and(|command| command.operation == Operation::Read)
}
