//! A read sees all that was acknowledged before it began.

use std::collections::BTreeMap;

use paxos::ids::Slot;

/// Reads that wait, each with what was acknowledged when it began.
#[derive(Debug, Default)]
pub struct Reads {
    waiting: BTreeMap<u64, Slot>,
    answered: u64,
}

impl Reads {
    pub(super) fn began(&mut self, read: u64, acknowledged: Slot) {
        self.waiting.insert(read, acknowledged);
    }

    pub(super) fn readable(&mut self, read: u64, slot: Slot) {
        let acknowledged = self.waiting.remove(&read).expect("a read is answered once");
        assert!(
            slot >= acknowledged,
            "a read at {slot} misses {acknowledged}, acknowledged before it began"
        );
        self.answered += 1;
    }

    pub(super) fn answered(&self) -> u64 {
        self.answered
    }
}
