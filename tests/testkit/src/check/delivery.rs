//! Learners deliver in order, without a gap, and make the same of it.

use std::collections::BTreeMap;

use paxos::codec::Entry;
use paxos::command::Command;
use paxos::ids::{NodeId, Slot};
use paxos::machine::Applied;
use paxos::message::Value;
use paxos::stamp::Terms;

use super::Effects;

/// How far each learner is, and what came of each slot.
#[derive(Debug)]
pub struct Delivery {
    delivered: Vec<Slot>,
    /// What each learner ever had on disk.
    durable: Vec<Slot>,
    /// What each store has.
    stores: BTreeMap<usize, Slot>,
    /// By slot, from slot 1 on: as the first learner applied it.
    outcomes: Vec<Applied>,
    /// By slot, from slot 1 on: the value that the first learner applied.
    values: Vec<Value>,
    effects: Effects,
    /// Since all acceptors were set back: where a learner that was behind has applied another value than
    /// the first one, which it received before anybody noticed.
    own: Option<BTreeMap<(NodeId, Slot), Value>>,
}

impl Delivery {
    /// Nothing is delivered.
    pub fn new(learners: u8, terms: Terms) -> Delivery {
        Delivery {
            delivered: vec![Slot::ZERO; learners.into()],
            durable: vec![Slot::ZERO; learners.into()],
            stores: BTreeMap::new(),
            outcomes: Vec::new(),
            values: Vec::new(),
            effects: Effects::new(terms),
            own: None,
        }
    }

    pub(super) fn set_back(&mut self) {
        self.own = Some(BTreeMap::new());
    }

    pub(super) fn delivered(&mut self, learner: NodeId, entry: &Entry) {
        let Entry { slot, applied, .. } = entry;
        let slot = *slot;
        let delivered = &mut self.delivered[learner.index()];
        assert_eq!(
            slot,
            delivered.next(),
            "slots are delivered in order and once"
        );
        *delivered = slot;
        if let Some(known) = self.outcomes.get(slot.0 as usize - 1) {
            if let Some(own) = &mut self.own {
                own.remove(&(learner, slot));
                if self.values[slot.0 as usize - 1] != entry.value {
                    own.insert((learner, slot), entry.value.clone());
                    return;
                }
            }
            return assert_eq!(applied, known, "learners make the same of slot {slot}");
        }
        self.outcomes.push(applied.clone());
        self.values.push(entry.value.clone());
        self.effects.applied(entry);
    }

    /// A client is told what became of its request: it took effect, or was refused, in a slot that holds it.
    pub(super) fn client_told(&self, request: &Value, told: &Applied) {
        let own = self.own.as_ref();
        if own.is_some_and(|own| own.keys().any(|(_, slot)| *slot == told.slot)) {
            return;
        }
        let index = (told.slot.0 as usize).checked_sub(1);
        let known = index.and_then(|index| self.outcomes.get(index));
        assert_eq!(
            Some(told),
            known,
            "a client is told what came of {request:?}"
        );
        let value = index.and_then(|index| self.values.get(index));
        assert_eq!(
            value.map(super::request).as_ref(),
            Some(request),
            "a client is told what came of its own request"
        );
    }

    /// What a learner has applied in a slot: as the first one did, or otherwise since all acceptors were
    /// set back.
    pub(super) fn value(&self, learner: NodeId, slot: Slot) -> Option<&Value> {
        let own = self.own.as_ref().and_then(|own| own.get(&(learner, slot)));
        own.or(self.values.get((slot.0 as usize).checked_sub(1)?))
    }

    pub(super) fn answered_for(&self, learner: NodeId, slot: Slot, value: &Value, at: Slot) {
        assert!(
            at <= self.delivered[learner.index()],
            "a learner answers for what it has applied"
        );
        // A request that was sent again may bear a stamp in one slot and none in the other.
        let says = |value| Command::decode(value).expect("what was applied can be read");
        assert_eq!(
            self.value(learner, at).map(says),
            Some(says(value)),
            "learner {learner}: the outcome told for {slot} is that of the value told"
        );
    }

    pub(super) fn restarted(&mut self, learner: NodeId, applied: Slot) {
        self.delivered[learner.index()] = applied;
    }

    pub(super) fn durable(&mut self, learner: NodeId, slot: Slot) {
        let durable = &mut self.durable[learner.index()];
        *durable = slot.max(*durable);
    }

    pub(super) fn store_durable(&mut self, store: usize, slot: Slot) {
        self.stores.insert(store, slot);
    }

    pub(super) fn most_durable(&self) -> Slot {
        self.durable.iter().copied().max().unwrap_or_default()
    }

    pub(super) fn trimmed(&self, floor: Slot) {
        let has = |durable: &&Slot| **durable >= floor;
        let learners = self.durable.iter().filter(has).count();
        let stores = self.stores.values().filter(has).count();
        assert!(
            learners > 0 && learners + stores > self.durable.len() / 2,
            "an acceptor forgets only what a quorum of learners, or stores in their place, has on disk"
        );
    }

    /// The last slot that any learner has ever applied.
    pub(super) fn acknowledged(&self) -> Slot {
        Slot(self.outcomes.len() as u64)
    }
}
