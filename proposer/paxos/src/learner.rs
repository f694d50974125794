//! The learner: puts what is chosen into order and finds what it missed.
//!
//! The leader tells it what was chosen. What it misses it reads from the acceptors: in a slot that
//! is known to be chosen, the value of the highest ballot among a quorum of acceptors is the chosen
//! one, since any quorum shares an acceptor with the one that chose it, and no later ballot can
//! carry another value (Lamport, "Paxos Made Simple", P2b).
//!
//! A quorum is asked, each acceptor one question at a time; another one when one of them fails. A
//! question is repeated when it has failed, never because time has passed: a page that is on its way
//! fills the link already.

use std::collections::{BTreeMap, BTreeSet};

use super::ids::{Members, NodeId, Slot};
use super::message::{Learn, Reply, Request, Value, Vote};

/// How far beyond the first gap values are kept; later ones are fetched once the gap is closed.
const AHEAD_SLOTS: u64 = 32_768;
/// Bytes of such values. The ones that are furthest ahead go first.
const AHEAD_BYTES: usize = 32 << 20;

/// What reaches a learner.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// The leader tells.
    Learn(Learn),
    /// An acceptor answers a [`Request::Fetch`].
    Reply {
        /// Which.
        from: NodeId,
        /// What.
        reply: Reply,
    },
    /// Some time, longer than messages commonly take, has passed.
    Tick,
    /// A [`Request::Fetch`] is over without an answer to it: its time is up, it broke off, nothing
    /// was there to take it, or the acceptor would not.
    Failed {
        /// Which acceptor.
        from: NodeId,
        /// The request's first slot.
        first: Slot,
    },
}

/// What a step asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Effects {
    /// Chosen values in the order of their slots, without a gap, each delivered once.
    pub deliver: Vec<(Slot, Value)>,
    /// Questions to acceptors.
    pub fetch: Vec<(NodeId, Request)>,
    /// Acceptors have forgotten the next slots, and the others are too few or silent: up to here,
    /// another learner's snapshot is needed.
    pub truncated: Option<Slot>,
    /// A slot said to be chosen for which a quorum of acceptors knows no value: some of them have
    /// lost what they promised to keep. Nothing past it is delivered.
    pub missing: Option<Slot>,
    /// A slot that is not delivered yet and for which two values were told: only what a quorum of
    /// acceptors says counts there.
    pub disputed: Option<Slot>,
    /// The first and the last slot for which a quorum of acceptors has said what is chosen. What else is
    /// delivered was told.
    pub sure: Option<(Slot, Slot)>,
}

impl Effects {
    /// Whether a quorum of acceptors has said what was chosen in a slot.
    pub fn is_sure(&self, slot: Slot) -> bool {
        let sure = self.sure;
        sure.is_some_and(|(first, last)| first <= slot && slot <= last)
    }
}

/// A learner's state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Learner {
    members: Members,
    delivered: Slot,
    committed: Slot,
    ahead_slots: u64,
    most_ahead_bytes: usize,
    ahead: BTreeMap<Slot, Value>,
    ahead_bytes: usize,
    /// Slots for which two values were told.
    disputed: BTreeSet<Slot>,
    /// Where the gap was at the last tick; a gap that is still there at the next one is fetched.
    gap_at_tick: Option<Slot>,
    fetch: Option<Fetch>,
    /// Whom to ask first: those that failed last come last.
    order: Vec<NodeId>,
    /// How many slots to ask for at once: fewer after a failure, all once answers come.
    span: u64,
    /// Fetches in a row that failed, and how many ticks to wait before the next.
    failures: u32,
    pause: u64,
}

/// The longest pause between two fetches that fail, in ticks.
const LONGEST_PAUSE: u64 = 16;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Fetch {
    from: Slot,
    to: Slot,
    /// Who was asked. Unless the answer is below, it is still to come.
    asked: BTreeSet<NodeId>,
    answers: BTreeMap<NodeId, (Slot, Vec<Vote>)>,
    /// Who has forgotten the first slots, and up to where.
    truncated: BTreeMap<NodeId, Slot>,
    failed: BTreeSet<NodeId>,
}

