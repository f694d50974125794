//! What becomes of what was proposed, in the learners' words. An outcome that does not come is asked
//! for again, and holds up nothing else; one that no learner can tell any more is given up.

use std::collections::BTreeSet;

use paxos::ids::{NodeId, Role, Slot};
use paxos::message::{Learn, Learned};
use paxos::proposer::Input;

use super::calls::Told;
use super::progress::Progress;
use super::{Answer, Claims, Failure, ProposerRole};

/// This many learners, or all there are, must have applied a value and know no outcome of it before
/// it is given up.
const LEARNERS_AT_A_LOSS: usize = 2;

impl<D: Claims> ProposerRole<D> {
    pub(super) fn tell_learners(&mut self, learn: Learn) {
        for tell in self.telling.tell(learn) {
            self.tell(tell);
        }
    }

    /// What failed is sent again, and what was answered without an outcome is asked for again.
    pub(super) fn tell_again(&mut self) {
        if !self.core.is_leading() {
            return;
        }
        let mut tells = self.telling.tick();
        let wanted = self.proposed.iter();
        let wanted = wanted.map(|(slot, item)| (*slot, item.as_proposed()));
        while let Some(tell) = self.telling.ask_again(wanted.clone()) {
            tells.push(tell);
        }
        for tell in tells {
            self.tell(tell);
        }
        let proposed = &self.proposed;
        self.at_a_loss.retain(|slot, _| proposed.contains_key(slot));
    }

    pub(super) fn learned(&mut self, from: NodeId, learned: Learned, told: Told) {
        self.learner_heard();
        self.has_applied(Role::Learner, from, learned.applied);
        let progress = Progress {
            applied: learned.applied,
            durable: learned.durable,
            at: self.now,
        };
        self.progress.insert(from, progress);
        for (i, outcome) in learned.outcomes.into_iter().enumerate() {
            let slot = learned.first.plus(i as u64);
            match outcome {
                Some(applied) => {
                    if let Some(item) = self.proposed.remove(&slot) {
                        self.outcome(slot, item, applied);
                    }
                }
                None if slot <= learned.applied => self.no_outcome(slot, from),
                None => {}
            }
        }
        self.step(Input::Learned(learned.applied));
        let Told { first, count, .. } = told;
        for tell in self.telling.answered(from, first, count, learned.applied) {
            self.tell(tell);
        }
    }

    pub(super) fn untold(&mut self, learner: NodeId, told: Told, why: Failure) {
        let Told { first, count, .. } = told;
        self.telling.failed(learner, first, count);
        match why {
            // It would be as large the next time.
            Failure::TooLarge => {
                for slot in (first.0..first.plus(count as u64).0).map(Slot) {
                    self.settle_slot(slot, Answer::Unknown);
                }
            }
            Failure::Refused => self.learner_heard(),
            Failure::TimedOut | Failure::Unreachable => {}
        }
    }

    /// A learner that has applied a value does not know any more what became of it.
    fn no_outcome(&mut self, slot: Slot, learner: NodeId) {
        if !self.proposed.contains_key(&slot) {
            return;
        }
        let at_a_loss: &mut BTreeSet<NodeId> = self.at_a_loss.entry(slot).or_default();
        at_a_loss.insert(learner);
        if at_a_loss.len() >= self.peers.learners.len().min(LEARNERS_AT_A_LOSS) {
            self.settle_slot(slot, Answer::Unknown);
        }
    }

    fn settle_slot(&mut self, slot: Slot, answer: Answer) {
        if let Some(item) = self.proposed.remove(&slot) {
            self.settle(item.job, item.index, answer);
        }
    }
}
