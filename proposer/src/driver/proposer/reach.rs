//! Whether this proposer reaches a learner. A leader that does not can choose, but never say what
//! became of it, and no learner hears how far the log is: another proposer, one that reaches a
//! learner, takes over. Where nobody does, the leader stays, and says so.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use paxos::message::Message;
use roles::reach::Look;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::{Event, Run};
use crate::link::Link;
use crate::peers::{Breakers, Lane};

/// How long a learner may take to show that it is there, connecting included; and how long another
/// proposer may take to find out.
const WITHIN: Duration = Duration::from_millis(1500);
pub(super) const SUCCESSOR_WITHIN: Duration = Duration::from_secs(2);
/// Whether any of these learners answers. Without learners there is nobody to reach.
pub(super) async fn any_answers(learners: Vec<Link>) -> bool {
    if learners.is_empty() {
        return true;
    }
    let ask = |link: Link| async move {
        // A question that every learner answers from memory.
        let answer = link.get("/digests?from=18446744073709551615", WITHIN).await;
        answer.is_ok()
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
    timeout(WITHIN, any).await.unwrap_or(false)
}

impl Run {
    /// Looks for a learner, and for a proposer that reaches one, when none has answered for long.
    pub(super) fn watch_reach(&mut self, now: Instant) {
        if !self.core.is_leading() || self.leaving.is_some() {
            return self.learner_heard();
        }
        if !self.reach.begins_to_look(now - self.started) {
            return;
        }
        let (learners, successors) = (self.learners.to_vec(), self.successors(now));
        let take_over = self.me.frame(Message::TakeOver);
        let events = self.events.clone();
        tokio::spawn(async move {
            let look = match any_answers(learners).await {
                true => Look::Reached,
                false => find_successor(successors, take_over).await,
            };
            let _ = events.send(Event::Looked(look));
        });
    }

    /// A learner has answered.
    pub(super) fn learner_heard(&mut self) {
        self.reach.heard(self.started.elapsed());
    }

    pub(super) fn looked(&mut self, look: Look) {
        self.reach.looked(look, self.started.elapsed());
        if look == Look::Nobody && self.core.is_leading() {
            let learners = self.learners.iter().map(|link| link.node.to_string());
            let learners: Vec<String> = learners.collect();
            warn!(
                learners = learners.join(", "),
                "no learner answers this leader, nor any proposer that could succeed it: \
                 writes are chosen, but their outcomes are unknown until a learner is back"
            );
        }
    }
}

/// Asks one after the other to take over. One that reaches no learner refuses.
async fn find_successor(successors: Vec<Link>, take_over: bytes::Bytes) -> Look {
    for link in successors {
        let answer = link.ask(
            Lane::Control,
            take_over.clone(),
            SUCCESSOR_WITHIN,
            Breakers::Ignore,
        );
        match answer.await {
            Ok(_) => {
                warn!(
                    successor = %link.node,
                    "no learner answers this leader: a proposer that reaches one takes over"
                );
                return Look::HandedOver;
            }
            Err(error) => info!(successor = %link.node, %error, "successor declined to take over"),
        }
    }
    Look::Nobody
}
