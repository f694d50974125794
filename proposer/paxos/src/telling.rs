//! How a leader tells the learners what is chosen: each in order, no more at a time than a link
//! takes, and nothing twice while the first copy may still arrive.
//!
//! A learner that fails is sent it again, from where it failed, after a pause that grows. One that is
//! slow gets what waits in larger messages; what it has not been sent when the others have applied
//! it, and too much of it waits, it finds at the acceptors.

use std::collections::{BTreeMap, BTreeSet};

use super::ids::{NodeId, Slot};
use super::message::{Learn, Value, Values};

/// Messages to one learner under way at once.
const AT_ONCE: usize = 4;
/// Values in one message, and their bytes; one larger value goes alone.
const VALUES: usize = 1024;
const BYTES: usize = 1 << 20;
/// What a learner has applied and others have not been sent waits for those, up to this many bytes.
const WAITING_BYTES: usize = 4 << 20;
/// The longest pause of a learner that fails, in ticks.
const LONGEST_PAUSE: u64 = 16;

/// A message and whom it goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tell {
    /// Which learners.
    pub to: BTreeSet<NodeId>,
    /// What.
    pub learn: Learn,
}

/// What is on its way to the learners.
#[derive(Clone, Debug, Default)]
pub struct Telling {
    /// Every slot up to here is chosen.
    committed: Slot,
    /// Every slot up to here is applied by some learner.
    applied: Slot,
    /// What is chosen, by first slot, while a learner still has to get it.
    waiting: BTreeMap<Slot, Values>,
    waiting_bytes: usize,
    learners: BTreeMap<NodeId, Ear>,
    ticks: u64,
    /// Who was asked last for outcomes again.
    asked_last: Option<NodeId>,
}

/// A learner.
#[derive(Clone, Debug, Default)]
struct Ear {
    /// The first slot that it has not been sent.
    next: Slot,
    /// Every slot up to here it has applied.
    applied: Slot,
    /// Messages under way: the first slot of each and the one after its last.
    open: BTreeMap<Slot, Slot>,
    /// Whether a message without values is under way.
    announcing: bool,
    /// A question for outcomes again: its first slot and the one after its last.
    asking: Option<(Slot, Slot)>,
    /// The slot after the last one that it was asked for again.
    asked: Slot,
    failures: u32,
    /// Told nothing before that tick.
    not_before: u64,
}

impl Telling {
    /// Forgets what waits and who was sent what, as a new leader or one no more.
    pub fn clear(&mut self) {
        let learners: Vec<NodeId> = self.learners.keys().copied().collect();
        *self = Telling::default();
        self.set_learners(learners);
    }

    /// The learners to notify.
    pub fn set_learners(&mut self, learners: impl IntoIterator<Item = NodeId>) {
        let learners: BTreeSet<NodeId> = learners.into_iter().collect();
        self.learners.retain(|id, _| learners.contains(id));
        for learner in learners {
            self.learners.entry(learner).or_default();
        }
    }

    /// These values, or none, are chosen. Each call's follow the ones before.
    pub fn tell(&mut self, learn: Learn) -> Vec<Tell> {
        self.committed = self.committed.max(learn.committed);
        let Learn { first, values, .. } = learn;
        if values.is_empty() {
            return self.announce(first).into_iter().collect();
        }
        let last = last_of(first, &values);
        let level = |ear: &Ear| {
            let next = ear.next <= first && self.waiting.range(ear.next..).next().is_none();
            next && ear.has_room(self.ticks)
        };
        let ready = self.learners.iter().filter(|(_, ear)| level(ear));
        let to: BTreeSet<NodeId> = ready.map(|(id, _)| *id).collect();
        for id in &to {
            if let Some(ear) = self.learners.get_mut(id) {
                ear.open.insert(first, last.next());
                ear.next = last.next();
            }
        }
        self.waiting_bytes += bytes_of(&values);
        self.waiting.insert(first, values.clone());
        self.forget();
        let committed = self.committed;
        let others: Vec<NodeId> = self.learners.keys().copied().collect();
        let others = others.into_iter().filter(|id| !to.contains(id));
        let behind: Vec<Tell> = others.flat_map(|id| self.tell_one(id)).collect();
        let level = (!to.is_empty()).then_some(Tell {
            to,
            learn: Learn {
                first,
                values,
                committed,
            },
        });
        level.into_iter().chain(behind).collect()
    }

