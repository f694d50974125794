//! Who leads: elections, heartbeats, and what a change of leader means for those that wait.

use paxos::ids::NodeId;
use paxos::message::Heartbeat;
use paxos::proposer::Input;
use rand::Rng;
use tokio::time::Instant;
use tracing::{info, warn};

use super::full::Full;
use super::requests::Item;
use super::{Answer, Event, Run};

impl Run {
    pub(super) fn elect(&mut self) {
        if self.leaving.is_some() || !self.is_listed() || !self.me.may_lead() {
            self.restart_election_timer();
        } else if self
            .succession_at
            .take()
            .is_some_and(|at| at <= Instant::now())
        {
            self.step(Input::TakeOver);
        } else {
            self.step(Input::ElectionTimeout);
        }
    }

    /// A leader whose process is gone shows at once, without waiting for the timeout: nothing
    /// listens at its address. Then the proposers stand for election one after the other.
    pub(super) fn watch_leader(&mut self, now: Instant) {
        let Some(ballot) = self.core.leader().filter(|_| !self.core.is_leading()) else {
            return;
        };
        if now - self.heard_at < 2 * self.heartbeat_interval || self.succession_at.is_some() {
            return;
        }
        let Some(peer) = self.link_to(ballot).map(|link| link.peer.clone()) else {
            return;
        };
        let events = self.events.clone();
        tokio::spawn(async move {
            if peer.refused().await {
                let _ = events.send(Event::LeaderGone(ballot));
            }
        });
    }

    pub(super) fn heartbeat(&mut self, heartbeat: Heartbeat) {
        if !self.core.believes(&heartbeat) {
            let (leader, term) = (heartbeat.ballot.node(), heartbeat.ballot.counter());
            let leader = leader.map(NodeId::number);
            return warn!(
                leader,
                term, "a heartbeat is ignored: no leader of this cluster can have such a term"
            );
        }
        if let Some(link) = self.link_to(heartbeat.ballot) {
            link.peer.heard();
        }
        self.step(Input::Heartbeat(heartbeat));
        if self.core.leader() == Some(heartbeat.ballot) {
            self.heard_at = Instant::now();
            self.succession_at = None;
        }
    }

    pub(super) fn leader_changed(&mut self) {
        let leader = self.core.leader();
        self.full = Full::default();
        if let Some(ballot) = leader {
            self.behind = None;
            self.stores_asked = None;
            self.metrics.contradicted.set(0);
            self.metrics.leader_changes.inc();
            self.heard_at = Instant::now();
            self.followed = self.link_to(ballot).cloned();
            info!(
                leader = ballot.node().map(NodeId::number),
                term = ballot.counter(),
                leading = self.core.is_leading(),
                "leader elected"
            );
        } else {
            info!(phase = self.core.phase(), "leader lost");
        }
        self.led_since = Instant::now();
        // Time between two leaders counts as none.
        self.stamped_at = None;
        self.succession_at = None;
        self.forward_at = Instant::now();
        if !self.core.is_leading() {
            // The next leader is asked again. The session table sees to it that what this one got
            // chosen after all has its effect once.
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
        // The same goes for a leader elsewhere, which may be cut off or stopped and never answer.
        if leader.is_some() {
            let forwards = self.forwards.extract_if(.., |_, f| Some(f.to) != leader);
            for forward in forwards.collect::<Vec<_>>().into_iter().rev() {
                forward.1.call.abort();
                for item in forward.1.items.into_iter().rev() {
                    self.queue.push_front(item);
                }
            }
        }
    }

    pub(super) fn restart_election_timer(&mut self) {
        let random = rand::rng().random_range(0.0..1.0);
        self.election_at = Instant::now() + self.election_timeout.mul_f64(1.0 + random);
    }
}
