//! Nodes that have applied more than a proposer knows of.
//!
//! What a learner has applied was chosen, so a quorum of acceptors has voted for it. A leader that
//! hears of a slot which it never gave out is no leader any more, or the acceptors have lost votes. It
//! steps down either way. Which of the two it is shows at the next election: a quorum of promises
//! tells of every slot that was chosen before. If the slot is not among them, votes are lost for good:
//! the acceptors were set back in time, or the learner applied what was never chosen. To lead then
//! would be to give out a second time what was acknowledged.

use std::cmp::Reverse;

use super::{Effects, Phase, Proposer};
use crate::ids::{Ballot, NodeName, Slot};
use crate::message::{Heartbeat, Learn, Values};

/// A node has applied more than this proposer knows to have been given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Behind {
    /// Which node.
    pub node: NodeName,
    /// Up to where.
    pub applied: Slot,
    /// The last slot that this proposer knows of.
    pub known: Slot,
    /// Whether a quorum's promises show that votes are lost; else another leader may have given out
    /// what the node has.
    pub is_proved: bool,
}

impl Proposer {
    /// The nodes that had applied more than this proposer knew of when they were last heard.
    pub fn ahead(&self) -> impl Iterator<Item = (NodeName, Slot)> {
        self.ahead.iter().map(|(node, slot)| (*node, *slot))
    }

    /// Whether an [`Input::Applied`](super::Input::Applied) of that slot would change anything: most do not.
    pub fn is_news(&self, applied: Slot) -> bool {
        match &self.phase {
            Phase::Leading(leading) => applied >= leading.next || !self.ahead.is_empty(),
            _ => true,
        }
    }

    /// Whether a leader's sign of life may be one: no proposer of ours is so many rounds ahead.
    pub fn believes(&self, heartbeat: &Heartbeat) -> bool {
        let leader = self.leader().map_or(0, Ballot::counter);
        let known = self.counter.max(leader);
        heartbeat.ballot.counter() <= known.saturating_add(Ballot::MAX_JUMP)
    }

    pub(super) fn has_applied(&mut self, node: NodeName, applied: Slot, effects: &mut Effects) {
        let Phase::Leading(leading) = &self.phase else {
            self.ahead.insert(node, applied);
            return;
        };
        if applied < leading.next {
            self.ahead.remove(&node);
            return;
        }
        effects.behind = Some(Behind {
            node,
            applied,
            known: leading.next.previous(),
            is_proved: false,
        });
        self.ahead.insert(node, applied);
        self.follow(None, effects);
    }

    /// With a quorum's promises, which tell of slots up to `known`: whether some node has more than
    /// that. It is asked again, as it may have been given another disk by the next election.
    pub(super) fn is_behind(&mut self, known: Slot, effects: &mut Effects) -> bool {
        self.ahead.retain(|_, applied| *applied > known);
        let furthest = |(node, applied): &(NodeName, Slot)| (*applied, Reverse(*node));
        let Some((node, applied)) = self.ahead().max_by_key(furthest) else {
            return false;
        };
        effects.behind = Some(Behind {
            node,
            applied,
            known,
            is_proved: true,
        });
        effects.learners.push(Learn {
            first: self.committed.next(),
            values: Values::from([]),
            committed: self.committed,
        });
        true
    }
}
