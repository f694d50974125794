//! The session table: what became of the last requests, so that one that is sent again has its
//! effect once (Ongaro, "Consensus", section 6.3).

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};

use hashbrown::HashTable;

use super::digest::Digest;
use super::ids::Slot;
use super::machine::{Applied, Outcome};

/// How many requests the session table remembers: a retry counts as the same request while fewer
/// than this many others were applied since the first try. Another number is another
/// [`FORMAT`](super::audit::FORMAT) of the audit.
pub const SESSIONS: usize = 1 << 17;

/// What is remembered of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Session {
    pub(crate) fingerprint: u64,
    pub(crate) slot: Slot,
    pub(crate) committed: bool,
    pub(crate) version: u64,
}

impl Session {
    pub(crate) fn applied(&self) -> Applied {
        let version = self.version;
        let outcome = match self.committed {
            true => Outcome::Committed { version },
            false => Outcome::NotCommitted { version },
        };
        Applied {
            slot: self.slot,
            outcome,
        }
    }

    fn digest(&self, key: u128) -> u128 {
        let mut digest = Digest::new(5);
        digest.number(key as u64);
        digest.number((key >> 64) as u64);
        digest.number(self.fingerprint);
        digest.number(self.slot.0);
        digest.number(self.committed.into());
        digest.number(self.version);
        digest.finish()
    }
}

/// The last [`SESSIONS`] requests by their keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sessions {
    /// Oldest first.
    in_order: VecDeque<(u128, Session)>,
    /// How many were forgotten; a request's number is this and its place in `in_order`.
    forgotten: u32,
    /// Numbers by the keys of their requests. They wrap around.
    numbers: HashTable<u32>,
    /// Decides speed alone: clients choose the keys, and none shall make a long search of it.
    hasher: RandomState,
    /// The sum of the sessions' digests.
    digest: u128,
}

impl Sessions {
    pub(crate) fn len(&self) -> usize {
        self.in_order.len()
    }

    /// Of what they are, not of how they came about.
    pub(crate) fn digest(&self) -> u128 {
        self.digest
    }

    pub(crate) fn get(&self, key: u128) -> Option<&Session> {
        let hash = self.hasher.hash_one(key);
        let is_it = |number: &u32| self.at(*number).is_some_and(|(known, _)| *known == key);
        let number = self.numbers.find(hash, is_it)?;
        self.at(*number).map(|(_, session)| session)
    }

    /// Oldest first.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (u128, &Session)> {
        self.in_order.iter().map(|(key, session)| (*key, session))
    }

    /// Adds one whose key is not there, and forgets the oldest when they are too many.
    pub(crate) fn push(&mut self, key: u128, session: Session) {
        debug_assert!(self.get(key).is_none());
        if self.in_order.len() == SESSIONS {
            self.forget_oldest();
        }
        self.digest = self.digest.wrapping_add(session.digest(key));
        let number = self.forgotten.wrapping_add(self.in_order.len() as u32);
        self.in_order.push_back((key, session));
        let Sessions {
            in_order,
            forgotten,
            numbers,
            hasher,
            ..
        } = self;
        let hash_of = |number: &u32| {
            let known = in_order.get(place(*number, *forgotten));
            hasher.hash_one(known.map_or(0, |(key, _)| *key))
        };
        numbers.insert_unique(hasher.hash_one(key), number, hash_of);
    }

    fn forget_oldest(&mut self) {
        let Some((key, gone)) = self.in_order.pop_front() else {
            return;
        };
        self.digest = self.digest.wrapping_sub(gone.digest(key));
        let number = self.forgotten;
        self.forgotten = number.wrapping_add(1);
        let hash = self.hasher.hash_one(key);
        if let Ok(entry) = self.numbers.find_entry(hash, |known| *known == number) {
            entry.remove();
        }
    }

    fn at(&self, number: u32) -> Option<&(u128, Session)> {
        self.in_order.get(place(number, self.forgotten))
    }
}

/// Of the request with that number, when so many were forgotten.
fn place(number: u32, forgotten: u32) -> usize {
    number.wrapping_sub(forgotten) as usize
}

impl PartialEq for Sessions {
    fn eq(&self, other: &Sessions) -> bool {
        self.in_order == other.in_order
    }
}

impl Eq for Sessions {}

impl Hash for Sessions {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.in_order.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(slot: u64) -> Session {
        Session {
            fingerprint: slot * 7,
            slot: Slot(slot),
            committed: true,
            version: 1,
        }
    }

    #[test]
    fn the_oldest_is_forgotten_and_numbers_may_wrap() {
        let mut sessions = Sessions {
            forgotten: u32::MAX - 1000,
            ..Sessions::default()
        };
        let key = |slot: u64| u128::from(slot) << 64;
        let many = 2 * SESSIONS as u64;
        for slot in 0..many {
            sessions.push(key(slot), session(slot));
            let oldest = (slot + 1).saturating_sub(SESSIONS as u64);
            assert_eq!(sessions.get(key(oldest)), Some(&session(oldest)));
            assert_eq!(sessions.get(key(slot)), Some(&session(slot)));
            if oldest > 0 {
                assert_eq!(sessions.get(key(oldest - 1)), None);
            }
        }
        assert_eq!(sessions.len(), SESSIONS);
        assert_eq!(sessions.numbers.len(), SESSIONS);
        let slots: Vec<u64> = sessions.iter().map(|(_, session)| session.slot.0).collect();
        assert_eq!(slots, Vec::from_iter(many - SESSIONS as u64..many));
    }

    #[test]
    fn the_digest_and_equality_are_of_what_is_remembered() {
        let mut long = Sessions::default();
        for slot in 0..SESSIONS as u64 + 10 {
            long.push(slot.into(), session(slot));
        }
        let mut short = Sessions::default();
        for slot in 10..SESSIONS as u64 + 10 {
            assert_ne!(long, short);
            short.push(slot.into(), session(slot));
        }
        assert_eq!((&long, long.digest()), (&short, short.digest()));
    }
}
