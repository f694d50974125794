//! Does what the role asks for: each call is a task that ends in an event.

use api::status::Status;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use paxos::ids::{Ballot, NodeId, Slot};
use roles::proposer::{Action, Call, Event as Happened, Failure, Note};
use tokio::time::timeout;

use super::{Event, Run};
use crate::link::Link;

impl Run {
    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::Ask {
                calls,
                request,
                is_guarded,
                hears_progress,
            } => self.ask_acceptors(&calls, request, is_guarded, hears_progress),
            Action::Tell { calls, learn } => self.tell_learners(&calls, learn),
            Action::Heartbeat(call, heartbeat) => self.post_heartbeat(call, heartbeat),
            Action::Forward {
                call,
                wait_ms,
                values,
            } => self.forward(call, wait_ms, values),
            Action::Abort(call) => {
                if let Some(task) = self.forwards.remove(&call) {
                    task.abort();
                }
            }
            Action::Recall(call, slots) => self.recall(call, slots),
            Action::TakeOver(call) => self.ask_to_take_over(call),
            Action::LookForLearner(call) => self.look_for_learner(call),
            Action::AskStore(store) => self.ask_store(store),
            Action::SeeWhetherGone(leader, ballot) => self.see_whether_gone(leader, ballot),
            Action::RestartElectionTimer => self.restart_election_timer(),
            Action::Answer { job, answers, room } => self.answer(job, answers, room),
            Action::Readable { id, slot } => {
                if let Some(answer) = self.reads.remove(&id) {
                    let _ = answer.send(slot);
                }
            }
            Action::TakesOver { id, willing } => {
                if let Some(answer) = self.take_overs.remove(&id) {
                    let _ = answer.send(willing);
                }
            }
            Action::Save {
                saved,
                is_checkpoint,
            } => self.save(saved, is_checkpoint),
            Action::MayLeave => {
                for answer in self.leaving.drain(..) {
                    let _ = answer.send(());
                }
            }
            Action::Note(note) => {
                if let Note::LeaderElected { ballot, .. } = note {
                    self.followed = ballot.node().and_then(|id| self.link_to(id)).cloned();
                }
                self.say(&note);
            }
        }
    }

    /// A proposer that is listed, or led last.
    pub(super) fn link_to(&self, proposer: NodeId) -> Option<&Link> {
        let led = self.followed.as_ref();
        let listed = self.proposers.to(proposer);
        listed.or(led.filter(|link| link.node.id == proposer))
    }

    /// There is nobody of that name any more.
    pub(super) fn fail(&self, call: Call) {
        self.post(Happened::Failed(call.id, Failure::Unreachable));
    }

    /// Something that the role is to hear when its turn comes.
    pub(super) fn post(&self, happened: Happened) {
        // The loop lives as long as the process.
        let _ = self.events.send(Event::Happened(happened));
    }

    fn look_for_learner(&self, call: Call) {
        let (learners, events) = (self.learners.to_vec(), self.events.clone());
        tokio::spawn(async move {
            let ask = |link: Link| async move {
                // A question that every learner answers from memory.
                const PATH: &str = "/digests?from=18446744073709551615";
                link.get(PATH, call.within).await.is_ok()
            };
            let mut answers: FuturesUnordered<_> = learners.into_iter().map(ask).collect();
            let any = async {
                while let Some(answers) = answers.next().await {
                    if answers {
                        return true;
                    }
                }
                false
            };
            let happened = match timeout(call.within, any).await {
                Ok(true) => Happened::Answered(call.id, None),
                Ok(false) => Happened::Failed(call.id, Failure::Unreachable),
                Err(_) => Happened::Failed(call.id, Failure::TimedOut),
            };
            let _ = events.send(Event::Happened(happened));
        });
    }

    fn ask_store(&self, store: NodeId) {
        let Some(link) = self.stores.to(store) else {
            return;
        };
        let (link, events) = (link.clone(), self.events.clone());
        tokio::spawn(async move {
            if let Some(Status::Store(status)) = link.status().await {
                let durable = Slot(status.durable_instance_id);
                let _ = events.send(Event::Happened(Happened::Stored { store, durable }));
            }
        });
    }

    fn see_whether_gone(&self, leader: NodeId, ballot: Ballot) {
        let Some(peer) = self.link_to(leader).map(|link| link.peer.clone()) else {
            return;
        };
        let events = self.events.clone();
        tokio::spawn(async move {
            if peer.refused().await {
                let _ = events.send(Event::Happened(Happened::LeaderGone(ballot)));
            }
        });
    }

    /// Shows how far each learner is behind.
    pub(super) fn show_lags(&mut self) {
        let lags = self.role.lags();
        for gone in self.shown_lags.extract_if(.., |id| !lags.contains_key(id)) {
            let gone = gone.to_string();
            // It may never have had a value.
            let _ = self.metrics.learner_lag.remove_label_values(&[&gone]);
            let _ = self
                .metrics
                .learner_lag_seconds
                .remove_label_values(&[&gone]);
        }
        for (id, (behind, since)) in lags {
            let learner = id.to_string();
            let lag = &self.metrics.learner_lag;
            lag.with_label_values(&[&learner]).set(*behind as i64);
            let seconds = &self.metrics.learner_lag_seconds;
            let seconds = seconds.with_label_values(&[&learner]);
            seconds.set(since.as_secs() as i64);
            self.shown_lags.insert(*id);
        }
    }
}
