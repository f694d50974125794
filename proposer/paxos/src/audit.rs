//! Checkpoints by which learners compare what they have applied: at every [`EVERY`]th slot a digest of
//! the state, which follows from all slots up to there, and one of the values since the checkpoint
//! before, which also shows values without a trace in the state, such as reads.
//!
//! The state's digest is a sum over its parts, so it is available at any time, also of a snapshot that
//! came from elsewhere: nothing of it is kept on disk.

use std::collections::VecDeque;

use super::digest::Digest;
use super::ids::Slot;
use super::machine::Machine;
use super::message::Value;

/// Which digests can be compared. Whatever changes them needs another number: what is hashed, the
/// distance, how many sessions are remembered, and what a command does.
pub const FORMAT: u32 = 1;
/// Slots from one checkpoint to the next.
pub const EVERY: u64 = 1000;
/// How many are kept.
const KEPT: usize = 1024;
/// Names digests of values.
const VALUES: u64 = 3;

/// What a learner had applied at a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The slot, a multiple of [`EVERY`].
    pub slot: Slot,
    /// A digest of the state behind it.
    pub state: u128,
    /// A digest of the values since the checkpoint before, unless a snapshot took their place.
    pub values: Option<u128>,
}

impl Checkpoint {
    /// Whether two learners had the same here, as far as both can tell.
    pub fn agrees(&self, other: &Checkpoint) -> bool {
        let same_values = match (self.values, other.values) {
            (Some(mine), Some(others)) => mine == others,
            _ => true,
        };
        self.slot == other.slot && self.state == other.state && same_values
    }
}

/// The newest checkpoints of one learner.
#[derive(Clone, Debug, Default)]
pub struct Trail {
    /// Of the values since the last checkpoint, if they are all known.
    values: Option<Digest>,
    kept: VecDeque<Checkpoint>,
}

impl Trail {
    /// The machine has just applied this value in this slot; slots come in order.
    pub fn note(&mut self, slot: Slot, value: &Value, machine: &Machine) {
        if slot.0 % EVERY == 1 {
            self.values = Some(Digest::new(VALUES));
        }
        if let Some(values) = &mut self.values {
            values.add_checksum(&value.0);
        }
        if slot.0.is_multiple_of(EVERY) {
            self.kept.push_back(Checkpoint {
                slot,
                state: machine.digest(),
                values: self.values.take().map(Digest::finish),
            });
            if self.kept.len() > KEPT {
                self.kept.pop_front();
            }
        }
    }

    /// The checkpoints from a slot on, oldest first.
    pub fn from(&self, slot: Slot) -> impl Iterator<Item = &Checkpoint> {
        let first = self.kept.partition_point(|kept| kept.slot < slot);
        self.kept.range(first..)
    }

    /// The checkpoint at a slot.
    pub fn at(&self, slot: Slot) -> Option<&Checkpoint> {
        self.from(slot).next().filter(|kept| kept.slot == slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, Operation};

    fn command(number: u64, operation: Operation, data: &[u8]) -> Value {
        let command = Command {
            operation,
            timestamp: number,
            if_version: None,
            if_instance: None,
            sequence: None,
            client_id: "alice",
            request_id: None,
            resource: "colour",
            data,
        };
        command.encode()
    }

    /// The machine and trail of a learner for which `change` gives the value of a slot.
    fn learner(slots: u64, change: impl Fn(u64) -> Option<Value>) -> (Machine, Trail) {
        let (mut machine, mut trail) = (Machine::new(), Trail::default());
        for slot in 1..=slots {
            let value = change(slot).unwrap_or_else(|| command(slot, Operation::Write, b"1"));
            machine.apply(Slot(slot), &value).unwrap();
            trail.note(Slot(slot), &value, &machine);
        }
        (machine, trail)
    }

    #[test]
    fn two_learners_of_one_log_agree_at_every_checkpoint() {
        let (_, one) = learner(3500, |_| None);
        let (_, other) = learner(5000, |_| None);
        let slots: Vec<u64> = one.from(Slot(1)).map(|kept| kept.slot.0).collect();
        assert_eq!(slots, [1000, 2000, 3000]);
        for kept in one.from(Slot(1)) {
            assert!(kept.agrees(other.at(kept.slot).unwrap()));
        }
        assert_eq!(one.at(Slot(1500)), None);
    }

    #[test]
    fn any_difference_shows_at_the_next_checkpoint_and_one_of_the_state_at_all_later_ones() {
        let (_, whole) = learner(3000, |_| None);
        let disagree = |change: &dyn Fn(u64) -> Option<Value>| -> Vec<u64> {
            let (_, other) = learner(3000, change);
            let differ = whole.from(Slot(1)).zip(other.from(Slot(1)));
            let differ = differ.filter(|(a, b)| !a.agrees(b));
            differ.map(|(a, _)| a.slot.0).collect()
        };
        assert_eq!(disagree(&|_| None), [0; 0]);
        // Overwritten at once, and remembered by the session table.
        let other_data = |slot| (slot == 1500).then(|| command(slot, Operation::Write, b"2"));
        assert_eq!(disagree(&other_data), [2000, 3000]);
        let (read, noop) = (command(1500, Operation::Read, b""), Value::NOOP);
        let (_, reading) = learner(3000, |slot| (slot == 1500).then(|| read.clone()));
        let (_, idle) = learner(3000, |slot| (slot == 1500).then(|| noop.clone()));
        let agree: Vec<bool> = reading
            .from(Slot(1))
            .zip(idle.from(Slot(1)))
            .map(|(a, b)| a.agrees(b))
            .collect();
        assert_eq!(
            agree,
            [true, false, true],
            "a read leaves no trace in the state"
        );
    }

    #[test]
    fn a_learner_that_began_with_a_snapshot_agrees_with_those_that_did_not() {
        let (machine, _) = learner(1500, |_| None);
        let (_, whole) = learner(3000, |_| None);
        let (mut machine, mut trail) = (machine, Trail::default());
        for slot in 1501..=3000 {
            let value = command(slot, Operation::Write, b"1");
            machine.apply(Slot(slot), &value).unwrap();
            trail.note(Slot(slot), &value, &machine);
        }
        assert_eq!(trail.at(Slot(2000)).unwrap().values, None);
        for slot in [2000, 3000].map(Slot) {
            assert!(trail.at(slot).unwrap().agrees(whole.at(slot).unwrap()));
        }
        assert_eq!(trail.at(Slot(3000)), whole.at(Slot(3000)));
    }
}