impl Fetch {
    fn request(&self) -> Request {
        let (from, to) = (self.from, self.to);
        Request::Fetch { from, to }
    }

    /// Whether an answer is still to come.
    fn is_open(&self) -> bool {
        let ended = self.answers.len() + self.truncated.len() + self.failed.len();
        self.asked.len() > ended
    }

    fn waits_for(&self, acceptor: NodeId) -> bool {
        self.asked.contains(&acceptor)
            && !self.answers.contains_key(&acceptor)
            && !self.truncated.contains_key(&acceptor)
            && !self.failed.contains(&acceptor)
    }
}

impl Learner {
    /// A learner that has every slot up to `delivered` already.
    pub fn new(members: Members, delivered: Slot) -> Learner {
        Learner {
            members,
            delivered,
            committed: delivered,
            ahead_slots: AHEAD_SLOTS,
            most_ahead_bytes: AHEAD_BYTES,
            ahead: BTreeMap::new(),
            ahead_bytes: 0,
            disputed: BTreeSet::new(),
            gap_at_tick: None,
            fetch: None,
            order: members.acceptors().collect(),
            span: u64::MAX,
            failures: 0,
            pause: 0,
        }
    }

    /// The same, keeping values at most so many slots beyond the first gap.
    pub fn with_ahead_slots(self, ahead_slots: u64) -> Learner {
        Learner {
            ahead_slots,
            ..self
        }
    }

    /// The same, keeping so many bytes of them.
    pub fn with_ahead_bytes(self, most_ahead_bytes: usize) -> Learner {
        Learner {
            most_ahead_bytes,
            ..self
        }
    }

    /// Takes one input. Total, like every step.
    pub fn step(&mut self, input: Input) -> Effects {
        let mut effects = Effects::default();
        match input {
            Input::Learn(learn) => {
                self.committed = self.committed.max(learn.committed);
                for (i, value) in learn.values.iter().enumerate() {
                    self.keep(learn.first.plus(i as u64), value.clone(), &mut effects);
                }
            }
            Input::Reply {
                from,
                reply:
                    Reply::Fetched {
                        from: first,
                        to,
                        votes,
                    },
            } if self.members.contains(from) => {
                self.fetched(from, first, to, votes, &mut effects);
            }
            Input::Reply {
                from,
                reply: Reply::Truncated { from: first, floor },
            } if self.members.contains(from) => self.truncated(from, first, floor, &mut effects),
            Input::Reply { .. } => {}
            Input::Tick => self.tick(&mut effects),
            Input::Failed { from, first } => self.failed(from, first, &mut effects),
        }
        self.deliver(&mut effects);
        effects
    }

    /// Every slot up to here has been delivered.
    pub fn delivered(&self) -> Slot {
        self.delivered
    }

    /// Bytes of the values that wait for a gap before them to close.
    pub fn ahead_bytes(&self) -> usize {
        self.ahead_bytes
    }

    /// Every slot up to here is known to be chosen.
    pub fn committed(&self) -> Slot {
        self.committed
    }

    /// Takes over a state that has every slot up to `delivered`.
    pub fn skip_to(&mut self, delivered: Slot) {
        if delivered > self.delivered {
            self.delivered = delivered;
            self.committed = self.committed.max(delivered);
            self.ahead = self.ahead.split_off(&delivered.next());
            self.ahead_bytes = self.ahead.values().map(Value::len).sum();
            self.disputed = self.disputed.split_off(&delivered.next());
            self.fetch = None;
        }
    }

    /// What was delivered from this slot on is not applied: the value told for it cannot be read. From
    /// here on only what a quorum of acceptors says counts there, and if that cannot be read either,
    /// it was written by a newer version.
    pub fn distrust(&mut self, slot: Slot) {
        self.delivered = self.delivered.min(slot.previous());
        // Those who know what is chosen say so again.
        self.committed = self.delivered;
        self.disputed.insert(slot);
        self.fetch = None;
    }

    /// Whether a slot's value is kept: the slot is not delivered yet, and not too far on.
    fn has_room_for(&self, slot: Slot) -> bool {
        slot > self.delivered && slot.0 <= self.delivered.0.saturating_add(self.ahead_slots)
    }

