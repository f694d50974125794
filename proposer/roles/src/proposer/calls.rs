//! What goes out: questions to acceptors, what is chosen to the learners, heartbeats. A call ends in an
//! event, whatever becomes of it: the core repeats what has failed, and nothing else.

use std::time::Duration;

use paxos::ids::{Ballot, NodeId, NodeName, Role, Slot};
use paxos::message::{Heartbeat, Learn, Message, Reply, Request, Value};
use paxos::proposer::{Input, Sent, To};
use paxos::telling::Tell;

use super::requests::Item;
use super::succession::{Looking, Search};
use super::{Action, Call, CallId, Claims, Failure, Note, ProposerRole};
use crate::pace::Pace;

/// How long a learner may take to say how far it is.
const ANNOUNCE_WITHIN: Duration = Duration::from_secs(2);
/// About what a message has beside its values, in bytes.
const HEAD: usize = 64;

/// A call that has not ended.
pub(super) enum Open {
    /// An acceptor was asked.
    Asked(Asked),
    /// A learner was told.
    Told(Told),
    /// Another proposer was told that this one leads.
    Heartbeat(NodeId),
    /// The leader was asked to propose.
    Forward(Forward),
    /// A learner was asked what READs found.
    Recall(NodeId),
    /// Another proposer was asked to take over.
    TakeOver(Search),
    /// All learners were asked whether they are there.
    Look(Looking),
}

/// Something that an acceptor was asked.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    to: NodeId,
    sent: Sent,
    is_renewal: bool,
    bytes: usize,
    at: Duration,
}

/// Something that a learner was told.
#[derive(Clone, Copy)]
pub(super) struct Told {
    to: NodeId,
    pub(super) first: Slot,
    pub(super) count: usize,
    bytes: usize,
    at: Duration,
}

/// Values sent on to a leader, until it answers.
pub(super) struct Forward {
    pub(super) to: Ballot,
    pub(super) items: Vec<Item>,
}

/// A proof of leadership that waits for the one before it to be answered.
#[derive(Clone)]
pub(super) struct Question {
    request: Request,
    hurries: bool,
}

impl<D: Claims> ProposerRole<D> {
    /// A call to that node, which ends in `open`'s way.
    pub(super) fn call(&mut self, to: NodeId, within: Duration, open: Open) -> Call {
        let id = self.next_call;
        self.next_call += 1;
        self.calls.insert(id, open);
        Call {
            id,
            to,
            within,
            late_after: None,
        }
    }

    pub(super) fn answered(&mut self, id: CallId, answer: Option<Message>) {
        let Some(open) = self.calls.remove(&id) else {
            return;
        };
        match (open, answer) {
            (Open::Asked(asked), Some(Message::Reply(reply))) => self.replied(asked, reply),
            (Open::Told(told), Some(Message::Learned(learned))) => {
                let took = self.now - told.at;
                if told.count > 0 {
                    self.pace_of(Role::Learner, told.to).took(told.bytes, took);
                }
                self.learned(told.to, learned, told);
            }
            (Open::Heartbeat(to), _) => {
                self.followed_at.insert(to, self.now);
                self.heartbeat_ended(to);
            }
            (Open::Forward(forward), Some(Message::Forwarded(answer))) => {
                self.forwards.remove(&id);
                self.forwarded(forward, answer);
            }
            (Open::Recall(learner), Some(Message::Recalled(recalled))) => {
                self.recalled(learner, Some(recalled));
            }
            (Open::TakeOver(search), _) => self.takes_over(search),
            (Open::Look(looking), _) => self.looked(looking, true),
            (open, _) => self.ended(id, open, Failure::Refused),
        }
    }

    pub(super) fn failed(&mut self, id: CallId, why: Failure) {
        if let Some(open) = self.calls.remove(&id) {
            self.ended(id, open, why);
        }
    }

    /// A call has ended without the answer that it asks for.
    fn ended(&mut self, id: CallId, open: Open, why: Failure) {
        match open {
            Open::Asked(asked) => {
                let Asked {
                    to, sent, bytes, ..
                } = asked;
                if why == Failure::TimedOut {
                    self.pace_of(Role::Acceptor, to).gave_up(bytes);
                }
                self.step(Input::Failed { from: to, sent });
                self.renewal_ended(asked);
            }
            Open::Told(told) => {
                if why == Failure::TimedOut && told.count > 0 {
                    self.pace_of(Role::Learner, told.to).gave_up(told.bytes);
                }
                self.untold(told.to, told, why);
            }
            Open::Heartbeat(to) => self.heartbeat_ended(to),
            Open::Forward(forward) => {
                self.forwards.remove(&id);
                self.requeue(forward.items);
            }
            Open::Recall(learner) => self.recalled(learner, None),
            Open::TakeOver(search) => self.declined(search, why),
            Open::Look(looking) => self.looked(looking, false),
        }
    }

    pub(super) fn late(&mut self, id: CallId) {
        if let Some(Open::Asked(asked)) = self.calls.get(&id) {
            let acceptor = asked.to;
            self.step(Input::Unanswered(acceptor));
        }
    }

    pub(super) fn hears_more(&mut self, id: CallId) {
        if let Some(Open::Asked(asked)) = self.calls.get(&id) {
            let acceptor = asked.to;
            self.step(Input::Progress(acceptor));
        }
    }

