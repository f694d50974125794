//! One message at a time to each peer, and the newest of those that wait. For messages of which a
//! later one says all that an earlier one did.

use std::collections::BTreeMap;

/// What is under way, by peer, and what waits behind it.
#[derive(Clone, Debug)]
pub struct NewestOnly<P, M> {
    under_way: BTreeMap<P, Option<M>>,
}

impl<P, M> Default for NewestOnly<P, M> {
    fn default() -> NewestOnly<P, M> {
        NewestOnly {
            under_way: BTreeMap::new(),
        }
    }
}

impl<P: Ord, M> NewestOnly<P, M> {
    /// The message, if it may go now; else it waits in place of any other.
    pub fn offer(&mut self, peer: P, message: M) -> Option<M> {
        match self.under_way.get_mut(&peer) {
            Some(waiting) => {
                *waiting = Some(message);
                None
            }
            None => {
                self.under_way.insert(peer, None);
                Some(message)
            }
        }
    }

    /// The one under way is answered or has failed: the one that goes next, if any waits.
    pub fn ended(&mut self, peer: P) -> Option<M> {
        let next = self.under_way.get_mut(&peer)?.take();
        if next.is_none() {
            self.under_way.remove(&peer);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_goes_at_a_time_and_the_newest_of_those_that_wait_is_next() {
        let mut newest = NewestOnly::default();
        assert_eq!(newest.offer('a', 1), Some(1));
        assert_eq!(
            newest.offer('b', 1),
            Some(1),
            "another peer is another matter"
        );
        assert_eq!((newest.offer('a', 2), newest.offer('a', 3)), (None, None));
        assert_eq!(newest.ended('a'), Some(3));
        assert_eq!(newest.offer('a', 4), None);
        assert_eq!(newest.ended('a'), Some(4));
        assert_eq!(newest.ended('a'), None);
        assert_eq!(newest.offer('a', 5), Some(5));
    }

    #[test]
    fn an_end_that_nobody_waits_for_changes_nothing() {
        let mut newest: NewestOnly<char, u32> = NewestOnly::default();
        assert_eq!(newest.ended('a'), None);
        assert_eq!(newest.offer('a', 1), Some(1));
    }
}
