//! What became of clients' values, on its way to the clients. What READs found takes memory until
//! the client has it, so it has its own bound: what does not fit a batch's answer is refused,
//! and a single READ waits until there is room, and then gets its answer from a learner.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use paxos::command::{Command, Operation};
use paxos::ids::{NodeId, Slot};
use paxos::machine::{Applied, Outcome};
use paxos::message::{Message, Recalled, Value};
use paxos::recent::{ANSWER_BYTES, RECALLED_BYTES};
use tracing::debug;

use super::handle::Shared;
use super::requests::Item;
use super::{Answer, Event, Run};
use crate::peers::{Breakers, Lane};

/// What READs found may take in this process, bytes.
const MAX_FOUND_BYTES: usize = 48 << 20;
/// What READs of one batch may find together, bytes.
const MAX_BATCH_FOUND_BYTES: usize = 16 << 20;
/// How long a learner may take to tell what READs found.
const RECALL_WITHIN: Duration = Duration::from_secs(4);

/// Answers, and the room that they take until they are dropped.
pub struct Answers {
    /// One for each value.
    pub list: Vec<Answer>,
    /// To be kept as long as what is in them is.
    pub room: FoundRoom,
}

impl Answers {
    /// The same answer to `count` values.
    pub(super) fn all(answer: Answer, count: usize) -> Answers {
        Answers {
            list: vec![answer; count],
            room: FoundRoom::default(),
        }
    }
}

/// A share of the room for what READs found.
#[derive(Default)]
pub struct FoundRoom {
    shared: Option<Arc<Shared>>,
    bytes: usize,
}

impl FoundRoom {
    /// Bytes that are held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn grow(&mut self, shared: &Arc<Shared>, bytes: usize) -> bool {
        let before = shared.found_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > MAX_FOUND_BYTES {
            shared.found_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.shared.get_or_insert_with(|| shared.clone());
        self.bytes += bytes;
        true
    }
}

impl Drop for FoundRoom {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.found_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

impl Run {
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
        if (single || held + found_bytes <= most) && job.found.grow(&self.shared, found_bytes) {
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
        for link in self.learners.iter().cloned() {
            let held = self.shared.found_bytes.load(Ordering::Relaxed);
            if held + (self.recalls.open() + 1) * RECALLED_BYTES > MAX_FOUND_BYTES {
                return;
            }
            let learner = link.node.id;
            let Some(slots) = self.recalls.question(learner) else {
                continue;
            };
            let frame = self.me.frame(Message::Recall(slots));
            let events = self.events.clone();
            tokio::spawn(async move {
                let answer = link.ask(Lane::Bulk, frame, RECALL_WITHIN, Breakers::Ignore);
                let recalled = match answer.await {
                    Ok(Message::Recalled(recalled)) => Some(recalled),
                    Ok(_) => None,
                    Err(error) => {
                        debug!(learner = %link.node, %error, "does not tell what READs found");
                        None
                    }
                };
                let _ = events.send(Event::Recalled(learner, recalled));
            });
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
