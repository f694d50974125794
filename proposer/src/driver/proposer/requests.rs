//! Clients' requests: they wait for a slot, then for their outcome.

use std::sync::{Arc, PoisonError};

use paxos::machine::Outcome;
use paxos::message::Value;
use paxos::proposer::Input;
use paxos::stamp::{STAMP_EVERY_MS, Stamp};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::forwarding::FORWARDS;
use super::found::{Answers, FoundRoom};
use super::handle::NewJob;
use super::room::Room;
use super::{Answer, GROUP, Run};

/// Slots that may be open at once, given out and not applied by a learner, and bytes of their values.
const MAX_OPEN_SLOTS: u64 = 8192;

const MAX_OPEN_BYTES: usize = 64 << 20;

/// One value of a job.
pub(super) struct Item {
    pub(super) job: u64,
    pub(super) index: usize,
    pub(super) value: Value,
    /// The same as this leader has proposed it, where it put a stamp on it.
    pub(super) stamped: Option<Value>,
    pub(super) wait: bool,
    /// How many leaders may have proposed it.
    pub(super) tried: u32,
}

impl Item {
    /// The value that is chosen in its slot if this leader's is: learners halt at any other.
    pub(super) fn as_proposed(&self) -> &Value {
        self.stamped.as_ref().unwrap_or(&self.value)
    }
}

pub(super) struct Job {
    pub(super) answers: Vec<Option<Answer>>,
    pub(super) left: usize,
    pub(super) wait: bool,
    pub(super) forwarded: bool,
    /// Whether a leader may have proposed any of it.
    pub(super) submitted: bool,
    pub(super) deadline: Instant,
    pub(super) started: Instant,
    /// Taken by what READs of it found.
    pub(super) found: FoundRoom,
    pub(super) answer: oneshot::Sender<Answers>,
    pub(super) _room: Room,
}

impl Run {
    pub(super) fn take_jobs(&mut self, jobs: &mut mpsc::UnboundedReceiver<NewJob>) {
        for _ in 1..GROUP {
            let Ok(job) = jobs.try_recv() else { break };
            self.job(job);
        }
    }

    pub(super) fn job(&mut self, new: NewJob) {
        let NewJob {
            values,
            wait,
            forwarded,
            deadline,
            answer,
            room,
        } = new;
        let count = values.len();
        if count == 0 || (forwarded && !self.core.is_leading()) {
            let _ = answer.send(Answers::all(Answer::NoLeader, count));
            return;
        }
        let id = self.next_job;
        self.next_job += 1;
        let items = values.into_iter().enumerate();
        let items = items.map(|(index, value)| Item {
            job: id,
            index,
            value,
            stamped: None,
            wait,
            tried: 0,
        });
        self.queue.push_job(id, items);
        let job = Job {
            answers: vec![None; count],
            left: count,
            wait,
            forwarded,
            submitted: false,
            deadline,
            started: Instant::now(),
            found: FoundRoom::default(),
            answer,
            _room: room,
        };
        self.jobs.insert(id, job);
    }

    /// Passes what waits on to the leader: to the core when that is here.
    pub(super) fn pump(&mut self) {
        if self.queue.is_empty() {
            return;
        }
        if self.core.is_leading() {
            match self.no_room() {
                Some(why) => self.refuse_queued(&why),
                None if self.leaving.is_none() => self.propose(),
                None => {}
            }
        } else if let Some(leader) = self.core.leader()
            && Instant::now() >= self.forward_at
        {
            while !self.queue.is_empty() && self.forwards.len() < FORWARDS {
                if !self.forward(leader) {
                    break;
                }
            }
        }
    }

