//! Clients' requests: they wait for a slot, then for their outcome.

use std::sync::Arc;
use std::time::Duration;

use paxos::message::Value;
use paxos::proposer::Input;
use paxos::stamp::{STAMP_EVERY_MS, Stamp};

use super::forwarding::FORWARDS;
use super::found::FoundRoom;
use super::{Action, Answer, Claims, NewJob, Note, ProposerRole};

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
    left: usize,
    pub(super) forwarded: bool,
    /// Whether a leader may have proposed any of it.
    submitted: bool,
    pub(super) deadline: Duration,
    started: Duration,
    /// Taken by what READs of it found.
    pub(super) found: FoundRoom,
}

impl<D: Claims> ProposerRole<D> {
    pub(super) fn submit(&mut self, new: NewJob) {
        let NewJob {
            id,
            values,
            wait,
            forwarded,
            deadline,
        } = new;
        let count = values.len();
        if count == 0 || (forwarded && !self.core.is_leading()) {
            return self.actions.push(Action::Answer {
                job: id,
                answers: vec![Answer::NoLeader; count],
                room: FoundRoom::default(),
            });
        }
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
            forwarded,
            submitted: false,
            deadline,
            started: self.now,
            found: FoundRoom::default(),
        };
        self.jobs.insert(id, job);
    }

    /// Passes what waits on to the leader: to the core when that is here.
    pub(super) fn pump(&mut self) {
        if self.queue.is_empty() {
            return;
        }
        if self.core.is_leading() {
            match self.no_room.clone() {
                Some(why) => self.refuse_queued(&why),
                None if self.leaving_at.is_none() => self.propose(),
                None => {}
            }
        } else if let Some(leader) = self.core.leader()
            && self.now >= self.forward_at
        {
            while !self.queue.is_empty() && self.forwards.len() < FORWARDS {
                if !self.forward(leader) {
                    break;
                }
            }
        }
    }

    /// Says why nothing new can be chosen, while the acceptors have no room.
    pub(super) fn watch_room(&mut self) {
        let why = match self.core.has_room() {
            true => None,
            false => Some(self.full.why(self.core.silent(), &self.lagging)),
        };
        match (&why, &self.no_room) {
            (Some(why), None) => self.note(Note::NoRoom(why.clone())),
            (None, Some(_)) => self.note(Note::RoomAgain),
            _ => {}
        }
        self.no_room = why;
    }

    /// What waits is answered, instead of waiting for room that may come tomorrow.
    fn refuse_queued(&mut self, why: &Arc<str>) {
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

    fn propose(&mut self) {
        let (most, most_bytes) = self.settings.open;
        let room = most.saturating_sub(self.core.open_slots());
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let mut bytes = self.core.open_bytes();
        let mut items = Vec::new();
        while items.len() < room
            && bytes < most_bytes
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

    /// Measures how long what is chosen now took.
    pub(super) fn note_chosen(&mut self) {
        if !self.core.is_leading() {
            self.choosing.clear();
        }
        let committed = self.core.committed();
        while let Some((_, since)) = self.choosing.pop_front_if(|(slot, _)| *slot <= committed) {
            self.note(Note::Chosen(self.now - since));
        }
    }

    /// Lets log time pass: see [`Stamp`]. The first value with a stamp, if it got one. What is proposed
    /// again by another leader has no stamp of this one, as items keep their values as they came.
    fn stamp(&mut self, values: &mut [Value]) -> Option<Value> {
        let first = values.first_mut()?;
        let elapsed = self
            .stamped_at
            .map_or(0, |at| (self.now - at).as_millis() as u64);
        if self.stamped_at.is_some() && elapsed < STAMP_EVERY_MS {
            return None;
        }
        *first = Stamp::after(elapsed, self.settings.terms).put_on(first);
        self.stamped_at = Some(self.now);
        Some(first.clone())
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

    pub(super) fn expire(&mut self) {
        let late = self.jobs.iter();
        let late = late.filter(|(_, job)| job.deadline <= self.now);
        let late: Vec<u64> = late.map(|(id, _)| *id).collect();
        if late.is_empty() {
            return;
        }
        for id in late {
            self.finish(id);
        }
        // Their values go with them: the bounds count what somebody waits for. Nor must an outcome
        // that nobody waits for hold up what learners may be spared.
        let jobs = &self.jobs;
        self.queue.retain_jobs(|job| jobs.contains_key(&job));
        self.proposed.retain(|_, item| jobs.contains_key(&item.job));
        self.recalls.forget(|item| !jobs.contains_key(&item.job));
    }

    fn finish(&mut self, id: u64) {
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
        let answers = job.answers.into_iter();
        let answers = answers.map(|answer| answer.unwrap_or_else(|| open.clone()));
        let action = Action::Answer {
            job: id,
            answers: answers.collect(),
            room: job.found,
        };
        self.actions.push(action);
    }
}
