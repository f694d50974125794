//! What a learner remembers of what it has applied lately: the entries, for those who follow the log,
//! and what became of each, for a leader that asks again. Everything is bounded in bytes. What READ
//! found is mostly still there, as nobody has written the resource since; it is kept for the rest.

use std::collections::{BTreeMap, VecDeque};

use super::codec::Entry;
use super::command::Command;
use super::ids::Slot;
use super::machine::{Applied, Machine, Outcome, Resource};
use super::message::Value;

/// The most outcomes in one message, bytes. Every node takes answers of 8 MiB, and one of an earlier
/// version does not know what is withheld: that is said only where it would get no answer at all.
pub const ANSWER_BYTES: usize = (8 << 20) - (1 << 10);
/// The most outcomes in an answer to [`Message::Recall`](super::message::Message::Recall), bytes; one
/// outcome that is larger comes alone.
pub const RECALLED_BYTES: usize = 2 << 20;

/// How much is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Entries.
    pub entries: usize,
    /// Bytes of their values.
    pub bytes: usize,
    /// Bytes of resources that READs found.
    pub found_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            entries: 65_536,
            bytes: 2 << 20,
            found_bytes: 8 << 20,
        }
    }
}

/// The last entries applied.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    bounds: Bounds,
    /// Of consecutive slots, without what READ found.
    entries: VecDeque<Entry>,
    bytes: usize,
    found: Found,
}

/// What READs found.
#[derive(Clone, Debug, Default)]
struct Found {
    /// By the slot of a READ, the slot of the write that it saw; 0 if there was no resource.
    writes: BTreeMap<Slot, Slot>,
    /// By the slot of their write: once, however many READs saw it.
    resources: BTreeMap<Slot, Resource>,
    bytes: usize,
}

impl Recent {
    /// Nothing yet.
    pub fn new(bounds: Bounds) -> Recent {
        Recent {
            bounds,
            ..Recent::default()
        }
    }

    /// How much it remembers.
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Remembers what the machine has just applied, and forgets the oldest beyond the bounds.
    pub fn push(&mut self, entry: Entry) {
        if let Outcome::Read(found) = &entry.applied.outcome {
            self.found.note(entry.slot, found.as_ref());
        }
        self.bytes += entry.value.len();
        self.entries.push_back(Entry {
            applied: entry.applied.bare(),
            ..entry
        });
        while self.entries.len() > self.bounds.entries || self.bytes > self.bounds.bytes {
            let Some(oldest) = self.entries.pop_front() else {
                break;
            };
            self.bytes -= oldest.value.len();
        }
        self.found.shrink(self.bounds);
    }

    /// Entries from a slot on, at least one if it is applied, and about `bytes` of them; `None` when
    /// memory does not go back so far.
    pub fn entries(&self, from: Slot, applied: Slot, bytes: usize) -> Option<Vec<Entry>> {
        let oldest = self.entries.front().map_or(applied.next(), |e| e.slot);
        let skip = usize::try_from(from.0.checked_sub(oldest.0)?).unwrap_or(usize::MAX);
        Some(up_to(bytes, self.entries.iter().skip(skip)))
    }

    /// The entry of a slot.
    pub fn entry(&self, slot: Slot) -> Option<&Entry> {
        let oldest = self.entries.front()?.slot;
        let index = usize::try_from(slot.0.checked_sub(oldest.0)?).ok()?;
        self.entries.get(index)
    }

    /// How many bytes of values it holds, and of what READs found.
    pub fn bytes(&self) -> (usize, usize) {
        (self.bytes, self.found.bytes)
    }

    /// What became of an applied entry, from memory or from the log: what READ found is in neither.
    pub fn outcome(&self, entry: &Entry, machine: &Machine) -> Applied {
        if !matches!(entry.applied.outcome, Outcome::Read(_)) {
            return entry.applied.clone();
        }
        let found = self.found.by(entry, machine);
        Applied {
            slot: entry.applied.slot,
            outcome: found.map_or(Outcome::Untold, Outcome::Read),
        }
    }
}

