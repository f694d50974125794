//! Messages to other nodes, each a task of its own.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use http::uri::PathAndQuery;
use paxos::ids::Slot;
use paxos::message::{Heartbeat, Learn, Message, Request, Values};
use roles::proposer::{Call, Event as Happened, Failure};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use super::{Event, Run};
use crate::link::{Error as LinkError, Link};
use crate::peers::{Breakers, CallError, Lane, guard, post};
use crate::wire::HeartbeatBody;

/// Between two words to the role that an answer is coming.
const PROGRESS_EVERY: Duration = Duration::from_millis(50);

impl Run {
    pub(super) fn ask_acceptors(
        &self,
        calls: &[Call],
        request: Request,
        is_guarded: bool,
        hears_progress: bool,
    ) {
        self.metrics.proposer_sends(&request, calls.len());
        let breakers = match is_guarded {
            true => {
                let peers = self.acceptors.iter().map(|link| &link.peer);
                guard(peers, self.quorum)
            }
            // One small message at a time: it is what finds out that an acceptor is back.
            false => Breakers::Ignore,
        };
        let lane = match request {
            Request::Accept { .. } => Lane::Bulk,
            _ => Lane::Control,
        };
        let frame = self.me.frame(Message::Request(request));
        for call in calls {
            let link = self.acceptors.to(call.to);
            match link.cloned() {
                Some(link) => {
                    let how = (lane, breakers, hears_progress);
                    self.ask_acceptor(link, *call, frame.clone(), how);
                }
                None => self.fail(*call),
            }
        }
    }

    fn ask_acceptor(
        &self,
        link: Link,
        call: Call,
        frame: Bytes,
        (lane, breakers, hears_progress): (Lane, Breakers, bool),
    ) {
        let (events, metrics) = (self.events.clone(), self.metrics.clone());
        tokio::spawn(async move {
            let post = |happened| {
                let _ = events.send(Event::Happened(happened));
            };
            let mut told = Instant::now();
            let progress = || {
                if hears_progress && told.elapsed() >= PROGRESS_EVERY {
                    told = Instant::now();
                    post(Happened::Progress(call.id));
                }
            };
            let answer = link.ask_hearing(lane, frame, call.within, breakers, progress);
            let mut answer = pin!(answer);
            let answer = match call.late_after {
                None => answer.await,
                Some(late_after) => match timeout(late_after, &mut answer).await {
                    Ok(answer) => answer,
                    Err(_) => {
                        post(Happened::Late(call.id));
                        answer.await
                    }
                },
            };
            if let Ok(Message::Reply(reply)) = &answer {
                metrics.proposer_gets(reply);
                if lane == Lane::Control {
                    link.peer.heard();
                }
            }
            post(ended(&link, call, answer, |answer| {
                matches!(answer, Message::Reply(_))
            }));
        });
    }

    pub(super) fn tell_learners(&self, calls: &[Call], learn: Learn) {
        let lane = match learn.values.is_empty() {
            true => Lane::Control,
            false => Lane::Bulk,
        };
        let frame = self.me.frame(Message::Learn(learn));
        for call in calls {
            let link = self.learners.to(call.to);
            match link.cloned() {
                Some(link) => {
                    self.send(link, *call, lane, frame.clone(), |answer| {
                        matches!(answer, Message::Learned(_))
                    });
                }
                None => self.fail(*call),
            }
        }
    }

    pub(super) fn recall(&self, call: Call, slots: Vec<Slot>) {
        let link = self.learners.to(call.to);
        let Some(link) = link.cloned() else {
            return self.fail(call);
        };
        let frame = self.me.frame(Message::Recall(slots));
        self.send(link, call, Lane::Bulk, frame, |answer| {
            matches!(answer, Message::Recalled(_))
        });
    }

    pub(super) fn ask_to_take_over(&self, call: Call) {
        let link = self.proposers.to(call.to);
        let Some(link) = link.cloned() else {
            return self.fail(call);
        };
        let frame = self.me.frame(Message::TakeOver);
        self.send(link, call, Lane::Control, frame, |_| true);
    }

    fn send(
        &self,
        link: Link,
        call: Call,
        lane: Lane,
        frame: Bytes,
        is_answer: fn(&Message) -> bool,
    ) -> AbortHandle {
        let events = self.events.clone();
        let task = tokio::spawn(async move {
            let answer = link.ask(lane, frame, call.within, Breakers::Ignore).await;
            let happened = ended(&link, call, answer, is_answer);
            let _ = events.send(Event::Happened(happened));
        });
        task.abort_handle()
    }

    pub(super) fn forward(&mut self, call: Call, wait_ms: u32, values: Values) {
        let Some(link) = self.link_to(call.to).cloned() else {
            return self.fail(call);
        };
        let frame = self.me.frame(Message::Forward { wait_ms, values });
        let task = self.send(link, call, Lane::Bulk, frame, |answer| {
            matches!(answer, Message::Forwarded(_))
        });
        self.forwards.retain(|_, task| !task.is_finished());
        self.forwards.insert(call.id, task);
    }

    pub(super) fn post_heartbeat(&self, call: Call, heartbeat: Heartbeat) {
        let link = self.proposers.to(call.to);
        let Some(link) = link.cloned() else {
            return self.fail(call);
        };
        let body = HeartbeatBody::from(heartbeat);
        // Four numbers: there is nothing in it that could fail.
        let body = Bytes::from(serde_json::to_vec(&body).unwrap_or_default());
        let events = self.events.clone();
        tokio::spawn(async move {
            const PATH: PathAndQuery = PathAndQuery::from_static("/leader-heartbeat");
            const JSON: HeaderValue = HeaderValue::from_static("application/json");
            let request = post(PATH, JSON, body);
            let answer = link
                .peer
                .call(Lane::Control, request, call.within, Breakers::Ignore);
            let happened = match answer.await {
                Ok(answer) if answer.status().is_success() => Happened::Answered(call.id, None),
                Ok(_) => Happened::Failed(call.id, Failure::Refused),
                Err(error) => Happened::Failed(call.id, failure(&LinkError::Call(error))),
            };
            let _ = events.send(Event::Happened(happened));
        });
    }
}

/// What the role hears of a call's end.
fn ended(
    link: &Link,
    call: Call,
    answer: Result<Message, LinkError>,
    is_answer: impl Fn(&Message) -> bool,
) -> Happened {
    match answer {
        Ok(answer) if is_answer(&answer) => Happened::Answered(call.id, Some(answer)),
        Ok(_) => {
            warn!(node = %link.node, "unexpected reply");
            Happened::Failed(call.id, Failure::Refused)
        }
        Err(error) => {
            debug!(node = %link.node, %error, "no answer");
            Happened::Failed(call.id, failure(&error))
        }
    }
}

fn failure(error: &LinkError) -> Failure {
    match error {
        LinkError::Call(CallError::TooLarge) => Failure::TooLarge,
        LinkError::Call(CallError::TimedOut) => Failure::TimedOut,
        LinkError::Call(_) => Failure::Unreachable,
        _ => Failure::Refused,
    }
}
