//! What a node has applied in each of the newest slots, in eight bytes a slot: enough to tell whether
//! it receives the same again.

use std::collections::VecDeque;

use super::digest::checksum;
use super::ids::Slot;
use super::message::{Learn, Value};

/// How many slots are kept: far more than a leader has open at once, and 1 MiB.
const KEPT: usize = 131_072;

/// The newest slots applied. Without a gap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    /// The last slot noted, or the last one that a snapshot covers.
    last: Slot,
    kept: VecDeque<u64>,
}

/// How what a leader tells compares with what was applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// The first slot in which something else was applied.
    pub other: Option<Slot>,
    /// The first and the last slot applied so long ago that it is not known here.
    pub unknown: Option<(Slot, Slot)>,
}

impl Digests {
    /// Nothing is known of the slots up to `last`.
    pub fn after(last: Slot) -> Digests {
        Digests {
            last,
            kept: VecDeque::new(),
        }
    }

    /// Notes the value of the next slot. Any other slot starts over.
    pub fn note(&mut self, slot: Slot, value: &Value) {
        if slot != self.last.next() {
            self.kept.clear();
        }
        self.last = slot;
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(checksum(&value.0));
    }

    /// The checksum of a slot's value, if it is still known.
    pub fn of(&self, slot: Slot) -> Option<u64> {
        let back = usize::try_from(self.last.0.checked_sub(slot.0)?).ok()?;
        let place = self.kept.len().checked_sub(back + 1)?;
        self.kept.get(place).copied()
    }

    /// The slots of which something is known.
    pub fn known(&self) -> Option<(Slot, Slot)> {
        let count = self.kept.len() as u64;
        (count > 0).then(|| (Slot(self.last.0 + 1 - count), self.last))
    }

    /// Compares what is received with what was applied; slots that were not applied yet are left out.
    pub fn compare(&self, learn: &Learn) -> Compared {
        let mut compared = Compared::default();
        for (slot, value) in (learn.first.0..).map(Slot).zip(learn.values.iter()) {
            if slot > self.last {
                break;
            }
            match self.of(slot) {
                Some(known) if known == checksum(&value.0) => {}
                Some(_) => {
                    compared.other = Some(slot);
                    break;
                }
                None => {
                    let (_, last) = compared.unknown.get_or_insert((slot, slot));
                    *last = slot;
                }
            }
        }
        compared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &'static str) -> Value {
        Value(text.into())
    }

    fn learn(first: u64, texts: &[&'static str]) -> Learn {
        Learn {
            first: Slot(first),
            values: texts.iter().map(|text| value(text)).collect(),
            committed: Slot(100),
        }
    }

    fn having(texts: &[&'static str]) -> Digests {
        let mut digests = Digests::default();
        for (slot, text) in (1..).map(Slot).zip(texts) {
            digests.note(slot, &value(text));
        }
        digests
    }

    #[test]
    fn what_is_told_again_is_the_same_and_anything_else_is_named_by_its_first_slot() {
        let digests = having(&["a", "b", "", "d"]);
        let other = |first, texts: &[&'static str]| digests.compare(&learn(first, texts)).other;
        assert_eq!(other(1, &["a", "b", "", "d", "e"]), None);
        assert_eq!(other(3, &["", "d"]), None);
        assert_eq!(other(5, &["x", "y"]), None, "not applied yet");
        assert_eq!(other(2, &["b", "x", "y"]), Some(Slot(3)));
        assert_eq!(
            other(1, &[""]),
            Some(Slot(1)),
            "a no-op is something else, too"
        );
        assert_eq!(other(3, &["c"]), Some(Slot(3)));
        assert_eq!(other(4, &["D"]), Some(Slot(4)));
    }

    #[test]
    fn slots_before_a_snapshot_are_unknown_and_never_taken_for_the_same() {
        let mut digests = Digests::after(Slot(10));
        assert_eq!((digests.of(Slot(10)), digests.known()), (None, None));
        digests.note(Slot(11), &value("k"));
        let compared = digests.compare(&learn(9, &["i", "j", "k"]));
        assert_eq!(compared.unknown, Some((Slot(9), Slot(10))));
        assert_eq!(compared.other, None);
        assert_eq!(digests.known(), Some((Slot(11), Slot(11))));
        // A snapshot of a later state leaves a gap.
        digests.note(Slot(20), &value("t"));
        assert_eq!(digests.known(), Some((Slot(20), Slot(20))));
        assert_eq!(digests.of(Slot(11)), None);
    }

    #[test]
    fn only_the_newest_are_kept() {
        let mut digests = Digests::default();
        for slot in 1..=KEPT as u64 + 5 {
            digests.note(Slot(slot), &value("v"));
        }
        assert_eq!(digests.known(), Some((Slot(6), Slot(KEPT as u64 + 5))));
        assert_eq!(digests.of(Slot(5)), None);
        assert_eq!(digests.of(Slot(6)), Some(checksum(b"v")));
    }
}