    fn announce(&mut self, first: Slot) -> Option<Tell> {
        let idle = self.learners.iter_mut().filter(|(_, ear)| !ear.announcing);
        let to = idle.map(|(id, ear)| {
            ear.announcing = true;
            *id
        });
        let to: BTreeSet<NodeId> = to.collect();
        let (values, committed) = (Values::from([]), self.committed);
        (!to.is_empty()).then_some(Tell {
            to,
            learn: Learn {
                first,
                values,
                committed,
            },
        })
    }

    /// A learner has answered a message with `count` values; it has applied every slot up to there.
    pub fn answered(
        &mut self,
        from: NodeId,
        first: Slot,
        count: usize,
        applied: Slot,
    ) -> Vec<Tell> {
        self.applied = self.applied.max(applied);
        if let Some(ear) = self.learners.get_mut(&from) {
            ear.applied = ear.applied.max(applied);
            ear.close(first, count);
            if count > 0 {
                ear.failures = 0;
            }
            // It is there again.
            ear.not_before = 0;
        }
        self.forget();
        self.tell_one(from)
    }

    /// A message with `count` values has not been answered, and will not be.
    pub fn failed(&mut self, to: NodeId, first: Slot, count: usize) {
        let ticks = self.ticks;
        if let Some(ear) = self.learners.get_mut(&to) {
            let asked = ear.asking.is_some_and(|(from, _)| from == first);
            ear.close(first, count);
            if count > 0 {
                if !asked {
                    ear.next = ear.next.min(first);
                }
                let pause = (1 << ear.failures.min(8)).min(LONGEST_PAUSE);
                ear.failures += 1;
                ear.not_before = ticks + pause;
            }
        }
        self.forget();
    }

    /// A heartbeat interval has passed.
    pub fn tick(&mut self) -> Vec<Tell> {
        self.ticks += 1;
        let learners: Vec<NodeId> = self.learners.keys().copied().collect();
        learners
            .into_iter()
            .flat_map(|id| self.tell_one(id))
            .collect()
    }

    /// Asks a learner again for what became of values that it has applied: its answer to the first
    /// telling is lost. `wanted` are those without an outcome, in order; they are asked for in
    /// turn, and each learner gets one such question at a time. Only what is known to be chosen: a
    /// learner may have applied a later leader's value in a slot that this one has given out.
    pub fn ask_again<'a>(
        &mut self,
        wanted: impl Iterator<Item = (Slot, &'a Value)> + Clone,
    ) -> Option<Tell> {
        let (first_wanted, _) = wanted.clone().next()?;
        let after = |id: &NodeId| self.asked_last.is_none_or(|last| *id > last);
        let (later, earlier): (Vec<NodeId>, Vec<NodeId>) =
            self.learners.keys().partition(|id| after(id));
        let (to, run) = later.into_iter().chain(earlier).find_map(|id| {
            let ear = &self.learners[&id];
            let known = ear.applied.min(self.committed);
            if ear.asking.is_some() || known < first_wanted || ear.not_before > self.ticks {
                return None;
            }
            let eligible = |(slot, _): &(Slot, &Value)| {
                *slot <= known && !ear.is_told(*slot) && !self.will_be_told(ear, *slot)
            };
            let from = |start: Slot| {
                let later = wanted.clone().filter(move |(slot, _)| *slot >= start);
                run_of(
                    later
                        .take_while(|(slot, _)| *slot <= known)
                        .filter(eligible),
                )
            };
            let run = from(ear.asked).or_else(|| from(Slot::ZERO))?;
            Some((id, run))
        })?;
        let (first, values) = run;
        let next = last_of(first, &values).next();
        self.asked_last = Some(to);
        let ear = self.learners.get_mut(&to)?;
        ear.asking = Some((first, next));
        ear.asked = next;
        Some(Tell {
            to: BTreeSet::from([to]),
            learn: Learn {
                first,
                values,
                committed: self.committed,
            },
        })
    }

