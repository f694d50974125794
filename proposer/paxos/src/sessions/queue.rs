//! Requests in the order of their slots, found by their keys. A copy for a snapshot shares the chunks
//! in which they lie, and growth moves none of them: there may be more than a million.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Session;
use super::index::Index;

/// Requests in a chunk.
const CHUNK: usize = 1024;

/// A first-in, first-out queue with an index.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue {
    entries: Entries,
    /// Numbers of requests, without their upper halves.
    index: Index,
}

/// The requests without the index.
#[derive(Clone, Debug, Default)]
pub(super) struct Entries {
    /// All are full but the last one.
    chunks: VecDeque<Arc<Vec<Session>>>,
    /// How many of the first chunk are gone.
    gone: usize,
    len: usize,
    /// The number of the first one: they are numbered in order.
    first: u64,
}

impl Entries {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The number of the first one, or of the next one that will be.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// The number of the next one.
    pub(super) fn next(&self) -> u64 {
        self.first + self.len as u64
    }

    fn at(&self, number: u32) -> Option<&Session> {
        let place = number.wrapping_sub(self.first as u32) as usize;
        if place >= self.len {
            return None;
        }
        let place = place + self.gone;
        self.chunks.get(place / CHUNK)?.get(place % CHUNK)
    }

    pub(super) fn front(&self) -> Option<&Session> {
        self.at(self.first as u32)
    }

    /// Oldest first, without the first `place` of them.
    pub(super) fn iter_from(&self, place: u64) -> impl DoubleEndedIterator<Item = &Session> {
        (self.first + place..self.next()).filter_map(|number| self.at(number as u32))
    }

    fn push(&mut self, session: Session) {
        match self.chunks.back_mut() {
            Some(last) if last.len() < CHUNK => Arc::make_mut(last).push(session),
            _ => {
                // The first one grows: most tables that are read from elsewhere are small.
                let mut chunk = match self.chunks.is_empty() {
                    true => Vec::new(),
                    false => Vec::with_capacity(CHUNK),
                };
                chunk.push(session);
                self.chunks.push_back(Arc::new(chunk));
            }
        }
        self.len += 1;
    }

    fn pop(&mut self) -> Option<Session> {
        let session = self.front()?.clone();
        self.first += 1;
        self.len -= 1;
        self.gone += 1;
        if self.gone == CHUNK || self.len == 0 {
            self.chunks.pop_front();
            self.gone = 0;
        }
        Some(session)
    }
}

impl Queue {
    pub(super) fn entries(&self) -> &Entries {
        &self.entries
    }

    /// For [`Queue::get`] and [`Queue::push`].
    pub(super) fn hash(&self, key: u128) -> u64 {
        self.index.hash(key)
    }

    pub(super) fn get(&self, hash: u64, key: u128) -> Option<&Session> {
        let is_it = |number| self.entries.at(number).is_some_and(|s| s.key() == key);
        let number = self.index.find(hash, is_it)?;
        self.entries.at(number)
    }

    /// Adds one whose key is not there.
    pub(super) fn push(&mut self, hash: u64, session: Session) {
        debug_assert!(self.get(hash, session.key()).is_none());
        let number = self.entries.next() as u32;
        self.entries.push(session);
        let Queue { entries, index } = self;
        let key_of = |number| entries.at(number).map_or(0, Session::key);
        index.insert(hash, number, key_of);
    }

    /// Takes the oldest one away.
    pub(super) fn pop(&mut self) -> Option<Session> {
        let number = self.entries.first as u32;
        let gone = self.entries.pop()?;
        self.index.remove(self.index.hash(gone.key()), number);
        Some(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Slot;
    use crate::sessions::Done;

    fn session(slot: u64) -> Session {
        Session::new(
            u128::from(slot) << 64,
            slot * 7,
            Slot(slot),
            Done::Committed { version: 1 },
        )
    }

    fn push(queue: &mut Queue, session: Session) {
        queue.push(queue.hash(session.key()), session);
    }

    fn get(queue: &Queue, slot: u64) -> Option<Session> {
        let key = u128::from(slot) << 64;
        queue.get(queue.hash(key), key).cloned()
    }

    #[test]
    fn what_is_taken_away_is_not_found_and_numbers_may_wrap() {
        let mut queue = Queue::default();
        queue.entries.first = u64::from(u32::MAX) - 1000;
        let most = 5 * CHUNK as u64 + 17;
        for slot in 0..4 * most {
            push(&mut queue, session(slot));
            if slot >= most {
                assert_eq!(queue.pop(), Some(session(slot - most)));
                assert_eq!(get(&queue, slot - most), None);
                assert_eq!(get(&queue, slot - most + 1), Some(session(slot - most + 1)));
            }
            assert_eq!(get(&queue, slot), Some(session(slot)));
        }
        let slots: Vec<u64> = queue.entries.iter_from(0).map(|s| s.slot.0).collect();
        assert_eq!(slots, Vec::from_iter(3 * most..4 * most));
        assert_eq!(queue.index.len(), most as usize);
        while queue.pop().is_some() {}
        assert_eq!(queue.entries.len(), 0);
        push(&mut queue, session(1));
        assert_eq!(get(&queue, 1), Some(session(1)));
    }

    #[test]
    fn a_copy_stays_as_it_was() {
        let mut queue = Queue::default();
        (0..1500).for_each(|slot| push(&mut queue, session(slot)));
        let copy = queue.entries.clone();
        for slot in 1500..4000 {
            push(&mut queue, session(slot));
            queue.pop();
        }
        let slots: Vec<u64> = copy.iter_from(0).map(|s| s.slot.0).collect();
        assert_eq!(slots, Vec::from_iter(0..1500));
    }
}
