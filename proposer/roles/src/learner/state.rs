//! What a learner has applied: the state that readers share with its loop, and how a start puts it
//! together again from a snapshot and the log.

use std::collections::BTreeMap;

use bytes::Bytes;
use paxos::audit::Trail;
use paxos::codec::{self, Entry};
use paxos::command::Undecodable;
use paxos::digests::Digests;
use paxos::ids::Slot;
use paxos::machine::{Applied, Machine};
use paxos::message::Value;
use paxos::recent::{Bounds, Recent};

use super::log::Log;

/// What readers share with the loop.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The resources and sessions.
    pub machine: Machine,
    /// The newest entries; older ones are on disk.
    pub recent: Recent,
    /// For the comparison with other learners.
    pub trail: Trail,
    /// For the comparison with what is sent again, and with the acceptors' votes.
    pub digests: Digests,
}

impl State {
    /// Of a machine of which nothing but its state is known, remembering so much of what follows.
    pub fn of(machine: Machine, bounds: Bounds) -> State {
        State {
            recent: Recent::new(bounds),
            trail: Trail::default(),
            digests: Digests::after(machine.applied()),
            machine,
        }
    }

    /// A checksum of what was applied in a slot, if it is still known.
    pub fn checksum(&self, slot: Slot) -> Option<u64> {
        self.digests.of(slot)
    }

    /// Entries from a slot on, at least one if it is applied, and about `bytes` of them; `None` when they
    /// are in the log alone.
    pub fn entries(&self, from: Slot, bytes: usize) -> Option<Vec<Entry>> {
        self.recent.entries(from, self.machine.applied(), bytes)
    }

    /// Applies the value of the next slot and remembers it. The entry as it was applied, with what READ
    /// found.
    pub(super) fn apply(&mut self, slot: Slot, value: &Value) -> Result<Entry, Undecodable> {
        let applied = self.machine.apply(slot, value)?;
        // A copy: a slice would keep the whole message in memory.
        let value = Value(Bytes::copy_from_slice(&value.0));
        Ok(self.note(slot, value, applied))
    }

    /// Keeps what the machine has just applied.
    fn note(&mut self, slot: Slot, value: Value, applied: Applied) -> Entry {
        self.trail.note(slot, &value, &self.machine);
        self.digests.note(slot, &value);
        let entry = Entry {
            slot,
            value,
            applied,
        };
        self.recent.push(entry.clone());
        entry
    }
}

/// A start: applies the log again, a record at a time, to the state of the newest snapshot.
#[derive(Debug)]
pub struct Replay<P> {
    state: State,
    snapshot: Slot,
    next: Option<Slot>,
    index: BTreeMap<Slot, P>,
}

impl<P: Copy + PartialEq> Replay<P> {
    /// On a snapshot's state, or an empty one.
    pub fn on(machine: Machine, bounds: Bounds) -> Replay<P> {
        Replay {
            snapshot: machine.applied(),
            state: State::of(machine, bounds),
            next: None,
            index: BTreeMap::new(),
        }
    }

    /// The log's next record, which lies at that position.
    pub fn record(&mut self, position: P, record: &[u8]) -> Result<(), String> {
        let record = Bytes::copy_from_slice(record);
        let entries = codec::decode_entries(record).map_err(|error| error.to_string())?;
        let Some((first, last)) = entries.first().zip(entries.last()) else {
            return Ok(());
        };
        // A gap is where another learner's snapshot was installed: what is before it serves nobody.
        if self.next.is_some_and(|next| next != first.slot) {
            self.index.clear();
        }
        self.next = Some(last.slot.next());
        self.index.insert(first.slot, position);
        let snapshot = self.snapshot;
        let mut new = entries.into_iter().filter(|entry| entry.slot > snapshot);
        new.try_for_each(|entry| self.again(entry))
    }

    /// Applies an entry again and checks that it gives what it gave before: the state machine is
    /// deterministic, so anything else means damage or a changed meaning.
    fn again(&mut self, entry: Entry) -> Result<(), String> {
        let Entry {
            slot,
            value,
            applied: before,
        } = entry;
        let expected = self.state.machine.applied().next();
        if slot != expected {
            return Err(format!("instance {slot} where {expected} should be"));
        }
        let applied = self.state.machine.apply(slot, &value);
        let applied = applied.map_err(|error| error.to_string())?;
        if !applied.repeats(&before) {
            return Err(format!(
                "instance {slot} gave {before:?} when it was applied and gives {applied:?} now"
            ));
        }
        self.state.note(slot, value, applied);
        Ok(())
    }

    /// The slot of the snapshot that it began with.
    pub fn snapshot(&self) -> Slot {
        self.snapshot
    }

    /// The whole log has been read: the state, and what is in the log.
    pub fn end(mut self) -> (State, Log<P>) {
        let applied = self.state.machine.applied();
        if self.next.is_some_and(|next| next <= applied) {
            self.index.clear();
        }
        (self.state, Log::new(self.index))
    }
}