/// What became of these slots, whose values are known if the leader has told them again; `None` for
/// those not applied yet. `logged` reads the log, for what memory does not reach.
pub fn outcomes<'a>(
    recent: &Recent,
    machine: &Machine,
    slots: impl Iterator<Item = (Slot, Option<&'a Value>)>,
    mut logged: impl FnMut(Slot) -> Option<Entry>,
) -> Vec<Option<Applied>> {
    let outcome = |(slot, value): (Slot, Option<&Value>)| {
        if slot > machine.applied() {
            return None;
        }
        // Never what became of another value than the one told.
        let is_told = |entry: &Entry| value.is_none_or(|value| *value == entry.value);
        if let Some(entry) = recent.entry(slot) {
            if is_told(entry) {
                return Some(recent.outcome(entry, machine));
            }
        } else if let Some(entry) = logged(slot).filter(is_told) {
            return Some(recent.outcome(&entry, machine));
        }
        let command = value.and_then(|value| Command::decode(value).ok()?);
        let session = command.and_then(|command| machine.outcome(&command));
        // One that took effect later was forgotten before, and says nothing of this slot.
        let session = session.filter(|applied| applied.slot <= slot);
        Some(session.unwrap_or(Applied {
            slot,
            outcome: Outcome::Untold,
        }))
    };
    slots.map(outcome).collect()
}

impl Found {
    fn note(&mut self, read: Slot, found: Option<&Resource>) {
        let write = found.map_or(Slot::ZERO, |resource| resource.slot);
        self.writes.insert(read, write);
        if let Some(resource) = found
            && self.resources.insert(write, resource.clone()).is_none()
        {
            self.bytes += size(resource);
        }
    }

    fn shrink(&mut self, bounds: Bounds) {
        while self.writes.len() > bounds.entries {
            self.writes.pop_first();
        }
        while self.bytes > bounds.found_bytes
            && let Some((_, oldest)) = self.resources.pop_first()
        {
            self.bytes -= size(&oldest);
        }
    }

    /// What the READ of an entry found; `None` when that is not known any more.
    fn by(&self, entry: &Entry, machine: &Machine) -> Option<Option<Resource>> {
        let command = Command::decode(&entry.value).ok()??;
        let now = || machine.resource(command.resource);
        match self.writes.get(&entry.slot) {
            Some(&Slot::ZERO) => Some(None),
            Some(write) => {
                let unchanged = now().filter(|resource| resource.slot == *write);
                unchanged
                    .or_else(|| self.resources.get(write).cloned())
                    .map(Some)
            }
            // It is what it was then if nobody has written it since.
            None => now()
                .filter(|found| found.slot < entry.applied.slot)
                .map(Some),
        }
    }
}

/// A small resource takes memory, too.
fn size(resource: &Resource) -> usize {
    128 + resource.client_id.len() + resource.data.len()
}

/// Entries of about `bytes` bytes, at least the first.
pub fn up_to<'a>(bytes: usize, entries: impl Iterator<Item = &'a Entry>) -> Vec<Entry> {
    let mut left = bytes.max(1);
    let fits = |entry: &&Entry| {
        let fits = left > 0;
        left = left.saturating_sub(entry.size());
        fits
    };
    entries.take_while(fits).cloned().collect()
}

/// Outcomes for one message of `bytes` bytes: what READs found beyond that is withheld, and what
/// does not fit even so is left out.
pub fn fit(
    bytes: usize,
    outcomes: impl IntoIterator<Item = Option<Applied>>,
) -> Vec<Option<Applied>> {
    let mut left = bytes;
    let mut fitting = Vec::new();
    for mut outcome in outcomes {
        if let Some(applied) = &mut outcome
            && applied.size() > left
            && matches!(applied.outcome, Outcome::Read(Some(_)))
        {
            applied.outcome = Outcome::Withheld;
        }
        let size = outcome.as_ref().map_or(1, Applied::size);
        if size > left {
            break;
        }
        left -= size;
        fitting.push(outcome);
    }
    fitting
}

/// The first outcomes, as many as fit, and at least one.
pub fn first(
    bytes: usize,
    outcomes: impl IntoIterator<Item = Option<Applied>>,
) -> Vec<Option<Applied>> {
    let mut size = 0;
    let mut fitting = Vec::new();
    for outcome in outcomes {
        size += outcome.as_ref().map_or(1, Applied::size);
        if size > bytes && !fitting.is_empty() {
            break;
        }
        fitting.push(outcome);
    }
    fitting
}

#[cfg(test)]
mod tests;
