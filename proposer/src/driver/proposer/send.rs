//! What goes out: questions to acceptors, what is chosen to the learners, heartbeats. A call ends in
//! an event, whatever becomes of it: the core repeats what has failed, and nothing else.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use http::uri::PathAndQuery;
use paxos::ids::{NodeId, NodeName};
use paxos::message::{Heartbeat, Message, Reply, Request};
use paxos::proposer::{Input, Sent, To};
use paxos::telling::Tell;
use roles::pace::Pace;
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use super::{Event, Run};
use crate::link::{Error as LinkError, Link};
use crate::peers::{Breakers, CallError, Lane, guard, post};
use crate::wire::HeartbeatBody;

/// Between two words to the core that an answer is coming.
const PROGRESS_EVERY: Duration = Duration::from_millis(50);
/// How long a learner may take to say how far it is.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(2);

/// A question to an acceptor.
#[derive(Clone)]
pub(super) struct Question {
    frame: Bytes,
    sent: Sent,
    breakers: Breakers,
    /// A proof of leadership: the newest one alone counts.
    is_renewal: bool,
    /// Others can be asked in its place.
    hurries: bool,
}

/// What was sent, and how long it was under way.
#[derive(Clone, Copy)]
pub(super) struct Took {
    pub(super) sent: Sent,
    pub(super) is_renewal: bool,
    bytes: usize,
    time: Duration,
}

/// A telling that is over.
#[derive(Clone, Copy)]
pub(super) struct Told {
    pub(super) first: paxos::ids::Slot,
    pub(super) count: usize,
    bytes: usize,
    time: Duration,
}

/// Why a learner has not answered a telling.
pub(super) enum Untold {
    /// Nothing there took it, or it broke off.
    Unreachable,
    /// Not in time.
    TimedOut,
    /// It answers, but not this.
    Refused,
    /// Its answer is larger than any that is taken.
    TooLarge,
}

impl From<&LinkError> for Untold {
    fn from(error: &LinkError) -> Untold {
        match error {
            LinkError::Call(CallError::TooLarge) => Untold::TooLarge,
            LinkError::Call(CallError::TimedOut) => Untold::TimedOut,
            LinkError::Call(_) => Untold::Unreachable,
            _ => Untold::Refused,
        }
    }
}

impl Run {
    pub(super) fn ask_acceptors(&mut self, to: &To, request: Request) {
        let sent = Sent::of(&request);
        if let (To::Quorum(_), Request::Accept { values, .. }) = (to, &request) {
            self.metrics.batch_size.observe(values.len() as f64);
        }
        let is_renewal = matches!(request, Request::Renew { .. });
        let is_accept = matches!(sent, Sent::Accept { .. });
        let breakers = match is_accept {
            true => {
                let peers = self.acceptors.iter().map(|link| &link.peer);
                guard(peers, self.quorum)
            }
            // One small message at a time: it is what finds out that an acceptor is back.
            false => Breakers::Ignore,
        };
        let first_choice = matches!(to, To::Quorum(_) | To::One(_));
        let asked = self.acceptors.iter().filter(|l| to.includes(l.node.id));
        let asked: Vec<Link> = asked.cloned().collect();
        self.metrics.proposer_sends(&request, asked.len());
        let question = Question {
            frame: self.frame(Message::Request(request)),
            sent,
            breakers,
            is_renewal,
            hurries: first_choice && (is_renewal || is_accept),
        };
        for link in asked {
            let question = question.clone();
            let question = match is_renewal {
                true => self.renewals.offer(link.node.id, question),
                false => Some(question),
            };
            if let Some(question) = question {
                self.ask(link, question);
            }
        }
    }

    fn ask(&self, link: Link, question: Question) {
        let Question {
            frame,
            sent,
            breakers,
            is_renewal,
            hurries,
        } = question;
        let bytes = frame.len();
        let (lane, within) = match sent {
            Sent::Accept { .. } => (Lane::Bulk, self.pace(link.node).give_up_after(bytes)),
            // Until it begins: a candidate's own timer runs as long.
            Sent::Prepare { .. } => (Lane::Control, 2 * self.election_timeout),
            Sent::Other => (Lane::Control, self.election_timeout),
        };
        let usual = match is_renewal {
            true => &self.usual_renewal,
            false => &self.usual_vote,
        };
        let late_after = hurries.then(|| usual.late_after(bytes, self.heartbeat_interval));
        let events = self.events.clone();
        tokio::spawn(async move {
            let id = link.node.id;
            let started = Instant::now();
            let mut told = started;
            let hears = matches!(sent, Sent::Prepare { .. });
            let progress = || {
                if hears && told.elapsed() >= PROGRESS_EVERY {
                    told = Instant::now();
                    let _ = events.send(Event::Progress(id));
                }
            };
            let mut answer = pin!(link.ask_hearing(lane, frame, within, breakers, progress));
            let answer = match late_after {
                None => answer.await,
                Some(late_after) => match timeout(late_after, &mut answer).await {
                    Ok(answer) => answer,
                    Err(_) => {
                        let _ = events.send(Event::Unanswered(id));
                        answer.await
                    }
                },
            };
            let took = Took {
                sent,
                is_renewal,
                bytes,
                time: started.elapsed(),
            };
            let event = match answer {
                Ok(Message::Reply(reply)) => {
                    if lane == Lane::Control {
                        link.peer.heard();
                    }
                    Event::Reply(id, reply, took)
                }
                Ok(_) => {
                    warn!(acceptor = %link.node, "unexpected reply");
                    Event::Failed(link.node, took, false)
                }
                Err(error) => {
                    debug!(acceptor = %link.node, %error, "no answer");
                    let late = matches!(error, LinkError::Call(CallError::TimedOut));
                    Event::Failed(link.node, took, late)
                }
            };
            let _ = events.send(event);
        });
    }

