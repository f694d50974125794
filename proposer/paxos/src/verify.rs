//! What acceptors say of one slot that a learner has applied. It was chosen, so a quorum has voted for
//! it, and the value of the highest ballot among the votes of any quorum is the one that was applied
//! (Lamport, "Paxos Made Simple", P2b). Anything else means that acceptors have lost votes, or that
//! the learner has applied what was never chosen.

use std::collections::{BTreeMap, BTreeSet};

use super::digest::checksum;
use super::ids::{Ballot, Members, NodeId, Slot};
use super::message::{Reply, Request};

/// A question to the acceptors about one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verify {
    members: Members,
    slot: Slot,
    mine: u64,
    votes: BTreeMap<NodeId, Option<(Ballot, u64)>>,
    forgotten: BTreeSet<NodeId>,
}

/// What a quorum of acceptors answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// What this learner has applied.
    Same,
    /// Another value: its checksum.
    Other(u64),
    /// None of them has voted there.
    NoVote,
    /// Too many have forgotten the slot, since enough learners have it on disk.
    Forgotten,
}

impl Verdict {
    /// Every [`Verdict::name`].
    pub const NAMES: [&'static str; 4] = ["same", "other", "no_vote", "forgotten"];

    /// In a word, for metrics.
    pub const fn name(self) -> &'static str {
        Verdict::NAMES[match self {
            Verdict::Same => 0,
            Verdict::Other(_) => 1,
            Verdict::NoVote => 2,
            Verdict::Forgotten => 3,
        }]
    }
}

impl Verify {
    /// About a slot in which a value with this checksum was applied.
    pub fn new(members: Members, slot: Slot, mine: u64) -> Verify {
        Verify {
            members,
            slot,
            mine,
            votes: BTreeMap::new(),
            forgotten: BTreeSet::new(),
        }
    }

    /// Which slot.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// What to ask every acceptor.
    pub fn request(&self) -> Request {
        Request::Fetch {
            from: self.slot,
            to: self.slot,
        }
    }

    /// Takes an acceptor's answer, and gives the verdict when a quorum makes one.
    pub fn answer(&mut self, acceptor: NodeId, reply: &Reply) -> Option<Verdict> {
        if !self.members.contains(acceptor) {
            return None;
        }
        match reply {
            Reply::Fetched { from, to, votes } if *from == self.slot && *to == self.slot => {
                let here = votes.iter().find(|vote| vote.slot == self.slot);
                let vote = here.map(|vote| (vote.ballot, checksum(&vote.value.0)));
                self.votes.insert(acceptor, vote);
            }
            Reply::Truncated { from, .. } if *from == self.slot => {
                self.forgotten.insert(acceptor);
            }
            _ => return None,
        }
        if self.members.is_quorum(self.votes.len()) {
            let highest = self
                .votes
                .values()
                .flatten()
                .max_by_key(|(ballot, _)| *ballot);
            return Some(match highest {
                Some((_, value)) if *value == self.mine => Verdict::Same,
                Some((_, value)) => Verdict::Other(*value),
                None => Verdict::NoVote,
            });
        }
        let open = self.members.is_quorum_without(self.forgotten.len());
        (!open).then_some(Verdict::Forgotten)
    }

    /// The verdict when no quorum has answered for a while. One acceptor that has forgotten the slot
    /// is enough: those that have not may be too few for good, if another one has lost its disk.
    pub fn give_up(&self) -> Option<Verdict> {
        (!self.forgotten.is_empty()).then_some(Verdict::Forgotten)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Value, Vote};

    const SLOT: Slot = Slot(7);

    fn verify(acceptors: u8) -> Verify {
        Verify::new(Members::new(acceptors).unwrap(), SLOT, checksum(b"mine"))
    }

    fn fetched(votes: &[(u64, &'static str)]) -> Reply {
        let vote = |(round, text): &(u64, &'static str)| Vote {
            slot: SLOT,
            ballot: Ballot::new(*round, NodeId::at(0).unwrap()).unwrap(),
            value: Value((*text).into()),
        };
        Reply::Fetched {
            from: SLOT,
            to: SLOT,
            votes: votes.iter().map(vote).collect(),
        }
    }

    fn verdict(acceptors: u8, replies: &[Reply]) -> Option<Verdict> {
        let mut verify = verify(acceptors);
        let mut verdict = None;
        for (acceptor, reply) in NodeId::first(9).zip(replies) {
            assert_eq!(verdict, None, "the quorum was not complete before");
            verdict = verify.answer(acceptor, reply);
        }
        verdict
    }

    #[test]
    fn the_highest_ballot_of_a_quorum_decides() {
        let (none, mine) = (fetched(&[]), fetched(&[(2, "mine")]));
        let (lower, higher) = (fetched(&[(1, "old")]), fetched(&[(3, "new")]));
        let told = |replies: &[&Reply]| {
            let replies: Vec<Reply> = replies.iter().map(|reply| (*reply).clone()).collect();
            verdict(3, &replies)
        };
        assert_eq!(told(&[&mine]), None);
        assert_eq!(told(&[&mine, &none]), Some(Verdict::Same));
        assert_eq!(told(&[&lower, &mine]), Some(Verdict::Same));
        let other = Verdict::Other(checksum(b"new"));
        assert_eq!(told(&[&mine, &higher]), Some(other));
        assert_eq!(told(&[&none, &none]), Some(Verdict::NoVote));
        assert_eq!(verdict(5, &[mine.clone(), none.clone()]), None);
    }

    #[test]
    fn forgotten_slots_give_no_verdict_against_anybody() {
        let gone = Reply::Truncated {
            from: SLOT,
            floor: Slot(9),
        };
        let mine = fetched(&[(1, "mine")]);
        assert_eq!(
            verdict(3, &[gone.clone(), gone.clone()]),
            Some(Verdict::Forgotten)
        );
        let rest = [gone.clone(), mine.clone(), mine];
        assert_eq!(verdict(3, &rest), Some(Verdict::Same));
    }

    #[test]
    fn one_that_has_forgotten_ends_the_question_where_another_has_lost_its_disk() {
        let mut verify = verify(3);
        let acceptor = |number| NodeId::new(number).unwrap();
        assert_eq!(verify.answer(acceptor(1), &Reply::NotVoting), None);
        assert_eq!(verify.answer(acceptor(2), &fetched(&[(1, "mine")])), None);
        assert_eq!(verify.give_up(), None, "the first may come back");
        let gone = Reply::Truncated {
            from: SLOT,
            floor: Slot(9),
        };
        assert_eq!(verify.answer(acceptor(3), &gone), None);
        assert_eq!(verify.give_up(), Some(Verdict::Forgotten));
    }

    #[test]
    fn answers_about_other_slots_and_of_strangers_do_not_count() {
        let mut verify = verify(1);
        let other = Reply::Fetched {
            from: Slot(8),
            to: Slot(8),
            votes: Vec::new(),
        };
        let first = NodeId::new(1).unwrap();
        assert_eq!(verify.answer(first, &other), None);
        assert_eq!(verify.answer(first, &Reply::NotVoting), None);
        let stranger = NodeId::new(2).unwrap();
        assert_eq!(verify.answer(stranger, &fetched(&[(1, "x")])), None);
        assert_eq!(
            verify.answer(first, &fetched(&[(1, "mine")])),
            Some(Verdict::Same)
        );
    }

    #[test]
    fn an_acceptor_that_answers_twice_counts_once() {
        let mut verify = verify(3);
        let first = NodeId::new(1).unwrap();
        for _ in 0..3 {
            assert_eq!(verify.answer(first, &fetched(&[(1, "mine")])), None);
        }
    }
}
