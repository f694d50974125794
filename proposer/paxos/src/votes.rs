//! An acceptor's votes: at which ballot it last voted in each slot, and where the value is.
//!
//! The newest values stay in memory, up to a number of bytes. Of the others only the place of their
//! record in the log is kept, and one place stands for a stretch of the log: what an acceptor needs in
//! memory grows with neither the size of the values nor, as far as they come in order, their number.
//! The core reads nothing itself: a [`Reading`] says which records it needs, and the owner of the log
//! shows them to it.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher};

use super::ids::{Ballot, Slot};
use super::limits::AnswerLimits;
use super::record::Record;
use super::value::{Value, Values};
pub(super) use reading::About;
use reading::Piece;
pub use reading::{Answer, Doubt, Log, Reading, Unread};

mod reading;

/// Where a record lies in the log, by the log's own numbers; later records have greater places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Which file.
    pub file: u64,
    /// Where in it.
    pub offset: u64,
}

/// How far one place reaches: what has to be read at most to find a record behind it.
const STRETCH_BYTES: u64 = 64 << 10;
/// What a value and a record cost in memory beside their bytes. Rather too much than too little.
const VALUE_COST: usize = 48;
const RECORD_COST: usize = 256;
/// What an entry of the index takes in memory.
const SPAN_COST: usize = 160;

/// Votes in consecutive slots at one ballot.
#[derive(Clone, Debug)]
struct Span {
    last: Slot,
    ballot: Ballot,
    /// The number of its record, or of the first of its records.
    record: u64,
    /// Where that record lies; `None` until it is durable.
    place: Option<Place>,
    /// Where in the same file the last of its records lies.
    tail: u64,
    /// The values, from this slot on.
    held: Option<(Slot, Values)>,
    /// About how many bytes its values have.
    bytes: u64,
    /// How many bytes of records there were when its last one had been written.
    written: u64,
}

/// A record whose values are in memory.
#[derive(Clone, Debug)]
struct Held {
    record: u64,
    first: Slot,
    last: Slot,
    cost: usize,
}

/// All votes above the floor.
#[derive(Clone, Debug)]
pub(super) struct Votes {
    /// By their first slots; no two have a slot in common.
    spans: BTreeMap<Slot, Span>,
    /// Oldest first.
    held: VecDeque<Held>,
    /// How many of them, the newest, are not durable.
    pending: usize,
    held_cost: usize,
    /// What values may cost in memory once they are durable.
    budget: usize,
    /// How many records of votes there have been, and bytes of records, since the start.
    records: u64,
    written: u64,
}

impl Votes {
    pub(super) fn new(budget: usize) -> Votes {
        Votes {
            spans: BTreeMap::new(),
            held: VecDeque::new(),
            pending: 0,
            held_cost: 0,
            budget,
            records: 0,
            written: 0,
        }
    }

    pub(super) fn with_budget(mut self, budget: usize) -> Votes {
        self.budget = budget;
        self
    }

    /// Votes that are about to be written. [`Votes::placed`] says that they are.
    pub(super) fn insert(&mut self, ballot: Ballot, first: Slot, values: &Values) {
        let Some(count) = u64::try_from(values.len()).ok().filter(|count| *count > 0) else {
            return;
        };
        let last = first.plus(count).previous();
        self.cut(first, last);
        let bytes: usize = values.iter().map(Value::len).sum();
        let cost = bytes + values.len() * VALUE_COST + RECORD_COST;
        self.records += 1;
        self.written += bytes as u64 + 4 * count + 64;
        let span = Span {
            last,
            ballot,
            record: self.records,
            place: None,
            tail: 0,
            held: Some((first, values.clone())),
            bytes: bytes as u64,
            written: self.written,
        };
        self.spans.insert(first, span);
        self.held.push_back(Held {
            record: self.records,
            first,
            last,
            cost,
        });
        self.held_cost += cost;
        self.pending += 1;
    }

    /// Everything inserted so far is durable, at these places. What no longer fits is dropped from
    /// memory.
    pub(super) fn placed(&mut self, places: &[Place]) {
        assert_eq!(
            places.len(),
            self.pending,
            "each record of votes has a place"
        );
        let from = self.held.len() - self.pending;
        for (at, place) in (from..).zip(places) {
            let Held {
                record,
                first,
                last,
                ..
            } = self.held[at];
            self.each_of(record, first, last, |span| {
                span.place = Some(*place);
                span.tail = place.offset;
            });
        }
        self.pending = 0;
        self.evict();
    }

    /// Whether anything is not durable.
    pub(super) fn is_pending(&self) -> bool {
        self.pending > 0
    }

    /// Runs on the spans that a record's votes stand in.
    fn each_of(&mut self, record: u64, first: Slot, last: Slot, mut run: impl FnMut(&mut Span)) {
        // Nearly always one.
        if let Some(span) = self.spans.get_mut(&first)
            && span.last == last
        {
            if span.record == record {
                run(span);
            }
            return;
        }
        let start = self.start_of(first);
        for (_, span) in self.spans.range_mut(start..=last) {
            if span.record == record {
                run(span);
            }
        }
    }

