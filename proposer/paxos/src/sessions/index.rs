//! Places by keys. The table grows in parts, each at its own time: one large table would stop
//! everything while it is rebuilt, and need twice its memory.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

const PARTS: usize = 256;

/// Finds numbers by the hashes of their keys; the keys lie elsewhere.
#[derive(Clone, Debug)]
pub(super) struct Index {
    parts: Box<[HashTable<u32>]>,
    /// Decides speed alone: clients choose the keys, and none shall make a long search of it.
    hasher: RandomState,
}

impl Default for Index {
    fn default() -> Index {
        Index {
            parts: vec![HashTable::new(); PARTS].into(),
            hasher: RandomState::new(),
        }
    }
}

impl Index {
    pub(super) fn hash(&self, key: u128) -> u64 {
        self.hasher.hash_one(key)
    }

    /// The number of that hash for which `is_it` holds.
    pub(super) fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        self.parts[part(hash)].find(hash, |n| is_it(*n)).copied()
    }

    /// Adds a number; `key_of` tells the keys of all that are there.
    pub(super) fn insert(&mut self, hash: u64, number: u32, key_of: impl Fn(u32) -> u128) {
        let Index { parts, hasher } = self;
        parts[part(hash)].insert_unique(hash, number, |n| hasher.hash_one(key_of(*n)));
    }

    pub(super) fn remove(&mut self, hash: u64, number: u32) {
        if let Ok(entry) = self.parts[part(hash)].find_entry(hash, |known| *known == number) {
            entry.remove();
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.parts.iter().map(HashTable::len).sum()
    }
}

/// By bits that a table itself does not use.
fn part(hash: u64) -> usize {
    (hash >> 40) as usize % PARTS
}
