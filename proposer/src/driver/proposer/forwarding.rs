//! Requests that another proposer, the leader, is asked to propose.

use std::sync::Arc;
use std::time::Duration;

use paxos::ids::Ballot;
use paxos::message::{Forwarded, Message, Values};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::debug;

use super::requests::Item;
use super::{Answer, Event, Run};
use crate::link::Error as LinkError;
use crate::peers::{Breakers, Lane};

/// Messages of requests to the leader under way at once, and what one carries at most.
pub(super) const FORWARDS: usize = 4;

const FORWARD_VALUES: usize = 1024;

const FORWARD_BYTES: usize = 1 << 20;

/// Values sent on to a leader, until it answers.
pub(super) struct Forward {
    pub(super) to: Ballot,
    pub(super) items: Vec<Item>,
    pub(super) call: AbortHandle,
}

impl Run {
    /// Sends the head of the queue on; `false` if there is nobody of that name to send it to.
    pub(super) fn forward(&mut self, to: Ballot) -> bool {
        let Some(link) = self.link_to(to).cloned() else {
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
        let now = Instant::now();
        let deadlines = items.iter().filter_map(|item| self.jobs.get(&item.job));
        let latest = deadlines.map(|job| job.deadline).max().unwrap_or(now);
        let left = latest
            .saturating_duration_since(now)
            .max(Duration::from_millis(1));
        let wait_ms = if items[0].wait {
            left.as_millis().clamp(1, 60_000) as u32
        } else {
            0
        };
        let values: Values = items.iter().map(|item| item.value.clone()).collect();
        let frame = self.me.frame(Message::Forward { wait_ms, values });
        let id = self.next_forward;
        self.next_forward += 1;
        let events = self.events.clone();
        let call = tokio::spawn(async move {
            let answer = link.ask(Lane::Bulk, frame, left, Breakers::Ignore).await;
            let _ = events.send(Event::Forwarded(id, answer));
        });
        let call = call.abort_handle();
        self.forwards.insert(id, Forward { to, items, call });
        true
    }

    pub(super) fn forwarded(&mut self, id: u64, answer: Result<Message, LinkError>) {
        // Not there: taken back, since another proposer leads.
        let Some(Forward { items, .. }) = self.forwards.remove(&id) else {
            return;
        };
        match answer {
            Ok(Message::Forwarded(Forwarded::Assigned { first })) => {
                for (i, item) in items.into_iter().enumerate() {
                    let slot = first.plus(i as u64);
                    self.settle(item.job, item.index, Answer::Assigned(slot));
                }
            }
            Ok(Message::Forwarded(Forwarded::Outcomes { outcomes }))
                if outcomes.len() == items.len() =>
            {
                let mut open = Vec::new();
                for (item, outcome) in items.into_iter().zip(outcomes) {
                    match outcome {
                        Some(applied) => self.outcome(applied.slot, item, applied),
                        None => open.push(item),
                    }
                }
                self.requeue(open);
            }
            Ok(Message::Forwarded(Forwarded::NoRoom { why })) => {
                let why: Arc<str> = why.into();
                for item in items {
                    self.settle_no_room(&item, 1, &why);
                }
            }
            Ok(_) => self.requeue(items),
            Err(error) => {
                debug!(%error, "the leader gave no answer");
                self.requeue(items);
            }
        }
    }

    /// Back to the head of the queue, in order. While the leader is the same, the next try comes
    /// after a pause.
    pub(super) fn requeue(&mut self, items: Vec<Item>) {
        if !items.is_empty() {
            self.forward_at = Instant::now() + self.heartbeat_interval / 2;
        }
        for item in items.into_iter().rev() {
            if self.jobs.contains_key(&item.job) {
                self.queue.push_front(item);
            }
        }
    }
}
