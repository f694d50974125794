//! What acceptors may forget: what enough others have on disk.

use super::ids::Slot;
use super::quorum::{majority, reached_by};

/// Every slot up to here is on the disks of as many learners and stores together as make a majority of
/// so many learners, one learner among them. `None` while too few have said how far they are.
pub fn kept(
    count: usize,
    learners: impl IntoIterator<Item = Slot>,
    stores: impl IntoIterator<Item = Slot>,
) -> Option<Slot> {
    let mut all: Vec<Slot> = learners.into_iter().collect();
    let most = all.iter().copied().max()?;
    all.extend(stores);
    let enough = reached_by(majority(count), all)?;
    Some(most.min(enough))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept_by(count: usize, learners: &[u64], stores: &[u64]) -> Option<u64> {
        let slots = |of: &[u64]| of.iter().map(|slot| Slot(*slot)).collect::<Vec<_>>();
        kept(count, slots(learners), slots(stores)).map(|slot| slot.0)
    }

    #[test]
    fn a_majority_of_the_learners_keeps_what_acceptors_forget_and_stores_help() {
        assert_eq!(kept_by(3, &[9, 7, 5], &[]), Some(7));
        assert_eq!(kept_by(3, &[9, 7], &[]), Some(7));
        assert_eq!(kept_by(3, &[9], &[]), None, "one of three is no majority");
        assert_eq!(kept_by(3, &[9], &[8]), Some(8));
        assert_eq!(kept_by(2, &[9, 1], &[4]), Some(4));
        assert_eq!(kept_by(1, &[9], &[]), Some(9));
    }

    #[test]
    fn stores_alone_do_not_keep_it() {
        assert_eq!(kept_by(3, &[], &[9, 9, 9]), None);
        assert_eq!(kept_by(3, &[2], &[9, 9, 9]), Some(2));
    }
}