    fn keep(&mut self, slot: Slot, value: Value, effects: &mut Effects) {
        if !self.has_room_for(slot) || self.disputed.contains(&slot) {
            return;
        }
        match self.ahead.get(&slot) {
            Some(told) if *told == value => {}
            Some(told) => {
                self.ahead_bytes -= told.len();
                self.ahead.remove(&slot);
                self.disputed.insert(slot);
                effects.disputed = Some(slot);
            }
            None => self.insert(slot, value, effects),
        }
    }

    /// A quorum of acceptors says so, whatever else was told, and before any of it is delivered.
    fn keep_for_sure(&mut self, found: Vec<(Slot, Value)>, effects: &mut Effects) {
        effects.sure = found
            .first()
            .zip(found.last())
            .map(|((first, _), (last, _))| (*first, *last));
        for (slot, _) in &found {
            self.disputed.remove(slot);
            if let Some(told) = self.ahead.remove(slot) {
                self.ahead_bytes -= told.len();
            }
        }
        for (slot, value) in found {
            if self.has_room_for(slot) {
                self.insert(slot, value, effects);
            }
        }
    }

    fn insert(&mut self, slot: Slot, value: Value, effects: &mut Effects) {
        self.ahead_bytes += value.len();
        self.ahead.insert(slot, value);
        if slot == self.delivered.next() {
            return self.deliver(effects);
        }
        while self.ahead_bytes > self.most_ahead_bytes
            && let Some((_, furthest)) = self.ahead.pop_last()
        {
            self.ahead_bytes -= furthest.len();
        }
    }

    fn deliver(&mut self, effects: &mut Effects) {
        while let Some(value) = self.ahead.remove(&self.delivered.next()) {
            self.ahead_bytes -= value.len();
            self.delivered = self.delivered.next();
            effects.deliver.push((self.delivered, value));
        }
        self.committed = self.committed.max(self.delivered);
        // The leader was faster.
        self.fetch.take_if(|fetch| fetch.to <= self.delivered);
    }

    fn tick(&mut self, effects: &mut Effects) {
        let gap = (self.delivered < self.committed).then_some(self.delivered);
        let stays = gap.is_some() && gap == self.gap_at_tick;
        self.gap_at_tick = gap;
        self.pause = self.pause.saturating_sub(1);
        let is_open = self.fetch.as_ref().is_some_and(Fetch::is_open);
        if !stays || is_open || self.pause > 0 {
            return;
        }
        // Those that remember may be too few for good, if another one is gone.
        let floor = self.fetch.as_ref().and_then(|f| f.truncated.values().max());
        if let Some(floor) = floor.copied() {
            self.forgotten(floor, effects);
        }
        self.start_fetch(effects);
    }

    fn failed(&mut self, acceptor: NodeId, first: Slot, effects: &mut Effects) {
        let Some(fetch) = &mut self.fetch else { return };
        if first != fetch.from || !fetch.waits_for(acceptor) {
            return;
        }
        fetch.failed.insert(acceptor);
        let slots = (fetch.to.0 - fetch.from.0).saturating_add(1);
        self.span = self.span.min(slots).div_ceil(2);
        if let Some(place) = self.order.iter().position(|a| *a == acceptor) {
            self.order[place..].rotate_left(1);
        }
        self.ask_another(effects);
        if self.fetch.as_ref().is_some_and(|fetch| !fetch.is_open()) {
            self.pause = (1 << self.failures.min(8)).min(LONGEST_PAUSE);
            self.failures += 1;
        }
    }

    /// Asks as many more as a quorum of answers needs.
    fn ask_another(&mut self, effects: &mut Effects) {
        let Some(fetch) = &mut self.fetch else { return };
        let lost = fetch.truncated.len() + fetch.failed.len();
        let hoped_for = fetch.asked.len() - lost;
        let missing = self.members.lacks(hoped_for);
        let others = self.order.iter().filter(|a| !fetch.asked.contains(a));
        let others: Vec<NodeId> = others.take(missing).copied().collect();
        fetch.asked.extend(&others);
        let request = fetch.request();
        let questions = others.into_iter().map(|to| (to, request.clone()));
        effects.fetch.extend(questions);
    }

