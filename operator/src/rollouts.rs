//! Limits how many clusters have pods restarted at a time: an upgrade of the operator changes
//! every cluster that names no image, and what goes wrong goes wrong for one. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// A cluster that has restarted no pod for so long gives its turn to the next.
const TURN: Duration = Duration::from_secs(6 * 60);

/// Whose turn it is.
#[derive(Debug)]
pub(crate) struct Rollouts<K> {
    /// 0: everybody's.
    at_once: usize,
    turns: Vec<(K, Instant)>,
}

impl<K: Clone + PartialEq> Rollouts<K> {
    pub(crate) fn new(at_once: usize) -> Rollouts<K> {
        Rollouts {
            at_once,
            turns: Vec::new(),
        }
    }

    /// Takes a turn, or tells who has it. A cluster whose turn it is keeps it.
    pub(crate) fn take(&mut self, key: &K, now: Instant) -> Result<(), K> {
        if self.at_once == 0 {
            return Ok(());
        }
        self.turns
            .retain(|(_, since)| now.duration_since(*since) < TURN);
        if self.turns.iter().any(|(of, _)| of == key) {
            return Ok(());
        }
        if let Some((first, _)) = self.turns.get(self.at_once - 1) {
            return Err(first.clone());
        }
        self.turns.push((key.clone(), now));
        Ok(())
    }

    /// A pod was restarted: the turn has all its time again.
    pub(crate) fn went_on(&mut self, key: &K, now: Instant) {
        if let Some((_, since)) = self.turns.iter_mut().find(|(of, _)| of == key) {
            *since = now;
        }
    }

    /// Ends a turn: the cluster is done, or cannot continue by itself.
    pub(crate) fn give_back(&mut self, key: &K) {
        self.turns.retain(|(of, _)| of != key);
    }

    /// Ends the turns of all others.
    pub(crate) fn retain(&mut self, there: impl Fn(&K) -> bool) {
        self.turns.retain(|(of, _)| there(of));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_have_a_turn_and_whoever_is_done_or_slow_gives_it_on() {
        let start = Instant::now();
        let mut rollouts = Rollouts::new(1);
        assert_eq!(rollouts.take(&"a", start), Ok(()));
        assert_eq!(rollouts.take(&"a", start), Ok(()), "it keeps its turn");
        assert_eq!(rollouts.take(&"b", start), Err("a"));
        rollouts.give_back(&"a");
        assert_eq!(rollouts.take(&"b", start), Ok(()));
        assert_eq!(rollouts.take(&"a", start), Err("b"));
        // Asking for it is not progress.
        let later = start + TURN - Duration::from_secs(1);
        assert_eq!(rollouts.take(&"b", later), Ok(()));
        assert_eq!(rollouts.take(&"a", start + TURN), Ok(()));
        rollouts.went_on(&"a", start + TURN);
        assert_eq!(rollouts.take(&"b", later + TURN), Err("a"));
        rollouts.retain(|key| *key != "a");
        assert_eq!(rollouts.take(&"c", later + TURN), Ok(()));
    }

    #[test]
    fn without_a_number_everybody_has_a_turn() {
        let mut rollouts = Rollouts::new(0);
        for cluster in 0..100 {
            assert_eq!(rollouts.take(&cluster, Instant::now()), Ok(()));
        }
    }
}
