//! All quorum arithmetic there is. Two quorums of the same acceptors share one of them (Lamport, "Paxos Made
//! Simple", 2.2): everything else about quorums follows from that, so nothing else computes with their size.

use super::ids::Members;

/// The smallest number out of `all` of which any two sets share one.
pub const fn majority(all: usize) -> usize {
    all / 2 + 1
}

/// The highest value that so many of these have reached; `None`: fewer say anything.
pub fn reached_by<T: Ord + Copy>(count: usize, values: impl IntoIterator<Item = T>) -> Option<T> {
    let mut values: Vec<T> = values.into_iter().collect();
    values.sort_unstable_by(|a, b| b.cmp(a));
    values.get(count.checked_sub(1)?).copied()
}

impl Members {
    /// The smallest number of acceptors of which any two sets share one.
    pub const fn quorum(self) -> usize {
        majority(self.count() as usize)
    }

    /// Whether so many acceptors are one.
    pub const fn is_quorum(self, acceptors: usize) -> bool {
        acceptors >= self.quorum()
    }

    /// How many more than these make one.
    pub const fn lacks(self, acceptors: usize) -> usize {
        self.quorum().saturating_sub(acceptors)
    }

    /// Whether the others make one without these.
    pub const fn is_quorum_without(self, acceptors: usize) -> bool {
        acceptors <= self.tolerates()
    }

    /// How many acceptors may fail while a quorum remains.
    pub const fn tolerates(self) -> usize {
        self.count() as usize - self.quorum()
    }

    /// The highest value that a quorum has reached; `None`: too few say anything.
    pub fn reached<T: Ord + Copy>(self, values: impl IntoIterator<Item = T>) -> Option<T> {
        reached_by(self.quorum(), values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_quorums_always_meet_and_no_smaller_two_sets_need_to() {
        for n in 1..=255 {
            let members = Members::new(n).unwrap();
            let (all, quorum) = (usize::from(n), members.quorum());
            assert!(2 * quorum > all, "{n}");
            assert!(2 * (quorum - 1) <= all, "{n}");
            assert_eq!(quorum + members.tolerates(), all);
            for some in 0..=all {
                assert_eq!(members.is_quorum(some), members.lacks(some) == 0);
                assert_eq!(some + members.lacks(some), some.max(quorum));
                assert_eq!(
                    members.is_quorum_without(some),
                    members.is_quorum(all - some)
                );
            }
        }
    }

    #[test]
    fn what_a_quorum_has_reached() {
        let three = Members::new(3).unwrap();
        assert_eq!(three.reached([5, 9, 7]), Some(7));
        assert_eq!(three.reached([5, 9]), Some(5));
        assert_eq!(three.reached([9]), None);
        assert_eq!(Members::new(1).unwrap().reached([4]), Some(4));
        assert_eq!(reached_by(0, [4]), None);
    }
}
