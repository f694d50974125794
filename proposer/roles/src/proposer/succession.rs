//! Handing leadership over: to whom, when, and how this proposer leaves. A leader that reaches no learner
//! can choose, but never say what became of it: another proposer, one that reaches a learner, takes over.
//! Where nobody does, the leader stays, and says so.

use std::collections::VecDeque;
use std::time::Duration;

use paxos::ids::NodeId;
use paxos::proposer::Input;

use super::calls::Open;
use super::{Action, Claims, Failure, Note, ProposerRole};
use crate::reach::Look;

/// How long a leader that is shutting down waits for what is under way, before it hands over.
const DRAIN: Duration = Duration::from_millis(500);
/// When the leader's process is gone: how long each proposer waits for the one before it.
pub(super) const SUCCESSION_STEP: Duration = Duration::from_millis(40);
/// How long a learner may take to show that it is there, connecting included; and how long another
/// proposer may take to find out.
const LOOK_WITHIN: Duration = Duration::from_millis(1500);
const SUCCESSOR_WITHIN: Duration = Duration::from_secs(2);

/// Why all learners are asked whether they are there.
#[derive(Clone, Copy)]
pub(super) enum Looking {
    /// None has answered this leader for long.
    Leader,
    /// The leader asks this proposer to take over, by that number.
    Successor(u64),
}

/// Proposers that are asked to take over, one after the other.
pub(super) struct Search {
    asked: NodeId,
    left: VecDeque<NodeId>,
    /// It reaches no learner; else it leaves.
    reaches_none: bool,
}

impl<D: Claims> ProposerRole<D> {
    pub(super) fn begin_to_leave(&mut self) {
        let drain_until = self.now + DRAIN;
        self.leaving_at.get_or_insert(drain_until);
        self.leave();
    }

    pub(super) fn leave(&mut self) {
        let Some(drain_until) = self.leaving_at else {
            return;
        };
        let drained = self.proposed.is_empty() && self.core.open_slots() == 0;
        if self.core.is_leading() && (drained || self.now >= drain_until) {
            self.hand_over();
        }
        let alone = self.peers.proposers.is_empty() && self.now >= drain_until;
        if !self.core.is_leading() && (self.jobs.is_empty() || alone) {
            self.actions.push(Action::MayLeave);
        }
    }

    /// Steps down and asks one of those that may succeed to do so: the first that is willing.
    fn hand_over(&mut self) {
        let successors = self.successors();
        self.step(Input::StepDown);
        self.ask_to_succeed(successors, false);
    }

    /// A leader that is no longer listed hands over as soon as there is somebody to take over.
    pub(super) fn retire(&mut self) {
        let is_listed = self.peers.is_listed;
        if self.core.is_leading() && !is_listed && !self.successors().is_empty() {
            self.hand_over();
        }
    }

    /// The proposers that follow us and answered a heartbeat just now, in order: those that leave
    /// when the cluster shrinks come last.
    fn successors(&self) -> VecDeque<NodeId> {
        let settings = &self.settings;
        let lately = settings
            .election_timeout
            .max(3 * settings.heartbeat_interval);
        let is_fresh = |id: &NodeId| {
            let at = self.followed_at.get(id);
            at.is_some_and(|at| self.now - *at < lately)
        };
        let proposers = self.peers.proposers.iter().copied();
        proposers.filter(is_fresh).collect()
    }

    /// Asks the next of them. `false` if none is left.
    fn ask_to_succeed(&mut self, mut left: VecDeque<NodeId>, reaches_none: bool) -> bool {
        let Some(asked) = left.pop_front() else {
            return false;
        };
        let search = Search {
            asked,
            left,
            reaches_none,
        };
        if !reaches_none {
            self.note(Note::HandsOver(asked));
        }
        let call = self.call(asked, SUCCESSOR_WITHIN, Open::TakeOver(search));
        self.actions.push(Action::TakeOver(call));
        true
    }

    pub(super) fn takes_over(&mut self, search: Search) {
        if search.reaches_none {
            self.note(Note::ReplacedBy(search.asked));
            self.reach.looked(Look::HandedOver, self.now);
        }
    }

    /// One that reaches no learner refuses.
    pub(super) fn declined(&mut self, search: Search, why: Failure) {
        self.note(Note::Declined(search.asked, why));
        let reaches_none = search.reaches_none;
        if !self.ask_to_succeed(search.left, reaches_none) && reaches_none {
            self.nobody_reaches();
        }
    }

    /// Looks for a learner, and for a proposer that reaches one, when none has answered for long.
    pub(super) fn watch_reach(&mut self) {
        if !self.core.is_leading() || self.leaving_at.is_some() {
            return self.learner_heard();
        }
        if self.reach.begins_to_look(self.now) {
            self.look_for_learner(Looking::Leader);
        }
    }

    fn look_for_learner(&mut self, looking: Looking) {
        // Without learners there is nobody to reach.
        let Some(first) = self.peers.learners.first().copied() else {
            return self.looked(looking, true);
        };
        let call = self.call(first, LOOK_WITHIN, Open::Look(looking));
        self.actions.push(Action::LookForLearner(call));
    }

    /// Whether any learner answers is known.
    pub(super) fn looked(&mut self, looking: Looking, reached: bool) {
        match (looking, reached) {
            (Looking::Leader, true) => self.reach.looked(Look::Reached, self.now),
            (Looking::Leader, false) => {
                let successors = self.successors();
                if !self.ask_to_succeed(successors, true) {
                    self.nobody_reaches();
                }
            }
            (Looking::Successor(id), willing) => {
                let willing = willing && self.may_stand();
                if willing {
                    self.note(Note::AskedToSucceed);
                    self.step(Input::TakeOver);
                }
                self.actions.push(Action::TakesOver { id, willing });
            }
        }
    }

    fn nobody_reaches(&mut self) {
        self.reach.looked(Look::Nobody, self.now);
        if self.core.is_leading() {
            self.note(Note::ReachesNobody);
        }
    }

    /// A learner has answered.
    pub(super) fn learner_heard(&mut self) {
        self.reach.heard(self.now);
    }

    /// The leader asks this proposer to succeed it.
    pub(super) fn asked_to_take_over(&mut self, id: u64) {
        match self.may_stand() {
            true => self.look_for_learner(Looking::Successor(id)),
            false => self.actions.push(Action::TakesOver { id, willing: false }),
        }
    }
}
