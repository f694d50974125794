//! Phase 2 of a leader: batches, votes, what is chosen, and acceptors without room for more.

use std::collections::{BTreeMap, BTreeSet};

use super::{Batch, Effects, Late, Leading, Phase, Proposer, Settings, To};
use crate::ids::{Ballot, NodeId, Slot};
use crate::message::{Learn, Request, Value, Values};

/// How many ticks after an acceptor had no room it is asked again.
pub(super) const ASK_FULL_TICKS: u64 = 20;

/// After so many failures in a row an acceptor is taken to be down: the pauses between them are 63 ticks.
pub(super) const SILENT_FAILURES: u32 = 8;

impl Proposer {
    /// Whether it can have anything new chosen: so many acceptors have room for votes, or may have
    /// it. Only a leader knows that they have not.
    pub fn has_room(&self) -> bool {
        let Phase::Leading(leading) = &self.phase else {
            return true;
        };
        // While none is full, those that are away are no reason to refuse anything.
        let full = leading.no_room.len();
        let unable = full + if full == 0 { 0 } else { self.silent().len() };
        self.members.is_quorum_without(unable)
    }

    /// Acceptors that were asked in vain for a vote that is still wanted, again and again, but for those
    /// that are full. One that starts again, or whose connection broke, is not meant: what waits for it is
    /// chosen in a moment.
    pub fn silent(&self) -> BTreeSet<NodeId> {
        let Phase::Leading(leading) = &self.phase else {
            return BTreeSet::new();
        };
        let batches = leading.in_flight.values();
        let in_vain = batches.flat_map(|batch| {
            let failed = batch.failed.iter();
            let long = failed.filter(|(_, failure)| failure.count >= SILENT_FAILURES);
            let long = long.map(|(acceptor, _)| *acceptor);
            long.filter(|acceptor| !batch.votes.contains(acceptor))
        });
        in_vain
            .filter(|acceptor| !leading.no_room.contains_key(acceptor))
            .collect()
    }

    /// Notes that an acceptor has no room for more, until it votes without saying so.
    pub(super) fn has_no_room(&mut self, acceptor: NodeId, at: Ballot) {
        if let Phase::Leading(leading) = &mut self.phase
            && leading.ballot == at
        {
            leading.no_room.insert(acceptor, leading.ticks);
        }
    }

    /// A vote for no value costs nothing, and says whether there is room.
    pub(super) fn ask_full_again(&mut self, effects: &mut Effects) {
        let committed = self.committed;
        let Phase::Leading(leading) = &mut self.phase else {
            return;
        };
        let now = leading.ticks;
        for (acceptor, at) in &mut leading.no_room {
            if now - *at >= ASK_FULL_TICKS {
                *at = now;
                let nothing = accept(leading.ballot, committed.next(), [].into(), committed);
                effects.acceptors.push((To::One(*acceptor), nothing));
            }
        }
    }

    pub(super) fn propose(&mut self, values: Vec<Value>, effects: &mut Effects) {
        let Phase::Leading(leading) = &mut self.phase else {
            return;
        };
        effects.assigned = Some(leading.next);
        leading.next = leading.next.plus(values.len() as u64);
        leading.open_bytes += bytes_of(&values);
        leading.unsent.extend(values);
        self.send_batches(effects);
    }

    /// How many acceptors are asked at first.
    pub(super) fn first_asked(&self) -> usize {
        match self.settings.thrifty {
            true => self.members.quorum(),
            false => self.members.count().into(),
        }
    }

