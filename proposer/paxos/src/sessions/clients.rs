//! What is known of each client: how far its requests reach that are no longer remembered one by one.
//!
//! A client that sends `sequence` has its own window of outcomes, and a number below which
//! everything may have been executed. Of one that does not, the highest `timestamp` among its
//! forgotten requests says that, as long as its timestamps tell new requests from old ones.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Done;
use super::index::Index;
use crate::ids::Slot;

/// Clients in a chunk, of which a snapshot's copy shares those that have not changed since.
const CHUNK: usize = 128;
/// How many sequences below the highest one may still be under way.
pub(super) const IN_FLIGHT: u64 = 4096;
const NOBODY: u32 = u32::MAX;

/// Which of the lists a client is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    /// Requests of it were executed within the retry window.
    Active = 0,
    /// Idle for longer; its timestamps tell its old requests from new ones.
    Idle = 1,
    /// Idle for longer; it sends sequences.
    IdleWithSequence = 2,
}

impl List {
    pub(super) const ALL: [List; 3] = [List::Active, List::Idle, List::IdleWithSequence];
}

/// One client.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) key: u128,
    /// Where its last request was executed, and when in log time.
    pub(super) used: Slot,
    pub(super) used_at: u64,
    /// The highest timestamp among its forgotten requests.
    pub(super) forgotten: Option<u64>,
    /// The request among them that was executed last, by a part of its key; 0 without one. By this one
    /// that came alone is known when it comes again.
    pub(super) last: u64,
    /// The highest timestamp of all, if it has sent any request without a sequence.
    pub(super) highest: Option<u64>,
    /// Whether its timestamps have been seen to grow: one that always sends the same says nothing by it.
    pub(super) grows: bool,
    /// Whether a request that was certainly new had a timestamp far below another one's.
    pub(super) erratic: bool,
    pub(super) window: Option<Arc<Window>>,
    /// Its requests in the queue. This and the rest follow from other parts of the state.
    pub(super) live: u32,
    /// The bytes that it takes.
    pub(super) bytes: u64,
    pub(super) list: List,
    before: u32,
    after: u32,
}

/// What is known of a client's sequences.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Window {
    /// Below this everything may have been executed.
    pub(super) from: u64,
    /// Outcomes by their sequences, in order; whatever is not here was not executed.
    pub(super) outcomes: VecDeque<Sequenced>,
    /// Above all of those, kept here so that the next request needs no look at them.
    end: u64,
}

/// The outcome of a request with a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sequenced {
    pub(super) sequence: u64,
    pub(super) fingerprint: u64,
    pub(super) slot: Slot,
    /// In log time.
    pub(super) at: u64,
    pub(super) done: Done,
}

impl Window {
    /// One without outcomes.
    pub(super) fn starting_at(from: u64) -> Window {
        Window {
            from,
            ..Window::default()
        }
    }

    pub(super) fn find(&self, sequence: u64) -> Option<&Sequenced> {
        let place = self.place(sequence).ok()?;
        self.outcomes.get(place)
    }

    fn place(&self, sequence: u64) -> Result<usize, usize> {
        // Nearly always it is the next one.
        if sequence >= self.end {
            return Err(self.outcomes.len());
        }
        let outcomes = &self.outcomes;
        outcomes.binary_search_by_key(&sequence, |outcome| outcome.sequence)
    }

    /// Adds one that is not there.
    pub(super) fn add(&mut self, outcome: Sequenced) {
        if let Err(place) = self.place(outcome.sequence) {
            self.end = self.end.max(outcome.sequence + 1);
            self.outcomes.insert(place, outcome);
        }
    }

    /// Takes the lowest one away, and all below it counts as executed.
    pub(super) fn pop(&mut self) -> Option<Sequenced> {
        let gone = self.outcomes.pop_front()?;
        if self.outcomes.is_empty() {
            self.end = 0;
        }
        self.from = self.from.max(gone.sequence + 1);
        Some(gone)
    }
}

impl Client {
    /// One that is in no list yet.
    pub(super) fn new(key: u128) -> Client {
        Client {
            key,
            used: Slot::ZERO,
            used_at: 0,
            forgotten: None,
            last: 0,
            highest: None,
            grows: false,
            erratic: false,
            window: None,
            live: 0,
            bytes: 0,
            list: List::Active,
            before: NOBODY,
            after: NOBODY,
        }
    }