    /// Where the span that holds the slot begins; the slot itself if there is none.
    fn start_of(&self, slot: Slot) -> Slot {
        match self.spans.range(..=slot).next_back() {
            Some((first, span)) if span.last >= slot => *first,
            _ => slot,
        }
    }

    /// Drops the oldest values from memory until the others fit. All are durable.
    fn evict(&mut self) {
        while self.held_cost > self.budget {
            let Some(held) = self.held.pop_front() else {
                return;
            };
            self.held_cost -= held.cost;
            self.each_of(held.record, held.first, held.last, |span| span.held = None);
            self.join(held.first, held.last);
        }
    }

    /// Makes one span of those around these slots whose records follow each other in the log.
    fn join(&mut self, first: Slot, last: Slot) {
        let start = self.start_of(first.previous());
        let mut at = start;
        while at <= last {
            let Some(span) = self.spans.get(&at) else {
                match self.spans.range(at..).next() {
                    Some((next, _)) => at = *next,
                    None => return,
                }
                continue;
            };
            let next = span.last.next();
            match self.spans.get(&next) {
                Some(right) if span.joins(right) => {
                    if let Some(right) = self.spans.remove(&next)
                        && let Some(left) = self.spans.get_mut(&at)
                    {
                        left.last = right.last;
                        left.tail = right.tail;
                        left.bytes += right.bytes;
                        left.written = right.written;
                    }
                }
                _ => at = next,
            }
        }
    }

    /// Takes these slots out.
    fn cut(&mut self, first: Slot, last: Slot) {
        if self.last().is_none_or(|newest| newest < first) {
            return;
        }
        let start = self.start_of(first);
        let cut: Vec<Slot> = self.spans.range(start..=last).map(|(at, _)| *at).collect();
        for at in cut {
            let Some(span) = self.spans.remove(&at) else {
                continue;
            };
            if at < first {
                self.spans.insert(at, span.part(at, at, first.previous()));
            }
            if span.last > last {
                let right = last.next();
                self.spans.insert(right, span.part(at, right, span.last));
            }
        }
    }

    /// Forgets votes up to a slot.
    pub(super) fn forget(&mut self, floor: Slot) {
        if self
            .spans
            .first_key_value()
            .is_some_and(|(at, _)| *at <= floor)
        {
            self.cut(Slot::ZERO, floor);
        }
        while let Some(held) = self.held.front()
            && held.last <= floor
            && self.held.len() > self.pending
        {
            self.held_cost -= held.cost;
            self.held.pop_front();
        }
    }

    /// The last slot voted in.
    pub(super) fn last(&self) -> Option<Slot> {
        self.spans.last_key_value().map(|(_, span)| span.last)
    }

    /// The ballot of the vote in a slot, and the value if it is in memory.
    pub(super) fn get(&self, slot: Slot) -> Option<(Ballot, Option<&Value>)> {
        let (_, span) = self.spans.range(..=slot).next_back()?;
        let value = span.held.as_ref().and_then(|(first, values)| {
            let at = usize::try_from(slot.0.checked_sub(first.0)?).ok()?;
            values.get(at)
        });
        (span.last >= slot).then_some((span.ballot, value))
    }

    /// The last slot such that all votes up to it are older than the last `bytes` bytes of the log.
    pub(super) fn behind(&self, bytes: u64, up_to: Slot) -> Slot {
        let before = self.written.saturating_sub(bytes);
        let old = self.spans.iter();
        let old = old.take_while(|(_, span)| span.written <= before && span.last <= up_to);
        old.last().map_or(Slot::ZERO, |(_, span)| span.last)
    }

    /// The first place in the log that is needed.
    pub(super) fn oldest(&self) -> Option<Place> {
        self.spans.values().filter_map(|span| span.place).min()
    }

    /// About how many bytes of records lie between the oldest vote and the newest.
    pub(super) fn bytes(&self) -> u64 {
        let first = self.spans.first_key_value();
        first.map_or(0, |(_, span)| {
            (self.written + span.bytes).saturating_sub(span.written)
        })
    }

    /// What the values in memory cost, and what the index does.
    pub(super) fn cost(&self) -> (usize, usize) {
        (self.held_cost, self.spans.len() * SPAN_COST)
    }

