//! Learners deliver in order, without a gap.

use proposer::paxos::ids::{NodeId, Slot};

/// How far each learner is.
#[derive(Debug)]
pub struct Delivery {
    delivered: Vec<Slot>,
    acknowledged: Slot,
}

impl Delivery {
    /// Nothing is delivered.
    pub fn new(learners: u8) -> Delivery {
        Delivery {
            delivered: vec![Slot::ZERO; learners.into()],
            acknowledged: Slot::ZERO,
        }
    }

    pub(super) fn delivered(&mut self, learner: NodeId, slot: Slot) {
        let delivered = &mut self.delivered[learner.index()];
        assert_eq!(
            slot,
            delivered.next(),
            "slots are delivered in order and once"
        );
        *delivered = slot;
        self.acknowledged = self.acknowledged.max(slot);
    }

    pub(super) fn restarted(&mut self, learner: NodeId, applied: Slot) {
        self.delivered[learner.index()] = applied;
    }

    pub(super) fn acknowledged(&self) -> Slot {
        self.acknowledged
    }
}