    pub(super) fn ask_acceptors(&mut self, to: &To, request: Request) {
        let is_renewal = matches!(request, Request::Renew { .. });
        let is_accept = matches!(request, Request::Accept { .. });
        if let (To::Quorum(_), Request::Accept { values, .. }) = (to, &request) {
            self.note(Note::Batch(values.len()));
        }
        let first_choice = matches!(to, To::Quorum(_) | To::One(_));
        let hurries = first_choice && (is_renewal || is_accept);
        let asked = self.peers.acceptors.iter();
        let mut asked: Vec<NodeId> = asked.copied().filter(|id| to.includes(*id)).collect();
        if is_renewal {
            asked.retain(|id| {
                let request = request.clone();
                let question = Question { request, hurries };
                self.renewals.offer(*id, question).is_some()
            });
        }
        self.ask(&asked, Question { request, hurries });
    }

    fn ask(&mut self, acceptors: &[NodeId], question: Question) {
        let Question { request, hurries } = question;
        let sent = Sent::of(&request);
        let is_renewal = matches!(request, Request::Renew { .. });
        let bytes = match &request {
            Request::Accept { values, .. } => size_of(values),
            _ => HEAD,
        };
        let election_timeout = self.settings.election_timeout;
        let usual = match is_renewal {
            true => &self.usual_renewal,
            false => &self.usual_vote,
        };
        let margin = self.settings.heartbeat_interval;
        let late_after = hurries.then(|| usual.late_after(bytes, margin));
        let calls = acceptors.iter().map(|to| {
            let within = match sent {
                Sent::Accept { .. } => self.pace_of(Role::Acceptor, *to).give_up_after(bytes),
                // Until it begins: a candidate's own timer runs as long.
                Sent::Prepare { .. } => 2 * election_timeout,
                Sent::Other => election_timeout,
            };
            let asked = Asked {
                to: *to,
                sent,
                is_renewal,
                bytes,
                at: self.now,
            };
            Call {
                late_after,
                ..self.call(*to, within, Open::Asked(asked))
            }
        });
        let calls: Vec<Call> = calls.collect();
        if !calls.is_empty() {
            self.actions.push(Action::Ask {
                calls,
                is_guarded: matches!(sent, Sent::Accept { .. }),
                hears_progress: matches!(sent, Sent::Prepare { .. }),
                request,
            });
        }
    }

    fn replied(&mut self, asked: Asked, reply: Reply) {
        let Asked {
            to: from,
            sent,
            is_renewal,
            bytes,
            at,
        } = asked;
        let took = self.now - at;
        if is_renewal {
            self.usual_renewal.took(bytes, took);
        } else if let Sent::Accept { .. } = sent {
            self.usual_vote.took(bytes, took);
            self.pace_of(Role::Acceptor, from).took(bytes, took);
            if let Some(takes) = self.slow.note(from, took, &reply, self.now) {
                self.note(Note::SlowAcceptor(from, takes));
            }
        }
        self.full.note(from, &reply);
        let answers = sent.is_answered_by(&reply);
        self.step(Input::Reply { from, reply });
        if !answers {
            self.step(Input::Failed { from, sent });
        }
        self.renewal_ended(asked);
    }

    fn renewal_ended(&mut self, asked: Asked) {
        if !asked.is_renewal {
            return;
        }
        let acceptor = asked.to;
        if let Some(question) = self.renewals.ended(acceptor) {
            match self.peers.acceptors.contains(&acceptor) {
                true => self.ask(&[acceptor], question),
                false => drop(self.renewals.ended(acceptor)),
            }
        }
    }

    pub(super) fn tell(&mut self, tell: Tell) {
        let Tell { to, learn } = tell;
        let Learn { first, values, .. } = &learn;
        let (first, count, bytes) = (*first, values.len(), size_of(values));
        let calls = to.into_iter().map(|to| {
            let within = match count {
                0 => ANNOUNCE_WITHIN,
                _ => self.pace_of(Role::Learner, to).give_up_after(bytes),
            };
            let told = Told {
                to,
                first,
                count,
                bytes,
                at: self.now,
            };
            self.call(to, within, Open::Told(told))
        });
        let calls: Vec<Call> = calls.collect();
        if !calls.is_empty() {
            self.actions.push(Action::Tell { calls, learn });
        }
    }

    pub(super) fn send_heartbeat(&mut self, heartbeat: Heartbeat) {
        for to in self.peers.proposers.clone() {
            if let Some(heartbeat) = self.heartbeats.offer(to, heartbeat) {
                self.post_heartbeat(to, heartbeat);
            }
        }
    }

    /// A follower has answered a heartbeat, or has not.
    fn heartbeat_ended(&mut self, follower: NodeId) {
        // What waited while nobody answered is old, but the newest there is.
        if let Some(heartbeat) = self.heartbeats.ended(follower) {
            match self.peers.proposers.contains(&follower) && self.core.is_leading() {
                true => self.post_heartbeat(follower, heartbeat),
                false => drop(self.heartbeats.ended(follower)),
            }
        }
    }

    fn post_heartbeat(&mut self, to: NodeId, heartbeat: Heartbeat) {
        let call = self.call(to, self.settings.election_timeout, Open::Heartbeat(to));
        self.actions.push(Action::Heartbeat(call, heartbeat));
    }

    pub(super) fn pace_of(&mut self, role: Role, id: NodeId) -> &mut Pace {
        self.paces.entry(NodeName { role, id }).or_default()
    }
}

/// About how many bytes a message of these values has.
pub(super) fn size_of(values: &[Value]) -> usize {
    HEAD + values.iter().map(|value| 4 + value.len()).sum::<usize>()
}
