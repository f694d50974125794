//! Who leads: elections, heartbeats, and what a change of leader means for those that wait.

use paxos::ids::Ballot;
use paxos::message::Heartbeat;
use paxos::proposer::Input;

use super::full::Full;
use super::requests::Item;
use super::succession::SUCCESSION_STEP;
use super::{Action, Answer, Claims, Note, ProposerRole};

impl<D: Claims> ProposerRole<D> {
    pub(super) fn elect(&mut self) {
        if self.core.is_leading() {
            return;
        }
        // Taken even by one that may not stand, or it would be due again at once, for as long.
        let succeeds = self.succession_at.take_if(|at| *at <= self.now).is_some();
        if !self.may_stand() {
            self.actions.push(Action::RestartElectionTimer);
        } else if succeeds {
            self.step(Input::TakeOver);
        } else {
            self.step(Input::ElectionTimeout);
        }
    }

    /// Whether it may become the leader.
    pub(super) fn may_stand(&self) -> bool {
        self.leaving_at.is_none() && self.peers.is_listed && self.peers.may_lead
    }

    /// A leader whose process is gone shows at once, without waiting for the timeout: nothing
    /// listens at its address. Then the proposers stand for election one after the other.
    pub(super) fn watch_leader(&mut self) {
        let Some(ballot) = self.core.leader().filter(|_| !self.core.is_leading()) else {
            return;
        };
        if !self.is_silent() || self.succession_at.is_some() {
            return;
        }
        if let Some(owner) = self.known_owner(ballot) {
            self.actions.push(Action::SeeWhetherGone(owner, ballot));
        }
    }

    pub(super) fn leader_gone(&mut self, ballot: Ballot) {
        let leads = self.core.leader() == Some(ballot);
        if self.is_silent() && leads && self.succession_at.is_none() {
            let me = self.settings.me.id;
            let before = self.peers.proposers.iter();
            let before = before.filter(|id| **id < me && ballot.node() != Some(**id));
            let rank = before.count() as u32;
            self.succession_at = Some(self.now + rank * SUCCESSION_STEP);
        }
    }

    /// Whether the leader has not been heard for two heartbeats.
    fn is_silent(&self) -> bool {
        self.now - self.heard_at >= 2 * self.settings.heartbeat_interval
    }

    pub(super) fn heartbeat(&mut self, heartbeat: Heartbeat) {
        if !self.core.believes(&heartbeat) {
            return self.note(Note::StrangeHeartbeat(heartbeat.ballot));
        }
        self.step(Input::Heartbeat(heartbeat));
        if self.core.leader() == Some(heartbeat.ballot) {
            self.heard_at = self.now;
            self.succession_at = None;
        }
    }

    pub(super) fn leader_changed(&mut self) {
        let leader = self.core.leader();
        self.full = Full::default();
        if let Some(ballot) = leader {
            self.behind = None;
            self.stores_asked = None;
            self.heard_at = self.now;
            self.followed = self.known_owner(ballot);
            let leading = self.core.is_leading();
            self.note(Note::LeaderElected { ballot, leading });
        } else {
            self.note(Note::LeaderLost);
        }
        self.led_since = self.now;
        // Time between two leaders counts as none.
        self.stamped_at = None;
        self.succession_at = None;
        self.forward_at = self.now;
        if !self.core.is_leading() {
            self.take_back_proposed();
        }
        if let Some(leader) = leader {
            self.take_back_forwards(leader);
        }
    }

    /// The next leader is asked again. The session table sees to it that what this one got chosen after all
    /// has its effect once.
    fn take_back_proposed(&mut self) {
        let proposed = std::mem::take(&mut self.proposed);
        for item in proposed.into_values().rev() {
            match self.jobs.get(&item.job).is_some_and(|job| job.forwarded) {
                true => self.settle(item.job, item.index, Answer::Unknown),
                false => self.queue.push_front(Item {
                    stamped: None,
                    ..item
                }),
            }
        }
    }
}
