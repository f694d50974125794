//! READs that are applied, and of which what they found is still to be fetched from a learner: it did
//! not fit the message, or there was no room for it here. One question is open to a learner at a
//! time, and none of its slots is asked for elsewhere meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use super::ids::{NodeId, Slot};
use super::machine::{Applied, Outcome};
use super::message::Recalled;

/// Slots in one question.
const SLOTS: usize = 64;

/// What is to be fetched, by slot, and who waits for it.
#[derive(Clone, Debug, Hash)]
pub struct Recalls<T> {
    wanted: BTreeMap<Slot, T>,
    /// What each learner is asked for.
    asked: BTreeMap<NodeId, Vec<Slot>>,
    /// Learners that could not help; they are asked again after the next tick.
    resting: BTreeSet<NodeId>,
}

impl<T> Default for Recalls<T> {
    fn default() -> Recalls<T> {
        Recalls {
            wanted: BTreeMap::new(),
            asked: BTreeMap::new(),
            resting: BTreeSet::new(),
        }
    }
}

impl<T> Recalls<T> {
    /// Somebody waits for what the READ in a slot found.
    pub fn want(&mut self, slot: Slot, who: T) {
        self.wanted.insert(slot, who);
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    /// Questions that are open.
    pub fn open(&self) -> usize {
        self.asked.len()
    }

    /// The next question to a learner, if there is one.
    pub fn question(&mut self, learner: NodeId) -> Option<Vec<Slot>> {
        if self.asked.contains_key(&learner) || self.resting.contains(&learner) {
            return None;
        }
        let asked: BTreeSet<&Slot> = self.asked.values().flatten().collect();
        let free = self.wanted.keys().filter(|slot| !asked.contains(slot));
        let slots: Vec<Slot> = free.take(SLOTS).copied().collect();
        if slots.is_empty() {
            return None;
        }
        self.asked.insert(learner, slots.clone());
        Some(slots)
    }

    /// A learner's answer, `None` if it gave none: what it told, and to whom. What it did not tell is
    /// asked for again.
    pub fn answered(
        &mut self,
        learner: NodeId,
        answer: Option<Recalled>,
    ) -> Vec<(Slot, T, Applied)> {
        let asked = self.asked.remove(&learner).unwrap_or_default();
        let outcomes = answer.map(|answer| answer.outcomes).unwrap_or_default();
        let mut told = Vec::new();
        for (slot, outcome) in asked.into_iter().zip(outcomes) {
            // Anything else is the outcome of another value.
            let of_read =
                |told: &Applied| matches!(told.outcome, Outcome::Read(_) | Outcome::Untold);
            let Some(applied) = outcome.filter(of_read) else {
                continue;
            };
            if let Some(who) = self.wanted.remove(&slot) {
                told.push((slot, who, applied));
            }
        }
        if told.is_empty() {
            self.resting.insert(learner);
        }
        told
    }

    /// Some time has passed.
    pub fn tick(&mut self) {
        self.resting.clear();
    }

    /// Forgets those who do not wait any more, and returns them.
    pub fn forget(&mut self, gone: impl Fn(&T) -> bool) -> Vec<T> {
        let gone = self.wanted.extract_if(.., |_, who| gone(who));
        gone.map(|(_, who)| who).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u8) -> NodeId {
        NodeId::new(id).unwrap()
    }

    fn recalls(slots: &[u64]) -> Recalls<u64> {
        let mut recalls = Recalls::default();
        slots
            .iter()
            .for_each(|slot| recalls.want(Slot(*slot), *slot));
        recalls
    }

    fn answer(outcomes: Vec<Option<Outcome>>, first: u64) -> Option<Recalled> {
        let applied = |(slot, outcome): (u64, Option<Outcome>)| {
            outcome.map(|outcome| Applied {
                slot: Slot(slot),
                outcome,
            })
        };
        Some(Recalled {
            applied: Slot(100),
            outcomes: (first..).zip(outcomes).map(applied).collect(),
        })
    }

    fn slots(slots: &[u64]) -> Option<Vec<Slot>> {
        Some(slots.iter().copied().map(Slot).collect())
    }

    #[test]
    fn learners_are_asked_for_different_slots_one_question_each() {
        let many: Vec<u64> = (1..=100).collect();
        let mut recalls = recalls(&many);
        assert_eq!(recalls.question(node(1)), slots(&many[..64]));
        assert_eq!(recalls.question(node(1)), None);
        assert_eq!(recalls.question(node(2)), slots(&many[64..]));
        assert_eq!(recalls.question(node(3)), None);
        assert_eq!(recalls.open(), 2);
    }

    #[test]
    fn what_did_not_fit_an_answer_is_asked_for_again_at_once() {
        let mut recalls = recalls(&[1, 2, 3]);
        recalls.question(node(1));
        let told = recalls.answered(node(1), answer(vec![Some(Outcome::Read(None))], 1));
        assert_eq!(told.len(), 1);
        assert_eq!(recalls.question(node(1)), slots(&[2, 3]));
        let rest = vec![Some(Outcome::Untold), Some(Outcome::Read(None))];
        assert_eq!(recalls.answered(node(1), answer(rest, 2)).len(), 2);
        assert!(recalls.is_empty());
        assert_eq!(recalls.question(node(1)), None);
    }

    #[test]
    fn a_learner_that_cannot_help_rests_until_the_next_tick_and_others_are_asked() {
        let no_help = [
            None,
            answer(vec![None], 7),
            answer(vec![Some(Outcome::Withheld)], 7),
            answer(vec![Some(Outcome::Committed { version: 1 })], 7),
        ];
        for no_help in no_help {
            let mut recalls = recalls(&[7]);
            recalls.question(node(1));
            assert_eq!(recalls.answered(node(1), no_help), []);
            assert_eq!(recalls.question(node(1)), None);
            assert_eq!(recalls.question(node(2)), slots(&[7]));
            assert_eq!(recalls.answered(node(2), None), []);
            recalls.tick();
            assert_eq!(recalls.question(node(1)), slots(&[7]));
        }
    }

    #[test]
    fn nobody_gets_an_answer_who_has_gone() {
        let mut recalls = recalls(&[1, 2]);
        recalls.question(node(1));
        assert_eq!(recalls.forget(|who| *who == 1), [1]);
        let both = vec![Some(Outcome::Read(None)), Some(Outcome::Read(None))];
        let told = recalls.answered(node(1), answer(both, 1));
        assert_eq!(
            told.into_iter().map(|(_, who, _)| who).collect::<Vec<_>>(),
            [2]
        );
    }
}
