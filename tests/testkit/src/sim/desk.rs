//! What a proposer's driver keeps: how far the learners are, and who waits for which outcome.

use std::collections::BTreeMap;
use std::time::Duration;

use paxos::ids::{NodeId, Role, Slot};
use paxos::machine::{Applied, Outcome};
use paxos::message::{Learned, Recalled, Request, Value};
use paxos::proposer::Input;
use paxos::recall::Recalls;
use paxos::telling::Telling;
use roles::newest::NewestOnly;
use roles::reach::Reach;

use super::node::Process;
use super::transfer::Ask;
use super::{ELECTION, Packet, Sim};

/// Ticks after which a question to a learner counts as lost.
const PATIENCE: u32 = 8;

/// Of one proposer.
#[derive(Debug)]
pub(super) struct Desk {
    /// What each learner has on disk, while this proposer leads.
    pub(super) durable: BTreeMap<NodeId, Slot>,
    /// Slots of which somebody waits to hear what became of them.
    waiting: BTreeMap<Slot, Value>,
    recalls: Recalls<()>,
    /// The number of the question open to each learner, and ticks since.
    asked: BTreeMap<NodeId, (u64, u32)>,
    /// What is on its way to the learners.
    pub(super) telling: Telling,
    /// Proofs of leadership, one at a time to each acceptor.
    pub(super) renewals: NewestOnly<NodeId, Request>,
    /// Whether a learner answers.
    pub(super) reach: Reach,
}

impl Desk {
    /// Of a proposer that has just started.
    pub(super) fn new(learners: u8) -> Desk {
        let mut telling = Telling::default();
        telling.set_learners(NodeId::first(learners));
        Desk {
            durable: BTreeMap::new(),
            waiting: BTreeMap::new(),
            recalls: Recalls::default(),
            asked: BTreeMap::new(),
            telling,
            renewals: NewestOnly::default(),
            reach: Reach::new(Duration::from_millis(ELECTION)),
        }
    }

    /// Clients wait for the outcomes of these values.
    pub(super) fn wait_for(&mut self, first: Slot, values: Vec<Value>) {
        let slots = (first.0..).map(Slot);
        self.waiting.extend(slots.zip(values));
    }

    /// It does not lead any more: its clients ask the next leader.
    pub(super) fn clear(&mut self) {
        self.durable.clear();
        self.waiting.clear();
        self.recalls = Recalls::default();
        self.asked.clear();
    }

    /// Whether everybody knows what became of his value.
    pub(super) fn is_clear(&self) -> bool {
        self.waiting.is_empty() && self.recalls.is_empty()
    }
}

impl Sim {
    /// A learner has answered a leader.
    pub(super) fn learned(&mut self, by: usize, at: usize, learned: Learned) {
        let (from, first) = (self.nodes[by].name.id, learned.first);
        let (applied, count) = (learned.applied, learned.outcomes.len());
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
        self.ask_learners(at);
        self.step_proposer(at, Input::Learned(applied));
        self.told_answered(by, at, first, count, applied);
    }

    /// A leader tells again what failed, and asks again for outcomes whose answer is lost.
    pub(super) fn tell_again(&mut self, at: usize) {
        let Process::Proposer(proposer, desk) = &mut self.nodes[at].process else {
            return;
        };
        if !proposer.is_leading() {
            return;
        }
        let mut tells = desk.telling.tick();
        let wanted = desk.waiting.iter().map(|(slot, value)| (*slot, value));
        while let Some(tell) = desk.telling.ask_again(wanted.clone()) {
            tells.push(tell);
        }
        self.tell_learners(at, tells);
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
