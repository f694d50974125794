//! Handing leadership over: to whom, when, and how this proposer leaves.

use std::time::Duration;

use paxos::ids::{Ballot, NodeId};
use paxos::message::Message;
use paxos::proposer::Input;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Run, reach};
use crate::link::Link;
use crate::peers::{Breakers, Lane};

/// How long a leader that is shutting down waits for what is under way, before it hands over.
pub(super) const DRAIN: Duration = Duration::from_millis(500);

/// How often a proposer can be asked to take over.
pub(super) const TAKE_OVER_EVERY: Duration = Duration::from_secs(1);

/// When the leader's process is gone: how long each proposer waits for the one before it.
pub(super) const SUCCESSION_STEP: Duration = Duration::from_millis(40);

pub(super) struct Leaving {
    pub(super) drain_until: Instant,
    pub(super) answers: Vec<oneshot::Sender<()>>,
}

impl Run {
    pub(super) fn leave(&mut self, now: Instant) {
        let Some(drain_until) = self.leaving.as_ref().map(|l| l.drain_until) else {
            return;
        };
        let drained = self.proposed.is_empty() && self.core.open_slots() == 0;
        if self.core.is_leading() && (drained || now >= drain_until) {
            self.hand_over(now);
        }
        let alone = self.proposers.is_empty() && now >= drain_until;
        if !self.core.is_leading() && (self.jobs.is_empty() || alone) {
            for answer in self
                .leaving
                .iter_mut()
                .flat_map(|leaving| leaving.answers.drain(..))
            {
                let _ = answer.send(());
            }
        }
    }

    /// Steps down and asks one of those that may succeed to do so: the first that is willing.
    pub(super) fn hand_over(&mut self, now: Instant) {
        let successors = self.successors(now);
        self.step(Input::StepDown);
        let frame = self.me.frame(Message::TakeOver);
        let timeout = reach::SUCCESSOR_WITHIN;
        tokio::spawn(async move {
            for link in successors {
                info!(successor = %link.node, "handing leadership over");
                let answer = link.ask(Lane::Control, frame.clone(), timeout, Breakers::Ignore);
                match answer.await {
                    Ok(_) => return,
                    Err(error) => {
                        warn!(successor = %link.node, %error, "successor declined to take over")
                    }
                }
            }
        });
    }

    /// A leader that is no longer listed hands over as soon as there is somebody to take over.
    pub(super) fn retire(&mut self, now: Instant) {
        if self.core.is_leading() && !self.is_listed() && !self.successors(now).is_empty() {
            self.hand_over(now);
        }
    }

    pub(super) fn is_listed(&self) -> bool {
        self.addresses.now().name(self.me.name())
    }

    /// The link to the owner of a ballot.
    pub(super) fn link_to(&self, ballot: Ballot) -> Option<&Link> {
        let owner = ballot.node()?;
        let mut known = self.proposers.iter().chain(&self.followed);
        known.find(|link| link.node.id == owner)
    }

    /// The proposers that follow us and answered a heartbeat just now, in order: those that leave
    /// when the cluster shrinks come last.
    pub(super) fn successors(&self, now: Instant) -> Vec<Link> {
        let fresh = |node: &NodeId| {
            let lately = self.election_timeout.max(3 * self.heartbeat_interval);
            self.followed_at
                .get(node)
                .is_some_and(|at| now - *at < lately)
        };
        let fresh = self.proposers.iter().filter(|link| fresh(&link.node.id));
        fresh.cloned().collect()
    }
}
