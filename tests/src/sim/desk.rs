//! What a proposer's driver keeps: how far the learners are, and who waits for which outcome.

use std::collections::BTreeMap;

use proposer::paxos::ids::{NodeId, Role, Slot};
use proposer::paxos::machine::{Applied, Outcome};
use proposer::paxos::message::{Learned, Recalled};
use proposer::paxos::proposer::Input;
use proposer::paxos::recall::Recalls;

use super::node::Process;
use super::transfer::Ask;
use super::{Packet, Sim};

/// Ticks after which a question to a learner counts as lost.
const PATIENCE: u32 = 8;

/// Of one proposer.
#[derive(Debug, Default)]
pub(super) struct Desk {
    /// What each learner has on disk, while this proposer leads.
    pub(super) durable: BTreeMap<NodeId, Slot>,
    /// Slots of which somebody waits to hear what became of them.
    waiting: BTreeMap<Slot, ()>,
    recalls: Recalls<()>,
    /// The number of the question open to each learner, and ticks since.
    asked: BTreeMap<NodeId, (u64, u32)>,
}

impl Desk {
    /// Clients wait for the outcomes of these slots.
    pub(super) fn wait_for(&mut self, first: Slot, count: u64) {
        let slots = (0..count).map(|i| (first.plus(i), ()));
        self.waiting.extend(slots);
    }

    /// It does not lead any more: its clients ask the next leader.
    pub(super) fn clear(&mut self) {
        *self = Desk::default();
    }

    /// Whether everybody knows what became of his value.
    pub(super) fn is_clear(&self) -> bool {
        self.waiting.is_empty() && self.recalls.is_empty()
    }

    /// Up to where the core may take the learners to be done: what somebody waits for is told again.
    fn settled(&self, applied: Slot) -> Slot {
        let first = self.waiting.keys().next();
        first.map_or(applied, |slot| slot.previous().min(applied))
    }
}

impl Sim {
    /// A learner has answered a leader.
    pub(super) fn learned(&mut self, at: usize, from: NodeId, learned: Learned) {
        let Process::Proposer(_, desk) = &mut self.nodes[at].process else {
            return;
        };
        desk.durable.insert(from, learned.durable);
        for (i, outcome) in learned.outcomes.into_iter().enumerate() {
            let slot = learned.first.plus(i as u64);
            let Some(told) = outcome.filter(|_| desk.waiting.remove(&slot).is_some()) else {
                continue;
            };
            match told.outcome {
                Outcome::Withheld => {
                    self.summary.withheld += 1;
                    desk.recalls.want(slot, ());
                }
                _ => note(&self.check, &mut self.summary, slot, &told),
            }
        }
        let settled = desk.settled(learned.applied);
        self.ask_learners(at);
        self.step_proposer(at, Input::Learned(settled));
    }

    /// A learner tells what it withheld before.
    pub(super) fn recalled(&mut self, at: usize, from: NodeId, number: u64, recalled: Recalled) {
        let Process::Proposer(_, desk) = &mut self.nodes[at].process else {
            return;
        };
        if desk
            .asked
            .get(&from)
            .is_none_or(|(asked, _)| *asked != number)
        {
            return;
        }
        desk.asked.remove(&from);
        for (slot, (), told) in desk.recalls.answered(from, Some(recalled)) {
            note(&self.check, &mut self.summary, slot, &told);
        }
        self.ask_learners(at);
    }

    /// Some time has passed for a proposer.
    pub(super) fn tick_desk(&mut self, at: usize) {
        let Process::Proposer(_, desk) = &mut self.nodes[at].process else {
            return;
        };
        desk.recalls.tick();
        for (learner, (_, ticks)) in &mut desk.asked {
            *ticks += 1;
            if *ticks == PATIENCE {
                let _ = desk.recalls.answered(*learner, None);
            }
        }
        desk.asked.retain(|_, (_, ticks)| *ticks < PATIENCE);
        self.ask_learners(at);
    }

    fn ask_learners(&mut self, at: usize) {
        for to in self.of_role(Role::Learner) {
            let learner = self.nodes[to].name.id;
            let Process::Proposer(_, desk) = &mut self.nodes[at].process else {
                return;
            };
            let Some(slots) = desk.recalls.question(learner) else {
                continue;
            };
            self.scheduled += 1;
            let number = self.scheduled;
            desk.asked.insert(learner, (number, 0));
            self.send(at, to, &Packet::Ask(number, Ask::Recall(slots)));
        }
    }
}

fn note(check: &crate::check::Checker, summary: &mut super::Summary, slot: Slot, told: &Applied) {
    check.outcome_told(slot, told);
    summary.untold += u64::from(told.outcome == Outcome::Untold);
    summary.told += 1;
}