    /// Why nothing may be given a slot now.
    pub(super) fn no_room(&self) -> Option<Arc<str>> {
        let no_room = self.shared.no_room.read();
        no_room.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What waits is answered, instead of waiting for room that may come tomorrow.
    pub(super) fn refuse_queued(&mut self, why: &Arc<str>) {
        while let Some(item) = self.queue.pop_front() {
            self.settle_no_room(&item, 0, why);
        }
    }

    /// Answers that there is no room. What more than `tried` leaders may have proposed is not known to
    /// have no effect.
    pub(super) fn settle_no_room(&mut self, item: &Item, tried: u32, why: &Arc<str>) {
        let answer = match item.tried <= tried {
            true => Answer::NoRoom(why.clone()),
            false => Answer::Unknown,
        };
        self.settle(item.job, item.index, answer);
    }

    pub(super) fn propose(&mut self) {
        let room = MAX_OPEN_SLOTS.saturating_sub(self.core.open_slots());
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let mut bytes = self.core.open_bytes();
        let mut items = Vec::new();
        while items.len() < room
            && bytes < MAX_OPEN_BYTES
            && let Some(item) = self.queue.pop_front()
        {
            bytes += item.value.len();
            if self.mark_submitted(&item) {
                items.push(item);
            }
        }
        if items.is_empty() {
            return;
        }
        let mut values: Vec<Value> = items.iter().map(|item| item.value.clone()).collect();
        let stamped = self.stamp(&mut values);
        if let Some(item) = items.first_mut() {
            item.stamped = stamped;
        }
        let Some(first) = self.step(Input::Propose(values)) else {
            return;
        };
        for (i, mut item) in items.into_iter().enumerate() {
            item.tried += 1;
            let slot = first.plus(i as u64);
            if let Some(job) = self.jobs.get(&item.job) {
                self.choosing.push_back((slot, job.started));
            }
            if item.wait {
                self.proposed.insert(slot, item);
            } else {
                self.settle(item.job, item.index, Answer::Assigned(slot));
            }
        }
    }

    /// Lets log time pass: see [`Stamp`]. The first value with a stamp, if it got one. What is proposed
    /// again by another leader has no stamp of this one, as items keep their values as they came.
    pub(super) fn stamp(&mut self, values: &mut [Value]) -> Option<Value> {
        let first = values.first_mut()?;
        let now = Instant::now();
        let elapsed = self
            .stamped_at
            .map_or(0, |at| (now - at).as_millis() as u64);
        if self.stamped_at.is_none() || elapsed >= STAMP_EVERY_MS {
            *first = Stamp::after(elapsed, self.terms).put_on(first);
            self.stamped_at = Some(now);
            return Some(first.clone());
        }
        None
    }

    /// Notes that a leader may propose the item; `false` when nobody waits for it any more.
    pub(super) fn mark_submitted(&mut self, item: &Item) -> bool {
        let Some(job) = self.jobs.get_mut(&item.job) else {
            return false;
        };
        job.submitted = true;
        true
    }

    pub(super) fn settle(&mut self, id: u64, index: usize, answer: Answer) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let Some(place @ None) = job.answers.get_mut(index) else {
            return;
        };
        *place = Some(answer);
        job.left -= 1;
        if job.left == 0 {
            self.finish(id);
        }
    }

    pub(super) fn expire(&mut self, now: Instant) {
        let late = self.jobs.iter().filter(|(_, job)| job.deadline <= now);
        let late: Vec<u64> = late.map(|(id, _)| *id).collect();
        if late.is_empty() {
            return;
        }
        for id in late {
            self.finish(id);
        }
        // Their values go with them: the bounds count what somebody waits for. Nor must an outcome
        // that nobody waits for hold up what learners may be spared.
        self.queue.retain_jobs(|job| self.jobs.contains_key(&job));
        self.proposed
            .retain(|_, item| self.jobs.contains_key(&item.job));
        let jobs = &self.jobs;
        self.recalls.forget(|item| !jobs.contains_key(&item.job));
    }

    pub(super) fn finish(&mut self, id: u64) {
        let Some(job) = self.jobs.remove(&id) else {
            return;
        };
        let open = if job.submitted {
            Answer::Unknown
        } else if self.core.leader().is_some() {
            Answer::NotProposed
        } else {
            Answer::NoLeader
        };
        let answers = job
            .answers
            .into_iter()
            .map(|a| a.unwrap_or_else(|| open.clone()));
        let answers: Vec<Answer> = answers.collect();
        // Those that a follower sends on are counted there.
        if !job.forwarded {
            for answer in &answers {
                self.metrics
                    .proposals
                    .with_label_values(&[outcome_label(answer)])
                    .inc();
            }
            if job.wait {
                self.metrics
                    .commit_duration
                    .observe(job.started.elapsed().as_secs_f64());
            }
        }
        let answers = Answers {
            list: answers,
            room: job.found,
        };
        // The client may be gone.
        let _ = job.answer.send(answers);
    }
}

fn outcome_label(answer: &Answer) -> &'static str {
    match answer {
        Answer::Assigned(_) => "accepted",
        Answer::Done(applied) => match applied.outcome {
            Outcome::NotCommitted { .. } => "not_committed",
            Outcome::Reused => "reused",
            Outcome::OldSequence { .. } | Outcome::OldTimestamp { .. } => "too_old",
            Outcome::Full => "full",
            Outcome::Quota { .. } => "quota",
            _ => "committed",
        },
        Answer::NotRead => "not_read",
        Answer::Unknown => "unknown",
        Answer::NoLeader => "no_leader",
        Answer::NotProposed => "not_proposed",
        Answer::NoRoom(_) => "no_room",
    }
}