    /// Whether timestamps tell old requests of this client from new ones.
    pub(super) fn tells_by_timestamps(&self) -> bool {
        self.grows && !self.erratic
    }

    /// The timestamp up to which a request that is not remembered may be an old one.
    pub(super) fn old_up_to(&self) -> Option<u64> {
        self.forgotten.filter(|_| self.tells_by_timestamps())
    }

    /// If a request that is not remembered may be an old one: the timestamp up to which others may be.
    pub(super) fn may_have_sent(&self, key: u128, timestamp: u64) -> Option<u64> {
        let above = self.old_up_to().filter(|above| timestamp <= *above);
        above.or_else(|| (self.last == part(key)).then_some(timestamp))
    }

    /// A request of it is forgotten.
    pub(super) fn forget(&mut self, key: u128, timestamp: u64) {
        self.forgotten = self.forgotten.max(Some(timestamp));
        self.last = part(key);
    }

    /// Takes note of a new request's timestamp. One that is far below the highest, though nothing so
    /// high is forgotten, belongs to a client whose timestamps do not grow: a clock that was set back,
    /// several with one name, numbers of some other kind. They say nothing then.
    pub(super) fn saw(&mut self, timestamp: u64, window_ms: u64) {
        match self.highest {
            Some(highest) if timestamp > highest => {
                self.grows = true;
                self.highest = Some(timestamp);
            }
            Some(highest) => self.erratic |= highest - timestamp > window_ms,
            None => self.highest = Some(timestamp),
        }
    }

    /// Cheap, as it is computed twice a write. Against accidents and not against malice.
    pub(super) fn digest(&self) -> u128 {
        let flags = u64::from(self.grows) | u64::from(self.erratic) << 1 | (self.list as u64) << 2;
        let window = self.window.as_ref();
        let numbers = [
            (self.key >> 64) as u64,
            self.used.0,
            self.used_at,
            self.forgotten
                .map_or(0, |forgotten| forgotten.wrapping_add(1)),
            self.highest.map_or(0, |highest| highest.wrapping_add(1)),
            flags,
            window.map_or(0, |window| window.from.wrapping_add(1)),
            self.last,
        ];
        mix(self.key as u64, &numbers)
    }
}

impl Sequenced {
    pub(super) fn digest(&self, client: u128) -> u128 {
        let (kind, version, instance) = self.done.numbers();
        let numbers = [
            (client >> 64) as u64,
            self.sequence,
            self.fingerprint,
            self.slot.0,
            self.at,
            kind << 60 | version,
            instance,
        ];
        mix(client as u64, &numbers)
    }
}

/// A part of a key that names a request among its client's, and is not 0.
fn part(key: u128) -> u64 {
    ((key >> 64) as u64).max(1)
}

fn mix(seed: u64, numbers: &[u64]) -> u128 {
    let (mut a, mut b) = (seed, seed ^ 0x9e37_79b9_7f4a_7c15);
    for number in numbers {
        a = (a ^ number).wrapping_mul(0xff51_afd7_ed55_8ccd);
        a ^= a >> 32;
        b = (b ^ a).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        b ^= b >> 29;
    }
    u128::from(a) << 64 | u128::from(b)
}

/// All clients, by name and by when they were last active.
#[derive(Clone, Debug)]
pub(super) struct Clients {
    rows: Rows,
    index: Index,
    free: Vec<u32>,
    len: usize,
    /// Bytes of the clients in each list.
    bytes: [u64; 3],
}

/// The clients without the index.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    chunks: Vec<Arc<Vec<Client>>>,
    /// First and last of each list: longest idle first.
    ends: [(u32, u32); 3],
}

impl Default for Clients {
    fn default() -> Clients {
        Clients {
            rows: Rows {
                chunks: Vec::new(),
                ends: [(NOBODY, NOBODY); 3],
            },
            index: Index::default(),
            free: Vec::new(),
            len: 0,
            bytes: [0; 3],
        }
    }
}

impl Rows {
    pub(super) fn at(&self, id: u32) -> &Client {
        &self.chunks[id as usize / CHUNK][id as usize % CHUNK]
    }

