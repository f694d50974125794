//! When slots were chosen, so that a learner's lag can be given in seconds.

use std::collections::VecDeque;
use std::time::Duration;

use paxos::ids::Slot;

/// Between two samples.
const EVERY: Duration = Duration::from_secs(1);
/// Samples kept. What is older than the first counts as old as that one.
const SAMPLES: usize = 3600;

/// How far the log was, now and then.
#[derive(Default)]
pub(super) struct History(VecDeque<(Duration, Slot)>);

impl History {
    /// All slots up to `committed` are chosen now.
    pub(super) fn note(&mut self, now: Duration, committed: Slot) {
        let news = self
            .0
            .back()
            .is_none_or(|(at, slot)| *slot < committed && now - *at >= EVERY);
        if news {
            self.0.push_back((now, committed));
            if self.0.len() > SAMPLES {
                self.0.pop_front();
            }
        }
    }

    /// How long ago a slot was chosen; zero if it was just now, or is not.
    pub(super) fn age_of(&self, slot: Slot, now: Duration) -> Duration {
        let first = self.0.partition_point(|(_, chosen)| *chosen < slot);
        self.0
            .get(first)
            .map_or(Duration::ZERO, |(at, _)| now - *at)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lag_is_as_old_as_the_first_slot_that_is_missing() {
        let at = Duration::from_secs;
        let mut history = History::default();
        history.note(at(0), Slot(10));
        history.note(at(5), Slot(20));
        history.note(at(5), Slot(21));
        history.note(at(9), Slot(21));
        let age = |slot| history.age_of(Slot(slot), at(10)).as_secs();
        assert_eq!((age(1), age(10), age(11), age(20)), (10, 10, 5, 5));
        assert_eq!((age(21), age(22)), (1, 0));
        history.clear();
        assert_eq!(history.age_of(Slot(1), at(10)), Duration::ZERO);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut history = History::default();
        for second in 0..2 * SAMPLES as u32 {
            history.note(second * EVERY, Slot(second.into()));
        }
        assert_eq!(history.0.len(), SAMPLES);
    }
}
