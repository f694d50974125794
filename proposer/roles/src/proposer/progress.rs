//! How far learners and stores are, as the leader sees it: which of them lags, what acceptors may forget,
//! and whether somebody has more than this proposer knows.

use std::time::Duration;

use paxos::ids::{NodeId, NodeName, Role, Slot};
use paxos::kept::kept;
use paxos::proposer::{Behind, Input};

use super::{Action, Claims, Note, ProposerRole};

/// A learner lags when it is this many instances behind, or has not answered for this long.
const LAGGING_SLOTS: u64 = 16_384;
const SILENT_LEARNER: Duration = Duration::from_secs(3);
/// The pause between two rounds of questions to the stores.
const STORES_EVERY: Duration = Duration::from_secs(1);

/// How far a node was when it last answered.
#[derive(Clone, Copy)]
pub(super) struct Progress {
    pub(super) applied: Slot,
    pub(super) durable: Slot,
    pub(super) at: Duration,
}

impl<D: Claims> ProposerRole<D> {
    /// A learner or a store has applied so much: usually what this leader has given out, or less.
    pub(super) fn has_applied(&mut self, role: Role, id: NodeId, upto: Slot) {
        if self.core.is_news(upto) {
            let by = NodeName { role, id };
            self.step(Input::Applied { by, upto });
        }
    }

    /// This proposer does not lead, or not any more, as somebody has more than it knows of.
    pub(super) fn note_behind(&mut self, behind: Behind) {
        if !behind.is_proved {
            return self.note(Note::SteppingDown(behind));
        }
        // At each election; said once.
        if self.behind.replace(behind) != Some(behind) {
            self.note(Note::Contradicted(behind));
        }
    }

    /// Lets the acceptors forget what enough nodes have on disk, and says which learner lags.
    pub(super) fn watch_learners(&mut self) {
        let learners = self.peers.learners.clone();
        if !self.core.is_leading() {
            self.progress.clear();
            self.lagging.clear();
            self.history.clear();
            let level = |id| (id, (0, Duration::ZERO));
            self.lags = learners.into_iter().map(level).collect();
            return;
        }
        // A learner that left counts no longer: what it alone has is not safe.
        self.progress.retain(|id, _| learners.contains(id));
        self.lagging.retain(|id| learners.contains(id));
        self.lags.retain(|id, _| learners.contains(id));
        if let Some(slot) = self.kept() {
            self.step(Input::Durable(slot));
        }
        let (now, committed) = (self.now, self.core.committed());
        self.history.note(now, committed);
        for learner in learners {
            let progress = self.progress.get(&learner);
            let applied = progress.map_or(Slot::ZERO, |p| p.applied);
            let behind = committed.0.saturating_sub(applied.0);
            let silent = progress.is_none_or(|p| now - p.at > SILENT_LEARNER);
            let lags = silent || behind > LAGGING_SLOTS;
            let since = self.history.age_of(applied.next(), now);
            self.lags.insert(learner, (behind, since));
            if lags && self.lagging.insert(learner) && now - self.led_since > SILENT_LEARNER {
                self.note(Note::LearnerLags {
                    learner,
                    behind,
                    silent,
                });
            } else if !lags && self.lagging.remove(&learner) {
                self.note(Note::LearnerLevel(learner));
            }
        }
    }

    /// See [`kept`].
    fn kept(&self) -> Option<Slot> {
        let durable = |of: &Progress| of.durable;
        let (learners, stores) = (self.progress.values(), self.stored.values());
        let count = self.peers.learners.len();
        kept(count, learners.map(durable), stores.map(durable))
    }

    /// Asks the stores now and then, and forgets nodes that have left.
    pub(super) fn watch_stores(&mut self) {
        let stores = self.peers.stores.clone();
        self.stored.retain(|id, _| stores.contains(id));
        let gone = self.core.ahead().map(|(node, _)| node).find(|node| {
            let listed = match node.role {
                Role::Store => &stores,
                _ => &self.peers.learners,
            };
            !listed.contains(&node.id)
        });
        if let Some(gone) = gone {
            self.step(Input::Gone(gone));
        }
        if self
            .stores_asked
            .is_some_and(|asked| self.now - asked < STORES_EVERY)
        {
            return;
        }
        self.stores_asked = Some(self.now);
        if !self.core.is_leading() {
            self.stored.clear();
        }
        // One that leads asks for what they keep; one that must not, whether they are still ahead.
        if self.core.is_leading() || self.behind.is_some() {
            self.actions
                .extend(stores.into_iter().map(Action::AskStore));
        }
    }

    /// A store has answered.
    pub(super) fn stored(&mut self, store: NodeId, durable: Slot) {
        let progress = Progress {
            applied: durable,
            durable,
            at: self.now,
        };
        self.stored.insert(store, progress);
        self.has_applied(Role::Store, store, durable);
    }
}
