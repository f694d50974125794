//! Requests that another proposer, the leader, is asked to propose.

use std::sync::Arc;
use std::time::Duration;

use paxos::ids::{Ballot, NodeId};
use paxos::message::{Forwarded, Values};
use paxos::recent::fit;

use super::calls::{Forward, Open};
use super::requests::Item;
use super::{Action, Answer, Claims, ProposerRole};

/// How long a leader may take over values that another proposer forwards, which waits for so long: a little
/// less, so that what is known reaches it.
pub fn forwarded_within(wait_ms: u32) -> Duration {
    Duration::from_millis(u64::from(wait_ms).max(1000) * 9 / 10)
}

/// What a leader tells the proposer that forwarded values to it, in at most so many bytes of outcomes. It
/// proposed those that are good, and `answers` are theirs; of the others nothing is ever known.
pub fn answer_forwarded(answers: Vec<Answer>, is_good: &[bool], most_bytes: usize) -> Forwarded {
    // Some may have had no room before their time was over.
    let consecutive = |(i, answer): (usize, &Answer)| match (&answers[0], answer) {
        (Answer::Assigned(first), Answer::Assigned(slot)) => *slot == first.plus(i as u64),
        _ => false,
    };
    match answers.first() {
        Some(Answer::Assigned(first)) if answers.iter().enumerate().all(consecutive) => {
            Forwarded::Assigned { first: *first }
        }
        Some(Answer::NoLeader) if answers.iter().all(|a| *a == Answer::NoLeader) => {
            Forwarded::NotLeader
        }
        Some(Answer::NoRoom(why)) if answers.iter().all(|a| matches!(a, Answer::NoRoom(_))) => {
            Forwarded::NoRoom {
                why: why.to_string(),
            }
        }
        _ => {
            let mut outcomes = answers.into_iter().map(|answer| match answer {
                Answer::Done(applied) => Some(applied),
                _ => None,
            });
            let outcomes = is_good
                .iter()
                .map(move |good| if *good { outcomes.next()? } else { None });
            Forwarded::Outcomes {
                outcomes: fit(most_bytes, outcomes),
            }
        }
    }
}

/// Messages of requests to the leader under way at once, and what one carries at most.
pub(super) const FORWARDS: usize = 4;
const FORWARD_VALUES: usize = 1024;
const FORWARD_BYTES: usize = 1 << 20;

impl<D: Claims> ProposerRole<D> {
    /// Sends the head of the queue on; `false` if there is nobody of that name to send it to.
    pub(super) fn forward(&mut self, to: Ballot) -> bool {
        let Some(owner) = self.known_owner(to) else {
            return false;
        };
        let mut items = Vec::new();
        let mut bytes = 0;
        while let Some(item) = self.queue.front() {
            let differs = items
                .first()
                .is_some_and(|first: &Item| first.wait != item.wait);
            let full = items.len() == FORWARD_VALUES || bytes + item.value.len() > FORWARD_BYTES;
            if differs || (full && !items.is_empty()) {
                break;
            }
            bytes += item.value.len();
            let Some(mut item) = self.queue.pop_front() else {
                break;
            };
            item.tried += 1;
            if self.mark_submitted(&item) {
                items.push(item);
            }
        }
        if items.is_empty() {
            return true;
        }
        let deadlines = items.iter().filter_map(|item| self.jobs.get(&item.job));
        let latest = deadlines.map(|job| job.deadline).max().unwrap_or(self.now);
        let left = latest
            .saturating_sub(self.now)
            .max(Duration::from_millis(1));
        let wait_ms = match items[0].wait {
            true => left.as_millis().clamp(1, 60_000) as u32,
            false => 0,
        };
        let values: Values = items.iter().map(|item| item.value.clone()).collect();
        let call = self.call(owner, left, Open::Forward(Forward { to, items }));
        self.forwards.insert(call.id);
        self.actions.push(Action::Forward {
            call,
            wait_ms,
            values,
        });
        true
    }

    pub(super) fn forwarded(&mut self, forward: Forward, answer: Forwarded) {
        let items = forward.items;
        match answer {
            Forwarded::Assigned { first } => {
                for (i, item) in items.into_iter().enumerate() {
                    let slot = first.plus(i as u64);
                    self.settle(item.job, item.index, Answer::Assigned(slot));
                }
            }
            Forwarded::Outcomes { outcomes } if outcomes.len() == items.len() => {
                let mut open = Vec::new();
                for (item, outcome) in items.into_iter().zip(outcomes) {
                    match outcome {
                        Some(applied) => self.outcome(applied.slot, item, applied),
                        None => open.push(item),
                    }
                }
                self.requeue(open);
            }
            Forwarded::NoRoom { why } => {
                let why: Arc<str> = why.into();
                for item in items {
                    self.settle_no_room(&item, 1, &why);
                }
            }
            _ => self.requeue(items),
        }
    }

    /// Back to the head of the queue, in order. While the leader is the same, the next try comes after a
    /// pause.
    pub(super) fn requeue(&mut self, items: Vec<Item>) {
        if !items.is_empty() {
            self.forward_at = self.now + self.settings.heartbeat_interval / 2;
        }
        for item in items.into_iter().rev() {
            if self.jobs.contains_key(&item.job) {
                self.queue.push_front(item);
            }
        }
    }

    /// Takes back what was sent to another leader than this, which may be cut off or stopped and never
    /// answer.
    pub(super) fn take_back_forwards(&mut self, leader: Ballot) {
        let elsewhere = |id: &super::CallId| match self.calls.get(id) {
            Some(Open::Forward(forward)) => forward.to != leader,
            _ => true,
        };
        let forwards: Vec<_> = self.forwards.iter().copied().filter(elsewhere).collect();
        for id in forwards.into_iter().rev() {
            self.forwards.remove(&id);
            self.actions.push(Action::Abort(id));
            if let Some(Open::Forward(forward)) = self.calls.remove(&id) {
                for item in forward.items.into_iter().rev() {
                    self.queue.push_front(item);
                }
            }
        }
    }

    /// The owner of a ballot, if it can be reached: it is listed, or led when it was.
    pub(super) fn known_owner(&self, ballot: Ballot) -> Option<NodeId> {
        let owner = ballot.node()?;
        let listed = self.peers.proposers.contains(&owner);
        (listed || self.followed == Some(owner)).then_some(owner)
    }
}