    fn at_mut(&mut self, id: u32) -> &mut Client {
        &mut Arc::make_mut(&mut self.chunks[id as usize / CHUNK])[id as usize % CHUNK]
    }

    pub(super) fn first(&self, list: List) -> Option<u32> {
        Some(self.ends[list as usize].0).filter(|id| *id != NOBODY)
    }

    /// Those of a list, longest idle first.
    pub(super) fn iter(&self, list: List) -> impl Iterator<Item = &Client> {
        let next = |client: &&Client| (client.after != NOBODY).then(|| self.at(client.after));
        std::iter::successors(self.first(list).map(|id| self.at(id)), next)
    }

    fn unlink(&mut self, id: u32) {
        let Client {
            before,
            after,
            list,
            ..
        } = *self.at(id);
        match before {
            NOBODY => self.ends[list as usize].0 = after,
            before => self.at_mut(before).after = after,
        }
        match after {
            NOBODY => self.ends[list as usize].1 = before,
            after => self.at_mut(after).before = before,
        }
    }

    fn link_last(&mut self, id: u32, list: List) {
        let last = self.ends[list as usize].1;
        let client = self.at_mut(id);
        (client.list, client.before, client.after) = (list, last, NOBODY);
        match last {
            NOBODY => self.ends[list as usize].0 = id,
            last => self.at_mut(last).after = id,
        }
        self.ends[list as usize].1 = id;
    }
}

impl Clients {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn rows(&self) -> &Rows {
        &self.rows
    }

    pub(super) fn at(&self, id: u32) -> &Client {
        self.rows.at(id)
    }

    /// Bytes of the clients that are idle, and of nothing else.
    pub(super) fn idle_bytes(&self) -> u64 {
        self.bytes[List::Idle as usize] + self.bytes[List::IdleWithSequence as usize]
    }

    /// Bytes of the others.
    pub(super) fn active_bytes(&self) -> u64 {
        self.bytes[List::Active as usize]
    }

    pub(super) fn find(&self, key: u128) -> Option<u32> {
        let is_it = |id| self.rows.at(id).key == key;
        self.index.find(self.index.hash(key), is_it)
    }

    /// Adds one whose key is not there, as the one that was active last.
    pub(super) fn add(&mut self, client: Client, list: List) -> u32 {
        let (key, bytes) = (client.key, client.bytes);
        let id = self.free.pop().unwrap_or_else(|| {
            let rows = &mut self.rows.chunks;
            if rows.last().is_none_or(|chunk| chunk.len() == CHUNK) {
                rows.push(Arc::default());
            }
            let chunks = rows.len() as u32;
            let last = rows.last_mut().expect("one was added");
            Arc::make_mut(last).push(Client::new(0));
            (chunks - 1) * CHUNK as u32 + last.len() as u32 - 1
        });
        *self.rows.at_mut(id) = client;
        self.rows.link_last(id, list);
        self.bytes[list as usize] += bytes;
        self.len += 1;
        let Clients { rows, index, .. } = self;
        index.insert(index.hash(key), id, |id| rows.at(id).key);
        id
    }

    /// Changes one; it stays in its list and at its place there.
    pub(super) fn change<T>(&mut self, id: u32, change: impl FnOnce(&mut Client) -> T) -> T {
        let client = self.rows.at_mut(id);
        let before = client.bytes;
        let changed = change(client);
        let sum = &mut self.bytes[client.list as usize];
        *sum = *sum + client.bytes - before;
        changed
    }

    /// Moves one to the end of a list.
    pub(super) fn move_to(&mut self, id: u32, list: List) {
        if self.rows.ends[list as usize].1 == id {
            return;
        }
        let (bytes, from) = (self.rows.at(id).bytes, self.rows.at(id).list);
        self.bytes[from as usize] -= bytes;
        self.bytes[list as usize] += bytes;
        self.rows.unlink(id);
        self.rows.link_last(id, list);
    }

    /// Takes one away. Nothing may name it any more.
    pub(super) fn remove(&mut self, id: u32) -> Client {
        self.rows.unlink(id);
        let gone = std::mem::replace(self.rows.at_mut(id), Client::new(0));
        self.bytes[gone.list as usize] -= gone.bytes;
        self.index.remove(self.index.hash(gone.key), id);
        self.free.push(id);
        self.len -= 1;
        gone
    }
}