    fn start_fetch(&mut self, effects: &mut Effects) {
        let from = self.delivered.next();
        let held = self
            .ahead
            .first_key_value()
            .map_or(Slot(u64::MAX), |(slot, _)| slot.previous());
        let to = self.committed.min(held);
        let to = to.min(Slot(from.0.saturating_add(self.span - 1)));
        if from > to {
            self.fetch = None;
            return;
        }
        self.fetch = Some(Fetch {
            from,
            to,
            asked: BTreeSet::new(),
            answers: BTreeMap::new(),
            truncated: BTreeMap::new(),
            failed: BTreeSet::new(),
        });
        self.ask_another(effects);
    }

    fn truncated(&mut self, from: NodeId, first: Slot, floor: Slot, effects: &mut Effects) {
        let Some(fetch) = &mut self.fetch else { return };
        if first != fetch.from || !fetch.asked.contains(&from) {
            return;
        }
        fetch.failed.remove(&from);
        fetch.truncated.insert(from, floor);
        // The others may still make a quorum.
        if !self.members.is_quorum_without(fetch.truncated.len()) {
            self.forgotten(floor, effects);
            self.fetch = None;
        } else {
            self.ask_another(effects);
        }
    }

    /// No quorum says what is chosen up to there any more: what another learner has counts.
    fn forgotten(&mut self, floor: Slot, effects: &mut Effects) {
        effects.truncated = Some(floor);
        self.disputed = self.disputed.split_off(&floor.next());
    }

    fn fetched(
        &mut self,
        acceptor: NodeId,
        first: Slot,
        to: Slot,
        votes: Vec<Vote>,
        effects: &mut Effects,
    ) {
        let Some(fetch) = &mut self.fetch else { return };
        if first != fetch.from || to > fetch.to || !fetch.asked.contains(&acceptor) {
            return;
        }
        // Late, but here after all.
        fetch.failed.remove(&acceptor);
        fetch.answers.insert(acceptor, (to, votes));
        if !self.members.is_quorum(fetch.answers.len()) {
            return;
        }
        let covered = fetch
            .answers
            .values()
            .map(|(to, _)| *to)
            .min()
            .unwrap_or_default();
        let mut highest: BTreeMap<Slot, &Vote> = BTreeMap::new();
        for vote in fetch.answers.values().flat_map(|(_, votes)| votes) {
            let best = highest.entry(vote.slot).or_insert(vote);
            if vote.ballot > best.ballot {
                *best = vote;
            }
        }
        let mut found = Vec::new();
        for slot in (fetch.from.0..=covered.0).map(Slot) {
            match highest.get(&slot) {
                Some(vote) => found.push((slot, vote.value.clone())),
                None => {
                    effects.missing = Some(slot);
                    break;
                }
            }
        }
        self.fetch = None;
        self.failures = 0;
        self.span = self.span.saturating_mul(2);
        self.keep_for_sure(found, effects);
        if let Some(missing) = effects.missing {
            // Whoever said that it is chosen may say so again; until then there is nothing to ask.
            self.committed = self.delivered.max(missing.previous());
        }
        // A long way behind: the next stretch at once, not at the next tick.
        if effects.missing.is_none() && self.delivered < self.committed {
            self.start_fetch(effects);
        }
    }
}

/// Cuts what is delivered into what one record of a log takes: about so many bytes, or one value.
pub fn records(
    delivered: Vec<(Slot, Value)>,
    bytes: usize,
) -> impl Iterator<Item = Vec<(Slot, Value)>> {
    let mut rest = delivered.into_iter().peekable();
    std::iter::from_fn(move || {
        let first = rest.next()?;
        let mut size = size_of(&first.1);
        let mut record = vec![first];
        while let Some(next) = rest.next_if(|(_, value)| size + size_of(value) <= bytes) {
            size += size_of(&next.1);
            record.push(next);
        }
        Some(record)
    })
}

/// Of a value in a record, with its slot and what became of it.
fn size_of(value: &Value) -> usize {
    32 + value.len()
}

#[cfg(test)]
mod tests;