    fn will_be_told(&self, ear: &Ear, slot: Slot) -> bool {
        let batch = self.waiting.range(..=slot).next_back();
        let waits = batch.is_some_and(|(first, values)| slot <= last_of(*first, values));
        waits && ear.next <= slot
    }

    /// What may go to a learner now.
    fn tell_one(&mut self, to: NodeId) -> Vec<Tell> {
        let mut tells = Vec::new();
        let Some(ear) = self.learners.get_mut(&to) else {
            return tells;
        };
        while ear.has_room(self.ticks) {
            // What it has and others have needs no telling.
            let known = ear.applied.min(self.applied);
            let mut rest = self.waiting.range(ear.next..);
            let Some((first, values)) = rest.find(|(first, of)| last_of(**first, of) > known)
            else {
                break;
            };
            let (first, mut values) = (*first, values.clone());
            let mut size = bytes_of(&values);
            let mut more: Vec<Value> = Vec::new();
            for (next, of) in rest {
                let count = values.len() + more.len();
                size += bytes_of(of);
                let follows = *next == first.plus(count as u64);
                if !follows || count + of.len() > VALUES || size > BYTES {
                    break;
                }
                more.extend_from_slice(of);
            }
            if !more.is_empty() {
                values = values.iter().cloned().chain(more).collect();
            }
            let next = last_of(first, &values).next();
            ear.open.insert(first, next);
            ear.next = next;
            let committed = self.committed;
            let learn = Learn {
                first,
                values,
                committed,
            };
            let to = BTreeSet::from([to]);
            tells.push(Tell { to, learn });
        }
        tells
    }

    /// Forgets what a learner has applied and no other one still has to get.
    fn forget(&mut self) {
        while let Some(batch) = self.waiting.first_entry() {
            let last = last_of(*batch.key(), batch.get());
            let is_due = |ear: &Ear| ear.failures == 0 && ear.next <= last && ear.applied < last;
            let wanted = self.waiting_bytes <= WAITING_BYTES && self.learners.values().any(is_due);
            if last > self.applied || wanted {
                break;
            }
            self.waiting_bytes -= bytes_of(&batch.remove());
        }
    }
}

impl Ear {
    /// One that fails gets one message at a time, until it has answered one.
    fn has_room(&self, now: u64) -> bool {
        let at_once = if self.failures > 0 { 1 } else { AT_ONCE };
        self.open.len() < at_once && self.not_before <= now
    }

    fn is_told(&self, slot: Slot) -> bool {
        let before = self.open.range(..=slot).next_back();
        before.is_some_and(|(_, next)| slot < *next)
    }

    /// A message is under way no more.
    fn close(&mut self, first: Slot, count: usize) {
        if count == 0 {
            self.announcing = false;
        } else if self.asking == Some((first, first.plus(count as u64))) {
            self.asking = None;
        } else {
            self.open.remove(&first);
        }
    }
}

/// The first of them and those that follow without a gap, as many as one message carries.
fn run_of<'a>(wanted: impl Iterator<Item = (Slot, &'a Value)>) -> Option<(Slot, Values)> {
    let mut wanted = wanted.peekable();
    let first = wanted.peek()?.0;
    let (mut values, mut bytes) = (Vec::new(), 0);
    for (slot, value) in wanted {
        bytes += value.len();
        let full = values.len() == VALUES || (bytes > BYTES && !values.is_empty());
        if full || slot != first.plus(values.len() as u64) {
            break;
        }
        values.push(value.clone());
    }
    Some((first, values.into()))
}

fn last_of(first: Slot, values: &[Value]) -> Slot {
    first.plus(values.len() as u64).previous()
}

fn bytes_of(values: &[Value]) -> usize {
    values.iter().map(Value::len).sum()
}

#[cfg(test)]
mod tests;
