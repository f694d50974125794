//! Who waits for what became of requests.

use paxos::machine::Outcome;
use roles::proposer::{Answer, Event as Happened, FoundRoom, NewJob};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::handle::{Answers, Submitted};
use super::room::Room;
use super::{GROUP, Run};

/// A job that the role has.
pub(super) struct Waiting {
    answer: oneshot::Sender<Answers>,
    started: Instant,
    wait: bool,
    forwarded: bool,
    /// Gives back what the job takes when it is dropped.
    _room: Room,
}

impl Run {
    pub(super) fn take_jobs(&mut self, jobs: &mut mpsc::UnboundedReceiver<Submitted>) {
        for _ in 1..GROUP {
            let Ok(job) = jobs.try_recv() else { break };
            self.submit(job);
        }
    }

    pub(super) fn submit(&mut self, submitted: Submitted) {
        let Submitted {
            values,
            wait,
            forwarded,
            deadline,
            answer,
            room,
        } = submitted;
        let id = self.number();
        let waiting = Waiting {
            answer,
            started: Instant::now(),
            wait,
            forwarded,
            _room: room,
        };
        self.jobs.insert(id, waiting);
        self.on(Happened::Submit(NewJob {
            id,
            values,
            wait,
            forwarded,
            deadline: deadline.saturating_duration_since(self.started),
        }));
    }

    pub(super) fn answer(&mut self, id: u64, answers: Vec<Answer>, room: FoundRoom) {
        let Some(job) = self.jobs.remove(&id) else {
            return;
        };
        // Those that a follower sends on are counted there.
        if !job.forwarded {
            for answer in &answers {
                self.metrics
                    .proposals
                    .with_label_values(&[outcome_label(answer)])
                    .inc();
            }
            if job.wait {
                let took = job.started.elapsed().as_secs_f64();
                self.metrics.commit_duration.observe(took);
            }
        }
        let list = answers;
        // The client may be gone.
        let _ = job.answer.send(Answers { list, room });
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