    /// Starts as many Accepts as may be under way.
    pub(super) fn send_batches(&mut self, effects: &mut Effects) {
        let settings = self.settings;
        let first_asked = self.first_asked();
        let Phase::Leading(leading) = &mut self.phase else {
            return;
        };
        while leading.in_flight.len() < settings.batches_in_flight
            && leading.is_worth_a_batch(&settings)
        {
            let first = Slot(leading.next.0 - leading.unsent.len() as u64);
            let mut bytes = 0;
            let fits = |value: &&Value| {
                bytes += value.len();
                bytes <= settings.batch_bytes
            };
            let count = leading
                .unsent
                .iter()
                .take(settings.batch_values)
                .take_while(fits)
                .count();
            let values: Values = leading.unsent.drain(..count.max(1)).collect();
            let asked: BTreeSet<NodeId> = leading.first(first_asked);
            let accept = accept(leading.ballot, first, values.clone(), self.committed);
            effects.acceptors.push((To::Quorum(asked.clone()), accept));
            let batch = Batch {
                values,
                asked,
                votes: BTreeSet::new(),
                failed: BTreeMap::new(),
                replaced: BTreeSet::new(),
            };
            leading.in_flight.insert(first, batch);
        }
    }

    pub(super) fn accepted(
        &mut self,
        from: NodeId,
        ballot: Ballot,
        first: Slot,
        count: u64,
        effects: &mut Effects,
    ) {
        let members = self.members;
        let Phase::Leading(leading) = &mut self.phase else {
            return;
        };
        if ballot != leading.ballot {
            return;
        }
        leading.late_open.remove(&(from, first));
        leading.no_room.remove(&from);
        let Some(batch) = leading.in_flight.get_mut(&first) else {
            return;
        };
        if batch.values.len() as u64 != count {
            return;
        }
        batch.votes.insert(from);
        if !members.is_quorum(batch.votes.len()) {
            return;
        }
        if let Some(batch) = leading.in_flight.remove(&first) {
            let mut to: BTreeSet<NodeId> = leading.order.iter().copied().collect();
            to.retain(|acceptor| !batch.asked.contains(acceptor));
            if !to.is_empty() {
                let values = batch.values.clone();
                leading.late_size.0 += values.len();
                leading.late_size.1 += bytes_of(&values);
                leading.late.push(Late { first, values, to });
            }
            leading.chosen.insert(first, batch.values);
        }
        while let Some(values) = leading.chosen.remove(&self.committed.next()) {
            let first = self.committed.next();
            self.committed = self.committed.plus(values.len() as u64);
            leading
                .chosen_bytes
                .insert(self.committed, bytes_of(&values));
            effects.learners.push(Learn {
                first,
                values,
                committed: self.committed,
            });
        }
        let (values, bytes) = leading.late_size;
        if values >= self.settings.batch_values || bytes >= self.settings.batch_bytes {
            self.send_late(false, effects);
        }
        self.release_reads(effects);
        self.send_batches(effects);
    }

    pub(super) fn learned(&mut self, applied: Slot) {
        let Phase::Leading(leading) = &mut self.phase else {
            return;
        };
        leading.applied = leading.applied.max(applied);
        while let Some(batch) = leading.chosen_bytes.first_entry()
            && *batch.key() <= leading.applied
        {
            leading.open_bytes -= batch.remove();
        }
    }
}

impl Leading {
    /// Whether what waits should be sent now. A further batch must be as large as all that is under
    /// way, or as large as a batch may be: each costs messages and syncs, and what waits for the
    /// batches under way goes out with their votes at the latest.
    pub(super) fn is_worth_a_batch(&self, settings: &Settings) -> bool {
        let waiting = self.unsent.len();
        let under_way: usize = self.in_flight.values().map(|b| b.values.len()).sum();
        if waiting == 0 || waiting >= under_way || waiting >= settings.batch_values {
            return waiting > 0;
        }
        let mut bytes = 0;
        self.unsent.iter().any(|value| {
            bytes += value.len();
            bytes >= settings.batch_bytes
        })
    }

    /// The first so many acceptors to ask.
    pub(super) fn first(&self, count: usize) -> BTreeSet<NodeId> {
        self.order.iter().copied().take(count).collect()
    }
}

pub(super) fn accept(ballot: Ballot, first: Slot, values: Values, committed: Slot) -> Request {
    Request::Accept {
        ballot,
        first,
        values,
        committed,
    }
}

pub(super) fn bytes_of(values: &[Value]) -> usize {
    values.iter().map(Value::len).sum()
}