    pub(super) fn replied(&mut self, from: NodeId, reply: Reply, took: Took) {
        let Took {
            sent, bytes, time, ..
        } = took;
        if took.is_renewal {
            self.usual_renewal.took(bytes, time);
        } else if let Sent::Accept { .. } = sent {
            self.usual_vote.took(bytes, time);
            let role = api::env::Role::Acceptor;
            self.pace_of(NodeName { role, id: from }).took(bytes, time);
            self.slow.note(from, time, &reply);
        }
        self.full.note(from, &reply);
        self.metrics.proposer_gets(&reply);
        let answers = sent.is_answered_by(&reply);
        self.step(Input::Reply { from, reply });
        if !answers {
            self.step(Input::Failed { from, sent });
        }
        self.renewal_ended(from, took);
    }

    pub(super) fn failed(&mut self, node: NodeName, took: Took, late: bool) {
        if late {
            self.pace_of(node).gave_up(took.bytes);
        }
        let (from, sent) = (node.id, took.sent);
        self.step(Input::Failed { from, sent });
        self.renewal_ended(from, took);
    }

    fn renewal_ended(&mut self, acceptor: NodeId, took: Took) {
        if !took.is_renewal {
            return;
        }
        if let Some(question) = self.renewals.ended(acceptor) {
            let link = self.acceptors.iter().find(|l| l.node.id == acceptor);
            match link.cloned() {
                Some(link) => self.ask(link, question),
                None => drop(self.renewals.ended(acceptor)),
            }
        }
    }

    pub(super) fn tell(&self, tell: Tell) {
        let Tell { to, learn } = tell;
        let (first, count) = (learn.first, learn.values.len());
        let frame = self.frame(Message::Learn(learn));
        let links = self.learners.iter().filter(|l| to.contains(&l.node.id));
        for link in links.cloned() {
            let (lane, within) = match count {
                0 => (Lane::Control, ANNOUNCE_TIMEOUT),
                _ => (Lane::Bulk, self.pace(link.node).give_up_after(frame.len())),
            };
            let (frame, events) = (frame.clone(), self.events.clone());
            tokio::spawn(async move {
                let (started, bytes) = (Instant::now(), frame.len());
                let answer = link.ask(lane, frame, within, Breakers::Ignore).await;
                let told = Told {
                    first,
                    count,
                    bytes,
                    time: started.elapsed(),
                };
                let event = match answer {
                    Ok(Message::Learned(learned)) => Event::Learned(link.node.id, learned, told),
                    Ok(_) => {
                        warn!(learner = %link.node, "unexpected reply");
                        Event::Untold(link.node, told, Untold::Refused)
                    }
                    Err(error) => {
                        debug!(learner = %link.node, %error, "no answer");
                        Event::Untold(link.node, told, Untold::from(&error))
                    }
                };
                let _ = events.send(event);
            });
        }
    }

    /// Counts how long a learner took over what it was sent.
    pub(super) fn note_told(&mut self, learner: NodeName, told: Told, gave_up: bool) {
        if told.count > 0 {
            let pace = self.pace_of(learner);
            match gave_up {
                true => pace.gave_up(told.bytes),
                false => pace.took(told.bytes, told.time),
            }
        }
    }

    pub(super) fn send_heartbeat(&mut self, heartbeat: Heartbeat) {
        let body = HeartbeatBody::from(heartbeat);
        // Four numbers: there is nothing in it that could fail.
        let body = Bytes::from(serde_json::to_vec(&body).unwrap_or_default());
        let links: Vec<Link> = self.proposers.to_vec();
        for link in links {
            if let Some(body) = self.heartbeats.offer(link.node.id, body.clone()) {
                self.post_heartbeat(link, body);
            }
        }
    }

    /// A follower has answered a heartbeat, or has not.
    pub(super) fn heartbeat_ended(&mut self, follower: NodeId, follows: bool) {
        if follows {
            self.followed_at.insert(follower, Instant::now());
        }
        // What waited while nobody answered is old, but the newest there is.
        if let Some(body) = self.heartbeats.ended(follower) {
            let link = self.proposers.iter().find(|l| l.node.id == follower);
            match link.cloned() {
                Some(link) if self.core.is_leading() => self.post_heartbeat(link, body),
                _ => drop(self.heartbeats.ended(follower)),
            }
        }
    }

    fn post_heartbeat(&self, link: Link, body: Bytes) {
        let (events, timeout) = (self.events.clone(), self.election_timeout);
        tokio::spawn(async move {
            const PATH: PathAndQuery = PathAndQuery::from_static("/leader-heartbeat");
            const JSON: HeaderValue = HeaderValue::from_static("application/json");
            let request = post(PATH, JSON, body);
            let call = link
                .peer
                .call(Lane::Control, request, timeout, Breakers::Ignore);
            let follows = call.await.is_ok_and(|answer| answer.status().is_success());
            let _ = events.send(Event::HeartbeatEnded(link.node.id, follows));
        });
    }

    fn frame(&self, message: Message) -> Bytes {
        self.me.frame(message)
    }

    fn pace(&self, node: NodeName) -> Pace {
        self.paces.get(&node).copied().unwrap_or_default()
    }

    fn pace_of(&mut self, node: NodeName) -> &mut Pace {
        self.paces.entry(node).or_default()
    }
}