    /// Compares values with the votes at the same ballot in their slots.
    pub(super) fn compare(&self, ballot: Ballot, first: Slot, values: &Values) -> Compared {
        let mut compared = Compared::default();
        if values.is_empty() || self.last().is_none_or(|newest| newest < first) {
            return compared;
        }
        let last = first.plus(values.len() as u64).previous();
        let same = self.spans.range(self.start_of(first)..=last);
        for (at, span) in same.filter(|(_, span)| span.ballot == ballot) {
            let (from, to) = ((*at).max(first), span.last.min(last));
            match (&span.held, span.place) {
                (Some((held_first, held)), _) => {
                    for slot in (from.0..=to.0).map(Slot) {
                        let mine = &held[(slot.0 - held_first.0) as usize];
                        match *mine == values[(slot.0 - first.0) as usize] {
                            true => compared.known += 1,
                            false => compared.differs = true,
                        }
                    }
                }
                (None, Some(place)) => {
                    compared.doubted += to.0 - from.0 + 1;
                    compared.pieces.push(Piece::Logged {
                        place,
                        first: from,
                        last: to,
                        ballot,
                    });
                }
                (None, None) => unreachable!("what is not durable is in memory"),
            }
        }
        compared
    }

    /// What an answer with the votes in `from..=to` is made of; at least one vote more than fits it,
    /// if there are that many. With `durable`, none from the first one on that is not; `None` if that is
    /// the first of all.
    pub(super) fn read(
        &self,
        from: Slot,
        to: Slot,
        limits: AnswerLimits,
        durable: bool,
    ) -> Option<Vec<Piece>> {
        let (mut pieces, mut votes, mut bytes) = (Vec::new(), 0, 0);
        if from > to {
            return Some(pieces);
        }
        for (at, span) in self.spans.range(self.start_of(from)..=to) {
            let (first, last) = ((*at).max(from), span.last.min(to));
            if durable && span.place.is_none() {
                match pieces.is_empty() {
                    true => return None,
                    false => pieces.push(Piece::Later(first)),
                }
                break;
            }
            if votes > limits.votes || bytes > limits.bytes as u64 {
                pieces.push(Piece::Later(first));
                break;
            }
            votes += (last.0 - first.0) as usize + 1;
            pieces.push(match (&span.held, span.place) {
                (Some((start, values)), _) => {
                    let at = |slot: Slot| (slot.0 - start.0) as usize;
                    let (values, range) = (values.clone(), at(first)..at(last) + 1);
                    bytes += values[range.clone()]
                        .iter()
                        .map(|value| value.len() as u64)
                        .sum::<u64>();
                    Piece::Held {
                        first,
                        ballot: span.ballot,
                        values,
                        range,
                    }
                }
                (None, Some(place)) => {
                    let whole = first == *at && last == span.last;
                    bytes += if whole { span.bytes } else { 0 };
                    Piece::Logged {
                        place,
                        first,
                        last,
                        ballot: span.ballot,
                    }
                }
                (None, None) => unreachable!("what is not durable is in memory"),
            });
        }
        Some(pieces)
    }
}

impl Span {
    /// A part of the span that begins at `at`.
    fn part(&self, at: Slot, first: Slot, last: Slot) -> Span {
        let (of, count) = (self.last.0 - at.0 + 1, last.0 - first.0 + 1);
        Span {
            last,
            bytes: (u128::from(self.bytes) * u128::from(count) / u128::from(of)) as u64,
            ..self.clone()
        }
    }

    /// Whether one place serves this span and the one whose slots follow.
    fn joins(&self, right: &Span) -> bool {
        let (Some(left_place), Some(right_place)) = (self.place, right.place) else {
            return false;
        };
        self.held.is_none()
            && right.held.is_none()
            && self.ballot == right.ballot
            && left_place.file == right_place.file
            && right_place.offset > self.tail
            && right.tail - left_place.offset <= STRETCH_BYTES
    }
}

/// What [`Votes::compare`] found.
#[derive(Debug, Default)]
pub(super) struct Compared {
    /// In this many slots the same value was voted for at that ballot.
    pub(super) known: u64,
    /// In one of them another value was.
    pub(super) differs: bool,
    /// In this many slots the log has to be asked.
    pub(super) doubted: u64,
    pub(super) pieces: Vec<Piece>,
}

/// What it has voted, not how it came about or where the records lie: the model counts states.
impl Votes {
    fn said(&self) -> impl Iterator<Item = (Slot, Ballot, Option<&Value>)> {
        let slots = |(first, span): (&Slot, &Span)| (first.0..=span.last.0).map(Slot);
        let slots = self.spans.iter().flat_map(slots);
        slots.filter_map(|slot| self.get(slot).map(|(ballot, value)| (slot, ballot, value)))
    }
}

impl PartialEq for Votes {
    fn eq(&self, other: &Votes) -> bool {
        self.said().eq(other.said())
    }
}

impl Eq for Votes {}

impl Hash for Votes {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.said().for_each(|vote| vote.hash(state));
    }
}

/// The answer to a question for votes.
pub(super) fn answer(about: About, pieces: Vec<Piece>, limits: AnswerLimits) -> Answer {
    Answer::Votes(Reading::new(about, pieces, limits))
}

/// The votes of a record, if it is one of votes.
fn votes_of(record: &Record) -> Option<(Ballot, Slot, &Values)> {
    match record {
        Record::Accepted {
            ballot,
            first,
            values,
            ..
        } => Some((*ballot, *first, values)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
